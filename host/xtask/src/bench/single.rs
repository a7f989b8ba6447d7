//! The rows that are no ratio of whole runs: start, waiting, resuming, latency, memory, commits.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::{self, Running, median};
use super::{Bench, Row, peers};
use crate::{instructions, measure};

/// Adds the rows.
pub(super) fn rows(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    type Measure = fn(&Bench, &mut Vec<Row>) -> Result<()>;
    let all: [(&str, Measure); 7] = [
        ("P8", ten_times),
        ("P9", many_segments),
        ("P10", resuming),
        ("P11", latency),
        ("P12", memory),
        ("P13", starting),
        ("P14", commits),
    ];
    for (name, measure) in all {
        if bench.wants(name) {
            eprintln!("{name}");
            measure(bench, rows).context(name)?;
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn at_most(name: &str, what: &str, measured: Duration, limit: Duration) -> Row {
    let target = format!("≤ {} ms", limit.as_millis());
    Row::new(name, what, millis(measured)).target(target, measured <= limit)
}

/// `tail` of a directory, with options.
fn tail(bench: &Bench, directory: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(&bench.program);
    command.arg("tail").arg(directory).args(options);
    command
}

/// A row's command from a state of the directory that is the same each time.
fn repeated(bench: &Bench, directory: &Path, command: impl Fn() -> Command) -> Result<Duration> {
    let before = Bench::checkpoints(directory)?;
    let mut taken = Vec::new();
    for _ in 0..bench.rounds.max(5) {
        taken.push(process::first_output(&mut command())?);
        measure::remove_checkpoints(directory)?;
        for (path, bytes) in &before {
            fs::write(path, bytes)?;
        }
    }
    Ok(median(taken))
}

/// P8: ten times the records in segments of the same size.
fn ten_times(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let (few, many) = if bench.quick { (20_000, 60_000) } else { (40_000, 400_000) };
    if let Err(why) = peers::version("valgrind") {
        eprintln!("left out: {why}");
        return Ok(());
    }
    let count = |records: u64| -> Result<u64> {
        let directory = bench.data(records, records / 10_000)?;
        measure::remove_checkpoints(&directory)?;
        let counted =
            instructions::count(&measure::tail(&bench.program, &directory, &bench.guest("pool-filter")));
        measure::remove_checkpoints(&directory)?;
        counted
    };
    let counts = [count(few / 2)?, count(few)?, count(many)?];
    let per_record =
        |a: usize, b: usize, records: u64| (counts[b] as f64 - counts[a] as f64) / records as f64;
    // Differences, so that what starting costs is in neither.
    let (at_few, at_many) = (per_record(0, 1, few / 2), per_record(1, 2, many - few));
    let change = (at_many / at_few - 1.0) * 100.0;
    let what = format!("instructions per record of P2 at {many} records, to {few}");
    let row = Row::new("P8", what, format!("{at_many:.0}, {change:+.1} %"));
    rows.push(row.target("within 5 %", change.abs() <= 5.0));
    Ok(())
}

/// P9: a directory of very many small segments.
fn many_segments(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let segments = 20_000;
    let directory = bench.data(segments * 50, segments)?;
    measure::remove_checkpoints(&directory)?;
    let first = repeated(bench, &directory, || tail(bench, &directory, &["--checkpoint", "bench"]))?;
    rows.push(at_most(
        "P9",
        "20,000 segments of 50 records: to the first record",
        first,
        Duration::from_millis(300),
    ));

    let mut running =
        Running::start(tail(bench, &directory, &["--checkpoint", "bench"]).stdout(Stdio::piped()))?;
    let mut lines = BufReader::new(running.child.stdout.take().context("no pipe")?);
    for _ in 0..segments * 50 {
        if lines.skip_until(b'\n')? == 0 {
            bail!("it ended early");
        }
    }
    // What it does once more after the last record is not what it does all the time.
    std::thread::sleep(Duration::from_secs(3));
    let (before, seconds) = (process::cpu_time(running.pid())?, 20);
    std::thread::sleep(Duration::from_secs(seconds));
    let used = process::cpu_time(running.pid())? - before;
    running.kill()?;
    measure::remove_checkpoints(&directory)?;
    let percent = used.as_secs_f64() / seconds as f64 * 100.0;
    let row = Row::new("P9", "the same directory, idle: share of a core", format!("{percent:.2} %"));
    rows.push(row.target("< 0.5 %", percent < 0.5));
    Ok(())
}

/// P10: the rest of a large segment.
fn resuming(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let records = if bench.quick { 200_000 } else { 900_000 };
    // The generator's segments are single frames, as KumoMTA's are.
    let foreign = bench.data(records, 1)?;
    let ours = bench.folder.join(format!("ours-{records}"));
    if !ours.exists() {
        let partial = bench.folder.join("partial");
        fs::create_dir_all(&partial)?;
        let script = bench.folder.join("write.lua");
        fs::write(&script, rewrite(&foreign, &partial))?;
        process::run(Command::new(&bench.program).arg("script").arg(&script))?;
        fs::rename(&partial, &ours)?;
    }
    let what = format!("resume near the end of a segment of {records} records");
    let took = resume(bench, &ours, records)?;
    rows.push(at_most("P10", &format!("{what}: our writer's frames"), took, Duration::from_millis(50)));

    let took = resume(bench, &foreign, records)?;
    let script = format!("exec zstd -dc {}/2*", foreign.display());
    let decompress = || Ok(process::run(Command::new("sh").args(["-c", &script]))?.wall);
    let floor = median((0..bench.rounds).map(|_| decompress()).collect::<Result<_>>()?);
    let ratio = took.as_secs_f64() / floor.as_secs_f64();
    let mut row =
        Row::new("P10", format!("{what}: one foreign frame"), millis(took)).target("≤ 1.1 ×", ratio <= 1.1);
    row.ratio = Some(ratio);
    rows.push(row);
    Ok(())
}

/// A script that writes all records of a directory to one segment of another.
fn rewrite(from: &Path, to: &Path) -> String {
    format!(
        "local kumo = require 'kumo'
local tailer = kumo.jsonl.new_tailer {{
  directory = {from:?}, max_batch_size = 1000, checkpoint_name = 'rewrite', follow = false }}
local writer = kumo.jsonl.new_writer {{ log_dir = {to:?}, max_file_size = 8 * 1024 * 1024 * 1024 }}
for batch in tailer:batches() do
  for record in batch:iter_records() do writer:write_record(record) end
end
writer:close()
"
    )
}

/// Has a consumer read all but the last records, and measures how long another run takes to the next one.
fn resume(bench: &Bench, directory: &Path, records: u64) -> Result<Duration> {
    measure::remove_checkpoints(directory)?;
    let script = bench.folder.join("resume.lua");
    let text = format!(
        "local kumo = require 'kumo'
local tailer = kumo.jsonl.new_tailer {{
  directory = {directory:?}, max_batch_size = 1000, checkpoint_name = 'bench', follow = false }}
local count = 0
for batch in tailer:batches() do
  count = count + 1000
  batch:commit()
  if count >= {} then break end
end
",
        records - 2000
    );
    fs::write(&script, text)?;
    process::run(Command::new(&bench.program).arg("script").arg(&script))?;
    let took = repeated(bench, directory, || tail(bench, directory, &["--once", "--checkpoint", "bench"]))?;
    measure::remove_checkpoints(directory)?;
    Ok(took)
}

/// P11: a live record.
fn latency(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let directory = bench.folder.join("live");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let count = if bench.quick { "500" } else { "2000" };
    let mut command = Command::new(bench.built.join("examples/live"));
    command.arg(&directory).args([count, "5", "--"]).arg(&bench.program).arg("tail").arg(&directory);
    command.args(["--max-batch-size", "1", "--checkpoint", "bench"]);
    let output = command.output().context("cannot run the example `live`")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let figure = |name: &str| -> Result<f64> {
        let text = said.split_whitespace().skip_while(|word| *word != name).nth(1);
        let text = text.with_context(|| format!("no figure {name}: {said}"))?;
        let number = |unit: &str| text.strip_suffix(unit)?.parse::<f64>().ok();
        let micros = number("µs").or_else(|| Some(number("ms")? * 1e3)).or_else(|| Some(number("s")? * 1e6));
        micros.with_context(|| format!("{text} is no duration"))
    };
    for (name, limit) in [("p50", 1), ("p99", 5)] {
        let took = Duration::from_secs_f64(figure(name)? / 1e6);
        let what = format!("live, from the writer's flush to the reader of the output, batches of 1: {name}");
        rows.push(at_most("P11", &what, took, Duration::from_millis(limit)));
    }
    Ok(())
}

/// P12: memory.
fn memory(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let row = |what: &str, mib: f64, limit: f64| {
        let mut row = Row::new("P12", what, format!("{mib:.0} MiB"));
        row.peak_mib = Some(mib);
        row.target(format!("≤ {limit:.0} MiB"), mib <= limit)
    };
    for name in ["P2", "P4"] {
        if let Some(peak) = rows.iter().find(|row| row.name == name).and_then(|row| row.peak_mib) {
            rows.push(row(&format!("peak of {name}"), peak, 96.0));
        }
    }
    if !bench.quick {
        let directory = bench.data(bench.records * 10, 80)?;
        measure::remove_checkpoints(&directory)?;
        let usage =
            process::run(&mut measure::tail(&bench.program, &directory, &bench.guest("pool-filter")))?;
        measure::remove_checkpoints(&directory)?;
        rows.push(row("peak of P2 over ten times the records", usage.peak_mib, 96.0));
    }

    let directory = bench.data(50_000, 4)?;
    measure::remove_checkpoints(&directory)?;
    let idle = |command: &mut Command, consumers: usize| -> Result<f64> {
        let running = Running::start(command.stdout(Stdio::null()))?;
        let begun = Instant::now();
        while Bench::checkpoints(&directory)?.keys().filter(|p| is_checkpoint(p)).count() < consumers {
            if begun.elapsed() > Duration::from_secs(120) {
                bail!("there is no checkpoint of {consumers} consumers");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // Commits come at the end of batches: by now all have been read.
        std::thread::sleep(Duration::from_secs(5));
        let peak = process::memory_mib(running.pid(), "VmHWM")?;
        running.kill()?;
        measure::remove_checkpoints(&directory)?;
        Ok(peak)
    };
    let one = idle(&mut tail(bench, &directory, &["--checkpoint", "bench"]), 1)?;
    rows.push(row("following one directory, peak and then idle", one, 40.0));
    let hundred = bench.pipeline("hundred", &directory, 100, |_| String::new())?;
    let hundred = idle(Command::new(&bench.program).arg("run").arg(hundred), 100)?;
    rows.push(row("100 consumers over one directory, peak and then idle", hundred, 160.0));
    Ok(())
}

/// Whether a hidden file is the checkpoint of a consumer itself.
fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_none()
        && path.file_name().is_some_and(|name| !name.to_string_lossy().ends_with(".tmp"))
}

/// P13: starting.
fn starting(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let mut taken = Vec::new();
    for _ in 0..21 {
        taken.push(process::run(Command::new(&bench.program).arg("--version"))?.wall);
    }
    rows.push(at_most("P13", "`tailweir --version`", median(taken), Duration::from_millis(10)));
    let directory = bench.data(50_000, 4)?;
    measure::remove_checkpoints(&directory)?;
    let command = || measure::tail(&bench.program, &directory, &bench.guest("pool-filter"));
    // The first time compiles the plug-in, and keeps it.
    process::first_output(&mut command())?;
    measure::remove_checkpoints(&directory)?;
    let first = repeated(bench, &directory, command)?;
    rows.push(at_most(
        "P13",
        "exec to the first kept record, cached plug-in",
        first,
        Duration::from_millis(40),
    ));
    Ok(())
}

/// P14: commits.
fn commits(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let rate = |sync: &str, records: u64, consumers: u32| -> Result<f64> {
        let directory = bench.data(records, 2)?;
        measure::remove_checkpoints(&directory)?;
        let options = format!("max_batch_size = 1\ncheckpoint_sync = \"{sync}\"\n");
        let pipeline = bench.pipeline("commits", &directory, consumers, |_| options.clone())?;
        let usage = process::run(Command::new(&bench.program).arg("run").arg(pipeline).arg("--once"))?;
        measure::remove_checkpoints(&directory)?;
        Ok((records * u64::from(consumers)) as f64 / usage.wall.as_secs_f64())
    };
    let interval = rate("1s", 40_000, 1)?;
    let row =
        Row::new("P14", "commits per second, batches of 1, `checkpoint_sync` 1s", format!("{interval:.0}"));
    rows.push(row.target("≥ 5,000", interval >= 5000.0));
    for consumers in [1, 8] {
        let records = 2000;
        let bare = bare_syncs(&bench.folder, consumers)?;
        let always = rate("always", records, consumers)?;
        let what = format!(
            "commits per second, `always`, {consumers} consumer{}; a bare loop of write, fdatasync, exchange and \
             fsync of the directory: {bare:.0}",
            if consumers == 1 { "" } else { "s" }
        );
        let row = Row::new("P14", what, format!("{always:.0}"));
        rows.push(row.target("what the disk allows", always >= bare * 0.7));
    }
    Ok(())
}

/// What a commit that reaches the disk costs at least: how many of them a second so many threads can do.
fn bare_syncs(folder: &Path, threads: u32) -> Result<f64> {
    let directory = folder.join("syncs");
    fs::create_dir_all(&directory)?;
    let (each, begun) = (200, Instant::now());
    let work = |n: u32| -> Result<()> {
        let paths: [PathBuf; 2] = ["a", "b"].map(|name| directory.join(format!("{name}{n}")));
        for path in &paths {
            File::create(path)?.write_all(&[0; 600])?;
        }
        let folder = File::open(&directory)?;
        for round in 0..each {
            use std::os::unix::fs::FileExt;
            let file = File::options().write(true).open(&paths[0])?;
            file.write_all_at(&[round as u8; 600], 0)?;
            file.sync_data()?;
            // Three renames are no exchange, but the disk sees the same: changed names in one directory.
            fs::rename(&paths[0], directory.join(format!("c{n}")))?;
            fs::rename(&paths[1], &paths[0])?;
            fs::rename(directory.join(format!("c{n}")), &paths[1])?;
            folder.sync_all()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    fs::remove_dir_all(&directory)?;
    Ok(f64::from(each * threads) / begun.elapsed().as_secs_f64())
}
