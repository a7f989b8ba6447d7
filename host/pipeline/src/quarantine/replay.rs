//! Sending quarantined records again. They are laid out as segments in a directory of their own, each record in its own
//! segment and line, so that whatever reads, filters, processes and commits segments does so for them unchanged; what
//! became of them is read from the checkpoint and the quarantine that come about beside those segments.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tailweir_core::{Frontier, Position, SegmentName};

use super::{Fate, KeptQuarantine, QuarantineEntry, Updated, entry::Key, read};
use crate::StoreError;
use crate::checkpoint::FileStore;

/// Quarantined records laid out as segments.
pub struct Replay<'a> {
    quarantine: &'a KeptQuarantine,
    directory: &'a Path,
    /// The records, by their place.
    laid_out: HashMap<Position, Key>,
    left_out: u64,
}

/// What became of the records of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Records that were to be sent.
    pub chosen: u64,
    /// What changed in the quarantine.
    pub updated: Updated,
    /// Records that were not sent: only their beginning is kept, or another one of the same place had to come first.
    pub left_out: u64,
}

impl<'a> Replay<'a> {
    /// Writes the entries that `choose` picks to segments in `directory`, which must be empty.
    ///
    /// # Errors
    /// If the quarantine can't be read, or a segment not written.
    pub fn lay_out(
        quarantine: &'a KeptQuarantine,
        directory: &'a Path,
        mut choose: impl FnMut(&QuarantineEntry) -> bool,
    ) -> Result<Self, StoreError> {
        let mut this = Self { quarantine, directory, laid_out: HashMap::new(), left_out: 0 };
        let mut segments: BTreeMap<SegmentName, BTreeMap<u64, Vec<u8>>> = BTreeMap::new();
        read(&quarantine.path(), &quarantine.name, |entry| {
            if !choose(&entry) {
                return;
            }
            let lines = segments.entry(entry.position.segment.clone()).or_default();
            if entry.length.is_some() || lines.contains_key(&entry.position.line) {
                this.left_out += 1;
                return;
            }
            this.laid_out.insert(entry.position.clone(), entry.key());
            lines.insert(entry.position.line, entry.bytes);
        })?;
        for (name, lines) in segments.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            let path = directory.join(name.as_str());
            write_segment(&path, &lines).map_err(|source| StoreError::Io { what: "write", path, source })?;
        }
        Ok(this)
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
    /// Everybody who read the segments must be done.
    ///
    /// # Errors
    /// If the outcome can't be read, or the quarantine not written.
    pub fn settle(self) -> Result<Replayed, StoreError> {
        let name = &self.quarantine.name;
        let mut failed = HashMap::new();
        read(self.directory, name, |entry| {
            // Blank lines stand for what lay between, so that the offsets are others.
            let Position { segment, line, .. } = entry.position;
            failed.insert((segment, line), (entry.reason, entry.plugin));
        })?;
        let saved = FileStore::new(self.directory, name.clone(), Arc::new(()))?.peek()?;
        let saved = saved.map(|(saved, _)| saved).unwrap_or_default();
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
        let left_out = self.left_out;
        Ok(Replayed { chosen: self.laid_out.len() as u64 + left_out, updated, left_out })
    }
}

fn passes(frontier: &Frontier, position: &Position) -> bool {
    let progress = frontier.segments.get(&position.segment);
    progress.is_some_and(|p| p.finished || p.mark.point.line >= position.line)
}

/// Writes a sealed segment in which each record has its own line; the lines between are blank.
fn write_segment(path: &Path, lines: &BTreeMap<u64, Vec<u8>>) -> io::Result<()> {
    static BLANK: [u8; 64 << 10] = [b'\n'; 64 << 10];
    let mut segment = zstd::Encoder::new(File::create_new(path)?, 1)?;
    let mut next = 1;
    for (line, bytes) in lines {
        while next < *line {
            let blank = (*line - next).min(BLANK.len() as u64);
            segment.write_all(&BLANK[..blank as usize])?;
            next += blank;
        }
        segment.write_all(bytes)?;
        segment.write_all(b"\n")?;
        next += 1;
    }
    segment.finish()?.set_permissions(Permissions::from_mode(0o400))
}
