//! Running a consumer with a processor: deliver, settle what it answers, and try again as the policy says.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tailweir_core::{
    Batch, BatchId, Bucket, Failure, Outcome, ProcessFuture, Processor, StateError, StateKeeper, StateLimits,
    StateView,
};
use thiserror::Error;

use crate::halving::{Failed, Halving};
use crate::settlement::{CommitError, Settlement};
use crate::state::BatchState;
use crate::{Closer, Consumer, Delivery, NextError};

/// Where records go: a batch's own, or those that a processor emits.
pub trait Sink {
    /// Sends records, in order. They count as sent when the future is done with `Ok`; a [`Failure::Retry`] brings the same
    /// records again with the same id.
    fn send<'a>(&'a mut self, records: Outgoing<'a>) -> SinkFuture<'a>;
}

/// Records on their way to a sink.
#[derive(Debug, Clone, Copy)]
pub enum Outgoing<'a> {
    /// Those of a batch.
    Batch(&'a Batch),
    /// Those that a processor made of a batch.
    Emitted {
        /// What it made them of.
        batch: &'a Batch,
        /// JSON texts without line breaks.
        records: &'a [String],
    },
}

impl<'a> Outgoing<'a> {
    /// The id of the batch.
    pub fn id(&self) -> &'a BatchId {
        match self {
            Self::Batch(batch) | Self::Emitted { batch, .. } => batch.id(),
        }
    }

    /// The records, in order.
    pub fn records(&self) -> Vec<&'a [u8]> {
        match self {
            Self::Batch(batch) => batch.iter().map(|record| record.bytes()).collect(),
            Self::Emitted { records, .. } => records.iter().map(|record| record.as_bytes()).collect(),
        }
    }

    /// The records as lines, each with its line break: pieces of text that are to be written one after another.
    pub fn lines(&self) -> Vec<&'a [u8]> {
        match self {
            Self::Batch(batch) => batch.lines(),
            Self::Emitted { records, .. } => {
                records.iter().flat_map(|record| [record.as_bytes(), b"\n"]).collect()
            }
        }
    }
}

/// The answer to come of a [`Sink`].
pub type SinkFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// A sink as a processor: it sends each batch's records, byte for byte.
pub struct SinkProcessor<S>(pub S);

impl<S: Sink> Processor for SinkProcessor<S> {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        Box::pin(async move {
            self.0.send(Outgoing::Batch(batch)).await?;
            Ok(Outcome::Done)
        })
    }
}

/// What to do with a batch that fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How long to wait before each further attempt.
    pub backoff: Backoff,
    /// How many attempts a batch gets; `None` is no limit.
    pub max_attempts: Option<u32>,
    /// What follows the last one.
    pub then: Then,
    /// What follows when the processor itself breaks.
    pub on_crash: OnCrash,
}

impl Default for Policy {
    /// Ten attempts, then stop. Records that the processor breaks on are found.
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            max_attempts: Some(10),
            then: Then::Stop,
            on_crash: OnCrash::Isolate { limit: Some(OnCrash::LIMIT) },
        }
    }
}

/// What follows a [`Failure::Crash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrash {
    /// The batch is tried again, as if the processor had asked for that: for processors whose errors are mostly not about a
    /// record.
    Retry,
    /// The batch is tried once more, and then in halves, until the records are found that the processor breaks on, each by
    /// itself. They go to quarantine, the others are dealt with, in order. Parts have ids of their own.
    Isolate {
        /// How many records in a row may be found, with none dealt with between them, until it is the processor that is
        /// held to be broken, and [`DriveError::Broken`] comes back. `None` is no limit.
        limit: Option<u32>,
    },
}

impl OnCrash {
    /// The usual limit of [`OnCrash::Isolate`].
    pub const LIMIT: u32 = 16;
}

/// Exponential back-off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// What each wait is multiplied by for the next one.
    pub multiplier: f64,
    /// The part of each wait that is random, 0 to 1, so that consumers do not retry in step.
    pub jitter: f64,
}

