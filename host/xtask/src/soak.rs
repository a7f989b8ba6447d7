//! The kill tests for longer, with a table of what came of them in docs/reliability.md.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use crate::{cargo, run_command};

/// How many kinds of faults the kill tests have.
const FAULTS: u64 = 13;
/// How many are tried at once: each keeps about one processor busy.
const AT_ONCE: u64 = 2;

const DOCUMENT: &str = "docs/reliability.md";
const BEGIN: &str = "<!-- soak: written by `cargo xtask soak` -->";
const END: &str = "<!-- soak: end -->";

#[derive(Args)]
pub(crate) struct SoakArgs {
    /// How long all of it takes, about
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// How many rounds each fault gets at most
    #[arg(long)]
    rounds: Option<u64>,
    /// The seed; it is shown in the table
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(root: &Path, arguments: &SoakArgs) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let (seed, begun) = (arguments.seed.unwrap_or(now.as_secs()), Instant::now());
    let report = std::env::temp_dir().join(format!("tailweir-soak-{}", std::process::id()));
    let each = arguments.minutes * 60 * AT_ONCE / FAULTS;
    let mut command = cargo();
    // All default members, so that nothing is compiled with other features than the tests were.
    command.current_dir(root).args(["test", "--quiet", "--release", "--test", "kill", "--", "--nocapture"]);
    command.arg(format!("--test-threads={AT_ONCE}"));
    command.env("TAILWEIR_SOAK_SECONDS", each.to_string()).env("TAILWEIR_SOAK_SEED", seed.to_string());
    command.env("TAILWEIR_SOAK_REPORT", &report);
    if let Some(rounds) = arguments.rounds {
        command.env("TAILWEIR_SOAK_ROUNDS", rounds.to_string());
    }
    let result = run_command(&mut command);
    let rows = fs::read_to_string(&report).unwrap_or_default();
    let _ = fs::remove_file(&report);
    result?;
    let section = section(&rows, seed, begun.elapsed().as_secs() / 60);
    let path = root.join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, with_section(&text, &section))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The table: a row for each fault, and their sum.
fn section(rows: &str, seed: u64, minutes: u64) -> String {
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_unstable();
    let mut sums: Vec<u64> = Vec::new();
    for row in &rows {
        let cells = row.trim_matches('|').split('|').skip(1);
        let cells: Vec<u64> = cells.map(|cell| cell.trim().parse().unwrap_or(0)).collect();
        sums.resize(cells.len(), 0);
        sums.iter_mut().zip(cells).for_each(|(sum, cell)| *sum += cell);
    }
    let sums: String = sums.iter().map(|sum| format!(" {sum} |")).collect();
    let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
    format!(
        "{BEGIN}\n\n{minutes} minutes, seed {seed}. In each round three programs with fourteen consumers in all run while somebody writes, \
         the fault comes about, and all of them are ended by the signal. Where plug-ins break it is one or two programs with others.\n\n\
         | fault | rounds | programs ended | records delivered | lost | gone with their file | came again, uncommitted | commits refused, done later |\n\
         |---|---|---|---|---|---|---|---|\n{rows}| all |{sums}\n\n{END}\n"
    )
}

/// The document with its old section replaced by this one; at the end if it had none.
fn with_section(document: &str, section: &str) -> String {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after.strip_prefix('\n').unwrap_or(after)))
    });
    match parts {
        Some((before, after)) => format!("{before}{section}{after}"),
        None if document.is_empty() => section.to_owned(),
        None => format!("{}\n\n{section}", document.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_its_sum_and_takes_the_place_of_the_old_one() {
        let table = section("| b | 2 | 3 |\n| a | 1 | 5 |\n", 7, 10);
        assert!(table.contains("| a | 1 | 5 |\n| b | 2 | 3 |\n| all | 3 | 8 |\n"), "{table}");
        let gap = section("| b | 2 | 3 |\n| a | **not tried**: why | |\n", 7, 10);
        assert!(gap.contains("| a | **not tried**: why | |\n| b | 2 | 3 |\n| all | 2 | 3 |\n"), "{gap}");
        let document = with_section("# Head\n\nText.\n", &table);
        assert_eq!(with_section(&document, &table), document);
        let around = with_section(&format!("{document}\nTail.\n"), &section("", 1, 1));
        assert!(
            around.starts_with("# Head\n\nText.\n\n<!--") && around.ends_with("-->\n\nTail.\n"),
            "{around}"
        );
    }
}
