//! What the example plug-ins cost in each language: the table in docs/plugins.md, printed.
//!
//! `cargo xtask guests --languages`, then `cargo bench --bench languages`. Of what is short the fastest of many runs counts, so
//! that a busy machine does little harm; compiling is the computing time of all cores together.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tailweir_core::{Batch, Block, FilterFactory, Frame, Identity, Outcome, Point, Processor, SegmentName};
use tailweir_segments::sample::Sample;
use tailweir_wasm::{Grants, Host, HostOptions, Limits};

const RECORDS: usize = 1000;
/// How often what is short is run.
const ROUNDS: usize = 200;

fn main() {
    println!(
        "| language | size | compile, all cores | load from the cache | an instance | filter, per record | processor, per record \
         | least memory |\n|---|---|---|---|---|---|---|---|"
    );
    for (language, filter, processor) in [
        ("Rust", "pool-filter", "summary"),
        ("C", "c-pool-filter", "c-summary"),
        ("JavaScript", "js-pool-filter", "js-summary"),
        ("Python", "python-pool-filter", "python-summary"),
    ] {
        let (filter, processor) = (guest(filter), guest(processor));
        if !filter.exists() || !processor.exists() {
            println!("| {language} | not built: `cargo xtask guests --languages` |");
            continue;
        }
        row(language, &filter, &processor);
    }
}

fn row(language: &str, filter: &Path, processor: &Path) {
    let cache = tempfile::tempdir().unwrap();
    let host = || {
        let options = HostOptions { cache: Some(cache.path().join("cache")), ..HostOptions::default() };
        Host::new(options).unwrap()
    };
    let before = computing_time();
    let compiled = host().filter(filter, &config(), Limits::default()).unwrap();
    let compile = computing_time() - before;
    drop(compiled);

    // A new host each time: within one, a component is compiled or loaded once.
    let empty = fastest(20, || drop(host()));
    let load = fastest(20, || drop(host().filter(filter, &config(), Limits::default()).unwrap()));
    let host = host();
    let plugin = host.filter(filter, &config(), Limits::default()).unwrap();
    let instance = fastest(50, || drop(plugin.create().unwrap()));

    let batch = batch();
    let mut filter_instance = plugin.create().unwrap();
    let evaluate = fastest(ROUNDS, || drop(filter_instance.evaluate(&batch).unwrap()));
    let summary = host.processor(processor, &Value::Null, Grants::default(), Limits::default()).unwrap();
    let mut summary = summary.create();
    let process = fastest(ROUNDS, || drop(processed(&mut *summary, &batch)));
    let per_record = |time: Duration| time.as_nanos() / RECORDS as u128;
    println!(
        "| {language} | {} | {} | {} | {} | {} ns | {} ns | {:.1} MiB |",
        size(fs::metadata(filter).unwrap().len()),
        shown(compile),
        shown(load.saturating_sub(empty)),
        shown(instance),
        per_record(evaluate),
        per_record(process),
        least_memory(&host, filter, &batch) as f64 / f64::from(1 << 20),
    );
}

fn fastest(rounds: usize, mut run: impl FnMut()) -> Duration {
    let once = |run: &mut dyn FnMut()| {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    (0..rounds).map(|_| once(&mut run)).min().unwrap()
}

/// A component that asks for nothing answers at once.
fn processed(processor: &mut dyn Processor, batch: &Arc<Batch>) -> Outcome {
    let mut answer = pin!(processor.process(batch));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut context) {
            return answer.unwrap();
        }
    }
}

/// The lowest limit that the filter works within.
fn least_memory(host: &Arc<Host>, filter: &Path, batch: &Arc<Batch>) -> u64 {
    const PAGE: u64 = 1 << 16;
    let works = |pages: u64| {
        let limits = Limits { memory_bytes: pages * PAGE, ..Limits::default() };
        let plugin = host.filter(filter, &config(), limits);
        plugin.is_ok_and(|plugin| plugin.create().is_ok_and(|mut instance| instance.evaluate(batch).is_ok()))
    };
    let (mut too_few, mut enough) = (0_u64, 4096_u64);
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        *(if works(middle) { &mut enough } else { &mut too_few }) = middle;
    }
    enough * PAGE
}

/// The computing time of all threads of this process that are still there.
fn computing_time() -> Duration {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(threads.map(|thread| of(thread.unwrap())).sum())
}

fn config() -> Value {
    json!({"pool": "customer-a"})
}

fn guest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests").join(format!("{name}.wasm"))
}

fn batch() -> Arc<Batch> {
    let (mut sample, mut text) = (Sample::new(1), String::new());
    for _ in 0..RECORDS {
        sample.append_record(&mut text);
        text.push('\n');
    }
    let name = SegmentName::new("20250912-110801.440526026").unwrap();
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    let block = Block::parse(name, identity, Point::default(), Frame::default(), text.into_bytes());
    Arc::new(Batch::of_block("bench".into(), Arc::new(block), 0..RECORDS))
}

fn size(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{} KB", bytes / 1000) } else { format!("{} MB", bytes / 1_000_000) }
}

fn shown(time: Duration) -> String {
    let microseconds = time.as_micros();
    match microseconds {
        0..1_000 => format!("{microseconds} µs"),
        1_000..1_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}
