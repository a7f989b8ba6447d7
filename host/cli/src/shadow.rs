//! Shadows: second versions of plug-ins, which are given what the live ones are given, and whose answers are compared with
//! theirs and go nowhere.
//!
//! The live path hands each batch over together with the answer to it, and goes on: a shadow has a thread of its own, of low
//! priority, and a queue that holds little. Batches that find it full are left out of the comparison, and counted. What a
//! shadow does wrong is counted, too, and changes nothing.

mod compare;
mod cpu;
mod filter;
mod processor;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tailweir_core::{Batch, Contents, Event, EventSink};

use crate::logging::LogEvents;
use crate::reload::Place;
use compare::{Answer, Compared, Said};

pub(crate) use filter::shadow_filter;
pub(crate) use processor::ShadowOfProcessor;

/// How many batches may wait for a shadow, and how much memory they may hold on to; one may always wait.
const MAX_BATCHES: usize = 64;
const MAX_BYTES: usize = 32 << 20;

/// How often at most a shadow's state is made anew from the live one's, which the live path has to copy.
const COPY_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is told how a shadow does, and how many differences are told one by one in that time.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
const TOLD: usize = 5;

/// How long shadows may take, all together, to go through what waits for them when everything else is done.
const AT_THE_END: Duration = Duration::from_secs(5);

/// The shadows of a process.
#[derive(Default)]
pub(crate) struct Shadows(Mutex<Vec<Arc<Shadow>>>);

impl Shadows {
    fn add(&self, shadow: &Arc<Shadow>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(shadow.clone());
    }

    /// Gives them a little time for what they have not come to yet, and says how they did. To be called when the live
    /// plug-ins are done.
    pub(crate) fn finish(&self) {
        let deadline = Instant::now() + AT_THE_END;
        let shadows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shadows.iter().for_each(|shadow| shadow.finish(deadline));
    }
}

/// All that are there, for an end in haste.
static OPEN: Mutex<Vec<Weak<Shadow>>> = Mutex::new(Vec::new());

/// Says how the shadows of the process did, as [`Shadows::finish`] does, but waits for nothing, and says nothing twice.
pub(crate) fn tell_open() {
    let shadows: Vec<_> = {
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(Weak::upgrade).collect()
    };
    shadows.iter().filter(|shadow| !shadow.lock().finished).for_each(|shadow| shadow.finish(Instant::now()));
}

/// Whether a shadow must be given the state of the live plug-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    State,
    Nothing,
}

/// What the live path and a shadow's thread share.
pub(crate) struct Shadow {
    /// Of the live plug-in.
    place: Place,
    file: PathBuf,
    queue: Mutex<Queue>,
    /// There is something to do, or nothing will come any more.
    work: Condvar,
    /// Something was done.
    done: Condvar,
    events: Arc<dyn EventSink>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// What they hold on to.
    bytes: usize,
    /// The thread is at one that is not in the queue any more.
    busy: bool,
    /// So many records of it are not counted yet.
    at: u64,
    /// Batches were left out since the last one that was let in. Set at first.
    gap: bool,
    /// When the live one's state was copied last.
    copied: Option<Instant>,
    /// Nobody takes anything out any more.
    closed: bool,
    /// It was told in the end how it did.
    finished: bool,
    figures: Figures,
    /// When it was told last how it does, and how it did then.
    told: Option<(Instant, Figures)>,
    /// How many differences were told one by one since.
    told_one_by_one: usize,
}

impl Queue {
    /// How the shadow does, if it is time to tell.
    fn due(&mut self) -> Option<Figures> {
        let now = Instant::now();
        let (told, before) = *self.told.get_or_insert((now, Figures::default()));
        if now.duration_since(told) < REPORT_INTERVAL {
            return None;
        }
        self.told = Some((now, self.figures));
        self.told_one_by_one = 0;
        (self.figures != before).then_some(self.figures)
    }
}

/// How a shadow does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    /// Records on which both have answered.
    compared: u64,
    /// Those of them on which they differ.
    differing: u64,
    /// Records that the shadow failed on.
    failed: u64,
    /// Records that the shadow was not given.
    skipped: u64,
    /// What the records compared have taken either.
    live: Duration,
    shadow: Duration,
}

/// A batch that the live plug-in has dealt with.
struct Job {
    batch: Arc<Batch>,
    live: Answer,
    took: Duration,
    /// What it holds on to.
    bytes: usize,
    /// The first one, and the first one behind a gap: what the shadow remembers does not lead up to it.
    anew: Option<Anew>,
}

/// What a shadow begins anew with.
struct Anew {
    /// The live plug-in's state before the batch, if it has any.
    state: Option<Contents>,
}