impl Default for Backoff {
    /// From half a second, doubling up to a minute, a fifth of it random.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(60),
            multiplier: 2.0,
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The wait after the `attempt`th failure, counted from 1; `random` is from 0 to 1.
    pub fn after(&self, attempt: u32, random: f64) -> Duration {
        let factor = self.multiplier.max(1.0).powi(attempt.saturating_sub(1).min(1000) as i32);
        let wait = (self.initial.as_secs_f64() * factor).min(self.max.as_secs_f64());
        let jitter = self.jitter.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(wait * (1.0 - jitter + jitter * random)).unwrap_or(self.max)
    }
}

/// What follows a batch's last attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Its records go to quarantine, and the next batch is delivered.
    Quarantine,
    /// The consumer stops; the batch is not committed.
    Stop,
}

/// Why [`drive`] ended.
#[derive(Debug, Error)]
pub enum DriveError {
    /// There is no next batch.
    #[error(transparent)]
    Next(#[from] NextError),
    /// A batch could not be committed, for another reason than that the checkpoint could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The processor or the sink asked to stop.
    #[error("batch {batch} is not dealt with: {reason}")]
    Stopped {
        /// The batch, which comes again on the next run.
        batch: String,
        /// Why.
        reason: String,
    },
    /// A batch has failed as often as the policy allows.
    #[error("batch {batch} failed {attempts} times, the last time with: {reason}")]
    GaveUp {
        /// The batch, which comes again on the next run.
        batch: String,
        /// How often.
        attempts: u32,
        /// Why, the last time.
        reason: String,
    },
    /// The processor breaks on whatever it is given. None of the batch's records is in quarantine.
    #[error(
        "batch {batch} is not dealt with: the processor broke on {in_a_row} records in a row, each by itself, so it is the \
         processor that must be mended; the last time with: {reason}"
    )]
    Broken {
        /// The batch, which comes again on the next run.
        batch: String,
        /// How many records.
        in_a_row: u32,
        /// Why, the last time.
        reason: String,
    },
}

/// Runs a consumer until it is closed or, if it does not follow, until everything is delivered. `sink` takes what the
/// processor emits.
///
/// A batch that is waiting for its next attempt when the consumer is closed is left uncommitted. A checkpoint or a quarantine
/// that can't be written is tried again until it can, however many attempts a batch gets; a quarantine that is as large as
/// it may be ends it.
///
/// # Errors
/// [`DriveError`]; the batch concerned is not committed.
pub async fn drive(
    consumer: &mut Consumer,
    processor: &mut dyn Processor,
    sink: &mut dyn Sink,
    policy: &Policy,
) -> Result<(), DriveError> {
    let (closer, found_in_a_row) = (consumer.closer(), Cell::new(0));
    let (found_in_a_row, state) = (&found_in_a_row, StateIs::KeptWithBatch);
    let mut attempts = Attempts { processor, sink, policy, closer, found_in_a_row, beside: 0, state };
    while let Some(mut delivery) = next(consumer, policy, &attempts.closer).await? {
        if attempts.deal_with(&mut delivery).await? == Dealt::Abandoned {
            break;
        }
    }
    Ok(())
}

/// The next batch. While the quarantine of a line that is no record can't be written, it is tried again.
pub(crate) async fn next(
    consumer: &mut Consumer,
    policy: &Policy,
    closer: &Closer,
) -> Result<Option<Delivery>, NextError> {
    let mut attempts = 0;
    loop {
        match consumer.next().await {
            Err(NextError::Quarantine(error)) if error.may_pass() => {
                attempts += 1;
                if attempts == 1 {
                    consumer.unwritten(&error);
                }
            }
            other => return other,
        }
        if pause(policy.backoff.after(attempts, fastrand::f64()), closer).await == Waited::Closed {
            return Ok(None);
        }
    }
}

/// Puts the rejected records of a batch in quarantine and commits it. While that can't be written, as on a full disk, it is
/// tried again: the batch is dealt with, so there is nothing that could be given up. When the consumer is closed meanwhile,
/// the batch is left uncommitted.
async fn finish(
    delivery: &mut Delivery,
    rejected: &[Rejected],
    policy: &Policy,
    closer: &Closer,
) -> Result<(), CommitError> {
    let mut attempts = 0;
    while let Err(error) = write(delivery, rejected) {
        let may_pass = match &error {
            CommitError::Store(_) => true,
            CommitError::Quarantine(error) => error.may_pass(),
            _ => false,
        };
        if !may_pass {
            return Err(error);
        }
        attempts += 1;
        if attempts == 1 {
            delivery.unwritten(&error);
        }
        if pause(policy.backoff.after(attempts, fastrand::f64()), closer).await == Waited::Closed {
            break;
        }
    }
    Ok(())
}

