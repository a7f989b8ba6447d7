//! `tailweir quarantine`, and what fills it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tailweir_tests::{Ended, Program, Segments, id, wait_for};

use crate::tailweir;

/// A directory of one segment with 100 records, and its name.
fn segments() -> (Segments, String) {
    let segments = Segments::generate(100, 1, 24);
    let name = segments.lines().into_keys().next().unwrap();
    (segments, name)
}

fn quarantine(segments: &Segments, what: &str) -> Program {
    tailweir().arg("quarantine").arg(what).arg(segments.directory()).arg("q")
}

fn pipeline(segments: &Segments, options: &str) -> std::path::PathBuf {
    let text = format!(
        "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'q'\nmax_batch_size = 10\n\
         processor = {{ lua = 'processor.lua' }}\nsink = {{ file = {{ path = 'out.jsonl' }} }}\n{options}"
    );
    segments.beside("pipeline.toml", &text)
}

/// Emits each record but those that were refused on purpose.
fn processor(segments: &Segments, refused: &str) {
    let text = format!(
        "local refused = {{ {refused} }}
         return function(batch)
           local out, bad = {{}}, {{}}
           for n, p in ipairs(batch:positions()) do
             if refused[p.line] then bad[#bad + 1] = n else out[#out + 1] = {{ line = p.line }} end
           end
           if #bad > 0 then return nil, {{ reject = bad, reason = 'refused ' .. refused[batch:positions()[bad[1]].line] }} end
           return out
         end"
    );
    segments.beside("processor.lua", &text);
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn places(segments: &Segments) -> Vec<u64> {
    let shown = quarantine(segments, "show").arg("--json").run().quietly();
    shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].as_u64().unwrap()).collect()
}

#[test]
fn records_are_listed_shown_replayed_and_dropped() {
    let (segments, name) = segments();
    processor(&segments, "[3] = 'a', [47] = 'b', [48] = 'b', [91] = 'c'");
    let file = pipeline(&segments, "");
    tailweir().arg("run").arg(&file).arg("--once").run().with_code(0);
    let listed = quarantine(&segments, "list").run().quietly();
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["records", "first", "last", "newest", "plug-in", "reason"]);
    assert_eq!(rows[1][..3], ["2", &format!("{name}:47"), &format!("{name}:48")]);
    assert!(rows.len() == 4 && listed.contains("processor.lua") && listed.contains("refused b"), "{listed}");

    let shown = quarantine(&segments, "show").arg(format!("{name}:3")).run().quietly();
    let record = &segments.lines()[&name][2];
    assert!(shown.contains(record) && shown.contains("refused a"), "{shown}");
    let said = quarantine(&segments, "show").arg(format!("{name}:4")).run().with_code(1);
    assert!(said.contains("no such record"), "{said}");

    // What helps for some does not help for all.
    processor(&segments, "[47] = 'still', [91] = 'c'");
    let replay = || quarantine(&segments, "replay").arg("--pipeline").arg(&file);
    let said = replay().arg("--reason").arg("refused a").run().with_code(0);
    assert!(said.contains("1 replayed: 1 dealt with, 0 failed again, 3 in quarantine now"), "{said}");
    let out = segments.beside("out.jsonl", "");
    let said = replay().run().with_code(1);
    assert!(said.contains("3 replayed: 1 dealt with, 2 failed again, 2 in quarantine now"), "{said}");
    assert!(said.contains("Error: 2 of 3 records are still in quarantine"), "{said}");
    assert_eq!(places(&segments), [47, 91]);
    let listed = quarantine(&segments, "list").arg("--json").run().quietly();
    assert!(listed.contains("refused still"), "{listed}");
    processor(&segments, "");
    replay().run().with_code(0);
    assert_eq!(lines(&out).iter().map(|l| l["line"].as_u64().unwrap()).collect::<Vec<_>>(), [47, 91]);
    assert!(quarantine(&segments, "list").run().quietly().starts_with("nothing in the quarantine of q"));
    assert!(!segments.directory().join(".q.quarantine").exists());
    // The consumer's own progress was not touched.
    assert_eq!(tailweir().arg("run").arg(&file).arg("--once").run().quietly(), "");
}

