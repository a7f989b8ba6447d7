//! Filtering ahead: threads with instances of a consumer's filters of their own ask them about blocks that the consumer has
//! not come to yet.
//!
//! Only a consumer that has fallen behind its pass has such threads, and all consumers of the process together have no more
//! of them than there are cores. A block that no thread has begun with when the consumer comes to it is the consumer's own
//! business: so a slow filter keeps nobody else's blocks waiting. While a thread is at the consumer's block, the consumer asks its
//! own filters about one further on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tailweir_core::{Batch, Block, FilterFactory};
use tokio::sync::Notify;

use crate::chain::{Answer, instances, sift};

/// How many blocks ahead threads may be, for each of them.
const BLOCKS_PER_THREAD: usize = 3;

/// How many blocks a consumer must be behind for it to be given a thread.
const WORTH_A_THREAD: usize = 3;

/// A consumer that waits asks about another block if that takes so long: else the answer that it waits for is there first, and to ask
/// would cost more than to wait.
const WORTH_ASKING: Duration = Duration::from_micros(500);

/// How many cores there are. To ask takes several files of the control group to be read.
static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// How many more threads the process may have.
static FREE: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(*CORES));

/// What is known of a block that a consumer comes to.
pub(crate) enum Known {
    /// Nothing, and no thread is at it.
    Nothing,
    /// A thread is at it; the consumer is notified when there is an answer.
    Soon,
    Answer(Answer),
}

/// The threads of one consumer.
pub(crate) struct Ahead {
    /// Of each filter of the chain.
    factories: Arc<[Arc<dyn FilterFactory>]>,
    shared: Arc<Shared>,
    threads: usize,
    /// How many threads it may have.
    limit: usize,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    consumer: Arc<str>,
    done: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// In the order in which the consumer comes to them.
    jobs: VecDeque<Job>,
    /// How long the filters took for a block, the last time.
    took: Option<Duration>,
    /// The consumer is gone.
    closed: bool,
}

struct Job {
    block: Arc<Block>,
    progress: Progress,
}

enum Progress {
    Waiting,
    Running,
    Done(Answer),
}

