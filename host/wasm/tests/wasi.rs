//! The empty WASI that guests of some languages need.
#![allow(clippy::unwrap_used)]

mod common;

use common::{batch, evaluate, load_filter, run};
use serde_json::json;
use tailweir_core::FilterFactory;

fn check(config: serde_json::Value, expected: &str) {
    let mut filter = load_filter("wasi-filter", config).unwrap().create().unwrap();
    let batch = batch(&["1"]);
    assert_eq!(evaluate(&mut *filter, &batch), expected);
    // Inside a runtime too.
    assert_eq!(run(async { evaluate(&mut *filter, &batch) }), expected);
}

#[test]
fn there_is_nothing_in_it() {
    let expected = "plug-in wasi-filter: environment [], arguments [], folders 0, stdin closed, sockets none, \
                    names none, time yes, random yes";
    check(json!({"do": "tell"}), expected);
}

#[test]
fn what_a_dying_guest_writes_to_stderr_is_part_of_the_error() {
    let expected = "plug-in wasi-filter crashed: Exited with i32 exit status 1; it said: fatal: out of ideas";
    check(json!({"do": "die"}), expected);
}

#[test]
fn a_filter_cannot_wait() {
    check(json!({"do": "sleep"}), "plug-in wasi-filter crashed: it waits, which a filter must not");
}
