//! Directories of plain segments, and consumers over them.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tailweir_core::{Batch, Event, EventSink, Filter, FilterError, Located, Verdict};
use tailweir_pipeline::{
    CheckpointName, CheckpointOptions, Consumer, ConsumerOptions, Delivery, SourceOptions, open,
};
use tailweir_segments::Mode;

/// Adds the records `{"n":FIRST}` … to a segment.
pub fn append(directory: &Path, segment: &str, numbers: std::ops::Range<u64>) {
    let text: String = numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect();
    append_text(directory, segment, &text);
}

pub fn append_text(directory: &Path, segment: &str, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(directory.join(segment)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Seals a segment as one that was written long ago.
pub fn seal(directory: &Path, segment: &str) {
    let file = File::open(directory.join(segment)).unwrap();
    file.set_permissions(Permissions::from_mode(0o444)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

/// A sealed segment.
pub fn sealed(directory: &Path, segment: &str, numbers: std::ops::Range<u64>) {
    append(directory, segment, numbers);
    seal(directory, segment);
}

pub fn once(directory: &Path) -> SourceOptions {
    let mut source = SourceOptions::new(directory);
    source.reader.mode = Mode::Once;
    source
}

/// As [`once`], where somebody listens.
pub fn heard(directory: &Path, events: Arc<dyn EventSink>) -> SourceOptions {
    let mut source = once(directory);
    source.reader.events = events;
    source
}

pub fn consumer(name: &str) -> ConsumerOptions {
    let mut options = ConsumerOptions::new(name);
    options.max_batch_size = 10;
    options.checkpoint = Some(CheckpointOptions::new(CheckpointName::new(name).unwrap()));
    options
}

pub fn open_one(directory: &Path, options: ConsumerOptions) -> Consumer {
    open(once(directory), vec![options]).unwrap().pop().unwrap()
}

/// The value of `n` of each record.
pub fn numbers(batch: &Batch) -> Vec<u64> {
    batch.iter().map(|record| record.field("n").unwrap().parse().unwrap()).collect()
}

/// Everything that is left, each batch committed.
pub async fn drain(consumer: &mut Consumer) -> Vec<u64> {
    let mut all = Vec::new();
    while let Some(mut delivery) = consumer.next().await.unwrap() {
        all.extend(numbers(delivery.batch()));
        delivery.commit().unwrap();
    }
    all
}

/// What must come to an end, however slow the machine is: a test that hangs names nothing. It may hang without ever letting
/// another task have its turn, so a thread looks after it, and ends all tests.
pub async fn ends<T>(what: impl Future<Output = T>) -> T {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if is_done.recv_timeout(Duration::from_secs(120)) == Err(RecvTimeoutError::Timeout) {
            // Past the harness, which would keep it to itself.
            let _ = writeln!(std::io::stderr(), "{test} does not end");
            std::process::abort();
        }
    });
    let outcome = what.await;
    drop(done);
    outcome
}

/// The next batch, which there must be.
pub async fn next(consumer: &mut Consumer) -> Delivery {
    consumer.next().await.unwrap().expect("a batch")
}

/// Keeps the numbers that a function likes.
pub struct Keep<F>(pub F);

impl<F: FnMut(u64) -> bool> Filter for Keep<F> {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        Ok(Verdict::Keep(numbers(candidates).into_iter().map(&mut self.0).collect()))
    }
}

/// Fails on one number, as a Lua filter does, which knows the record, or as a component does, which does not.
pub struct FailsOn(pub u64, pub Located);

impl Filter for FailsOn {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let Some(at) = numbers(candidates).iter().position(|n| *n == self.0) else {
            return Ok(Verdict::All);
        };
        let decided = match self.1 {
            Located::Record => vec![true; at],
            Located::Batch => Vec::new(),
        };
        Err(FilterError { decided, located: self.1, source: "poison".into() })
    }
}

/// Remembers events.
#[derive(Default)]
pub struct Events(pub Mutex<Vec<Event>>);

impl EventSink for Events {
    fn emit(&self, event: Event) {
        // A test that fails while it looks at them still drops its consumers, which must not end the process.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// The reasons and texts in a quarantine.
pub fn quarantined(directory: &Path, name: &str) -> Vec<(u64, String, String)> {
    let text = fs::read_to_string(directory.join(format!(".{name}.quarantine"))).unwrap_or_default();
    let entry = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        (value["line"].as_u64().unwrap(), text("reason"), text("text"))
    };
    text.lines().map(entry).collect()
}
