//! Filters, the good and the bad ones.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{batch, evaluate, filter, guest, host, limits, load_filter, run};
use serde_json::{Value, json};
use tailweir_core::{Filter, FilterFactory, Pointer};
use tailweir_wasm::Limits;

fn records() -> Vec<String> {
    let pools = [r#""pool-1""#, r#""pool-2""#, "null", r#""pool-\u0031""#, "1", r#"["pool-1"]"#];
    (0..600).map(|i| format!(r#"{{"id":{i},"egress_pool":{},"size":{}}}"#, pools[i % 6], i * 7)).collect()
}

fn limited(name: &str, config: Value, limits: Limits) -> Box<dyn Filter> {
    host().filter(&guest(name), &config, limits).unwrap().create().unwrap()
}

#[test]
fn verdicts_equal_those_of_a_native_filter() {
    let records = records();
    let batch = batch(&records.iter().map(String::as_str).collect::<Vec<_>>());
    let native: String = records
        .iter()
        .map(|record| serde_json::from_str::<Value>(record).unwrap())
        .map(|record| if record["egress_pool"] == "pool-1" { '+' } else { '-' })
        .collect();
    let mut pools = load_filter("pool-filter", json!({"pool": "pool-1"})).unwrap().create().unwrap();
    assert_eq!(evaluate(&mut *pools, &batch), native);

    let pointer = Pointer::parse("/size").unwrap();
    let native: String = batch
        .column(&pointer)
        .map(|size| if size.unwrap().parse::<i64>().unwrap() >= 2100 { '+' } else { '-' })
        .collect();
    let mut sizes = filter(json!({"do": "at-least", "pointer": "/size", "least": 2100}));
    assert_eq!(evaluate(&mut *sizes, &batch), native);
}

#[test]
fn the_prebuilt_filter_runs() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/plugins/pool-filter/pool-filter.wasm");
    let plugin = host().filter(&path, &json!({"pool": "a"}), limits()).unwrap();
    assert_eq!(plugin.info().name, "pool-filter");
    assert!(plugin.info().config_schema.contains("egress pool"));
    let mut filter = plugin.create().unwrap();
    assert_eq!(evaluate(&mut *filter, &batch(&[r#"{"egress_pool":"a"}"#, r#"{"egress_pool":"b"}"#])), "+-");
}

#[test]
fn all_and_none_need_no_list() {
    let batch = batch(&["1", "2"]);
    assert_eq!(evaluate(&mut *filter(json!({"do": "all"})), &batch), "all");
    assert_eq!(evaluate(&mut *filter(json!({"do": "none"})), &batch), "none");
}

#[test]
fn a_batch_tells_ids_positions_and_columns() {
    let batch = batch(&[
        r#"{"a":"x\n\ud83d\ude00","b":1}"#,
        r#"{"a":9007199254740993}"#,
        r#"{"a":1.5e1}"#,
        r#"{"a":true,"a":false}"#,
        r#"{ "a" : [1, "é"] }"#,
        r#"{"a":null}"#,
        "[]",
    ]);
    let told = evaluate(&mut *filter(json!({"do": "tell", "pointer": "/a"})), &batch);
    let told: Vec<&str> = told.split(" | ").collect();
    assert_eq!(told[0], format!("plug-in hostile-filter: {}", batch.id()));
    let before: usize = batch.iter().take(6).map(|record| record.bytes().len() + 1).sum();
    assert_eq!(told[1], format!("20250912-110801.44:7:{before}"));
    assert_eq!(told[2], r#"[Some("x\n😀"), None, None, None, None, None, None]"#);
    assert_eq!(told[3], "[None, Some(9007199254740993), None, None, None, None, None]");
    assert_eq!(told[4], "[None, Some(9007199254740992.0), Some(15.0), None, None, None, None]");
    assert_eq!(told[5], "[None, None, None, Some(false), None, None, None]");
    let values = r#"[Some("\"x\\n\\ud83d\\ude00\""), Some("9007199254740993"), Some("1.5e1"), Some("false"), Some("[1, \"é\"]"), None, None]"#;
    assert_eq!(told[6], values);
}

#[test]
fn a_filter_runs_inside_an_asynchronous_runtime() {
    let mut filter = filter(json!({"do": "all"}));
    assert_eq!(run(async { evaluate(&mut *filter, &batch(&["1"])) }), "all");
}

#[test]
fn f14_an_endless_loop_ends_at_the_deadline_and_others_go_on() {
    let mut others = filter(json!({"do": "all"}));
    let deadline = Duration::from_millis(200);
    let mut endless = limited("hostile-filter", json!({"do": "loop"}), Limits { deadline, ..limits() });
    let started = Instant::now();
    let expected = "plug-in hostile-filter crashed: it ran for longer than its deadline, 200ms";
    assert_eq!(evaluate(&mut *endless, &batch(&["1"])), expected);
    assert!(started.elapsed() >= deadline);
    assert_eq!(evaluate(&mut *endless, &batch(&["1"])), expected);
    assert_eq!(evaluate(&mut *others, &batch(&["1"])), "all");
}

#[test]
fn f14_memory_is_limited() {
    let limits = Limits { memory_bytes: 16 << 20, ..limits() };
    let said = evaluate(&mut *limited("hostile-filter", json!({"do": "eat"}), limits), &batch(&["1"]));
    let expected =
        "plug-in hostile-filter crashed: it wanted more memory than its limit, 16 MiB (wasm `unreachable`";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn f14_a_trap_costs_one_instance_and_a_panic_says_why() {
    let mut filter = filter(json!({"do": "panic-at", "call": 3}));
    let batch = batch(&["1"]);
    for _ in 0..2 {
        assert_eq!(evaluate(&mut *filter, &batch), "all");
        assert_eq!(evaluate(&mut *filter, &batch), "all");
        let said = evaluate(&mut *filter, &batch);
        assert!(
            said.starts_with("plug-in hostile-filter crashed: wasm `unreachable` instruction executed"),
            "{said}"
        );
        assert!(said.contains("; it said: panicked at ") && said.ends_with("this is call 3"), "{said}");
    }
}

#[test]
fn a_trap_without_a_panic_says_what_it_is() {
    let said = evaluate(&mut *filter(json!({"do": "trap"})), &batch(&["1"]));
    assert_eq!(said, "plug-in hostile-filter crashed: wasm `unreachable` instruction executed");
    let said = evaluate(&mut *filter(json!({"do": "recurse"})), &batch(&["1"]));
    assert_eq!(said, "plug-in hostile-filter crashed: call stack exhausted");
}

#[test]
fn a_verdict_of_the_wrong_length_is_the_plugins_fault() {
    let check = |more: i64, expected: &str| {
        let mut filter = filter(json!({"do": "misalign", "more": more}));
        assert_eq!(evaluate(&mut *filter, &batch(&["1", "2"])), expected);
    };
    check(0, "++");
    check(
        1,
        "plug-in hostile-filter is at fault: its verdict has 3 entries for 2 records; it must have one for each, in order",
    );
    check(
        -2,
        "plug-in hostile-filter is at fault: its verdict has 0 entries for 2 records; it must have one for each, in order",
    );
}

#[test]
fn an_index_or_a_pointer_that_is_wrong_traps() {
    let said = evaluate(&mut *filter(json!({"do": "out-of-range"})), &batch(&["1", "2"]));
    let expected =
        "plug-in hostile-filter crashed: the plug-in asked for the record at index 2 of a batch of 2";
    assert_eq!(said, expected);
    let said = evaluate(&mut *filter(json!({"do": "tell", "pointer": "size"})), &batch(&["1"]));
    assert!(said.contains("the JSON pointer `size` must be empty or start with `/`"), "{said}");
}

#[test]
fn an_error_keeps_the_instance() {
    let mut filter = filter(json!({"do": "fail", "reason": "not today"}));
    assert_eq!(evaluate(&mut *filter, &batch(&["1"])), "plug-in hostile-filter: not today");
}

#[test]
fn f14_a_flood_of_log_lines_ends_and_the_call_goes_on() {
    let mut filter = filter(json!({"do": "flood", "lines": 20_000, "bytes": 1000}));
    assert_eq!(evaluate(&mut *filter, &batch(&["1"])), "all");
}

#[test]
fn f14_handles_are_limited() {
    let said = evaluate(&mut *limited("wasi-filter", json!({"do": "leak"}), limits()), &batch(&["1"]));
    assert_eq!(said, "plug-in wasi-filter crashed: it holds more handles than its limit, 10000 (`handles`)");
}

#[test]
fn f14_what_is_handed_over_is_limited_and_reasons_are_clipped() {
    let mut filter = limited("hostile-filter", json!({"do": "boast", "bytes": 20 << 20}), limits());
    let said = evaluate(&mut *filter, &batch(&["1"]));
    assert!(said.ends_with(&format!("xxx… ({} more bytes)", (20 << 20) - 8192)) && said.len() < 9000);
    let limits = Limits { emitted_bytes: 1 << 20, ..limits() };
    let mut filter = limited("hostile-filter", json!({"do": "boast", "bytes": 20 << 20}), limits);
    let expected = "plug-in hostile-filter crashed: it handed more to the host at once than its limit, 1 MiB (`emitted_bytes`)";
    assert_eq!(evaluate(&mut *filter, &batch(&["1"])), expected);
    assert_eq!(evaluate(&mut *filter, &batch(&["1"])), expected);
}

#[test]
fn f14_the_rules_of_the_interface_are_kept_for_a_guest_that_does_not() {
    let long = format!("\"{}\"", "x".repeat(1000));
    let check = |what: &str, call: usize, expected: &str| {
        let limits = Limits { memory_bytes: 2 << 20, log_line_bytes: 100, ..limits() };
        let mut filter = limited("raw-filter", json!(what), limits);
        let mut said = String::new();
        for _ in 0..call {
            said = evaluate(&mut *filter, &batch(&[&long, "2"]));
        }
        let said = said.strip_prefix("plug-in raw-filter crashed: ").unwrap_or(&said);
        assert_eq!(said, expected, "{what}");
    };
    check("nothing", 2, "all");
    check("keep", 1, "borrow handles still remain at the end of the call");
    check("later", 1, "all");
    check("later", 2, "unknown handle index 1");
    check("hoard", 1, "the plug-in asked for more at once than its memory, or 2 GiB, can hold");
    check("crave", 1, "the plug-in asked for 4097 fields at once, more than 4096");
    check("delve", 1, "a JSON pointer has more than 128 parts, and no record is nested as deeply");
    let pointer = format!("the JSON pointer `x ERROR forged [2J{}… (8017 more bytes)", "x".repeat(64));
    check("rave", 1, &pointer);
    check("nowhere", 1, "string pointer/length out of bounds of memory");
    check("nonsense", 1, "invalid expected discriminant");
}

#[test]
fn f14_the_deadline_holds_in_what_the_host_does_for_a_guest() {
    let limits = Limits { deadline: Duration::from_millis(50), ..limits() };
    let mut filter = limited("raw-filter", json!("pester"), limits);
    let far = format!("{{\"a\":[{}1]}}", "1,".repeat(999_999));
    let said = evaluate(&mut *filter, &batch(&[&far]));
    assert_eq!(said, "plug-in raw-filter crashed: it ran for longer than its deadline, 50ms");
}

#[test]
fn f15_a_poisonous_record_is_found_by_halving() {
    let mut filter = filter(json!({"do": "panic-on-poison"}));
    let mut records = vec!["{}"; 64];
    records[37] = r#"{"poison":true}"#;
    let whole = batch(&records);
    let (mut from, mut to) = (0, whole.len());
    while to - from > 1 {
        let middle = (from + to) / 2;
        match evaluate(&mut *filter, &std::sync::Arc::new(whole.slice(from..middle))).as_str() {
            "all" => from = middle,
            _ => to = middle,
        }
    }
    assert_eq!(from, 37);
}

#[test]
fn f16_an_instance_that_has_grown_large_is_replaced_and_counted() {
    let host = tailweir_wasm::Host::new(tailweir_wasm::HostOptions::default()).unwrap();
    let recycled = || {
        let tallies = host.counts().into_iter().filter(|tally| tally.consumer.is_some());
        tallies.map(|tally| (tally.counts.failed, tally.counts.recycled)).collect::<Vec<_>>()
    };
    let grow = |limits: Limits| {
        let config = json!({"do": "grow", "bytes": 1 << 20});
        let mut filter = host.filter(&guest("hostile-filter"), &config, limits).unwrap().create().unwrap();
        for _ in 0..20 {
            assert_eq!(evaluate(&mut *filter, &batch(&["1"])), "all");
        }
    };
    grow(Limits::default());
    assert_eq!(recycled(), [(0, 0)]);
    // The first 1 MiB of a guest is its own.
    grow(Limits { memory_bytes: 8 << 20, ..limits() });
    let [(0, after)] = recycled()[..] else { panic!("{:?}", recycled()) };
    assert!((3..=5).contains(&after), "{after}");
    grow(Limits { recycle_bytes: 6 << 20, ..limits() });
    assert_eq!(recycled(), [(0, 2 * after)]);
}

#[test]
fn filters_of_one_plugin_share_nothing() {
    let plugin = load_filter("hostile-filter", json!({"do": "panic-at", "call": 2})).unwrap();
    let (mut one, mut two) = (plugin.create().unwrap(), plugin.create().unwrap());
    let batch = batch(&["1"]);
    assert_eq!(evaluate(&mut *one, &batch), "all");
    assert_eq!(evaluate(&mut *two, &batch), "all");
    assert!(evaluate(&mut *one, &batch).contains("this is call 2"));
    assert!(evaluate(&mut *two, &batch).contains("this is call 2"));
}

/// Passing the batch as an owned handle used up one of 100,000 places per call.
#[test]
fn an_instance_can_be_called_any_number_of_times() {
    let mut filter = filter(json!({"do": "panic-at", "call": 120_001}));
    let batch = batch(&["1"]);
    for call in 1..=120_000 {
        assert_eq!(filter.evaluate(&batch).unwrap(), tailweir_core::Verdict::All, "{call}");
    }
    assert!(evaluate(&mut *filter, &batch).ends_with("this is call 120001"));
}
