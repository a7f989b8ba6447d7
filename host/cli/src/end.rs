//! The end of the program: what is said at last, also when nobody waits for what is in progress.

use std::process;
use std::sync::OnceLock;

use crate::engine::WasmEngine;
use crate::{flood, progress, summary};

static ENGINE: OnceLock<WasmEngine> = OnceLock::new();

/// Names the engine whose plug-ins are to be told of.
pub(crate) fn tells_of(engine: &WasmEngine) {
    // Only one command runs, and it has one.
    let _ = ENGINE.set(engine.clone());
}

/// Ends the process in the middle of a command, with this exit code. Says what is known of consumers that are open.
pub(crate) fn at_once(code: i32) -> ! {
    process::exit(in_haste(code))
}

/// As [`at_once`], but for the end itself, which is the caller's. Returns the exit code.
pub(crate) fn in_haste(code: i32) -> i32 {
    tailweir_pipeline::tell_open();
    if let Some(engine) = ENGINE.get() {
        engine.report();
    }
    last_words();
    code
}

/// Says what was not said yet, when all that is known has been told to the log and the summary.
pub(crate) fn last_words() {
    progress::clear();
    flood::finish();
    summary::print();
}
