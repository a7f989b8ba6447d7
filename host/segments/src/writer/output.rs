//! One segment that is being written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, get_error_name, zstd_sys::ZSTD_EndDirective};

use super::WriteError;

/// Compressed bytes are written to disk in pieces of about this size.
const PIECE: usize = 64 * 1024;

pub(super) struct Output {
    path: PathBuf,
    file: File,
    context: CCtx<'static>,
    /// Compressed bytes that are not on disk yet.
    pending: Vec<u8>,
    line: Vec<u8>,
    bytes: u64,
    in_frame: u64,
}

impl Output {
    /// Makes the file, which must not exist.
    pub(super) fn create(path: PathBuf, level: i32) -> io::Result<Self> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(to_io)?;
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        Ok(Self { path, file, context, pending: Vec::new(), line: Vec::new(), bytes: 0, in_frame: 0 })
    }

    /// Bytes of text that it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a line, unless earlier ones cannot be written.
    pub(super) fn write_line(&mut self, record: &[u8], frame_bytes: u64) -> Result<(), WriteError> {
        if self.pending.len() >= PIECE {
            self.write_pending()?;
        }
        self.line.clear();
        self.line.extend_from_slice(record);
        self.line.push(b'\n');
        let line = std::mem::take(&mut self.line);
        let compressed = self.compress(&line, ZSTD_EndDirective::ZSTD_e_continue);
        self.line = line;
        compressed?;
        self.bytes += self.line.len() as u64;
        self.in_frame += self.line.len() as u64;
        if self.in_frame >= frame_bytes {
            self.end_frame()?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), WriteError> {
        if self.in_frame > 0 {
            self.compress(&[], ZSTD_EndDirective::ZSTD_e_flush)?;
        }
        self.write_pending()
    }

    /// Ends the frame and makes the file read-only.
    pub(super) fn finish(&mut self) -> Result<(), WriteError> {
        self.end_frame()?;
        self.write_pending()?;
        self.seal().map_err(|e| self.error(e))
    }

    fn seal(&self) -> io::Result<()> {
        let mut permissions = self.file.metadata()?.permissions();
        permissions.set_mode(permissions.mode() & !0o222);
        self.file.set_permissions(permissions)
    }

    fn end_frame(&mut self) -> Result<(), WriteError> {
        if self.in_frame > 0 {
            self.compress(&[], ZSTD_EndDirective::ZSTD_e_end)?;
            self.in_frame = 0;
        }
        Ok(())
    }

    /// Compresses into memory. Fails only for want of it.
    fn compress(&mut self, text: &[u8], directive: ZSTD_EndDirective) -> Result<(), WriteError> {
        let mut source = InBuffer::around(text);
        loop {
            self.pending.reserve(CCtx::out_size());
            let at = self.pending.len();
            let mut sink = OutBuffer::around_pos(&mut self.pending, at);
            let left = self.context.compress_stream2(&mut sink, &mut source, directive);
            let left = left.map_err(|code| self.error(to_io(code)))?;
            let done = match directive {
                ZSTD_EndDirective::ZSTD_e_continue => source.pos() == text.len(),
                _ => left == 0,
            };
            if done {
                return Ok(());
            }
        }
    }

    fn write_pending(&mut self) -> Result<(), WriteError> {
        let mut written = 0;
        let result = loop {
            match self.file.write(&self.pending[written..]) {
                Ok(0) if written < self.pending.len() => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
            if written == self.pending.len() {
                break Ok(());
            }
        };
        self.pending.drain(..written);
        result.map_err(|e| self.error(e))
    }

    fn error(&self, source: io::Error) -> WriteError {
        WriteError::Io { path: self.path.clone(), source }
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("path", &self.path).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

fn to_io(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}
