//! The mistakes that a plug-in's author makes. Each gives an error of one screen that says where it is and what to do.

use std::path::PathBuf;

use tailweir_tests::{Program, Segments, repository};

use crate::tailweir;

fn guest(name: &str) -> PathBuf {
    repository("target/guests").join(format!("{name}.wasm"))
}

/// Runs a plug-in over records, as its author does.
fn test(segments: &Segments, plugin: &str, config: &str) -> Program {
    let program =
        tailweir().args("plugin test").arg(guest(plugin)).arg("--segment").arg(segments.directory());
    if config.is_empty() { program } else { program.arg("--config").arg(config) }
}

/// What it says is on one screen, and has these parts.
fn check(program: Program, code: i32, parts: &[&str]) {
    let said = program.run().with_code(code);
    for part in parts {
        assert!(said.contains(part), "`{part}` in\n{said}");
    }
    assert!(said.lines().count() <= 24 && said.len() <= 24 * 120, "one screen:\n{said}");
    assert!(!said.contains("backtrace"), "{said}");
}

fn segments() -> Segments {
    Segments::generate(20, 1, 5)
}

#[test]
fn another_world() {
    let segments = segments();
    let filter =
        tailweir().arg("tail").arg(segments.directory()).arg("--once").arg("--filter").arg(guest("redact"));
    check(filter, 1, &["redact.wasm: a processor, not a filter", "use it where a processor is expected"]);
    // An empty component, as other worlds' look to us.
    let other = segments.beside("other.wasm", "\0asm\x0d\0\x01\0");
    let test = tailweir().args("plugin test").arg(other).arg("--segment").arg(segments.directory());
    check(test, 1, &["other.wasm: a component, but no tailweir plug-in", "build it for one of the worlds"]);
    let module = segments.beside("module.wasm", "\0asm\x01\0\0\0");
    let test = tailweir().args("plugin test").arg(module).arg("--segment").arg(segments.directory());
    check(test, 1, &["a WebAssembly module, not a component", "`tailweir plugin build`"]);
}

