//! Figures that plug-ins keep of their own: counters, gauges and histograms, bounded in number and in size.
//!
//! A [`Metrics`] holds those of one plug-in, for all its instances. A series is registered once, under a lock, and then
//! changed without any: by additions to numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

/// How many metrics a plug-in may have, and how large they may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricLimits {
    /// Metrics, each of one name.
    pub metrics: u64,
    /// Series of a metric: different labels.
    pub series: u64,
    /// Labels of a series.
    pub labels: u64,
    /// Bytes of a name, of a label's value, and of what a metric is about.
    pub text_bytes: u64,
    /// Buckets of a histogram, besides the one for all that is larger.
    pub buckets: u64,
}

impl Default for MetricLimits {
    /// 100 metrics of 100 series of 10 labels each, 200 bytes, 40 buckets.
    fn default() -> Self {
        Self { metrics: 100, series: 100, labels: 10, text_bytes: 200, buckets: 40 }
    }
}

/// Why something is not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetricError {
    /// There are as many metrics as there may be.
    #[error("it has as many metrics as its limit, {0} (`metrics`), and wants `{1}` besides")]
    Metrics(u64, String),
    /// The metric has as many series as it may have.
    #[error("the metric `{1}` has as many different labels as its limit, {0} (`metric_series`)")]
    Series(u64, String),
    /// The series has more labels than it may have.
    #[error("the metric `{1}` has more labels than its limit, {0} (`metric_labels`)")]
    Labels(u64, String),
    /// A name, a label's value or a description is too long. The text is the metric's name, or its beginning.
    #[error(
        "the metric `{1}` has a name, a description or a label of more bytes than its limit, {0} (`metric_text_bytes`)"
    )]
    Text(u64, String),
    /// The histogram has more buckets than it may have.
    #[error("the metric `{1}` has more buckets than its limit, {0} (`metric_buckets`)")]
    Buckets(u64, String),
    /// The bounds of the buckets do not grow, or are no numbers.
    #[error("the bounds of the buckets of `{0}` must be finite, and each greater than the one before")]
    Bounds(String),
    /// The name is no metric's or no label's name.
    #[error(
        "`{0}` cannot be the name of a metric or label: it must be of letters, digits and `_`, and not begin with a digit"
    )]
    Name(String),
    /// The label is one that the host has for itself, or is there twice.
    #[error(
        "the label `{1}` of the metric `{0}` is there twice, or is one of the host's: `consumer`, `plugin`, `le`, and what begins with `__`"
    )]
    Label(String, String),
    /// There is a metric of that name, and it is another.
    #[error(
        "there is a metric `{0}` already, of another kind or with other buckets; it stays as it was registered first"
    )]
    Differs(String),
    /// The series cannot be changed in this way.
    #[error("a counter is added to, a gauge set, and a histogram observes; `{0}` is a {1}")]
    Kind(String, &'static str),
    /// The number is none.
    #[error("`{0}` was given a number that is infinite or none")]
    NotFinite(String),
    /// The number stands for no series.
    #[error("it names a series that it has not registered")]
    NoSeries,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Has the value that it was given last.
    Gauge,
    /// Counts values by how large they are.
    Histogram,
}

impl MetricKind {
    /// `counter`, `gauge` or `histogram`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a plug-in says to have a series.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// What it is.
    pub kind: MetricKind,
    /// The metric's name.
    pub name: &'a str,
    /// What it is about, in a few words.
    pub help: &'a str,
    /// Names and values, in any order.
    pub labels: &'a [(String, String)],
    /// The largest value of each bucket of a histogram.
    pub bounds: &'a [f64],
}

/// The metrics of one plug-in.
#[derive(Debug)]
pub struct Metrics {
    limits: MetricLimits,
    registry: Mutex<Registry>,
    left_out: AtomicU64,
}

#[derive(Debug, Default)]
struct Registry {
    by_name: BTreeMap<String, Metric>,
    /// Of all metrics together.
    series: u32,
}

#[derive(Debug)]
struct Metric {
    about: Arc<About>,
    series: BTreeMap<Labels, Arc<Series>>,
}

/// In the order of their names.
type Labels = Vec<(String, String)>;

/// What all series of a metric have in common.
#[derive(Debug)]
struct About {
    name: String,
    help: String,
    kind: MetricKind,
    bounds: Arc<[f64]>,
}

impl Metrics {
    /// None yet.
    pub fn new(limits: MetricLimits) -> Self {
        Self { limits, registry: Mutex::default(), left_out: AtomicU64::new(0) }
    }