#[test]
fn only_what_is_asked_for_is_dropped() {
    let (segments, name) = segments();
    processor(&segments, "[3] = 'a', [47] = 'b', [48] = 'b', [91] = 'c'");
    tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    let drop = || quarantine(&segments, "drop");
    let said = drop().run().with_code(2);
    assert!(said.contains("--all"), "{said}");
    assert_eq!(drop().arg(format!("{name}:3")).run().quietly(), "1 dropped, 3 left\n");
    drop().arg(format!("{name}:3")).run().with_code(1);
    drop().arg("nothing").run().with_code(2);
    assert_eq!(drop().arg("--reason").arg("refused b").run().quietly(), "2 dropped, 1 left\n");
    assert_eq!(places(&segments), [91]);
    assert_eq!(drop().arg("--all").run().quietly(), "1 dropped, 0 left\n");
}

#[test]
fn a_script_gets_the_records_again_through_its_own_tailer() {
    let (segments, _) = segments();
    processor(&segments, "[3] = 'a', [47] = 'b', [48] = 'b', [91] = 'c'");
    tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    let script = |checkpoint: &str| {
        let text = format!(
            "local kumo = require 'kumo'
             kumo.on('main', function(stop_at)
               local tailer <close> = kumo.jsonl.new_tailer({{ directory = '{}', checkpoint_name = '{checkpoint}',
                 max_batch_size = 1, on_malformed = 'skip' }})
               for batch in tailer:batches() do
                 for r in batch:iter_records() do print(r.id) end
                 if batch:positions()[1].line == tonumber(stop_at) then break end
                 batch:commit()
               end
             end)",
            segments.directory().display()
        );
        segments.beside("s.lua", &text)
    };
    let replay = |checkpoint: &str, stop_at: &str| {
        quarantine(&segments, "replay").arg("--lua").arg(script(checkpoint)).arg("--").arg(stop_at).run()
    };
    let ids = segments.ids(|_| true);
    let ended = replay("q", "48");
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), [&ids[2], &ids[46], &ids[47]], "{}", ended.stderr);
    assert!(ended.with_code(1).contains("4 replayed: 2 dealt with"));
    assert_eq!(places(&segments), [48, 91]);
    let said = replay("other", "0").with_code(1);
    assert!(said.contains("this is a replay of the checkpoint `q`"), "{said}");
    assert!(!segments.directory().join(".other").exists());
    assert_eq!(replay("q", "0").stdout.lines().count(), 2);
    assert_eq!(places(&segments), [0_u64; 0]);
}

#[test]
fn malformed_lines_stay_with_their_bytes_and_go_to_stdout_once_mended() {
    let segments = Segments::generate(1, 1, 1);
    let good = segments.kept(|_| true);
    let odd: &[u8] = b"{\"a\":\xff\xfe}\n";
    let path = segments.directory().join("00000000-000000.0");
    fs::write(&path, [odd, good.as_bytes()].concat()).unwrap();
    tailweir().arg("tail").arg(segments.directory()).args("--checkpoint q --once").run().with_code(0);
    let shown = quarantine(&segments, "show").arg("--json").run().quietly();
    let entry: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&entry["base64"], &entry["line"]), (&Value::from("eyJhIjr//n0="), &Value::from(1)));
    let said = quarantine(&segments, "replay").arg("--stdout").run().with_code(1);
    assert!(said.contains("1 failed again"), "{said}");
    // Mended by hand: it is a file of lines.
    let kept = segments.directory().join(".q.quarantine");
    let mended = fs::read_to_string(&kept)
        .unwrap()
        .replace("\"base64\":\"eyJhIjr//n0=\"", "\"text\":\"{\\\"a\\\":1}\"");
    fs::write(&kept, mended).unwrap();
    let ended = quarantine(&segments, "replay").arg("--stdout").run();
    assert_eq!(ended.stdout, "{\"a\":1}\n");
    ended.with_code(0);
}

