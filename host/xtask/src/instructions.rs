//! Instructions per record, counted by callgrind: unlike time, they repeat on a busy machine.
//!
//! Each row is run over two amounts of records, and what the difference took is divided by the difference: so starting,
//! which compiles the plug-in, does not count. It is run on one core, where as few threads as can be work for it: then a
//! figure repeats within 0.1 %, and that of an idle machine is that of a loaded one.
//!
//! Callgrind has no AVX-512, so it is the AVX2 code that is counted. Instructions are not time: memory that is waited for,
//! and threads that wait for each other, do not show.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::measure;

/// Where the figures are kept, one `name = number` a line.
const STORED: &str = "host/xtask/instructions.toml";

/// By how much a figure may differ from the stored one.
const TOLERANCE: f64 = 0.03;

/// How many records are run over, the first time and the second.
const RECORDS: [u64; 2] = [10_000, 40_000];

/// What is run.
#[derive(Debug, Clone, Copy)]
enum Row {
    /// `tailweir tail` with a component as filter.
    P2,
    /// `tailweir script` with a Lua function as filter, and two fields read of what it keeps.
    P4,
}

/// Counts, and compares with what is stored, or stores it.
///
/// # Errors
/// If more than [`TOLERANCE`] was added to a figure, unless it is to be stored.
pub(crate) fn run(root: &Path, update: bool) -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        bail!("counting instructions needs valgrind: apt-get install valgrind");
    }
    let built = measure::build(root)?;
    // With data made anew, in case the generator makes other records than it did.
    let folder = root.join("target/instructions");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut counted = Vec::new();
    for row in [Row::P2, Row::P4] {
        let command = |records| command(root, &folder, &built, row, records);
        let [few, many] = [count(&command(RECORDS[0])?)?, count(&command(RECORDS[1])?)?];
        let per_record = (many as f64 - few as f64) / (RECORDS[1] - RECORDS[0]) as f64;
        counted.push((format!("{row:?}"), per_record));
    }
    let path = root.join(STORED);
    if update {
        let mut text =
            "# Instructions per record; `cargo xtask instructions --update` writes this.\n".to_owned();
        for (name, count) in &counted {
            eprintln!("{name}: {count:.0} instructions per record");
            text.push_str(&format!("{name} = {count:.0}\n"));
        }
        return fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    compare(&counted, &text)
}

fn compare(counted: &[(String, f64)], text: &str) -> Result<()> {
    let mut grown = Vec::new();
    for (name, count) in counted {
        let stored = stored(text, name).with_context(|| format!("{STORED} has no figure for {name}"))?;
        let change = count / stored - 1.0;
        let percent = change * 100.0;
        eprintln!("{name}: {count:.0} instructions per record, {percent:+.1} % to the stored {stored:.0}");
        if change > TOLERANCE {
            grown.push(name.as_str());
        } else if change < -TOLERANCE {
            eprintln!("{name} has shrunk: `cargo xtask instructions --update` stores that, so that it stays");
        }
    }
    if grown.is_empty() {
        return Ok(());
    }
    bail!(
        "{} has grown by more than 3 %; if that is worth it, `cargo xtask instructions --update` stores it",
        grown.join(" and ")
    )
}

fn stored(text: &str, name: &str) -> Option<f64> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.filter(|(key, _)| key.trim() == name).find_map(|(_, value)| value.trim().parse().ok())
}

/// What is run over so many records.
fn command(root: &Path, folder: &Path, built: &Path, row: Row, records: u64) -> Result<Command> {
    let directory = measure::data(folder, built, records, 2)?;
    measure::remove_checkpoints(&directory)?;
    let program = built.join("tailweir");
    Ok(match row {
        Row::P2 => {
            measure::tail(&program, &directory, &root.join("examples/plugins/pool-filter/pool-filter.wasm"))
        }
        Row::P4 => {
            let script = folder.join("p4.lua");
            fs::write(&script, measure::script(&directory))?;
            let mut command = Command::new(program);
            command.arg("script").arg(script);
            command
        }
    })
}

/// How many instructions all of a command takes, on one core.
pub(crate) fn count(command: &Command) -> Result<u64> {
    let mut callgrind = Command::new("taskset");
    callgrind.args(["--cpu-list", &a_core()?]);
    callgrind.args(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    callgrind.arg(command.get_program()).args(command.get_args());
    // Both runs compile the plug-in: else the second would have the first's, and compiling would count.
    callgrind.env("TAILWEIR_PLUGIN_CACHE", "off");
    let output = callgrind.stdout(Stdio::null()).output().context("cannot run `taskset`")?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("under valgrind, {command:?} failed:\n{log}");
    }
    let total = log.split("Collected :").nth(1).and_then(|rest| rest.split_whitespace().next());
    total.and_then(|count| count.parse().ok()).context("callgrind printed no count")
}

/// The number of a core that may be used.
fn a_core() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.context("/proc/self/status has no Cpus_allowed_list")?.trim();
    Ok(list.chars().take_while(char::is_ascii_digit).collect())
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn only_growth_beyond_the_tolerance_fails() {
        let check = |count: f64| compare(&[("P2".to_owned(), count)], "# Figures\nP2 = 1000\nP4 = 1\n");
        for fine in [500.0, 1000.0, 1029.0] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        let error = check(1031.0).expect_err("too many").to_string();
        assert!(error.contains("P2 has grown") && error.contains("--update"), "{error}");
        assert!(compare(&[("P3".to_owned(), 1.0)], "P2 = 1000").is_err());
    }
}
