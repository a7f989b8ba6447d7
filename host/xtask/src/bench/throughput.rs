//! The rows that read the whole of the data, and are compared with `zstd -dc` in the same run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::process::{self, Usage, median};
use super::receiver::Receiver;
use super::{Bench, Row, peers};
use crate::measure;

/// A command of a row.
struct Case {
    row: &'static str,
    what: String,
    /// The largest ratio to `zstd -dc` that is good enough.
    target: Option<f64>,
    rounds: usize,
    command: Box<dyn Fn() -> Command>,
    /// How many records its output must tell of, and how it tells.
    expected: Option<(Tells, u64)>,
    taken: Vec<Usage>,
}

/// How a command's output tells how many records there were.
#[derive(Clone, Copy)]
enum Tells {
    /// A line for each.
    Lines,
    /// The number is what comes first.
    Number,
}

/// Runs all cases in turn, and makes rows of them.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let directory = bench.data(bench.records, 8)?;
    let receiver = Receiver::start()?;
    let mut cases = cases(bench, &directory, &receiver)?;
    cases.retain(|case| bench.wants(case.row) || case.row == "zstd");
    let mut able = Vec::new();
    for case in cases {
        eprintln!("checking {}: {}", case.row, case.what);
        measure::remove_checkpoints(&directory)?;
        match check(&case, &receiver, bench.records) {
            Ok(()) => able.push(case),
            // Other programs change; that they cannot be compared with is no fault of ours.
            Err(e) if case.row == "peer" => eprintln!("left out: {}: {e:#}", case.what),
            Err(e) => return Err(e),
        }
    }
    let mut cases = able;
    for round in 0..bench.rounds {
        eprintln!("round {} of {}", round + 1, bench.rounds);
        for case in cases.iter_mut().filter(|case| round < case.rounds) {
            measure::remove_checkpoints(&directory)?;
            case.taken.push(process::run(&mut (case.command)())?);
        }
    }
    measure::remove_checkpoints(&directory)?;
    let wall = |case: &Case| median(case.taken.iter().map(|usage| usage.wall).collect());
    let floor = cases.iter().find(|case| case.row == "zstd").map(wall).context("no floor")?;
    Ok(cases.iter().map(|case| row(case, wall(case), floor, bench.records)).collect())
}

fn row(case: &Case, wall: Duration, floor: Duration, records: u64) -> Row {
    let ratio = wall.as_secs_f64() / floor.as_secs_f64();
    let peak = case.taken.iter().map(|usage| usage.peak_mib).fold(0.0, f64::max);
    Row {
        name: if ["zstd", "peer"].contains(&case.row) { String::new() } else { case.row.to_owned() },
        what: case.what.clone(),
        measured: format!("{:.3} s", wall.as_secs_f64()),
        ratio: Some(ratio),
        target: case.target.map(|target| format!("≤ {target:.1} ×")),
        reached: case.target.map(|target| ratio <= target + 0.005),
        peak_mib: Some(peak),
        records_per_second: Some(records as f64 / wall.as_secs_f64()),
    }
}

/// Runs a command once, and counts.
fn check(case: &Case, receiver: &Receiver, records: u64) -> Result<()> {
    receiver.reset();
    let output = process::output(&mut (case.command)())?;
    if let Some((tells, expected)) = case.expected {
        let told = match tells {
            Tells::Lines => output.lines,
            Tells::Number => output.head.split_whitespace().next().context("no number")?.parse()?,
        };
        ensure!(told == expected, "{}: {} tells of {told} records, not {expected}", case.row, case.what);
        if case.row == "P6" {
            let received = receiver.records();
            ensure!(received == expected, "P6: {received} of {expected} records were received");
        }
        ensure!(expected > 0 && expected <= records, "{}: the data is no test of it", case.row);
    }
    Ok(())
}

