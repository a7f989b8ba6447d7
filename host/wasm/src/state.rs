//! What the host keeps for one instance.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tailweir_core::{Batch, Bucket, Metrics, Printable};
use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::call::Clock;
use crate::grants::Grants;
use crate::http::Gate;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::metrics::OwnMetrics;
use crate::tally::Tally;

/// The data of an instance's store.
pub(crate) struct State {
    /// The batch of the call that is going on.
    pub(crate) batch: Option<Arc<Batch>>,
    /// What a processor that keeps state has of it: while it is set up, and during a call.
    pub(crate) bucket: Option<Bucket>,
    pub(crate) memory: Memory,
    pub(crate) log: Log,
    pub(crate) metrics: OwnMetrics,
    /// Bytes of records that the guest was handed in the call that is going on.
    pub(crate) handed: u64,
    /// Who measures the calls, if anybody does.
    pub(crate) meter: Option<Arc<Meter>>,
    /// Of the call that is going on.
    pub(crate) clock: Arc<Clock>,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    gate: Gate,
}

impl State {
    pub(crate) fn new(tally: &Arc<Tally>, limits: &Limits, grants: &Arc<Grants>, clock: Arc<Clock>) -> Self {
        let log = Log::new(tally.clone(), limits);
        let mut wasi = WasiCtx::builder();
        wasi.allow_tcp(false).allow_udp(false);
        wasi.stdout(Lines::new(log.clone(), Level::Info)).stderr(Lines::new(log.clone(), Level::Error));
        let mut table = ResourceTable::new();
        table.set_max_capacity(usize::try_from(limits.handles).unwrap_or(usize::MAX));
        let (wait, grants, tally) = (limits.wait, grants.clone(), tally.clone());
        let gate = Gate { grants, wait, clock: clock.clone(), tally: tally.clone() };
        Self {
            batch: None,
            bucket: None,
            memory: Memory::new(limits),
            log,
            metrics: OwnMetrics::new(tally, limits.metrics()),
            handed: 0,
            meter: None,
            clock,
            table,
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            gate,
        }
    }

    /// From now on what the guest records, logs and asks for counts for a consumer.
    pub(crate) fn bind(&mut self, metrics: &Arc<Metrics>, tally: &Arc<Tally>) {
        self.metrics.bind(metrics, tally);
        self.log.bind(tally);
        self.gate.tally = tally.clone();
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.gate }
    }
}

/// Counts what all memories and tables of an instance hold together.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    high_water: u64,
    pub(crate) used: u64,
    table_limit: u64,
    table_used: u64,
    /// What the guest has asked for more of than it may have.
    pub(crate) refused: Option<Refused>,
}

/// What a guest can have too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory,
    Table,
}

impl Memory {
    fn new(limits: &Limits) -> Self {
        Self {
            limit: limits.memory_bytes,
            high_water: limits.high_water(),
            used: 0,
            table_limit: limits.table_elements,
            table_used: 0,
            refused: None,
        }
    }

    /// Whether so much is in use that the instance had better be replaced: a WebAssembly memory never shrinks.
    pub(crate) fn is_high(&self) -> bool {
        self.used > self.high_water
    }

    /// The most bytes that can be handed to the guest at once.
    pub(crate) fn room(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }
}

/// Adds what is grown by, unless that is more than the limit.
fn grow(used: &mut u64, limit: u64, current: usize, desired: usize) -> bool {
    let then = used.saturating_add((desired as u64).saturating_sub(current as u64));
    if then > limit {
        return false;
    }
    *used = then;
    true
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        let granted = grow(&mut self.used, self.limit, current, desired);
        self.refused = if granted { self.refused } else { Some(Refused::Memory) };
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        let granted = grow(&mut self.table_used, self.table_limit, current, desired);
        self.refused = if granted { self.refused } else { Some(Refused::Table) };
        Ok(granted)
    }
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// What the guest says, on its way to the host's log. Clones are the same log.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<LogState>>);

