//! The functions of `kumo` that need no directory, and how a script is run.

#![allow(clippy::unwrap_used)]

mod script_support;

use std::collections::VecDeque;

use script_support::{Server, collector, first_line_of_error, run, run_file, run_with};

const CONNECTION_REFUSED: &str = "Connection refused (os error 111)";

#[test]
fn modules_are_found_by_require() {
    run("local kumo = require 'kumo'
         for _, name in ipairs { 'http', 'jsonl', 'serde', 'time', 'fs' } do
           assert(require('kumo.' .. name) == kumo[name], name)
         end
         assert(_G.kumo == nil and kumo.nonsense == nil)
         assert(type(kumo.version) == 'string' and kumo.available_parallelism() >= 1)")
    .unwrap();
}

#[test]
fn modules_beside_the_script_come_first() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("lib")).unwrap();
    std::fs::write(directory.path().join("lib/greet.lua"), "return function(who) return 'hello ' .. who end")
        .unwrap();
    let script = directory.path().join("main.lua");
    std::fs::write(&script, "assert(require 'lib.greet' ('you') == 'hello you')").unwrap();
    run_file(&script, &[], vec![], std::future::pending()).unwrap();
}

#[test]
fn main_gets_the_arguments_and_the_last_registration_wins() {
    let (extension, seen) = collector("see");
    let source = "#!/usr/bin/env tailweir-script
        local kumo = require 'kumo'
        kumo.on('init', function() see 'init' end)
        kumo.on('main', function() see 'first' end)
        kumo.on('main', function(...) see(table.concat({...}, ',')) see(select('#', ...)) end)
        see 'loaded'";
    run_with(source, &["a", "", "3"], vec![extension]).unwrap();
    assert_eq!(*seen.borrow(), ["loaded", "a,,3", "3"]);
}

#[test]
fn a_script_without_main_just_runs() {
    let (extension, seen) = collector("see");
    run_with("see(...)", &["x"], vec![extension]).unwrap();
    assert_eq!(*seen.borrow(), ["x"]);
}

#[test]
fn errors_say_where() {
    let error = run(
        "local kumo = require 'kumo'\nlocal function inner()\n  error('oh no')\nend\nkumo.on('main', function()\n  inner()\nend)",
    );
    let error = error.unwrap_err();
    let lines: Vec<_> = error.lines().collect();
    assert!(lines[0].ends_with("script.lua:3: oh no"), "{error}");
    assert_eq!(lines[1], "stack traceback:");
    assert!(lines[3].contains("script.lua:3: in upvalue 'inner'"), "{error}");
    assert!(lines[4].contains("script.lua:6: in function <"), "{error}");
    assert_eq!(lines.len(), 5, "{error}");
}

#[test]
fn errors_may_be_any_value() {
    let error = run("require('kumo').on('main', function()
        error(setmetatable({}, { __tostring = function() return 'a table' end }))
    end)");
    assert!(error.unwrap_err().starts_with("a table\nstack traceback:"));
}

#[test]
fn a_file_that_cannot_be_evaluated_is_named() {
    let error = run("x = = 1").unwrap_err();
    let (head, cause) = error.split_once('\n').unwrap();
    assert!(head.starts_with("failed to evaluate /") && head.ends_with("script.lua"), "{error}");
    assert!(
        cause.starts_with("caused by: ") && cause.contains("script.lua:1: unexpected symbol near '='"),
        "{error}"
    );
    let missing = run_file("/nonexistent/x.lua".as_ref(), &[], vec![], std::future::pending()).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "failed to read /nonexistent/x.lua: No such file or directory (os error 2)"
    );
}

#[test]
fn a_script_that_sleeps_is_abandoned_some_time_after_the_signal() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sleep.lua");
    std::fs::write(&path, "require('kumo').time.sleep(3600)").unwrap();
    let script = tailweir_lua::Script::new(tailweir_lua::Hooks::default()).unwrap();
    let started = runtime.block_on(async {
        let started = tokio::time::Instant::now();
        script.run(&path, vec![], std::future::ready(())).await.unwrap();
        started.elapsed()
    });
    assert_eq!(started.as_secs(), 10);
}

#[test]
fn what_kumomta_has_and_tailweir_has_not_says_so_when_it_is_called() {
    for call in [
        "kumo.memoize(print, {})",
        "kumo.fs.open('x')",
        "kumo.http.connect_websocket('ws://x')",
        "kumo.serde.toml_parse('')",
    ] {
        let name = call.split('(').next().unwrap();
        let error = first_line_of_error(&format!("local kumo = require 'kumo'; {call}"));
        assert_eq!(error, format!("{name} is not provided by tailweir"));
    }
}

