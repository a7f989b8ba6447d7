//! Log lines: where they go, how they look, and what the events of the other crates become.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustix::fs::OFlags;
use tailweir_core::{Event, EventSink, Fate, Printable};
use tracing::{debug, error, info, warn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::args::{DiagFormat, LogArgs, LogFormat, ScriptOptions};
use crate::exit::UsageError;
use crate::flood::{self, Kind, shortened};
use crate::secrets::Discreet;

const DEFAULT: &str = "warn";

/// Starts logging for a command other than a script.
pub(crate) fn start(args: &LogArgs) -> Result<()> {
    let format = if args.format == Some(LogFormat::Json) { DiagFormat::Json } else { DiagFormat::Compact };
    install(filter(args, &["TAILWEIR_LOG"])?, format, stderr())
}

/// Starts logging for a script, which kumod's options and `KUMOD_LOG` may say more about.
pub(crate) fn start_for_script(args: &LogArgs, how: &ScriptOptions) -> Result<()> {
    let format = match (how.diag_format, args.format) {
        (Some(format), _) => format,
        (None, Some(LogFormat::Json)) => DiagFormat::Json,
        (None, _) => DiagFormat::Compact,
    };
    let writer = match &how.diag_log_dir {
        Some(directory) => {
            Destination { writer: BoxMakeWriter::new(HourlyFiles::new(directory)?), terminal: false }
        }
        None => stderr(),
    };
    install(filter(args, &["KUMOD_LOG", "TAILWEIR_LOG"])?, format, writer)
}

/// `--log`, else the first of the environment variables that is set, else the default.
fn filter(args: &LogArgs, variables: &[&str]) -> Result<EnvFilter> {
    let from_environment = || {
        let set = |name: &&str| {
            std::env::var(*name).ok().filter(|v| !v.is_empty()).map(|v| (format!("${name}"), v))
        };
        variables.iter().find_map(set)
    };
    let (origin, text) = match &args.filter {
        Some(text) => ("--log".to_owned(), text.clone()),
        None => from_environment().unwrap_or_else(|| (String::new(), DEFAULT.to_owned())),
    };
    parse(&text).map_err(|e| {
        UsageError(format!(
            "{origin} is not a log filter: `{text}`: {e}; write a level such as `info`, or `target=level,…`"
        ))
        .into()
    })
}

/// Who writes a line for each request of a plug-in's that fails, without its name and limits. The plug-in is told why, and what
/// it makes of that is in the log.
const QUIET: &str = "wasmtime_wasi_http=off";

/// A filter, which has what is quiet by itself if `text` names it.
fn parse(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{text}"))
}

/// Changes what is logged from now on.
pub(crate) fn set_filter(text: &str) -> Result<(), String> {
    let filter = parse(text).map_err(|e| format!("`{text}` is not a log filter: {e}"))?;
    match FILTER.get() {
        Some(handle) => handle.reload(filter).map_err(|e| e.to_string()),
        None => Ok(()),
    }
}

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

fn install(filter: EnvFilter, format: DiagFormat, to: Destination) -> Result<()> {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(to.writer);
    let lines = lines.with_ansi(to.terminal && format != DiagFormat::Json);
    let lines = match format {
        DiagFormat::Full => lines.boxed(),
        DiagFormat::Compact => lines.compact().boxed(),
        DiagFormat::Pretty => lines.pretty().boxed(),
        DiagFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let installed = tracing_subscriber::registry().with(filter).with(lines).try_init();
    installed.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))?;
    FILTER.set(handle).map_err(|_| anyhow::anyhow!("logging was started twice"))
}

/// Where log lines go.
struct Destination {
    writer: BoxMakeWriter,
    terminal: bool,
}

/// Stderr, with the progress bar out of the way of each line, and no secret in it.
fn stderr() -> Destination {
    let writer = || Discreet(crate::progress::AroundBar(io::stderr()));
    Destination { writer: BoxMakeWriter::new(writer), terminal: io::stderr().is_terminal() }
}

/// Log files named `log.YYYY-MM-DD-HH` (UTC), as kumod's.
struct HourlyFiles {
    directory: PathBuf,
    current: Arc<Mutex<Option<(String, File)>>>,
}

impl HourlyFiles {
    fn new(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let files = Self { directory: directory.to_owned(), current: Arc::default() };
        // Opens the file, so that one that cannot be used is said now: later there is no log to say it in.
        let opened = files.make_writer().write(b"").map(drop);
        opened.with_context(|| format!("cannot write to {}", directory.display()))?;
        Ok(files)
    }
}

