//! A directory of segments, a reader over it, and what the reader says, in short.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tailweir_core::{DefectKind, Event, EventSink, Mark, SegmentName};
use tailweir_segments::{Begun, Cursor, Mode, Reader, ReaderOptions, Start, Step, Watch};
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Log(Mutex<Vec<Event>>);

impl EventSink for Log {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Log {
    /// What happened, in short, without the usual.
    pub fn take(&self) -> Vec<String> {
        let short = |event: Event| match event {
            Event::SegmentOpened { .. } | Event::SegmentFinished { .. } => None,
            Event::SegmentDamaged { segment, line, .. } => Some(format!("damaged {segment}:{line}")),
            Event::ForeignFile { name, .. } => Some(format!("foreign {name}")),
            Event::SegmentUnreadable { segment, tried_again: true, .. } => {
                Some(format!("unreadable now {segment}"))
            }
            Event::SegmentUnreadable { segment, .. } => Some(format!("unreadable {segment}")),
            Event::SegmentGap { segment, .. } => Some(format!("gap {segment}")),
            Event::SegmentLate { segment } => Some(format!("late {segment}")),
            Event::SkippedByRequest { first, segments } => Some(format!("skipped {segments} before {first}")),
            Event::Warning { message } => Some(format!("warning {message}")),
            other => Some(format!("{other:?}")),
        };
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().filter_map(short).collect()
    }
}

pub struct Rig {
    pub temp: TempDir,
    pub log: Arc<Log>,
    pub options: ReaderOptions,
    pub reader: Option<Reader>,
    /// The last place in each segment.
    pub marks: Vec<(SegmentName, Begun)>,
    pending: VecDeque<String>,
    /// Segments of which nothing could be read when they were found.
    pub waiting: Vec<String>,
}

impl Rig {
    pub fn new() -> Self {
        let temp = TempDir::new().unwrap();
        let directory = temp.path().join("logs");
        std::fs::create_dir(&directory).unwrap();
        let log = Arc::new(Log::default());
        let options = ReaderOptions {
            events: log.clone(),
            workers: 2,
            watch: Watch::Poll(Duration::from_millis(2)),
            ..ReaderOptions::new(directory)
        };
        let (reader, marks, pending, waiting) = (None, Vec::new(), VecDeque::new(), Vec::new());
        Self { temp, log, options, reader, marks, pending, waiting }
    }

    pub fn once() -> Self {
        let mut rig = Self::new();
        rig.options.mode = Mode::Once;
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.options.directory.join(name)
    }

    /// Makes or overwrites a file in place.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn append(&self, name: &str, bytes: &[u8]) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// Seals it as one that was written long ago.
    pub fn seal(&self, name: &str) {
        seal(&self.path(name));
        age(&self.path(name));
    }

