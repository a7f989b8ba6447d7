//! Passes over a directory, shared by the consumers that can go on from the same place.
//!
//! A pass is one reader on a thread of its own, and a window of what it read last. A consumer takes items from the window
//! at its own pace. The window is bounded in bytes: the reader waits while every consumer has something to take, and when
//! one has nothing while another has left the window full, the slow one is *detached*. It then reads in a pass of its own,
//! from its own place, and joins another pass again as soon as it has caught up with that pass's window.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tailweir_core::{Block, Identity, Mark, SegmentName};
use tailweir_segments::{
    Begun, Cursor, Directory, Hand, ReadError, Reader, ReaderOptions, Start, Step, Unread, Waker,
};
use tokio::sync::Notify;

/// How long a consumer may hold up those that share a pass with it, in all, before it is detached. On a busy machine any of
/// them may get no turn for a while; what is read once for all of them is worth that wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// The part of the bytes that may be read ahead which a pass gets that is not the first: it is there for those that cannot
/// keep up.
const FURTHER_PASS: usize = 8;

/// The longest that a pass waits for the directory to change. The watcher only hints.
const RESCAN: Duration = Duration::from_secs(1);

/// Something that was read.
pub(crate) enum Item {
    Block(Arc<Block>),
    Finished {
        segment: SegmentName,
        identity: Identity,
        end: Mark,
    },
    Replaced {
        segment: SegmentName,
    },
    Vanished {
        segment: SegmentName,
    },
    Pending {
        segment: SegmentName,
    },
    /// The reader has met no more lines than these in a segment, of which somebody has dealt with more: with another state of
    /// the file, or with lines that the reader did not hear of yet.
    Short {
        segment: SegmentName,
        lines: u64,
    },
}

impl Item {
    /// Says that several consumers get it.
    fn share(&self) {
        if let Self::Block(block) = self {
            block.share();
        }
    }

    /// The segment that was met, unless what it says is that it is gone.
    fn met(&self) -> Option<&SegmentName> {
        match self {
            Self::Block(block) => Some(block.segment()),
            Self::Finished { segment, .. }
            | Self::Replaced { segment }
            | Self::Pending { segment }
            | Self::Short { segment, .. } => Some(segment),
            Self::Vanished { .. } => None,
        }
    }

    fn footprint(&self) -> usize {
        match self {
            Self::Block(block) => block.footprint(),
            _ => size_of::<Self>(),
        }
    }
}

/// A place in the stream of a directory: what was read of it.
#[derive(Clone, Default)]
pub(crate) struct Place {
    pub(crate) begun: BTreeMap<SegmentName, Begun>,
    pub(crate) finished: HashSet<SegmentName>,
}

impl Place {
    /// Lines read of a segment that is not finished.
    pub(crate) fn line(&self, segment: &SegmentName) -> u64 {
        self.begun.get(segment).map_or(0, |begun| line(&begun.start))
    }

    /// Whether what was read of a segment was read of another file than this one.
    pub(crate) fn is_of_another(&self, segment: &SegmentName, identity: &Identity) -> bool {
        let begun = self.begun.get(segment).and_then(|begun| begun.identity);
        begun.is_some_and(|begun| begun.differs(identity))
    }

    /// Whether everything that lies before `other` lies before this place too.
    fn covers(&self, other: &Self) -> bool {
        let done = |name: &SegmentName| self.finished.contains(name);
        let behind = |(name, begun): (&SegmentName, &Begun)| {
            self.line(name) >= line(&begun.start)
                && !begun.identity.is_some_and(|identity| self.is_of_another(name, &identity))
        };
        other.begun.iter().all(|(name, begun)| done(name) || behind((name, begun)))
            && other.finished.iter().all(done)
    }

    /// Whether any of this segment was dealt with.
    fn knows(&self, segment: &SegmentName) -> bool {
        self.finished.contains(segment) || self.begun.contains_key(segment)
    }

    /// Moves over an item.
    pub(crate) fn advance(&mut self, item: &Item) {
        match item {
            Item::Block(block) => {
                if !self.finished.contains(block.segment())
                    && self.line(block.segment()) < block.to().point.line
                {
                    let begun = Begun { start: Start::Mark(block.to()), identity: Some(block.identity()) };
                    self.begun.insert(block.segment().clone(), begun);
                }
            }
            Item::Finished { segment, .. } => {
                self.begun.remove(segment);
                self.finished.insert(segment.clone());
            }
            Item::Replaced { segment } => {
                self.begun.remove(segment);
                self.finished.remove(segment);
            }
            Item::Vanished { segment } => {
                self.begun.remove(segment);
            }
            Item::Pending { .. } | Item::Short { .. } => {}
        }
    }

