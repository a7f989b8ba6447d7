//! A consumer's ledger and what makes it durable. Shared by the consumer and its deliveries, so that a batch can be
//! committed after the consumer is closed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use tailweir_core::state::Changes;
use tailweir_core::{
    Contents, Event, EventSink, Identity, Ledger, LedgerError, Mark, SegmentName, Span, StateError,
    StateView, Ticket,
};
use thiserror::Error;

use crate::book::{Book, Kept};
use crate::checkpoint::{CheckpointStore, Loaded, Lock, LostLock, Saved, StoreError};
use crate::files::Files;
use crate::options::LONGEST;
use crate::quarantine::{Blame, Quarantine, QuarantineError};
use crate::{CheckpointName, CheckpointOptions, CheckpointSync, Counters, last};

/// Why a checkpoint, or the directory, could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory can't be read.
    #[error(transparent)]
    Read(#[from] tailweir_segments::ReadError),
    /// Its files can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What a closed tailer had acknowledged could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Another process uses it.
    #[error("the checkpoint `{name}` in {directory} is in use by {}", holder(*pid))]
    Held {
        /// The checkpoint.
        name: String,
        /// Its directory.
        directory: String,
        /// The other process, if it could be found out.
        pid: Option<u32>,
    },
    /// This process uses it already.
    #[error(
        "the checkpoint `{name}` in {directory} is in use by another tailer of this process that is not closed"
    )]
    InUse {
        /// The checkpoint.
        name: String,
        /// Its directory.
        directory: String,
    },
    /// Two consumers have one name or one checkpoint.
    #[error("two consumers have the {what} `{name}`")]
    Twice {
        /// `name` or `checkpoint_name`.
        what: &'static str,
        /// What both have.
        name: String,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Why a batch is not committed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// It was committed before.
    #[error("batch has already been committed")]
    AlreadyCommitted,
    /// The checkpoint could not be written. The batch counts as dealt with; committing it again, or a later one, tries to
    /// write again.
    #[error("failed to commit")]
    Store(#[source] StoreError),
    /// A record could not be put in quarantine.
    #[error("failed to commit")]
    Quarantine(#[from] QuarantineError),
    /// The file of the checkpoint's lock was removed or replaced, so that another process may use the checkpoint. From then on
    /// the consumer commits nothing.
    #[error("failed to commit: {0}")]
    LostLock(LostLock),
    /// Its tailer was closed, and the checkpoint opened again by another.
    #[error(
        "the batch belongs to a closed tailer whose checkpoint was opened again since; its records were read again"
    )]
    Superseded,
    /// The ledger refused: a fault of this program.
    #[error("failed to commit: {0}")]
    Ledger(#[from] LedgerError),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LostLock(lost) => Self::LostLock(lost),
            error => Self::Store(error),
        }
    }
}

pub(crate) struct Settlement {
    inner: Mutex<Inner>,
    events: Arc<dyn EventSink>,
    consumer: Arc<str>,
    sync: Option<CheckpointSync>,
    counters: Arc<Counters>,
    book: Book,
}

/// What progress is kept in.
struct Keeping {
    store: Box<dyn CheckpointStore>,
    quarantine: Quarantine,
    sync: CheckpointSync,
    lock: Option<Arc<Lock>>,
    files: Arc<dyn Files>,
    name: CheckpointName,
}

/// A record or line that nothing can be done with.
pub(crate) struct Aside<'a> {
    pub(crate) position: &'a tailweir_core::Position,
    pub(crate) reason: &'a str,
    pub(crate) blame: Blame<'a>,
    pub(crate) bytes: &'a [u8],
}

struct Inner {
    ledger: Ledger,
    store: Option<Box<dyn CheckpointStore>>,
    quarantine: Option<Quarantine>,
    /// Segments of which the checkpoint knows only lines, until the frontier moves in them.
    unlocated: HashMap<SegmentName, u64>,
    /// Finished segments that the store has not taken yet.
    finished: Vec<SegmentName>,
    /// What each outstanding delivery is, for messages.
    labels: BTreeMap<Ticket, String>,
    /// The frontier has moved since it was saved.
    dirty: bool,
    /// Something was saved since the last sync.
    unsynced: bool,
    saved_at: Instant,
    /// The store keeps state of plug-ins.
    state_is_open: bool,
    warned_of_held: bool,
    warned_of_unsaved: bool,
    warned_of_unsynced: bool,
    /// The consumer was closed; its deliveries may still be committed.
    closed: bool,
    /// The checkpoint was opened anew after that; they may not.
    superseded: bool,
    lock: Option<Arc<Lock>>,
    /// Once the lock is found to be lost. It stays lost: another process may have gone on meanwhile.
    lost: Option<LostLock>,
}

