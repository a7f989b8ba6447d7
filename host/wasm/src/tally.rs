//! What is counted and said of a plug-in and a consumer that uses it: of all its instances together.

use std::collections::{BTreeMap, HashSet};
use std::mem::{Discriminant, discriminant};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tailweir_core::{Event, EventSink, MetricError};

use crate::call::CallError;

/// What was counted of a plug-in, for one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginTally {
    /// The plug-in's name.
    pub plugin: String,
    /// The consumer; none for what happened while the plug-in was loaded.
    pub consumer: Option<String>,
    /// The counters.
    pub counts: PluginCounts,
}

/// A plug-in's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PluginCounts {
    /// Calls that failed: crashes, limits, and answers that make no sense.
    pub failed: u64,
    /// Instances that were replaced because of the memory that they had taken.
    pub recycled: u64,
    /// Log lines that were left out.
    pub lines_left_out: u64,
    /// Changes of metrics that were not recorded.
    pub metrics_left_out: u64,
}

impl PluginCounts {
    /// Whether there is nothing to tell.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// The tallies of a host, by the names of plug-ins and consumers: a name is the plug-in's to choose, and with one it had the
/// budget of another consumer's plug-in.
pub(crate) struct Tallies {
    events: Arc<dyn EventSink>,
    by_name: Mutex<BTreeMap<Names, Arc<Tally>>>,
}

/// A plug-in's name, and that of the consumer that uses it.
type Names = (String, Option<String>);

impl Tallies {
    pub(crate) fn new(events: Arc<dyn EventSink>) -> Self {
        Self { events, by_name: Mutex::default() }
    }

    /// The tally of the plug-ins that have this name, as this consumer uses them; `None` while they are loaded.
    pub(crate) fn of(&self, name: &str, consumer: Option<&str>) -> Arc<Tally> {
        let mut by_name = lock(&self.by_name);
        let key = (name.to_owned(), consumer.map(str::to_owned));
        if let Some(tally) = by_name.get(&key) {
            return tally.clone();
        }
        let tally = Arc::new(Tally {
            name: key.0.clone(),
            consumer: key.1.clone(),
            events: self.events.clone(),
            failed: AtomicU64::new(0),
            recycled: AtomicU64::new(0),
            lines_left_out: AtomicU64::new(0),
            metrics_left_out: AtomicU64::new(0),
            said_of_metrics: Mutex::default(),
            second: Mutex::new(Second { began: Instant::now(), lines: 0, left_out: 0 }),
            failures: Mutex::default(),
            denied: Mutex::default(),
            replacements: Mutex::default(),
        });
        by_name.insert(key, tally.clone());
        tally
    }

    /// All of them. What was not told yet is told.
    pub(crate) fn counts(&self) -> Vec<PluginTally> {
        let tallies: Vec<_> = lock(&self.by_name).values().cloned().collect();
        let of = |tally: Arc<Tally>| PluginTally {
            plugin: tally.name.clone(),
            consumer: tally.consumer.clone(),
            counts: tally.counts(),
        };
        tallies.into_iter().map(of).collect()
    }
}

/// One plug-in's tally, for one consumer.
pub(crate) struct Tally {
    name: String,
    consumer: Option<String>,
    events: Arc<dyn EventSink>,
    failed: AtomicU64,
    recycled: AtomicU64,
    lines_left_out: AtomicU64,
    metrics_left_out: AtomicU64,
    /// The kind of mistake, and the metric.
    said_of_metrics: Mutex<HashSet<(Discriminant<MetricError>, String)>>,
    second: Mutex<Second>,
    /// With why the last one failed.
    failures: Mutex<Untold<String>>,
    /// With the origin of the last one.
    denied: Mutex<Untold<Option<String>>>,
    /// With the bytes of the last one.
    replacements: Mutex<Untold<u64>>,
}

/// What is told at most once a second, or it would be a flood.
struct Untold<T> {
    told: Option<Instant>,
    times: u64,
    last: Option<T>,
}

impl<T> Default for Untold<T> {
    fn default() -> Self {
        Self { told: None, times: 0, last: None }
    }
}

impl<T> Untold<T> {
    /// It has happened: what is to be told now, and of how many times.
    fn add(&mut self, what: T) -> Option<(T, u64)> {
        self.times += 1;
        self.last = Some(what);
        let due = self.told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1));
        if due { self.take() } else { None }
    }

    /// What was not told yet.
    fn take(&mut self) -> Option<(T, u64)> {
        let last = self.last.take()?;
        self.told = Some(Instant::now());
        Some((last, std::mem::take(&mut self.times)))
    }
}

