//! `kumo.jsonl`: tailers, multi tailers and writers, as scripts use them.

#![allow(clippy::unwrap_used)]

mod script_support;

use std::path::Path;
use std::sync::Arc;

use script_support::{collector, first_line_of_error, records, run_file, run_with, segment};
use tailweir_core::{
    Batch, Failure, Filter, FilterError, FilterFactory, Outcome, ProcessFuture, Processor, Verdict,
};
use tailweir_lua::{Extension, FilterHandle, ProcessorHandle};
use tempfile::TempDir;

/// A directory with one segment that holds the records 0 to `count`.
fn logs(count: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    segment(directory.path(), "20260101-000000.1.zst", &records("a", 0..count));
    directory
}

/// Runs a script in which `DIR` is the directory, and returns what it gave to `see`.
fn see(directory: &Path, source: &str) -> Vec<String> {
    see_with(directory, source, Vec::new())
}

fn see_with(directory: &Path, source: &str, mut extensions: Vec<Extension>) -> Vec<String> {
    let (extension, seen) = collector("see");
    extensions.push(extension);
    let source =
        format!("local kumo = require 'kumo'\n{}", source.replace("DIR", directory.to_str().unwrap()));
    if let Err(error) = run_with(&source, &[], extensions) {
        panic!("{error}\nafter {:?}", seen.borrow());
    }
    seen.take()
}

