//! What a consumer relies on: each record once committed never again, every other one again, whatever the others do.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tailweir_core::{Batch, Event, Filter, FilterError, Located, SegmentName, Verdict};
use tailweir_pipeline::{
    CheckpointName, CheckpointStatus, CheckpointSync, CommitError, Fate, FilterOptions, KeptQuarantine,
    Listed, NextError, OnFilterError, OnMalformed, OpenError, QuarantineEntry, QuarantineError, Source,
    StartFrom, open, status,
};
use tailweir_segments::{Hand, Mode, Watch};
use tempfile::tempdir;

fn checkpoint(directory: &std::path::Path, name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(directory.join(format!(".{name}"))).unwrap()).unwrap()
}

#[tokio::test]
async fn progress_is_kept_across_runs() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..25);
    sealed(dir.path(), "b", 25..50);
    let mut first = open_one(dir.path(), consumer("c"));
    assert_eq!(numbers(next(&mut first).await.batch()), (0..10).collect::<Vec<_>>());
    drop(first);

    let mut second = open_one(dir.path(), consumer("c"));
    for _ in 0..3 {
        next(&mut second).await.commit().unwrap();
    }
    drop(second);
    assert_eq!(checkpoint(dir.path(), "c")["line"], 5);

    let mut third = open_one(dir.path(), consumer("c"));
    assert_eq!(drain(&mut third).await, (30..50).collect::<Vec<_>>());
    assert_eq!(third.counters().snapshot().committed_records, 20);
    drop(third);

    sealed(dir.path(), "c", 50..53);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, vec![50, 51, 52]);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, Vec::<u64>::new());
}

#[tokio::test]
async fn a_batch_that_comes_again_has_the_same_id() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..25);
    let id = next(&mut open_one(dir.path(), consumer("c"))).await.batch().id().clone();
    assert_eq!(*next(&mut open_one(dir.path(), consumer("c"))).await.batch().id(), id);
    assert!(id.as_str().starts_with("c:a:1:10:"), "{id}");
}

#[tokio::test]
async fn f06_a_filter_that_keeps_nothing_still_advances() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..1000);
    let mut options = consumer("c");
    options.filters.push(FilterOptions::new(Keep(|_| false)));
    assert_eq!(drain(&mut open_one(dir.path(), options)).await, Vec::<u64>::new());
    assert_eq!(checkpoint(dir.path(), "c")["line"], 1000);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, Vec::<u64>::new());
}

#[tokio::test]
async fn f21_the_checkpoint_waits_for_the_first_batch_and_never_moves_back() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..30);
    let events = Arc::new(Events::default());
    let mut c = open(heard(dir.path(), events.clone()), vec![consumer("c")]).unwrap().pop().unwrap();
    let (mut first, mut second, mut third) = (next(&mut c).await, next(&mut c).await, next(&mut c).await);
    second.commit().unwrap();
    third.commit().unwrap();
    let said = |e: &&Event| matches!(e, Event::Warning { message } if message.contains("is not committed"));
    assert_eq!(events.0.lock().unwrap().iter().filter(said).count(), 1);
    assert!(!dir.path().join(".c").exists(), "nothing is acknowledged from the start on");
    first.commit().unwrap();
    assert_eq!(checkpoint(dir.path(), "c")["line"], 30);
}

#[tokio::test]
async fn f03_each_consumer_gets_exactly_its_own_remainder() {
    let dir = tempdir().unwrap();
    for segment in 0..6u64 {
        sealed(dir.path(), &format!("s{segment}"), segment * 40..(segment + 1) * 40);
    }
    for (name, batches) in [("early", 3), ("late", 17)] {
        let mut c = open_one(dir.path(), consumer(name));
        for _ in 0..batches {
            next(&mut c).await.commit().unwrap();
        }
    }
    let mut all = open(once(dir.path()), vec![consumer("late"), consumer("new"), consumer("early")]).unwrap();
    for (c, from) in all.iter_mut().zip([170, 0, 30]) {
        assert_eq!(drain(c).await, (from..240).collect::<Vec<_>>(), "{}", c.name());
    }
}

#[tokio::test]
async fn f11_who_was_further_in_a_segment_that_is_cut_off_notices_in_a_shared_pass_too() {
    let dir = tempdir().unwrap();
    append(dir.path(), "a", 0..40);
    for (name, batches) in [("behind", 1), ("ahead", 3)] {
        let mut c = open_one(dir.path(), consumer(name));
        for _ in 0..batches {
            next(&mut c).await.commit().unwrap();
        }
    }
    let path = dir.path().join("a");
    let text = std::fs::read_to_string(&path).unwrap();
    let cut: usize = text.split_inclusive('\n').take(20).map(str::len).sum();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
    seal(dir.path(), "a");

    let events = Arc::new(Events::default());
    let mut both =
        open(heard(dir.path(), events.clone()), vec![consumer("behind"), consumer("ahead")]).unwrap();
    assert_eq!(drain(&mut both[0]).await, (10..20).collect::<Vec<_>>());
    assert_eq!(drain(&mut both[1]).await, (0..20).collect::<Vec<_>>(), "from its start");
    let named = |event: &Event| matches!(event, Event::SegmentGap { segment, .. } if segment.as_str() == "a");
    assert!(events.0.lock().unwrap().iter().any(named));
}

