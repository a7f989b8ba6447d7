//! Second versions that run beside plug-ins without effect.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use tailweir_tests::{Ended, repository};
use tempfile::TempDir;

use crate::reload::{self, guest};
use crate::tailweir;

/// Sealed segments of records with `n` from 1 on, the even ones of pool `a`, and a pipeline of one consumer.
struct World(TempDir);

impl World {
    fn new(segments: u64, records: u64) -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        fs::create_dir(world.path("logs")).unwrap();
        (0..segments).for_each(|segment| world.add(segment, records));
        world
    }

    fn add(&self, segment: u64, records: u64) {
        let numbers = segment * records + 1..=(segment + 1) * records;
        let text: String = numbers.map(|n| record(n).to_string() + "\n").collect();
        let path = self.path("logs").join(format!("{segment:03}"));
        fs::write(&path, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a consumer to the end of what is there. `GUESTS` in what it is told is where components are.
    fn run(&self, consumer: &str) -> Ended {
        let guests = repository("target/guests");
        let consumer = consumer.replace("GUESTS", guests.to_str().unwrap());
        let text = format!(
            "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\nmax_batch_size = 10\n{consumer}\n"
        );
        fs::write(self.path("p.toml"), text).unwrap();
        let program = tailweir().args("run --once --summary=json --log info");
        program.arg(self.path("p.toml")).run()
    }

    fn out(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap_or_default()
    }
}

fn record(n: u64) -> Value {
    json!({ "n": n, "egress_pool": if n.is_multiple_of(2) { "a" } else { "b" }, "poison": n == 14 })
}

/// What the summary says of the only shadow. All records are accounted for.
fn summary(ended: &Ended, records: u64) -> Value {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line = ended.stderr.lines().find(|line| line.starts_with("{\"summary\"")).expect("a summary");
    let shadow = serde_json::from_str::<Value>(line).unwrap()["shadows"][0].clone();
    let number = |name: &str| shadow[name].as_u64().unwrap_or_else(|| panic!("{name} in {ended:?}"));
    assert_eq!(number("compared") + number("failed") + number("skipped"), records, "{ended:?}");
    shadow
}

const POOL: &str = "processor = { file = { path = 'out', sync = false } }\n\
     filter = { wasm = 'GUESTS/pool-filter.wasm', config = { pool = 'a' }, shadow = SHADOW }";

/// Runs a filter for pool `a` with this shadow. Whatever that does, the output is as without one.
fn filter(world: &World, shadow: &str) -> Ended {
    let ended = world.run(&POOL.replace("SHADOW", shadow));
    let segments = fs::read_dir(world.path("logs")).unwrap().flatten();
    let segments =
        segments.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count() as u64;
    let even = (1..=segments * 100).filter(|n| n.is_multiple_of(2));
    assert_eq!(world.out(), even.map(|n| record(n).to_string() + "\n").collect::<String>(), "{ended:?}");
    ended
}

#[test]
fn differing_verdicts_are_counted_and_some_of_them_told() {
    let world = World::new(3, 100);
    let ended = filter(&world, "{ wasm = 'GUESTS/pool-filter.wasm', config = { pool = 'b' } }");
    let shadow = summary(&ended, 300);
    assert_eq!((&shadow["compared"], &shadow["differing"]), (&300.into(), &300.into()));
    assert!(shadow["live_ns_per_record"].is_u64() && shadow["shadow_ns_per_record"].is_u64());
    let told: Vec<&str> =
        ended.stderr.lines().filter(|line| line.contains("filter: its shadow answers otherwise")).collect();
    assert_eq!(told.len(), 5, "{ended:?}");
    assert!(
        told[0].contains("000:1") && told[0].contains("live=\"drop\"") && told[0].contains("shadow=\"keep\"")
    );
    let line = "compared 300 of 300 records, 300 differ";
    assert!(ended.stderr.lines().any(|l| l.contains("WARN") && l.contains(line)), "{ended:?}");
}

#[test]
fn the_same_again_does_not_differ() {
    let world = World::new(3, 100);
    fs::write(world.path("f.lua"), "return function(r) return r.egress_pool == 'a' end").unwrap();
    for shadow in ["'GUESTS/pool-filter.wasm'", "'f.lua'", "{ lua = 'f.lua' }"] {
        let _ = fs::remove_file(world.path("out"));
        let _ = fs::remove_file(world.path("logs/.c"));
        let ended = filter(&world, shadow);
        let shadow = summary(&ended, 300);
        assert_eq!((&shadow["compared"], &shadow["differing"]), (&300.into(), &0.into()), "{ended:?}");
        assert!(!ended.stderr.contains("WARN"), "{ended:?}");
    }
}

/// Whatever a shadow does, the plug-in in use goes on; `filter` looks at what came out.
#[test]
fn a_hostile_shadow_harms_nobody() {
    let check = |config: &str, limits: &str, counted: &str| {
        let world = World::new(3, 100);
        let shadow = format!(
            "{{ wasm = 'GUESTS/hostile-filter.wasm', config = {{ {config} }}, limits = {{ {limits} }} }}"
        );
        let ended = filter(&world, &shadow);
        assert!(summary(&ended, 300)[counted].as_u64() > Some(0), "{config}: {ended:?}");
        assert!(!world.path("logs/.c.quarantine").exists());
        ended
    };
    let said = check("do = 'trap'", "", "failed").stderr;
    assert!(said.contains("plug-in hostile-filter (shadow)"), "{said}");
    check("do = 'loop'", "deadline = '20ms'", "failed");
    // It is at its first batch still when all is over, and so that and all others were not compared.
    check("do = 'loop'", "deadline = '1h'", "skipped");
    check("do = 'eat'", "", "failed");
    check("do = 'panic-on-poison'", "", "failed");
    check("do = 'misalign', more = 1", "", "failed");
    check("do = 'flood', lines = 1000, bytes = 1000", "", "compared");
}

const COUNT: &str = "sink = { file = { path = 'out', sync = false } }\non_error = { initial = '1ms', max = '1ms' }\n\
     processor = { wasm = 'GUESTS/stateful.wasm', config = { do = 'count' }, shadow = SHADOW }";

/// The count in the only bucket of the state, as the journal has it.
fn state(world: &World) -> String {
    let text = fs::read_to_string(world.path("logs/.c.state")).unwrap();
    let mut count = String::new();
    for line in text.lines().skip(1) {
        let entry: Value = serde_json::from_str(&line[17..]).unwrap();
        for (bucket, changed) in entry["state"].as_object().unwrap() {
            assert_eq!(bucket, "wasm:stateful");
            count = changed["n"].as_str().unwrap().to_owned();
        }
    }
    count
}

#[test]
fn the_shadow_of_a_processor_works_on_a_copy_of_the_state() {
    let world = World::new(1, 30);
    let same = COUNT.replace("SHADOW", "'GUESTS/stateful.wasm'");
    let shadow = summary(&world.run(&same), 30);
    assert_eq!((&shadow["compared"], &shadow["differing"]), (&30.into(), &0.into()));
    assert_eq!((world.out().as_str(), state(&world).as_str()), ("10\n20\n30\n", "30"));
    // It begins with what the other has come to.
    world.add(1, 30);
    let shadow = summary(&world.run(&same), 30);
    assert_eq!((&shadow["compared"], &shadow["differing"]), (&30.into(), &0.into()));
    assert_eq!((world.out().as_str(), state(&world).as_str()), ("10\n20\n30\n40\n50\n60\n", "60"));
    // A shadow that cannot go on from there fails, alone.
    world.add(2, 30);
    let unreadable = "{ wasm = 'GUESTS/stateful.wasm', config = { do = 'count', unreadable_from = 60 } }";
    let ended = world.run(&COUNT.replace("SHADOW", unreadable));
    assert_eq!(summary(&ended, 30)["failed"], 30, "{ended:?}");
    assert!(ended.stderr.contains("it cannot read a state of 60"), "{ended:?}");
    assert_eq!(state(&world), "90");
}

/// Whatever the one in use is made to do again, a shadow of the same component never differs from it.
#[test]
fn a_shadow_does_not_fall_out_of_step_with_what_is_done_again() {
    for deed in ["retry", "panic-on-poison", "reject-poison"] {
        let world = World::new(1, 30);
        let plugin = format!("'GUESTS/stateful.wasm', config = {{ do = '{deed}' }}");
        let consumer = format!(
            "{}processor = {{ wasm = {plugin}, shadow = {{ wasm = {plugin} }} }}",
            &COUNT[..COUNT.find("processor").unwrap()]
        );
        let ended = world.run(&consumer);
        assert_eq!(summary(&ended, 30)["differing"], 0, "{deed}: {ended:?}");
    }
}

#[test]
fn other_answers_of_a_processor_are_told_and_come_to_nothing() {
    let check = |config: &str, differing: u64, failed: u64, told: &str| {
        let world = World::new(1, 30);
        let shadow = format!("{{ wasm = 'GUESTS/stateful.wasm', config = {{ {config} }} }}");
        let ended = world.run(&COUNT.replace("SHADOW", &shadow));
        let shadow = summary(&ended, 30);
        assert_eq!(
            (&shadow["differing"], &shadow["failed"]),
            (&differing.into(), &failed.into()),
            "{ended:?}"
        );
        assert!(ended.stderr.contains(told), "{told}: {ended:?}");
        assert_eq!((world.out().as_str(), state(&world).as_str()), ("10\n20\n30\n", "30"));
        assert!(!world.path("logs/.c.quarantine").exists());
    };
    // The record at 14 is left out of the count, and of all counts after it.
    check("do = 'reject-poison'", 20, 0, "shadow=\"reject 1: poison\"");
    check("do = 'retry'", 30, 0, "shadow=\"retry: at first\"");
    check("do = 'stop-at', count = 20", 20, 0, "live=\"emit 1\" shadow=\"stop: as configured\"");
    check("do = 'panic-on-poison'", 10, 10, "poison");
}

#[test]
fn shadows_of_a_chain_are_told_apart() {
    let world = World::new(1, 30);
    let filter = |pool: &str, shadow: &str| {
        format!(
            "{{ wasm = 'GUESTS/pool-filter.wasm', config = {{ pool = '{pool}' }}, \
             shadow = {{ wasm = 'GUESTS/pool-filter.wasm', config = {{ pool = '{shadow}' }} }} }}"
        )
    };
    let consumer = format!(
        "processor = {{ file = {{ path = 'out', sync = false }} }}\nfilter = [{}, {}]",
        filter("a", "b"),
        filter("a", "a")
    );
    let ended = world.run(&consumer);
    let told = |which: &str, end: &str| {
        let line = |line: &&str| line.contains(&format!("`c`, {which}, ")) && line.contains(end);
        assert_eq!(ended.stderr.lines().filter(line).count(), 1, "{which}: {ended:?}");
    };
    told("filter 1 of 2", "compared 30 of 30 records, 30 differ");
    told("filter 2 of 2", "compared 15 of 15 records, 0 differ");
    assert!(ended.stderr.contains("filter 1 of 2: its shadow answers otherwise"), "{ended:?}");
    let line = ended.stderr.lines().find(|line| line.starts_with("{\"summary\"")).unwrap();
    let shadows = serde_json::from_str::<Value>(line).unwrap()["shadows"].clone();
    assert_eq!(shadows.as_array().map(Vec::len), Some(2), "{shadows}");
}

#[test]
fn a_shadow_sends_nothing() {
    let world = World::new(1, 10);
    let consumer = "processor = { wasm = 'GUESTS/webhook.wasm', config = { url = 'http://127.0.0.1:9/' }, \
         grants = { http = ['http://127.0.0.1:9'] }, shadow = 'GUESTS/webhook.wasm' }";
    let said = world.run(consumer).with_code(1);
    assert!(said.contains("shadow") && said.contains("a shadow must have no effect"), "{said}");
    fs::write(world.path("p.lua"), "return function(batch) end").unwrap();
    let said = world.run(&consumer.replace("'GUESTS/webhook.wasm' }", "'p.lua' }")).with_code(1);
    assert!(said.contains("a processor in Lua cannot be a shadow"), "{said}");
}

#[test]
fn tail_has_shadows_too_and_they_are_read_again() {
    let mut world = reload::World::new(&guest("pool-filter"), "");
    fs::write(world.path("s.wasm"), guest("pool-filter")).unwrap();
    world.add_segment();
    world.start(&[
        "tail",
        "logs",
        "--checkpoint",
        "c",
        "--max-batch-latency",
        "10ms",
        "--filter",
        "p.wasm",
        "--config",
        r#"{"pool":"a"}"#,
        "--shadow",
        "s.wasm",
        "--reload-on-change",
        "--summary",
    ]);
    world.expect("stdout", &reload::lines((1..=10).filter(reload::of_pool)));
    fs::write(world.path("s.new"), guest("typed-filter")).unwrap();
    fs::rename(world.path("s.new"), world.path("s.wasm")).unwrap();
    world.wait_for_log(&["shadow of the filter", "s.wasm", "typed-filter", "takes over from pool-filter"]);
    world.add_segment();
    world.expect("stdout", &reload::lines((1..=20).filter(reload::of_pool)));
    // That version keeps none of these records.
    world.wait_for_log(&["WARN", "live=\"keep\"", "shadow=\"drop\"", "answers otherwise"]);
    fs::write(world.path("s.wasm"), "no").unwrap();
    world.signal(Signal::HUP);
    world.wait_for_log(&["ERROR", "shadow of the filter", "plug-in not replaced", "s.wasm"]);
    world.end();
    world.wait_for_log(&["shadow of consumer `c`, filter, s.wasm: compared 20 of 20 records, 5 differ"]);
}

#[test]
fn how_it_did_is_told_at_an_end_in_haste_too() {
    let world = World::new(1, 100);
    let hangs = "return function(batch) print 'hangs' io.stdout:flush() while true do end end";
    fs::write(world.path("hangs.lua"), hangs).unwrap();
    let component = guest("pool-filter");
    fs::write(world.path("f.wasm"), component).unwrap();
    let text = "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\nmax_batch_size = 10\n\
                filter = { wasm = 'f.wasm', config = { pool = 'a' }, shadow = 'f.wasm' }\n\
                processor = { lua = 'hangs.lua' }\n";
    fs::write(world.path("p.toml"), text).unwrap();
    let mut running = tailweir().args("run --once --summary=json").arg(world.path("p.toml")).start();
    assert_eq!(running.line().as_deref(), Some("hangs"));
    running.signal(Signal::TERM);
    running.signal(Signal::INT);
    let ended = running.end();
    let line = ended.stderr.lines().find(|line| line.starts_with("{\"summary\"")).expect("a summary");
    let shadow = &serde_json::from_str::<Value>(line).unwrap()["shadows"][0];
    let number = |name: &str| shadow[name].as_u64().unwrap_or_else(|| panic!("{name} in {ended:?}"));
    assert_eq!(number("compared") + number("failed") + number("skipped"), 100, "{ended:?}");
    assert_eq!(ended.code, Some(130));
}
