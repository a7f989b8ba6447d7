//! `tailweir status`.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use tailweir_core::Printable;
use tailweir_pipeline::{CheckpointStatus, Listed, StateSize, WrittenBy, status};

use crate::args::StatusArgs;
use crate::exit::say;

/// A checkpoint as `--json` prints it. The names are kept.
#[derive(Serialize)]
struct Line<'a> {
    checkpoint: &'a str,
    segment: &'a str,
    line: u64,
    behind_bytes: u64,
    behind_segments: u64,
    quarantined: u64,
    /// Lines of the quarantine that are no entries.
    #[serde(skip_serializing_if = "is_zero")]
    quarantine_unreadable: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<StateSize>,
    /// Seconds since it was written.
    age_seconds: u64,
    held_by: Option<u32>,
    written_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unbalanced: Option<&'a str>,
}

/// A checkpoint that no consumer could start from, as `--json` prints it.
#[derive(Serialize)]
struct Problem<'a> {
    checkpoint: &'a str,
    problem: String,
}

/// Prints where the checkpoints of a directory are, and fails if one can't be used.
pub(crate) fn run(args: &StatusArgs) -> Result<()> {
    let found = status(&args.directory)?;
    let (mut lines, mut problems) = (Vec::new(), Vec::new());
    for listed in &found {
        match listed {
            Listed::Checkpoint(status) => lines.push(line(status)),
            Listed::Unusable { name, problem } => {
                problems.push(Problem { checkpoint: name, problem: problem.to_string() });
            }
        }
    }
    let text = match (args.json, lines.is_empty()) {
        (true, _) => json(&lines, &problems).context("cannot print")? + "\n",
        (false, true) if problems.is_empty() => format!("no checkpoint in {}\n", args.directory.display()),
        (false, true) => String::new(),
        (false, false) => table(&lines),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to stdout")?,
    }
    for listed in &found {
        if let Listed::Checkpoint(CheckpointStatus { name, unreadable, .. }) = listed
            && unreadable.lines > 0
        {
            say(&format!("checkpoint `{name}`: {unreadable}"));
        }
    }
    // Each names its file.
    let mut problems: Vec<_> = problems.into_iter().map(|p| p.problem).collect();
    let unbalanced = |line: &Line<'_>| Some(unbalanced(&args.directory, line.checkpoint, line.unbalanced?));
    problems.extend(lines.iter().filter_map(unbalanced));
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

fn unbalanced(directory: &Path, checkpoint: &str, noted: &str) -> String {
    let file = directory.join(format!(".{checkpoint}.unbalanced"));
    format!(
        "what became of the lines of the checkpoint `{checkpoint}` did not add up, which is a fault of this program:\n\
         {noted}\nplease report it; `rm '{}'` once you have looked into it",
        file.display()
    )
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn json(lines: &[Line<'_>], problems: &[Problem<'_>]) -> serde_json::Result<String> {
    let lines = lines.iter().map(serde_json::to_value);
    let problems = problems.iter().map(serde_json::to_value);
    serde_json::to_string_pretty(&lines.chain(problems).collect::<Result<Vec<_>, _>>()?)
}

fn line(status: &CheckpointStatus) -> Line<'_> {
    let age = SystemTime::now().duration_since(status.modified).unwrap_or_default();
    Line {
        checkpoint: &status.name,
        segment: &status.segment,
        line: status.line,
        behind_bytes: status.behind_bytes,
        behind_segments: status.behind_segments,
        quarantined: status.quarantined,
        quarantine_unreadable: status.unreadable.lines,
        state: status.state,
        age_seconds: age.as_secs(),
        held_by: status.held_by,
        written_by: match status.written_by {
            WrittenBy::Tailweir => "tailweir",
            WrittenBy::Kumod => "kumod",
        },
        unbalanced: status.unbalanced.as_deref(),
    }
}

fn table(lines: &[Line<'_>]) -> String {
    // Most have no state.
    let with_state = lines.iter().any(|line| line.state.is_some());
    let head = ["checkpoint", "segment", "line", "behind", "quarantined", "state", "age", "held by"];
    let row = |line: &Line<'_>| {
        [
            line.checkpoint.to_owned(),
            Printable(line.segment).to_string(),
            line.line.to_string(),
            behind(line),
            HumanCount(line.quarantined).to_string(),
            line.state.map_or_else(|| "-".to_owned(), state),
            humantime::format_duration(Duration::from_secs(line.age_seconds)).to_string(),
            match (line.held_by, line.written_by) {
                (Some(pid), _) => format!("pid {pid}"),
                (None, "kumod") => "- (written by kumod)".to_owned(),
                (None, _) => "-".to_owned(),
            },
        ]
    };
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(lines.iter().map(row)).collect();
    let columns: Vec<usize> = (0..head.len()).filter(|i| with_state || head[*i] != "state").collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = columns.iter().map(|i| format!("{:<1$}", row[*i], widths[*i])).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Without the journal: how long that is says little about what is in it.
fn state(StateSize { keys, bytes, .. }: StateSize) -> String {
    let keys = if keys == 1 { "1 key".to_owned() } else { format!("{} keys", HumanCount(keys)) };
    format!("{keys}, {}", BinaryBytes(bytes))
}

fn behind(line: &Line<'_>) -> String {
    match (line.behind_bytes, line.behind_segments) {
        (0, _) => "nothing".to_owned(),
        (bytes, 1) => format!("{} in 1 segment", BinaryBytes(bytes)),
        (bytes, segments) => format!("{} in {segments} segments", BinaryBytes(bytes)),
    }
}
