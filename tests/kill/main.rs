//! Kill tests: the real program on real files, with a writer that goes on writing, is ended at random points, often in the
//! middle of some fault, and started again. An oracle knows every record that was written. None may be missing; records may come again
//! from uncommitted batches only; order is kept; no checkpoint moves back or covers what was not acknowledged. In some
//! rounds a part of the lines is malformed, or breaks plug-ins: those must be in quarantine, and nothing else may be.
//!
//! What is random follows from a seed, which is printed when something is wrong; times are those of the machine, so a seed
//! does not repeat a run exactly. `cargo xtask soak` runs the same for longer, by these variables:
//!
//! | variable | |
//! |---|---|
//! | `TAILWEIR_SOAK_SECONDS` | how long each fault is tried, instead of a number of rounds |
//! | `TAILWEIR_SOAK_ROUNDS` | how many rounds each fault gets at most |
//! | `TAILWEIR_SOAK_SEED` | the seed |
//! | `TAILWEIR_SOAK_REPORT` | a file that each fault's counts are appended to |
//!
//! Where no file system can be mounted, a disk can't be filled. That is said then, unless `TAILWEIR_TEST_FAULTS=all` is set: then
//! the test fails.

#![allow(clippy::unwrap_used)]

mod consumers;
mod faults;
mod oracle;
mod writer;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use tailweir_tests::wait_for;
use tempfile::TempDir;

use consumers::{Ended, Plan, Process, Run, User};
use faults::{Fault, SmallDisk};
use oracle::{Counts, Subject, Violation};
use writer::{Records, Writer};

/// Rounds in one directory, before it is read to its end and a new one is begun.
const ROUNDS_PER_WORLD: u64 = 25;

/// A directory, who writes to it and who reads it.
struct World {
    fault: Fault,
    plans: Vec<&'static Plan>,
    folder: TempDir,
    _disk: Option<SmallDisk>,
    user: User,
    writer: Writer,
    subjects: Vec<Vec<Subject>>,
    /// What each program has said on stderr.
    said: Vec<String>,
    rng: Rng,
    tally: Tally,
}

/// What was done and what came of it.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    rounds: u64,
    ends: u64,
    counts: Counts,
}

impl World {
    /// `None` if this system can't have such a one.
    fn new(fault: Fault, records: Records, seed: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        let mut disk = None;
        if fault == Fault::FullDisk {
            fs::create_dir(&logs).unwrap();
            disk = Some(SmallDisk::mount(&logs)?);
        }
        let user = if fault == Fault::ReadOnly { User::Plain } else { User::Ours };
        consumers::furnish(folder.path(), user);
        let plans = consumers::plans(records, fault);
        let subjects = |plan: &&Plan| plan.consumers.iter().map(|kind| Subject::new(*kind)).collect();
        Some(Self {
            fault,
            _disk: disk,
            user,
            writer: Writer::start(&logs, records, seed),
            subjects: plans.iter().map(subjects).collect(),
            said: vec![String::new(); plans.len()],
            plans,
            rng: Rng::with_seed(seed),
            tally: Tally::default(),
            folder,
        })
    }

