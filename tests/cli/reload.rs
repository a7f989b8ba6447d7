//! Plug-ins that are replaced while the program runs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tailweir_tests::{Ended, repository, wait_for};
use tempfile::TempDir;

use crate::tailweir;

pub(crate) fn guest(name: &str) -> Vec<u8> {
    let path = repository("target/guests").join(format!("{name}.wasm"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask guests`", path.display()))
}

/// Segments that are added one by one, and a program that follows them.
pub(crate) struct World {
    folder: TempDir,
    child: Option<Child>,
    records: u64,
    /// Bytes of the log that were looked at.
    read: usize,
}

impl World {
    /// With these consumers, and with `plugin` as `p.wasm`.
    pub(crate) fn new(plugin: &[u8], consumers: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder, child: None, records: 0, read: 0 };
        fs::create_dir(world.path("logs")).unwrap();
        world.replace(plugin);
        fs::write(world.path("p.toml"), format!("[tailer]\ndirectory = 'logs'\n{consumers}")).unwrap();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the plug-in as an operator would.
    pub(crate) fn replace(&self, plugin: &[u8]) {
        fs::write(self.path("new"), plugin).unwrap();
        fs::rename(self.path("new"), self.path("p.wasm")).unwrap();
    }

    pub(crate) fn start(&mut self, arguments: &[&str]) {
        let program = env!("CARGO_BIN_EXE_tailweir");
        let mut command = Command::new(program);
        command.args(["--log", "info,tailweir=debug"]).args(arguments).current_dir(self.folder.path());
        command.env_remove("TAILWEIR_LOG").env_remove("KUMOD_LOG").stdin(Stdio::null());
        command.env("TAILWEIR_PLUGIN_CACHE", Path::new(program).with_file_name("plugin-cache"));
        command.stdout(File::create(self.path("stdout")).unwrap());
        command.stderr(File::create(self.path("stderr")).unwrap());
        self.child = Some(command.spawn().unwrap());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Adds a segment of ten records, every other one of them of the pool `a`.
    pub(crate) fn add_segment(&mut self) {
        let numbers = self.records + 1..=self.records + 10;
        let text: String = numbers.map(|n| record(n) + "\n").collect();
        self.records += 10;
        let hidden = self.path("logs/.new");
        fs::write(&hidden, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        fs::set_permissions(&hidden, Permissions::from_mode(0o444)).unwrap();
        fs::rename(hidden, self.path("logs").join(format!("{:06}", self.records))).unwrap();
    }

    /// Waits until the log has gone on with a line that holds all of this.
    pub(crate) fn wait_for_log(&mut self, parts: &[&str]) {
        let path = self.path("stderr");
        let mut read = self.read;
        wait_for(&format!("{parts:?} in the log"), || {
            let text = fs::read_to_string(&path).unwrap();
            let fresh = text[read..].split_inclusive('\n').filter(|line| line.ends_with('\n'));
            for line in fresh {
                read += line.len();
                if parts.iter().all(|part| line.contains(part)) {
                    return true;
                }
            }
            false
        });
        self.read = read;
    }

    /// Waits until the output is as long as this, and compares it.
    pub(crate) fn expect(&self, name: &str, expected: &str) {
        let output = || fs::read_to_string(self.path(name)).unwrap_or_default();
        wait_for(&format!("{name} to grow"), || output().len() >= expected.len());
        assert_eq!(output(), expected);
    }

    pub(crate) fn end(&mut self) {
        self.signal(Signal::TERM);
        let mut child = self.child.take().unwrap();
        let mut status = None;
        wait_for("the end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{}", fs::read_to_string(self.path("stderr")).unwrap());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn record(n: u64) -> String {
    json!({ "type": "Delivery", "n": n, "egress_pool": if n.is_multiple_of(2) { "a" } else { "b" }, "recipient": "x@example.com" })
        .to_string()
}

pub(crate) fn lines(numbers: impl Iterator<Item = u64>) -> String {
    numbers.map(|n| record(n) + "\n").collect()
}

pub(crate) fn of_pool(n: &u64) -> bool {
    n.is_multiple_of(2)
}

/// Files that are no such plug-in, and what is said of each.
fn broken(good: &[u8], other_world: &str) -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (b"\x8f\x02 random bytes".to_vec(), "not a WebAssembly component"),
        (good[..good.len() / 2].to_vec(), "damaged"),
        (guest(other_world), "use it where a"),
    ]
}

/// Each is refused, while the version in use deals with what comes.
fn refuses(world: &mut World, files: Vec<(Vec<u8>, &'static str)>, mut goes_on: impl FnMut(&mut World)) {
    for (file, reason) in files {
        world.replace(&file);
        world.signal(Signal::HUP);
        world.wait_for_log(&["ERROR", "plug-in not replaced", "goes on", "p.wasm", reason]);
        goes_on(world);
    }
    fs::remove_file(world.path("p.wasm")).unwrap();
    world.signal(Signal::HUP);
    world.wait_for_log(&["ERROR", "plug-in not replaced", "p.wasm", "cannot read it"]);
    goes_on(world);
    // Whoever opens it would wait for somebody who writes.
    assert!(Command::new("mkfifo").arg(world.path("p.wasm")).status().unwrap().success());
    world.signal(Signal::HUP);
    world.wait_for_log(&["ERROR", "plug-in not replaced", "p.wasm", "it is no regular file"]);
    goes_on(world);
}

#[test]
fn a_new_version_gets_the_batch_that_the_old_one_would_let_wait() {
    let old = guest("hostile-processor");
    let consumer = "[[consumer]]\nname = 'a'\nmax_batch_latency = '10ms'\n\
        processor = { wasm = 'p.wasm', config = { do = 'retry', times = 1, after_ms = 315360000000 } }\n";
    let mut world = World::new(&old, consumer);
    world.add_segment();
    world.start(&["run", "p.toml"]);
    // Ten years are an hour.
    world.wait_for_log(&["call 1", "after_ms=3600000"]);
    // The same code, with a section of nothing behind it: it begins to count its calls anew.
    world.replace(&[&old[..], &[0, 2, 1, b'x']].concat());
    world.signal(Signal::HUP);
    world.wait_for_log(&["INFO", "p.wasm", "takes over from"]);
    world.wait_for_log(&["call 1", "after_ms=3600000"]);
    world.end();
}

#[test]
fn f17_a_broken_filter_changes_nothing_and_a_good_one_takes_over() {
    let old = guest("pool-filter");
    let consumer = "[[consumer]]\nname = 'a'\nfilter = { wasm = 'p.wasm', config = { pool = 'a' } }\nprocessor = { stdout = {} }\nmax_batch_latency = '10ms'\n";
    for arguments in [
        &["run", "p.toml"][..],
        &[
            "tail",
            "logs",
            "--filter",
            "p.wasm",
            "--config",
            r#"{"pool":"a"}"#,
            "--checkpoint",
            "a",
            "--max-batch-latency",
            "10ms",
        ][..],
    ] {
        let mut world = World::new(&old, consumer);
        world.add_segment();
        world.start(arguments);
        let goes_on = |world: &mut World| {
            world.add_segment();
            world.expect("stdout", &lines((1..=world.records).filter(of_pool)));
        };
        world.expect("stdout", &lines((1..=10).filter(of_pool)));
        refuses(&mut world, broken(&old, "redact"), goes_on);
        // One that refuses this configuration, which is no single word.
        world.replace(&guest("wasi-filter"));
        world.signal(Signal::HUP);
        world.wait_for_log(&["ERROR", "p.wasm", "does not accept its configuration"]);
        goes_on(&mut world);
        world.replace(&old);
        world.signal(Signal::HUP);
        world.wait_for_log(&["INFO", "p.wasm", "not changed"]);
        // It wants a field that these records do not have, so it keeps none.
        let before = world.records;
        world.replace(&guest("typed-filter"));
        world.signal(Signal::HUP);
        world.wait_for_log(&["INFO", "p.wasm", "typed-filter", "takes over from pool-filter"]);
        world.add_segment();
        world.wait_for_log(&["filtered", "kept=0"]);
        world.replace(&old);
        world.signal(Signal::HUP);
        world.wait_for_log(&["INFO", "p.wasm", "pool-filter", "takes over from typed-filter"]);
        let after = world.records;
        world.add_segment();
        let numbers = (1..=before).chain(after + 1..=world.records);
        world.expect("stdout", &lines(numbers.filter(of_pool)));
        world.end();
    }
}

#[test]
fn f17_a_broken_processor_changes_nothing_and_a_good_one_takes_over() {
    let old = guest("redact");
    let consumer = "[[consumer]]\nname = 'p'\nprocessor = { wasm = 'p.wasm' }\nmax_batch_latency = '10ms'\n\
         sink = { file = { path = 'out', sync = false } }\n";
    let mut world = World::new(&old, consumer);
    let redacted = |last: u64| lines(1..=last).replace("x@", "***@");
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("out", &redacted(10));
    let mut files = broken(&old, "pool-filter");
    files.push((guest("webhook"), "needs a grant"));
    refuses(&mut world, files, |world| {
        world.add_segment();
        world.expect("out", &redacted(world.records));
    });
    // A version that masks with other characters.
    let mask = old.windows(4).position(|bytes| bytes == b"***@").unwrap();
    let mut new = old.clone();
    new[mask..mask + 3].copy_from_slice(b"###");
    let before = world.records;
    world.replace(&new);
    world.signal(Signal::HUP);
    world.wait_for_log(&["INFO", "p.wasm", "redact", "takes over from redact"]);
    world.add_segment();
    let fresh = lines(before + 1..=world.records).replace("x@", "###@");
    world.expect("out", &(redacted(before) + &fresh));
    world.end();
}

#[test]
fn f17_signals_in_a_row_and_at_once_do_not_end_it() {
    let old = guest("pool-filter");
    let consumer = "[[consumer]]\nname = 'a'\nfilter = { wasm = 'p.wasm', config = { pool = 'a' } }\nprocessor = { stdout = {} }\nmax_batch_latency = '10ms'\n";
    let mut world = World::new(&old, consumer);
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("stdout", &lines((1..=10).filter(of_pool)));
    for _ in 0..50 {
        world.signal(Signal::HUP);
    }
    world.replace(b"no");
    world.signal(Signal::HUP);
    world.wait_for_log(&["ERROR", "p.wasm: not a WebAssembly component"]);
    world.add_segment();
    world.expect("stdout", &lines((1..=20).filter(of_pool)));
    world.end();
}

const FILTER: &str = "[[consumer]]\nname = 'a'\nfilter = { wasm = 'p.wasm', config = { pool = 'a' } }\n\
     processor = { stdout = {} }\nmax_batch_latency = '10ms'\n";

/// A world whose filter is read again when its file changes, running.
fn watching() -> World {
    let mut world = World::new(&guest("pool-filter"), FILTER);
    let text = fs::read_to_string(world.path("p.toml")).unwrap();
    fs::write(world.path("p.toml"), format!("plugin_reload = 'on_change'\n{text}")).unwrap();
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("stdout", &lines((1..=10).filter(of_pool)));
    world
}

fn errors(world: &World) -> Vec<String> {
    let log = fs::read_to_string(world.path("stderr")).unwrap();
    log.lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect()
}

#[test]
fn a_file_that_changes_is_read_once_it_is_whole() {
    let mut world = watching();
    // As a compiler writes it: in place, piece by piece.
    let new = guest("typed-filter");
    let mut file = File::create(world.path("p.wasm")).unwrap();
    for piece in new.chunks(new.len() / 20 + 1) {
        std::io::Write::write_all(&mut file, piece).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    drop(file);
    world.wait_for_log(&["INFO", "p.wasm", "typed-filter", "takes over from pool-filter"]);
    world.replace(&guest("pool-filter"));
    world.wait_for_log(&["INFO", "p.wasm", "pool-filter", "takes over from typed-filter"]);
    world.add_segment();
    world.expect("stdout", &lines((1..=20).filter(of_pool)));
    assert_eq!(errors(&world), [""; 0]);
    world.end();
}

#[test]
fn a_file_that_can_not_be_used_is_named_once() {
    let mut world = watching();
    world.replace(b"no");
    world.wait_for_log(&["ERROR", "plug-in not replaced", "p.wasm: not a WebAssembly component"]);
    fs::remove_file(world.path("p.wasm")).unwrap();
    world.wait_for_log(&["ERROR", "plug-in not replaced", "cannot read it"]);
    world.add_segment();
    world.expect("stdout", &lines((1..=20).filter(of_pool)));
    world.replace(&guest("typed-filter"));
    world.wait_for_log(&["INFO", "p.wasm", "typed-filter", "takes over from pool-filter"]);
    assert_eq!(errors(&world).len(), 2, "{:?}", errors(&world));
    world.end();
}

/// As Kubernetes mounts a volume: `p.wasm` leads through `..data`, which is replaced as a whole.
#[test]
fn a_link_that_leads_elsewhere_is_a_change() {
    let mut world = World::new(&guest("pool-filter"), FILTER);
    let version = |name: &str, plugin: &[u8]| {
        fs::create_dir_all(world.path(name)).unwrap();
        fs::write(world.path(name).join("p.wasm"), plugin).unwrap();
        std::os::unix::fs::symlink(name, world.path("new-link")).unwrap();
        fs::rename(world.path("new-link"), world.path("..data")).unwrap();
    };
    version("..1", &guest("pool-filter"));
    fs::remove_file(world.path("p.wasm")).unwrap();
    std::os::unix::fs::symlink("..data/p.wasm", world.path("p.wasm")).unwrap();
    let text = fs::read_to_string(world.path("p.toml")).unwrap();
    fs::write(world.path("p.toml"), format!("plugin_reload = 'on_change'\n{text}")).unwrap();
    version("..2", &guest("pool-filter"));
    let (path, folder) = (world.path("..3"), world.path(""));
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("stdout", &lines((1..=10).filter(of_pool)));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("p.wasm"), guest("typed-filter")).unwrap();
    std::os::unix::fs::symlink("..3", folder.join("new-link")).unwrap();
    fs::rename(folder.join("new-link"), folder.join("..data")).unwrap();
    world.wait_for_log(&["INFO", "p.wasm", "typed-filter", "takes over from pool-filter"]);
    world.end();
}

/// Asks the processes at work in a world.
fn ask(world: &World, rest: &str) -> Ended {
    tailweir().args("plugin reload").arg(world.path("logs")).args(rest).run()
}

#[test]
fn a_command_has_plugins_read_again_and_tells_what_came_of_it() {
    let other = "[[consumer]]\nname = 'b'\ncheckpoint = 'of-b'\nfilter = { wasm = 'p.wasm', config = { pool = 'b' } }\n\
         processor = { file = { path = 'out', sync = false } }\n";
    let mut world = World::new(&guest("pool-filter"), &format!("{FILTER}{other}"));
    assert!(ask(&world, "").with_code(1).contains("no process uses a checkpoint in"));
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("stdout", &lines((1..=10).filter(of_pool)));
    let file = world.path("p.wasm").file_name().unwrap().to_str().unwrap().to_owned();
    let pool = "pool-filter 0.1.0";
    let said = ask(&world, "").quietly();
    let kept = format!("filter: kept {pool}: {file} has not changed\n");
    assert_eq!(said, format!("consumer `a`, {kept}consumer `b`, {kept}"));
    world.replace(&guest("typed-filter"));
    let said = ask(&world, "of-b").quietly();
    assert_eq!(said, format!("consumer `b`, filter: replaced {pool} by typed-filter 0.1.0 ({file})\n"));
    world.replace(b"no");
    let ended = ask(&world, "");
    assert!(
        ended.stdout.starts_with(&format!("consumer `a`, filter: kept {pool}: p.wasm: not a WebAssembly"))
    );
    assert!(ended.with_code(1).contains("2 of 2 plug-ins cannot be replaced"));
    let json = ask(&world, "a --json");
    let reports: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&reports[0]["outcome"], &reports[0]["role"]), (&"kept".into(), &"filter".into()), "{json:?}");
    assert_eq!(json.code, Some(1));
    assert!(ask(&world, "c").with_code(1).contains("no process uses the checkpoint `c` in"));
    ask(&world, "a/b").with_code(2);
    world.end();
    assert!(ask(&world, "").with_code(1).contains("no process uses a checkpoint in"));
}

/// The lock says who is asked, and nobody else is: neither a process that takes no requests, nor one that a file names.
#[test]
fn only_the_process_that_has_the_lock_is_asked() {
    let world = World::new(&guest("pool-filter"), FILTER);
    let lock = world.path("logs/.a.lock");
    // A number that no process can have.
    fs::write(&lock, "4294967295\n").unwrap();
    assert!(ask(&world, "").with_code(1).contains("no process uses a checkpoint in"), "nobody has the lock");
    let held = File::open(&lock).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = ask(&world, "").with_code(1);
    assert!(said.contains("process 4294967295 cannot be asked") && said.contains("`tailweir run`"), "{said}");
}

/// A script does not read its plug-ins again, and nobody can ask it to.
#[test]
fn a_script_beside_keeps_nobody_from_reloading() {
    let mut world = World::new(&guest("pool-filter"), FILTER);
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("stdout", &lines((1..=10).filter(of_pool)));
    let script = format!(
        "local kumo = require 'kumo'
         local tailer <close> = kumo.jsonl.new_tailer {{ directory = '{}', checkpoint_name = 'of-script' }}
         for batch in tailer:batches() do print(#batch) io.flush() batch:commit() end",
        world.path("logs").display()
    );
    fs::write(world.path("script.lua"), script).unwrap();
    let mut running = tailweir().arg("script").arg(world.path("script.lua")).start();
    running.line().unwrap();
    let said = ask(&world, "").quietly();
    let script = format!("process {}: it reads plug-ins at its start only, as scripts do\n", running.pid());
    assert!(
        said.contains("consumer `a`, filter: kept pool-filter 0.1.0") && said.contains(&script),
        "{said}"
    );
    let said = ask(&world, "of-script").quietly();
    assert_eq!(said, format!("{script}there is no WebAssembly plug-in to read again\n"));
    running.signal(Signal::TERM);
    running.end().with_code(0);
    world.end();
}

#[test]
fn a_version_of_another_name_that_does_not_find_the_state_is_told_of() {
    let consumer = "[[consumer]]\nname = 'a'\nprocessor = { wasm = 'p.wasm' }\nsink = { stdout = {} }\n\
                    max_batch_latency = '10ms'\n";
    let counter = guest("counter");
    // Its name and version stand beside each other in its data.
    let at = counter.windows(12).position(|bytes| bytes == b"counter0.1.0").unwrap();
    let mut renamed = counter.clone();
    renamed[at..at + 7].copy_from_slice(b"countar");
    let mut world = World::new(&counter, consumer);
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("stdout", "{\"records\":10,\"by\":{\"Delivery\":10}}\n");
    world.replace(&renamed);
    let said = ask(&world, "").quietly();
    let note = "state goes by the plug-in's name: `countar` does not find that of `counter`";
    assert!(
        said.contains("replaced counter 0.1.0 by countar 0.1.0 (p.wasm); ") && said.contains(note),
        "{said}"
    );
    world.wait_for_log(&["WARN", "countar 0.1.0 takes over from counter 0.1.0", note]);
    world.end();
}

#[test]
fn another_user_gets_no_answer() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can be somebody else.
        return;
    }
    let mut world = World::new(&guest("pool-filter"), FILTER);
    world.add_segment();
    world.start(&["run", "p.toml"]);
    world.expect("stdout", &lines((1..=10).filter(of_pool)));
    // Where that user can run it and see whom to ask.
    let program = world.path("tailweir");
    fs::copy(env!("CARGO_BIN_EXE_tailweir"), &program).unwrap();
    for (name, mode) in [("", 0o755), ("logs", 0o755), ("logs/.a.lock", 0o644), ("tailweir", 0o755)] {
        fs::set_permissions(world.path(name), Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new(program);
    command.args(["plugin", "reload"]).arg(world.path("logs")).uid(54321).gid(54321);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("did not answer") && said.contains("runs as another user"), "{said}");
    assert!(!output.status.success() && output.stdout.is_empty());
    world.end();
    let log = fs::read_to_string(world.path("stderr")).unwrap();
    assert!(!log.contains("not changed"), "nothing was read again: {log}");
}

#[test]
fn f17_a_new_version_reaches_every_instance_and_one_with_state_reaches_none() {
    let old = guest("redact");
    let consumer = "[[consumer]]\nname = 'p'\nprocessor = { wasm = 'p.wasm' }\nparallelism = 3\nmax_batch_size = 1\n\
         sink = { file = { path = 'out', sync = false } }\n";
    let mut world = World::new(&old, consumer);
    // Batches of one record come in any order.
    let expect = |world: &World, expected: String| {
        let output = || fs::read_to_string(world.path("out")).unwrap_or_default();
        wait_for("out to grow", || output().len() >= expected.len());
        let sorted = |text: String| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(output()), sorted(expected));
    };
    world.add_segment();
    world.start(&["run", "p.toml"]);
    let redacted = lines(1..=10).replace("x@", "***@");
    expect(&world, redacted.clone());
    world.replace(&guest("counter"));
    world.signal(Signal::HUP);
    world.wait_for_log(&["ERROR", "plug-in not replaced", "redact", "goes on", "p.wasm: it keeps state"]);
    let mask = old.windows(4).position(|bytes| bytes == b"***@").unwrap();
    let mut new = old.clone();
    new[mask..mask + 3].copy_from_slice(b"###");
    world.replace(&new);
    world.signal(Signal::HUP);
    world.wait_for_log(&["INFO", "p.wasm", "redact", "takes over from redact"]);
    for _ in 0..3 {
        world.add_segment();
    }
    expect(&world, redacted + &lines(11..=world.records).replace("x@", "###@"));
    world.end();
}
