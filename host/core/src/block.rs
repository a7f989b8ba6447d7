//! A block: consecutive lines of one segment in one arena.

mod columns;
mod shelf;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

pub(crate) use self::columns::Column;
use self::columns::Columns;
use self::shelf::Index;
pub use self::shelf::Shelf;
use crate::json::members::{Found, Members};
use crate::json::shapes::Shapes;
use crate::json::tokens::{Line, Tokens};
use crate::json::{self, Invalid};
use crate::{Frame, Identity, Mark, Point, Pointer, Position, SegmentName, Span};

/// Why a line is not a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DefectKind {
    /// It is no valid JSON text.
    #[error("malformed JSON: {0}")]
    Malformed(String),
    /// It is nested more deeply than [`crate::json::MAX_DEPTH`].
    #[error("nested more than {} levels deep", crate::json::MAX_DEPTH)]
    TooDeep,
    /// It is longer than the largest line allowed.
    #[error("a line of {len} bytes, longer than max_line_size ({max} bytes)")]
    TooLong {
        /// Its length in bytes.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// It is the JSON text `null`, which no Lua iterator can return.
    #[error("the line is `null`")]
    Null,
    /// The segment ended inside it.
    #[error("the segment ends in the middle of this line")]
    Truncated,
}

/// A line that is not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The line's number, counted from 1.
    pub line: u64,
    /// Offset of its first byte in the decompressed stream.
    pub offset: u64,
    /// What is wrong with it.
    pub kind: DefectKind,
    /// Its bytes; for [`DefectKind::TooLong`] only the first of them.
    pub bytes: Vec<u8>,
}

/// One record's place in the arena.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// In the arena.
    start: u32,
    len: u32,
    /// Bytes of the stream between the block's start and this record.
    offset: u32,
    /// Lines between the block's start and this record's end.
    line: u32,
    /// One more than the index of the repaired text, or zero.
    repaired: u32,
    /// The index of its first member.
    members: u32,
    /// How many members it has, or [`NOT_INDEXED`].
    member_count: u32,
}

/// How many records ahead of the one that is looked into memory is fetched.
const FETCHED_AHEAD: usize = 4;

/// The members of such a record must be searched for in its text: it is repaired, or very long.
const NOT_INDEXED: u32 = u32::MAX;

impl Slot {
    fn member_range(self) -> Range<usize> {
        self.members as usize..(self.members + self.member_count) as usize
    }
}

/// Consecutive lines of one segment, read and validated: one arena, and where its records begin and end.
///
/// Every record is valid JSON text, other than `null`, with no line break in it. Lines that are not records are in
/// [`defects`](Self::defects), blank ones only in the count.
#[derive(Debug)]
pub struct Block {
    segment: SegmentName,
    identity: Identity,
    from: Point,
    to: Mark,
    text: Vec<u8>,
    index: Index,
    repaired: Vec<Box<str>>,
    defects: Vec<Defect>,
    blank: u64,
    columns: Columns,
    /// Where its memory goes.
    shelf: Option<Arc<Shelf>>,
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf.take() {
            shelf.put(std::mem::take(&mut self.text), std::mem::take(&mut self.index));
        }
    }
}

impl Block {
    /// Splits `text`, which starts at `from` in the segment's decompressed stream, into lines and validates each once.
    ///
    /// Lines end in `\n`; the last one may lack it, which only the end of a sealed segment can say. One `\r` before the
    /// line's end is not part of the record, nor is a byte order mark at the start of the segment. Lines of nothing but
    /// spaces and tabs are blank. `frame` must begin at or before `from`: it is where reading resumes for any record of
    /// the block.
    ///
    /// # Panics
    /// If `text` is longer than `u32::MAX` bytes.
    pub fn parse(segment: SegmentName, identity: Identity, from: Point, frame: Frame, text: Vec<u8>) -> Self {
        let index = Index::for_text(text.len());
        Self::parse_into(index, segment, identity, from, frame, text)
    }

