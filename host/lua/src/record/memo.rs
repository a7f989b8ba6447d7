//! Where the members of the records in use are, so that a record is walked once and not once per field.

use std::collections::HashMap;
use std::ops::Range;

use tailweir_core::json;

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

    /// The place of the array or object that is the value of `entry`, a member of this one.
    pub(super) fn child(self, entry: Entry) -> Self {
        Self(self.0 & !0xffff_ffff | u64::from(entry.value_start))
    }
}

/// One member of an object or element of an array, by its offsets in the record's text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    key_start: u32,
    /// Length of the key between its quotes; the top bit says that it holds escapes.
    key_len: u32,
    pub(super) value_start: u32,
    value_len: u32,
}

const ESCAPED: u32 = 1 << 31;

impl Entry {
    pub(super) fn value(self) -> Range<usize> {
        self.value_start as usize..(self.value_start + self.value_len) as usize
    }

    /// The key between its quotes, escapes and all.
    pub(super) fn key(self) -> Range<usize> {
        self.key_start as usize..(self.key_start + (self.key_len & !ESCAPED)) as usize
    }

    fn spells(self, record: &str, key: &[u8]) -> bool {
        let raw = record.get(self.key()).unwrap_or_default();
        if self.key_len & ESCAPED == 0 { raw.as_bytes() == key } else { json::unescape(raw).as_bytes() == key }
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
    kind: Kind,
    entries: Vec<Entry>,
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
        Self { owner: 0, place: Place(0), kind: Kind::Object, entries, names, used: 0 }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, ordinal: usize) -> Option<Entry> {
        self.entries.get(ordinal).copied()
    }

    /// The ordinal of the member under `key`.
    pub(super) fn find(&self, record: &str, key: &[u8]) -> Option<usize> {
        if !self.names.is_empty() {
            return self.names.get(key).map(|n| *n as usize);
        }
        self.entries.iter().position(|e| e.spells(record, key))
    }

    /// Length of the array as a table: where `#` finds a border in a table that was made with room for all elements.
    pub(super) fn border(&self, record: &str) -> usize {
        let empty = |n: usize| self.entries.get(n - 1).is_none_or(|e| record.get(e.value()) == Some("null"));
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

    fn fill(&mut self, owner: usize, place: Place, record: &str) {
        if self.entries.capacity() > KEPT_CAPACITY {
            self.entries = Vec::new();
            self.names = HashMap::new();
        }
        self.entries.clear();
        self.names.clear();
        (self.owner, self.place) = (owner, place);
        // The walkers stop at the closing bracket, so the text need not be cut there.
        let text = record.get(place.start()..).unwrap_or_default();
        let offset = |part: &str| (part.as_ptr() as usize - record.as_ptr() as usize) as u32;
        if text.starts_with('[') {
            self.kind = Kind::Array;
            self.entries.extend(json::elements(text).map(|value| Entry {
                key_start: 0,
                key_len: 0,
                value_start: offset(value),
                value_len: value.len() as u32,
            }));
            return;
        }
        self.kind = Kind::Object;
        // One bit per key seen, by a cheap hash: only a key whose bit is set can be there already.
        let mut seen = [0u64; 4];
        for (key, value) in json::members(text) {
            let escaped = if key.contains('\\') { ESCAPED } else { 0 };
            let entry = Entry {
                key_start: offset(key),
                key_len: key.len() as u32 | escaped,
                value_start: offset(value),
                value_len: value.len() as u32,
            };
            let known = if escaped == 0 { self.seen_before(&mut seen, record, key.as_bytes()) } else {
                self.seen_before(&mut seen, record, json::unescape(key).as_bytes())
            };
            match known {
                // The last value counts, at the place of the first, as `serde_json` and so KumoMTA have it.
                Some(ordinal) => (self.entries[ordinal].value_start, self.entries[ordinal].value_len) = (entry.value_start, entry.value_len),
                None => self.entries.push(entry),
            }
        }
    }

    /// The ordinal of the member that has the same key, if there is one; else the key is noted as seen, and the caller
    /// adds it.
    fn seen_before(&mut self, seen: &mut [u64; 4], record: &str, key: &[u8]) -> Option<usize> {
        if self.entries.len() == SMALL && self.names.is_empty() {
            for (ordinal, entry) in self.entries.iter().enumerate() {
                let name = json::unescape(record.get(entry.key()).unwrap_or_default());
                self.names.insert(name.as_bytes().into(), ordinal as u32);
            }
        }
        if self.entries.len() >= SMALL {
            if let Some(ordinal) = self.names.get(key) {
                return Some(*ordinal as usize);
            }
            self.names.insert(key.into(), self.entries.len() as u32);
            return None;
        }
        let (first, last) = (key.first().copied().unwrap_or(0), key.last().copied().unwrap_or(0));
        let middle = key.get(key.len() / 2).copied().unwrap_or(0);
        let hash = key.len() ^ (first as usize) << 2 ^ (last as usize).wrapping_mul(7) ^ (middle as usize).wrapping_mul(29);
        let (word, bit) = (hash >> 6 & 3, 1u64 << (hash & 63));
        let maybe = seen[word] & bit != 0;
        seen[word] |= bit;
        if maybe { self.find(record, key) } else { None }
    }
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
    /// The index of what is at `place` of `record`, a record of the batch that `owner` stands for.
    #[inline]
    pub(super) fn index(&mut self, owner: usize, place: Place, record: &str) -> &Index {
        let hit = |i: &Index| i.owner == owner && i.place == place;
        if !hit(&self.slots[self.last]) {
            self.clock += 1;
            self.last = match self.slots.iter().position(hit) {
                Some(slot) => slot,
                None => {
                    let oldest = (0..SLOTS).min_by_key(|s| self.slots[*s].used).unwrap_or(0);
                    self.slots[oldest].fill(owner, place, record);
                    oldest
                }
            };
            self.slots[self.last].used = self.clock;
        }
        &self.slots[self.last]
    }

    /// Forgets what belongs to `owner`, whose address may be used again.
    pub(super) fn forget(&mut self, owner: usize) {
        for slot in self.slots.iter_mut().filter(|s| s.owner == owner) {
            slot.owner = 0;
            slot.used = 0;
        }
    }
}
