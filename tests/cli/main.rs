//! Black-box tests of the `tailweir` program.

#![allow(clippy::unwrap_used)]

mod author_mistakes;
mod chains;
mod checkpoints;
mod failure_modes;
mod hostile;
mod languages;
mod log_floods;
mod metrics;
mod parallel;
mod plugin;
mod plugin_cache;
mod plugin_tools;
mod quarantine;
mod readme;
mod released;
mod reload;
mod run;
mod script;
mod security;
mod shadow;
mod state;
mod summary;
mod tail;
mod usage;

use std::path::Path;

use tailweir_tests::Program;

fn tailweir() -> Program {
    Program::new(env!("CARGO_BIN_EXE_tailweir"))
}

/// The program with its stdout appended to a file, which can be this long, in blocks of the shell's or `unlimited`.
fn appending_to(out: &Path, limit: &str) -> Program {
    let script = format!("ulimit -f {limit}; exec \"$@\" >> '{}'", out.display());
    Program::new("sh").arg("-c").arg(script).arg("sh").arg(env!("CARGO_BIN_EXE_tailweir"))
}
