//! Cutting an object or array into its members, 64 bytes at a time.
//!
//! The text is valid JSON, so all that matters is which commas and brackets are outside of strings. For each 64 bytes
//! that is worked out as bits, and only the bits are walked: a fifth of the work of going from string to string. Given
//! other text, the parts are meaningless, but within bounds.

use std::ops::Range;

const BLOCK: usize = 64;

/// One bit per byte of a block.
struct Masks {
    quotes: u64,
    backslashes: u64,
    /// Commas and brackets, also those within strings.
    marks: u64,
}

/// Calls `each` with the part of `text` for every member of the container whose bracket opens at `open`. Parts may have
/// white space around them.
pub fn split(text: &[u8], open: usize, mut each: impl FnMut(Range<usize>)) {
    let (mut base, mut part, mut depth) = (open + 1, open + 1, 1usize);
    // Whether the block before ended within a string, as all ones, and whether it ended in an escaping backslash.
    let (mut in_string, mut escaped) = (0u64, 0u64);
    while base < text.len() {
        let masks = masks(text, base);
        let quotes = masks.quotes & !escapes(masks.backslashes, &mut escaped);
        let strings = prefix_xor(quotes) ^ in_string;
        in_string = ((strings as i64) >> 63) as u64;
        let mut marks = masks.marks & !strings;
        while marks != 0 {
            let at = base + marks.trailing_zeros() as usize;
            marks &= marks - 1;
            match text.get(at) {
                Some(b',') if depth == 1 => {
                    each(part..at);
                    part = at + 1;
                }
                Some(b',') | None => {}
                Some(b'{' | b'[') => depth += 1,
                Some(_) => {
                    depth -= 1;
                    if depth == 0 {
                        return each(part..at);
                    }
                }
            }
        }
        base += BLOCK;
    }
}

/// Where the parts of an object's member are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Its key's text between the quotes, escapes and all.
    pub key: Range<usize>,
    /// Whether the key holds escapes.
    pub escapes: bool,
    /// Its value's text.
    pub value: Range<usize>,
}

/// What a part is that [`split`] made of an object; `None` if there is nothing in it.
#[inline]
pub fn member(text: &[u8], part: Range<usize>) -> Option<Parts> {
    let start = skip_space(text, part.start) + 1;
    if text.get(start - 1) != Some(&b'"') {
        return None;
    }
    let (mut end, mut escapes) = (start, false);
    loop {
        end += plain_len(text.get(end..)?);
        match text.get(end)? {
            b'"' => break,
            b'\\' => (end, escapes) = (end + 2, true),
            _ => {}
        }
    }
    let colon = skip_space(text, end + 1);
    let value = trim(text, colon + 1..part.end)?;
    Some(Parts { key: start..end, escapes, value })
}

/// Where the value is of the member that a part is, if its key is `key`.
#[inline]
pub(super) fn value_under(text: &str, part: Range<usize>, key: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let start = skip_space(bytes, part.start) + 1;
    if bytes.get(start - 1) != Some(&b'"') {
        return None;
    }
    let rest = bytes.get(start..part.end)?;
    let plain = rest.starts_with(key.as_bytes()) && rest.get(key.len()) == Some(&b'"');
    if plain && !key.contains(['"', '\\']) {
        let colon = skip_space(bytes, start + key.len() + 1);
        return trim(bytes, colon + 1..part.end);
    }
    // It may still be spelt with escapes, but rarely is.
    let mut end = start;
    loop {
        end += plain_len(bytes.get(end..)?);
        match bytes.get(end)? {
            b'"' => return None,
            b'\\' => break,
            _ => {}
        }
    }
    let member = member(bytes, part)?;
    (super::unescape(text.get(member.key)?) == key).then_some(member.value)
}

/// A number of bytes at the start of `text` that are neither quotes nor backslashes; if it is all of the first 16 or of
/// `text`, there may be more.
#[cfg(target_arch = "x86_64")]
#[inline]
fn plain_len(text: &[u8]) -> usize {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    let Some(head) = text.first_chunk::<16>() else { return plain_len_of_few(text) };
    // SAFETY: SSE2 is part of x86-64; the load reads the 16 bytes and needs no alignment.
    let found = unsafe {
        let bytes = _mm_loadu_si128(head.as_ptr().cast::<__m128i>());
        let is = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8));
        _mm_movemask_epi8(_mm_or_si128(is(b'"'), is(b'\\')))
    };
    (found | 1 << 16).trailing_zeros() as usize
}

#[cfg(not(target_arch = "x86_64"))]
fn plain_len(text: &[u8]) -> usize {
    plain_len_of_few(text)
}

fn plain_len_of_few(text: &[u8]) -> usize {
    text.iter().position(|b| matches!(b, b'"' | b'\\')).unwrap_or(text.len())
}

/// A part without the white space around it; `None` if that is all.
#[inline]
pub fn trim(text: &[u8], part: Range<usize>) -> Option<Range<usize>> {
    let start = skip_space(text, part.start);
    let mut end = part.end;
    while end > start && is_space(text[end - 1]) {
        end -= 1;
    }
    (start < end).then_some(start..end)
}

#[inline]
fn skip_space(text: &[u8], mut at: usize) -> usize {
    while text.get(at).copied().is_some_and(is_space) {
        at += 1;
    }
    at
}

#[inline]
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The bytes that a backslash before them escapes. `carry` is 1 if the first byte of the block is, and is set for the
/// next block.
#[inline]
fn escapes(backslashes: u64, carry: &mut u64) -> u64 {
    let first = std::mem::take(carry);
    if backslashes == 0 { first } else { escaped_by(backslashes, first, carry) }
}