    /// The series of this name and these labels, which is made if there is none.
    ///
    /// # Errors
    /// If it must not be, or would be more than the limits allow. Nothing is counted here: see [`leave_out`](Self::leave_out).
    pub fn register(&self, wanted: Registration<'_>) -> Result<Arc<Series>, MetricError> {
        let labels = self.check(&wanted)?;
        let mut registry = self.lock();
        let Registry { by_name, series: all } = &mut *registry;
        if !by_name.contains_key(wanted.name) && by_name.len() as u64 >= self.limits.metrics {
            return Err(MetricError::Metrics(self.limits.metrics, wanted.name.to_owned()));
        }
        let metric = by_name.entry(wanted.name.to_owned()).or_insert_with(|| Metric::new(&wanted));
        let about = &metric.about;
        if about.kind != wanted.kind || *about.bounds != *wanted.bounds {
            return Err(MetricError::Differs(wanted.name.to_owned()));
        }
        if let Some(series) = metric.series.get(&labels) {
            return Ok(series.clone());
        }
        if metric.series.len() as u64 >= self.limits.series {
            return Err(MetricError::Series(self.limits.series, wanted.name.to_owned()));
        }
        let series = Arc::new(Series::new(*all, about, labels.clone()));
        *all += 1;
        metric.series.insert(labels, series.clone());
        Ok(series)
    }

    /// The series here that corresponds to one of somewhere else.
    ///
    /// # Errors
    /// As when it is registered.
    pub fn like(&self, other: &Series) -> Result<Arc<Series>, MetricError> {
        let About { name, help, kind, bounds } = &*other.about;
        self.register(Registration { kind: *kind, name, help, labels: &other.labels, bounds })
    }

    /// Counts changes that are not recorded, as there is no such series or they make no sense.
    pub fn leave_out(&self, times: u64) {
        self.left_out.fetch_add(times, Relaxed);
    }

    /// How many changes were not recorded.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Relaxed)
    }

    /// All metrics as they are now, by name.
    pub fn snapshot(&self) -> Vec<MetricSnapshot> {
        let registry = self.lock();
        let snapshot = |Metric { about, series }: &Metric| MetricSnapshot {
            name: about.name.clone(),
            help: about.help.clone(),
            kind: about.kind,
            series: series.values().map(|series| series.snapshot()).collect(),
        };
        registry.by_name.values().map(snapshot).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks all that does not depend on what is registered already. Returns the labels in order.
    fn check(&self, wanted: &Registration<'_>) -> Result<Labels, MetricError> {
        let Registration { name, help, labels, bounds, .. } = *wanted;
        let limits = &self.limits;
        let is_long = |text: &str| text.len() as u64 > limits.text_bytes;
        if is_long(name)
            || is_long(help)
            || labels.iter().any(|(name, value)| is_long(name) || is_long(value))
        {
            return Err(MetricError::Text(limits.text_bytes, excerpt(name)));
        }
        if let Some(bad) =
            std::iter::once(name).chain(labels.iter().map(|(name, _)| &**name)).find(|name| !is_name(name))
        {
            return Err(MetricError::Name(excerpt(bad)));
        }
        if labels.len() as u64 > limits.labels {
            return Err(MetricError::Labels(limits.labels, name.to_owned()));
        }
        if bounds.len() as u64 > limits.buckets {
            return Err(MetricError::Buckets(limits.buckets, name.to_owned()));
        }
        if !bounds.iter().all(|bound| bound.is_finite()) || !bounds.is_sorted_by(|a, b| a < b) {
            return Err(MetricError::Bounds(name.to_owned()));
        }
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        let twice = labels.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| &pair[0]);
        let reserved =
            labels.iter().find(|(label, _)| RESERVED.contains(&&**label) || label.starts_with("__"));
        if let Some((label, _)) = twice.or(reserved) {
            return Err(MetricError::Label(name.to_owned(), label.clone()));
        }
        Ok(labels)
    }
}

/// Labels that the host adds when it passes figures on.
const RESERVED: [&str; 3] = ["consumer", "plugin", "le"];

