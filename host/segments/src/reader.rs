//! Reads a directory of segments as one stream of blocks, and notices what happens to the files meanwhile.

mod entries;
mod options;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use tailweir_core::{Block, Event, Identity, Mark, SegmentName};

use self::entries::{Entries, Entry, Held, Late, State, Stored};
pub use self::options::{Begun, Cursor, Mode, Ordering, ReadError, ReaderOptions, Start, Watch};
use crate::carve::{Carved, Limits, Segment};
use crate::decode::{SNIFF, Sniffed, sniff};
use crate::directory::{self, Directory, Opened};
use crate::pool::{Output, Pool};
use crate::signal::{Changes, NativeWatcher, RESCAN, Signal};
use crate::{Seal, Waker};

/// How many segments without news are kept open. The others are closed and opened again when they change.
const KEPT_OPEN: usize = 32;
/// How many names ahead of the present one are looked at for segments to decode.
const LOOK_AHEAD: usize = 64;

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

/// When the directory is scanned.
struct Schedule {
    interval: Duration,
    next: Instant,
    /// Names have changed, but the last scan took so long that the next one has to wait until then.
    postponed: Option<Instant>,
    not_before: Instant,
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
    /// There is nothing to read at present.
    Idle,
    /// Everything that was there was read. Only with [`Mode::Once`].
    End,
}

impl Reader {
    /// Opens the directory and begins to read behind `cursor`.
    ///
    /// # Errors
    /// If the directory is missing, is none, or cannot be read, or if threads cannot be started.
    pub fn open(mut options: ReaderOptions, cursor: Cursor) -> Result<Self, ReadError> {
        options.normalize();
        let directory = Directory::open(&options.directory)?;
        let signal = Arc::new(Signal::default());
        let threads = |source| ReadError::Threads { source };
        let pool =
            Pool::new(options.workers, options.read_ahead_bytes, options.block_size).map_err(threads)?;
        let interval = match options.watch {
            Watch::Native => RESCAN,
            Watch::Poll(interval) => interval.max(Duration::from_millis(1)),
        };
        let now = Instant::now();
        let schedule = Schedule { interval, next: now, postponed: None, not_before: now, failing: false };
        let newest_only = cursor.newest_only;
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
        if newest_only {
            reader.skip_to_newest();
        }
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
        if matches!(self.options.mode, Mode::Follow) {
            self.keep_up();
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

    fn nothing(&self) -> Step {
        if matches!(self.options.mode, Mode::Once) { Step::End } else { Step::Idle }
    }

    /// Interrupts [`wait`](Self::wait) from any thread.
    pub fn waker(&self) -> Waker {
        Waker(self.signal.clone())
    }

    /// Waits until there may be something to read, a waker was used, or `at_most` has passed.
    pub fn wait(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most.min(Duration::from_secs(3600));
        let next = self.schedule.postponed.unwrap_or(self.schedule.next).min(self.schedule.next);
        self.signal.wait_until(deadline.min(next));
    }

    /// With strict order, whether a segment before `name` is not read to its end yet.
    fn must_wait_for_another(&self, name: &SegmentName) -> bool {
        matches!((self.options.ordering, self.options.mode), (Ordering::Strict, Mode::Follow))
            && self.entries.open_before(name)
    }

    fn emit(&self, event: Event) {
        self.options.events.emit(event);
    }

    /// Watches the directory, or says that it cannot.
    fn watch(&mut self) {
        self.watcher = None;
        if !matches!(self.options.watch, Watch::Native) {
            return;
        }
        match NativeWatcher::new(self.directory.path(), self.signal.clone()) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(e) => self.emit(Event::Warning {
                message: format!(
                    "cannot watch {} ({e}); it is polled every {RESCAN:?} instead",
                    self.directory.path().display()
                ),
            }),
        }
    }

    /// Scans the directory or looks at the open files, if it is time to.
    fn keep_up(&mut self) {
        let now = Instant::now();
        let Changes { names, files } = self.signal.take_changes();
        let mut scan = now >= self.schedule.next;
        if names || self.schedule.postponed.is_some() {
            scan |= now >= self.schedule.not_before;
            self.schedule.postponed = (!scan).then_some(self.schedule.not_before);
        }
        if scan {
            if self.directory.reopen_if_deleted() {
                self.watch();
            }
            match self.scan() {
                Ok(()) => self.schedule.failing = false,
                Err(e) => self.scan_failed(&e),
            }
        }
        if scan {
            self.look_at_all();
        } else if files {
            self.look_at_open_ones();
        }
    }

    fn scan_failed(&mut self, error: &ReadError) {
        self.schedule.next = Instant::now() + self.schedule.interval;
        if !std::mem::replace(&mut self.schedule.failing, true) {
            let cause = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
            self.emit(Event::Warning { message: format!("{error}{cause}; it is tried again") });
        }
    }

    /// Brings the entries up to date with the names in the directory.
    fn scan(&mut self) -> Result<(), ReadError> {
        let begun = Instant::now();
        let mut news = Vec::new();
        self.entries.begin_scan();
        let (entries, pattern) = (&mut self.entries, &self.options.pattern);
        self.directory.scan(|found| entries.found(found, pattern, &mut news))?;
        for name in self.entries.missing() {
            self.gone(&name);
        }
        for stored in news {
            match stored {
                Stored::New { name, late } => {
                    if late == Late::Yes {
                        self.emit(Event::SegmentLate { segment: name.clone() });
                    }
                    self.ready.insert(name);
                }
                Stored::Foreign { name, reason } => {
                    self.emit(Event::ForeignFile { name, reason: reason.to_owned() })
                }
                Stored::FinishedOneChanged { name } => self.check_finished(&name),
                Stored::OpenOneChanged { name } => self.check_open(&name),
            }
        }
        let now = Instant::now();
        self.schedule.next = now + self.schedule.interval;
        // Scans of a large directory must not take all the time when names change all the time.
        self.schedule.not_before = now + (now - begun) * 9;
        Ok(())
    }

    /// A name is no longer in the directory.
    fn gone(&mut self, name: &SegmentName) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        match &mut entry.state {
            // What was opened is read to its end.
            State::Decoding => {}
            State::Following(follow) => {
                follow.detached = true;
                self.ready.insert(name.clone());
            }
            State::Parked { end, identity, .. } => {
                let (end, identity) = (*end, *identity);
                let step = self.finished(name, identity, end);
                self.steps.push_back(step);
            }
            State::Waiting | State::Unknown { .. } | State::Failed => {
                let empty = matches!(entry.state, State::Unknown { .. }) && entry.begun.is_none();
                self.vanished(name, (!empty).then_some("it was deleted before it was read to its end"));
            }
        }
    }

