//! Checkpoints as files.

use std::collections::HashSet;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;

use tailweir_core::state::Changes;
use tailweir_core::{Contents, Event, EventSink, Frame, Mark, Point, Progress, SegmentName};

use super::format::{self, Format, HasState};
use super::state::{self, Buckets, StateFile};
use super::{CheckpointStore, Guard, Loaded, Saved, StoreError, journal};
use crate::files::{Access, Directory, Files, OpenFile, Stamp};
use crate::{CheckpointName, WrittenBy};

/// How many names of segments that no longer exist a journal may hold before it is written anew.
const JOURNAL_SLACK: usize = 1024;

/// How many segments that are in the journal a checkpoint names, at most; then the journal is brought to the disk.
const MAX_UNSYNCED: usize = 64;

/// Keeps a checkpoint in files of its directory: `.<name>`, the last generation before it that was brought to the disk,
/// `.<name>.prev` (or still `.<name>.tmp`, right after it was replaced), the file that the next one is written to,
/// `.<name>.tmp`, and the journal of finished segments, `.<name>.finished`. If plug-ins have state, `.<name>.state` has it,
/// and each checkpoint before it is written.
///
/// The directory is held open, so that it may be moved or renamed meanwhile.
pub struct FileStore {
    files: Arc<dyn Files>,
    name: CheckpointName,
    events: Arc<dyn EventSink>,
    guard: Option<Guard>,
    journal_id: String,
    journal: Option<Box<dyn OpenFile>>,
    generation: u64,
    /// What the checkpoint looked like when we last read or wrote it.
    seen: Option<Stamp>,
    /// Whether it was read: before that, nobody knows what it was.
    is_loaded: bool,
    safe: Safe,
    /// Whether another program wrote the checkpoint that the next one replaces.
    foreign: bool,
    /// Whether the names of the generations as they are now were brought to the disk.
    names_are_synced: bool,
    /// Whether the journal as it is now was brought to the disk.
    journal_is_synced: bool,
    /// Segments that were added to the journal since. Checkpoints name them until it is brought to the disk: otherwise a
    /// loss of power could take the journal's line and leave a checkpoint that counts on it.
    unsynced: Vec<SegmentName>,
    /// Once there is any.
    state: Option<StateFile>,
    /// How long the journal of state gets in any case before it is written anew, in bytes.
    state_slack: u64,
}

/// Where there is a generation that a loss of power can't take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Safe {
    Nowhere,
    Current,
    Spare,
    Previous,
}

/// The newest generation that can be used, and the suffix of the file that it is in.
struct Newest {
    format: Format,
    suffix: &'static str,
}