#[test]
fn the_first_example_of_the_documentation_delivers_and_commits() {
    for (name, source, records) in [
        ("tailer", include_str!("scripts/tailer.lua"), 3),
        ("multi_tailer", include_str!("scripts/multi_tailer.lua"), 3),
    ] {
        let logs = logs(records);
        let (extension, seen) = collector("print");
        let script = logs.path().join(format!(".{name}.lua"));
        std::fs::write(&script, source.replace("/var/log/kumomta", logs.path().to_str().unwrap())).unwrap();
        let done = {
            let seen = seen.clone();
            async move {
                while seen.borrow().len() < records {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        };
        run_file(&script, &[], vec![extension], done).unwrap();
        let prefix = if name == "tailer" { "delivered" } else { "deliveries" };
        assert_eq!(*seen.borrow(), [0, 1, 2].map(|n| format!("{prefix}: a-{n}")));
        // All of it was committed: a second run finds nothing.
        let checkpoint = if name == "tailer" { "delivery-processor" } else { "cp-del" };
        let rest = see(
            logs.path(),
            &format!("local t = kumo.jsonl.new_tailer {{ directory = 'DIR', checkpoint_name = '{checkpoint}', follow = false }}
             for batch in t:batches() do see(#batch) end"),
        );
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[test]
fn batches_are_filled_filtered_and_told_apart() {
    let logs = logs(10);
    let seen = see(
        logs.path(),
        "local tailer = kumo.jsonl.new_tailer({ directory = 'DIR', max_batch_size = 3, follow = false },
           function(record) return record.n % 2 == 0 end)
         for batch in tailer:batches() do
           local ids = {}
           for record in batch:iter_records() do ids[#ids + 1] = record.n end
           see(batch:consumer_name() .. ' ' .. #batch .. ' ' .. table.concat(ids, ','))
           assert(#batch:records() == #ids and #batch:positions() == #ids and type(batch:id()) == 'string')
         end
         assert(tailer:batches()() == nil)",
    );
    assert_eq!(seen, ["default 3 0,2,4", "default 2 6,8"]);
}

#[test]
fn leaving_the_loop_ends_nothing_and_a_second_loop_goes_on() {
    let logs = logs(4);
    let seen = see(
        logs.path(),
        "local tailer = kumo.jsonl.new_tailer { directory = 'DIR', max_batch_size = 1, follow = false }
         for batch in tailer:batches() do see(batch:records()[1].n); break end
         local next_batch = tailer:batches()
         see(next_batch():records()[1].n)
         for batch in tailer:batches() do see(batch:records()[1].n) end",
    );
    assert_eq!(seen, ["0", "1", "2", "3"]);
}

#[test]
fn closing_inside_the_loop_ends_it_and_commit_works_after() {
    let logs = logs(4);
    let seen = see(
        logs.path(),
        "local function open() return kumo.jsonl.new_tailer { directory = 'DIR', max_batch_size = 1, checkpoint_name = 'c' } end
         local tailer = open()
         for batch in tailer:batches() do
           see(batch:records()[1].n)
           tailer:close()
           batch:commit()
         end
         assert(tailer:batches()() == nil)
         tailer:close()
         do
           local again <close> = open()
           see(again:batches()():records()[1].n)
         end
         local third <close> = open()
         see(third:batches()():records()[1].n)",
    );
    assert_eq!(seen, ["0", "1", "1"]);
}

#[test]
fn a_pending_poll_returns_nil_when_the_tailer_is_closed() {
    // Two coroutines in one script: the first waits for a batch that never comes, while the second closes the tailer.
    let directory = tempfile::tempdir().unwrap();
    let join: Extension = Box::new(|lua, _| {
        let join = lua.create_async_function(|_, (a, b): (mlua::Function, mlua::Function)| async move {
            let (a, b) = tokio::join!(a.call_async::<()>(()), b.call_async::<()>(()));
            a.and(b)
        })?;
        lua.globals().set("join", join)
    });
    let source = "local tailer = kumo.jsonl.new_tailer { directory = 'DIR', checkpoint_name = 'c' }
         join(function() see(tailer:batches()() == nil) end, function()
           kumo.time.sleep(0.01)
           see(pcall(tailer:batches()))
           tailer:close()
         end)
         kumo.jsonl.new_tailer { directory = 'DIR', checkpoint_name = 'c' }";
    assert_eq!(see_with(directory.path(), source, vec![join]), ["false", "true"]);
}

#[test]
fn coroutines_of_a_script_may_wait() {
    let logs = logs(5);
    let seen = see(
        logs.path(),
        "local function each(co)
           local tailer <close> = kumo.jsonl.new_tailer { directory = 'DIR', max_batch_size = 2, follow = false }
           for batch in tailer:batches() do
             for record in batch:iter_records() do coroutine.yield(record.n, #batch) end
             kumo.time.sleep(0.001)
           end
           return nil
         end
         for n, size in coroutine.wrap(each) do see(n .. ' of ' .. size) end
         local co = coroutine.create(function(a)
           kumo.time.sleep(0.001)
           local b = coroutine.yield(a + 1)
           local inner = coroutine.wrap(function() kumo.time.sleep(0.001) coroutine.yield(b) kumo.time.sleep(0.001) end)
           see(inner())
           see(select('#', inner()))
           kumo.time.sleep(0.001)
           error('no more')
         end)
         see(table.concat({ tostring(coroutine.resume(co, 1)), select(2, coroutine.resume(co, 'b')) }, ' '))
         see(coroutine.status(co))",
    );
    assert_eq!(seen[..5], ["0 of 2", "1 of 2", "2 of 2", "3 of 2", "4 of 1"]);
    assert_eq!(seen[5..7], ["b", "0"]);
    assert!(seen[7].starts_with("true ") && seen[7].contains(":18: no more"), "{seen:?}");
    assert_eq!(seen[8], "dead");
}

#[test]
fn a_wrapped_coroutine_raises_as_in_plain_lua() {
    let directory = tempfile::tempdir().unwrap();
    let seen = see(
        directory.path(),
        "local closed = 0
         local function failing(what)
           return coroutine.wrap(function()
             local guard <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
             kumo.time.sleep(0.001)
             error(what)
           end)
         end
         see(tostring(select(2, pcall(function() local x = failing('text')() end))):gsub('[^ ]*script.lua', 'S'))
         local object = {}
         see(select(2, pcall(failing(object))) == object)
         see(closed)
         local done = coroutine.wrap(function() end)
         done()
         see(tostring(select(2, pcall(done))))",
    );
    assert_eq!(seen, ["S:10: S:7: text", "true", "2", "cannot resume dead coroutine"]);
}

/// Runs only in a process of its own, which `os_exit_finishes_segments_first` starts.
#[test]
#[ignore = "ends the process"]
fn exits() {
    let directory = std::env::var("EXIT_DIRECTORY").unwrap();
    see(
        directory.as_ref(),
        "local writer = kumo.jsonl.new_writer { log_dir = 'DIR', flush_interval = '1h' }
         writer:write_record { n = 1 }
         os.exit(7)",
    );
}

#[test]
fn os_exit_finishes_segments_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "exits", "--ignored"]).env("EXIT_DIRECTORY", directory.path());
    assert_eq!(command.output().unwrap().status.code(), Some(7));
    let segment = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap();
    assert!(segment.metadata().unwrap().permissions().readonly());
    let text = zstd::decode_all(std::fs::File::open(segment.path()).unwrap()).unwrap();
    assert_eq!(text, b"{\"n\":1}\n");
}

#[test]
fn a_second_commit_is_an_error() {
    let logs = logs(1);
    let seen = see(
        logs.path(),
        "local tailer = kumo.jsonl.new_tailer { directory = 'DIR', checkpoint_name = 'c', checkpoint_sync = 'always' }
         local batch = tailer:batches()()
         batch:commit()
         local ok, err = pcall(batch.commit, batch)
         see(tostring(err):match('[^\\n]*'))",
    );
    assert_eq!(seen, ["batch has already been committed"]);
}

#[test]
fn an_error_in_the_filter_names_the_record_and_comes_after_the_good_ones() {
    let logs = logs(5);
    let seen = see(
        logs.path(),
        "local tailer = kumo.jsonl.new_tailer({ directory = 'DIR', follow = false }, function(record)
           return record.n < 3 or record.nothing.here
         end)
         local ok, err = pcall(function()
           for batch in tailer:batches() do see(#batch) end
         end)
         see(tostring(err))",
    );
    assert_eq!(seen[0], "3");
    let line = seen[1].lines().next().unwrap();
    assert!(
        line.starts_with("the filter failed at 20260101-000000.1.zst:4: /")
            && line.contains("script.lua:3: "),
        "{line}"
    );
    assert!(line.ends_with("attempt to index a nil value (field 'nothing')"), "{line}");
    assert_eq!(seen[1].matches("attempt to index").count(), 1, "{}", seen[1]);
}

#[test]
fn a_filter_that_waits_is_told_that_it_cannot() {
    let logs = logs(1);
    let seen = see(
        logs.path(),
        "local tailer = kumo.jsonl.new_tailer({ directory = 'DIR' }, function() kumo.time.sleep(1) return true end)
         local ok, err = pcall(tailer:batches())
         see(tostring(err))",
    );
    let expected = "the filter failed at 20260101-000000.1.zst:1: a filter must answer at once";
    assert!(seen[0].starts_with(expected), "{}", seen[0]);
}

#[test]
fn consumers_of_a_multi_tailer_are_ready_independently() {
    let logs = logs(6);
    let seen = see(
        logs.path(),
        "local tailer = kumo.jsonl.new_multi_tailer {
           directory = 'DIR', follow = false, on_malformed = 'skip',
           consumers = {
             { name = 'even', max_batch_size = 2, filter = function(r) return r.n % 2 == 0 end },
             { name = 'none', checkpoint_name = 'none', filter = function(r) return false end },
             { name = 'bad', filter = function(r) if r.n == 5 then error('five') end return true end },
           },
         }
         local iterator, even, failure = tailer:batches(), 0, nil
         while true do
           local ok, batches = pcall(iterator)
           if not ok then
             failure = failure or tostring(batches):match('[^\\n]*')
           elseif not batches then
             break
           else
             for _, batch in ipairs(batches) do
               see(batch:consumer_name() .. ' ' .. #batch)
               if batch:consumer_name() == 'even' then even = even + #batch end
             end
           end
           -- The consumer that failed fails again each time, and the others go on.
           if failure and even == 3 then tailer:close() end
         end
         see(failure)",
    );
    let mut seen = seen;
    seen.sort();
    let failed = seen
        .remove(seen.iter().position(|s| s.starts_with("consumer `bad`: the filter failed at ")).unwrap());
    assert!(failed.ends_with("five"), "{failed}");
    assert_eq!(seen, ["bad 5", "even 1", "even 2"]);
}

#[test]
fn options_that_are_wrong_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let check = |call: &str, expected: &str| {
        let call = call.replace("DIR", directory.path().to_str().unwrap());
        let message = first_line_of_error(&format!("require('kumo').jsonl.{call}"));
        let function = call.split(['{', '(', ' ']).next().unwrap();
        assert_eq!(message, format!("kumo.jsonl.{function}{expected}"));
    };
    check(
        "new_tailer { directory = 'DIR', checkpoint_nmae = 'x' }",
        ": unknown option `checkpoint_nmae`; did you mean `checkpoint_name`?",
    );
    check("new_tailer {}", ": option `directory` is required");
    check(
        "new_tailer('DIR')",
        &format!(": expected a table of options, got '{}'", shortened(directory.path())),
    );
    check("new_tailer { directory = 1 }", ": option `directory` must be a string, got 1");
    check("new_tailer { directory = '' }", ": option `directory` must be a path, got ''");
    check(
        "new_tailer { directory = 'DIR', max_batch_size = 0 }",
        ": option `max_batch_size` must be a whole number above zero, got 0",
    );
    check(
        "new_tailer { directory = 'DIR', max_batch_size = '5' }",
        ": option `max_batch_size` must be a whole number above zero, got '5'",
    );
    check(
        "new_tailer { directory = 'DIR', max_line_size = 1.5 }",
        ": option `max_line_size` must be a whole number above zero, got 1.5",
    );
    check(
        "new_tailer { directory = 'DIR', max_batch_bytes = -1 }",
        ": option `max_batch_bytes` must be a whole number above zero, got -1",
    );
    check(
        "new_tailer { directory = 'DIR', max_uncommitted = {} }",
        ": option `max_uncommitted` must be a whole number above zero, got a table",
    );
    check(
        "new_tailer { directory = 'DIR', tail = 'yes' }",
        ": option `tail` must be true or false, got 'yes'",
    );
    check("new_tailer { directory = 'DIR', follow = 0 }", ": option `follow` must be true or false, got 0");
    check(
        "new_tailer { directory = 'DIR', max_batch_latency = '1 parsec' }",
        ": option `max_batch_latency` must be a duration such as '500ms', '1s' or '2m 30s', or a number of seconds, got '1 parsec'",
    );
    check(
        "new_tailer { directory = 'DIR', poll_watcher = 0 }",
        ": option `poll_watcher` must be more than zero, got 0",
    );
    check(
        "new_tailer { directory = 'DIR', ordering = 'time' }",
        ": option `ordering` must be 'name' or 'strict', got 'time'",
    );
    check(
        "new_tailer { directory = 'DIR', on_malformed = 'drop' }",
        ": option `on_malformed` must be 'quarantine' or 'skip' or 'fail', got 'drop'",
    );
    check(
        "new_tailer { directory = 'DIR', checkpoint_sync = 'never' }",
        ": option `checkpoint_sync` must be 'always' or a duration such as '500ms', '1s' or '2m 30s', or a number of seconds, above zero, got 'never'",
    );
    check(
        "new_tailer({ directory = 'DIR' }, 'x')",
        ": the filter must be a function, a filter made by kumo.wasm, or an array of such, got 'x'",
    );
    check("new_multi_tailer { directory = 'DIR' }", ": option `consumers` is required");
    check(
        "new_multi_tailer { directory = 'DIR', consumers = {} }",
        ": option `consumers` must be an array of at least one table, got a table",
    );
    check(
        "new_multi_tailer { directory = 'DIR', consumers = { {} } }",
        ": consumers[1]: option `name` is required",
    );
    check(
        "new_multi_tailer { directory = 'DIR', consumers = { { name = 'a', filtre = print } } }",
        ": consumers[1]: unknown option `filtre`; did you mean `filter`?",
    );
    check(
        "new_multi_tailer { directory = 'DIR', consumers = { { name = 'a' }, nil, { name = 'b' } } }",
        ": consumers[2] is missing, but there is consumers[3]",
    );
    check(
        "new_writer { directory = 'DIR' }",
        ": unknown option `directory`; the options are log_dir, max_file_size, compression_level, max_segment_duration, suffix, tz, max_record_size, frame_bytes, flush_interval",
    );
    check(
        "new_writer { log_dir = 'DIR', compression_level = 23 }",
        ": option `compression_level` must be a whole number from 0 to 22, got 23",
    );
}

fn shortened(path: &Path) -> String {
    let path = path.display().to_string();
    path.char_indices().nth(60).map_or(path.clone(), |(cut, _)| format!("{}…", &path[..cut]))
}

#[test]
fn what_cannot_be_opened_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let missing = first_line_of_error("require('kumo').jsonl.new_tailer { directory = '/nonexistent/logs' }");
    assert!(
        missing.starts_with("kumo.jsonl.new_tailer: ") && missing.contains("/nonexistent/logs"),
        "{missing}"
    );
    let twice = format!(
        "local open = function() return require('kumo').jsonl.new_tailer {{ directory = '{path}', checkpoint_name = 'c' }} end
         local first = open()
         local second = open()
         first:close()"
    );
    assert_eq!(
        first_line_of_error(&twice),
        format!(
            "kumo.jsonl.new_tailer: the checkpoint `c` in {path} is in use by another tailer of this process that is not \
             closed"
        )
    );
    let pattern = first_line_of_error(&format!(
        "require('kumo').jsonl.new_tailer {{ directory = '{path}', pattern = '[' }}"
    ));
    assert!(pattern.starts_with("kumo.jsonl.new_tailer: ") && pattern.contains("`[`"), "{pattern}");
    let names = first_line_of_error(&format!(
        "require('kumo').jsonl.new_multi_tailer {{ directory = '{path}', consumers = {{ {{ name = 'a' }}, {{ name = 'a' }} }} }}"
    ));
    assert_eq!(names, "kumo.jsonl.new_multi_tailer: two consumers have the name `a`");
    let tz = first_line_of_error(&format!(
        "require('kumo').jsonl.new_writer {{ log_dir = '{path}', tz = 'Mars/X' }}"
    ));
    assert!(tz.starts_with("kumo.jsonl.new_writer: `tz`: `Mars/X` is not the name of a time zone"), "{tz}");
}

#[test]
fn batches_without_commit_are_bounded() {
    let logs = logs(5);
    let seen = see(
        logs.path(),
        "local tailer = kumo.jsonl.new_tailer {
           directory = 'DIR', checkpoint_name = 'c', max_batch_size = 1, max_uncommitted = 2, follow = false,
         }
         local iterator = tailer:batches()
         local first, second = iterator(), iterator()
         local ok, err = pcall(iterator)
         see(tostring(err):match('[^\\n]*'))
         second:commit()
         first:commit()
         see(iterator():records()[1].n)",
    );
    assert!(seen[0].starts_with("2 batches are not committed (max_uncommitted); the oldest is "), "{seen:?}");
    assert_eq!(seen[1], "2");
}

#[test]
fn names_of_checkpoints_stay_inside_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a/b", "../x", ".hidden", "", "x.lock", "x.quarantine"] {
        let path = directory.path().display();
        let call = format!(
            "require('kumo').jsonl.new_tailer {{ directory = '{path}', checkpoint_name = '{name}' }}"
        );
        let message = first_line_of_error(&call);
        assert!(
            message.starts_with(&format!("kumo.jsonl.new_tailer: checkpoint_name `{name}` ")),
            "{message}"
        );
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_a_writer_writes_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("new");
    let seen = see(
        &logs,
        r#"do
           local writer <close> = kumo.jsonl.new_writer { log_dir = 'DIR', suffix = '.zst', max_segment_duration = '1h',
             tz = 'Europe/Berlin', flush_interval = '1s', frame_bytes = 1000, max_record_size = 50 }
           writer:write_line '{"n":1, "spaced":true}'
           writer:write_line '{"n":2}\n'
           writer:write_record { n = 3 }
           writer:flush()
           see(pcall(writer.write_line, writer, ('x'):rep(50)))
         end
         local copy = kumo.jsonl.new_writer { log_dir = 'DIR/copy' }
         local tailer = kumo.jsonl.new_tailer { directory = 'DIR', pattern = '*.zst', follow = false }
         for batch in tailer:batches() do
           for record in batch:iter_records() do copy:write_record(record) end
         end
         copy:close()
         see(pcall(copy.write_line, copy, '{}'))
         for batch in kumo.jsonl.new_tailer { directory = 'DIR/copy', follow = false }:batches() do
           for record in batch:iter_records() do see(kumo.serde.json_encode(record)) end
         end"#,
    );
    assert_eq!(seen, ["false", "false", r#"{"n":1, "spaced":true}"#, r#"{"n":2}"#, r#"{"n":3}"#]);
}

/// Keeps the records whose `n` is odd.
struct Odd;

impl Filter for Odd {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let odd = |n: Option<&str>| n.unwrap().parse::<u64>().unwrap() % 2 == 1;
        Ok(Verdict::Keep(candidates.iter().map(|record| odd(record.field("n"))).collect()))
    }
}

impl FilterFactory for Odd {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(Self))
    }
}

/// Answers in turn with each thing that a processor can answer.
struct Answers(u32);

impl Processor for Answers {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        self.0 += 1;
        let reason = format!("{} records", batch.len());
        let answer = match self.0 {
            1 => Ok(Outcome::Done),
            2 => Ok(Outcome::Emit(vec!["{}".to_owned(), "[]".to_owned()])),
            3 => Err(Failure::Retry { after: Some(std::time::Duration::from_millis(1500)), reason }),
            4 => Err(Failure::Reject { indices: vec![0, 2], reason }),
            5 => Err(Failure::Stop { reason }),
            _ => Err(Failure::Crash { reason }),
        };
        Box::pin(async move {
            tokio::task::yield_now().await;
            answer
        })
    }
}

