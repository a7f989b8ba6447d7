//! Plug-ins that are replaced while the program runs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tailweir_tests::{repository, wait_for};
use tempfile::TempDir;

fn guest(name: &str) -> Vec<u8> {
    let path = repository("target/guests").join(format!("{name}.wasm"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask guests`", path.display()))
}

/// Segments that are added one by one, and a program that follows them.
struct World {
    folder: TempDir,
    child: Option<Child>,
    records: u64,
    /// Bytes of the log that were looked at.
    read: usize,
}

impl World {
    /// With these consumers, and with `plugin` as `p.wasm`.
    fn new(plugin: &[u8], consumers: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder, child: None, records: 0, read: 0 };
        fs::create_dir(world.path("logs")).unwrap();
        world.replace(plugin);
        fs::write(world.path("p.toml"), format!("[tailer]\ndirectory = 'logs'\n{consumers}")).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the plug-in as an operator would.
    fn replace(&self, plugin: &[u8]) {
        fs::write(self.path("new"), plugin).unwrap();
        fs::rename(self.path("new"), self.path("p.wasm")).unwrap();
    }

    fn start(&mut self, arguments: &[&str]) {
        let program = env!("CARGO_BIN_EXE_tailweir");
        let mut command = Command::new(program);
        command.args(["--log", "info,tailweir=debug"]).args(arguments).current_dir(self.folder.path());
        command.env_remove("TAILWEIR_LOG").env_remove("KUMOD_LOG").stdin(Stdio::null());
        command.env("TAILWEIR_PLUGIN_CACHE", Path::new(program).with_file_name("plugin-cache"));
        command.stdout(File::create(self.path("stdout")).unwrap());
        command.stderr(File::create(self.path("stderr")).unwrap());
        self.child = Some(command.spawn().unwrap());
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Adds a segment of ten records, every other one of them of the pool `a`.
    fn add_segment(&mut self) {
        let numbers = self.records + 1..=self.records + 10;
        let text: String = numbers.map(|n| record(n) + "\n").collect();
        self.records += 10;
        let hidden = self.path("logs/.new");
        fs::write(&hidden, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        fs::set_permissions(&hidden, Permissions::from_mode(0o444)).unwrap();
        fs::rename(hidden, self.path("logs").join(format!("{:06}", self.records))).unwrap();
    }

    /// Waits until the log has gone on with a line that holds all of this.
    fn wait_for_log(&mut self, parts: &[&str]) {
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
    fn expect(&self, name: &str, expected: &str) {
        let output = || fs::read_to_string(self.path(name)).unwrap_or_default();
        wait_for(&format!("{name} to grow"), || output().len() >= expected.len());
        assert_eq!(output(), expected);
    }

    fn end(&mut self) {
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

fn lines(numbers: impl Iterator<Item = u64>) -> String {
    numbers.map(|n| record(n) + "\n").collect()
}

fn of_pool(n: &u64) -> bool {
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
