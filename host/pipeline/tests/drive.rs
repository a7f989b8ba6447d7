//! Running a consumer with a processor: what each answer leads to.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use tailweir_core::{Batch, BatchId, Event, EventSink, Failure, Outcome, ProcessFuture, Processor, Replaced};
use tailweir_pipeline::{
    Backoff, ConsumerOptions, DriveError, OnCrash, Outgoing, Policy, Sink, SinkFuture, SinkProcessor, Then,
    drive, open,
};
use tempfile::tempdir;

type Answer = Result<Outcome, Failure>;

/// Answers as planned, then always with done, and remembers the batches: their ids and numbers.
#[derive(Default)]
struct Planned {
    plan: VecDeque<Answer>,
    seen: Vec<(BatchId, Vec<u64>)>,
}

impl Processor for Planned {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        self.seen.push((batch.id().clone(), numbers(batch)));
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
        ..Policy::default()
    }
}

struct Ran {
    result: Result<(), DriveError>,
    /// What a [`Planned`] one was given.
    given: Vec<(BatchId, Vec<u64>)>,
    /// The first line of each batch that was given.
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
        .map(|(id, _)| id.as_str().split(':').nth(2).unwrap_or_default().to_owned())
        .collect();
    Ran { result, given: processor.seen, seen, sink: sink.0.take(), quarantined, left }
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
    let (id, numbers) = &ran.given[0];
    assert!(id.as_str().starts_with("c:a:1:10:") && numbers.iter().copied().eq(0..10), "{id}: {numbers:?}");
    assert!(ran.given[..3].iter().all(|given| given == &ran.given[0]), "{:?}", ran.given);
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

/// Takes what is in a file's way out of it once a consumer says that it waits, as many times as there are.
struct MakesWay {
    at: std::path::PathBuf,
    said: Mutex<Vec<String>>,
}

impl EventSink for MakesWay {
    fn emit(&self, event: Event) {
        if let Event::Warning { message } = event
            && message.contains("waits until it can write")
        {
            std::fs::remove_dir(&self.at).unwrap();
            self.said.lock().unwrap().push(message);
        }
    }
}

/// What a drive of the records 0 to 24 and a line that is none leaves in the quarantine, whose file has something in its way
/// at first.
async fn run_with_a_blocked_quarantine(text: &str, plan: impl IntoIterator<Item = Answer>) -> Vec<u64> {
    let dir = tempdir().unwrap();
    append_text(dir.path(), "a", text);
    sealed(dir.path(), "a", 0..25);
    let at = dir.path().join(".c.quarantine");
    std::fs::create_dir(&at).unwrap();
    let events = Arc::new(MakesWay { at, said: Mutex::default() });
    let mut c = open(heard(dir.path(), events.clone()), vec![consumer("c")]).unwrap().pop().unwrap();
    let mut processor = Planned { plan: plan.into_iter().collect(), ..Planned::default() };
    let policy = policy(1, Then::Stop);
    drive(&mut c, &mut processor, &mut Memory::default(), &policy).await.unwrap();
    drop(c);
    assert_eq!(events.said.lock().unwrap().len(), 1);
    assert!(drain(&mut open_one(dir.path(), consumer("c"))).await.is_empty());
    quarantined(dir.path(), "c").into_iter().map(|(line, ..)| line).collect()
}

#[tokio::test]
async fn f13_a_quarantine_that_can_not_be_written_is_written_later() {
    let rejected = Err(Failure::Reject { indices: vec![1, 4], reason: "no".into() });
    assert_eq!(run_with_a_blocked_quarantine("", [rejected]).await, [2, 5]);
    assert_eq!(run_with_a_blocked_quarantine("{\n", []).await, [1]);
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
    let policy = |attempts, then| Policy { on_crash: OnCrash::Retry, ..policy(attempts, then) };
    let ran = run([crash(), crash(), crash()], policy(3, Then::Stop)).await;
    assert!(ran.result.unwrap_err().to_string().ends_with("failed 3 times, the last time with: trap"));
    assert_eq!(ran.left.len(), 25);

    let ran = run([crash(), retry(), crash()], policy(3, Then::Quarantine)).await;
    ran.result.unwrap();
    assert_eq!(ran.quarantined, (1..=10).collect::<Vec<_>>());
    assert!(ran.left.is_empty());
}

/// Emits what it is given, but crashes on some records, and at each call that is the `nth` of an instance.
struct Fragile {
    poison: fn(u64) -> bool,
    nth: u64,
    calls: u64,
    /// What it answers for the part that begins with this record, once.
    odd: Option<(u64, Failure)>,
}

impl Processor for Fragile {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        Box::pin(async move {
            self.calls += 1;
            let numbers = numbers(batch);
            if numbers.iter().any(|n| (self.poison)(*n)) || self.calls == self.nth {
                self.calls = 0;
                return Err(Failure::Crash { reason: "trap".into() });
            }
            if let Some((_, failure)) = self.odd.take_if(|(first, _)| numbers[0] == *first) {
                return Err(failure);
            }
            Ok(Outcome::Emit(numbers.iter().map(u64::to_string).collect()))
        })
    }
}

