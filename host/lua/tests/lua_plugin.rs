//! Lua functions as filters and processors, and the batch object.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::batch;
use mlua::{Function, Lua};
use serde_json::json;
use tailweir_core::{Failure, Filter, Located, Outcome, Processor, Verdict};
use tailweir_lua::batch::LuaBatch;
use tailweir_lua::plugin::{LuaFilter, LuaProcessor, PluginFile, load_filter, load_processor};
use tailweir_lua::record::Records;

const LINES: [&str; 3] = [r#"{"n":1,"p":"a"}"#, r#"{"n":2,"p":"b"}"#, r#"{"n":3,"p":"a"}"#];

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn filter(script: &str) -> LuaFilter {
    let lua = Lua::new();
    let function = lua.load(script).set_name("=script").eval().unwrap();
    LuaFilter::new(&lua, function).unwrap()
}

#[test]
fn a_plug_in_cannot_end_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("exit.lua");
    std::fs::write(&path, "return function() os.exit(0) end").unwrap();
    let mut filter = load_filter(&path, &json!(null), &|_| Ok(())).unwrap();
    let error = filter.evaluate(&batch(&LINES)).unwrap_err().to_string();
    assert!(error.contains("a plug-in cannot end the program"), "{error}");
}

#[test]
fn a_filter_keeps_what_is_true_to_lua() {
    let check = |script: &str, expected: [bool; 3]| {
        let verdict = filter(script).evaluate(&batch(&LINES)).unwrap();
        assert_eq!(verdict, Verdict::Keep(expected.to_vec()), "{script}");
    };
    check("return function(r) return r.p == 'a' end", [true, false, true]);
    check("return function(r) return r.n end", [true, true, true]);
    check("return function(r) return r.missing end", [false, false, false]);
    check("return function(r) if r.n > 1 then return 0 end end", [false, true, true]);
    check("return function(r) return true, false end", [true, true, true]);
    // Each record is a table of its own, also when the script keeps them.
    check(
        "local kept = {} return function(r) kept[r] = r.n return kept[r] == r.n and #r == 0 end",
        [true, true, true],
    );
    check(
        "local last return function(r) local l = last last = r return l == nil or l.n == r.n - 1 end",
        [true; 3],
    );
}

#[test]
fn a_filter_error_says_on_which_record() {
    let mut filter =
        filter("return function(r)\n  if r.n == 2 then error('no ' .. r.n) end\n  return true\nend");
    let error = filter.evaluate(&batch(&LINES)).unwrap_err();
    assert_eq!(error.decided, [true]);
    assert_eq!(error.located, Located::Record);
    let text = error.source.to_string();
    assert!(text.contains("script:2: no 2") && text.contains("stack traceback"), "{text}");
    // It can be used again.
    assert!(filter.evaluate(&batch(&LINES[..1])).is_ok());
    let error = self::filter("return function(r) return r.n.x.y end").evaluate(&batch(&LINES)).unwrap_err();
    assert!(error.decided.is_empty() && error.source.to_string().contains("attempt to index"));
}

#[test]
fn a_filter_cannot_wait() {
    let lua = Lua::new();
    let wait = lua.create_async_function(|_, ()| async { tokio_yield().await }).unwrap();
    lua.globals().set("wait", wait).unwrap();
    let function = lua.load("return function(r) wait() return true end").eval().unwrap();
    let error = LuaFilter::new(&lua, function).unwrap().evaluate(&batch(&LINES)).unwrap_err();
    assert!(error.source.to_string().contains("yield"), "{}", error.source);
}

async fn tokio_yield() -> mlua::Result<()> {
    tokio::task::yield_now().await;
    Ok(())
}

fn process(body: &str) -> Result<Outcome, Failure> {
    let lua = Lua::new();
    let wait = lua.create_async_function(|_, ()| async { tokio_yield().await }).unwrap();
    lua.globals().set("wait", wait).unwrap();
    let function = lua.load(format!("return function(batch) {body} end")).set_name("=script").eval().unwrap();
    let mut processor = LuaProcessor::new(&lua, function).unwrap();
    block_on(processor.process(&batch(&LINES)))
}