/// What a consumer starts from.
pub(crate) struct Opened {
    pub(crate) settlement: Arc<Settlement>,
    pub(crate) saved: Saved,
}

/// Makes the store of a checkpoint.
pub type MakeStore<'a> = &'a dyn Fn(&CheckpointOptions) -> Result<Box<dyn CheckpointStore>, StoreError>;

impl Settlement {
    /// A settlement without a checkpoint: it counts deliveries and keeps nothing.
    pub(crate) fn unkept(consumer: Arc<str>, events: Arc<dyn EventSink>) -> Opened {
        let settlement = Self::build(consumer, events, None, &Saved::default());
        let settlement = Arc::new(settlement);
        last::add(&settlement);
        Opened { settlement, saved: Saved::default() }
    }

    /// Locks and loads a checkpoint.
    pub(crate) fn open(
        directory: &Path,
        consumer: Arc<str>,
        events: Arc<dyn EventSink>,
        options: &CheckpointOptions,
        make_store: MakeStore<'_>,
    ) -> Result<Opened, OpenError> {
        let mut registry = lock(registry());
        let key = (identify(directory)?, options.name.clone());
        let before = registry.get(&key).and_then(Weak::upgrade);
        let held = match before {
            Some(before) => before.supersede(directory, &options.name)?,
            None => None,
        };
        let held = match held {
            Some(held) => held,
            None => Arc::new(take_lock(directory, &options.name)?),
        };
        let mut store = make_store(options)?;
        let guard = held.clone();
        store.set_guard(Arc::new(move || guard.check()));
        let saved = match store.load()? {
            Loaded::Fresh => Saved::default(),
            Loaded::Saved(saved) => saved,
        };
        let limits = options.quarantine.clone();
        let files = held.files();
        let quarantine = Quarantine::new(files.clone(), &options.name, &consumer, limits, events.clone());
        let (sync, lock, name) = (options.sync, Some(held), options.name.clone());
        let keeping = Keeping { store, quarantine, sync, lock, files, name };
        let settlement = Self::build(consumer, events, Some(keeping), &saved);
        let settlement = Arc::new(settlement);
        last::add(&settlement);
        registry.retain(|_, settlement| settlement.strong_count() > 0);
        registry.insert(key, Arc::downgrade(&settlement));
        if let CheckpointSync::Interval(interval) = options.sync {
            sync_in_background(&settlement, interval);
        }
        Ok(Opened { settlement, saved })
    }

    fn build(
        consumer: Arc<str>,
        events: Arc<dyn EventSink>,
        keeping: Option<Keeping>,
        saved: &Saved,
    ) -> Self {
        let (mut store, mut quarantine, mut sync, mut held, mut noted_in) = (None, None, None, None, None);
        if let Some(keeping) = keeping {
            (store, quarantine, sync) = (Some(keeping.store), Some(keeping.quarantine), Some(keeping.sync));
            (held, noted_in) = (keeping.lock, Some((keeping.files, keeping.name)));
        }
        let book = Book::new(consumer.clone(), events.clone(), noted_in);
        let line = |name: &SegmentName| saved.frontier.segments.get(name).map_or(0, |p| p.mark.point.line);
        let inner = Inner {
            ledger: Ledger::new(&saved.frontier),
            store,
            quarantine,
            unlocated: saved.unlocated.iter().map(|name| (name.clone(), line(name))).collect(),
            finished: Vec::new(),
            labels: BTreeMap::new(),
            dirty: false,
            unsynced: false,
            saved_at: Instant::now(),
            state_is_open: false,
            warned_of_held: false,
            warned_of_unsaved: false,
            warned_of_unsynced: false,
            closed: false,
            superseded: false,
            lock: held,
            lost: None,
        };
        Self { inner: Mutex::new(inner), events, consumer, sync, counters: Arc::default(), book }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Says the last word on the consumer while it is still open. See [`crate::tell_open`].
    pub(crate) fn tell(&self) {
        // Whoever has it longer may be waiting for a disk that never answers.
        let deadline = Instant::now() + Duration::from_secs(1);
        let inner = loop {
            match self.inner.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => break None,
                Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
                Ok(inner) => break Some(inner),
            }
        };
        if let Some(mut inner) = inner
            && let Some(quarantine) = &mut inner.quarantine
        {
            quarantine.tell_dropped();
        }
        self.book.tell();
    }

