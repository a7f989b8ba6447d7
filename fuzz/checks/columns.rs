//! Columns of records, by JSON pointer, are what `serde_json` finds at that pointer.
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

use std::sync::Arc;

use serde_json::Value;
use tailweir_core::json::column;
use tailweir_core::{Batch, Block, Frame, Identity, Point, Pointer, SegmentName};

/// Takes an input apart: the pointer is its first line, the records are the others.
pub fn split(input: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(input).ok()?.split_once('\n')
}

/// Compares every column of the records among these `lines` at `pointer`.
///
/// # Panics
/// If an entry differs.
pub fn check(pointer: &str, lines: &str) {
    let Ok(parsed) = Pointer::parse(pointer) else { return };
    assert_eq!(parsed.to_string(), pointer, "a pointer is shown as it was given");
    let segment = SegmentName::new("s").expect("a bare name");
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    // Not at the start of the segment, where a byte order mark would be taken away.
    let from = Point { line: 1, offset: 1 };
    let block = Block::parse(segment, identity, from, Frame::default(), lines.as_bytes().to_vec());
    let records = block.len();
    let batch = Batch::of_block("test".into(), Arc::new(block), 0..records);
    assert_eq!(batch.column(&parsed).len(), records);
    for (record, entry) in batch.iter().zip(batch.column(&parsed)) {
        // A number that is out of range, or half a surrogate pair, is no value to `serde_json`.
        let Ok(tree) = serde_json::from_str::<Value>(record.text()) else { continue };
        assert_eq!(record.find(&parsed).is_some(), tree.pointer(pointer).is_some(), "{pointer} in {tree}");
        let expected = tree.pointer(pointer).filter(|value| !value.is_null());
        check_entry(entry, expected, &format!("{pointer} in {}", record.text()));
    }
    let alone: Vec<_> = batch.column(&parsed).collect();
    batch.share();
    // Looked for, and then kept.
    for _ in 0..2 {
        assert!(batch.column(&parsed).eq(alone.iter().copied()), "{pointer}, shared");
    }
}

fn check_entry(entry: Option<&str>, expected: Option<&Value>, what: &str) {
    let (Some(text), Some(expected)) = (entry, expected) else {
        assert_eq!((entry, expected), (None, None), "{what}");
        return;
    };
    assert_eq!(serde_json::from_str::<Value>(text).ok().as_ref(), Some(expected), "values, {what}");
    assert_eq!(column::string(text).as_deref(), expected.as_str(), "strings, {what}");
    let mut joined = b"before".to_vec();
    assert_eq!(column::add_string(text, &mut joined), expected.is_string(), "strings, {what}");
    assert_eq!(joined, [b"before", expected.as_str().unwrap_or_default().as_bytes()].concat(), "{what}");
    assert_eq!(column::boolean(text), expected.as_bool(), "booleans, {what}");
    assert_eq!(column::number(text), expected.as_f64(), "numbers, {what}");
    // To `serde_json` that one is a fraction.
    let integer = if text.trim() == "-0" { Some(0) } else { expected.as_i64() };
    assert_eq!(column::integer(text), integer, "integers, {what}");
}
