//! Built-in sinks: where batches, or the records that a processor emits, can go.

mod file;
mod http;
mod stdout;

pub(crate) use file::{FileOptions, FileSink};
pub(crate) use http::{HttpOptions, HttpSink};
pub(crate) use stdout::StdoutSink;

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{FileType, fstat, stat};
use tailweir_core::{Failure, SegmentName};
use tailweir_segments::{Pattern, list};

/// Pieces that the system takes at once: `IOV_MAX` of Linux.
const PIECES: usize = 1024;

/// Writes all the pieces, from where they are.
fn write_all(file: &mut File, pieces: Vec<&[u8]>) -> io::Result<()> {
    let mut pieces: Vec<_> = pieces.into_iter().map(IoSlice::new).collect();
    let mut rest = &mut pieces[..];
    // Pieces of no length must not look like a file that takes nothing.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(&rest[..rest.len().min(PIECES)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Refuses a file that would be read as a segment of `directory`: what is written to it would come again, without end.
///
/// # Errors
/// If it is one, or the directory cannot be read.
pub(crate) fn check_is_no_segment(file: &Path, directory: &Path, pattern: &Pattern) -> Result<()> {
    let folder = match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Ok(()),
    };
    let (Ok(folder), Ok(tailed)) = (stat(folder), stat(directory)) else { return Ok(()) };
    let name = file.file_name().and_then(|name| name.to_str());
    let is_segment = (folder.st_dev, folder.st_ino) == (tailed.st_dev, tailed.st_ino)
        && name.is_some_and(|name| pattern.matches(name) && SegmentName::new(name).is_ok());
    ensure!(
        !is_segment,
        "{} would be read as a segment, and what is written to it come again without end: choose another folder, or a \
         `pattern` that it does not match",
        file.display()
    );
    Ok(())
}

/// As [`check_is_no_segment`], for what stdout is redirected to.
///
/// # Errors
/// As there.
pub(crate) fn check_stdout_is_no_segment(directory: &Path, pattern: &Pattern) -> Result<()> {
    let (Ok(stdout), Ok(tailed)) = (fstat(io::stdout()), stat(directory)) else { return Ok(()) };
    if FileType::from_raw_mode(stdout.st_mode) != FileType::RegularFile || stdout.st_dev != tailed.st_dev {
        return Ok(());
    }
    let segment = list(directory, pattern)?.into_iter().find(|entry| entry.inode == stdout.st_ino);
    ensure!(
        segment.is_none(),
        "stdout goes to a segment in {}, and what is written to it would come again without end: choose another folder",
        directory.display()
    );
    Ok(())
}

/// Whether a file has a last line that lacks its end, as a crash leaves it.
fn lacks_end(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn retry(reason: String) -> Failure {
    Failure::Retry { after: None, reason }
}