#[test]
fn a_processor_answers() {
    let retry = |after, reason: &str| Failure::Retry { after, reason: reason.to_owned() };
    assert_eq!(process(""), Ok(Outcome::Done));
    assert_eq!(process("wait() return true"), Ok(Outcome::Done));
    assert_eq!(process("return {}"), Ok(Outcome::Emit(Vec::new())));
    let emitted = vec![LINES[0].to_owned(), r#"{"n":2,"p":"b","new":1}"#.to_owned(), "[1]".to_owned()];
    let script = "local r = batch:records() r[2].new = 1 return {r[1], r[2], '[1]'}";
    assert_eq!(process(script), Ok(Outcome::Emit(emitted)));
    let emitted = Ok(Outcome::Emit(vec!["{}".to_owned(), "[1]".to_owned()]));
    assert_eq!(process("return table.pack('{}', '[1]')"), emitted);
    assert_eq!(process("return {'{}\\n', '[1] \\r\\n'}"), emitted);
    assert_eq!(process("return table.pack()"), Ok(Outcome::Emit(Vec::new())));
    assert_eq!(
        process("return nil, {retry = '2s', reason = 'busy'}"),
        Err(retry(Some(Duration::from_secs(2)), "busy"))
    );
    let half = Some(Duration::from_millis(500));
    assert_eq!(process("return false, {retry = 0.5}"), Err(retry(half, "the processor asks for it")));
    assert_eq!(process("return nil, {retry = true, reason = 'x'}"), Err(retry(None, "x")));
    assert_eq!(process("return nil, 'sink is down'"), Err(retry(None, "sink is down")));
    assert_eq!(process("return false"), Err(retry(None, "the processor returned false")));
    let reject = Failure::Reject { indices: vec![0, 2], reason: "bad".to_owned() };
    assert_eq!(process("return nil, {reject = {3, 1, 3}, reason = 'bad'}"), Err(reject));
    assert_eq!(process("return nil, {stop = 'enough'}"), Err(Failure::Stop { reason: "enough".to_owned() }));
    let stop = Failure::Stop { reason: "why".to_owned() };
    assert_eq!(process("return nil, {stop = true, reason = 'why'}"), Err(stop));
}

#[test]
fn a_processor_that_breaks_says_how() {
    let check = |body: &str, expected: &str| match process(body) {
        Err(Failure::Crash { reason }) => assert!(reason.contains(expected), "{reason}"),
        other => panic!("{body}: {other:?}"),
    };
    check("error('broken')", "script:1: broken");
    check("error('broken')", "stack traceback");
    check("return 1", "this one returned integer and nil");
    check("return nil, {rety = 1}", "unknown key `rety` in the processor's answer; did you mean `retry`?");
    check("return nil, {reason = 'x'}", "exactly one of `retry`, `reject` and `stop`");
    check("return nil, {retry = 1, stop = true}", "exactly one of");
    check("return nil, {retry = '2 parsecs'}", "`retry = '2 parsecs'` is no duration");
    check("return nil, {retry = -1}", "is no number of seconds");
    check("return nil, {reject = {4}}", "`reject` names record 4, but the batch has records 1 to 3");
    check("return nil, {reject = {}}", "it is empty");
    check("return {retry = '2s'}", "to report a failure, return nil first");
    check("return {n = 2}", "to report a failure, return nil first");
    check("return {'{'}", "record 1 of 1 that the processor returned: the string is not JSON");
    check("return {{0/0}}", "JSON has no number NaN at [1]");
    let with_gaps = "returned an array with gaps, or with other keys: it has 2 entries, and";
    check("return {[1] = '{}', [3] = '{}'}", with_gaps);
    check("local out = {} for i = 1, 3, 2 do out[i] = batch:records()[i] end return out", with_gaps);
    check("return {'{}', type = 'Bounce'}", "with gaps, or with other keys");
    check("return {'{}', nil, '{}'}", with_gaps);
    check("return nil, {reject = {[1] = 1, [3] = 2}}", with_gaps);
    check("return nil, {reject = {one = 1}}", "`reject` is an array of record numbers such as {1, 3}");
    check(
        "return {'{\"a\":\\n1}'}",
        "record 1 of 1 that the processor returned: the string has a line break",
    );
    check("batch:commit()", "this batch is committed by the host");
}

#[test]
fn the_batch_object() {
    let lua = Lua::new();
    Records::install(&lua).unwrap();
    let mut fails = true;
    let commit = Box::new(move || -> tailweir_lua::batch::CommitFuture {
        let failed = std::mem::replace(&mut fails, false);
        Box::pin(async move { if failed { Err(mlua::Error::runtime("disk full")) } else { Ok(()) } })
    });
    let object = LuaBatch::new(&lua, batch(&LINES), Some(commit)).unwrap();
    lua.globals().set("batch", object).unwrap();
    let script = r#"
        assert(#batch == 3 and batch:consumer_name() == 'test' and batch:id():find('^test:20250912%-110801.440526026:1:3:'))
        assert(batch:id() == batch:id())
        local p = batch:positions()
        assert(#p == 3 and p[2].segment == '20250912-110801.440526026' and p[2].line == 2 and p[2].offset == 16)
        local sum = 0
        for r in batch:iter_records() do sum = sum + r.n end
        for i, r in ipairs(batch:records()) do sum = sum + r.n end
        assert(sum == 12 and batch:records() ~= batch:records())
        local ok, e = pcall(batch.commit, batch)
        assert(not ok and tostring(e):find('disk full'))
        batch:commit()
        ok, e = pcall(batch.commit, batch)
        assert(not ok and tostring(e):find('batch has already been committed'))
        assert(#batch:records() == 3 and batch:records()[3].n == 3)
    "#;
    lua.load(script).exec().unwrap();
}

#[test]
fn files_give_filters_and_processors() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let install = |lua: &Lua| lua.globals().set("installed", true);
    let config = json!({"pool": "a", "none": null});
    let keep_a = Verdict::Keep(vec![true, false, true]);

    let path = file("f.lua", "local c = ... assert(installed) return function(r) return r.p == c.pool end");
    let mut filter = load_filter(&path, &config, &install).unwrap();
    assert_eq!(filter.evaluate(&batch(&LINES)).unwrap(), keep_a);

    let path = file(
        "t.lua",
        "local p return {init = function(c) p = c.pool end, filter = function(r) return r.p == p end}",
    );
    let plugin = PluginFile::read(&path).unwrap();
    // What it was when it was read is what all get.
    std::fs::write(&path, "return function() return false end").unwrap();
    for _ in 0..2 {
        let mut filter = plugin.filter(&config, &install).unwrap();
        assert_eq!(filter.evaluate(&batch(&LINES)).unwrap(), keep_a);
    }

    let path = file("p.lua", "return {process = function(batch) return {batch:records()[1]} end}");
    let mut processor = load_processor(&path, &config, &install).unwrap();
    let outcome = block_on(processor.process(&batch(&LINES)));
    assert_eq!(outcome, Ok(Outcome::Emit(vec![LINES[0].to_owned()])));

    let fails = |name: &str, text: &str, expected: &str| {
        let error = load_filter(&file(name, text), &config, &install).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let text = format!("{error}: {source}");
        assert!(text.contains(expected) && text.contains(name), "{text}");
    };
    fails("a.lua", "return 1", "must return a function, or a table with a function `filter`");
    fails("b.lua", "return {process = print}", "its table has an unknown field `process`");
    fails("c.lua", "return {init = print}", "its table has no `filter`");
    fails("d.lua", "return {filter = 1}", "its `filter` is of type integer");
    fails("e.lua", "\nerror('at load')", "e.lua:2: at load");
    fails("g.lua", "return function(", "g.lua:1:");
    let error = load_filter(&folder.path().join("missing.lua"), &config, &install).unwrap_err();
    assert!(error.to_string().starts_with("cannot read"));
}

#[test]
fn json_module() {
    let lua = Lua::new();
    let serde = tailweir_lua::serde::install(&lua).unwrap();
    lua.globals().set("serde", serde).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    std::fs::write(&path, "# head\n{\"a\": 1, // one\n /* two */ \"b\": [null, \"#\"]}").unwrap();
    lua.globals().set("path", path.to_str().unwrap()).unwrap();
    lua.globals().set("folder", folder.path().to_str().unwrap()).unwrap();
    let script = r#"
        local t = serde.json_load(path)
        assert(t.a == 1 and t.b[1] == nil and t.b[2] == '#')
        local function fails(pattern, f, ...)
            local ok, e = pcall(f, ...)
            assert(not ok and tostring(e):find(pattern), tostring(e))
        end
        fails('json_load: cannot read .*none.json', serde.json_load, folder .. '/none.json')
        fails('json_parse: EOF .*line 1 column 1', serde.json_parse, '{')
        fails('json_encode: cannot encode a function as JSON', serde.json_encode, print)
        assert(serde.json_parse('9007199254740993') == 9007199254740993 and serde.json_parse('null') == nil)
        assert(serde.json_encode({}) == '{}' and serde.json_encode({1, 'a', true}) == '[1,"a",true]')
        assert(serde.json_encode({[1.5] = 1}) == '{"1.5":1}' and serde.json_encode({[true] = 1}) == '{"true":1}')
        assert(serde.json_encode() == 'null' and serde.json_encode('\n"\u{e9}') == '"\\n\\"\u{e9}"')
        assert(serde.json_encode(1.0) == '1.0' and serde.json_encode(math.mininteger) == '-9223372036854775808')
        assert(serde.json_encode_pretty({b = {1}, a = {}}) == '{\n  "a": {},\n  "b": [\n    1\n  ]\n}')
    "#;
    lua.load(script).exec().unwrap();
    let encode: Function = lua.load("return serde.json_encode").eval().unwrap();
    assert!(encode.call::<String>(f64::INFINITY).is_err());
}