/// A consumer that had noticed it, and ended before it committed anything, went on from its old place once the file was as long
/// again: what was written in between was never delivered.
#[tokio::test]
async fn f11_a_file_that_was_cut_off_and_has_grown_again_over_a_restart_is_read_from_its_start() {
    let dir = tempdir().unwrap();
    append(dir.path(), "a", 0..30);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await.len(), 30);
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("a")).unwrap();
    let rest: String = (0..21).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    file.set_len(rest.len() as u64).unwrap();
    let mut c = open_one(dir.path(), consumer("c"));
    assert_eq!(numbers(next(&mut c).await.batch()), (0..10).collect::<Vec<_>>());
    drop(c);
    append(dir.path(), "a", 100..117);
    let expected: Vec<u64> = (0..21).chain(100..117).collect();
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, expected);
    assert!(drain(&mut open_one(dir.path(), consumer("c"))).await.is_empty());
}

#[tokio::test]
async fn f12_a_pass_that_begins_after_the_directory_was_renamed_reads_it() {
    let dir = tempdir().unwrap();
    let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
    std::fs::create_dir(&logs).unwrap();
    sealed(&logs, "a", 0..30);
    let source = Source::new(once(&logs)).unwrap();
    std::fs::rename(&logs, &moved).unwrap();
    let mut options = consumer("c");
    options.checkpoint = None;
    assert_eq!(drain(&mut source.open(options).unwrap()).await, (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn f24_a_consumer_that_does_not_take_its_batches_stops_no_other() {
    let dir = tempdir().unwrap();
    for segment in 0..8u64 {
        sealed(dir.path(), &format!("s{segment}"), segment * 500..(segment + 1) * 500);
    }
    let mut source = once(dir.path());
    source.reader.read_ahead_bytes = 20_000;
    source.reader.block_size = 4_000;
    let mut both = open(source, vec![consumer("fast"), consumer("slow")]).unwrap();
    let (fast, slow) = both.split_at_mut(1);
    next(&mut slow[0]).await.commit().unwrap();
    assert_eq!(ends(drain(&mut fast[0])).await, (0..4000).collect::<Vec<_>>());
    assert_eq!(ends(drain(&mut slow[0])).await, (10..4000).collect::<Vec<_>>());
}

/// The segments that somebody was told may be lost, once for each time.
fn gaps(events: &Events) -> Vec<String> {
    let gap = |event: &Event| match event {
        Event::SegmentGap { segment, .. } => Some(segment.to_string()),
        _ => None,
    };
    events.0.lock().unwrap().iter().filter_map(gap).collect()
}

/// The thread that reads used to look at nothing while nobody took what it had read.
#[tokio::test]
async fn f10_segments_that_come_and_go_while_a_consumer_is_stuck_are_named() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..1000);
    let (events, hand) = (Arc::new(Events::default()), Hand::default());
    let mut source = heard(dir.path(), events.clone());
    source.reader.mode = Mode::Follow;
    source.reader.hand = Some(hand.clone());
    source.reader.read_ahead_bytes = 1;
    source.reader.block_size = 1000;
    let mut options = consumer("c");
    options.max_batch_latency = Duration::ZERO;
    let mut c = open(source, vec![options]).unwrap().pop().unwrap();
    let come_and_go = async |names: &[&str]| {
        hand.settle();
        names.iter().for_each(|name| sealed(dir.path(), name, 0..1));
        for change in ["they are found", "they are missed"] {
            hand.advance(Duration::from_secs(1));
            hand.settle();
            if change == "they are found" {
                names.iter().for_each(|name| std::fs::remove_file(dir.path().join(name)).unwrap());
            }
        }
    };
    ends(come_and_go(&["b", "c"])).await;
    assert_eq!(gaps(&events), ["b", "c"]);
    next(&mut c).await.commit().unwrap();
    ends(come_and_go(&["d"])).await;
    assert_eq!(gaps(&events), ["b", "c", "d"]);
    let mut rest = Vec::new();
    while rest.last() != Some(&999) {
        let mut delivery = ends(next(&mut c)).await;
        rest.extend(numbers(delivery.batch()));
        delivery.commit().unwrap();
    }
    assert_eq!(rest, (10..1000).collect::<Vec<_>>());
}

/// What one pass had read was unknown to the next one, if it was deleted in between.
#[tokio::test]
async fn f10_segments_that_are_gone_before_a_consumer_that_fell_behind_reads_on_are_named() {
    let dir = tempdir().unwrap();
    for segment in 0..8u64 {
        sealed(dir.path(), &format!("s{segment}"), segment * 500..(segment + 1) * 500);
    }
    let events = Arc::new(Events::default());
    let mut source = heard(dir.path(), events.clone());
    source.reader.read_ahead_bytes = 20_000;
    source.reader.block_size = 4_000;
    let consumers = vec![consumer("fast"), consumer("slow"), consumer("also slow")];
    let mut all = open(source, consumers).unwrap();
    let (fast, slow) = all.split_at_mut(1);
    for slow in &mut *slow {
        next(slow).await.commit().unwrap();
    }
    assert_eq!(ends(drain(&mut fast[0])).await, (0..4000).collect::<Vec<_>>());
    for segment in 1..7 {
        std::fs::remove_file(dir.path().join(format!("s{segment}"))).unwrap();
    }
    for (slow, told) in slow.iter_mut().zip(["by its own pass", "by that, or by one more"]) {
        assert_eq!(ends(drain(slow)).await, (10..500).chain(3500..4000).collect::<Vec<_>>(), "{told}");
        let mut gone = gaps(&events);
        gone.sort();
        gone.dedup();
        assert_eq!(gone, ["s1", "s2", "s3", "s4", "s5", "s6"], "{told}");
    }
}

#[tokio::test]
async fn consumers_that_took_turns_on_passes_of_their_own_lose_nothing() {
    let dir = tempdir().unwrap();
    for segment in 0..20u64 {
        sealed(dir.path(), &format!("s{segment:02}"), segment * 100..(segment + 1) * 100);
    }
    let mut source = once(dir.path());
    source.reader.read_ahead_bytes = 6_000;
    source.reader.block_size = 1_000;
    let names = ["a", "b", "c", "d"];
    let mut all = open(source, names.iter().map(|n| consumer(n)).collect()).unwrap();
    let mut seen = vec![Vec::new(); names.len()];
    let (mut random, mut live) = (fastrand::Rng::with_seed(7), names.len());
    while live > 0 {
        let i = random.usize(..names.len());
        for _ in 0..random.usize(1..40) {
            match ends(all[i].next()).await.unwrap() {
                Some(mut delivery) => {
                    seen[i].extend(numbers(delivery.batch()));
                    delivery.commit().unwrap();
                }
                None => {
                    live -= usize::from(!seen[i].is_empty() && seen[i].last() != Some(&u64::MAX));
                    seen[i].push(u64::MAX);
                    break;
                }
            }
        }
    }
    for mut numbers in seen {
        numbers.retain(|n| *n != u64::MAX);
        assert_eq!(numbers, (0..2000).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn kumod_hands_over_and_takes_back() {
    let dir = tempdir().unwrap();
    for (segment, first) in [("a", 0), ("b", 20), ("c", 40)] {
        sealed(dir.path(), segment, first..first + 20);
    }
    let text = format!("{{\"file\":\"{}/b\",\"line\":7}}", dir.path().display());
    std::fs::write(dir.path().join(".k"), text).unwrap();
    let mut c = open_one(dir.path(), consumer("k"));
    assert_eq!(numbers(next(&mut c).await.batch())[0], 27, "nothing is committed of this one");
    drop(c);
    let mut c = open_one(dir.path(), consumer("k"));
    let mut delivery = next(&mut c).await;
    assert_eq!(numbers(delivery.batch()), (27..37).collect::<Vec<_>>());
    delivery.commit().unwrap();
    let ours = checkpoint(dir.path(), "k");
    assert_eq!(
        (ours["file"].as_str().unwrap(), &ours["line"]),
        (&*format!("{}/b", dir.path().display()), &17.into())
    );
    drop((c, delivery));
    assert_eq!(drain(&mut open_one(dir.path(), consumer("k"))).await, (37..60).collect::<Vec<_>>());

    // kumod went back by hand: its word counts, over what we know to be finished.
    let text = format!("{{\"file\":\"{}/a\",\"line\":19}}", dir.path().display());
    std::fs::write(dir.path().join(".k"), text).unwrap();
    assert_eq!(drain(&mut open_one(dir.path(), consumer("k"))).await, (19..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn f20_a_late_segment_is_told_from_a_finished_one_also_after_a_restart() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "b", 0..10);
    sealed(dir.path(), "d", 10..20);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await.len(), 20);
    sealed(dir.path(), "a", 20..30);
    sealed(dir.path(), "c", 30..40);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, (20..40).collect::<Vec<_>>());
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, Vec::<u64>::new());
}

#[tokio::test]
async fn f04_a_torn_checkpoint_falls_back_and_none_usable_says_what_to_do() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..30);
    let mut c = open_one(dir.path(), consumer("c"));
    next(&mut c).await.commit().unwrap();
    next(&mut c).await.commit().unwrap();
    drop(c);
    let path = dir.path().join(".c");
    for broken in [&b""[..], &[0; 300], b"{\"file\":\"/x/a\",\"li"] {
        std::fs::write(&path, broken).unwrap();
        let mut c = open_one(dir.path(), consumer("c"));
        assert_eq!(numbers(next(&mut c).await.batch())[0], 10, "the previous generation, one batch earlier");
    }
    for suffix in ["prev", "tmp"] {
        std::fs::write(dir.path().join(format!(".c.{suffix}")), b"").unwrap();
    }
    let error = open(once(dir.path()), vec![consumer("c")]).err().unwrap().to_string();
    assert!(error.contains(&format!("rm '{}'", path.display())) && error.contains("printf"), "{error}");
}

