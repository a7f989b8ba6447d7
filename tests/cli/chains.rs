//! Several filters of one consumer: in a pipeline, in a script, and on the command line.

use std::fs;

use serde_json::Value;
use tailweir_tests::{Program, Segments, repository};

use crate::metrics::told;
use crate::tailweir;

const OF_POOL: &str = "local c = ... return function(r) return r.egress_pool == c.pool end";
const DELIVERIES: &str = "return function(r) return r.type == 'Delivery' end";

fn pool_filter() -> String {
    repository("examples/plugins/pool-filter/pool-filter.wasm").display().to_string()
}

/// What both filters keep.
fn wanted(record: &Value) -> bool {
    record["egress_pool"] == "customer-a" && record["type"] == "Delivery"
}

fn pipeline(segments: &Segments, consumer: &str) -> Program {
    let text = format!("[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\n{consumer}\n");
    tailweir().arg("run").arg(segments.beside("pipeline.toml", &text))
}

#[test]
fn all_filters_must_keep_a_record_wherever_they_are_given() {
    let segments = Segments::generate(8_000, 3, 31);
    let (filter, expected) = (pool_filter(), segments.kept(wanted));
    let of_pool = segments.beside("pool.lua", OF_POOL);
    let deliveries = segments.beside("deliveries.lua", DELIVERIES);
    assert!(!expected.is_empty());

    let wasm = format!("{{ wasm = '{filter}', config = {{ pool = 'customer-a' }} }}");
    for filters in [
        format!("[{wasm}, {{ lua = 'deliveries.lua' }}]"),
        format!("[{{ lua = 'deliveries.lua' }}, {wasm}]"),
        format!(
            "[{wasm}, {wasm}, {{ lua = 'deliveries.lua' }}, {{ lua = 'pool.lua', config = {{ pool = 'customer-a' }} }}]"
        ),
    ] {
        let _ = fs::remove_file(segments.directory().join(".c"));
        let consumer = format!("filter = {filters}\nprocessor = {{ stdout = {{}} }}");
        assert_eq!(pipeline(&segments, &consumer).arg("--once").run().quietly(), expected, "{filters}");
    }

    let tail = || tailweir().arg("tail").arg(segments.directory()).arg("--once");
    let config = r#"{"pool":"customer-a"}"#;
    let first = tail().arg("--filter").arg(&filter).arg("--config").arg(config);
    assert_eq!(first.arg("--filter").arg(&deliveries).run().quietly(), expected);
    let last = tail().arg("--filter").arg(&deliveries).arg("--filter").arg(&of_pool);
    assert_eq!(last.arg("--config").arg(config).run().quietly(), expected);
    // Without its configuration the filter fails, whatever the other one is given.
    let misplaced = tail().arg("--filter").arg(&deliveries).arg("--config").arg(config);
    assert_eq!(misplaced.arg("--filter").arg(&of_pool).run().code, Some(1));
    let refused =
        tail().arg("--config").arg("{}").arg("--filter").arg(&filter).arg("--filter").arg(&deliveries);
    let said = refused.run().with_code(2);
    assert!(said.contains("a --config stands before all --filter"), "{said}");

    let script = "local kumo = require 'kumo'
        local directory, component = ...
        local wasm = kumo.wasm.filter { path = component, config = { pool = 'customer-a' } }
        local delivery = function(r) return r.type == 'Delivery' end
        local function show(tailer)
          for batch in tailer:batches() do
            for record in batch:iter_records() do io.write(kumo.serde.json_encode(record), '\\n') end
            batch:commit()
          end
        end
        show(kumo.jsonl.new_tailer({ directory = directory, follow = false }, { delivery, wasm }))
        local multi = kumo.jsonl.new_multi_tailer { directory = directory, follow = false,
          consumers = { { name = 'a', filter = { wasm, delivery } }, { name = 'b', filter = delivery } } }
        local kept = { a = 0, b = 0 }
        for batches in multi:batches() do
          for _, batch in ipairs(batches) do kept[batch:consumer_name()] = kept[batch:consumer_name()] + #batch end
        end
        io.stderr:write(kept.a, ' ', kept.b)";
    let script = segments.beside("chain.lua", script);
    let run = tailweir().arg("script").arg(script).arg("--").arg(segments.directory()).arg(&filter).run();
    assert_eq!(run.stdout, expected);
    let (a, b) = (segments.ids(wanted).len(), segments.ids(|r| r["type"] == "Delivery").len());
    assert_eq!(run.with_code(0), format!("{a} {b}"));
}

