//! Several processors of one consumer, each with another batch: nothing is lost, and the checkpoint covers what is done with
//! nothing before it left.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use fastrand::Rng;
use tailweir_core::{
    Batch, Event, Failure, Outcome, ProcessFuture, Processor, StateError, StateKeeper, StateLimits,
};
use tailweir_pipeline::{
    Backoff, Closer, ConsumerOptions, DriveError, OnCrash, Outgoing, Policy, Sink, SinkFuture, Then, Worker,
    drive_parallel, open,
};
use tempfile::tempdir;
use tokio::task::yield_now;

/// What an answer is computed by: the batch's first number, and how often the batch was tried.
type Answer<'a> = dyn Fn(u64, u32) -> Result<Outcome, Failure> + 'a;

/// What processors that are alike share.
struct World<'a> {
    answer: Box<Answer<'a>>,
    /// How many turns a batch takes.
    turns: Box<dyn Fn(u64) -> u32 + 'a>,
    /// Is called whenever something has happened.
    look: Box<dyn Fn(&Seen) + 'a>,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Numbers that were dealt with, or rejected.
    settled: BTreeSet<u64>,
    /// The first numbers of batches, in the order in which they were.
    order: Vec<u64>,
    /// How often each batch was tried, by its first number.
    tried: BTreeMap<u64, u32>,
    at_work: usize,
    most_at_work: usize,
}

/// One of them.
struct Alike(Rc<World<'static>>);

impl Processor for Alike {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        Box::pin(async move {
            let (world, numbers) = (&self.0, numbers(batch));
            let tried = {
                let mut seen = world.seen.borrow_mut();
                seen.at_work += 1;
                seen.most_at_work = seen.most_at_work.max(seen.at_work);
                let tried = seen.tried.entry(numbers[0]).or_default();
                *tried += 1;
                *tried
            };
            (world.look)(&world.seen.borrow());
            for _ in 0..(world.turns)(numbers[0]) {
                yield_now().await;
            }
            let answer = (world.answer)(numbers[0], tried);
            let mut seen = world.seen.borrow_mut();
            seen.at_work -= 1;
            if matches!(answer, Ok(_) | Err(Failure::Reject { .. })) {
                seen.order.push(numbers[0]);
                seen.settled.extend(numbers);
            }
            (world.look)(&seen);
            answer
        })
    }
}

/// Remembers what is sent, and that nobody sends anything meanwhile.
#[derive(Default, Clone)]
struct Memory(Rc<RefCell<Vec<String>>>);

impl Sink for Memory {
    fn send<'a>(&'a mut self, records: Outgoing<'a>) -> SinkFuture<'a> {
        let texts = records.records().into_iter().map(|r| String::from_utf8_lossy(r).into_owned());
        self.0.borrow_mut().extend(texts);
        Box::pin(async { Ok(()) })
    }
}

