//! KumoMTA's webhook scripts, unchanged but for the directory and the address.

#![allow(clippy::unwrap_used)]

mod script_support;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use script_support::{Server, record_sleeps, records, run_file, segment};
use tempfile::TempDir;

const WEBHOOK: &str = include_str!("scripts/webhook.lua");
const PER_CUSTOMER: &str = include_str!("scripts/per_customer.lua");

/// A directory with 250 records of customer-a, and as many of customer-b between them.
fn logs() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (index, name) in ["20260101-000000.1", "20260101-000001.2"].iter().enumerate() {
        let numbers = index * 125..(index + 1) * 125;
        let lines = records("customer-a", numbers.clone()).into_iter().zip(records("customer-b", numbers));
        segment(directory.path(), name, &lines.flat_map(|(a, b)| [a, b]).collect::<Vec<_>>());
    }
    directory
}

/// Runs the webhook script until it fails, or until it has made `requests` requests and was told to stop.
fn run_webhook(logs: &Path, server: &Server, requests: usize) -> (Result<(), String>, Rc<RefCell<Vec<f64>>>) {
    let scripts = tempfile::tempdir().unwrap();
    let script = scripts.path().join("webhook.lua");
    let source = WEBHOOK.replace("/var/log/kumomta", logs.to_str().unwrap());
    std::fs::write(&script, source.replace("10.0.0.1:4242", &server.address)).unwrap();
    let (extension, sleeps) = record_sleeps();
    let result = run_file(&script, &[], vec![extension], server.clone().has_received(requests));
    (result.map_err(|e| e.to_string()), sleeps)
}

/// The `n` of the records in each request.
fn numbers(server: &Server) -> Vec<Vec<u64>> {
    let records =
        |json: serde_json::Value| json.as_array().unwrap().iter().map(|r| r["n"].as_u64().unwrap()).collect();
    server.received().iter().map(|request| records(request.json())).collect()
}

#[test]
fn every_record_is_posted_once_and_a_second_run_posts_none() {
    let (logs, server) = (logs(), Server::new(&[]));
    let (result, sleeps) = run_webhook(logs.path(), &server, 3);
    assert_eq!(result, Ok(()));
    assert_eq!(numbers(&server).concat(), (0..250).collect::<Vec<_>>());
    assert!(sleeps.borrow().is_empty());
    let first = &server.received()[0];
    assert_eq!(first.line, "POST /log HTTP/1.1");
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(
        first.json()[0],
        serde_json::from_str::<serde_json::Value>(&records("customer-a", 0..1)[0]).unwrap()
    );

    segment(logs.path(), "20260101-000002", &records("customer-a", 250..260));
    let again = Server::new(&[]);
    assert_eq!(run_webhook(logs.path(), &again, 1).0, Ok(()));
    assert_eq!(numbers(&again), [(250..260).collect::<Vec<_>>()]);
}

#[test]
fn too_many_requests_is_tried_again() {
    let (logs, server) = (logs(), Server::new(&["429 Too Many Requests"]));
    let (result, sleeps) = run_webhook(logs.path(), &server, 4);
    assert_eq!(result, Ok(()));
    let numbers = numbers(&server);
    assert_eq!(numbers[0], numbers[1]);
    assert_eq!(numbers[1..].concat(), (0..250).collect::<Vec<_>>());
    assert_eq!(*sleeps.borrow(), [2.0]);
}

#[test]
fn five_server_errors_end_the_script_and_the_next_run_delivers_the_batch() {
    let (logs, server) = (logs(), Server::new(&["500 Internal Server Error"; 5]));
    let (result, sleeps) = run_webhook(logs.path(), &server, usize::MAX);
    let error = result.unwrap_err();
    assert!(
        error.contains("webhook.lua:50: webhook post failed: 500 Internal Server Error: body"),
        "{error}"
    );
    assert!(error.contains("stack traceback:"), "{error}");
    assert_eq!(*sleeps.borrow(), [2.0, 2.0, 2.0, 2.0, 5.0]);
    assert_eq!(server.received().len(), 5);

    let again = Server::new(&[]);
    assert_eq!(run_webhook(logs.path(), &again, 3).0, Ok(()));
    assert_eq!(numbers(&again).concat(), (0..250).collect::<Vec<_>>());
}

#[test]
fn a_client_error_is_not_tried_again() {
    let (logs, server) = (logs(), Server::new(&["200 OK", "400 Bad Request"]));
    let (result, sleeps) = run_webhook(logs.path(), &server, usize::MAX);
    let error = result.unwrap_err();
    assert!(error.contains("webhook post failed: 400 Bad Request: body"), "{error}");
    assert_eq!(*sleeps.borrow(), [5.0]);

    let again = Server::new(&[]);
    assert_eq!(run_webhook(logs.path(), &again, 2).0, Ok(()));
    assert_eq!(numbers(&again).concat(), (100..250).collect::<Vec<_>>());
}

#[test]
fn each_customer_has_its_own_endpoint_filter_and_checkpoint() {
    let logs = logs();
    let servers = ["customer-a", "customer-b"].map(|customer| (customer, Server::new(&[])));
    let mut source = PER_CUSTOMER.replace("/var/log/kumomta", logs.path().to_str().unwrap());
    for (customer, server) in &servers {
        source = source.replace(&format!("{customer}.example.com"), &server.address);
    }
    let script = logs.path().join(".per_customer.lua");
    std::fs::write(&script, source).unwrap();
    std::thread::scope(|scope| {
        for (customer, server) in &servers {
            let script = &script;
            scope.spawn(move || {
                run_file(script, &[customer], vec![], server.clone().has_received(3)).unwrap()
            });
        }
    });
    for (customer, server) in &servers {
        assert_eq!(numbers(server).concat(), (0..250).collect::<Vec<_>>());
        let pools = server.received().into_iter().flat_map(|r| r.json().as_array().unwrap().clone());
        assert!(pools.into_iter().all(|record| record["egress_pool"] == *customer));
        assert!(logs.path().join(format!(".webhook-{customer}")).is_file());
    }
    let unknown = run_file(&script, &["customer-x"], vec![], std::future::pending()).unwrap_err().to_string();
    assert!(unknown.contains(".lua:10: unknown pool 'customer-x'\nstack traceback:"), "{unknown}");
}

#[test]
fn one_multi_tailer_serves_all_customers_and_drops_what_one_refuses() {
    let logs = logs();
    let servers = [("customer-a", Server::new(&["400 Bad Request"])), ("customer-b", Server::new(&[]))];
    let mut source =
        include_str!("scripts/multi_webhook.lua").replace("/var/log/kumomta", logs.path().to_str().unwrap());
    for (customer, server) in &servers {
        source = source.replace(&format!("{customer}.example.com"), &server.address);
    }
    let script = logs.path().join(".multi.lua");
    std::fs::write(&script, source).unwrap();
    let [a, b] = servers.clone().map(|(_, server)| server.has_received(3));
    run_file(&script, &[], vec![], async { _ = tokio::join!(a, b) }).unwrap();
    for (_, server) in &servers {
        assert_eq!(numbers(server).concat(), (0..250).collect::<Vec<_>>());
    }
}
