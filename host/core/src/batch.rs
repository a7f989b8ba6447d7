//! Batches: records picked from blocks, with the spans that they account for.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use xxhash_rust::xxh3::Xxh3;

use crate::block::Column;
use crate::{Block, Pointer, Position, Span, Verdict};

/// Records of one consumer, in order, and the stretches of stream that they account for.
///
/// The records stay in the blocks that they were read into; a batch only points at them.
#[derive(Debug)]
pub struct Batch {
    consumer: Arc<str>,
    blocks: Vec<Arc<Block>>,
    records: Vec<Place>,
    spans: Vec<Span>,
    bytes: usize,
    id: OnceLock<BatchId>,
}

/// Records that take up less than this part of their block's bytes are copied when the block is done with.
const WORTH_COPYING: usize = 8;
/// A block of fewer bytes than that may as well be kept.
const SMALL_BLOCK: usize = 4 << 10;

/// A record's block and its index there.
#[derive(Debug, Clone, Copy)]
struct Place {
    block: u32,
    index: u32,
}

impl Batch {
    /// An empty batch of `consumer`.
    pub fn new(consumer: Arc<str>) -> Self {
        Self {
            consumer,
            blocks: Vec::new(),
            records: Vec::new(),
            spans: Vec::new(),
            bytes: 0,
            id: OnceLock::new(),
        }
    }

    /// All records of a block, as candidates for a filter.
    pub fn of_block(consumer: Arc<str>, block: Arc<Block>, records: Range<usize>) -> Self {
        let mut batch = Self::new(consumer);
        batch.bytes = records.clone().map(|index| block.bytes(index).len()).sum();
        batch.records = records.map(|index| Place { block: 0, index: index as u32 }).collect();
        batch.blocks.push(block);
        batch
    }

    /// Adds the record at `index` of `block`.
    ///
    /// # Panics
    /// If the block has no such record.
    pub fn push(&mut self, block: &Arc<Block>, index: usize) {
        if !self.blocks.last().is_some_and(|last| Arc::ptr_eq(last, block)) {
            self.blocks.push(block.clone());
        }
        self.bytes += block.bytes(index).len();
        self.records.push(Place { block: self.blocks.len() as u32 - 1, index: index as u32 });
    }

    /// Lets go of `block`, of which no more records will be pushed, if those that were are so small a part of it that a
    /// copy of them is better kept: a batch of rare records must not hold on to everything between them. Of its first block,
    /// in which the batch before may have ended, only what is behind counts: frequent records are not copied for that.
    pub fn let_go_of(&mut self, block: &Arc<Block>) {
        let footprint = block.footprint();
        if footprint < SMALL_BLOCK || !self.blocks.last().is_some_and(|last| Arc::ptr_eq(last, block)) {
            return;
        }
        let last = self.blocks.len() as u32 - 1;
        let first = self.records.partition_point(|place| place.block < last);
        let records = &self.records[first..];
        let bytes: usize = records.iter().map(|place| block.bytes(place.index as usize).len()).sum();
        let passed = if first == 0 { records.first().map_or(0, |place| place.index as usize) } else { 0 };
        let part = block.len() - passed;
        if bytes >= footprint / WORTH_COPYING * part / block.len().max(1) {
            return;
        }
        let excerpt = block.excerpt(records.iter().map(|place| place.index as usize));
        self.blocks[last as usize] = Arc::new(excerpt);
        for (index, place) in self.records[first..].iter_mut().enumerate() {
            place.index = index as u32;
        }
    }

    /// Adds a span that the batch accounts for. Spans of one segment must be added in order.
    pub fn add_span(&mut self, span: Span) {
        match self.spans.iter_mut().rfind(|s| s.segment == span.segment) {
            Some(last) if last.to.point.line == span.from.line => last.to = span.to,
            _ => self.spans.push(span),
        }
    }

    /// The consumer that it is for.
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of its records, line ends not counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that it keeps in memory: all of the blocks that its records are in, of which it may hold a part only.
    pub fn footprint(&self) -> usize {
        self.blocks.iter().map(|block| block.footprint()).sum()
    }

