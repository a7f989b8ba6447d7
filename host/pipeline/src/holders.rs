//! Which processes use the checkpoints of a directory.

use std::io;
use std::path::Path;

use crate::CheckpointName;
use crate::checkpoint::holder;
use crate::files::is_refusal;

/// The checkpoints of a directory that are in use, each with the process that has its lock, by their names. KumoMTA takes no
/// lock and is never named.
///
/// # Errors
/// If the directory, or the lock of one of its checkpoints, cannot be read.
pub fn holders(directory: &Path) -> io::Result<Vec<(CheckpointName, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name();
        let name = file.to_str().and_then(|file| file.strip_prefix('.')?.strip_suffix(".lock"));
        let Some(name) = name.and_then(|name| CheckpointName::new(name).ok()) else { continue };
        match holder(directory, &name) {
            Ok(Some(pid)) => found.push((name, pid)),
            // Whether it is in use is for those to know who may look.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !is_refusal(&e) => {
                let why = format!("{} cannot be looked at: {e}", Path::new(&file).display());
                return Err(io::Error::new(e.kind(), why));
            }
            // What is no file is no lock.
            Ok(None) | Err(_) => {}
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_lock_is_passed_over_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        // Not by a program: until it has begun, it would hold the locks of the tests beside this one.
        let (pipe, mode) = (directory.path().join(".a.lock"), Mode::RUSR | Mode::WUSR);
        mknodat(CWD, pipe, FileType::Fifo, mode, 0).unwrap();
        std::fs::create_dir(directory.path().join(".b.lock")).unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.path().join(".c.lock")).unwrap();
        assert_eq!(holders(directory.path()).unwrap(), []);
    }
}
