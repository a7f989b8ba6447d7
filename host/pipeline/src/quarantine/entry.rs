//! One line of a quarantine.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tailweir_core::{Position, SegmentName};
use xxhash_rust::xxh3::Xxh3;

/// A record or line in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineEntry {
    /// Where it was read.
    pub position: Position,
    /// The consumer that had it.
    pub consumer: String,
    /// Why it is here.
    pub reason: String,
    /// The plug-in that could do nothing with it, if one is to blame.
    pub plugin: Option<String>,
    /// When it was put here, in seconds since 1970.
    pub time: u64,
    /// The length of the whole line in bytes, if only its beginning was kept.
    pub length: Option<u64>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// An entry as it is in the file: `text` holds the bytes if they are UTF-8, `base64` otherwise.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    segment: Cow<'a, str>,
    line: u64,
    offset: u64,
    consumer: Cow<'a, str>,
    reason: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plugin: Option<Cow<'a, str>>,
    time: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// Which record of which file an entry is, for telling one that is put here a second time.
pub(super) type Key = u128;

impl QuarantineEntry {
    /// Reads a line, with or without its line break; `None` if it is torn or none of ours.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let bytes = match (line.text, line.base64) {
            (Some(text), None) => text.into_owned().into_bytes(),
            (None, Some(digits)) => STANDARD.decode(digits).ok()?,
            _ => return None,
        };
        let segment = SegmentName::new(&line.segment).ok()?;
        if line.line == 0 {
            // Lines are counted from 1. One that is before the first could not be told from it when it is sent again.
            return None;
        }
        Some(Self {
            position: Position { segment, line: line.line, offset: line.offset },
            consumer: line.consumer.into_owned(),
            reason: line.reason.into_owned(),
            plugin: line.plugin.map(Cow::into_owned),
            time: line.time,
            length: line.length,
            bytes,
        })
    }

    /// The line, without a line break.
    pub fn to_line(&self) -> String {
        let text = std::str::from_utf8(&self.bytes).ok();
        let line = Line {
            segment: self.position.segment.as_str().into(),
            line: self.position.line,
            offset: self.position.offset,
            consumer: self.consumer.as_str().into(),
            reason: self.reason.as_str().into(),
            plugin: self.plugin.as_deref().map(Cow::from),
            time: self.time,
            length: self.length,
            text: text.map(Cow::from),
            base64: text.is_none().then(|| STANDARD.encode(&self.bytes)),
        };
        serde_json::to_string(&line).expect("texts and numbers always make JSON")
    }

    /// The place and the bytes, hashed: a segment that was replaced under its name may bring other bytes to a place.
    pub(super) fn key(&self) -> Key {
        let mut hash = Xxh3::new();
        hash.update(self.position.segment.as_str().as_bytes());
        hash.update(&[0]);
        hash.update(&self.position.line.to_le_bytes());
        hash.update(&self.bytes);
        hash.digest128()
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
