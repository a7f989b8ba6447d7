//! Reads a directory of segments as one stream of blocks, and notices what happens to the files meanwhile.

mod advance;
mod changes;
mod entries;
mod options;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use tailweir_core::{Block, Event, Identity, Mark, SegmentName};

use self::entries::Entries;
pub use self::entries::Unread;
pub use self::options::{Begun, Cursor, Mode, Ordering, ReadError, ReaderOptions, Start, Watch};
use crate::Waker;
use crate::directory::Directory;
use crate::pool::Pool;
use crate::signal::{NativeWatcher, RESCAN, Signal};

/// As good as never, and not so far away that adding it to the present time overflows.
const LONGEST_INTERVAL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reads a directory of segments.
///
/// [`next`](Self::next) never waits for new data; it says [`Step::Idle`] when there is none, and [`wait`](Self::wait)
/// returns when there may be. Sealed segments are decoded ahead by worker threads, which stop when the reader is dropped.
pub struct Reader {
    options: ReaderOptions,
    directory: Directory,
    signal: Arc<Signal>,
    watcher: Option<NativeWatcher>,
    pool: Pool,
    entries: Entries,
    /// How many segments are held open.
    following: Arc<AtomicUsize>,
    /// Names of entries to look at, in order.
    ready: BTreeSet<SegmentName>,
    /// Steps that were found along the way.
    steps: VecDeque<Step>,
    schedule: Schedule,
}

/// When the directory is scanned, and when the open files are looked at.
struct Schedule {
    interval: Duration,
    /// When the open files are looked at, and names too if their scan is cheap.
    look: Instant,
    /// When the names are scanned, if nothing says earlier that they have changed.
    scan: Instant,
    /// Names have changed, but the last scan took so long that the next one has to wait until then.
    postponed: Option<Instant>,
    not_before: Instant,
    /// Files have changed, and the open ones were not looked at since.
    files: bool,
    /// The last scan failed, which was said.
    failing: bool,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Lines of a segment. Those of one segment come in order and without gap, from where its cursor said.
    Block(Block),
    /// A sealed segment was read to its end, or one that was deleted or moved away.
    Finished {
        /// Its name.
        segment: SegmentName,
        /// Which file it was.
        identity: Identity,
        /// Its end.
        end: Mark,
    },
    /// Under this name there is another file now, or the file has shrunk: what comes of it comes from its start.
    Replaced {
        /// Its name.
        segment: SegmentName,
    },
    /// The segment is gone, and was not read to its end.
    Vanished {
        /// Its name.
        segment: SegmentName,
    },
    /// The segment is there, and nothing of it can be read yet. Said once, before anything that sorts behind it.
    Pending {
        /// Its name.
        segment: SegmentName,
    },
    /// There is nothing to read at present.
    Idle,
    /// Everything that was there was read. Not with [`Mode::Follow`].
    End,
}

impl Reader {
    /// Opens the directory and begins to read behind `cursor`.
    ///
    /// # Errors
    /// If the directory is missing, is none, or cannot be read, or if threads cannot be started.
    pub fn open(options: ReaderOptions, cursor: Cursor) -> Result<Self, ReadError> {
        let directory = Directory::open(&options.directory)?;
        Self::open_in(directory, options, cursor)
    }

    /// As [`open`](Self::open), but in a directory that is open already, wherever it is now. If it was deleted, in the one
    /// that has its path.
    ///
    /// # Errors
    /// If it cannot be read, or if threads cannot be started.
    pub fn open_in(
        mut directory: Directory,
        mut options: ReaderOptions,
        cursor: Cursor,
    ) -> Result<Self, ReadError> {
        options.normalize();
        directory.reopen_if_deleted();
        let signal = Signal::new(options.hand.clone());
        let threads = |source| ReadError::Threads { source };
        let pool =
            Pool::new(options.workers, options.read_ahead_bytes, options.block_size).map_err(threads)?;
        let interval = match options.watch {
            Watch::Native => RESCAN,
            Watch::Poll(interval) => interval.clamp(Duration::from_millis(1), LONGEST_INTERVAL),
        };
        let now = signal.now();
        let (look, scan, not_before) = (now, now, now);
        let schedule =
            Schedule { interval, look, scan, postponed: None, not_before, files: false, failing: false };
        let mut reader = Self {
            entries: Entries::new(cursor),
            directory,
            signal,
            watcher: None,
            pool,
            following: Arc::default(),
            ready: BTreeSet::new(),
            steps: VecDeque::new(),
            schedule,
            options,
        };
        if matches!(reader.options.mode, Mode::Follow) {
            // Before the first scan, so that nothing falls between the two.
            reader.watch();
        }
        reader.scan()?;
        Ok(reader)
    }

    /// The next step. Never waits for new data; may wait for the threads that decode.
    ///
    /// # Errors
    /// None at present: what goes wrong with one segment, or for a while with the directory, is an event.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator ends; a reader may go on after `Idle` and `End`"
    )]
    pub fn next(&mut self) -> Result<Step, ReadError> {
        self.keep_up();
        if std::mem::take(&mut self.schedule.files) {
            self.look_at_open_ones();
        }
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(step);
            }
            self.decode_ahead();
            if let Some(step) = self.steps.pop_front() {
                return Ok(step);
            }
            let Some(name) = self.ready.first().cloned() else {
                return Ok(self.nothing());
            };
            if self.must_wait_for_another(&name) {
                return Ok(self.nothing());
            }
            match self.advance(&name) {
                Some(step) => return Ok(step),
                None => {
                    self.ready.remove(&name);
                }
            }
        }
    }

    /// How many lines there are in an open segment that was read as far as it goes. `None` if it was not, or not yet. Means
    /// something after [`Step::Idle`] only.
    pub fn reached(&mut self, segment: &SegmentName) -> Option<u64> {
        self.entries.get_mut(segment)?.reached()
    }

    /// Takes in segments that somebody else has seen in the directory. If one is gone, that is told as if this reader had found
    /// it.
    pub fn expect(&mut self, segments: impl IntoIterator<Item = SegmentName>) {
        for name in segments {
            if self.entries.expect(&name) {
                self.ready.insert(name);
            }
        }
    }

    /// The segments that it has met and not read to their end, for other threads to see.
    pub fn unread(&self) -> Unread {
        self.entries.unread()
    }

    fn nothing(&self) -> Step {
        if matches!(self.options.mode, Mode::Follow) { Step::Idle } else { Step::End }
    }

    /// Interrupts [`wait`](Self::wait) from any thread.
    pub fn waker(&self) -> Waker {
        Waker(self.signal.clone())
    }

    /// Waits until there may be something to read, a waker was used, or `at_most` has passed.
    pub fn wait(&self, at_most: Duration) {
        let deadline = self.signal.now() + at_most.min(Duration::from_secs(3600));
        let Schedule { look, scan, postponed, .. } = self.schedule;
        let due = look.min(scan).min(postponed.unwrap_or(scan));
        // Only a reader that follows keeps up with the directory.
        let until = if matches!(self.options.mode, Mode::Follow) { deadline.min(due) } else { deadline };
        self.signal.wait_until(until);
    }

    /// With strict order, whether a segment before `name` is not read to its end yet.
    fn must_wait_for_another(&self, name: &SegmentName) -> bool {
        matches!((self.options.ordering, self.options.mode), (Ordering::Strict, Mode::Follow))
            && self.entries.open_before(name)
    }

    fn emit(&self, event: Event) {
        self.options.events.emit(event);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.signal.leave();
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("directory", &self.directory.path()).finish_non_exhaustive()
    }
}