#[test]
fn xpcall_with_traceback_works() {
    run("local ok, text = xpcall(function() error('boo') end, debug.traceback)
         assert(not ok and text:find('boo') and text:find('stack traceback:'), text)")
    .unwrap();
}

#[test]
fn time_spans_and_moments() {
    run("local time = require 'kumo.time'
         local delta = time.parse_duration(20) - time.parse_duration '10 seconds'
         assert(delta.seconds == 10 and delta.milliseconds == 10000 and tostring(delta) == '10s')
         assert(delta == time.parse_duration(10))
         local epoch = time.from_unix_timestamp(0)
         assert(epoch.year == 1970 and epoch.rfc3339 == '1970-01-01T00:00:00+00:00')
         assert((epoch + delta).second == 10 and (epoch + delta) - epoch == delta)
         assert(time.with_ymd_hms(1970, 1, 1, 0, 0, 10) - epoch == delta and not pcall(time.with_ymd_hms, 1970, 13, 1, 0, 0, 0))
         assert(time.parse_rfc3339('1970-01-01T01:00:00+01:00') == epoch)
         assert(epoch:format('%Y/%m') == '1970/01' and time.now().elapsed.seconds < 60)
         local timer <close> = time.start_timer 'x'
         time.sleep(0.001)
         assert(timer:done() >= 0.001 and timer:done() == nil)")
    .unwrap();
    let error = first_line_of_error("require('kumo').time.sleep('soon')");
    assert!(error.starts_with("kumo.time.sleep: expected a duration such as '500ms'"), "{error}");
    let error = first_line_of_error("require('kumo').time.now():format('%Q')");
    assert_eq!(error, "time:format: `%Q` is no strftime format");
}

#[test]
fn requests_carry_what_they_were_given() {
    let server = Server::new(&[]);
    run(&format!(
        "local kumo = require 'kumo'
         local client = kumo.http.build_client {{ user_agent = 'me/1', timeout = '5s', pool_idle_timeout = 30 }}
         client:get('{0}'):header('X-One', '1'):headers {{ ['X-Two'] = 2 }}:basic_auth('user', 'secret'):send()
         client:put('{0}'):bearer_auth('token'):body('\\0\\255bytes'):timeout('1s'):send()
         client:post('{0}'):form_url_encoded {{ key = 'a value' }}:send()
         client:post('{0}'):form_multipart_data {{ text = 'héllo', binary = '\\255' }}:send()
         client:close()",
        server.url("/x?q=1")
    ))
    .unwrap();
    let [get, put, form, multipart] = server.received().try_into().unwrap();
    assert_eq!((get.line.as_str(), put.line.as_str()), ("GET /x?q=1 HTTP/1.1", "PUT /x?q=1 HTTP/1.1"));
    assert_eq!(
        (get.header("x-one"), get.header("x-two"), get.header("user-agent")),
        (Some("1"), Some("2"), Some("me/1"))
    );
    assert_eq!(get.header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    assert_eq!(
        (put.header("authorization"), put.body.as_slice()),
        (Some("Bearer token"), b"\0\xffbytes".as_slice())
    );
    assert_eq!(form.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(form.body, b"key=a+value");
    assert!(multipart.header("content-type").unwrap().starts_with("multipart/form-data; boundary="));
    let body = String::from_utf8_lossy(&multipart.body);
    assert!(
        body.contains("name=\"text\"\r\n\r\nhéllo\r\n") && body.contains("application/octet-stream"),
        "{body}"
    );
}

#[test]
fn responses_tell_status_headers_and_body() {
    let answers = [
        "HTTP/1.1 404 Not Found\r\nX-Some: a\r\nX-Some: b\r\nContent-Type: text/plain; charset=ISO-8859-1\r\nContent-Length: 2\r\n\r\n\u{e9}",
        "HTTP/1.1 799 What\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ];
    let server = Server::answering(answers.map(str::to_owned).into_iter().collect::<VecDeque<_>>());
    run(&format!(
        "local client = require('kumo.http').build_client {{}}
         local r = client:get('{0}'):send()
         assert(r:status_code() == 404 and r:status_reason() == 'Not Found' and r:status_is_client_error())
         assert(not (r:status_is_success() or r:status_is_redirection() or r:status_is_informational() or r:status_is_server_error()))
         assert(r:headers()['x-SOME'] == 'a' and r:headers().nothing == nil and r:content_length() == 2)
         local seen = {{}}
         for name, value in pairs(r:headers()) do seen[#seen + 1] = name .. '=' .. value end
         assert(table.concat(seen, ' '):find('x-some=a x-some=b', 1, true), table.concat(seen, ' '))
         assert(r:text() == 'Ã©' and r:bytes() == '\\xc3\\xa9' and r:text() == 'Ã©')
         local r = client:get('{0}'):send()
         assert(r:status_code() == 799 and r:status_reason() == nil and r:text() == '')
         local r = client:get('{0}'):send()
         assert(r:status_is_success() and r:content_length() == nil and r:text() == 'abc')",
        server.url("/")
    ))
    .unwrap();
}

#[test]
fn mistakes_with_http_are_named() {
    let server = Server::new(&[]);
    let check = |call: &str, expected: &str| {
        let source =
            format!("local http = require 'kumo.http'; local client = http.build_client {{}}; {call}");
        assert_eq!(first_line_of_error(&source), expected);
    };
    check(
        "http.build_client { timeuot = 1 }",
        "kumo.http.build_client: unknown option `timeuot`; did you mean `timeout`?",
    );
    check(
        "http.build_client { user_agent = 1 }",
        "kumo.http.build_client: option `user_agent` must be a string, got 1",
    );
    check(
        "http.build_client { timeout = 0 }",
        "kumo.http.build_client: option `timeout` must be more than zero, got 0",
    );
    check("client:get 'nowhere'", "`nowhere` is no URL: relative URL without a base");
    check("client:get 'ftp://u:p@host/x'", "`ftp://host/x` is no http or https URL");
    check("client:close(); client:get 'http://x/'", "the HTTP client has been closed");
    check("client:get 'http://x/':aws_sign_v4 {}", "request:aws_sign_v4 is not provided by tailweir");
    check("client:get 'http://x/':header('a b', 'c')", "`a b` is no name of an HTTP header");
    check(
        &format!("local r = client:get '{}'; r:send(); r:send()", server.url("/")),
        "the request has been sent already; make a new one for each attempt",
    );
    let source =
        "require('kumo.http').build_client {}:get 'http://user:secret@127.0.0.1:1/x?key=secret':send()";
    let error = run(source).unwrap_err();
    assert!(error.contains("GET http://127.0.0.1:1/x failed: error sending request\n"), "{error}");
    assert!(error.contains(&format!("\ncaused by: {CONNECTION_REFUSED}\nstack traceback:")), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_slow_server_runs_into_the_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let error = run(&format!("require('kumo.http').build_client {{ timeout = '50ms' }}:get('{url}'):send()"))
        .unwrap_err();
    assert!(error.contains("caused by: operation timed out"), "{error}");
}

#[test]
fn queries_are_added_to_urls() {
    run("local http = require 'kumo.http'
         assert(http.build_url('http://a/b?x=1', { k = 'v w', a = 1 }) == 'http://a/b?x=1&a=1&k=v+w')
         assert(http.build_url('http://a/b', {}) == 'http://a/b')")
    .unwrap();
    assert_eq!(
        first_line_of_error("require('kumo').http.build_url('x', {})"),
        "kumo.http.build_url: `x`: relative URL without a base"
    );
}

#[test]
fn the_log_filter_is_the_programs() {
    let error = first_line_of_error("require('kumo').set_diagnostic_log_filter('x=debug')");
    assert_eq!(error, "kumo.set_diagnostic_log_filter: the log filter of this program is fixed");
}

/// What is written to it, as text.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_scripts_log_has_level_target_file_and_line() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .without_time()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let source = "local kumo = require 'kumo'
        kumo.log_debug('not this')
        kumo.log_info('one', 2, true, nil, setmetatable({}, { __tostring = function() return 'three' end }))
        local function inner() kumo.log_error('bad') end
        inner()
        kumo.log_warn()
        kumo.on('init', print)
        kumo.on('init', print)";
    tracing::subscriber::with_default(subscriber, || run(source)).unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.contains(" lua: ")).map(str::trim).collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[0].starts_with("INFO lua: ") && lines[0].ends_with("script.lua:3: one 2 true nil three"),
        "{text}"
    );
    assert!(lines[1].starts_with("ERROR lua: ") && lines[1].ends_with("script.lua:4: bad"), "{text}");
    assert!(lines[2].starts_with("WARN lua: ") && lines[2].ends_with("script.lua:6:"), "{text}");
    assert!(
        lines[3].ends_with("kumo.on('init'): this event never comes here; only 'main' is called"),
        "{text}"
    );
}
