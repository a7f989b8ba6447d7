//! Threads that decode sealed segments ahead of the reader.
//!
//! Each sealed segment is a *job*. A worker takes one bounded step at a time: it carves a piece from the first job that
//! nobody else is at and that the budget admits, or parses a piece that was carved. So one large segment is decoded by
//! one worker while the others parse, several are decoded at once, and the reader takes the results in order.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tailweir_core::{Block, Mark, SegmentName, Shelf};

use crate::Seal;
use crate::carve::{Carved, Piece, Segment};

/// What a job gives, in order.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are blocks")]
pub(crate) enum Output {
    Block(Block),
    Damaged { line: u64, reason: String },
    Short,
    Failed(io::Error),
    End(Mark),
}

impl Output {
    fn is_last(&self) -> bool {
        matches!(self, Self::Short | Self::Failed(_) | Self::End(_))
    }
}

/// What one worker may do next.
enum Task {
    Carve(SegmentName, Box<Segment>),
    Parse(Ticket, Piece),
}

/// Where the result of parsing goes.
struct Ticket {
    name: SegmentName,
    number: u64,
}

#[derive(Default)]
struct Job {
    /// Absent while a worker is at it, and once it has ended.
    segment: Option<Box<Segment>>,
    ended: bool,
    outputs: VecDeque<Slot>,
    /// The number of the first of them.
    first: u64,
}

/// A result, or the place of one that is being parsed, and the bytes that it holds.
struct Slot {
    output: Option<Output>,
    held: usize,
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<SegmentName, Job>,
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

struct Shared {
    state: Mutex<State>,
    /// There is something to do for a worker.
    work: Condvar,
    /// There may be something to take for the reader.
    ready: Condvar,
    budget: usize,
    reserve: usize,
    shelf: Arc<Shelf>,
}

/// The workers and what they have decoded.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// How many blocks' memory is kept for each worker: those that it is at, and those that the reader is about to drop.
const SHELVED: usize = 4;
/// A worker's stack: validation recurses into nested JSON.
const STACK: usize = 8 << 20;

impl Pool {
    /// `budget` bounds the bytes held in blocks that the reader has not taken; one block is always admitted. `reserve`
    /// is the size of a usual block.
    pub(crate) fn new(workers: usize, budget: usize, reserve: usize) -> io::Result<Self> {
        let (state, work, ready) = (Mutex::default(), Condvar::new(), Condvar::new());
        let shelf = Shelf::new((workers * SHELVED).min(budget / reserve.max(1)), reserve);
        let shared = Arc::new(Shared { state, work, ready, budget, reserve, shelf });
        let mut pool = Self { shared, workers: Vec::with_capacity(workers) };
        for n in 0..workers {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("tailweir-read-{n}")).stack_size(STACK);
            pool.workers.push(thread.spawn(move || {
                let _alarm = Alarm(&shared);
                shared.work();
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
    pub(crate) fn submit(&self, name: SegmentName, segment: Box<Segment>) {
        let mut state = self.shared.lock();
        state.jobs.insert(name, Job { segment: Some(segment), ..Job::default() });
        self.shared.wake_worker(&state);
    }

    /// The next output of a job, as soon as there is one. `None` if there is no such job. The job is gone after its last
    /// output.
    pub(crate) fn take(&self, name: &SegmentName) -> Option<Output> {
        let mut state = self.shared.lock();
        loop {
            let broken = state.broken;
            let job = state.jobs.get_mut(name)?;
            if job.outputs.front().is_some_and(|slot| slot.output.is_some()) {
                let slot = job.outputs.pop_front()?;
                job.first += 1;
                if slot.output.as_ref().is_some_and(Output::is_last) {
                    state.jobs.remove(name);
                }
                state.held -= slot.held;
                self.shared.wake_worker(&state);
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

    fn work(&self) {
        while let Some(task) = self.next_task() {
            match task {
                Task::Carve(name, mut segment) => {
                    let result = segment.step(Seal::Sealed);
                    self.carved(name, segment, result);
                }
                Task::Parse(ticket, piece) => {
                    let held = piece.footprint();
                    let block = piece.parse();
                    self.parsed(ticket, block, held);
                }
            }
        }
    }

    /// Waits for something to do. `None` when it is time to stop.
    fn next_task(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            if let Some((ticket, piece)) = state.unparsed.pop_front() {
                return Some(Task::Parse(ticket, piece));
            }
            if let Some((name, segment)) = self.admitted(&mut state) {
                state.held += self.reserve;
                return Some(Task::Carve(name, segment));
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn wake_worker(&self, state: &State) {
        if state.idle > 0 {
            self.work.notify_one();
        }
    }

    fn wake_reader(&self, state: &State) {
        if state.reader_waits {
            self.ready.notify_one();
        }
    }

    /// The first job that may go on. Beyond the budget only the one does that the reader waits for.
    fn admitted(&self, state: &mut State) -> Option<(SegmentName, Box<Segment>)> {
        let fits = state.held + self.reserve <= self.budget;
        for (n, (name, job)) in state.jobs.iter_mut().enumerate() {
            if fits || (n == 0 && job.outputs.is_empty()) {
                if let Some(segment) = job.segment.take() {
                    return Some((name.clone(), segment));
                }
            } else {
                break;
            }
        }
        None
    }

    fn carved(&self, name: SegmentName, segment: Box<Segment>, result: io::Result<Carved>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.held -= self.reserve;
        // The reader removes a job only after its last output, so it is still there.
        let Some(job) = state.jobs.get_mut(&name) else {
            return;
        };
        let (output, held) = match result {
            Ok(Carved::Working) => {
                job.segment = Some(segment);
                return;
            }
            Ok(Carved::Piece(piece)) => {
                let number = job.first + job.outputs.len() as u64;
                let held = piece.footprint();
                state.unparsed.push_back((Ticket { name, number }, piece));
                (None, held)
            }
            Ok(Carved::Oversized(block)) => {
                let held = block.footprint();
                (Some(Output::Block(block)), held)
            }
            Ok(Carved::Damaged { line, reason }) => (Some(Output::Damaged { line, reason }), 0),
            Ok(Carved::Short) => (Some(Output::Short), 0),
            Ok(Carved::End(mark)) => (Some(Output::End(mark)), 0),
            Ok(Carved::Starved) => (Some(Output::Failed(io::ErrorKind::UnexpectedEof.into())), 0),
            Err(e) => (Some(Output::Failed(e)), 0),
        };
        state.held += held;
        if output.as_ref().is_some_and(Output::is_last) {
            job.ended = true;
        } else {
            job.segment = Some(segment);
        }
        let parsed = output.is_some();
        job.outputs.push_back(Slot { output, held });
        self.wake_worker(state);
        if parsed {
            self.wake_reader(state);
        }
    }

    fn parsed(&self, ticket: Ticket, block: Block, held_before: usize) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(job) = state.jobs.get_mut(&ticket.name) else {
            return;
        };
        let held = block.footprint();
        if let Some(slot) = job.outputs.get_mut((ticket.number - job.first) as usize) {
            *slot = Slot { output: Some(Output::Block(block)), held };
            state.held = state.held - held_before + held;
        }
        self.wake_reader(state);
    }
}