#[test]
fn the_filter_that_fails_is_named() {
    let segments = Segments::generate(2_000, 1, 32);
    let wanted_ids = segments.ids(wanted);
    let poison = &wanted_ids[wanted_ids.len() / 2];
    let fails =
        format!("return function(r) if r.id == '{poison}' then error('no such thing') end return true end");
    segments.beside("fails.lua", &fails);
    segments.beside("deliveries.lua", DELIVERIES);
    let wasm = format!("{{ wasm = '{}', config = {{ pool = 'customer-a' }} }}", pool_filter());
    let consumer = format!(
        "filter = [{{ lua = 'deliveries.lua' }}, {{ lua = 'fails.lua' }}, {wasm}]\nprocessor = {{ stdout = {{}} }}"
    );
    let run = pipeline(&segments, &consumer).arg("--once").run();
    let is_good = |record: &Value| wanted(record) && record["id"] != poison.as_str();
    assert_eq!(run.stdout, segments.kept(is_good));
    run.with_code(0);
    let quarantine = fs::read_to_string(segments.directory().join(".c.quarantine")).unwrap();
    let entry: Value = serde_json::from_str(&quarantine).unwrap();
    let plugin = entry["plugin"].as_str().unwrap();
    assert!(plugin.starts_with("filter 2 of 3 (") && plugin.ends_with("fails.lua)"), "{plugin}");
    assert!(entry["reason"].as_str().unwrap().contains("no such thing"), "{entry}");

    // What was set aside goes through the whole chain again.
    segments.beside("fails.lua", "return function(r) return true end");
    let file = segments.directory().with_file_name("pipeline.toml");
    let replay = tailweir().args("quarantine replay").arg(segments.directory()).arg("c");
    let replayed = replay.arg("--pipeline").arg(file).run();
    assert_eq!(replayed.stdout, segments.kept(|record| record["id"] == poison.as_str()));

    let script = format!(
        "local kumo = require 'kumo'
         local tailer = kumo.jsonl.new_tailer({{ directory = '{}', follow = false }}, {{
           function(r) return r.type == 'Delivery' end,
           function(r) if r.id == '{poison}' then error('no such thing') end return true end,
         }})
         for batch in tailer:batches() do batch:commit() end",
        segments.directory().display()
    );
    let script = segments.beside("fails_too.lua", &script);
    let said = tailweir().arg("script").arg(script).run().with_code(1);
    assert!(said.contains("filter 2 of 2 failed at ") && said.contains("no such thing"), "{said}");
}

#[test]
fn a_filter_that_can_not_be_loaded_is_named_by_its_place() {
    let segments = Segments::generate(1, 1, 33);
    segments.beside("deliveries.lua", DELIVERIES);
    let consumer =
        "filter = [{ lua = 'deliveries.lua' }, { lua = 'missing.lua' }]\nprocessor = { stdout = {} }";
    let said = pipeline(&segments, consumer).arg("--check").run().with_code(1);
    assert!(said.contains("filter 2 of 2") && said.contains("missing.lua"), "{said}");
    let script = "require('kumo').jsonl.new_tailer({ directory = '.' }, { print, [3] = print })";
    let script = segments.beside("hole.lua", script);
    let said = tailweir().arg("script").arg(script).run().with_code(1);
    assert!(said.contains("the filters must be an array without holes"), "{said}");
    let replay = tailweir().args("quarantine replay").arg(segments.directory()).args("c --pipeline p.toml");
    let said = replay.args("--filter f.lua").run().with_code(2);
    assert!(said.contains("--filter is for --stdout"), "{said}");
}

#[test]
fn each_filter_of_a_chain_is_counted_by_its_place() {
    let segments = Segments::generate(3_000, 1, 8);
    let filter = pool_filter();
    segments.beside("any.lua", "return function(r) return true end");
    let of = |pool: &str| format!("{{ wasm = '{filter}', config = {{ pool = '{pool}' }} }}");
    let filters = format!("[{}, {}, {{ lua = 'any.lua' }}]", of("customer-a"), of("customer-b"));
    let consumer = format!("filter = {filters}\nprocessor = {{ stdout = {{}} }}");
    let ended = pipeline(&segments, &consumer).args("--once --summary=json").run();
    let kept = segments.kept(|record| record["egress_pool"] == "customer-a").lines().count();
    for (plugin, records, keeps) in
        [("pool-filter (filter 1)", 3_000, kept), ("pool-filter (filter 2)", kept, 0)]
    {
        let told = told(&ended, plugin);
        assert_eq!((&told["records"], &told["kept"]), (&records.into(), &keeps.into()), "{told}");
    }
    assert!(ended.stdout.is_empty() && kept > 0);
}