#[test]
fn a_traceback_is_readable_in_the_log_and_in_the_quarantine() {
    let segments = Segments::generate(1, 1, 1);
    let filter = "local function odd(r) error('an \\27[31modd\\tone') end\nreturn function(r) odd(r) return true end\n";
    segments.beside("odd.lua", filter);
    let pipeline = "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'q'\nfilter = { lua = 'odd.lua' }\n\
                    processor = { stdout = {} }\n";
    let run = tailweir().arg("run").arg(segments.beside("p.toml", pipeline)).arg("--once").run();
    let said = run.with_code(0);
    assert!(said.contains("record put in quarantine") && said.contains("stack traceback:"), "{said}");
    assert!(!said.contains("\\t") && !said.contains(['\t', '\u{1b}']), "{said}");
    let shown = tailweir().args("quarantine show").arg(segments.directory()).arg("q").run().quietly();
    assert!(shown.contains("an \\u{1b}[31modd    one\nstack traceback:\n    "), "{shown}");
    let (reason, _record) = shown.split_once("\n{").unwrap();
    assert!(!reason.contains("\\t") && !reason.contains(['\t', '\u{1b}']), "{reason}");
}

/// What a file is called, and what is in it, used to reach terminals and logs as it was.
#[test]
fn nothing_of_a_name_or_a_record_is_obeyed_by_a_terminal() {
    let segments = Segments::generate(1, 1, 1);
    let (name, shown) = ("1\n\u{1b}[2J\u{9b}x", "1\\n\\u{1b}[2J\\u{9b}x");
    let bad = b"{\"a\":\"\x1b]0;owned\x07\xc2\x9b\xff\r\"".as_slice();
    let path = segments.directory().join(name);
    fs::write(&path, [bad, b"\n"].concat()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    fs::write(segments.directory().join("x\n\u{1b}[2J"), b"\x7fELF").unwrap();
    let harmless = |text: &str| assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
    let run = || tailweir().arg("tail").arg(segments.directory()).args("--checkpoint q --once").run();
    let said = run().with_code(0);
    harmless(&said);
    assert!(said.contains(&format!("{shown}:1")) && said.contains("x\\n\\u{1b}[2J"), "{said}");
    // It is read back.
    assert_eq!(run().stdout, "");
    assert!(fs::read_to_string(segments.directory().join(".q.finished")).unwrap().contains("\\u001b[2J"));

    let listed = quarantine(&segments, "list").run().quietly();
    harmless(&listed);
    assert!(listed.contains(&format!("{shown}:1")), "{listed}");
    let listed = quarantine(&segments, "list").arg("--json").run().quietly();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["first"], format!("{name}:1"));
    let status = tailweir().arg("status").arg(segments.directory()).run().quietly();
    harmless(&status);

    let show = |options: &str| {
        let (binary, directory) = (env!("CARGO_BIN_EXE_tailweir"), segments.directory());
        let command = format!("'{binary}' quarantine show '{}' q {options}", directory.display());
        Program::new("script").arg("-qec").arg(command).arg("/dev/null").run().quietly().replace("\r\n", "\n")
    };
    let text = show("");
    harmless(&text);
    assert!(text.contains(r#"{"a":"\u{1b}]0;owned\u{7}\u{9b}\xff\r""#), "{text}");
    let json = show("--json");
    harmless(&json);
    let piped = quarantine(&segments, "show").arg("--json").run().quietly();
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(parse(&json), parse(&piped));
    assert_eq!(parse(&json)["segment"], name);
    let piped = std::process::Command::new(env!("CARGO_BIN_EXE_tailweir"))
        .args(["quarantine", "show"])
        .arg(segments.directory())
        .arg("q")
        .output()
        .unwrap();
    assert!(piped.stdout.windows(bad.len()).any(|bytes| bytes == bad), "the bytes as they are");
    let said = quarantine(&segments, "drop").arg(format!("{shown}:1")).run().quietly();
    assert_eq!(said, "1 dropped, 0 left\n");
}

#[test]
fn a_full_quarantine_stops_the_consumer_or_drops_the_oldest_as_told() {
    let (segments, _) = segments();
    let all: String = (1..=100).map(|line| format!("[{line}] = 'x',")).collect();
    processor(&segments, &all);
    let limited = |options: &str| -> Ended {
        let file = pipeline(&segments, &format!("quarantine_max_bytes = 40000\n{options}"));
        tailweir().arg("run").arg(file).arg("--once").run()
    };
    let said = limited("").with_code(1);
    for part in [".q.quarantine is full", "the limit is 40000", "tailweir quarantine list", "drop_oldest"] {
        assert!(said.contains(part), "{said} lacks {part}");
    }
    let first = places(&segments);
    assert_eq!(first, (1..=first.len() as u64).collect::<Vec<_>>());
    // The records that came before are recognised when their batch comes again.
    limited("").with_code(1);
    assert_eq!(places(&segments), first);
    let said = limited("quarantine_when_full = 'drop_oldest'").with_code(0);
    assert!(said.contains("oldest records") && said.contains("are dropped"), "{said}");
    let left = places(&segments);
    assert_eq!(left, (left[0]..=100).collect::<Vec<_>>());
    let text = format!("for _, f in ipairs {{ '{}' }} do end", segments.directory().display());
    let script = segments.beside(
        "o.lua",
        &format!(
            "{text} require('kumo').jsonl.new_tailer {{ directory = '{}', quarantine_when_full = 'drop' }}",
            segments.directory().display()
        ),
    );
    let said = tailweir().arg("script").arg(script).run().with_code(1);
    assert!(said.contains("`quarantine_when_full` must be 'stop' or 'drop_oldest'"), "{said}");
}

#[test]
fn a_quarantine_in_use_is_left_alone_and_its_user_named() {
    let (segments, _) = segments();
    processor(&segments, "[3] = 'a'");
    let running = tailweir().arg("run").arg(pipeline(&segments, "")).start();
    wait_for("the quarantine", || segments.directory().join(".q.quarantine").exists());
    for what in ["drop --all", "replay --stdout"] {
        let (what, option) = what.split_once(' ').unwrap();
        let said = quarantine(&segments, what).arg(option).run().with_code(1);
        assert!(said.contains(&format!("in use by process {}", running.pid())), "{said}");
    }
    wait_for("the record", || places(&segments) == [3]);
    running.signal(Signal::TERM);
    running.end().with_code(0);
    assert_eq!(quarantine(&segments, "drop").arg("--all").run().quietly(), "1 dropped, 0 left\n");
}

#[test]
fn a_record_is_in_quarantine_once_however_often_the_consumer_is_killed() {
    let (segments, _) = segments();
    // Refuses everything, and kills the process before the commit of the fifth batch.
    let text = "local n = 0 return function(batch) n = n + 1
        if n == 5 then os.execute('kill -9 $PPID') end
        local all = {} for i = 1, #batch do all[i] = i end return nil, { reject = all, reason = 'no' } end";
    segments.beside("processor.lua", text);
    let file = pipeline(&segments, "");
    for _ in 0..4 {
        tailweir().arg("run").arg(&file).arg("--once").run();
    }
    assert_eq!(places(&segments), (1..=100).collect::<Vec<_>>());
    let ids: Vec<_> = lines(&segments.directory().join(".q.quarantine"))
        .iter()
        .map(|entry| id(entry["text"].as_str().unwrap()))
        .collect();
    assert_eq!(ids, segments.ids(|_| true));
}

/// The default directory for temporary files would hide what a replay leaves there among those of others.
fn temporary(segments: &Segments, program: Program) -> (std::path::PathBuf, Program) {
    let folder = segments.directory().parent().unwrap().join("tmp");
    fs::create_dir_all(&folder).unwrap();
    let program = program.env("TMPDIR", folder.to_str().unwrap());
    (folder, program)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// What was committed used to stay in quarantine then, and to be sent again, and the folder with the records stayed behind.
#[test]
fn a_replay_that_is_ended_while_a_batch_hangs_settles_what_is_done() {
    let (segments, _) = segments();
    let all: String = (1..=100).map(|line| format!("[{line}] = 'x',")).collect();
    processor(&segments, &all);
    let file = pipeline(&segments, "");
    tailweir().arg("run").arg(&file).arg("--once").run().with_code(0);
    let text = "local n = 0 return function(batch) n = n + 1
        if n == 4 then print 'hangs' io.stdout:flush() while true do end end return {} end";
    segments.beside("processor.lua", text);
    let replay = quarantine(&segments, "replay").arg("--pipeline").arg(&file);
    let (folder, replay) = temporary(&segments, replay);
    let mut running = replay.start();
    assert_eq!(running.line().as_deref(), Some("hangs"));
    // Two of a kind may arrive as one.
    running.signal(Signal::TERM);
    running.signal(Signal::INT);
    let said = running.end().with_code(130);
    assert!(said.contains("100 replayed: 30 dealt with, 0 failed again, 70 in quarantine now"), "{said}");
    assert_eq!(places(&segments), (31..=100).collect::<Vec<_>>());
    assert!(is_empty(&folder));
}

#[test]
fn a_script_that_exits_in_a_replay_has_settled_what_is_done() {
    let (segments, _) = segments();
    processor(&segments, "[3] = 'a', [47] = 'b', [48] = 'b'");
    tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    let script = |last: u64| {
        let text = format!(
            "local kumo = require 'kumo'
             kumo.on('main', function()
               local tailer = kumo.jsonl.new_tailer({{ directory = '{}', checkpoint_name = 'q', max_batch_size = 1 }})
               for batch in tailer:batches() do
                 batch:commit()
                 if batch:positions()[1].line == {last} then os.exit(0) end
               end
             end)",
            segments.directory().display()
        );
        let script = segments.beside("s.lua", &text);
        let (folder, replay) = temporary(&segments, quarantine(&segments, "replay").arg("--lua").arg(script));
        let ended = replay.run();
        assert!(is_empty(&folder));
        ended
    };
    let said = script(47).with_code(1);
    assert!(said.contains("3 replayed: 2 dealt with"), "{said}");
    assert_eq!(places(&segments), [48]);
    script(48).with_code(0);
    assert_eq!(places(&segments), [0_u64; 0]);
}

#[test]
fn entries_that_somebody_has_edited_into_no_record_are_refused_by_name() {
    let (segments, name) = segments();
    processor(&segments, "[3] = 'a', [4] = 'a', [5] = 'a', [6] = 'a'");
    tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    let file = segments.directory().join(".q.quarantine");
    let mut entries = lines(&file);
    entries[0]["text"] = "{\"a\":1}\n{\"b\":2}".into();
    entries[1]["text"] = " ".into();
    entries[2]["line"] = 100_000_000_000_u64.into();
    let edited: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    fs::write(&file, edited).unwrap();
    let ended = quarantine(&segments, "replay").arg("--stdout").run();
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), [&segments.lines()[&name][5]]);
    let said = ended.with_code(1);
    for part in [
        &format!("{name}:3 is not sent: its text holds a line break"),
        &format!("{name}:4 is not sent: its text is blank"),
        &format!("{name}:100000000000 is not sent: its line is beyond 100000000"),
        "4 replayed: 1 dealt with, 0 failed again, 3 in quarantine now; 3 were not sent",
        "Error: 3 of 4 records are still in quarantine",
    ] {
        assert!(said.contains(part), "{said} lacks {part}");
    }
    assert_eq!(places(&segments), [3, 4, 100_000_000_000]);
}

#[test]
fn a_replay_can_be_ended_while_it_lays_the_records_out() {
    let (segments, _) = segments();
    processor(&segments, "[3] = 'a'");
    tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    let file = segments.directory().join(".q.quarantine");
    let entry = lines(&file).remove(0);
    let many: String = (0..2000)
        .map(|n| {
            let mut entry = entry.clone();
            (entry["segment"], entry["line"]) = (format!("s{n}").into(), 100_000_000.into());
            format!("{entry}\n")
        })
        .collect();
    fs::write(&file, many).unwrap();
    let (folder, replay) = temporary(&segments, quarantine(&segments, "replay").arg("--stdout"));
    let running = replay.start();
    wait_for("a record that is laid out", || {
        let room = fs::read_dir(&folder).unwrap().next();
        room.is_some_and(|room| fs::read_dir(room.unwrap().path()).unwrap().next().is_some())
    });
    running.signal(Signal::TERM);
    let said = running.end().with_code(1);
    assert!(said.contains("ended before anything was sent"), "{said}");
    assert!(is_empty(&folder));
    assert_eq!(places(&segments).len(), 2000);
}

/// They used to be dropped one and all before the record was found not to fit even so.
#[test]
fn nothing_is_dropped_for_a_record_that_can_never_fit() {
    let (segments, name) = segments();
    processor(&segments, "[3] = 'a', [4] = 'a'");
    let options = "quarantine_max_bytes = 4000\nquarantine_when_full = 'drop_oldest'";
    tailweir().arg("run").arg(pipeline(&segments, options)).arg("--once").run().with_code(0);
    processor(&segments, "[1] = 'a'");
    let large = format!("{{\"id\":\"{}\"}}\n", "x".repeat(5000));
    fs::write(segments.directory().join("99999999-000000.0"), large).unwrap();
    let said = tailweir().arg("run").arg(pipeline(&segments, options)).arg("--once").run().with_code(1);
    assert!(
        said.contains("99999999-000000.0:1 needs 5") && said.contains("raise quarantine_max_bytes to 5"),
        "{said}"
    );
    assert!(!said.contains("drop_oldest"), "{said}");
    assert_eq!(places(&segments), [3, 4], "{name}");
}

/// As when the program ends in good order.
#[test]
fn what_was_dropped_is_told_when_a_hanging_consumer_is_given_up() {
    let (segments, _) = segments();
    let text = "local n = 0 return function(batch) n = n + 1
        if n == 10 then print 'hangs' io.stdout:flush() while true do end end
        local all = {} for i = 1, #batch do all[i] = i end return nil, { reject = all, reason = 'no' } end";
    segments.beside("processor.lua", text);
    let file = pipeline(&segments, "quarantine_max_bytes = 8000\nquarantine_when_full = 'drop_oldest'");
    let mut running = tailweir().arg("run").arg(file).start();
    assert_eq!(running.line().as_deref(), Some("hangs"));
    running.signal(Signal::TERM);
    running.signal(Signal::INT);
    let said = running.end().with_code(130);
    let last = places(&segments)[0] - 1;
    assert!(last > 20, "{last}");
    assert!(said.contains(&format!("are dropped; {last} since the start")), "{said}");
}

/// A pipeline that passes records on, and what it says in the end with `--summary=json`.
fn with_summary(segments: &Segments, options: &str) -> (Ended, Value) {
    segments.beside("processor.lua", "return function(batch) return {} end");
    let file = pipeline(segments, options);
    let ended = tailweir().arg("run").arg(file).args("--once --summary=json").run();
    let line = ended.stderr.lines().find(|line| line.starts_with("{\"summary\"")).expect("a summary");
    let summary: Value = serde_json::from_str(line).unwrap();
    let consumer = summary["summary"][0].clone();
    (ended, consumer)
}

/// 2,000 lines, of which each second one is no record.
fn half_bad() -> Segments {
    let segments = Segments::generate(1, 1, 1);
    let text: String = (0..1000).map(|n| format!("{{\"n\":{n}}}\n{{\"n\":\n")).collect();
    let path = segments.directory().join("99999999-000000.0");
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    segments
}

/// Each run used to begin with the same lines, and to deliver nothing.
#[test]
fn who_empties_a_full_quarantine_gets_on() {
    let segments = half_bad();
    let (mut runs, mut acknowledged, mut dropped) = (0, 0, 0);
    loop {
        runs += 1;
        let (ended, summed) = with_summary(&segments, "quarantine_max_bytes = 60000");
        let here = places(&segments).len() as u64;
        assert_eq!(summed["quarantined"], here, "run {runs}");
        acknowledged += summed["acknowledged"].as_u64().unwrap();
        dropped += here;
        let said = quarantine(&segments, "drop").arg("--all").run().quietly();
        assert_eq!(said, format!("{here} dropped, 0 left\n"));
        if ended.code == Some(0) {
            break;
        }
        assert!(ended.with_code(1).contains(".q.quarantine is full"));
        assert!(runs < 20, "it ends");
    }
    assert!(runs > 2, "it was full");
    assert_eq!((acknowledged, dropped), (1001, 1000));
}

#[test]
fn what_a_full_quarantine_drops_is_counted() {
    let segments = half_bad();
    let options = "quarantine_max_bytes = 60000\nquarantine_when_full = 'drop_oldest'";
    let (ended, summed) = with_summary(&segments, options);
    ended.with_code(0);
    assert_eq!(summed["quarantined"], 1000);
    assert_eq!(summed["dropped"], 1000 - places(&segments).len());
}

#[test]
fn reasons_that_differ_in_a_place_only_are_one() {
    let segments = Segments::generate(1, 1, 1);
    let text: String = (1..=50).map(|n| format!("{{\"n\":\"{}\n", "x".repeat(n))).collect();
    fs::write(segments.directory().join("99999999-000000.0"), text).unwrap();
    tailweir().arg("tail").arg(segments.directory()).args("--checkpoint q --once").run().with_code(0);
    let listed = quarantine(&segments, "list").arg("--json").run().quietly();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["records"]), (1, &Value::from(50)), "{listed}");
    // It may be given as it is listed.
    let drop = quarantine(&segments, "drop").arg("--reason").arg(listed[0]["reason"].as_str().unwrap());
    assert_eq!(drop.run().quietly(), "50 dropped, 0 left\n");
}