impl Ahead {
    /// `limit` is how many threads there may be; `None` leaves it to the number of cores.
    pub(crate) fn new(
        factories: Vec<Arc<dyn FilterFactory>>,
        limit: Option<usize>,
        consumer: Arc<str>,
        done: Arc<Notify>,
    ) -> Self {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), consumer, done };
        // The consumer's own thread is one of those that filter.
        let limit = limit.unwrap_or_else(|| CORES.saturating_sub(1).max(1));
        Self { factories: factories.into(), shared: Arc::new(shared), threads: 0, limit }
    }

    /// How many of the blocks that come next are of interest.
    pub(crate) fn reach(&self) -> usize {
        (self.threads * BLOCKS_PER_THREAD).max(WORTH_A_THREAD)
    }

    /// Has threads ask about the blocks that come, in order, after the one that the consumer is at.
    pub(crate) fn look_at(&mut self, present: &Arc<Block>, coming: &[Arc<Block>]) {
        if coming.len() >= WORTH_A_THREAD {
            self.start_thread();
        }
        if self.threads == 0 {
            return;
        }
        let mut state = self.shared.lock();
        // How many of them are jobs already: those up to the last job.
        let begun = state.jobs.back().and_then(|last| {
            let mut known = std::iter::once(present).chain(coming);
            known.position(|block| Arc::ptr_eq(block, &last.block))
        });
        if begun.is_none() {
            // Whatever else there is was read by another pass.
            state.jobs.clear();
        }
        for block in &coming[begun.unwrap_or(0)..] {
            state.jobs.push_back(Job { block: block.clone(), progress: Progress::Waiting });
            self.shared.work.notify_one();
        }
    }

    /// What is known of a block. What came before it is forgotten.
    pub(crate) fn ask(&self, block: &Arc<Block>) -> Known {
        if self.threads == 0 {
            return Known::Nothing;
        }
        let mut state = self.shared.lock();
        let Some(index) = state.jobs.iter().position(|job| Arc::ptr_eq(&job.block, block)) else {
            return Known::Nothing;
        };
        state.jobs.drain(..index);
        if state.jobs.front().is_some_and(|job| matches!(job.progress, Progress::Running)) {
            return Known::Soon;
        }
        match state.jobs.pop_front().map(|job| job.progress) {
            Some(Progress::Done(answer)) => Known::Answer(answer),
            _ => Known::Nothing,
        }
    }

    /// A block for the consumer to ask its own filters about while a thread is at the one that it has come to.
    pub(crate) fn begin(&self) -> Option<Running<'_>> {
        let mut state = self.shared.lock();
        if state.took.is_some_and(|took| took < WORTH_ASKING) {
            return None;
        }
        let block = state.begin()?;
        Some(self.shared.running(block))
    }

    /// Starts a thread, if the process may have another and this consumer has not got its share.
    fn start_thread(&mut self) {
        let take = |free: usize| free.checked_sub(1);
        if self.threads >= self.limit
            || FREE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err()
        {
            return;
        }
        let (factories, shared) = (self.factories.clone(), self.shared.clone());
        let run = move || {
            let _place = Place;
            shared.run(&factories);
        };
        match std::thread::Builder::new().name(format!("tailweir-ask-{}", self.threads)).spawn(run) {
            Ok(_) => self.threads += 1,
            // The consumer filters by itself.
            Err(_) => _ = FREE.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// A thread's place among those that the process may have.
struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        FREE.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Ahead {
    /// Threads end after the block that they are at. Nobody waits for that.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a thread. Without instances it does nothing, and all is left to the consumer's own.
    fn run(&self, factories: &[Arc<dyn FilterFactory>]) {
        let Some(mut filters) = instances(factories) else { return };
        while let Some(running) = self.next() {
            let answer = sift(filters.iter_mut(), running.candidates());
            running.end(answer);
        }
    }

    /// Waits for a block. `None` when the consumer is gone.
    fn next(&self) -> Option<Running<'_>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(block) = state.begin() {
                return Some(self.running(block));
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn running(&self, block: Arc<Block>) -> Running<'_> {
        Running { shared: self, block, began: Instant::now() }
    }

    fn job<'a>(state: &'a mut State, block: &Arc<Block>) -> Option<&'a mut Job> {
        state.jobs.iter_mut().find(|job| Arc::ptr_eq(&job.block, block))
    }
}

impl State {
    /// The first block that nobody is at.
    fn begin(&mut self) -> Option<Arc<Block>> {
        let job = self.jobs.iter_mut().find(|job| matches!(job.progress, Progress::Waiting))?;
        job.progress = Progress::Running;
        Some(job.block.clone())
    }
}

/// A block that filters are being asked about. Dropped without an answer, as when the filter panics, it is left to the consumer.
pub(crate) struct Running<'a> {
    shared: &'a Shared,
    block: Arc<Block>,
    began: Instant,
}

impl Running<'_> {
    /// What to ask about: the whole block.
    pub(crate) fn candidates(&self) -> Arc<Batch> {
        let all = 0..self.block.len();
        Arc::new(Batch::of_block(self.shared.consumer.clone(), self.block.clone(), all))
    }

    pub(crate) fn end(self, answer: Answer) {
        self.set(Progress::Done(answer));
    }

    fn set(&self, progress: Progress) {
        let mut state = self.shared.lock();
        state.took = Some(self.began.elapsed());
        // The consumer may have gone on without it.
        if let Some(job) = Shared::job(&mut state, &self.block)
            && matches!(job.progress, Progress::Running)
        {
            job.progress = progress;
            drop(state);
            self.shared.done.notify_one();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.set(Progress::Waiting);
    }
}
