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

use tailweir_tests::Program;

fn tailweir() -> Program {
    Program::new(env!("CARGO_BIN_EXE_tailweir"))
}
