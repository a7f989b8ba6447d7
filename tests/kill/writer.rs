//! Whoever writes the log: goes on writing to segments while their readers are killed, and remembers every record.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use fastrand::Rng;

/// How long the writer rests after each burst.
const REST: Duration = Duration::from_millis(4);
/// Segments that are written at once, at most.
const OPEN: usize = 3;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    /// Records that everybody can do something with.
    Good,
    /// Among them, three in a hundred: lines that are no records, and records that plug-ins break on or reject.
    Mixed,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    /// No JSON.
    Malformed,
    /// A record that a plug-in breaks on or rejects, if it minds.
    Poison,
}

impl Records {
    /// What the line with this id is.
    pub(crate) fn kind(self, id: u64) -> Kind {
        match (self, id % 67) {
            (Self::Mixed, 13) => Kind::Malformed,
            (Self::Mixed, 41) => Kind::Poison,
            _ => Kind::Good,
        }
    }

    /// A line. A record says itself where it belongs.
    fn text(self, id: u64, segment: &str, line: u64) -> String {
        let (pool, padding) =
            (if id.is_multiple_of(3) { "b" } else { "a" }, "x".repeat((id * 7 % 90) as usize));
        let poison = if self.kind(id) == Kind::Poison { r#","poison":true"# } else { "" };
        let record = format!(
            r#"{{"id":{id},"segment":"{segment}","line":{line},"egress_pool":"{pool}","recipient":"u{id}@example.com","padding":"{padding}"{poison}}}"#
        );
        match (self.kind(id), id % 3) {
            (Kind::Malformed, 0) => record[..record.len() - 1].to_owned(),
            (Kind::Malformed, 1) => format!("{record} and more"),
            (Kind::Malformed, _) => format!("{id} is no record"),
            _ => record,
        }
    }
}

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index of the segment in [`Log::segments`].
    pub(crate) segment: usize,
    /// The line, from 1.
    pub(crate) line: u64,
}

/// One file that was written, or one that has taken the name of another.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// Its file name.
    pub(crate) name: String,
    /// The id of the record in each line.
    pub(crate) ids: Vec<u64>,
    /// Whether it is complete.
    pub(crate) sealed: bool,
    /// Lines that must be delivered in the end; all of them unless the file was shortened or removed.
    pub(crate) required: Option<u64>,
    /// Something was done to the file that allows its records to come again.
    pub(crate) disturbed: bool,
    /// The segment whose name it has taken. A consumer that was done with that one does not look at the name again.
    pub(crate) replaces: Option<usize>,
}

impl Segment {
    /// Lines that must be delivered.
    pub(crate) fn required(&self) -> u64 {
        self.required.unwrap_or(self.ids.len() as u64)
    }
}

/// All that was written.
#[derive(Debug)]
pub(crate) struct Log {
    /// Where segments are now.
    pub(crate) directory: PathBuf,
    pub(crate) records: Records,
    /// Every segment that there ever was.
    pub(crate) segments: Vec<Segment>,
    /// The place of each record; its id is the index.
    pub(crate) places: Vec<Place>,
    /// The newest segment of each name.
    pub(crate) by_name: BTreeMap<String, usize>,
    open: Vec<Output>,
    rng: Rng,
    next_name: u64,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Writing,
    /// Nothing new is begun; what was begun is written on if the disk lets us.
    Holding,
    Ended,
}

/// A file that is being written.
#[derive(Debug)]
struct Output {
    segment: usize,
    lines: usize,
    file: File,
    form: Form,
    /// What a full disk did not take yet.
    rest: Vec<u8>,
}

impl Output {
    fn write_rest(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            let taken = self.file.write(&self.rest)?;
            self.rest.drain(..taken);
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Zstd,
    Plain,
}

impl Log {
    fn new(directory: &Path, records: Records, seed: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            records,
            segments: Vec::new(),
            places: Vec::new(),
            by_name: BTreeMap::new(),
            open: Vec::new(),
            rng: Rng::with_seed(seed),
            next_name: 100_000,
            state: State::Writing,
        }
    }

    /// The text of the record with this id, as it was written.
    pub(crate) fn text(&self, id: u64) -> Option<String> {
        let place = self.places.get(usize::try_from(id).ok()?)?;
        Some(self.records.text(id, &self.segments[place.segment].name, place.line))
    }

