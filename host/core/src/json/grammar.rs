//! RFC 8259 in one pass, without recursion: is this text JSON?
//!
//! This is the one thing that is done to every byte of every record, so it is written for speed: strings, most of the
//! text, are passed 16 bytes at a time, and where arrays and objects nest is one bit per level.

use super::MAX_DEPTH;

/// Why a text is no JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    TooDeep,
    /// What would have been right, and the offset of the byte that is not.
    Expected(&'static str, usize),
}

/// Checks that `text` is one JSON text with nothing but white space around it.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    let mut scanner = Scanner { text: text.as_bytes(), at: 0, depth: 0, objects: 0 };
    loop {
        if scanner.value()? == Begun::Container {
            continue;
        }
        loop {
            let byte = scanner.next_token();
            if scanner.depth == 0 {
                return if byte.is_none() { Ok(()) } else { scanner.expected("the end of the line") };
            }
            match (byte, scanner.in_object()) {
                (Some(b','), in_object) => {
                    scanner.at += 1;
                    if in_object {
                        scanner.key()?;
                    }
                    break;
                }
                (Some(b'}'), true) | (Some(b']'), false) => scanner.leave(),
                (_, true) => return scanner.expected("`,` or `}`"),
                (_, false) => return scanner.expected("`,` or `]`"),
            }
        }
    }
}

/// How many bytes at the start of `text` are a number; `None` if there is none.
#[inline]
pub(super) fn number_len(text: &[u8]) -> Option<usize> {
    if let Some(head @ [b'1'..=b'9', ..]) = text.first_chunk::<16>() {
        let len = leading_digits(head);
        if len < 16 && !matches!(head[len], b'.' | b'e' | b'E') {
            return Some(len);
        }
    }
    let mut scanner = Scanner { text, at: 0, depth: 0, objects: 0 };
    scanner.number().ok()?;
    Some(scanner.at)
}

/// How many bytes are digits before the first that is none.
#[inline]
fn leading_digits(bytes: &[u8; 16]) -> usize {
    const EACH: u128 = u128::MAX / 0xff;
    // Digits become 0 to 9, and of those alone the high bit stays clear when 0x76 is added. Nothing is carried from one
    // byte to another.
    let values = u128::from_le_bytes(*bytes) ^ (EACH * 0x30);
    let others = (((values & (EACH * 0x7f)) + EACH * 0x76) | values) & (EACH * 0x80);
    others.trailing_zeros() as usize / 8
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    /// One bit per level, the innermost lowest: whether it is an object.
    objects: u128,
}

// One bit for each level that is allowed.
const _: () = assert!(MAX_DEPTH <= u128::BITS as usize);

#[derive(PartialEq, Eq)]
enum Begun {
    /// A container that is not empty: its first value comes next.
    Container,
    /// A value that is complete.
    Complete,
}

impl Scanner<'_> {
    #[cold]
    fn expected<T>(&self, what: &'static str) -> Result<T, Fault> {
        Err(Fault::Expected(what, self.at))
    }

    /// Skips white space.
    #[inline]
    fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    fn in_object(&self) -> bool {
        self.objects & 1 != 0
    }

    #[inline]
    fn enter(&mut self, object: bool) -> Result<(), Fault> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        self.at += 1;
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        Ok(())
    }

    #[inline]
    fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
    }

    /// Passes a value, or the beginning of one that holds others.
    #[inline]
    fn value(&mut self) -> Result<Begun, Fault> {
        match self.next_token() {
            Some(b'"') => self.string()?,
            Some(b'{') => {
                self.enter(true)?;
                if self.next_token() != Some(b'}') {
                    self.key()?;
                    return Ok(Begun::Container);
                }
                self.leave();
            }
            Some(b'[') => {
                self.enter(false)?;
                if self.next_token() != Some(b']') {
                    return Ok(Begun::Container);
                }
                self.leave();
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            _ => return self.expected("a value"),
        }
        Ok(Begun::Complete)
    }

    /// Passes a key and its colon.
    #[inline]
    fn key(&mut self) -> Result<(), Fault> {
        if self.next_token() != Some(b'"') {
            return self.expected("a key in quotes");
        }
        self.string()?;
        if self.next_token() != Some(b':') {
            return self.expected("`:`");
        }
        self.at += 1;
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        if !self.text[self.at..].starts_with(word) {
            return self.expected("a value");
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), Fault> {
        if self.text[self.at] == b'-' {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Fault> {
        let first = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == first { self.expected("a digit") } else { Ok(()) }
    }

    /// Passes a string, at whose opening quote the scanner is.
    #[inline]
    fn string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            self.at += plain(self.text.get(self.at..).unwrap_or_default());
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return self.expected("no control character in a string"),
                None => return self.expected("the end of a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') if is_hex(self.text.get(self.at + 2..self.at + 6)) => self.at += 6,
            Some(b'u') => return self.expected("four hexadecimal digits after `\\u`"),
            _ => return self.expected("an escape that JSON has"),
        }
        Ok(())
    }
}

pub(super) fn is_hex(digits: Option<&[u8]>) -> bool {
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// How many bytes of `text` a string may hold as they are: up to the first quote, backslash or control character.
#[inline]
fn plain(text: &[u8]) -> usize {
    let (chunks, rest) = text.as_chunks::<16>();
    for (n, chunk) in chunks.iter().enumerate() {
        let stops = stops(chunk);
        if stops != 0 {
            return n * 16 + stops.trailing_zeros() as usize;
        }
    }
    let stop = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20));
    chunks.len() * 16 + stop.unwrap_or(rest.len())
}

/// A bit for each byte that a string may not hold as it is.
#[cfg(target_arch = "x86_64")]
#[inline]
fn stops(chunk: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: the chunk is 16 bytes, and the load need not be aligned. SSE2 is part of x86-64.
    unsafe {
        let bytes = _mm_loadu_si128(chunk.as_ptr().cast());
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control)) as u32
    }
}

/// A bit for each byte that a string may not hold as it is.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn stops(chunk: &[u8; 16]) -> u32 {
    let stop = |b: u8| u32::from(b == b'"' || b == b'\\' || b < 0x20);
    (0..16).fold(0, |stops, n| stops | stop(chunk[n]) << n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sixteen bytes at once, as one by one.
    #[test]
    fn numbers_have_the_length_that_the_grammar_gives_them() {
        for first in 0..=u8::MAX {
            for stop in 0..=u8::MAX {
                for at in 0..20 {
                    let mut text = *b"98765432101234567890 ";
                    (text[0], text[at]) = (first, stop);
                    let mut scanner = Scanner { text: &text, at: 0, depth: 0, objects: 0 };
                    let expected = scanner.number().ok().map(|()| scanner.at);
                    assert_eq!(number_len(&text), expected, "{}", text.escape_ascii());
                }
            }
        }
    }
}