/// Adding them to the present time used to end the process.
#[tokio::test]
async fn the_longest_times_are_as_good_as_never() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..5);
    let mut options = consumer("c");
    options.max_batch_latency = Duration::MAX;
    options.checkpoint.as_mut().unwrap().sync = CheckpointSync::Interval(Duration::MAX);
    let mut source = once(dir.path());
    source.reader.watch = Watch::Poll(Duration::MAX);
    let mut c = open(source, vec![options]).unwrap().pop().unwrap();
    assert_eq!(drain(&mut c).await, (0..5).collect::<Vec<_>>());
}

#[tokio::test]
async fn f19_a_checkpoint_has_one_user_and_can_be_opened_again_after_close() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..30);
    let mut first = open_one(dir.path(), consumer("c"));
    assert!(matches!(open(once(dir.path()), vec![consumer("c")]), Err(OpenError::InUse { .. })));
    let (mut one, mut two) = (next(&mut first).await, next(&mut first).await);
    one.commit().unwrap();
    assert_eq!(usable(dir.path())[0].held_by, Some(std::process::id()));
    drop(first);
    let mut again = open_one(dir.path(), consumer("c"));
    assert!(matches!(two.commit(), Err(CommitError::Superseded)));
    assert_eq!(drain(&mut again).await, (10..30).collect::<Vec<_>>());
    drop((one, two, again));
    assert_eq!(usable(dir.path())[0].held_by, None);
}

