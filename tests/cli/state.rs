//! State of plug-ins: what they remember, in step with their checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};
use tailweir_tests::{Ended, Program, Running, Segments, repository, wait_for};
use tempfile::TempDir;

use crate::tailweir;

/// A folder with segments that are added one by one, and a pipeline of one consumer.
struct World {
    folder: TempDir,
    segments: usize,
}

impl World {
    /// With this guest and what else the table of its processor says.
    fn new(guest: &str, more: &str) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), segments: 0 };
        fs::create_dir(world.path("logs")).unwrap();
        let component = repository("target/guests").join(format!("{guest}.wasm"));
        assert!(component.exists(), "{} is missing: run `cargo xtask guests`", component.display());
        fs::copy(component, world.path("p.wasm")).unwrap();
        let consumer = format!(
            "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\nprocessor = {{ wasm = 'p.wasm'{more} }}\n\
             sink = {{ file = {{ path = 'out', sync = false }} }}\nmax_batch_size = 10\nmax_batch_latency = '5ms'\n\
             on_error = {{ initial = '1ms', max = '1ms' }}\n"
        );
        fs::write(world.path("p.toml"), consumer).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a sealed segment of records, as JSON texts.
    fn add(&mut self, records: impl IntoIterator<Item = String>) {
        let text: String = records.into_iter().map(|record| record + "\n").collect();
        let hidden = self.path("logs/.new");
        fs::write(&hidden, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        fs::set_permissions(&hidden, Permissions::from_mode(0o444)).unwrap();
        self.segments += 1;
        fs::rename(hidden, self.path("logs").join(format!("{:06}", self.segments))).unwrap();
    }

    fn numbers(&mut self, records: u64) {
        self.add((0..records).map(|n| n.to_string()));
    }

    fn program(&self) -> Program {
        tailweir().args("--log info run").arg(self.path("p.toml"))
    }

    fn once(&self) -> Ended {
        self.program().arg("--once").run()
    }

    fn out(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap_or_default()
    }

    /// Its last whole line.
    fn last(&self) -> String {
        self.out().lines().next_back().unwrap_or_default().to_owned()
    }

    /// What the journal of the state holds.
    fn state(&self) -> BTreeMap<String, Value> {
        journal(&self.path("logs/.c.state"))
    }
}

/// What the journal of a state holds, whosever bucket it is in, read with nothing of ours.
pub(crate) fn journal(path: &Path) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(path).unwrap();
    let mut state = BTreeMap::new();
    for line in text.lines().skip(1) {
        let entry: Value = serde_json::from_str(&line[17..]).unwrap();
        for (_, changed) in entry["state"].as_object().unwrap() {
            for (key, value) in changed.as_object().unwrap() {
                if value.is_null() {
                    state.remove(key)
                } else {
                    state.insert(key.clone(), value.clone())
                };
            }
        }
    }
    state
}

#[test]
fn a_counter_is_exact_however_often_its_program_is_killed() {
    let mut world = World::new("counter", "");
    let mut random = fastrand::Rng::with_seed(7);
    let mut by: BTreeMap<&str, u64> = BTreeMap::new();
    let mut total = 0;
    for _ in 0..12 {
        let running: Running = world.program().start();
        for _ in 0..random.u64(1..4) {
            let kinds: Vec<&str> = (0..random.u64(20..200))
                .map(|_| *random.choice(&["Bounce", "Delivery", "OOB"]).unwrap())
                .collect();
            total += kinds.len() as u64;
            kinds.iter().for_each(|kind| *by.entry(kind).or_default() += 1);
            world.add(kinds.iter().map(|kind| json!({ "type": kind }).to_string()));
        }
        let before = world.out().len();
        if random.bool() {
            wait_for("a batch", || world.out().len() > before);
        }
        running.signal(Signal::KILL);
        assert_eq!(running.end().signal, Some(9));
    }
    let ended = world.once();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(serde_json::from_str::<Value>(&world.last()).unwrap(), json!({ "records": total, "by": by }));
    let counted: u64 = world.state()["records"].as_str().unwrap().parse().unwrap();
    assert_eq!(counted, total);
    // Nothing is left to be read, and it is there still.
    world.once();
    world.add([json!({ "type": "OOB" }).to_string()]);
    world.once();
    assert!(world.last().starts_with(&format!("{{\"records\":{},", total + 1)), "{}", world.last());
}