#[test]
fn too_many_verdicts() {
    let segments = segments();
    let (first, _) = segments.lines().pop_first().unwrap();
    check(
        test(&segments, "hostile-filter", r#"{"do":"misalign","more":1}"#),
        1,
        &[
            &format!("the filter failed on {first}:1 "),
            "plug-in hostile-filter is at fault: its verdict has 21 entries for 20 records",
            "it must have one for each, in order",
        ],
    );
}

#[test]
fn a_missing_grant() {
    let config = r#"{"url":"https://hooks.example.com/log"}"#;
    let parts = ["webhook.wasm: it sends HTTP requests, so it needs a grant", "`--grant-http ORIGIN`"];
    check(test(&segments(), "webhook", config), 2, &parts);
    let segments = segments();
    let pipeline = format!(
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'a'\nprocessor = {{ wasm = '{}', config = {{ url = 'https://a.example' }} }}\n",
        guest("webhook").display()
    );
    let run = tailweir().arg("run").arg(segments.beside("p.toml", &pipeline)).arg("--check");
    check(run, 1, &["needs a grant", "grants.http = [\"https://hooks.example.com\"]"]);
}

#[test]
fn a_grant_that_has_no_effect() {
    let segments = segments();
    let lua = segments.beside("f.lua", "return { filter = function() return true end }");
    let grant =
        |command: &str| tailweir().args(command).args("--grant-http https://a.example").arg("--segment");
    for command in ["plugin test", "plugin bench"] {
        let filter = grant(command).arg(segments.directory()).arg(guest("pool-filter"));
        let filter = filter.arg("--config").arg(r#"{"pool":"a"}"#);
        check(
            filter,
            2,
            &["pool-filter.wasm: `--grant-http` is for processors: a filter gets no capability"],
        );
        let lua = grant(command).arg(segments.directory()).arg(&lua);
        check(lua, 2, &["f.lua: `--grant-http` is for components: a Lua file has the rights of the program"]);
    }
    let both = grant("plugin diff").arg(segments.directory()).arg(&lua).arg(&lua);
    check(both, 2, &["f.lua: `--grant-http` is for components"]);
    // Of the two, it is for the one that can have it.
    let lua = segments.beside("p.lua", "return { process = function() end }");
    let one = grant("plugin diff").arg(segments.directory()).arg(guest("webhook")).arg(lua);
    let one = one.arg("--config").arg(r#"{"url":"https://b.example/"}"#).run();
    assert!(!one.stderr.contains("--grant-http` is for"), "{one:?}");
}

#[test]
fn an_option_of_a_component_in_a_script_with_another_type() {
    let segments = segments();
    let webhook = guest("webhook");
    for (options, expected) in [
        ("grants = { http = 5 }", "option `grants.http`: invalid type: integer, expected a table"),
        ("grants = { http = { 5 } }", "option `grants.http`: invalid type: integer `5`"),
        ("grants = { http = { 'a' } }", "option `grants.http`: `a` is no origin of the form"),
        ("grants = 5", "option `grants`: invalid type: integer, expected a table"),
        ("grants = { htp = {} }", "option `grants`: unknown option `htp`; did you mean `http`?"),
        ("limits = 'much'", "option `limits`: invalid type: string, expected a table"),
        ("limits = { deadline = 5 }", "option `limits`: `deadline`: `5` has no unit"),
        ("config = print", "option `config`: "),
        ("path = {}", "option `path`: invalid type: "),
        ("grant = {}", "kumo.wasm.processor: unknown option `grant`; did you mean `grants`?"),
    ] {
        let path = if options.starts_with("path") {
            String::new()
        } else {
            format!("path = '{}', ", webhook.display())
        };
        let script = format!("local kumo = require 'kumo'\n\nkumo.wasm.processor {{ {path}{options} }}\n");
        let script = tailweir().arg("script").arg(segments.beside("s.lua", &script));
        check(script, 1, &["kumo.wasm.processor: ", expected, "s.lua:3"]);
    }
}

#[test]
fn a_bad_configuration() {
    let segments = segments();
    let parts =
        ["at `/pool`: a number is not of type \"string\"", "`tailweir plugin inspect` shows the schema"];
    check(test(&segments, "pool-filter", r#"{"pool":5}"#), 1, &parts);
    // Wherever it is used.
    let tail =
        tailweir().arg("tail").arg(segments.directory()).args("--once --filter").arg(guest("pool-filter"));
    check(tail.args("--config").arg(r#"{"pool":5}"#), 1, &parts);
    let plugin = guest("pool-filter");
    let pipeline = format!(
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'a'\nprocessor = {{ stdout = {{}} }}\n\
         filter = {{ wasm = '{}', config = {{ pool = 5 }} }}\n",
        plugin.display()
    );
    check(tailweir().arg("run").arg(segments.beside("p.toml", &pipeline)).arg("--check"), 1, &parts);
    let script = format!(
        "local kumo = require 'kumo'\nkumo.wasm.filter {{ path = '{}', config = {{ pool = 5 }} }}\n",
        plugin.display()
    );
    check(tailweir().arg("script").arg(segments.beside("s.lua", &script)), 1, &parts[..1]);
    check(test(&segments, "pool-filter", "{pool:1}"), 2, &["--config is not JSON"]);
    check(test(&segments, "pool-filter", ""), 1, &["it has none, and \"pool\" is a required property"]);
}

#[test]
fn a_schema_that_is_none() {
    let parts =
        ["bad-schema.wasm", "which is a mistake of the plug-in's: at `/type`", "repair `config-schema`"];
    check(test(&segments(), "bad-schema", "{}"), 1, &parts);
    // Whoever builds it hears of it, and keeps what was built before.
    let folder = tempfile::tempdir().unwrap();
    let project = "[project]\nname = 'p'\n[tool.tailweir]\n\
                   build = ['sh', '-c', 'mkdir -p build; cp source build/p.wasm']\n";
    std::fs::write(folder.path().join("pyproject.toml"), project).unwrap();
    let build = |name: &str| {
        std::fs::copy(guest(name), folder.path().join("source")).unwrap();
        tailweir().args("plugin build").arg(folder.path())
    };
    assert_eq!(build("pool-filter").run().code, Some(0));
    let of_build = ["/p.wasm: the schema that it gives", parts[1], parts[2]];
    check(build("bad-schema"), 1, &of_build);
    let built = std::fs::read(folder.path().join("p.wasm")).unwrap();
    assert_eq!(built, std::fs::read(guest("pool-filter")).unwrap());
    assert!(!folder.path().join("p.wasm.part").exists());
    // Whoever looks at it sees all of it, and that it cannot be used.
    let inspect = || tailweir().args("plugin inspect").arg(guest("bad-schema"));
    check(inspect(), 1, &parts);
    let shown = inspect().run().stdout;
    assert!(
        shown.contains("config     a schema that cannot be used:\n{") && shown.contains("Limits, "),
        "{shown}"
    );
    let shown = inspect().arg("--json").run();
    assert!(shown.stdout.contains("\"config_schema\": {") && shown.code == Some(1), "{shown:?}");
}

#[test]
fn a_panic() {
    let segments = Segments::generate(1, 1, 1);
    let records: String = (1..=100)
        .map(|n| format!("{{\"n\":{n}{}}}\n", if n == 63 { ",\"poison\":true" } else { "" }))
        .collect();
    let records = segments.beside("records.jsonl", &records);
    for (plugin, parts) in [
        (
            "hostile-filter",
            [
                "the filter failed on records.jsonl:63 (a file with that line alone",
                "{\"n\":63,\"poison\":true}",
            ],
        ),
        (
            "hostile-processor",
            ["the processor failed on records.jsonl:63 (a file with that line alone", "record 62 is poison"],
        ),
    ] {
        let program = tailweir().args("plugin test").arg(guest(plugin)).arg("--segment").arg(&records);
        let parts = [parts[0], parts[1], "crashed: ", "it said: panicked at ", ".rs:"];
        check(program.arg("--config").arg(r#"{"do":"panic-on-poison"}"#), 1, &parts);
    }
}

#[test]
fn an_error_in_lua() {
    let segments = segments();
    let file = segments.beside("f.lua", "return { filter = function(r)\n  return r.nothing.there\nend }\n");
    let (first, _) = segments.lines().pop_first().unwrap();
    let test = tailweir().args("plugin test").arg(file).arg("--segment").arg(segments.directory());
    check(test, 1, &[&format!("the filter failed on {first}:1 "), "f.lua:2: attempt to index"]);
}
