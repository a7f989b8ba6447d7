//! `tailweir run`.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tailweir_tests::{Program, Segments, Server, id, of_pool, repository};

use crate::{appending_to, tailweir};

const TAILER: &str = "[tailer]\ndirectory = 'logs'\n";

fn pipeline(segments: &Segments, consumers: &str) -> Program {
    let file = segments.beside("pipeline.toml", &format!("{TAILER}{consumers}"));
    tailweir().arg("run").arg(file)
}

/// A pipeline that `--check` refuses, and what it must say.
fn refuses(consumers: &str, expected: &[&str]) {
    let segments = Segments::generate(1, 1, 1);
    segments.beside("syntax.lua", "return function(");
    segments.beside("number.lua", "return 1");
    segments.beside("broken.wasm", "no");
    let said = pipeline(&segments, consumers).arg("--check").run().with_code(1);
    for part in expected {
        assert!(said.contains(part), "{consumers}: {said} lacks {part}");
    }
    let files: Vec<_> = fs::read_dir(segments.directory()).unwrap().collect();
    assert_eq!(files.len(), 1, "a check leaves nothing behind");
}

#[test]
fn a_check_names_each_kind_of_mistake() {
    refuses("patern = '*'", &["pipeline.toml:3: unknown option `patern`; did you mean `pattern`?"]);
    let consumer = "[[consumer]]\nname = 'a'\n";
    let with = |rest: &str| format!("{consumer}{rest}\n");
    let out = "processor = { stdout = {} }";
    refuses(&with("processor = { http = { url = 'ftp://x' } }"), &["consumer `a`", "neither http nor https"]);
    refuses(
        &with("processor = { http = { url = 'http://x', headers = { A = { env = 'NOT_SET_HERE' } } } }"),
        &["headers: A", "NOT_SET_HERE"],
    );
    refuses(
        &with("processor = { file = { path = 'no/such/folder/x' } }"),
        &["cannot append to", "no/such/folder/x"],
    );
    for file in ["logs/out.jsonl", "./logs/../logs/out.jsonl"] {
        refuses(
            &with(&format!("processor = {{ file = {{ path = '{file}' }} }}")),
            &["consumer `a`", "processor", "out.jsonl would be read as a segment"],
        );
    }
    let sink = "sink = { file = { path = 'no/such/x' } }";
    refuses(&with(&format!("processor = {{ lua = 'any.lua' }}\n{sink}")), &["sink", "no/such/x"]);
    refuses(
        &with(&format!("{out}\n{sink}")),
        &["`sink` of consumer `a`", "a built-in processor emits nothing"],
    );
    let filter = |filter: &str| with(&format!("{out}\nfilter = {filter}"));
    refuses(&filter("{ lua = 'missing.lua' }"), &["filter", "missing.lua"]);
    refuses(&filter("{ lua = 'syntax.lua' }"), &["syntax.lua"]);
    refuses(&filter("{ lua = 'number.lua' }"), &["number.lua must return a function", "it returns"]);
    refuses(&filter("{ wasm = 'broken.wasm' }"), &["broken.wasm"]);
    let component = repository("examples/plugins/pool-filter/pool-filter.wasm");
    let component = component.display();
    refuses(
        &filter(&format!("{{ wasm = '{component}', config = {{ pol = 'x' }} }}")),
        &["pool-filter", "pol"],
    );
    let misnamed = format!("{{ lua = '{component}' }}");
    refuses(&filter(&misnamed), &["filter", "pool-filter.wasm: WebAssembly, not Lua; name it as `wasm`"]);
    refuses(&with(&format!("processor = {misnamed}")), &["processor", "not Lua; name it as `wasm`"]);
    refuses(&with(&format!("processor = {{ wasm = '{component}' }}")), &["processor", "pool-filter.wasm"]);
    refuses(
        &filter(&format!("{{ wasm = '{component}', limits = {{ memroy_bytes = 1 }} }}")),
        &["memory_bytes"],
    );
}

