//! Memory of blocks that are gone, for blocks to come.

use std::sync::{Arc, Mutex, PoisonError};

use super::Slot;
use crate::json::members::Members;

/// Keeps the memory of dropped blocks for the next ones, so that the pages that a block fills are neither given back
/// to the system and cleared again for each block, nor cold.
///
/// What it keeps is bounded; the memory used last is used next.
#[derive(Debug)]
pub struct Shelf {
    /// How long a usual block's text is: arenas that are smaller, or more than twice as large, are not kept.
    block_size: usize,
    /// How many arenas are kept, and how many indices.
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    arenas: Vec<Vec<u8>>,
    indices: Vec<Index>,
}

/// Where a block's records and their members are.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) slots: Vec<Slot>,
    pub(super) members: Members,
}

impl Index {
    pub(super) fn for_text(len: usize) -> Self {
        Self { slots: Vec::with_capacity(len / 512), members: Members::with_capacity(len / 32) }
    }

    pub(super) fn footprint(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.members.footprint()
    }
}

impl Shelf {
    /// Keeps the memory of at most `limit` blocks of about `block_size` bytes of text.
    pub fn new(limit: usize, block_size: usize) -> Arc<Self> {
        Arc::new(Self { block_size, limit, kept: Mutex::default() })
    }

    /// An empty arena with room for a usual block.
    pub fn take_arena(&self) -> Vec<u8> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).arenas.pop();
        kept.unwrap_or_else(|| Vec::with_capacity(self.block_size))
    }

    /// Keeps an arena, if it is of use.
    pub fn put_arena(&self, arena: Vec<u8>) {
        self.put(arena, Index::default());
    }

    pub(super) fn take_index(&self, len: usize) -> Index {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).indices.pop();
        kept.unwrap_or_else(|| Index::for_text(len))
    }

    /// Whether it is the arena of a usual block.
    pub(super) fn fits(&self, arena: &Vec<u8>) -> bool {
        (self.block_size..=self.block_size.saturating_mul(2)).contains(&arena.capacity())
    }

    pub(super) fn put(&self, mut arena: Vec<u8>, mut index: Index) {
        let keep_arena = self.fits(&arena);
        // Text of blanks and short numbers has far more tokens than records are likely to have.
        let keep_index = (1..=self.block_size).contains(&index.footprint());
        arena.clear();
        index.slots.clear();
        index.members.clear();
        // What is not kept is freed when the lock is no more held.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if keep_arena && kept.arenas.len() < self.limit {
            kept.arenas.push(std::mem::take(&mut arena));
        }
        if keep_index && kept.indices.len() < self.limit {
            kept.indices.push(std::mem::take(&mut index));
        }
    }
}
