//! The thread of a shadow.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use rustix::process::setpriority_process;

use super::compare::{Answer, compare};
use super::cpu::cpu_time;
use super::{Anew, Job, Shadow};

/// How much less it is worth to the system than the rest of the process, from 0 to 19.
const NICE: i32 = 10;

/// A second version on its thread.
pub(super) trait Subject {
    /// What it remembers does not lead up to the next batch.
    fn begin_anew(&mut self, anew: Anew);

    /// Its answer; what went wrong, if it gives none.
    fn answer(&mut self, job: &Job) -> Result<Answer, String>;
}

/// Starts the thread of a shadow. It ends with the shadow.
pub(super) fn start<S: Subject>(
    shadow: &Arc<Shadow>,
    make: impl FnOnce() -> Result<S> + Send + 'static,
) -> Result<()> {
    let shadow = shadow.clone();
    let run = move || {
        let _closes = Closes(&shadow);
        // Threads that it starts are as it is. If the system will not have it, so be it.
        let _ = setpriority_process(None, NICE);
        match make() {
            Ok(subject) => serve(&shadow, subject),
            Err(e) => tracing::error!("{}: no shadow: {e:#}", shadow.place),
        }
    };
    thread::Builder::new().name("shadow".to_owned()).spawn(run).context("cannot start a thread")?;
    Ok(())
}

fn serve(shadow: &Shadow, mut subject: impl Subject) {
    while let Some(mut job) = shadow.next() {
        if let Some(anew) = job.anew.take() {
            subject.begin_anew(anew);
        }
        let begun = cpu_time();
        let answer = subject.answer(&job);
        let took = cpu_time().saturating_sub(begun);
        shadow.note(&job, took, compare(&job.batch, &job.live, &answer));
    }
}

/// Says that nobody takes anything out of the queue any more, also if the thread panics.
struct Closes<'a>(&'a Shadow);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        self.0.close(&mut queue);
    }
}
