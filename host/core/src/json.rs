//! JSON text as bytes: validating a line once, and then finding values in it without building a tree.
//!
//! Everything but [`validate`] expects text that `validate` has accepted. Given other text the functions return
//! something meaningless, but they neither panic nor read out of bounds.
//!
//! Grammar: RFC 8259. Pointers: RFC 6901. Where an object has the same key twice, the last one counts.

pub mod column;
mod grammar;
pub(crate) mod members;
pub mod scan;
pub(crate) mod shapes;
pub(crate) mod tokens;

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr2, memchr3};
use thiserror::Error;

use self::grammar::Fault;

/// How deeply a record's arrays and objects may be nested; the same limit that `serde_json`, and so KumoMTA, has.
pub const MAX_DEPTH: usize = 128;

/// Why a line is not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// It is empty, or holds only spaces and tabs.
    Blank,
    /// It is `null`.
    Null,
    /// It is nested more than [`MAX_DEPTH`] levels deep.
    TooDeep,
    /// It is no JSON text; what is wrong and where.
    Malformed(String),
}

/// Whether `line` is one whole JSON text that can be a record.
///
/// # Errors
/// What is wrong with it.
pub fn validate(line: &str) -> Result<(), Invalid> {
    let text = line.trim_matches([' ', '\t', '\r']);
    if text.is_empty() {
        return Err(Invalid::Blank);
    }
    if text == "null" {
        return Err(Invalid::Null);
    }
    grammar::check(text).map_err(|fault| match fault {
        Fault::TooDeep => Invalid::TooDeep,
        Fault::Expected(what, at) => {
            // Offsets count from the start of the line.
            let at = at + line.len() - line.trim_start_matches([' ', '\t', '\r']).len();
            match line.get(at..).and_then(|rest| rest.chars().next()) {
                Some(found) => {
                    Invalid::Malformed(format!("expected {what} but found {found:?} at byte {at}"))
                }
                None => Invalid::Malformed(format!("expected {what} but the line ends at byte {at}")),
            }
        }
    })
}

/// A value as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number's text.
    Number(&'a str),
    /// A string's text between its quotes, escapes and all; see [`unescape`].
    String(&'a str),
    /// An array's text with its brackets; see [`elements`].
    Array(&'a str),
    /// An object's text with its braces; see [`members`].
    Object(&'a str),
}

impl<'a> Value<'a> {
    /// What kind of value `text` is.
    pub fn of(text: &'a str) -> Self {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        match text.as_bytes().first() {
            Some(b'{') => Self::Object(text),
            Some(b'[') => Self::Array(text),
            Some(b'"') => Self::String(text.get(1..text.len() - 1).unwrap_or_default()),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number(text),
        }
    }
}

/// The members of an object's text: each key (its text between the quotes, escapes and all) and its value's text.
/// Empty if `object` is no object.
pub fn members(object: &str) -> Members<'_> {
    Members { text: object, at: open(object, b'{') }
}

/// The elements of an array's text. Empty if `array` is no array.
pub fn elements(array: &str) -> Elements<'_> {
    Elements { text: array, at: open(array, b'[') }
}

fn open(text: &str, bracket: u8) -> usize {
    let at = skip_space(text.as_bytes(), 0);
    if text.as_bytes().get(at) == Some(&bracket) { at + 1 } else { text.len() }
}

/// Iterator of [`members`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let quote = skip_separators(bytes, self.at);
        if bytes.get(quote) != Some(&b'"') {
            self.at = bytes.len();
            return None;
        }
        let key_end = skip_string(bytes, quote);
        let value = skip_separators(bytes, key_end);
        self.at = skip_value(bytes, value);
        Some((self.text.get(quote + 1..key_end - 1)?, self.text.get(value..self.at)?))
    }
}

/// Iterator of [`elements`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let value = skip_separators(bytes, self.at);
        if matches!(bytes.get(value), None | Some(b']')) {
            self.at = bytes.len();
            return None;
        }
        self.at = skip_value(bytes, value);
        self.text.get(value..self.at)
    }
}

/// The text of the value under `key` in an object's text; of the last one, if the key is there more than once.
pub fn get<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let open = skip_space(object.as_bytes(), 0);
    if object.as_bytes().get(open) != Some(&b'{') {
        return None;
    }
    let mut found = None;
    scan::split(object.as_bytes(), open, |part| {
        if let Some(value) = scan::value_under(object, part, key) {
            found = Some(value);
        }
    });
    object.get(found?)
}

/// The string that a string's text between its quotes stands for. A surrogate without its other half becomes U+FFFD.
pub fn unescape(raw: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', raw.as_bytes()) else {
        return Cow::Borrowed(raw);
    };
    let mut out = String::with_capacity(raw.len());
    out.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(stripped) = rest.strip_prefix('\\') {
        let Some(kind) = stripped.chars().next() else {
            break;
        };
        let mut used = 1 + kind.len_utf8();
        match kind {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let (c, len) = unescape_unit(rest);
                out.push(c);
                used = len;
            }
            other => out.push(other),
        }
        rest = &rest[used..];
        let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
        out.push_str(&rest[..plain]);
        rest = &rest[plain..];
    }
    Cow::Owned(out)
}

