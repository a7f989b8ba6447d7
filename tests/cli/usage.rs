//! Exit codes and what is said with them.

use tailweir_tests::Segments;

use crate::tailweir;

/// A command line with a mistake: exit code 2 and what it must say.
fn check(arguments: &str, expected: &str) {
    let said = tailweir().args(arguments).run().with_code(2);
    assert!(said.contains(expected), "{arguments}: {said}");
}

#[test]
fn mistakes_on_the_command_line_end_with_2() {
    check("", "Usage: tailweir");
    check("tial /tmp", "unrecognized subcommand 'tial'");
    check("tail", "<DIRECTORY>");
    check("tail /tmp --onec", "a similar argument exists: '--once'");
    check("tail /tmp --max-batch-size 0", "must be at least 1");
    check("tail /tmp --max-batch-latency 5", "500ms");
    check("tail /tmp --config {}", "--filter");
    check("tail /tmp --filter f.lua --config {", "the --config of --filter f.lua is not JSON");
    check("tail /tmp --pattern [", "--pattern: ");
    check("tail /tmp --checkpoint a/b", "--checkpoint: checkpoint_name `a/b`");
    check("--script", "--policy <FILE>");
    check("--policy x.lua", "--script");
    check("--script --policy x.lua customer-a", "unexpected argument 'customer-a'");
    check("script", "<FILE>");
    check("script x.lua customer-a", "unexpected argument 'customer-a'");
    check("run a.toml --once --check", "cannot be used with");
    check("status /tmp --log tailweir=loud", "--log is not a log filter");
    check("status /tmp --log-format xml", "[possible values: text, json]");
}

#[test]
fn failures_end_with_1_and_name_their_causes() {
    let missing = tailweir().args("tail /no/such/directory --once").run().with_code(1);
    assert!(missing.starts_with("Error: ") && missing.contains("/no/such/directory"), "{missing}");
    let missing = tailweir().args("status /no/such/directory").run().with_code(1);
    assert!(missing.contains("/no/such/directory"), "{missing}");
    let missing = tailweir().args("run /no/such/pipeline.toml").run().with_code(1);
    assert!(missing.contains("/no/such/pipeline.toml: cannot be read"), "{missing}");
    let missing = tailweir().args("script /no/such/script.lua").run().with_code(1);
    assert!(missing.contains("/no/such/script.lua"), "{missing}");
    let segments = Segments::generate(1, 1, 1);
    let broken = segments.beside("f.wasm", "not a component");
    let error =
        tailweir().arg("tail").arg(segments.directory()).arg("--filter").arg(&broken).run().with_code(1);
    assert!(error.starts_with("Error: ") && error.contains("f.wasm"), "{error}");
}

#[test]
fn the_version_is_told() {
    let version = tailweir().arg("--version").run().quietly();
    assert_eq!(version, format!("tailweir {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn logs_are_lines_of_json_if_asked_for() {
    let segments = Segments::generate(100, 1, 1);
    let tail = tailweir().arg("tail").arg(segments.directory()).args("--once --log info --log-format json");
    let said = tail.run().with_code(0);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let finished = lines.iter().find(|line| line["message"] == "segment finished").unwrap();
    assert_eq!((finished["lines"].as_u64(), finished["level"].as_str()), (Some(100), Some("INFO")));
    let from_environment =
        tailweir().arg("tail").arg(segments.directory()).arg("--once").env("TAILWEIR_LOG", "info");
    assert!(from_environment.run().with_code(0).contains("segment finished"));
}