#[test]
fn what_is_written_is_not_read_again() {
    let segments = Segments::generate(5, 1, 1);
    let file = |pattern: &str, path: &str| {
        let consumer =
            format!("{pattern}\n[[consumer]]\nname = 'a'\nprocessor = {{ file = {{ path = '{path}' }} }}");
        pipeline(&segments, &consumer).arg("--once").run()
    };
    let said = file("", "logs/out").with_code(1);
    assert!(said.contains("come again without end: choose another folder, or a `pattern`"), "{said}");
    file("pattern = '2*'", "logs/out").with_code(0);
    file("", "logs/.out").with_code(0);
    // The same through a link, and through stdout.
    std::os::unix::fs::symlink("logs/linked", segments.directory().with_file_name("a-link")).unwrap();
    let said = file("", "a-link").with_code(1);
    assert!(said.contains("a-link would be read as a segment"), "{said}");
    std::fs::remove_file(segments.directory().join("out")).unwrap();
    let run = |out: &str| {
        let tail = appending_to(&segments.directory().join(out), "unlimited").arg("tail");
        tail.arg(segments.directory()).arg("--once").run()
    };
    let said = run("out").with_code(1);
    assert!(said.contains("stdout goes to a segment in"), "{said}");
    std::fs::remove_file(segments.directory().join("out")).unwrap();
    run(".hidden").quietly();
    assert_eq!(lines(&segments.directory().join(".hidden")).len(), 5);
}

#[test]
fn the_examples_pass_their_check_and_run() {
    let segments = Segments::generate(2_000, 2, 25);
    let server = Server::start();
    let folder = segments.directory().parent().unwrap().to_owned();
    let run = |name: &str, option: &str| {
        let text = fs::read_to_string(repository("examples/pipelines").join(name)).unwrap();
        let text = text.replace("\"/tmp/", &format!("\"{}/", folder.display()));
        let text = text.replace("/var/log/kumomta", segments.directory().to_str().unwrap());
        let text = text.replace("\"../", &format!("\"{}/../", repository("examples/pipelines").display()));
        let file = segments.beside(name, &text);
        let run = tailweir().arg("run").arg(file).arg(option).env("WEBHOOK_URL", &server.url());
        run.env("WEBHOOK_AUTHORIZATION", "Bearer x").run().quietly()
    };
    for entry in fs::read_dir(repository("examples/pipelines")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(run(&name, "--check").contains("in order"), "{name}");
        assert_eq!(run(&name, "--once"), "", "{name}");
    }
    assert_eq!(lines(&folder.join("customer-a.jsonl")).len(), segments.ids(of_pool("customer-a")).len());
    let summaries = lines(&folder.join("summary.jsonl"));
    let count =
        |line: &String| serde_json::from_str::<Value>(line).unwrap()["types"]["Delivery"].as_u64().unwrap();
    let deliveries = segments.ids(|r| r["type"] == "Delivery").len() as u64;
    assert_eq!(summaries.iter().map(count).sum::<u64>(), deliveries);
    let redacted = lines(&folder.join("redacted.jsonl"));
    assert_eq!(redacted.iter().map(|line| id(line)).collect::<Vec<_>>(), segments.ids(|_| true));
    let recipient = |line: &String| {
        serde_json::from_str::<Value>(line).unwrap()["recipient"].as_str().unwrap().to_owned()
    };
    let original: Vec<_> = segments.kept(|_| true).lines().map(|line| recipient(&line.to_owned())).collect();
    assert!(redacted.iter().zip(&original).all(|(line, original)| recipient(line) != *original));
    assert_eq!(server.delivered("/"), segments.ids(|r| r["type"] == "Bounce"));
    assert!(server.requests().iter().all(|request| request.headers["authorization"] == "Bearer x"));
}

