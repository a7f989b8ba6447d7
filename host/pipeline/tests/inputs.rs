//! Files beside the segments that hold anything: what fuzzing begins with or has found, and what was damaged.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/checks/checkpoint.rs"]
mod checkpoint;
#[path = "../../../fuzz/checks/quarantine.rs"]
mod quarantine;
#[path = "../../../fuzz/checks/seeds.rs"]
mod seeds;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

/// Checks the seeds of the target `name`.
fn check_seeds(name: &str, check: impl Fn(&Path, &[u8])) {
    let folder = tempfile::tempdir().unwrap();
    seeds::seeds(name).iter().for_each(|(_, input)| check(folder.path(), input));
}

#[test]
fn checkpoints_are_used_or_refused() {
    check_seeds("checkpoint", checkpoint::check);
}

#[test]
fn quarantines_keep_what_is_in_them() {
    check_seeds("quarantine", quarantine::check);
}

/// A seed in which some bytes were replaced.
fn damaged(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<_> = seeds::seeds(name).into_iter().map(|(_, input)| input).collect();
    let changes = prop::collection::vec((any::<Index>(), 0..4usize, "[0-9a\"\\\\,:{}\\[\\]\n.-]{0,3}"), 0..4);
    (prop::sample::select(seeds), changes).prop_map(|(mut input, changes)| {
        for (at, len, with) in changes {
            let at = at.index(input.len() + 1);
            let to = (at + len).min(input.len());
            input.splice(at..to, with.into_bytes());
        }
        input
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_checkpoints_are_used_or_refused(input in damaged("checkpoint")) {
        checkpoint::check(tempfile::tempdir().unwrap().path(), &input);
    }

    #[test]
    fn damaged_quarantines_keep_what_is_in_them(input in damaged("quarantine")) {
        quarantine::check(tempfile::tempdir().unwrap().path(), &input);
    }
}
