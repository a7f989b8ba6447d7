//! The metrics of one instance.

use std::sync::Arc;

use tailweir_core::metrics::Series;
use tailweir_core::{MetricError, MetricLimits, Metrics, Registration};

use crate::tally::Tally;

/// What the numbers stand for that an instance was given for its series.
///
/// Until it is called about a batch, nobody knows for which consumer it counts: what it records before that is kept apart, and
/// then taken over.
pub(crate) struct OwnMetrics {
    tally: Arc<Tally>,
    limits: MetricLimits,
    /// Where its series are: those of the consumer, or of nobody yet. None before it registers one.
    home: Option<Home>,
    /// By number, counted from 1. None where there is no place for one with its consumer.
    series: Vec<Option<Arc<Series>>>,
    /// The number of each series in `home`, by its index there; 0 for those of other instances.
    numbers: Vec<u32>,
}

enum Home {
    Nobodys(Arc<Metrics>),
    Consumers(Arc<Metrics>),
}

impl Home {
    fn metrics(&self) -> &Arc<Metrics> {
        match self {
            Self::Nobodys(metrics) | Self::Consumers(metrics) => metrics,
        }
    }
}

impl OwnMetrics {
    pub(crate) fn new(tally: Arc<Tally>, limits: MetricLimits) -> Self {
        Self { tally, limits, home: None, series: Vec::new(), numbers: Vec::new() }
    }

    /// From now on it counts with these, which are those of a consumer, as the tally is.
    pub(crate) fn bind(&mut self, consumers: &Arc<Metrics>, tally: &Arc<Tally>) {
        self.tally = tally.clone();
        let before = self.home.replace(Home::Consumers(consumers.clone()));
        let adopted = match &before {
            Some(Home::Nobodys(metrics)) => {
                consumers.leave_out(metrics.left_out());
                Adopted::WithValue
            }
            Some(Home::Consumers(_)) | None => Adopted::Empty,
        };
        self.numbers.clear();
        for index in 0..self.series.len() {
            let Some(old) = self.series[index].take() else { continue };
            match consumers.like(&old) {
                Ok(new) => {
                    if adopted == Adopted::WithValue {
                        new.absorb(&old);
                    }
                    self.set_number(&new, index as u32 + 1);
                    self.series[index] = Some(new);
                }
                // With it goes what was recorded.
                Err(error) if adopted == Adopted::WithValue => self.leave_out(&error),
                Err(error) => self.tally.say_of_metric(&error),
            }
        }
    }

    /// The number of a series; 0 if there is none. What is lost by that is counted when it is changed.
    pub(crate) fn register(&mut self, wanted: Registration<'_>) -> u32 {
        let limits = &self.limits;
        let home = self.home.get_or_insert_with(|| Home::Nobodys(Arc::new(Metrics::new(limits.clone()))));
        match home.metrics().register(wanted) {
            Ok(series) => self.number(series),
            Err(error) => {
                self.tally.say_of_metric(&error);
                0
            }
        }
    }

    fn number(&mut self, series: Arc<Series>) -> u32 {
        match self.numbers.get(series.index() as usize) {
            Some(0) | None => {
                // There are no more than the limits allow.
                let number = self.series.len() as u32 + 1;
                self.set_number(&series, number);
                self.series.push(Some(series));
                number
            }
            Some(number) => *number,
        }
    }

    fn set_number(&mut self, series: &Series, number: u32) {
        let index = series.index() as usize;
        if self.numbers.len() <= index {
            self.numbers.resize(index + 1, 0);
        }
        self.numbers[index] = number;
    }

    /// Changes the series of this number.
    pub(crate) fn change(&mut self, number: u32, change: impl FnOnce(&Series) -> Result<(), MetricError>) {
        let index = (number as usize).checked_sub(1);
        let changed = match index.map(|index| self.series.get(index)) {
            Some(Some(Some(series))) => change(series),
            // Why there is none was said when it was registered.
            None | Some(Some(None)) => return self.count_left_out(),
            Some(None) => Err(MetricError::NoSeries),
        };
        if let Err(error) = changed {
            self.leave_out(&error);
        }
    }

