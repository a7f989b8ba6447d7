//! Whatever is in the file of a quarantine: each line is an entry or is named as none, an entry is what it was written as,
//! and taking some out leaves the others, lines that are no entries included.
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tailweir_pipeline::{CheckpointName, Fate, KeptQuarantine, QuarantineEntry, Replay, read_quarantine};

/// Takes `input` for the content of a quarantine in the empty `folder`. What is in the folder is removed.
///
/// # Panics
/// If a rule is broken.
pub fn check(folder: &Path, input: &[u8]) {
    let name = CheckpointName::new("c").expect("a good name");
    let file = folder.join(".c.quarantine");
    fs::write(&file, input).expect("the folder can be written to");
    let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
    for line in input.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match QuarantineEntry::parse(line) {
            Some(entry) => entries.push(entry),
            None => unreadable.push(line.to_vec()),
        }
    }
    for entry in &entries {
        let line = entry.to_line();
        assert!(!line.contains('\n'), "an entry is one line");
        assert_eq!(QuarantineEntry::parse(line.as_bytes()).as_ref(), Some(entry), "{line}");
    }
    assert_eq!(read(folder, &name), (entries.clone(), unreadable.len() as u64));

    check_replay(folder, &name, &entries);
    let kept = KeptQuarantine::lock(folder, &name).expect("nobody else uses it");
    let goes = |entry: &QuarantineEntry| entry.position.line % 2 == 1;
    let decide = |entry: &QuarantineEntry| if goes(entry) { Fate::Go } else { Fate::Stay };
    let updated = kept.update(decide).expect("the folder can be written to");
    let (gone, left): (Vec<_>, Vec<_>) = entries.into_iter().partition(goes);
    assert_eq!((updated.gone, updated.left), (gone.len() as u64, left.len() as u64));
    assert_eq!(read(folder, &name), (left, unreadable.len() as u64));
    let after = fs::read(&file).unwrap_or_default();
    let mut lines = after.split(|b| *b == b'\n');
    assert!(unreadable.iter().all(|line| lines.any(|l| l == line)), "what can't be read stays");
    drop(kept);
    for entry in fs::read_dir(folder).expect("the folder can be read").flatten() {
        fs::remove_file(entry.path()).expect("the file is ours");
    }
}

fn read(folder: &Path, name: &CheckpointName) -> (Vec<QuarantineEntry>, u64) {
    let mut entries = Vec::new();
    let unreadable = read_quarantine(folder, name, |entry| entries.push(entry)).expect("it can be read");
    (entries, unreadable.lines)
}

/// What is laid out for a replay is nothing but segments, and a replay in which nothing was read leaves all as it was.
fn check_replay(folder: &Path, name: &CheckpointName, entries: &[QuarantineEntry]) {
    // Blank lines stand for what lay before a record: a few records far down would be gigabytes.
    if entries
        .iter()
        .any(|entry| entry.position.line > 1 << 16 || entry.position.segment.as_str().len() > 200)
    {
        return;
    }
    let place = folder.join("replay");
    fs::create_dir(&place).expect("the folder can be written to");
    let kept = KeptQuarantine::lock(folder, name).expect("nobody else uses it");
    let replay = Replay::lay_out(kept, &place, |_| true, &AtomicBool::new(false));
    let replay = replay.expect("the folder can be written to").expect("nobody stops it");
    let files = fs::read_dir(&place).expect("the folder can be read").flatten();
    assert!(files.into_iter().all(|file| !file.file_name().to_string_lossy().starts_with('.')));
    let laid_out = replay.len();
    let replayed = replay.settle().expect("nothing was read");
    assert_eq!(laid_out + replayed.refused.len() as u64, replayed.chosen);
    assert_eq!(replayed.chosen, entries.len() as u64);
    assert_eq!((replayed.updated.gone, replayed.updated.failed_again), (0, 0));
    fs::remove_dir_all(&place).expect("the folder is ours");
}