#[tokio::test]
async fn f22_commit_twice_raises_and_commit_after_close_works() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..30);
    let mut c = open_one(dir.path(), consumer("c"));
    let mut delivery = next(&mut c).await;
    c.closer().close();
    assert!(c.next().await.unwrap().is_none());
    drop(c);
    delivery.commit().unwrap();
    assert_eq!(delivery.commit().unwrap_err().to_string(), "batch has already been committed");
    drop(delivery);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await.first(), Some(&10));
}

#[tokio::test]
async fn f22_who_has_lost_its_lock_commits_nothing_more_and_can_be_opened_anew() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..40);
    let mut c = open_one(dir.path(), consumer("c"));
    next(&mut c).await.commit().unwrap();
    let (saved, lock) = (checkpoint(dir.path(), "c"), dir.path().join(".c.lock"));
    let mut second = next(&mut c).await;
    let mut third = next(&mut c).await;
    std::fs::rename(&lock, dir.path().join("away")).unwrap();
    assert!(matches!(second.commit(), Err(CommitError::LostLock(_))));
    // Nobody knows what happened meanwhile.
    std::fs::rename(dir.path().join("away"), &lock).unwrap();
    for error in [second.commit(), third.commit(), third.quarantine(&[0], "why")] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("lost its lock") || error == "failed to commit", "{error}");
    }
    let Err(NextError::Commit(CommitError::LostLock(lost))) = c.next().await else { panic!("it goes on") };
    assert!(lost.to_string().contains("/.c.lock was removed"), "{lost}");
    drop(c);
    assert_eq!(checkpoint(dir.path(), "c"), saved);
    assert!(quarantined(dir.path(), "c").is_empty());
    std::fs::remove_file(&lock).unwrap();
    let mut c = open_one(dir.path(), consumer("c"));
    assert!(matches!(third.commit(), Err(CommitError::Superseded)));
    assert_eq!(drain(&mut c).await, (10..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn f22_a_filter_that_keeps_nothing_notices_that_the_lock_is_lost() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..40);
    let mut options = consumer("c");
    options.filters.push(FilterOptions::new(Keep(|_| false)));
    let mut c = open_one(dir.path(), options);
    std::fs::write(dir.path().join("another"), "123").unwrap();
    std::fs::rename(dir.path().join("another"), dir.path().join(".c.lock")).unwrap();
    let error = c.next().await.err().unwrap().to_string();
    // Nobody has locked it: whatever it says, no process is to be named.
    assert!(error.contains("was replaced, so another process may be using the checkpoint"), "{error}");
    assert!(!dir.path().join(".c").exists());
}

