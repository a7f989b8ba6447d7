//! Running a consumer with a processor: deliver, settle what it answers, and try again as the policy says.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tailweir_core::{Batch, BatchId, Failure, Outcome, ProcessFuture, Processor};
use thiserror::Error;

use crate::settlement::CommitError;
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
}

impl Default for Policy {
    /// Ten attempts, then stop.
    fn default() -> Self {
        Self { backoff: Backoff::default(), max_attempts: Some(10), then: Then::Stop }
    }
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
    /// A batch could not be committed.
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
}

/// Runs a consumer until it is closed or, if it does not follow, until everything is delivered. `sink` takes what the
/// processor emits.
///
/// A batch that is waiting for its next attempt when the consumer is closed is left uncommitted.
///
/// # Errors
/// [`DriveError`]; the batch concerned is not committed.
pub async fn drive(
    consumer: &mut Consumer,
    processor: &mut dyn Processor,
    sink: &mut dyn Sink,
    policy: &Policy,
) -> Result<(), DriveError> {
    let closer = consumer.closer();
    while let Some(mut delivery) = consumer.next().await? {
        match settle(&mut delivery, processor, sink, policy, &closer).await? {
            Settled::Done => delivery.commit()?,
            Settled::Abandoned => break,
        }
    }
    Ok(())
}

enum Settled {
    Done,
    Abandoned,
}

/// Tries a batch until it is dealt with.
async fn settle(
    delivery: &mut Delivery,
    processor: &mut dyn Processor,
    sink: &mut dyn Sink,
    policy: &Policy,
    closer: &Closer,
) -> Result<Settled, DriveError> {
    let batch = delivery.batch().clone();
    let name = || batch.id().to_string();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let answer = attempt(&batch, processor, sink).await;
        let (after, reason) = match answer {
            Ok(()) => return Ok(Settled::Done),
            Err(Failure::Reject { indices, reason }) => {
                delivery.quarantine(&indices, &reason)?;
                return Ok(Settled::Done);
            }
            Err(Failure::Stop { reason }) => {
                return Err(DriveError::Stopped { batch: name(), reason });
            }
            Err(Failure::Retry { after, reason }) => (after, reason),
            Err(Failure::Crash { reason }) => (None, reason),
        };
        if policy.max_attempts.is_some_and(|max| attempts >= max) {
            return match policy.then {
                Then::Stop => Err(DriveError::GaveUp { batch: name(), attempts, reason }),
                Then::Quarantine => {
                    let all: Vec<u32> = (0..batch.len() as u32).collect();
                    delivery.quarantine(&all, &reason)?;
                    Ok(Settled::Done)
                }
            };
        }
        let wait = after.unwrap_or_else(|| policy.backoff.after(attempts, fastrand::f64()));
        delivery.retrying(wait, &reason);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = closer.closed() => return Ok(Settled::Abandoned),
        }
    }
}

async fn attempt(
    batch: &Arc<Batch>,
    processor: &mut dyn Processor,
    sink: &mut dyn Sink,
) -> Result<(), Failure> {
    match processor.process(batch).await? {
        Outcome::Done => Ok(()),
        Outcome::Emit(records) => sink.send(Outgoing::Emitted { batch, records: &records }).await,
    }
}