/// The bytes that a backslash before them escapes, where there are backslashes. `first` is 1 if the first byte of the
/// block is escaped; `next` becomes 1 if the first one of the next block is.
pub(super) fn escaped_by(backslashes: u64, first: u64, next: &mut u64) -> u64 {
    // Backslashes are rare: one at a time, an escaped one escaping nothing.
    let (mut escaped, mut rest) = (first, backslashes & !first);
    while rest != 0 {
        let bit = rest & rest.wrapping_neg();
        rest &= !bit;
        match bit << 1 {
            0 => *next = 1,
            behind => {
                escaped |= behind;
                rest &= !behind;
            }
        }
    }
    escaped
}

/// Each bit of the result is the parity of the bits up to it.
#[inline]
pub(super) fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[inline]
fn masks(text: &[u8], base: usize) -> Masks {
    if let Some(block) = text.get(base..base + BLOCK).and_then(|b| b.first_chunk::<BLOCK>()) {
        return block_masks(block);
    }
    let mut padded = [b' '; BLOCK];
    let rest = text.get(base..).unwrap_or_default();
    padded[..rest.len()].copy_from_slice(rest);
    block_masks(&padded)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn block_masks(block: &[u8; BLOCK]) -> Masks {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    let mut masks = Masks { quotes: 0, backslashes: 0, marks: 0 };
    for lane in 0..BLOCK / 16 {
        // SAFETY: SSE2 is part of x86-64, and the 16 bytes are within the block; the load needs no alignment.
        let (quotes, backslashes, marks) = unsafe {
            let bytes = _mm_loadu_si128(block.as_ptr().add(lane * 16).cast::<__m128i>());
            let is = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8));
            // With this bit set, both kinds of bracket are the same; nothing else becomes one.
            let folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
            let bracket = |byte: u8| _mm_cmpeq_epi8(folded, _mm_set1_epi8(byte as i8));
            let marks = _mm_or_si128(is(b','), _mm_or_si128(bracket(b'{'), bracket(b'}')));
            (_mm_movemask_epi8(is(b'"')), _mm_movemask_epi8(is(b'\\')), _mm_movemask_epi8(marks))
        };
        masks.quotes |= (quotes as u64) << (lane * 16);
        masks.backslashes |= (backslashes as u64) << (lane * 16);
        masks.marks |= (marks as u64) << (lane * 16);
    }
    masks
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn block_masks(block: &[u8; BLOCK]) -> Masks {
    let bits = |is: fn(u8) -> bool| block.iter().rev().fold(0u64, |bits, b| bits << 1 | u64::from(is(*b)));
    Masks {
        quotes: bits(|b| b == b'"'),
        backslashes: bits(|b| b == b'\\'),
        marks: bits(|b| matches!(b, b',' | b'{' | b'}' | b'[' | b']')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use proptest::prelude::*;

    /// Members as the walker of the core crate has them.
    fn check(text: &str) {
        let start = text.find(['{', '[']).unwrap();
        let mut found = Vec::new();
        split(text.as_bytes(), start, |part| {
            if text[start..].starts_with('[') {
                found.extend(trim(text.as_bytes(), part).map(|value| ("", &text[value])));
            } else {
                let parts = member(text.as_bytes(), part);
                found.extend(parts.map(|p| {
                    assert_eq!(p.escapes, text[p.key.clone()].contains('\\'));
                    (&text[p.key], &text[p.value])
                }));
            }
        });
        let expected: Vec<_> = if text[start..].starts_with('[') {
            json::elements(&text[start..]).map(|value| ("", value)).collect()
        } else {
            json::members(&text[start..]).collect()
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn small_texts() {
        for text in [
            "{}",
            "[]",
            " [ ] ",
            "[1]x",
            "{\"a\":1}",
            "{ \"a\" : [ 1 , { } ] , \"\\\"\" : \",\" }}}",
            "[\"\\\\\",\"]\"]",
        ] {
            check(text);
        }
    }

    /// Any value, of strings that are all quotes, backslashes and brackets.
    fn value() -> impl Strategy<Value = String> {
        let string =
            "([\\[\\]{},: a\u{e9}]|\\\\\\\\|\\\\\"|\\\\u0041){0,40}".prop_map(|s| format!("\"{s}\""));
        let leaf = prop_oneof![string, Just("null".to_owned()), (-99i32..99).prop_map(|n| n.to_string())];
        leaf.prop_recursive(4, 60, 6, |inner| {
            let space = "[ \t]{0,3}";
            prop_oneof![
                (proptest::collection::vec(inner.clone(), 0..6), space)
                    .prop_map(|(v, s)| format!("[{s}{}{s}]", v.join(&format!("{s},{s}")))),
                (proptest::collection::vec(("([a,:{]|\\\\\\\\|\\\\\"){0,70}", inner), 0..6), space).prop_map(
                    |(v, s)| {
                        let members: Vec<_> = v.iter().map(|(k, v)| format!("\"{k}\"{s}:{s}{v}")).collect();
                        format!("{{{s}{}{s}}}", members.join(&format!("{s},{s}")))
                    }
                ),
            ]
        })
        .prop_filter("a container", |text| text.starts_with(['{', '[']))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
        #[test]
        fn as_the_walker_of_the_core_crate(value in value(), tail in "[ \\]},\"a]{0,10}") {
            json::validate(&value).map_err(|e| TestCaseError::fail(format!("{e:?}: {value}")))?;
            check(&value);
            check(&format!("{value}{tail}"));
        }

        #[test]
        fn any_text_is_harmless(text in "[\\[\\]{},:\"\\\\a\u{e9} ]{0,200}", open in 0usize..210) {
            split(text.as_bytes(), open, |part| {
                let _ = (member(text.as_bytes(), part.clone()), trim(text.as_bytes(), part));
            });
        }
    }
}
