//! The end of the program: what is said at last, also when nobody waits for what is in progress.

use std::collections::BTreeSet;
use std::process;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Result, bail};
use tailweir_core::SegmentName;

use crate::engine::WasmEngine;
use crate::{flood, progress, shadow, summary};

static DUTY: Mutex<Option<Duty>> = Mutex::new(None);
static ENGINE: OnceLock<WasmEngine> = OnceLock::new();
/// Segments that could not be read, and that nobody tries again.
static UNREAD: Mutex<BTreeSet<SegmentName>> = Mutex::new(BTreeSet::new());

type Duty = Box<dyn FnOnce() -> Done + Send>;

/// Whether a command has done what it was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Yes,
    No,
}

/// Has `duty` done before the program ends in the middle of a command, on whatever thread ends it. Exit code 0 becomes 1 if that
/// says that the command is not done.
pub(crate) fn before_ending_at_once(duty: impl FnOnce() -> Done + Send + 'static) {
    *DUTY.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(duty));
}

/// Notes that a segment could not be read and is not tried again, so that a command that does all else is not done.
pub(crate) fn is_incomplete(segment: SegmentName) {
    UNREAD.lock().unwrap_or_else(PoisonError::into_inner).insert(segment);
}

/// How many segments could not be read.
pub(crate) fn unread() -> usize {
    UNREAD.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// An error if there are segments that could not be read.
pub(crate) fn all_was_read() -> Result<()> {
    match unread() {
        0 => Ok(()),
        1 => bail!("a segment could not be read, and its records are not delivered"),
        several => bail!("{several} segments could not be read, and their records are not delivered"),
    }
}

/// Names the engine whose plug-ins are to be told of.
pub(crate) fn tells_of(engine: &WasmEngine) {
    // Only one command runs, and it has one.
    let _ = ENGINE.set(engine.clone());
}

/// Ends the process in the middle of a command, with this exit code, or 1 if it is 0 and something must not be left undone.
/// Says what is known of consumers that are open.
pub(crate) fn at_once(code: i32) -> ! {
    process::exit(in_haste(code))
}

/// As [`at_once`], but for the end itself, which is the caller's and must come. Returns the exit code.
pub(crate) fn in_haste(code: i32) -> i32 {
    let mut duty = DUTY.lock().unwrap_or_else(PoisonError::into_inner);
    let done = duty.take().map_or(Done::Yes, |duty| duty());
    // Another thread that comes here waits for the end: it must not come in the middle of the duty.
    std::mem::forget(duty);
    tailweir_pipeline::tell_open();
    shadow::tell_open();
    if let Some(engine) = ENGINE.get() {
        engine.report();
    }
    last_words();
    exit_code(code, done)
}

fn exit_code(asked: i32, done: Done) -> i32 {
    // The system keeps the lowest eight bits.
    if asked & 0xff == 0 && done == Done::No { 1 } else { asked }
}

/// Says what was not said yet, when all that is known has been told to the log and the summary.
pub(crate) fn last_words() {
    progress::clear();
    flood::finish();
    summary::print();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_undone_makes_an_exit_code_of_zero_one() {
        for (asked, done, expected) in
            [(0, Done::Yes, 0), (0, Done::No, 1), (256, Done::No, 1), (130, Done::No, 130), (3, Done::Yes, 3)]
        {
            assert_eq!(exit_code(asked, done), expected);
        }
    }
}
