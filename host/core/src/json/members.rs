//! The grammar over a line's tokens, and where the members of its object are.

use std::ops::Range;

use super::MAX_DEPTH;
use super::tokens::Line;

/// A key that has this many bytes or more, or that is spelt with escapes, must be looked at closely.
const CLOSELY: u8 = u8::MAX;

/// Where the members of records are: their keys, one record's after another's.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Where the keys begin, behind their quotes, in the text that the records are in.
    keys: Vec<u32>,
    /// How long they are, or [`CLOSELY`].
    lens: Vec<u8>,
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
        Self { keys: Vec::with_capacity(members), lens: Vec::with_capacity(members) }
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.lens.clear();
    }

    pub(crate) fn footprint(&self) -> usize {
        self.keys.capacity() * size_of::<u32>() + self.lens.capacity()
    }

    /// Checks a line against RFC 8259, and adds the members of the object that it is.
    pub(crate) fn add(&mut self, line: Line<'_>) -> Found {
        let before = self.len();
        // `null` alone is JSON text, but no record.
        let null = line.len() == 1 && line.byte(0) == b'n';
        let walk = Walk { line, escaped: line.escaped(), members: self };
        if line.facts.sound && !null && walk.whole().is_some() {
            return Found::Valid;
        }
        self.keys.truncate(before);
        self.lens.truncate(before);
        Found::Doubtful
    }

    /// Adds the members of `from` that are at `range`, of a record that is `by` bytes further in `from`'s text, or less far
    /// if it is negative.
    pub(crate) fn copy(&mut self, from: &Self, range: Range<usize>, by: i64) {
        self.keys.extend(from.keys[range.clone()].iter().map(|key| (i64::from(*key) - by) as u32));
        self.lens.extend_from_slice(&from.lens[range]);
    }

    /// The index and the value of the last of the members at `range` whose key is `key`. `text` is the text up to the end of their
    /// record.
    pub(crate) fn find(&self, text: &[u8], range: Range<usize>, key: &str) -> Option<(usize, Range<usize>)> {
        let len = u8::try_from(key.len()).unwrap_or(CLOSELY);
        let mut end = range.end;
        while end > range.start {
            let start = end.saturating_sub(16).max(range.start);
            let mut likely = self.alike(start..end, len);
            while likely != 0 {
                let bit = likely.ilog2();
                likely &= !(1 << bit);
                let index = start + bit as usize;
                if self.is_key(text, index, key) {
                    return Some((index, self.value(text, index, range.end)));
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
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = self.keys.get(index) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: SSE is part of x86-64, and a prefetch is a hint that reads nothing, whatever the address.
            unsafe { _mm_prefetch(text.as_ptr().wrapping_add(*key as usize).cast(), _MM_HINT_T0) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (text, index);
    }

    /// Where the first of the members at `range` has its key, if there is one.
    #[inline]
    pub(crate) fn first_key(&self, range: Range<usize>) -> Option<u32> {
        self.keys.get(range)?.first().copied()
    }

    /// A bit for each of at most 16 keys that is `len` bytes long, or must be looked at closely.
    #[inline]
    fn alike(&self, range: Range<usize>, len: u8) -> u32 {
        let mut padded = [0; 16];
        let lens = match self.lens[range.start..].first_chunk::<16>() {
            Some(lens) => lens,
            None => {
                padded[..range.len()].copy_from_slice(&self.lens[range.clone()]);
                &padded
            }
        };
        equal(lens, len) & ((1 << range.len()) - 1)
    }

    #[inline]
    fn is_key(&self, text: &[u8], index: usize, key: &str) -> bool {
        let start = self.keys[index] as usize;
        if self.lens[index] != CLOSELY {
            return text[start..].starts_with(key.as_bytes());
        }
        let raw = std::str::from_utf8(&text[start..key_end(text, start)]);
        raw.is_ok_and(|raw| super::unescape(raw) == key)
    }

    /// The value of the member at `index` of a record whose members end at `end`. `text` is the text up to the record's
    /// end.
    #[inline]
    fn value(&self, text: &[u8], index: usize, end: usize) -> Range<usize> {
        let start = self.keys[index] as usize;
        let key_end = match self.lens[index] {
            CLOSELY => key_end(text, start),
            len => start + len as usize,
        };
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

/// The end of the key that begins at `start`.
fn key_end(text: &[u8], start: usize) -> usize {
    let mut end = start;
    while text[end] != b'"' {
        end += 1 + usize::from(text[end] == b'\\');
    }
    end
}

/// A bit for each of the lengths that is `len` or [`CLOSELY`].
#[cfg(target_arch = "x86_64")]
#[inline]
fn equal(lens: &[u8; 16], len: u8) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: SSE2 is part of x86-64; the load reads the 16 bytes and needs no alignment.
    unsafe {
        let lens = _mm_loadu_si128(lens.as_ptr().cast());
        let is = |len: u8| _mm_cmpeq_epi8(lens, _mm_set1_epi8(len as i8));
        _mm_movemask_epi8(_mm_or_si128(is(len), is(CLOSELY))) as u32
    }
}

/// A bit for each of the lengths that is `len` or [`CLOSELY`].
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn equal(lens: &[u8; 16], len: u8) -> u32 {
    lens.iter().rev().fold(0, |bits, l| bits << 1 | u32::from(*l == len || *l == CLOSELY))
}

/// The containers that a walk is in: one bit per level, the innermost lowest, whether it is an object.
struct Nest {
    depth: usize,
    objects: u128,
}

impl Nest {
    fn enter(&mut self, object: bool) -> Option<()> {
        if self.depth == MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        Some(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn in_object(&self) -> bool {
        self.objects & 1 != 0
    }
}

/// A walk over the tokens of one line.
struct Walk<'a> {
    line: Line<'a>,
    /// Those bytes that a backslash escapes which are not passed yet.
    escaped: &'a [u32],
    members: &'a mut Members,
}

impl Walk<'_> {
    /// `None` if the line is not one whole JSON text.
    fn whole(mut self) -> Option<()> {
        let (line, mut nest, mut next) = (self.line, Nest { depth: 0, objects: 0 }, 0);
        let byte = |token: usize| if token < line.len() { line.byte(token) } else { 0 };
        loop {
            // A value comes next.
            let first = byte(next);
            next += 1;
            if first == b'{' {
                nest.enter(true)?;
                if byte(next) != b'}' {
                    next = self.fields(next, nest.depth)?;
                    continue;
                }
                next += 1;
                nest.leave();
            } else if first == b'[' {
                nest.enter(false)?;
                if byte(next) != b']' {
                    continue;
                }
                next += 1;
                nest.leave();
            } else {
                self.scalar(first, next - 1)?;
            }
            // A value is complete.
            loop {
                if nest.depth == 0 {
                    return (next == line.len()).then_some(());
                }
                let mark = byte(next);
                next += 1;
                match (mark, nest.in_object()) {
                    (b',', true) => {
                        next = self.fields(next, nest.depth)?;
                        break;
                    }
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => nest.leave(),
                    _ => return None,
                }
            }
        }
    }

    /// Passes members of an object, from the key at `next` on, as long as they are followed by others and their values are
    /// no containers. Returns where the value is of the one that is not.
    #[inline(always)]
    fn fields(&mut self, mut next: usize, depth: usize) -> Option<usize> {
        let line = self.line;
        // A key, its colon, a value, and what is behind it: in an object there is always something.
        while next + 3 < line.len() {
            if line.byte(next) != b'"' || line.byte(next + 1) != b':' {
                return None;
            }
            if depth == 1 {
                self.add_key(line.place(next) + 1, line.place(next + 1));
            }
            let first = line.byte(next + 2);
            if line.byte(next + 3) != b',' || first == b'{' || first == b'[' {
                return Some(next + 2);
            }
            if first != b'"' {
                self.scalar(first, next + 2)?;
            }
            next += 4;
        }
        None
    }

    /// Adds the key that begins at `start` and has its colon, the next token, at `colon`.
    #[inline(always)]
    fn add_key(&mut self, start: usize, colon: usize) {
        let mut len = colon - 1 - start;
        if self.line.text()[colon - 1] != b'"' {
            // Between the key's closing quote and the colon there is only white space.
            len -= self.line.text()[start..colon].iter().rev().position(|b| *b == b'"').unwrap_or(0);
        }
        if !self.escaped.is_empty() && self.pass_escapes(start, start + len) {
            len = usize::MAX;
        }
        self.members.keys.push(start as u32);
        self.members.lens.push(len.min(CLOSELY as usize) as u8);
    }

    /// Passes the escapes before `end`; whether there are any from `start` on.
    #[inline]
    fn pass_escapes(&mut self, start: usize, end: usize) -> bool {
        let mut within = false;
        while let [first, rest @ ..] = self.escaped
            && (*first as usize) < end
        {
            within |= *first as usize >= start;
            self.escaped = rest;
        }
        within
    }

    /// Checks the string, number or literal that is the token and begins with `first`.
    #[inline(always)]
    fn scalar(&self, first: u8, token: usize) -> Option<()> {
        if first == b'"' {
            return Some(());
        }
        let text = self.line.text();
        // A token that there is not begins with zero.
        let rest = if first == 0 { &[] } else { &text[self.line.place(token)..] };
        let len = match first {
            b'-' | b'0'..=b'9' => super::grammar::number_len(rest)?,
            b't' => literal(rest, b"true")?,
            b'f' => literal(rest, b"false")?,
            b'n' => literal(rest, b"null")?,
            _ => return None,
        };
        matches!(rest.get(len), None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\r')).then_some(())
    }
}

#[inline(always)]
fn literal(text: &[u8], word: &[u8]) -> Option<usize> {
    text.starts_with(word).then_some(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tokens::Tokens;

    fn check(line: &str, expected: Found) {
        let mut tokens = Tokens::default();
        let found = Members::default().add(tokens.of_line(line.as_bytes(), 0));
        assert_eq!(found, expected, "{line}");
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
