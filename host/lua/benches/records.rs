//! What lazy records cost. `cargo bench -p tailweir-lua --bench records [-- FILE.jsonl [CASE]]`
//!
//! Without a file it makes records of its own, of the size and shape of KumoMTA's.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlua::{Function, Lua, Table};
use tailweir_core::{Batch, Block, Filter, Frame, Identity, Point, SegmentName, Verdict};
use tailweir_lua::plugin::LuaFilter;
use tailweir_lua::record::Records;

const BATCH: usize = 1000;

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let (file, only) = (args.next(), args.next().unwrap_or_default());
    let text = file.map_or_else(made, |path| std::fs::read(path).unwrap());
    let batches = batches(text);
    let count: usize = batches.iter().map(|b| b.len()).sum();
    let bytes: usize = batches.iter().map(|b| b.bytes()).sum();
    println!("{count} records of {} bytes on average, batches of {BATCH}", bytes / count);

    for (name, body) in [
        ("filter: no field", "return true"),
        ("filter: egress_pool (far back)", "return r.egress_pool == 'customer-a'"),
        ("filter: type (first)", "return r.type == 'Delivery'"),
        (
            "filter: three fields",
            "return r.type == 'Delivery' and r.egress_pool ~= 'x' and r.recipient ~= ''",
        ),
        ("filter: nested response.code", "return r.response.code == 250"),
        ("filter: full pairs walk", "for k, v in pairs(r) do end return true"),
        ("filter: full walk, nested too", "walk(r) return true"),
        ("filter: one write", "r.note = 1 return true"),
    ] {
        if !name.contains(&only) {
            continue;
        }
        let lua = Lua::new();
        let walk = "function walk(t) for k, v in pairs(t) do if type(v) == 'table' then walk(v) end end end";
        lua.load(walk).exec().unwrap();
        let function: Function = lua.load(format!("return function(r) {body} end")).eval().unwrap();
        let mut filter = LuaFilter::new(&lua, function).unwrap();
        measure(name, count, bytes, || {
            for batch in &batches {
                assert!(matches!(filter.evaluate(batch), Ok(Verdict::Keep(_))));
            }
        });
    }
    let scripts = [
        ("script: records()", "return function(records) end"),
        (
            "script: three fields each",
            "return function(records) for _, r in ipairs(records) do local x = r.type, r.egress_pool, r.recipient end end",
        ),
        ("script: json_encode(records())", "return function(records) return #encode(records) end"),
        (
            "script: json_encode of each",
            "return function(records) for i = 1, #records do encode(records[i]) end end",
        ),
        (
            "script: one write, json_encode",
            "return function(records) for _, r in ipairs(records) do r.note = 1 end return #encode(records) end",
        ),
    ];
    for (name, script) in scripts {
        if !name.contains(&only) {
            continue;
        }
        let lua = Lua::new();
        let records = Records::install(&lua).unwrap();
        let serde = tailweir_lua::serde::install(&lua).unwrap();
        lua.globals().set("encode", serde.get::<Function>("json_encode").unwrap()).unwrap();
        let function: Function = lua.load(script).eval().unwrap();
        measure(name, count, bytes, || {
            for batch in &batches {
                let handle = records.batch_handle(&lua, batch.clone()).unwrap();
                let table: Table = records.records_table(&lua, &handle).unwrap();
                function.call::<()>(table).unwrap();
            }
        });
    }
}

/// Prints the best of several runs.
fn measure(name: &str, count: usize, bytes: usize, mut run: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    let (ns, rate) = (best.as_nanos() as f64 / count as f64, bytes as f64 / best.as_secs_f64() / 1e6);
    println!("{name:34} {ns:8.0} ns/record {rate:8.0} MB/s");
}

fn batches(text: Vec<u8>) -> Vec<Arc<Batch>> {
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    let name = SegmentName::new("20250912-110801.440526026").unwrap();
    let block = Arc::new(Block::parse(name, identity, Point::default(), Frame::default(), text));
    let ranges = (0..block.len()).step_by(BATCH);
    ranges
        .map(|from| {
            Arc::new(Batch::of_block("bench".into(), block.clone(), from..(from + BATCH).min(block.len())))
        })
        .collect()
}

fn made() -> Vec<u8> {
    let mut text = String::new();
    for n in 0..50_000 {
        let (pool, kind) = (["customer-a", "customer-b", "shared"][n % 3], ["Delivery", "Bounce"][n % 5 / 4]);
        text.push_str(&format!(
            concat!(
                r#"{{"type":"{kind}","id":"{n:032x}","sender":"bounces+{n}@mail.example.com","recipient":"user{n}@example.net","#,
                r#""queue":"campaign:tenant@example.net","site":"source2->(alt1|alt2)?.gmail-smtp-in.l.google.com@smtp_client","#,
                r#""size":{n},"response":{{"code":250,"enhanced_code":{{"class":2,"subject":0,"detail":0}},"#,
                r#""content":"OK  {n} a640c23a62f3a-ac2 - gsmtp","command":null}},"peer_address":{{"name":"gmail-smtp-in.l.google.com.","#,
                r#""addr":"142.251.2.27"}},"timestamp":1757674081,"event_time":"2025-09-12T10:48:01.440526026Z","created":1757674081,"#,
                r#""created_time":"2025-09-12T10:48:01.139526026Z","num_attempts":0,"bounce_classification":"Uncategorized","#,
                r#""egress_pool":"{pool}","egress_source":"source2","source_address":{{"address":"10.0.0.1:53210"}},"#,
                r#""feedback_report":null,"meta":{{"tenant":"tenant","campaign":"campaign"}},"headers":{{"Subject":"Hello \"{n}\""}},"#,
                r#""delivery_protocol":"ESMTP","reception_protocol":"ESMTP","nodeid":"557f3ad4-2c8c-11ee-976e-782d7e12e173","#,
                r#""tls_cipher":"TLS_AES_256_GCM_SHA384","tls_protocol_version":"TLSv1.3","tls_peer_subject_name":["C=US","CN=mx.google.com"],"#,
                r#""provider_name":"google","session_id":"0d1d9c5e-4a8c-4f6c-9c3a-2a1d3f0e5b6f"}}"#,
                "\n"
            ),
            kind = kind,
            n = n,
            pool = pool,
        ));
    }
    text.into_bytes()
}