impl<'a> MakeWriter<'a> for HourlyFiles {
    type Writer = HourlyFile;

    fn make_writer(&'a self) -> HourlyFile {
        HourlyFile { directory: self.directory.clone(), current: self.current.clone() }
    }
}

/// How files are opened that may tell about mail: nobody but owner and group reads them, and a link of that name is not
/// followed.
fn own_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o640).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

struct HourlyFile {
    directory: PathBuf,
    current: Arc<Mutex<Option<(String, File)>>>,
}

impl Write for HourlyFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let name = format!("log.{}", now[..13].replace('T', "-"));
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = current.as_ref().is_none_or(|(open, _)| *open != name);
        if stale {
            let file = own_file().create(true).append(true).open(self.directory.join(&name))?;
            *current = Some((name, file));
        }
        let (_, file) = current.as_mut().expect("just opened");
        file.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What events are logged as, wherever they come from.
pub(crate) const TARGET: &str = "tailweir";

/// Writes events as log lines: what loses or sets aside data as warnings, the course of things as `info`, and what
/// happens per batch as `debug`.
pub(crate) struct LogEvents;

impl EventSink for LogEvents {
    fn emit(&self, event: Event) {
        crate::progress::observe(&event);
        crate::summary::observe(&event);
        match event {
            Event::ShadowCompared { .. } => log_shadow(&event),
            Event::SegmentOpened { segment } => info!(target: TARGET, %segment, "segment opened"),
            Event::SegmentFinished { segment, lines, bytes } => {
                info!(target: TARGET, %segment, lines, bytes, "segment finished")
            }
            // Each segment is named, and no segment has more lines than somebody could read.
            Event::SegmentDamaged { segment, line, reason }
                if flood::admits(Kind::Damaged, segment.as_str()) =>
            {
                warn!(target: TARGET, %segment, line, reason, "segment damaged; what could be read was delivered");
            }
            Event::SegmentDamaged { .. } => {}
            Event::ForeignFile { name, reason } => {
                // As `%segment` elsewhere; a field of text is put in quotes.
                warn!(target: TARGET, name = %Printable(&name), reason, "not a segment; passed over")
            }
            Event::SegmentUnreadable { segment, reason, tried_again: true } => {
                warn!(target: TARGET, %segment, reason, "cannot read a segment; it is tried again")
            }
            Event::SegmentUnreadable { segment, reason, .. } => {
                error!(target: TARGET, %segment, reason, "cannot read a segment; its records are not delivered");
                crate::end::is_incomplete(segment);
            }
            Event::SegmentGap { segment, reason } => warn!(target: TARGET, %segment, reason, "gap"),
            Event::SegmentLate { segment } => {
                warn!(target: TARGET, %segment, "a segment appeared that sorts before ones already read; reading it now");
            }
            Event::SkippedByRequest { first, segments } => {
                info!(target: TARGET, %first, segments, "starting at the newest segment; older ones skipped by request");
            }
            Event::Filtered { consumer, records, kept } => {
                debug!(target: TARGET, consumer, records, kept, "filtered")
            }
            Event::Committed { consumer, records, bytes } => {
                debug!(target: TARGET, consumer, records, bytes, "committed")
            }
            Event::Malformed { .. }
            | Event::Quarantined { .. }
            | Event::Rejected { .. }
            | Event::Retried { .. }
            | Event::Repaired { .. } => {
                log_incident(&event);
            }
            Event::Unbalanced { consumer, segment, sums, problem } => {
                error!(target: TARGET, consumer, %segment, "what became of the lines does not add up: {sums}; {problem}");
            }
            Event::Accounted { consumer, segment, sums, .. } => {
                debug!(target: TARGET, consumer, %segment, "what became of its lines: {sums}");
            }
            Event::Ended { consumer, sums, repaired, dropped, unbalanced, .. } => {
                debug!(target: TARGET, consumer, repaired, dropped, unbalanced, "ended: {sums}");
            }
            // The reason names the plug-in.
            Event::PluginFailed { consumer, reason, calls: 1, .. } => {
                warn!(target: TARGET, consumer, "{}", shortened(&reason));
            }
            Event::PluginFailed { consumer, reason, calls, .. } => {
                let reason = shortened(&reason);
                warn!(target: TARGET, consumer, calls, "{reason}; that many calls have failed since the last such line");
            }
            Event::PluginRequestDenied { plugin, consumer, origin, requests } => {
                let why = denied(origin.as_deref());
                warn!(target: TARGET, plugin, consumer, requests, "its HTTP request was not sent: {why}");
            }
            Event::PluginRecycled { plugin, consumer, bytes, instances } => {
                warn!(target: TARGET, plugin, consumer, bytes, instances, "replaced by a fresh instance: it has taken much memory (recycle_bytes)");
            }
            Event::PluginLogCut { plugin, consumer, lines } => {
                warn!(target: TARGET, plugin, consumer, lines, "log lines left out: more than it may log in a call or in a second");
            }
            Event::ShadowDiffers { consumer, role, position, live, shadow } => {
                warn!(target: TARGET, consumer, %position, live, shadow, "{role}: its shadow answers otherwise");
            }
            Event::PluginMetricLeftOut { plugin, consumer, reason } => {
                warn!(target: TARGET, plugin, consumer, "of its metrics something is not recorded: {reason}");
            }
            Event::PluginFigures { figures } => crate::figures::log(&figures),
            Event::Warning { message } => warn!(target: TARGET, "{message}"),
            other => warn!(target: TARGET, "{other:?}"),
        }
    }
}

