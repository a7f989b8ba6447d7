//! `tailweir plugin diff`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use tailweir_core::{Batch, Failure, Filter, Outcome, Processor};

use super::args::{DiffArgs, SetupArgs};
use super::compare::compare;
use super::records::Records;
use super::render::{ProcessorRun, count, evaluate, name_of, of_batch};
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
        (Role::Filter(old), Role::Filter(new)) => filters(old, new, records, show)?,
        (Role::Processor(old), Role::Processor(new)) => processors(old, new, records, show)?,
        _ => unreachable!("both are of one kind"),
    };
    let Found { records, summary, differ, stopped, passed_over } = found;
    if let Some(lines) = passed_over {
        say(&lines);
    }
    ensure!(!differ, anyhow!("{summary}"));
    let stopped = stopped.map(|why| format!(", after which both stop: {}", plain(&why))).unwrap_or_default();
    print(&format!("no difference on {}{stopped}\n", count(records, "record", "records")))
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
    /// Why both stop after these records, if they do.
    stopped: Option<String>,
    /// What is to be said of lines that are no records.
    passed_over: Option<String>,
}

fn filters(
    old: &mut dyn Filter,
    new: &mut dyn Filter,
    mut records: Records,
    mut show: Show,
) -> Result<Found> {
    let (mut gained, mut lost) = (0_u64, 0_u64);
    while let Some(batch) = records.next()? {
        let (old, new) = (evaluate(old, &batch)?, evaluate(new, &batch)?);
        for (index, record) in batch.iter().enumerate() {
            let change = match (old.keeps(index), new.keeps(index)) {
                (true, false) => {
                    lost += 1;
                    "keep -> drop"
                }
                (false, true) => {
                    gained += 1;
                    "drop -> keep"
                }
                _ => continue,
            };
            show.show(|| format!("{change} {}\n", name_of(&record)))?;
        }
    }
    let (total, passed_over) = (records.count, records.passed_over());
    let summary = format!(
        "the verdicts on {} of {} differ: {gained} newly kept, {lost} newly dropped",
        gained + lost,
        count(total, "record", "records")
    );
    Ok(Found { records: total, differ: gained + lost > 0, summary, stopped: None, passed_over })
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
    let mut stopped = None;
    while let Some(batch) = records.next()? {
        let (old, new) = (for_old.process(old, &batch)?, for_new.process(new, &batch)?);
        (seen, batches) = (seen + batch.len() as u64, batches + 1);
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
    Ok(Found { records: seen, differ: differ > 0, summary, stopped, passed_over })
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
