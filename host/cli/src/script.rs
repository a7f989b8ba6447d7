//! `tailweir script`, in both spellings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tailweir_lua::{Hooks, Redirect, Script};
use tracing::warn;

use crate::args::{LogArgs, ScriptOptions};
use crate::engine::WasmEngine;
use crate::logging::{self, LogEvents};
use crate::signals::Shutdown;
use crate::{end, kumo_wasm, privileges, summary};

/// How the command was spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    Ours,
    Kumods,
}

/// Runs a script to its end. `redirect` gives its tailer other segments to read.
pub(crate) fn run(
    file: &Path,
    how: &ScriptOptions,
    args: Vec<String>,
    log: &LogArgs,
    engine: &WasmEngine,
    spelling: Spelling,
    redirect: Option<Redirect>,
) -> Result<()> {
    // Before logging, which may make files, and before any thread.
    if let Some(user) = &how.user {
        privileges::become_user(user)?;
    }
    logging::start_for_script(log, how)?;
    summary::ask(how.summary.format);
    if spelling == Spelling::Kumods && how.user.is_none() && privileges::is_root() {
        warn!(
            "running as root, which kumod would refuse; --user NAME runs the script with that user's rights"
        );
    }
    let shutdown = Shutdown::or_hangup(|| {})?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let args = how.script_args.iter().cloned().chain(args).collect();
    let script =
        Script::new(Hooks { redirect, before_exit: Some(Box::new(end::in_haste)), ..hooks(file, engine) })?;
    runtime.block_on(script.run(file, args, shutdown.asked()))?;
    Ok(())
}

/// What this program adds to the `kumo` module of a script or plug-in file.
pub(crate) fn hooks(file: &Path, engine: &WasmEngine) -> Hooks {
    let folder = file.parent().map(PathBuf::from).unwrap_or_default();
    Hooks {
        extensions: vec![kumo_wasm::extension(folder, engine.clone())],
        set_log_filter: Some(Box::new(logging::set_filter)),
        events: Arc::new(LogEvents),
        ..Hooks::default()
    }
}
