//! `tailweir plugin diff`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use tailweir_core::{Batch, Failure, Filter, Outcome, Processor, Verdict};

use super::args::{DiffArgs, SetupArgs};
use super::compare::compare;
use super::records::Records;
use super::render::{ProcessorRun, count, excerpt, extent, first_line, name_of, of_batch};
use super::subject::{Role, Subject};
use super::{plain, print};
use crate::engine::WasmEngine;
use crate::exit::{UsageError, say};
use crate::plugins::is_lua;

/// Shows on which records two plug-ins do not agree.
pub(super) fn run(args: &DiffArgs, engine: &WasmEngine) -> Result<()> {
    // Of a component and a Lua file, limits and grants are the component's.
    let setup = |file: &Path, other: &Path, config: Option<&String>| {
        let is_for_other = is_lua(file) && !is_lua(other);
        SetupArgs {
            config: config.or(args.setup.config.as_ref()).cloned(),
            grant_http: if is_for_other { Vec::new() } else { args.setup.grant_http.clone() },
            kind: args.setup.kind,
            limits: args.setup.limits.clone().filter(|_| !is_for_other),
        }
    };
    let mut old = Subject::load(&args.old, &setup(&args.old, &args.new, None), engine)?;
    let new_config = args.new_config.as_ref();
    let mut new = Subject::load(&args.new, &setup(&args.new, &args.old, new_config), engine)?;
    let (kind, other) = (old.kind().name(), new.kind().name());
    if kind != other {
        let (old, new) = (args.old.display(), args.new.display());
        return Err(UsageError(format!(
            "{old} is a {kind} and {new} a {other}: they have nothing to compare"
        ))
        .into());
    }
    let records = Records::open(&args.records)?;
    let show = Show { left: args.show };
    let found = match (old.role(), new.role()) {
        (Role::Filter(old), Role::Filter(new)) => filters((&args.old, old), (&args.new, new), records, show)?,
        (Role::Processor(old), Role::Processor(new)) => processors(old, new, records, show)?,
        _ => unreachable!("both are of one kind"),
    };
    let Found { records, summary, differ, both_fail, stopped, passed_over } = found;
    if let Some(lines) = passed_over {
        say(&lines);
    }
    ensure!(!differ, anyhow!("{summary}"));
    let stopped = stopped.map(|why| format!(", after which both stop: {}", plain(&why))).unwrap_or_default();
    let fail = if both_fail.is_empty() { String::new() } else { format!("; both fail on {both_fail}") };
    print(&format!("no difference on {}{fail}{stopped}\n", count(records, "record", "records")))
}

/// Prints the first so many differences.
struct Show {
    left: usize,
}

impl Show {
    fn show(&mut self, text: impl FnOnce() -> String) -> Result<()> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                print(&text())
            }
            None => Ok(()),
        }
    }
}

struct Found {
    records: u64,
    differ: bool,
    summary: String,
    /// How much both fail on, in the same way; empty if on nothing.
    both_fail: String,
    /// Why both stop after these records, if they do.
    stopped: Option<String>,
    /// What is to be said of lines that are no records.
    passed_over: Option<String>,
}

/// What a filter says of a record.
enum Said {
    Keep,
    Drop,
    /// It fails on it, and why.
    Fail(String),
}

impl Said {
    fn of(verdict: &Verdict, index: usize) -> Self {
        if verdict.keeps(index) { Self::Keep } else { Self::Drop }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::Fail(_) => "fail",
        }
    }
}

/// What a filter says of each record of a batch. One that fails on it is asked about each record by itself.
fn said(file: &Path, filter: &mut dyn Filter, batch: &Arc<Batch>) -> Result<Vec<Said>> {
    let error = match filter.evaluate(batch) {
        Ok(verdict) => return Ok((0..batch.len()).map(|index| Said::of(&verdict, index)).collect()),
        Err(error) => error,
    };
    let mut alone = |index| match filter.evaluate(&Arc::new(batch.slice(index..index + 1))) {
        Ok(verdict) => Said::of(&verdict, 0),
        Err(error) => Said::Fail(excerpt(first_line(&error.to_string()), 300)),
    };
    let said: Vec<Said> = (0..batch.len()).map(&mut alone).collect();
    ensure!(
        said.iter().any(|said| matches!(said, Said::Fail(_))),
        anyhow!("{error}").context(format!(
            "{} failed on the batch of {}, but on none of its records by itself",
            file.display(),
            extent(batch)
        ))
    );
    Ok(said)
}

/// How many records have changed, and how.
#[derive(Default)]
struct Changes {
    kept: u64,
    dropped: u64,
    failing: u64,
    mended: u64,
}