/// What every system that takes metrics takes for a name.
fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// So much of a name that nobody has checked yet as an error needs, on one line.
fn excerpt(name: &str) -> String {
    name.chars().take(50).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Metric {
    fn new(wanted: &Registration<'_>) -> Self {
        let about = About {
            name: wanted.name.to_owned(),
            help: wanted.help.to_owned(),
            kind: wanted.kind,
            bounds: wanted.bounds.into(),
        };
        Self { about: Arc::new(about), series: BTreeMap::new() }
    }
}

/// One series of a metric: a number, or the buckets of a histogram.
#[derive(Debug)]
pub struct Series {
    index: u32,
    about: Arc<About>,
    labels: Labels,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Counter(AtomicU64),
    Gauge(Gauge),
    Histogram(Histogram),
}

#[derive(Debug)]
struct Gauge {
    /// The bits of a floating point number, which is none until it was set.
    value: AtomicU64,
    /// Which of all settings of gauges of the process this was; 0 if it was not set.
    at: AtomicU64,
}

/// How many gauges the process has set, and one more.
static SETTINGS: AtomicU64 = AtomicU64::new(1);

impl Gauge {
    fn new() -> Self {
        Self { value: AtomicU64::new(f64::NAN.to_bits()), at: AtomicU64::new(0) }
    }

    fn set(&self, value: f64) {
        self.value.store(value.to_bits(), Relaxed);
        self.at.store(SETTINGS.fetch_add(1, Relaxed), Relaxed);
    }

    /// Takes over what another was set to, if that was later.
    fn absorb(&self, other: &Self) {
        let at = other.at.load(Relaxed);
        if at > self.at.load(Relaxed) {
            self.value.store(other.value.load(Relaxed), Relaxed);
            self.at.store(at, Relaxed);
        }
    }
}

impl Series {
    fn new(index: u32, about: &Arc<About>, labels: Labels) -> Self {
        let value = match about.kind {
            MetricKind::Counter => Value::Counter(AtomicU64::new(0)),
            MetricKind::Gauge => Value::Gauge(Gauge::new()),
            MetricKind::Histogram => Value::Histogram(Histogram::new(about.bounds.clone())),
        };
        Self { index, about: about.clone(), labels, value }
    }

    /// How many series of its [`Metrics`] were registered before it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Adds to a counter, which stays at the largest number once it is there.
    ///
    /// # Errors
    /// If it is none.
    pub fn add(&self, amount: u64) -> Result<(), MetricError> {
        let Value::Counter(counter) = &self.value else { return Err(self.wrong_kind()) };
        let sum = |before: u64| Some(before.saturating_add(amount));
        // It always gives a number.
        let _ = counter.fetch_update(Relaxed, Relaxed, sum);
        Ok(())
    }

    /// Sets a gauge.
    ///
    /// # Errors
    /// If it is none, or the value is infinite or not a number.
    pub fn set(&self, value: f64) -> Result<(), MetricError> {
        let Value::Gauge(gauge) = &self.value else { return Err(self.wrong_kind()) };
        if !value.is_finite() {
            return Err(MetricError::NotFinite(self.about.name.clone()));
        }
        gauge.set(value);
        Ok(())
    }

    /// Has a histogram count values: all of them or, if one is infinite or not a number, none.
    ///
    /// # Errors
    /// Then, or if it is no histogram.
    pub fn observe(&self, values: &[f64]) -> Result<(), MetricError> {
        let Value::Histogram(histogram) = &self.value else { return Err(self.wrong_kind()) };
        if !values.iter().all(|value| value.is_finite()) {
            return Err(MetricError::NotFinite(self.about.name.clone()));
        }
        values.iter().for_each(|value| histogram.observe(*value));
        Ok(())
    }

    /// Takes over what was recorded in a series of the same metric: the value of a gauge only if it is newer.
    pub fn absorb(&self, other: &Self) {
        match (&self.value, &other.value) {
            (Value::Counter(_), Value::Counter(counter)) => _ = self.add(counter.load(Relaxed)),
            (Value::Gauge(gauge), Value::Gauge(other)) => gauge.absorb(other),
            (Value::Histogram(histogram), Value::Histogram(other)) => histogram.absorb(other),
            _ => {}
        }
    }

    fn wrong_kind(&self) -> MetricError {
        MetricError::Kind(self.about.name.clone(), self.about.kind.name())
    }

    fn snapshot(&self) -> SeriesSnapshot {
        let value = match &self.value {
            Value::Counter(counter) => MetricValue::Counter(counter.load(Relaxed)),
            Value::Gauge(gauge) => match f64::from_bits(gauge.value.load(Relaxed)) {
                value if value.is_nan() => MetricValue::Gauge(0.0),
                value => MetricValue::Gauge(value),
            },
            Value::Histogram(histogram) => MetricValue::Histogram(histogram.snapshot()),
        };
        SeriesSnapshot { labels: self.labels.clone(), value }
    }
}

/// Counts values by how large they are.
#[derive(Debug)]
pub struct Histogram {
    bounds: Arc<[f64]>,
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    /// The bits of a floating point number.
    sum: AtomicU64,
}

impl Histogram {
    /// With buckets for values up to each of these, in order, and one for all others.
    pub fn new(bounds: Arc<[f64]>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    /// Counts a value.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.add_sum(value);
    }

    /// The sum stays a number: at the largest or smallest that there is, once it is there.
    fn add_sum(&self, value: f64) {
        let sum = |before: u64| Some((f64::from_bits(before) + value).clamp(f64::MIN, f64::MAX).to_bits());
        // It always gives a number.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, sum);
    }

    fn absorb(&self, other: &Self) {
        for (count, more) in self.counts.iter().zip(&other.counts) {
            count.fetch_add(more.load(Relaxed), Relaxed);
        }
        self.add_sum(f64::from_bits(other.sum.load(Relaxed)));
    }

    /// What was counted.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds: self.bounds.to_vec(),
            counts: self.counts.iter().map(|count| count.load(Relaxed)).collect(),
            sum: f64::from_bits(self.sum.load(Relaxed)),
        }
    }
}