/// What was logged within a second.
struct Second {
    began: Instant,
    lines: u64,
    /// Lines that were left out, and that nobody was told of yet.
    left_out: u64,
}

impl Tally {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn names(&self) -> Names {
        (self.name.clone(), self.consumer.clone())
    }

    /// A call has failed.
    pub(crate) fn failed(&self, error: &CallError) {
        self.failed.fetch_add(1, Relaxed);
        let due = lock(&self.failures).add(error.to_string());
        self.tell_failures(due);
    }

    fn tell_failures(&self, due: Option<(String, u64)>) {
        if let Some((reason, calls)) = due {
            let (plugin, consumer) = self.names();
            self.events.emit(Event::PluginFailed { plugin, consumer, reason, calls });
        }
    }

    /// A request was not sent. `origin` is where to, if that could be granted.
    pub(crate) fn denied(&self, origin: Option<String>) {
        let due = lock(&self.denied).add(origin);
        self.tell_denied(due);
    }

    fn tell_denied(&self, due: Option<(Option<String>, u64)>) {
        if let Some((origin, requests)) = due {
            let (plugin, consumer) = self.names();
            self.events.emit(Event::PluginRequestDenied { plugin, consumer, origin, requests });
        }
    }

    /// An instance that had `bytes` of memory is replaced.
    pub(crate) fn recycled(&self, bytes: u64) {
        self.recycled.fetch_add(1, Relaxed);
        let due = lock(&self.replacements).add(bytes);
        self.tell_replacements(due);
    }

    fn tell_replacements(&self, due: Option<(u64, u64)>) {
        if let Some((bytes, instances)) = due {
            let (plugin, consumer) = self.names();
            self.events.emit(Event::PluginRecycled { plugin, consumer, bytes, instances });
        }
    }

    /// Whether one more line may be logged in this second, of which there may be `limit`.
    pub(crate) fn admit_line(&self, limit: u64) -> bool {
        let mut second = lock(&self.second);
        if second.began.elapsed() >= Duration::from_secs(1) {
            self.report(&mut second);
        }
        if second.lines < limit {
            second.lines += 1;
            return true;
        }
        drop(second);
        self.leave_line_out();
        false
    }

    /// A line was left out of the log.
    pub(crate) fn leave_line_out(&self) {
        self.lines_left_out.fetch_add(1, Relaxed);
        lock(&self.second).left_out += 1;
    }

    /// Says why something of the plug-in's metrics is not recorded, unless that was said before.
    pub(crate) fn say_of_metric(&self, error: &MetricError) {
        let about = match error {
            MetricError::Series(_, metric) | MetricError::Differs(metric) => metric.as_str(),
            // Of others the first will do: names are the plug-in's to choose, and it may never come to an end.
            _ => "",
        };
        let mut said = lock(&self.said_of_metrics);
        if said.len() < MOST_SAID && said.insert((discriminant(error), about.to_owned())) {
            drop(said);
            let ((plugin, consumer), reason) = (self.names(), error.to_string());
            self.events.emit(Event::PluginMetricLeftOut { plugin, consumer, reason });
        }
    }