#[test]
fn the_documented_pipeline_passes_its_check() {
    let text = fs::read_to_string(repository("docs/pipeline.md")).unwrap();
    let segments = Segments::generate(1, 1, 1);
    let text = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let component = repository("examples/plugins/pool-filter/pool-filter.wasm");
    let text = text.replace("/var/log/kumomta", segments.directory().to_str().unwrap());
    let file =
        segments.beside("documented.toml", &text.replace("pool-filter.wasm", component.to_str().unwrap()));
    let check = tailweir().arg("run").arg(file).arg("--check").env("HOOK_AUTH", "Bearer x");
    assert!(check.run().quietly().contains("consumer customer-a, checkpoint customer-a"));
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn consumers_get_each_their_own_through_lua_components_and_sinks() {
    let segments = Segments::generate(4_000, 3, 21);
    let component = repository("examples/plugins/pool-filter/pool-filter.wasm");
    let component = component.display();
    segments.beside("keep.lua", "return function(r) return r.type == 'Bounce' end");
    let emit = "return function(batch) local out = {} for r in batch:iter_records() do out[#out + 1] = { id = r.id } end return out end";
    segments.beside("ids.lua", emit);
    let consumers = format!(
        "[[consumer]]\nname = 'a'\nfilter = {{ wasm = '{component}', config = {{ pool = 'customer-a' }} }}\n\
         processor = {{ file = {{ path = 'a.jsonl', sync = false }} }}\n\
         [[consumer]]\nname = 'bounces'\nfilter = {{ lua = 'keep.lua' }}\nprocessor = {{ lua = 'ids.lua' }}\n\
         sink = {{ file = {{ path = 'bounces.jsonl' }} }}\n\
         [[consumer]]\nname = 'all'\nprocessor = {{ stdout = {{}} }}\n"
    );
    let run = || pipeline(&segments, &consumers).arg("--once").run().quietly();
    assert_eq!(run(), segments.kept(|_| true));
    let folder = segments.directory().parent().unwrap().to_owned();
    let a: String = lines(&folder.join("a.jsonl")).iter().map(|line| line.clone() + "\n").collect();
    assert_eq!(a, segments.kept(of_pool("customer-a")));
    let bounces: Vec<_> = lines(&folder.join("bounces.jsonl")).iter().map(|line| id(line)).collect();
    assert_eq!(bounces, segments.ids(|r| r["type"] == "Bounce"));
    assert_eq!(run(), "", "everything is committed");
}

#[test]
fn f23_a_signal_while_plugins_are_loaded_ends_it_in_good_order() {
    let segments = Segments::generate(100, 1, 2);
    segments.beside(
        "slow.lua",
        "print('loading') io.stdout:flush() local t = os.clock() repeat until os.clock() - t > 0.3 return print",
    );
    let mut run = pipeline(&segments, "[[consumer]]\nname = 'a'\nprocessor = { lua = 'slow.lua' }").start();
    assert_eq!(run.line().as_deref(), Some("loading"));
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));

    let mut tail = tailweir().arg("tail").arg(segments.directory()).arg("--filter");
    tail = tail.arg(segments.directory().with_file_name("slow.lua"));
    let mut tail = tail.start();
    assert_eq!(tail.line().as_deref(), Some("loading"));
    tail.signal(Signal::TERM);
    assert_eq!(tail.end().code, Some(0));
}

#[test]
fn a_consumer_that_fails_stops_only_itself_and_is_named() {
    let segments = Segments::generate(2_000, 2, 22);
    segments.beside("fails.lua", "return function() error('out of order') end");
    let consumers = "[[consumer]]\nname = 'broken'\nprocessor = { lua = 'fails.lua' }\n\
         on_error = { initial = '1ms', max_attempts = 3 }\n\
         [[consumer]]\nname = 'whole'\nprocessor = { stdout = {} }\n";
    let ended = pipeline(&segments, consumers).arg("--once").run();
    assert_eq!(ended.stdout, segments.kept(|_| true));
    let said = ended.with_code(1);
    assert!(said.contains("Error: consumers that failed: broken"), "{said}");
    assert!(said.contains("failed 3 times") && said.contains("out of order"), "{said}");
    assert!(!segments.directory().join(".broken").exists(), "nothing was committed for it");
}

