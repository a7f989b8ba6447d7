//! `tailweir script`, in both spellings.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tailweir_tests::{Segments, Server, of_pool, repository, wait_for};

use crate::tailweir;

fn example(name: &str) -> PathBuf {
    repository("examples/scripts").join(name)
}

fn set(ids: Vec<String>) -> BTreeSet<String> {
    ids.into_iter().collect()
}

#[test]
fn kumods_command_line_runs_the_script_with_its_arguments() {
    let segments = Segments::generate(1, 1, 1);
    let script =
        "local kumo = require 'kumo'\nkumo.on('main', function(...) print(table.concat({...}, '|')) end)";
    let script = segments.beside("main.lua", script);
    let run = |program: tailweir_tests::Program| program.run().with_code(0);
    let kumods = tailweir().arg("--script").arg("--policy").arg(&script).args("--script-args old -- a -b");
    assert_eq!(kumods.run().stdout, "old|a|-b\n");
    let ours = tailweir().arg("script").arg(&script).args("-- a -b");
    assert_eq!(ours.run().quietly(), "a|-b\n");
    let piped = tailweir().args("script /dev/stdin -- x").stdin(script.clone());
    assert_eq!(piped.run().quietly(), "x\n");
    let as_root = run(tailweir().arg("--script").arg("--policy").arg(&script));
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    assert_eq!(as_root.contains("running as root, which kumod would refuse"), root, "{as_root}");
}

#[test]
fn rights_are_given_up_for_good() {
    if Command::new("id").arg("-u").output().unwrap().stdout != b"0\n" {
        let refused = tailweir().args("script x.lua --user root").run().with_code(1);
        assert!(refused.contains("only root can run as somebody else"), "{refused}");
        return;
    }
    let segments = Segments::generate(1, 1, 1);
    let script = segments.beside("id.lua", "print(io.popen('id -u'):read('a'))");
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(script.parent().unwrap(), public).unwrap();
    let ended = tailweir().arg("script").arg(&script).args("--user nobody").run().quietly();
    let nobody =
        String::from_utf8(Command::new("id").args(["-u", "nobody"]).output().unwrap().stdout).unwrap();
    assert_eq!(ended.trim(), nobody.trim());
    let unknown = tailweir().arg("script").arg(&script).args("--user no-such-user").run().with_code(1);
    assert!(unknown.contains("--user no-such-user: no such user"), "{unknown}");
}

#[test]
fn an_error_is_told_with_its_place_and_ends_with_1() {
    let segments = Segments::generate(1, 1, 1);
    let script = "local kumo = require 'kumo'\nkumo.on('main', function()\n  error 'no luck'\nend)\n";
    let script = segments.beside("bad.lua", script);
    let said = tailweir().arg("script").arg(&script).run().with_code(1);
    assert!(said.starts_with("Error: ") && said.contains("bad.lua:3: no luck"), "{said}");
    assert!(said.contains("stack traceback"), "{said}");
    let syntax = segments.beside("syntax.lua", "local = 1");
    let said = tailweir().arg("script").arg(&syntax).run().with_code(1);
    assert!(said.contains("syntax.lua:1:"), "{said}");
}

#[test]
fn three_customers_side_by_side_get_each_their_own() {
    let segments = Segments::generate(6_000, 3, 11);
    let server = Server::start();
    // Nobody minds that one customer's server has a bad moment, but the customer.
    let pools = ["customer-a", "customer-b", "customer-c"];
    let running: Vec<_> = pools
        .iter()
        .map(|pool| {
            let script = tailweir().arg("script").arg(example("per-customer.lua")).arg("--");
            script.arg(segments.directory()).arg(pool).env("WEBHOOK_BASE", &server.url()).start()
        })
        .collect();
    for pool in pools {
        let expected = segments.ids(of_pool(pool));
        wait_for(pool, || server.delivered(&format!("/{pool}")).len() >= expected.len());
    }
    for process in running {
        process.signal(Signal::TERM);
        process.end().quietly();
    }
    for pool in pools {
        let (delivered, expected) = (server.delivered(&format!("/{pool}")), segments.ids(of_pool(pool)));
        assert_eq!(delivered, expected, "{pool}");
        let again =
            tailweir().arg("script").arg(example("per-customer.lua")).arg("--").arg(segments.directory());
        again.arg(pool).env("WEBHOOK_BASE", &server.url()).env("ONCE", "1").run().quietly();
        assert_eq!(
            server.delivered(&format!("/{pool}")).len(),
            expected.len(),
            "{pool}: everything was committed"
        );
    }
    let keys: Vec<_> = server.requests().iter().map(|r| r.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "each batch has an id of its own");
}

#[test]
fn the_documented_webhook_script_gives_up_on_a_client_error_and_delivers_on_the_next_run() {
    let segments = Segments::generate(300, 1, 12);
    let server = Server::start();
    server.answer(&["429 Too Many Requests", "400 Bad Request"]);
    let start = || {
        let script = tailweir().arg("script").arg(example("webhook.lua")).arg("--").arg(segments.directory());
        script.arg(format!("{}/log", server.url())).arg("customer-a").start()
    };
    let said = start().end().with_code(1);
    assert!(said.contains("retrying in 2s: 429 Too Many Requests: said"), "{said}");
    assert!(said.contains("webhook post failed: 400 Bad Request: said"), "{said}");
    assert_eq!(server.requests().len(), 2);
    let running = start();
    let expected = set(segments.ids(of_pool("customer-a")));
    wait_for("everything", || set(server.delivered("/log")) == expected);
    running.signal(Signal::INT);
    running.end().quietly();
}

#[test]
fn the_other_example_scripts_count_right() {
    let segments = Segments::generate(3_000, 2, 13);
    let count = |kind: &str| segments.ids(|r| r["type"] == kind).len();
    let multi = tailweir()
        .arg("script")
        .arg(example("multi.lua"))
        .arg("--")
        .arg(segments.directory())
        .run()
        .quietly();
    assert_eq!(multi, format!("{} deliveries, {} bounces\n", count("Delivery"), count("Bounce")));
    let wasm = tailweir().arg("script").arg(example("wasm-filter.lua")).arg("--").arg(segments.directory());
    let kept = segments.kept(of_pool("shared"));
    let records: Vec<serde_json::Value> =
        kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bytes: u64 = records.iter().map(|record| record["size"].as_u64().unwrap()).sum();
    assert_eq!(
        wasm.arg("shared").run().quietly(),
        format!("shared: {} records, messages of {bytes} bytes\n", records.len())
    );
}

#[test]
fn a_misspelt_option_of_a_component_is_named() {
    let segments = Segments::generate(1, 1, 1);
    let script = "require('kumo').wasm.filter { path = 'x.wasm', limts = {} }";
    let script = segments.beside("s.lua", script);
    let said = tailweir().arg("script").arg(script).run().with_code(1);
    assert!(said.contains("kumo.wasm.filter: unknown option `limts`; did you mean `limits`?"), "{said}");
}
