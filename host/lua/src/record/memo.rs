//! Where the members of the records in use are, so that a record is walked once and not once per field.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use tailweir_core::json::{self, scan};

/// A JSON object or array within a batch: the record that it is in, and the offset of its opening bracket there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    pub(super) fn new(record: u32, start: u32) -> Self {
        Self(u64::from(record) << 32 | u64::from(start))
    }

    /// The place that a Lua integer stands for, whatever it is: places that do not exist are found to have no text.
    pub(super) fn from_integer(n: i64) -> Self {
        Self(n as u64)
    }

    pub(super) fn to_integer(self) -> i64 {
        self.0 as i64
    }

    pub(super) fn record(self) -> usize {
        (self.0 >> 32) as usize
    }

    pub(super) fn start(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    /// The place of the array or object that is the value of a member of this one.
    pub(super) fn child(self, member: Member) -> Self {
        Self(self.0 & !0xffff_ffff | u64::from(member.start))
    }
}

/// One member of an object or element of an array.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// What it is a member of.
    pub(super) kind: Kind,
    /// The text of its key between the quotes, escapes and all; empty for an element of an array.
    pub(super) key: &'static str,
    /// The text of its value.
    pub(super) value: &'static str,
    /// Where that begins in the record's text.
    pub(super) start: u32,
}

/// A member by its offsets in the record's text.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key_start: u32,
    /// Length of the key between its quotes; the top bit says that it holds escapes.
    key_len: u32,
    value_start: u32,
    value_len: u32,
}

const ESCAPED: u32 = 1 << 31;

impl Entry {
    fn value(self) -> Range<usize> {
        self.value_start as usize..(self.value_start + self.value_len) as usize
    }

    fn key(self) -> Range<usize> {
        self.key_start as usize..(self.key_start + (self.key_len & !ESCAPED)) as usize
    }

    #[inline]
    fn spells(self, record: &str, key: &[u8]) -> bool {
        if self.key_len & ESCAPED == 0 {
            return self.key_len as usize == key.len() && record.as_bytes().get(self.key()) == Some(key);
        }
        json::unescape(record.get(self.key()).unwrap_or_default()).as_bytes() == key
    }
}

/// Object or array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
}

/// Members by ordinal, and by key where there are so many that walking them is slow.
#[derive(Debug)]
pub(super) struct Index {
    owner: usize,
    place: Place,
    /// The owner's; emptied when the owner goes.
    record: &'static str,
    kind: Kind,
    entries: Vec<Entry>,
    /// Whether each key is in `entries` once. Looking for one key does not need that, and it takes time to see to.
    unique: bool,
    names: HashMap<Box<[u8]>, u32>,
    used: u64,
}

/// Objects with more members than this get a hash table.
const SMALL: usize = 48;
/// How many indexes are kept: enough for the nested loops that scripts have.
const SLOTS: usize = 8;
/// An index that grew beyond this many entries gives its memory back when its slot is used for another.
const KEPT_CAPACITY: usize = 4096;