/// Why a request was not sent, and what to do about it. It has no origin if none that can be granted.
fn denied(origin: Option<&str>) -> String {
    let Some(origin) = origin.map(shortened) else {
        return "its URL can be granted by nobody: it must begin with `http://` or `https://` and a host, and have no user"
            .to_owned();
    };
    format!(
        "{origin} is not granted; if it may go there, add `{origin}` to `http` in the plug-in's `grants`, or give \
         `--grant-http {origin}` to `tailweir plugin`"
    )
}

/// How a shadow does: a warning, if it does not do as well as the plug-in in use.
fn log_shadow(event: &Event) {
    let Some(line) = crate::summary::ShadowLine::of(event) else { return };
    if line.is_as_live() {
        info!(target: TARGET, "{line}");
    } else {
        warn!(target: TARGET, "{line}");
    }
}

/// Logs what may happen to every record, in as many lines as somebody could read.
fn log_incident(event: &Event) {
    match event {
        Event::Malformed { consumer, position, kind, fate } if flood::admits(Kind::Malformed, consumer) => {
            let fate = match fate {
                Fate::Quarantined => "; put in quarantine",
                Fate::PassedOver => "",
            };
            warn!(target: TARGET, consumer, %position, "not a record: {}{fate}", shortened(&kind.to_string()));
        }
        Event::Quarantined { consumer, position, reason } if flood::admits(Kind::Quarantined, consumer) => {
            warn!(target: TARGET, consumer, %position, reason = &*shortened(reason), "record put in quarantine");
        }
        Event::Rejected { consumer, position, reason } if flood::admits(Kind::Rejected, consumer) => {
            let reason = &*shortened(reason);
            warn!(target: TARGET, consumer, %position, reason, "record rejected; there is no quarantine without a checkpoint");
        }
        Event::Repaired { consumer, segment, records } if flood::admits(Kind::Repaired, consumer) => {
            warn!(target: TARGET, consumer, %segment, records, "records hold invalid UTF-8; plug-ins see U+FFFD in its place");
        }
        Event::Retried { consumer, batch, after_ms, reason } if flood::admits(Kind::Retried, consumer) => {
            let reason = &*shortened(reason);
            warn!(target: TARGET, consumer, batch, after_ms, reason, "batch will be delivered again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_go_to_a_file_of_the_hour() {
        let directory = tempfile::tempdir().unwrap();
        let files = HourlyFiles::new(directory.path()).unwrap();
        files.make_writer().write_all(b"one\n").unwrap();
        files.make_writer().write_all(b"two\n").unwrap();
        let mut text = String::new();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            assert!(name.starts_with("log.2") && name.len() == "log.2026-11-24-12".len(), "{name}");
            text += &std::fs::read_to_string(entry.path()).unwrap();
        }
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_bad_filter_is_a_usage_error_that_names_its_origin() {
        let args = LogArgs { filter: Some("tailweir=loud".to_owned()), format: None };
        let error = filter(&args, &[]).unwrap_err();
        assert!(error.is::<UsageError>());
        assert!(error.to_string().starts_with("--log is not a log filter: `tailweir=loud`"), "{error}");
    }
}