    /// Counts a change that was not recorded.
    pub(crate) fn leave_metric_out(&self) {
        self.metrics_left_out.fetch_add(1, Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn metrics_left_out(&self) -> u64 {
        self.metrics_left_out.load(Relaxed)
    }

    /// Begins a second, and tells what was left out in the one before: once for all lines, or it would be a flood itself.
    fn report(&self, second: &mut Second) {
        let lines = std::mem::take(&mut second.left_out);
        (second.began, second.lines) = (Instant::now(), 0);
        if lines > 0 {
            let (plugin, consumer) = self.names();
            self.events.emit(Event::PluginLogCut { plugin, consumer, lines });
        }
    }

    fn counts(&self) -> PluginCounts {
        let (failures, replacements) = (lock(&self.failures).take(), lock(&self.replacements).take());
        let denied = lock(&self.denied).take();
        self.tell_failures(failures);
        self.tell_denied(denied);
        self.tell_replacements(replacements);
        self.report(&mut lock(&self.second));
        PluginCounts {
            failed: self.failed.load(Relaxed),
            recycled: self.recycled.load(Relaxed),
            lines_left_out: self.lines_left_out.load(Relaxed),
            metrics_left_out: self.metrics_left_out.load(Relaxed),
        }
    }
}

/// How many things are said of a plug-in's metrics.
const MOST_SAID: usize = 100;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers events.
    #[derive(Default)]
    struct Events(Mutex<Vec<Event>>);

    impl EventSink for Events {
        fn emit(&self, event: Event) {
            lock(&self.0).push(event);
        }
    }

    #[test]
    fn everything_is_counted_and_little_of_it_told_at_once() {
        let events = Arc::new(Events::default());
        let tallies = Tallies::new(events.clone());
        let tally = tallies.of("chatty", Some("c"));
        let admitted = (0..1000).filter(|_| tallies.of("chatty", Some("c")).admit_line(3)).count() as u64;
        assert!(tallies.of("chatty", Some("other")).admit_line(3), "another consumer's has its own");
        // A second may end in between.
        assert!((3..100).contains(&admitted), "{admitted}");
        for _ in 0..300 {
            tally.failed(&CallError::Refused { plugin: "chatty".into(), reason: "no".into() });
            tally.recycled(7);
            tally.denied(Some("http://other.example".to_owned()));
        }
        let counts =
            PluginCounts { failed: 300, recycled: 300, lines_left_out: 1000 - admitted, metrics_left_out: 0 };
        let of = |consumer: &str, counts| {
            let (plugin, consumer) = ("chatty".to_owned(), Some(consumer.to_owned()));
            PluginTally { plugin, consumer, counts }
        };
        assert_eq!(tallies.counts(), [of("c", counts), of("other", PluginCounts::default())]);
        let events = lock(&events.0);
        let told = events.iter().fold([0; 4], |[left_out, failed, recycled, denied], event| match event {
            Event::PluginLogCut { lines, .. } => [left_out + lines, failed, recycled, denied],
            Event::PluginFailed { calls, .. } => [left_out, failed + calls, recycled, denied],
            Event::PluginRecycled { instances, .. } => [left_out, failed, recycled + instances, denied],
            Event::PluginRequestDenied { requests, .. } => [left_out, failed, recycled, denied + requests],
            _ => panic!("{event:?}"),
        });
        assert_eq!(told, [1000 - admitted, 300, 300, 300]);
        assert!(events.len() < 100, "{}", events.len());
    }

    #[test]
    fn what_is_wrong_with_metrics_is_said_once() {
        let events = Arc::new(Events::default());
        let tally = Tallies::new(events.clone()).of("p", None);
        for n in 0..1000 {
            tally.say_of_metric(&MetricError::Metrics(5, format!("m{n}")));
            tally.say_of_metric(&MetricError::NoSeries);
            tally.say_of_metric(&MetricError::Series(5, "a".into()));
            tally.say_of_metric(&MetricError::Series(5, "b".into()));
        }
        let events = lock(&events.0);
        assert_eq!(events.len(), 4, "{events:?}");
        assert!(matches!(&events[0], Event::PluginMetricLeftOut { reason, .. } if reason.contains("`m0`")));
    }
}
