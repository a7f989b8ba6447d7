//! Looking into a quarantine, and taking records out of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use serde::Serialize;
use tailweir_core::Printable;

use super::parts::{self, Read, Replacement, parts};
use super::{QuarantineEntry, now};
use crate::checkpoint::Lock;
use crate::files::{Directory, Files};
use crate::settlement::{OpenError, take_lock};
use crate::{CheckpointName, StoreError};

/// Lines of a quarantine that are no entries: a crash has torn them, or somebody has changed them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Unreadable {
    /// How many there are.
    pub lines: u64,
    /// The first few of them: the name of the file, and the number of the line in it, counted from 1.
    pub first: Vec<(String, u64)>,
}

impl Unreadable {
    /// How many are named.
    const NAMED: usize = 3;

    fn add(&mut self, file: &str, line: u64) {
        self.lines += 1;
        if self.first.len() < Self::NAMED {
            self.first.push((file.to_owned(), line));
        }
    }

    fn append(&mut self, other: Self) {
        self.lines += other.lines;
        let room = Self::NAMED - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }
}

/// Where they are, and what to do about them.
impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.first.iter().map(|(file, line)| format!("{}:{line}", Printable(file)));
        let places = places.collect::<Vec<_>>().join(", ");
        match self.lines {
            1 => write!(f, "a line of the quarantine can't be read: {places}. It")?,
            lines if lines > self.first.len() as u64 => {
                write!(f, "{lines} lines of the quarantine can't be read, the first of them {places}. Each")?;
            }
            lines => write!(f, "{lines} lines of the quarantine can't be read: {places}. Each")?,
        }
        // Where it is does not tell: whoever goes on behind a torn line ends it first.
        f.write_str(
            " was either torn by a crash, and then its record came again and has an entry of its own, or changed since: mend \
             or delete the line while no consumer runs",
        )
    }
}

/// The checkpoints in a directory that have a quarantine.
///
/// # Errors
/// If the directory can't be read.
pub fn quarantines(directory: &Path) -> Result<BTreeSet<CheckpointName>, StoreError> {
    let files = Directory::open(directory)?;
    let io = |source| StoreError::Io { what: "list", path: directory.to_owned(), source };
    Ok(files.names().map_err(io)?.iter().filter_map(|file| parts::owner(file)).collect())
}

/// Reads the quarantine of the checkpoint `name`, oldest entries first, and returns which of its lines can't be read.
/// A consumer may be using it.
///
/// # Errors
/// If a file can't be read.
pub fn read(
    directory: &Path,
    name: &CheckpointName,
    each: impl FnMut(QuarantineEntry),
) -> Result<Unreadable, StoreError> {
    read_from(&Directory::open(directory)?, name, each)
}

/// As [`read`], of a quarantine among `files`.
pub(crate) fn read_from(
    files: &dyn Files,
    name: &CheckpointName,
    mut each: impl FnMut(QuarantineEntry),
) -> Result<Unreadable, StoreError> {
    let mut unreadable = Unreadable::default();
    let mut all = || -> io::Result<()> {
        for part in parts(files, name)? {
            parts::read(files, &part.name, |read| {
                match read {
                    Read::Entry(entry) => each(entry),
                    Read::Unreadable { number, .. } => unreadable.add(&part.name, number),
                }
                Ok(())
            })?;
        }
        Ok(())
    };
    let path = files.path().join(name.file(".quarantine"));
    all().map_err(|source| StoreError::Io { what: "read", path, source })?;
    Ok(unreadable)
}

/// Entries in a quarantine, and lines that are none; none if it can't be read.
pub(crate) fn count(directory: &Path, name: &CheckpointName) -> (u64, Unreadable) {
    let mut count = 0;
    let unreadable = read(directory, name, |_| count += 1);
    (count, unreadable.unwrap_or_default())
}

/// What is to become of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Stay,
    /// It goes.
    Go,
    /// It stays, for another reason.
    FailedAgain {
        /// Why.
        reason: String,
        /// The plug-in that is to blame.
        plugin: Option<String>,
    },
}

/// What [`KeptQuarantine::update`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Updated {
    /// Entries that went.
    pub gone: u64,
    /// Entries that have another reason now.
    pub failed_again: u64,
    /// Entries that are in the quarantine now, those included.
    pub left: u64,
    /// Lines that stay because they are no entries.
    pub unreadable: Unreadable,
}

/// A quarantine that no consumer uses, because its checkpoint's lock is held here.
pub struct KeptQuarantine {
    files: Arc<dyn Files>,
    pub(super) name: CheckpointName,
    lock: Lock,
}

impl KeptQuarantine {
    /// Takes the lock of the checkpoint `name` in `directory`.
    ///
    /// # Errors
    /// [`OpenError::Held`] if a consumer uses the checkpoint; it names the process.
    pub fn lock(directory: &Path, name: &CheckpointName) -> Result<Self, OpenError> {
        let lock = take_lock(directory, name)?;
        Ok(Self { files: lock.files(), name: name.clone(), lock })
    }

    /// The directory's path as it is now.
    pub(super) fn path(&self) -> PathBuf {
        self.files.path()
    }

