//! The advisory lock `.<name>.lock` that keeps two processes from one checkpoint. The file holds its owner's process id
//! and is never removed: removing it would let two processes lock two files of one name.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

use super::StoreError;
use crate::CheckpointName;
use crate::files::{Directory, Files, explain, only_name, private, regular};

/// A held lock. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    files: Arc<Directory>,
    /// Of the file, in the directory.
    name: String,
    /// What is locked, whatever has its name now.
    _file: File,
    inode: u64,
}

/// The lock's file was removed or replaced while it was held. Nobody is kept from the checkpoint then but by chance, so whoever
/// held the lock must leave the checkpoint alone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "lost its lock: {path} was {what}; nothing more is committed here, and what was not committed comes again; \
     see that no other process uses the checkpoint, and start this one anew",
    path = path.display(), what = became.phrase()
)]
pub struct LostLock {
    path: PathBuf,
    became: Became,
}

/// What is under a lock's name now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Became {
    Nothing,
    /// Another file, with the id of the process that has locked it, if it could be read.
    Another(Option<u32>),
}

impl Became {
    fn phrase(&self) -> String {
        match self {
            Self::Nothing => "removed, so any other process may use the checkpoint".to_owned(),
            Self::Another(None) => "replaced, so another process may be using the checkpoint".to_owned(),
            Self::Another(Some(pid)) => format!("replaced, and process {pid} has the checkpoint now"),
        }
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process has it; its id, if it could be read.
    Held(Option<u32>),
    /// The file could not be opened or written.
    Store(StoreError),
}

fn regular_file(path: &Path) -> io::Result<File> {
    let file = private().read(true).open(path)?;
    regular(&file)?;
    Ok(file)
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
        let files = Arc::new(Directory::open(directory).map_err(LockError::Store)?);
        let name = name.file(".lock");
        let mut file = private()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(files.entry(&name))
            .map_err(explain)
            .and_then(|file| regular(&file).and_then(|meta| only_name(&meta)).map(|()| file))
            .map_err(|e| io("open", e))?;
        match exclusive(&file) {
            Ok(true) => {}
            Ok(false) => return Err(LockError::Held(pid_in(&mut file))),
            Err(e) => return Err(io("lock", e.into())),
        }
        // The id only informs; a disk too full for it does not keep the lock from holding.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        let inode = file.metadata().map_err(|e| io("look at", e))?.ino();
        Ok(Self { files, name, _file: file, inode })
    }

    /// The directory that it is in.
    pub(crate) fn files(&self) -> Arc<dyn Files> {
        self.files.clone()
    }

    /// Whether it still has its name: only then does it keep others away.
    ///
    /// # Errors
    /// [`StoreError::LostLock`] if not; another one if that can't be told now.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let path = || self.files.path().join(&self.name);
        let io = |source| StoreError::Io { what: "look at", path: path(), source };
        let became = match self.files.stamp(&self.name) {
            Ok(stamp) if stamp.inode == self.inode => return Ok(()),
            Ok(_) => Became::Another(self.pid()),
            Err(e) if e.kind() == ErrorKind::NotFound => Became::Nothing,
            Err(e) => return Err(io(e)),
        };
        Err(LostLock { path: path(), became }.into())
    }

    /// The process that has locked the file that has the name now, if one has.
    fn pid(&self) -> Option<u32> {
        holder_of(regular_file(&self.files.entry(&self.name)).ok()?)
    }
}

/// How often somebody who only looks may be in the way: for a second and more.
const LOOKERS: u32 = 1000;

/// Locks a file; false if another process has it. One that asks who has it takes a shared lock for a moment, and is waited for.
fn exclusive(file: &File) -> Result<bool, Errno> {
    for _ in 0..LOOKERS {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            done => return done.map(|()| true),
        }
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => return Ok(false),
            shared => shared?,
        }
        flock(file, FlockOperation::Unlock)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}

/// The process that holds the lock of a checkpoint, if one does.
///
/// # Errors
/// If the lock's file is not there, or no file, or can't be opened.
pub(crate) fn holder(directory: &Path, name: &CheckpointName) -> io::Result<Option<u32>> {
    Ok(holder_of(regular_file(&path(directory, name))?))
}

/// The process id in a lock's file, if it is locked.
fn holder_of(mut file: File) -> Option<u32> {
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => pid_in(&mut file),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    #[test]
    fn whoever_asks_who_has_the_lock_keeps_nobody_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let name = CheckpointName::new("c").unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    // Before the first one takes it there is no file.
                    let holder = holder(directory.path(), &name).unwrap_or(None);
                    assert!(holder.is_none_or(|pid| pid == std::process::id()), "{holder:?}");
                }
            });
            let taken = (0..2_000).filter(|_| Lock::take(directory.path(), &name).is_ok()).count();
            done.store(true, Relaxed);
            assert_eq!(taken, 2_000);
        });
        let held = Lock::take(directory.path(), &name).unwrap();
        let Err(LockError::Held(pid)) = Lock::take(directory.path(), &name) else { panic!("locked twice") };
        assert_eq!((pid, holder(directory.path(), &name).unwrap()), (Some(std::process::id()), pid));
        drop(held);
        assert_eq!(holder(directory.path(), &name).unwrap(), None);
    }
}
