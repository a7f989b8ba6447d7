//! The grammar over a line's tokens, and where the members of its object are.

use std::ops::Range;

use super::MAX_DEPTH;
use super::tokens::{Line, Tokens};

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

    pub(crate) fn footprint(&self) -> usize {
        self.keys.capacity() * size_of::<u32>() + self.lens.capacity()
    }

    /// Checks a line, whose text ends at `line.end`, against RFC 8259, and adds the members of the object that it is.
    pub(crate) fn add(&mut self, text: &[u8], line: Line, tokens: &Tokens) -> Found {
        let before = self.len();
        let text = &text[..line.end];
        let places = tokens.places();
        // `null` alone is JSON text, but no record.
        let null = matches!(places, [only] if text.get(*only as usize) == Some(&b'n'));
        let mut walk = Walk { text, places, next: 0, escaped: tokens.escaped(), members: self };
        if line.sound && !null && walk.whole().is_some() {
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

    /// The value of the last of the members at `range` whose key is `key`. `text` is the text up to the end of their
    /// record.
    pub(crate) fn find(&self, text: &[u8], range: Range<usize>, key: &str) -> Option<Range<usize>> {
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
                    return Some(self.value(text, index, range.end));
                }
            }
            end = start;
        }
        None
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

/// A walk over the tokens of one line.
struct Walk<'a> {
    text: &'a [u8],
    places: &'a [u32],
    next: usize,
    /// Those that are not passed yet.
    escaped: &'a [u32],
    members: &'a mut Members,
}

/// The containers that the walk is in: one bit per level, the innermost lowest, whether it is an object.
#[derive(Clone, Copy)]
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

impl Walk<'_> {
    /// `None` if the line is not one whole JSON text.
    #[inline(always)]
    fn whole(&mut self) -> Option<()> {
        let mut nest = Nest { depth: 0, objects: 0 };
        loop {
            // A value comes next.
            if self.value(&mut nest)? {
                continue;
            }
            loop {
                if nest.depth == 0 {
                    return (self.next == self.places.len()).then_some(());
                }
                match (self.take()?, nest.in_object()) {
                    (b',', true) => {
                        self.key(&nest)?;
                        break;
                    }
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => nest.leave(),
                    _ => return None,
                }
            }
        }
    }

    /// The first byte of the next token.
    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.text.get(*self.places.get(self.next)? as usize).copied()
    }

    /// The first byte of the next token, which is passed.
    #[inline(always)]
    fn take(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.next += 1;
        byte
    }

    /// Passes a value; `true` if it is only begun.
    #[inline(always)]
    fn value(&mut self, nest: &mut Nest) -> Option<bool> {
        match self.take()? {
            b'"' => {}
            b'{' => {
                nest.enter(true)?;
                if self.peek()? != b'}' {
                    self.key(nest)?;
                    return Some(true);
                }
                self.next += 1;
                nest.leave();
            }
            b'[' => {
                nest.enter(false)?;
                if self.peek()? != b']' {
                    return Some(true);
                }
                self.next += 1;
                nest.leave();
            }
            b'-' | b'0'..=b'9' => self.scalar(super::grammar::number_len)?,
            b't' => self.scalar(|text| literal(text, b"true"))?,
            b'f' => self.scalar(|text| literal(text, b"false"))?,
            b'n' => self.scalar(|text| literal(text, b"null"))?,
            _ => return None,
        }
        Some(false)
    }

    /// Passes a key and its colon, and adds the member if it is the outermost object's.
    #[inline(always)]
    fn key(&mut self, nest: &Nest) -> Option<()> {
        let [quote, colon] = *self.places.get(self.next..)?.first_chunk()?;
        let (start, colon) = (quote as usize + 1, colon as usize);
        if self.text.get(start - 1) != Some(&b'"') || self.text.get(colon) != Some(&b':') {
            return None;
        }
        self.next += 2;
        if nest.depth == 1 {
            // Between the key's closing quote and the colon, which is the next token, there is only white space.
            let mut close = colon - 1;
            while self.text[close] != b'"' {
                close -= 1;
            }
            let len = close - start;
            while self.escaped.first().is_some_and(|at| (*at as usize) < start) {
                self.escaped = &self.escaped[1..];
            }
            let escapes = self.escaped.first().is_some_and(|at| (*at as usize) < close);
            let plain = len < CLOSELY as usize && !escapes;
            self.members.keys.push(start as u32);
            self.members.lens.push(if plain { len as u8 } else { CLOSELY });
        }
        Some(())
    }

    /// Checks the number or literal that was taken last, which must end where its text does.
    #[inline(always)]
    fn scalar(&self, len: impl Fn(&[u8]) -> Option<usize>) -> Option<()> {
        let text = self.text.get(*self.places.get(self.next - 1)? as usize..)?;
        let behind = text.get(len(text)?);
        let ends = matches!(behind, None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\r'));
        ends.then_some(())
    }
}

#[inline(always)]
fn literal(text: &[u8], word: &[u8]) -> Option<usize> {
    text.starts_with(word).then_some(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Found) {
        let mut tokens = Tokens::default();
        let found = tokens.of_line(line.as_bytes(), 0);
        assert_eq!(Members::default().add(line.as_bytes(), found, &tokens), expected, "{line}");
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
