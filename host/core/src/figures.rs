//! What is counted of plug-ins, for each consumer that uses them: by whoever calls them, and by themselves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::{Histogram, HistogramSnapshot, MetricLimits, MetricSnapshot, Metrics};
use crate::{Event, EventSink, Failure, Outcome, Verdict};

/// What a plug-in is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginKind {
    /// It says which records to keep.
    Filter,
    /// It deals with batches.
    Processor,
}

impl PluginKind {
    /// `filter` or `processor`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Processor => "processor",
        }
    }
}

/// The figures of all plug-ins of a process.
#[derive(Debug, Default)]
pub struct Figures {
    plugins: Mutex<BTreeMap<(String, String, PluginKind), Arc<PluginFigures>>>,
    /// Held while they are told, so that older ones never come after newer ones.
    reporting: Mutex<()>,
}

impl Figures {
    /// Those of the plug-in of this name as it is used by this consumer, which are made if there are none. Several instances,
    /// and several versions, have the same.
    pub fn of(
        &self,
        consumer: &str,
        plugin: &str,
        kind: PluginKind,
        limits: impl FnOnce() -> MetricLimits,
    ) -> Arc<PluginFigures> {
        let made = || Arc::new(PluginFigures::new(consumer, plugin, kind, limits()));
        lock(&self.plugins).entry((consumer.to_owned(), plugin.to_owned(), kind)).or_insert_with(made).clone()
    }

    /// All as they are now, by consumer and plug-in.
    pub fn snapshot(&self) -> Vec<PluginSnapshot> {
        self.all().iter().map(|plugin| plugin.snapshot()).collect()
    }

    /// Tells of the plug-ins that were called since this was called last: an [`Event::PluginFigures`] each.
    pub fn report(&self, events: &dyn EventSink) {
        let _turn = lock(&self.reporting);
        for plugin in self.all() {
            let snapshot = plugin.snapshot();
            let marks = (snapshot.calls, snapshot.failed);
            if std::mem::replace(&mut *lock(&plugin.reported), marks) != marks {
                events.emit(Event::PluginFigures { figures: Box::new(snapshot) });
            }
        }
    }

    fn all(&self) -> Vec<Arc<PluginFigures>> {
        lock(&self.plugins).values().cloned().collect()
    }
}

/// Seconds: the bounds of the buckets that calls are counted in by how long they took.
const LATENCY: [f64; 20] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 60.0,
];

/// The figures of one plug-in as it is used by one consumer, of all its instances together. To count a call takes a few
/// additions, whatever the number of its records; only a verdict on each of them is gone through once, byte by byte.
#[derive(Debug)]
pub struct PluginFigures {
    consumer: String,
    plugin: String,
    kind: PluginKind,
    calls: AtomicU64,
    records: AtomicU64,
    kept: AtomicU64,
    emitted: AtomicU64,
    rejected: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    trapped: AtomicU64,
    overrun: AtomicU64,
    computed_nanos: AtomicU64,
    bytes: AtomicU64,
    peak_memory: AtomicU64,
    latency: Histogram,
    metrics: Arc<Metrics>,
    /// Calls and failures when they were told of last.
    reported: Mutex<(u64, u64)>,
}

/// What a call took, however it ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallCost {
    /// Records that the plug-in was called about.
    pub records: usize,
    /// From the call to its end.
    pub took: Duration,
    /// The part of it in which the plug-in computed, or the host did on its behalf.
    pub computed: Duration,
    /// Bytes of records that it was handed.
    pub bytes: u64,
    /// Bytes of memory that it had at the end.
    pub memory: u64,
}

/// Why there is no answer to a call that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFault {
    /// It answered with an error, or with something that makes no sense.
    Answer,
    /// It crashed, or wanted more of something than it may have.
    Trap,
    /// It computed or waited for longer than it may.
    Overrun,
}

