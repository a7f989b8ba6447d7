//! The names in a directory, and how far each of them was read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;
use tailweir_core::{Identity, Mark, SegmentName};

use super::{Begun, Cursor, Start};
use crate::carve::{Ending, Segment};
use crate::decode::Format;
use crate::directory::{self, Found};
use crate::{Pattern, Seal};

/// A segment that is not read to its end.
pub(super) struct Entry {
    /// As the directory showed it last; zero if it has not yet.
    inode: u64,
    scan: u64,
    pub begun: Option<Begun>,
    /// Of the file that is or was open.
    pub identity: Option<Identity>,
    /// Another file has taken the name since this one was opened.
    pub replaced: bool,
    /// That it cannot be read was said.
    pub error_said: bool,
    /// That it is there was said, before anything of it was read.
    pub pending_said: bool,
    /// Segments behind it were read before it was found.
    pub late: Late,
    pub rest: Rest,
    pub state: State,
}

pub(super) enum State {
    /// It was not looked at yet.
    Waiting,
    /// The workers have it.
    Decoding,
    /// It is open, and read as it grows.
    Following(Follow),
    /// It was read as far as it went, and closed.
    Parked { end: Mark, identity: Identity, seen: Seen },
    /// It has too few bytes to tell what it is.
    Unknown { seen: Seen },
    /// It could not be read.
    Failed,
}

pub(super) struct Follow {
    pub segment: Box<Segment>,
    /// Counts the segments that are held open.
    pub held: Held,
    /// The name is gone, or another file's: what is there is all there will be.
    pub detached: bool,
    /// The file when it was last seen to be the same.
    pub checked: Seen,
}

/// One of the segments that are held open to be read as they grow.
pub(super) struct Held(Arc<AtomicUsize>);

impl Held {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A file's state, to notice changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub len: u64,
    pub seal: Seal,
    pub unlinked: bool,
    inode: u64,
    modified: (i64, i64),
}

impl Seen {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            len: metadata.len(),
            seal: Seal::of_mode(metadata.mode()),
            unlinked: metadata.nlink() == 0,
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    pub(super) fn changed_since(&self, before: &Self) -> bool {
        (self.len, self.modified) != (before.len, before.modified)
    }

    /// Whether it was changed so long ago, as its own time says.
    fn is_older_than(&self, age: Duration) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let old = now.saturating_sub(age).as_secs();
        i64::try_from(old).is_ok_and(|old| self.modified.0 < old)
    }

    /// Whether it was changed, as its own time says, at a time that is to come.
    pub(super) fn is_of_the_future(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from((now + GRACE).as_secs()).is_ok_and(|latest| self.modified.0 > latest)
    }

    pub(super) fn differs(&self, stat: &Stat) -> bool {
        self.len != stat.st_size as u64
            || self.seal != Seal::of_mode(stat.st_mode)
            || self.inode != stat.st_ino
            || self.modified != (stat.st_mtime, stat.st_mtime_nsec as i64)
    }
}

/// For how long a sealed file may be changed no more before what it ends with is taken for its end: somebody may be copying it
/// into the directory, and be slow.
const GRACE: Duration = Duration::from_secs(30);

/// What was seen of a file, to tell whether it may be on its way into the directory.
#[derive(Default)]
pub(super) enum Rest {
    #[default]
    Nothing,
    /// It was open. If it is sealed later, its writer has done that, when it was through.
    Open { inode: u64 },
    /// It was sealed and changed a moment ago, and has been the same since, by our clock: the one that its times are of may be
    /// ahead.
    Since(Box<(Seen, Instant)>),
}

impl Rest {
    /// What the end of a file is that is seen so now.
    pub(super) fn ending(&mut self, seen: &Seen, now: Instant) -> Ending {
        match self {
            _ if seen.seal == Seal::Open => {
                *self = Self::Open { inode: seen.inode };
                return Ending::Open;
            }
            _ if seen.is_older_than(GRACE) => return Ending::Final,
            Self::Open { inode } if *inode == seen.inode => return Ending::Final,
            Self::Since(since) if !seen.changed_since(&since.0) => {}
            _ => *self = Self::Since(Box::new((*seen, now))),
        }
        if self.is_over(now) { Ending::Final } else { Ending::Fresh }
    }

    /// Whether a sealed file that has not changed since has been the same for so long that nobody is at it any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let Self::Since(since) = self else { return false };
        let (seen, since) = &**since;
        seen.is_older_than(GRACE) || now.saturating_duration_since(*since) >= GRACE
    }
}

