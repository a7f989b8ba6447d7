//! What the checkpoints of a directory say, read without changing anything.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use tailweir_segments::{Pattern, PatternError, ReadError, measure};
use thiserror::Error;

use crate::checkpoint::{FileStore, Saved, StateSize, StoreError, holder, state_size};
use crate::files::Directory;
use crate::source::place_of;
use crate::{CheckpointName, Unreadable, pass::Place};

/// One checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointStatus {
    /// Its name, without the dot.
    pub name: String,
    /// The segment that it names: the lowest one that is not finished.
    pub segment: String,
    /// Lines of that segment that are dealt with.
    pub line: u64,
    /// When it was written.
    pub modified: SystemTime,
    /// The process that uses it now. KumoMTA takes no lock and is never named.
    pub held_by: Option<u32>,
    /// Who wrote it.
    pub written_by: WrittenBy,
    /// Segments that are not finished, the one named included if there is more in it.
    pub behind_segments: u64,
    /// Decompressed bytes in them that are not dealt with.
    pub behind_bytes: u64,
    /// Records and lines in its quarantine.
    pub quarantined: u64,
    /// Lines of its quarantine that can't be read.
    pub unreadable: Unreadable,
    /// The state of plug-ins, if there is any.
    pub state: Option<StateSize>,
    /// What was noted, in `.<name>.unbalanced`, of sums that did not add up: a fault of this program.
    pub unbalanced: Option<String>,
}

/// Who wrote a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WrittenBy {
    /// This program.
    Tailweir,
    /// KumoMTA's kumod, or an operator by hand.
    Kumod,
}

/// Why there is no status.
#[derive(Debug, Error)]
pub enum StatusError {
    /// The directory can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A checkpoint's files can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pattern is no glob.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// What stands under a checkpoint's name.
#[derive(Debug)]
pub enum Listed {
    /// A checkpoint.
    Checkpoint(CheckpointStatus),
    /// A file that no consumer could start from.
    Unusable {
        /// The checkpoint's name, without the dot.
        name: String,
        /// Why, and what to do.
        problem: StoreError,
    },
}

impl Listed {
    /// The checkpoint, if it can be used.
    pub fn usable(self) -> Option<CheckpointStatus> {
        match self {
            Self::Checkpoint(status) => Some(status),
            Self::Unusable { .. } => None,
        }
    }
}

/// The checkpoints in a directory, by name. How far behind they are is measured by decompressing what is left, so it takes
/// time in proportion.
///
/// # Errors
/// If the directory can't be read.
pub fn status(directory: &Path) -> Result<Vec<Listed>, StatusError> {
    let pattern = Pattern::new("*")?;
    // Fails for a directory that can't be read, before anything else is tried.
    tailweir_segments::list(directory, &pattern)?;
    let names = names(directory).map_err(|source| StoreError::Io {
        what: "list",
        path: directory.to_owned(),
        source,
    })?;
    let mut found = Vec::new();
    for name in names {
        match FileStore::new(directory, name.clone(), Arc::new(()))?.peek() {
            Ok(None) => {}
            Ok(Some((saved, written_by))) => {
                found
                    .extend(describe(directory, &pattern, &name, saved, written_by)?.map(Listed::Checkpoint));
            }
            Err(problem) => found.push(Listed::Unusable { name: name.as_str().to_owned(), problem }),
        }
    }
    Ok(found)
}

/// `None` for a checkpoint that names no segment yet.
fn describe(
    directory: &Path,
    pattern: &Pattern,
    name: &CheckpointName,
    saved: Saved,
    written_by: WrittenBy,
) -> Result<Option<CheckpointStatus>, StatusError> {
    let frontier = &saved.frontier.segments;
    let lowest = frontier.iter().find(|(_, p)| !p.finished).or(frontier.iter().next_back());
    let Some((segment, line)) = lowest.map(|(name, p)| (name.as_str().to_owned(), p.mark.point.line)) else {
        return Ok(None);
    };
    let place: Place = place_of(saved);
    let remaining = measure(directory, pattern, &place.cursor())?;
    let behind = remaining.iter().filter(|r| r.bytes > 0);
    let path = directory.join(name.file(""));
    let files = Directory::open(directory)?;
    let (quarantined, unreadable) = crate::quarantine::count(directory, name);
    Ok(Some(CheckpointStatus {
        segment,
        line,
        modified: std::fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH),
        held_by: holder(directory, name).unwrap_or(None),
        written_by,
        behind_segments: behind.clone().count() as u64,
        behind_bytes: behind.map(|r| r.bytes).sum(),
        quarantined,
        unreadable,
        state: state_size(&files, name),
        unbalanced: crate::book::noted(&files, name),
        name: name.as_str().to_owned(),
    }))
}

/// Names of what may be checkpoints: hidden files that hold one or have one of a checkpoint's other files beside them.
fn names(directory: &Path) -> std::io::Result<BTreeSet<CheckpointName>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name();
        let Some(hidden) = file.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
        let Ok(name) = CheckpointName::new(hidden) else { continue };
        let beside = [".lock", ".prev", ".finished"].iter().any(|s| directory.join(name.file(s)).exists());
        if beside || holds_checkpoint(&directory.join(&file)) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Whether a file is a checkpoint. One larger than a mebibyte is not looked at.
fn holds_checkpoint(path: &Path) -> bool {
    let small = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= 1 << 20);
    small && std::fs::read(path).is_ok_and(|text| crate::checkpoint::parse(&text).is_ok())
}