    /// Decides on each entry, oldest first. Each file changes at once and durably; a crash between two files leaves the
    /// later ones as they were.
    ///
    /// # Errors
    /// If a file can't be read or written, which is then as it was, or if the lock is lost; then nothing changes.
    pub fn update(&self, decide: impl FnMut(&QuarantineEntry) -> Fate) -> Result<Updated, StoreError> {
        self.lock.check()?;
        update(&*self.files, &self.name, decide)
    }
}

fn update(
    files: &dyn Files,
    name: &CheckpointName,
    mut decide: impl FnMut(&QuarantineEntry) -> Fate,
) -> Result<Updated, StoreError> {
    let mut updated = Updated::default();
    let path = files.path().join(name.file(".quarantine"));
    let io = |source| StoreError::Io { what: "rewrite", path: path.clone(), source };
    for part in parts(files, name).map_err(io)? {
        update_part(files, name, &part.name, &mut decide, &mut updated).map_err(io)?;
    }
    Ok(updated)
}

fn update_part(
    files: &dyn Files,
    name: &CheckpointName,
    part: &str,
    decide: &mut impl FnMut(&QuarantineEntry) -> Fate,
    updated: &mut Updated,
) -> io::Result<()> {
    let before = (updated.gone, updated.failed_again);
    let mut replacement = Replacement::begin(files, name)?;
    let mut lines = 0_u64;
    // Where lines that are no entries are if the part stays as it is, and where they are in the new one.
    let (mut old, mut new) = (Unreadable::default(), Unreadable::default());
    parts::read(files, part, |read| {
        let line = match read {
            Read::Unreadable { number, line } => {
                old.add(part, number);
                new.add(part, lines + 1);
                line.to_owned()
            }
            Read::Entry(mut entry) => {
                match decide(&entry) {
                    Fate::Stay => {}
                    Fate::Go => {
                        updated.gone += 1;
                        return Ok(());
                    }
                    Fate::FailedAgain { reason, plugin } => {
                        updated.failed_again += 1;
                        (entry.reason, entry.plugin, entry.time) = (reason, plugin, now());
                    }
                }
                updated.left += 1;
                entry.to_line().into_bytes()
            }
        };
        lines += 1;
        replacement.add(&line)
    })?;
    let changed = before != (updated.gone, updated.failed_again);
    updated.unreadable.append(if changed { new } else { old });
    match (changed, lines) {
        (true, 1..) => replacement.replace(part),
        (true, 0) => {
            files.remove(part)?;
            replacement.discard()?;
            files.sync_names()
        }
        (false, _) => replacement.discard(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tailweir_core::{Position, SegmentName};

    use super::*;
    use crate::files::simulated::{Content, Exchange, Simulated};
    use crate::quarantine::{Blame, Quarantine, QuarantineOptions};

    fn lines(content: &Content, name: &CheckpointName) -> Vec<u64> {
        let mut lines = Vec::new();
        let files = Simulated::with(content, Exchange::Possible);
        read_from(&files, name, |entry| lines.push(entry.position.line)).unwrap();
        lines
    }

    /// Six entries in several files, of which those go that are in `go`: what is found after a kill or a loss of power at
    /// any step.
    fn check(go: &[u64]) {
        let name = CheckpointName::new("c").unwrap();
        let files = Arc::new(Simulated::new(Exchange::Possible));
        let options = QuarantineOptions { max_bytes: 1200, ..QuarantineOptions::default() };
        let mut quarantine = Quarantine::new(files.clone(), &name, "who", options, Arc::new(()));
        for line in 1..=6 {
            let position = Position { segment: SegmentName::new("s").unwrap(), line, offset: 0 };
            quarantine.put(&position, "why", Blame::Processor, b"{}").unwrap();
        }
        quarantine.sync().unwrap();
        drop(quarantine);
        let start = files.past().pop().unwrap().after_kill();
        assert!(start.len() > 1, "several files: {:?}", start.keys());
        let files = Simulated::with(&start, Exchange::Possible);
        let fate = |entry: &QuarantineEntry| match go.contains(&entry.position.line) {
            true => Fate::Go,
            false => Fate::Stay,
        };
        let updated = update(&files, &name, fate).unwrap();
        assert_eq!((updated.gone, updated.left), (go.len() as u64, 6 - go.len() as u64));
        let stay: BTreeSet<u64> = (1..=6).filter(|line| !go.contains(line)).collect();
        let past = files.past();
        for (step, state) in past.iter().enumerate() {
            let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let found = state.after_power_loss(|_| true, show).into_iter().chain([state.after_kill()]);
            for content in found {
                let lines = lines(&content, &name);
                let context = format!("{go:?}, step {step} of {}: {lines:?}", past.len());
                assert!(lines.is_sorted_by(|a, b| a < b), "in order, and each once: {context}");
                assert!(stay.iter().all(|line| lines.contains(line)), "all that stay: {context}");
                if step + 1 == past.len() {
                    assert_eq!(lines.len(), stay.len(), "done once it has returned: {context}");
                }
            }
        }
    }

    #[test]
    fn no_loss_of_power_in_an_update_takes_an_entry_that_stays_or_brings_back_one_that_went() {
        for go in [&[1][..], &[2, 3], &[1, 2, 3, 4, 5, 6], &[6], &[]] {
            check(go);
        }
    }
}
