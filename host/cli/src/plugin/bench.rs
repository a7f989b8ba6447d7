//! `tailweir plugin bench`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::BinaryBytes;
use serde_json::json;
use tailweir_core::{Batch, Failure, Filter, FilterError, Outcome, ProcessFuture, Processor, Verdict};
use tailweir_wasm::{Measures, Meter, Metered};

use super::args::BenchArgs;
use super::records::Records;
use super::render::{ProcessorRun, count, evaluate};
use super::subject::{Role, Subject};
use super::{plain, print};
use crate::engine::WasmEngine;
use crate::plugins::is_lua;

/// Bytes of records that are held in memory and gone through again and again.
const HELD: usize = 256 << 20;
/// Rounds at least, of which the one in the middle counts.
const ROUNDS: usize = 3;

/// Measures a plug-in.
pub(super) fn run(args: &BenchArgs, engine: &WasmEngine) -> Result<()> {
    let held = Held::read(args)?;
    let figures = match is_lua(&args.file) {
        true => lua(args, &held, engine)?,
        false => wasm(args, &held, engine)?,
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&figures.as_json(args, &held)).context("cannot print")? + "\n",
        false => figures.as_text(args, &held),
    };
    print(&text)
}

/// The records that it is measured on.
struct Held {
    batches: Vec<Arc<Batch>>,
    records: u64,
    bytes: usize,
    /// How long it took to read, decode and validate them.
    reading: Duration,
    /// Whether there are more, which were not read.
    more: bool,
    /// How many lines between them are no records, and what is to be said of them.
    malformed: usize,
    passed_over: Option<String>,
}

impl Held {
    fn read(args: &BenchArgs) -> Result<Self> {
        let begun = Instant::now();
        let mut records = Records::open(&args.records)?;
        let mut held = Self {
            batches: Vec::new(),
            records: 0,
            bytes: 0,
            reading: Duration::ZERO,
            more: false,
            malformed: 0,
            passed_over: None,
        };
        while let Some(batch) = records.next()? {
            if held.bytes + batch.bytes() > HELD && held.records > 0 {
                held.more = true;
                break;
            }
            held.records += batch.len() as u64;
            held.bytes += batch.bytes();
            held.batches.push(batch);
        }
        held.reading = begun.elapsed();
        (held.malformed, held.passed_over) = (records.defects.len(), records.passed_over());
        Ok(held)
    }

    fn per_record(&self, time: Duration) -> f64 {
        time.as_nanos() as f64 / self.records as f64
    }
}

/// What was measured.
struct Figures {
    kind: &'static str,
    rounds: usize,
    plugin: Duration,
    no_op: Duration,
    /// Part of the plug-in's time in which the host looked for what it had asked for.
    host_share: Option<f64>,
    fuel: Option<u64>,
    memory: u64,
}

fn wasm(args: &BenchArgs, held: &Held, engine: &WasmEngine) -> Result<Figures> {
    let mut run = ProcessorRun::new()?;
    let meter = Meter::new(Measures::Time);
    let mut subject = Subject::load_wasm(&args.file, &args.setup, &engine.measured(meter.clone())?)?;
    let kind = subject.kind().name();
    round(subject.role(), held, &mut run)?;
    meter.take();
    let rounds = rounds(subject.role(), held, &mut run, args.time)?;
    let Metered { host, peak_memory, .. } = meter.take();
    let no_op = no_op(subject.role(), held, &mut run)?;

    let fuel = Meter::new(Measures::Fuel);
    let mut counted = Subject::load_wasm(&args.file, &args.setup, &engine.measured(fuel.clone())?)?;
    round(counted.role(), held, &mut run)?;
    let total: Duration = rounds.iter().sum();
    Ok(Figures {
        kind,
        rounds: rounds.len(),
        plugin: median(rounds),
        no_op,
        host_share: Some(host.as_secs_f64() / total.as_secs_f64()),
        fuel: Some(fuel.take().fuel),
        memory: peak_memory,
    })
}

fn lua(args: &BenchArgs, held: &Held, engine: &WasmEngine) -> Result<Figures> {
    let mut run = ProcessorRun::new()?;
    let mut subject = Subject::load(&args.file, &args.setup, engine)?;
    let kind = subject.kind().name();
    round(subject.role(), held, &mut run)?;
    let rounds = rounds(subject.role(), held, &mut run, args.time)?;
    let no_op = no_op(subject.role(), held, &mut run)?;
    let memory = subject.lua_memory().unwrap_or(0) as u64;
    let count = rounds.len();
    Ok(Figures { kind, rounds: count, plugin: median(rounds), no_op, host_share: None, fuel: None, memory })
}

