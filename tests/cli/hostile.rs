//! Plug-ins that do what no plug-in should: each beside a healthy consumer in the same process, which must get everything,
//! while what happened is named and counted.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tailweir_tests::{Ended, repository};
use tempfile::TempDir;

use crate::tailweir;

/// The component of a guest that only the tests use.
fn guest(name: &str) -> PathBuf {
    let path = repository("target/guests").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing; run `cargo xtask guests`", path.display());
    path
}

/// Sealed segments of records with `n` from 1 on, of which some are poison.
struct World(TempDir);

impl World {
    fn new(segments: u64, records: u64, poison: &[u64]) -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        fs::create_dir(world.path("logs")).unwrap();
        for segment in 0..segments {
            let numbers = segment * records + 1..=(segment + 1) * records;
            let text: String = numbers.map(|n| record(n, poison.contains(&n)) + "\n").collect();
            let path = world.path("logs").join(format!("{segment:03}"));
            fs::write(&path, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the consumer `bad` with these settings, and a healthy one behind a filter. The healthy one must get everything,
    /// and whatever is said must be short.
    fn run(&self, bad: &str) -> Ended {
        let filter = repository("examples/plugins/pool-filter/pool-filter.wasm");
        let text = format!(
            "[tailer]\ndirectory = 'logs'\n\
             [[consumer]]\nname = 'good'\nmax_batch_size = 10\n\
             filter = {{ wasm = '{}', config = {{ pool = 'a' }} }}\n\
             processor = {{ file = {{ path = 'good.jsonl', sync = false }} }}\n\
             [[consumer]]\nname = 'bad'\nmax_batch_size = 10\n{bad}\n",
            filter.display()
        );
        fs::write(self.path("p.toml"), text).unwrap();
        let ended = tailweir().arg("run").arg(self.path("p.toml")).arg("--once").run();
        let good: Vec<u64> = lines(&self.path("good.jsonl")).iter().map(number).collect();
        let records = fs::read_dir(self.path("logs"))
            .unwrap()
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        let records: usize = records
            .map(|entry| zstd::decode_all(&*fs::read(entry.path()).unwrap()).unwrap())
            .map(|text| text.split(|byte| *byte == b'\n').count() - 1)
            .sum();
        assert_eq!(good, (1..=records as u64).collect::<Vec<_>>(), "{bad}: {ended:?}");
        assert_eq!(ended.signal, None);
        assert!(ended.stderr.lines().count() < 200, "{bad}: {} lines", ended.stderr.lines().count());
        for line in ended.stderr.lines() {
            assert!(line.len() < 10_000, "{bad}: a line of {} bytes", line.len());
        }
        ended
    }

    /// As a filter in front of a file.
    fn filter(&self, guest_name: &str, config: &Value, rest: &str) -> Ended {
        let (path, config) = (guest(guest_name), inline(config));
        let filter =
            format!("filter = {{ wasm = '{}', config = {config}, limits = {{ LIMITS }} }}", path.display());
        self.with_limits(
            &format!("{filter}\nprocessor = {{ file = {{ path = 'bad.jsonl', sync = false }} }}"),
            rest,
        )
    }

    /// As a processor that emits into a file.
    fn processor(&self, config: &Value, rest: &str) -> Ended {
        let (path, config) = (guest("hostile-processor"), inline(config));
        let processor = format!(
            "processor = {{ wasm = '{}', config = {config}, limits = {{ LIMITS }} }}",
            path.display()
        );
        self.with_limits(
            &format!("{processor}\nsink = {{ file = {{ path = 'bad.jsonl', sync = false }} }}"),
            rest,
        )
    }

    fn with_limits(&self, consumer: &str, limits: &str) -> Ended {
        // As few records as possible are tried one by one, and retries come soon.
        let on_error = "on_error = { initial = '1ms', max_poison = 3 }";
        self.run(&format!("{}\n{on_error}", consumer.replace("LIMITS", limits)))
    }

    /// What the bad consumer has got.
    fn got(&self) -> Vec<u64> {
        lines(&self.path("bad.jsonl")).iter().map(number).collect()
    }

    /// Line numbers of what is in its quarantine.
    fn quarantined(&self) -> Vec<u64> {
        lines(&self.path("logs/.bad.quarantine"))
            .iter()
            .map(|entry| entry["line"].as_u64().unwrap())
            .collect()
    }
}

fn record(n: u64, poison: bool) -> String {
    json!({ "n": n, "egress_pool": "a", "poison": poison }).to_string()
}

fn number(record: &Value) -> u64 {
    record["n"].as_u64().unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A value as it stands in TOML, on one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<_> =
                members.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// Checks that a line of the log has all these words, and that the count at the end is there.
fn names(said: &str, words: &[&str], counted: &str) {
    assert!(said.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in {said}");
    let at_end = said.lines().find(|line| line.contains("plug-in was in trouble")).unwrap_or_default();
    assert!(at_end.contains(counted), "{counted} in {said}");
}

#[test]
fn f14_a_filter_that_fails_on_everything_stops_its_own_consumer_and_nothing_else() {
    let world = World::new(1, 50, &[]);
    let check = |guest: &str, config: Value, limits: &str, words: &str| {
        let said = world.filter(guest, &config, limits).with_code(1);
        names(&said, &[words], "failed=");
        let stopped =
            ["stopped", "the filter failed on 3 records in a row", "must be mended", "the others go on"];
        names(&said, &stopped, "failed=");
        assert!(said.ends_with("Error: consumers that failed: bad\n"), "{said}");
        assert_eq!(
            (world.got().len(), world.quarantined().len()),
            (0, 0),
            "{config}: nothing is lost or set aside"
        );
        assert!(!world.path("logs/.bad").exists(), "{config}: nothing is committed");
        fs::remove_file(world.path("good.jsonl")).unwrap();
        fs::remove_file(world.path("logs/.good")).unwrap();
        fs::remove_file(world.path("logs/.good.finished")).unwrap();
    };
    let deed = |what: &str| json!({ "do": what });
    check("hostile-filter", deed("loop"), "deadline = '60ms'", "it ran for longer than its deadline, 60ms");
    check(
        "hostile-filter",
        deed("eat"),
        "memory_bytes = 16777216",
        "it wanted more memory than its limit, 16 MiB",
    );
    check("hostile-filter", deed("trap"), "", "wasm `unreachable` instruction executed");
    check("hostile-filter", deed("recurse"), "", "call stack exhausted");
    check(
        "hostile-filter",
        json!({"do": "misalign", "more": 1}),
        "",
        "its verdict has 2 entries for 1 records",
    );
    check(
        "hostile-filter",
        json!({"do": "boast", "bytes": 50_000_000}),
        "log_line_bytes = 100",
        "(49999900 more bytes)",
    );
    check(
        "hostile-filter",
        json!({"do": "boast", "bytes": 50_000_000}),
        "emitted_bytes = 1048576",
        "more to the host at once",
    );
    check("wasi-filter", deed("leak"), "handles = 1000", "it holds more handles than its limit, 1000");
    check("raw-filter", json!("keep"), "", "borrow handles still remain at the end of the call");
    check("raw-filter", json!("crave"), "", "asked for 4097 fields at once");
    check("raw-filter", json!("nowhere"), "", "string pointer/length out of bounds of memory");
    check("raw-filter", json!("nonsense"), "", "invalid expected discriminant");
}

#[test]
fn f14_a_processor_that_fails_on_everything_stops_its_own_consumer_and_nothing_else() {
    let world = World::new(1, 50, &[]);
    let check = |config: Value, limits: &str, words: &str| {
        let said = world.processor(&config, limits).with_code(1);
        let stopped =
            ["stopped", "the processor broke on 3 records in a row", "must be mended", "the others go on"];
        names(&said, &stopped, "failed=");
        names(&said, &[words], "failed=");
        assert_eq!(
            (world.got().len(), world.quarantined().len()),
            (0, 0),
            "{config}: nothing is lost or set aside"
        );
        fs::remove_file(world.path("good.jsonl")).unwrap();
        fs::remove_file(world.path("logs/.good")).unwrap();
        fs::remove_file(world.path("logs/.good.finished")).unwrap();
    };
    check(json!({"do": "loop"}), "deadline = '60ms'", "it ran for longer than its deadline, 60ms");
    check(json!({"do": "eat"}), "memory_bytes = 16777216", "it wanted more memory than its limit, 16 MiB");
    check(json!({"do": "recurse"}), "", "call stack exhausted");
    check(
        json!({"do": "emit-much", "records": 8, "bytes": 1 << 20}),
        "emitted_bytes = 4194304",
        "its limit, 4 MiB",
    );
    check(json!({"do": "emit-text", "text": "nope"}), "", "is no JSON text");
    check(json!({"do": "reject", "indices": [10]}), "", "it rejects the record at index 10 of a batch of");
}

#[test]
fn f14_a_guest_that_fails_now_and_then_loses_nothing() {
    let trap = json!({"do": "panic-at-record", "record": 7, "emit": true});
    let world = World::new(3, 20, &[]);
    let said = world.filter("hostile-filter", &trap, "").with_code(0);
    names(&said, &["record 7 is too much"], "failed=");
    assert_eq!((world.got(), world.quarantined()), ((1..=60).collect(), vec![]));

    let world = World::new(3, 20, &[]);
    let said = world.processor(&trap, "").with_code(0);
    names(&said, &["record 7 is too much"], "failed=");
    assert_eq!((world.got(), world.quarantined()), ((1..=60).collect(), vec![]));

    // A batch that is gone: the second call of each instance uses that of the first.
    let world = World::new(3, 20, &[]);
    let said = world.filter("raw-filter", &json!("later"), "").with_code(0);
    names(&said, &["unknown handle index"], "failed=");
    assert_eq!((world.got(), world.quarantined()), ((1..=60).collect(), vec![]));
}

#[test]
fn f14_a_flood_of_log_lines_is_cut_and_counted() {
    let world = World::new(5, 20, &[]);
    let flood = json!({"do": "flood", "lines": 5_000, "bytes": 1000});
    let said = world.filter("hostile-filter", &flood, "log_lines_per_second = 20").with_code(0);
    names(&said, &["hostile-filter", "log lines left out"], "lines_left_out=");
    assert!(said.lines().filter(|line| line.contains("xxxx")).count() < 150, "{said}");
    let line = said.lines().find(|line| line.contains("xxxx")).unwrap();
    assert!(line.contains("plugin=\"hostile-filter\" consumer=\"bad\" batch=bad:"), "{line}");
    assert_eq!(world.got().len(), 100);
}

#[test]
fn f14_a_flood_of_log_lines_leaves_those_of_another_consumers_plug_in_alone() {
    let world = World::new(5, 20, &[]);
    let consumer = |name: &str, flood: Value| {
        format!(
            "filter = {{ wasm = '{}', config = {}, limits = {{ log_lines_per_second = 20 }} }}\n\
             processor = {{ file = {{ path = '{name}.jsonl', sync = false }} }}\n",
            guest("hostile-filter").display(),
            inline(&flood)
        )
    };
    // The same plug-in, so the same name, as it might also be one that has given itself the name of the other.
    let loud = consumer("bad", json!({"do": "flood", "lines": 5_000, "bytes": 1000}));
    let quiet = consumer("quiet", json!({"do": "flood", "lines": 3, "bytes": 7}));
    let said =
        world.run(&format!("{loud}[[consumer]]\nname = 'quiet'\nmax_batch_size = 10\n{quiet}")).with_code(0);
    let lines_of = |name: &str| {
        let words = format!("consumer=\"{name}\" batch={name}:");
        said.lines().filter(|line| line.contains(&words)).count()
    };
    // With one budget for both, one of them would have fewer.
    assert!(lines_of("quiet") == 15 && lines_of("bad") >= 20, "{said}");
    let cut = said.lines().filter(|line| line.contains("log lines left out"));
    assert!(cut.clone().count() > 0 && cut.clone().all(|line| line.contains("consumer=\"bad\"")), "{said}");
}

#[test]
fn f14_metrics_without_end_are_cut_and_counted() {
    let world = World::new(5, 20, &[]);
    let check = |metrics: u64, series: u64, limits: &str, words: &str| {
        let measure = json!({"do": "measure", "metrics": metrics, "series": series});
        let said = world.filter("hostile-filter", &measure, limits).with_code(0);
        let told = said.lines().filter(|line| line.contains("of its metrics something is not recorded"));
        assert!(told.count() <= 100, "{said}");
        names(&said, &["hostile-filter", words], "failed=0");
        names(&said, &["metrics_left_out="], "lines_left_out=0");
        assert_eq!(world.got().len(), 100);
        for file in [
            "bad.jsonl",
            "good.jsonl",
            "logs/.good",
            "logs/.good.finished",
            "logs/.bad",
            "logs/.bad.finished",
        ] {
            fs::remove_file(world.path(file)).unwrap();
        }
    };
    check(20_000, 1, "", "it has as many metrics as its limit, 100 (`metrics`)");
    check(1, 20_000, "", "as many different labels as its limit, 100 (`metric_series`)");
    check(50, 50, "metrics = 0", "it has as many metrics as its limit, 0 (`metrics`)");
}

#[test]
fn f15_one_record_that_kills_a_filter_is_set_aside_and_the_rest_delivered() {
    for misdeed in ["panic-on-poison", "loop-on-poison"] {
        let world = World::new(2, 50, &[1, 37, 38, 100]);
        let config = json!({ "do": misdeed });
        let said = world.filter("hostile-filter", &config, "deadline = '50ms'").with_code(0);
        names(&said, &["record put in quarantine", "000:37"], "failed=");
        assert_eq!(world.quarantined(), [1, 37, 38, 50], "{said}");
        assert_eq!(world.got(), (1..=100).filter(|n| ![1, 37, 38, 100].contains(n)).collect::<Vec<_>>());
    }
}

#[test]
fn f15_one_record_that_kills_a_processor_is_set_aside_and_the_rest_delivered() {
    for misdeed in ["panic-on-poison", "loop-on-poison"] {
        let world = World::new(2, 50, &[1, 37, 38, 100]);
        let config = json!({ "do": misdeed, "emit": true });
        let said = world.processor(&config, "deadline = '50ms'").with_code(0);
        names(&said, &["record put in quarantine", "000:37"], "failed=");
        assert_eq!(world.quarantined(), [1, 37, 38, 50], "{said}");
        assert_eq!(world.got(), (1..=100).filter(|n| ![1, 37, 38, 100].contains(n)).collect::<Vec<_>>());
        // It is all committed.
        assert_eq!(tailweir().arg("run").arg(world.path("p.toml")).arg("--once").run().quietly(), "");
    }
}

#[test]
fn f16_a_guest_whose_memory_only_grows_is_replaced_between_batches() {
    let grow = json!({"do": "grow", "bytes": 1 << 20, "emit": true});
    let world = World::new(20, 10, &[]);
    let said = world.filter("hostile-filter", &grow, "memory_bytes = 8388608").with_code(0);
    names(&said, &["replaced by a fresh instance", "hostile-filter"], "failed=0 recycled=");
    assert_eq!((world.got(), world.quarantined()), ((1..=200).collect(), vec![]));

    let world = World::new(1, 200, &[]);
    let said = world.processor(&grow, "recycle_bytes = 6000000").with_code(0);
    names(&said, &["replaced by a fresh instance", "hostile-processor"], "failed=0 recycled=");
    assert_eq!((world.got(), world.quarantined()), ((1..=200).collect(), vec![]));
}

/// What must not be loaded, in files of its own folder, and what is said of each.
fn unloadable(world: &World) -> Vec<(PathBuf, &'static str)> {
    let whole = fs::read(guest("pool-filter")).unwrap();
    let mut random = fastrand_bytes(4096);
    let of_another_world = {
        // An empty component that exports an empty instance as `wasi:cli/run@0.2.0`.
        let name = b"wasi:cli/run@0.2.0";
        let mut export = vec![1, 0, name.len() as u8];
        export.extend_from_slice(name);
        export.extend_from_slice(&[5, 0, 0]);
        [&b"\0asm\x0d\0\x01\0\x05\x03\x01\x01\0\x0b"[..], &[export.len() as u8], &export].concat()
    };
    let file = |name: &str, bytes: &[u8]| {
        let path = world.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let noise = file("noise.wasm", &random);
    random.splice(..8, *b"\0asm\x0d\0\x01\0");
    let large = world.path("large.wasm");
    File::create(&large).unwrap().set_len(300 << 20).unwrap();
    vec![
        (noise, "not a WebAssembly component"),
        (file("disguised.wasm", &random), "damaged, or made for a later WebAssembly runtime"),
        (
            file("truncated.wasm", &whole[..whole.len() / 2]),
            "damaged, or made for a later WebAssembly runtime",
        ),
        (file("module.wasm", b"\0asm\x01\0\0\0"), "a WebAssembly module, not a component"),
        (file("other-world.wasm", &of_another_world), "a component, but no tailweir plug-in"),
        (guest("webhook"), "use it where a processor is expected"),
        (PathBuf::from("/dev/zero"), "it is no regular file"),
        (large, "larger than 256 MiB"),
    ]
}

/// The same at each run.
fn fastrand_bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(next).collect()
}

#[test]
fn f14_what_does_not_load_is_refused_in_one_sentence_and_a_script_can_go_on() {
    let world = World::new(1, 50, &[]);
    let unloadable = unloadable(&world);
    for (path, expected) in &unloadable {
        let text = format!(
            "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'bad'\nfilter = {{ wasm = '{}' }}\n\
             processor = {{ stdout = {{}} }}\n",
            path.display()
        );
        fs::write(world.path("p.toml"), text).unwrap();
        for program in [
            tailweir().arg("run").arg(world.path("p.toml")).arg("--once"),
            tailweir().arg("tail").arg(world.path("logs")).arg("--once").arg("--filter").arg(path),
        ] {
            let ended = program.run();
            assert_eq!(ended.stdout, "", "no record is read");
            let said = ended.with_code(1);
            let line = said.lines().find(|line| line.contains(expected)).unwrap_or_default();
            assert!(line.contains(path.to_str().unwrap()) && line.len() < 400, "{expected}: {said}");
        }
    }
    let text = format!(
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'bad'\n\
         processor = {{ wasm = '{}', config = {{ url = 'http://127.0.0.1:9' }} }}\n",
        guest("webhook").display()
    );
    fs::write(world.path("p.toml"), text).unwrap();
    let said = tailweir().arg("run").arg(world.path("p.toml")).arg("--once").run().with_code(1);
    assert!(
        said.contains("webhook.wasm: it sends HTTP requests, so it needs a grant: name the origins"),
        "{said}"
    );
    // All of them in one process, and then one that is in order.
    let paths: String = unloadable.iter().map(|(path, _)| format!("'{}', ", path.display())).collect();
    let script = format!(
        "local kumo = require 'kumo'
         for _, path in ipairs {{ {paths} }} do
           local ok, err = pcall(kumo.wasm.filter, {{ path = path, config = {{ pool = 'a' }} }})
           assert(not ok) print((tostring(err):match '[^\\n]+'))
         end
         local ok, err = pcall(kumo.wasm.processor, {{ path = '{}', config = {{ url = 'http://127.0.0.1:9' }} }})
         assert(not ok) print((tostring(err):match '[^\\n]+'))
         local filter = kumo.wasm.filter {{ path = '{}', config = {{ pool = 'a' }} }}
         local tailer <close> = kumo.jsonl.new_tailer({{ directory = '{}', follow = false }}, filter)
         local n = 0
         for batch in tailer:batches() do n = n + #batch end
         print(n)",
        guest("webhook").display(),
        guest("pool-filter").display(),
        world.path("logs").display()
    );
    fs::write(world.path("script.lua"), script).unwrap();
    let printed = tailweir().arg("script").arg(world.path("script.lua")).run().quietly();
    let printed: Vec<&str> = printed.lines().collect();
    assert_eq!(printed.len(), unloadable.len() + 2, "{printed:#?}");
    for (line, (_, expected)) in printed.iter().zip(&unloadable) {
        assert!(line.contains("kumo.wasm.filter: ") && line.contains(expected), "{line}");
    }
    assert!(
        printed[unloadable.len()].contains("it sends HTTP requests, so it needs a grant"),
        "{printed:#?}"
    );
    assert_eq!(printed[unloadable.len() + 1], "50");
}