    fn vanished(&mut self, name: &SegmentName, gap: Option<&str>) {
        self.entries.remove(name);
        self.ready.remove(name);
        if let Some(reason) = gap {
            self.emit(Event::SegmentGap { segment: name.clone(), reason: reason.to_owned() });
            self.steps.push_back(Step::Vanished { segment: name.clone() });
        }
    }

    /// The directory shows another inode under the name of a finished segment.
    fn check_finished(&mut self, name: &SegmentName) {
        let Some(identity) = self.entries.identity_of_finished(name) else {
            return;
        };
        let same = match self.directory.open_file(name.as_str()) {
            Ok(Opened::File(file)) => directory::is_same(&file, &identity).unwrap_or(true),
            _ => true,
        };
        if !same {
            self.entries.revive(name);
            self.replaced(name, "another file has taken its place; it is read from its start");
        }
    }

    /// The directory shows another inode under the name of a segment that was found before.
    fn check_open(&mut self, name: &SegmentName) {
        let Ok(stat) = self.directory.stat(name.as_str()) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let other = entry.identity.is_some_and(|identity| identity.inode != stat.st_ino);
        match &mut entry.state {
            State::Decoding => entry.replaced |= other,
            State::Following(follow) if other => {
                entry.replaced = true;
                follow.detached = true;
                self.ready.insert(name.clone());
            }
            // The others are compared when they are opened.
            _ => {}
        }
    }

