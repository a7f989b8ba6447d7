//! Blocks: the same lines come out wherever the stream is cut into blocks.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use tailweir_core::{Batch, Block, DefectKind, Frame, Identity, Mark, Point, SegmentName, Shelf};

const IDENTITY: Identity = Identity { inode: 1, head_len: 4, head: 7 };

fn parse(from: Point, text: &[u8]) -> Block {
    let frame = Frame { compressed: 3, decompressed: 0 };
    Block::parse(SegmentName::new("s").unwrap(), IDENTITY, from, frame, text.to_vec())
}

/// Memory of one block is that of the next, and nothing of what was in it is seen again.
#[test]
fn memory_is_used_again_and_bounded() {
    let shelf = Shelf::new(1, 64);
    let parse = |line: u64, text: &str| {
        let mut arena = shelf.take_arena();
        arena.extend_from_slice(text.as_bytes());
        let from = Point { line, offset: 9 };
        let segment = SegmentName::new("s").unwrap();
        let place = arena.as_ptr();
        (Block::parse_with(&shelf, segment, IDENTITY, from, Frame::default(), arena), place)
    };
    let first = "{\"a\":1,\"b\":2}\n17\n{\"a\":3}";
    let (block, place) = parse(0, first);
    assert_eq!((block.lines(), block.field(0, "b"), block.field(2, "a")), (3, Some("2"), Some("3")));
    drop(block);
    let (mut block, again) = parse(5, "{\"b\":4}\n!\n");
    assert_eq!(again, place);
    assert_eq!((block.len(), block.field(0, "b"), block.field(0, "a")), (1, Some("4"), None));
    block.move_lines(100);
    assert_eq!(
        (block.from().line, block.line(0), block.defects()[0].line, block.to().point.line),
        (105, 106, 107, 107)
    );
    // While one is in use, another gets memory of its own; of both only one is kept. What is too large is not.
    let (other, elsewhere) = parse(0, "1");
    assert_ne!(elsewhere, place);
    drop(other);
    drop(block);
    shelf.put_arena(Vec::with_capacity(1000));
    shelf.put_arena(Vec::with_capacity(10));
    let kept = [shelf.take_arena(), shelf.take_arena()];
    assert_eq!(kept[0].as_ptr(), elsewhere);
    assert!(kept.iter().all(|arena| arena.is_empty() && (64..=128).contains(&arena.capacity())));
}

/// What a line became.
#[derive(Debug, Clone, PartialEq)]
enum Line {
    Record { line: u64, offset: u64, end: Point, bytes: Vec<u8>, text: String },
    Defect { line: u64, offset: u64, kind: DefectKind, bytes: Vec<u8> },
}

fn lines_of(block: &Block) -> Vec<Line> {
    let record = |i: usize| {
        let position = block.position(i);
        assert_eq!((position.line, position.segment.as_str()), (block.line(i), "s"));
        let end = block.end_of(i);
        assert_eq!(end.frame, block.to().frame);
        Line::Record {
            line: position.line,
            offset: position.offset,
            end: end.point,
            bytes: block.bytes(i).to_vec(),
            text: block.text(i).to_owned(),
        }
    };
    let defect = |d: &tailweir_core::Defect| Line::Defect {
        line: d.line,
        offset: d.offset,
        kind: d.kind.clone(),
        bytes: d.bytes.clone(),
    };
    let mut lines: Vec<_> = (0..block.len()).map(record).chain(block.defects().iter().map(defect)).collect();
    lines.sort_by_key(|line| match line {
        Line::Record { line, .. } | Line::Defect { line, .. } => *line,
    });
    lines
}

/// The obvious way to do it.
fn model(stream: &[u8]) -> (Vec<Line>, u64) {
    let (mut lines, mut blank, mut start) = (Vec::new(), 0, 0);
    for (n, raw) in stream.split_inclusive(|b| *b == b'\n').enumerate() {
        let line = n as u64 + 1;
        let end = Point { line, offset: (start + raw.len()) as u64 };
        let mut bytes = raw.strip_suffix(b"\n").unwrap_or(raw);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let mut offset = start as u64;
        if start == 0 && bytes.starts_with(b"\xef\xbb\xbf") {
            (bytes, offset) = (&bytes[3..], 3);
        }
        start += raw.len();
        let text = String::from_utf8_lossy(bytes).into_owned();
        let bytes = bytes.to_vec();
        let trimmed = text.trim_matches([' ', '\t', '\r']);
        if trimmed.is_empty() {
            blank += 1;
        } else if trimmed == "null" {
            lines.push(Line::Defect { line, offset, kind: DefectKind::Null, bytes });
        } else if serde_json::from_str::<serde::de::IgnoredAny>(trimmed).is_ok() {
            lines.push(Line::Record { line, offset, end, bytes, text });
        } else {
            lines.push(Line::Defect { line, offset, kind: DefectKind::Malformed(String::new()), bytes });
        }
    }
    (lines, blank)
}

