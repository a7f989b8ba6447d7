//! What goes wrong outside, one test per row: the built binary, with a consumer in Lua and, where reading is concerned,
//! one behind a WebAssembly filter.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tailweir_tests::{Ended, Program, Running, repository, wait_for};
use tempfile::TempDir;

use crate::{appending_to, tailweir};

/// A directory of segments made by hand.
struct World(TempDir);

/// A record that both engines know.
fn record(n: u64) -> String {
    format!("{{\"n\":{n},\"egress_pool\":\"a\"}}\n")
}

fn records(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(record).collect()
}

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        fs::create_dir(world.logs()).unwrap();
        world
    }

    fn logs(&self) -> PathBuf {
        self.0.path().join("logs")
    }

    /// A segment that is still written to.
    fn open(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.logs().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A segment that is finished.
    fn sealed(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.logs().join(name);
        let _ = fs::remove_file(&path);
        self.open(name, zstd::encode_all(content.as_ref(), 1).unwrap());
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        path
    }

    /// A script with `DIR` for the directory, run to its end.
    fn script(&self, text: &str) -> Program {
        let path = self.0.path().join("script.lua");
        let text = text.replace("DIR", &format!("'{}'", self.logs().display()));
        fs::write(&path, format!("local kumo = require 'kumo'\n{text}")).unwrap();
        tailweir().arg("script").arg(path)
    }

    /// A consumer in Lua with the checkpoint `l`; prints `n` of each record and commits each batch.
    fn lua(&self, options: &str) -> Program {
        self.script(&format!(
            "local tailer <close> = kumo.jsonl.new_tailer({{ directory = DIR, checkpoint_name = 'l', {options} }})
             for batch in tailer:batches() do
               for r in batch:iter_records() do io.write(tostring(r.n), '\\n') end
               io.stdout:flush() batch:commit()
             end"
        ))
    }

    /// A consumer behind a WebAssembly filter with the checkpoint `w`.
    fn wasm(&self) -> Program {
        let component = repository("examples/plugins/pool-filter/pool-filter.wasm");
        let program = tailweir().arg("tail").arg(self.logs()).args("--checkpoint w --filter").arg(component);
        program.args("--config {\"pool\":\"a\"} --max-batch-latency 20ms")
    }

    /// Runs both to the end of what is there: each must get exactly these. What they said comes back.
    fn expect(&self, expected: &[u64]) -> [String; 2] {
        let lua = self.lua("follow = false").run();
        assert_eq!(numbers(&lua), expected, "{lua:?}");
        let wasm = self.wasm().arg("--once").run();
        let got: Vec<u64> = wasm.stdout.lines().map(number).collect();
        assert_eq!(got, expected, "{:?}", wasm.stderr);
        [lua.with_code(0), wasm.with_code(0)]
    }

    fn checkpoint(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.logs().join(format!(".{name}"))).unwrap()).unwrap()
    }

    fn quarantined(&self, name: &str) -> usize {
        fs::read_to_string(self.logs().join(format!(".{name}.quarantine"))).map_or(0, |t| t.lines().count())
    }
}

fn numbers(ended: &Ended) -> Vec<u64> {
    ended.stdout.lines().map(|line| line.parse().unwrap()).collect()
}