/// Goes on where it failed when it is called again.
fn write(delivery: &mut Delivery, rejected: &[Rejected]) -> Result<(), CommitError> {
    for Rejected { indices, reason } in rejected {
        delivery.quarantine(indices, reason)?;
    }
    delivery.commit()
}

/// The longest that a processor may ask to wait: with more, a slip in its arithmetic would stop its consumer for years.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

async fn pause(wait: Duration, closer: &Closer) -> Waited {
    tokio::select! {
        () = tokio::time::sleep(wait) => Waited::Over,
        () = closer.closed() => Waited::Closed,
    }
}

/// Records of a batch that are to be set aside.
struct Rejected {
    indices: Vec<u32>,
    reason: String,
}

enum Settled {
    /// What is set aside is written once all is decided: if the processor turns out to be broken, nothing is.
    Done {
        rejected: Vec<Rejected>,
    },
    Abandoned,
}

/// What became of a batch, or of a part of one.
enum Answer {
    Done,
    /// These are to be set aside; the others are done.
    Rejected(Rejected),
    Crashed(String),
    /// The consumer was closed in the meantime.
    Abandoned,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dealt {
    Done,
    /// It was left uncommitted, as the consumer was closed.
    Abandoned,
}

/// Where state is kept that goes with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateIs {
    KeptWithBatch,
    /// Nowhere: several batches are dealt with at once.
    KeptNowhere,
}

/// Stands for the state that there is none of.
struct NoState;

impl StateKeeper for NoState {
    fn open(&self, _: &str, _: &StateLimits) -> Result<Bucket, StateError> {
        Err(StateError::Parallel)
    }

    fn view(&self) -> Weak<dyn StateView> {
        Weak::<Settlement>::new()
    }
}

/// Tries batches.
pub(crate) struct Attempts<'a> {
    pub(crate) processor: &'a mut dyn Processor,
    pub(crate) sink: &'a mut dyn Sink,
    pub(crate) policy: &'a Policy,
    pub(crate) closer: Closer,
    /// Records that the processor, or one of those beside it, broke on since one of them last dealt with a record.
    pub(crate) found_in_a_row: &'a Cell<u32>,
    /// How many processors like it there are beside it. Each may just have found a record when it does.
    pub(crate) beside: u32,
    pub(crate) state: StateIs,
}

