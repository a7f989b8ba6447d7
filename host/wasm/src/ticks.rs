//! The thread that makes running guests look at their clock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// How often running guests are looked at, and so how exact a deadline is.
const TICK: Duration = Duration::from_millis(20);

/// Advances the engine's epoch while a guest computes. With none the thread sleeps until it is woken: a process that only
/// waits for records costs no CPU. It ends with this value.
pub(crate) struct Ticks {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// How many guests compute.
    computing: AtomicUsize,
    /// Whether the thread has to be woken. Whoever sets it to false does that.
    ///
    /// The thread sets it and then looks at `computing`; a guest adds to `computing` and then looks at this. All that is
    /// sequentially consistent, so at least one of the two sees the other.
    asleep: AtomicBool,
    ended: AtomicBool,
}

impl Ticks {
    pub(crate) fn start(engine: Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = shared.clone();
            thread::Builder::new().name("plugin-deadlines".to_owned()).spawn(move || shared.tick(&engine))?
        };
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    /// Lets the time of guests run while the value that is returned lives.
    pub(crate) fn computing(&self) -> Computing<'_> {
        self.shared.computing.fetch_add(1, Ordering::SeqCst);
        self.wake();
        Computing(&self.shared.computing)
    }

    /// A look at a flag, almost always: once woken, the thread stays awake for a tick at least.
    fn wake(&self) {
        if self.shared.asleep.load(Ordering::SeqCst) && self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.wake();
    }
}

impl Shared {
    fn tick(&self, engine: &Engine) {
        while !self.ended.load(Ordering::SeqCst) {
            self.asleep.store(true, Ordering::SeqCst);
            if self.computing.load(Ordering::SeqCst) == 0 && !self.ended.load(Ordering::SeqCst) {
                while self.asleep.load(Ordering::SeqCst) {
                    thread::park();
                }
            }
            self.asleep.store(false, Ordering::SeqCst);
            thread::sleep(TICK);
            engine.increment_epoch();
        }
    }
}

/// A guest computes while this lives.
pub(crate) struct Computing<'a>(&'a AtomicUsize);

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_sleeps_but_while_a_guest_computes() {
        let ticks = Ticks::start(Engine::default()).unwrap();
        let shared = ticks.shared.clone();
        let sleeps = |wanted: bool| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while shared.asleep.load(Ordering::SeqCst) != wanted {
                assert!(Instant::now() < deadline, "it never was so: {wanted}");
                thread::yield_now();
            }
        };
        sleeps(true);
        {
            let _one = ticks.computing();
            sleeps(false);
            let _another = ticks.computing();
        }
        sleeps(true);
        drop(ticks);
        // The thread has let go of what it shares with us.
        let deadline = Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&shared) > 1 {
            assert!(Instant::now() < deadline, "the thread goes on");
            thread::yield_now();
        }
    }
}