    /// Reads the segment from its start.
    fn replaced(&mut self, name: &SegmentName, reason: &str) {
        self.emit(Event::SegmentGap { segment: name.clone(), reason: reason.to_owned() });
        self.steps.push_back(Step::Replaced { segment: name.clone() });
        if let Some(entry) = self.entries.get_mut(name) {
            entry.begun = None;
            entry.identity = None;
            entry.replaced = false;
            entry.state = State::Waiting;
            self.ready.insert(name.clone());
        }
    }

    /// Takes note of which segments may have more to read.
    fn look_at_all(&mut self) {
        let Self { entries, ready, directory, .. } = self;
        for (name, entry) in entries.iter() {
            let look = match &entry.state {
                State::Following(_) | State::Failed => true,
                State::Waiting | State::Decoding => false,
                State::Unknown { seen } | State::Parked { seen, .. } => {
                    directory.stat(name.as_str()).is_ok_and(|stat| seen.differs(&stat))
                }
            };
            if look {
                ready.insert(name.clone());
            }
        }
    }

    /// The same without those that take a look at the disk each and may be many: they wait for the next scan.
    fn look_at_open_ones(&mut self) {
        let look = |state: &State| matches!(state, State::Following(_) | State::Unknown { .. });
        let open = self.entries.iter().filter(|(_, entry)| look(&entry.state));
        self.ready.extend(open.map(|(name, _)| name.clone()));
    }

    /// Gives the workers sealed segments to decode.
    fn decode_ahead(&mut self) {
        if !self.pool.has_room() {
            return;
        }
        let mut at = Bound::Unbounded;
        for _ in 0..LOOK_AHEAD {
            let Some(name) = self.ready.range((at, Bound::Unbounded)).next().cloned() else {
                return;
            };
            if self.must_wait_for_another(&name) {
                return;
            }
            if self.entries.get_mut(&name).is_some_and(|entry| matches!(entry.state, State::Waiting)) {
                self.begin(&name);
                if !self.pool.has_room() {
                    return;
                }
            }
            at = Bound::Excluded(name);
        }
    }

