//! The table and the plot.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::{Bench, Row, peers};
use crate::output_of;

/// What is between these is written anew.
const BEGIN: &str = "<!-- `cargo xtask bench` writes what follows -->";
const END: &str = "<!-- up to here -->";

pub(super) fn table(rows: &[Row]) -> String {
    let mut table = "| | case | measured | ÷ `zstd -dc` | target | reached | peak memory |\n".to_owned();
    table += "|---|---|---|---|---|---|---|\n";
    for row in rows {
        let Row { name, what, measured, .. } = row;
        let ratio = row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let target = row.target.as_deref().unwrap_or_default();
        let reached = row.reached.map_or("", |reached| if reached { "yes" } else { "**no**" });
        let peak = row.peak_mib.map(|peak| format!("{peak:.0} MiB")).unwrap_or_default();
        let _ = writeln!(table, "| {name} | {what} | {measured} | {ratio} | {target} | {reached} | {peak} |");
    }
    table
}

/// Writes the table and the plot into the documentation.
pub(super) fn write(bench: &Bench, table: &str, rows: &[Row]) -> Result<()> {
    let path = bench.root.join("docs/performance.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (before, rest) = text.split_once(BEGIN).context("docs/performance.md has no place for the table")?;
    let (_, after) = rest.split_once(END).context("docs/performance.md has no end of the table")?;
    let machine = machine(bench)?;
    let rounds = bench.rounds;
    let about = format!(
        "{} records in 8 sealed segments, level 3; medians of {rounds} rounds in one run.\n\n{machine}",
        bench.records
    );
    fs::write(&path, format!("{before}{BEGIN}\n\n{about}\n{table}\n{END}{after}"))?;
    fs::write(bench.root.join("docs/performance.svg"), plot(rows))?;
    eprintln!("wrote {} and its plot", path.display());
    Ok(())
}

/// The machine and what ran on it.
fn machine(bench: &Bench) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, m)| m);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 =
        memory.lines().next().and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let mut git = std::process::Command::new("git");
    let commit = output_of(git.current_dir(&bench.root).args(["rev-parse", "--short", "HEAD"]));
    let tailweir = format!("tailweir {}", commit.unwrap_or_else(|_| "of no commit".to_owned()).trim());
    let tools = ["rustc", "zstd", "jq"].into_iter().filter_map(|tool| peers::version(tool).ok());
    let versions: Vec<String> =
        std::iter::once(tailweir).chain(tools).chain(peers::module_versions(&bench.folder)).collect();
    Ok(format!(
        "Machine: {}, {cores} cores, {:.0} GiB of memory, Linux {}. Versions: {}.\n",
        model.unwrap_or("unknown processor"),
        kib as f64 / 1048576.0,
        kernel.trim(),
        versions.join("; ")
    ))
}

const WIDTH: f64 = 820.0;
const BAR: f64 = 22.0;
const LABELS: f64 = 390.0;

/// Bars of records per second.
fn plot(rows: &[Row]) -> String {
    let bars: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.records_per_second?))).collect();
    let most = bars.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let height = bars.len() as f64 * BAR + 34.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-weight=\"bold\">Records per second</text>\n"
    );
    for (n, (row, rate)) in bars.into_iter().enumerate() {
        let y = 28.0 + n as f64 * BAR;
        let length = rate / most * (WIDTH - LABELS - 90.0);
        let fill = if row.name.is_empty() { "#9aa5b1" } else { "#2f6fab" };
        let label = format!("{} {}", row.name, row.what.replace('`', "").replace('&', "&amp;"));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{:.0}\" width=\"{length:.0}\" height=\"{}\" fill=\"{fill}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            LABELS - 8.0,
            y + 14.0,
            label.trim(),
            y + 2.0,
            BAR - 6.0,
            LABELS + length + 6.0,
            y + 14.0,
            thousands(rate)
        );
    }
    svg + "</svg>\n"
}

fn thousands(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.2} million", rate / 1e6) } else { format!("{:.0} thousand", rate / 1e3) }
}
