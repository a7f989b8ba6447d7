//! What a commit costs: the ledger, and writing the checkpoint.
//!
//! Only with `checkpoint_sync` as an interval, which is the default: with `"always"` it would be the disk that is measured.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tailweir_pipeline::{
    CheckpointName, CheckpointOptions, CheckpointSync, Consumer, ConsumerOptions, SourceOptions, open,
};
use tailweir_segments::{Mode, sample};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = commit
}

fn commit(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("commit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("interval", |b| {
        b.iter_custom(|commits| {
            let dir = tempfile::tempdir().unwrap();
            sample::write_directory(dir.path(), commits, 1, 1, 1).unwrap();
            time_commits(&runtime, &dir, commits)
        });
    });
    group.finish();
}

/// The time that commits took, of batches of one record each; reading is not counted.
fn time_commits(runtime: &Runtime, dir: &TempDir, commits: u64) -> Duration {
    let mut consumer = consumer(dir.path());
    let mut time = Duration::ZERO;
    for _ in 0..commits {
        let mut delivery = runtime.block_on(consumer.next()).unwrap().unwrap();
        let start = Instant::now();
        delivery.commit().unwrap();
        time += start.elapsed();
    }
    time
}

fn consumer(dir: &Path) -> Consumer {
    let mut source = SourceOptions::new(dir);
    source.reader.mode = Mode::Once;
    let mut checkpoint = CheckpointOptions::new(CheckpointName::new("bench").unwrap());
    checkpoint.sync = CheckpointSync::default();
    let mut options = ConsumerOptions::new("bench");
    options.max_batch_size = 1;
    options.checkpoint = Some(checkpoint);
    open(source, vec![options]).unwrap().pop().unwrap()
}
