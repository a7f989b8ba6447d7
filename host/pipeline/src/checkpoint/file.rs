//! Checkpoints as files.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tailweir_core::{Event, EventSink, Mark, Point, Progress, SegmentName};

use super::format::{self, Format};
use super::{CheckpointStore, Loaded, Saved, StoreError, journal};
use crate::directory::{Directory, private};
use crate::{CheckpointName, WrittenBy};

/// How many names of segments that no longer exist a journal may hold before it is written anew.
const JOURNAL_SLACK: usize = 1024;

/// Keeps a checkpoint in files of its directory: `.<name>`, the last generation before it that was brought to the disk,
/// `.<name>.prev`, the file that the next one is written to, `.<name>.tmp`, and the journal of finished segments,
/// `.<name>.finished`.
///
/// The directory is held open, so that it may be moved or renamed meanwhile.
pub struct FileStore {
    directory: Directory,
    name: CheckpointName,
    events: Arc<dyn EventSink>,
    journal_id: String,
    journal: Option<File>,
    generation: u64,
    /// What the checkpoint looked like when we last read or wrote it.
    seen: Option<Stamp>,
    /// Whether the checkpoint as it is now was brought to the disk.
    current_is_synced: bool,
    /// Whether the journal as it is now was brought to the disk.
    journal_is_synced: bool,
}