    /// Where a reader of its own would start.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor { begun: self.begun.clone(), finished: self.finished.clone() }
    }
}

fn line(start: &Start) -> u64 {
    match start {
        Start::Mark(mark) => mark.point.line,
        Start::Line(line) => *line,
    }
}

/// All passes over one directory.
pub(crate) struct Pool {
    directory: Directory,
    /// Of each pass's reader, which gets most of the bytes that may be read ahead: they are what lets a segment be decoded
    /// before the one that comes first is through.
    options: ReaderOptions,
    /// Bytes that a pass's window may hold: the rest.
    window: usize,
    passes: Mutex<Vec<Weak<Pass>>>,
    next: AtomicU64,
}

impl Pool {
    /// Whoever moves the clock, if it is not the system's.
    pub(crate) fn hand(&self) -> Option<&Hand> {
        self.options.hand.as_ref()
    }

    /// For consumers of the directory that the options name.
    pub(crate) fn new(mut options: ReaderOptions) -> Result<Arc<Self>, ReadError> {
        let directory = Directory::open(&options.directory)?;
        let window = options.read_ahead_bytes / 8;
        options.read_ahead_bytes -= window;
        let (passes, next) = (Mutex::default(), AtomicU64::new(0));
        Ok(Arc::new(Self { directory, options, window, passes, next }))
    }

    /// Subscribes to a pass that can be gone on with from `place`, or to a new one. It names those of the segments that were
    /// `met` that are gone.
    pub(crate) fn join(
        &self,
        place: &Place,
        notify: &Arc<Notify>,
        met: Vec<SegmentName>,
    ) -> Result<Subscription, ReadError> {
        let mut passes = lock(&self.passes);
        passes.retain(|pass| pass.strong_count() > 0);
        for pass in passes.iter().filter_map(Weak::upgrade) {
            if let Some(subscription) = pass.subscribe(place, notify)
                && pass.expect(&met)
            {
                return Ok(subscription);
            }
        }
        self.start(&mut passes, place, notify, met)
    }

    /// As [`join`](Self::join), but always to a new pass.
    pub(crate) fn alone(
        &self,
        place: &Place,
        notify: &Arc<Notify>,
        met: Vec<SegmentName>,
    ) -> Result<Subscription, ReadError> {
        self.start(&mut lock(&self.passes), place, notify, met)
    }

    fn start(
        &self,
        passes: &mut Vec<Weak<Pass>>,
        place: &Place,
        notify: &Arc<Notify>,
        met: Vec<SegmentName>,
    ) -> Result<Subscription, ReadError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (mut options, mut window) = (self.options.clone(), self.window);
        if !passes.is_empty() {
            (options.workers, options.read_ahead_bytes) = (1, options.read_ahead_bytes / FURTHER_PASS);
            window /= FURTHER_PASS;
        }
        // Held open: by its path it might not be found after a rename.
        let mut reader = Reader::open_in(self.directory.clone(), options, place.cursor())?;
        reader.expect(met);
        let (pass, first) = Pass::start(id, reader, window, place, notify)?;
        passes.push(Arc::downgrade(&pass));
        Ok(first)
    }

    /// Another pass than `current` that can be gone on with from `place`, if it is better to share that one.
    pub(crate) fn rejoin(
        &self,
        current: &Subscription,
        place: &Place,
        notify: &Arc<Notify>,
    ) -> Option<Subscription> {
        let mut passes = lock(&self.passes);
        passes.retain(|pass| pass.strong_count() > 0);
        if passes.len() < 2 {
            return None;
        }
        let alone = current.pass.state().subscribers.len() == 1;
        let better = |pass: &Arc<Pass>| pass.id != current.pass.id && (alone || pass.id < current.pass.id);
        passes.iter().filter_map(Weak::upgrade).filter(better).find_map(|pass| {
            let subscription = pass.subscribe(place, notify)?;
            pass.expect(&current.met(place)).then_some(subscription)
        })
    }
}