    fn leave_out(&self, error: &MetricError) {
        self.tally.say_of_metric(error);
        self.count_left_out();
    }

    fn count_left_out(&self) {
        self.tally.leave_metric_out();
        if let Some(home) = &self.home {
            home.metrics().leave_out(1);
        }
    }
}

/// Whether series bring along what was recorded in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Adopted {
    WithValue,
    Empty,
}

#[cfg(test)]
mod tests {
    use tailweir_core::metrics::{MetricKind, MetricValue};

    use super::*;
    use crate::tally::Tallies;

    fn own(limits: MetricLimits) -> OwnMetrics {
        OwnMetrics::new(Tallies::new(Arc::new(())).of("p", None), limits)
    }

    fn counter(own: &mut OwnMetrics, name: &str) -> u32 {
        own.register(Registration { kind: MetricKind::Counter, name, help: "", labels: &[], bounds: &[] })
    }

    fn values(metrics: &Metrics) -> Vec<(String, u64)> {
        let value = |value: &MetricValue| match value {
            MetricValue::Counter(n) => *n,
            other => panic!("{other:?}"),
        };
        metrics.snapshot().into_iter().map(|m| (m.name, value(&m.series[0].value))).collect()
    }

    #[test]
    fn what_is_recorded_before_there_is_a_consumer_counts_with_it_and_numbers_stay() {
        let limits = MetricLimits { metrics: 3, ..MetricLimits::default() };
        let (one, other) = (Arc::new(Metrics::new(limits.clone())), Arc::new(Metrics::new(limits.clone())));
        // Another instance was here before, and had its series in another order.
        let mut before = own(limits.clone());
        before.bind(&one, &before.tally.clone());
        let (c, b) = (counter(&mut before, "c"), counter(&mut before, "b"));
        before.change(b, |b| b.add(100));
        before.change(c, |c| c.add(1000));
        let mut own = own(limits);
        let (a, b) = (counter(&mut own, "a"), counter(&mut own, "b"));
        own.change(a, |a| a.add(1));
        own.bind(&one, &own.tally.clone());
        own.change(b, |b| b.add(2));
        assert_eq!([counter(&mut own, "b"), counter(&mut own, "c"), counter(&mut own, "a")], [b, 3, a]);
        assert_eq!(values(&one), [("a".to_owned(), 1), ("b".to_owned(), 102), ("c".to_owned(), 1000)]);
        // A script may hand it batches of another consumer.
        own.bind(&other, &own.tally.clone());
        own.change(a, |a| a.add(7));
        assert_eq!(values(&other), [("a".to_owned(), 7), ("b".to_owned(), 0), ("c".to_owned(), 0)]);
        assert_eq!(values(&one)[0].1, 1);
        assert_eq!((one.left_out(), other.left_out()), (0, 0));
        // Where there is no place for its series, nothing is lost before it changes one.
        let full = Arc::new(Metrics::new(MetricLimits { metrics: 0, ..MetricLimits::default() }));
        own.bind(&full, &own.tally.clone());
        assert_eq!(full.left_out(), 0);
        own.change(a, |a| a.add(1));
        assert_eq!(full.left_out(), 1);
    }

    #[test]
    fn what_there_is_no_place_for_is_counted() {
        let limits = MetricLimits { metrics: 1, ..MetricLimits::default() };
        let mut own = own(limits.clone());
        let (a, b) = (counter(&mut own, "a"), counter(&mut own, "b"));
        assert_eq!((a, b, counter(&mut own, "a")), (1, 0, 1));
        own.change(b, |b| b.add(1));
        own.change(77, |s| s.add(1));
        own.change(a, |a| a.set(1.0));
        let full = Arc::new(Metrics::new(limits));
        full.register(Registration {
            kind: MetricKind::Gauge,
            name: "z",
            help: "",
            labels: &[],
            bounds: &[],
        })
        .unwrap();
        own.bind(&full, &own.tally.clone());
        own.change(a, |a| a.add(1));
        // Three changes; then what was in its only series, and a change of that.
        assert_eq!(full.left_out(), 5);
        assert_eq!(own.tally.metrics_left_out(), 5);
    }
}
