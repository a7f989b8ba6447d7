//! Which crate may depend on which: ARCHITECTURE.md's table, held.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Every package that is compiled, with what it depends on when it runs: development dependencies do not count.
fn graph() -> Graph {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let output = command
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let array = |value: &Value| value.as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> = array(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let runs = |dependency: &Value| {
        array(&dependency["dep_kinds"])
            .iter()
            .any(|kind| kind["kind"].is_null() && !only_for_wasm(&kind["target"]))
    };
    let mut graph = Graph::new();
    for node in array(&metadata["resolve"]["nodes"]) {
        let needs = array(&node["deps"]).into_iter().filter(runs).map(|d| names[&text(&d["pkg"])].clone());
        graph.entry(names[&text(&node["id"])].clone()).or_default().extend(needs);
    }
    graph
}

fn only_for_wasm(target: &Value) -> bool {
    target.as_str().is_some_and(|target| target.contains("wasm"))
}

fn reach(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in graph.get(&name).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let graph = graph();
    let table: [(&str, &[&str]); 6] = [
        ("tailweir-core", &[]),
        ("tailweir-segments", &["tailweir-core"]),
        ("tailweir-pipeline", &["tailweir-core", "tailweir-segments"]),
        ("tailweir-lua", &["tailweir-core", "tailweir-pipeline", "tailweir-segments"]),
        ("tailweir-wasm", &["tailweir-core"]),
        ("tailweir-guest", &[]),
    ];
    for (name, allowed) in table {
        let ours: BTreeSet<_> =
            reach(&graph, name).into_iter().filter(|n| n.starts_with("tailweir")).collect();
        let wrong: Vec<_> = ours.iter().filter(|n| !allowed.contains(&n.as_str())).collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
}

#[test]
fn engines_and_runtimes_stay_in_their_crates() {
    let graph = graph();
    let check = |name: &str, forbidden: &[&str]| {
        let reached = reach(&graph, name);
        let wrong: Vec<_> = forbidden.iter().filter(|f| reached.contains(**f)).collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    };
    check("tailweir-core", &["wasmtime", "mlua", "tokio", "zstd", "notify", "anyhow"]);
    check("tailweir-segments", &["wasmtime", "mlua", "tokio", "anyhow"]);
    check("tailweir-pipeline", &["wasmtime", "mlua"]);
    check("tailweir-lua", &["wasmtime"]);
    check("tailweir-wasm", &["mlua", "notify", "zstd"]);
    check("tailweir-guest", &["wasmtime", "mlua", "tokio", "anyhow"]);
}
