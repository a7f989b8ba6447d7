//! `--summary`, and what `status` says of sums that did not add up.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tailweir_tests::{Ended, Program, Segments, wait_for};

use crate::tailweir;

/// Segments with two records that a filter drops, a malformed and a blank line beside 300 others.
fn segments() -> Segments {
    let segments = Segments::generate(300, 2, 1);
    fs::write(segments.directory().join("20990101-000000.0"), "{\"drop\":1}\n{\"drop\":2}\n{\n\n").unwrap();
    segments
}

fn tail(segments: &Segments) -> Program {
    let filter = segments.beside("filter.lua", "return function(r) return not r.drop end");
    tailweir().arg("tail").arg(segments.directory()).args("--once --filter").arg(filter)
}

/// The line of JSON on stderr, and its consumers.
fn consumers(ended: &Ended) -> Vec<Value> {
    let line = ended.stderr.lines().find(|line| line.starts_with("{\"summary\"")).expect("a summary");
    let summary: Value = serde_json::from_str(line).unwrap();
    assert_eq!(summary["damages"], 0);
    summary["summary"].as_array().unwrap().clone()
}

fn row(consumer: &str, checkpoint: Option<&str>, quarantined: u64, rejected: u64) -> Value {
    json!({
        "consumer": consumer, "checkpoint": checkpoint, "lines": 304, "acknowledged": 300, "in_flight": 0, "filtered": 2,
        "quarantined": quarantined, "rejected": rejected, "blank": 1, "repaired": 0, "dropped": 0, "unbalanced": 0
    })
}

#[test]
fn tail_tells_what_became_of_all_lines() {
    let segments = segments();
    let without = tail(&segments).arg("--summary=json").run();
    assert_eq!(consumers(&without), [row("default", None, 0, 1)]);
    let with = tail(&segments).args("--checkpoint c --summary=json").run();
    assert_eq!(consumers(&with), [row("c", Some("c"), 1, 0)]);
    let table = tail(&segments).args("--latest --checkpoint c --summary").run().stderr;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["c", "c", "4", "0", "0", "2", "1", "0", "1", "0", "0"]), "{table}");
}

#[test]
fn each_segment_is_told_of_when_it_is_dealt_with() {
    let segments = segments();
    let ended = tail(&segments).args("--checkpoint c --summary=segments").run();
    let lines: Vec<Value> = ended.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (all, each) = lines.split_last().unwrap();
    assert_eq!(all["summary"][0], row("c", Some("c"), 1, 0));
    assert_eq!(each.len(), 3, "{lines:?}");
    let last = each.iter().find(|line| line["segment"] == "20990101-000000.0").unwrap();
    let expected = json!({
        "consumer": "c", "checkpoint": "c", "segment": "20990101-000000.0", "lines": 4, "acknowledged": 0, "in_flight": 0,
        "filtered": 2, "quarantined": 1, "rejected": 0, "blank": 1
    });
    assert_eq!(*last, expected);
    for term in ["lines", "acknowledged", "filtered", "quarantined", "blank"] {
        let sum: u64 = each.iter().map(|line| line[term].as_u64().unwrap()).sum();
        assert_eq!(sum, all["summary"][0][term], "{term}");
    }
}

#[test]
fn pipelines_and_scripts_tell_it_of_each_consumer() {
    let segments = segments();
    let consumer = |name: &str| {
        format!(
            "[[consumer]]\nname = '{name}'\nfilter = {{ lua = 'filter.lua' }}\nprocessor = {{ stdout = {{}} }}\n"
        )
    };
    let text = format!("[tailer]\ndirectory = 'logs'\n{}{}", consumer("b"), consumer("a"));
    segments.beside("filter.lua", "return function(r) return not r.drop end");
    let pipeline = segments.beside("pipeline.toml", &text);
    let ended = tailweir().arg("run").arg(pipeline).args("--once --summary=json").run();
    assert_eq!(consumers(&ended), [row("a", Some("a"), 1, 0), row("b", Some("b"), 1, 0)]);

    let script = "local kumo = require 'kumo'
        kumo.on('main', function(dir)
          local tailer <close> = kumo.jsonl.new_tailer(
            { directory = dir, follow = false, checkpoint_name = 's' }, function(r) return not r.drop end)
          for batch in tailer:batches() do batch:commit() end
        end)";
    let script = segments.beside("script.lua", script);
    let ended =
        tailweir().arg("script").arg(script).args("--summary=json --").arg(segments.directory()).run();
    assert_eq!(consumers(&ended), [row("default", Some("s"), 1, 0)]);
}

