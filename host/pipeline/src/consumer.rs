//! A consumer: takes what a pass has read, filters it, cuts it into batches, and hands them out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tailweir_core::{
    Batch, Block, Event, EventSink, Fate, FilterError, LedgerError, Mark, Point, Position, SegmentName, Span,
    StateView, Sums, Verdict,
};
use tailweir_segments::{Begun, ReadError, Start};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ahead::{Ahead, Known};
use crate::book::{Kept, Part, Share};
use crate::chain::{Broken, Chain, Fault, Judged, Poison};
use crate::options::LONGEST;
use crate::pass::{Item, Place, Pool, Subscription, Taken};
use crate::quarantine::{Blame, QuarantineError};
use crate::settlement::{Aside, CommitError, Settlement, chain};
use crate::{Closer, ConsumerOptions, Counters, Delivery, OnMalformed};

/// How many items a consumer goes through without delivering before it lets other tasks of its thread run.
const ITEMS_PER_TURN: u32 = 32;

/// How often a consumer looks whether it could share another pass.
const REJOIN_INTERVAL: Duration = Duration::from_millis(100);

/// Why there is no next batch.
#[derive(Debug, Error)]
pub enum NextError {
    /// A filter failed. What was kept before was delivered; the next call tries the same record again.
    #[error("{filter} failed at {position}: {source}")]
    Filter {
        /// The filter: its name if there are several, else `the filter`.
        filter: String,
        /// The record, or the first one of those that it was given together.
        position: Position,
        /// What the filter says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A filter fails on whatever it is given. None of the records is in quarantine; the next call tries them again.
    #[error(
        "{filter} failed on {in_a_row} records in a row, each by itself, the last one at {position}, so it is the filter \
         that must be mended: {source}"
    )]
    Broken {
        /// The filter: its name if there are several, else `the filter`.
        filter: String,
        /// How many records.
        in_a_row: u32,
        /// The last of them.
        position: Position,
        /// What the filter says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A line is not a record, and `on_malformed` is `fail`.
    #[error("line {position} is not a record: {kind}")]
    Malformed {
        /// Where it is.
        position: Position,
        /// What is wrong with it.
        kind: tailweir_core::DefectKind,
    },
    /// The directory can't be read.
    #[error("failed to read on")]
    Read(#[source] Arc<ReadError>),
    /// Too many batches were delivered and not committed.
    #[error(
        "{limit} batches are not committed (max_uncommitted); the oldest is {oldest}: commit each batch once it is dealt with"
    )]
    TooManyUncommitted {
        /// How many.
        limit: usize,
        /// The one that has waited longest.
        oldest: String,
    },
    /// A line could not be put in quarantine; the next call tries again.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    /// The checkpoint could not be written at the end, or may belong to another process by now.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The ledger refused: a fault of this program.
    #[error("failed to account for a batch: {0}")]
    Ledger(#[from] LedgerError),
}

/// One named subscription to a directory.
pub struct Consumer {
    name: Arc<str>,
    max_batch_size: usize,
    max_batch_bytes: usize,
    max_batch_latency: Duration,
    max_uncommitted: usize,
    on_malformed: OnMalformed,
    chain: Chain,
    ahead: Option<Ahead>,
    settlement: Arc<Settlement>,
    events: Arc<dyn EventSink>,
    pool: Arc<Pool>,
    subscription: Option<Subscription>,
    notify: Arc<Notify>,
    closed: Arc<AtomicBool>,
    closing: Arc<Notify>,
    /// What was scanned: the end of the pending batch's spans.
    place: Place,
    /// The block that is being cut into batches.
    current: Option<Current>,
    /// The batch that is being filled.
    pending: Batch,
    /// Lines of the block that were set aside and are not scanned yet.
    aside: BTreeMap<u64, (Line, Kept)>,
    /// What the filter said of the records that are not scanned yet.
    part: Part,
    /// How many records of each segment the pending batch holds.
    shares: Vec<Share>,
    /// Where a block begins that is gone through from there, and how many lines of it were left for blank ones so far.
    blanks: Option<(Point, u64)>,
    /// Segments that were read to their end, with spans that are still pending.
    ending: Vec<(SegmentName, tailweir_core::Identity, Mark)>,
    /// When the pending batch goes out, however full it is.
    deadline: Option<Instant>,
    /// An item that could not be dealt with yet.
    held: Option<Arc<Item>>,
    rejoined_at: Instant,
}