/// Drives a consumer of 100 records in batches of 20; also says whether the ids of what was emitted differ.
async fn break_it(
    poison: fn(u64) -> bool,
    nth: u64,
    odd: Option<(u64, Failure)>,
    policy: Policy,
) -> (Ran, bool) {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..100);
    let mut processor = Fragile { poison, nth, calls: 0, odd };
    let mut sink = Ids::default();
    let mut options = consumer("c");
    options.max_batch_size = 20;
    let mut c = open_one(dir.path(), options);
    let result = drive(&mut c, &mut processor, &mut sink, &policy).await;
    drop(c);
    let quarantined = quarantined(dir.path(), "c").into_iter().map(|(line, ..)| line - 1).collect();
    let left = drain(&mut open_one(dir.path(), consumer("c"))).await;
    let distinct = sink.0.iter().map(|(id, _)| id).collect::<std::collections::HashSet<_>>().len();
    let (all, seen) = (distinct == sink.0.len(), sink.0.iter().map(|(id, _)| id.clone()).collect());
    let sink = sink.0.into_iter().flat_map(|(_, records)| records).collect();
    (Ran { result, given: Vec::new(), seen, sink, quarantined, left }, all)
}

/// Remembers records with the id that they came with.
#[derive(Default)]
struct Ids(Vec<(String, Vec<String>)>);

impl Sink for Ids {
    fn send<'a>(&'a mut self, records: Outgoing<'a>) -> SinkFuture<'a> {
        let texts = records.records().iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
        self.0.push((records.id().to_string(), texts));
        Box::pin(async { Ok(()) })
    }
}

fn texts(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn f15_records_that_a_processor_breaks_on_are_found_and_the_others_are_emitted_once_and_in_order() {
    for poison in [|n: u64| n == 37, |n| n == 20 || n == 39, |n| n % 7 == 3, |n| n < 9 || n == 99, |_| false]
    {
        for nth in [0, 2, 5] {
            let (ran, distinct) = break_it(poison, nth, None, policy(3, Then::Stop)).await;
            ran.result.unwrap();
            assert_eq!(ran.sink, texts((0..100).filter(|n| !poison(*n))));
            assert_eq!(ran.quarantined, (0..100).filter(|n| poison(*n)).collect::<Vec<_>>());
            assert!(ran.left.is_empty() && distinct, "{:?}", ran.seen);
        }
    }
    let (ran, _) = break_it(|n| n == 37, 0, None, policy(3, Then::Stop)).await;
    assert!(
        ran.seen.iter().any(|id| id.starts_with("c:a:31:5:")),
        "a part's id is its records': {:?}",
        ran.seen
    );
}

/// Waits are for trouble that passes: to find records one by one takes one for the batch, however many there are.
#[tokio::test]
async fn looking_for_records_waits_once() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..20);
    let events = Arc::new(Events::default());
    let mut c = open(
        heard(dir.path(), events.clone()),
        vec![ConsumerOptions { max_batch_size: 20, ..consumer("c") }],
    )
    .unwrap()
    .pop()
    .unwrap();
    let mut processor = Fragile { poison: |n| n % 5 == 2, nth: 0, calls: 0, odd: None };
    drive(&mut c, &mut processor, &mut Ids::default(), &policy(3, Then::Stop)).await.unwrap();
    assert_eq!(quarantined(dir.path(), "c").len(), 4);
    let retried = |event: &Event| matches!(event, Event::Retried { .. });
    assert_eq!(events.0.lock().unwrap().iter().filter(|event| retried(event)).count(), 1);
}