impl Changes {
    fn sum(&self) -> u64 {
        self.kept + self.dropped + self.failing + self.mended
    }
}

/// Filters, with their files.
fn filters(
    (old_file, old): (&Path, &mut dyn Filter),
    (new_file, new): (&Path, &mut dyn Filter),
    mut records: Records,
    mut show: Show,
) -> Result<Found> {
    let (mut changes, mut both_fail) = (Changes::default(), 0_u64);
    while let Some(batch) = records.next()? {
        let (old, new) = (said(old_file, old, &batch)?, said(new_file, new, &batch)?);
        for (record, (old, new)) in batch.iter().zip(old.iter().zip(&new)) {
            let (count, why) = match (old, new) {
                (Said::Fail(_), Said::Fail(_)) => {
                    both_fail += 1;
                    continue;
                }
                (Said::Keep, Said::Keep) | (Said::Drop, Said::Drop) => continue,
                (_, Said::Fail(why)) => (&mut changes.failing, format!(": {why}")),
                (Said::Fail(why), _) => (&mut changes.mended, format!(": {why}")),
                (_, Said::Keep) => (&mut changes.kept, String::new()),
                (_, Said::Drop) => (&mut changes.dropped, String::new()),
            };
            *count += 1;
            show.show(|| format!("{} -> {} {}{why}\n", old.word(), new.word(), name_of(&record)))?;
        }
    }
    let (total, passed_over) = (records.count, records.passed_over());
    let Changes { kept, dropped, failing, mended } = changes;
    let mut summary = format!(
        "the verdicts on {} of {} differ: {kept} newly kept, {dropped} newly dropped",
        changes.sum(),
        count(total, "record", "records")
    );
    if failing + mended > 0 {
        summary += &format!(", {failing} newly failed on, {mended} no longer failed on");
    }
    let both_fail = if both_fail > 0 { count(both_fail, "of them", "of them") } else { String::new() };
    Ok(Found { records: total, differ: changes.sum() > 0, summary, both_fail, stopped: None, passed_over })
}

fn processors(
    old: &mut dyn Processor,
    new: &mut dyn Processor,
    mut records: Records,
    mut show: Show,
) -> Result<Found> {
    // Each remembers its own.
    let (for_old, for_new) = (ProcessorRun::new()?, ProcessorRun::new()?);
    let (mut seen, mut batches, mut differ, mut on_records) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut stopped, mut both_fail) = (None, 0_u64);
    while let Some(batch) = records.next()? {
        let (old, new) = (for_old.answer(old, &batch), for_new.answer(new, &batch));
        (seen, batches) = (seen + batch.len() as u64, batches + 1);
        if let (Err(Failure::Crash { .. }), Err(Failure::Crash { .. })) = (&old, &new) {
            both_fail += 1;
            continue;
        }
        if old == new {
            if let Err(Failure::Stop { reason }) = old {
                stopped = Some(reason);
                break;
            }
            continue;
        }
        differ += 1;
        match one_to_one(&batch, &old, &new) {
            Some(changed) => {
                on_records += changed.len() as u64;
                for (index, old, new) in changed {
                    let name = batch.get(index).map(|record| name_of(&record)).unwrap_or_default();
                    show.show(|| format!("{name}\n- {old}\n+ {new}\n"))?;
                }
            }
            None => {
                let (old, new) = (of_batch(&batch, &old), of_batch(&batch, &new));
                show.show(|| compare(("OLD", &old), ("NEW", &new)).unwrap_or_default())?;
            }
        }
    }
    let mut summary = format!("the answers to {differ} of {} differ", count(batches, "batch", "batches"));
    if on_records > 0 {
        summary += &format!(", in what comes of {}", count(on_records, "record", "records"));
    }
    let passed_over = records.passed_over();
    let both_fail = if both_fail > 0 { count(both_fail, "batch", "batches") } else { String::new() };
    Ok(Found { records: seen, differ: differ > 0, summary, both_fail, stopped, passed_over })
}

type Answer = Result<Outcome, Failure>;

/// The records whose output differs, by index with both outputs, if both plug-ins emit one record for each of the batch.
fn one_to_one<'a>(
    batch: &Arc<Batch>,
    old: &'a Answer,
    new: &'a Answer,
) -> Option<Vec<(usize, &'a str, &'a str)>> {
    let (Ok(Outcome::Emit(old)), Ok(Outcome::Emit(new))) = (old, new) else { return None };
    if old.len() != batch.len() || new.len() != batch.len() {
        return None;
    }
    let pairs = old.iter().zip(new).enumerate();
    Some(
        pairs
            .filter(|(_, (old, new))| old != new)
            .map(|(index, (old, new))| (index, &**old, &**new))
            .collect(),
    )
}