/// Goes through all records once. A processor remembers nothing of the rounds before, so that all are the same work.
fn round(role: Role<'_>, held: &Held, run: &mut ProcessorRun) -> Result<Duration> {
    run.forget();
    let begun = Instant::now();
    match role {
        Role::Filter(filter) => {
            for batch in &held.batches {
                evaluate(filter, batch)?;
            }
        }
        Role::Processor(processor) => {
            for batch in &held.batches {
                match run.process(processor, batch)? {
                    Ok(_) | Err(Failure::Reject { .. }) => {}
                    Err(failure) => {
                        bail!("it answered `{failure}`: only what deals with its batches can be measured")
                    }
                }
            }
        }
    }
    Ok(begun.elapsed())
}

fn rounds(
    mut role: Role<'_>,
    held: &Held,
    run: &mut ProcessorRun,
    at_least: Duration,
) -> Result<Vec<Duration>> {
    let (begun, mut rounds) = (Instant::now(), Vec::new());
    while rounds.len() < ROUNDS || begun.elapsed() < at_least {
        let role = match &mut role {
            Role::Filter(filter) => Role::Filter(&mut **filter),
            Role::Processor(processor) => Role::Processor(&mut **processor),
        };
        rounds.push(round(role, held, run)?);
    }
    Ok(rounds)
}

fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
}

/// The same with a plug-in of the same kind that does nothing, compiled into this program.
fn no_op(role: Role<'_>, held: &Held, run: &mut ProcessorRun) -> Result<Duration> {
    let mut nothing = Nothing;
    let role = match role {
        Role::Filter(_) => Role::Filter(&mut nothing),
        Role::Processor(_) => Role::Processor(&mut nothing),
    };
    Ok(median(rounds(role, held, run, Duration::ZERO)?))
}

struct Nothing;

impl Filter for Nothing {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        std::hint::black_box(candidates);
        Ok(Verdict::All)
    }
}

impl Processor for Nothing {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        std::hint::black_box(batch);
        Box::pin(std::future::ready(Ok(Outcome::Done)))
    }
}

impl Figures {
    fn as_json(&self, args: &BenchArgs, held: &Held) -> serde_json::Value {
        let speed = |time: Duration| {
            json!({
                "ns_per_record": held.per_record(time),
                "records_per_second": 1e9 / held.per_record(time),
            })
        };
        json!({
            "path": args.file,
            "kind": self.kind,
            "records": held.records,
            "batches": held.batches.len(),
            "bytes": held.bytes,
            "all_records": !held.more,
            "malformed": held.malformed,
            "rounds": self.rounds,
            "plugin": speed(self.plugin),
            "native_no_op": speed(self.no_op),
            "reading": speed(held.reading),
            "fuel_per_record": self.fuel.map(|fuel| fuel as f64 / held.records as f64),
            "host_share": self.host_share,
            "peak_memory_bytes": self.memory,
        })
    }

    fn as_text(&self, args: &BenchArgs, held: &Held) -> String {
        let (records, batches) =
            (count(held.records, "record", "records"), count(held.batches.len() as u64, "batch", "batches"));
        let mut text = format!(
            "{}, a {}: {records} in {batches} ({}), {} rounds\n",
            plain(&args.file.display().to_string()),
            self.kind,
            BinaryBytes(held.bytes as u64),
            self.rounds
        );
        if held.more {
            _ = writeln!(
                text,
                "there are more records: only the first {} are measured",
                BinaryBytes(HELD as u64)
            );
        }
        if let Some(lines) = &held.passed_over {
            _ = writeln!(text, "{lines}");
        }
        _ = writeln!(text, "\n{:<14} {:>12} {:>14}", "", "ns/record", "records/s");
        for (name, time) in
            [("plug-in", self.plugin), ("native no-op", self.no_op), ("reading", held.reading)]
        {
            let nanos = held.per_record(time);
            _ = writeln!(text, "{name:<14} {nanos:>12.2} {:>14.0}", 1e9 / nanos);
        }
        text.push('\n');
        if let Some(fuel) = self.fuel {
            _ = writeln!(text, "fuel           {:.1} per record", fuel as f64 / held.records as f64);
        }
        if let Some(share) = self.host_share {
            _ = writeln!(
                text,
                "host           {:.0} % of the time: finding columns and texts",
                share * 100.0
            );
        }
        _ = writeln!(text, "peak memory    {}", BinaryBytes(self.memory));
        text
    }
}
