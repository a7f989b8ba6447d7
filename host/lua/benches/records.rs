//! What lazy records cost, in filters and in scripts: 1,000 records at a time.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mlua::{Function, Lua, Table};
use tailweir_core::{Batch, Block, Filter, Frame, Identity, Point, SegmentName, Verdict};
use tailweir_lua::plugin::LuaFilter;
use tailweir_lua::record::Records;

#[path = "../../core/benches/made/mod.rs"]
mod made;

const RECORDS: usize = 1000;

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = filters, scripts
}

fn filters(c: &mut Criterion) {
    let batch = batch();
    let mut group = c.benchmark_group("filter");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (name, body) in [
        ("no field", "return true"),
        ("egress_pool (far back)", "return r.egress_pool == 'customer-a'"),
        ("type (first)", "return r.type == 'Delivery'"),
        ("three fields", "return r.type == 'Delivery' and r.egress_pool ~= 'x' and r.recipient ~= ''"),
        ("nested response.code", "return r.response.code == 250"),
        ("full pairs walk", "for k, v in pairs(r) do end return true"),
        ("full walk, nested too", "walk(r) return true"),
        ("one write", "r.note = 1 return true"),
    ] {
        let lua = Lua::new();
        let walk = "function walk(t) for k, v in pairs(t) do if type(v) == 'table' then walk(v) end end end";
        lua.load(walk).exec().unwrap();
        let function: Function = lua.load(format!("return function(r) {body} end")).eval().unwrap();
        let mut filter = LuaFilter::new(&lua, function).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| assert!(matches!(filter.evaluate(&batch), Ok(Verdict::Keep(_)))));
        });
    }
    group.finish();
}

fn scripts(c: &mut Criterion) {
    let batch = batch();
    let mut group = c.benchmark_group("script");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let scripts = [
        ("records()", "return function(records) end"),
        (
            "three fields each",
            "return function(records) for _, r in ipairs(records) do local x = r.type, r.egress_pool, r.recipient end end",
        ),
        ("json_encode(records())", "return function(records) return #encode(records) end"),
        ("json_encode of each", "return function(records) for i = 1, #records do encode(records[i]) end end"),
        (
            "one write, json_encode",
            "return function(records) for _, r in ipairs(records) do r.note = 1 end return #encode(records) end",
        ),
    ];
    for (name, script) in scripts {
        let lua = Lua::new();
        let records = Records::install(&lua).unwrap();
        let serde = tailweir_lua::serde::install(&lua).unwrap();
        lua.globals().set("encode", serde.get::<Function>("json_encode").unwrap()).unwrap();
        let function: Function = lua.load(script).eval().unwrap();
        group.bench_function(name, |b| {
            b.iter(|| {
                let handle = records.batch_handle(&lua, batch.clone()).unwrap();
                let table: Table = records.records_table(&lua, &handle).unwrap();
                function.call::<()>(table).unwrap();
            });
        });
    }
    group.finish();
}

fn batch() -> Arc<Batch> {
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    let name = SegmentName::new("20250912-110801.440526026").unwrap();
    let text = made::records(RECORDS).into_bytes();
    let block = Block::parse(name, identity, Point::default(), Frame::default(), text);
    Arc::new(Batch::of_block("bench".into(), Arc::new(block), 0..RECORDS))
}
