//! Columns of records that fuzzing begins with or has found, and of generated ones.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/checks/columns.rs"]
mod columns;
#[path = "../../../fuzz/checks/seeds.rs"]
mod seeds;

use proptest::prelude::*;
use serde_json::Value;

#[test]
fn seeds_and_found_inputs_have_the_columns_that_serde_json_finds() {
    for (file, input) in seeds::seeds("columns") {
        let (pointer, lines) = columns::split(&input).unwrap_or_else(|| panic!("{file} is no input"));
        columns::check(pointer, lines);
    }
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "a/b", "~", "\u{e9}\"", "0", "1", ""]).prop_map(str::to_owned)
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c\"\\\\\n\u{e9}\u{1f600}]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..5).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn columns_are_what_serde_json_finds(
        trees in prop::collection::vec(tree(), 1..6),
        path in prop::collection::vec(key(), 0..4),
    ) {
        let escaped = |key: &String| format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        let pointer: String = path.iter().map(escaped).collect();
        let lines: Vec<_> = trees.iter().map(Value::to_string).collect();
        columns::check(&pointer, &lines.join("\n"));
    }
}
