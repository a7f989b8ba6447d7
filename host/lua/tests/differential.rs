//! The same script on a lazy record and on a plain table made from the same JSON gives the same answers.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/checks/lazy.rs"]
mod lazy;
#[path = "../../../fuzz/checks/seeds.rs"]
mod seeds;

use lazy::common::{batch, lua_with_batch};
use lazy::{KEYS, Operation, PRELUDE};
use proptest::prelude::*;
use serde_json::{Value, json};

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|n| json!(f64::from(n) / 4.0)),
        (-9i64..9).prop_map(Value::from),
        "[a-c\"\\\\\n\u{e9}\u{1f600}]{0,4}".prop_map(Value::from),
    ];
    let nested = leaf.prop_recursive(4, 60, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::vec((-9i64..9).prop_map(Value::from), 0..12).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(&KEYS), inner), 0..8).prop_map(|members| {
                Value::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    });
    nested.prop_filter("a record of its own", |v| v.is_object() || v.is_array())
}

fn operation() -> impl Strategy<Value = Operation> {
    any::<[u8; 4]>().prop_map(Operation)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200),
        ..ProptestConfig::default()
    })]

    #[test]
    fn lazy_and_plain_tables_answer_alike(
        tree in tree(),
        spaced in any::<bool>(),
        script in proptest::collection::vec(operation(), 1..40),
    ) {
        let json = if spaced { serde_json::to_string_pretty(&tree).unwrap().replace('\n', " ") } else { tree.to_string() };
        lazy::check(&json, &script);
    }

    #[test]
    fn an_unchanged_record_is_its_own_text(tree in tree(), script in proptest::collection::vec(operation(), 0..20)) {
        // Only what reads.
        let reads = ["get", "descend", "pairs", "next", "len", "ipairs", "concat", "unpack", "encode", "raw", "gc"];
        let script: Vec<_> =
            script.iter().filter(|step| reads.contains(&step.name())).map(Operation::line).collect();
        let json = tree.to_string();
        let lua = lua_with_batch(&[&json]);
        let all = format!("{PRELUDE}\n{}\nreturn encode(r)", script.join("\n"));
        let text: String = lua.load(all).eval().unwrap();
        prop_assert_eq!(text, json);
    }
}

#[test]
fn batches_of_many_records() {
    let lines: Vec<String> = (0..3000).map(|n| format!("{{\"n\":{n},\"l\":[{n}]}}")).collect();
    let lua = lua_with_batch(&lines);
    lua.load("for i, r in ipairs(records) do assert(r.n == i - 1 and r.l[1] == r.n) end").exec().unwrap();
    let text: String = lua.load("return encode(records)").eval().unwrap();
    assert_eq!(text, format!("[{}]", lines.join(",")));
    assert_eq!(batch(&lines).len(), 3000);
}

#[test]
fn seeds_and_found_inputs_answer_alike() {
    for (file, input) in seeds::seeds("lazy") {
        let (record, operations) = lazy::split(&input).unwrap_or_else(|| panic!("{file} is no input"));
        lazy::check(record, &operations);
    }
}