    /// [Parses](Self::parse) with memory from `shelf`, where that of the block goes when it is dropped; unless the arena
    /// is not one that the shelf keeps.
    ///
    /// # Panics
    /// If `text` is longer than `u32::MAX` bytes.
    pub fn parse_with(
        shelf: &Arc<Shelf>,
        segment: SegmentName,
        identity: Identity,
        from: Point,
        frame: Frame,
        text: Vec<u8>,
    ) -> Self {
        if !shelf.fits(&text) {
            // A few lines would keep the memory of many.
            return Self::parse(segment, identity, from, frame, text);
        }
        let index = shelf.take_index(text.len());
        let mut block = Self::parse_into(index, segment, identity, from, frame, text);
        block.shelf = Some(shelf.clone());
        block
    }

    fn parse_into(
        index: Index,
        segment: SegmentName,
        identity: Identity,
        from: Point,
        frame: Frame,
        text: Vec<u8>,
    ) -> Self {
        assert!(u32::try_from(text.len()).is_ok(), "a block's arena is addressed with 32 bits");
        debug_assert!(frame.decompressed <= from.offset, "the frame begins behind the block");
        let mut block = Self {
            segment,
            identity,
            from,
            to: Mark { point: from, frame },
            text: Vec::new(),
            index,
            repaired: Vec::new(),
            defects: Vec::new(),
            blank: 0,
            columns: Columns::default(),
            shelf: None,
        };
        let (mut tokens, mut shapes) = (Tokens::default(), Shapes::default());
        let mut start = 0;
        while start < text.len() {
            if from.offset == 0 && start == 0 && text.starts_with(b"\xef\xbb\xbf") {
                start = 3;
            }
            block.to.point.line += 1;
            let line = tokens.of_line(&text, start);
            block.take_line(start, line, &mut shapes);
            start = line.facts.end + 1;
        }
        block.to.point.offset += text.len() as u64;
        block.text = text;
        block
    }

    /// A block that stands for a single line too long to be held: it has no record, one defect, and ends at `to`.
    pub fn oversized(
        segment: SegmentName,
        identity: Identity,
        from: Point,
        to: Mark,
        defect: Defect,
    ) -> Self {
        let (text, index, repaired) = (Vec::new(), Index::default(), Vec::new());
        let (defects, blank, columns, shelf) = (vec![defect], 0, Columns::default(), None);
        Self { segment, identity, from, to, text, index, repaired, defects, blank, columns, shelf }
    }

    /// Adds the line from `start` on as a record, a defect or a blank line.
    fn take_line(&mut self, start: usize, line: Line<'_>, shapes: &mut Shapes) {
        let text = line.text();
        let end = text.len() - usize::from(text[start..].ends_with(b"\r"));
        let utf8 = line.facts.ascii || simdutf8::basic::from_utf8(&text[start..end]).is_ok();
        let mut slot = Slot {
            start: start as u32,
            len: (end - start) as u32,
            offset: start as u32,
            line: (self.to.point.line - self.from.line) as u32,
            repaired: 0,
            members: self.index.members.len() as u32,
            member_count: NOT_INDEXED,
        };
        if utf8 && self.index.members.add(line, shapes) == Found::Valid {
            slot.member_count = self.index.members.len() as u32 - slot.members;
            return self.index.slots.push(slot);
        }
        let line = String::from_utf8_lossy(&text[start..end]);
        let kind = match json::validate(&line) {
            Ok(()) => {
                if let Cow::Owned(text) = line {
                    self.repaired.push(text.into());
                    slot.repaired = self.repaired.len() as u32;
                }
                return self.index.slots.push(slot);
            }
            Err(Invalid::Blank) => return self.blank += 1,
            Err(Invalid::Null) => DefectKind::Null,
            Err(Invalid::TooDeep) => DefectKind::TooDeep,
            Err(Invalid::Malformed(why)) => DefectKind::Malformed(why),
        };
        self.defects.push(Defect {
            line: self.to.point.line,
            offset: self.from.offset + start as u64,
            kind,
            bytes: text[start..end].to_vec(),
        });
    }