fn number(line: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap()
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Both consumers, following.
fn follow(world: &World) -> [Running; 2] {
    [world.lua("max_batch_latency = 0.02").start(), world.wasm().start()]
}

/// The next record of each.
fn next(running: &mut [Running; 2]) -> [u64; 2] {
    let [lua, wasm] = running;
    [lua.line().unwrap().parse().unwrap(), number(&wasm.line().unwrap())]
}

fn end(running: [Running; 2]) {
    for running in running {
        running.signal(Signal::TERM);
        running.end().with_code(0);
    }
}

#[test]
fn f01_long_lines_are_delivered_and_one_over_the_limit_goes_alone() {
    let world = World::new();
    let long =
        |n: u64, len: usize| format!("{{\"n\":{n},\"egress_pool\":\"a\",\"x\":\"{}\"}}\n", "x".repeat(len));
    let sizes = [200 << 10, 5 << 20, 40 << 20];
    let long: String = (2..).zip(sizes).map(|(n, len)| long(n, len)).collect();
    world.sealed("1", record(1) + &long + &record(5));
    world.expect(&[1, 2, 3, 4, 5]);
    fs::remove_file(world.logs().join(".l")).unwrap();
    fs::remove_file(world.logs().join(".l.finished")).unwrap();
    let ended = world.lua("follow = false, max_line_size = 10000000").run();
    assert_eq!(numbers(&ended), [1, 2, 3, 5]);
    assert_eq!(world.quarantined("l"), 1);
    let listed = tailweir().args("quarantine list").arg(world.logs()).arg("l").run().quietly();
    assert!(listed.contains("longer than max_line_size"), "{listed}");
}

#[test]
fn f02_malformed_lines_go_to_quarantine_wherever_they_are() {
    let world = World::new();
    world.sealed("1", record(1) + "{\"n\": nope}\n" + &record(2) + "{\"n\":");
    world.expect(&[1, 2]);
    assert_eq!((world.quarantined("l"), world.quarantined("w")), (2, 2));
    world.sealed("2", "}\n");
    world.expect(&[]);
    world.sealed("3", record(3));
    world.expect(&[3]);
    assert_eq!((world.quarantined("l"), world.quarantined("w")), (3, 3));
}

#[test]
fn f03_consumers_with_different_checkpoints_get_each_its_own_remainder() {
    let world = World::new();
    world.sealed("1", records(1..=10));
    let consumers = |limits: &str| {
        let text = format!(
            "local limits, seen = {{ {limits} }}, {{}}
             local list = {{}}
             for name in pairs(limits) do list[#list + 1] = {{ name = name, checkpoint_name = name, max_batch_size = 1 }} end
             local tailer <close> = kumo.jsonl.new_multi_tailer {{ directory = DIR, follow = false, consumers = list }}
             for batches in tailer:batches() do for _, batch in ipairs(batches) do
               local name = batch:consumer_name()
               seen[name] = seen[name] or {{}}
               if #seen[name] < limits[name] then
                 for r in batch:iter_records() do table.insert(seen[name], r.n) end
                 batch:commit()
               end
             end end
             for _, name in ipairs {{ 'a', 'b', 'c' }} do
               print(name .. ':' .. table.concat(seen[name] or {{}}, ','))
             end"
        );
        world.script(&text).run().quietly()
    };
    assert_eq!(consumers("a = 7, b = 2"), "a:1,2,3,4,5,6,7\nb:1,2\nc:\n");
    let expected = "a:8,9,10\nb:3,4,5,6,7,8,9,10\nc:1,2,3,4,5,6,7,8,9,10\n";
    assert_eq!(consumers("a = 100, b = 100, c = 100"), expected);
    assert_eq!(consumers("a = 100, b = 100, c = 100"), "a:\nb:\nc:\n");
}

#[test]
fn f04_a_damaged_checkpoint_falls_back_or_says_what_to_do() {
    for damage in ["", "{\"file\"", "\0\0\0\0", "{\"file\":\"1\",\"line\":1,\"tailweir\":{\"version\":99}}"] {
        let world = World::new();
        for n in 1..=3 {
            world.sealed(&n.to_string(), record(n));
            world.expect(&[n]);
        }
        for name in ["l", "w"] {
            fs::write(world.logs().join(format!(".{name}")), damage).unwrap();
        }
        let program =
            |name| if name == "l" { world.lua("follow = false") } else { world.wasm().arg("--once") };
        for name in ["l", "w"] {
            let ended = program(name).run();
            assert!(ended.stdout.lines().count() <= 2, "{ended:?}");
            assert!(ended.with_code(0).contains("going on from its previous generation"), "{damage}");
            for suffix in ["", ".prev", ".tmp"] {
                fs::write(world.logs().join(format!(".{name}{suffix}")), damage).unwrap();
            }
            let said = program(name).run().with_code(1);
            assert!(said.contains(&format!("/.{name} can't be used")) && said.contains("rm '"), "{said}");
        }
    }
}

#[test]
fn f05_two_open_segments_are_both_read_as_they_grow() {
    let world = World::new();
    let (first, second) = (world.open("1", record(1)), world.open("2", record(2)));
    let mut running = follow(&world);
    assert_eq!([next(&mut running), next(&mut running)], [[1, 1], [2, 2]]);
    append(&second, &record(3));
    assert_eq!(next(&mut running), [3, 3]);
    append(&first, &record(4));
    assert_eq!(next(&mut running), [4, 4]);
    end(running);
    world.expect(&[]);
}

#[test]
fn f06_a_filter_that_keeps_nothing_advances_its_checkpoint() {
    let world = World::new();
    world.sealed("1", records(1..=5).replace("\"a\"", "\"b\""));
    world.wasm().arg("--once").run().quietly();
    let none = "local tailer <close> = kumo.jsonl.new_tailer({ directory = DIR, checkpoint_name = 'l', follow = false },
        function() return false end) for batch in tailer:batches() do print(#batch) end";
    assert_eq!(world.script(none).run().quietly(), "");
    for name in ["l", "w"] {
        assert_eq!(world.checkpoint(name)["line"], 5, "{name}");
    }
}

#[test]
fn f07_a_restart_in_the_middle_of_a_large_segment_gives_exactly_the_rest() {
    let world = World::new();
    world.sealed("1", records(1..=50_000));
    let mut text = "local tailer <close> = kumo.jsonl.new_tailer({ directory = DIR, checkpoint_name = 'l' })
        for batch in tailer:batches() do batch:commit() if batch:positions()[#batch].line >= 30000 then break end end"
        .to_owned();
    world.script(&text).run().quietly();
    assert_eq!(world.checkpoint("l")["line"], 30_000);
    text = world.lua("follow = false").run().quietly();
    let expected: String = (30_001..=50_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(text, expected);
    // Whoever reads takes the half, and goes away.
    let mut running = world.wasm().args("--once --max-batch-size 100").start();
    for n in 1..=30_000 {
        assert_eq!(number(&running.line().unwrap()), n);
    }
    running.close_stdout();
    running.end().with_code(0);
    let passed = world.checkpoint("w")["line"].as_u64().unwrap();
    assert!((20_000..50_000).contains(&passed), "{passed}");
    let rest = world.wasm().arg("--once").run().quietly();
    let rest: Vec<u64> = rest.lines().map(number).collect();
    assert_eq!(rest, (passed + 1..=50_000).collect::<Vec<_>>());
}

#[test]
fn f08_a_rename_into_the_directory_and_a_chmod_are_noticed() {
    let world = World::new();
    world.sealed("1", record(1));
    let mut running = follow(&world);
    assert_eq!(next(&mut running), [1, 1]);
    let outside = world.0.path().join("outside");
    fs::rename(world.sealed("2", record(2)), &outside).unwrap();
    fs::rename(&outside, world.logs().join("2")).unwrap();
    assert_eq!(next(&mut running), [2, 2]);
    // A last line without line break is whole once the segment is sealed, which only the mode says.
    let path = world.open("3", record(3).trim_end());
    age(&path);
    fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    assert_eq!(next(&mut running), [3, 3]);
    end(running);
}

#[test]
fn f08_what_no_event_tells_of_is_noticed_at_the_next_scan() {
    let world = World::new();
    let path = world.open("1", record(1));
    // The kernel tells those who watch a directory of what is done by a name in that directory.
    let elsewhere = world.0.path().join("elsewhere");
    fs::hard_link(&path, &elsewhere).unwrap();
    let mut running = follow(&world);
    assert_eq!(next(&mut running), [1, 1]);
    append(&elsewhere, &record(2));
    assert_eq!(next(&mut running), [2, 2]);
    end(running);
}

#[test]
fn f09_a_sealed_segment_that_was_never_finished_gives_what_is_whole_and_names_the_loss() {
    let world = World::new();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(records(1..=3).as_bytes()).unwrap();
    encoder.write_all(b"{\"n\":4,\"egr").unwrap();
    encoder.flush().unwrap();
    let path = world.open("1", encoder.get_ref());
    fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    age(&path);
    for said in world.expect(&[1, 2, 3]) {
        assert!(said.contains("the segment ends in the middle of this line"), "{said}");
    }
}

/// Has a file look as if it was not changed for an hour.
fn age(path: &Path) {
    File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

#[test]
fn f09_a_sealed_segment_that_is_still_copied_is_left_until_it_is_whole() {
    let world = World::new();
    let whole = zstd::encode_all(records(1..=3).as_bytes(), 1).unwrap();
    let (first, second) = whole.split_at(whole.len() / 2);
    let mut file = File::create(world.logs().join("1")).unwrap();
    file.set_permissions(Permissions::from_mode(0o444)).unwrap();
    for (present, expected) in [(&b""[..], &[][..]), (first, &[]), (second, &[1, 2, 3])] {
        file.write_all(present).unwrap();
        for said in world.expect(expected) {
            assert_eq!(said.contains("segment 1 is read-only and ends torn"), expected.is_empty(), "{said}");
            assert!(!said.contains("damage"), "{said}");
        }
    }
}

/// A file of which no byte can be read, as on a disk that fails.
fn unreadable(world: &World, name: &str) {
    symlink("/proc/self/mem", world.logs().join(name)).unwrap();
}

#[test]
fn f09_a_segment_that_can_not_be_read_is_named_and_the_end_of_a_pass_is_a_failure() {
    let world = World::new();
    world.sealed("1", record(1));
    unreadable(&world, "2");
    world.sealed("3", record(3));
    let lua = world.lua("follow = false").run();
    assert_eq!(numbers(&lua), [1, 3], "{lua:?}");
    let wasm = world.wasm().args("--once --summary=json").run();
    assert_eq!(wasm.stdout.lines().map(number).collect::<Vec<_>>(), [1, 3], "{wasm:?}");
    for said in [lua.with_code(1), wasm.with_code(1)] {
        assert!(said.contains("segment=2 reason=\"Input/output error"), "{said}");
        assert!(
            said.contains("Error: a segment could not be read, and its records are not delivered"),
            "{said}"
        );
        assert!(!said.contains("tried again"), "{said}");
    }
    // Nobody is past it: it comes when it can be read.
    world.sealed("2", record(2));
    world.expect(&[2]);
}

#[test]
fn f09_a_segment_that_can_not_be_read_yet_is_tried_again() {
    let world = World::new();
    unreadable(&world, "1");
    world.sealed("2", record(2));
    let mut running = follow(&world);
    assert_eq!(next(&mut running), [2, 2]);
    world.sealed("1", record(1));
    assert_eq!(next(&mut running), [1, 1]);
    end(running);
}

#[test]
fn f10_a_segment_that_is_deleted_between_two_runs_is_named() {
    let world = World::new();
    let first = world.open("1", records(1..=3));
    world.expect(&[1, 2, 3]);
    fs::remove_file(first).unwrap();
    world.sealed("2", record(4));
    for said in world.expect(&[4]) {
        assert!(said.contains("gap segment=1 ") && said.contains("deleted"), "{said}");
    }
}

#[test]
fn f10_a_segment_that_is_deleted_before_its_turn_is_named_and_counted() {
    let world = World::new();
    // More than is read ahead.
    let line = |n| format!("{{\"n\":{n},\"egress_pool\":\"a\",\"x\":\"{:600}\"}}\n", "");
    world.sealed("1", (1..=100_000).map(line).collect::<String>());
    // So many names ahead nobody looks.
    let names = |range: std::ops::RangeInclusive<u64>| range.map(|n| n.to_string());
    names(200..=299).for_each(|name| _ = world.sealed(&name, record(100_001)));
    let waiting: Vec<_> = names(300..=301).map(|name| world.sealed(&name, record(7))).collect();
    let mut running = world.wasm().args("--summary=json").start();
    assert_eq!(number(&running.line().unwrap()), 1);
    waiting.iter().for_each(|path| fs::remove_file(path).unwrap());
    for n in (2..=100_000).chain([100_001; 100]) {
        assert_eq!(number(&running.line().unwrap()), n);
    }
    running.signal(Signal::TERM);
    let said = running.end().with_code(0);
    for name in names(300..=301) {
        assert!(said.contains(&format!("gap segment={name} ")), "{said}");
    }
    assert!(said.contains("\"gaps\":2"), "{said}");
}

#[test]
fn f10_a_segment_that_is_deleted_while_it_is_read_is_read_to_its_end() {
    let world = World::new();
    // More than is read ahead.
    let line = |n| format!("{{\"n\":{n},\"egress_pool\":\"a\",\"x\":\"{:600}\"}}\n", "");
    let path = world.sealed("1", (1..=100_000).map(line).collect::<String>());
    let mut running = follow(&world);
    assert_eq!(next(&mut running), [1, 1]);
    fs::remove_file(path).unwrap();
    world.sealed("2", record(100_001));
    for n in 2..=100_001 {
        assert_eq!(next(&mut running), [n, n]);
    }
    end(running);
}

#[test]
fn f11_a_replaced_or_shortened_file_is_read_from_its_start() {
    let world = World::new();
    let path = world.open("1", records(1..=5));
    world.expect(&[1, 2, 3, 4, 5]);
    fs::remove_file(&path).unwrap();
    world.open("1", records(11..=19));
    assert!(world.expect(&(11..=19).collect::<Vec<_>>()).iter().all(|said| said.contains("WARN")));
    File::options().write(true).open(&path).unwrap().set_len(2 * record(11).len() as u64).unwrap();
    assert!(world.expect(&[11, 12]).iter().all(|said| said.contains("WARN")));
}

/// Renames the directory, puts an empty one in its place, and the segment `2` into the one that was renamed.
fn move_away(world: &World) -> PathBuf {
    let moved = world.0.path().join("moved");
    fs::rename(world.logs(), &moved).unwrap();
    fs::create_dir(world.logs()).unwrap();
    let made = world.sealed("2", record(2));
    fs::rename(made, moved.join("2")).unwrap();
    moved
}

#[test]
fn f12_a_directory_that_is_renamed_is_read_on() {
    let world = World::new();
    world.sealed("1", record(1));
    let mut running = follow(&world);
    assert_eq!(next(&mut running), [1, 1]);
    let moved = move_away(&world);
    fs::remove_dir(world.logs()).unwrap();
    fs::rename(&moved, world.logs()).unwrap();
    assert_eq!(next(&mut running), [2, 2]);
    end(running);
    world.expect(&[]);
}

#[test]
fn f12_another_directory_in_the_place_of_one_that_was_renamed_is_named() {
    let world = World::new();
    world.sealed("1", record(1));
    let mut running = follow(&world);
    assert_eq!(next(&mut running), [1, 1]);
    move_away(&world);
    assert_eq!(next(&mut running), [2, 2]);
    for running in running {
        running.signal(Signal::TERM);
        let said = running.end().with_code(0);
        assert_eq!(said.matches("is another directory now").count(), 1, "{said}");
    }
}

#[test]
fn f13_a_commit_that_can_not_be_written_raises_and_works_later() {
    let world = World::new();
    world.sealed("1", record(1));
    // As root, a directory cannot be made read-only; something in the way of the file stops anybody.
    let text = "os.execute('mkdir ' .. DIR .. '/.l.tmp')
        local tailer <close> = kumo.jsonl.new_tailer { directory = DIR, checkpoint_name = 'l', follow = false }
        for batch in tailer:batches() do
          print(pcall(batch.commit, batch))
          os.execute('rmdir ' .. DIR .. '/.l.tmp')
          print(pcall(batch.commit, batch))
        end";
    let ended = world.script(text).run();
    assert!(ended.stdout.starts_with("false\t") && ended.stdout.contains(".l.tmp"), "{ended:?}");
    assert!(ended.stdout.ends_with("true\n"), "{ended:?}");
    assert_eq!(world.checkpoint("l")["line"], 1);
}

fn append_to(world: &World, out: &Path, limit: &str) -> Ended {
    let tail = appending_to(out, limit).arg("tail").arg(world.logs());
    tail.args("--once --checkpoint c --max-batch-size 7").run()
}

#[test]
fn f13_no_record_is_behind_a_torn_one_in_what_stdout_is_appended_to() {
    let world = World::new();
    world.sealed("1", records(1..=2000));
    let out = world.0.path().join("out");
    // As a process that was killed leaves it.
    fs::write(&out, "{\"torn\":").unwrap();
    let said = append_to(&world, &out, "16").with_code(1);
    assert!(said.contains("cannot write to stdout: File too large"), "{said}");
    assert!(said.contains("the last line of what stdout is appended to was not finished"), "{said}");
    append_to(&world, &out, "unlimited").quietly();
    let text = fs::read_to_string(&out).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("{\"torn\":"));
    assert_eq!(lines.map(number).collect::<Vec<_>>(), Vec::from_iter(1..=2000));
}

#[test]
fn f19_a_second_process_refuses_and_names_the_first() {
    let world = World::new();
    world.sealed("1", record(1));
    let mut running = follow(&world);
    assert_eq!(next(&mut running), [1, 1]);
    for (running, program) in running.iter().zip([world.lua("follow = false"), world.wasm().arg("--once")]) {
        let said = program.run().with_code(1);
        assert!(said.contains(&format!("in use by process {}", running.pid())), "{said}");
    }
    end(running);
}

#[test]
fn f20_a_segment_that_sorts_before_the_current_one_is_read() {
    let world = World::new();
    world.sealed("5", record(5));
    world.expect(&[5]);
    world.sealed("3", record(3));
    assert!(world.expect(&[3]).iter().all(|said| said.contains("WARN") && said.contains("segment=3\n")));
    world.expect(&[]);
}

#[test]
fn f21_the_checkpoint_stays_before_the_batch_that_is_not_committed() {
    let world = World::new();
    world.sealed("1", records(1..=3));
    let text = "local tailer <close> = kumo.jsonl.new_tailer {
          directory = DIR, checkpoint_name = 'l', follow = false, max_batch_size = 1 }
        local all = {}
        for batch in tailer:batches() do all[#all + 1] = batch end
        all[2]:commit() all[3]:commit() if FIRST then all[1]:commit() end";
    let said = world.script(&text.replace("FIRST", "false")).run().with_code(0);
    assert!(said.contains("committed a batch while an earlier one"), "{said}");
    world.script(&text.replace("FIRST", "true")).run().with_code(0);
    assert_eq!(world.checkpoint("l")["line"], 3);
    assert_eq!(world.lua("follow = false").run().quietly(), "");
}

#[test]
fn f22_a_second_commit_raises_and_one_after_close_works() {
    let world = World::new();
    world.sealed("1", record(1));
    let text =
        "local tailer = kumo.jsonl.new_tailer { directory = DIR, checkpoint_name = 'l', follow = false }
        local batch = tailer:batches()() tailer:close()
        print(pcall(batch.commit, batch)) print(pcall(batch.commit, batch))";
    let said = world.script(text).run().quietly();
    assert!(said.starts_with("true\nfalse\t"), "{said}");
    assert!(said.contains("batch has already been committed"), "{said}");
    assert_eq!(world.lua("follow = false").run().quietly(), "");
}

/// The first process used to go on, and to move the checkpoint back behind what the second one had committed.
#[test]
fn f22_a_process_that_has_lost_its_lock_stops_and_commits_nothing_more() {
    let world = World::new();
    world.sealed("1", record(1));
    let checkpoint = |name: &str| fs::read(world.logs().join(format!(".{name}"))).unwrap_or_default();
    let stops = |running: [Running; 2], why: [String; 2]| {
        for (running, why) in running.into_iter().zip(why) {
            // Reading its output to the end would wait for one that goes on.
            let state = || fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
            wait_for("it to end", || state().contains(") Z "));
            let said = running.end().with_code(1);
            assert!(said.contains("lost its lock") && said.contains(&why), "{why}: {said}");
        }
    };
    let mut first = follow(&world);
    assert_eq!(next(&mut first), [1, 1]);
    wait_for("the commits", || ["l", "w"].iter().all(|name| !checkpoint(name).is_empty()));
    let lock = |name: &str| world.logs().join(format!(".{name}.lock"));
    let remove = || ["l", "w"].iter().for_each(|name| fs::remove_file(lock(name)).unwrap());
    remove();
    let mut second = follow(&world);
    let pids = [&second[0], &second[1]].map(|running| running.pid().to_string());
    for (name, pid) in ["l", "w"].iter().zip(&pids) {
        wait_for("the second lock", || fs::read_to_string(lock(name)).is_ok_and(|text| text.trim() == *pid));
    }
    world.sealed("2", record(2));
    stops(first, pids.map(|pid| format!("replaced, and process {pid} has the checkpoint now")));
    assert_eq!(next(&mut second), [2, 2]);
    wait_for("the commits", || {
        ["l", "w"].iter().all(|name| String::from_utf8_lossy(&checkpoint(name)).contains("/2\""))
    });
    // Without another process nobody can tell whether there was one.
    remove();
    let before = ["l", "w"].map(checkpoint);
    world.sealed("3", record(3));
    stops(second, ["removed", "removed"].map(str::to_owned));
    assert_eq!(["l", "w"].map(checkpoint), before);
    world.expect(&[3]);
}

#[test]
fn f24_a_sink_that_is_down_keeps_no_other_consumer_waiting() {
    let world = World::new();
    world.sealed("1", records(1..=1000));
    let text = "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'down'\n\
        processor = { http = { url = 'http://127.0.0.1:9' } }\non_error = { initial = '1h' }\n\
        [[consumer]]\nname = 'up'\nprocessor = { stdout = {} }\n";
    let file = world.0.path().join("p.toml");
    fs::write(&file, text).unwrap();
    let mut running = tailweir().arg("run").arg(file).start();
    for n in 1..=1000 {
        assert_eq!(number(&running.line().unwrap()), n);
    }
    wait_for("the commit", || world.logs().join(".up").exists() && world.checkpoint("up")["line"] == 1000);
    running.signal(Signal::TERM);
    running.end().with_code(0);
    assert!(!world.logs().join(".down").exists());
}

/// The most memory that a process has had, in bytes.
fn peak(running: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn f24_a_consumer_that_hangs_takes_no_more_memory_the_more_there_is_to_read() {
    let world = World::new();
    let filler = "x".repeat(2000);
    for segment in 0..4 {
        let line = |n| format!("{{\"n\":{n},\"egress_pool\":\"a\",\"x\":\"{filler}\"}}\n");
        world.sealed(&segment.to_string(), (1..=40_000).map(line).collect::<String>());
    }
    let text = "local tailer <close> = kumo.jsonl.new_multi_tailer { directory = DIR, consumers = {
          { name = 'slow', checkpoint_name = 's' } } }
        for batches in tailer:batches() do print('got it') io.stdout:flush() kumo.sleep(3600) end";
    let mut slow = world.script(text).start();
    assert_eq!(slow.line().unwrap(), "got it");
    let other = world.lua("follow = false").run();
    assert_eq!(other.stdout.lines().count(), 160_000);
    // 330 MB of text.
    assert!(peak(&slow) < 150 << 20, "{}", peak(&slow));
}

#[test]
fn f25_invalid_utf8_reaches_sinks_as_it_is_and_scripts_repaired() {
    let world = World::new();
    world.sealed("1", b"{\"n\":1,\"s\":\"a\xffb\"}\n");
    let file = world.0.path().join("p.toml");
    let text =
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\nprocessor = { file = { path = 'out' } }\n";
    fs::write(&file, text).unwrap();
    tailweir().arg("run").arg(file).arg("--once").run().with_code(0);
    assert_eq!(fs::read(world.0.path().join("out")).unwrap(), b"{\"n\":1,\"s\":\"a\xffb\"}\n");
    let text = "local tailer <close> = kumo.jsonl.new_tailer { directory = DIR, follow = false }
        for batch in tailer:batches() do for r in batch:iter_records() do print(r.s == 'a\u{fffd}b') end end";
    assert_eq!(world.script(text).run().stdout, "true\n");
}

#[test]
fn f25_odd_text_is_passed_on_byte_for_byte_and_integers_are_exact() {
    let world = World::new();
    let kept = ["{\"n\":1,\"n\":9007199254740993}", "{\"n\":2,\"s\":\"\\u0000\"}", " {\"n\" : 3 } "];
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let text = format!("\u{feff}{}\r\n\n  \n{}\n{deep}\n{}\n", kept[0], kept[1], kept[2]);
    world.sealed("1", text);
    let out = tailweir().arg("tail").arg(world.logs()).arg("--once").run();
    assert_eq!(out.stdout, kept.join("\n") + "\n");
    assert!(out.with_code(0).contains("nested"));
    assert_eq!(numbers(&world.lua("follow = false").run()), [9_007_199_254_740_993, 2, 3]);
    assert_eq!(world.quarantined("l"), 1);
}

#[test]
fn f26_a_misspelt_option_is_named_with_the_nearest() {
    let world = World::new();
    let said =
        world.script("kumo.jsonl.new_tailer { directory = DIR, checkpoint_nmae = 'x' }").run().with_code(1);
    assert!(said.contains("unknown option `checkpoint_nmae`; did you mean `checkpoint_name`?"), "{said}");
    tailweir().arg("tail").arg(world.logs()).arg("--checkpiont=x").run().with_code(2);
}

#[test]
fn f27_foreign_files_are_skipped_and_never_block() {
    let world = World::new();
    world.sealed("5", record(1));
    world.open("0-core", [0x7f, b'E', b'L', b'F', 0, 1, 2, 3]);
    world.open("1.tmp", [0xff; 100]);
    fs::create_dir(world.logs().join("2-folder")).unwrap();
    symlink("/nowhere/at/all", world.logs().join("3-link")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(world.logs().join("4-fifo")).status().unwrap();
    assert!(made.success());
    for said in world.expect(&[1]) {
        for name in ["0-core", "1.tmp", "2-folder", "3-link", "4-fifo"] {
            assert_eq!(said.matches(&format!("name={name} ")).count(), 1, "{name}: {said}");
        }
    }
}
