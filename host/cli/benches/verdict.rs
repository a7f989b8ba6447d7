//! One verdict, from each engine: of 1,000 records, which are in one pool.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use tailweir_core::{
    Batch, Block, Filter, FilterError, FilterFactory, Frame, Identity, Point, Pointer, SegmentName, Verdict,
};
use tailweir_segments::sample::Sample;
use tailweir_wasm::{Host, HostOptions, Limits};

const RECORDS: usize = 1000;

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = verdict
}

fn verdict(c: &mut Criterion) {
    let batch = batch();
    let (mut native, mut wasm, mut lua) = (native(), wasm(), lua());
    let expected = kept(&mut *native, &batch);
    assert_ne!(expected, 0);
    let mut group = c.benchmark_group("verdict");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (engine, filter) in [("native", &mut native), ("wasm", &mut wasm), ("lua", &mut lua)] {
        assert_eq!(kept(&mut **filter, &batch), expected, "{engine}");
        group.bench_function(engine, |b| b.iter(|| filter.evaluate(&batch).unwrap()));
    }
    group.finish();
}

fn kept(filter: &mut dyn Filter, batch: &Arc<Batch>) -> usize {
    let verdict = filter.evaluate(batch).unwrap();
    (0..batch.len()).filter(|index| verdict.keeps(*index)).count()
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

struct Pool(Pointer);

impl Filter for Pool {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let pools = candidates.column(&self.0);
        Ok(Verdict::Keep(pools.map(|pool| pool == Some("\"customer-a\"")).collect()))
    }
}

fn native() -> Box<dyn Filter> {
    Box::new(Pool(Pointer::parse("/egress_pool").unwrap()))
}

fn wasm() -> Box<dyn Filter> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/plugins/pool-filter/pool-filter.wasm");
    let host = Host::new(HostOptions::default()).unwrap();
    host.filter(&path, &json!({"pool": "customer-a"}), Limits::default()).unwrap().create().unwrap()
}

fn lua() -> Box<dyn Filter> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.lua");
    std::fs::write(&path, "return function(record) return record.egress_pool == 'customer-a' end").unwrap();
    Box::new(tailweir_lua::plugin::load_filter(&path, &json!(null), &|_| Ok(())).unwrap())
}
