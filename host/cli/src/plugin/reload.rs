//! `tailweir plugin reload`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{iter, thread};

use anyhow::{Context, Result, bail, ensure};
use tailweir_pipeline::{CheckpointName, holders};

use super::args::ReloadArgs;
use super::{plain, print};
use crate::exit::{UsageError, one_line, say};
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
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for (pid, answer) in answers(&args.directory, &processes, args.name.as_deref()) {
        let text = match answer {
            Ok(Some(came)) => {
                let text = came.iter().map(line).collect::<String>();
                reports.extend(came);
                text
            }
            Ok(None) => format!("process {pid}: it reads plug-ins at its start only, as scripts do\n"),
            // It keeps nobody from asking the others.
            Err(e) => {
                failed.push(one_line(e.as_ref()));
                continue;
            }
        };
        if !args.json {
            print(&text)?;
        }
    }
    if args.json {
        print(&(serde_json::to_string_pretty(&reports)? + "\n"))?;
    } else if reports.is_empty() && failed.is_empty() {
        print("there is no WebAssembly plug-in to read again\n")?;
    }
    ensure!(failed.is_empty(), "{}", plain(&failed.join("; ")));
    let kept = reports.iter().filter(|report| matches!(report.came, Came::Kept { .. })).count();
    ensure!(kept == 0, "{kept} of {} plug-ins cannot be replaced by what is in their files", reports.len());
    Ok(())
}

/// How long nothing is said of those that have not answered.
const SILENCE: Duration = Duration::from_secs(10);

/// What each process answers, in the order in which they do.
fn answers(
    directory: &Path,
    processes: &BTreeSet<u32>,
    name: Option<&str>,
) -> impl Iterator<Item = (u32, Result<Option<Vec<Report>>>)> {
    let (answered, answers) = mpsc::channel();
    let mut waiting = processes.clone();
    for &pid in processes {
        let (answered, directory) = (answered.clone(), directory.to_owned());
        let name = name.map(str::to_owned);
        // It ends with the program, whatever the process does.
        thread::spawn(move || answered.send((pid, ask(&directory, pid, name.as_deref()))));
    }
    drop(answered);
    iter::from_fn(move || {
        loop {
            match answers.recv_timeout(SILENCE) {
                Ok((pid, answer)) => {
                    waiting.remove(&pid);
                    return Some((pid, answer));
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let which: Vec<_> = waiting.iter().map(u32::to_string).collect();
                    let which = which.join(", ");
                    say(&format!("no answer yet from process {which}: it compiles, or does not run"));
                }
            }
        }
    })
}

fn line(Report { place, file, before, came }: &Report) -> String {
    let came = match came {
        Came::Replaced { by, note } => {
            let note = note.as_ref().map_or_else(String::new, |note| format!("; {note}"));
            format!("replaced {before} by {by} ({file}){note}")
        }
        Came::Unchanged => format!("kept {before}: {file} has not changed"),
        // The reason names the file.
        Came::Kept { why } => format!("kept {before}: {why}"),
    };
    plain(&format!("{place}: {came}")) + "\n"
}