#[test]
fn filters_and_processors_of_other_engines_are_used_like_lua_ones() {
    let logs = logs(6);
    let engine: Extension = Box::new(|lua, kumo| {
        let wasm = lua.create_table()?;
        wasm.set("filter", lua.create_function(|_, _: mlua::Table| Ok(FilterHandle(Arc::new(Odd))))?)?;
        wasm.set(
            "processor",
            lua.create_function(|_, _: mlua::Table| Ok(ProcessorHandle::new(Box::new(Answers(0)))))?,
        )?;
        kumo.set("wasm", wasm)
    });
    let seen = see_with(
        logs.path(),
        "local wasm = require 'kumo.wasm'
         local processor = wasm.processor {}
         local tailer = kumo.jsonl.new_tailer({ directory = 'DIR', follow = false }, wasm.filter {})
         for batch in tailer:batches() do
           see(processor:process(batch))
           see(table.concat(processor:process(batch), ' '))
           for _ = 3, 6 do
             local ok, failure = pcall(processor.process, processor, batch)
             assert(not ok and type(failure) == 'table')
             local indices = failure.indices and table.concat(failure.indices, ' ')
             see(('%s|%s|%s|%s|%s'):format(failure, failure.kind, failure.reason, failure.after, indices))
           end
         end
         for batch in kumo.jsonl.new_multi_tailer { directory = 'DIR', follow = false,
             consumers = { { name = 'odd', filter = wasm.filter {} } } }:batches() do see(#batch[1]) end
         see((select(2, pcall(processor.process, processor, {}))))",
        vec![engine],
    );
    assert_eq!(
        seen[..7],
        [
            "true",
            "{} []",
            "retry: 3 records|retry|3 records|1.5|nil",
            "2 records rejected: 3 records|reject|3 records|nil|1 3",
            "stop: 3 records|stop|3 records|nil|nil",
            "3 records|crash|3 records|nil|nil",
            "3",
        ]
    );
    assert!(seen[7].starts_with("process: expected a batch, got a table"), "{}", seen[7]);
}

#[test]
fn open_tailers_end_when_the_program_is_told_to_stop() {
    let logs = logs(3);
    let (extension, seen) = collector("see");
    let script = logs.path().join(".script.lua");
    let source = "local kumo = require 'kumo'
        for batch in kumo.jsonl.new_tailer { directory = 'DIR', max_batch_latency = 0 }:batches() do see(#batch) end
        for batch in kumo.jsonl.new_tailer { directory = 'DIR' }:batches() do see 'none' end
        see 'ended'";
    std::fs::write(&script, source.replace("DIR", logs.path().to_str().unwrap())).unwrap();
    let got_one = {
        let seen = seen.clone();
        async move {
            while seen.borrow().is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    };
    run_file(&script, &[], vec![extension], got_one).unwrap();
    assert_eq!(seen.borrow().last().unwrap(), "ended");
    assert!(!seen.borrow().contains(&"none".to_owned()));
}
