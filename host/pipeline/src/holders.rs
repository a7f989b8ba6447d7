//! Which processes use the checkpoints of a directory.

use std::io;
use std::path::Path;

use crate::CheckpointName;
use crate::checkpoint::holder;

/// The checkpoints of a directory that are in use, each with the process that has its lock, by their names. KumoMTA takes no
/// lock and is never named.
///
/// # Errors
/// If the directory cannot be read.
pub fn holders(directory: &Path) -> io::Result<Vec<(CheckpointName, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name();
        let name = file.to_str().and_then(|file| file.strip_prefix('.')?.strip_suffix(".lock"));
        let Some(name) = name.and_then(|name| CheckpointName::new(name).ok()) else { continue };
        if let Some(pid) = holder(directory, &name) {
            found.push((name, pid));
        }
    }
    found.sort();
    Ok(found)
}
