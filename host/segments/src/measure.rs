//! How much there is to read behind a cursor.

use std::collections::BTreeMap;
use std::path::Path;

use tailweir_core::{Mark, SegmentName, Shelf};

use crate::carve::{Carved, Ending, Limits, Segment};
use crate::decode::{SNIFF, Sniffed, sniff};
use crate::directory::{self, Directory, Opened};
use crate::{Cursor, Pattern, ReadError, Seal, Start, list};

/// What is left to read of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remaining {
    /// Its name.
    pub segment: SegmentName,
    /// Whether it is complete.
    pub sealed: Seal,
    /// Bytes on disk from the frame on in which reading would resume.
    pub compressed: u64,
    /// Bytes of text, line breaks included.
    pub bytes: u64,
    /// Lines, an unfinished last one included.
    pub lines: u64,
}

/// What is left to read behind `cursor`, exactly: segments are decompressed, but not parsed. Segments of which nothing
/// is left are left out, as are files that are no segments or cannot be read.
///
/// # Errors
/// If the directory cannot be read.
pub fn measure(directory: &Path, pattern: &Pattern, cursor: &Cursor) -> Result<Vec<Remaining>, ReadError> {
    let entries = list(directory, pattern)?;
    let opened = Directory::open(directory)?;
    let mut remaining = Vec::new();
    let begun: &BTreeMap<_, _> = &cursor.begun;
    for entry in entries.into_iter().filter(|entry| !cursor.finished.contains(&entry.name)) {
        let Ok(Opened::File(file)) = opened.open_file(entry.name.as_str()) else {
            continue;
        };
        let mut start = Start::Mark(Mark::default());
        if let Some(begun) = begun.get(&entry.name)
            && begun.identity.is_none_or(|identity| directory::is_same(&file, &identity).unwrap_or(false))
        {
            start = begun.start;
        }
        let error = |source| ReadError::Segment { path: directory.join(entry.name.as_str()), source };
        let measured = measure_one(&entry.name, file, start, entry.sealed).map_err(error)?;
        let skipped = match start {
            Start::Mark(mark) => mark.frame.compressed,
            Start::Line(_) => 0,
        };
        if let Some((bytes, lines)) = measured.filter(|(bytes, _)| *bytes > 0) {
            let (segment, sealed) = (entry.name, entry.sealed);
            let compressed = entry.len.saturating_sub(skipped);
            remaining.push(Remaining { segment, sealed, compressed, bytes, lines });
        }
    }
    Ok(remaining)
}

/// Bytes and lines; `None` if it is no segment.
fn measure_one(
    name: &SegmentName,
    file: std::fs::File,
    start: Start,
    seal: Seal,
) -> std::io::Result<Option<(u64, u64)>> {
    let mut head = [0; SNIFF];
    let len = directory::read_head(&file, &mut head)?;
    let Sniffed::Format(format) = sniff(&head[..len]) else {
        return Ok(None);
    };
    let limits = Limits { block_size: 256 << 10, max_line_size: 1 << 30 };
    let again = file.try_clone()?;
    let mut segment =
        Segment::new(name.clone(), file, format, start, limits, Shelf::new(0, limits.block_size))?;
    let ending = match seal {
        Seal::Open => Ending::Open,
        Seal::Sealed => Ending::Final,
    };
    let (mut bytes, mut lines) = (0, 0);
    loop {
        match segment.step(ending)? {
            Carved::Piece(piece) => {
                bytes += piece.len();
                lines += piece.count_lines();
            }
            Carved::Oversized(block) => {
                bytes += block.to().point.offset - block.from().offset;
                lines += block.lines();
            }
            Carved::Working | Carved::Damaged { .. } => {}
            Carved::Starved | Carved::End(_) => break,
            // It ends before its start, as if another file had taken its place.
            Carved::Short => return measure_one(name, again, Start::Mark(Mark::default()), seal),
        }
    }
    let unfinished = segment.unfinished();
    Ok(Some((bytes + unfinished, lines + u64::from(unfinished > 0))))
}
