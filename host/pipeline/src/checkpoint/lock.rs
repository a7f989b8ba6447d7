//! The advisory lock `.<name>.lock` that keeps two processes from one checkpoint. The file holds its owner's process id
//! and is never removed: removing it would let two processes lock two files of one name.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::StoreError;
use crate::CheckpointName;
use crate::files::{explain, only_name, private, regular};

/// A held lock. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process has it; its id, if it could be read.
    Held(Option<u32>),
    /// The file could not be opened or written.
    Store(StoreError),
}

fn path(directory: &Path, name: &CheckpointName) -> PathBuf {
    directory.join(name.file(".lock"))
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

impl Lock {
    /// Takes the lock of the checkpoint `name` in `directory`.
    pub(crate) fn take(directory: &Path, name: &CheckpointName) -> Result<Self, LockError> {
        let path = path(directory, name);
        let io = |what, source| LockError::Store(StoreError::Io { what, path: path.clone(), source });
        let mut file = private()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(explain)
            .and_then(|file| regular(&file).and_then(|meta| only_name(&meta)).map(|()| file))
            .map_err(|e| io("open", e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(pid_in(&mut file))),
            Err(e) => return Err(io("lock", e.into())),
        }
        // The id only informs; a disk too full for it does not keep the lock from holding.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// The process that holds the lock of a checkpoint, if one does.
pub(crate) fn holder(directory: &Path, name: &CheckpointName) -> Option<u32> {
    let mut file = private().read(true).open(path(directory, name)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => pid_in(&mut file),
    }
}