/// Runs a world of 25 records to its end, the 14th of which is poison, and returns what was emitted and counted.
fn counted(config: &str) -> (String, Option<Value>, Ended) {
    let mut world = World::new("stateful", &format!(", config = {config}"));
    world.add((1..=25).map(|n| json!({ "n": n, "poison": n == 14 }).to_string()));
    let ended = world.once();
    let state = world.path("logs/.c.state").exists().then(|| world.state());
    (world.out(), state.and_then(|state| state.get("n").cloned()), ended)
}

#[test]
fn what_is_not_dealt_with_is_not_counted() {
    let (out, n, _) = counted("{ do = 'count' }");
    assert_eq!((out.as_str(), n), ("10\n20\n25\n", Some("25".into())));
    let (out, n, _) = counted("{ do = 'retry' }");
    assert_eq!(
        (out.as_str(), n),
        ("10\n20\n25\n", Some("25".into())),
        "a batch that is tried again counts once"
    );
    let (out, n, _) = counted("{ do = 'reject-poison' }");
    assert_eq!((out.as_str(), n), ("10\n24\n", Some("24".into())), "the others of a batch count");
    let (out, n, ended) = counted("{ do = 'panic-on-poison' }");
    assert_eq!(n, Some("24".into()), "{out}{ended:?}");
    let (out, n, ended) = counted("{ do = 'stop-at', count = 20 }");
    assert_eq!((out.as_str(), n, ended.code), ("10\n", Some("10".into()), Some(1)), "{ended:?}");
}

/// A sink that does not take what was emitted leaves the batch undone, with its state.
#[test]
fn a_sink_that_fails_undoes_the_count() {
    let mut world = World::new("stateful", ", config = { do = 'count' }");
    world.numbers(10);
    let file = fs::read_to_string(world.path("p.toml")).unwrap();
    let down = file
        .replace("{ file = { path = 'out', sync = false } }", "{ http = { url = 'http://127.0.0.1:9/' } }")
        .replace("max = '1ms'", "max = '1ms', max_attempts = 3");
    fs::write(world.path("p.toml"), down).unwrap();
    assert!(world.once().with_code(1).contains("failed 3 times"));
    fs::write(world.path("p.toml"), file).unwrap();
    world.once().with_code(0);
    assert_eq!(world.out(), "10\n");
}

#[test]
fn limits_are_told_to_the_guest() {
    let check = |set: &str, limits: &str, expected: &str| {
        let config = format!(", config = {{ do = 'set', {set} }}, limits = {{ {limits} }}");
        let mut world = World::new("stateful", &config);
        world.numbers(1);
        world.once().with_code(0);
        assert_eq!(world.out(), format!("\"{expected}\"\n"));
    };
    check("key = 512, value = 1048576", "", "set");
    check("key = 513, value = 1", "", "a key of state has at most 512 bytes (`state_key_bytes`)");
    check(
        "key = 4, value = 1",
        "state_key_bytes = 3",
        "a key of state has at most 3 bytes (`state_key_bytes`)",
    );
    check(
        "key = 1, value = 9",
        "state_value_bytes = 8",
        "a value of state has at most 8 bytes (`state_value_bytes`)",
    );
    check("key = 1, value = 9", "state_keys = 1", "the state has at most 1 keys (`state_keys`)");
    check("key = 1, value = 9", "state_bytes = 11", "the state has at most 11 bytes (`state_bytes`)");
    check(
        "key = 1, value = 9",
        "state_changes = 1",
        "a batch changes at most 1 keys of state (`state_changes`)",
    );
}

