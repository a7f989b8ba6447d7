//! The example plug-ins in C, JavaScript and Python: each gives the same records as the one in Rust.
//!
//! `cargo xtask guests --languages` builds them. Those that are not built are skipped, by name, unless
//! `TAILWEIR_TEST_LANGUAGES=all` is set: then they are missing.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use tailweir_tests::{Ended, Program, Segments, repository, wait_for};
use tempfile::TempDir;

use crate::metrics::told;
use crate::plugin_tools::{shell_quietly, steps};
use crate::state::journal;
use crate::tailweir;

/// Compiling one of the large components takes all cores for seconds: one after the other, so that no test waits in vain.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A component and the right to run it, if it is there.
fn component(name: &str) -> Option<(PathBuf, MutexGuard<'static, ()>)> {
    let path = repository("target/guests").join(format!("{name}.wasm"));
    if path.exists() {
        return Some((path, ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)));
    }
    let all = std::env::var_os("TAILWEIR_TEST_LANGUAGES").is_some_and(|value| value == "all");
    assert!(!all, "{name} is not built: `cargo xtask guests --languages`");
    // Not with `eprintln!`, which the test harness keeps to itself.
    let _ = writeln!(io::stderr(), "SKIPPED: {name} is not built: `cargo xtask guests --languages`");
    None
}

/// Records with a field that is missing, null, of another type, escaped, or not ASCII, as well as generated ones.
fn segments() -> Segments {
    let segments = Segments::generate(3_000, 2, 57);
    let odd = [
        r#"{"type":"Delivery","egress_pool":null}"#,
        r#"{"type":null,"egress_pool":["customer-a"]}"#,
        r#"{"type":7,"egress_pool":"customer-b"}"#,
        r#"{"egress_pool":"customer-\u0061"}"#,
        r#"{"type":"Grüße 📧","egress_pool":"customer-a"}"#,
        r#"{"type":"a\"b\\c\u0001\n","egress_pool":""}"#,
        r#"{"type":"","egress_pool":"Grüße"}"#,
        r#"{"type":"\ufeffmarked","egress_pool":"\ufeffcustomer-a"}"#,
        "[]",
        "7",
    ];
    segments.beside("logs/odd", &(odd.join("\n") + "\n"));
    segments
}

/// What a filter keeps.
fn kept(filter: &Path, segments: &Segments, config: &str) -> Ended {
    let program = tailweir().args("tail --once").arg(segments.directory()).arg("--filter").arg(filter);
    program.arg("--config").arg(config).run()
}

