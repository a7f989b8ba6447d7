//! Records to segments, as KumoMTA writes them, but in frames of bounded size that a reader can resume at, and flushed
//! so that a reader of a live segment sees records soon.

mod output;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use thiserror::Error;

use self::output::Output;

/// Where and how to write.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The directory. It is made if it is missing.
    pub directory: PathBuf,
    /// Bytes of text after which a segment is finished and a new one begun. Default: 128 MiB.
    pub max_file_size: u64,
    /// zstd's compression level, 1 to 21; 0 is zstd's default. Default: 3.
    pub compression_level: i32,
    /// How long a segment may stay open. Default: without limit.
    pub max_segment_duration: Option<Duration>,
    /// What is added to the names of segments. Default: nothing.
    pub suffix: Option<String>,
    /// IANA name of the time zone that names of segments are in. Default: UTC.
    pub tz: Option<String>,
    /// Bytes of text after which a new zstd frame is begun. Default: 1 MiB.
    pub frame_bytes: u64,
    /// How long a record may wait before readers can see it; `None` leaves it to zstd. Default: 1 s.
    pub flush_interval: Option<Duration>,
}

impl WriterOptions {
    /// The defaults, for `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            max_file_size: 128 << 20,
            compression_level: 3,
            max_segment_duration: None,
            suffix: None,
            tz: None,
            frame_bytes: 1 << 20,
            flush_interval: Some(Duration::from_secs(1)),
        }
    }
}

/// Why something was not written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// An option has a value that it cannot have.
    #[error("`{option}`: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The record holds a line break, so it would not be one line.
    #[error("the record holds a line break at byte {at}; a record is one line")]
    LineBreak {
        /// Where.
        at: usize,
    },
    /// The segment could not be written.
    #[error("cannot write segment {}", path.display())]
    Io {
        /// The segment, or the directory if none is open.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The writer was closed.
    #[error("the writer is closed")]
    Closed,
}

/// Writes records to segments. Dropping it finishes the segment, without a word about errors; [`close`](Self::close)
/// tells them.
///
/// A segment is begun with the first record for it, and made read-only when it is finished.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    options: WriterOptions,
    tz: Tz,
    state: Mutex<State>,
    /// There is a deadline where there was none, or the writer was closed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    output: Option<Output>,
    /// When what was written has to be visible.
    flush_at: Option<Instant>,
    /// When the segment has to be finished.
    finish_at: Option<Instant>,
    closed: bool,
}

impl Writer {
    /// A writer that has not begun a segment yet.
    ///
    /// # Errors
    /// If an option has a value that it cannot have, or the directory cannot be made.
    pub fn new(options: WriterOptions) -> Result<Self, WriteError> {
        let tz = check(&options)?;
        let io = |source| WriteError::Io { path: options.directory.clone(), source };
        std::fs::create_dir_all(&options.directory).map_err(io)?;
        let timed = options.flush_interval.is_some() || options.max_segment_duration.is_some();
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { options, tz, state, changed });
        let mut writer = Self { shared: shared.clone(), thread: None };
        if timed {
            let io = |source| WriteError::Io { path: shared.options.directory.clone(), source };
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("tailweir-write".to_owned());
            writer.thread = Some(thread.spawn(move || shared.keep_deadlines()).map_err(io)?);
        }
        Ok(writer)
    }

    /// Writes one record, given without its line break.
    ///
    /// # Errors
    /// If the record holds a line break, or an earlier one could not be written to disk. Then this one was not taken, and
    /// may be given again.
    pub fn write_line(&self, record: &[u8]) -> Result<(), WriteError> {
        if let Some(at) = memchr::memchr(b'\n', record) {
            return Err(WriteError::LineBreak { at });
        }
        let mut state = self.shared.lock();
        if state.closed {
            return Err(WriteError::Closed);
        }
        self.shared.write(&mut state, record)
    }

    /// Makes visible to readers what was written.
    ///
    /// # Errors
    /// If the file cannot be written to. What was taken is kept, and tried again.
    pub fn flush(&self) -> Result<(), WriteError> {
        self.shared.flush(&mut self.shared.lock())
    }

    /// Finishes the segment.
    ///
    /// # Errors
    /// If the file cannot be written to or made read-only.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), WriteError> {
        let mut state = self.shared.lock();
        state.closed = true;
        let result = self.shared.finish(&mut state);
        // What could not be written is given up: a later attempt would find the same.
        state.output = None;
        drop(state);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // `close` tells errors; here nobody listens.
        let _ = self.stop();
    }
}

