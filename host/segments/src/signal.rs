//! What interrupts a wait: a changed directory, or somebody who wants attention.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Hand;
use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// What may have changed since it was asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Names came or went.
    pub names: bool,
    /// A file grew or its mode changed.
    pub files: bool,
}

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    woken: bool,
    /// Until when the reader waits, if it does.
    waits_until: Option<Instant>,
    /// The reader was dropped.
    gone: bool,
}

/// Shared by the reader, its watcher and its wakers.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
    /// Moves the clock, if it is not the system's.
    hand: Option<Hand>,
}

impl Signal {
    pub(crate) fn new(hand: Option<Hand>) -> Arc<Self> {
        let signal = Arc::new(Self { hand, ..Self::default() });
        if let Some(hand) = &signal.hand {
            hand.add(&signal);
        }
        signal
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        self.hand.as_ref().map_or_else(Instant::now, Hand::now)
    }

    /// Says that nobody will wait any more.
    pub(crate) fn leave(&self) {
        self.lock().gone = true;
        self.changed.notify_all();
    }

    /// Has a waiting reader see that the clock was moved.
    pub(crate) fn look_at_clock(&self) {
        let state = self.lock();
        drop(state);
        self.changed.notify_all();
    }

    /// Returns once the reader waits and has no reason to go on.
    pub(crate) fn settle(&self) {
        let mut state = self.lock();
        loop {
            let idle = state.waits_until.is_some_and(|until| until > self.now());
            if state.gone || (idle && !state.woken && state.changes == Changes::default()) {
                return;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changed(&self, changes: Changes) {
        let mut state = self.lock();
        state.changes.names |= changes.names;
        state.changes.files |= changes.files;
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn take_changes(&self) -> Changes {
        std::mem::take(&mut self.lock().changes)
    }

    /// Returns when something changed, somebody called [`Waker::wake`], or at the deadline.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        let mut state = self.lock();
        while !state.woken && state.changes == Changes::default() {
            let left = deadline.saturating_duration_since(self.now());
            if left.is_zero() {
                break;
            }
            if self.hand.is_some() {
                state.waits_until = Some(deadline);
                self.changed.notify_all();
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waits_until = None;
        state.woken = false;
    }
}

/// Interrupts [`Reader::wait`](crate::Reader::wait) from any thread.
#[derive(Debug, Clone)]
pub struct Waker(pub(crate) Arc<Signal>);

impl Waker {
    /// Makes the present wait, or else the next one, return at once.
    pub fn wake(&self) {
        self.0.lock().woken = true;
        self.0.changed.notify_all();
    }
}

/// Watches a directory and raises the signal. Whatever it misses, the periodic scan finds.
pub(crate) struct NativeWatcher(
    #[expect(dead_code, reason = "dropping it ends the watch")] RecommendedWatcher,
);

/// The time after which a reader with a native watcher looks at the open files, and scans the names if that is cheap.
pub(crate) const RESCAN: Duration = Duration::from_secs(1);
/// The longest time that it goes without a scan of the names, however long one takes.
pub(crate) const RESCAN_MAX: Duration = Duration::from_secs(10);

impl NativeWatcher {
    pub(crate) fn new(directory: &Path, signal: Arc<Signal>) -> Result<Self, notify::Error> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let changes = match event {
                Ok(event) => changes_of(&event),
                // Overflow and other losses: everything may have changed.
                Err(_) => Changes { names: true, files: true },
            };
            if changes != Changes::default() {
                signal.changed(changes);
            }
        })?;
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(Self(watcher))
    }
}

fn changes_of(event: &notify::Event) -> Changes {
    if event.need_rescan() {
        return Changes { names: true, files: true };
    }
    // Checkpoints and other hidden files change often, and by our own doing.
    let hidden = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    if !event.paths.is_empty() && event.paths.iter().all(hidden) {
        return Changes::default();
    }
    match event.kind {
        EventKind::Access(_) => Changes::default(),
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
            Changes { names: false, files: true }
        }
        _ => Changes { names: true, files: true },
    }
}