    /// Says how many more lines lie before it than [`parse`](Self::parse) was told.
    pub fn move_lines(&mut self, by: u64) {
        self.from.line += by;
        self.to.point.line += by;
        for defect in &mut self.defects {
            defect.line += by;
        }
    }

    /// Says that the stream was cut in the last line: if that is no valid JSON text, this is why.
    pub fn cut_last_line(&mut self) {
        if let Some(last) = self.defects.last_mut()
            && last.line == self.to.point.line
            && matches!(last.kind, DefectKind::Malformed(_))
        {
            last.kind = DefectKind::Truncated;
        }
    }

    /// The segment it was read from.
    pub fn segment(&self) -> &SegmentName {
        &self.segment
    }

    /// Which file of that name.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Where it begins.
    pub fn from(&self) -> Point {
        self.from
    }

    /// Where it ends, and how to resume there.
    pub fn to(&self) -> Mark {
        self.to
    }

    /// The whole of it as a span.
    pub fn span(&self) -> Span {
        Span { segment: self.segment.clone(), identity: self.identity, from: self.from, to: self.to }
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.index.slots.len()
    }

    /// How many lines it has, those that are no records included.
    pub fn lines(&self) -> u64 {
        self.to.point.line - self.from.line
    }

    /// Whether it holds no record. It still stands for the lines between `from` and `to`.
    pub fn is_empty(&self) -> bool {
        self.index.slots.is_empty()
    }

    /// Lines that are not records, in order.
    pub fn defects(&self) -> &[Defect] {
        &self.defects
    }

    /// How many lines are blank.
    pub fn blank(&self) -> u64 {
        self.blank
    }

    /// How many records hold invalid UTF-8.
    pub fn repaired(&self) -> u64 {
        self.repaired.len() as u64
    }

    /// Bytes that the block keeps in memory.
    pub fn footprint(&self) -> usize {
        self.text.capacity()
            + self.index.footprint()
            + self.repaired.iter().map(|r| r.len()).sum::<usize>()
            + self.defects.iter().map(|d| d.bytes.len()).sum::<usize>()
            + size_of::<Self>()
    }

    /// A record's bytes as they are in the segment.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len), as do the methods below.
    pub fn bytes(&self, index: usize) -> &[u8] {
        let slot = self.index.slots[index];
        &self.text[slot.start as usize..][..slot.len as usize]
    }

    /// Whether right behind a record's bytes there is its line break, and then the next record, if there is one.
    pub(crate) fn is_followed(&self, index: usize) -> bool {
        let slot = self.index.slots[index];
        let end = (slot.start + slot.len) as usize;
        self.text.get(end) == Some(&b'\n')
            && self.index.slots.get(index + 1).is_none_or(|next| next.start as usize == end + 1)
    }

    /// The text from one record to another, with the line break behind the latter if it [is there](Self::is_followed).
    pub(crate) fn text_of(&self, first: usize, last: usize) -> &[u8] {
        let (from, to) = (self.index.slots[first], self.index.slots[last]);
        let end = (to.start + to.len) as usize + usize::from(self.is_followed(last));
        &self.text[from.start as usize..end]
    }

    /// A record's JSON text, with U+FFFD in place of bytes that are not UTF-8.
    pub fn text(&self, index: usize) -> &str {
        match self.index.slots[index].repaired {
            // SAFETY: `Block::take_line` leaves a slot without repaired text only where it has seen the bytes to be UTF-8.
            0 => unsafe { std::str::from_utf8_unchecked(self.bytes(index)) },
            n => &self.repaired[n as usize - 1],
        }
    }

    /// The text of the value that `pointer` leads to in a record.
    pub fn find(&self, index: usize, pointer: &Pointer) -> Option<&str> {
        // A record that has members is an object: its text, which is in nobody's cache yet, need not be asked.
        let is_object = ![0, NOT_INDEXED].contains(&self.index.slots[index].member_count);
        let found = if is_object { pointer.find_by(|key| self.field(index, key)) } else { None };
        found.unwrap_or_else(|| pointer.find(self.text(index)))
    }