#[tokio::test]
async fn uncommitted_batches_are_bounded() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..100);
    let mut options = consumer("c");
    options.max_uncommitted = 3;
    let mut c = open_one(dir.path(), options);
    let mut held = [next(&mut c).await, next(&mut c).await, next(&mut c).await];
    let error = c.next().await.err().unwrap();
    assert!(matches!(error, NextError::TooManyUncommitted { limit: 3, .. }));
    assert!(error.to_string().contains("10 records from a:1"), "{error}");
    held[0].commit().unwrap();
    assert_eq!(numbers(next(&mut c).await.batch())[0], 30);
}

#[tokio::test]
async fn a_failing_filter_raises_after_the_good_records_before_it() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..30);
    let mut options = consumer("c");
    options.filters.push(FilterOptions::new(FailsOn(13, Located::Record)));
    let mut c = open_one(dir.path(), options);
    next(&mut c).await.commit().unwrap();
    let mut second = next(&mut c).await;
    assert_eq!(numbers(second.batch()), vec![10, 11, 12]);
    second.commit().unwrap();
    for _ in 0..2 {
        let error = c.next().await.err().unwrap().to_string();
        assert_eq!(error, "the filter failed at a:14: poison");
    }
    drop((c, second));
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, (13..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn f15_a_poison_record_is_found_and_the_rest_delivered() {
    for located in [Located::Record, Located::Batch] {
        for poison in [0, 1, 13, 28, 29] {
            let dir = tempdir().unwrap();
            sealed(dir.path(), "a", 0..30);
            let mut options = consumer("c");
            options.filters.push(FilterOptions::new(FailsOn(poison, located)));
            options.on_filter_error = OnFilterError::Isolate;
            let delivered = drain(&mut open_one(dir.path(), options)).await;
            assert_eq!(
                delivered,
                (0..30).filter(|n| *n != poison).collect::<Vec<_>>(),
                "{located:?} {poison}"
            );
            let entry = (poison + 1, "poison".to_owned(), format!("{{\"n\":{poison}}}"));
            assert_eq!(quarantined(dir.path(), "c"), vec![entry]);
        }
    }
}

/// Fails on every record from this one on.
struct FailsFrom(u64);

impl Filter for FailsFrom {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        match numbers(candidates).iter().any(|n| *n >= self.0) {
            true => Err(FilterError { decided: vec![], located: Located::Batch, source: "poison".into() }),
            false => Ok(Verdict::All),
        }
    }
}

#[tokio::test]
async fn a_filter_that_fails_on_everything_is_stopped_and_costs_no_record() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..30);
    let options = || {
        let mut options = consumer("c");
        options.filters.push(FilterOptions::new(FailsFrom(0)));
        options.on_filter_error = OnFilterError::Isolate;
        options
    };
    let error = open_one(dir.path(), options()).next().await.err().unwrap().to_string();
    let expected = "the filter failed on 16 records in a row, each by itself, the last one at a:16, so it is the filter that \
                    must be mended: poison";
    assert_eq!(error, expected);
    assert!(quarantined(dir.path(), "c").is_empty());
    let mut without_limit = options();
    without_limit.max_poison = None;
    assert!(drain(&mut open_one(dir.path(), without_limit)).await.is_empty());
    assert_eq!(quarantined(dir.path(), "c").len(), 30);
}