/// Waits until the log, a file, has a line with these words.
fn wait_for_line(log: &Path, parts: &[&str]) {
    wait_for(&format!("{parts:?} in the log"), || {
        let text = fs::read_to_string(log).unwrap();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    });
}

#[test]
fn state_survives_a_reload_and_a_version_that_can_not_read_it_is_not_taken() {
    let mut world = World::new("stateful", ", config = { do = 'count', unreadable_from = 30 }");
    let component = fs::read(world.path("p.wasm")).unwrap();
    // The same again as another version: a custom section without content, whose name is one letter.
    let version = |letter: u8| [&component[..], &[0, 2, 1, letter]].concat();
    let replace = |content: Vec<u8>| {
        fs::write(world.path("new"), content).unwrap();
        fs::rename(world.path("new"), world.path("p.wasm")).unwrap();
    };
    let log = world.path("log");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tailweir"));
    let cache = Path::new(env!("CARGO_BIN_EXE_tailweir")).with_file_name("plugin-cache");
    command.args(["--log", "info", "run"]).arg(world.path("p.toml")).env("TAILWEIR_PLUGIN_CACHE", cache);
    command.env_remove("TAILWEIR_LOG").stderr(File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let hup = || {
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::HUP).unwrap();
    };
    let out = world.path("out");
    let expect = |text: &str| wait_for("the count", || fs::read_to_string(&out).unwrap_or_default() == text);
    let mut add = {
        let logs = world.path("logs");
        let mut segments = 0;
        move || {
            segments += 1;
            let path = logs.join(format!(".{segments}"));
            fs::write(&path, zstd::encode_all("1\n".repeat(20).as_bytes(), 1).unwrap()).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
            fs::rename(path, logs.join(format!("{segments:06}"))).unwrap();
        }
    };
    add();
    expect("10\n20\n");
    replace(version(b'a'));
    hup();
    wait_for_line(&log, &["takes over from"]);
    add();
    expect("10\n20\n30\n40\n");
    replace(version(b'b'));
    hup();
    wait_for_line(&log, &["plug-in not replaced", "it cannot read a state of 40"]);
    add();
    expect("10\n20\n30\n40\n50\n60\n");
    child.kill().unwrap();
    child.wait().unwrap();
    world.segments = 3;
}

