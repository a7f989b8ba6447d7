//! Time and notice of changes as somebody's hand gives them, so that what depends on them can be simulated: a clock that
//! stands still until it is moved, and a watcher that reports what it is told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::signal::{Changes, Signal};

/// Moves the clock of readers and consumers, and tells them of changes. Clones move the same clock.
#[derive(Clone, Default)]
pub struct Hand(Arc<Mutex<State>>);

struct State {
    now: Instant,
    signals: Vec<Weak<Signal>>,
    listeners: Vec<Box<dyn Fn() + Send>>,
}

impl Default for State {
    fn default() -> Self {
        Self { now: Instant::now(), signals: Vec::new(), listeners: Vec::new() }
    }
}

impl Hand {
    /// The time that it shows.
    pub fn now(&self) -> Instant {
        self.state().now
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.state().now += by;
        self.signals().iter().for_each(|signal| signal.look_at_clock());
        self.state().listeners.iter().for_each(|listener| listener());
    }

    /// Reports, as the system's watcher does, that names came or went and files have changed.
    pub fn report(&self) {
        self.signals().iter().for_each(|signal| signal.changed(Changes { names: true, files: true }));
    }

    /// Calls `listener` whenever time has passed.
    pub fn on_advance(&self, listener: impl Fn() + Send + 'static) {
        self.state().listeners.push(Box::new(listener));
    }

    /// Waits until every reader has done all that there is to do at this time.
    pub fn settle(&self) {
        self.signals().iter().for_each(|signal| signal.settle());
    }

    pub(crate) fn add(&self, signal: &Arc<Signal>) {
        let mut state = self.state();
        state.signals.retain(|signal| signal.strong_count() > 0);
        state.signals.push(Arc::downgrade(signal));
    }

    fn signals(&self) -> Vec<Arc<Signal>> {
        self.state().signals.iter().filter_map(Weak::upgrade).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Hand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hand").field("now", &self.now()).finish_non_exhaustive()
    }
}