#[test]
fn the_http_sink_tries_again_and_stops_as_the_answer_says() {
    let segments = Segments::generate(250, 1, 23);
    let server = Server::start();
    let consumer = format!(
        "[[consumer]]\nname = 'web'\nprocessor = {{ http = {{ url = '{}/in', headers = {{ X-Key = {{ env = 'KEY' }} }} }} }}\n\
         on_error = {{ initial = '1ms', max_attempts = 4 }}\n",
        server.url()
    );
    let run = || pipeline(&segments, &consumer).env("KEY", "s3cret").arg("--once").run();
    server.answer(&[
        "503 Service Unavailable",
        "429 Too Many Requests\r\nRetry-After: 0",
        "200 OK",
        "422 Unprocessable Content",
    ]);
    let said = run().with_code(1);
    assert!(said.contains("422 Unprocessable") && said.contains("said"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    let requests = server.requests();
    let keys: Vec<_> = requests.iter().map(|r| r.headers["idempotency-key"].as_str()).collect();
    assert_eq!(requests.len(), 4);
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3], "{keys:?}");
    assert!(
        requests
            .iter()
            .all(|r| r.headers["x-key"] == "s3cret" && r.headers["content-type"] == "application/json")
    );
    run().quietly();
    let expected = segments.ids(|_| true);
    assert_eq!(server.delivered("/in"), expected);
    // A server that is not there is one to try again.
    let gone = consumer.replace(&server.url(), "http://127.0.0.1:9").replace("'web'", "'gone'");
    let said = pipeline(&segments, &gone).env("KEY", "s3cret").arg("--once").run().with_code(1);
    assert!(said.contains("failed 4 times"), "{said}");
}

#[test]
fn what_a_processor_rejects_or_cannot_take_goes_to_quarantine() {
    let segments = Segments::generate(100, 1, 24);
    let reject = "return function(batch) if #batch == 10 then return nil, { reject = { 2 }, reason = 'odd' } end error('never') end";
    segments.beside("reject.lua", reject);
    let consumer = "[[consumer]]\nname = 'q'\nmax_batch_size = 10\nprocessor = { lua = 'reject.lua' }\n";
    let said = pipeline(&segments, consumer).arg("--once").run().with_code(0);
    assert_eq!(said.matches("record put in quarantine").count(), 10, "{said}");
    assert_eq!(lines(&segments.directory().join(".q.quarantine")).len(), 10);
}

#[test]
fn a_configuration_in_toml_reaches_a_plugin_as_json() {
    let segments = Segments::generate(1, 1, 1);
    let show = "local config = ...\nreturn { process = function(batch) return { config } end }\n";
    segments.beside("show.lua", show);
    let consumer = |config: &str| {
        format!("[[consumer]]\nname = 'a'\nprocessor = {{ lua = 'show.lua', config = {{ {config} }} }}\n")
    };
    let once = |config: &str| {
        let text = format!("{TAILER}follow = false\n{}", consumer(config));
        tailweir().arg("run").arg(segments.beside("pipeline.toml", &text)).run().quietly()
    };
    let times = "zone = 1979-05-27T07:32:00.5-07:00, at = 1979-05-27 07:32:00, day = 1979-05-27, time = 07:32:00, \
                 list = [{ n = -1, x = 0.5, on = true, until = 2026-01-01T00:00:00Z }]";
    let shown: Value = serde_json::from_str(&once(times)).unwrap();
    let expected = serde_json::json!({
        "zone": "1979-05-27T07:32:00.5-07:00", "at": "1979-05-27T07:32:00", "day": "1979-05-27", "time": "07:32:00",
        "list": [{ "n": -1, "x": 0.5, "on": true, "until": "2026-01-01T00:00:00Z" }],
    });
    assert_eq!(shown, expected);
    for (number, config) in
        [("inf", "a.b = [1.0, inf]"), ("-inf", "a.b = [1, -inf]"), ("nan", "a.b = [0, nan]")]
    {
        let expected =
            format!("pipeline.toml:5: `config.a.b[1]` is `{number}`, which a plug-in cannot be given");
        refuses(&consumer(config), &[&expected]);
    }
    let shadow = |config: &str| {
        format!(
            "[[consumer]]\nname = 'a'\nprocessor = {{ stdout = {{}} }}\n\
             filter = {{ lua = 'any.lua', shadow = {{ lua = 'any.lua', config = {{ {config} }} }} }}\n"
        )
    };
    refuses(&shadow("a = nan"), &["`config.a` is `nan`"]);
}
