//! Where records go that nothing could be done with, and lines that are no records: `.<checkpoint_name>.quarantine`, one
//! JSON object per line with the place, the reason, the time and the bytes. It is bounded, and rolled in parts.

mod entry;
mod kept;
mod parts;
mod replay;

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, ErrorKind, Read as _, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tailweir_core::{Event, EventSink, Position};
use thiserror::Error;

use crate::checkpoint::LostLock;
use crate::files::{self, Access, Files, OpenFile};
use crate::{CheckpointName, StoreError};

pub use entry::QuarantineEntry;
use entry::{Key, now};
pub(crate) use kept::count;
#[cfg(test)]
pub(crate) use kept::read_from;
pub use kept::{Fate, KeptQuarantine, Unreadable, Updated, quarantines, read};
use parts::{Part, Read, parts};
pub use replay::{Refusal, Replay, Replayed};

/// How many bytes of a reason an entry keeps.
const MAX_REASON: usize = 4096;

/// How much a quarantine may hold, and who is to be named in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineOptions {
    /// Bytes of its files, at most.
    pub max_bytes: u64,
    /// What happens to a record that does not fit.
    pub when_full: WhenFull,
    /// What the processor is called in an entry that it is to blame for.
    pub processor: String,
}

impl Default for QuarantineOptions {
    /// 256 MiB, then stop.
    fn default() -> Self {
        Self { max_bytes: 256 << 20, when_full: WhenFull::Stop, processor: "processor".to_owned() }
    }
}

/// What happens to a record that does not fit into the quarantine any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The consumer fails, and the record stays undone.
    #[default]
    Stop,
    /// The oldest part of the quarantine is dropped, an eighth of it; its records are counted and named in the log.
    DropOldest,
}

/// Who could do nothing with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame<'a> {
    /// Nobody: the line is no record. `length` is that of the whole line, if only its beginning is kept.
    Line {
        length: Option<u64>,
    },
    /// The filter of this name.
    Filter(&'a str),
    Processor,
}

/// A quarantine could not take a record.
#[derive(Debug, Error)]
pub enum QuarantineError {
    /// A file could not be written.
    #[error("failed to write to the quarantine {path}", path = path.display())]
    Io {
        /// The quarantine.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is as large as it may be.
    #[error(transparent)]
    Full(Box<FullError>),
    /// One record takes more than it may hold.
    #[error(transparent)]
    TooLarge(Box<TooLargeError>),
    /// It belongs to another process now, or may.
    #[error(transparent)]
    LostLock(#[from] LostLock),
}

impl QuarantineError {
    /// Whether it may work later, as when the disk is full. Not if somebody has put something else in the file's place.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } => !files::is_refusal(source),
            Self::Full(_) | Self::TooLarge(_) | Self::LostLock(_) => false,
        }
    }
}

/// A quarantine is as large as it may be.
#[derive(Debug, Error)]
#[error(
    "the quarantine {path} is full: it holds {held} bytes, {position} needs {needed} more, and the limit is {limit} \
     (quarantine_max_bytes); look into it with `tailweir quarantine list '{directory}' '{name}'`, then make room with \
     `tailweir quarantine replay` or `tailweir quarantine drop`, raise the limit, or set quarantine_when_full to \
     `drop_oldest`",
    path = path.display(), directory = directory.display()
)]
pub struct FullError {
    path: PathBuf,
    directory: PathBuf,
    name: String,
    /// Bytes in it.
    held: u64,
    /// The record that does not fit.
    position: Position,
    /// The bytes that its entry takes.
    needed: u64,
    /// The limit in bytes.
    limit: u64,
}

/// A record takes more than its quarantine may hold in all.
#[derive(Debug, Error)]
#[error(
    "{position} needs {needed} bytes in the quarantine {path}, which may hold {limit} in all (quarantine_max_bytes); nothing \
     was dropped, as no room would be enough: raise quarantine_max_bytes to {needed} at least",
    path = path.display()
)]
pub struct TooLargeError {
    path: PathBuf,
    /// The record.
    position: Position,
    /// The bytes that its entry takes.
    needed: u64,
    /// The limit in bytes.
    limit: u64,
}

/// The quarantine of one consumer. The file is made when the first record comes.
pub(crate) struct Quarantine {
    files: Arc<dyn Files>,
    name: CheckpointName,
    consumer: String,
    options: QuarantineOptions,
    events: Arc<dyn EventSink>,
    /// Opened by the first record, and anew after an error.
    open: Option<Open>,
    /// Something was added since the last sync.
    unsynced: bool,
    /// Records dropped to make room, since the start.
    dropped: u64,
    /// Those of them that were not told of yet.
    untold: Option<Dropped>,
    told_at: Option<Instant>,
    /// Files that are no parts were looked for, and told of.
    told_no_parts: bool,
}

