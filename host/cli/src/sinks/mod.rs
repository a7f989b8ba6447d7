//! Built-in sinks: where batches, or the records that a processor emits, can go.

mod file;
mod http;
mod stdout;

pub(crate) use file::{FileOptions, FileSink};
pub(crate) use http::{HttpOptions, HttpSink};
pub(crate) use stdout::StdoutSink;

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use anyhow::{Result, ensure};
use rustix::fs::{FileType, fstat, stat};
use tailweir_core::{Failure, SegmentName};
use tailweir_segments::{Pattern, list};
use tracing::warn;

/// Pieces that the system takes at once: `IOV_MAX` of Linux.
const PIECES: usize = 1024;

/// Writes all the pieces, from where they are. `written` counts the bytes, also if it fails.
fn write_all(file: &mut File, pieces: Vec<&[u8]>, written: &mut u64) -> io::Result<()> {
    let mut pieces: Vec<_> = pieces.into_iter().map(IoSlice::new).collect();
    let mut rest = &mut pieces[..];
    // Pieces of no length must not look like a file that takes nothing.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(&rest[..rest.len().min(PIECES)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                *written += taken as u64;
                IoSlice::advance_slices(&mut rest, taken);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Has one at a time append to a file, of all sinks of the process that do.
type Turn = Arc<Mutex<()>>;

/// The turns that somebody has, by device and inode of the file.
type Turns = HashMap<(u64, u64), Weak<Mutex<()>>>;

static TURNS: LazyLock<Mutex<Turns>> = LazyLock::new(Mutex::default);

/// The turn at this file, the same for all who ask while somebody has it.
fn turn_at(file: &Metadata) -> Turn {
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    turns.retain(|_, turn| turn.strong_count() > 0);
    let turn = turns.entry((file.dev(), file.ino())).or_default();
    turn.upgrade().unwrap_or_else(|| {
        let new = Turn::default();
        *turn = Arc::downgrade(&new);
        new
    })
}

/// Appends lines to a regular file and has `finish` done with it. If that fails, none of them stays: what is there of a batch comes
/// again. If somebody else has written behind them by then, they stay, and a torn one is ended.
fn append(
    file: &mut File,
    turn: &Turn,
    lines: Vec<&[u8]>,
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let (len, position) = (file.metadata()?.len(), file.stream_position()?);
    let mut written = 0;
    write_all(file, lines, &mut written).and_then(|()| finish(file)).inspect_err(|_| {
        let mut undo = || {
            if file.metadata()?.len() == len + written {
                file.set_len(len)?;
                return file.seek(SeekFrom::Start(position)).map(drop);
            }
            file.write_all(b"\n")
        };
        if let Err(e) = undo() {
            warn!("cannot remove part of a batch from what it was appended to: {e}");
        }
    })
}

/// Refuses a file that would be read as a segment of `directory`: what is written to it would come again, without end.
///
/// # Errors
/// If it is one, or the directory cannot be read.
pub(crate) fn check_is_no_segment(file: &Path, directory: &Path, pattern: &Pattern) -> Result<()> {
    let target = file::place(file)?.path;
    let folder = match target.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Ok(()),
    };
    let (Ok(folder), Ok(tailed)) = (stat(folder), stat(directory)) else { return Ok(()) };
    let name = target.file_name().and_then(|name| name.to_str());
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

/// Has a last line that lacks its end, as a crash leaves it, get it. `name` is what the file is called in the log.
fn end_last_line(mut reader: &File, mut writer: &File, turn: &Turn, name: &str) -> io::Result<()> {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    if reader.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    reader.seek(SeekFrom::End(-1))?;
    reader.read_exact(&mut last)?;
    if last != *b"\n" {
        warn!("the last line of {name} was not finished; records go on in a line of their own");
        writer.write_all(b"\n")?;
    }
    Ok(())
}

fn retry(reason: String) -> Failure {
    Failure::Retry { after: None, reason }
}

#[cfg(test)]
mod tests {
    use std::fs::{OpenOptions, read_to_string};

    use super::*;

    #[test]
    fn what_cannot_be_appended_as_a_whole_goes_but_nothing_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let (mut ours, mut others) = (open(), open());
        let turn = turn_at(&ours.metadata().unwrap());
        assert!(Arc::ptr_eq(&turn, &turn_at(&others.metadata().unwrap())));
        append(&mut ours, &turn, vec![b"1\n"], |_| Ok(())).unwrap();
        let full = || Err(io::ErrorKind::StorageFull.into());
        append(&mut ours, &turn, vec![b"2\n", b"3\n"], |_| full()).unwrap_err();
        assert_eq!(read_to_string(&path).unwrap(), "1\n");
        let by_others = |_: &File| {
            others.write_all(b"4\n").unwrap();
            full()
        };
        append(&mut ours, &turn, vec![b"5\n"], by_others).unwrap_err();
        assert_eq!(read_to_string(&path).unwrap(), "1\n5\n4\n\n");
    }
}
