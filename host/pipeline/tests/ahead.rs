//! Filters on threads of their own: the same records come out, in the same order, whoever decided on them.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use common::*;
use tailweir_core::{Batch, Filter, FilterError, FilterFactory, Located, Verdict};
use tailweir_pipeline::{Consumer, ConsumerOptions, FilterOptions, OnFilterError, open};
use tempfile::tempdir;

/// Keeps even numbers, fails on those that end in 77, and notes which threads decide.
#[derive(Clone, Default)]
struct Even(Arc<Log>);

#[derive(Default)]
struct Log {
    threads: Mutex<HashSet<ThreadId>>,
    another: Condvar,
}

impl Log {
    /// Waits until a thread other than this one has decided on something.
    fn wait_for_another(&self) {
        let threads = self.threads.lock().unwrap();
        let alone = |threads: &mut HashSet<ThreadId>| threads.iter().all(|t| *t == thread::current().id());
        let (threads, _) = self.another.wait_timeout_while(threads, Duration::from_secs(30), alone).unwrap();
        assert!(threads.len() > 1 || !threads.contains(&thread::current().id()), "no other thread filters");
    }
}

impl Filter for Even {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        self.0.threads.lock().unwrap().insert(thread::current().id());
        self.0.another.notify_all();
        let numbers = numbers(candidates);
        if numbers.iter().any(|n| n % 100 == 77) {
            return Err(FilterError {
                decided: Vec::new(),
                located: Located::Batch,
                source: "poison".into(),
            });
        }
        Ok(Verdict::Keep(numbers.into_iter().map(|n| n % 2 == 0).collect()))
    }
}

impl FilterFactory for Even {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(self.clone()))
    }
}

fn behind(directory: &Path, filter: &Even, more: Option<Arc<dyn FilterFactory>>) -> Consumer {
    let mut source = once(directory);
    source.reader.block_size = 300;
    let options = ConsumerOptions {
        filters: vec![FilterOptions { more, ..FilterOptions::new(filter.clone()) }],
        on_filter_error: OnFilterError::Isolate,
        ..consumer("c")
    };
    open(source, vec![options]).unwrap().pop().unwrap()
}

#[tokio::test]
async fn a_consumer_that_is_behind_filters_on_more_threads() {
    let dir = tempdir().unwrap();
    for segment in 0..6u64 {
        sealed(dir.path(), &format!("s{segment}"), segment * 500..(segment + 1) * 500);
    }
    let filter = Even::default();
    let mut c = behind(dir.path(), &filter, Some(Arc::new(filter.clone())));
    let mut seen = Vec::new();
    while let Some(mut delivery) = c.next().await.unwrap() {
        // The pass reads on meanwhile, so that the consumer is behind.
        if seen.len() == 100 {
            filter.0.wait_for_another();
        }
        seen.extend(numbers(delivery.batch()));
        delivery.commit().unwrap();
    }
    assert_eq!(seen, (0..3000).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    let counted = c.counters().snapshot();
    assert_eq!((counted.records, counted.kept, counted.quarantined), (3000, 1500, 30));
    drop(c);
    assert_eq!(
        drain(&mut behind(dir.path(), &filter, Some(Arc::new(filter.clone())))).await,
        Vec::<u64>::new()
    );
}

/// Makes no filter.
struct None;

impl FilterFactory for None {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn Error + Send + Sync>> {
        Err("no".into())
    }
}

/// Makes filters that panic.
struct Panicking;

impl FilterFactory for Panicking {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(Keep(|_| panic!("a filter that panics"))))
    }
}

#[tokio::test]
async fn threads_that_cannot_filter_stop_nothing() {
    for more in [Arc::new(None) as Arc<dyn FilterFactory>, Arc::new(Panicking)] {
        let dir = tempdir().unwrap();
        sealed(dir.path(), "a", 0..3000);
        let mut c = behind(dir.path(), &Even::default(), Some(more));
        assert_eq!(drain(&mut c).await, (0..3000).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    }
}

/// Notes what it is asked about, and takes its time, so that the consumer comes to blocks that a thread is at.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<u64>>>);

impl Filter for Noting {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        self.0.lock().unwrap().extend(numbers(candidates));
        thread::sleep(Duration::from_micros(200));
        Ok(Verdict::All)
    }
}