/// It used to end the program with a panic.
#[test]
fn a_time_beyond_all_calendars_is_shown_as_a_number() {
    let (segments, _) = segments();
    processor(&segments, "[3] = 'a'");
    tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    let file = segments.directory().join(".q.quarantine");
    let entry = lines(&file).remove(0);
    for time in [253_402_300_799, 253_402_300_800, u64::MAX] {
        let mut entry = entry.clone();
        entry["time"] = time.into();
        fs::write(&file, format!("{entry}\n")).unwrap();
        let shown =
            if time == 253_402_300_799 { "9999-12-31T23:59:59Z".to_owned() } else { time.to_string() };
        for what in ["list", "show"] {
            let said = quarantine(&segments, what).run().quietly();
            assert!(said.contains(&shown), "{said}");
        }
    }
}

/// All but `list` used to pass over them without a word.
#[test]
fn entries_that_can_not_be_read_are_named_by_every_command() {
    let (segments, _) = segments();
    processor(&segments, "[3] = 'a', [47] = 'b', [48] = 'b'");
    tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    let file = segments.directory().join(".q.quarantine");
    let mended = fs::read_to_string(&file).unwrap().replacen("\"line\":47", "line\":47", 1);
    fs::write(&file, mended).unwrap();
    let told = |line: u64, program: Program| {
        let ended = program.run();
        let expected =
            format!("a line of the quarantine can't be read: .q.quarantine:{line}. It was either torn");
        assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
        ended.with_code(0);
    };
    told(2, quarantine(&segments, "list"));
    told(2, quarantine(&segments, "list").arg("--json"));
    told(2, quarantine(&segments, "show"));
    told(2, tailweir().arg("status").arg(segments.directory()));
    // The first entry goes.
    told(1, quarantine(&segments, "replay").arg("--stdout").arg("--reason").arg("refused a"));
    told(1, quarantine(&segments, "drop").arg("--all"));
    let status = tailweir().arg("status").arg(segments.directory()).arg("--json").run();
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(
        (&status[0]["quarantined"], &status[0]["quarantine_unreadable"]),
        (&Value::from(0), &Value::from(1))
    );
}