pub(crate) struct Pass {
    id: u64,
    state: Mutex<State>,
    demand: Condvar,
    waker: Waker,
    unread: Unread,
    budget: usize,
}

struct State {
    /// What lies before the window.
    base: Place,
    window: VecDeque<Arc<Item>>,
    /// The number of the window's first item, counted from the start of the pass.
    first: u64,
    bytes: usize,
    subscribers: HashMap<u64, Subscriber>,
    next_subscriber: u64,
    end: Option<End>,
    /// Lines that somebody has dealt with who came when the reader was not that far. A reader that goes on from a place sees
    /// whether it is there; this is for the places that it did not go on from.
    claims: BTreeMap<SegmentName, u64>,
    /// Segments that somebody's last pass had met, for the reader to look whether they are there.
    expected: Vec<SegmentName>,
    /// The reader waits for somebody to take something.
    stuck: bool,
}

struct Subscriber {
    /// The number of the item that it takes next.
    next: u64,
    /// For how long others have waited for it.
    held_up: Duration,
    detached: bool,
    notify: Arc<Notify>,
}

#[derive(Clone)]
enum End {
    Complete,
    Failed(Arc<ReadError>),
}

/// A consumer's place in a pass. The pass ends when its last subscription is dropped.
pub(crate) struct Subscription {
    pass: Arc<Pass>,
    id: u64,
}

