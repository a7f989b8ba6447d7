//! Where the members of records are.

use std::ops::Range;

use super::shapes::Shapes;
use super::tokens::Line;

/// The tag of a key that must be looked at closely: it is spelt with escapes, or empty.
const CLOSELY: u8 = u8::MAX;

/// What is told of a key without its text, which is `len` bytes long and ends in `last`, of which the former may be the quote
/// before it. Few other keys of a record have the same tag.
#[inline(always)]
fn tag(len: usize, last: [u8; 2]) -> u8 {
    let mixed = (len as u8).wrapping_mul(7) ^ last[0].wrapping_mul(5) ^ last[1].wrapping_mul(29);
    mixed.min(CLOSELY - 1)
}

/// The tag of `key` where it is spelt without escapes.
fn tag_of(key: &str) -> u8 {
    match key.as_bytes() {
        [] => CLOSELY,
        [last] => tag(1, [b'"', *last]),
        [.., before, last] => tag(key.len(), [*before, *last]),
    }
}

/// Where the members of records are: their keys, one record's after another's.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Where the keys begin, behind their quotes, in the text that the records are in.
    keys: Vec<u32>,
    /// Their tags, as many.
    tags: Vec<u8>,
}

/// How [`Members::add`] reads a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is one JSON text other than `null`; if it is an object, its members were added.
    Valid,
    /// It is not, or it is not known whether it is. Nothing was added.
    Doubtful,
}

impl Members {
    pub(crate) fn with_capacity(members: usize) -> Self {
        Self { keys: Vec::with_capacity(members), tags: Vec::with_capacity(members) }
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.tags.clear();
    }

    pub(crate) fn footprint(&self) -> usize {
        self.keys.capacity() * size_of::<u32>() + self.tags.capacity()
    }

    /// Checks a line against RFC 8259, and adds the members of the object that it is. `shapes` are those of lines before it.
    pub(crate) fn add(&mut self, line: Line<'_>, shapes: &mut Shapes) -> Found {
        // `null` alone is JSON text, but no record.
        if !line.facts.sound || line.kinds() == b"n" {
            return Found::Doubtful;
        }
        let Some(shape) = shapes.of(line.kinds()) else { return Found::Doubtful };
        if !shape.scalars().iter().all(|token| is_scalar(line, *token as usize)) {
            return Found::Doubtful;
        }
        let (from, text) = (self.len(), line.text());
        self.keys.extend(shape.keys().iter().map(|key| line.place(*key as usize) as u32 + 1));
        self.tags.extend(shape.keys().iter().map(|key| {
            let (quote, colon) = (line.place(*key as usize), line.place(*key as usize + 1));
            // Behind the key's closing quote there is only white space before the colon.
            let space = text[..colon].iter().rev().position(|b| *b == b'"').unwrap_or_default();
            match text[quote..colon - space] {
                [_, .., before, last, _] => tag(colon - space - quote - 2, [before, last]),
                [before, last, _] => tag(1, [before, last]),
                _ => CLOSELY,
            }
        }));
        let mut next_key = 0;
        for escaped in line.escaped().iter().copied() {
            // Most are in a value, like the one before them.
            if escaped >= next_key {
                let before = from + self.keys[from..].partition_point(|key| *key <= escaped);
                next_key = self.keys.get(before).copied().unwrap_or(u32::MAX);
                if before > from && !text[self.keys[before - 1] as usize..escaped as usize].contains(&b'"') {
                    self.tags[before - 1] = CLOSELY;
                }
            }
        }
        Found::Valid
    }

    /// Adds the members of `from` that are at `range`, of a record that is `by` bytes further in `from`'s text, or less far
    /// if it is negative.
    pub(crate) fn copy(&mut self, from: &Self, range: Range<usize>, by: i64) {
        self.keys.extend(from.keys[range.clone()].iter().map(|key| (i64::from(*key) - by) as u32));
        self.tags.extend_from_slice(&from.tags[range]);
    }

    /// The index and the value of the last of the members at `range` whose key is `key`. `text` is the text up to the end of their
    /// record.
    pub(crate) fn find(&self, text: &[u8], range: Range<usize>, key: &str) -> Option<(usize, Range<usize>)> {
        let tag = tag_of(key);
        let mut end = range.end;
        while end > range.start {
            let start = end.saturating_sub(16).max(range.start);
            let mut likely = self.alike(start..end, tag);
            while likely != 0 {
                let bit = likely.ilog2();
                likely &= !(1 << bit);
                let index = start + bit as usize;
                if let Some(key_end) = self.end_of_key(text, index, key) {
                    return Some((index, self.value(text, index, key_end, range.end)));
                }
            }
            end = start;
        }
        None
    }

    /// Has the memory fetched in which the member at `index` is, because it will be asked for soon. `text` begins where the
    /// keys are counted from.
    #[inline]
    pub(crate) fn expect(&self, text: &[u8], index: usize) {
        if let Some(key) = self.keys.get(index) {
            fetch(text, *key as usize);
        }
    }

    /// Where the first of the members at `range` has its key, if there is one.
    #[inline]
    pub(crate) fn first_key(&self, range: Range<usize>) -> Option<u32> {
        self.keys.get(range)?.first().copied()
    }