/// They used to find nothing in it, and `drop` left a lock behind.
#[test]
fn a_mistyped_name_is_an_error_that_names_what_there_is() {
    let (segments, _) = segments();
    tailweir().arg("tail").arg(segments.directory()).args("--checkpoint fine --once").run();
    let command = |what: &str, name: &str, rest: &str| {
        tailweir().arg("quarantine").arg(what).arg(segments.directory()).arg(name).args(rest).run()
    };
    let commands = [("list", ""), ("show", ""), ("drop", "--all"), ("replay", "--stdout")];
    for (what, rest) in commands {
        let said = command(what, "nosuch", rest).with_code(1);
        assert!(said.contains("is called `nosuch`, and no quarantine; there is no quarantine"), "{said}");
        command(what, "fine", rest).with_code(0);
    }
    fs::write(segments.directory().join(".bounces.quarantine"), "").unwrap();
    fs::write(segments.directory().join(".q.quarantine.1"), "").unwrap();
    for (what, rest) in commands {
        let said = command(what, "bonuces", rest).with_code(1);
        assert!(said.contains("did you mean `bounces`? There are `bounces`, `q`"), "{said}");
        let said = command(what, "zzz", rest).with_code(1);
        assert!(said.contains("there are `bounces`, `q`"), "{said}");
    }
    for file in [".nosuch.lock", ".bonuces.lock", ".zzz.lock"] {
        assert!(!segments.directory().join(file).exists(), "{file}");
    }
}

