//! Running a consumer with several processors that are alike, each with another batch.
//!
//! Batches are given out in order, and are done in any; the ledger moves the checkpoint over those that are done with nothing
//! before them left. A batch that is tried again and again holds up only the processor that it is at, until the others are as
//! far ahead of it as `max_uncommitted` allows.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use tailweir_core::Processor;

use crate::drive::{Attempts, StateIs, next};
use crate::{Closer, Consumer, Delivery, DriveError, NextError, Policy, Sink};

/// A processor, and where what it emits goes.
pub struct Worker {
    /// It gets one batch at a time, and no [state](tailweir_core::StateKeeper): to open any fails.
    pub processor: Box<dyn Processor>,
    /// It may be the same place for all, but must then keep apart what several send at once.
    pub sink: Box<dyn Sink>,
}

/// Runs a consumer as [`drive`](crate::drive) does, with several processors that are alike: each deals with another batch at the
/// same time, and what they emit reaches the sinks in any order. Commits are made in any order as well, and the checkpoint
/// stays before the first batch that is not done. Batches that are given out are never more than `max_uncommitted` ahead of
/// that one.
///
/// Once the consumer is closed, or one batch has come to a bad end, no further one is given out. Those that processors are at
/// are waited for; one that waits to be tried again is left uncommitted.
///
/// # Errors
/// [`DriveError`]; the first, if there are several. The batch concerned is not committed.
pub async fn drive_parallel(
    consumer: &mut Consumer,
    workers: Vec<Worker>,
    policy: &Policy,
) -> Result<(), DriveError> {
    consumer.expect_any_order();
    let (closer, found_in_a_row) = (consumer.closer(), Cell::new(0));
    let beside = workers.len().saturating_sub(1) as u32;
    let shared = Shared { policy, closer: &closer, found_in_a_row: &found_in_a_row, beside };
    let ahead = consumer.max_uncommitted() as u64;
    let mut at_work =
        AtWork { idle: workers, busy: Vec::new(), reading: None, open: BTreeSet::new(), given: 0 };
    let (mut resting, mut ended) = (Some(consumer), Ok(()));
    loop {
        if ended.is_ok()
            && at_work.may_read(ahead)
            && let Some(consumer) = resting.take()
        {
            at_work.reading = Some(Box::pin(shared.read(consumer)));
        }
        if at_work.is_over() {
            return ended;
        }
        match poll_fn(|cx| at_work.poll(cx)).await {
            Happened::Settled { worker, number, result } => {
                at_work.idle.push(worker);
                at_work.open.remove(&number);
                ended = ended.and(result);
                // However fast the workers are: timers get their turn, of whoever waits for another attempt.
                tokio::task::yield_now().await;
            }
            Happened::Read(consumer, Ok(Some(delivery))) => {
                resting = Some(consumer);
                at_work.give(delivery, &shared);
            }
            // It stays where it is: there is nothing more to read.
            Happened::Read(_, Ok(None)) => {}
            Happened::Read(_, Err(error)) => ended = ended.and(Err(error.into())),
        }
        if ended.is_err() {
            // Nobody shall wait for another attempt.
            closer.close();
        }
    }
}

/// What all that goes on at once has in common.
#[derive(Clone, Copy)]
struct Shared<'a> {
    policy: &'a Policy,
    closer: &'a Closer,
    found_in_a_row: &'a Cell<u32>,
    /// How many others each worker has beside it.
    beside: u32,
}

/// The reader and the workers.
struct AtWork<'a> {
    idle: Vec<Worker>,
    busy: Vec<Going<'a>>,
    reading: Option<Going<'a>>,
    /// The numbers of batches that are not done.
    open: BTreeSet<u64>,
    /// How many batches were given out.
    given: u64,
}

type Going<'a> = Pin<Box<dyn Future<Output = Happened<'a>> + 'a>>;

enum Happened<'a> {
    Read(&'a mut Consumer, Result<Option<Delivery>, NextError>),
    Settled { worker: Worker, number: u64, result: Result<(), DriveError> },
}

impl<'a> Shared<'a> {
    /// Reads the next batch. The consumer is lent for as long as that takes.
    async fn read(self, consumer: &'a mut Consumer) -> Happened<'a> {
        let result = next(consumer, self.policy, self.closer).await;
        Happened::Read(consumer, result)
    }

    /// Has a worker deal with a batch.
    async fn deal(self, mut worker: Worker, mut delivery: Delivery, number: u64) -> Happened<'a> {
        let mut attempts = Attempts {
            processor: &mut *worker.processor,
            sink: &mut *worker.sink,
            policy: self.policy,
            closer: self.closer.clone(),
            found_in_a_row: self.found_in_a_row,
            beside: self.beside,
            state: StateIs::KeptNowhere,
        };
        // If it was left because the consumer is closed, whoever reads finds that out as well.
        let result = attempts.deal_with(&mut delivery).await.map(|_| ());
        Happened::Settled { worker, number, result }
    }
}

impl<'a> AtWork<'a> {
    /// Whether there is a worker for one more batch, and that is not too far ahead of the oldest that is not done.
    fn may_read(&self, ahead: u64) -> bool {
        let oldest = self.open.first().copied().unwrap_or(self.given);
        !self.idle.is_empty() && self.given - oldest < ahead
    }

    fn is_over(&self) -> bool {
        self.busy.is_empty() && self.reading.is_none()
    }

    /// Gives a batch to a worker, of whom one was idle when the batch was asked for.
    fn give(&mut self, delivery: Delivery, shared: &Shared<'a>) {
        let worker = self.idle.pop().expect("no batch is asked for unless a worker is idle");
        let number = self.given;
        self.given += 1;
        self.open.insert(number);
        self.busy.push(Box::pin(shared.deal(worker, delivery, number)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened<'a>> {
        // First those who make room.
        for index in 0..self.busy.len() {
            if let Poll::Ready(happened) = self.busy[index].as_mut().poll(cx) {
                drop(self.busy.swap_remove(index));
                return Poll::Ready(happened);
            }
        }
        if let Some(reading) = &mut self.reading
            && let Poll::Ready(happened) = reading.as_mut().poll(cx)
        {
            self.reading = None;
            return Poll::Ready(happened);
        }
        Poll::Pending
    }
}
