//! What calls into plug-ins take, for those who measure them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Sums up what calls about batches take, over all plug-ins of the [`Host`](crate::Host) that it was given to.
#[derive(Debug)]
pub struct Meter {
    measures: Measures,
    host_nanos: AtomicU64,
    fuel: AtomicU64,
    peak_memory: AtomicU64,
}

/// What a [`Meter`] measures besides the memory of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measures {
    /// The time that the host takes to find what guests ask it for.
    Time,
    /// Fuel: instructions that guests execute, which is the same number each time. Code that counts them is slower, so its
    /// times mean nothing, and it is compiled and kept apart from other code.
    Fuel,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metered {
    /// How long the host took to find what guests asked for in their batches: columns and texts. Copying it into the
    /// guests' memory does not count. Zero if fuel is measured.
    pub host: Duration,
    /// Fuel consumed; zero unless it is measured.
    pub fuel: u64,
    /// Bytes of the most memory that any instance had.
    pub peak_memory: u64,
}

impl Meter {
    /// A meter that has measured nothing.
    pub fn new(measures: Measures) -> Arc<Self> {
        let (host_nanos, fuel, peak_memory) = Default::default();
        Arc::new(Self { measures, host_nanos, fuel, peak_memory })
    }

    /// What was measured since it was asked last. The peak is that of its whole life.
    pub fn take(&self) -> Metered {
        Metered {
            host: Duration::from_nanos(self.host_nanos.swap(0, Relaxed)),
            fuel: self.fuel.swap(0, Relaxed),
            peak_memory: self.peak_memory.load(Relaxed),
        }
    }

    pub(crate) fn measures_fuel(&self) -> bool {
        self.measures == Measures::Fuel
    }

    /// A call about a batch has ended.
    pub(crate) fn called(&self, fuel: u64, memory: u64) {
        self.fuel.fetch_add(fuel, Relaxed);
        self.peak_memory.fetch_max(memory, Relaxed);
    }

    /// Measures until the value that is returned is dropped.
    pub(crate) fn host_works(self: &Arc<Self>) -> HostWorks {
        HostWorks { meter: self.clone(), since: Instant::now() }
    }
}

/// The host looks for what a guest has asked for.
pub(crate) struct HostWorks {
    meter: Arc<Meter>,
    since: Instant,
}

impl Drop for HostWorks {
    fn drop(&mut self) {
        if !self.meter.measures_fuel() {
            let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.meter.host_nanos.fetch_add(nanos, Relaxed);
        }
    }
}
