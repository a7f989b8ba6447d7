//! What became of the lines that a consumer was given always adds up.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use tailweir_core::{Batch, Event, Filter, FilterError, Located, Sums, Verdict};
use tailweir_pipeline::{
    Consumer, ConsumerOptions, Delivery, FilterOptions, OnFilterError, OnMalformed, open,
};
use tempfile::tempdir;

/// What a line of a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Kept,
    Dropped,
    /// The filter fails on it.
    Poison,
    Malformed,
    Blank,
}

impl Line {
    fn text(self) -> &'static str {
        match self {
            Self::Kept => "{\"n\":1}\n",
            Self::Dropped => "{\"n\":2}\n",
            Self::Poison => "{\"n\":3}\n",
            Self::Malformed => "{\"n\"\n",
            Self::Blank => " \n",
        }
    }
}

struct Sorter(Located);

impl Filter for Sorter {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let numbers = numbers(candidates);
        let keep = |numbers: &[u64]| numbers.iter().map(|n| *n == 1).collect::<Vec<_>>();
        match numbers.iter().position(|n| *n == 3) {
            None => Ok(Verdict::Keep(keep(&numbers))),
            Some(at) => {
                let decided = if self.0 == Located::Record { keep(&numbers[..at]) } else { Vec::new() };
                Err(FilterError { decided, located: self.0, source: "poison".into() })
            }
        }
    }
}

/// What is done with a batch.
#[derive(Debug, Clone, Copy)]
enum Action {
    Commit,
    /// Records are rejected, some of them twice.
    RejectAndCommit,
    RejectAndDrop,
    Drop,
    /// The batch waits until the consumer is gone.
    CommitLater,
    /// Everything is dropped, and the consumer opened again.
    Crash,
}

#[derive(Debug, Clone)]
struct World {
    segments: Vec<Vec<Line>>,
    actions: Vec<Action>,
    located: Located,
    on_malformed: OnMalformed,
    checkpoint: bool,
    block: usize,
    batch: usize,
}

fn worlds() -> impl Strategy<Value = World> {
    use Line::{Blank, Dropped, Kept, Malformed, Poison};
    let line = prop_oneof![6 => Just(Kept), 3 => Just(Dropped), 1 => Just(Poison), 1 => Just(Malformed), 2 => Just(Blank)];
    let segments = prop::collection::vec(prop::collection::vec(line, 0..60), 1..4);
    let action = prop_oneof![
        8 => Just(Action::Commit),
        2 => Just(Action::RejectAndCommit),
        1 => Just(Action::RejectAndDrop),
        1 => Just(Action::Drop),
        1 => Just(Action::CommitLater),
        1 => Just(Action::Crash),
    ];
    let located = prop_oneof![Just(Located::Record), Just(Located::Batch)];
    let on_malformed = prop_oneof![Just(OnMalformed::Quarantine), Just(OnMalformed::Skip)];
    (
        segments,
        prop::collection::vec(action, 0..30),
        located,
        on_malformed,
        any::<bool>(),
        1usize..200,
        1usize..12,
    )
        .prop_map(|(segments, actions, located, on_malformed, checkpoint, block, batch)| World {
            // A file that does not start like JSON text is no segment.
            segments: segments.into_iter().map(|rest| [vec![Kept], rest].concat()).collect(),
            actions,
            located,
            on_malformed,
            checkpoint,
            block,
            batch,
        })
}

impl World {
    fn open(&self, directory: &Path, events: &Arc<Events>) -> Consumer {
        let mut source = heard(directory, events.clone());
        source.reader.block_size = self.block;
        let mut options = ConsumerOptions {
            filters: vec![FilterOptions::new(Sorter(self.located))],
            on_filter_error: OnFilterError::Isolate,
            on_malformed: self.on_malformed,
            max_batch_size: self.batch,
            ..consumer("c")
        };
        if !self.checkpoint {
            options.checkpoint = None;
        }
        open(source, vec![options]).unwrap().pop().unwrap()
    }

    /// What becomes of all lines when everything is read once and each batch committed.
    fn expected(&self) -> Sums {
        let mut sums = Sums::default();
        for line in self.segments.iter().flatten() {
            sums.lines += 1;
            let aside = if self.checkpoint { &mut sums.quarantined } else { &mut sums.rejected };
            match line {
                Line::Kept => sums.acknowledged += 1,
                Line::Dropped => sums.filtered += 1,
                Line::Poison => *aside += 1,
                Line::Malformed if self.on_malformed == OnMalformed::Skip => sums.rejected += 1,
                Line::Malformed => *aside += 1,
                Line::Blank => sums.blank += 1,
            }
        }
        sums
    }
}