    /// Takes one segment further. `None` if there is no more of it at present.
    fn advance(&mut self, name: &SegmentName) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            let entry = self.entries.get_mut(name)?;
            match entry.state {
                State::Decoding => {
                    if let Some(step) = self.take_decoded(name) {
                        return Some(step);
                    }
                }
                State::Following(_) => match self.follow(name) {
                    Followed::Step(step) => return Some(step),
                    Followed::Again => {}
                    Followed::Quiet => return None,
                },
                _ => {
                    if !self.begin(name) {
                        return self.steps.pop_front();
                    }
                }
            }
        }
    }

    /// Takes what a worker has decoded. `None` if that alone makes no step.
    fn take_decoded(&mut self, name: &SegmentName) -> Option<Step> {
        match self.pool.take(name) {
            Some(Output::Block(block)) => Some(self.block(block)),
            Some(Output::Damaged { line, reason }) => {
                self.emit(Event::SegmentDamaged { segment: name.clone(), line, reason });
                None
            }
            Some(Output::End(end)) => {
                let entry = self.entries.get_mut(name)?;
                let identity = entry.identity?;
                Some(self.finished(name, identity, end))
            }
            Some(Output::Short) => {
                self.replaced(
                    name,
                    "it ends before the place where reading was to go on; it is read from its start",
                );
                None
            }
            Some(Output::Failed(error)) => {
                self.failed(name, &error);
                None
            }
            None => {
                self.entries.get_mut(name)?.state = State::Waiting;
                None
            }
        }
    }

    fn block(&mut self, block: Block) -> Step {
        self.entries.note_read(block.segment());
        if let Some(entry) = self.entries.get_mut(block.segment()) {
            // Should it fail, reading goes on here.
            entry.begun = Some(Begun { start: Start::Mark(block.to()), identity: Some(block.identity()) });
            entry.identity = Some(block.identity());
        }
        if block.repaired() > 0 {
            self.emit(Event::Repaired { segment: block.segment().clone(), records: block.repaired() });
        }
        Step::Block(block)
    }

    fn finished(&mut self, name: &SegmentName, identity: Identity, end: Mark) -> Step {
        let replaced = self.entries.get_mut(name).is_some_and(|entry| entry.replaced);
        if replaced {
            self.replaced(name, "another file has taken its place, after what was there was read to its end");
            return self.steps.pop_back().unwrap_or(Step::Idle);
        }
        self.entries.finish(name, identity);
        self.ready.remove(name);
        let Mark { point, .. } = end;
        self.emit(Event::SegmentFinished { segment: name.clone(), lines: point.line, bytes: point.offset });
        Step::Finished { segment: name.clone(), identity, end }
    }

    /// A segment cannot be read now. It is tried again at later scans.
    fn failed(&mut self, name: &SegmentName, error: &std::io::Error) {
        self.ready.remove(name);
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let said = std::mem::replace(&mut entry.error_said, true);
        entry.state = State::Failed;
        if !said {
            let path = self.directory.path().join(name.as_str());
            let message =
                format!("cannot read segment {} ({error}); it is tried again later", path.display());
            self.emit(Event::Warning { message });
        }
    }

    /// Opens a segment whose turn it is. Returns whether it is being read now.
    fn begin(&mut self, name: &SegmentName) -> bool {
        match self.directory.open_file(name.as_str()) {
            Ok(Opened::File(file)) => match self.begin_file(name, file) {
                Ok(reading) => reading,
                Err(e) => {
                    self.failed(name, &e);
                    false
                }
            },
            Ok(Opened::Missing) => {
                self.vanished(name, Some("it was deleted before it was read to its end"));
                false
            }
            Ok(Opened::Other(reason)) => {
                self.foreign(name, reason);
                false
            }
            Err(e) => {
                self.failed(name, &e);
                false
            }
        }
    }

    fn foreign(&mut self, name: &SegmentName, reason: &str) {
        let begun = self.entries.make_foreign(name);
        self.ready.remove(name);
        self.emit(Event::ForeignFile { name: name.to_string(), reason: reason.to_owned() });
        if begun {
            let reason = format!("another file has taken its place, and {reason}");
            self.emit(Event::SegmentGap { segment: name.clone(), reason });
            self.steps.push_back(Step::Vanished { segment: name.clone() });
        }
    }

    fn begin_file(&mut self, name: &SegmentName, file: std::fs::File) -> std::io::Result<bool> {
        // The mode before the head: a file that is sealed and empty stays so.
        let seen = entries::Seen::of(&file)?;
        let mut head = [0; SNIFF];
        let len = directory::read_head(&file, &mut head)?;
        let format = match sniff(&head[..len]) {
            Sniffed::Format(format) => format,
            Sniffed::Foreign(reason) => {
                self.foreign(name, reason);
                return Ok(false);
            }
            Sniffed::Unknown => return self.begin_unknown(name, &file, seen, len),
        };
        let Some(entry) = self.entries.get_mut(name) else {
            return Ok(false);
        };
        let first = entry.identity.is_none();
        if let Some(reason) = entry.is_replaced_by(&file, seen.len, format)? {
            self.replaced(name, reason);
            return Ok(false);
        }
        let start = entry.begun.map_or(Start::Mark(Mark::default()), |begun| begun.start);
        let limits =
            Limits { block_size: self.options.block_size, max_line_size: self.options.max_line_size };
        let segment = Box::new(Segment::new(name.clone(), file, format, start, limits)?);
        entry.identity = Some(segment.identity());
        entry.error_said = false;
        if seen.seal == Seal::Sealed {
            entry.state = State::Decoding;
            self.pool.submit(name.clone(), segment);
        } else {
            entry.state = State::Following(entries::Follow {
                segment,
                held: Held::new(&self.following),
                detached: false,
                checked: seen,
            });
        }
        if first {
            self.emit(Event::SegmentOpened { segment: name.clone() });
        }
        Ok(true)
    }

    /// A file with too few bytes to tell what it is.
    fn begin_unknown(
        &mut self,
        name: &SegmentName,
        file: &std::fs::File,
        seen: entries::Seen,
        len: usize,
    ) -> std::io::Result<bool> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Ok(false);
        };
        if entry.begun.is_some_and(|begun| begun.is_past_start()) {
            self.replaced(name, "it has shrunk; it is read from its start");
            return Ok(false);
        }
        if seen.seal == Seal::Open {
            entry.state = State::Unknown { seen };
            self.ready.remove(name);
            return Ok(false);
        }
        if len > 0 {
            let reason = format!("it is sealed and holds {len} bytes, too few to be a segment");
            self.emit(Event::SegmentDamaged { segment: name.clone(), line: 0, reason });
        }
        let identity = directory::identify(file)?;
        let step = self.finished(name, identity, Mark::default());
        self.steps.push_back(step);
        Ok(false)
    }

    /// Reads on in an open segment.
    fn follow(&mut self, name: &SegmentName) -> Followed {
        match self.try_follow(name) {
            Ok(followed) => followed,
            Err(e) => {
                self.failed(name, &e);
                Followed::Quiet
            }
        }
    }

    fn try_follow(&mut self, name: &SegmentName) -> std::io::Result<Followed> {
        let Some(Entry { state: State::Following(follow), identity, .. }) = self.entries.get_mut(name) else {
            return Ok(Followed::Quiet);
        };
        // The mode before the data: what is written before it is sealed is not missed.
        let seen = entries::Seen::of(follow.segment.file())?;
        if seen.changed_since(&follow.checked) {
            if seen.len < follow.segment.consumed()
                || !directory::is_same(follow.segment.file(), &follow.segment.identity())?
            {
                self.replaced(name, "it was truncated or overwritten; it is read from its start");
                return Ok(Followed::Again);
            }
            follow.segment.refresh_identity()?;
            *identity = Some(follow.segment.identity());
            follow.checked = seen;
        }
        let seal = if follow.detached || seen.unlinked { Seal::Sealed } else { seen.seal };
        let identity = follow.segment.identity();
        Ok(match follow.segment.step(seal)? {
            Carved::Piece(piece) => Followed::Step(self.block(piece.parse())),
            Carved::Oversized(block) => Followed::Step(self.block(block)),
            Carved::Damaged { line, reason } => {
                self.emit(Event::SegmentDamaged { segment: name.clone(), line, reason });
                Followed::Again
            }
            Carved::Working => Followed::Again,
            Carved::Starved => {
                self.park(name, seen);
                Followed::Quiet
            }
            Carved::Short => {
                self.replaced(
                    name,
                    "it ends before the place where reading was to go on; it is read from its start",
                );
                Followed::Again
            }
            Carved::End(end) => Followed::Step(self.finished(name, identity, end)),
        })
    }

    /// Closes a segment without news if there are many of them.
    fn park(&mut self, name: &SegmentName, seen: entries::Seen) {
        let once = matches!(self.options.mode, Mode::Once);
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if let State::Following(follow) = &mut entry.state
            && (once || follow.held.count() > KEPT_OPEN)
            && let Some(end) = follow.segment.mark()
        {
            let identity = follow.segment.identity();
            entry.begun = Some(Begun { start: Start::Mark(end), identity: Some(identity) });
            entry.state = State::Parked { end, identity, seen };
        }
    }

    /// Passes over all segments but the newest.
    fn skip_to_newest(&mut self) {
        while let Some(newest) = self.ready.last().cloned() {
            if self.begin(&newest) || self.entries.get_mut(&newest).is_some() {
                let older: Vec<_> = self.ready.range(..newest.clone()).cloned().collect();
                for name in &older {
                    self.entries.skip(name);
                    self.ready.remove(name);
                }
                if !older.is_empty() {
                    self.emit(Event::SkippedByRequest { first: newest, segments: older.len() as u64 });
                }
                return;
            }
        }
    }
}

/// What came of reading on in an open segment.
enum Followed {
    Step(Step),
    Again,
    Quiet,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("directory", &self.directory.path()).finish_non_exhaustive()
    }
}