/// It used to be readable by others if the umask let them, and to stay when the program was killed.
#[test]
fn the_folder_of_a_replay_is_private_and_goes_with_the_next_one() {
    let (segments, _) = segments();
    processor(&segments, "[3] = 'a'");
    let file = pipeline(&segments, "");
    tailweir().arg("run").arg(&file).arg("--once").run().with_code(0);
    segments
        .beside("processor.lua", "return function() print 'hangs' io.stdout:flush() while true do end end");
    let (folder, replay) = temporary(&segments, quarantine(&segments, "replay").arg("--pipeline").arg(&file));
    let mut running = replay.start();
    assert_eq!(running.line().as_deref(), Some("hangs"));
    let room = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(&room).unwrap().permissions().mode() & 0o777, 0o700);
    running.signal(Signal::KILL);
    running.end();
    assert!(room.exists());
    let (_, replay) = temporary(&segments, quarantine(&segments, "replay").arg("--stdout"));
    replay.run().with_code(0);
    assert!(is_empty(&folder));
}

/// 35 MB of it were once kept for each record.
#[test]
fn of_a_long_reason_the_beginning_is_kept() {
    let (segments, _) = segments();
    let text = "return function(batch) return nil, { reject = { 1 }, reason = ('ä'):rep(1000000) } end";
    segments.beside("processor.lua", text);
    let said = tailweir().arg("run").arg(pipeline(&segments, "")).arg("--once").run().with_code(0);
    assert!(said.len() < 100_000, "{}", said.len());
    let entries = lines(&segments.directory().join(".q.quarantine"));
    assert_eq!(entries[0]["reason"], "ä".repeat(2048) + "… (1995904 more bytes)");
}
