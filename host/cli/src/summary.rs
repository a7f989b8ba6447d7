//! `--summary`: what became of all lines, told on stderr in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::BinaryBytes;
use serde::Serialize;
use tailweir_core::{Event, PluginSnapshot, SegmentName, Sums};

use crate::args::SummaryFormat;
use crate::end;
use crate::figures::{AsJson, as_texts};
use crate::secrets::Discreet;

static ASKED: OnceLock<SummaryFormat> = OnceLock::new();
static SEEN: Mutex<Seen> = Mutex::new(Seen {
    consumers: Vec::new(),
    shadows: BTreeMap::new(),
    damages: BTreeSet::new(),
    gaps: BTreeSet::new(),
    plugins: BTreeMap::new(),
    printed: false,
});

struct Seen {
    consumers: Vec<Line>,
    /// How each has done so far, by its consumer, what it is a shadow of, and its file.
    shadows: BTreeMap<(String, String, String), ShadowLine>,
    /// Where segments were damaged or cut off.
    damages: BTreeSet<(SegmentName, u64)>,
    /// Segments that were gone, cut off or replaced, with what was found.
    gaps: BTreeSet<(SegmentName, String)>,
    /// What was told last, by consumer, plug-in and kind.
    plugins: BTreeMap<(String, String, &'static str), PluginSnapshot>,
    printed: bool,
}

/// A consumer as `--summary=json` tells it. The names are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    consumer: String,
    checkpoint: Option<String>,
    lines: u64,
    acknowledged: u64,
    in_flight: u64,
    filtered: u64,
    quarantined: u64,
    rejected: u64,
    blank: u64,
    repaired: u64,
    dropped: u64,
    unbalanced: u64,
}

/// A shadow as `--summary=json` tells it. The names are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShadowLine {
    consumer: String,
    role: String,
    file: String,
    compared: u64,
    differing: u64,
    failed: u64,
    skipped: u64,
    /// Of the records compared; `None` if there is none.
    live_ns_per_record: Option<u64>,
    shadow_ns_per_record: Option<u64>,
}

impl ShadowLine {
    /// What an event says of a shadow, if it does.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        let Event::ShadowCompared {
            consumer,
            role,
            file,
            compared,
            differing,
            failed,
            skipped,
            live,
            shadow,
        } = event
        else {
            return None;
        };
        let per_record = |time: &Duration| {
            Some(u64::try_from(time.as_nanos().checked_div(u128::from(*compared))?).unwrap_or(u64::MAX))
        };
        Some(Self {
            consumer: consumer.clone(),
            role: role.clone(),
            file: file.clone(),
            compared: *compared,
            differing: *differing,
            failed: *failed,
            skipped: *skipped,
            live_ns_per_record: per_record(live),
            shadow_ns_per_record: per_record(shadow),
        })
    }

    /// Whether it has answered as the plug-in in use did.
    pub(crate) fn is_as_live(&self) -> bool {
        self.differing == 0 && self.failed == 0
    }
}

impl fmt::Display for ShadowLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consumer, role, file, compared, differing, failed, skipped, .. } = self;
        let all = compared + failed + skipped;
        write!(f, "shadow of consumer `{consumer}`, {role}, {file}: compared {compared} of {all} records")?;
        write!(f, ", {differing} differ")?;
        if *failed > 0 {
            write!(f, ", {failed} failed")?;
        }
        if *skipped > 0 {
            write!(f, ", {skipped} left out")?;
        }
        if let (Some(live), Some(shadow)) = (self.live_ns_per_record, self.shadow_ns_per_record) {
            write!(f, "; {shadow} ns per record, the one in use {live}")?;
        }
        Ok(())
    }
}

/// A segment as `--summary=segments` tells it. The names are kept.
#[derive(Serialize)]
struct OfSegment<'a> {
    consumer: &'a str,
    checkpoint: Option<&'a str>,
    segment: &'a str,
    lines: u64,
    acknowledged: u64,
    in_flight: u64,
    filtered: u64,
    quarantined: u64,
    rejected: u64,
    blank: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    summary: &'a [Line],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shadows: Vec<&'a ShadowLine>,
    damages: usize,
    gaps: usize,
    unread: usize,
    plugins: Vec<AsJson>,
}

const HEAD: [&str; 11] = [
    "consumer",
    "checkpoint",
    "lines",
    "acknowledged",
    "in flight",
    "filtered",
    "quarantined",
    "rejected",
    "blank",
    "repaired",
    "unbalanced",
];

impl Line {
    fn new(consumer: &str, checkpoint: Option<&str>, sums: Sums) -> Self {
        let Sums { lines, acknowledged, in_flight, filtered, quarantined, rejected, blank } = sums;
        Self {
            consumer: consumer.to_owned(),
            checkpoint: checkpoint.map(str::to_owned),
            lines,
            acknowledged,
            in_flight,
            filtered,
            quarantined,
            rejected,
            blank,
            repaired: 0,
            dropped: 0,
            unbalanced: 0,
        }
    }