    /// Writes a burst to one of the open segments. A disk that refuses is no error: it gets the rest later.
    fn burst(&mut self) {
        if self.state == State::Writing
            && self.open.len() < OPEN
            && (self.open.is_empty() || self.rng.u8(..) < 8)
        {
            let late = self.rng.u8(..) < 32;
            let _ = self.begin(late);
        }
        if self.open.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.open.len());
        let count = self.rng.usize(1..40);
        let _ = self.append(at, count);
        if self.open[at].lines == 0 && self.open[at].rest.is_empty() {
            self.seal(at);
        }
    }

    fn begin(&mut self, late: bool) -> io::Result<()> {
        self.next_name += 1;
        // Some sort before the segments that are there.
        let number = if late { self.next_name - 3 } else { self.next_name };
        let name = format!("{number}{}", if late { ".late" } else { "" });
        if self.by_name.contains_key(&name) {
            return Ok(());
        }
        let file = File::options().append(true).create_new(true).open(self.directory.join(&name))?;
        let form = if self.rng.bool() { Form::Zstd } else { Form::Plain };
        let lines = self.rng.usize(100..1_500);
        let segment = self.add(name);
        self.open.push(Output { segment, lines, file, form, rest: Vec::new() });
        Ok(())
    }

    fn add(&mut self, name: String) -> usize {
        self.by_name.insert(name.clone(), self.segments.len());
        self.segments.push(Segment { name, ..Segment::default() });
        self.segments.len() - 1
    }

    /// Writes records. Those that the disk does not take are written with the next ones.
    fn append(&mut self, at: usize, count: usize) -> io::Result<()> {
        self.open[at].write_rest()?;
        let (segment, count) = (self.open[at].segment, count.min(self.open[at].lines));
        let text = self.compose(segment, count);
        self.note(segment, count);
        let output = &mut self.open[at];
        output.lines -= count;
        output.rest = match output.form {
            Form::Plain => text.into_bytes(),
            Form::Zstd => zstd::encode_all(text.as_bytes(), 1)?,
        };
        // In two parts, so that readers meet half frames and half lines.
        let half = output.rest.split_off(output.rest.len() / 2);
        let first = output.write_rest();
        output.rest.extend(half);
        first?;
        output.write_rest()
    }

    /// The text of the next `count` records of a segment.
    fn compose(&self, segment: usize, count: usize) -> String {
        let Segment { name, ids, .. } = &self.segments[segment];
        let (first, line) = (self.places.len() as u64, ids.len() as u64 + 1);
        (0..count as u64).map(|n| self.records.text(first + n, name, line + n) + "\n").collect()
    }

    fn note(&mut self, segment: usize, count: usize) {
        for _ in 0..count {
            let ids = &mut self.segments[segment].ids;
            ids.push(self.places.len() as u64);
            self.places.push(Place { segment, line: ids.len() as u64 });
        }
    }

    fn seal(&mut self, at: usize) {
        let mut output = self.open.swap_remove(at);
        output.write_rest().unwrap();
        let segment = &mut self.segments[output.segment];
        segment.sealed = true;
        output.file.set_permissions(Permissions::from_mode(0o444)).unwrap();
        // Nobody waits for more, however little was left of it.
        output.file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }

    /// A segment that is sealed (or not, but has lines), was not disturbed yet, and preferably is new.
    pub(crate) fn victim(&mut self, rng: &mut Rng, sealed: bool) -> Option<usize> {
        let all = self.segments.iter().enumerate().rev();
        let fit = all.filter(|(_, s)| s.sealed == sealed && !s.disturbed && s.ids.len() > 20).map(|(n, _)| n);
        let fit: Vec<usize> = fit.take(6).collect();
        (!fit.is_empty()).then(|| fit[rng.usize(..fit.len())])
    }

    /// Deletes a segment.
    pub(crate) fn delete(&mut self, segment: usize) {
        let path = self.directory.join(&self.segments[segment].name);
        fs::remove_file(path).unwrap();
        (self.segments[segment].required, self.segments[segment].disturbed) = (Some(0), true);
    }

    /// Cuts an open segment off behind a line, and seals it. `false` if it is compressed.
    pub(crate) fn truncate(&mut self, segment: usize, rng: &mut Rng) -> bool {
        let plain = |o: &Output| o.segment == segment && o.form == Form::Plain && o.rest.is_empty();
        let Some(at) = self.open.iter().position(plain) else {
            return false;
        };
        let name = self.segments[segment].name.clone();
        let lines = rng.u64(0..self.segments[segment].ids.len() as u64);
        let ids = &self.segments[segment].ids[..lines as usize];
        let text = |(id, line): (&u64, u64)| self.records.text(*id, &name, line);
        let len: usize = ids.iter().zip(1..).map(|line| text(line).len() + 1).sum();
        self.open[at].file.set_len(len as u64).unwrap();
        (self.segments[segment].required, self.segments[segment].disturbed) = (Some(lines), true);
        self.seal(at);
        true
    }

    /// Puts another sealed file in the place of a segment.
    pub(crate) fn replace(&mut self, segment: usize, rng: &mut Rng) {
        let name = self.segments[segment].name.clone();
        (self.segments[segment].required, self.segments[segment].disturbed) = (Some(0), true);
        let new = self.add(name.clone());
        let count = rng.usize(10..800);
        let bytes = zstd::encode_all(self.compose(new, count).as_bytes(), 1).unwrap();
        self.note(new, count);
        (self.segments[new].sealed, self.segments[new].disturbed) = (true, true);
        self.segments[new].replaces = Some(segment);
        let temporary = self.directory.join(".new");
        fs::write(&temporary, bytes).unwrap();
        fs::set_permissions(&temporary, Permissions::from_mode(0o444)).unwrap();
        fs::rename(temporary, self.directory.join(name)).unwrap();
    }

    /// The name of a segment, whose records may come again from now on.
    pub(crate) fn disturb(&mut self, segment: usize) -> String {
        self.segments[segment].disturbed = true;
        self.segments[segment].name.clone()
    }
}

/// Writes in a thread of its own until it is ended.
pub(crate) struct Writer {
    shared: Arc<(Mutex<Log>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(directory: &Path, records: Records, seed: u64) -> Self {
        let shared = Arc::new((Mutex::new(Log::new(directory, records, seed)), Condvar::new()));
        shared.0.lock().unwrap().burst();
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || {
            let (log, changed) = &*theirs;
            let mut log = log.lock().unwrap();
            while log.state != State::Ended {
                log.burst();
                log = changed.wait_timeout(log, REST).unwrap().0;
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// What was written so far. Nothing is written while it is held.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.0.lock().unwrap()
    }

    /// Whether new segments may be begun.
    pub(crate) fn hold(&self, hold: bool) {
        self.log().state = if hold { State::Holding } else { State::Writing };
    }

    /// Seals what is open and ends.
    pub(crate) fn end(&mut self) {
        let mut log = self.log();
        log.state = State::Ended;
        while !log.open.is_empty() {
            log.seal(0);
        }
        drop(log);
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Ok(mut log) = self.shared.0.lock() {
            log.state = State::Ended;
        }
    }
}
