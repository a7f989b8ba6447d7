//! Checkpoint stores: what every implementation promises, and what a consumer makes of one that fails.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tailweir_core::{
    Batch, Frame, Identity, Mark, Outcome, Point, ProcessFuture, Processor, Progress, SegmentName,
};
use tailweir_pipeline::{
    Backoff, CheckpointName, CheckpointOptions, CheckpointStore, CheckpointSync, FileStore, Loaded, Outgoing,
    Policy, Saved, Sink, SinkFuture, StoreError, drive, open_with,
};
use tempfile::tempdir;

/// A disk in memory, on which some operations fail.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    saved: Option<Saved>,
    synced: Option<Saved>,
    /// Whether each of the next operations succeeds; all later ones do.
    plan: VecDeque<bool>,
}

struct FaultyStore(Disk);

impl Disk {
    fn stores(
        &self,
    ) -> impl Fn(&CheckpointOptions) -> Result<Box<dyn CheckpointStore>, StoreError> + 'static {
        let disk = self.clone();
        move |_| Ok(Box::new(FaultyStore(disk.clone())))
    }

    fn operate<T>(
        &self,
        what: &'static str,
        action: impl FnOnce(&mut Content) -> T,
    ) -> Result<T, StoreError> {
        let mut content = self.0.lock().unwrap();
        if content.plan.pop_front().unwrap_or(true) {
            return Ok(action(&mut content));
        }
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(StoreError::Io { what, path: PathBuf::from("/disk/.c"), source })
    }
}

impl CheckpointStore for FaultyStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.operate("read", |content| content.saved.clone().map_or(Loaded::Fresh, Loaded::Saved))
    }

    fn save(&mut self, saved: &Saved, finished: &[SegmentName]) -> Result<(), StoreError> {
        self.0.operate("write", |content| {
            let mut all = content.saved.take().unwrap_or_default().finished;
            all.extend(finished.iter().cloned());
            let ended =
                saved.frontier.segments.iter().filter(|(_, p)| p.finished).map(|(name, _)| name.clone());
            all.extend(ended);
            content.saved = Some(Saved { finished: all, ..saved.clone() });
        })
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.0.operate("sync", |content| content.synced.clone_from(&content.saved))
    }
}

fn file_store(directory: &Path) -> Box<dyn CheckpointStore> {
    Box::new(FileStore::new(directory, CheckpointName::new("c").unwrap(), Arc::new(())).unwrap())
}

fn name(n: u8) -> SegmentName {
    SegmentName::new(&format!("s{n:03}")).unwrap()
}

fn saved() -> impl Strategy<Value = Saved> {
    let progress = (0u64..1000, 0u64..1 << 60, any::<u64>(), any::<bool>()).prop_map(
        |(line, offset, head, finished)| Progress {
            mark: Mark {
                point: Point { line, offset },
                frame: Frame { compressed: offset / 7, decompressed: offset / 2 },
            },
            identity: Some(Identity { inode: line, head_len: 64, head }),
            finished,
        },
    );
    prop::collection::btree_map((0u8..8).prop_map(name), progress, 1..4).prop_map(|segments| {
        let mut saved = Saved::default();
        saved.frontier.segments = segments;
        saved
    })
}