    /// What it accounts for: one span per segment that it touches, filtered records and bad lines included.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The record at `index`.
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        let place = *self.records.get(index)?;
        Some(Record { block: &self.blocks[place.block as usize], index: place.index as usize })
    }

    /// Its records, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.records
            .iter()
            .map(|place| Record { block: &self.blocks[place.block as usize], index: place.index as usize })
    }

    /// Its records as lines, each with its line break: pieces of text to be written one after another. Records that follow
    /// each other in a block are one piece.
    pub fn lines(&self) -> Vec<&[u8]> {
        let (mut pieces, mut next) = (Vec::new(), 0);
        while let Some(first) = self.records.get(next) {
            let block = &self.blocks[first.block as usize];
            let run = self.records[next..].iter().enumerate();
            let len = run.take_while(|(n, place)| {
                place.block == first.block
                    && place.index == first.index + *n as u32
                    && (*n == 0 || block.is_followed(place.index as usize - 1))
            });
            next += len.count();
            let last = self.records[next - 1].index as usize;
            pieces.push(block.text_of(first.index as usize, last));
            if !block.is_followed(last) {
                pieces.push(b"\n");
            }
        }
        pieces
    }

    /// A part of it, with the records at `range` and no span: for trying parts of a batch that fails as a whole.
    ///
    /// # Panics
    /// If the range is not within the batch.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut part = Self::new(self.consumer.clone());
        for place in &self.records[range] {
            part.push(&self.blocks[place.block as usize], place.index as usize);
        }
        part
    }

    /// Those of its records that `verdict` keeps, and no span. They share their bytes, and what is known of their columns.
    pub fn kept(&self, verdict: &Verdict) -> Self {
        let mut part = Self::new(self.consumer.clone());
        let kept = self.records.iter().enumerate().filter(|(index, _)| verdict.keeps(*index));
        part.records = kept.map(|(_, place)| *place).collect();
        part.blocks = self.blocks.clone();
        part.bytes = part.iter().map(|record| record.bytes().len()).sum();
        part
    }

    /// Says that several will ask for its columns; see [`Block::share`].
    pub fn share(&self) {
        self.blocks.iter().for_each(|block| block.share());
    }

    /// One entry per record: the text of the value at `pointer`, or `None` where there is none or it is `null`.
    pub fn column<'a>(&'a self, pointer: &'a Pointer) -> impl ExactSizeIterator<Item = Option<&'a str>> {
        let values = self.values(pointer);
        self.records.iter().map(move |place| values.at(*place).filter(|value| *value != "null"))
    }

    /// The values at `pointer`, to be asked for one by one.
    pub fn values<'a>(&'a self, pointer: &'a Pointer) -> Values<'a> {
        let columns = self.blocks.iter().map(|block| block.column(pointer));
        Values { batch: self, pointer, columns: columns.collect() }
    }

    /// Of how many records the value at `pointer` is known, so that [`column`](Self::column) need not look for it: somebody
    /// has asked before, and the records' blocks are [shared](Block::share).
    pub fn known(&self, pointer: &Pointer) -> usize {
        let is_known =
            |place: &&Place| self.blocks[place.block as usize].is_known(place.index as usize, pointer);
        self.records.iter().filter(is_known).count()
    }

    /// What identifies the batch: the same records, delivered again, have the same id, and batches that differ in any
    /// record, its place or its bytes, do not share one.
    pub fn id(&self) -> &BatchId {
        self.id.get_or_init(|| BatchId::of(self))
    }
}

/// What a pointer leads to in each record of a batch.
#[derive(Debug)]
pub struct Values<'a> {
    batch: &'a Batch,
    pointer: &'a Pointer,
    /// What is kept of each of its blocks, if anything is.
    columns: Vec<Option<Arc<Column>>>,
}

impl<'a> Values<'a> {
    /// The text of the value in the record at `index`, be it `null`; `None` if there is no value, or no record.
    pub fn get(&self, index: usize) -> Option<&'a str> {
        self.at(*self.batch.records.get(index)?)
    }

    #[inline]
    fn at(&self, place: Place) -> Option<&'a str> {
        let (block, index) = (&self.batch.blocks[place.block as usize], place.index as usize);
        match &self.columns[place.block as usize] {
            None => block.find(index, self.pointer),
            Some(column) => block.find_once(column, index, self.pointer),
        }
    }
}

/// One record of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    block: &'a Block,
    index: usize,
}

impl<'a> Record<'a> {
    /// Its bytes as they are in the segment.
    pub fn bytes(&self) -> &'a [u8] {
        self.block.bytes(self.index)
    }

    /// Its JSON text, with U+FFFD in place of bytes that are not UTF-8.
    pub fn text(&self) -> &'a str {
        self.block.text(self.index)
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        self.block.position(self.index)
    }

    /// Whether its text is known, without looking at it, to begin with the brace of an object and its first key.
    pub fn opens_with_key(&self) -> bool {
        self.block.opens_with_key(self.index)
    }

    /// The text of the value that `pointer` leads to.
    pub fn find(&self, pointer: &Pointer) -> Option<&'a str> {
        self.block.find(self.index, pointer)
    }

    /// The text of the value under a top-level `key`.
    pub fn field(&self, key: &str) -> Option<&'a str> {
        self.block.field(self.index, key)
    }
}

/// A batch's identity, as text: consumer, segment and line of the first record, count, and 64 bits of XXH3 over all
/// positions and bytes. `webhook:20250912-110801.44:17:100:9f86d081884c7d65`
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BatchId(Box<str>);

impl BatchId {
    fn of(batch: &Batch) -> Self {
        let mut hash = Xxh3::new();
        for place in &batch.records {
            let block = &batch.blocks[place.block as usize];
            let (index, bytes) = (place.index as usize, block.bytes(place.index as usize));
            hash.update(block.segment().as_str().as_bytes());
            hash.update(&[0]);
            hash.update(&block.line(index).to_le_bytes());
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let (segment, line) = match batch.get(0) {
            Some(first) => (first.position().segment.to_string(), first.position().line),
            None => (String::new(), 0),
        };
        let (consumer, count) = (&batch.consumer, batch.len());
        Self(format!("{consumer}:{segment}:{line}:{count}:{:016x}", hash.digest()).into())
    }

    /// The id as text: printable wherever the consumer's name and the segment's are.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
