//! Processors, the good and the bad ones, and what they may reach.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{batch, granted, guest, host, limits, load_processor, process, processor, run};
use serde_json::{Value, json};
use tailweir_core::{Failure, MemoryState, Outcome, Processor, StateKeeper, StateLimits};
use tailweir_wasm::Limits;

#[test]
fn outcomes_and_failures() {
    let batch = batch(&["1", r#"{ "poison":true}"#]);
    let check =
        |config: Value, expected: &str| assert_eq!(process(&mut *processor(config), &batch), expected);
    check(json!({"do": "done"}), "Done");
    check(json!({"do": "emit"}), r#"Emit(["1", "{ \"poison\":true}"])"#);
    check(json!({"do": "reject", "indices": [1]}), "1 records rejected: as configured");
    check(json!({"do": "reject-poison"}), "1 records rejected: poison");
    check(json!({"do": "stop"}), "stop: as configured");
    let fault = "plug-in hostile-processor is at fault: it rejects the record at index 2 of a batch of 2";
    check(json!({"do": "reject", "indices": [0, 2]}), fault);
}

#[test]
fn a_retry_says_when() {
    let batch = batch(&["1"]);
    let mut slow = processor(json!({"do": "retry", "times": 1, "after_ms": 1500}));
    let expected = Failure::Retry { after: Some(Duration::from_millis(1500)), reason: "call 1".into() };
    assert_eq!(run(slow.process(&batch)), Err(expected));
    assert_eq!(run(slow.process(&batch)), Ok(Outcome::Done));
    let mut open = processor(json!({"do": "retry", "times": 1, "after_ms": null}));
    assert_eq!(run(open.process(&batch)), Err(Failure::Retry { after: None, reason: "call 1".into() }));
}

#[test]
fn f14_a_crash_costs_one_instance_and_says_why() {
    let mut processor = processor(json!({"do": "panic-at", "call": 2}));
    let batch = batch(&["1"]);
    for _ in 0..2 {
        assert_eq!(process(&mut *processor, &batch), "Done");
        let failure = run(processor.process(&batch)).unwrap_err();
        let Failure::Crash { reason } = failure else { panic!("{failure}") };
        assert!(reason.starts_with("plug-in hostile-processor crashed: wasm `unreachable`"), "{reason}");
        assert!(reason.ends_with("this is call 2"), "{reason}");
    }
}

#[test]
fn f14_an_endless_loop_ends_and_the_caller_is_not_blocked() {
    let limits = Limits { deadline: Duration::from_millis(300), ..limits() };
    let plugin =
        host().processor(&guest("hostile-processor"), &json!({"do": "loop"}), granted(&[]), limits).unwrap();
    let (mut processor, batch) = (plugin.create(), batch(&["1"]));
    let (answer, ticks) = run(async {
        let mut ticks = 0;
        let mut interval = tokio::time::interval(Duration::from_millis(5));
        let mut answer = processor.process(&batch);
        loop {
            tokio::select! {
                answer = &mut answer => break (answer, ticks),
                _ = interval.tick() => ticks += 1,
            }
        }
    });
    let reason = answer.unwrap_err().to_string();
    assert_eq!(reason, "plug-in hostile-processor crashed: it ran for longer than its deadline, 300ms");
    assert!(ticks > 5, "the caller had {ticks} turns");
}

#[test]
fn f14_memory_is_limited() {
    let limits = Limits { memory_bytes: 16 << 20, ..limits() };
    let plugin =
        host().processor(&guest("hostile-processor"), &json!({"do": "eat"}), granted(&[]), limits).unwrap();
    let said = process(&mut *plugin.create(), &batch(&["1"]));
    assert!(said.contains("it wanted more memory than its limit, 16 MiB"), "{said}");
}

#[test]
fn f14_answers_that_make_no_sense_or_are_enormous_are_the_plugins_fault() {
    let check = |config: Value, limits: Limits, expected: &str| {
        let plugin = host().processor(&guest("hostile-processor"), &config, granted(&[]), limits).unwrap();
        assert_eq!(
            process(&mut *plugin.create(), &batch(&["1"])),
            format!("plug-in hostile-processor {expected}")
        );
    };
    let much = json!({"do": "emit-much", "records": 8, "bytes": 1 << 20});
    let limit = "crashed: it handed more to the host at once than its limit, 4 MiB (`emitted_bytes`)";
    check(much, Limits { emitted_bytes: 4 << 20, ..limits() }, limit);
    check(json!({"do": "recurse"}), limits(), "crashed: call stack exhausted");
    check(json!({"do": "trap"}), limits(), "crashed: wasm `unreachable` instruction executed");
    let breaks = json!({"do": "emit-text", "text": "[1,\n2]"});
    check(breaks, limits(), "is at fault: the record that it emits at index 0 has a line break");
    let no_json = json!({"do": "emit-text", "text": "x".repeat(1 << 20)});
    check(no_json, limits(), "is at fault: the record that it emits at index 0 is no JSON text");
}

#[test]
fn f14_a_record_that_is_rejected_a_million_times_is_rejected_once() {
    let batch = batch(&["1"]);
    let answer = run(processor(json!({"do": "reject-often"})).process(&batch));
    assert_eq!(answer, Err(Failure::Reject { indices: vec![0], reason: "often".into() }));
    let Err(Failure::Stop { reason }) =
        run(processor(json!({"do": "boast", "bytes": 1 << 20})).process(&batch))
    else {
        panic!("it was to stop");
    };
    assert!(reason.len() < 9000 && reason.ends_with("more bytes)"));
}

#[test]
fn a_call_that_nobody_waits_for_is_given_up() {
    let plugin = load_processor("hostile-processor", json!({"do": "loop"}), &[]).unwrap();
    let (mut processor, batch) = (plugin.create(), batch(&["1"]));
    let started = Instant::now();
    run(async {
        for _ in 0..3 {
            let wait = tokio::time::timeout(Duration::from_millis(50), processor.process(&batch));
            assert!(wait.await.is_err());
        }
    });
    assert!(started.elapsed() < limits().deadline);
}

#[test]
fn what_a_call_has_changed_in_its_state_is_undone_if_it_fails() {
    let state = Arc::new(MemoryState::default());
    let keeper: Arc<dyn StateKeeper> = state.clone();
    let give = |processor: &mut dyn Processor, records: &[&str]| {
        let answer = run(processor.process_with_state(&batch(records), &keeper));
        answer.map_or_else(|e| e.to_string(), |outcome| format!("{outcome:?}"))
    };
    let plugin = |deed: &str| load_processor("stateful", json!({ "do": deed }), &[]).unwrap();
    let mut careful = plugin("panic-on-poison").create();
    assert_eq!(give(&mut *careful, &["1", "2"]), r#"Emit(["2"])"#);
    // The same batch in parts: what the first one has counted stays when the second one fails.
    assert!(give(&mut *careful, &[r#"{"poison":true}"#]).contains("crashed"));
    assert_eq!(give(&mut *careful, &["3"]), r#"Emit(["3"])"#);
    state.commit();
    assert_eq!(give(&mut *careful, &["4"]), r#"Emit(["4"])"#);
    state.abandon();
    let mut picky = plugin("reject-poison").create();
    assert_eq!(give(&mut *picky, &["4", r#"{"poison":true}"#]), "1 records rejected: poison");
    let bucket = keeper.open("wasm:stateful", &StateLimits::default()).unwrap();
    assert_eq!(bucket.get("n").unwrap().as_deref(), Some(&b"4"[..]));
    let view = keeper.view().upgrade().unwrap();
    assert_eq!(view.contents("wasm:stateful").unwrap().get("n").map(|value| &**value), Some(&b"3"[..]));
}

#[test]
fn without_a_checkpoint_a_plugin_with_state_gets_no_batch() {
    let plugin = load_processor("stateful", json!({ "do": "count" }), &[]).unwrap();
    let said = process(&mut *plugin.create(), &batch(&["1"]));
    assert!(
        said.starts_with("stop: plug-in stateful keeps state: state is kept with the checkpoint"),
        "{said}"
    );
}

#[test]
fn redact_masks_recipients_and_nothing_else() {
    let batch =
        batch(&[r#"{"z":1.0, "recipient":["a@x.org"],"sender":"b@y.org"}"#, r#"{"recipient":"c@x.org"}"#]);
    let plugin = load_processor("redact", json!(null), &[]).unwrap();
    let expected = vec![
        r#"{"z":1.0, "recipient":["***@x.org"],"sender":"b@y.org"}"#.to_owned(),
        r#"{"recipient":"***@x.org"}"#.to_owned(),
    ];
    assert_eq!(run(plugin.create().process(&batch)), Ok(Outcome::Emit(expected)));
}

/// A server that gives these answers, one per connection, and passes on what it was sent.
struct Server {
    origin: String,
    requests: mpsc::Receiver<String>,
}

impl Server {
    fn new(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read_request(&mut stream);
                stream.write_all(answer.as_bytes()).unwrap();
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        Self { origin, requests }
    }

    fn request(&self) -> String {
        self.requests.recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.unwrap().parse().unwrap() {
                return text;
            }
        }
        assert!(read > 0, "the request ends early: {text}");
    }
}

const CLOSE: &str = "connection: close\r\ncontent-length: 0\r\n\r\n";

#[test]
fn a_webhook_posts_the_batch_and_heeds_the_answer() {
    const ANSWERS: [&str; 4] = [
        "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\nconnection: close\r\ncontent-length: 4\r\n\r\nslow",
        "HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    ];
    assert!(ANSWERS[2].ends_with(CLOSE));
    let server = Server::new(&ANSWERS);
    let url = format!("{}/log?a=b", server.origin);
    let config = json!({"url": url, "headers": {"Authorization": "Bearer x"}});
    let plugin = load_processor("webhook", config, &[&server.origin]).unwrap();
    let mut webhook = plugin.create();
    let batch = batch(&[r#"{"id":1}"#, r#"{"id":"é"}"#]);

    assert_eq!(run(webhook.process(&batch)), Ok(Outcome::Done));
    let request = server.request();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /log?a=b HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    let key = format!("idempotency-key: {}", batch.id());
    for header in [key.as_str(), "content-type: application/json", "authorization: bearer x"] {
        assert!(head.lines().any(|line| line == header), "{header} in {head}");
    }
    assert_eq!(body, r#"[{"id":1},{"id":"é"}]"#);

    let reason = format!("{url} answered 429: slow");
    let slow = Failure::Retry { after: Some(Duration::from_secs(3)), reason };
    assert_eq!(run(webhook.process(&batch)), Err(slow));
    let broken = Failure::Retry { after: None, reason: format!("{url} answered 500") };
    assert_eq!(run(webhook.process(&batch)), Err(broken));
    assert_eq!(run(webhook.process(&batch)), Err(Failure::Stop { reason: format!("{url} answered 404") }));
    // Nobody listens any more.
    let failure = run(webhook.process(&batch)).unwrap_err();
    assert!(matches!(&failure, Failure::Retry { .. }), "{failure}");
}

#[test]
fn a_header_that_cannot_be_sent_is_named() {
    let check = |name: &str, value: &str, expected: &str| {
        let config = json!({"url": "http://127.0.0.1:9", "headers": {name: value}});
        let plugin = load_processor("webhook", config, &["http://127.0.0.1:9"]).unwrap();
        let reason = format!("the request cannot be sent: {expected}");
        assert_eq!(run(plugin.create().process(&batch(&["1"]))), Err(Failure::Stop { reason }));
    };
    check("Host", "elsewhere", "the header `Host` is set by the host");
    check("X Y", "z", "`X Y` or its value cannot be a header");
    check("X-Y", "a\nb", "`X-Y` or its value cannot be a header");
}

#[test]
fn a_large_batch_arrives_whole() {
    let server = Server::new(&["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"]);
    let plugin = load_processor("webhook", json!({"url": server.origin}), &[&server.origin]).unwrap();
    let record = format!(r#"{{"text":"{}"}}"#, "x".repeat(100_000));
    let records = vec![record.as_str(); 30];
    assert_eq!(run(plugin.create().process(&batch(&records))), Ok(Outcome::Done));
    let body = format!("[{}]", records.join(","));
    assert!(server.request().ends_with(&body));
}

#[test]
fn a_request_to_another_origin_is_refused_and_the_guest_is_told() {
    let server = Server::new(&[]);
    let config = json!({"url": format!("{}/log", server.origin)});
    let plugin = load_processor("webhook", config, &["https://hooks.example.com"]).unwrap();
    let reason = format!("requests to {} are not granted: add it to `grants.http`", server.origin);
    assert_eq!(run(plugin.create().process(&batch(&["1"]))), Err(Failure::Stop { reason }));
}

#[test]
fn a_server_that_speaks_no_tls_is_an_error_that_the_guest_sees() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("https://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let plugin = load_processor("webhook", json!({"url": origin}), &[&origin]).unwrap();
    let failure = run(plugin.create().process(&batch(&["1"]))).unwrap_err();
    server.join().unwrap();
    assert!(matches!(&failure, Failure::Retry { .. }), "{failure}");
}

#[test]
fn time_that_a_call_waits_for_a_server_does_not_count() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (go, gone) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        go.send(()).unwrap();
        thread::sleep(Duration::from_millis(600));
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let limits = Limits { deadline: Duration::from_millis(300), ..limits() };
    let plugin =
        host().processor(&guest("webhook"), &json!({"url": origin}), granted(&[&origin]), limits).unwrap();
    assert_eq!(run(plugin.create().process(&batch(&["1"]))), Ok(Outcome::Done));
    gone.recv_timeout(Duration::from_secs(1)).unwrap();
}

#[test]
fn a_call_that_waits_for_too_long_is_given_up() {
    // It takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let limits = Limits { deadline: Duration::from_secs(5), wait: Duration::from_millis(200), ..limits() };
    let plugin =
        host().processor(&guest("webhook"), &json!({"url": origin}), granted(&[&origin]), limits).unwrap();
    let failure = run(plugin.create().process(&batch(&["1"]))).unwrap_err();
    let reason = format!("{origin}: the request failed: connection read timeout");
    assert_eq!(failure, Failure::Retry { after: None, reason });
}

#[test]
fn waits_are_counted_together_and_without_what_a_call_may_compute() {
    // It answers byte by byte, so that no single wait is long.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").unwrap();
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let limits = Limits { deadline: Duration::from_secs(3600), wait: Duration::from_millis(300), ..limits() };
    let plugin =
        host().processor(&guest("webhook"), &json!({"url": origin}), granted(&[&origin]), limits).unwrap();
    let failure = run(plugin.create().process(&batch(&["1"]))).unwrap_err();
    let Failure::Crash { reason } = failure else { panic!("{failure}") };
    assert!(reason.ends_with("crashed: it waited for longer than its limit `wait`, 300ms"), "{reason}");
}