/// Whether a generation is on the disk before it takes the checkpoint's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Kernel,
    Disk,
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
        Ok(Self::over(Arc::new(Directory::open(directory)?), name, events))
    }

    /// A store for the checkpoint `name` among `files`.
    pub(crate) fn over(files: Arc<dyn Files>, name: CheckpointName, events: Arc<dyn EventSink>) -> Self {
        Self {
            files,
            name,
            events,
            guard: None,
            journal_id: format!("{:016x}", fastrand::u64(..)),
            journal: None,
            generation: 0,
            seen: None,
            is_loaded: false,
            safe: Safe::Nowhere,
            foreign: false,
            names_are_synced: false,
            journal_is_synced: false,
            unsynced: Vec::new(),
            state: None,
            state_slack: state::SLACK,
        }
    }

    /// What the checkpoint says, without changing anything, and who wrote it. `None` if there is no checkpoint.
    ///
    /// # Errors
    /// As [`CheckpointStore::load`].
    pub(crate) fn peek(&mut self) -> Result<Option<(Saved, WrittenBy)>, StoreError> {
        Ok(match self.newest()?.map(|newest| newest.format) {
            None => None,
            Some(Format::Tailweir { mut saved, generation, journal, state }) => {
                self.journal_id = journal;
                if let Some(read) = state::read(&*self.files, &self.name)?
                    && self.counts(&read, generation, state)
                {
                    return Ok(Some((read.saved(), WrittenBy::Tailweir)));
                }
                let ended = take_ended(&mut saved);
                saved.finished = self.read_journal()?.unwrap_or_default();
                saved.finished.extend(ended);
                saved.settle_finished();
                Some((saved, WrittenBy::Tailweir))
            }
            Some(Format::Kumod { segment, line }) => {
                Some((self.place_of_kumod(segment, line)?, WrittenBy::Kumod))
            }
        })
    }

    fn io(&self, what: &'static str, suffix: &str) -> impl FnOnce(std::io::Error) -> StoreError {
        move |source| StoreError::Io { what, path: self.files.path().join(self.name.file(suffix)), source }
    }

    /// Reads one generation. `None` if there is no such file; the inner error is a reason that it can't be used.
    fn read(&self, suffix: &str) -> Result<Option<Result<Format, String>>, StoreError> {
        match self.files.read(&self.name.file(suffix)) {
            Ok(text) => Ok(Some(format::parse(&text))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io("read", suffix)(e)),
        }
    }

    /// The newest generation that can be used. That is not the checkpoint itself if it was damaged, or if a loss of power
    /// took what had been written to its file and left what was in the file before: then the file holds an older generation.
    fn newest(&self) -> Result<Option<Newest>, StoreError> {
        let (mut best, mut reason) = (None::<Newest>, String::new());
        match self.read("")? {
            None => return Ok(None),
            // Whoever wrote it takes no notice of ours.
            Some(Ok(format @ Format::Kumod { .. })) => return Ok(Some(Newest { format, suffix: "" })),
            Some(Ok(format)) => best = Some(Newest { format, suffix: "" }),
            Some(Err(why)) => reason = why,
        }
        let mut previous = String::new();
        for suffix in [".prev", ".tmp"] {
            if suffix == ".tmp" && best.as_ref().is_some_and(|best| best.suffix.is_empty()) {
                // A process that died before it put it in its place may have left it newer.
                continue;
            }
            let read = match self.read(suffix) {
                // Whatever it is, it is not needed.
                Err(_) if best.is_some() => continue,
                read => read?,
            };
            let problem = match read {
                Some(Ok(format)) => {
                    if best.as_ref().is_none_or(|best| format.follows(&best.format)) {
                        best = Some(Newest { format, suffix });
                    }
                    continue;
                }
                Some(Err(reason)) => reason,
                None => "there is none".to_owned(),
            };
            previous =
                format!("{previous}{}{suffix}: {problem}", if previous.is_empty() { "" } else { "; " });
        }
        let path = self.files.path().join(self.name.file(""));
        let Some(best) = best else { return Err(StoreError::Unusable { path, reason, previous }) };
        if !best.suffix.is_empty() {
            let path = path.display();
            let message = match reason.is_empty() {
                false => format!(
                    "the checkpoint {path} can't be used ({reason}); going on from its previous generation, so records \
                     committed last may come again"
                ),
                true => format!(
                    "the checkpoint {path} is older than {path}{suffix}, as a loss of power may leave it; going on from \
                     the newer one, and records committed last may come again",
                    suffix = best.suffix
                ),
            };
            self.events.emit(Event::Warning { message });
        }
        Ok(Some(best))
    }

    /// The names in the journal; `None` if there is none that belongs to our checkpoint.
    fn read_journal(&self) -> Result<Option<HashSet<SegmentName>>, StoreError> {
        match self.files.read(&self.name.file(".finished")) {
            Ok(text) => Ok(journal::read(&text, &self.journal_id)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io("read", ".finished")(e)),
        }
    }

    /// Names of files that are in the directory now.
    fn present(&self) -> Result<HashSet<SegmentName>, StoreError> {
        let io = |source| StoreError::Io { what: "list", path: self.files.path(), source };
        Ok(self.files.names().map_err(io)?.iter().filter_map(|name| SegmentName::new(name).ok()).collect())
    }

    /// Writes the journal anew, under a new name first, with these names.
    fn write_journal(&mut self, names: &HashSet<SegmentName>) -> Result<(), StoreError> {
        self.journal = None;
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort();
        let text = journal::write(&self.journal_id, sorted);
        // Otherwise a loss of power could take what is in the journal that it replaces, or leave names of another one at the
        // end of this one.
        self.write(".finished.tmp", text.as_bytes(), Reach::Disk)?;
        self.rename(".finished.tmp", ".finished")
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.files.rename(&self.name.file(from), &self.name.file(to)).map_err(self.io("replace", to))
    }

    /// Writes a file, in place if it exists: that needs no space on a disk that has become full, and the disk's journal
    /// need not be written to bring it there.
    fn write(&self, suffix: &str, text: &[u8], reach: Reach) -> Result<(), StoreError> {
        let write = || {
            let mut file = self.files.open(&self.name.file(suffix), Access::Overwrite)?;
            file.write_all(text)?;
            if file.length()? != text.len() as u64 {
                file.set_length(text.len() as u64)?;
            }
            if reach == Reach::Disk { file.sync() } else { Ok(()) }
        };
        write().map_err(self.io("write", suffix))
    }

    /// Reads the journal of our own checkpoint, and writes it anew if too much of it is about files long gone.
    fn resume_journal(&mut self, mut saved: Saved) -> Result<Saved, StoreError> {
        let (ended, journal) = (take_ended(&mut saved), self.read_journal()?);
        let known = journal.is_some();
        saved.finished = journal.unwrap_or_default();
        let lost: Vec<_> = ended.into_iter().filter(|name| !saved.finished.contains(name)).collect();
        saved.finished.extend(lost.iter().cloned());
        if !known || saved.finished.len() > JOURNAL_SLACK {
            let (before, present) = (saved.finished.len(), self.present()?);
            saved.finished.retain(|name| present.contains(name));
            if !known || before - saved.finished.len() > JOURNAL_SLACK {
                self.write_journal(&saved.finished)?;
                return Ok(saved);
            }
        }
        self.append_to_journal(&lost)?;
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
            let open = self.files.open(&self.name.file(".finished"), Access::Append);
            let file = open.map_err(self.io("open", ".finished"))?;
            self.journal = Some(file);
        }
        self.journal_is_synced = false;
        let mut text = String::new();
        // An append that failed half-way left half a line; a line break ends it, and a reader ignores what is no entry.
        text.push('\n');
        finished.iter().for_each(|name| journal::push(&mut text, name));
        let result = self.journal.as_mut().map_or(Ok(()), |file| file.write_all(text.as_bytes()));
        result.map_err(self.io("append to", ".finished"))?;
        self.unsynced.extend_from_slice(finished);
        if self.unsynced.len() > MAX_UNSYNCED {
            self.sync_journal()?;
        }
        Ok(())
    }

    fn stamp(&self) -> Option<Stamp> {
        self.files.stamp(&self.name.file("")).ok()
    }

    fn check_guard(&self) -> Result<(), StoreError> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard())
    }

    /// kumod takes no lock, so all that can be done about it is to notice.
    fn notice_foreign_writer(&mut self) {
        let now = self.stamp();
        if self.is_loaded && now != self.seen {
            let path = self.files.path().join(self.name.file(""));
            let what = if now.is_some() { "was changed" } else { "was removed" };
            let message = format!(
                "the checkpoint {} {what} by another program while this one is using it; it is written again with this one's progress",
                path.display()
            );
            self.events.emit(Event::Warning { message });
            (self.foreign, self.safe) = (true, Safe::Nowhere);
        }
    }

    /// Writes a checkpoint and puts it in its place. While it does so there always is a generation that a loss of power
    /// can't take, under one of the three names.
    fn next_generation(&mut self, saved: &Saved, reach: Reach) -> Result<(), StoreError> {
        let Some(text) = self.text(saved, self.generation.saturating_add(1)) else { return Ok(()) };
        self.check_guard()?;
        self.notice_foreign_writer();
        if self.safe == Safe::Spare {
            self.rename(".tmp", ".prev")?;
            self.safe = Safe::Previous;
        }
        let reach = if self.safe == Safe::Nowhere { Reach::Disk } else { reach };
        if reach == Reach::Disk && !self.names_are_synced {
            // The disk may know the spare as the checkpoint still.
            self.sync_names()?;
        }
        if self.safe == Safe::Current && reach == Reach::Kernel {
            // In a new file nothing old comes back if what is written is lost: it would pass for the checkpoint.
            self.remove(".tmp")?;
        }
        self.write(".tmp", &text, reach)?;
        self.names_are_synced = false;
        // To write it may have taken long.
        self.check_guard()?;
        self.rotate(reach)?;
        self.generation = self.generation.saturating_add(1);
        self.seen = self.stamp();
        if reach == Reach::Disk {
            self.sync_names()?;
            self.safe = Safe::Current;
        }
        if self.foreign {
            // Writing over it could, after a loss of power, leave it as the checkpoint.
            self.remove(".tmp")?;
            // It may have been gone on from as the previous generation. It knows nothing of what was finished since.
            self.remove_generations(&[".prev"], |format| matches!(format, Format::Kumod { .. }))?;
            self.foreign = false;
        }
        Ok(())
    }

    /// The text of a generation. `None` if there is nothing to say yet.
    fn text(&self, saved: &Saved, generation: u64) -> Option<Vec<u8>> {
        let directory = self.files.path();
        let has_state = if self.state.is_some() { HasState::Yes } else { HasState::No };
        let write = |saved: &Saved| {
            format::write(saved, &directory.to_string_lossy(), (generation, &self.journal_id), has_state)
        };
        if self.unsynced.is_empty() {
            return write(saved);
        }
        let mut saved = saved.clone();
        for name in &self.unsynced {
            // One that is there is a new file of the old name.
            saved.frontier.segments.entry(name.clone()).or_insert(ENDED);
        }
        write(&saved)
    }

    fn sync_journal(&mut self) -> Result<(), StoreError> {
        if !self.journal_is_synced {
            self.sync_file(".finished")?;
            self.journal_is_synced = true;
            self.unsynced.clear();
        }
        Ok(())
    }

    /// Brings a file to the disk, if there is one.
    fn sync_file(&self, suffix: &str) -> Result<(), StoreError> {
        match self.files.open(&self.name.file(suffix), Access::Read).and_then(|file| file.sync()) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.io("sync", suffix)(e)),
            _ => Ok(()),
        }
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.files.sync_names().map_err(self.io("sync", ""))?;
        self.names_are_synced = true;
        Ok(())
    }

    /// Puts the spare file in the checkpoint's place. There is no moment at which the checkpoint is missing.
    ///
    /// What was there becomes the spare, and most commits write to a file that exists and exchange two names. Renaming over
    /// a file costs many times that, since ext4 begins to write out its data then.
    fn rotate(&mut self, new: Reach) -> Result<(), StoreError> {
        let [spare, current, previous] = [".tmp", "", ".prev"].map(|suffix| self.name.file(suffix));
        match self.files.exchange(&spare, &current) {
            Ok(()) if self.safe == Safe::Current => self.safe = Safe::Spare,
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => self.rename(".tmp", "")?,
            Err(_) => {
                // A file system that can't exchange names (NFS) can still link and rename.
                if self.safe == Safe::Current && new == Reach::Kernel {
                    self.remove(".prev")?;
                    self.files.link(&current, &previous).map_err(self.io("write", ".prev"))?;
                    self.safe = Safe::Previous;
                }
                self.rename(".tmp", "")?;
            }
        }
        Ok(())
    }

    fn remove(&self, suffix: &str) -> Result<(), StoreError> {
        match self.files.remove(&self.name.file(suffix)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.io("remove", suffix)(e)),
            _ => Ok(()),
        }
    }

    /// Brings the generation that is gone on from to the disk, and removes those of another history: somebody has ended
    /// it by writing a checkpoint of another kind, and no loss of power may bring it back.
    fn secure(&mut self, newest: &Newest) -> Result<(), StoreError> {
        self.sync_file(newest.suffix)?;
        self.safe = Safe::Current;
        let mut others = &[".prev", ".tmp"][..];
        if !newest.suffix.is_empty() {
            // The spare is written over by the next save.
            self.rename(newest.suffix, ".prev")?;
            self.safe = Safe::Previous;
            others = &[".tmp"];
        }
        self.sync_names()?;
        self.remove_generations(others, |other| !other.is_of_one_history_with(&newest.format))
    }

    /// Whether a journal of state is the later word than a checkpoint of ours. One with state is written after its entry, so
    /// only a loss of power can leave it without; one without state may have been written when there was none.
    fn counts(&self, read: &state::Read, generation: u64, state: HasState) -> bool {
        read.id == self.journal_id && (state == HasState::Yes || read.generation >= generation)
    }

    /// Goes on from a journal of state.
    fn resume_state(&mut self, read: state::Read) -> Result<Saved, StoreError> {
        let path = self.files.path().join(self.name.file(""));
        let path = path.display();
        if read.torn() > 0 {
            let message = format!(
                "the last {} bytes of {path}.state are not whole, as a loss of power may leave them; going on from what is \
                 before them, so records committed last may come again",
                read.torn()
            );
            self.events.emit(Event::Warning { message });
        }
        if read.generation > self.generation.saturating_add(1) {
            let message = format!(
                "the checkpoint {path} is older than {path}.state, which counts; to go back to a copy, put both in their places"
            );
            self.events.emit(Event::Warning { message });
        }
        let mut saved = read.saved();
        self.generation = self.generation.max(read.generation);
        if saved.finished.len() > JOURNAL_SLACK {
            let present = self.present()?;
            saved.finished.retain(|name| present.contains(name));
        }
        self.state = Some(StateFile::resume(self.files.clone(), self.name.clone(), self.state_slack, read)?);
        if self.read_journal()?.as_ref() != Some(&saved.finished) {
            self.write_journal(&saved.finished)?;
        }
        Ok(saved)
    }

    /// Goes on from the checkpoint, with the state that there is, which lacks what became of the records between the two.
    fn go_on_without(
        &mut self,
        read: Option<state::Read>,
        saved: &Saved,
        state: HasState,
    ) -> Result<(), StoreError> {
        let path = self.files.path().join(self.name.file(""));
        let path = path.display();
        let Some(read) = read else {
            if state == HasState::Yes {
                let message = format!(
                    "{path}.state is gone: plug-ins begin with empty state, while the checkpoint goes on"
                );
                self.events.emit(Event::Warning { message });
            }
            return Ok(());
        };
        if read.keys() > 0 {
            let message = format!(
                "the checkpoint {path} was written by another program (kumod, or by hand) since {path}.state was: plug-ins \
                 go on with what they have, which is {} keys, and what became of the records between is not in it",
                read.keys()
            );
            self.events.emit(Event::Warning { message });
        }
        self.begin_state(saved, read.buckets)
    }

    /// Begins a journal of state, which is on the disk when this returns.
    fn begin_state(&mut self, saved: &Saved, buckets: Buckets) -> Result<(), StoreError> {
        let text = self.text(saved, self.generation);
        let read = state::Read::begin(&self.journal_id, &saved.finished, buckets);
        let (files, name) = (self.files.clone(), self.name.clone());
        self.state = Some(StateFile::begin(files, name, self.state_slack, read, text.as_deref())?);
        self.sync_names()?;
        if self.foreign {
            // Otherwise the next start could not tell that the state is of later than what the other program wrote.
            self.next_generation(saved, Reach::Disk)?;
        }
        Ok(())
    }

    /// Removes state that no checkpoint goes with any more.
    fn forget_state(&self) -> Result<(), StoreError> {
        match state::read(&*self.files, &self.name) {
            Ok(None) => return Ok(()),
            Ok(Some(read)) if read.keys() == 0 => {}
            _ => {
                let path = self.files.path().join(self.name.file(""));
                let path = path.display();
                let message = format!("there is no checkpoint {path}, so {path}.state begins anew as well");
                self.events.emit(Event::Warning { message });
            }
        }
        self.remove(state::SUFFIX)
    }

    /// Adds what the next generation says to the journal of state, if there is one.
    fn append_state(
        &mut self,
        saved: &Saved,
        finished: &[SegmentName],
        reach: Reach,
    ) -> Result<(), StoreError> {
        let Some(state) = &mut self.state else { return Ok(()) };
        // Also if there is nothing else to say yet, as at a start behind older segments.
        state.finish(finished);
        if let Some(text) = self.text(saved, self.generation.saturating_add(1))
            && let Some(state) = &mut self.state
        {
            state.append(&text)?;
            if reach == Reach::Disk {
                state.sync()?;
            }
        }
        Ok(())
    }

    /// What plug-ins have.
    #[cfg(test)]
    pub(crate) fn buckets(&self) -> Buckets {
        self.state.as_ref().map(|state| state.buckets().clone()).unwrap_or_default()
    }

    /// Has the journal of state written anew sooner than usual.
    #[cfg(test)]
    pub(crate) fn set_state_slack(&mut self, slack: u64) {
        self.state_slack = slack;
    }

    /// Removes generations before the checkpoint. What is none stays.
    fn remove_generations(
        &self,
        suffixes: &[&str],
        which: impl Fn(&Format) -> bool,
    ) -> Result<(), StoreError> {
        for suffix in suffixes {
            if let Ok(Some(Ok(format))) = self.read(suffix)
                && which(&format)
            {
                self.remove(suffix)?;
            }
        }
        Ok(())
    }
}