fn check_filter(name: &str) {
    let Some((path, _guard)) = component(name) else { return };
    let (segments, rust) = (segments(), repository("target/guests/pool-filter.wasm"));
    for pool in ["customer-a", "Grüße", "none such"] {
        let config = format!(r#"{{"pool":"{pool}"}}"#);
        let expected = kept(&rust, &segments, &config).quietly();
        assert_eq!(expected.is_empty(), pool == "none such");
        assert!(kept(&path, &segments, &config).quietly() == expected, "{pool}");
    }
    for config in ["null", "{}", r#"{"pool":7}"#] {
        let said = kept(&path, &segments, config).with_code(1);
        assert!(said.contains("pool") && said.lines().count() < 25, "{config}: {said}");
    }
}

/// What a processor emits, from the beginning: there is no checkpoint yet.
fn emitted(processor: &Path, config: &str) -> Ended {
    let segments = segments();
    let pipeline = format!(
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'a'\nmax_batch_size = 100\nsink = {{ stdout = {{}} }}\n\
         processor = {{ wasm = '{}'{config} }}\n",
        processor.display()
    );
    tailweir().args("run --once").arg(segments.beside("pipeline.toml", &pipeline)).run()
}

fn check_processor(name: &str) {
    let Some((path, _guard)) = component(name) else { return };
    let rust = repository("target/guests/summary.wasm");
    for config in ["", ", config = { field = '/egress_pool' }", ", config = { field = '/no/such' }"] {
        let expected = emitted(&rust, config).quietly();
        assert!(expected.lines().count() > 30, "{expected}");
        assert!(emitted(&path, config).quietly() == expected, "{config}");
    }
    let said = emitted(&path, ", config = { field = 'type' }").with_code(1);
    assert!(said.contains("field"), "{said}");
}

/// What counts the records of these segments, in small batches, and writes to `out`.
fn counting(counter: &Path, segments: &Segments) -> Program {
    let pipeline = format!(
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'a'\nmax_batch_size = 20\n\
         sink = {{ file = {{ path = 'out', sync = false }} }}\nprocessor = {{ wasm = '{}' }}\n",
        counter.display()
    );
    tailweir().arg("run").arg(segments.beside("pipeline.toml", &pipeline)).args("--summary=json")
}

fn check_counter(name: &str) {
    let Some((path, _guard)) = component(name) else { return };
    let out = |segments: &Segments| {
        fs::read_to_string(segments.directory().with_file_name("out")).unwrap_or_default()
    };
    let state = |segments: &Segments| journal(&segments.directory().join(".a.state"));
    let (by_rust, whole, killed) = (segments(), segments(), segments());
    let expected = counting(&repository("target/guests/counter.wasm"), &by_rust).args("--once").run();
    assert!(out(&by_rust).lines().count() > 150 && state(&by_rust).len() > 8, "{expected:?}");

    let ended = counting(&path, &whole).args("--once").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(out(&whole) == out(&by_rust));
    assert_eq!(state(&whole), state(&by_rust));
    assert_eq!(told(&ended, name)["metrics"], told(&expected, "counter")["metrics"]);

    // It goes on from what was committed.
    let running = counting(&path, &killed).start();
    wait_for("a few batches", || out(&killed).lines().count() > 20);
    running.signal(Signal::KILL);
    assert_eq!(running.end().signal, Some(9));
    let ended = counting(&path, &killed).args("--once").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(out(&killed).lines().next_back(), out(&by_rust).lines().next_back());
    assert_eq!(state(&killed), state(&by_rust));
}

/// What a plug-in imports of the host's interface besides what all have.
fn check_imports(language: &str) {
    for (plugin, expected) in [("pool-filter", ""), ("summary", ""), ("counter", "metrics state")] {
        let Some((path, _guard)) = component(&format!("{language}-{plugin}")) else { return };
        let shown = tailweir().args("plugin inspect").arg(path).run().quietly();
        let of_host = |part: &str| Some(part.strip_prefix("tailweir:plugin/")?.split_once('@')?.0.to_owned());
        let mut imports: Vec<_> = shown.split_whitespace().filter_map(of_host).collect();
        imports.retain(|name| !["log", "records"].contains(&&**name));
        imports.sort_unstable();
        assert_eq!(imports.join(" "), expected, "{language}-{plugin}: {shown}");
    }
}

#[test]
fn the_filter_in_c_keeps_what_the_one_in_rust_keeps() {
    check_filter("c-pool-filter");
}

#[test]
fn the_filter_in_javascript_keeps_what_the_one_in_rust_keeps() {
    check_filter("js-pool-filter");
}

#[test]
fn the_filter_in_python_keeps_what_the_one_in_rust_keeps() {
    check_filter("python-pool-filter");
}

#[test]
fn the_processor_in_c_emits_what_the_one_in_rust_emits() {
    check_processor("c-summary");
}

#[test]
fn the_processor_in_javascript_emits_what_the_one_in_rust_emits() {
    check_processor("js-summary");
}

#[test]
fn the_processor_in_python_emits_what_the_one_in_rust_emits() {
    check_processor("python-summary");
}

#[test]
fn the_counter_in_c_counts_and_measures_as_the_one_in_rust() {
    check_counter("c-counter");
}

#[test]
fn the_counter_in_javascript_counts_and_measures_as_the_one_in_rust() {
    check_counter("js-counter");
}

#[test]
fn the_counter_in_python_counts_and_measures_as_the_one_in_rust() {
    check_counter("python-counter");
}

/// A component that imports state needs a checkpoint, and cannot run several times at once.
#[test]
fn state_and_metrics_are_imported_by_plugins_that_use_them_only() {
    ["c", "js", "python"].into_iter().for_each(check_imports);
}

/// Shell commands after which the tools that the examples were built with are there in the place of those that a README has one
/// install.
fn with_tools(language: &str) -> String {
    let tools = repository("target/tools").join(format!("{language}-guest"));
    format!(
        "tools='{}'\nexport PYTHONPATH=\"$tools\" PATH=\"$tools/bin:$PATH\"\n\
         export ZIG_GLOBAL_CACHE_DIR=\"$tools/cache\" ZIG_LOCAL_CACHE_DIR=\"$tools/cache\"\n\
         if [ -d \"$tools/node_modules\" ]; then ln -s \"$tools/node_modules\" my-plugin/node_modules; fi\n",
        tools.display()
    )
}

/// A new plug-in builds, and does what its README says.
fn check_new(language: &str, kind: &str, example: &str) {
    let Some((_, _guard)) = component(example) else { return };
    let folder = tempfile::tempdir().unwrap();
    let begun = tailweir().folder(folder.path()).args("plugin new my-plugin --lang").arg(language);
    let said = begun.arg("--kind").arg(kind).run().quietly();
    let shown = shell_quietly(folder.path(), &(with_tools(language) + &steps(&said)));
    assert!(shown.contains("as tests/expected.txt says\n"), "{shown}");
    assert!(shown.contains(&format!(": my-plugin 0.1.0, a {kind}\n")), "{shown}");
}

#[test]
fn new_plugins_in_c_build_and_pass_their_own_tests() {
    check_new("c", "filter", "c-pool-filter");
    check_new("c", "processor", "c-summary");
}

#[test]
fn a_plugin_in_c_is_built_in_a_folder_of_another_name() {
    let Some((_, _guard)) = component("c-summary") else { return };
    let folder = tempfile::tempdir().unwrap();
    let begun = tailweir().folder(folder.path()).args("plugin new my-plugin --lang c --kind filter");
    begun.run().quietly();
    fs::rename(folder.path().join("my-plugin"), folder.path().join("src")).unwrap();
    shell_quietly(&folder.path().join("src"), &(with_tools("c") + "tailweir plugin build"));
    assert!(folder.path().join("src/my-plugin.wasm").exists());
}

#[test]
fn new_plugins_in_javascript_build_and_pass_their_own_tests() {
    check_new("js", "filter", "js-pool-filter");
    check_new("js", "processor", "js-summary");
}

#[test]
fn new_plugins_in_python_build_and_pass_their_own_tests() {
    check_new("python", "filter", "python-pool-filter");
    check_new("python", "processor", "python-summary");
}

/// A new plug-in in JavaScript whose source is another one, in a folder with the tools that the examples were built with; and the
/// right to run it.
fn in_javascript(kind: &str, source: &str) -> Option<(TempDir, MutexGuard<'static, ()>)> {
    let (_, guard) = component("js-summary")?;
    let folder = tempfile::tempdir().unwrap();
    let begun = tailweir().folder(folder.path()).args("plugin new my-plugin --lang js --kind").arg(kind);
    begun.run().quietly();
    let tools = repository("target/tools/js-guest/node_modules");
    symlink(tools, folder.path().join("my-plugin/node_modules")).unwrap();
    fs::write(folder.path().join("my-plugin/plugin.js"), source).unwrap();
    Some((folder, guard))
}

#[test]
fn a_mistake_in_the_source_in_javascript_is_told_with_its_place() {
    let Some((folder, _guard)) = in_javascript("filter", "") else { return };
    let plugin = folder.path().join("my-plugin");
    for (source, expected) in [
        (
            "const a = 1;\nconst b = [1, 2;\n",
            "plugin.js:2:16: Expected `,` but found `;`\n  const b = [1, 2;\n",
        ),
        (
            "// Grüße 📧\nlet a; let a;\n",
            "plugin.js:2:12: Identifier `a` has already been declared\n  let a; let a;\n",
        ),
        ("import { b } from './b.js';\n", "plugin.js:1:19: there is no file b.js\n"),
        ("import { b } from './guest/b.js';\n", "guest/b.js:1:18: Unexpected token\n  export const b = ;\n"),
    ] {
        fs::write(plugin.join("plugin.js"), source).unwrap();
        fs::write(plugin.join("guest/b.js"), "export const b = ;\n").unwrap();
        let said = tailweir().args("plugin build").arg(&plugin).run().with_code(1);
        assert!(said.contains(expected) && !said.contains("node:"), "{source}: {said}");
    }
}

/// What it does is said by its configuration.
const MISTAKEN: &str = "
import { makeProcessor, Reject, Retry, Stop } from './guest/tailweir.js';
import { counter } from './guest/metrics.js';
const done = counter('done_total', 'Done');
const mistakes = {
  index: () => { throw new Reject(['a'], 'x'); },
  beyond: () => { throw new Reject([20], 'x'); },
  wait: () => { throw new Retry('x', { afterMs: -1 }); },
  reason: () => { throw new Stop(); },
  record: () => ['{}', undefined],
  late: (records) => records.map(async (record) => record),
  counter: () => done.add(-1),
  clock: () => [{ at: new Date() }],
  random: () => [{ at: Math.random() }],
  timer: () => setTimeout(() => {}, 10),
  date: () => [{ at: new Date(0), is: new Date(0) instanceof Date }],
};
export const { lifecycle, process } = makeProcessor({
  name: 'my-plugin', version: '0.1.0', handle: (batch, { do: name }) => mistakes[name](batch.records()),
});
";

/// None of them is taken for something else, and nothing ends the engine without a word.
#[test]
fn a_mistake_in_javascript_is_named() {
    let Some((folder, _guard)) = in_javascript("processor", MISTAKEN) else { return };
    let plugin = folder.path().join("my-plugin");
    let built = tailweir().args("plugin build").arg(&plugin).run();
    assert_eq!(built.code, Some(0), "{built:?}");
    let test = |name: &str| {
        let test = tailweir()
            .folder(&plugin)
            .args("plugin test my-plugin.wasm --segment tests/records.jsonl --config");
        test.arg(format!(r#"{{"do":"{name}"}}"#)).run()
    };
    for (name, expected) in [
        ("index", "RangeError: the indices of a Reject have \"a\" at 0; each must be a whole number from 0"),
        ("beyond", "is at fault: it rejects the record at index 20 of a batch of"),
        (
            "wait",
            "RangeError: `afterMs` of a Retry must be a whole number from 0 to 2^53 - 1, not -1 (wait@plugin.js:8:",
        ),
        ("reason", "TypeError: the reason of a Stop must be a string, not undefined (reason@plugin.js:9:"),
        ("record", "TypeError: handle returned undefined as the record at index 1; it must be a JSON text"),
        ("late", "TypeError: handle returned a Promise (nothing is awaited) as the record at index 0"),
        (
            "counter",
            "RangeError: `done_total` only grows, by whole numbers, and was given -1 (counter@plugin.js:12:",
        ),
        ("clock", "Error: `new Date()`: a plug-in has no clock: take the time from the records"),
        ("random", "Error: `Math.random()`: a plug-in has no random numbers"),
        ("timer", "Error: `setTimeout()`: a plug-in has no timers"),
    ] {
        let said = test(name).with_code(1);
        let (_, cause) = said.split_once("\ncaused by: ").expect(&said);
        assert!(cause.contains(expected), "{name}: {cause}");
    }
    let shown = test("date").quietly();
    assert!(shown.contains(r#"{"at":"1970-01-01T00:00:00.000Z","is":true}"#), "{shown}");
}

/// A processor in Python that makes the mistake which its configuration names.
const MISTAKEN_IN_PYTHON: &str = r#"import json
from collections import Counter

import tailweir
import tailweir_metrics as metrics
import tailweir_state as state

SEEN = metrics.Counter("seen_total", "Records seen")


def counts(batch):
    return Counter(batch.strings("/type"))


def late(batch):
    import statistics


MISTAKES = {
    "counts": counts,
    "late": late,
    "text": lambda batch: "42",
    "none": lambda batch: [{}, None],
    "below": lambda batch: SEEN.add(-1),
    "key": lambda batch: state.set(5, "x"),
    "parse": lambda batch: json.loads("{"),
    "index": lambda batch: batch.record(-1),
    "passed": lambda batch: batch.records(),
}


def handle(batch, config):
    return MISTAKES[config](batch)


Lifecycle, Process = tailweir.processor(handle, name="my-plugin", version="0.1.0")
"#;

/// What the bindings do not take would end in a panic of theirs, and what they take for something else, in other records.
#[test]
fn mistakes_in_python_are_told_with_the_line_of_the_plugin() {
    let Some((_, _guard)) = component("python-summary") else { return };
    let folder = tempfile::tempdir().unwrap();
    let begun = tailweir().folder(folder.path()).args("plugin new my-plugin --lang python --kind processor");
    begun.run().quietly();
    let plugin = folder.path().join("my-plugin");
    let project = fs::read_to_string(plugin.join("pyproject.toml")).unwrap();
    let world =
        r#""--wit-path", "guest/worlds.wit", "--world", "tailweir:guest/metrics-state-processor-plugin""#;
    let project = project.replace(r#""--world", "processor-plugin""#, world);
    fs::write(plugin.join("pyproject.toml"), project).unwrap();
    fs::write(plugin.join("app.py"), MISTAKEN_IN_PYTHON).unwrap();
    let records = r#"{"type":"Delivery"}
{"Subject":"bad \ud83d, Grüße"}
"#;
    fs::write(plugin.join("records.jsonl"), records).unwrap();
    let component = plugin.join("my-plugin.wasm");
    let build = format!("cd my-plugin\n'{}' plugin build\n", env!("CARGO_BIN_EXE_tailweir"));
    shell_quietly(folder.path(), &(with_tools("python") + &build));
    let told = |mistake: &str| {
        let test =
            tailweir().args("plugin test").arg(&component).arg("--segment").arg(plugin.join("records.jsonl"));
        test.arg("--config").arg(format!("\"{mistake}\"")).run()
    };
    let line = |code: &str| MISTAKEN_IN_PYTHON.lines().position(|line| line.contains(code)).unwrap() + 1;
    for (mistake, expected, code) in [
        (
            "counts",
            "TypeError: handle returned Counter; it must return None, or a list of records",
            "def handle",
        ),
        ("text", "TypeError: handle returned str; it must return None, or a list of records", "def handle"),
        ("none", "TypeError: handle returned None as the record at index 1", "def handle"),
        (
            "below",
            "ValueError: what is added to the counter `seen_total`, which only grows, must be",
            "SEEN.add",
        ),
        ("key", "TypeError: a key of state must be a string, not 5", "state.set"),
        ("parse", "JSONDecodeError: Expecting property name", "json.loads"),
        ("index", "ValueError: the index of a record must be", "batch.record("),
        ("late", "ModuleNotFoundError: No module named 'statistics'", "import statistics"),
    ] {
        let said = told(mistake).with_code(1);
        let last = said.lines().find(|line| line.starts_with("caused by: ")).unwrap_or(&said);
        assert!(last.contains(expected), "{mistake}: {last}");
        assert!(last.contains(&format!(" (app.py, line {})", line(code))), "{mistake}: {last}");
        assert_eq!(last.contains("; import it at the top of the file"), mistake == "late", "{last}");
    }
    let passed = told("passed").quietly();
    assert!(records.lines().all(|record| passed.contains(record)), "{passed}");
}