/// A metric at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSnapshot {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub help: String,
    /// What it is.
    pub kind: MetricKind,
    /// By their labels.
    pub series: Vec<SeriesSnapshot>,
}

/// A series at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesSnapshot {
    /// Names and values, in the order of the names.
    pub labels: Vec<(String, String)>,
    /// What it is at.
    pub value: MetricValue,
}

/// What a series is at.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// The sum of all that was added.
    Counter(u64),
    /// What was set last; 0 before that.
    Gauge(f64),
    /// What was counted.
    Histogram(HistogramSnapshot),
}

/// What a histogram has counted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HistogramSnapshot {
    /// The largest value of each bucket but the last.
    pub bounds: Vec<f64>,
    /// How many values are in each bucket: one more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl HistogramSnapshot {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bound of the bucket that the value is in which this part of all values, 0 to 1, do not exceed; infinite if that is
    /// the last bucket. `None` if there was no value.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(self.bounds.get(bucket).copied().unwrap_or(f64::INFINITY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> Vec<(String, String)> {
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn counter(metrics: &Metrics, name: &str, of: &[(&str, &str)]) -> Result<Arc<Series>, MetricError> {
        let kind = MetricKind::Counter;
        metrics.register(Registration { kind, name, help: "", labels: &labels(of), bounds: &[] })
    }

    fn histogram(metrics: &Metrics, name: &str, bounds: &[f64]) -> Result<Arc<Series>, MetricError> {
        let kind = MetricKind::Histogram;
        metrics.register(Registration { kind, name, help: "sizes", labels: &[], bounds })
    }

    #[test]
    fn a_series_is_one_however_its_labels_are_ordered() {
        let metrics = Metrics::new(MetricLimits::default());
        counter(&metrics, "n_total", &[("a", "1"), ("b", "2")]).unwrap().add(2).unwrap();
        counter(&metrics, "n_total", &[("b", "2"), ("a", "1")]).unwrap().add(3).unwrap();
        let other = counter(&metrics, "n_total", &[]).unwrap();
        assert_eq!(other.index(), 1);
        let series = &metrics.snapshot()[0].series;
        let values: Vec<_> = series.iter().map(|s| (s.labels.len(), s.value.clone())).collect();
        assert_eq!(values, [(0, MetricValue::Counter(0)), (2, MetricValue::Counter(5))]);
        other.add(u64::MAX).unwrap();
        other.add(5).unwrap();
        assert_eq!(metrics.snapshot()[0].series[0].value, MetricValue::Counter(u64::MAX));
    }

    #[test]
    fn histograms_count_by_size() {
        let metrics = Metrics::new(MetricLimits::default());
        let sizes = histogram(&metrics, "sizes", &[1.0, 10.0]).unwrap();
        sizes.observe(&[1.0, 1.5, 10.0, 11.0]).unwrap();
        assert!(matches!(sizes.observe(&[1.0, f64::NAN]), Err(MetricError::NotFinite(_))));
        let MetricValue::Histogram(told) = metrics.snapshot()[0].series[0].value.clone() else { panic!() };
        assert_eq!((&*told.counts, told.sum, told.count()), (&[1, 2, 1][..], 23.5, 4));
        assert_eq!(
            (told.quantile(0.25), told.quantile(0.5), told.quantile(1.0)),
            (Some(1.0), Some(10.0), Some(f64::INFINITY))
        );
        assert_eq!(HistogramSnapshot::default().quantile(0.5), None);
    }

    #[test]
    fn the_sum_of_a_histogram_stays_a_number() {
        let metrics = Metrics::new(MetricLimits::default());
        let sizes = histogram(&metrics, "sizes", &[1.0]).unwrap();
        let sum = || match &metrics.snapshot()[0].series[0].value {
            MetricValue::Histogram(told) => told.sum,
            other => panic!("{other:?}"),
        };
        sizes.observe(&[f64::MAX, f64::MAX]).unwrap();
        assert_eq!(sum(), f64::MAX);
        sizes.observe(&[f64::MIN, f64::MIN, f64::MIN]).unwrap();
        assert_eq!(sum(), f64::MIN);
        sizes.absorb(&sizes);
        assert_eq!(sum(), f64::MIN);
    }

    #[test]
    fn what_exceeds_a_limit_or_is_no_metric_is_refused_and_changes_nothing() {
        let limits = MetricLimits { metrics: 2, series: 2, labels: 1, text_bytes: 10, buckets: 2 };
        let metrics = Metrics::new(limits);
        let check = |name: &str, of: &[(&str, &str)], expected: &str| {
            let error = counter(&metrics, name, of).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        for bad in ["", "1a", "a-b", "a:b", "é", "a\nb"] {
            check(bad, &[], "cannot be the name");
            check("n", &[(bad, "")], "cannot be the name");
        }
        for reserved in ["consumer", "plugin", "le", "__name"] {
            check("n", &[(reserved, "")], "one of the host's");
        }
        check("n", &[("a", "1"), ("a", "2")], "more labels than its limit, 1");
        check("a_long_name", &[], "more bytes than its limit, 10");
        check("n", &[("a", "a long value")], "more bytes than its limit, 10");
        assert!(metrics.snapshot().is_empty());
        counter(&metrics, "a", &[("l", "1")]).unwrap();
        counter(&metrics, "a", &[("l", "2")]).unwrap();
        check("a", &[("l", "3")], "the metric `a` has as many different labels as its limit, 2");
        counter(&metrics, "a", &[("l", "2")]).unwrap();
        let buckets = |bounds: &[f64]| histogram(&metrics, "h", bounds).unwrap_err().to_string();
        assert!(buckets(&[1.0, 2.0, 3.0]).contains("more buckets than its limit, 2"));
        assert!(
            buckets(&[2.0, 1.0]).contains("each greater") && buckets(&[1.0, 1.0]).contains("each greater")
        );
        assert!(buckets(&[f64::INFINITY]).contains("finite"));
        let h = histogram(&metrics, "h", &[1.0]).unwrap();
        assert!(buckets(&[2.0]).contains("already"));
        check("h", &[], "already, of another kind");
        check("b", &[], "as many metrics as its limit, 2");
        assert!(h.add(1).unwrap_err().to_string().contains("`h` is a histogram"));
        assert!(h.set(1.0).is_err() && counter(&metrics, "a", &[("l", "1")]).unwrap().observe(&[]).is_err());
    }

    #[test]
    fn what_was_recorded_elsewhere_is_taken_over() {
        let (here, there) = (Metrics::new(MetricLimits::default()), Metrics::new(MetricLimits::default()));
        let named = |metrics: &Metrics, name: &str, value: Option<f64>| {
            let kind = MetricKind::Gauge;
            let gauge =
                metrics.register(Registration { kind, name, help: "", labels: &[], bounds: &[] }).unwrap();
            if let Some(value) = value {
                gauge.set(value).unwrap();
            }
            gauge
        };
        let gauge = |metrics: &Metrics, value: Option<f64>| named(metrics, "g", value);
        gauge(&here, Some(7.0));
        named(&here, "older", Some(1.0));
        named(&here, "unset", None);
        counter(&here, "n", &[("a", "b")]).unwrap().add(1).unwrap();
        let theirs = [
            counter(&there, "n", &[("a", "b")]).unwrap(),
            gauge(&there, None),
            histogram(&there, "h", &[1.0]).unwrap(),
            named(&there, "older", Some(2.0)),
            named(&there, "unset", Some(3.0)),
            named(&there, "newer", Some(4.0)),
        ];
        named(&here, "newer", Some(5.0));
        theirs[0].add(2).unwrap();
        theirs[2].observe(&[0.5, 2.0]).unwrap();
        theirs.iter().for_each(|other| here.like(other).unwrap().absorb(other));
        let values: Vec<_> =
            here.snapshot().into_iter().map(|metric| metric.series[0].value.clone()).collect();
        let expected = HistogramSnapshot { bounds: vec![1.0], counts: vec![1, 1], sum: 2.5 };
        assert_eq!(
            values,
            [
                MetricValue::Gauge(7.0),
                MetricValue::Histogram(expected),
                MetricValue::Counter(3),
                MetricValue::Gauge(5.0),
                MetricValue::Gauge(2.0),
                MetricValue::Gauge(3.0)
            ]
        );
    }
}
