//! Whatever a segment's bytes are: what is read of them is what a naive reader would have, everything whole before damage is
//! delivered, and reading on from any place gives the rest.
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flate2::{Decompress, FlushDecompress, Status};
use serde::de::IgnoredAny;
use tailweir_core::{Block, DefectKind, Mark, SegmentName};
use tailweir_segments::{Begun, Cursor, Mode, Reader, ReaderOptions, Start, Step};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// A text that is longer takes too long, and shows nothing that a shorter one does not: a few bytes can stand for megabytes.
const LONGEST: usize = 1 << 20;

/// How a file is read.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Bytes of text that a block has, about.
    pub block_size: usize,
    /// Bytes that a line may have.
    pub max_line_size: usize,
    /// Whether it is complete.
    pub sealed: bool,
}

impl How {
    /// Takes four bytes off the beginning of `input` for how to read the rest.
    pub fn of(input: &[u8]) -> Option<(Self, &[u8])> {
        let ([block, block_scale, line, sealed], rest) = input.split_first_chunk()?;
        let how = Self {
            block_size: (16 + usize::from(*block)) << (block_scale % 8),
            max_line_size: if line % 4 == 0 { 1 << 20 } else { 8 + usize::from(*line) * 4 },
            sealed: sealed % 4 != 0,
        };
        Some((how, rest))
    }
}

/// What became of a line, and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Record(u64, Vec<u8>),
    TooLong(u64, u64),
    Null(u64),
    /// Malformed, or nested too deeply.
    Bad(u64, Vec<u8>),
}

/// What one reading gave.
struct Reading {
    lines: Vec<Line>,
    /// The number of lines at the place behind each block, and that place.
    marks: Vec<(u64, Mark, tailweir_core::Identity)>,
    /// Lines at the end, if it was reached.
    end: Option<u64>,
}

/// Reads `bytes` as a segment in the empty `folder`, in several ways, and compares. What is in the folder is removed.
///
/// # Panics
/// If something differs.
pub fn check(folder: &Path, how: How, bytes: &[u8]) {
    let naive = naive(bytes);
    if naive.as_ref().is_some_and(|stream| stream.text.len() > LONGEST) {
        return;
    }
    let path = folder.join("a");
    fs::write(&path, bytes).expect("the folder can be written to");
    let mode = if how.sealed { 0o400 } else { 0o600 };
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the file is ours");
    // What it ends with is its end: nobody is still copying it.
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    File::open(&path).and_then(|file| file.set_modified(long_ago)).expect("the file is ours");
    let all = read(folder, how, None);
    check_against_naive(how, naive.as_ref(), &all);
    if naive.is_none_or(|stream| stream.end != End::Garbled) {
        check_again(folder, how, &all);
    }
    fs::remove_file(&path).expect("the file is ours");
}

/// Compares with what is read in blocks of another size, and from other places on.
fn check_again(folder: &Path, how: How, all: &Reading) {
    let other = How { block_size: how.block_size.wrapping_mul(31) % 4096 + 16, ..how };
    let again = read(folder, other, None);
    assert_eq!((&again.lines, again.end), (&all.lines, all.end), "with blocks of another size");

    // Behind the first block, one in the middle, and the last one.
    let marks = [0, all.marks.len() / 2, all.marks.len().wrapping_sub(1)];
    for (lines, mark, identity) in marks.into_iter().filter_map(|n| all.marks.get(n)) {
        let begun = Begun { start: Start::Mark(*mark), identity: Some(*identity) };
        let rest = read(folder, other, Some(begun));
        let expected: Vec<_> = all.lines.iter().filter(|line| number(line) > *lines).collect();
        assert_eq!(rest.lines.iter().collect::<Vec<_>>(), expected, "resumed at {mark:?}");
        assert_eq!(rest.end, all.end, "resumed at {mark:?}");
    }
}

/// Compares with what is before the first damage, if there is any.
fn check_against_naive(how: How, naive: Option<&Stream>, all: &Reading) {
    let Some(Stream { text, end }) = naive else {
        assert_eq!(all.lines, [], "a foreign file has no lines");
        return;
    };
    let whole = match *end == End::Well && how.sealed {
        true => &text[..],
        false => &text[..text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1)],
    };
    let expected = lines_of(whole, how.max_line_size);
    if *end == End::Well {
        assert_eq!(all.lines, expected, "an intact file");
    } else {
        let came = &all.lines[..expected.len().min(all.lines.len())];
        assert_eq!(came, expected, "what is whole before damage");
    }
}

fn number(line: &Line) -> u64 {
    let (Line::Record(n, _) | Line::TooLong(n, _) | Line::Null(n) | Line::Bad(n, _)) = line;
    *n
}

fn read(folder: &Path, how: How, begun: Option<Begun>) -> Reading {
    let options = ReaderOptions {
        mode: Mode::Once,
        workers: 1,
        block_size: how.block_size,
        max_line_size: how.max_line_size,
        ..ReaderOptions::new(folder)
    };
    let name = SegmentName::new("a").expect("a bare name");
    let begun = begun.map(|begun| (name, begun)).into_iter().collect();
    let mut reader = Reader::open(options, Cursor { begun, ..Cursor::default() }).expect("a directory");
    let mut reading = Reading { lines: Vec::new(), marks: Vec::new(), end: None };
    let mut reached = None;
    loop {
        match reader.next().expect("what goes wrong is an event") {
            Step::Block(block) => {
                assert!(reached.is_none_or(|to| to == block.from()), "a gap before {:?}", block.from());
                reached = Some(block.to().point);
                reading.marks.push((block.to().point.line, block.to(), block.identity()));
                take(&block, &mut reading.lines);
            }
            Step::Finished { end, .. } => reading.end = Some(end.point.line),
            Step::Pending { .. } => {}
            Step::End => return reading,
            other => panic!("nothing happened to the file, but {other:?}"),
        }
    }
}