struct LogState {
    tally: Arc<Tally>,
    lines_per_call: u64,
    lines_per_second: u64,
    bytes_per_line: usize,
    /// What the call that is going on is about, if it is about a batch.
    batch: Option<Arc<Batch>>,
    lines: u64,
    last_error: Option<(Voice, String)>,
}

/// Who says something: what a language's runtime prints about its own end must not stand in for what the plug-in has said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Voice {
    /// Its stdout or stderr.
    Output,
    /// The interface `log`.
    Plugin,
}

impl Log {
    fn new(tally: Arc<Tally>, limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(LogState {
            tally,
            lines_per_call: limits.log_lines,
            lines_per_second: limits.log_lines_per_second,
            bytes_per_line: usize::try_from(limits.log_line_bytes).unwrap_or(usize::MAX),
            batch: None,
            lines: 0,
            last_error: None,
        })))
    }

    /// From now on its lines count for a consumer.
    fn bind(&self, tally: &Arc<Tally>) {
        self.with(|log| log.tally = tally.clone());
    }

    fn with<T>(&self, f: impl FnOnce(&mut LogState) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A call begins, about this batch if it is about one: it may log as much as any.
    pub(crate) fn begin_call(&self, batch: Option<&Arc<Batch>>) {
        self.with(|log| (log.batch, log.lines, log.last_error) = (batch.cloned(), 0, None));
    }

    /// A call has ended: returns the last error that it logged.
    pub(crate) fn end_call(&self) -> Option<String> {
        self.with(|log| {
            log.batch = None;
            log.last_error.take().map(|(_, message)| message)
        })
    }

    /// Through the interface.
    pub(crate) fn write(&self, level: Level, message: &str) {
        self.say(Voice::Plugin, level, message);
    }

    fn say(&self, voice: Voice, level: Level, message: &str) {
        self.with(|log| {
            let message = one_line(truncate(message, log.bytes_per_line));
            // An error is remembered even when it is one line too many: it may be what the guest dies of.
            if level == Level::Error && log.last_error.as_ref().is_none_or(|(before, _)| *before <= voice) {
                log.last_error = Some((voice, message.clone()));
            }
            if level.is_logged() && log.admits() {
                level.log(log.tally.name(), log.batch.as_deref(), &message);
            }
        });
    }
}

impl LogState {
    /// Whether one more line may be logged.
    fn admits(&mut self) -> bool {
        if self.lines == self.lines_per_call {
            self.tally.leave_line_out();
            return false;
        }
        self.lines += 1;
        self.tally.admit_line(self.lines_per_second)
    }
}

impl Level {
    /// Whether lines of this level reach the log; the others cost nothing, and no limit counts them.
    fn is_logged(self) -> bool {
        match self {
            Self::Trace => tracing::enabled!(target: "plugin", tracing::Level::TRACE),
            Self::Debug => tracing::enabled!(target: "plugin", tracing::Level::DEBUG),
            Self::Info => tracing::enabled!(target: "plugin", tracing::Level::INFO),
            Self::Warn => tracing::enabled!(target: "plugin", tracing::Level::WARN),
            Self::Error => tracing::enabled!(target: "plugin", tracing::Level::ERROR),
        }
    }

    fn log(self, plugin: &str, batch: Option<&Batch>, message: &str) {
        let consumer = batch.map(Batch::consumer);
        let batch = batch.map(|batch| tracing::field::display(batch.id()));
        match self {
            Self::Trace => tracing::trace!(target: "plugin", plugin, consumer, batch, "{message}"),
            Self::Debug => tracing::debug!(target: "plugin", plugin, consumer, batch, "{message}"),
            Self::Info => tracing::info!(target: "plugin", plugin, consumer, batch, "{message}"),
            Self::Warn => tracing::warn!(target: "plugin", plugin, consumer, batch, "{message}"),
            Self::Error => tracing::error!(target: "plugin", plugin, consumer, batch, "{message}"),
        }
    }
}