    fn home(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn pause(&mut self, milliseconds: u64) {
        std::thread::sleep(Duration::from_micros(self.rng.u64(..milliseconds * 1000)));
    }

    fn start(&self, run: Run) -> Vec<Process> {
        self.plans.iter().map(|plan| Process::start(plan, &self.home(), run, self.user)).collect()
    }

    /// Starts all programs, does something to them, ends them, and looks at what they left.
    fn round(&mut self) -> Result<(), Violation> {
        let home = self.home();
        // Some faults are there before the programs are, most come later; some are over when they are killed.
        let (early, lasting) = (self.rng.u8(..) < 40, self.rng.u8(..) < 40);
        let fault = self.fault;
        let plain = matches!(fault, Fault::Kill | Fault::Term);
        let (mut processes, undo);
        if early && !plain && fault != Fault::NoGrowth {
            undo = fault.begin(&home, &self.writer, &[], &mut self.rng);
            processes = self.start(Run::Follow);
        } else {
            processes = self.start(Run::Follow);
            if !plain {
                self.wait_until_begun(&mut processes);
            }
            self.pause(150);
            undo = fault.begin(&home, &self.writer, &processes, &mut self.rng);
        }
        if !plain {
            self.pause(100);
        }
        let mut undo = Some(undo);
        if !lasting && let Some(undo) = undo.take() {
            undo.end(&home, &self.writer, &processes);
            self.pause(40);
        }
        let running: Vec<bool> = processes.iter_mut().map(Process::runs).collect();
        let signal = if fault == Fault::Term { Signal::TERM } else { Signal::KILL };
        for (process, _) in processes.iter().zip(&running).filter(|(_, running)| **running) {
            process.signal(signal);
        }
        if let Some(undo) = undo {
            undo.end(&home, &self.writer, &processes);
        }
        self.tally.rounds += 1;
        let ended: Vec<Ended> = processes.into_iter().map(Process::end).collect();
        for ((plan, ended), running) in self.plans.iter().zip(&ended).zip(running) {
            self.tally.ends += 1;
            // One that a signal ended before it was ready for signals has said and done nothing. One that can't even open its
            // checkpoint says so and ends, as one does that has lost its locks.
            let begun = !(ended.stdout.is_empty() && ended.stderr.is_empty());
            let may_end = fault.may_end() || early && fault.may_refuse();
            let refused = may_end && ended.status.code() == Some(1);
            let in_order = fault != Fault::Term || !begun || ended.status.code() == Some(0);
            if !(running || refused) || !in_order {
                return Err(format!("{} ended with {}:\n{}", plan.name, ended.status, ended.stderr));
            }
        }
        self.check(&ended)
    }

    /// Waits until every consumer has got something, or its program has ended.
    fn wait_until_begun(&self, processes: &mut [Process]) {
        let home = self.home();
        for (process, subjects) in processes.iter_mut().zip(&self.subjects) {
            wait_for("all consumers to get something", || {
                let begun = |subject: &Subject| subject.has_begun(process.heard(), &home);
                subjects.iter().all(begun) || !process.runs()
            });
        }
    }

    fn check(&mut self, ended: &[Ended]) -> Result<(), Violation> {
        let home = self.home();
        let log = self.writer.log();
        for (index, ended) in ended.iter().enumerate() {
            self.said[index] += &ended.stderr;
            for subject in &mut self.subjects[index] {
                subject.check_run(&log, &ended.stdout, &home, &mut self.tally.counts).map_err(
                    |violation| {
                        format!("{}: {violation}\nstderr of this run:\n{}", subject.name(), ended.stderr)
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Reads everything to its end.
    fn end(&mut self) -> Result<(), Violation> {
        self.writer.end();
        let ended: Vec<Ended> = self.start(Run::Once).into_iter().map(Process::end).collect();
        for (plan, ended) in self.plans.iter().zip(&ended) {
            if ended.status.code() != Some(0) {
                return Err(format!("{} ended with {}:\n{}", plan.name, ended.status, ended.stderr));
            }
        }
        self.check(&ended)?;
        let log = self.writer.log();
        for (subjects, said) in self.subjects.iter().zip(&self.said) {
            // Of the program itself: some guests are made for it.
            if said.lines().any(|line| line.starts_with("thread ") && line.contains("panicked")) {
                return Err(format!("something panicked:\n{said}"));
            }
            for subject in subjects {
                let checked = subject.check_end(&log, said, &mut self.tally.counts);
                checked.map_err(|violation| format!("{}: {violation}\nstderr:\n{said}", subject.name()))?;
            }
        }
        Ok(())
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.ends += other.ends;
        self.counts.records += other.counts.records;
        self.counts.duplicates += other.counts.duplicates;
        self.counts.gone += other.counts.gone;
        self.counts.refused += other.counts.refused;
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(format!("TAILWEIR_SOAK_{name}")).ok()?.parse().ok()
}

/// Tries a fault for so many rounds, or as long as a soak wants.
fn check(fault: Fault, records: Records, rounds: u64) {
    let seed = variable("SEED").unwrap_or_else(|| fastrand::u64(..));
    let until = variable("SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let rounds = variable("ROUNDS").unwrap_or(if until.is_some() { u64::MAX } else { rounds });
    let goes_on = |total: &Tally| total.rounds < rounds && until.is_none_or(|until| Instant::now() < until);
    let mut seeds = Rng::with_seed(seed);
    let mut total = Tally::default();
    while goes_on(&total) {
        let Some(mut world) = World::new(fault, records, seeds.u64(..)) else {
            assert_eq!(total.rounds, 0, "no other file system can be mounted");
            return not_tried(&name(fault, records));
        };
        let mut result = Ok(());
        while result.is_ok() && world.tally.rounds < ROUNDS_PER_WORLD && goes_on(&plus(&total, &world.tally))
        {
            result = world.round();
        }
        if let Err(violation) = result.and_then(|()| world.end()) {
            let round = total.rounds + world.tally.rounds;
            let folder = world.folder.path().to_owned();
            if variable::<u8>("KEEP").is_some() {
                world.folder.disable_cleanup(true);
            }
            panic!(
                "TAILWEIR_SOAK_SEED={seed}, {fault:?}, {records:?}, round {round}, {}: {violation}",
                folder.display()
            );
        }
        total.add(&world.tally);
    }
    report(fault, records, &total);
}

fn plus(total: &Tally, more: &Tally) -> Tally {
    let mut sum = *total;
    sum.add(more);
    sum
}

/// What the report calls it.
fn name(fault: Fault, records: Records) -> String {
    let bad = if records == Records::Mixed { "malformed lines, records that break plug-ins; " } else { "" };
    format!("{bad}{}", fault.name())
}

/// Prints what was counted, and appends it to the soak's report.
fn report(fault: Fault, records: Records, total: &Tally) {
    let Counts { records: delivered, duplicates, gone, refused } = total.counts;
    let Tally { rounds, ends, .. } = total;
    append(&format!(
        "| {} | {rounds} | {ends} | {delivered} | 0 | {gone} | {duplicates} | {refused} |\n",
        name(fault, records)
    ));
}

/// Says so, in the soak's report too, unless every fault must be tried.
fn not_tried(name: &str) {
    let all = std::env::var_os("TAILWEIR_TEST_FAULTS").is_some_and(|value| value == "all");
    assert!(!all, "{name}: not tried, as no file system can be mounted");
    // Not with `eprintln!`, which the test harness keeps to itself.
    let _ = writeln!(io::stderr(), "SKIPPED: {name}: no file system can be mounted");
    append(&format!("| {name} | **not tried**: no file system could be mounted | | | | | | |\n"));
}

fn append(row: &str) {
    eprint!("{row}");
    if let Ok(path) = std::env::var("TAILWEIR_SOAK_REPORT") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(row.as_bytes()).unwrap();
    }
}

#[test]
fn f23_killed_at_random_points() {
    check(Fault::Kill, Records::Good, 200);
}

#[test]
fn f15_killed_while_plug_ins_break_and_lines_are_malformed() {
    check(Fault::Kill, Records::Mixed, 50);
}

#[test]
fn f15_killed_while_nothing_can_be_put_in_quarantine() {
    check(Fault::NoGrowth, Records::Mixed, 25);
}

#[test]
fn f23_asked_to_end_at_random_points() {
    check(Fault::Term, Records::Good, 50);
}

#[test]
fn f13_killed_while_no_file_may_grow() {
    check(Fault::NoGrowth, Records::Good, 50);
}

#[test]
fn f13_killed_while_the_disk_is_full() {
    check(Fault::FullDisk, Records::Good, 50);
}

#[test]
fn f13_killed_while_the_directory_is_read_only() {
    check(Fault::ReadOnly, Records::Good, 50);
}

#[test]
fn f10_killed_while_segments_are_deleted() {
    check(Fault::Deleted, Records::Good, 50);
}

#[test]
fn f11_killed_while_segments_are_cut_off() {
    check(Fault::Truncated, Records::Good, 50);
}

#[test]
fn f11_killed_while_segments_are_replaced() {
    check(Fault::Replaced, Records::Good, 50);
}

#[test]
fn f08_killed_while_segments_are_moved_away_and_back() {
    check(Fault::SegmentMoved, Records::Good, 50);
}

#[test]
fn f22_killed_while_locks_are_removed() {
    check(Fault::Unlocked, Records::Good, 50);
}

#[test]
fn f12_killed_while_the_directory_is_renamed() {
    check(Fault::DirectoryMoved, Records::Good, 50);
}
