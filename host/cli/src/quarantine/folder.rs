//! Where a replay lays records out: a folder that nobody else may look into, and that does not outlive its process for long.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tempfile::TempDir;

const PREFIX: &str = "tailweir-replay-";

/// How often a folder is made anew that somebody else has taken for one that was left behind.
const ATTEMPTS: u32 = 100;

/// A folder that is removed when it is dropped, or by the next replay if this process is killed before that.
pub(super) struct Folder {
    directory: TempDir,
    /// Locked as long as the process lives. None where the file system cannot lock a folder; then it may stay behind.
    _lock: Option<File>,
}

impl Folder {
    /// Makes one in `parent`, and removes what killed replays of the same user have left there.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        remove_left_behind(parent);
        for _ in 0..ATTEMPTS {
            let private = Permissions::from_mode(0o700);
            let directory =
                tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(parent)?;
            // Between the two, another replay may find it without a lock.
            match lock(directory.path()) {
                Locked::Here(file) => return Ok(Self { directory, _lock: Some(file) }),
                Locked::Nowhere => return Ok(Self { directory, _lock: None }),
                Locked::Elsewhere => {}
            }
        }
        Err(io::Error::other("each folder that is made is removed at once by somebody else"))
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Who has the lock of a folder.
enum Locked {
    Here(File),
    /// Another process, or the folder is gone.
    Elsewhere,
    /// The file system has no locks for folders.
    Nowhere,
}

fn lock(folder: &Path) -> Locked {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(file) = openat(CWD, folder, flags, Mode::empty()).map(File::from) else {
        return Locked::Elsewhere;
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK | Errno::INTR) => return Locked::Elsewhere,
        Err(_) => return Locked::Nowhere,
    }
    let is = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata().map(is), fs::symlink_metadata(folder).map(is)) {
        (Ok(locked), Ok(named)) if locked == named => Locked::Here(file),
        _ => Locked::Elsewhere,
    }
}

/// Removes the folders of replays that no process holds any more. What cannot be removed stays: it is no business of this
/// replay.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
            && fs::symlink_metadata(entry.path())
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw());
        if is_ours && let Locked::Here(_lock) = lock(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn it_is_private_and_outlives_nobody_for_long() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("tailweir-replay-killed");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("segment"), "mail").unwrap();
        fs::set_permissions(left.join("segment"), Permissions::from_mode(0o400)).unwrap();
        let elsewhere = parent.path().join("other");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, parent.path().join("tailweir-replay-link")).unwrap();
        let first = Folder::new(parent.path()).unwrap();
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!left.exists());
        let second = Folder::new(parent.path()).unwrap();
        assert!(first.path().exists() && second.path().exists() && elsewhere.exists());
        let path = first.path().to_owned();
        drop((first, second));
        assert!(!path.exists());
    }
}
