//! What happens in the directory: names come and go, and files take the place of others.

use tailweir_core::{Event, SegmentName};

use super::entries::{Rest, State, Stored};
use super::{Mode, ReadError, Reader, Step, Watch};
use crate::Seal;
use crate::directory::{self, Opened};
use crate::signal::{Changes, NativeWatcher, RESCAN, RESCAN_MAX};

/// How many times as long as a scan has taken the next one waits, if nothing asks for it: so scans for what the watcher
/// has missed take 0.25 % of a processor.
const REST: u32 = 400;

impl Reader {
    /// Watches the directory, or says that it cannot.
    pub(super) fn watch(&mut self) {
        self.watcher = None;
        if !matches!(self.options.watch, Watch::Native) || self.options.hand.is_some() {
            return;
        }
        match NativeWatcher::new(self.directory.path(), self.signal.clone()) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(e) => self.emit(Event::Warning {
                message: format!(
                    "cannot watch {} ({e}); it is polled every {RESCAN:?} instead",
                    self.directory.path().display()
                ),
            }),
        }
    }

    /// Scans the directory or looks at the open files, if it is time to, and reads nothing: for whoever can't take anything at
    /// present. Segments that are gone before they were read are named at once; the steps that come of it are kept for
    /// [`next`](Self::next), which does this too. Does nothing unless the directory is followed.
    pub fn keep_up(&mut self) {
        if !matches!(self.options.mode, Mode::Follow) {
            return;
        }
        let now = self.signal.now();
        let Changes { names, files } = self.signal.take_changes();
        let mut scan = now >= self.schedule.scan;
        let look = now >= self.schedule.look;
        if names || self.schedule.postponed.is_some() {
            scan |= now >= self.schedule.not_before;
            self.schedule.postponed = (!scan).then_some(self.schedule.not_before);
        }
        if scan {
            if self.directory.reopen_if_deleted() {
                self.watch();
            } else if self.directory.is_replaced() {
                let path = self.directory.path().display();
                let message = format!(
                    "{path} is another directory now; the one that was moved away is read on, and the new one after a restart"
                );
                self.emit(Event::Warning { message });
            }
            match self.scan() {
                Ok(()) => self.schedule.failing = false,
                Err(e) => self.scan_failed(&e),
            }
        }
        // Not looked at here: whoever takes nothing is not to go through all entries whenever a line is written somewhere.
        self.schedule.files |= files;
        if scan || look {
            self.schedule.look = now + self.schedule.interval;
            self.schedule.files = false;
            self.look_at_all();
        }
    }

    /// Brings the entries up to date with the names in the directory.
    pub(super) fn scan(&mut self) -> Result<(), ReadError> {
        let begun = self.signal.now();
        let mut news = Vec::new();
        self.entries.begin_scan();
        let (entries, pattern) = (&mut self.entries, &self.options.pattern);
        self.directory.scan(|found| entries.found(found, pattern, &mut news))?;
        for name in self.entries.missing() {
            self.gone(&name);
        }
        for stored in news {
            match stored {
                Stored::New { name } => {
                    self.ready.insert(name);
                }
                Stored::Foreign { name, reason } => {
                    self.emit(Event::ForeignFile { name, reason: reason.to_owned() })
                }
                Stored::FinishedOneChanged { name } => self.check_finished(&name),
                Stored::OpenOneChanged { name } => self.check_open(&name),
            }
        }
        let now = self.signal.now();
        let took = now - begun;
        let interval = self.schedule.interval;
        // A watcher tells of changes, so that a large directory need not be gone through each second only to find none.
        let rest = if self.watcher.is_some() { (took * REST).clamp(interval, RESCAN_MAX) } else { interval };
        self.schedule.scan = now + rest;
        // Scans of a large directory must not take all the time when names change all the time.
        self.schedule.not_before = now + took * 9;
        Ok(())
    }

    fn scan_failed(&mut self, error: &ReadError) {
        self.schedule.scan = self.signal.now() + self.schedule.interval;
        if !std::mem::replace(&mut self.schedule.failing, true) {
            let cause = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
            self.emit(Event::Warning { message: format!("{error}{cause}; it is tried again") });
        }
    }

    /// A name is no longer in the directory.
    fn gone(&mut self, name: &SegmentName) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        match &mut entry.state {
            // What was opened is read to its end.
            State::Decoding => {}
            State::Following(follow) => {
                follow.detached = true;
                self.ready.insert(name.clone());
            }
            State::Parked { end, identity, seen } => {
                let (end, identity, torn) = (*end, *identity, seen.seal == Seal::Sealed);
                if torn {
                    self.lost_sight_of(name);
                }
                let step = self.finished(name, identity, end);
                self.steps.push_back(step);
            }
            State::Waiting | State::Unknown { .. } | State::Failed => {
                let empty = matches!(entry.state, State::Unknown { .. }) && entry.begun.is_none();
                self.vanished(name, (!empty).then_some("it was deleted before it was read to its end"));
            }
        }
    }

    pub(super) fn vanished(&mut self, name: &SegmentName, gap: Option<&str>) {
        let said = self.entries.get_mut(name).is_some_and(|entry| entry.pending_said);
        self.entries.remove(name);
        self.ready.remove(name);
        if let Some(reason) = gap {
            self.emit(Event::SegmentGap { segment: name.clone(), reason: reason.to_owned() });
        }
        if said || gap.is_some() {
            self.steps.push_back(Step::Vanished { segment: name.clone() });
        }
    }

    /// Says that a segment is there, if nothing of it was read yet.
    pub(super) fn pending(&mut self, name: &SegmentName) {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.begun.is_none()
            && !std::mem::replace(&mut entry.pending_said, true)
        {
            self.steps.push_back(Step::Pending { segment: name.clone() });
        }
    }

    /// The directory shows another inode under the name of a finished segment.
    fn check_finished(&mut self, name: &SegmentName) {
        let Some(identity) = self.entries.identity_of_finished(name) else {
            return;
        };
        let same = match self.directory.open_file(name.as_str()) {
            Ok(Opened::File(file)) => directory::is_same(&file, &identity).unwrap_or(true),
            _ => true,
        };
        if !same {
            self.entries.revive(name);
            self.replaced(name, "another file has taken its place; it is read from its start");
        }
    }

    /// The directory shows another inode under the name of a segment that was found before.
    fn check_open(&mut self, name: &SegmentName) {
        let Ok(stat) = self.directory.stat(name.as_str()) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let other = entry.identity.is_some_and(|identity| identity.inode != stat.st_ino);
        match &mut entry.state {
            State::Decoding => entry.replaced |= other,
            State::Following(follow) if other => {
                entry.replaced = true;
                follow.detached = true;
                self.ready.insert(name.clone());
            }
            // The others are compared when they are opened.
            _ => {}
        }
    }

    /// Reads the segment from its start.
    pub(super) fn replaced(&mut self, name: &SegmentName, reason: &str) {
        self.emit(Event::SegmentGap { segment: name.clone(), reason: reason.to_owned() });
        self.steps.push_back(Step::Replaced { segment: name.clone() });
        if let Some(entry) = self.entries.get_mut(name) {
            entry.begun = None;
            entry.identity = None;
            entry.replaced = false;
            entry.pending_said = false;
            entry.rest = Rest::default();
            entry.state = State::Waiting;
            self.ready.insert(name.clone());
        }
    }

    /// Takes note of which segments may have more to read.
    fn look_at_all(&mut self) {
        let Self { entries, ready, directory, signal, .. } = self;
        let now = signal.now();
        for (name, entry) in entries.iter() {
            let look = match &entry.state {
                State::Following(_) | State::Failed => true,
                State::Waiting | State::Decoding => false,
                State::Unknown { seen } | State::Parked { seen, .. } => {
                    let changed = directory.stat(name.as_str()).is_ok_and(|stat| seen.differs(&stat));
                    changed || (seen.seal == Seal::Sealed && entry.rest.is_over(now))
                }
            };
            if look {
                ready.insert(name.clone());
            }
        }
    }

    /// The same without those that take a look at the disk each and may be many: they wait for the next scan.
    pub(super) fn look_at_open_ones(&mut self) {
        let look = |state: &State| matches!(state, State::Following(_) | State::Unknown { .. });
        let open = self.entries.iter().filter(|(_, entry)| look(&entry.state));
        self.ready.extend(open.map(|(name, _)| name.clone()));
    }
}
