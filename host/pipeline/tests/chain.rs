//! Several filters of one consumer, and columns that several ask for.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use common::*;
use fastrand::Rng;
use tailweir_core::{Batch, Filter, FilterError, FilterFactory, Located, Pointer, Verdict};
use tailweir_pipeline::{Consumer, ConsumerOptions, FilterOptions, NextError, OnFilterError, open};
use tempfile::tempdir;

/// What a filter of a generated chain does with each number.
#[derive(Debug, Clone)]
struct Plan {
    /// Keeps multiples of any of these.
    keeps: Vec<u64>,
    fails_on: Vec<u64>,
    located: Located,
}

impl Plan {
    fn any(rng: &mut Rng, numbers: u64) -> Self {
        let keeps = match rng.u8(..4) {
            0 => vec![1],
            1 => Vec::new(),
            _ => vec![rng.u64(1..4), rng.u64(2..7)],
        };
        let fails_on = (0..rng.u64(..4)).map(|_| rng.u64(..numbers)).collect();
        let located = if rng.bool() { Located::Record } else { Located::Batch };
        Self { keeps, fails_on, located }
    }

    fn keeps(&self, n: u64) -> bool {
        self.keeps.iter().any(|of| n.is_multiple_of(*of))
    }
}

/// Does as planned, and remembers what it was asked about.
struct Planned(Plan, Arc<Mutex<Vec<u64>>>);

impl Filter for Planned {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let (Self(plan, asked), numbers) = (&*self, numbers(candidates));
        asked.lock().unwrap().extend(&numbers);
        let mut decided: Vec<bool> = numbers.iter().map(|n| plan.keeps(*n)).collect();
        if let Some(at) = numbers.iter().position(|n| plan.fails_on.contains(n)) {
            decided.truncate(if plan.located == Located::Record { at } else { 0 });
            return Err(FilterError { decided, located: plan.located, source: "poison".into() });
        }
        Ok(match decided.iter().filter(|keep| **keep).count() {
            0 => Verdict::None,
            n if n == decided.len() => Verdict::All,
            _ => Verdict::Keep(decided),
        })
    }
}

/// What a chain does with a number: the filter that drops it or fails on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Dropped(usize),
    Failed(usize),
}

fn fate(plans: &[Plan], n: u64) -> Fate {
    for (index, plan) in plans.iter().enumerate() {
        if plan.fails_on.contains(&n) {
            return Fate::Failed(index);
        }
        if !plan.keeps(n) {
            return Fate::Dropped(index);
        }
    }
    Fate::Kept
}

type Asked = Vec<Arc<Mutex<Vec<u64>>>>;

fn chained(plans: &[Plan]) -> (ConsumerOptions, Asked) {
    let asked: Asked = plans.iter().map(|_| Arc::default()).collect();
    let mut options = consumer("c");
    for (index, (plan, asked)) in plans.iter().zip(&asked).enumerate() {
        let filter = FilterOptions::new(Planned(plan.clone(), asked.clone()));
        options.filters.push(FilterOptions { name: format!("filter {index}"), ..filter });
    }
    (options, asked)
}

/// The plug-ins named in a quarantine, by line.
fn blamed(directory: &std::path::Path) -> BTreeMap<u64, String> {
    let text = std::fs::read_to_string(directory.join(".c.quarantine")).unwrap_or_default();
    let entry = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        (value["line"].as_u64().unwrap(), value["plugin"].as_str().unwrap().to_owned())
    };
    text.lines().map(entry).collect()
}