/// What a subscription has.
pub(crate) enum Taken {
    Item(Arc<Item>),
    /// Nothing now; the consumer is notified.
    Nothing,
    /// It fell behind the window; join again.
    Detached,
    /// Everything was read, and the reader does not follow.
    End,
    Failed(Arc<ReadError>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pass {
    fn start(
        id: u64,
        reader: Reader,
        budget: usize,
        place: &Place,
        notify: &Arc<Notify>,
    ) -> Result<(Arc<Self>, Subscription), ReadError> {
        let state = State {
            base: place.clone(),
            window: VecDeque::new(),
            first: 0,
            bytes: 0,
            subscribers: HashMap::new(),
            next_subscriber: 0,
            end: None,
            claims: BTreeMap::new(),
            expected: Vec::new(),
            stuck: false,
        };
        let pass = Arc::new(Self {
            id,
            state: Mutex::new(state),
            demand: Condvar::new(),
            waker: reader.waker(),
            unread: reader.unread(),
            budget,
        });
        let subscription = pass.add(notify);
        let weak = Arc::downgrade(&pass);
        let thread = std::thread::Builder::new().name(format!("tailweir-pass-{id}"));
        thread.spawn(move || read(&weak, reader)).map_err(|source| ReadError::Threads { source })?;
        Ok((pass, subscription))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn add(self: &Arc<Self>, notify: &Arc<Notify>) -> Subscription {
        let mut state = self.state();
        let id = state.next_subscriber;
        state.next_subscriber += 1;
        if !state.subscribers.is_empty() {
            state.window.iter().for_each(|item| item.share());
        }
        let next = state.first;
        state.subscribers.insert(
            id,
            Subscriber { next, held_up: Duration::ZERO, detached: false, notify: notify.clone() },
        );
        Subscription { pass: self.clone(), id }
    }

    /// A subscription from the start of the window, if all that lies before it lies before `place`.
    fn subscribe(self: &Arc<Self>, place: &Place, notify: &Arc<Notify>) -> Option<Subscription> {
        let covered = {
            let state = self.state();
            !matches!(state.end, Some(End::Failed(_))) && place.covers(&state.base)
        };
        // Nobody can move the base in between: only the pool's passes are asked, under its lock, and the window is
        // trimmed by subscribers; so the check is made again once subscribed.
        if !covered {
            return None;
        }
        let subscription = self.add(notify);
        let still = place.covers(&self.state().base) && self.claim(place);
        self.call_reader(self.state());
        still.then_some(subscription)
    }

    /// Has the reader look whether these segments are there. `false` if it has ended and won't.
    fn expect(&self, met: &[SegmentName]) -> bool {
        let mut state = self.state();
        if met.is_empty() || state.end.is_some() {
            return met.is_empty();
        }
        state.expected.extend_from_slice(met);
        self.waker.wake();
        true
    }

    /// Has the reader look whether it should read on.
    fn call_reader(&self, state: MutexGuard<'_, State>) {
        let stuck = state.stuck;
        drop(state);
        self.demand.notify_all();
        if stuck {
            self.waker.wake();
        }
    }

    /// Notes how far `place` is ahead of what was read when the window began, so that the reader looks whether there is so
    /// much. `false` if it has ended and won't.
    fn claim(&self, place: &Place) -> bool {
        let mut guard = self.state();
        let State { base, claims, end, .. } = &mut *guard;
        let ahead = |(name, begun): &(&SegmentName, &Begun)| line(&begun.start) > base.line(name);
        for (name, begun) in place.begun.iter().filter(ahead) {
            if end.is_some() {
                return false;
            }
            let claim = claims.entry(name.clone()).or_default();
            *claim = line(&begun.start).max(*claim);
        }
        if !claims.is_empty() {
            // It may have come as far as there is already.
            self.waker.wake();
        }
        true
    }

    /// Waits until the reader should read on. `false` ends the pass. Meanwhile the reader keeps up with the directory, so that
    /// segments that come and go are named.
    fn wait_for_demand(&self, reader: &mut Reader) -> bool {
        let mut state = self.state();
        loop {
            reader.expect(state.expected.drain(..));
            if state.subscribers.is_empty() {
                return false;
            }
            if state.bytes < self.budget || state.window.is_empty() {
                return true;
            }
            let head = state.first + state.window.len() as u64;
            if !state.subscribers.values().any(|s| !s.detached && s.next == head) {
                state.stuck = true;
                drop(state);
                reader.wait(RESCAN);
                reader.keep_up();
                state = self.state();
                state.stuck = false;
                continue;
            }
            let (slowest, begun) = (state.first, Instant::now());
            let patience = state.patience();
            if patience.is_zero() {
                state.detach_slowest();
                continue;
            }
            (state, _) = self.demand.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state.charge(slowest, begun.elapsed());
        }
    }

    fn push(&self, item: Item) {
        self.state().push(item);
    }

    /// Ends the pass, unless there is something to look for yet; whether it has.
    fn finish(&self, end: End, reader: &mut Reader) -> bool {
        let mut state = self.state();
        // In one go with the end: nobody can claim or expect anything afterwards.
        if matches!(end, End::Complete) && !state.expected.is_empty() {
            return false;
        }
        state.settle_claims(reader);
        state.end = Some(end);
        state.subscribers.values().for_each(|s| s.notify.notify_one());
        true
    }
}

impl State {
    fn push(&mut self, item: Item) {
        self.bytes += item.footprint();
        if self.subscribers.len() > 1 {
            item.share();
        }
        self.window.push_back(Arc::new(item));
        self.subscribers.values().for_each(|s| s.notify.notify_one());
    }

    /// Looks whether the segments that were read as far as they go have the lines that somebody has dealt with.
    fn settle_claims(&mut self, reader: &mut Reader) {
        let mut short = Vec::new();
        self.claims.retain(|segment, claim| match reader.reached(segment) {
            None => true,
            Some(lines) => {
                if lines < *claim {
                    short.push(Item::Short { segment: segment.clone(), lines });
                }
                false
            }
        });
        short.into_iter().for_each(|item| self.push(item));
    }

    /// For how long others may still wait for those that hold the window's first item.
    fn patience(&self) -> Duration {
        let slowest = self.subscribers.values().filter(|s| !s.detached && s.next == self.first);
        slowest.map(|s| PATIENCE.saturating_sub(s.held_up)).min().unwrap_or_default()
    }

    /// Notes that others have waited for those whose next item had the number `slowest`, and may have it still.
    fn charge(&mut self, slowest: u64, waited: Duration) {
        for subscriber in self.subscribers.values_mut().filter(|s| s.next <= slowest + 1) {
            subscriber.held_up += waited;
        }
    }

    /// Detaches the subscribers that hold the window's first item and have been waited for.
    fn detach_slowest(&mut self) {
        let first = self.first;
        let slowest = |s: &&mut Subscriber| !s.detached && s.next == first && s.held_up >= PATIENCE;
        for subscriber in self.subscribers.values_mut().filter(slowest) {
            subscriber.detached = true;
            subscriber.notify.notify_one();
        }
        self.trim();
    }

    /// Drops the items that everyone has taken.
    fn trim(&mut self) {
        let needed = self.subscribers.values().filter(|s| !s.detached).map(|s| s.next).min();
        let needed = needed.unwrap_or(self.first + self.window.len() as u64);
        while self.first < needed {
            let Some(item) = self.window.pop_front() else {
                break;
            };
            self.first += 1;
            self.bytes -= item.footprint();
            self.base.advance(&item);
        }
    }
}

/// The body of a pass's thread. It holds the pass only while it works, so that the last subscription ends it.
fn read(pass: &Weak<Pass>, mut reader: Reader) {
    loop {
        let Some(pass) = pass.upgrade() else { return };
        if !pass.wait_for_demand(&mut reader) {
            return;
        }
        match reader.next() {
            Ok(Step::Block(block)) => pass.push(Item::Block(Arc::new(block))),
            Ok(Step::Finished { segment, identity, end }) => {
                pass.push(Item::Finished { segment, identity, end })
            }
            Ok(Step::Replaced { segment }) => pass.push(Item::Replaced { segment }),
            Ok(Step::Vanished { segment }) => pass.push(Item::Vanished { segment }),
            Ok(Step::Pending { segment }) => pass.push(Item::Pending { segment }),
            Ok(Step::Idle) => {
                pass.state().settle_claims(&mut reader);
                drop(pass);
                reader.wait(RESCAN);
            }
            Ok(Step::End) => {
                if pass.finish(End::Complete, &mut reader) {
                    return;
                }
            }
            Err(e) => {
                pass.finish(End::Failed(Arc::new(e)), &mut reader);
                return;
            }
        }
    }
}

impl Subscription {
    /// Takes the next item.
    pub(crate) fn take(&self) -> Taken {
        let mut guard = self.pass.state();
        let state = &mut *guard;
        let first = state.first;
        let Some(subscriber) = state.subscribers.get_mut(&self.id) else {
            return Taken::Detached;
        };
        if subscriber.detached {
            return Taken::Detached;
        }
        let Some(item) = state.window.get((subscriber.next - first) as usize).cloned() else {
            return match &state.end {
                None => Taken::Nothing,
                Some(End::Complete) => Taken::End,
                Some(End::Failed(e)) => Taken::Failed(e.clone()),
            };
        };
        subscriber.next += 1;
        state.trim();
        self.pass.call_reader(guard);
        Taken::Item(item)
    }
}

impl Subscription {
    /// The segments that the pass has met, read or not, and of which nothing lies before `place`. Whoever goes on elsewhere may
    /// not find them any more.
    pub(crate) fn met(&self, place: &Place) -> Vec<SegmentName> {
        // These first: what is read in between is in the window then.
        let mut names = self.pass.unread.names();
        let state = self.pass.state();
        names.extend(state.base.begun.keys().chain(&state.base.finished).cloned());
        names.extend(state.window.iter().filter_map(|item| item.met()).cloned());
        names.retain(|name| !place.knows(name));
        names.into_iter().collect()
    }

    /// At most so many of the blocks that come next.
    pub(crate) fn coming(&self, blocks: usize) -> Vec<Arc<Block>> {
        let state = self.pass.state();
        let next = state.subscribers.get(&self.id).map_or(0, |subscriber| subscriber.next);
        let items = state.window.iter().skip(next.saturating_sub(state.first) as usize);
        let block = |item: &Arc<Item>| match &**item {
            Item::Block(block) => Some(block.clone()),
            _ => None,
        };
        items.filter_map(block).take(blocks).collect()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.pass.state();
        state.subscribers.remove(&self.id);
        state.trim();
        drop(state);
        self.pass.demand.notify_all();
        self.pass.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use tailweir_core::Point;

    use super::*;

    #[test]
    fn a_pass_that_is_behind_a_segment_is_none_for_who_has_not_dealt_with_it() {
        let segment = SegmentName::new("a").unwrap();
        let identity = Identity { inode: 1, head_len: 0, head: 0 };
        let end = Mark { point: Point { line: 3, offset: 30 }, ..Mark::default() };
        let (start, mut behind) = (Place::default(), Place::default());
        behind.advance(&Item::Finished { segment: segment.clone(), identity, end });
        assert!(!start.covers(&behind));
        assert!(behind.covers(&start) && behind.covers(&behind.clone()));

        let mut begun = Place::default();
        begun.begun.insert(segment, Begun { start: Start::Mark(end), identity: Some(identity) });
        assert!(!begun.covers(&behind), "its end is not known yet");
        assert!(behind.covers(&begun));
    }
}
