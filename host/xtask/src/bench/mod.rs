//! `cargo xtask bench`: every figure that docs/performance.md shows, and the peers, in one run.

mod peers;
mod process;
mod receiver;
mod report;
mod single;
mod throughput;

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{guests, measure};

/// All rows there are.
const ROWS: [&str; 15] =
    ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12", "P13", "P14", "peers"];

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Fewer records and fewer rounds, and no file is written
    #[arg(long)]
    quick: bool,
    /// Only these rows, such as `P1,P4` or `peers`; no file is written
    #[arg(long, value_delimiter = ',', value_parser = ROWS)]
    row: Vec<String>,
    /// Records of the data
    #[arg(long)]
    records: Option<u64>,
}

/// What all rows need.
struct Bench {
    root: PathBuf,
    /// Where data and scripts are.
    folder: PathBuf,
    /// Where the build is.
    built: PathBuf,
    program: PathBuf,
    records: u64,
    rounds: usize,
    rows: Vec<String>,
    quick: bool,
}

/// A line of the table.
struct Row {
    name: String,
    what: String,
    measured: String,
    /// To `zstd -dc`.
    ratio: Option<f64>,
    target: Option<String>,
    reached: Option<bool>,
    peak_mib: Option<f64>,
    /// For the plot.
    records_per_second: Option<f64>,
}

impl Row {
    fn new(name: &str, what: impl Into<String>, measured: impl Into<String>) -> Self {
        let (what, measured) = (what.into(), measured.into());
        let (ratio, target, reached, peak_mib, records_per_second) = (None, None, None, None, None);
        Self { name: name.to_owned(), what, measured, ratio, target, reached, peak_mib, records_per_second }
    }

    fn target(mut self, target: impl Into<String>, reached: bool) -> Self {
        (self.target, self.reached) = (Some(target.into()), Some(reached));
        self
    }
}

pub(crate) fn run(root: &Path, args: BenchArgs) -> Result<()> {
    if let Err(why) = peers::version("zstd") {
        bail!("all figures are compared with the zstd tool: {why}");
    }
    guests::build_all(root)?;
    let built = measure::build(root)?;
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder)?;
    let (records, rounds) = if args.quick { (200_000, 3) } else { (1_000_000, 5) };
    let bench = Bench {
        root: root.to_owned(),
        program: built.join("tailweir"),
        folder,
        built,
        records: args.records.unwrap_or(records),
        rounds,
        quick: args.quick,
        rows: args.row,
    };
    let mut rows = throughput::rows(&bench)?;
    single::rows(&bench, &mut rows)?;
    let table = report::table(&rows);
    std::io::stdout().write_all(table.as_bytes())?;
    if bench.rows.is_empty() && !bench.quick {
        report::write(&bench, &table, &rows)?;
    }
    Ok(())
}

impl Bench {
    /// Whether a row is wanted.
    fn wants(&self, row: &str) -> bool {
        self.rows.is_empty()
            || self.rows.iter().any(|wanted| wanted == row || (row == "peer" && wanted == "peers"))
    }

    fn data(&self, records: u64, segments: u64) -> Result<PathBuf> {
        measure::data(&self.folder, &self.built, records, segments)
    }

    fn guest(&self, name: &str) -> PathBuf {
        self.root.join("target/guests").join(format!("{name}.wasm"))
    }

    /// How many records of a directory have one of these pools, found without any of our code.
    fn of_pools(&self, directory: &Path, pools: &[&str]) -> Result<u64> {
        let wanted = pools.iter().map(|pool| format!("\"egress_pool\":\"customer-{pool}\""));
        let arguments: Vec<String> = wanted.flat_map(|pattern| ["-e".to_owned(), pattern]).collect();
        let mut zstd = Command::new("sh")
            .args(["-c", &format!("exec zstd -dc {}/2*", directory.display())])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = zstd.stdout.take().context("no pipe")?;
        let count = Command::new("grep").arg("-cF").args(arguments).stdin(stdout).output()?;
        zstd.wait()?;
        Ok(String::from_utf8_lossy(&count.stdout).trim().parse()?)
    }

    /// A pipeline of 16 consumers, each with a filter of its own.
    fn sixteen(&self, directory: &Path) -> Result<PathBuf> {
        let filter = self.guest("pool-filter");
        let consumer = |n: u32| {
            let pool = format!("customer-{}", char::from(b'a' + (n % 16) as u8));
            format!(
                "filter = {{ wasm = {filter:?}, config = {{ pool = \"{pool}\" }} }}\nmax_batch_size = 1000\n"
            )
        };
        self.pipeline("sixteen", directory, 16, consumer)
    }

    /// A pipeline of so many consumers whose records go nowhere.
    fn pipeline(
        &self,
        name: &str,
        directory: &Path,
        consumers: u32,
        options: impl Fn(u32) -> String,
    ) -> Result<PathBuf> {
        let mut text = format!("[tailer]\ndirectory = {directory:?}\n");
        for n in 0..consumers {
            let options = options(n);
            text += &format!(
                "\n[[consumer]]\nname = \"c{n}\"\nprocessor = {{ file = {{ path = \"/dev/null\" }} }}\n{options}"
            );
        }
        let path = self.folder.join(format!("{name}.toml"));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The files that hold a checkpoint, by name.
    fn checkpoints(directory: &Path) -> Result<HashMap<PathBuf, Vec<u8>>> {
        let hidden = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let paths = fs::read_dir(directory)?.map(|entry| entry.map(|e| e.path()));
        let paths = paths.collect::<Result<Vec<_>, _>>()?.into_iter().filter(hidden);
        // One that is renamed away meanwhile is there under another name.
        let read = |path: PathBuf| match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            read => Some(read.map(|bytes| (path, bytes)).map_err(Into::into)),
        };
        paths.filter_map(read).collect()
    }
}