#[tokio::test]
async fn a_record_is_kept_if_all_filters_keep_it_and_blamed_on_the_one_that_fails_on_it() {
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    for _ in 0..100 {
        let numbers = rng.u64(1..60);
        let plans: Vec<_> = (0..rng.usize(2..5)).map(|_| Plan::any(&mut rng, numbers)).collect();
        let dir = tempdir().unwrap();
        sealed(dir.path(), "a", 0..numbers);
        let (mut options, asked) = chained(&plans);
        options.on_filter_error = OnFilterError::Isolate;
        let mut source = once(dir.path());
        source.reader.block_size = rng.usize(20..400);
        let mut c = open(source, vec![options]).unwrap().pop().unwrap();
        let fates: Vec<_> = (0..numbers).map(|n| (n, fate(&plans, n))).collect();
        let kept: Vec<_> = fates.iter().filter(|(_, fate)| *fate == Fate::Kept).map(|(n, _)| *n).collect();
        assert_eq!(drain(&mut c).await, kept, "seed {seed}: {plans:?}");
        let blame = |(n, fate): &(u64, Fate)| match fate {
            Fate::Failed(index) => Some((n + 1, format!("filter {index}"))),
            _ => None,
        };
        let expected: BTreeMap<_, _> = fates.iter().filter_map(blame).collect();
        assert_eq!(blamed(dir.path()), expected, "seed {seed}: {plans:?}");
        for (index, asked) in asked.iter().enumerate() {
            let for_it = |n: &u64| match fate(&plans, *n) {
                Fate::Kept => true,
                Fate::Dropped(by) | Fate::Failed(by) => index <= by,
            };
            assert!(asked.lock().unwrap().iter().all(for_it), "seed {seed}: {plans:?} asked {index} in vain");
        }
    }
}

#[tokio::test]
async fn an_error_is_raised_where_the_first_filter_to_fail_has_failed() {
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    for _ in 0..100 {
        let numbers = rng.u64(1..60);
        let mut plans: Vec<_> = (0..rng.usize(2..5)).map(|_| Plan::any(&mut rng, numbers)).collect();
        plans.iter_mut().for_each(|plan| plan.located = Located::Record);
        let dir = tempdir().unwrap();
        sealed(dir.path(), "a", 0..numbers);
        let mut c = open_one(dir.path(), chained(&plans).0);
        let first = (0..numbers).find_map(|n| match fate(&plans, n) {
            Fate::Failed(index) => Some((n, index)),
            _ => None,
        });
        let end = first.map_or(numbers, |(n, _)| n);
        let mut kept = Vec::new();
        let ended = loop {
            match c.next().await {
                Ok(Some(delivery)) => kept.extend(crate::numbers(delivery.batch())),
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        let expected: Vec<_> = (0..end).filter(|n| fate(&plans, *n) == Fate::Kept).collect();
        assert_eq!(kept, expected, "seed {seed}: {plans:?}");
        let error = first.map(|(n, index)| format!("filter {index} failed at a:{}: poison", n + 1));
        assert_eq!(ended, error, "seed {seed}: {plans:?}");
    }
}

#[tokio::test]
async fn a_filter_that_does_not_know_the_record_names_the_first_that_it_was_given() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..10);
    let mut options = consumer("c");
    options.filters.push(FilterOptions::new(Keep(|n| n % 4 == 3)));
    let fails = FilterOptions::new(FailsOn(7, Located::Batch));
    options.filters.push(FilterOptions { name: "the second".to_owned(), ..fails });
    let error = open_one(dir.path(), options).next().await.err().unwrap().to_string();
    assert_eq!(error, "the second failed at a:4: poison");
}

/// Answers that others give between its failures say nothing about a filter.
#[tokio::test]
async fn a_broken_filter_is_found_though_the_one_before_it_drops_most_records() {
    for located in [Located::Record, Located::Batch] {
        let dir = tempdir().unwrap();
        sealed(dir.path(), "a", 0..400);
        let mut options = consumer("c");
        options.on_filter_error = OnFilterError::Isolate;
        options.filters.push(FilterOptions::new(Keep(|n| n % 10 == 0)));
        let plan = Plan { keeps: vec![1], fails_on: (0..400).collect(), located };
        let broken = FilterOptions::new(Planned(plan, Arc::default()));
        options.filters.push(FilterOptions { name: "the second".to_owned(), ..broken });
        let mut c = open_one(dir.path(), options);
        let error = c.next().await.err().unwrap();
        assert!(matches!(&error, NextError::Broken { filter, in_a_row: 16, .. } if filter == "the second"));
        assert!(error.to_string().contains("the last one at a:151"), "{error}");
        assert!(quarantined(dir.path(), "c").is_empty());
    }
}

/// Asks for a column, and counts the values that had to be looked for.
struct Asks {
    pointer: Pointer,
    looked_for: Arc<AtomicU64>,
    keep: fn(u64) -> bool,
}

impl Filter for Asks {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        self.looked_for.fetch_add((candidates.len() - candidates.known(&self.pointer)) as u64, Relaxed);
        let number = |value: Option<&str>| value.unwrap().parse().unwrap();
        Ok(Verdict::Keep(candidates.column(&self.pointer).map(number).map(self.keep).collect()))
    }
}

