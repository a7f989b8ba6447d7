//! Threads that decode sealed segments ahead of the reader.
//!
//! Each sealed segment is a *job*. Decompressing one is work for one worker after another at best, so the first job, for
//! which the reader waits, has a *keeper*, a worker that carves piece by piece from it, whose cache the decoder's window
//! stays in, and leaves the parsing to the others. They parse first, and otherwise carve from later jobs what the budget
//! admits, and parse that themselves. So one large segment keeps all workers busy, several are decoded at once, and the
//! reader takes the results in order.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tailweir_core::{Block, Mark, SegmentName, Shelf};

use crate::carve::{Carved, Ending, Piece, Segment};

/// What a job gives, in order.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are blocks")]
pub(crate) enum Output {
    Block(Block),
    Damaged {
        line: u64,
        reason: String,
    },
    Short,
    Failed(io::Error),
    /// It ends torn, and may go on: the reader is to look after it.
    Torn(Box<Segment>),
    End(Mark),
}

impl Output {
    /// Numbers it behind the `lines` of the blocks before it, and adds its own to them.
    fn count_from(&mut self, lines: &mut u64) {
        match self {
            Self::Block(block) => {
                block.move_lines(*lines);
                *lines += block.lines();
            }
            Self::Damaged { line, .. } => *line += *lines,
            Self::End(mark) => mark.point.line += *lines,
            Self::Torn(segment) => segment.count_lines(*lines),
            Self::Short | Self::Failed(_) => {}
        }
    }

    fn is_last(&self) -> bool {
        matches!(self, Self::Short | Self::Failed(_) | Self::Torn(_) | Self::End(_))
    }
}

/// Where the result of parsing goes.
struct Ticket {
    name: SegmentName,
    number: u64,
}

struct Parsed {
    ticket: Ticket,
    block: Block,
    /// The bytes that were reckoned for its piece.
    held_before: usize,
}

#[derive(Default)]
struct Job {
    /// Absent while a worker is at it, and once it has ended.
    segment: Option<Box<Segment>>,
    ending: Ending,
    /// The worker that carved from it last.
    keeper: Option<usize>,
    ended: bool,
    outputs: VecDeque<Slot>,
    /// The number of the first of them.
    first: u64,
    /// The lines of those that were taken.
    lines: u64,
}

/// A result, or the place of one that is being parsed, and the bytes that it holds.
struct Slot {
    output: Option<Output>,
    held: usize,
}

/// What a worker may do next.
enum Task {
    Carve(SegmentName, Box<Segment>, Ending),
    Parse(Ticket, Piece),
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<SegmentName, Job>,
    /// Pieces of the first job.
    unparsed: VecDeque<(Ticket, Piece)>,
    /// Bytes in outputs, and reserved for those under way.
    held: usize,
    /// Workers that wait, and whether the reader does: nobody else need be woken.
    idle: usize,
    reader_waits: bool,
    stop: bool,
    /// A worker has panicked, so some output will never come.
    broken: bool,
}

impl State {
    fn put(&mut self, parsed: Parsed) {
        let Parsed { ticket, block, held_before } = parsed;
        let held = block.footprint();
        let job = self.jobs.get_mut(&ticket.name);
        // The reader does not pass a place that is empty, so it is still there.
        if let Some(job) = job
            && let Some(slot) = job.outputs.get_mut((ticket.number - job.first) as usize)
        {
            *slot = Slot { output: Some(Output::Block(block)), held };
            self.held = self.held - held_before + held;
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do for a worker.
    work: Condvar,
    /// There may be something to take for the reader.
    ready: Condvar,
    budget: usize,
    reserve: usize,
    shelf: Arc<Shelf>,
    workers: usize,
}

/// The workers and what they have decoded.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// How many blocks' memory is kept for each worker: those that it is at, and those that the reader is about to drop.
const SHELVED: usize = 4;
/// How many pieces the keeper of the first job leaves to each other worker before it parses some itself.
const PIECES_PER_WORKER: usize = 4;
/// A worker's stack: validation recurses into nested JSON.
const STACK: usize = 8 << 20;

impl Pool {
    /// `budget` bounds the bytes held in blocks that the reader has not taken; one block is always admitted. `reserve`
    /// is the size of a usual block.
    pub(crate) fn new(workers: usize, budget: usize, reserve: usize) -> io::Result<Self> {
        let (state, work, ready) = (Mutex::default(), Condvar::new(), Condvar::new());
        let shelf = Shelf::new((workers * SHELVED).min(budget / reserve.max(1)), reserve);
        let shared = Arc::new(Shared { state, work, ready, budget, reserve, shelf, workers });
        let mut pool = Self { shared, workers: Vec::with_capacity(workers) };
        for n in 0..workers {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("tailweir-read-{n}")).stack_size(STACK);
            pool.workers.push(thread.spawn(move || {
                let _alarm = Alarm(&shared);
                shared.work(n);
            })?);
        }
        Ok(pool)
    }

    /// Where segments get the memory for blocks.
    pub(crate) fn shelf(&self) -> &Arc<Shelf> {
        &self.shared.shelf
    }

    /// Whether another job would help.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.shared.lock();
        let running = state.jobs.values().filter(|job| !job.ended).count();
        running <= self.workers.len() && state.jobs.len() < 64
    }

