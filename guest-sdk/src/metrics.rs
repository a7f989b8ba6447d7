//! Figures of a plug-in's own, for whoever watches over it: counters, gauges and histograms, which the host passes on beside
//! its own figures of the plug-in. Filters and processors may have them.
//!
//! ```standalone_crate
//! use tailweir_guest::metrics::{Counter, Histogram};
//! use tailweir_guest::{Batch, Verdict};
//!
//! static LARGE: Counter = Counter::new("large_total", "Records of more than a megabyte");
//! static SIZES: Histogram = Histogram::new("size_bytes", "Sizes of messages", &[1e3, 1e4, 1e5, 1e6]);
//!
//! fn keep(batch: &Batch) -> Verdict {
//!     let sizes: Vec<f64> = batch.column::<f64>("/size").into_iter().flatten().collect();
//!     // Once per batch, not once per record.
//!     LARGE.add(sizes.iter().filter(|size| **size > 1e6).count() as u64);
//!     SIZES.observe(&sizes);
//!     Verdict::All
//! }
//!
//! tailweir_guest::filter!(keep);
//!
//! // In unit tests values can be read; each thread, and so each test, has its own.
//! keep(&Batch::from_json([r#"{"size":5000}"#, r#"{"size":2e6}"#, "{}"]));
//! assert_eq!(LARGE.value(), 1);
//! assert_eq!(SIZES.values(), [5000.0, 2e6]);
//! ```
//!
//! **They count what was done, repetitions included**: nothing is undone when a call fails or its batch comes again, and all
//! begin at zero when the host's process starts. What must be exact belongs in the plug-in's state.
//!
//! Names are of letters, digits and `_`, and do not begin with a digit. The host limits number and size; what it does not
//! record it counts, and its log says why once. A label's value must be one of a few: never an id or an address.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::backend::metrics as host;

/// A number of the host's for a series, once it has one.
#[derive(Debug)]
struct Number(AtomicU32);

/// Not registered yet. The host never comes to that number.
const NONE: u32 = u32::MAX;

impl Number {
    const fn none() -> Self {
        Self(AtomicU32::new(NONE))
    }

    fn get(&self, register: impl FnOnce() -> u32) -> u32 {
        match self.0.load(Relaxed) {
            NONE => {
                let number = register();
                self.0.store(number, Relaxed);
                number
            }
            number => number,
        }
    }
}

/// Only grows.
///
/// ```
/// use tailweir_guest::metrics::Counter;
///
/// static SENT: Counter = Counter::new("requests_total", "Requests sent");
///
/// SENT.add(2);
/// SENT.labelled(&[("status", "200")]).add(1);
/// assert_eq!(SENT.value(), 2);
/// assert_eq!(SENT.labelled(&[("status", "200")]).value(), 1);
/// ```
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
    help: &'static str,
    number: Number,
}

impl Counter {
    /// A counter of this name, which by custom ends in `_total`, and what it is about, in a few words. The host is told
    /// when it is used first.
    ///
    /// ```
    /// static RETRIES: tailweir_guest::metrics::Counter =
    ///     tailweir_guest::metrics::Counter::new("retries_total", "Batches that had to come again");
    /// RETRIES.add(1);
    /// ```
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, number: Number::none() }
    }

    /// The counter of the same name that has these labels, in any order. The host is told at once.
    ///
    /// ```
    /// # use tailweir_guest::metrics::Counter;
    /// static RECORDS: Counter = Counter::new("records_total", "Records by type");
    /// for (kind, count) in [("Bounce", 3), ("Delivery", 5)] {
    ///     RECORDS.labelled(&[("type", kind)]).add(count);
    /// }
    /// assert_eq!(RECORDS.labelled(&[("type", "Delivery")]).value(), 5);
    /// ```
    #[must_use]
    pub fn labelled(&self, labels: &[(&str, &str)]) -> Self {
        let number = Number(AtomicU32::new(host::counter(self.name, self.help, labels)));
        Self { name: self.name, help: self.help, number }
    }

    /// Adds to it.
    ///
    /// ```
    /// # let counter = tailweir_guest::metrics::Counter::new("added_total", "");
    /// counter.add(3);
    /// counter.add(4);
    /// assert_eq!(counter.value(), 7);
    /// ```
    pub fn add(&self, amount: u64) {
        host::add(self.registered(), amount);
    }

    /// What was added in this thread. For unit tests: there is no such thing where there is a host.
    ///
    /// ```
    /// assert_eq!(tailweir_guest::metrics::Counter::new("fresh_total", "").value(), 0);
    /// ```
    #[cfg(not(target_family = "wasm"))]
    pub fn value(&self) -> u64 {
        host::values(self.registered()).iter().sum::<f64>() as u64
    }

    fn registered(&self) -> u32 {
        self.number.get(|| host::counter(self.name, self.help, &[]))
    }
}

/// Has the value that it was given last.
///
/// ```
/// use tailweir_guest::metrics::Gauge;
///
/// static WAITING: Gauge = Gauge::new("waiting", "Messages that wait");
/// WAITING.set(3.0);
/// WAITING.set(1.0);
/// assert_eq!(WAITING.value(), 1.0);
/// ```
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    number: Number,
}

