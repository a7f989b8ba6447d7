//! Which processes use the checkpoints of a directory.

use std::io;
use std::path::Path;

use crate::CheckpointName;
use crate::checkpoint::holder;

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
            Some(pid) => found.push((name, pid)),
            // Whether it is in use is for those to know who may look.
            None => match std::fs::File::open(directory.join(&file)) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    let why = format!("{} cannot be looked at: {e}", Path::new(&file).display());
                    return Err(io::Error::new(e.kind(), why));
                }
                _ => {}
            },
        }
    }
    found.sort();
    Ok(found)
}
