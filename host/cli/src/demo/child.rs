//! Child processes of this very program.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Arrived;
use super::world::parse;

/// How long a child may take to end once it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// The children that run, so that none outlives the demo.
#[derive(Default)]
pub(super) struct Children(Mutex<Vec<Pid>>);

impl Children {
    /// Starts this program with other arguments. What it says on stderr is seen.
    pub(super) fn start(self: &Arc<Self>, arguments: &[String]) -> Result<Child> {
        Ok(self.spawn(arguments, Stdio::null())?.0)
    }

    /// Starts it with its stdout to be read.
    pub(super) fn start_piped(self: &Arc<Self>, arguments: &[String]) -> Result<(Child, Lines)> {
        let (child, stdout) = self.spawn(arguments, Stdio::piped())?;
        let lines = Lines::new(stdout.context("no stdout to read")?)?;
        Ok((child, lines))
    }

    fn spawn(
        self: &Arc<Self>,
        arguments: &[String],
        stdout: Stdio,
    ) -> Result<(Child, Option<process::ChildStdout>)> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut process = Command::new(program)
            .args(arguments)
            // The demo leaves nothing behind.
            .env(crate::engine::VARIABLE, "off")
            .stdin(Stdio::null())
            .stdout(stdout)
            .spawn()
            .context("cannot start")?;
        let pid = Pid::from_child(&process);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        let stdout = process.stdout.take();
        Ok((Child { process, pid, children: self.clone() }, stdout))
    }

    pub(super) fn kill(&self) {
        for pid in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A running child. It is killed when dropped.
pub(super) struct Child {
    process: process::Child,
    pid: Pid,
    children: Arc<Children>,
}

impl Child {
    /// SIGINT; it must end with exit code 0.
    pub(super) fn interrupt(self) -> Result<()> {
        self.end_orderly(Signal::INT)
    }

    /// SIGTERM; likewise.
    pub(super) fn terminate(self) -> Result<()> {
        self.end_orderly(Signal::TERM)
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) -> Result<()> {
        let status = self.end(Signal::KILL)?;
        ensure!(status.signal() == Some(9), "it ended by itself ({status}) before it could be killed");
        Ok(())
    }

    fn end_orderly(mut self, signal: Signal) -> Result<()> {
        let status = self.end(signal)?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            bail!("it has ended already, with {status}");
        }
        kill_process(self.pid, signal).context("cannot signal it")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it did not end within {PATIENCE:?} of being asked to");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.children.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != self.pid);
        // Both fail only for a process that has ended and was waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The records that a child prints. It can print no faster than they are taken.
pub(super) struct Lines {
    lines: Receiver<String>,
    arrived: Arrived,
}

impl Lines {
    fn new(stdout: process::ChildStdout) -> Result<Self> {
        let (sender, lines) = sync_channel(16);
        std::thread::Builder::new().name("reader".to_owned()).spawn(move || read(stdout, &sender))?;
        Ok(Self { lines, arrived: Arrived::new() })
    }

    /// How many different records have been taken.
    pub(super) fn len(&self) -> usize {
        self.arrived.len()
    }

    /// Takes lines until there are `count` different records.
    pub(super) fn read_until(&mut self, count: usize, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.arrived.len() < count {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.take(&line)?,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} of {count} records came in {patience:?}", self.arrived.len())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("it ended after {} records of {count}", self.arrived.len())
                }
            }
        }
        Ok(())
    }

    /// [`read_until`](Self::read_until), giving back what came.
    pub(super) fn wait_for(mut self, count: usize, patience: Duration) -> Result<Self> {
        self.read_until(count, patience)?;
        Ok(self)
    }

    /// Takes what a child that has ended left in the pipe, but for a line that it could not finish.
    pub(super) fn finish(mut self) -> Arrived {
        while let Ok(line) = self.lines.recv() {
            if self.take(&line).is_err() {
                break;
            }
        }
        self.arrived
    }

    /// Counts on from what another child has printed.
    pub(super) fn after(mut self, before: Arrived) -> Self {
        self.arrived = before;
        self
    }

    /// What has arrived so far; takes what has been printed since.
    pub(super) fn arrived(mut self) -> Arrived {
        while let Ok(line) = self.lines.try_recv() {
            if self.take(&line).is_err() {
                break;
            }
        }
        self.arrived
    }

    fn take(&mut self, line: &str) -> Result<()> {
        *self.arrived.entry(parse(line)?.id).or_default() += 1;
        Ok(())
    }
}

/// Passes on whole lines until there are no more or nobody wants them.
fn read(stdout: process::ChildStdout, lines: &SyncSender<String>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = String::new();
        match stdout.read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => {}
            _ => return,
        }
        if lines.send(line).is_err() {
            return;
        }
    }
}