/// Whether a generation is on the disk before it takes the checkpoint's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Kernel,
    Disk,
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl FileStore {
    /// A store for the checkpoint `name` in `directory`. Nothing is read or written yet.
    ///
    /// # Errors
    /// If the directory can't be opened.
    pub fn new(
        directory: &Path,
        name: CheckpointName,
        events: Arc<dyn EventSink>,
    ) -> Result<Self, StoreError> {
        let directory = Directory::open(directory)?;
        Ok(Self {
            directory,
            name,
            events,
            journal_id: format!("{:016x}", fastrand::u64(..)),
            journal: None,
            generation: 0,
            seen: None,
            current_is_synced: false,
            journal_is_synced: false,
        })
    }

    /// What the checkpoint says, without changing anything, and who wrote it. `None` if there is no checkpoint.
    ///
    /// # Errors
    /// As [`CheckpointStore::load`].
    pub(crate) fn peek(&mut self) -> Result<Option<(Saved, WrittenBy)>, StoreError> {
        Ok(match self.newest()? {
            None => None,
            Some(Format::Tailweir { mut saved, journal, .. }) => {
                self.journal_id = journal;
                saved.finished = self.read_journal()?.unwrap_or_default();
                saved.settle_finished();
                Some((saved, WrittenBy::Tailweir))
            }
            Some(Format::Kumod { segment, line }) => {
                Some((self.place_of_kumod(segment, line)?, WrittenBy::Kumod))
            }
        })
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.entry(&self.name.file(suffix))
    }

    fn io(&self, what: &'static str, suffix: &str) -> impl FnOnce(std::io::Error) -> StoreError {
        move |source| StoreError::Io {
            what,
            path: self.directory.path().join(self.name.file(suffix)),
            source,
        }
    }

    /// Reads one generation. `None` if there is no such file; the inner error is a reason that it can't be used.
    fn read(&self, suffix: &str) -> Result<Option<Result<Format, String>>, StoreError> {
        match std::fs::read(self.path(suffix)) {
            Ok(text) => Ok(Some(format::parse(&text))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io("read", suffix)(e)),
        }
    }

    /// The newest generation that can be used.
    fn newest(&self) -> Result<Option<Format>, StoreError> {
        let reason = match self.read("")? {
            None => return Ok(None),
            Some(Ok(format)) => return Ok(Some(format)),
            Some(Err(reason)) => reason,
        };
        let path = self.directory.path().join(self.name.file(""));
        let (mut best, mut previous) = (None, String::new());
        for suffix in [".prev", ".tmp"] {
            let problem = match self.read(suffix)? {
                Some(Ok(format)) => {
                    if best.as_ref().is_none_or(|other| generation(other) < generation(&format)) {
                        best = Some(format);
                    }
                    continue;
                }
                Some(Err(reason)) => reason,
                None => "there is none".to_owned(),
            };
            previous =
                format!("{previous}{}{suffix}: {problem}", if previous.is_empty() { "" } else { "; " });
        }
        let Some(best) = best else { return Err(StoreError::Unusable { path, reason, previous }) };
        let message = format!(
            "the checkpoint {} can't be used ({reason}); going on from its previous generation, so records committed \
             last may come again",
            path.display()
        );
        self.events.emit(Event::Warning { message });
        Ok(Some(best))
    }

    /// The names in the journal; `None` if there is none that belongs to our checkpoint.
    fn read_journal(&self) -> Result<Option<HashSet<SegmentName>>, StoreError> {
        match std::fs::read(self.path(".finished")) {
            Ok(text) => Ok(journal::read(&text, &self.journal_id)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io("read", ".finished")(e)),
        }
    }

    /// Names of files that are in the directory now.
    fn present(&self) -> Result<HashSet<SegmentName>, StoreError> {
        let list = || -> std::io::Result<HashSet<SegmentName>> {
            let mut names = HashSet::new();
            for entry in std::fs::read_dir(self.directory.path())? {
                if let Some(name) = entry?.file_name().to_str().and_then(|n| SegmentName::new(n).ok()) {
                    names.insert(name);
                }
            }
            Ok(names)
        };
        list().map_err(|source| StoreError::Io { what: "list", path: self.directory.path(), source })
    }

    /// Writes the journal anew, under a new name first, with these names.
    fn write_journal(&mut self, names: &HashSet<SegmentName>) -> Result<(), StoreError> {
        (self.journal, self.journal_is_synced) = (None, false);
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort();
        let text = journal::write(&self.journal_id, sorted);
        self.replace(".finished", text.as_bytes())
    }

    /// Writes a file under a temporary name and renames it. Not synced: see [`CheckpointStore::sync`].
    fn replace(&self, suffix: &str, text: &[u8]) -> Result<(), StoreError> {
        let temporary = format!("{suffix}.tmp");
        self.write(&temporary, text, Reach::Kernel)?;
        std::fs::rename(self.path(&temporary), self.path(suffix)).map_err(self.io("replace", suffix))
    }

    /// Writes a file, in place if it exists: that needs no space on a disk that has become full, and the disk's journal
    /// need not be written to bring it there.
    fn write(&self, suffix: &str, text: &[u8], reach: Reach) -> Result<(), StoreError> {
        let write = || {
            let mut file = private().write(true).create(true).truncate(false).open(self.path(suffix))?;
            file.write_all(text)?;
            if file.metadata()?.len() != text.len() as u64 {
                file.set_len(text.len() as u64)?;
            }
            if reach == Reach::Disk { file.sync_data() } else { Ok(()) }
        };
        write().map_err(self.io("write", suffix))
    }

    /// Reads the journal of our own checkpoint, and writes it anew if too much of it is about files long gone.
    fn resume_journal(&mut self, mut saved: Saved) -> Result<Saved, StoreError> {
        let journal = self.read_journal()?;
        let known = journal.is_some();
        saved.finished = journal.unwrap_or_default();
        if !known || saved.finished.len() > JOURNAL_SLACK {
            let (before, present) = (saved.finished.len(), self.present()?);
            saved.finished.retain(|name| present.contains(name));
            if !known || before - saved.finished.len() > JOURNAL_SLACK {
                self.write_journal(&saved.finished)?;
            }
        }
        Ok(saved)
    }

    /// KumoMTA's place: it has dealt with whatever sorts before.
    fn place_of_kumod(&self, segment: SegmentName, line: u64) -> Result<Saved, StoreError> {
        let mut saved = Saved { finished: self.present()?, ..Saved::default() };
        saved.finished.retain(|name| *name < segment);
        let mark = Mark { point: Point { line, offset: 0 }, ..Mark::default() };
        saved.unlocated.insert(segment.clone());
        saved.frontier.segments.insert(segment, Progress { mark, identity: None, finished: false });
        Ok(saved)
    }

    fn append_to_journal(&mut self, finished: &[SegmentName]) -> Result<(), StoreError> {
        if finished.is_empty() {
            return Ok(());
        }
        if self.journal.is_none() {
            let file =
                private().append(true).open(self.path(".finished")).map_err(self.io("open", ".finished"))?;
            self.journal = Some(file);
        }
        self.journal_is_synced = false;
        let mut text = String::new();
        // An append that failed half-way left half a line; a line break ends it, and a reader ignores what is no entry.
        text.push('\n');
        finished.iter().for_each(|name| journal::push(&mut text, name));
        let result = self.journal.as_mut().map_or(Ok(()), |file| file.write_all(text.as_bytes()));
        result.map_err(self.io("append to", ".finished"))
    }

    fn stamp(&self) -> Option<Stamp> {
        let meta = std::fs::symlink_metadata(self.path("")).ok()?;
        Some(Stamp { inode: meta.ino(), len: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }

    /// kumod takes no lock, so all that can be done about it is to notice.
    fn notice_foreign_writer(&mut self) {
        let now = self.stamp();
        if self.seen.is_some() && now != self.seen {
            let path = self.directory.path().join(self.name.file(""));
            let what = if now.is_some() { "was changed" } else { "was removed" };
            let message = format!(
                "the checkpoint {} {what} by another program while this one is using it; it is written again with this one's progress",
                path.display()
            );
            self.events.emit(Event::Warning { message });
        }
    }

    /// Writes a checkpoint and puts it in its place.
    fn next_generation(&mut self, saved: &Saved, reach: Reach) -> Result<(), StoreError> {
        let directory = self.directory.path();
        let Some(text) =
            format::write(saved, &directory.to_string_lossy(), self.generation + 1, &self.journal_id)
        else {
            return Ok(());
        };
        self.write(".tmp", &text, reach)?;
        self.notice_foreign_writer();
        self.rotate(reach)?;
        self.generation += 1;
        self.seen = self.stamp();
        Ok(())
    }

    fn sync_journal(&mut self) -> Result<(), StoreError> {
        if !self.journal_is_synced {
            self.sync_file(".finished")?;
            self.journal_is_synced = true;
        }
        Ok(())
    }

    fn sync_file(&self, suffix: &str) -> Result<(), StoreError> {
        match File::open(self.path(suffix)).and_then(|file| file.sync_data()) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.io("sync", suffix)(e)),
            _ => Ok(()),
        }
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.directory.sync().map_err(self.io("sync", ""))?;
        self.current_is_synced = true;
        Ok(())
    }

    /// Puts the spare file in the checkpoint's place. There is no moment at which the checkpoint is missing.
    ///
    /// What was there becomes the previous generation if it is known to be on the disk while the new one is not, and the
    /// spare otherwise: so there always is a generation that a loss of power can't take, and most commits write to a file
    /// that exists and exchange two names. Renaming over a file costs many times that, since ext4 begins to write out its
    /// data then.
    fn rotate(&mut self, new: Reach) -> Result<(), StoreError> {
        let (spare, current, previous) = (self.path(".tmp"), self.path(""), self.path(".prev"));
        let keep = std::mem::take(&mut self.current_is_synced) && new == Reach::Kernel;
        match renameat_with(CWD, &spare, CWD, &current, RenameFlags::EXCHANGE) {
            Ok(()) if keep => std::fs::rename(&spare, &previous).map_err(self.io("replace", ".prev")),
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOENT) => {
                std::fs::rename(&spare, &current).map_err(self.io("replace", ""))
            }
            Err(_) => {
                // A file system that can't exchange names (NFS) can still link and rename.
                let missing =
                    |e: std::io::Error| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) };
                std::fs::remove_file(&previous).or_else(missing).map_err(self.io("replace", ".prev"))?;
                std::fs::hard_link(&current, &previous)
                    .or_else(missing)
                    .map_err(self.io("write", ".prev"))?;
                std::fs::rename(&spare, &current).map_err(self.io("replace", ""))
            }
        }
    }
}

