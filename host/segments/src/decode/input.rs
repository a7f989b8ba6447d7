//! A file's bytes in a buffer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Filled;

/// `ZSTD_DStreamInSize()`, rounded up: one whole block always fits.
const SIZE: usize = 132 * 1024;

/// The part of a file that was read and not consumed.
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    /// Offset in the file behind the bytes in the buffer.
    end: u64,
}

impl Input {
    pub(super) fn new(offset: u64) -> Self {
        Self { buffer: Vec::new(), start: 0, filled: 0, end: offset }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.filled]
    }

    pub(super) fn available(&self) -> usize {
        self.filled - self.start
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
    }

    /// Offset in the file of the first byte not consumed.
    pub(super) fn position(&self) -> u64 {
        self.end - self.available() as u64
    }

    /// Offset in the file of the first byte not read.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn seek(&mut self, offset: u64) {
        let back = self.end.checked_sub(offset).and_then(|back| usize::try_from(back).ok());
        match back.and_then(|back| self.filled.checked_sub(back)) {
            Some(start) => self.start = start,
            None => (self.start, self.filled, self.end) = (0, 0, offset),
        }
    }

    /// Reads more bytes behind those that are there. Returns how many; none at the present end of the file.
    pub(super) fn more(&mut self, file: &File) -> io::Result<usize> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; SIZE];
        }
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
        } else if self.filled == self.buffer.len() {
            self.buffer.copy_within(self.start..self.filled, 0);
            (self.start, self.filled) = (0, self.filled - self.start);
        }
        loop {
            match file.read_at(&mut self.buffer[self.filled..], self.end) {
                Ok(n) => {
                    self.filled += n;
                    self.end += n as u64;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads until `n` bytes are there, or the file has no more at present. Returns whether they are.
    pub(super) fn want(&mut self, file: &File, n: usize) -> io::Result<bool> {
        while self.available() < n {
            if self.more(file)? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads from the file straight into `out`. Returns how many bytes, too.
    pub(super) fn pass_through(&mut self, file: &File, out: &mut Vec<u8>) -> io::Result<(Filled, u64)> {
        let before = self.end;
        loop {
            if out.len() == out.capacity() {
                return Ok((Filled::Full, self.end - before));
            }
            match rustix::io::pread(file, rustix::buffer::spare_capacity(out), self.end) {
                Ok(0) => return Ok((Filled::Starved, self.end - before)),
                Ok(n) => self.end += n as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
