//! `parallelism`: several instances of a processor, each with another batch.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tailweir_tests::{Program, Segments, Server, id, repository};

use crate::tailweir;

fn guest(name: &str) -> String {
    let path = repository("target/guests").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `cargo xtask guests`", path.display());
    path.display().to_string()
}

fn pipeline(segments: &Segments, consumer: &str) -> Program {
    let text = format!("[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\n{consumer}\n");
    tailweir().arg("run").arg(segments.beside("pipeline.toml", &text))
}

/// The ids of the records in a file, sorted.
fn ids(path: &Path) -> Vec<String> {
    let mut ids: Vec<_> = fs::read_to_string(path).unwrap().lines().map(id).collect();
    ids.sort();
    ids
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[test]
fn components_and_lua_files_run_in_several_instances_and_nothing_is_lost() {
    let segments = Segments::generate(6_000, 3, 41);
    segments.beside(
        "same.lua",
        "local kumo = require 'kumo'
         return function(batch)
           kumo.time.sleep(0.001)
           local out = {}
           for r in batch:iter_records() do out[#out + 1] = r end
           return out
         end",
    );
    let out = segments.directory().with_file_name("out.jsonl");
    for processor in [format!("{{ wasm = '{}' }}", guest("redact")), "{ lua = 'same.lua' }".to_owned()] {
        for file in [out.clone(), segments.directory().join(".c")] {
            let _ = fs::remove_file(file);
        }
        let consumer = format!(
            "processor = {processor}\nparallelism = 3\nmax_batch_size = 50\n\
             sink = {{ file = {{ path = 'out.jsonl', sync = false }} }}"
        );
        let run = || pipeline(&segments, &consumer).arg("--once").run().quietly();
        run();
        let all = sorted(segments.ids(|_| true));
        assert_eq!(ids(&out), all, "{processor}");
        run();
        assert_eq!(ids(&out).len(), all.len(), "{processor}: everything is committed");
    }
}

#[test]
fn several_requests_are_on_their_way_at_once() {
    let segments = Segments::generate(1_000, 1, 42);
    let server = Server::start();
    // The batch that it gets first is tried again, and overtaken.
    server.answer(&["503 Service Unavailable\r\nRetry-After: 1"]);
    let consumer = format!(
        "processor = {{ http = {{ url = '{}/in' }} }}\nparallelism = 4\nmax_batch_size = 100",
        server.url()
    );
    pipeline(&segments, &consumer).arg("--once").run().with_code(0);
    let requests = server.requests();
    let refused = requests.iter().position(|r| r.status.starts_with("503")).unwrap();
    let key = &requests[refused].headers["idempotency-key"];
    let again = requests.iter().rposition(|r| r.headers["idempotency-key"] == *key).unwrap();
    assert_eq!(again, 10, "all others went on meanwhile");
    assert_eq!(sorted(server.delivered("/in")), sorted(segments.ids(|_| true)));
}

#[test]
fn a_batch_that_is_given_up_keeps_the_checkpoint_before_it() {
    let segments = Segments::generate(1_000, 1, 43);
    let fails = "return function(batch)
        local positions = batch:positions()
        if positions[1].line == 101 then return nil, { stop = true, reason = 'not this one' } end
      end";
    segments.beside("fails.lua", fails);
    let consumer = "processor = { lua = 'fails.lua' }\nparallelism = 2\nmax_batch_size = 50";
    let said = pipeline(&segments, consumer).arg("--once").run().with_code(1);
    assert!(said.contains("not this one"), "{said}");
    assert_eq!(segments.checkpoint("c")["line"], 100);
}

#[test]
fn what_needs_one_batch_after_the_other_is_refused() {
    let segments = Segments::generate(100, 1, 44);
    let check = |consumer: String, expected: &[&str]| {
        let said = pipeline(&segments, &consumer).arg("--check").run().with_code(1);
        for part in expected {
            assert!(said.contains(part), "{consumer}: {said} lacks {part}");
        }
    };
    let with = |processor: &str, n: &str| format!("processor = {processor}\nparallelism = {n}");
    let counter = format!("{{ wasm = '{}' }}", guest("counter"));
    check(
        with(&counter, "2"),
        &["consumer `c`", "processor", "counter.wasm: it keeps state", "leave `parallelism` out"],
    );
    check(
        with(&counter, "0"),
        &["pipeline.toml:6: `parallelism` must be a whole number from 1 to 64, not 0"],
    );
    check(with("{ stdout = {} }", "2"), &["pipeline.toml:4: the `parallelism` of consumer `c`"]);
    pipeline(&segments, &with(&counter, "1")).arg("--check").run().quietly();

    segments.beside("state.lua", "return function(batch) batch:state():set('n', '1') end");
    // Of a file in Lua nobody knows before it asks. No further attempt is made, though there may be ten.
    let consumer = with("{ lua = 'state.lua' }", "2");
    let said = pipeline(&segments, &consumer).arg("--once").run().with_code(1);
    assert!(
        said.contains("is not dealt with: state: several batches are dealt with at once (`parallelism`)"),
        "{said}"
    );
    assert!(said.contains("state.lua:1") && !said.contains("delivered again"), "{said}");
}

#[test]
fn poison_records_are_found_in_each_instance() {
    let segments = Segments::generate(10, 1, 45);
    let directory = segments.directory();
    let record = |n: u64| format!("{{\"id\":\"{n}\",\"poison\":{}}}\n", n % 100 == 50);
    fs::write(directory.join("90000000-000000"), (0..1000).map(record).collect::<String>()).unwrap();
    let consumer = format!(
        "processor = {{ wasm = '{}', config = {{ do = 'panic-on-poison', emit = true }} }}\nparallelism = 3\n\
         max_batch_size = 70\nsink = {{ file = {{ path = 'out.jsonl', sync = false }} }}\n\
         on_error = {{ initial = '1ms', max_poison = 3 }}",
        guest("hostile-processor")
    );
    pipeline(&segments, &consumer).arg("--once").run().with_code(0);
    let quarantine = fs::read_to_string(directory.join(".c.quarantine")).unwrap();
    let entry = |line: &str| serde_json::from_str::<Value>(line).unwrap()["line"].as_u64().unwrap();
    let mut lines: Vec<_> = quarantine.lines().map(entry).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..10).map(|n| n * 100 + 51).collect::<Vec<_>>());
    assert_eq!(ids(&directory.with_file_name("out.jsonl")).len(), 10 + 1000 - 10);
}
