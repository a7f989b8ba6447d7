//! Figures of plug-ins: those that the host has of each, and those that plug-ins keep by themselves.

use std::path::PathBuf;

use serde_json::{Value, json};
use tailweir_tests::{Ended, Segments, repository};

use crate::tailweir;

fn guest(name: &str) -> PathBuf {
    let path = repository("target/guests").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `cargo xtask guests`", path.display());
    path
}

/// One segment of these records.
fn segments(records: impl IntoIterator<Item = Value>) -> Segments {
    let segments = Segments::generate(0, 0, 1);
    let text: String = records.into_iter().map(|record| record.to_string() + "\n").collect();
    std::fs::write(segments.directory().join("1"), text).unwrap();
    segments
}

/// Runs a pipeline of one consumer, `c`, in batches of ten.
fn run(segments: &Segments, consumer: &str, options: &str) -> Ended {
    let text = format!(
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\nmax_batch_size = 10\n\
         sink = {{ file = {{ path = 'out', sync = false }} }}\n{consumer}\n"
    );
    let pipeline = segments.beside("pipeline.toml", &text);
    tailweir().args(options).arg("run").arg(pipeline).args("--once --summary=json").run()
}

/// What the summary tells of the plug-in of this name.
pub(crate) fn told(ended: &Ended, plugin: &str) -> Value {
    let line = ended.stderr.lines().find(|line| line.starts_with("{\"summary\"")).expect("a summary");
    let summary: Value = serde_json::from_str(line).unwrap();
    let plugins = summary["plugins"].as_array().unwrap();
    plugins
        .iter()
        .find(|told| told["plugin"] == plugin)
        .unwrap_or_else(|| panic!("{plugin} in {ended:?}"))
        .clone()
}

/// The series of a metric, as labels and value.
fn series(told: &Value, metric: &str) -> Vec<(Value, Value)> {
    let metrics = told["metrics"].as_array().unwrap();
    let metric =
        metrics.iter().find(|told| told["name"] == metric).unwrap_or_else(|| panic!("{metric} in {told}"));
    let series = metric["series"].as_array().unwrap();
    series.iter().map(|series| (series["labels"].clone(), series["value"].clone())).collect()
}