impl Index {
    fn empty() -> Self {
        let (entries, names) = (Vec::new(), HashMap::new());
        Self {
            owner: 0,
            place: Place(0),
            record: "",
            kind: Kind::Object,
            entries,
            unique: true,
            names,
            used: 0,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn get(&self, ordinal: usize) -> Option<Member> {
        let entry = *self.entries.get(ordinal)?;
        let text = |range| self.record.get(range).unwrap_or_default();
        Some(Member {
            kind: self.kind,
            key: text(entry.key()),
            value: text(entry.value()),
            start: entry.value_start,
        })
    }

    /// The member under `key`: the last one, if the key is there more than once.
    #[inline]
    fn find(&self, key: &[u8]) -> Option<usize> {
        if !self.names.is_empty() {
            return self.names.get(key).map(|n| *n as usize);
        }
        self.entries.iter().rposition(|e| e.spells(self.record, key))
    }

    /// Where the last value of the text ends. With duplicate keys it need not be the last member's.
    pub(super) fn end(&self) -> Option<usize> {
        self.entries.iter().map(|e| e.value().end).max()
    }

    /// Length of the array as a table: where `#` finds a border in a table that was made with room for all elements.
    pub(super) fn border(&self) -> usize {
        let empty =
            |n: usize| self.entries.get(n - 1).is_none_or(|e| self.record.get(e.value()) == Some("null"));
        let n = if self.kind == Kind::Array { self.entries.len() } else { 0 };
        if n == 0 || !empty(n) {
            return n;
        }
        if n >= 2 && !empty(n - 1) {
            return n - 1;
        }
        let (mut low, mut high) = (0, n);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if empty(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        low
    }

    fn fill(&mut self, owner: usize, place: Place, record: &'static str) {
        if self.entries.capacity() > KEPT_CAPACITY {
            self.entries = Vec::new();
            self.names = HashMap::new();
        }
        self.entries.clear();
        self.names.clear();
        (self.owner, self.place, self.record) = (owner, place, record);
        let text = record.as_bytes();
        let span = |range: Range<usize>| (range.start as u32, (range.end - range.start) as u32);
        let entries = &mut self.entries;
        if text.get(place.start()) == Some(&b'[') {
            (self.kind, self.unique) = (Kind::Array, true);
            scan::split(text, place.start(), |part| {
                if let Some((value_start, value_len)) = scan::trim(text, part).map(span) {
                    entries.push(Entry { key_start: 0, key_len: 0, value_start, value_len });
                }
            });
            return;
        }
        self.kind = Kind::Object;
        scan::split(text, place.start(), |part| {
            let Some(parts) = scan::member(text, part) else { return };
            let escaped = if parts.escapes { ESCAPED } else { 0 };
            let ((key_start, key_len), (value_start, value_len)) = (span(parts.key), span(parts.value));
            entries.push(Entry { key_start, key_len: key_len | escaped, value_start, value_len });
        });
        self.unique = self.entries.len() < 2;
        if self.entries.len() > SMALL {
            self.make_unique();
        }
    }

    /// Sees to it that each key is there once: with its last value, at its first place, as `serde_json` and so KumoMTA
    /// have it.
    #[cold]
    fn make_unique(&mut self) {
        self.unique = true;
        let (record, large, mut kept) = (self.record, self.entries.len() > SMALL, 0);
        // A bit for each key so far, by a cheap hash: most keys are seen to be new by it.
        let mut seen = [0u64; 4];
        for ordinal in 0..self.entries.len() {
            let entry = self.entries[ordinal];
            let raw = record.get(entry.key()).unwrap_or_default();
            let name = if entry.key_len & ESCAPED == 0 { Cow::Borrowed(raw) } else { json::unescape(raw) };
            let known = if large {
                let next = kept as u32;
                Some(*self.names.entry(name.as_bytes().into()).or_insert(next)).filter(|n| *n != next)
            } else if may_be_known(&mut seen, name.as_bytes()) {
                self.entries[..kept].iter().position(|e| e.spells(record, name.as_bytes())).map(|n| n as u32)
            } else {
                None
            };
            match known {
                Some(first) => {
                    let first = &mut self.entries[first as usize];
                    (first.value_start, first.value_len) = (entry.value_start, entry.value_len);
                }
                None => {
                    self.entries[kept] = entry;
                    kept += 1;
                }
            }
        }
        self.entries.truncate(kept);
    }
}

/// Whether the key's bit is set, which then it is.
#[inline]
fn may_be_known(seen: &mut [u64; 4], key: &[u8]) -> bool {
    let byte = |n: usize| key.get(n).map_or(0, |b| usize::from(*b));
    let hash = key.len().wrapping_mul(31)
        ^ byte(0)
        ^ byte(key.len() / 2) << 2
        ^ byte(key.len().wrapping_sub(1)) << 4;
    let (word, bit) = (hash >> 6 & 3, 1u64 << (hash & 63));
    let known = seen[word] & bit != 0;
    seen[word] |= bit;
    known
}

/// The indexes of the objects and arrays that were used last.
#[derive(Debug)]
pub(super) struct Memo {
    slots: [Index; SLOTS],
    last: usize,
    clock: u64,
}

impl Default for Memo {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| Index::empty()), last: 0, clock: 0 }
    }
}

impl Memo {
    /// The index of what is at `place` of a record of the batch that `owner` stands for. `record` gives that record's
    /// text, which must remain valid until the owner is [forgotten](Self::forget).
    #[inline]
    pub(super) fn index(
        &mut self,
        owner: usize,
        place: Place,
        record: impl FnOnce() -> &'static str,
    ) -> &Index {
        let index = self.slot(owner, place, record);
        if !index.unique {
            index.make_unique();
        }
        index
    }

    /// The member under a key of an object.
    #[inline]
    pub(super) fn find(
        &mut self,
        owner: usize,
        place: Place,
        record: impl FnOnce() -> &'static str,
        key: &[u8],
    ) -> Option<Member> {
        let index = self.slot(owner, place, record);
        if index.kind == Kind::Array {
            return None;
        }
        index.get(index.find(key)?)
    }

    /// The ordinal of the member under a key of an object.
    pub(super) fn ordinal(
        &mut self,
        owner: usize,
        place: Place,
        record: impl FnOnce() -> &'static str,
        key: &[u8],
    ) -> Option<usize> {
        let index = self.index(owner, place, record);
        if index.kind == Kind::Array { None } else { index.find(key) }
    }

    #[inline]
    fn slot(&mut self, owner: usize, place: Place, record: impl FnOnce() -> &'static str) -> &mut Index {
        let hit = |i: &Index| i.owner == owner && i.place == place;
        if !hit(&self.slots[self.last]) {
            self.clock += 1;
            self.last = match self.slots.iter().position(hit) {
                Some(slot) => slot,
                None => {
                    let oldest = (0..SLOTS).min_by_key(|s| self.slots[*s].used).unwrap_or(0);
                    self.slots[oldest].fill(owner, place, record());
                    oldest
                }
            };
            self.slots[self.last].used = self.clock;
        }
        &mut self.slots[self.last]
    }

    /// Forgets what belongs to `owner`, whose address may be used again.
    pub(super) fn forget(&mut self, owner: usize) {
        for slot in self.slots.iter_mut().filter(|s| s.owner == owner) {
            (slot.owner, slot.record, slot.used) = (0, "", 0);
        }
    }
}