impl Entry {
    /// Lines of an open segment that was read as far as it goes.
    pub(super) fn reached(&mut self) -> Option<u64> {
        match &mut self.state {
            State::Following(follow) => follow.segment.mark().map(|mark| mark.point.line),
            State::Parked { end, .. } => Some(end.point.line),
            _ => None,
        }
    }

    fn new(begun: Option<Begun>) -> Self {
        Self {
            inode: 0,
            scan: 0,
            begun,
            identity: None,
            replaced: false,
            error_said: false,
            pending_said: false,
            late: Late::No,
            rest: Rest::default(),
            state: State::Waiting,
        }
    }

    /// Why `file` is not the one that was begun, if so.
    pub(super) fn is_replaced_by(
        &self,
        file: &File,
        len: u64,
        format: Format,
    ) -> io::Result<Option<&'static str>> {
        let Some(begun) = &self.begun else { return Ok(None) };
        if let Some(identity) = &begun.identity
            && !directory::is_same(file, identity)?
        {
            return Ok(Some("another file has taken its place; it is read from its start"));
        }
        let reached = match begun.start {
            Start::Mark(mark) if format == Format::Plain => mark.point.offset,
            Start::Mark(mark) => mark.frame.compressed,
            Start::Line(_) => 0,
        };
        Ok((reached > len).then_some("it has shrunk; it is read from its start"))
    }
}

/// A segment that was read to its end.
#[derive(Default)]
struct Finished {
    /// As the directory showed it; `None` until it has.
    inode: Option<u64>,
    scan: u64,
    /// `None` if it was finished before the reader was opened.
    identity: Option<Identity>,
}

/// A name that is no segment.
struct Foreign {
    inode: u64,
    scan: u64,
}

/// What a scan has found.
pub(super) enum Stored {
    New {
        name: SegmentName,
    },
    Foreign {
        name: String,
        reason: &'static str,
    },
    /// Another file may have taken the name of a segment that was read to its end.
    FinishedOneChanged {
        name: SegmentName,
    },
    /// Another file may have taken the name of a segment that is open.
    OpenOneChanged {
        name: SegmentName,
    },
}

/// Whether segments behind a new one were read already, and that was not said yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    No,
    Yes,
}

/// The names of the segments that a reader has met and not read to their end.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<Mutex<HashSet<SegmentName>>>);

impl Unread {
    /// Those that are unread at present.
    pub fn names(&self) -> HashSet<SegmentName> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SegmentName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Segments that are not read to their end. That they are is visible from outside.
#[derive(Default)]
struct Unfinished {
    entries: BTreeMap<SegmentName, Entry>,
    /// The same names.
    names: Unread,
}

impl Unfinished {
    fn insert(&mut self, name: SegmentName, entry: Entry) {
        self.names.lock().insert(name.clone());
        self.entries.insert(name, entry);
    }

    fn remove(&mut self, name: &SegmentName) -> Option<Entry> {
        self.names.lock().remove(name);
        self.entries.remove(name)
    }
}

/// All names.
#[derive(Default)]
pub(super) struct Entries {
    unfinished: Unfinished,
    finished: HashMap<SegmentName, Finished>,
    foreign: HashMap<String, Foreign>,
    /// The last name of which anything was read.
    highest: Option<SegmentName>,
    /// Counts the scans.
    scan: u64,
}

impl Entries {
    pub(super) fn new(cursor: Cursor) -> Self {
        let Cursor { begun, finished } = cursor;
        let highest = begun.keys().chain(&finished).max().cloned();
        let mut unfinished = Unfinished::default();
        for (name, begun) in begun {
            unfinished.insert(name, Entry::new(Some(begun)));
        }
        Self {
            unfinished,
            finished: finished.into_iter().map(|name| (name, Finished::default())).collect(),
            highest,
            ..Self::default()
        }
    }

    pub(super) fn begin_scan(&mut self) {
        self.scan += 1;
    }