/// What is delivered, and put in quarantine, if whoever runs the consumer empties the quarantine whenever it is full.
async fn with_a_quarantine_that_fills_up(text: &str, poison: Option<u64>) -> (Vec<u64>, Vec<u64>, u64) {
    let dir = tempdir().unwrap();
    append_text(dir.path(), "a", text);
    seal(dir.path(), "a");
    let (mut delivered, mut set_aside, mut runs, mut summed) = (Vec::new(), Vec::new(), 0, 0);
    loop {
        let mut options = consumer("c");
        options.checkpoint.as_mut().unwrap().quarantine.max_bytes = 700;
        options.on_filter_error = OnFilterError::Isolate;
        options.filters.extend(poison.map(|n| FilterOptions::new(FailsOn(n, Located::Record))));
        let mut c = open_one(dir.path(), options);
        let mut full = false;
        loop {
            match c.next().await {
                Ok(Some(mut delivery)) => {
                    delivered.extend(numbers(delivery.batch()));
                    delivery.commit().unwrap();
                }
                Ok(None) => break,
                Err(NextError::Quarantine(QuarantineError::Full(_))) => {
                    full = true;
                    break;
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert!(c.sums().is_balanced(), "{}", c.sums());
        summed += c.sums().quarantined;
        drop(c);
        let name = CheckpointName::new("c").unwrap();
        let entries = KeptQuarantine::lock(dir.path(), &name).unwrap();
        let take = |entry: &QuarantineEntry| {
            set_aside.push(entry.position.line);
            Fate::Go
        };
        entries.update(take).unwrap();
        runs += 1;
        assert!(runs < 100, "no end: {delivered:?} {set_aside:?}");
        if !full {
            return (delivered, set_aside, summed);
        }
    }
}

/// All of a block's bad lines used to be set aside before any of its records was delivered. If the quarantine could not hold them,
/// each run began with the same ones.
#[tokio::test]
async fn a_full_quarantine_that_is_emptied_goes_on_where_it_was_full() {
    let good = |n: u64| format!("{{\"n\":{n}}}\n");
    let each_second: String = (0..30).map(|n| good(n) + "broken\n").collect();
    let (delivered, set_aside, summed) = with_a_quarantine_that_fills_up(&each_second, None).await;
    assert_eq!(delivered, (0..30).collect::<Vec<_>>());
    assert_eq!(set_aside, (1..=30).map(|n| 2 * n).collect::<Vec<_>>());
    assert_eq!(summed, 30);

    let in_a_row = good(0) + &"\n broken\n".repeat(15) + &good(1);
    let (delivered, set_aside, summed) = with_a_quarantine_that_fills_up(&in_a_row, None).await;
    assert_eq!((delivered, summed), (vec![0, 1], 15));
    assert_eq!(set_aside, (1..=15).map(|n| 2 * n + 1).collect::<Vec<_>>());

    // A record that a filter fails on, behind some lines and before others.
    let (delivered, set_aside, summed) = with_a_quarantine_that_fills_up(&each_second, Some(5)).await;
    assert_eq!(delivered, (0..30).filter(|n| *n != 5).collect::<Vec<_>>());
    let mut all: Vec<_> = (1..=30).map(|n| 2 * n).chain([11]).collect();
    all.sort_unstable();
    assert_eq!((set_aside, summed), (all, 31));
}

#[tokio::test]
async fn f02_malformed_lines_are_kept_skipped_or_raised() {
    let text = "{\"n\":1}\n{\"n\":2}\nbroken\n\n{\"n\":3}\nnull\n";
    for (policy, delivered, kept) in [
        (OnMalformed::Quarantine, vec![1, 2, 3], 2),
        (OnMalformed::Skip, vec![1, 2, 3], 0),
        (OnMalformed::Fail, vec![1, 2], 0),
    ] {
        let dir = tempdir().unwrap();
        append_text(dir.path(), "a", text);
        seal(dir.path(), "a");
        let mut options = consumer("c");
        options.on_malformed = policy;
        let mut c = open_one(dir.path(), options);
        let mut all = Vec::new();
        let end = loop {
            match c.next().await {
                Ok(Some(mut delivery)) => {
                    all.extend(numbers(delivery.batch()));
                    delivery.commit().unwrap();
                }
                other => break other.map(|_| ()),
            }
        };
        assert_eq!(all, delivered, "{policy:?}");
        assert_eq!(quarantined(dir.path(), "c").len(), kept, "{policy:?}");
        match policy {
            OnMalformed::Fail => {
                assert!(end.unwrap_err().to_string().starts_with("line a:3 is not a record"))
            }
            _ => {
                end.unwrap();
                let seen = c.counters().snapshot();
                assert_eq!((seen.lines, seen.records, seen.malformed, c.sums().blank), (6, 3, 2, 1));
                assert_eq!(checkpoint(dir.path(), "c")["line"], 6);
            }
        }
    }
}

#[tokio::test]
async fn tail_starts_at_the_newest_segment_whatever_the_checkpoint_says() {
    let dir = tempdir().unwrap();
    for (segment, first) in [("a", 0), ("b", 20), ("c", 40)] {
        sealed(dir.path(), segment, first..first + 20);
    }
    // Half of the first segment is dealt with, and the other half is passed over as well.
    let mut c = open_one(dir.path(), consumer("c"));
    next(&mut c).await.commit().unwrap();
    drop(c);
    // It sorts last, but it is no segment.
    std::fs::write(dir.path().join("zzz"), [0u8, 1, 2]).unwrap();
    let events = Arc::new(Events::default());
    let mut source = heard(dir.path(), events.clone());
    source.start = StartFrom::Newest;
    let mut c = open(source, vec![consumer("c")]).unwrap().pop().unwrap();
    assert_eq!(drain(&mut c).await, (40..60).collect::<Vec<_>>());
    let first = SegmentName::new("c").unwrap();
    let skipped = Event::SkippedByRequest { first, segments: 2 };
    assert_eq!(events.0.lock().unwrap().iter().filter(|event| **event == skipped).count(), 1);
    drop(c);
    assert_eq!(
        drain(&mut open_one(dir.path(), consumer("c"))).await,
        Vec::<u64>::new(),
        "what was passed over counts as dealt with"
    );
}

#[tokio::test]
async fn a_partial_batch_goes_out_after_its_latency_and_growth_is_followed() {
    let dir = tempdir().unwrap();
    append(dir.path(), "a", 0..3);
    let mut options = consumer("c");
    options.max_batch_latency = Duration::from_millis(20);
    let mut source = once(dir.path());
    source.reader.mode = Mode::Follow;
    let mut c = open(source, vec![options]).unwrap().pop().unwrap();
    let mut delivery = next(&mut c).await;
    assert_eq!(numbers(delivery.batch()), vec![0, 1, 2]);
    delivery.commit().unwrap();
    append(dir.path(), "a", 3..5);
    let mut delivery = tokio::time::timeout(Duration::from_secs(20), next(&mut c)).await.unwrap();
    let mut seen = numbers(delivery.batch());
    delivery.commit().unwrap();
    while seen.len() < 2 {
        seen.extend(numbers(
            tokio::time::timeout(Duration::from_secs(20), next(&mut c)).await.unwrap().batch(),
        ));
    }
    assert_eq!(seen, vec![3, 4]);
    let closer = c.closer();
    std::thread::spawn(move || closer.close());
    assert!(tokio::time::timeout(Duration::from_secs(20), c.next()).await.unwrap().unwrap().is_none());
}

fn usable(directory: &std::path::Path) -> Vec<CheckpointStatus> {
    status(directory).unwrap().into_iter().filter_map(Listed::usable).collect()
}

#[tokio::test]
async fn status_tells_how_far_behind_each_checkpoint_is_and_which_can_not_be_used() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..10);
    sealed(dir.path(), "b", 10..20);
    for name in ["broken", "c"] {
        let mut c = open_one(dir.path(), consumer(name));
        next(&mut c).await.commit().unwrap();
    }
    std::fs::write(dir.path().join(".broken"), b"{").unwrap();
    let found = status(dir.path()).unwrap();
    let [Listed::Unusable { name, problem }, Listed::Checkpoint(status)] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(name == "broken" && problem.to_string().contains("rm '"), "{problem}");
    assert_eq!((status.name.as_str(), status.segment.as_str(), status.line), ("c", "a", 10));
    assert_eq!((status.behind_segments, status.behind_bytes, status.quarantined), (1, 90, 0));
}

#[tokio::test]
async fn f12_checkpoint_and_quarantine_follow_a_directory_that_is_moved() {
    let parent = tempdir().unwrap();
    let (before, after) = (parent.path().join("before"), parent.path().join("after"));
    std::fs::create_dir(&before).unwrap();
    sealed(&before, "a", 0..20);
    let mut c = open_one(&before, consumer("c"));
    next(&mut c).await.commit().unwrap();
    std::fs::rename(&before, &after).unwrap();
    let mut second = next(&mut c).await;
    second.quarantine(&[3], "why not").unwrap();
    second.commit().unwrap();
    assert_eq!(checkpoint(&after, "c")["line"], 20);
    assert_eq!(checkpoint(&after, "c")["file"].as_str(), after.join("a").to_str());
    assert_eq!(quarantined(&after, "c")[0].0, 14);
    drop((c, second));
    assert_eq!(drain(&mut open_one(&after, consumer("c"))).await, Vec::<u64>::new());
}

#[tokio::test]
async fn a_checkpoint_that_another_program_writes_meanwhile_is_noticed() {
    let dir = tempdir().unwrap();
    sealed(dir.path(), "a", 0..30);
    let events = Arc::new(Events::default());
    let mut c = open(heard(dir.path(), events.clone()), vec![consumer("c"), consumer("fresh")]).unwrap();
    let (mut fresh, mut c) = (c.pop().unwrap(), c.pop().unwrap());
    next(&mut c).await.commit().unwrap();
    std::fs::write(dir.path().join(".c"), "{\"file\":\"a\",\"line\":1}").unwrap();
    next(&mut c).await.commit().unwrap();
    next(&mut c).await.commit().unwrap();
    let said = |e: &&Event| matches!(e, Event::Warning { message } if message.contains("was changed by another program"));
    assert_eq!(events.0.lock().unwrap().iter().filter(said).count(), 1);
    // One that has not committed anything yet.
    let mut delivery = next(&mut fresh).await;
    std::fs::write(dir.path().join(".fresh"), "{\"file\":\"a\",\"line\":6}").unwrap();
    delivery.commit().unwrap();
    assert_eq!(events.0.lock().unwrap().iter().filter(said).count(), 2);
}

#[tokio::test]
async fn kumod_would_not_pass_a_segment_that_has_nothing_yet() {
    let dir = tempdir().unwrap();
    append_text(dir.path(), "a", "");
    sealed(dir.path(), "b", 0..10);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, (0..10).collect::<Vec<_>>());
    let place = |dir: &std::path::Path| {
        let place = checkpoint(dir, "c");
        (place["file"].as_str().unwrap().rsplit('/').next().unwrap().to_owned(), place["line"].clone())
    };
    assert_eq!(place(dir.path()), ("a".to_owned(), 0.into()));
    append(dir.path(), "a", 100..103);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, vec![100, 101, 102]);
    assert_eq!(place(dir.path()), ("a".to_owned(), 3.into()));
    seal(dir.path(), "a");
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, Vec::<u64>::new());
    assert_eq!(place(dir.path()), ("b".to_owned(), 10.into()));
    // One that vanishes with nothing in it holds nothing up.
    append_text(dir.path(), "aa", "");
    sealed(dir.path(), "c", 10..11);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, vec![10]);
    assert_eq!(place(dir.path()).0, "aa");
    std::fs::remove_file(dir.path().join("aa")).unwrap();
    sealed(dir.path(), "d", 11..12);
    assert_eq!(drain(&mut open_one(dir.path(), consumer("c"))).await, vec![11]);
    assert_eq!(place(dir.path()), ("d".to_owned(), 1.into()));
}

