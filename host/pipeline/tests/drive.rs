//! Running a consumer with a processor: what each answer leads to.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use tailweir_core::{Batch, BatchId, Failure, Outcome, ProcessFuture, Processor};
use tailweir_pipeline::{
    Backoff, DriveError, Outgoing, Policy, Sink, SinkFuture, SinkProcessor, Then, drive,
};
use tempfile::tempdir;

type Answer = Result<Outcome, Failure>;

/// Answers as planned, then always with done, and remembers the batches.
#[derive(Default)]
struct Planned {
    plan: VecDeque<Answer>,
    seen: Vec<BatchId>,
}

impl Processor for Planned {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        self.seen.push(batch.id().clone());
        let answer = self.plan.pop_front().unwrap_or(Ok(Outcome::Done));
        Box::pin(async { answer })
    }
}

/// Remembers records.
#[derive(Default, Clone)]
struct Memory(Rc<RefCell<Vec<String>>>);

impl Sink for Memory {
    fn send<'a>(&'a mut self, records: Outgoing<'a>) -> SinkFuture<'a> {
        self.0.borrow_mut().extend(records.records().iter().map(|r| String::from_utf8_lossy(r).into_owned()));
        Box::pin(async { Ok(()) })
    }
}

fn retry() -> Answer {
    Err(Failure::Retry { after: Some(Duration::from_millis(1)), reason: "busy".into() })
}

fn policy(max_attempts: u32, then: Then) -> Policy {
    let quick = Duration::from_millis(1);
    Policy {
        backoff: Backoff { initial: quick, max: quick, ..Backoff::default() },
        max_attempts: Some(max_attempts),
        then,
    }
}

struct Ran {
    result: Result<(), DriveError>,
    seen: Vec<String>,
    sink: Vec<String>,
    quarantined: Vec<u64>,
    left: Vec<u64>,
}

/// Drives a consumer of 25 records in batches of 10 with these answers.
async fn run(plan: impl IntoIterator<Item = Answer>, policy: Policy) -> Ran {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..25);
    let mut processor = Planned { plan: plan.into_iter().collect(), ..Planned::default() };
    let mut sink = Memory::default();
    let mut c = open_one(dir.path(), consumer("c"));
    let result = drive(&mut c, &mut processor, &mut sink, &policy).await;
    drop(c);
    let quarantined = quarantined(dir.path(), "c").into_iter().map(|(line, ..)| line).collect();
    let left = drain(&mut open_one(dir.path(), consumer("c"))).await;
    let seen = processor
        .seen
        .iter()
        .map(|id| id.as_str().split(':').nth(2).unwrap_or_default().to_owned())
        .collect();
    Ran { result, seen, sink: sink.0.take(), quarantined, left }
}

#[tokio::test]
async fn done_batches_are_committed_and_emitted_records_reach_the_sink_first() {
    let ran =
        run([Ok(Outcome::Emit(vec!["1".into(), "2".into()])), Ok(Outcome::Done)], Policy::default()).await;
    ran.result.unwrap();
    assert_eq!(
        (ran.seen, ran.sink),
        (vec!["1".into(), "11".into(), "21".into()], vec!["1".into(), "2".into()])
    );
    assert!(ran.left.is_empty() && ran.quarantined.is_empty());
}

#[tokio::test]
async fn a_retry_brings_the_same_batch() {
    let ran = run([retry(), retry(), Ok(Outcome::Done)], policy(5, Then::Stop)).await;
    ran.result.unwrap();
    assert_eq!(ran.seen, ["1", "1", "1", "11", "21"]);
    assert!(ran.left.is_empty());
}

#[tokio::test]
async fn rejected_records_go_to_quarantine_and_the_rest_is_done() {
    let rejected = Err(Failure::Reject { indices: vec![1, 4], reason: "no".into() });
    let ran = run([rejected], Policy::default()).await;
    ran.result.unwrap();
    assert_eq!(ran.quarantined, [2, 5]);
    assert!(ran.left.is_empty());
}

#[tokio::test]
async fn a_stop_leaves_the_batch_for_the_next_run() {
    let ran = run([Ok(Outcome::Done), Err(Failure::Stop { reason: "gone".into() })], Policy::default()).await;
    let error = ran.result.unwrap_err().to_string();
    assert!(error.starts_with("batch c:a:11:10:") && error.ends_with("is not dealt with: gone"), "{error}");
    assert_eq!(ran.left, (10..25).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_the_last_attempt_the_policy_decides() {
    let crash = || Err(Failure::Crash { reason: "trap".into() });
    let ran = run([crash(), crash(), crash()], policy(3, Then::Stop)).await;
    assert!(ran.result.unwrap_err().to_string().ends_with("failed 3 times, the last time with: trap"));
    assert_eq!(ran.left.len(), 25);

    let ran = run([crash(), retry(), crash()], policy(3, Then::Quarantine)).await;
    ran.result.unwrap();
    assert_eq!(ran.quarantined, (1..=10).collect::<Vec<_>>());
    assert!(ran.left.is_empty());
}

#[tokio::test]
async fn closing_ends_a_long_back_off_and_leaves_the_batch() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..25);
    let forever = Err(Failure::Retry { after: Some(Duration::from_secs(3600)), reason: "busy".into() });
    let mut processor = Planned { plan: [forever].into(), ..Planned::default() };
    let mut c = open_one(dir.path(), consumer("c"));
    let closer = c.closer();
    let (mut sink, policy) = (Memory::default(), Policy::default());
    let driven = async {
        let ended = drive(&mut c, &mut processor, &mut sink, &policy).await;
        ended.unwrap();
    };
    tokio::join!(driven, async { closer.close() });
    drop(c);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await.len(), 25);
}

#[tokio::test]
async fn a_sink_as_processor_gets_the_bytes_as_they_are() {
    let dir = tempdir().unwrap();
    append_text(dir.path(), "a", "{ \"n\" : 1 }\r\n{\"n\":2}\n");
    seal(dir.path(), "a");
    let sink = Memory::default();
    let mut c = open_one(dir.path(), consumer("c"));
    drive(&mut c, &mut SinkProcessor(sink.clone()), &mut Memory::default(), &Policy::default())
        .await
        .unwrap();
    assert_eq!(*sink.0.borrow(), ["{ \"n\" : 1 }", "{\"n\":2}"]);
}

#[test]
fn the_back_off_grows_to_its_limit_and_jitters() {
    let backoff = Backoff::default();
    let waits: Vec<f64> = (1..12).map(|attempt| backoff.after(attempt, 1.0).as_secs_f64()).collect();
    assert_eq!(waits[..4], [0.5, 1.0, 2.0, 4.0]);
    assert_eq!(waits[10], 60.0);
    assert_eq!(backoff.after(u32::MAX, 0.0), Duration::from_secs(48));
}
