//! Records as lines on stdout.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tailweir_core::Failure;
use tailweir_pipeline::{Outgoing, Sink, SinkFuture};

/// Writes each batch with as few system calls as the system takes it in, past the line buffer of `std::io::Stdout`: a batch
/// whose `send` succeeded has been handed to the system as a whole. In a regular file, no other one leaves a part of it behind.
pub(crate) struct StdoutSink {
    file: File,
    /// If it is a regular file.
    turn: Option<super::Turn>,
    /// Whether it was looked at what there is before the first record.
    begun: bool,
    broken: BrokenPipe,
}

/// Whether stdout's reader is gone.
#[derive(Clone, Default)]
pub(crate) struct BrokenPipe(Arc<AtomicBool>);

impl BrokenPipe {
    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Calls `then` when the reader goes away while there is nothing to write. Regular files and terminals never break.
    pub(crate) fn watch(&self, then: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let broken = self.clone();
        std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            use rustix::event::{PollFd, PollFlags, poll};
            loop {
                // With no flag asked for, only errors and hang-ups are reported.
                let mut fds = [PollFd::new(&file, PollFlags::empty())];
                match poll(&mut fds, None) {
                    Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => break,
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return,
                }
                if fds[0].revents().contains(PollFlags::NVAL) {
                    return;
                }
            }
            broken.0.store(true, Ordering::SeqCst);
            then();
        })?;
        Ok(())
    }
}

impl StdoutSink {
    pub(crate) fn new() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let metadata = file.metadata()?;
        let turn = metadata.is_file().then(|| super::turn_at(&metadata));
        Ok(Self { file, turn, begun: false, broken: BrokenPipe::default() })
    }

    pub(crate) fn broken_pipe(&self) -> BrokenPipe {
        self.broken.clone()
    }

    fn write(&mut self, lines: Vec<&[u8]>) -> Result<(), Failure> {
        self.try_write(lines).map_err(|e| {
            self.broken.0.store(e.kind() == ErrorKind::BrokenPipe, Ordering::SeqCst);
            Failure::Stop { reason: format!("cannot write to stdout: {e}") }
        })
    }

    fn try_write(&mut self, lines: Vec<&[u8]>) -> io::Result<()> {
        let Some(turn) = self.turn.clone() else { return super::write_all(&mut self.file, lines, &mut 0) };
        if !std::mem::replace(&mut self.begun, true) {
            self.end_last_line(&turn)?;
        }
        super::append(&mut self.file, &turn, lines, |_| Ok(()))
    }

    /// If stdout is appended to, a last line that lacks its end, left by a crash, gets it.
    fn end_last_line(&self, turn: &super::Turn) -> io::Result<()> {
        let appends = rustix::fs::fcntl_getfl(&self.file)?.contains(rustix::fs::OFlags::APPEND);
        // Stdout itself need not be open for reading.
        match appends.then(|| File::open("/proc/self/fd/1")) {
            Some(Ok(reader)) => super::end_last_line(&reader, &self.file, turn, "what stdout is appended to"),
            _ => Ok(()),
        }
    }
}

impl Sink for StdoutSink {
    fn send<'a>(&'a mut self, records: Outgoing<'a>) -> SinkFuture<'a> {
        Box::pin(std::future::ready(self.write(records.lines())))
    }
}