/// The character that a `\uXXXX` or a pair of them at the start of `text` stands for, and their length.
fn unescape_unit(text: &str) -> (char, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else {
        return (char::REPLACEMENT_CHARACTER, text.len().min(2));
    };
    if (0xD800..0xDC00).contains(&first)
        && let Some(second @ 0xDC00..0xE000) = unit(6)
    {
        let c = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return (char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6)
}

#[inline]
fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Skips white space, commas and colons: validated text has them only where they belong.
#[inline]
fn skip_separators(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':')) {
        at += 1;
    }
    at
}

/// The index behind the string whose opening quote is at `at`.
#[inline]
fn skip_string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// The index behind the value that starts at `at`.
#[inline]
fn skip_value(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at) {
        Some(b'"') => skip_string(bytes, at),
        Some(b'{') => skip_container(bytes, at, b'{', b'}'),
        Some(b'[') => skip_container(bytes, at, b'[', b']'),
        Some(_) => {
            let rest = &bytes[at..];
            let end =
                rest.iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'));
            // At least one byte is consumed, so that a walk over text that was never validated still ends.
            at + end.unwrap_or(rest.len()).max(1)
        }
        None => bytes.len(),
    }
}

/// The index behind the container that opens at `at`. Only its own kind of bracket needs counting: validated text nests.
fn skip_container(bytes: &[u8], at: usize, open: u8, close: u8) -> usize {
    let (mut depth, mut at) = (1, at + 1);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr3(b'"', open, close, rest)) {
        at += found;
        match bytes[at] {
            b'"' => {
                at = skip_string(bytes, at);
                continue;
            }
            b if b == open => depth += 1,
            _ => depth -= 1,
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// An RFC 6901 JSON pointer, such as `/response/code`. The empty pointer is the whole record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pointer {
    tokens: Box<[String]>,
}

/// How many bytes a pointer may have: 4 KiB.
pub const MAX_POINTER: usize = 4096;

/// Why a string is no JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PointerError {
    /// It has text before its first `/`.
    #[error("the JSON pointer `{0}` must be empty or start with `/` (RFC 6901); did you mean `/{0}`?")]
    NoSlash(String),
    /// It has a `~` that is followed by neither `0` nor `1`.
    #[error("the JSON pointer `{0}` has a `~` that is neither `~0` nor `~1` (RFC 6901)")]
    Tilde(String),
    /// It leads deeper than any record.
    #[error("a JSON pointer has more than {MAX_DEPTH} parts, and no record is nested as deeply")]
    Deep,
    /// It is longer than any that makes sense.
    #[error("a JSON pointer of {0} bytes is longer than {MAX_POINTER}")]
    Long(usize),
}

impl Pointer {
    /// Parses a pointer.
    ///
    /// # Errors
    /// If `text` is not as RFC 6901, section 3 says, has more than [`MAX_DEPTH`] parts or more than [`MAX_POINTER`] bytes.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        // Some come from plug-ins: neither their copies nor the errors about them are to take the host's memory.
        if text.len() > MAX_POINTER {
            return Err(PointerError::Long(text.len()));
        }
        if memchr::memchr_iter(b'/', text.as_bytes()).count() > MAX_DEPTH {
            return Err(PointerError::Deep);
        }
        if text.is_empty() {
            return Ok(Self { tokens: Box::default() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PointerError::NoSlash(text.to_owned()));
        };
        let token = |t| plain_token(t).ok_or_else(|| PointerError::Tilde(text.to_owned()));
        Ok(Self { tokens: rest.split('/').map(token).collect::<Result<_, _>>()? })
    }

    /// The text of the value that the pointer leads to in `json`, or `None` if there is none.
    pub fn find<'a>(&self, json: &'a str) -> Option<&'a str> {
        follow(&self.tokens, json)
    }

    /// As [`find`](Self::find), in an object whose members `field` looks up. `None` if the pointer leads to the whole of it.
    pub(crate) fn find_by<'a>(&self, field: impl FnOnce(&str) -> Option<&'a str>) -> Option<Option<&'a str>> {
        let (first, rest) = self.tokens.split_first()?;
        Some(field(first).and_then(|value| follow(rest, value)))
    }
}

/// RFC 6901, section 3: `~0` is `~` and `~1` is `/`. `None` if a `~` stands before anything else.
fn plain_token(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (stands_for, rest) = match part.as_bytes().first()? {
            b'0' => ('~', &part[1..]),
            b'1' => ('/', &part[1..]),
            _ => return None,
        };
        plain.push(stands_for);
        plain.push_str(rest);
    }
    Some(plain)
}

fn follow<'a>(tokens: &[String], json: &'a str) -> Option<&'a str> {
    tokens.iter().try_fold(json, |value, token| match Value::of(value) {
        Value::Object(object) => get(object, token),
        Value::Array(array) => elements(array).nth(array_index(token)?),
        _ => None,
    })
}

/// RFC 6901, section 4: `0`, or digits without a leading zero.
fn array_index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with(['0', '+']);
    if canonical { token.parse().ok() } else { None }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.iter().try_for_each(|t| write!(f, "/{}", t.replace('~', "~0").replace('/', "~1")))
    }
}
