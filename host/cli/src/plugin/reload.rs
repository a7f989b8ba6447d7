//! `tailweir plugin reload`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use tailweir_pipeline::{CheckpointName, holders};

use super::args::ReloadArgs;
use super::{plain, print};
use crate::exit::{UsageError, one_line};
use crate::reload::control::ask;
use crate::reload::{Came, Report};

/// Asks the processes that have checkpoints in the directory, and prints what came of it.
pub(super) fn run(args: &ReloadArgs) -> Result<()> {
    if let Some(name) = &args.name {
        CheckpointName::new(name).map_err(|e| UsageError(e.to_string()))?;
    }
    let directory = args.directory.display();
    let held = holders(&args.directory).with_context(|| format!("cannot read {directory}"))?;
    let wanted = |name: &CheckpointName| args.name.as_ref().is_none_or(|wanted| wanted == name.as_str());
    let processes: BTreeSet<u32> =
        held.into_iter().filter(|(name, _)| wanted(name)).map(|(_, pid)| pid).collect();
    if processes.is_empty() {
        match &args.name {
            Some(name) => bail!("no process uses the checkpoint `{name}` in {directory}"),
            None => bail!("no process uses a checkpoint in {directory}"),
        }
    }
    // One that cannot be asked, such as a script, keeps nobody from asking the others.
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for pid in processes {
        match ask(&args.directory, pid, args.name.as_deref()) {
            Ok(came) => reports.extend(came),
            Err(e) => failed.push(one_line(e.as_ref())),
        }
    }
    match args.json {
        true => print(&(serde_json::to_string_pretty(&reports)? + "\n"))?,
        false if reports.is_empty() && failed.is_empty() => {
            print("there is no WebAssembly plug-in to read again\n")?
        }
        false => print(&reports.iter().map(line).collect::<String>())?,
    }
    ensure!(failed.is_empty(), "{}", plain(&failed.join("; ")));
    let kept = reports.iter().filter(|report| matches!(report.came, Came::Kept { .. })).count();
    ensure!(kept == 0, "{kept} of {} plug-ins cannot be replaced by what is in their files", reports.len());
    Ok(())
}

fn line(Report { place, file, before, came }: &Report) -> String {
    let came = match came {
        Came::Replaced { by } => format!("replaced {before} by {by} ({file})"),
        Came::Unchanged => format!("kept {before}: {file} has not changed"),
        // The reason names the file.
        Came::Kept { why } => format!("kept {before}: {why}"),
    };
    plain(&format!("{place}: {came}")) + "\n"
}