/// Without the words of the error.
fn without_reason(mut lines: Vec<Line>) -> Vec<Line> {
    for line in &mut lines {
        if let Line::Defect { kind: DefectKind::Malformed(why), .. } = line {
            why.clear();
        }
    }
    lines
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        &b"{\"a\":1}"[..],
        b"{\"a\":\"\xff\"}",
        b"{\"a\":\"\xc3\xa9\"}",
        b"42",
        b" [1] ",
        b"null",
        b" null\t",
        b"",
        b" ",
        b"\t",
        b"nope",
        b"{\"a\":",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{}\r",
        b"\r",
        b"\"\xe4\xbd",
        b"x\0y",
    ]);
    let end = prop::sample::select(vec![&b"\n"[..], b"\n", b"\r\n", b"\n\n", b""]);
    let bom = prop::sample::select(vec![&b""[..], b"", b"\xef\xbb\xbf"]);
    (bom, prop::collection::vec((line, end), 0..25)).prop_map(|(bom, lines)| {
        let lines = lines.into_iter().flat_map(|(line, end)| [line, end]);
        std::iter::once(bom).chain(lines).flatten().copied().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_cut_at_line_ends_gives_the_same(stream in stream(), cuts in prop::collection::vec(any::<bool>(), 64)) {
        let (expected, blank) = model(&stream);
        let (mut found, mut found_blank, mut repaired) = (Vec::new(), 0, 0);
        let (mut from, mut text) = (Point::default(), Vec::new());
        let raw: Vec<_> = stream.split_inclusive(|b| *b == b'\n').collect();
        for (n, line) in raw.iter().enumerate() {
            text.extend_from_slice(line);
            if cuts[n % cuts.len()] || n + 1 == raw.len() {
                let block = parse(from, &text);
                prop_assert_eq!(block.from(), from);
                from = block.to().point;
                prop_assert_eq!(from, Point { line: n as u64 + 1, offset: block.from().offset + text.len() as u64 });
                found.extend(lines_of(&block));
                found_blank += block.blank();
                repaired += block.repaired();
                text.clear();
            }
        }
        let broken = |line: &&Line| matches!(line, Line::Record { bytes, .. } if std::str::from_utf8(bytes).is_err());
        prop_assert_eq!(repaired, expected.iter().filter(broken).count() as u64);
        prop_assert_eq!(without_reason(found), expected);
        prop_assert_eq!(found_blank, blank);
    }

    #[test]
    fn lines_of_a_batch_are_its_records(stream in stream(), keep in prop::collection::vec(any::<bool>(), 8)) {
        let block = Arc::new(parse(Point::default(), &stream));
        let mut batch = Batch::new("c".into());
        (0..block.len()).filter(|n| keep[n % keep.len()]).for_each(|n| batch.push(&block, n));
        let expected: Vec<_> = batch.iter().flat_map(|record| [record.bytes(), b"\n"]).collect();
        prop_assert_eq!(batch.lines().concat(), expected.concat());
        if batch.len() == block.len() && !block.is_empty() && batch.lines().len() > 1 {
            prop_assert!(block.blank() > 0 || !block.defects().is_empty() || stream.contains(&b'\r') || !stream.ends_with(b"\n"));
        }
    }

    #[test]
    fn any_record_may_be_resumed_behind(stream in stream()) {
        let whole = parse(Point::default(), &stream);
        for i in 0..whole.len() {
            let end = whole.end_of(i).point;
            let rest = parse(end, &stream[end.offset as usize..]);
            let first = whole.first_after(end.line);
            prop_assert_eq!(first, i + 1);
            let behind = |line: &Line| matches!(line, Line::Record { line, .. } | Line::Defect { line, .. } if *line > end.line);
            let expected: Vec<_> = lines_of(&whole).into_iter().filter(behind).collect();
            prop_assert_eq!(lines_of(&rest), expected);
        }
    }
}

#[test]
fn a_cut_line_says_so() {
    let kinds = |text: &[u8]| {
        let mut block = parse(Point::default(), text);
        block.cut_last_line();
        let cut = |d: &tailweir_core::Defect| d.kind == DefectKind::Truncated;
        (block.len(), block.defects().iter().map(cut).collect::<Vec<_>>())
    };
    assert_eq!(kinds(b"{}\nnope\n{\"a\""), (1, vec![false, true]));
    assert_eq!(kinds(b"nope\n{}"), (1, vec![false]));
    assert_eq!(kinds(b"{}\nnull"), (1, vec![false]));
    assert_eq!(kinds(b""), (0, vec![]));
}

#[test]
fn an_oversized_line_is_a_block_of_its_own() {
    let from = Point { line: 2, offset: 10 };
    let to = Mark { point: Point { line: 3, offset: 1010 }, frame: Frame::default() };
    let kind = DefectKind::TooLong { len: 999, max: 100 };
    let defect = tailweir_core::Defect { line: 3, offset: 10, kind, bytes: b"{\"a".to_vec() };
    let block = Block::oversized(SegmentName::new("s").unwrap(), IDENTITY, from, to, defect.clone());
    assert_eq!((block.len(), block.is_empty(), block.from(), block.to()), (0, true, from, to));
    assert_eq!((block.defects(), block.first_after(0)), (&[defect][..], 0));
}

#[test]
fn a_blocks_footprint_covers_its_text() {
    let text = b"{\"a\":1}\n".repeat(1000);
    assert!(parse(Point::default(), &text).footprint() >= text.len() + 1000 * 20);
}

#[test]
fn an_excerpt_holds_the_records_with_their_places() {
    let text = b"{\"a\":1}\r\n\nnope\n{\"a\":\"\xff\"}\n{\"a\":3}\n{\"a\":4}";
    let whole = parse(Point { line: 7, offset: 100 }, text);
    for picked in [vec![], vec![0], vec![1, 3], vec![0, 1, 2, 3]] {
        let part = whole.excerpt(picked.iter().copied());
        assert_eq!((part.len(), part.from(), part.to()), (picked.len(), whole.from(), whole.to()));
        for (new, old) in picked.into_iter().enumerate() {
            assert_eq!(part.bytes(new), whole.bytes(old));
            assert_eq!(part.text(new), whole.text(old));
            assert_eq!(part.position(new), whole.position(old));
            assert_eq!(part.end_of(new), whole.end_of(old));
        }
    }
}

#[test]
fn records_that_open_with_a_key_are_told_without_their_text() {
    let text = b"\xef\xbb\xbf{\"a\":1}\n {\"a\":1}\n{ \"a\":1}\n{}\n[{\"a\":1}]\n\"{\\\"a\"\n{\"a\":\"\xff\"}\n{\"b\":{}}\r\n";
    let block = parse(Point::default(), text);
    let opens = |block: &Block| (0..block.len()).map(|n| block.opens_with_key(n)).collect::<Vec<_>>();
    assert_eq!(opens(&block), [true, false, false, false, false, false, false, true]);
    assert_eq!(opens(&block.excerpt([7, 1, 0].into_iter())), [true, false, true]);
}

/// A batch that begins in the middle of a block does not copy what is behind, unless it picks little of that.
#[test]
fn of_its_first_block_a_batch_copies_only_rare_records() {
    let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(500));
    let block = Arc::new(parse(Point::default(), line.repeat(100).as_bytes()));
    let copies = |first: &[usize], picked: &[usize]| {
        let mut batch = Batch::new("c".into());
        let other = Arc::new(parse(Point::default(), line.as_bytes()));
        first.iter().for_each(|index| batch.push(&other, *index));
        picked.iter().for_each(|index| batch.push(&block, *index));
        batch.let_go_of(&block);
        assert!(batch.iter().all(|record| record.bytes() == line.trim_end().as_bytes()));
        batch.footprint() < block.footprint()
    };
    let end: Vec<usize> = (90..100).collect();
    assert!(!copies(&[], &end) && copies(&[], &[10]) && copies(&[], &[50, 60, 70]));
    // Of any later block all of it counts: many such must not be held for few records.
    assert!(copies(&[0], &end));
}