/// Records that were dropped to make room.
struct Dropped {
    records: usize,
    first: Position,
    last: Position,
}

/// The part that is added to, and what is known of the whole.
struct Open {
    file: Box<dyn OpenFile>,
    bytes: u64,
    total: u64,
    keys: HashSet<Key>,
}

/// A reason, or the beginning of one that is longer than an entry keeps, with what is left out.
fn bounded(reason: &str) -> Cow<'_, str> {
    if reason.len() <= MAX_REASON {
        return reason.into();
    }
    let end = reason.floor_char_boundary(MAX_REASON);
    format!("{}… ({} more bytes)", &reason[..end], reason.len() - end).into()
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        self.tell_dropped();
    }
}

impl Quarantine {
    /// The quarantine of the checkpoint `name` among `files`.
    pub(crate) fn new(
        files: Arc<dyn Files>,
        name: &CheckpointName,
        consumer: &str,
        options: QuarantineOptions,
        events: Arc<dyn EventSink>,
    ) -> Self {
        Self {
            files,
            name: name.clone(),
            consumer: consumer.to_owned(),
            options,
            events,
            open: None,
            unsynced: false,
            dropped: 0,
            untold: None,
            told_at: None,
            told_no_parts: false,
        }
    }

    fn active(&self) -> String {
        self.name.file(".quarantine")
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.files.path().join(self.active())
    }

    /// Adds one record or line, unless it is there already: one whose batch was not committed comes again. When this
    /// returns the kernel has it; see [`sync`](Self::sync).
    ///
    /// # Errors
    /// If it could not be written, or does not fit.
    pub(crate) fn put(
        &mut self,
        position: &Position,
        reason: &str,
        blame: Blame<'_>,
        bytes: &[u8],
    ) -> Result<(), QuarantineError> {
        let entry = QuarantineEntry {
            position: position.clone(),
            consumer: self.consumer.clone(),
            reason: bounded(reason).into_owned(),
            plugin: match blame {
                Blame::Line { .. } => None,
                Blame::Filter(name) => Some(name.to_owned()),
                Blame::Processor => Some(self.options.processor.clone()),
            },
            time: now(),
            length: if let Blame::Line { length } = blame { length } else { None },
            bytes: bytes.to_vec(),
        };
        let put = self.add(&entry);
        if put.is_err() {
            // What is in the file now is looked at again before the next one.
            self.open = None;
        }
        put
    }

    fn add(&mut self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        if self.open.is_none() {
            self.open = Some(self.start().map_err(|e| self.error(e))?);
            self.tell_no_parts();
        }
        let (key, line) = (entry.key(), entry.to_line() + "\n");
        if self.open.as_ref().is_some_and(|open| open.keys.contains(&key)) {
            // It may have been written by a process that was killed before it reached the disk.
            self.unsynced = true;
            return Ok(());
        }
        self.make_room(line.len() as u64, entry)?;
        self.append(key, line.as_bytes()).map_err(|e| self.error(e))
    }

    fn error(&self, source: io::Error) -> QuarantineError {
        QuarantineError::Io { path: self.path(), source }
    }

