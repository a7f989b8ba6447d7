//! `tailweir tail`.

use std::collections::HashSet;

use rustix::process::Signal;
use tailweir_tests::{Program, Segments, id, of_pool, repository, wait_for};

use crate::tailweir;

fn tail(segments: &Segments) -> Program {
    tailweir().arg("tail").arg(segments.directory())
}

fn with_component(program: Program, pool: &str) -> Program {
    let filter = repository("examples/plugins/pool-filter/pool-filter.wasm");
    program.arg("--filter").arg(filter).arg("--config").arg(format!(r#"{{"pool":"{pool}"}}"#))
}

#[test]
fn each_kind_of_filter_gives_the_oracles_records_byte_for_byte() {
    let segments = Segments::generate(20_000, 4, 1);
    let filter = "local c = ... return function(r) return r.egress_pool == c.pool end";
    let filter = segments.beside("filter.lua", filter);
    assert_eq!(tail(&segments).arg("--once").run().quietly(), segments.kept(|_| true));
    let expected = segments.kept(of_pool("customer-b"));
    let lua = tail(&segments).arg("--once").arg("--filter").arg(filter);
    let lua = lua.arg("--config").arg(r#"{"pool":"customer-b"}"#);
    assert_eq!(lua.run().quietly(), expected);
    assert_eq!(with_component(tail(&segments), "customer-b").arg("--once").run().quietly(), expected);
}

#[test]
fn a_checkpoint_is_gone_on_from() {
    let segments = Segments::generate(1_000, 3, 2);
    let run = || tail(&segments).args("--once --checkpoint t --max-batch-size 7").run().quietly();
    assert_eq!(run(), segments.kept(|_| true));
    assert_eq!(run(), "");
    let latest = tail(&segments).args("--once --checkpoint t --latest").run().quietly();
    let newest = segments.lines().into_values().next_back().unwrap();
    assert_eq!(latest.lines().collect::<Vec<_>>(), newest);
}

#[test]
fn patterns_choose_segments() {
    let segments = Segments::generate(300, 3, 3);
    let lines = segments.lines();
    let (name, expected) = lines.first_key_value().unwrap();
    let only = tail(&segments).arg("--once").arg("--pattern").arg(format!("*{}", &name[8..])).run().quietly();
    assert_eq!(only.lines().collect::<Vec<_>>(), *expected);
}

#[test]
fn f23_a_kill_at_any_point_loses_nothing() {
    for seed in 0..4 {
        let segments = Segments::generate(12_000, 3, seed);
        let expected = segments.ids(of_pool("customer-a"));
        let start = || {
            let program = tail(&segments).args("--checkpoint k --max-batch-size 100");
            with_component(program, "customer-a").start()
        };
        let mut arrived = Vec::new();
        // Kills after so many lines, which differ with the seed; the pipe makes the program wait for us in between.
        for lines in [1 + seed * 97, 350 + seed, 50] {
            let mut running = start();
            for _ in 0..lines {
                arrived.push(id(&running.line().expect("a line")));
            }
            running.signal(Signal::KILL);
            let rest = running.end();
            assert_eq!(rest.signal, Some(9));
            // What is in the pipe was written and may have been committed. Its last line may be torn.
            let whole = rest.stdout.rfind('\n').map_or("", |end| &rest.stdout[..end]);
            arrived.extend(whole.lines().map(id));
        }
        let program = tail(&segments).args("--checkpoint k --once");
        arrived.extend(with_component(program, "customer-a").run().quietly().lines().map(id));
        let distinct: HashSet<&String> = arrived.iter().collect();
        assert_eq!(distinct, expected.iter().collect(), "seed {seed}");
        // At most the batch in flight comes again after each kill: the pipe holds no more than was written.
        assert!(
            arrived.len() - expected.len() <= 300,
            "seed {seed}: {} too many",
            arrived.len() - expected.len()
        );
    }
}

#[test]
fn a_broken_pipe_ends_it_quietly_and_what_was_not_read_by_then_comes_again() {
    let segments = Segments::generate(20_000, 2, 5);
    let mut running = tail(&segments).args("--checkpoint b --max-batch-size 50").start();
    let first = running.line().unwrap();
    assert_eq!(first + "\n", segments.kept(|_| true).split_inclusive('\n').next().unwrap());
    running.close_stdout();
    assert_eq!(running.end().quietly(), "");
    // It can have written no more than a pipe holds before it noticed.
    let committed = segments.checkpoint("b")["line"].as_u64().unwrap();
    assert!(committed <= 1_000, "{committed} lines are committed");
    let rest = tail(&segments).args("--checkpoint b --once").run().quietly();
    assert_eq!(rest.lines().count() as u64, 20_000 - committed);
}

#[test]
fn a_reader_that_goes_away_while_nothing_happens_is_noticed() {
    let segments = Segments::generate(10, 1, 6);
    let mut running = tail(&segments).start();
    for _ in 0..10 {
        running.line().unwrap();
    }
    running.close_stdout();
    assert_eq!(running.end().quietly(), "");
}

#[test]
fn f23_signals_end_it_in_good_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let segments = Segments::generate(500, 1, 7);
        let mut running = tail(&segments).args("--checkpoint s").start();
        for _ in 0..500 {
            running.line().unwrap();
        }
        wait_for("the commit", || segments.directory().join(".s").exists());
        running.signal(signal);
        assert_eq!(running.end().quietly(), "");
        assert_eq!(tail(&segments).args("--checkpoint s --once").run().quietly(), "");
    }
}

/// Says to a program that is about to begin what it is to do with SIGHUP: what the tests run in may say otherwise.
fn with_hangup(what: &str) -> Program {
    Program::new("env").arg(format!("--{what}-signal=HUP")).arg(env!("CARGO_BIN_EXE_tailweir"))
}

/// Prints what comes, and commits.
fn hung_up(what: &str, segments: &Segments) -> Program {
    let program = with_hangup(what).arg("tail").arg(segments.directory());
    program.args("--checkpoint h --max-batch-latency 10ms")
}

#[test]
fn a_terminal_that_goes_away_ends_a_script_in_good_order() {
    let segments = Segments::generate(500, 1, 7);
    let script = format!(
        "local kumo = require 'kumo'
         local tailer <close> = kumo.jsonl.new_tailer {{ directory = '{}', checkpoint_name = 'h', max_batch_latency = 0.01 }}
         for batch in tailer:batches() do
           for _ in batch:iter_records() do print 'one' end
           batch:commit()
         end
         print 'the end'",
        segments.directory().display()
    );
    let program = with_hangup("default").args("script --summary=json").arg(segments.beside("s.lua", &script));
    let mut running = program.start();
    for _ in 0..500 {
        running.line().unwrap();
    }
    wait_for("the commit", || segments.directory().join(".h").exists());
    running.signal(Signal::HUP);
    assert_eq!(running.line().as_deref(), Some("the end"));
    let said = running.end().with_code(0);
    assert!(said.contains("\"acknowledged\":500"), "{said}");
}

#[test]
fn a_terminal_that_goes_away_ends_it_in_good_order_unless_there_is_something_to_read_again() {
    for filter in ["", "return function() return true end"] {
        let segments = Segments::generate(500, 1, 7);
        let mut program = hung_up("default", &segments);
        if !filter.is_empty() {
            program = program.arg("--filter").arg(segments.beside("f.lua", filter));
        }
        let mut running = program.start();
        for _ in 0..500 {
            running.line().unwrap();
        }
        wait_for("the commit", || segments.directory().join(".h").exists());
        running.signal(Signal::HUP);
        // The shell and the system tell of it.
        running.signal(Signal::HUP);
        assert_eq!(running.end().quietly(), "");
        assert_eq!(tail(&segments).args("--checkpoint h --once").run().quietly(), "");
    }
}

#[test]
fn whoever_is_told_to_ignore_that_its_terminal_goes_away_goes_on() {
    let segments = Segments::generate(10, 1, 7);
    let mut running = hung_up("ignore", &segments).start();
    for _ in 0..10 {
        running.line().unwrap();
    }
    running.signal(Signal::HUP);
    std::fs::write(segments.directory().join("90000000-000000"), "{\"id\":\"last\"}\n").unwrap();
    assert_eq!(running.line().as_deref(), Some("{\"id\":\"last\"}"));
    running.signal(Signal::TERM);
    assert_eq!(running.end().quietly(), "");
}

#[test]
fn what_is_not_read_again_cannot_be_read_again_on_change() {
    let segments = Segments::generate(10, 1, 7);
    let filter = segments.beside("f.lua", "return function() return true end");
    let program = tail(&segments).args("--once --reload-on-change --filter").arg(&filter);
    let said = program.run().with_code(2);
    assert!(said.contains("--reload-on-change: no --filter is a component"), "{said}");
    // A shadow counts.
    let program = tail(&segments).args("--once --reload-on-change --filter").arg(filter).arg("--shadow");
    let shadow = program.arg(repository("examples/plugins/pool-filter/pool-filter.wasm"));
    assert_eq!(shadow.arg("--shadow-config").arg(r#"{"pool":"a"}"#).run().code, Some(0));
}

#[test]
fn f23_signals_in_the_middle_of_a_batch_let_it_be_finished() {
    for signal in [Signal::INT, Signal::TERM] {
        let segments = Segments::generate(20_000, 1, 7);
        let mut running = tail(&segments).args("--checkpoint s").start();
        let first = running.line().unwrap();
        // More than a pipe holds is to come, so it is in the middle of a batch, and can't go on until the rest is read.
        running.signal(signal);
        let all = first + "\n" + &running.end().quietly();
        let rest = tail(&segments).args("--checkpoint s --once").run().quietly();
        assert!(!rest.is_empty(), "it was asked to end long before");
        assert_eq!(all + &rest, segments.kept(|_| true));
    }
}

#[test]
fn a_second_process_on_a_checkpoint_is_refused_by_name() {
    let segments = Segments::generate(10, 1, 8);
    let mut first = tail(&segments).args("--checkpoint x").start();
    first.line().unwrap();
    let refused = tail(&segments).args("--checkpoint x --once").run().with_code(1);
    assert!(refused.contains(&first.pid().to_string()) && refused.contains("`x`"), "{refused}");
}

#[test]
fn a_filter_that_fails_names_the_record() {
    let segments = Segments::generate(10, 1, 9);
    let filter = segments.beside("f.lua", "return function(r) return r.no.such end");
    let error = tail(&segments).arg("--once").arg("--filter").arg(filter).run().with_code(1);
    let (name, _) = segments.lines().pop_first().unwrap();
    assert!(error.starts_with(&format!("Error: the filter failed at {name}:1")), "{error}");
    assert!(error.contains("f.lua:1: attempt to index a nil value (field 'no')"), "{error}");
    assert!(!error.contains("runtime error"), "{error}");
    let broken = segments.beside("f.lua", "error('not today')");
    let error = tail(&segments).arg("--once").arg("--filter").arg(broken).run().with_code(1);
    assert!(error.contains("not today") && !error.contains("runtime error"), "{error}");
}