    /// Adds what became of the lines that the same consumer was given when it was opened another time.
    fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.acknowledged += other.acknowledged;
        self.in_flight += other.in_flight;
        self.filtered += other.filtered;
        self.quarantined += other.quarantined;
        self.rejected += other.rejected;
        self.blank += other.blank;
        self.repaired += other.repaired;
        self.dropped += other.dropped;
        self.unbalanced += other.unbalanced;
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.consumer, &self.checkpoint) == (&other.consumer, &other.checkpoint)
    }

    fn numbers(&self) -> [u64; 9] {
        [
            self.lines,
            self.acknowledged,
            self.in_flight,
            self.filtered,
            self.quarantined,
            self.rejected,
            self.blank,
            self.repaired,
            self.unbalanced,
        ]
    }
}

/// Has the summary printed in the end, if a format was asked for.
pub(crate) fn ask(format: Option<SummaryFormat>) {
    if let Some(format) = format {
        // Only one command runs.
        let _ = ASKED.set(format);
    }
}

/// Learns from an event what became of a consumer's lines.
pub(crate) fn observe(event: &Event) {
    let Some(format) = ASKED.get() else { return };
    if let (SummaryFormat::Segments, Event::Accounted { consumer, checkpoint, segment, sums }) =
        (format, event)
    {
        print_line(&of_segment(consumer, checkpoint.as_deref(), segment, *sums));
        return;
    }
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::Ended { consumer, checkpoint, sums, repaired, dropped, unbalanced } => {
            let (repaired, dropped, unbalanced) = (*repaired, *dropped, *unbalanced);
            let line = Line::new(consumer, checkpoint.as_deref(), *sums);
            let line = Line { repaired, dropped, unbalanced, ..line };
            match seen.consumers.iter_mut().find(|other| other.is_of(&line)) {
                Some(other) => other.add(&line),
                None => seen.consumers.push(line),
            }
        }
        Event::ShadowCompared { consumer, role, file, .. } => {
            let key = (consumer.clone(), role.clone(), file.clone());
            seen.shadows.extend(ShadowLine::of(event).map(|line| (key, line)));
        }
        Event::PluginFigures { figures } => {
            let key = (figures.consumer.clone(), figures.plugin.clone(), figures.kind.name());
            seen.plugins.insert(key, (**figures).clone());
        }
        Event::SegmentDamaged { segment, line, .. } => _ = seen.damages.insert((segment.clone(), *line)),
        Event::SegmentGap { segment, reason } => _ = seen.gaps.insert((segment.clone(), reason.clone())),
        _ => {}
    }
}

/// Prints what was asked for, when all consumers are gone or have been told of. The second time nothing: the program may be
/// ending on two threads.
pub(crate) fn print() {
    let Some(format) = ASKED.get() else { return };
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut seen.printed, true) {
        return;
    }
    seen.consumers.sort_by(|a, b| (&a.consumer, &a.checkpoint).cmp(&(&b.consumer, &b.checkpoint)));
    let text = match format {
        SummaryFormat::Text => {
            let shadows = seen.shadows.values().map(|shadow| format!("{shadow}\n"));
            table(&seen.consumers, seen.damages.len(), seen.gaps.len(), end::unread())
                + &shadows.collect::<String>()
                + &plugins(seen.plugins.values().collect())
        }
        SummaryFormat::Json | SummaryFormat::Segments => {
            let shadows = seen.shadows.values().collect();
            let plugins = seen.plugins.values().map(AsJson::from).collect();
            let (damages, gaps, unread) = (seen.damages.len(), seen.gaps.len(), end::unread());
            print_line(&Summary { summary: &seen.consumers, shadows, damages, gaps, unread, plugins });
            return;
        }
    };
    print_text(&text);
}

fn of_segment<'a>(
    consumer: &'a str,
    checkpoint: Option<&'a str>,
    segment: &'a SegmentName,
    sums: Sums,
) -> OfSegment<'a> {
    let Sums { lines, acknowledged, in_flight, filtered, quarantined, rejected, blank } = sums;
    OfSegment {
        consumer,
        checkpoint,
        segment: segment.as_str(),
        lines,
        acknowledged,
        in_flight,
        filtered,
        quarantined,
        rejected,
        blank,
    }
}

fn print_line(value: &impl Serialize) {
    print_text(&(serde_json::to_string(value).expect("texts and numbers always make JSON") + "\n"));
}

fn print_text(text: &str) {
    // There is nobody to tell if stderr is gone.
    let _ = Discreet(io::stderr()).write_all(text.as_bytes());
}

fn table(consumers: &[Line], damages: usize, gaps: usize, unread: usize) -> String {
    let row = |line: &Line| {
        let numbers = line.numbers().map(|n| n.to_string());
        let names = [line.consumer.clone(), line.checkpoint.clone().unwrap_or_else(|| "-".to_owned())];
        names.into_iter().chain(numbers).collect::<Vec<_>>()
    };
    let mut text = aligned(&HEAD, 2, consumers.iter().map(row));
    for Line { consumer, dropped, .. } in consumers.iter().filter(|line| line.dropped > 0) {
        text += &format!(
            "records and lines that consumer `{consumer}` dropped from its full quarantine: {dropped}\n"
        );
    }
    if damages > 0 {
        text += &format!("places where a segment was damaged, and records of it may be lost: {damages}\n");
    }
    if gaps > 0 {
        text += &format!(
            "times that a segment was gone, cut off or replaced, and records of it may be lost: {gaps}\n"
        );
    }
    if unread > 0 {
        text += &format!("segments that could not be read, of which no record is counted: {unread}\n");
    }
    text
}

