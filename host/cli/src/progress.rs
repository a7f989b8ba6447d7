//! The progress bar: on stderr, while catching up at a terminal.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tailweir_core::{Event, SegmentName};
use tailweir_pipeline::Counters;
use tailweir_segments::{Entry, Pattern, list};

/// Decompressed bytes per compressed byte of a mail log, until a segment has shown its own.
const USUAL_RATIO: f64 = 7.0;

/// Without news for so long, a reader has caught up.
const QUIET: Duration = Duration::from_secs(2);

const TICK: Duration = Duration::from_millis(200);

static SHOWN: OnceLock<Bar> = OnceLock::new();

struct Bar {
    bar: ProgressBar,
    /// What there was to read at the start.
    entries: Vec<Entry>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Where reading began.
    first: Option<SegmentName>,
    /// Compressed and decompressed bytes of segments read from start to end, to guess the others by.
    finished: (u64, u64),
}

/// Shows a bar until everything in `directory` that matches is read, if there is a terminal for it: stderr, and stdout
/// must not be one, since records would run through the bar. The slowest of the consumers counts.
pub(crate) fn start(directory: &Path, pattern: &Pattern, consumers: Vec<Arc<Counters>>) {
    if !io::stderr().is_terminal() || io::stdout().is_terminal() {
        return;
    }
    // A directory that cannot be read is the reader's to report.
    let Ok(entries) = list(directory, pattern) else { return };
    let style = "{bar:30} {binary_bytes} of about {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is valid");
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(5)).with_style(style);
    let shown = SHOWN.get_or_init(|| Bar { bar, entries, seen: Mutex::default() });
    // The process does not wait for this thread: it only draws.
    std::thread::spawn(move || shown.follow(&consumers));
}

/// Learns from an event how far reading is.
pub(crate) fn observe(event: &Event) {
    let Some(shown) = SHOWN.get() else { return };
    let mut seen = shown.seen.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::SegmentOpened { segment } if seen.first.as_ref().is_none_or(|first| segment < first) => {
            seen.first = Some(segment.clone());
        }
        Event::SegmentFinished { segment, bytes, .. } if seen.first.as_ref() != Some(segment) => {
            if let Some(entry) = shown.entries.iter().find(|entry| entry.name == *segment) {
                seen.finished.0 += entry.len;
                seen.finished.1 += bytes;
            }
        }
        _ => {}
    }
}

impl Bar {
    fn follow(&self, consumers: &[Arc<Counters>]) {
        let scanned = || consumers.iter().map(|c| c.snapshot().bytes).min().unwrap_or_default();
        let (mut last, mut changed) = (0, Instant::now());
        while changed.elapsed() < QUIET {
            let now = scanned();
            if now != last {
                (last, changed) = (now, Instant::now());
                self.bar.set_length(self.total().max(now));
                self.bar.set_position(now);
            }
            std::thread::sleep(TICK);
        }
        self.bar.finish_and_clear();
    }

    /// Decompressed bytes to read in all, about.
    fn total(&self) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ratio = match seen.finished {
            (0, _) => USUAL_RATIO,
            (compressed, bytes) => bytes as f64 / compressed as f64,
        };
        let to_read =
            self.entries.iter().filter(|entry| seen.first.as_ref().is_none_or(|first| entry.name >= *first));
        (to_read.map(|entry| entry.len).sum::<u64>() as f64 * ratio) as u64
    }
}

/// Removes the bar before the last words.
pub(crate) fn clear() {
    if let Some(shown) = SHOWN.get() {
        shown.bar.finish_and_clear();
    }
}

/// A writer whose output does not run into the bar.
pub(crate) struct AroundBar<W>(pub(crate) W);

impl<W: Write> Write for AroundBar<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match SHOWN.get() {
            Some(shown) if !shown.bar.is_finished() => shown.bar.suspend(|| self.0.write(text)),
            _ => self.0.write(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