fn world(answer: impl Fn(u64, u32) -> Result<Outcome, Failure> + 'static) -> World<'static> {
    let (turns, look, seen) = (Box::new(|_| 0), Box::new(|_: &Seen| ()), RefCell::default());
    World { answer: Box::new(answer), turns, look, seen }
}

fn workers(world: World<'static>, instances: usize) -> (Vec<Worker>, Rc<World<'static>>, Memory) {
    let (world, sink) = (Rc::new(world), Memory::default());
    let worker = |_| Worker { processor: Box::new(Alike(world.clone())), sink: Box::new(sink.clone()) };
    ((0..instances).map(worker).collect(), world.clone(), sink)
}

fn policy() -> Policy {
    let quick = Duration::from_micros(10);
    let backoff = Backoff { initial: quick, max: quick, ..Backoff::default() };
    Policy { backoff, max_attempts: None, then: Then::Stop, ..Policy::default() }
}

fn retry() -> Failure {
    Failure::Retry { after: None, reason: "busy".into() }
}

/// Lines of the only segment that the checkpoint on the disk covers.
fn covered(directory: &Path) -> u64 {
    let Ok(text) = std::fs::read(directory.join(".c")) else { return 0 };
    let checkpoint: serde_json::Value = serde_json::from_slice(&text).unwrap();
    checkpoint["line"].as_u64().unwrap()
}

/// The first number that is not settled.
fn prefix(settled: &BTreeSet<u64>) -> u64 {
    (0..).find(|n| !settled.contains(n)).unwrap()
}

fn numbered(options: ConsumerOptions, size: usize) -> ConsumerOptions {
    ConsumerOptions { max_batch_size: size, ..options }
}

#[tokio::test]
async fn whatever_the_order_in_which_batches_are_done_nothing_is_lost_and_the_checkpoint_is_a_prefix() {
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let mut out_of_order = 0;
    for _ in 0..40 {
        let (numbers, size, instances) = (rng.u64(1..300), rng.usize(1..12), rng.usize(1..6));
        let dir = tempdir().unwrap();
        sealed(dir.path(), "a", 0..numbers);
        let kinds = rng.u64(..);
        let of = move |n: u64| Rng::with_seed(kinds ^ n);
        let stops_at = (rng.u8(..3) == 0).then(|| rng.u64(..numbers));
        let mut world = world(move |first, tried| match of(first).u8(..10) {
            _ if stops_at.is_some_and(|at| first > at) => Err(Failure::Stop { reason: "enough".into() }),
            0 if tried < 4 => Err(retry()),
            1 => Err(Failure::Reject { indices: vec![0], reason: "odd".into() }),
            2 => Ok(Outcome::Emit(vec![first.to_string()])),
            _ => Ok(Outcome::Done),
        });
        let path = dir.path().to_owned();
        world.turns = Box::new(move |first| of(first).u32(..30));
        world.look = Box::new(move |seen| {
            let covered = covered(&path);
            assert!(covered <= prefix(&seen.settled), "seed {seed}: {covered} lines are covered");
        });
        let mut c = open_one(dir.path(), numbered(consumer("c"), size));
        let (workers, world, sink) = workers(world, instances);
        let result = drive_parallel(&mut c, workers, &policy()).await;
        drop(c);
        let seen = world.seen.take();
        assert_eq!(result.is_err(), seen.settled.len() < numbers as usize, "seed {seed}: {result:?}");
        let batches = numbers.div_ceil(size as u64) as usize;
        assert!(seen.most_at_work <= instances.min(batches), "seed {seed}: {} at work", seen.most_at_work);
        // What was emitted belongs to a batch that is settled.
        assert!(sink.0.borrow().iter().all(|n| seen.settled.contains(&n.parse().unwrap())), "seed {seed}");
        out_of_order += usize::from(!seen.order.is_sorted());
        let left = drain(&mut open_one(dir.path(), consumer("c"))).await;
        let expected: Vec<_> = (prefix(&seen.settled)..numbers).collect();
        assert_eq!(left, expected, "seed {seed}: {result:?}");
        let rejected = |n: &u64| of(*n).u8(..10) == 1 && seen.settled.contains(n);
        let rejected: Vec<_> = (0..numbers).step_by(size).filter(rejected).map(|n| n + 1).collect();
        let mut quarantined: Vec<_> =
            quarantined(dir.path(), "c").into_iter().map(|(line, ..)| line).collect();
        quarantined.sort_unstable();
        assert_eq!(quarantined, rejected, "seed {seed}");
    }
    assert!(out_of_order > 10, "seed {seed}: batches are done one after the other");
}

#[tokio::test]
async fn a_batch_that_is_tried_again_holds_up_nobody_else_until_they_are_too_far_ahead() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..100);
    let (ahead, waited) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (seen, waits) = (ahead.clone(), waited.clone());
    let world = world(move |first, _| {
        if first > 0 {
            seen.set(seen.get() + 1);
            return Ok(Outcome::Done);
        }
        // Once the other one can go no further, long enough for it to go further all the same.
        waits.set(waits.get() + u32::from(seen.get() == 4));
        if waits.get() < 20 { Err(retry()) } else { Ok(Outcome::Done) }
    });
    let directory = dir.path().to_owned();
    let (before, on_disk) = (ahead.clone(), Rc::new(Cell::new(0)));
    let most = on_disk.clone();
    let world = World {
        look: Box::new(move |seen| {
            if !seen.settled.contains(&0) {
                most.set(most.get().max(covered(&directory)));
                assert!(before.get() <= 4, "{} batches are ahead", before.get());
            }
        }),
        ..world
    };
    let events = Arc::new(Events::default());
    let source = heard(dir.path(), events.clone());
    let options = ConsumerOptions { max_uncommitted: 5, ..consumer("c") };
    let mut c = open(source, vec![options]).unwrap().pop().unwrap();
    let (workers, ..) = workers(world, 2);
    drive_parallel(&mut c, workers, &policy()).await.unwrap();
    assert_eq!((ahead.get(), waited.get(), on_disk.get()), (9, 20, 0));
    let warned = |event: &Event| matches!(event, Event::Warning { .. });
    assert!(!events.0.lock().unwrap().iter().any(warned), "that commits are out of order is no surprise");
    drop(c);
    assert!(drain(&mut open_one(dir.path(), consumer("c"))).await.is_empty());
}