    /// Hands the lock of a closed settlement to the next one. `None` if it is lost and must be taken anew.
    fn supersede(&self, directory: &Path, name: &CheckpointName) -> Result<Option<Arc<Lock>>, OpenError> {
        let mut inner = self.inner();
        let held = inner.lock.clone();
        let (true, Some(held)) = (inner.closed, held) else {
            return Err(OpenError::InUse {
                name: name.as_str().to_owned(),
                directory: directory.display().to_string(),
            });
        };
        let held = match inner.check_lock() {
            Err(CommitError::LostLock(_)) => None,
            checked => {
                checked?;
                // What was acknowledged and not yet saved must not be read again.
                inner.save_if_dirty()?;
                Some(held)
            }
        };
        inner.superseded = true;
        Ok(held)
    }

    /// Starts at the segment behind `older`, whatever was saved: those count as dealt with.
    pub(crate) fn start_behind(&self, older: &HashSet<SegmentName>) {
        let mut inner = self.inner();
        inner.ledger = Ledger::default();
        inner.unlocated.clear();
        inner.finished = older.iter().cloned().collect();
        inner.dirty = true;
    }

    /// Whether progress is kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.sync.is_some()
    }

    /// Says that deliveries are acknowledged in any order on purpose: there is nothing to warn of.
    pub(crate) fn expect_any_order(&self) {
        self.inner().warned_of_held = true;
    }

    /// Records a delivery. `label` says what it is, for messages.
    pub(crate) fn deliver(&self, spans: &[Span], label: String) -> Result<Ticket, LedgerError> {
        let mut inner = self.inner();
        let ticket = inner.ledger.deliver(spans)?;
        inner.labels.insert(ticket, label);
        Ok(ticket)
    }

    /// If `limit` deliveries await commit: what the oldest is.
    pub(crate) fn oldest_of(&self, limit: usize) -> Option<String> {
        let inner = self.inner();
        (inner.ledger.outstanding() >= limit)
            .then(|| inner.labels.values().next().cloned().unwrap_or_default())
    }

    /// Acknowledges spans that hold nothing to deliver. They are saved with the next commit, or by
    /// [`save_stale`](Self::save_stale).
    pub(crate) fn pass_over(&self, spans: &[Span]) -> Result<(), LedgerError> {
        let mut inner = self.inner();
        let ticket = inner.ledger.deliver(spans)?;
        inner.dirty |= inner.ledger.ack(ticket)?.moved;
        Ok(())
    }

    /// Says that a segment was read to its end.
    pub(crate) fn end_segment(&self, segment: &SegmentName, end: Mark, identity: Identity) {
        let mut inner = self.inner();
        inner.ledger.end_segment(segment, end, identity);
        inner.dirty = true;
    }

    /// Says that a segment is there of which nothing can be read yet, so that the checkpoint does not pass it.
    pub(crate) fn begin_segment(&self, segment: &SegmentName) {
        let mut inner = self.inner();
        // Without any progress there is nothing to say yet.
        inner.dirty |= !inner.ledger.frontier().segments.is_empty();
        inner.ledger.begin_segment(segment);
    }

    /// Says that a segment's file was replaced, or cut off. That is saved at once: whoever starts from the old place once the
    /// file is as long again would take the one for the other, and pass over what is new.
    pub(crate) fn restart_segment(&self, segment: &SegmentName) {
        let mut inner = self.inner();
        inner.ledger.restart_segment(segment);
        inner.ledger.begin_segment(segment);
        inner.dirty = true;
        if !inner.superseded {
            // What can't be written now is tried again, and told of, with the next commit or when it is stale.
            let _ = inner.save_as(self.sync);
        }
    }

    /// Says that a segment is gone.
    pub(crate) fn forget_segment(&self, segment: &SegmentName) {
        let mut inner = self.inner();
        inner.ledger.forget_segment(segment);
        inner.dirty = true;
    }

    /// What plug-ins have in the bucket of this name, for a delivery to change. All before it must be acknowledged: only then
    /// does the checkpoint that covers it cover what the state is made of.
    pub(crate) fn open_bucket(&self, ticket: Ticket, name: &str) -> Result<Arc<Contents>, StateError> {
        let mut inner = self.inner();
        if inner.superseded {
            return Err(StateError::NoBatch);
        }
        if let Some((oldest, label)) = inner.labels.first_key_value()
            && *oldest < ticket
        {
            return Err(StateError::Earlier(label.clone()));
        }
        inner.open_state().map_err(|e| StateError::Store(chain(&e)))?;
        Ok(inner.store.as_mut().map(|store| store.bucket(name)).unwrap_or_default())
    }

    /// Acknowledges a delivery, with what plug-ins have changed in their buckets for it. A ticket is acknowledged once; the
    /// caller keeps account of that.
    pub(crate) fn ack(&self, ticket: Ticket, changes: Vec<(String, Changes)>) -> Result<(), CommitError> {
        let mut inner = self.inner();
        if inner.superseded {
            return Err(CommitError::Superseded);
        }
        inner.still_held()?;
        let advance = inner.ledger.ack(ticket)?;
        inner.labels.remove(&ticket);
        inner.dirty |= advance.moved || !changes.is_empty();
        if let Some(store) = &mut inner.store {
            changes.into_iter().for_each(|(bucket, changes)| store.change_state(&bucket, changes));
        }
        if advance.held && self.is_kept() && !std::mem::replace(&mut inner.warned_of_held, true) {
            let consumer = &self.consumer;
            let oldest = inner.labels.values().next().map_or("", String::as_str);
            let message = format!(
                "consumer `{consumer}` committed a batch while an earlier one, {oldest}, is not committed; \
                 its checkpoint stays before that one until it is (said once)"
            );
            self.events.emit(Event::Warning { message });
        }
        Ok(())
    }

    /// Writes the frontier, if it has moved, as `checkpoint_sync` says.
    pub(crate) fn save(&self) -> Result<(), CommitError> {
        let mut inner = self.inner();
        if inner.superseded {
            return Err(CommitError::Superseded);
        }
        inner.save_as(self.sync)
    }

    /// Whether the lock was not found to be lost.
    ///
    /// # Errors
    /// [`CommitError::LostLock`].
    pub(crate) fn still_held(&self) -> Result<(), CommitError> {
        self.inner().still_held()
    }

    /// Writes the frontier if it has moved and was not written for a second. What can't be written is tried again a second
    /// later: nothing was asked for that could fail. That is said once, until something is written.
    ///
    /// # Errors
    /// [`CommitError::LostLock`]: then nothing will ever be written.
    pub(crate) fn save_stale(&self) -> Result<(), CommitError> {
        let mut inner = self.inner();
        inner.still_held()?;
        if !inner.dirty || inner.superseded || inner.saved_at.elapsed() < Duration::from_secs(1) {
            return Ok(());
        }
        let saved = inner.save_as(self.sync);
        if let Err(e) = saved {
            inner.still_held()?;
            inner.saved_at = Instant::now();
            if !std::mem::replace(&mut inner.warned_of_unsaved, true) {
                let message =
                    format!("the checkpoint of `{}` can't be written: {}", self.consumer, chain(&e));
                self.events.emit(Event::Warning { message });
            }
        }
        Ok(())
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Puts a record or a line in quarantine, counts it and says so. Without a checkpoint there is no quarantine, and it
    /// counts as rejected.
    pub(crate) fn set_aside(&self, aside: &Aside<'_>) -> Result<Kept, QuarantineError> {
        let Aside { position, reason, blame, bytes } = *aside;
        let mut inner = self.inner();
        if let Err(CommitError::LostLock(lost)) = inner.check_lock() {
            return Err(lost.into());
        }
        let (put, kept, dropped) = match &mut inner.quarantine {
            Some(quarantine) => {
                (quarantine.put(position, reason, blame, bytes), Kept::Yes, quarantine.dropped())
            }
            None => (Ok(()), Kept::No, 0),
        };
        self.count_dropped(dropped);
        drop(inner);
        put?;
        let count = match kept {
            Kept::Yes => &self.counters.quarantined,
            Kept::No => &self.counters.rejected,
        };
        Counters::add(count, 1);
        // Who sets a line aside that is no record tells of it.
        if !matches!(blame, Blame::Line { .. }) {
            let (consumer, position, reason) =
                (self.consumer.to_string(), position.clone(), reason.to_owned());
            self.events.emit(match kept {
                Kept::Yes => Event::Quarantined { consumer, position, reason },
                Kept::No => Event::Rejected { consumer, position, reason },
            });
        }
        Ok(kept)
    }

    /// Counts what was dropped from the quarantine, so much in all.
    fn count_dropped(&self, dropped: u64) {
        if self.counters.dropped.swap(dropped, Ordering::Relaxed) != dropped {
            self.book.dropped(dropped);
        }
    }

    /// Says that the consumer is closed: nothing more will be delivered.
    pub(crate) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        if inner.lost.is_some() {
            return;
        }
        if let Err(e) = inner.save_if_dirty() {
            let message =
                format!("the checkpoint of `{}` was not written at close: {}", self.consumer, chain(&e));
            self.events.emit(Event::Warning { message });
        }
    }
}