impl Shadow {
    fn new(place: Place, file: &Path) -> Arc<Self> {
        let shadow = Self::with_events(place, file, Arc::new(LogEvents));
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&shadow));
        shadow
    }

    fn with_events(place: Place, file: &Path, events: Arc<dyn EventSink>) -> Arc<Self> {
        let queue = Mutex::new(Queue { gap: true, ..Queue::default() });
        let (work, done, file) = (Condvar::new(), Condvar::new(), file.to_owned());
        Arc::new(Self { place, file, queue, work, done, events })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what the live plug-in has answered on a batch, unless the shadow is behind. `state` copies the live one's
    /// state before the batch; it is called only where that is needed.
    fn offer(
        &self,
        batch: &Arc<Batch>,
        took: Duration,
        keeps: Keeps,
        live: Said<'_>,
        state: impl FnOnce() -> Option<Contents>,
    ) {
        let bytes = batch.footprint() + live.bytes();
        let mut queue = self.lock();
        let full = queue.jobs.len() >= MAX_BATCHES || queue.bytes + bytes > MAX_BYTES;
        let copied = |at: Instant| at.elapsed() < COPY_INTERVAL;
        let too_soon = queue.gap && keeps == Keeps::State && queue.copied.is_some_and(copied);
        if queue.closed || (full && !queue.jobs.is_empty()) || too_soon {
            queue.figures.skipped += batch.len() as u64;
            queue.gap = true;
            return;
        }
        let anew = std::mem::take(&mut queue.gap).then(|| Anew {
            state: match keeps {
                Keeps::State => {
                    queue.copied = Some(Instant::now());
                    state()
                }
                Keeps::Nothing => None,
            },
        });
        queue.jobs.push_back(Job { batch: batch.clone(), live: live.to_owned(), took, bytes, anew });
        queue.bytes += bytes;
        drop(queue);
        self.work.notify_one();
    }

    /// What the live plug-in has done since is not known to the shadow: it must have the state anew for the next batch.
    fn out_of_step(&self) {
        self.lock().gap = true;
    }

    /// The next job. `None` when there will be none. Tells how the shadow does from time to time.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(figures) = queue.due() {
                // Not under the lock: whoever reads the log may be slow.
                drop(queue);
                self.tell(figures);
                queue = self.lock();
            }
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.bytes -= job.bytes;
                (queue.busy, queue.at) = (true, job.batch.len() as u64);
                return Some(job);
            }
            queue = self.work.wait_timeout(queue, REPORT_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Notes how the shadow's answer to a job compares.
    fn note(&self, job: &Job, took: Duration, compared: Compared) {
        let mut queue = self.lock();
        if queue.closed {
            // It was counted as skipped, and the sum was told.
            return;
        }
        let records = std::mem::take(&mut queue.at);
        let figures = &mut queue.figures;
        let mut examples = match compared {
            Compared::Failed { reason } => {
                figures.failed += records;
                let first = job.batch.get(0).map(|record| record.position());
                first.map(|at| (at, "answers".to_owned(), format!("fails: {reason}"))).into_iter().collect()
            }
            Compared::Answered { differing, examples } => {
                figures.compared += records;
                figures.differing += differing;
                figures.live += job.took;
                figures.shadow += took;
                examples
            }
        };
        examples.truncate(TOLD - queue.told_one_by_one);
        queue.told_one_by_one += examples.len();
        drop(queue);
        for (position, live, shadow) in examples {
            let (consumer, role) = (self.place.consumer.clone(), self.place.what());
            self.events.emit(Event::ShadowDiffers { consumer, role, position, live, shadow });
        }
        self.lock().busy = false;
        self.done.notify_all();
    }

    fn tell(&self, figures: Figures) {
        let Figures { compared, differing, failed, skipped, live, shadow } = figures;
        self.events.emit(Event::ShadowCompared {
            consumer: self.place.consumer.clone(),
            role: self.place.what(),
            file: self.file.display().to_string(),
            compared,
            differing,
            failed,
            skipped,
            live,
            shadow,
        });
    }

    /// Waits until the thread is through with what there is, but not for longer than that, and says how the shadow did.
    fn finish(&self, deadline: Instant) {
        let mut queue = self.lock();
        while !queue.closed && (queue.busy || !queue.jobs.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.done.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.close(&mut queue);
        queue.finished = true;
        let figures = queue.figures;
        drop(queue);
        self.tell(figures);
    }

    /// Nothing more is compared; what waits for it is counted as skipped.
    fn close(&self, queue: &mut Queue) {
        queue.closed = true;
        let waiting: u64 = queue.jobs.drain(..).map(|job| job.batch.len() as u64).sum();
        queue.figures.skipped += waiting + std::mem::take(&mut queue.at);
        self.work.notify_all();
        self.done.notify_all();
    }
}