    /// Opens the part that is added to, behind whatever a crash may have torn, and learns what there is.
    fn start(&self) -> io::Result<Open> {
        let mut file = self.files.open(&self.active(), Access::AppendOrCreate)?;
        let mut bytes = file.length()?;
        if bytes > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(bytes - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        let (mut keys, mut total) = (HashSet::new(), 0);
        for part in parts(&*self.files, &self.name)? {
            total += part.bytes;
            parts::read(&*self.files, &part.name, |read| {
                if let Read::Entry(entry) = read {
                    keys.insert(entry.key());
                }
                Ok(())
            })?;
        }
        Ok(Open { file, bytes, total, keys })
    }

    /// Says once which files will never be looked into.
    fn tell_no_parts(&mut self) {
        if std::mem::replace(&mut self.told_no_parts, true) {
            return;
        }
        // Whoever can't list them can't add anything either, and says so.
        for file in parts::no_parts(&*self.files, &self.name).unwrap_or_default() {
            let path = self.files.path().join(file);
            let message = format!(
                "{} is no part of the quarantine, which gives no such numbers; it is passed over",
                path.display()
            );
            self.events.emit(Event::Warning { message });
        }
    }

    /// Rolls the part that is added to if it is large enough, and drops old ones if that is the policy.
    fn make_room(&mut self, needed: u64, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        let limit = self.options.max_bytes;
        if needed > limit {
            let (path, position) = (self.path(), entry.position.clone());
            return Err(QuarantineError::TooLarge(Box::new(TooLargeError { path, position, needed, limit })));
        }
        let held = |this: &Self| this.open.as_ref().map_or((0, 0), |open| (open.bytes, open.total));
        while held(self).1.saturating_add(needed) > limit {
            let (active, held) = held(self);
            if self.options.when_full == WhenFull::Stop {
                return Err(QuarantineError::Full(Box::new(FullError {
                    path: self.path(),
                    directory: self.files.path(),
                    name: self.name.as_str().to_owned(),
                    held,
                    position: entry.position.clone(),
                    needed,
                    limit,
                })));
            }
            if active == held {
                self.roll().map_err(|e| self.error(e))?;
            }
            self.drop_oldest().map_err(|e| self.error(e))?;
        }
        let active = held(self).0;
        if active > 0 && active.saturating_add(needed) > limit / 8 {
            self.roll().map_err(|e| self.error(e))?;
        }
        Ok(())
    }

    /// Gives the part that is added to the next number, and begins another.
    fn roll(&mut self) -> io::Result<()> {
        if let Some(open) = &self.open {
            open.file.sync()?;
        }
        let name = parts::next(&*self.files, &self.name)?;
        self.files.rename(&self.active(), &name)?;
        self.unsynced = true;
        let file = self.files.open(&self.active(), Access::AppendOrCreate)?;
        if let Some(open) = &mut self.open {
            (open.file, open.bytes) = (file, 0);
        }
        Ok(())
    }

    fn drop_oldest(&mut self) -> io::Result<()> {
        let Some(Part { name, .. }) = parts(&*self.files, &self.name)?.into_iter().next() else {
            // Somebody else has removed them all: there is room.
            self.open = Some(self.start()?);
            return Ok(());
        };
        let mut lost: Vec<Position> = Vec::new();
        parts::read(&*self.files, &name, |read| {
            if let Read::Entry(entry) = read {
                lost.push(entry.position);
            }
            Ok(())
        })?;
        self.files.remove(&name)?;
        self.open = Some(self.start()?);
        self.dropped += lost.len() as u64;
        let records = lost.len();
        let mut lost = lost.into_iter();
        if let Some(first) = lost.next() {
            let last = lost.next_back().unwrap_or_else(|| first.clone());
            match &mut self.untold {
                Some(untold) => (untold.records, untold.last) = (untold.records + records, last),
                None => self.untold = Some(Dropped { records, first, last }),
            }
        }
        // Each record may drop one.
        if self.told_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.tell_dropped();
        }
        Ok(())
    }

    /// Records dropped to make room, since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Says which records were dropped to make room, if some were that were not told of yet.
    pub(crate) fn tell_dropped(&mut self) {
        let Some(Dropped { records, first, last }) = self.untold.take() else { return };
        self.told_at = Some(Instant::now());
        let message = format!(
            "the quarantine {} is full ({} bytes): its {records} oldest records, {first} to {last}, are dropped; {} since \
             the start",
            self.path().display(),
            self.options.max_bytes,
            self.dropped
        );
        self.events.emit(Event::Warning { message });
    }

    fn append(&mut self, key: Key, line: &[u8]) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            if let Err(e) = open.file.write_all(line) {
                // A part of the line would be skipped by every reader, but takes room that a full disk may not have.
                let _ = open.file.set_length(open.bytes);
                return Err(e);
            }
            open.bytes += line.len() as u64;
            open.total += line.len() as u64;
            open.keys.insert(key);
        }
        self.unsynced = true;
        Ok(())
    }

    /// Brings what was added to the disk.
    ///
    /// # Errors
    /// If the disk says so.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        if !self.unsynced {
            return Ok(());
        }
        let sync = match &self.open {
            Some(open) => open.file.sync(),
            None => match self.files.open(&self.active(), Access::Read) {
                // It was rolled, which brought it to the disk, and no other one could be made.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                file => file.and_then(|file| file.sync()),
            },
        };
        // The file may be new, and so may be its name.
        sync.and_then(|()| self.files.sync_names()).map_err(|source| StoreError::Io {
            what: "sync",
            path: self.path(),
            source,
        })?;
        self.unsynced = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