fn cases(bench: &Bench, directory: &Path, receiver: &Receiver) -> Result<Vec<Case>> {
    let (pool, two) = (bench.of_pools(directory, &["a"])?, bench.of_pools(directory, &["a", "b"])?);
    let program = bench.program.clone();
    let case = |row, what: &str, target, expected, command: Box<dyn Fn() -> Command>| Case {
        row,
        what: what.to_owned(),
        target,
        rounds: usize::MAX,
        command,
        expected,
        taken: Vec::new(),
    };
    let script = |name: &str, text: String| -> Result<Box<dyn Fn() -> Command>> {
        let path = bench.folder.join(format!("{name}.lua"));
        fs::write(&path, text)?;
        let program = program.clone();
        Ok(Box::new(move || {
            let mut command = Command::new(&program);
            command.arg("script").arg(&path);
            command
        }))
    };
    let tail = |filter: Option<&str>| -> Box<dyn Fn() -> Command> {
        let (program, directory) = (program.clone(), directory.to_owned());
        let filter = filter.map(|name| bench.guest(name));
        Box::new(move || match &filter {
            Some(filter) => measure::tail(&program, &directory, filter),
            None => {
                let mut command = Command::new(&program);
                command.arg("tail").arg(&directory).args(["--once", "--checkpoint", "bench"]);
                command.args(["--max-batch-size", "1000"]);
                command
            }
        })
    };
    let everything = {
        let directory = directory.display().to_string();
        move || {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec zstd -dc {directory}/2*")]);
            command
        }
    };
    let pipeline = bench.sixteen(directory)?;
    let run: Box<dyn Fn() -> Command> = {
        let program = program.clone();
        Box::new(move || {
            let mut command = Command::new(&program);
            command.arg("run").arg(&pipeline).arg("--once");
            command
        })
    };
    let (all, lines, number) = (bench.records, Tells::Lines, Tells::Number);
    let mut cases = vec![
        case("zstd", "`zstd -dc`", None, Some((lines, all)), Box::new(everything)),
        case("P1", "`tail --once`, no filter", Some(1.0), Some((lines, all)), tail(None)),
        case("P2", "WASM filter on one column", Some(1.0), Some((lines, pool)), tail(Some("pool-filter"))),
        case("P3", "WASM filter, typed records", Some(2.0), Some((lines, pool)), tail(Some("typed-filter"))),
        case(
            "P4",
            "Lua filter on one field, two fields of each kept record",
            Some(1.5),
            Some((number, two)),
            script("p4", measure::script(directory))?,
        ),
        case(
            "P5",
            "Lua, every record, three fields each",
            Some(2.5),
            Some((number, all)),
            script("p5", three_fields(directory))?,
        ),
        case(
            "P6",
            "Lua webhook of the records that P4 keeps",
            Some(2.0),
            Some((number, two)),
            script("p6", webhook(directory, &receiver.url()))?,
        ),
        case("P7", "16 consumers with 16 WASM filters", Some(3.0), None, run),
    ];
    if bench.wants("peers") {
        let (peers, missing) = peers::find(&bench.folder, directory);
        missing.iter().for_each(|why| eprintln!("left out: {why}"));
        cases.extend(peers.into_iter().map(|peer| Case {
            row: "peer",
            what: format!("{} (filter of P2)", peer.name),
            target: None,
            rounds: peer.rounds,
            expected: Some((number, pool)),
            command: Box::new(move || {
                let mut command = Command::new(&peer.command[0]);
                command.args(&peer.command[1..]);
                command
            }),
            taken: Vec::new(),
        }));
    }
    Ok(cases)
}

fn three_fields(directory: &Path) -> String {
    format!(
        "local kumo = require 'kumo'
local tailer = kumo.jsonl.new_tailer {{
  directory = {directory:?}, max_batch_size = 1000, checkpoint_name = 'bench', follow = false }}
local count, sum = 0, 0
for batch in tailer:batches() do
  for r in batch:iter_records() do count = count + 1; sum = sum + #r.type + r.size + #r.egress_pool end
  batch:commit()
end
print(count, sum)
"
    )
}

fn webhook(directory: &Path, url: &str) -> String {
    format!(
        "local kumo = require 'kumo'
local client = kumo.http.build_client {{}}
local tailer = kumo.jsonl.new_tailer({{
  directory = {directory:?}, max_batch_size = 1000, checkpoint_name = 'bench', follow = false }},
  function(r) return r.egress_pool == 'customer-a' or r.egress_pool == 'customer-b' end)
local count = 0
for batch in tailer:batches() do
  local request = client:post('{url}')
  request:header('Content-Type', 'application/json')
  local records = batch:records()
  request:body(kumo.serde.json_encode(records))
  local response = request:send()
  if not response:status_is_success() then error(response:status_code()) end
  count = count + #records
  batch:commit()
end
print(count)
"
    )
}