/// A block on its way into batches.
struct Current {
    block: Arc<Block>,
    /// The index of the first record that the verdict is about.
    first: usize,
    verdict: Verdict,
    next: usize,
    stop: Option<Stop>,
}

/// How far a block can be gone through.
struct Stop {
    /// Records from here on can't be taken.
    at: usize,
    /// The start of the line that is in the way.
    before: Point,
    barrier: Barrier,
}

impl Stop {
    fn new(block: &Block, position: &Position, barrier: Barrier) -> Self {
        let before = Point { line: position.line - 1, offset: position.offset };
        Self { at: block.first_after(before.line), before, barrier }
    }
}

/// What is to be set aside, by its index in its block.
enum Odd<'a> {
    Defect(usize),
    Record(usize, &'a Poison),
}

/// What a line is that was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Record,
    Malformed,
}

/// What stops a consumer at a record.
enum Barrier {
    Filter(Fault),
    /// Index into the block's defects.
    Defect(usize),
    /// It does not go into the quarantine.
    Quarantine(QuarantineError),
}

/// What the filters say.
struct Asked {
    verdict: Verdict,
    /// Where they cannot go on.
    stop: Option<Stop>,
    /// Records that they fail on, by their index in the block.
    poison: Vec<(usize, Poison)>,
}

impl From<Verdict> for Asked {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, stop: None, poison: Vec::new() }
    }
}

/// What became of beginning a block.
enum Begin {
    Done,
    /// The filter is at it on another thread, which notifies the consumer.
    Later,
}

/// What one step of a consumer came to.
enum Turn {
    Deliver(Delivery),
    Again,
    Wait,
    End,
}

impl Consumer {
    pub(crate) fn new(
        name: Arc<str>,
        options: ConsumerOptions,
        settlement: Arc<Settlement>,
        place: Place,
        pool: Arc<Pool>,
        events: Arc<dyn EventSink>,
    ) -> Self {
        let notify = Arc::<Notify>::default();
        if let Some(hand) = pool.hand() {
            let notify = notify.clone();
            hand.on_advance(move || notify.notify_one());
        }
        // A filter of which there is one only keeps all of them here.
        let more: Option<Vec<_>> = options.filters.iter().map(|filter| filter.more.clone()).collect();
        let more = more.filter(|more| !more.is_empty() && options.filter_threads != Some(0));
        let ahead = |more| Ahead::new(more, options.filter_threads, name.clone(), notify.clone());
        Self {
            ahead: more.map(ahead),
            pending: Batch::new(name.clone()),
            name,
            max_batch_size: options.max_batch_size.max(1),
            max_batch_bytes: options.max_batch_bytes,
            max_batch_latency: options.max_batch_latency.min(LONGEST),
            max_uncommitted: options.max_uncommitted.max(1),
            on_malformed: options.on_malformed,
            chain: Chain::new(options.filters, options.on_filter_error, options.max_poison),
            settlement,
            events,
            pool,
            subscription: None,
            notify,
            closed: Arc::default(),
            closing: Arc::default(),
            place,
            current: None,
            aside: BTreeMap::new(),
            part: Part::default(),
            shares: Vec::new(),
            blanks: None,
            ending: Vec::new(),
            deadline: None,
            held: None,
            rejoined_at: Instant::now(),
        }
    }

