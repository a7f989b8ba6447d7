//! Columns of a block that several ask for: where each value is, once it was looked for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Block, FETCHED_AHEAD};
use crate::Pointer;
use crate::json::members::fetch;

/// Columns that are kept at most: each comes with its pointer.
const MOST: usize = 64;

/// How large a part of a block's text the columns that it keeps may be, together.
const PART: usize = 4;
/// A block of few bytes may keep so many bytes of columns all the same.
const LEAST: usize = 4 << 10;

/// What a block keeps for those who ask next, if there will be others: a column that one asks for is not worth being kept.
#[derive(Debug, Default)]
pub(super) struct Columns(OnceLock<Box<Mutex<Kept>>>);

type Kept = Vec<(Pointer, Arc<Column>)>;

/// One column. Its entries are filled by whoever looks a value up.
#[derive(Debug)]
pub(crate) struct Column {
    entries: Box<[AtomicU64]>,
}

/// Nobody has looked for the value.
const UNKNOWN: u64 = 0;
/// There is none.
const NOTHING: u64 = 1;

/// An entry for the value at this place of the arena: one more than where it begins, above its length.
fn entry(start: usize, len: usize) -> u64 {
    // An arena is addressed with 32 bits, and no value begins at its very end.
    (start as u64 + 1) << 32 | len as u64
}

/// Where the value of an entry begins; of an entry that is no place, somewhere.
fn start_of(entry: u64) -> usize {
    ((entry >> 32) as usize).saturating_sub(1)
}

