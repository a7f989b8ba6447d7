//! What the host keeps for one instance.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tailweir_core::Batch;
use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::http::Gate;
use crate::limits::{Grants, Limits};

/// The data of an instance's store.
pub(crate) struct State {
    /// The batch of the call that is going on.
    pub(crate) batch: Option<Arc<Batch>>,
    pub(crate) memory: Memory,
    pub(crate) log: Log,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    gate: Gate,
}

impl State {
    pub(crate) fn new(name: &Arc<str>, limits: &Limits, grants: &Arc<Grants>) -> Self {
        let log = Log::new(name.clone(), limits);
        let mut wasi = WasiCtx::builder();
        wasi.allow_tcp(false).allow_udp(false);
        wasi.stdout(Lines::new(log.clone(), Level::Info)).stderr(Lines::new(log.clone(), Level::Error));
        Self {
            batch: None,
            memory: Memory { limit: limits.memory_bytes, used: 0, refused: false },
            log,
            table: ResourceTable::new(),
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            gate: Gate { grants: grants.clone(), timeout: limits.wait },
        }
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

/// Counts the bytes of all memories of an instance together.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    pub(crate) used: u64,
    /// Whether the guest has asked for more than it may have.
    pub(crate) refused: bool,
}

impl Memory {
    /// Whether so much is in use that the instance had better be replaced: a WebAssembly memory never shrinks.
    pub(crate) fn is_high(&self) -> bool {
        self.used > self.limit / 4 * 3
    }
}

/// Tables hold functions, not data: no guest comes near this.
const TABLE_ELEMENTS: usize = 1_000_000;

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        let used = self.used + (desired as u64).saturating_sub(current as u64);
        if used > self.limit {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        Ok(desired <= TABLE_ELEMENTS)
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
    name: Arc<str>,
    lines_per_call: u32,
    bytes_per_line: usize,
    lines: u32,
    dropped: u64,
    last_error: Option<String>,
}

impl Log {
    fn new(name: Arc<str>, limits: &Limits) -> Self {
        let (lines_per_call, bytes_per_line) = (limits.log_lines, limits.log_line_bytes);
        let state = LogState { name, lines_per_call, bytes_per_line, lines: 0, dropped: 0, last_error: None };
        Self(Arc::new(Mutex::new(state)))
    }

    fn with<T>(&self, f: impl FnOnce(&mut LogState) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A call begins: it may log as much as any.
    pub(crate) fn begin_call(&self) {
        self.with(|log| (log.lines, log.dropped, log.last_error) = (0, 0, None));
    }

    /// A call has ended: says what was left out, and returns the last error that it logged.
    pub(crate) fn end_call(&self) -> Option<String> {
        self.with(|log| {
            if log.dropped > 0 {
                let (name, dropped, limit) = (&*log.name, log.dropped, log.lines_per_call);
                tracing::warn!(target: "plugin", plugin = name, "{dropped} more lines than the {limit} per call: left out");
            }
            log.last_error.take()
        })
    }

    pub(crate) fn write(&self, level: Level, message: &str) {
        self.with(|log| {
            let message = truncate(message, log.bytes_per_line);
            // An error is remembered even when it is one line too many: it may be what the guest dies of.
            if level == Level::Error {
                log.last_error = Some(message.to_owned());
            }
            if log.lines == log.lines_per_call {
                log.dropped += 1;
                return;
            }
            log.lines += 1;
            let plugin = &*log.name;
            match level {
                Level::Trace => tracing::trace!(target: "plugin", plugin, "{message}"),
                Level::Debug => tracing::debug!(target: "plugin", plugin, "{message}"),
                Level::Info => tracing::info!(target: "plugin", plugin, "{message}"),
                Level::Warn => tracing::warn!(target: "plugin", plugin, "{message}"),
                Level::Error => tracing::error!(target: "plugin", plugin, "{message}"),
            }
        });
    }
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
                    self.log.write(self.level, line);
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

    fn log(lines: u32) -> Log {
        let limits = Limits { log_lines: lines, log_line_bytes: 4, ..Limits::default() };
        Log::new("test".into(), &limits)
    }

    #[test]
    fn the_last_error_is_remembered_past_the_limit_and_for_one_call() {
        let log = log(1);
        log.begin_call();
        log.write(Level::Info, "one");
        log.write(Level::Error, "äöü");
        assert_eq!(log.end_call().as_deref(), Some("äö"));
        log.begin_call();
        assert_eq!(log.end_call(), None);
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
    fn memories_are_counted_together() {
        let mut memory = Memory { limit: 100, used: 0, refused: false };
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(!memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(60, 90, None).unwrap());
        assert!(memory.refused && memory.is_high());
    }
}