impl Inner {
    fn save_as(&mut self, sync: Option<CheckpointSync>) -> Result<(), CommitError> {
        match sync {
            Some(CheckpointSync::Always) => self.save_synced(),
            _ => self.save_if_dirty(),
        }
    }

    fn save_if_dirty(&mut self) -> Result<(), CommitError> {
        if self.dirty {
            self.save_by(|store, saved, finished| store.save(saved, finished))?;
            self.unsynced = self.store.is_some();
        }
        Ok(())
    }

    /// Saves and brings to the disk.
    fn save_synced(&mut self) -> Result<(), CommitError> {
        if !self.dirty {
            return self.sync();
        }
        self.save_by(|store, saved, finished| store.save_synced(saved, finished))?;
        self.unsynced = false;
        Ok(())
    }

    fn save_by(
        &mut self,
        save: impl FnOnce(&mut dyn CheckpointStore, &Saved, &[SegmentName]) -> Result<(), StoreError>,
    ) -> Result<(), CommitError> {
        self.check_lock()?;
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        // Before a checkpoint passes what is in it.
        if let Some(quarantine) = &mut self.quarantine {
            quarantine.sync()?;
        }
        self.finished.append(&mut self.ledger.take_finished());
        let saved = saved(&self.ledger, &mut self.unlocated);
        save(store.as_mut(), &saved, &self.finished).inspect_err(|e| {
            // Between the look at the lock and the save, which may have waited for the disk.
            if let StoreError::LostLock(lost) = e {
                self.lost = Some(lost.clone());
            }
        })?;
        self.finished.clear();
        self.dirty = false;
        self.warned_of_unsaved = false;
        self.saved_at = Instant::now();
        Ok(())
    }