#[test]
fn figures_of_plugins_are_in_the_summary() {
    let kinds = ["Bounce", "Delivery", "OOB"];
    let segments = segments((0..40).map(|n| json!({ "type": kinds[n % 3], "drop": n >= 30 })));
    segments.beside("filter.lua", "return function(r) return not r.drop end");
    let consumer = format!(
        "filter = {{ lua = 'filter.lua' }}\nprocessor = {{ wasm = '{}' }}",
        guest("counter").display()
    );
    let ended = run(&segments, &consumer, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let counter = told(&ended, "counter");
    let by_type = |kind: &str| (json!({ "type": kind }), json!(10));
    assert_eq!(series(&counter, "counted_total"), kinds.map(by_type));
    let (_, types) = series(&counter, "batch_types").remove(0);
    assert_eq!(types, json!({ "count": 3, "sum": 9.0, "buckets": [{ "to": 5.0, "count": 3 }] }));
    let number = |name: &str| counter[name].as_u64().unwrap();
    assert_eq!(counter["kind"], "processor");
    assert_eq!((number("calls"), number("records"), number("emitted"), number("failed")), (3, 30, 3, 0));
    assert_eq!(counter["latency_seconds"]["count"], 3);
    assert!(number("bytes") >= 30 * 3 && number("peak_memory") > 1 << 16, "{counter}");
    assert!(counter["computed_seconds"].as_f64().unwrap() > 0.0, "{counter}");
    assert_eq!(number("metrics_left_out"), 0);

    let filter = told(&ended, "filter.lua");
    assert_eq!((&filter["consumer"], &filter["kind"]), (&json!("c"), &json!("filter")));
    assert_eq!(
        (&filter["records"], &filter["kept"], &filter["metrics"]),
        (&json!(40), &json!(30), &json!([]))
    );

    // In words, and in the log.
    let pipeline = segments.directory().with_file_name("pipeline.toml");
    std::fs::remove_file(segments.directory().join(".c")).unwrap();
    let said = tailweir().args("--log debug run").arg(pipeline).args("--once --summary").run().with_code(0);
    assert!(said.contains("c counter: counted_total{type=\"OOB\"} 10"), "{said}");
    let logged = said.lines().find(|line| line.contains("figures of a plug-in") && line.contains("counter"));
    assert!(logged.is_some_and(|line| line.contains("calls=3") && line.contains("emitted=3")), "{said}");
}

#[test]
fn what_a_lua_filter_keeps_of_a_batch_that_it_fails_in_is_counted() {
    let segments = segments((0..25).map(|n| json!({ "n": n })));
    let lua = "return function(r) if r.n % 10 == 7 then error('no') end return r.n % 2 == 0 end";
    segments.beside("filter.lua", lua);
    segments.beside("processor.lua", "return function(batch) return batch:records() end");
    let ended = run(&segments, "filter = { lua = 'filter.lua' }\nprocessor = { lua = 'processor.lua' }", "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let delivered = std::fs::read_to_string(segments.directory().with_file_name("out")).unwrap();
    assert_eq!(delivered.lines().count(), 13, "{delivered}");
    let filter = told(&ended, "filter.lua");
    assert_eq!((&filter["kept"], &filter["failed"]), (&json!(13), &json!(2)), "{filter}");
}

#[test]
fn labels_without_end_are_not_recorded_but_counted_and_said_once() {
    let segments = segments((0..50).map(|n| json!({ "id": format!("id-{n:02}") })));
    let consumer = format!(
        "processor = {{ wasm = '{}', config = {{ field = '/id' }}, limits = {{ metric_series = 7 }} }}",
        guest("counter").display()
    );
    let ended = run(&segments, &consumer, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let counter = told(&ended, "counter");
    let series = series(&counter, "counted_total");
    assert!(series.len() == 7 && series.iter().all(|(_, value)| *value == 1), "{series:?}");
    // Each of the others was refused, and then added to: that is one loss.
    assert_eq!(counter["metrics_left_out"], 50 - 7);
    let words = "the metric `counted_total` has as many different labels as its limit, 7 (`metric_series`)";
    assert_eq!(ended.stderr.matches(words).count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("plug-in was in trouble") && ended.stderr.contains("metrics_left_out=43"));
}

#[test]
fn a_filter_in_lua_is_counted_for_the_records_that_it_was_asked_about() {
    let segments = segments((0..1000).map(|n| json!({ "n": n })));
    let filter = segments.beside(
        "f.lua",
        "return { filter = function(r) if r.n % 10 == 9 then error 'nine' end return r.n % 2 == 0 end }",
    );
    segments.beside("p.lua", "return function() end");
    let consumer = format!("filter = {{ lua = '{}' }}\nprocessor = {{ lua = 'p.lua' }}", filter.display());
    let ended = run(&segments, &consumer, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let filter = told(&ended, "f.lua");
    let numbers = ["calls", "records", "kept", "failed"].map(|name| filter[name].as_u64().unwrap());
    // A call ends with the record that it fails on. Behind the last one nothing is left.
    assert_eq!(numbers, [100, 1000, 500, 100], "{filter}");
}

#[test]
fn what_is_no_metric_is_named_and_hinders_nothing() {
    let segments = segments((0..20).map(|n| json!({ "n": n })));
    let consumer = format!(
        "filter = {{ wasm = '{}', config = {{ do = 'mismeasure' }} }}\nprocessor = {{ wasm = '{}' }}",
        guest("hostile-filter").display(),
        guest("counter").display()
    );
    let ended = run(&segments, &consumer, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let filter = told(&ended, "hostile-filter");
    assert_eq!((&filter["records"], &filter["kept"]), (&json!(20), &json!(20)));
    assert_eq!(series(&filter, "good_total"), [(json!({}), filter["calls"].clone())]);
    for words in [
        "`not-a-name` cannot be the name of a metric or label",
        "there is a metric `good_total` already, of another kind",
        "`good` was given a number that is infinite or none",
        "the bounds of the buckets of `sizes` must be finite, and each greater",
        "the label `consumer` of the metric `good_total`",
        "of more bytes than its limit, 200 (`metric_text_bytes`)",
    ] {
        assert_eq!(ended.stderr.matches(words).count(), 1, "{words} in {}", ended.stderr);
    }
}