    pub(crate) fn subscribe(&mut self) -> Result<(), ReadError> {
        self.subscription = Some(self.pool.join(&self.place, &self.notify, Vec::new())?);
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle that closes it, from any thread.
    pub fn closer(&self) -> Closer {
        let (closed, notify, closing) = (self.closed.clone(), self.notify.clone(), self.closing.clone());
        Closer { closed, notify, closing }
    }

    /// How many batches may be delivered and not committed.
    pub(crate) fn max_uncommitted(&self) -> usize {
        self.max_uncommitted
    }

    /// Says that batches are committed in any order on purpose.
    pub(crate) fn expect_any_order(&self) {
        self.settlement.expect_any_order();
    }

    /// Says that putting a line in quarantine is tried again until it works.
    pub(crate) fn unwritten(&self, error: &QuarantineError) {
        let message =
            format!("consumer `{}` waits until it can write to its quarantine: {}", self.name, chain(error));
        self.events.emit(Event::Warning { message });
    }

    /// Its counters.
    pub fn counters(&self) -> Arc<Counters> {
        self.settlement.counters().clone()
    }

    /// Who can tell what its plug-ins remember, as long as it is open.
    pub fn state_view(&self) -> Weak<dyn StateView> {
        let view: Arc<dyn StateView> = self.settlement.clone();
        Arc::downgrade(&view)
    }

    /// What became of the lines that it was given since it was opened.
    pub fn sums(&self) -> Sums {
        self.settlement.book().total()
    }

    /// The next batch, as soon as it is full or its latency is over. `None`: the consumer is closed, or it does not follow
    /// and everything was delivered.
    ///
    /// The future may be dropped at any time and the method called again; nothing is lost. It must be polled inside a
    /// tokio runtime with its time driver on.
    ///
    /// # Errors
    /// [`NextError`] says what happened and what another call does.
    pub async fn next(&mut self) -> Result<Option<Delivery>, NextError> {
        let mut turns = 0;
        loop {
            if self.closed.load(Ordering::Acquire) {
                self.subscription = None;
                return Ok(None);
            }
            match self.turn()? {
                Turn::Deliver(delivery) => return Ok(Some(delivery)),
                Turn::End => return Ok(None),
                Turn::Again => {
                    turns += 1;
                    if turns % ITEMS_PER_TURN == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Turn::Wait => self.wait().await?,
            }
        }
    }

    /// Waits for something to do: an item, the pending batch's deadline, or a checkpoint to write.
    async fn wait(&mut self) -> Result<(), NextError> {
        self.settlement.save_stale()?;
        if self.pool.hand().is_some() {
            self.notify.notified().await;
            return Ok(());
        }
        let idle = self.now() + Duration::from_secs(1);
        let until = self.deadline.map_or(idle, |deadline| deadline.min(idle));
        tokio::select! {
            () = self.notify.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        self.pool.hand().map_or_else(Instant::now, |hand| hand.now().into())
    }

    fn turn(&mut self) -> Result<Turn, NextError> {
        if self.current.is_some() {
            return self.cut();
        }
        if self.deadline.is_some_and(|deadline| self.now() >= deadline) {
            return self.deliver();
        }
        match self.held.take() {
            Some(item) => self.accept(item),
            None => self.take(),
        }
    }

    /// Takes the next item of the pass.
    fn take(&mut self) -> Result<Turn, NextError> {
        let subscription = match &self.subscription {
            Some(subscription) => subscription,
            None => self.subscription.insert(self.join(Vec::new())?),
        };
        match subscription.take() {
            Taken::Item(item) => self.accept(item),
            Taken::Detached => {
                let met = subscription.met(&self.place);
                // Before the next one: a pass that nobody needs any more takes nothing from it.
                self.subscription = None;
                self.subscription = Some(self.join(met)?);
                Ok(Turn::Again)
            }
            Taken::Nothing => {
                self.rejoin();
                Ok(Turn::Wait)
            }
            Taken::End if self.pending.is_empty() => {
                self.pass_over()?;
                self.settlement.save()?;
                Ok(Turn::End)
            }
            Taken::End => self.deliver(),
            Taken::Failed(e) if self.pending.is_empty() => Err(NextError::Read(e)),
            Taken::Failed(_) => self.deliver(),
        }
    }

    fn join(&self, met: Vec<SegmentName>) -> Result<Subscription, NextError> {
        self.pool.join(&self.place, &self.notify, met).map_err(|e| NextError::Read(Arc::new(e)))
    }

    /// Moves to another pass, if one can be shared.
    fn rejoin(&mut self) {
        if self.rejoined_at.elapsed() < REJOIN_INTERVAL {
            return;
        }
        self.rejoined_at = Instant::now();
        if let Some(current) = &self.subscription
            && let Some(other) = self.pool.rejoin(current, &self.place, &self.notify)
        {
            self.subscription = Some(other);
        }
    }

    fn accept(&mut self, item: Arc<Item>) -> Result<Turn, NextError> {
        if self.is_contradicted_by(&item) {
            // A reader that goes on from this place sees what has become of it.
            let met = self.subscription.as_ref().map(|left| left.met(&self.place)).unwrap_or_default();
            let alone = self.pool.alone(&self.place, &self.notify, met);
            self.subscription = Some(alone.map_err(|e| NextError::Read(Arc::new(e)))?);
            return Ok(Turn::Again);
        }
        match &*item {
            Item::Block(block) => {
                let block = block.clone();
                match self.begin(&block) {
                    Ok(Begin::Done) => {}
                    Ok(Begin::Later) => {
                        self.held = Some(item);
                        return Ok(Turn::Wait);
                    }
                    Err(e) => {
                        self.held = Some(item);
                        return Err(e);
                    }
                }
            }
            Item::Finished { segment, identity, end } => {
                if !self.place.finished.contains(segment) {
                    self.finish_segment(segment, *identity, *end);
                }
                self.rejoin();
            }
            Item::Pending { segment } => {
                if self.settlement.is_kept() && !self.place.finished.contains(segment) {
                    self.settlement.begin_segment(segment);
                }
            }
            Item::Vanished { segment } if self.place.finished.contains(segment) => {}
            // What is pending of the file that was there must go out before the new one is counted.
            Item::Replaced { .. } | Item::Vanished { .. } if !self.pending.is_empty() => {
                self.held = Some(item);
                return self.deliver();
            }
            Item::Short { .. } => {}
            Item::Replaced { segment } => {
                self.pass_over()?;
                self.place.advance(&item);
                self.settlement.book().end(segment);
                if self.settlement.is_kept() {
                    self.settlement.restart_segment(segment);
                }
            }
            Item::Vanished { segment } => {
                self.pass_over()?;
                self.place.advance(&item);
                self.settlement.book().end(segment);
                if self.settlement.is_kept() {
                    self.settlement.forget_segment(segment);
                }
            }
        }
        Ok(Turn::Again)
    }

    /// Whether a shared pass has met another file than this consumer, or less of it than the consumer has dealt with: it may have
    /// been replaced or cut off.
    fn is_contradicted_by(&self, item: &Item) -> bool {
        match item {
            Item::Block(block) => self.place.is_of_another(block.segment(), &block.identity()),
            Item::Finished { segment, identity, end } => {
                self.place.is_of_another(segment, identity) || self.place.line(segment) > end.point.line
            }
            Item::Short { segment, lines } => self.place.line(segment) > *lines,
            _ => false,
        }
    }

    fn finish_segment(&mut self, segment: &SegmentName, identity: tailweir_core::Identity, end: Mark) {
        self.place.begun.remove(segment);
        self.place.finished.insert(segment.clone());
        self.settlement.book().end(segment);
        if self.settlement.is_kept() {
            // The ledger must have the pending spans before it hears that nothing follows, and they are not delivered yet.
            if self.pending.spans().iter().any(|span| span.segment == *segment) {
                self.ending.push((segment.clone(), identity, end));
            } else {
                self.settlement.end_segment(segment, end, identity);
            }
        }
    }

    /// Begins to cut a block: deals with its defects, and asks the filter.
    fn begin(&mut self, block: &Arc<Block>) -> Result<Begin, NextError> {
        let done = self.place.line(block.segment());
        if self.place.finished.contains(block.segment()) || block.to().point.line <= done {
            return Ok(Begin::Done);
        }
        if block.from().line == done {
            self.blanks = Some((block.from(), 0));
        }
        let first = block.first_after(done);
        let refused = match self.on_malformed {
            OnMalformed::Fail => block.defects().iter().position(|defect| defect.line > done),
            OnMalformed::Quarantine | OnMalformed::Skip => None,
        };
        let refused =
            refused.map(|index| Stop::new(block, &place_of_defect(block, index), Barrier::Defect(index)));
        let end = refused.as_ref().map_or(block.len(), |stop| stop.at);
        let Some(asked) = self.ask(block, first, end)? else { return Ok(Begin::Later) };
        let stop = asked.stop.or(refused);
        let stop = self.clear_out(block, done, &asked.poison, stop.as_ref()).or(stop);
        self.current =
            Some(Current { block: block.clone(), first, verdict: asked.verdict, next: first, stop });
        Ok(Begin::Done)
    }

    /// Sets aside what nothing can be done with, behind the line `done` and before `stop`. The line that does not go into the
    /// quarantine, if there is one, is the new stop. They go in order, so that all that is there once it is full can be passed:
    /// it must not come again when there is room for more.
    fn clear_out(
        &mut self,
        block: &Block,
        done: u64,
        poison: &[(usize, Poison)],
        stop: Option<&Stop>,
    ) -> Option<Stop> {
        let fresh = block.defects().iter().enumerate().filter(|(_, defect)| defect.line > done);
        let defects = fresh.map(|(index, _)| (place_of_defect(block, index), Odd::Defect(index)));
        let records =
            poison.iter().map(|(index, poison)| (block.position(*index), Odd::Record(*index, poison)));
        let mut odd: Vec<_> = defects.chain(records).collect();
        odd.sort_by_key(|(position, _)| position.line);
        let last = stop.map_or(u64::MAX, |stop| stop.before.line);
        for (position, odd) in odd.into_iter().take_while(|(position, _)| position.line <= last) {
            let set_aside = match odd {
                Odd::Defect(index) => self.set_aside(block, &position, index),
                Odd::Record(index, poison) => self.condemn(&position, block.bytes(index), poison),
            };
            if let Err(error) = set_aside {
                return Some(Stop::new(block, &position, Barrier::Quarantine(error)));
            }
        }
        None
    }

    /// Deals with a line that is not a record, when the consumer goes on behind it.
    fn set_aside(&mut self, block: &Block, position: &Position, index: usize) -> Result<(), QuarantineError> {
        let defect = &block.defects()[index];
        let kept = match self.on_malformed {
            OnMalformed::Quarantine => {
                let length = match defect.kind {
                    tailweir_core::DefectKind::TooLong { len, .. } => Some(len),
                    _ => None,
                };
                let (reason, blame) = (defect.kind.to_string(), Blame::Line { length });
                let aside = Aside { position, reason: &reason, blame, bytes: &defect.bytes };
                self.settlement.set_aside(&aside)?
            }
            OnMalformed::Skip | OnMalformed::Fail => {
                Counters::add(&self.settlement.counters().rejected, 1);
                Kept::No
            }
        };
        self.aside.insert(defect.line, (Line::Malformed, kept));
        Counters::add(&self.settlement.counters().malformed, 1);
        let (consumer, position, kind) = (self.name.to_string(), position.clone(), defect.kind.clone());
        let fate = match kept {
            Kept::Yes => Fate::Quarantined,
            Kept::No => Fate::PassedOver,
        };
        self.events.emit(Event::Malformed { consumer, position, kind, fate });
        Ok(())
    }

    /// Asks the filters about the records `first..end`. If one fails and that is to be raised, where. `None`: the answer comes
    /// later.
    fn ask(&mut self, block: &Arc<Block>, first: usize, end: usize) -> Result<Option<Asked>, NextError> {
        if self.chain.is_empty() {
            return Ok(Some(Verdict::All.into()));
        }
        if first == end {
            return Ok(Some(Verdict::None.into()));
        }
        let mut known = Known::Nothing;
        if let (Some(ahead), Some(subscription)) = (&mut self.ahead, &self.subscription) {
            ahead.look_at(block, &subscription.coming(ahead.reach()));
            if end - first == block.len() {
                known = ahead.ask(block);
            }
            // It would have nothing to do but wait.
            while matches!(known, Known::Soon)
                && let Some(running) = ahead.begin()
            {
                let answer = self.chain.sift(running.candidates());
                running.end(answer);
                known = ahead.ask(block);
            }
        }
        let failed: Option<FilterError> = match known {
            Known::Answer(Ok(sifted)) => {
                let Judged { verdict, .. } = self.chain.adopt(sifted);
                return Ok(Some(verdict.into()));
            }
            Known::Answer(Err(failed)) => failed,
            Known::Soon => return Ok(None),
            Known::Nothing => None,
        };
        let candidates = Arc::new(Batch::of_block(self.name.clone(), block.clone(), first..end));
        let Judged { verdict, failed, poison } = self.chain.judge(&candidates, failed)?;
        let stop = failed.map(|(at, fault)| {
            let place = block.position((first + at).min(block.len() - 1));
            Stop::new(block, &place, Barrier::Filter(fault))
        });
        // Set aside once all is decided: if a filter turns out to be broken, nothing is.
        let poison = poison.into_iter().map(|poison| (first + poison.index, poison)).collect();
        Ok(Some(Asked { verdict, stop, poison }))
    }

    /// Puts a record in quarantine that a filter fails on.
    fn condemn(&mut self, position: &Position, bytes: &[u8], poison: &Poison) -> Result<(), QuarantineError> {
        let (reason, blame) = (&*poison.reason, Blame::Filter(&poison.filter));
        let kept = self.settlement.set_aside(&Aside { position, reason, blame, bytes })?;
        self.aside.insert(position.line, (Line::Record, kept));
        Ok(())
    }

    /// Moves records of the current block into the pending batch until that is full or the block is through.
    fn cut(&mut self) -> Result<Turn, NextError> {
        let Some(mut current) = self.current.take() else {
            return Ok(Turn::Again);
        };
        let block = current.block.clone();
        let end = current.stop.as_ref().map_or(block.len(), |stop| stop.at);
        if self.fill(&mut current, end) {
            if current.next > current.first {
                self.scan_to(&block, block.end_of(current.next - 1));
            }
            self.current = Some(current);
            return self.deliver();
        }
        if let Some(stop) = &current.stop {
            self.scan_to(&block, Mark { point: stop.before, frame: block.to().frame });
            if !self.pending.is_empty() {
                self.current = Some(current);
                return self.deliver();
            }
            let error = self.stopped(current);
            self.pass_over()?;
            return Err(error);
        }
        self.scan_to(&block, block.to());
        if let Some((from, left)) = self.blanks.take()
            && from == block.from()
            && left != block.blank()
        {
            self.settlement.book().blank_lines_differ(block.segment(), left, block.blank());
        }
        self.pending.let_go_of(&block);
        if block.repaired() > 0 {
            Counters::add(&self.settlement.counters().repaired, block.repaired());
            self.settlement.book().repaired(block.repaired());
            let (consumer, segment) = (self.name.to_string(), block.segment().clone());
            self.events.emit(Event::Repaired { consumer, segment, records: block.repaired() });
        }
        if self.pending.is_empty() {
            self.pass_over()?;
        }
        Ok(Turn::Again)
    }

    /// Moves records up to `end` into the pending batch; whether that is full then.
    fn fill(&mut self, current: &mut Current, end: usize) -> bool {
        let (begun, mut kept, mut full) = (current.next, 0, false);
        while current.next < end && !full {
            if current.verdict.keeps(current.next - current.first) {
                let len = current.block.bytes(current.next).len();
                if !self.pending.is_empty() && self.pending.bytes() + len > self.max_batch_bytes {
                    full = true;
                    break;
                }
                if self.pending.is_empty() {
                    self.deadline = Some(self.now() + self.max_batch_latency);
                }
                self.pending.push(&current.block, current.next);
                kept += 1;
                full = self.pending.len() >= self.max_batch_size;
            }
            current.next += 1;
        }
        let records = (current.next - begun) as u64;
        let counters = self.settlement.counters();
        Counters::add(&counters.records, records);
        Counters::add(&counters.kept, kept);
        self.part.kept += kept;
        self.part.dropped += records - kept;
        if !self.chain.is_empty() && records > 0 {
            self.events.emit(Event::Filtered { consumer: self.name.to_string(), records, kept });
        }
        full
    }

    /// The error of a stop. The block is taken up again at the same place by the next call.
    fn stopped(&mut self, current: Current) -> NextError {
        let Current { block, stop, .. } = current;
        self.held = Some(Arc::new(Item::Block(block.clone())));
        match stop.map(|stop| (stop.at, stop.barrier)) {
            Some((at, Barrier::Filter(Fault { filter, source }))) => {
                NextError::Filter { filter, position: block.position(at), source }
            }
            Some((_, Barrier::Defect(index))) => {
                let (position, kind) = (place_of_defect(&block, index), block.defects()[index].kind.clone());
                NextError::Malformed { position, kind }
            }
            Some((_, Barrier::Quarantine(error))) => NextError::Quarantine(error),
            None => NextError::Ledger(LedgerError::UnknownTicket),
        }
    }

    /// Extends the pending spans to `to`.
    fn scan_to(&mut self, block: &Block, to: Mark) {
        let segment = block.segment();
        let from = match self.place.begun.get(segment).map(|begun| begun.start) {
            Some(Start::Mark(mark)) => mark.point,
            Some(Start::Line(line)) => tailweir_core::Point { line, offset: block.from().offset },
            None => tailweir_core::Point::default(),
        };
        if to.point.line > from.line {
            self.enter(block, to.point.line - from.line, to.point.line);
            let counters = self.settlement.counters();
            Counters::add(&counters.bytes, to.point.offset.saturating_sub(from.offset));
            self.pending.add_span(Span { segment: segment.clone(), identity: block.identity(), from, to });
            let begun = Begun { start: Start::Mark(to), identity: Some(block.identity()) };
            self.place.begun.insert(segment.clone(), begun);
        }
    }

    /// Enters the lines up to `last`, so many, into the book.
    fn enter(&mut self, block: &Block, lines: u64, last: u64) {
        let mut part = Part { lines, ..std::mem::take(&mut self.part) };
        let later = self.aside.split_off(&(last + 1));
        for (line, kept) in std::mem::replace(&mut self.aside, later).into_values() {
            part.malformed += u64::from(line == Line::Malformed);
            match kept {
                Kept::Yes => part.quarantined += 1,
                Kept::No => part.rejected += 1,
            }
        }
        let (segment, counters) = (block.segment(), self.settlement.counters());
        Counters::add(&counters.lines, lines);
        Counters::add(&counters.filtered, part.filtered());
        if let (Some((_, left)), Some(blank)) = (&mut self.blanks, part.blank()) {
            *left += blank;
        }
        let page = self.settlement.book().enter(segment, part);
        if part.kept == 0 {
            return;
        }
        match self.shares.iter_mut().find(|share| share.page == page) {
            Some(share) => share.records += part.kept,
            None => self.shares.push(Share { segment: segment.clone(), page, records: part.kept }),
        }
    }

    /// Accounts for pending spans that hold no record.
    fn pass_over(&mut self) -> Result<(), NextError> {
        let batch = std::mem::replace(&mut self.pending, Batch::new(self.name.clone()));
        self.deadline = None;
        if self.settlement.is_kept() {
            if !batch.spans().is_empty() {
                self.settlement.pass_over(batch.spans())?;
            }
            self.end_segments();
            self.settlement.save_stale()?;
        }
        Ok(())
    }

    fn end_segments(&mut self) {
        for (segment, identity, end) in self.ending.drain(..) {
            self.settlement.end_segment(&segment, end, identity);
        }
    }

    /// Hands the pending batch out.
    fn deliver(&mut self) -> Result<Turn, NextError> {
        // What can never be committed is better not begun.
        self.settlement.still_held()?;
        if let Some(oldest) = self.settlement.oldest_of(self.max_uncommitted) {
            return Err(NextError::TooManyUncommitted { limit: self.max_uncommitted, oldest });
        }
        let batch = std::mem::replace(&mut self.pending, Batch::new(self.name.clone()));
        self.deadline = None;
        let ticket = match self.settlement.is_kept() {
            true => {
                let first = batch.get(0).map(|record| record.position().to_string()).unwrap_or_default();
                let label = format!("the one of {} records from {first}", batch.len());
                Some(self.settlement.deliver(batch.spans(), label)?)
            }
            false => None,
        };
        if ticket.is_some() {
            self.end_segments();
        }
        Counters::add(&self.settlement.counters().batches, 1);
        let (shares, settlement) = (std::mem::take(&mut self.shares), self.settlement.clone());
        Ok(Turn::Deliver(Delivery::new(batch, ticket, shares, settlement, self.events.clone())))
    }
}

impl From<Broken> for NextError {
    fn from(Broken { in_a_row, position, fault: Fault { filter, source } }: Broken) -> Self {
        Self::Broken { filter, in_a_row, position, source }
    }
}

/// Where a line is that is not a record.
fn place_of_defect(block: &Block, index: usize) -> Position {
    let defect = &block.defects()[index];
    Position { segment: block.segment().clone(), line: defect.line, offset: defect.offset }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.settlement.close();
    }
}