#[test]
fn a_version_that_can_not_read_the_state_is_not_taken_before_the_first_batch_either() {
    let mut world = World::new("stateful", ", config = { do = 'count', unreadable_from = 30 }");
    world.numbers(20);
    world.once().with_code(0);
    world.numbers(20);
    world.once().with_code(0);
    assert_eq!(world.last(), "40");
    // There is nothing to do.
    let running = world.program().start();
    let reload = || tailweir().args("plugin reload").arg(world.path("logs")).run();
    wait_for("the consumer", || reload().stdout.contains("has not changed"));
    let component = fs::read(world.path("p.wasm")).unwrap();
    fs::write(world.path("new"), [&component[..], &[0, 2, 1, b'a']].concat()).unwrap();
    fs::rename(world.path("new"), world.path("p.wasm")).unwrap();
    let ended = reload();
    assert!(ended.stdout.contains("kept stateful 0.1.0: "), "{ended:?}");
    assert!(ended.stdout.contains("it cannot read a state of 40"), "{ended:?}");
    assert_eq!(ended.code, Some(1));
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn state_goes_on_from_where_kumod_left_the_checkpoint_and_the_gap_is_named() {
    let mut world = World::new("stateful", ", config = { do = 'count' }");
    world.numbers(30);
    world.once().with_code(0);
    assert_eq!(world.last(), "30");
    world.numbers(30);
    let kumods = json!({ "file": world.path("logs/000002"), "line": 20 });
    fs::write(world.path("logs/.c"), kumods.to_string()).unwrap();
    let said = world.once().with_code(0);
    assert!(said.contains("was written by another program") && said.contains(".c.state was"), "{said}");
    assert_eq!(world.last(), "40");
    let said = world.once().with_code(0);
    assert!(!said.contains("another program"), "{said}");
    // To start over, the checkpoint is removed, and the state begins anew with it.
    fs::remove_file(world.path("logs/.c")).unwrap();
    let said = world.once().with_code(0);
    assert!(said.contains(".c.state begins anew"), "{said}");
    assert_eq!(world.last(), "60");
    fs::write(world.path("logs/.c.state"), "?").unwrap();
    let said = world.once().with_code(1);
    assert!(said.contains("the state of plug-ins") && said.contains("rm '"), "{said}");
    fs::remove_file(world.path("logs/.c.state")).unwrap();
    world.numbers(5);
    let said = world.once().with_code(0);
    assert!(said.contains(".c.state is gone"), "{said}");
    assert_eq!(world.last(), "5");
}

#[test]
fn state_is_shown_and_a_filter_gets_none() {
    let mut world = World::new("counter", "");
    world.numbers(3);
    world.once().with_code(0);
    let status = tailweir().arg("status").arg(world.path("logs")).run().quietly();
    let head = status.lines().next().unwrap();
    assert!(head.contains("quarantined  state") && status.lines().count() == 2, "{status}");
    let json = tailweir().arg("status").arg(world.path("logs")).arg("--json").run().quietly();
    let json: Value = serde_json::from_str(&json).unwrap();
    let length = fs::metadata(world.path("logs/.c.state")).unwrap().len();
    let state = world.state();
    let bytes: usize = state.iter().map(|(key, value)| key.len() + value.as_str().unwrap().len()).sum();
    assert_eq!(json[0]["state"], json!({ "keys": state.len(), "bytes": bytes, "journal_bytes": length }));
    assert!(state.len() == 1 && status.contains(&format!("1 key, {bytes} B")), "{status}");
    let guest =
        |name: &str| tailweir().args("plugin inspect").arg(repository("target/guests").join(name)).run();
    let shown = guest("counter.wasm").quietly();
    for part in
        ["world state-processor-plugin", "tailweir:plugin/state@0.1.0", "needs      state", "state_bytes"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let said = guest("state-filter.wasm").with_code(1);
    assert!(said.contains("a filter cannot keep state"), "{said}");
}

/// Runs a script over 25 records in batches of 10, with these statements for each batch.
fn script(segments: &Segments, checkpoint: &str, each: &str) -> Ended {
    let text = format!(
        "local kumo = require 'kumo'\nlocal kept = {{}}\n\
         local tailer <close> = kumo.jsonl.new_tailer {{ directory = '{}', max_batch_size = 10, follow = false{checkpoint} }}\n\
         for batch in tailer:batches() do\n{each}\nend",
        segments.directory().display()
    );
    tailweir().arg("script").arg(segments.beside("s.lua", &text)).run()
}

const COUNT: &str = "local state = batch:state()
    state:set('n', tostring(tonumber(state:get('n') or 0) + #batch))";

#[test]
fn scripts_have_the_same() {
    let segments = Segments::generate(25, 1, 40);
    let named = ", checkpoint_name = 'c'";
    let said = script(&segments, "", COUNT).with_code(1);
    assert!(said.contains("state is kept with the checkpoint") && said.contains("checkpoint_name"), "{said}");
    // The first batch is committed, the second not: its count is as if it had not been.
    let each = format!("{COUNT}\nif state:get('n') == '20' then break end\nbatch:commit()");
    script(&segments, named, &each).quietly();
    let each = format!(
        "print(batch:state():get('n'))\n{COUNT}\nbatch:commit()\nprint(pcall(state.get, state, 'n'))"
    );
    let printed = script(&segments, named, &each).quietly();
    assert!(printed.starts_with("10\nfalse\t") && printed.contains("\n20\nfalse\t"), "{printed}");
    assert!(printed.contains("this one is over"), "{printed}");
    let segments = Segments::generate(25, 1, 41);
    let each = format!("kept[#kept + 1] = batch\n{COUNT}");
    let said = script(&segments, named, &each).with_code(1);
    assert!(said.contains("an earlier batch") && said.contains("is not committed"), "{said}");
    let each = "local s = batch:state()
        s:set('b/1', 'x') s:set('b/2', '\\xff\\0') s:set('a', 'y') s:delete('a') s:delete('none')
        local keys, more = s:list('b/')
        print(table.concat(keys, ' '), more, s:get('b/2') == '\\xff\\0', s:get('a'))
        local page, more = s:list('b/', nil, 1)
        print(page[1], more, s:list('b/', page[1])[1])
        s:undo()
        print(#s:list(), pcall(s.set, s, ('k'):rep(513), ''))
        print(pcall(s.set, s, '\\xff', ''))
        break";
    let printed = script(&segments, named, each).quietly();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..2], ["b/1 b/2\tfalse\ttrue\tnil", "b/1\ttrue\tb/2"], "{printed}");
    assert!(lines[2].starts_with("0\tfalse\t") && printed.contains("state_key_bytes"), "{printed}");
    assert!(printed.contains("a key must be UTF-8"), "{printed}");
    let each = "local s = batch:state { state_key_bytes = 600, state_bytes = 700 }
        s:set(('k'):rep(600), '')
        print(pcall(s.set, s, 'n', ('v'):rep(100)))
        print(pcall(batch.state, batch, { state_byte = 1 }))
        print(pcall(batch.state, batch, { state_bytes = 'x' }))
        break";
    let printed = script(&segments, named, each).quietly();
    for part in [
        "its limit, 700 bytes (`state_bytes`)",
        "batch:state: unknown option `state_byte`; did you mean `state_bytes`?",
        "batch:state: option `state_bytes` must be a whole number above zero, got 'x'",
    ] {
        assert!(printed.contains(part), "{printed}");
    }
}

#[test]
fn a_component_in_a_script_keeps_its_state_with_the_scripts_batches() {
    let segments = Segments::generate(25, 1, 42);
    let component = repository("target/guests/stateful.wasm");
    let make = format!(
        "p = p or kumo.wasm.processor {{ path = '{}', config = {{ ['do'] = 'retry' }} }}\n",
        component.display()
    );
    let each = format!(
        "{make}local ok, e = pcall(p.process, p, batch)\nif not ok then print(e.kind) e = p:process(batch) end\nprint(e[1])\nbatch:commit()"
    );
    assert_eq!(script(&segments, ", checkpoint_name = 'c'", &each).quietly(), "retry\n10\n20\n25\n");
    let each = format!("{make}print(select(2, pcall(p.process, p, batch)))\nbreak");
    let printed = script(&segments, "", &each).quietly();
    assert!(
        printed.contains("stop: plug-in stateful keeps state") && printed.contains("checkpoint_name"),
        "{printed}"
    );
}

#[test]
fn a_processor_in_lua_has_the_same() {
    let mut world = World::new("stateful", "");
    fs::write(
        world.path("p.lua"),
        "return function(batch)
           local state = batch:state()
           local n = tonumber(state:get('n') or 0) + #batch
           state:set('n', tostring(n))
           if not failed then failed = true return nil, 'at first' end
           return { tostring(n) }
         end",
    )
    .unwrap();
    let file =
        fs::read_to_string(world.path("p.toml")).unwrap().replace("{ wasm = 'p.wasm' }", "{ lua = 'p.lua' }");
    fs::write(world.path("p.toml"), file).unwrap();
    world.numbers(25);
    world.once().with_code(0);
    world.numbers(5);
    world.once().with_code(0);
    assert_eq!(world.out(), "10\n20\n25\n30\n");
}