#[tokio::test]
async fn parts_are_retried_rejected_and_stopped_as_batches_are() {
    let retry = Failure::Retry { after: Some(Duration::from_millis(1)), reason: "busy".into() };
    let (ran, _) = break_it(|n| n == 37, 0, Some((38, retry)), policy(3, Then::Stop)).await;
    ran.result.unwrap();
    assert_eq!((ran.quarantined, ran.sink.len()), (vec![37], 99));

    let reject = Failure::Reject { indices: vec![1, 7], reason: "no".into() };
    let (ran, _) = break_it(|n| n == 37, 0, Some((38, reject)), policy(3, Then::Stop)).await;
    ran.result.unwrap();
    assert_eq!((ran.quarantined, ran.left.len()), (vec![37, 39], 0), "an index behind the part is nobody's");

    let stop = Failure::Stop { reason: "gone".into() };
    let (ran, _) = break_it(|n| n == 37, 0, Some((38, stop)), policy(3, Then::Stop)).await;
    assert!(ran.result.unwrap_err().to_string().ends_with("is not dealt with: gone"));
    assert_eq!((ran.quarantined, ran.left), (vec![], (20..100).collect()));
}

#[tokio::test]
async fn a_processor_that_breaks_on_everything_is_stopped_and_costs_no_record() {
    let (ran, _) = break_it(|n| n >= 20, 0, None, policy(3, Then::Stop)).await;
    let error = ran.result.unwrap_err().to_string();
    assert!(error.contains("the processor broke on 16 records in a row, each by itself"), "{error}");
    assert_eq!((ran.sink, ran.quarantined), (texts(0..20), vec![]));
    assert_eq!(ran.left, (20..100).collect::<Vec<_>>());

    let endless = Policy { on_crash: OnCrash::Isolate { limit: None }, ..policy(3, Then::Quarantine) };
    let (ran, _) = break_it(|n| n >= 20, 0, None, endless).await;
    ran.result.unwrap();
    assert_eq!((ran.quarantined, ran.left.len()), ((20..100).collect(), 0));
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

/// Asks to wait for ten years, twice; another version takes its place at once.
struct Old {
    calls: usize,
}

impl Processor for Old {
    fn process<'a>(&'a mut self, _: &'a Arc<Batch>) -> ProcessFuture<'a> {
        self.calls += 1;
        let ten_years = Duration::from_secs(10 * 365 * 86_400);
        let answer = match self.calls {
            1 | 2 => Err(Failure::Retry { after: Some(ten_years), reason: "busy".into() }),
            _ => Ok(Outcome::Done),
        };
        Box::pin(async { answer })
    }

    fn replaced(&self) -> Replaced {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_an_hour_nor_for_a_version_that_is_gone() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..5);
    let events = Arc::new(Events::default());
    let mut c = open(heard(dir.path(), events.clone()), vec![consumer("c")]).unwrap().pop().unwrap();
    let mut processor = Old { calls: 0 };
    drive(&mut c, &mut processor, &mut Memory::default(), &Policy::default()).await.unwrap();
    assert_eq!(processor.calls, 3);
    let wait = |event: &Event| match event {
        Event::Retried { after_ms, .. } => Some(*after_ms),
        _ => None,
    };
    assert_eq!(events.0.lock().unwrap().iter().filter_map(wait).collect::<Vec<_>>(), [3_600_000; 2]);
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
