//! Whatever is in the files of a checkpoint: it is used or refused, the same each time it is looked at, and what is saved
//! after it is what comes back.
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tailweir_core::SegmentName;
use tailweir_pipeline::checkpoint::{Format, parse};
use tailweir_pipeline::{CheckpointName, CheckpointStore, FileStore, Loaded, Saved, StoreError};
use xxhash_rust::xxh3::xxh3_64;

/// What stands between the contents of the files in an input.
pub const SEPARATOR: &[u8] = b"\n--\n";

/// The segments that there are.
const SEGMENTS: [&str; 2] = ["a", "b"];

/// The files of a checkpoint that an input has the contents of, in its order.
const SUFFIXES: [&str; 4] = ["", ".prev", ".tmp", ".finished"];

/// Takes `input` for the contents of a checkpoint's files (one that is empty is not there), puts them into the empty `folder`, and uses them. What is in the
/// folder is removed.
///
/// # Panics
/// If a rule is broken.
pub fn check(folder: &Path, input: &[u8]) {
    let mut contents = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        contents.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    contents.push(rest);
    contents.truncate(SUFFIXES.len());
    // As they are, and with checksums that are right: else nothing behind them would ever be reached.
    check_files(folder, &contents.iter().map(|content| content.to_vec()).collect::<Vec<_>>());
    let sealed: Vec<_> = contents.iter().map(|content| seal(content)).collect();
    sealed.iter().for_each(|content| check_parse(content));
    check_files(folder, &sealed);
}

/// Puts the right checksum into a checkpoint that has one.
fn seal(content: &[u8]) -> Vec<u8> {
    let sealed = || {
        let mut value: Map<String, Value> = serde_json::from_slice(content).ok()?;
        let state = value.get_mut("tailweir")?.as_object_mut()?;
        state.shift_remove("checksum")?;
        let state = Value::Object(state.clone());
        let text = serde_json::to_vec(&(value.get("file")?, value.get("line")?, &state)).ok()?;
        let checksum = format!("{:016x}", xxh3_64(&text));
        value.get_mut("tailweir")?.as_object_mut()?.insert("checksum".to_owned(), checksum.into());
        serde_json::to_vec(&value).ok()
    };
    sealed().unwrap_or_else(|| content.to_vec())
}

/// A checkpoint of ours that is altered in one place is refused, or says the same.
fn check_parse(text: &[u8]) {
    let read = parse(text);
    let Ok(Format::Tailweir { saved, .. }) = &read else { return };
    let names = saved.frontier.segments.keys().chain(&saved.unlocated);
    assert!(names.clone().all(|name| !name.as_str().starts_with('.') && !name.as_str().contains('/')));
    for at in (0..text.len()).step_by(text.len() / 64 + 1) {
        let mut altered = text.to_vec();
        altered[at] ^= 1 << (at % 8);
        if let Ok(other) = parse(&altered) {
            assert_eq!(Ok(other), read, "byte {at} altered");
        }
    }
}

fn store(folder: &Path) -> FileStore {
    let name = CheckpointName::new("c").expect("a good name");
    FileStore::new(folder, name, Arc::new(())).expect("the folder can be opened")
}

fn check_files(folder: &Path, contents: &[Vec<u8>]) {
    for (suffix, content) in SUFFIXES.iter().zip(contents).filter(|(_, content)| !content.is_empty()) {
        fs::write(folder.join(format!(".c{suffix}")), content).expect("the folder can be written to");
    }
    for segment in SEGMENTS {
        fs::write(folder.join(segment), b"").expect("the folder can be written to");
    }
    match store(folder).load() {
        Ok(loaded) => check_loaded(folder, loaded),
        Err(StoreError::Unusable { .. }) => {
            let again = store(folder).load();
            assert!(matches!(again, Err(StoreError::Unusable { .. })), "refused, and then {again:?}");
        }
        Err(other) => panic!("no operation on a file failed, but {other:?}"),
    }
    for entry in fs::read_dir(folder).expect("the folder can be read").flatten() {
        fs::remove_file(entry.path()).expect("the file is ours");
    }
}

fn check_loaded(folder: &Path, loaded: Loaded) {
    // A process that dies before it has saved anything changes nothing. What is said of files that are gone may differ.
    let present = |loaded: &Loaded| match loaded.clone() {
        Loaded::Fresh => Loaded::Fresh,
        Loaded::Saved(mut saved) => {
            saved.finished.retain(|name| SEGMENTS.contains(&name.as_str()));
            Loaded::Saved(saved)
        }
    };
    let again = store(folder).load().expect("it was used before");
    assert_eq!(present(&again), present(&loaded), "loaded twice");
    let Loaded::Saved(mut saved) = loaded else { return };
    let Some((name, progress)) = saved.frontier.segments.first_key_value() else { return };
    let hidden = saved.finished.iter().find(|name| name.as_str().starts_with('.'));
    assert_eq!(hidden, None, "no file of ours is a segment");
    let (name, mut progress) = (name.clone(), *progress);
    progress.mark.point.line = progress.mark.point.line.wrapping_add(1);
    saved.frontier.segments.insert(name, progress);
    let done = SegmentName::new("done").expect("a bare name");
    let mut writer = store(folder);
    writer.load().expect("it was used before");
    writer.save(&saved, std::slice::from_ref(&done)).expect("the folder can be written to");
    let Ok(Loaded::Saved(again)) = store(folder).load() else { panic!("what was saved is not there") };
    assert_eq!(again.frontier, saved.frontier, "what was saved comes back");
    let Saved { finished, .. } = again;
    let expected = saved.frontier.segments.get(&done).is_none_or(|progress| progress.finished);
    assert_eq!(finished.contains(&done), expected, "the names that were finished come back");
}