/// Words of a guest's for the operator, who has not asked for a novel: on one line, so that they cannot pass for lines of the
/// host's, and clipped.
pub(crate) fn clip(text: &str, limits: &Limits) -> String {
    let kept = truncate(text, usize::try_from(limits.log_line_bytes).unwrap_or(usize::MAX));
    let mut line = one_line(kept);
    let more = text.len() - kept.len();
    if more > 0 {
        line += &format!("… ({more} more bytes)");
    }
    line
}

fn one_line(text: &str) -> String {
    text.replace(Printable::escapes, " ")
}

fn truncate(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// A guest's stdout or stderr, cut into lines for the log.
#[derive(Clone)]
struct Lines {
    log: Log,
    level: Level,
    partial: Arc<Mutex<Vec<u8>>>,
}

/// How much a guest may write at once, and how long a line without an end may get.
const LINE_BUFFER: usize = 64 << 10;

/// How the last line of a Rust program begins that dies: advice that nobody can follow, as a guest has no environment, and
/// that must not stand in for the line which says what it dies of.
const BACKTRACE_HINT: &str = "note: run with `RUST_BACKTRACE=";

impl Lines {
    fn new(log: Log, level: Level) -> Self {
        Self { log, level, partial: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || partial.len() >= LINE_BUFFER {
                let line = String::from_utf8_lossy(&partial);
                let line = line.trim_end();
                if !line.is_empty() && !line.starts_with(BACKTRACE_HINT) {
                    self.log.say(Voice::Output, self.level, line);
                }
                partial.clear();
            }
        }
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // WASI 0.2 asks for `p2_stream` only; whoever asks for this gets a stream that goes nowhere.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BUFFER)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: u64) -> Log {
        let limits = Limits { log_lines: lines, log_line_bytes: 4, ..Limits::default() };
        Log::new(crate::tally::Tallies::new(Arc::new(())).of("test", None), &limits)
    }

    #[test]
    fn the_last_error_is_remembered_past_the_limit_and_for_one_call() {
        let log = log(1);
        log.begin_call(None);
        log.write(Level::Info, "one");
        log.write(Level::Error, "äöü");
        assert_eq!(log.end_call().as_deref(), Some("äö"));
        log.begin_call(None);
        assert_eq!(log.end_call(), None);
    }

    #[test]
    fn what_a_runtime_prints_does_not_hide_what_the_plugin_said() {
        let log = log(10);
        let stderr = Lines::new(log.clone(), Level::Error);
        stderr.take(b"a\n");
        log.write(Level::Error, "b");
        stderr.take(b"c\n");
        assert_eq!(log.end_call().as_deref(), Some("b"));
        stderr.take(b"d\n");
        assert_eq!(log.end_call().as_deref(), Some("d"));
    }

    #[test]
    fn output_is_cut_into_lines() {
        let log = log(10);
        let lines = Lines::new(log.clone(), Level::Error);
        lines.take(b"a");
        assert_eq!(log.end_call(), None);
        lines.take(b"b\n\nc\n");
        assert_eq!(log.end_call().as_deref(), Some("c"));
        lines.take(b"d\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n");
        assert_eq!(log.end_call().as_deref(), Some("d"));
    }

    #[test]
    fn memories_and_tables_are_counted_together() {
        let limits = Limits { memory_bytes: 100, table_elements: 10, ..Limits::default() };
        let mut memory = Memory::new(&limits);
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(!memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(60, 90, None).unwrap());
        assert!(memory.refused == Some(Refused::Memory) && memory.is_high());
        assert!(memory.table_growing(0, 6, None).unwrap());
        assert!(!memory.table_growing(0, 5, None).unwrap());
        assert_eq!(memory.refused, Some(Refused::Table));
    }

    #[test]
    fn long_words_are_clipped() {
        let limits = Limits { log_line_bytes: 5, ..Limits::default() };
        assert_eq!(clip("s\ntxt", &Limits::default()), "s txt");
        assert_eq!(clip("äöüß", &limits), "äö… (4 more bytes)");
    }
}