#[tokio::test]
async fn a_consumer_that_is_closed_waits_for_batches_at_work_and_for_no_further_attempt() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..100);
    let closer: Rc<RefCell<Option<Closer>>> = Rc::default();
    let close = closer.clone();
    let mut world = world(move |first, _| match first {
        // Nothing but the end keeps it from waiting for so long.
        10 => Err(Failure::Retry { after: Some(Duration::from_secs(3600)), reason: "busy".into() }),
        20 => {
            close.borrow().as_ref().unwrap().close();
            Ok(Outcome::Done)
        }
        _ => Ok(Outcome::Done),
    });
    // The one that is at work while it is closed takes longer.
    world.turns = Box::new(|first| if first == 0 { 500 } else { 5 });
    let mut c = open_one(dir.path(), consumer("c"));
    *closer.borrow_mut() = Some(c.closer());
    let (workers, world, _) = workers(world, 3);
    tokio::time::timeout(Duration::from_secs(60), drive_parallel(&mut c, workers, &policy()))
        .await
        .unwrap()
        .unwrap();
    drop(c);
    let seen = world.seen.take();
    assert!(seen.settled.contains(&0) && seen.settled.contains(&20), "{:?}", seen.settled);
    assert_eq!(covered(dir.path()), 10, "the batch at 10 is not done");
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, (10..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_that_stops_lets_the_others_finish_and_gives_no_more_out() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..1000);
    let mut world = world(|first, _| match first {
        10 => Err(Failure::Stop { reason: "enough".into() }),
        _ => Ok(Outcome::Done),
    });
    world.turns = Box::new(|first| if first == 0 { 500 } else { 5 });
    let mut c = open_one(dir.path(), consumer("c"));
    let (workers, world, _) = workers(world, 2);
    let error = drive_parallel(&mut c, workers, &policy()).await.unwrap_err();
    assert!(matches!(&error, DriveError::Stopped { reason, .. } if reason == "enough"), "{error}");
    drop(c);
    assert_eq!(world.seen.borrow().settled, (0..10).collect::<BTreeSet<_>>());
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await[0], 10);
}

#[tokio::test]
async fn processors_that_break_on_everything_are_found_out_together() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..200);
    let mut world = world(|_, _| Err(Failure::Crash { reason: "trap".into() }));
    world.turns = Box::new(|first| (first % 7) as u32);
    let mut c = open_one(dir.path(), numbered(consumer("c"), 1));
    let (workers, ..) = workers(world, 4);
    let policy = Policy { on_crash: OnCrash::Isolate { limit: Some(16) }, ..policy() };
    let error = drive_parallel(&mut c, workers, &policy).await.unwrap_err();
    // Each of the other three may have found one of its own just then.
    assert!(matches!(&error, DriveError::Broken { in_a_row: 19, .. }), "{error}");
    let set_aside = quarantined(dir.path(), "c").len();
    assert!(set_aside < 19 + 4, "{set_aside} records were set aside");
}

/// Wants state.
struct Stateful;

impl Processor for Stateful {
    fn process<'a>(&'a mut self, _: &'a Arc<Batch>) -> ProcessFuture<'a> {
        unreachable!("it is always given what there is of state")
    }

    fn process_with_state<'a>(
        &'a mut self,
        _: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        let refused = matches!(state.open("x", &StateLimits::default()), Err(StateError::Parallel));
        assert!(refused && state.view().upgrade().is_none());
        Box::pin(async { Ok(Outcome::Done) })
    }
}

#[tokio::test]
async fn there_is_no_state_where_batches_are_done_in_any_order() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..100);
    let worker = || Worker { processor: Box::new(Stateful), sink: Box::new(Memory::default()) };
    let mut c = open_one(dir.path(), consumer("c"));
    drive_parallel(&mut c, vec![worker(), worker()], &policy()).await.unwrap();
    assert!(!dir.path().join(".c.state").exists());
}
