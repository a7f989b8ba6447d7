//! `tailweir plugin`, and the limits of plug-ins wherever they are set.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tailweir_tests::{Segments, repository};

use crate::tailweir;

fn inspect(name: &str) -> tailweir_tests::Program {
    tailweir().args("plugin inspect").arg(repository("target/guests").join(name))
}

#[test]
fn a_plugin_is_shown_with_what_it_wants_and_its_limits() {
    let shown = inspect("pool-filter.wasm").run().quietly();
    for part in [
        "plug-in    pool-filter 0.1.0\n",
        "kind       filter (world filter-plugin of tailweir:plugin@0.1.0)\n",
        "imports    tailweir:plugin/records@0.1.0\n",
        "           tailweir:plugin/log@0.1.0\n",
        "grants     none needed\n",
        "JSON schema:\n{",
        "  deadline                   10s  computing time",
        "  memory_bytes         268435456  ",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(shown.lines().count() < 60, "it fits a screen: {shown}");
    let shown = inspect("webhook.wasm").run().quietly();
    assert!(
        shown.contains("world http-processor-plugin") && shown.contains("grants     `http`: "),
        "{shown}"
    );
    assert!(shown.contains("needs      http"), "{shown}");
}

#[test]
fn json_has_the_same() {
    let shown: Value = serde_json::from_str(&inspect("webhook.wasm").arg("--json").run().quietly()).unwrap();
    assert_eq!((&shown["name"], &shown["kind"]), (&"webhook".into(), &"processor".into()));
    assert_eq!(shown["grants"], serde_json::json!(["http"]));
    assert_eq!(shown["limits"]["deadline"], "10s");
    assert_eq!(shown["limits"]["handles"], 10_000);
    assert!(shown["bytes"].as_u64().unwrap() > 10_000);
}

#[test]
fn the_schema_of_a_configuration_can_be_that_of_its_type() {
    let shown: Value = serde_json::from_str(&inspect("summary.wasm").arg("--json").run().quietly()).unwrap();
    let schema = shown["config_schema"].to_string();
    assert!(schema.contains("The field whose values are counted, as a JSON pointer."), "{shown}");
    assert!(schema.contains("additionalProperties"), "{schema}");
}

#[test]
fn what_is_no_plugin_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wasm");
    fs::write(&path, "no").unwrap();
    let said = tailweir().args("plugin inspect").arg(&path).run().with_code(1);
    assert!(said.contains("x.wasm: not a WebAssembly component"), "{said}");
}

#[test]
fn every_limit_is_documented_and_can_be_set_in_a_pipeline_and_in_a_script() {
    let shown: Value =
        serde_json::from_str(&inspect("pool-filter.wasm").arg("--json").run().quietly()).unwrap();
    let documented = fs::read_to_string(repository("docs/plugins.md")).unwrap();
    let component = repository("examples/plugins/pool-filter/pool-filter.wasm");
    let segments = Segments::generate(1, 1, 1);
    let limits = shown["limits"].as_object().unwrap();
    for (name, value) in limits {
        let row = format!(
            "| `{name}` | {} |",
            if value.is_string() { format!("`{value}`") } else { value.to_string() }
        );
        assert!(documented.contains(&row), "{row}");
    }
    let all: Vec<String> = limits.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let component = component.display();
    let check = |limits: &str| {
        let pipeline = format!(
            "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'a'\nprocessor = {{ stdout = {{}} }}\n\
             filter = {{ wasm = '{component}', config = {{ pool = 'a' }}, limits = {{ {limits} }} }}\n"
        );
        let script = format!(
            "local kumo = require 'kumo'\n\
             kumo.wasm.filter {{ path = '{component}', config = {{ pool = 'a' }}, limits = {{ {limits} }} }}"
        );
        let (pipeline, script) = (segments.beside("p.toml", &pipeline), segments.beside("s.lua", &script));
        [tailweir().arg("run").arg(pipeline).arg("--check").run(), tailweir().arg("script").arg(script).run()]
    };
    for ended in check(&all.join(", ")) {
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    for (limits, expected) in [
        ("dedline = '1s'", "unknown option `dedline`; did you mean `deadline`?"),
        ("memory = 1", "unknown option `memory`; did you mean `memory_bytes`?"),
        ("deadline = 5", "`deadline`: `5` has no unit; write a duration such as `\"5s\"`"),
        ("wait = 'soon'", "`wait`: `soon` is no duration such as `10s`"),
        ("handles = 0", "a whole number, 1 or more, for `handles`"),
        ("log_lines = 'x'", "a whole number, 0 or more, for `log_lines`"),
    ] {
        for ended in check(limits) {
            let said = ended.with_code(1);
            assert!(said.contains(expected), "{limits}: {said}");
        }
    }
}

#[test]
fn the_authors_tools_take_limits_as_a_pipeline_does() {
    let segments = Segments::generate(20, 1, 1);
    let guest = |name: &str| repository("target/guests").join(name);
    let run = |tool: &str, files: &[PathBuf], limits: &str| {
        let program = tailweir().arg("plugin").arg(tool);
        let program = files.iter().fold(program, |program, file| program.arg(file));
        let program = program.arg("--segment").arg(segments.directory()).arg("--limits").arg(limits);
        match tool {
            "bench" => program.args("--time 10ms").run(),
            _ => program.run(),
        }
    };
    let (redact, lua) =
        (guest("redact.wasm"), segments.beside("f.lua", "return { process = function() end }"));
    for (tool, files) in
        [("test", vec![redact.clone()]), ("bench", vec![redact.clone()]), ("diff", vec![redact.clone(); 2])]
    {
        let ended = run(tool, &files, r#"{"deadline":"5s","emitted_bytes":1000000}"#);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let said = run(tool, &files, r#"{"emitted_bytes":100}"#).with_code(1);
        assert!(said.contains("emitted_bytes"), "{tool}: {said}");
        for (limits, expected) in [
            (r#"{"dedline":"1s"}"#, "unknown option `dedline`; did you mean `deadline`?"),
            (r#"{"deadline":5}"#, "`deadline`: `5` has no unit; write a duration such as `\"5s\"`"),
            (r#"{"handles":0}"#, "a whole number, 1 or more, for `handles`"),
            ("{deadline}", "not JSON: "),
        ] {
            let said = run(tool, &files, limits).with_code(2);
            assert!(said.contains(expected) && said.contains("--limits"), "{said}");
        }
        let in_lua = vec![lua.clone(); files.len()];
        let said = run(tool, &in_lua, "{}").with_code(2);
        assert!(said.contains("f.lua: `--limits` is for components: a Lua file has none"), "{said}");
    }
    // Beside a component, a Lua file is not in the way of them.
    let said = run("diff", &[lua, redact], r#"{"emitted_bytes":100}"#).with_code(1);
    assert!(said.contains("emitted_bytes"), "{said}");
}