impl Columns {
    fn kept(&self) -> Option<MutexGuard<'_, Kept>> {
        self.0.get().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Block {
    /// Says that several will ask for its columns: from now on a value of a column is looked for once, by whoever comes
    /// first, and its place kept for the others, until the block goes. What is kept does not count in the block's
    /// [footprint](Self::footprint). It is a quarter of the block's text at most, or 4 KiB if that is more, and of 64 columns; a column for which
    /// there is no more room is looked up each time.
    pub fn share(&self) {
        self.columns.0.get_or_init(Box::default);
    }

    /// The column that is kept for `pointer`; one is begun, if there is to be one and there is room for it.
    pub(crate) fn column(&self, pointer: &Pointer) -> Option<Arc<Column>> {
        let mut kept = self.columns.kept()?;
        if let Some((_, column)) = kept.iter().find(|(of, _)| of == pointer) {
            return Some(column.clone());
        }
        let bytes = self.len() * size_of::<AtomicU64>();
        if kept.len() >= MOST || bytes * (kept.len() + 1) > (self.text.len() / PART).max(LEAST) {
            return None;
        }
        let entries = (0..self.len()).map(|_| AtomicU64::new(UNKNOWN)).collect();
        let column = Arc::new(Column { entries });
        kept.push((pointer.clone(), column.clone()));
        Some(column)
    }

    /// The text of the value that `pointer` leads to in a record, as [`find`](Self::find) has it; looked for only if `column`,
    /// which is the one of that pointer, does not have it.
    #[inline]
    pub(crate) fn find_once(&self, column: &Column, index: usize, pointer: &Pointer) -> Option<&str> {
        match column.entries[index].load(Relaxed) {
            UNKNOWN => self.find_and_keep(column, index, pointer),
            NOTHING => None,
            place => {
                // Whoever asks for a column goes through it.
                if let Some(ahead) = column.entries.get(index + FETCHED_AHEAD) {
                    fetch(&self.text, start_of(ahead.load(Relaxed)));
                }
                let value = &self.text[start_of(place)..][..place as u32 as usize];
                // SAFETY: a place is only ever that of a text which `find` has found.
                Some(unsafe { std::str::from_utf8_unchecked(value) })
            }
        }
    }

    fn find_and_keep(&self, column: &Column, index: usize, pointer: &Pointer) -> Option<&str> {
        let found = self.find(index, pointer);
        // The text of a repaired record is not in the arena. There are few.
        if self.index.slots[index].repaired == 0 {
            let place = |value: &str| entry(value.as_ptr().addr() - self.text.as_ptr().addr(), value.len());
            // Two who look at the same moment both find the same.
            column.entries[index].store(found.map_or(NOTHING, place), Relaxed);
        }
        found
    }

    /// Whether the value that `pointer` leads to in a record need not be looked for.
    pub(crate) fn is_known(&self, index: usize, pointer: &Pointer) -> bool {
        let Some(kept) = self.columns.kept() else { return false };
        kept.iter().any(|(of, column)| of == pointer && column.entries[index].load(Relaxed) != UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Batch, Frame, Identity, Point, SegmentName};
    use std::sync::Arc;

    use super::*;

    fn block(text: &str) -> Arc<Block> {
        let identity = Identity { inode: 1, head_len: 0, head: 0 };
        let (segment, from, frame) = (SegmentName::new("a").unwrap(), Point::default(), Frame::default());
        Arc::new(Block::parse(segment, identity, from, frame, text.as_bytes().to_vec()))
    }

    fn batch(block: &Arc<Block>) -> Batch {
        Batch::of_block("c".into(), block.clone(), 0..block.len())
    }

    fn column<'a>(batch: &'a Batch, pointer: &'a Pointer) -> Vec<Option<&'a str>> {
        batch.column(pointer).collect()
    }

    #[test]
    fn a_value_is_looked_for_once_where_several_ask() {
        let text = "{\"a\":{\"b\":\"é\"}}\n{\"a\":null}\n[1]\n{\"a\":{\"b\":17}}\n{}\n";
        let (alone, shared) = (block(text), block(text));
        shared.share();
        let pointer = Pointer::parse("/a/b").unwrap();
        let all = batch(&shared);
        assert_eq!(all.known(&pointer), 0);
        let part = all.slice(2..4);
        assert_eq!(column(&part, &pointer), [None, Some("17")]);
        assert_eq!((part.known(&pointer), all.known(&pointer)), (2, 2));
        let expected = [Some("\"é\""), None, None, Some("17"), None];
        for _ in 0..3 {
            assert_eq!(column(&all, &pointer), expected);
            assert_eq!(all.known(&pointer), 5);
        }
        let alone = batch(&alone);
        assert_eq!(column(&alone, &pointer), expected);
        assert_eq!(alone.known(&pointer), 0, "what one asks for is not kept");
    }

    #[test]
    fn whole_records_nulls_and_repaired_ones_are_as_they_are_without() {
        let text = b"{\"a\":null}\n 5 \n{\"a\":\"\xff\"}\n\"\"".to_vec();
        let identity = Identity { inode: 1, head_len: 0, head: 0 };
        let make = || {
            let (segment, from, frame) = (SegmentName::new("a").unwrap(), Point::default(), Frame::default());
            Arc::new(Block::parse(segment, identity, from, frame, text.clone()))
        };
        let (alone, shared) = (make(), make());
        shared.share();
        for pointer in ["", "/a", "/a/b", "/0"] {
            let pointer = Pointer::parse(pointer).unwrap();
            let found = |block: &Arc<Block>| {
                let batch = batch(block);
                let values = batch.values(&pointer);
                (0..batch.len()).map(|index| values.get(index).map(str::to_owned)).collect::<Vec<_>>()
            };
            assert_eq!(found(&shared), found(&alone));
            assert_eq!(found(&shared), found(&alone));
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let shared = block(&"{\"a\":1}\n".repeat(5000));
        shared.share();
        let all = batch(&shared);
        let pointers: Vec<_> = ["/a", "/b", "/c"].map(|p| Pointer::parse(p).unwrap()).into();
        for pointer in &pointers {
            assert_eq!(all.column(pointer).flatten().count(), if pointer == &pointers[0] { 5000 } else { 0 });
            assert_eq!(all.known(pointer), 0, "eight bytes for each record of eight are too many");
        }
        let shared = block(&format!("{{\"a\":1,\"text\":\"{}\"}}\n", "x".repeat(60)).repeat(5000));
        shared.share();
        let all = batch(&shared);
        pointers.iter().for_each(|pointer| _ = all.column(pointer).count());
        assert_eq!(pointers.iter().map(|p| all.known(p)).collect::<Vec<_>>(), [5000, 5000, 0]);
    }
}