const PLUGIN_HEAD: [&str; 13] = [
    "consumer",
    "plug-in",
    "kind",
    "calls",
    "records",
    "kept",
    "emitted",
    "rejected",
    "failed",
    "computed",
    "median",
    "99 %",
    "peak memory",
];

/// A table of plug-ins, and a line for each series that they have of their own.
fn plugins(plugins: Vec<&PluginSnapshot>) -> String {
    if plugins.is_empty() {
        return String::new();
    }
    let row = |told: &&PluginSnapshot| {
        let names = [told.consumer.clone(), told.plugin.clone(), told.kind.name().to_owned()];
        let numbers = [told.calls, told.records, told.kept, told.emitted, told.rejected, told.failed];
        let at_most = |part| match told.latency.quantile(part) {
            Some(seconds) if seconds.is_finite() => format!("{:?}", Duration::from_secs_f64(seconds)),
            Some(_) => "longer".to_owned(),
            None => "-".to_owned(),
        };
        let memory = match told.peak_memory {
            0 => "-".to_owned(),
            bytes => BinaryBytes(bytes).to_string(),
        };
        let last = [format!("{:.3} s", told.computed.as_secs_f64()), at_most(0.5), at_most(0.99), memory];
        let numbers = numbers.into_iter().map(|n| n.to_string());
        names.into_iter().chain(numbers).chain(last).collect::<Vec<_>>()
    };
    let mut text = aligned(&PLUGIN_HEAD, 3, plugins.iter().map(row));
    for told in plugins {
        for series in told.metrics.iter().flat_map(as_texts) {
            text += &format!("{} {}: {series}\n", told.consumer, told.plugin);
        }
        if told.metrics_left_out > 0 {
            let (consumer, plugin, times) = (&told.consumer, &told.plugin, told.metrics_left_out);
            text += &format!(
                "{consumer} {plugin}: not recorded of its metrics, beyond its limits or senseless: {times}\n"
            );
        }
    }
    text
}

/// Rows in columns, of which the first ones are names.
fn aligned<const N: usize>(
    head: &[&str; N],
    names: usize,
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cell = |(column, cell): (usize, &String)| match column < names {
            true => format!("{cell:<width$}", width = widths[column]),
            false => format!("{cell:>width$}", width = widths[column]),
        };
        text += row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use tailweir_core::{CallCost, Figures, MetricKind, MetricLimits, Outcome, PluginKind, Registration};

    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let sums = Sums { lines: 12_345, acknowledged: 12_000, filtered: 345, ..Sums::default() };
        let mut line = Line { repaired: 1, dropped: 2, ..Line::new("one", Some("c"), sums) };
        let other = Line::new("one", Some("c"), Sums { lines: 1, blank: 1, ..Sums::default() });
        line.add(&Line { dropped: 5, ..other });
        let text = table(&[line], 2, 0, 3);
        assert_eq!(
            text,
            "consumer  checkpoint  lines  acknowledged  in flight  filtered  quarantined  rejected  blank  repaired  unbalanced\n\
             one       c           12346         12000          0       345            0         0      1         1           0\n\
             records and lines that consumer `one` dropped from its full quarantine: 7\n\
             places where a segment was damaged, and records of it may be lost: 2\n\
             segments that could not be read, of which no record is counted: 3\n"
        );
    }

    #[test]
    fn plugins_have_a_table_with_their_own_metrics_below() {
        let figures = Figures::default();
        let of = figures.of("one", "counter", PluginKind::Processor, MetricLimits::default);
        let took = Duration::from_micros(40);
        of.called(CallCost { records: 100, took, computed: took, bytes: 9, memory: 1 << 20 });
        of.answered(&Ok(Outcome::Emit(vec![String::new()])));
        let labels = [("type".to_owned(), "a\"b".to_owned())];
        let wanted = Registration {
            kind: MetricKind::Counter,
            name: "n_total",
            help: "",
            labels: &labels,
            bounds: &[],
        };
        of.metrics().register(wanted).unwrap().add(7).unwrap();
        of.metrics().leave_out(2);
        let text = plugins(figures.snapshot().iter().collect());
        assert_eq!(
            text,
            "consumer  plug-in  kind       calls  records  kept  emitted  rejected  failed  computed  median  99 %  peak memory\n\
             one       counter  processor      1      100     0        1         0       0   0.000 s    50µs  50µs     1.00 MiB\n\
             one counter: n_total{type=\"a\\\"b\"} 7\n\
             one counter: not recorded of its metrics, beyond its limits or senseless: 2\n"
        );
        assert_eq!(plugins(vec![]), "");
    }
}