    /// A bit for each of at most 16 keys that has the tag, or must be looked at closely.
    #[inline]
    fn alike(&self, range: Range<usize>, tag: u8) -> u32 {
        let mut padded = [0; 16];
        let tags = match self.tags[range.start..].first_chunk::<16>() {
            Some(tags) => tags,
            None => {
                padded[..range.len()].copy_from_slice(&self.tags[range.clone()]);
                &padded
            }
        };
        equal(tags, tag) & ((1 << range.len()) - 1)
    }

    /// Where the closing quote is of the key at `index`, if that is `key`.
    #[inline]
    fn end_of_key(&self, text: &[u8], index: usize, key: &str) -> Option<usize> {
        let start = self.keys[index] as usize;
        if self.tags[index] != CLOSELY {
            let end = start + key.len();
            let is_it = text[start..].starts_with(key.as_bytes()) && text.get(end) == Some(&b'"');
            // It is spelt without escapes, so a key with a quote in it has only run on into the value.
            return (is_it && !key.contains('"')).then_some(end);
        }
        let end = key_end(text, start);
        let raw = std::str::from_utf8(&text[start..end]);
        raw.is_ok_and(|raw| super::unescape(raw) == key).then_some(end)
    }

    /// The value of the member at `index`, whose key ends at `key_end`, of a record whose members end at `end`. `text` is the
    /// text up to the record's end.
    #[inline]
    fn value(&self, text: &[u8], index: usize, key_end: usize, end: usize) -> Range<usize> {
        let mut value = key_end + 1;
        while matches!(text[value], b':' | b' ' | b'\t' | b'\r') {
            value += 1;
        }
        // Behind it come a comma or the brace, and white space.
        let mut behind = if index + 1 < end { self.keys[index + 1] as usize - 1 } else { text.len() };
        while matches!(text[behind - 1], b' ' | b'\t' | b'\r') {
            behind -= 1;
        }
        behind -= 1;
        while matches!(text[behind - 1], b' ' | b'\t' | b'\r') {
            behind -= 1;
        }
        value..behind
    }
}

/// Has the memory of `text` fetched that is at `at`, because it will be looked into soon.
#[inline]
pub(crate) fn fetch(text: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch is a hint that reads nothing, whatever the address.
        unsafe { _mm_prefetch(text.as_ptr().wrapping_add(at).cast(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (text, at);
}

/// The end of the key that begins at `start`.
fn key_end(text: &[u8], start: usize) -> usize {
    let mut end = start;
    while text[end] != b'"' {
        end += 1 + usize::from(text[end] == b'\\');
    }
    end
}

/// A bit for each of the tags that is `tag` or [`CLOSELY`].
#[cfg(target_arch = "x86_64")]
#[inline]
fn equal(tags: &[u8; 16], tag: u8) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: SSE2 is part of x86-64; the load reads the 16 bytes and needs no alignment.
    unsafe {
        let tags = _mm_loadu_si128(tags.as_ptr().cast());
        let is = |tag: u8| _mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8));
        _mm_movemask_epi8(_mm_or_si128(is(tag), is(CLOSELY))) as u32
    }
}

/// A bit for each of the tags that is `tag` or [`CLOSELY`].
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn equal(tags: &[u8; 16], tag: u8) -> u32 {
    tags.iter().rev().fold(0, |bits, t| bits << 1 | u32::from(*t == tag || *t == CLOSELY))
}

/// Whether the token is one number or literal.
#[inline(always)]
fn is_scalar(line: Line<'_>, token: usize) -> bool {
    let rest = &line.text()[line.place(token)..];
    let len = match line.kinds()[token] {
        b't' => literal(rest, b"true"),
        b'f' => literal(rest, b"false"),
        b'n' => literal(rest, b"null"),
        _ => super::grammar::number_len(rest),
    };
    len.is_some_and(|len| matches!(rest.get(len), None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\r')))
}

#[inline(always)]
fn literal(text: &[u8], word: &[u8]) -> Option<usize> {
    text.starts_with(word).then_some(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::MAX_DEPTH;
    use crate::json::tokens::Tokens;

    fn check(line: &str, expected: Found) {
        let mut tokens = Tokens::default();
        let (mut members, mut shapes) = (Members::default(), Shapes::default());
        // The second time its shape may be known.
        for _ in 0..2 {
            let found = members.add(tokens.of_line(line.as_bytes(), 0), &mut shapes);
            assert_eq!(found, expected, "{line}");
        }
    }

    /// Whatever is doubtful is validated a second time: what records look like must not be.
    #[test]
    fn nothing_usual_is_doubtful() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for line in [
            "{}",
            " [ ] ",
            "{\"a\" : -1.5e+7 , \"b\\u0041\\n\":[true,false,null,{\"c\":{}}]}\r",
            "\"\u{e9}\"",
            "17",
            &deep(MAX_DEPTH),
            &format!("{{\"{}\":\"{}\"}}", "k".repeat(300), "v\\\\".repeat(5000)),
        ] {
            check(line, Found::Valid);
        }
        for line in [
            "",
            " ",
            "null",
            "{\"a\":01}",
            "[1 2]",
            "\"a",
            "{\"a\"}",
            "tru",
            "{]",
            "1}",
            &deep(MAX_DEPTH + 1),
        ] {
            check(line, Found::Doubtful);
        }
    }
}
