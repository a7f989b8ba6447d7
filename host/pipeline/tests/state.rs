//! State of plug-ins as whoever embeds the pipeline has it.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tailweir_core::{
    Batch, Bucket, Failure, Outcome, ProcessFuture, Processor, StateError, StateKeeper, StateLimits,
};
use tailweir_pipeline::{
    Backoff, Delivery, Outgoing, Policy, Sink, SinkFuture, SourceOptions, StartFrom, drive,
};
use tempfile::tempdir;

fn open(delivery: &mut Delivery) -> Result<Bucket, StateError> {
    delivery.state().open("b", &StateLimits::default())
}

fn count(bucket: &Bucket) -> u64 {
    bucket.get("n").unwrap().map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

fn add(bucket: &Bucket, more: usize) {
    bucket.set("n", (count(bucket) + more as u64).to_string().as_bytes()).unwrap();
}

#[tokio::test]
async fn state_goes_with_the_commit_and_with_nothing_else() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..40);
    let mut c = open_one(dir.path(), consumer("c"));
    let mut first = c.next().await.unwrap().unwrap();
    let bucket = open(&mut first).unwrap();
    add(&bucket, first.batch().len());
    let mut second = c.next().await.unwrap().unwrap();
    let problem = open(&mut second).unwrap_err().to_string();
    assert!(problem.contains("the one of 10 records from a:1"), "{problem}");
    first.commit().unwrap();
    assert_eq!(bucket.get("n"), Err(StateError::NoBatch));
    assert_eq!(open(&mut first).unwrap_err(), StateError::NoBatch);
    let bucket = open(&mut second).unwrap();
    assert_eq!(count(&bucket), 10);
    add(&bucket, second.batch().len());
    // A later one without state may be committed before it, and is as if it had not been: the place stays before the second.
    let mut third = c.next().await.unwrap().unwrap();
    third.commit().unwrap();
    drop((second, c));
    assert_eq!(bucket.get("n"), Err(StateError::NoBatch), "a batch that is dropped is over");
    let mut c = open_one(dir.path(), consumer("c"));
    let mut again = c.next().await.unwrap().unwrap();
    assert_eq!(numbers(again.batch()), (10..20).collect::<Vec<_>>());
    assert_eq!(count(&open(&mut again).unwrap()), 10);
}

/// Counts records in its state, and fails as often as is left after it has counted.
struct FailsAfterCounting {
    retries: u32,
    crashes: u32,
}

impl Processor for FailsAfterCounting {
    fn process<'a>(&'a mut self, _: &'a Arc<Batch>) -> ProcessFuture<'a> {
        unreachable!("it is given its state")
    }

    fn process_with_state<'a>(
        &'a mut self,
        batch: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        let bucket = state.open("b", &StateLimits::default()).unwrap();
        add(&bucket, batch.len());
        let reason = "counted it and failed".to_owned();
        let answer = if self.retries > 0 {
            self.retries -= 1;
            Err(Failure::Retry { after: Some(Duration::from_millis(1)), reason })
        } else if self.crashes > 0 {
            self.crashes -= 1;
            Err(Failure::Crash { reason })
        } else {
            Ok(Outcome::Emit(vec!["1".to_owned()]))
        };
        Box::pin(async { answer })
    }
}

/// Fails once.
struct FailsOnce(bool);

impl Sink for FailsOnce {
    fn send<'a>(&'a mut self, _: Outgoing<'a>) -> SinkFuture<'a> {
        let first = !std::mem::replace(&mut self.0, true);
        let failure = Failure::Retry { after: Some(Duration::from_millis(1)), reason: "once".to_owned() };
        Box::pin(async move { if first { Err(failure) } else { Ok(()) } })
    }
}

#[tokio::test]
async fn what_a_failed_attempt_has_changed_is_undone() {
    for (retries, crashes) in [(2, 0), (0, 2), (1, 1), (0, 0)] {
        let dir = tempdir().unwrap();
        sealed(dir.path(), "a", 0..25);
        let mut c = open_one(dir.path(), consumer("c"));
        let quick = Duration::from_millis(1);
        let backoff = Backoff { initial: quick, max: quick, ..Backoff::default() };
        let mut processor = FailsAfterCounting { retries, crashes };
        let policy = Policy { backoff, ..Policy::default() };
        drive(&mut c, &mut processor, &mut FailsOnce(false), &policy).await.unwrap();
        drop(c);
        sealed(dir.path(), "b", 25..30);
        let mut c = open_one(dir.path(), consumer("c"));
        let mut delivery = c.next().await.unwrap().unwrap();
        assert_eq!(numbers(delivery.batch()), (25..30).collect::<Vec<_>>());
        assert_eq!(count(&open(&mut delivery).unwrap()), 25, "{retries} retries, {crashes} crashes");
    }
}

#[tokio::test]
async fn who_looks_on_sees_what_is_committed() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..20);
    let mut c = open_one(dir.path(), consumer("c"));
    let mut delivery = c.next().await.unwrap().unwrap();
    let keeper: Arc<dyn StateKeeper> = delivery.state();
    let view = keeper.view();
    let keys = || view.upgrade().unwrap().contents("b").unwrap().len();
    let bucket = open(&mut delivery).unwrap();
    add(&bucket, 1);
    assert_eq!(keys(), 0);
    delivery.commit().unwrap();
    assert_eq!(keys(), 1);
    drop((delivery, c, keeper));
    assert!(view.upgrade().is_none());
}

#[tokio::test]
async fn segments_that_are_skipped_by_request_stay_skipped() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..10);
    let mut c = open_one(dir.path(), consumer("c"));
    let mut delivery = c.next().await.unwrap().unwrap();
    add(&open(&mut delivery).unwrap(), 10);
    delivery.commit().unwrap();
    drop((delivery, c));
    sealed(dir.path(), "b", 10..20);
    sealed(dir.path(), "c", 20..30);
    let newest = SourceOptions { start: StartFrom::Newest, ..once(dir.path()) };
    let mut c = tailweir_pipeline::open(newest, vec![consumer("c")]).unwrap().pop().unwrap();
    assert_eq!(drain(&mut c).await, (20..30).collect::<Vec<_>>());
    drop(c);
    let mut c = open_one(dir.path(), consumer("c"));
    assert_eq!(drain(&mut c).await, Vec::<u64>::new());
}

#[tokio::test]
async fn without_a_checkpoint_there_is_no_state() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..10);
    let mut options = consumer("c");
    options.checkpoint = None;
    let mut c = open_one(dir.path(), options);
    let mut delivery = c.next().await.unwrap().unwrap();
    assert_eq!(open(&mut delivery).unwrap_err(), StateError::NoCheckpoint);
    delivery.commit().unwrap();
    assert!(!dir.path().join(".c.state").exists());
}
