//! Sending quarantined records again. They are laid out as segments in a directory of their own, each record in its own
//! segment and line, so that whatever reads, filters, processes and commits segments does so for them unchanged; what
//! became of them is read from the checkpoint and the quarantine that come about beside those segments.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tailweir_core::{Frontier, Position, SegmentName};

use super::{Fate, KeptQuarantine, QuarantineEntry, Updated, entry::Key, read};
use crate::StoreError;
use crate::checkpoint::FileStore;

/// The highest line that a record is laid out in: the lines before it are written, and read, too.
const HIGHEST_LINE: u64 = 100_000_000;

/// Quarantined records laid out as segments.
pub struct Replay {
    quarantine: KeptQuarantine,
    directory: PathBuf,
    /// The records, by their place.
    laid_out: HashMap<Position, Key>,
    refused: Vec<(Position, Refusal)>,
}

/// What became of the records of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Records that were to be sent.
    pub chosen: u64,
    /// What changed in the quarantine.
    pub updated: Updated,
    /// Those that were not sent, oldest first.
    pub refused: Vec<(Position, Refusal)>,
}

/// Why a record is not sent. It stays in the quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Only its beginning is kept.
    Cut,
    /// Another one of the same segment and line is sent.
    SamePlace,
    /// Its text, which somebody has edited, is more than one line.
    LineBreak,
    /// Its text is nothing but blanks, which is no record.
    Blank,
    /// Its line has a higher number than is laid out.
    FarDown,
}

/// What to do about it, to be read behind the record's place.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => f.write_str("only its beginning is kept"),
            Self::SamePlace => {
                f.write_str("another record of the same segment and line must be dealt with first: replay again")
            }
            Self::LineBreak => f.write_str(
                "its text holds a line break, and a record is one line: remove it, or write it as `\\\\n` if it is part of a \
                 string",
            ),
            Self::Blank => f.write_str("its text is blank: write the record there, or drop the entry"),
            Self::FarDown => write!(
                f,
                "its line is beyond {HIGHEST_LINE}, before which a replay would write as many blank ones: give it a lower \
                 number, or drop the entry"
            ),
        }
    }
}

impl Refusal {
    fn of(entry: &QuarantineEntry) -> Option<Self> {
        let bytes = entry.bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&entry.bytes);
        if entry.length.is_some() {
            Some(Self::Cut)
        } else if bytes.contains(&b'\n') {
            Some(Self::LineBreak)
        } else if bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            Some(Self::Blank)
        } else if entry.position.line > HIGHEST_LINE {
            Some(Self::FarDown)
        } else {
            None
        }
    }
}

impl Replay {
    /// Writes the entries that `choose` picks to segments in `directory`, which must be empty. `None`, and segments that are
    /// not whole, if `stop` becomes true meanwhile.
    ///
    /// # Errors
    /// If the quarantine can't be read, or a segment not written.
    pub fn lay_out(
        quarantine: KeptQuarantine,
        directory: &Path,
        mut choose: impl FnMut(&QuarantineEntry) -> bool,
        stop: &AtomicBool,
    ) -> Result<Option<Self>, StoreError> {
        let (mut laid_out, mut refused) = (HashMap::new(), Vec::new());
        let mut segments: BTreeMap<SegmentName, BTreeMap<u64, Vec<u8>>> = BTreeMap::new();
        read(&quarantine.path(), &quarantine.name, |entry| {
            if stop.load(Ordering::Relaxed) || !choose(&entry) {
                return;
            }
            let lines = segments.entry(entry.position.segment.clone()).or_default();
            let taken = lines.contains_key(&entry.position.line).then_some(Refusal::SamePlace);
            if let Some(refusal) = Refusal::of(&entry).or(taken) {
                refused.push((entry.position, refusal));
                return;
            }
            laid_out.insert(entry.position.clone(), entry.key());
            lines.insert(entry.position.line, entry.bytes);
        })?;
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        for (name, lines) in segments.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            let path = directory.join(name.as_str());
            let laid = write_segment(&path, &lines, stop);
            if laid.map_err(|source| StoreError::Io { what: "write", path, source })? == Laid::Stopped {
                return Ok(None);
            }
        }
        Ok(Some(Self { quarantine, directory: directory.to_owned(), laid_out, refused }))
    }

    /// How many records are laid out.
    pub fn len(&self) -> u64 {
        self.laid_out.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.laid_out.is_empty()
    }

    /// Takes the records out of the quarantine that are dealt with, and gives those that failed again their new reasons.
    /// Whoever reads the segments should be done: what is committed after that is sent again by the next replay.
    ///
    /// # Errors
    /// If the outcome can't be read, or the quarantine not written.
    pub fn settle(self) -> Result<Replayed, StoreError> {
        let name = &self.quarantine.name;
        // Before the quarantine: a record that it passes is there already if it failed.
        let saved = FileStore::new(&self.directory, name.clone(), Arc::new(()))?.peek()?;
        let saved = saved.map(|(saved, _)| saved).unwrap_or_default();
        let mut failed = HashMap::new();
        read(&self.directory, name, |entry| {
            // Blank lines stand for what lay between, so that the offsets are others.
            let Position { segment, line, .. } = entry.position;
            failed.insert((segment, line), (entry.reason, entry.plugin));
        })?;
        let updated = self.quarantine.update(|entry| {
            let position = &entry.position;
            if self.laid_out.get(position) != Some(&entry.key()) {
                return Fate::Stay;
            }
            if !(saved.finished.contains(&position.segment) || passes(&saved.frontier, position)) {
                return Fate::Stay;
            }
            match failed.get(&(position.segment.clone(), position.line)) {
                Some((reason, plugin)) => {
                    Fate::FailedAgain { reason: reason.clone(), plugin: plugin.clone() }
                }
                None => Fate::Go,
            }
        })?;
        let chosen = (self.laid_out.len() + self.refused.len()) as u64;
        Ok(Replayed { chosen, updated, refused: self.refused })
    }
}

fn passes(frontier: &Frontier, position: &Position) -> bool {
    let progress = frontier.segments.get(&position.segment);
    progress.is_some_and(|p| p.finished || p.mark.point.line >= position.line)
}

/// Whether a segment is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Laid {
    Out,
    Stopped,
}

/// Writes a sealed segment in which each record has its own line; the lines between are blank.
/// [`Laid::Stopped`], and a part of it, if `stop` becomes true.
fn write_segment(path: &Path, lines: &BTreeMap<u64, Vec<u8>>, stop: &AtomicBool) -> io::Result<Laid> {
    static BLANK: [u8; 64 << 10] = [b'\n'; 64 << 10];
    let mut segment = zstd::Encoder::new(File::create_new(path)?, 1)?;
    let stopped = || stop.load(Ordering::Relaxed);
    let mut next = 1;
    for (line, bytes) in lines {
        while next < *line && !stopped() {
            let blank = (*line - next).min(BLANK.len() as u64);
            segment.write_all(&BLANK[..blank as usize])?;
            next += blank;
        }
        if stopped() {
            return Ok(Laid::Stopped);
        }
        segment.write_all(bytes)?;
        segment.write_all(b"\n")?;
        next += 1;
    }
    segment.finish()?.set_permissions(Permissions::from_mode(0o400))?;
    Ok(Laid::Out)
}