    /// As [`Settlement::still_held`].
    fn still_held(&self) -> Result<(), CommitError> {
        self.lost.clone().map_or(Ok(()), |lost| Err(CommitError::LostLock(lost)))
    }

    /// Looks whether the lock still is what it was. Done before each change of the checkpoint: one that another process has
    /// gone on from must not be written over, which would move it back.
    fn check_lock(&mut self) -> Result<(), CommitError> {
        self.still_held()?;
        let checked = self.lock.as_ref().map_or(Ok(()), |lock| lock.check());
        if let Err(StoreError::LostLock(lost)) = &checked {
            self.lost = Some(lost.clone());
        }
        Ok(checked?)
    }

    /// Sees to it that state can be kept, from what is acknowledged so far on.
    fn open_state(&mut self) -> Result<(), CommitError> {
        if !self.state_is_open {
            self.check_lock()?;
            self.save_if_dirty()?;
            let saved = saved(&self.ledger, &mut self.unlocated);
            if let Some(store) = &mut self.store {
                store.open_state(&saved)?;
            }
            self.state_is_open = true;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), CommitError> {
        if let (true, Some(store)) = (self.unsynced, &mut self.store) {
            store.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }
}

/// What a checkpoint is to say.
fn saved(ledger: &Ledger, unlocated: &mut HashMap<SegmentName, u64>) -> Saved {
    let mut saved = Saved { frontier: ledger.frontier(), ..Saved::default() };
    unlocated.retain(|name, line| {
        saved.frontier.segments.get(name).is_some_and(|p| p.mark.point.line == *line && !p.finished)
    });
    saved.unlocated = unlocated.keys().cloned().collect();
    saved
}

impl StateView for Settlement {
    fn contents(&self, bucket: &str) -> Option<Contents> {
        Some((*self.inner().store.as_mut()?.bucket(bucket)).clone())
    }
}

pub(crate) fn take_lock(directory: &Path, name: &CheckpointName) -> Result<Lock, OpenError> {
    use crate::checkpoint::LockError;
    Lock::take(directory, name).map_err(|e| match e {
        LockError::Held(pid) => {
            let (name, directory) = (name.as_str().to_owned(), directory.display().to_string());
            OpenError::Held { name, directory, pid }
        }
        LockError::Store(e) => OpenError::Store(e),
    })
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Takes a mutex. A panic of another thread inside leaves nothing half-done that matters more than going on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Registry = HashMap<((u64, u64), CheckpointName), Weak<Settlement>>;

/// The checkpoints that this process has open, by directory and name: a lock of the system does not tell two users in
/// one process apart.
fn registry() -> &'static Mutex<Registry> {
    static REGISTRY: OnceLock<Mutex<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(Mutex::default)
}

fn identify(directory: &Path) -> Result<(u64, u64), StoreError> {
    use std::os::unix::fs::MetadataExt;
    let io = |source| StoreError::Io { what: "open", path: PathBuf::from(directory), source };
    std::fs::metadata(directory).map(|meta| (meta.dev(), meta.ino())).map_err(io)
}

/// A settlement that is brought to the disk at its interval.
struct Due {
    settlement: Weak<Settlement>,
    interval: Duration,
    at: Instant,
}

/// What the thread that brings checkpoints to the disk works on.
#[derive(Default)]
struct Background {
    due: Mutex<Vec<Due>>,
    added: Condvar,
}

/// Adds a settlement to those that one thread of the process brings to the disk at their intervals.
fn sync_in_background(settlement: &Arc<Settlement>, interval: Duration) {
    static BACKGROUND: OnceLock<Background> = OnceLock::new();
    let background = BACKGROUND.get_or_init(|| {
        // Without the thread, commits still survive a crash of the process; only a power failure would bring more back.
        let thread = std::thread::Builder::new().name("tailweir-sync".to_owned());
        if let Err(e) = thread.spawn(|| BACKGROUND.wait().work()) {
            tracing::warn!("no thread for bringing checkpoints to the disk: {e}");
        }
        Background::default()
    });
    let (settlement, interval) = (Arc::downgrade(settlement), interval.min(LONGEST));
    lock(&background.due).push(Due { settlement, interval, at: Instant::now() + interval });
    background.added.notify_one();
}

impl Background {
    /// Settlements that are due soon after the first one are taken along, so that many of them do not wake it each.
    const TOGETHER: u32 = 4;

    fn work(&self) {
        let mut due = lock(&self.due);
        loop {
            due.retain(|due| due.settlement.strong_count() > 0);
            let now = Instant::now();
            let Some(next) = due.iter().map(|due| due.at).min() else {
                due = self.added.wait(due).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = next.saturating_duration_since(now);
            if !left.is_zero() {
                due = self.added.wait_timeout(due, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let mut ready = Vec::new();
            for due in due.iter_mut().filter(|due| due.at <= now + due.interval / Self::TOGETHER) {
                due.at = now + due.interval;
                ready.extend(due.settlement.upgrade());
            }
            drop(due);
            ready.into_iter().for_each(|settlement| settlement.sync_now());
            due = lock(&self.due);
        }
    }
}

impl Settlement {
    /// Saves what is acknowledged and brings it to the disk; says so if that fails, once until it succeeds.
    fn sync_now(&self) {
        let mut inner = self.inner();
        if inner.superseded || inner.lost.is_some() {
            return;
        }
        match inner.save_if_dirty().and_then(|()| inner.sync()) {
            Ok(()) => inner.warned_of_unsynced = false,
            Err(e) if !std::mem::replace(&mut inner.warned_of_unsynced, true) => {
                let message =
                    format!("the checkpoint of `{}` is not on the disk: {}", self.consumer, chain(&e));
                self.events.emit(Event::Warning { message });
            }
            Err(_) => {}
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Best effort: whatever is not saved here comes again.
        if !inner.superseded && inner.save_if_dirty().is_ok() {
            let _ = inner.sync();
        }
    }
}

#[cfg(test)]
mod crash;