impl FilterFactory for Noting {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(self.clone()))
    }
}

#[tokio::test]
async fn whoever_decides_no_filter_is_asked_twice() {
    for segments in [4, 5, 6, 7, 8, 9, 10] {
        let dir = tempdir().unwrap();
        for segment in 0..segments {
            sealed(dir.path(), &format!("s{segment:02}"), segment * 20..(segment + 1) * 20);
        }
        let filter = Noting::default();
        let filters = vec![FilterOptions {
            more: Some(Arc::new(filter.clone())),
            ..FilterOptions::new(filter.clone())
        }];
        let options = ConsumerOptions { filters, filter_threads: Some(3), ..consumer("c") };
        let mut c = open(once(dir.path()), vec![options]).unwrap().pop().unwrap();
        let all: Vec<u64> = (0..segments * 20).collect();
        assert_eq!(drain(&mut c).await, all);
        let mut asked = filter.0.lock().unwrap().clone();
        asked.sort_unstable();
        assert_eq!(asked, all);
    }
}

/// What the consumer's own filter was asked about last, for those on threads.
#[derive(Default)]
struct Progress {
    highest: Mutex<Option<u64>>,
    further: Condvar,
    /// A thread was asked.
    begun: Mutex<bool>,
    beginning: Condvar,
}

/// One on a thread takes, the first time, until the consumer's own has been asked about what comes behind. The consumer's own takes
/// its time until then, so that the consumer falls behind.
struct Patient {
    progress: Arc<Progress>,
    own: bool,
    was_helped: Arc<Mutex<Option<bool>>>,
}

impl Filter for Patient {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let last = numbers(candidates).into_iter().max();
        let mut begun = self.progress.begun.lock().unwrap();
        if self.own {
            let wait = Duration::from_millis(200);
            drop(self.progress.beginning.wait_timeout_while(begun, wait, |begun| !*begun).unwrap());
        } else {
            *begun = true;
            self.progress.beginning.notify_all();
            drop(begun);
        }
        let mut highest = self.progress.highest.lock().unwrap();
        if self.own {
            *highest = last.max(*highest);
            self.progress.further.notify_all();
        } else if self.was_helped.lock().unwrap().is_none() {
            let is_behind = |highest: &mut Option<u64>| *highest < last;
            let wait = Duration::from_secs(30);
            let (_highest, waited) =
                self.progress.further.wait_timeout_while(highest, wait, is_behind).unwrap();
            *self.was_helped.lock().unwrap() = Some(!waited.timed_out());
        }
        Ok(Verdict::All)
    }
}

impl FilterFactory for Patient {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn Error + Send + Sync>> {
        let (progress, was_helped) = (self.progress.clone(), self.was_helped.clone());
        Ok(Box::new(Self { progress, own: false, was_helped }))
    }
}

#[tokio::test]
async fn whoever_waits_for_a_thread_asks_about_what_comes_next() {
    let dir = tempdir().unwrap();
    for segment in 0..10u64 {
        sealed(dir.path(), &format!("s{segment:02}"), segment * 20..(segment + 1) * 20);
    }
    let (progress, was_helped) = (Arc::new(Progress::default()), Arc::default());
    let make = |own| Patient { progress: progress.clone(), own, was_helped: Arc::clone(&was_helped) };
    let filters = vec![FilterOptions { more: Some(Arc::new(make(false))), ..FilterOptions::new(make(true)) }];
    let options = ConsumerOptions { filters, filter_threads: Some(1), ..consumer("c") };
    let mut c = open(once(dir.path()), vec![options]).unwrap().pop().unwrap();
    assert_eq!(drain(&mut c).await, (0..200).collect::<Vec<_>>());
    assert_eq!(*was_helped.lock().unwrap(), Some(true));
}