fn check(options: &WriterOptions) -> Result<Tz, WriteError> {
    let error = |option, reason: String| WriteError::Option { option, reason };
    if let Some(suffix) = &options.suffix
        && suffix.contains(['/', '\0'])
    {
        return Err(error("suffix", format!("`{suffix}` is no part of a file name")));
    }
    if !(0..=22).contains(&options.compression_level) {
        let level = options.compression_level;
        return Err(error("compression_level", format!("{level} is not between 0 and 22")));
    }
    if options.max_file_size == 0 {
        return Err(error("max_file_size", "it must not be zero".to_owned()));
    }
    match &options.tz {
        None => Ok(Tz::UTC),
        Some(name) => name.parse().map_err(|_| {
            error("tz", format!("`{name}` is not the name of a time zone, such as Europe/Berlin"))
        }),
    }
}

/// The name of a segment that is begun at `time`.
fn name_at(time: DateTime<Utc>, tz: Tz, suffix: Option<&str>) -> String {
    let time = time.with_timezone(&tz);
    format!("{}{}", time.format("%Y%m%d-%H%M%S%.f"), suffix.unwrap_or_default())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, record: &[u8]) -> Result<(), WriteError> {
        let now = Instant::now();
        let full = state.output.as_ref().is_some_and(|output| output.bytes() >= self.options.max_file_size);
        if full || state.finish_at.is_some_and(|at| at <= now) {
            self.finish(state)?;
        }
        if state.output.is_none() {
            state.output = Some(self.begin()?);
            state.finish_at = self.options.max_segment_duration.and_then(|limit| now.checked_add(limit));
            self.changed.notify_all();
        }
        let Some(output) = &mut state.output else {
            return Err(WriteError::Closed);
        };
        output.write_line(record, self.options.frame_bytes)?;
        if state.flush_at.is_none()
            && let Some(interval) = self.options.flush_interval
        {
            state.flush_at = now.checked_add(interval);
            self.changed.notify_all();
        }
        if output.bytes() >= self.options.max_file_size
            && let Err(e) = self.finish(state)
        {
            // The record is taken, so this is no error of its own: it is tried again before the next one.
            tracing::warn!("{e}; it is tried again");
        }
        Ok(())
    }

    /// Begins a segment under a name that is not taken.
    fn begin(&self) -> Result<Output, WriteError> {
        let Self { options, tz, .. } = self;
        let mut time = Utc::now();
        loop {
            let path = options.directory.join(name_at(time, *tz, options.suffix.as_deref()));
            match Output::create(path.clone(), options.compression_level) {
                Ok(output) => return Ok(output),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    time += chrono::TimeDelta::nanoseconds(1)
                }
                Err(source) => return Err(WriteError::Io { path, source }),
            }
        }
    }

    fn flush(&self, state: &mut State) -> Result<(), WriteError> {
        if let Some(output) = &mut state.output {
            output.flush()?;
        }
        state.flush_at = None;
        Ok(())
    }

    fn finish(&self, state: &mut State) -> Result<(), WriteError> {
        if let Some(output) = &mut state.output {
            output.finish()?;
        }
        (state.output, state.flush_at, state.finish_at) = (None, None, None);
        Ok(())
    }

    /// Flushes and finishes on time what nobody writes to.
    fn keep_deadlines(&self) {
        const RETRY: Duration = Duration::from_secs(1);
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if due(state.finish_at) {
                if let Err(e) = self.finish(&mut state) {
                    tracing::warn!("{e}; it is tried again");
                    state.finish_at = Some(now + RETRY);
                }
            } else if due(state.flush_at)
                && let Err(e) = self.flush(&mut state)
            {
                tracing::warn!("{e}; it is tried again");
                state.flush_at = Some(now + RETRY);
            }
            let next = [state.flush_at, state.finish_at].into_iter().flatten().min();
            state = match next {
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_name(time: &str, tz: &str, suffix: Option<&str>, expected: &str) {
        let time = DateTime::parse_from_rfc3339(time).unwrap().to_utc();
        assert_eq!(name_at(time, tz.parse().unwrap(), suffix), expected);
    }

    #[test]
    fn names_are_kumomtas() {
        check_name("2025-09-12T11:08:01.440526026Z", "UTC", None, "20250912-110801.440526026");
        check_name("2025-09-12T11:08:01.440526Z", "UTC", Some("_bounce"), "20250912-110801.440526_bounce");
        check_name("2025-09-12T11:08:01.440Z", "UTC", None, "20250912-110801.440");
        check_name("2025-09-12T11:08:01Z", "UTC", None, "20250912-110801");
        check_name("2025-09-12T11:08:01Z", "Europe/Berlin", None, "20250912-130801");
    }

    #[test]
    fn bad_options_are_refused() {
        let check = |change: fn(&mut WriterOptions), expected: &str| {
            let mut options = WriterOptions::new("/nowhere");
            change(&mut options);
            let error = Writer::new(options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|o| o.suffix = Some("/../x".to_owned()), "suffix");
        check(|o| o.tz = Some("Mars/Olympus".to_owned()), "Mars/Olympus");
        check(|o| o.compression_level = 99, "compression_level");
        check(|o| o.max_file_size = 0, "max_file_size");
    }
}