fn act(action: Action, mut delivery: Delivery, later: &mut Vec<Delivery>) {
    match action {
        Action::Commit => delivery.commit().unwrap(),
        Action::RejectAndCommit | Action::RejectAndDrop => {
            let half = delivery.batch().len() as u32 / 2;
            delivery.quarantine(&[0, half, 0], "why not").unwrap();
            delivery.quarantine(&[half, 4000], "why not").unwrap();
            if matches!(action, Action::RejectAndCommit) {
                delivery.commit().unwrap();
            }
        }
        Action::CommitLater => later.push(delivery),
        Action::Drop | Action::Crash => {}
    }
}

async fn run(world: World) {
    // Every batch with a record in quarantine brings that to the disk; in memory that takes no time.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempdir()).unwrap();
    for (index, lines) in world.segments.iter().enumerate() {
        let text: String = lines.iter().map(|line| line.text()).collect();
        let name = format!("s{index}");
        append_text(dir.path(), &name, &text);
        seal(dir.path(), &name);
    }
    let events = Arc::new(Events::default());
    let mut c = world.open(dir.path(), &events);
    let (mut later, mut plain, mut opened) = (Vec::new(), true, 1);
    let mut actions = world.actions.iter();
    while let Some(delivery) = c.next().await.unwrap() {
        assert!(c.sums().is_balanced(), "{}", c.sums());
        let action = *actions.next().unwrap_or(&Action::Commit);
        plain &= matches!(action, Action::Commit | Action::CommitLater);
        act(action, delivery, &mut later);
        assert!(c.sums().is_balanced(), "{action:?}: {}", c.sums());
        if let Action::Crash = action {
            later.clear();
            drop(c);
            c = world.open(dir.path(), &events);
            opened += 1;
        }
    }
    if plain {
        let mut expected = world.expected();
        expected.in_flight = later.iter().map(|delivery| delivery.batch().len() as u64).sum();
        expected.acknowledged -= expected.in_flight;
        assert_eq!(c.sums(), expected);
    }
    drop(c);
    later.iter_mut().for_each(|delivery| delivery.commit().unwrap());
    drop(later);
    let events = events.0.lock().unwrap();
    let ended: Vec<_> = events.iter().filter(|event| matches!(event, Event::Ended { .. })).collect();
    assert_eq!(ended.len(), opened);
    for event in ended {
        assert!(matches!(event, Event::Ended { sums, unbalanced: 0, .. } if sums.is_balanced()), "{event:?}");
    }
    if let (true, Some(Event::Ended { sums, .. })) = (plain, events.last()) {
        assert_eq!(*sums, world.expected());
    }
    assert!(!fs::exists(dir.path().join(".c.unbalanced")).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_sums_always_add_up(world in worlds()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(world));
    }
}

#[tokio::test]
async fn what_is_rejected_where_there_is_no_checkpoint_has_a_count_of_its_own() {
    let dir = tempdir().unwrap();
    append_text(dir.path(), "a", "{\"n\":1}\n{\"n\":\n{\"n\":3}\n\n{\"n\":1}\n");
    seal(dir.path(), "a");
    let events = Arc::new(Events::default());
    let source = heard(dir.path(), events.clone());
    let options = ConsumerOptions {
        filters: vec![FilterOptions::new(Sorter(Located::Batch))],
        on_filter_error: OnFilterError::Isolate,
        ..ConsumerOptions::new("c")
    };
    let mut c = open(source, vec![options]).unwrap().pop().unwrap();
    let mut delivery = next(&mut c).await;
    delivery.quarantine(&[1], "why not").unwrap();
    delivery.commit().unwrap();
    let sums = Sums { lines: 5, acknowledged: 1, rejected: 3, blank: 1, ..Sums::default() };
    assert_eq!(c.sums(), sums);
    let counted = c.counters().snapshot();
    assert_eq!((counted.rejected, counted.quarantined), (3, 0));
    let rejected = |event: &Event| matches!(event, Event::Rejected { .. });
    assert_eq!(events.0.lock().unwrap().iter().filter(|event| rejected(event)).count(), 2);
}