    /// Begins to decode a sealed segment.
    pub(crate) fn submit(&self, name: SegmentName, segment: Box<Segment>, ending: Ending) {
        let mut state = self.shared.lock();
        state.jobs.insert(name, Job { segment: Some(segment), ending, ..Job::default() });
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// The next output of a job, as soon as there is one. `None` if there is no such job. The job is gone after its last
    /// output.
    pub(crate) fn take(&self, name: &SegmentName) -> Option<Output> {
        let mut state = self.shared.lock();
        loop {
            let broken = state.broken;
            let job = state.jobs.get_mut(name)?;
            if job.outputs.front().is_some_and(|slot| slot.output.is_some()) {
                let mut slot = job.outputs.pop_front()?;
                job.first += 1;
                if let Some(output) = &mut slot.output {
                    output.count_from(&mut job.lines);
                }
                if slot.output.as_ref().is_some_and(Output::is_last) {
                    state.jobs.remove(name);
                }
                state.held -= slot.held;
                let wake = state.idle > 0 && self.shared.admissible(&state, 0).is_some();
                drop(state);
                if wake {
                    self.shared.work.notify_one();
                }
                return slot.output;
            }
            if broken {
                state.jobs.remove(name);
                return Some(Output::Failed(io::Error::other("a reading thread has panicked")));
            }
            state.reader_waits = true;
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.reader_waits = false;
        }
    }
}

/// Tells the reader, should its thread panic.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().broken = true;
            self.0.ready.notify_all();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so already.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, me: usize) {
        let mut parsed = None;
        while let Some(task) = self.next_task(me, parsed.take()) {
            let piece = match task {
                Task::Parse(ticket, piece) => Some((ticket, piece)),
                Task::Carve(name, mut segment, ending) => {
                    let result = segment.step(ending);
                    self.carved(name, segment, result)
                }
            };
            parsed = piece.map(|(ticket, piece)| {
                let held_before = piece.footprint();
                Parsed { ticket, block: piece.parse(), held_before }
            });
        }
    }

    /// Puts away what was parsed and gives something to do, for which it may wait. `None` when it is time to stop.
    fn next_task(&self, me: usize, parsed: Option<Parsed>) -> Option<Task> {
        // It is dropped after the lock, so that nobody is woken only to wait for that.
        let mut wakes = Wakes { shared: self, worker: false, reader: false };
        let mut guard = self.lock();
        if let Some(parsed) = parsed {
            wakes.reader = guard.reader_waits;
            guard.put(parsed);
        }
        while !guard.stop {
            if let Some(task) = self.choose(&mut guard, me) {
                return Some(task);
            }
            wakes.wake();
            guard.idle += 1;
            guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner);
            guard.idle -= 1;
        }
        None
    }

    /// What a worker may do now.
    fn choose(&self, state: &mut State, me: usize) -> Option<Task> {
        let enough = state.unparsed.len() >= PIECES_PER_WORKER * (self.workers - 1);
        let keeps =
            state.jobs.values().next().is_some_and(|job| job.keeper.is_none_or(|keeper| keeper == me));
        let parse = |(ticket, piece)| Task::Parse(ticket, piece);
        if (enough || !keeps) && !state.unparsed.is_empty() {
            return state.unparsed.pop_front().map(parse);
        }
        let carve = self.admissible(state, me).cloned().and_then(|name| {
            let job = state.jobs.get_mut(&name)?;
            job.keeper = Some(me);
            Some(Task::Carve(name, job.segment.take()?, job.ending))
        });
        if carve.is_some() {
            state.held += self.reserve;
            return carve;
        }
        state.unparsed.pop_front().map(parse)
    }

    /// The first job that may go on, but rather one that `me` keeps or nobody does. What lies further ahead gets only a part of
    /// the budget: were it used up by that, the job that the reader waits for would come to a crawl. Beyond the budget, that
    /// one goes on piece by piece.
    fn admissible<'a>(&self, state: &'a State, me: usize) -> Option<&'a SegmentName> {
        let wanted = state.held + self.reserve;
        let may_go_on = |n: usize, job: &Job| match n {
            0 => wanted <= self.budget || job.outputs.is_empty(),
            _ => wanted <= self.budget / 8 * 7,
        };
        let may = |(n, (_, job)): &(usize, (&SegmentName, &Job))| job.segment.is_some() && may_go_on(*n, job);
        let mine =
            |(_, (_, job)): &(usize, (&SegmentName, &Job))| job.keeper.is_none_or(|keeper| keeper == me);
        let mut jobs = state.jobs.iter().enumerate().filter(may);
        let first = jobs.clone().next();
        jobs.find(mine).or(first).map(|(_, (name, _))| name)
    }

    /// Puts away what was carved, so that a worker may go on with the segment. Returns a piece that the caller is to parse.
    fn carved(
        &self,
        name: SegmentName,
        segment: Box<Segment>,
        result: io::Result<Carved>,
    ) -> Option<(Ticket, Piece)> {
        let mut wakes = Wakes { shared: self, worker: false, reader: false };
        let mut guard = self.lock();
        let state = &mut *guard;
        state.held -= self.reserve;
        // The reader removes a job only after its last output, so it is still there.
        let is_first = state.jobs.keys().next() == Some(&name);
        let job = state.jobs.get_mut(&name)?;
        let (mut segment, mut piece) = (Some(segment), None);
        let (output, held) = match result {
            Ok(Carved::Working) => {
                job.segment = segment;
                return None;
            }
            Ok(Carved::Piece(carved)) => {
                let number = job.first + job.outputs.len() as u64;
                let held = carved.footprint();
                piece = Some((Ticket { name, number }, carved));
                (None, held)
            }
            Ok(Carved::Oversized(block)) => {
                let held = block.footprint();
                (Some(Output::Block(block)), held)
            }
            Ok(Carved::Damaged { line, reason }) => (Some(Output::Damaged { line, reason }), 0),
            Ok(Carved::Short) => (Some(Output::Short), 0),
            Ok(Carved::End(mark)) => (Some(Output::End(mark)), 0),
            Ok(Carved::Starved) => (segment.take().map(Output::Torn), 0),
            Err(e) => (Some(Output::Failed(e)), 0),
        };
        state.held += held;
        if output.as_ref().is_some_and(Output::is_last) {
            job.ended = true;
        } else {
            job.segment = segment;
        }
        wakes.reader = output.is_some() && state.reader_waits;
        job.outputs.push_back(Slot { output, held });
        // If there is no piece, this worker goes on with the segment.
        wakes.worker = piece.is_some() && state.idle > 0;
        if is_first && self.workers > 1 {
            state.unparsed.extend(piece.take());
        }
        piece
    }
}

/// Who is to be woken when this is dropped.
struct Wakes<'a> {
    shared: &'a Shared,
    worker: bool,
    reader: bool,
}

impl Wakes<'_> {
    fn wake(&mut self) {
        if std::mem::take(&mut self.worker) {
            self.shared.work.notify_one();
        }
        if std::mem::take(&mut self.reader) {
            self.shared.ready.notify_one();
        }
    }
}

impl Drop for Wakes<'_> {
    fn drop(&mut self) {
        self.wake();
    }
}