/// Adds a block's lines, and checks that they are all accounted for.
fn take(block: &Block, lines: &mut Vec<Line>) {
    let records = block.len() as u64;
    assert_eq!(records + block.defects().len() as u64 + block.blank(), block.lines());
    let first = lines.len();
    lines.extend((0..block.len()).map(|n| {
        assert_eq!(block.text(n), String::from_utf8_lossy(block.bytes(n)));
        Line::Record(block.line(n), block.bytes(n).to_vec())
    }));
    lines.extend(block.defects().iter().map(|defect| match defect.kind {
        DefectKind::TooLong { len, .. } => Line::TooLong(defect.line, len),
        DefectKind::Null => Line::Null(defect.line),
        _ => Line::Bad(defect.line, defect.bytes.clone()),
    }));
    lines[first..].sort_by_key(number);
}

/// The lines of a text that is a whole stream or ends with a line break.
fn lines_of(text: &[u8], max_line_size: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let pieces = text.split_inclusive(|b| *b == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line));
    for (n, line) in (1..).zip(pieces) {
        if line.len() > max_line_size {
            lines.push(Line::TooLong(n, line.len() as u64));
            continue;
        }
        let line = if n == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = String::from_utf8_lossy(line);
        match text.trim_matches([' ', '\t', '\r']) {
            "" => {}
            "null" => lines.push(Line::Null(n)),
            _ if serde_json::from_str::<IgnoredAny>(&text).is_ok() && depth(&text) <= 128 => {
                lines.push(Line::Record(n, line.to_vec()));
            }
            _ => lines.push(Line::Bad(n, line.to_vec())),
        }
    }
    lines
}

/// How deeply a valid JSON text is nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// A decompressed stream, as far as it goes.
struct Stream {
    text: Vec<u8>,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is no damage in it, and nothing is missing.
    Well,
    /// Behind this there is damage, or something is missing.
    Damaged,
    /// Likewise, and what is read until that is noticed need not be the same each time.
    Garbled,
}

/// Decompresses one byte at a time: what comes before damage then has come when the damage is found. `None` for what is no
/// segment, or may yet become anything.
fn naive(bytes: &[u8]) -> Option<Stream> {
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || (bytes.len() >= 4 && bytes[0] & 0xf0 == 0x50 && bytes[1..4] == [0x2a, 0x4d, 0x18])
    {
        return Some(naive_zstd(bytes));
    }
    if bytes.starts_with(&[0x1f, 0x8b, 8]) {
        return Some(naive_gzip(bytes));
    }
    let head = &bytes[..bytes.len().min(4096)];
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let word = [&b"true"[..], b"false", b"null"].iter().any(|word| text.starts_with(word));
    let plain = word || matches!(text.first(), Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9'));
    plain.then(|| Stream { text: bytes.to_vec(), end: End::Well })
}

fn naive_zstd(bytes: &[u8]) -> Stream {
    let mut context = DCtx::create();
    context.set_parameter(DParameter::WindowLogMax(27)).expect("a size that is allowed");
    let (mut text, mut block) = (Vec::new(), Vec::with_capacity(128 << 10));
    let mut hint = 0;
    for byte in bytes.chunks(1) {
        let mut source = InBuffer::around(byte);
        // An end that was read may come with one more call that gives nothing: it must not be taken for a new frame.
        while source.pos() < 1 {
            block.clear();
            match context.decompress_stream(&mut OutBuffer::around(&mut block), &mut source) {
                Ok(next) => hint = next,
                Err(_) => return Stream { text, end: End::Damaged },
            }
            text.extend_from_slice(&block);
        }
        if text.len() > LONGEST {
            break;
        }
    }
    Stream { text, end: if hint == 0 { End::Well } else { End::Damaged } }
}

fn naive_gzip(bytes: &[u8]) -> Stream {
    let mut text = Vec::new();
    let intact = flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut text).is_ok();
    if intact {
        return Stream { text, end: End::Well };
    }
    // In a damaged member, back references lead anywhere, and what the decoder gives until it notices depends on the size of
    // its buffers. Only members before it count, and only those without a header's extras are looked into.
    let (mut whole, mut rest) = (Vec::new(), bytes);
    while rest.len() > 10 && rest.starts_with(&[0x1f, 0x8b, 8, 0]) {
        let mut inflate = Decompress::new(false);
        rest = &rest[10..];
        let (mut text, mut ended) = (Vec::new(), false);
        while !ended && !rest.is_empty() {
            let mut piece = Vec::with_capacity(64 << 10);
            let read = inflate.total_in();
            let status = inflate.decompress_vec(&rest[..1], &mut piece, FlushDecompress::None);
            rest = &rest[(inflate.total_in() - read) as usize..];
            text.extend_from_slice(&piece);
            match status {
                Ok(status) => ended = status == Status::StreamEnd,
                Err(_) => return Stream { text: whole, end: End::Garbled },
            }
        }
        let mut crc = flate2::Crc::new();
        crc.update(&text);
        let word = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        if !ended || rest.len() < 8 || (word(0), word(4)) != (crc.sum(), crc.amount()) {
            break;
        }
        whole.extend_from_slice(&text);
        rest = &rest[8..];
    }
    Stream { text: whole, end: End::Garbled }
}