impl Gauge {
    /// A gauge of this name, and what it is about, in a few words. The host is told when it is used first.
    ///
    /// ```
    /// static LAST: tailweir_guest::metrics::Gauge =
    ///     tailweir_guest::metrics::Gauge::new("last_seconds", "When the last record was written");
    /// LAST.set(1.7e9);
    /// ```
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, number: Number::none() }
    }

    /// The gauge of the same name that has these labels, in any order. The host is told at once.
    ///
    /// ```
    /// # use tailweir_guest::metrics::Gauge;
    /// static WAITING: Gauge = Gauge::new("waiting_by_pool", "Messages that wait, by pool");
    /// WAITING.labelled(&[("pool", "a")]).set(7.0);
    /// assert_eq!(WAITING.labelled(&[("pool", "a")]).value(), 7.0);
    /// ```
    #[must_use]
    pub fn labelled(&self, labels: &[(&str, &str)]) -> Self {
        let number = Number(AtomicU32::new(host::gauge(self.name, self.help, labels)));
        Self { name: self.name, help: self.help, number }
    }

    /// Sets it. The host does not record a value that is infinite or not a number.
    ///
    /// ```
    /// # let gauge = tailweir_guest::metrics::Gauge::new("set", "");
    /// gauge.set(-0.5);
    /// assert_eq!(gauge.value(), -0.5);
    /// ```
    pub fn set(&self, value: f64) {
        host::set(self.registered(), value);
    }

    /// What it was set to last in this thread, or 0. For unit tests: there is no such thing where there is a host.
    ///
    /// ```
    /// assert_eq!(tailweir_guest::metrics::Gauge::new("unset", "").value(), 0.0);
    /// ```
    #[cfg(not(target_family = "wasm"))]
    pub fn value(&self) -> f64 {
        host::values(self.registered()).last().copied().unwrap_or(0.0)
    }

    fn registered(&self) -> u32 {
        self.number.get(|| host::gauge(self.name, self.help, &[]))
    }
}

/// Counts values by how large they are.
///
/// ```
/// use tailweir_guest::metrics::Histogram;
///
/// static DELAYS: Histogram = Histogram::new("delay_seconds", "How long messages waited", &[1.0, 60.0, 3600.0]);
/// DELAYS.observe(&[0.5, 70.0]);
/// assert_eq!(DELAYS.values(), [0.5, 70.0]);
/// ```
#[derive(Debug)]
pub struct Histogram {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    number: Number,
}

impl Histogram {
    /// A histogram of this name, what it is about, in a few words, and the largest value of each of its buckets, in order. A
    /// bucket for what is larger comes of itself. The host is told when it is used first.
    ///
    /// ```
    /// static SIZES: tailweir_guest::metrics::Histogram =
    ///     tailweir_guest::metrics::Histogram::new("sizes_bytes", "Sizes of messages", &[1e3, 1e6]);
    /// SIZES.observe(&[120.0]);
    /// ```
    pub const fn new(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, help, bounds, number: Number::none() }
    }

    /// The histogram of the same name and buckets that has these labels, in any order. The host is told at once.
    ///
    /// ```
    /// # use tailweir_guest::metrics::Histogram;
    /// static SIZES: Histogram = Histogram::new("sizes_by_pool_bytes", "Sizes by pool", &[1e3, 1e6]);
    /// SIZES.labelled(&[("pool", "a")]).observe(&[5.0, 6.0]);
    /// assert_eq!(SIZES.labelled(&[("pool", "a")]).values(), [5.0, 6.0]);
    /// assert!(SIZES.values().is_empty());
    /// ```
    #[must_use]
    pub fn labelled(&self, labels: &[(&str, &str)]) -> Self {
        let number = Number(AtomicU32::new(host::histogram(self.name, self.help, labels, self.bounds)));
        Self { name: self.name, help: self.help, bounds: self.bounds, number }
    }

    /// Counts values: those of a whole batch at once cost one call. The host counts none of them if one is infinite or not a
    /// number.
    ///
    /// ```
    /// # let histogram = tailweir_guest::metrics::Histogram::new("observed", "", &[1.0]);
    /// histogram.observe(&[0.5, 1.5]);
    /// histogram.observe(&[]);
    /// assert_eq!(histogram.values(), [0.5, 1.5]);
    /// ```
    pub fn observe(&self, values: &[f64]) {
        host::observe(self.registered(), values);
    }

    /// All values that were counted in this thread. For unit tests: there is no such thing where there is a host.
    ///
    /// ```
    /// assert!(tailweir_guest::metrics::Histogram::new("unseen", "", &[]).values().is_empty());
    /// ```
    #[cfg(not(target_family = "wasm"))]
    pub fn values(&self) -> Vec<f64> {
        host::values(self.registered())
    }

    fn registered(&self) -> u32 {
        self.number.get(|| host::histogram(self.name, self.help, &[], self.bounds))
    }
}