    pub fn put_sealed(&self, name: &str, bytes: &[u8]) {
        self.put(name, bytes);
        self.seal(name);
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub fn open(&mut self) {
        self.open_at(Cursor::default());
    }

    pub fn open_at(&mut self, cursor: Cursor) {
        self.reader = Some(Reader::open(self.options.clone(), cursor).unwrap());
    }

    /// What comes next, in short; `None` when idle or at the end.
    pub fn next(&mut self) -> Option<String> {
        if let Some(text) = self.pending.pop_front() {
            return Some(text);
        }
        let text = match self.reader.as_mut().unwrap().next().unwrap() {
            Step::Idle | Step::End => return None,
            Step::Pending { segment } => {
                self.waiting.push(segment.to_string());
                return self.next();
            }
            Step::Block(block) => {
                let segment = block.segment();
                let mut lines: Vec<_> = (0..block.len())
                    .map(|i| (block.line(i), format!("{segment}:{}", block.line(i))))
                    .collect();
                lines.extend(
                    block
                        .defects()
                        .iter()
                        .map(|d| (d.line, format!("{segment}:{}!{}", d.line, short(&d.kind)))),
                );
                lines.sort();
                let begun = Begun { start: Start::Mark(block.to()), identity: Some(block.identity()) };
                self.marks.push((segment.clone(), begun));
                self.pending = lines.into_iter().map(|(_, text)| text).collect();
                return self.next();
            }
            Step::Finished { segment, .. } => format!("{segment}$"),
            Step::Replaced { segment } => format!("{segment}#"),
            Step::Vanished { segment } => format!("{segment}?"),
        };
        Some(text)
    }

    /// Everything up to where there is nothing at present.
    pub fn all(&mut self) -> String {
        let mut all = Vec::new();
        while let Some(text) = self.next() {
            all.push(text);
        }
        all.join(" ")
    }

    /// Reads, and waits if need be, until this is what came.
    #[track_caller]
    pub fn expect(&mut self, expected: &str) {
        let deadline = Instant::now() + DEADLINE;
        let mut all = Vec::new();
        while Instant::now() < deadline {
            match self.next() {
                Some(text) => all.push(text),
                None if all.join(" ") == expected => return,
                None => self.reader.as_ref().unwrap().wait(Duration::from_millis(50)),
            }
            if all.join(" ").len() > expected.len() {
                break;
            }
        }
        assert_eq!(all.join(" "), expected);
    }

    /// Waits until this has happened.
    #[track_caller]
    pub fn expect_events(&mut self, expected: &[&str]) {
        let deadline = Instant::now() + DEADLINE;
        let mut all = Vec::new();
        loop {
            all.extend(self.log.take());
            if all == expected || Instant::now() > deadline || all.len() > expected.len() {
                return assert_eq!(all, expected);
            }
            assert_eq!(self.next(), None);
            self.reader.as_ref().unwrap().wait(Duration::from_millis(50));
        }
    }

    /// A cursor at the last block of each segment.
    pub fn cursor(&self) -> Cursor {
        Cursor { begun: self.marks.iter().cloned().collect(), ..Cursor::default() }
    }
}

fn short(kind: &DefectKind) -> &'static str {
    match kind {
        DefectKind::Malformed(_) => "malformed",
        DefectKind::TooDeep => "deep",
        DefectKind::TooLong { .. } => "long",
        DefectKind::Null => "null",
        DefectKind::Truncated => "cut",
    }
}

pub fn seal(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

/// Has a file look as if it was not changed for an hour.
pub fn age(path: &Path) {
    File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

pub fn name(name: &str) -> SegmentName {
    SegmentName::new(name).unwrap()
}

pub fn names(names: &[&str]) -> std::collections::HashSet<SegmentName> {
    names.iter().map(|n| name(n)).collect()
}

/// Lines `{"n":from}` to `{"n":to}`.
pub fn lines(from: u64, to: u64) -> Vec<u8> {
    (from..=to).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect()
}

/// `a:from a:to`
pub fn came(name: &str, from: u64, to: u64) -> String {
    (from..=to).map(|n| format!("{name}:{n}")).collect::<Vec<_>>().join(" ")
}

pub fn zst(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 3).unwrap()
}

pub fn zst_checked(text: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

pub fn gz(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A segment as KumoMTA writes it: one frame, under way.
pub struct Kumo {
    encoder: Option<zstd::stream::write::Encoder<'static, File>>,
    path: PathBuf,
}

impl Kumo {
    pub fn create(path: PathBuf) -> Self {
        let file = OpenOptions::new().append(true).create_new(true).open(&path).unwrap();
        Self { encoder: Some(zstd::stream::write::Encoder::new(file, 3).unwrap()), path }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.encoder.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// What KumoMTA never does, but its encoder does when a block is full.
    pub fn flush(&mut self) {
        self.encoder.as_mut().unwrap().flush().unwrap();
    }

    pub fn finish(mut self) {
        self.encoder.take().unwrap().finish().unwrap();
        seal(&self.path);
    }

    /// kumod is killed, and seals what is there when it starts again, much later.
    pub fn kill(mut self) {
        std::mem::forget(self.encoder.take());
        seal(&self.path);
        age(&self.path);
    }
}

pub fn mark(begun: &Begun) -> Mark {
    match begun.start {
        Start::Mark(mark) => mark,
        Start::Line(_) => panic!("no mark"),
    }
}