impl PluginFigures {
    fn new(consumer: &str, plugin: &str, kind: PluginKind, limits: MetricLimits) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            consumer: consumer.to_owned(),
            plugin: plugin.to_owned(),
            kind,
            calls: zero(),
            records: zero(),
            kept: zero(),
            emitted: zero(),
            rejected: zero(),
            retried: zero(),
            failed: zero(),
            trapped: zero(),
            overrun: zero(),
            computed_nanos: zero(),
            bytes: zero(),
            peak_memory: zero(),
            latency: Histogram::new(LATENCY.into()),
            metrics: Arc::new(Metrics::new(limits)),
            reported: Mutex::default(),
        }
    }

    /// The consumer that uses it.
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// What the plug-in counts by itself.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts a call.
    pub fn called(&self, cost: CallCost) {
        let CallCost { records, took, computed, bytes, memory } = cost;
        self.calls.fetch_add(1, Relaxed);
        self.records.fetch_add(records as u64, Relaxed);
        self.computed_nanos.fetch_add(u64::try_from(computed.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if bytes > 0 {
            self.bytes.fetch_add(bytes, Relaxed);
        }
        if memory > 0 {
            self.peak_memory.fetch_max(memory, Relaxed);
        }
        self.latency.observe(took.as_secs_f64());
    }

    /// Counts what a filter has answered to a call about so many records.
    pub fn decided(&self, verdict: &Verdict, records: usize) {
        let kept = match verdict {
            Verdict::All => records,
            Verdict::None => 0,
            Verdict::Keep(keep) => keep.iter().filter(|keep| **keep).count(),
        };
        self.kept.fetch_add(kept as u64, Relaxed);
    }

    /// Counts what a processor has answered.
    pub fn answered(&self, answer: &Result<Outcome, Failure>) {
        match answer {
            Ok(Outcome::Emit(records)) => _ = self.emitted.fetch_add(records.len() as u64, Relaxed),
            Err(Failure::Reject { indices, .. }) => {
                self.rejected.fetch_add(indices.len() as u64, Relaxed);
            }
            Err(Failure::Retry { .. }) => _ = self.retried.fetch_add(1, Relaxed),
            Ok(Outcome::Done) | Err(Failure::Stop { .. } | Failure::Crash { .. }) => {}
        }
    }

    /// Counts a call that failed, or an instance that could not be made for one.
    pub fn failed(&self, fault: CallFault) {
        self.failed.fetch_add(1, Relaxed);
        match fault {
            CallFault::Answer => {}
            CallFault::Trap => _ = self.trapped.fetch_add(1, Relaxed),
            CallFault::Overrun => _ = self.overrun.fetch_add(1, Relaxed),
        }
    }

    /// All as it is now.
    pub fn snapshot(&self) -> PluginSnapshot {
        let of = |number: &AtomicU64| number.load(Relaxed);
        PluginSnapshot {
            consumer: self.consumer.clone(),
            plugin: self.plugin.clone(),
            kind: self.kind,
            calls: of(&self.calls),
            records: of(&self.records),
            kept: of(&self.kept),
            emitted: of(&self.emitted),
            rejected: of(&self.rejected),
            retried: of(&self.retried),
            failed: of(&self.failed),
            trapped: of(&self.trapped),
            overrun: of(&self.overrun),
            computed: Duration::from_nanos(of(&self.computed_nanos)),
            bytes: of(&self.bytes),
            peak_memory: of(&self.peak_memory),
            latency: self.latency.snapshot(),
            metrics: self.metrics.snapshot(),
            metrics_left_out: self.metrics.left_out(),
        }
    }
}

/// What is known of a plug-in as it is used by one consumer, at one moment. All numbers count from the start of the process,
/// and include calls about batches that came again.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginSnapshot {
    /// The consumer.
    pub consumer: String,
    /// The plug-in's name.
    pub plugin: String,
    /// What it is used as.
    pub kind: PluginKind,
    /// Calls about records, those that failed too.
    pub calls: u64,
    /// Records that it was called about.
    pub records: u64,
    /// Records that a filter has kept.
    pub kept: u64,
    /// Records that a processor has emitted, whatever became of them.
    pub emitted: u64,
    /// Records that a processor has rejected.
    pub rejected: u64,
    /// How often a processor has asked for its batch to come again.
    pub retried: u64,
    /// Calls to which there was no answer that makes sense, in all.
    pub failed: u64,
    /// Of these, calls in which it crashed, or wanted more of something than it may have.
    pub trapped: u64,
    /// Of these, calls that computed or waited for longer than they may.
    pub overrun: u64,
    /// How long it has computed in all; for a Lua function, how long its calls took.
    pub computed: Duration,
    /// Bytes of records that it was handed; 0 for a Lua function.
    pub bytes: u64,
    /// Bytes of the most memory that one instance had; 0 for a Lua function.
    pub peak_memory: u64,
    /// How long calls took, in seconds, with what they waited for.
    pub latency: HistogramSnapshot,
    /// What it counts by itself.
    pub metrics: Vec<MetricSnapshot>,
    /// How many changes of that were not recorded, as it was more than it may have or made no sense.
    pub metrics_left_out: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Events(Mutex<Vec<Event>>);

    impl EventSink for Events {
        fn emit(&self, event: Event) {
            lock(&self.0).push(event);
        }
    }

    fn of(figures: &Figures, consumer: &str, kind: PluginKind) -> Arc<PluginFigures> {
        figures.of(consumer, "p", kind, MetricLimits::default)
    }

    #[test]
    fn instances_of_one_consumer_are_counted_together_and_told_when_there_is_news() {
        let (figures, events) = (Figures::default(), Events::default());
        figures.report(&events);
        let (one, other) = (of(&figures, "c", PluginKind::Filter), of(&figures, "c", PluginKind::Filter));
        of(&figures, "d", PluginKind::Filter);
        figures.report(&events);
        assert!(lock(&events.0).is_empty(), "nobody was called");
        let cost = |records, memory| CallCost {
            records,
            took: Duration::from_micros(20),
            computed: Duration::from_micros(15),
            bytes: 100,
            memory,
        };
        one.called(cost(10, 5));
        one.decided(&Verdict::Keep(vec![true, false, true]), 10);
        other.called(cost(7, 3));
        other.decided(&Verdict::All, 7);
        other.called(cost(1, 4));
        other.failed(CallFault::Overrun);
        figures.report(&events);
        figures.report(&events);
        let told: Vec<Event> = std::mem::take(&mut *lock(&events.0));
        let [Event::PluginFigures { figures: told }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&*told.consumer, &*told.plugin, told.kind.name()), ("c", "p", "filter"));
        assert_eq!((told.calls, told.records, told.kept, told.bytes, told.peak_memory), (3, 18, 9, 300, 5));
        assert_eq!((told.failed, told.trapped, told.overrun), (1, 0, 1));
        assert_eq!((told.computed, told.latency.count()), (Duration::from_micros(45), 3));
        assert_eq!(told.latency.quantile(1.0), Some(25e-6));
        of(&figures, "c", PluginKind::Filter).failed(CallFault::Trap);
        figures.report(&events);
        assert_eq!(lock(&events.0).len(), 1, "a failure is news, too");
    }

    #[test]
    fn answers_of_processors_are_counted() {
        let figures = of(&Figures::default(), "c", PluginKind::Processor);
        let reason = String::new;
        figures.answered(&Ok(Outcome::Emit(vec![String::new(); 3])));
        figures.answered(&Ok(Outcome::Done));
        figures.answered(&Err(Failure::Reject { indices: vec![1, 2], reason: reason() }));
        figures.answered(&Err(Failure::Retry { after: None, reason: reason() }));
        figures.answered(&Err(Failure::Stop { reason: reason() }));
        let told = figures.snapshot();
        assert_eq!((told.emitted, told.rejected, told.retried, told.failed), (3, 2, 1, 0));
    }
}