    /// Whether a record's text is known to begin with the brace of an object and its first key, right behind one another.
    /// That is told without the text, which may be far away in memory. If not, it may be an object all the same.
    pub fn opens_with_key(&self, index: usize) -> bool {
        let slot = self.index.slots[index];
        slot.member_count != NOT_INDEXED
            && self.index.members.first_key(slot.member_range()) == Some(slot.start.saturating_add(2))
    }

    /// The text of the value of a record's member `key`; of the last one, if the key is there more than once. `None` if
    /// there is none, or the record is no object.
    pub fn field(&self, index: usize, key: &str) -> Option<&str> {
        let slot = self.index.slots[index];
        if slot.member_count == NOT_INDEXED {
            return json::get(self.text(index), key);
        }
        let record = &self.text[..(slot.start + slot.len) as usize];
        let (found, value) = self.index.members.find(record, slot.member_range(), key)?;
        // Whoever looks for a member of one record does so for those behind it too, and records look alike.
        if let Some(ahead) = self.index.slots.get(index + FETCHED_AHEAD) {
            let expected = found - slot.members as usize + ahead.members as usize;
            self.index.members.expect(&self.text, expected);
        }
        // SAFETY: the members of a record were found in UTF-8 text, and begin and end next to ASCII.
        Some(unsafe { std::str::from_utf8_unchecked(&record[value]) })
    }

    /// A record's line number, counted from 1.
    pub fn line(&self, index: usize) -> u64 {
        self.from.line + u64::from(self.index.slots[index].line)
    }

    /// A record's position.
    pub fn position(&self, index: usize) -> Position {
        Position {
            segment: self.segment.clone(),
            line: self.line(index),
            offset: self.from.offset + u64::from(self.index.slots[index].offset),
        }
    }

    /// The point behind a record's line.
    pub fn end_of(&self, index: usize) -> Mark {
        let slot = self.index.slots[index];
        let len = self.line_end(slot) - slot.start as usize;
        let offset = self.from.offset + u64::from(slot.offset) + len as u64;
        Mark { point: Point { line: self.line(index), offset }, frame: self.to.frame }
    }

    /// The end of a record's line in the arena.
    fn line_end(&self, slot: Slot) -> usize {
        let mut end = (slot.start + slot.len) as usize;
        if self.text.get(end) == Some(&b'\r') {
            end += 1;
        }
        if self.text.get(end) == Some(&b'\n') {
            end += 1;
        }
        end
    }

    /// The records at `indices` in an arena of their own, each with the place that it has here. Lines that are no records
    /// are left out.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    pub fn excerpt(&self, indices: impl Iterator<Item = usize> + Clone) -> Self {
        let line = |slot: Slot| slot.start as usize..self.line_end(slot);
        let mut part = Self {
            segment: self.segment.clone(),
            identity: self.identity,
            from: self.from,
            to: self.to,
            text: Vec::with_capacity(indices.clone().map(|index| line(self.index.slots[index]).len()).sum()),
            index: Index { slots: Vec::with_capacity(indices.clone().count()), members: Members::default() },
            repaired: Vec::new(),
            defects: Vec::new(),
            blank: 0,
            columns: Columns::default(),
            shelf: None,
        };
        for slot in indices.map(|index| self.index.slots[index]) {
            let start = part.text.len() as u32;
            part.text.extend_from_slice(&self.text[line(slot)]);
            let mut repaired = 0;
            if slot.repaired > 0 {
                part.repaired.push(self.repaired[slot.repaired as usize - 1].clone());
                repaired = part.repaired.len() as u32;
            }
            let members = part.index.members.len() as u32;
            if slot.member_count != NOT_INDEXED {
                let range = slot.member_range();
                part.index.members.copy(&self.index.members, range, i64::from(slot.start) - i64::from(start));
            }
            part.index.slots.push(Slot { start, repaired, members, ..slot });
        }
        part
    }

    /// The index of the first record whose line is after `line`; [`len`](Self::len) if there is none.
    pub fn first_after(&self, line: u64) -> usize {
        self.index.slots.partition_point(|slot| self.from.line + u64::from(slot.line) <= line)
    }
}