/// Each save, followed by a new process that loads: what comes back is what was saved, and all that was ever finished.
fn check_contract(saves: &[(Saved, Vec<SegmentName>)], new_process: impl Fn() -> Box<dyn CheckpointStore>) {
    let mut store = new_process();
    assert_eq!(store.load().unwrap(), Loaded::Fresh);
    let mut finished: std::collections::HashSet<SegmentName> = Default::default();
    for (i, (saved, names)) in saves.iter().enumerate() {
        match i % 4 {
            0 | 1 => store.save(saved, names).unwrap(),
            _ => store.save_synced(saved, names).unwrap(),
        }
        finished.extend(names.iter().cloned());
        if i % 3 == 2 {
            store.sync().unwrap();
        }
        if i % 2 == 1 {
            store = new_process();
            let Loaded::Saved(loaded) = store.load().unwrap() else { panic!("nothing was loaded") };
            assert_eq!(loaded.frontier, saved.frontier);
            let ended = saved.frontier.segments.iter().filter(|(_, p)| p.finished).map(|(name, _)| name);
            assert!(finished.iter().chain(ended).all(|name| loaded.finished.contains(name)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn stores_keep_what_they_promise(
        saves in prop::collection::vec((saved(), prop::collection::vec((100u8..200).prop_map(name), 0..3)), 1..8),
    ) {
        let dir = tempdir().unwrap();
        check_contract(&saves, || file_store(dir.path()));
        let disk = Disk::default();
        check_contract(&saves, || Box::new(FaultyStore(disk.clone())));
    }
}

#[tokio::test]
async fn f13_a_commit_that_fails_raises_and_succeeds_once_there_is_space() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..40);
    let disk = Disk::default();
    let make = disk.stores();
    let mut c = open_with(once(dir.path()), vec![consumer("c")], &make).unwrap().pop().unwrap();
    next(&mut c).await.commit().unwrap();
    let kept = disk.0.lock().unwrap().saved.clone();
    disk.0.lock().unwrap().plan = [false, false].into();
    let mut second = next(&mut c).await;
    for _ in 0..2 {
        let error = second.commit().unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(
            (error.to_string().as_str(), cause.as_str()),
            ("failed to commit", "failed to write /disk/.c")
        );
        assert_eq!(disk.0.lock().unwrap().saved, kept, "what was saved before is still there");
    }
    second.commit().unwrap();
    assert_ne!(disk.0.lock().unwrap().saved, kept);
    drop((c, second));
    let mut c = open_with(once(dir.path()), vec![consumer("c")], &make).unwrap().pop().unwrap();
    assert_eq!(drain(&mut c).await, (20..40).collect::<Vec<_>>());
}

/// While the consumer does nothing more.
#[tokio::test]
async fn a_commit_is_brought_to_the_disk_after_its_interval_and_at_once_if_that_is_asked_for() {
    for sync in [CheckpointSync::Interval(Duration::from_millis(5)), CheckpointSync::Always] {
        let dir = tempdir().unwrap();
        sealed(dir.path(), "a", 0..40);
        let disk = Disk::default();
        let mut options = consumer("c");
        options.checkpoint.as_mut().unwrap().sync = sync;
        let mut c = open_with(once(dir.path()), vec![options], &disk.stores()).unwrap().pop().unwrap();
        let mut first = next(&mut c).await;
        first.commit().unwrap();
        let is_synced = || {
            let content = disk.0.lock().unwrap();
            content.saved.is_some() && content.synced == content.saved
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while sync != CheckpointSync::Always && !is_synced() && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(is_synced(), "{sync:?}");
    }
}

/// What was gone on from used to be removed before anything was written in its place, if KumoMTA had written it: the next
/// start refused.
#[test]
fn f04_a_previous_generation_of_kumomtas_is_kept_until_there_is_another() {
    for suffix in [".prev", ".tmp"] {
        let dir = tempdir().unwrap();
        let path = |suffix: &str| dir.path().join(format!(".c{suffix}"));
        std::fs::write(path(""), b"").unwrap();
        std::fs::write(path(suffix), br#"{"file":"/logs/s002","line":7}"#).unwrap();
        for _ in 0..2 {
            let Loaded::Saved(saved) = file_store(dir.path()).load().unwrap() else { panic!() };
            let progress = &saved.frontier.segments[&name(2)];
            assert_eq!(progress.mark.point.line, 7, "{suffix}");
        }
        let mut store = file_store(dir.path());
        let Loaded::Saved(saved) = store.load().unwrap() else { panic!() };
        store.save(&saved, &[name(1)]).unwrap();
        assert!(!path(".prev").exists() && !path(".tmp").exists(), "it knows nothing of what was finished");
        let Loaded::Saved(saved) = file_store(dir.path()).load().unwrap() else { panic!() };
        assert!(saved.finished.contains(&name(1)));
    }
}

/// Takes every batch, and counts them.
#[derive(Default)]
struct Taken(usize);

impl Processor for Taken {
    fn process<'a>(&'a mut self, _: &'a Arc<Batch>) -> ProcessFuture<'a> {
        self.0 += 1;
        Box::pin(async { Ok(Outcome::Done) })
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn send<'a>(&'a mut self, _: Outgoing<'a>) -> SinkFuture<'a> {
        Box::pin(async { Ok(()) })
    }
}

/// A pipeline used to give a consumer up at the first commit that a full disk refused.
#[tokio::test]
async fn f13_a_driven_consumer_commits_once_there_is_space_and_delivers_nothing_twice() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..40);
    let disk = Disk::default();
    let mut c = open_with(once(dir.path()), vec![consumer("c")], &disk.stores()).unwrap().pop().unwrap();
    disk.0.lock().unwrap().plan = [false, false, true, false].into();
    let quick = Duration::from_millis(1);
    let backoff = Backoff { initial: quick, max: quick, ..Backoff::default() };
    // The attempts are for the processor, not for the disk.
    let policy = Policy { backoff, max_attempts: Some(1), ..Policy::default() };
    let mut taken = Taken::default();
    drive(&mut c, &mut taken, &mut Nowhere, &policy).await.unwrap();
    assert_eq!(taken.0, 4);
    drop(c);
    let mut c = open_with(once(dir.path()), vec![consumer("c")], &disk.stores()).unwrap().pop().unwrap();
    assert!(drain(&mut c).await.is_empty(), "everything is committed");
}

/// What a consumer has done with the numbers of one segment.
#[derive(Default)]
struct Fate {
    /// A commit was tried, so they may or may not come again.
    tried: BTreeSet<u64>,
    /// They and all before them in the segment were committed, so they must not.
    settled: BTreeSet<u64>,
}

/// Runs a consumer over a growing directory, with crashes, failing commits and batches committed in any order.
async fn churn(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempdir().unwrap();
    let mut segments: Vec<Range<u64>> = std::iter::once(0..0).collect();
    let mut fates = vec![Fate::default()];
    let disk = Disk::default();
    let mut order: Vec<u64> = Vec::new();
    for round in 0..12 {
        let file = format!("s{:04}", segments.len());
        let last = segments.last_mut().unwrap();
        let more = last.end + random.u64(1..60);
        append(dir.path(), &file, last.end..more);
        last.end = more;
        if random.bool() {
            seal(dir.path(), &file);
            segments.push(more..more);
            fates.push(Fate::default());
        }
        let make = disk.stores();
        let mut c = open_with(once(dir.path()), vec![consumer("c")], &make).unwrap().pop().unwrap();
        let mut deliveries: Vec<(Vec<u64>, bool, tailweir_pipeline::Delivery)> = Vec::new();
        disk.0.lock().unwrap().plan = (0..random.usize(0..6)).map(|_| random.bool()).collect();
        while round == 11 || random.u8(0..20) > 0 {
            match c.next().await {
                Ok(Some(delivery)) => deliveries.push((numbers(delivery.batch()), false, delivery)),
                Ok(None) => break,
                // The checkpoint could not be written while waiting; the next call goes on.
                Err(_) => continue,
            }
            if random.bool() {
                let (batch, committed, delivery) = random.choice(&mut deliveries).unwrap();
                *committed |= delivery.commit().is_ok();
                fates.iter_mut().zip(&segments).for_each(|(fate, own)| {
                    fate.tried.extend(batch.iter().filter(|n| own.contains(n)));
                });
            }
        }
        order = deliveries.iter().flat_map(|(batch, ..)| batch.clone()).collect();
        assert!(order.is_sorted(), "seed {seed}, round {round}: {order:?}");
        for (fate, own) in fates.iter_mut().zip(&segments) {
            let again = order.iter().find(|n| fate.settled.contains(n));
            assert_eq!(again, None, "seed {seed}, round {round}: committed, and came again");
            let touching = deliveries.iter().filter(|(batch, ..)| batch.iter().any(|n| own.contains(n)));
            let prefix = touching.take_while(|(_, committed, _)| *committed);
            fate.settled.extend(prefix.flat_map(|(batch, ..)| batch).filter(|n| own.contains(n)));
        }
        // What failed to be written is tried again when the consumer goes; now that fails, too.
        disk.0.lock().unwrap().plan = [false; 9].into();
        drop((deliveries, c));
        disk.0.lock().unwrap().plan.clear();
    }
    for (fate, own) in fates.iter().zip(segments) {
        let lost = own.into_iter().find(|n| !fate.tried.contains(n) && order.binary_search(n).is_err());
        assert_eq!(lost, None, "seed {seed}: never committed, and not delivered by the last run");
    }
}

#[tokio::test]
async fn whatever_is_not_committed_comes_again_and_nothing_else() {
    for seed in 0..60 {
        churn(seed).await;
    }
}