impl Attempts<'_> {
    /// Deals with a delivery to its commit.
    pub(crate) async fn deal_with(&mut self, delivery: &mut Delivery) -> Result<Dealt, DriveError> {
        match self.settle(delivery).await? {
            Settled::Done { rejected } => finish(delivery, &rejected, self.policy, &self.closer).await?,
            Settled::Abandoned => return Ok(Dealt::Abandoned),
        }
        Ok(Dealt::Done)
    }

    /// Tries a batch, as a whole and then in parts, until it is dealt with.
    async fn settle(&mut self, delivery: &mut Delivery) -> Result<Settled, DriveError> {
        let batch = delivery.batch().clone();
        let state = delivery.batch_state().clone();
        let mut halving = Halving::new(batch.len());
        let mut rejected = Vec::new();
        while let Some(range) = halving.next() {
            let (first, end) = (range.start as u32, range.end as u32);
            let is_whole = range.len() == batch.len();
            let part = if is_whole { batch.clone() } else { Arc::new(batch.slice(range)) };
            match self.answer(&part, &state, delivery).await? {
                Answer::Abandoned => return Ok(Settled::Abandoned),
                Answer::Crashed(reason) => match halving.failed() {
                    // Once for the batch: trouble that passes is over then, and to be alone a record need not wait.
                    Failed::Again if is_whole => {
                        if self.wait(None, 1, &reason, delivery).await == Waited::Closed {
                            return Ok(Settled::Abandoned);
                        }
                    }
                    Failed::Again | Failed::Halved => {}
                    Failed::Found(index) => {
                        self.count_found(&batch, &reason)?;
                        rejected.push(Rejected { indices: vec![index as u32], reason });
                    }
                },
                answer => {
                    self.found_in_a_row.set(0);
                    halving.passed();
                    if let Answer::Rejected(Rejected { indices, reason }) = answer {
                        let indices = indices.iter().map(|index| index.saturating_add(first));
                        let indices = indices.filter(|index| *index < end).collect();
                        rejected.push(Rejected { indices, reason });
                    }
                }
            }
        }
        Ok(Settled::Done { rejected })
    }

    /// Counts a record that the processor breaks on; whether it breaks on all of them.
    fn count_found(&mut self, batch: &Batch, reason: &str) -> Result<(), DriveError> {
        let in_a_row = self.found_in_a_row.get() + 1;
        self.found_in_a_row.set(in_a_row);
        match self.policy.on_crash {
            OnCrash::Isolate { limit: Some(limit) } if in_a_row >= limit.saturating_add(self.beside) => {
                let (batch, reason) = (batch.id().to_string(), reason.to_owned());
                Err(DriveError::Broken { batch, in_a_row, reason })
            }
            _ => Ok(()),
        }
    }

    /// Tries a part of `delivery` until there is an answer other than to try again.
    async fn answer(
        &mut self,
        part: &Arc<Batch>,
        state: &Arc<BatchState>,
        delivery: &Delivery,
    ) -> Result<Answer, DriveError> {
        let name = || delivery.batch().id().to_string();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (after, reason) = match self.attempt(part, state).await {
                Ok(()) => return Ok(Answer::Done),
                Err(Failure::Reject { indices, reason }) => {
                    return Ok(Answer::Rejected(Rejected { indices, reason }));
                }
                Err(Failure::Stop { reason }) => return Err(DriveError::Stopped { batch: name(), reason }),
                Err(Failure::Retry { after, reason }) => (after, reason),
                Err(Failure::Crash { reason }) => match self.policy.on_crash {
                    OnCrash::Isolate { .. } => return Ok(Answer::Crashed(reason)),
                    OnCrash::Retry => (None, reason),
                },
            };
            if self.policy.max_attempts.is_some_and(|max| attempts >= max) {
                return match self.policy.then {
                    Then::Stop => Err(DriveError::GaveUp { batch: name(), attempts, reason }),
                    Then::Quarantine => {
                        let indices = (0..part.len() as u32).collect();
                        Ok(Answer::Rejected(Rejected { indices, reason }))
                    }
                };
            }
            if self.wait(after, attempts, &reason, delivery).await == Waited::Closed {
                return Ok(Answer::Abandoned);
            }
        }
    }

    /// Waits before the next attempt, and says so.
    async fn wait(
        &self,
        after: Option<Duration>,
        attempts: u32,
        reason: &str,
        delivery: &Delivery,
    ) -> Waited {
        let wait = match after {
            Some(asked) => asked.min(LONGEST_WAIT),
            None => self.policy.backoff.after(attempts, fastrand::f64()),
        };
        delivery.retrying(wait, reason);
        let replaced = self.processor.replaced();
        tokio::select! {
            waited = pause(wait, &self.closer) => waited,
            () = replaced => Waited::Over,
        }
    }

    /// Gives a part to the processor, and what it emits to the sink. State that was changed stays if the part is dealt with,
    /// be it without the records that are rejected.
    async fn attempt(&mut self, part: &Arc<Batch>, state: &Arc<BatchState>) -> Result<(), Failure> {
        let keeper: Arc<dyn StateKeeper> = match self.state {
            StateIs::KeptWithBatch => state.clone(),
            StateIs::KeptNowhere => Arc::new(NoState),
        };
        let answer = match self.processor.process_with_state(part, &keeper).await {
            Ok(Outcome::Done) => Ok(()),
            Ok(Outcome::Emit(records)) => {
                self.sink.send(Outgoing::Emitted { batch: part, records: &records }).await
            }
            Err(failure) => Err(failure),
        };
        match &answer {
            Ok(()) | Err(Failure::Reject { .. }) => state.keep(),
            Err(_) => state.undo(),
        }
        answer
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Over,
    Closed,
}