#[tokio::test]
async fn f24_a_batch_of_rare_records_keeps_only_them_in_memory() {
    let dir = tempdir().unwrap();
    let padding = "x".repeat(1000);
    let text: String = (0..20_000).map(|n| format!("{{\"n\":{n},\"p\":\"{padding}\"}}\r\n")).collect();
    append_text(dir.path(), "a", &text);
    seal(dir.path(), "a");
    let mut options = consumer("c");
    options.filters.push(FilterOptions::new(Keep(|n| n % 500 == 7)));
    options.max_batch_size = 100;
    let mut c = open_one(dir.path(), options);
    let mut delivery = next(&mut c).await;
    let batch = delivery.batch().clone();
    assert_eq!(numbers(&batch), (0..40).map(|i| i * 500 + 7).collect::<Vec<_>>());
    assert!(batch.footprint() < 40 * 8192, "{} bytes are kept", batch.footprint());
    for record in batch.iter() {
        let position = record.position();
        assert_eq!(
            format!("{}\r\n", record.text()),
            text[position.offset as usize..][..record.bytes().len() + 2]
        );
        assert_eq!(record.field("n").unwrap(), (position.line - 1).to_string());
    }
    delivery.commit().unwrap();
}

/// A consumer used to take what another one had read of a file for the file that it had read itself: both had lines of that
/// name, and it skipped as many as it had dealt with.
#[tokio::test]
async fn f11_a_consumer_that_shares_a_pass_notices_that_its_file_was_replaced_or_cut_off() {
    for more in [0, 15] {
        for replaced in [true, false] {
            let dir = tempdir().unwrap();
            append(dir.path(), "s", 0..20);
            let open_both = || open(once(dir.path()), vec![consumer("a"), consumer("b")]).unwrap();
            for mut consumer in open_both() {
                next(&mut consumer).await.commit().unwrap();
            }
            let first = if replaced {
                append(dir.path(), ".new", 100..105);
                std::fs::rename(dir.path().join(".new"), dir.path().join("s")).unwrap();
                100
            } else {
                let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("s")).unwrap();
                file.set_len(5 * 8).unwrap();
                0
            };
            let mut a = open_one(dir.path(), consumer("a"));
            assert_eq!(drain(&mut a).await, (first..first + 5).collect::<Vec<_>>());
            drop(a);
            if replaced {
                append(dir.path(), "s", 105..105 + more);
            }
            let mut both = open_both();
            let mut b = both.pop().unwrap();
            let end = if replaced { 105 + more } else { 5 };
            assert_eq!(drain(&mut b).await, (first..end).collect::<Vec<_>>(), "{more} more, {replaced}");
            assert_eq!(drain(&mut both[0]).await, (first + 5..end).collect::<Vec<_>>());
        }
    }
}
