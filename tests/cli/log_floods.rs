//! Log lines that could be one for each record.

use std::fs;

use serde_json::{Value, json};
use tailweir_tests::{Segments, repository};

use crate::tailweir;

/// How many lines are told of, one by one and in sums.
fn told(said: &str, line: &str, sum: &str) -> (u64, u64) {
    let each = said.lines().filter(|said| said.contains(line)).count() as u64;
    let sums =
        said.lines().filter_map(|said| said.split_once(sum)?.0.rsplit(' ').next()?.parse::<u64>().ok());
    (each, sums.sum())
}

#[test]
fn a_flood_of_bad_lines_and_records_is_told_of_in_few_lines_and_none_is_missing() {
    let segments = Segments::generate(0, 0, 1);
    let text: String = (0..5_000).map(|n| format!("{{\"n\":{n}}}\n{{\"n\":\n")).collect();
    fs::write(segments.directory().join("1"), text).unwrap();
    let reason = "x".repeat(1_500);
    let reject = format!(
        "return function(batch)
           local all = {{}} for n = 1, #batch do all[n] = n end
           return nil, {{ reject = all, reason = '{reason}' }}
         end"
    );
    segments.beside("reject.lua", &reject);
    let text = "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\nprocessor = { lua = 'reject.lua' }\n\
                quarantine_max_bytes = 1000000000\n";
    let pipeline = segments.beside("pipeline.toml", text);
    let said = tailweir().arg("run").arg(pipeline).args("--once --summary=json").run().with_code(0);

    let malformed = told(&said, "not a record: ", " more lines that are not records");
    let rejected = told(&said, "record put in quarantine", " more records put in quarantine");
    assert_eq!(
        (malformed.0 + malformed.1, rejected.0 + rejected.1),
        (5_000, 5_000),
        "{malformed:?} {rejected:?}"
    );
    // Some 20 lines for each second that it takes.
    assert!(malformed.0 >= 20 && malformed.0 < 2_000 && rejected.0 >= 20 && rejected.0 < 2_000);
    assert!(said.contains("(500 more bytes)") && said.lines().all(|line| line.len() < 2_000));
    let line = said.lines().find(|line| line.contains("not a record: ")).unwrap();
    assert!(line.contains("; put in quarantine") && line.contains("1:2"), "{line}");
    // What is counted is counted as ever.
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(summary["summary"][0]["quarantined"], json!(10_000));
}

#[test]
fn a_flood_of_invalid_utf8_is_told_of_in_few_lines_and_counted() {
    let segments = Segments::generate(0, 0, 1);
    for n in 0..300 {
        fs::write(segments.directory().join(format!("{n:03}")), b"{\"n\":\"\xff\"}\n{\"n\":1}\n").unwrap();
    }
    let text = "[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'c'\n\
                processor = { file = { path = 'out', sync = false } }\n";
    let pipeline = segments.beside("pipeline.toml", text);
    let said = tailweir().arg("run").arg(pipeline).args("--once --summary=json").run().with_code(0);

    let told =
        told(&said, "records hold invalid UTF-8;", " more blocks with records that hold invalid UTF-8");
    assert_eq!(told.0 + told.1, 300, "{told:?}");
    assert!(told.0 >= 20 && told.0 < 200, "{told:?}");
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(summary["summary"][0]["repaired"], json!(300));
}

#[test]
fn requests_that_fail_are_told_of_by_the_plug_in_only() {
    let segments = Segments::generate(300, 1, 2);
    // A port that nobody listens at any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let webhook = repository("target/guests/webhook.wasm");
    let text = format!(
        "[tailer]\ndirectory = '{}'\n[[consumer]]\nname = 'c'\nmax_batch_size = 10\n\
         processor = {{ wasm = '{}', config = {{ url = 'http://127.0.0.1:{port}/' }}, \
         grants = {{ http = ['http://127.0.0.1:{port}'] }} }}\n\
         on_error = {{ max_attempts = 30, initial = '1ms', max = '2ms' }}\n",
        segments.directory().display(),
        webhook.display()
    );
    let pipeline = segments.beside("pipeline.toml", &text);
    let said = tailweir().arg("run").arg(&pipeline).arg("--once").run().with_code(1);
    assert!(said.contains("batch will be delivered again"), "{said}");
    assert!(!said.contains("wasmtime"), "{said}");
    // Whoever wants to see them can.
    let logged = tailweir().arg("--log").arg("warn,wasmtime_wasi_http=warn").arg("run").arg(pipeline);
    assert!(logged.arg("--once").run().with_code(1).contains("wasmtime_wasi_http"));
}