#[test]
fn status_does_not_pass_over_sums_that_did_not_add_up() {
    let segments = segments();
    tail(&segments).args("--checkpoint c").run();
    let status = || tailweir().arg("status").arg(segments.directory());
    status().run().with_code(0);
    let note = segments.directory().join(".c.unbalanced");
    fs::write(&note, "consumer `c`, segment x: 9 lines; 8 are accounted for\n").unwrap();
    let said = status().run().with_code(1);
    assert!(said.contains("8 are accounted for") && said.contains(note.to_str().unwrap()), "{said}");
    let said = tailweir().arg("status").arg(segments.directory()).arg("--json").run();
    assert!(said.stdout.contains("\"unbalanced\": \"consumer `c`"), "{}", said.stdout);
}

/// Nothing at all used to be told then, of no consumer.
#[test]
fn a_consumer_that_hangs_keeps_no_sum_from_being_told_when_it_is_given_up() {
    let segments = segments();
    let hang = "return function(batch) print 'hangs' io.stdout:flush() while true do end end";
    segments.beside("hang.lua", hang);
    segments.beside("filter.lua", "return function(r) return not r.drop end");
    let text = "[tailer]\ndirectory = 'logs'
        [[consumer]]\nname = 'hangs'\nmax_batch_size = 10\nprocessor = { lua = 'hang.lua' }
        [[consumer]]\nname = 'ok'\nfilter = { lua = 'filter.lua' }\nprocessor = { file = { path = 'out.jsonl' } }\n";
    let pipeline = segments.beside("pipeline.toml", text);
    let mut running = tailweir().arg("run").arg(pipeline).arg("--summary=json").start();
    assert_eq!(running.line().as_deref(), Some("hangs"));
    let written = || fs::read_to_string(segments.directory().with_file_name("out.jsonl")).unwrap_or_default();
    wait_for("the other consumer", || written().lines().count() == 300);
    // Two of a kind may arrive as one.
    running.signal(Signal::TERM);
    running.signal(Signal::INT);
    let ended = running.end();
    let all = consumers(&ended);
    let of = |consumer: &Value, term: &str| consumer[term].as_u64().unwrap();
    let [hangs, ok] = &all[..] else { panic!("{}", ended.stderr) };
    assert!(hangs["consumer"] == "hangs" && of(hangs, "in_flight") >= 10, "{hangs}");
    assert_eq!(of(hangs, "acknowledged"), 0);
    // It need not have come to the segment of the others.
    assert!(ok["consumer"] == "ok" && of(ok, "lines") >= 300, "{ok}");
    assert_eq!(of(ok, "acknowledged") + of(ok, "in_flight"), 300);
    for consumer in &all {
        let terms = ["acknowledged", "in_flight", "filtered", "quarantined", "rejected", "blank"];
        assert_eq!(terms.map(|term| of(consumer, term)).iter().sum::<u64>(), of(consumer, "lines"));
    }
    ended.with_code(130);
}

#[test]
fn a_script_that_exits_tells_it_too() {
    let segments = segments();
    let script = "local kumo = require 'kumo'
        kumo.on('main', function(dir)
          local tailer = kumo.jsonl.new_tailer { directory = dir, checkpoint_name = 's', max_batch_size = 10 }
          for batch in tailer:batches() do batch:commit() os.exit(3) end
        end)";
    let script = segments.beside("script.lua", script);
    let ended =
        tailweir().arg("script").arg(script).args("--summary=json --").arg(segments.directory()).run();
    let told = consumers(&ended);
    assert!(told[0]["checkpoint"] == "s" && told[0]["acknowledged"] == 10, "{told:?}");
    ended.with_code(3);
}
