//! What is done with batches.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::{Batch, StateKeeper};

/// Takes batches and answers what became of each.
///
/// Built-in sinks, Lua functions and WebAssembly components implement it and are held to one contract suite: a batch that
/// was answered with [`Failure::Retry`] is delivered again, the same and with the same id; one answered with an
/// [`Outcome`] never.
pub trait Processor {
    /// Deals with one batch.
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a>;

    /// Deals with one batch, and with the state that goes with it. Whoever calls it keeps what was changed after an
    /// [`Outcome`] and after [`Failure::Reject`], and undoes it after any other answer. One that has no state does as
    /// [`process`](Self::process).
    fn process_with_state<'a>(
        &'a mut self,
        batch: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        let _ = state;
        self.process(batch)
    }

    /// Ends when another version has taken this one's place since the last batch: whoever waits for the next attempt need not wait
    /// longer. Never by default.
    fn replaced(&self) -> Replaced {
        Box::pin(std::future::pending())
    }
}

/// Has a processor deal with a batch, with the state that goes with it if there is any.
pub fn process<'a>(
    processor: &'a mut dyn Processor,
    batch: &'a Arc<Batch>,
    state: Option<&'a Arc<dyn StateKeeper>>,
) -> ProcessFuture<'a> {
    match state {
        Some(state) => processor.process_with_state(batch, state),
        None => processor.process(batch),
    }
}

/// The answer to come. It stays on the thread of its consumer.
pub type ProcessFuture<'a> = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + 'a>>;

/// The end of a version, to come. See [`Processor::replaced`].
pub type Replaced = Pin<Box<dyn Future<Output = ()>>>;

/// The batch is dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do.
    Done,
    /// These JSON texts go to the consumer's sink, then the batch is done.
    Emit(Vec<String>),
}

/// The batch is not dealt with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// Deliver it again.
    #[error("retry: {reason}")]
    Retry {
        /// Not before this time has passed, an hour at most, unless another version takes the processor's place; `None` leaves it to
        /// the consumer's back-off.
        after: Option<Duration>,
        /// Why.
        reason: String,
    },
    /// These records can never be dealt with; the others are.
    #[error("{} records rejected: {reason}", indices.len())]
    Reject {
        /// Indices into the batch.
        indices: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// The consumer must stop, with the batch unacknowledged.
    #[error("stop: {reason}")]
    Stop {
        /// Why.
        reason: String,
    },
    /// The processor itself broke (a trap, a deadline, a Lua error); what happens is the consumer's error policy.
    #[error("{reason}")]
    Crash {
        /// What it says.
        reason: String,
    },
}