impl CheckpointStore for FileStore {
    /// What is gone on from is on the disk when this returns.
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let newest = self.newest()?;
        (self.seen, self.is_loaded) = (self.stamp(), true);
        let Some(newest) = newest else {
            self.remove_generations(&[".prev", ".tmp"], |_| true)?;
            self.forget_state()?;
            self.sync_names()?;
            self.write_journal(&HashSet::new())?;
            return Ok(Loaded::Fresh);
        };
        let read = state::read(&*self.files, &self.name)?;
        self.secure(&newest)?;
        let mut saved = match newest.format {
            Format::Tailweir { saved, generation, journal, state } => {
                (self.generation, self.journal_id) = (generation, journal);
                match read {
                    Some(read) if self.counts(&read, generation, state) => self.resume_state(read)?,
                    read => {
                        let mut saved = self.resume_journal(saved)?;
                        saved.settle_finished();
                        self.go_on_without(read, &saved, state)?;
                        saved
                    }
                }
            }
            Format::Kumod { segment, line } => {
                (self.foreign, self.safe) = (true, Safe::Nowhere);
                let saved = self.place_of_kumod(segment, line)?;
                self.write_journal(&saved.finished)?;
                self.go_on_without(read, &saved, HasState::No)?;
                saved
            }
        };
        self.sync_journal()?;
        self.sync_names()?;
        saved.settle_finished();
        Ok(Loaded::Saved(saved))
    }

    fn set_guard(&mut self, guard: Guard) {
        self.guard = Some(guard);
    }

    fn save(&mut self, saved: &Saved, finished: &[SegmentName]) -> Result<(), StoreError> {
        self.check_guard()?;
        self.append_to_journal(finished)?;
        self.append_state(saved, finished, Reach::Kernel)?;
        self.next_generation(saved, Reach::Kernel)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(state) = &mut self.state {
            state.sync()?;
        }
        self.sync_journal()?;
        self.sync_file("")?;
        self.sync_names()?;
        // Before the first one there is none.
        if self.seen.is_some() {
            self.safe = Safe::Current;
        }
        Ok(())
    }

    /// One write of data and one of names to the disk, both of which the disk does together for the consumers that commit
    /// at the same time.
    fn save_synced(&mut self, saved: &Saved, finished: &[SegmentName]) -> Result<(), StoreError> {
        self.check_guard()?;
        self.append_to_journal(finished)?;
        self.sync_journal()?;
        self.check_guard()?;
        self.append_state(saved, finished, Reach::Disk)?;
        self.next_generation(saved, Reach::Disk)
    }

    fn open_state(&mut self, saved: &Saved) -> Result<(), StoreError> {
        if self.state.is_some() {
            return Ok(());
        }
        let mut saved = saved.clone();
        saved.finished = self.read_journal()?.unwrap_or_default();
        saved.settle_finished();
        let begun = self.begin_state(&saved, Buckets::new());
        if begun.is_err() {
            // A checkpoint that says that there is state is written once there is.
            self.state = None;
        }
        begun
    }

    fn bucket(&mut self, name: &str) -> Arc<Contents> {
        self.state.as_ref().map(|state| state.bucket(name)).unwrap_or_default()
    }

    fn change_state(&mut self, bucket: &str, changes: Changes) {
        if let Some(state) = &mut self.state {
            state.change(bucket, changes);
        }
    }
}

/// What a checkpoint says of a segment that is in the journal. A segment of the frontier that is finished has an identity.
const ENDED: Progress = Progress {
    mark: Mark { point: Point { line: 0, offset: 0 }, frame: Frame { compressed: 0, decompressed: 0 } },
    identity: None,
    finished: true,
};

/// Takes out of the frontier what only stood in for the journal.
pub(super) fn take_ended(saved: &mut Saved) -> Vec<SegmentName> {
    let ended: Vec<_> =
        saved.frontier.segments.iter().filter(|(_, p)| **p == ENDED).map(|(name, _)| name.clone()).collect();
    saved.frontier.segments.retain(|_, p| *p != ENDED);
    ended
}