    /// Takes in one name of the directory.
    pub(super) fn found(&mut self, found: &Found<'_>, pattern: &Pattern, news: &mut Vec<Stored>) {
        let scan = self.scan;
        let Some(text) = found.text().filter(|name| pattern.matches(name)) else {
            if found.text().is_none() && pattern.matches(&found.lossy()) {
                self.found_foreign(found, "its name is not UTF-8", news);
            }
            return;
        };
        if let Some(finished) = self.finished.get_mut(text) {
            let back_again = finished.inode.is_some() && finished.scan + 1 < scan;
            let other = finished.inode.is_some_and(|inode| inode != found.inode);
            (finished.inode, finished.scan) = (Some(found.inode), scan);
            if (back_again || other)
                && let Ok(name) = SegmentName::new(text)
            {
                news.push(Stored::FinishedOneChanged { name });
            }
            return;
        }
        let Ok(name) = SegmentName::new(text) else { return };
        if let Some(entry) = self.unfinished.entries.get_mut(&name) {
            let first = entry.scan == 0;
            let other = entry.inode != found.inode;
            (entry.inode, entry.scan) = (found.inode, scan);
            if first {
                news.push(Stored::New { name });
            } else if other {
                news.push(Stored::OpenOneChanged { name });
            }
            return;
        }
        if let Some(foreign) = self.foreign.get_mut(text) {
            foreign.scan = scan;
            if foreign.inode == found.inode {
                return;
            }
        }
        if let Some(reason) = directory::certainly_foreign(found.kind) {
            return self.found_foreign(found, reason, news);
        }
        self.foreign.remove(text);
        let late =
            if self.highest.as_ref().is_some_and(|highest| name < *highest) { Late::Yes } else { Late::No };
        let entry = Entry { inode: found.inode, scan, late, ..Entry::new(None) };
        self.unfinished.insert(name.clone(), entry);
        news.push(Stored::New { name });
    }

    fn found_foreign(&mut self, found: &Found<'_>, reason: &'static str, news: &mut Vec<Stored>) {
        let foreign = Foreign { inode: found.inode, scan: self.scan };
        if self.foreign.insert(found.lossy().into_owned(), foreign).is_none() {
            news.push(Stored::Foreign { name: found.lossy().into_owned(), reason });
        }
    }

    /// Names of unfinished segments that the scan did not find. Also forgets what need not be remembered.
    pub(super) fn missing(&mut self) -> Vec<SegmentName> {
        let scan = self.scan;
        self.foreign.retain(|_, foreign| foreign.scan == scan);
        self.unfinished
            .entries
            .iter()
            .filter(|(_, entry)| entry.scan != scan)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Takes in a segment that was seen by somebody else. Whether it is not known yet.
    pub(super) fn expect(&mut self, name: &SegmentName) -> bool {
        let known = self.unfinished.entries.contains_key(name)
            || self.finished.contains_key(name)
            || self.foreign.contains_key(name.as_str());
        if !known {
            self.unfinished.insert(name.clone(), Entry::new(None));
        }
        !known
    }

    pub(super) fn unread(&self) -> Unread {
        self.unfinished.names.clone()
    }

    pub(super) fn get_mut(&mut self, name: &SegmentName) -> Option<&mut Entry> {
        self.unfinished.entries.get_mut(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SegmentName, &Entry)> {
        self.unfinished.entries.iter()
    }

    /// Whether a segment before `name` may still grow.
    pub(super) fn open_before(&self, name: &SegmentName) -> bool {
        self.unfinished.entries.range(..name.clone()).any(|(_, entry)| {
            matches!(entry.state, State::Following(_) | State::Parked { .. } | State::Unknown { .. })
        })
    }

    /// Something of this segment was read.
    pub(super) fn note_read(&mut self, name: &SegmentName) {
        if self.highest.as_ref().is_none_or(|highest| highest < name) {
            self.highest = Some(name.clone());
        }
    }

    pub(super) fn remove(&mut self, name: &SegmentName) {
        self.unfinished.remove(name);
    }

    pub(super) fn finish(&mut self, name: &SegmentName, identity: Identity) {
        self.note_read(name);
        let entry = self.unfinished.remove(name);
        let (inode, scan) = entry.map_or((None, 0), |entry| (Some(entry.inode), entry.scan));
        self.finished.insert(name.clone(), Finished { inode, scan, identity: Some(identity) });
    }

    pub(super) fn identity_of_finished(&self, name: &SegmentName) -> Option<Identity> {
        self.finished.get(name)?.identity
    }

    /// Makes a finished segment one that is to be read.
    pub(super) fn revive(&mut self, name: &SegmentName) {
        if let Some(finished) = self.finished.remove(name) {
            let inode = finished.inode.unwrap_or_default();
            let entry = Entry { inode, scan: finished.scan, ..Entry::new(None) };
            self.unfinished.insert(name.clone(), entry);
        }
    }

    /// Returns what it was taken for before.
    pub(super) fn make_foreign(&mut self, name: &SegmentName) -> Option<Entry> {
        let entry = self.unfinished.remove(name)?;
        self.foreign.insert(name.as_str().to_owned(), Foreign { inode: entry.inode, scan: entry.scan });
        Some(entry)
    }
}
