//! `tailweir status`, and KumoMTA's checkpoints.

use std::fs;

use serde_json::{Value, json};
use tailweir_tests::{Segments, wait_for};

use crate::tailweir;

fn status(segments: &Segments) -> Vec<Value> {
    let text = tailweir().arg("status").arg(segments.directory()).arg("--json").run().quietly();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn status_tells_place_distance_and_holder() {
    let segments = Segments::generate(1_000, 2, 31);
    let nothing = tailweir().arg("status").arg(segments.directory()).run().quietly();
    assert!(nothing.starts_with("no checkpoint in "), "{nothing}");
    assert_eq!(status(&segments), Vec::<Value>::new());
    let tail = || tailweir().arg("tail").arg(segments.directory()).args("--checkpoint s");
    tail().arg("--once").run().quietly();
    let done = &status(&segments)[0];
    assert_eq!(
        (&done["checkpoint"], &done["behind_bytes"], &done["held_by"]),
        (&json!("s"), &json!(0), &Value::Null)
    );
    assert_eq!(done["written_by"], "tailweir");
    let running = tail().start();
    wait_for("the holder", || status(&segments)[0]["held_by"] == running.pid());
    let table = tailweir().arg("status").arg(segments.directory()).run().quietly();
    assert!(table.contains("nothing") && table.contains(&format!("pid {}", running.pid())), "{table}");
}

#[test]
fn f04_status_names_the_checkpoint_that_can_not_be_used_and_shows_the_others() {
    let segments = Segments::generate(1_000, 2, 33);
    for name in ["broken", "sound"] {
        let tail = tailweir().arg("tail").arg(segments.directory()).arg("--once");
        tail.args(&format!("--checkpoint {name}")).run().quietly();
    }
    for suffix in ["", ".prev", ".tmp"] {
        fs::write(segments.directory().join(format!(".broken{suffix}")), "{").unwrap();
    }
    let said = tailweir().arg("status").arg(segments.directory()).run().with_code(1);
    assert!(said.contains("/.broken can't be used") && said.contains("rm '"), "{said}");
    let json = tailweir().arg("status").arg(segments.directory()).arg("--json").run();
    let found: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&found[0]["checkpoint"], &found[1]["checkpoint"]), (&json!("sound"), &json!("broken")));
    assert!(found[1]["problem"].as_str().unwrap().contains("can't be used"), "{found}");
}

#[test]
fn a_checkpoint_of_kumods_is_taken_over_and_handed_back() {
    let segments = Segments::generate(1_000, 2, 32);
    let lines = segments.lines();
    let (first, last) = (lines.keys().next().unwrap(), lines.keys().next_back().unwrap());
    let kumods = json!({ "file": segments.directory().join(first), "line": 123 });
    fs::write(segments.directory().join(".taken"), kumods.to_string()).unwrap();
    let before = &status(&segments)[0];
    assert_eq!((before["line"].as_u64(), before["written_by"].as_str()), (Some(123), Some("kumod")));
    let all: Vec<String> = lines.values().flatten().cloned().collect();
    let rest: u64 = all[123..].iter().map(|line| line.len() as u64 + 1).sum();
    assert_eq!(before["behind_bytes"], rest);
    let tail =
        tailweir().arg("tail").arg(segments.directory()).args("--checkpoint taken --once").run().quietly();
    assert_eq!(tail.lines().collect::<Vec<_>>(), all[123..]);
    // What kumod reads of it: the file's path and the lines of it that are dealt with.
    let ours = segments.checkpoint("taken");
    assert_eq!(ours["file"], segments.directory().join(last).to_str().unwrap());
    assert_eq!(ours["line"], lines[last].len());
}
