//! `--summary`: what became of all lines, told on stderr in the end.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;
use tailweir_core::{Event, SegmentName, Sums};

use crate::args::SummaryFormat;

static ASKED: OnceLock<SummaryFormat> = OnceLock::new();
static SEEN: Mutex<Seen> = Mutex::new(Seen { consumers: Vec::new(), damages: BTreeSet::new() });

struct Seen {
    consumers: Vec<Line>,
    /// Where segments were damaged or cut off.
    damages: BTreeSet<(SegmentName, u64)>,
}

/// A consumer as `--summary=json` tells it. The names are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    consumer: String,
    lines: u64,
    acknowledged: u64,
    in_flight: u64,
    filtered: u64,
    quarantined: u64,
    rejected: u64,
    blank: u64,
    repaired: u64,
    unbalanced: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    summary: &'a [Line],
    damages: usize,
}

const HEAD: [&str; 10] = [
    "consumer",
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
    fn new(consumer: &str, sums: Sums, repaired: u64, unbalanced: u64) -> Self {
        let Sums { lines, acknowledged, in_flight, filtered, quarantined, rejected, blank } = sums;
        let consumer = consumer.to_owned();
        Self {
            consumer,
            lines,
            acknowledged,
            in_flight,
            filtered,
            quarantined,
            rejected,
            blank,
            repaired,
            unbalanced,
        }
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
    if ASKED.get().is_none() {
        return;
    }
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::Ended { consumer, sums, repaired, unbalanced } => {
            seen.consumers.push(Line::new(consumer, *sums, *repaired, *unbalanced));
        }
        Event::SegmentDamaged { segment, line, .. } => _ = seen.damages.insert((segment.clone(), *line)),
        _ => {}
    }
}

/// Prints what was asked for, when all consumers are gone.
pub(crate) fn print() {
    let Some(format) = ASKED.get() else { return };
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.consumers.sort_by(|a, b| a.consumer.cmp(&b.consumer));
    let text = match format {
        SummaryFormat::Text => table(&seen.consumers, seen.damages.len()),
        SummaryFormat::Json => {
            let summary = Summary { summary: &seen.consumers, damages: seen.damages.len() };
            serde_json::to_string(&summary).expect("texts and numbers always make JSON") + "\n"
        }
    };
    // There is nobody to tell if stderr is gone.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn table(consumers: &[Line], damages: usize) -> String {
    let row = |line: &Line| {
        let numbers = line.numbers().map(|n| n.to_string());
        std::iter::once(line.consumer.clone()).chain(numbers).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(HEAD.map(str::to_owned).to_vec()).chain(consumers.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cell = |(column, cell): (usize, &String)| match column {
            0 => format!("{cell:<width$}", width = widths[0]),
            _ => format!("{cell:>width$}", width = widths[column]),
        };
        text += row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    if damages > 0 {
        text += &format!("places where a segment was damaged, and records of it may be lost: {damages}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let sums = Sums { lines: 12_345, acknowledged: 12_000, filtered: 345, ..Sums::default() };
        let text = table(&[Line::new("one", sums, 1, 0)], 2);
        assert_eq!(
            text,
            "consumer  lines  acknowledged  in flight  filtered  quarantined  rejected  blank  repaired  unbalanced\n\
             one       12345         12000          0       345            0         0      0         1           0\n\
             places where a segment was damaged, and records of it may be lost: 2\n"
        );
    }
}