impl CheckpointStore for FileStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let newest = self.newest()?;
        self.seen = self.stamp();
        let mut saved = match newest {
            None => {
                self.write_journal(&HashSet::new())?;
                return Ok(Loaded::Fresh);
            }
            Some(Format::Tailweir { saved, generation, journal }) => {
                (self.generation, self.journal_id) = (generation, journal);
                self.resume_journal(saved)?
            }
            Some(Format::Kumod { segment, line }) => {
                let saved = self.place_of_kumod(segment, line)?;
                self.write_journal(&saved.finished)?;
                saved
            }
        };
        saved.settle_finished();
        Ok(Loaded::Saved(saved))
    }

    fn save(&mut self, saved: &Saved, finished: &[SegmentName]) -> Result<(), StoreError> {
        self.append_to_journal(finished)?;
        self.next_generation(saved, Reach::Kernel)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.sync_journal()?;
        self.sync_file("")?;
        self.sync_names()
    }

    /// One write of data and one of names to the disk, both of which the disk does together for the consumers that commit
    /// at the same time.
    fn save_synced(&mut self, saved: &Saved, finished: &[SegmentName]) -> Result<(), StoreError> {
        self.append_to_journal(finished)?;
        self.sync_journal()?;
        self.next_generation(saved, Reach::Disk)?;
        self.sync_names()
    }
}

/// How many times a checkpoint had been written; KumoMTA does not count.
fn generation(format: &Format) -> u64 {
    match format {
        Format::Tailweir { generation, .. } => *generation,
        Format::Kumod { .. } => 0,
    }
}