impl FilterFactory for Asks {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn std::error::Error + Send + Sync>> {
        let (pointer, looked_for) = (self.pointer.clone(), self.looked_for.clone());
        Ok(Box::new(Self { pointer, looked_for, keep: self.keep }))
    }
}

fn asks(looked_for: &Arc<AtomicU64>, keep: fn(u64) -> bool) -> FilterOptions {
    let pointer = Pointer::parse("/n").unwrap();
    FilterOptions::new(Asks { pointer, looked_for: looked_for.clone(), keep })
}

#[tokio::test]
async fn a_column_that_several_filters_ask_for_is_extracted_once() {
    let dir = tempdir().unwrap();
    for segment in 0..3 {
        sealed(dir.path(), &format!("s{segment}"), segment * 1000..(segment + 1) * 1000);
    }
    let open_with = |filters: Vec<FilterOptions>, name: &str| {
        let options = ConsumerOptions { filters, ..ConsumerOptions::new(name) };
        let mut source = once(dir.path());
        // Of records as short as these ones, a small block keeps the columns.
        source.reader.block_size = 3000;
        open(source, vec![options]).unwrap().pop().unwrap()
    };
    let looked_for = Arc::<AtomicU64>::default();
    let even: fn(u64) -> bool = |n| n.is_multiple_of(2);
    let third: fn(u64) -> bool = |n| n.is_multiple_of(3);
    let filters = vec![asks(&looked_for, even), asks(&looked_for, third), asks(&looked_for, |_| true)];
    let mut chain = open_with(filters, "chain");
    assert_eq!(drain(&mut chain).await, (0..3000).step_by(6).collect::<Vec<_>>());
    assert_eq!(looked_for.swap(0, Relaxed), 3000);
    // A filter that is alone looks each up, and nothing is kept.
    let mut alone = open_with(vec![asks(&looked_for, even)], "alone");
    assert_eq!(drain(&mut alone).await.len(), 1500);
    assert_eq!(looked_for.swap(0, Relaxed), 3000);
}

#[tokio::test]
async fn a_column_that_several_consumers_ask_for_is_extracted_once() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..2000);
    let looked_for = Arc::<AtomicU64>::default();
    let named = |n: usize| ConsumerOptions {
        filters: vec![asks(&looked_for, |n| n.is_multiple_of(2))],
        ..ConsumerOptions::new(format!("c{n}"))
    };
    let mut source = once(dir.path());
    source.reader.block_size = 3000;
    let mut consumers: Vec<Consumer> = open(source, (0..16).map(named).collect()).unwrap();
    let mut seen = 0;
    // In turns, as on one thread, so that nobody falls behind the pass.
    let mut left: Vec<_> = consumers.iter_mut().collect();
    while !left.is_empty() {
        let mut still = Vec::new();
        for consumer in left {
            if let Some(delivery) = consumer.next().await.unwrap() {
                seen += delivery.batch().len();
                still.push(consumer);
            }
        }
        left = still;
    }
    assert_eq!(seen, 16 * 1000);
    assert_eq!(looked_for.load(Relaxed), 2000);
}

#[tokio::test]
async fn a_chain_is_asked_on_more_threads_and_says_the_same() {
    let dir = tempdir().unwrap();
    for segment in 0..6u64 {
        sealed(dir.path(), &format!("s{segment}"), segment * 500..(segment + 1) * 500);
    }
    let looked_for = Arc::<AtomicU64>::default();
    let link = |keep| {
        let more: Arc<dyn FilterFactory> =
            Arc::new(Asks { pointer: Pointer::parse("/n").unwrap(), looked_for: looked_for.clone(), keep });
        FilterOptions { more: Some(more), ..asks(&looked_for, keep) }
    };
    for threads in [None, Some(0), Some(3)] {
        let mut source = once(dir.path());
        source.reader.block_size = 300;
        let filters = vec![link(|n| n.is_multiple_of(2)), link(|n| n.is_multiple_of(3))];
        let options = ConsumerOptions { filters, filter_threads: threads, ..ConsumerOptions::new("c") };
        let mut c = open(source, vec![options]).unwrap().pop().unwrap();
        assert_eq!(drain(&mut c).await, (0..3000).step_by(6).collect::<Vec<_>>());
    }
}
