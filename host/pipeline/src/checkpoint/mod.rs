//! The checkpoint: a consumer's frontier on disk.
//!
//! A checkpoint is the JSON file `.<name>` in the directory. Its `file` and `line` are KumoMTA's, so that either program
//! can go on where the other stopped; what more tailweir knows stands under `tailweir`, which KumoMTA does not look at.
//! The names of segments that are wholly dealt with are in a journal beside it, `.<name>.finished`: that is how a segment
//! that turns up late, with a name that sorts before others, is told from one that was read. Plug-ins' state is in
//! `.<name>.state`, if they have any, with the checkpoint that it goes with.

mod file;
mod format;
mod journal;
mod lock;
mod state;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tailweir_core::state::Changes;
use tailweir_core::{Contents, Frontier, SegmentName};
use thiserror::Error;

pub use file::FileStore;
pub use format::{Format, HasState, parse};
#[cfg(test)]
pub(crate) use journal::names as journal_names;
pub use lock::LostLock;
pub(crate) use lock::{Lock, LockError, holder};
pub use state::StateSize;
pub(crate) use state::size as state_size;
#[cfg(test)]
pub(crate) use state::tests::class as state_class;

/// What a store has kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// The frontier.
    pub frontier: Frontier,
    /// Segments in the frontier of which only the number of lines is known, as after KumoMTA's checkpoint.
    pub unlocated: HashSet<SegmentName>,
    /// Segments that are wholly dealt with.
    pub finished: HashSet<SegmentName>,
}

impl Saved {
    /// Makes the finished segments agree with the frontier, which is the later word where both know a segment: it may be a
    /// new file of an old name.
    fn settle_finished(&mut self) {
        for (name, progress) in &self.frontier.segments {
            if progress.finished {
                self.finished.insert(name.clone());
            } else {
                self.finished.remove(name);
            }
        }
    }
}

/// What [`CheckpointStore::load`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Nothing: the consumer starts over.
    Fresh,
    /// A checkpoint.
    Saved(Saved),
}

/// Tells whether a checkpoint may be written.
pub type Guard = Arc<dyn Fn() -> Result<(), StoreError> + Send + Sync>;

/// Keeps one consumer's progress.
///
/// Implementations promise: after [`save`](Self::save) has returned, [`load`](Self::load) in a new process gives what was
/// saved, even if this process was killed; after [`sync`](Self::sync), even if the power failed. A `save` that fails
/// leaves what was saved before.
pub trait CheckpointStore: Send {
    /// Says what must hold when something is written: `guard` is asked before a save and once more right before it takes
    /// effect, and if it has an error, that is the save's. Without one, nothing must.
    fn set_guard(&mut self, guard: Guard) {
        let _ = guard;
    }

    /// Reads what was saved last. Called once, before any `save`.
    ///
    /// # Errors
    /// If there is something but nothing usable; the error says what to do.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Saves a frontier and adds to the finished segments.
    ///
    /// # Errors
    /// If it could not be written. The names in `finished` must then be given again.
    fn save(&mut self, saved: &Saved, finished: &[SegmentName]) -> Result<(), StoreError>;

    /// Brings what was saved to the disk.
    ///
    /// # Errors
    /// If the disk says so.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Saves as [`save`](Self::save) does, and brings it to the disk. A store may know a cheaper way than one after the
    /// other.
    ///
    /// # Errors
    /// As [`save`](Self::save) and [`sync`](Self::sync). What was saved may be there then or not; it must be saved again.
    fn save_synced(&mut self, saved: &Saved, finished: &[SegmentName]) -> Result<(), StoreError> {
        self.save(saved, finished)?;
        self.sync()
    }

    /// Makes a place for the state of plug-ins, if there is none yet. `saved` is what was saved last. From then on each save
    /// keeps the changes since the last one as well: they are there then if and only if what was saved is.
    ///
    /// # Errors
    /// If the place can't be made. This store has none.
    fn open_state(&mut self, saved: &Saved) -> Result<(), StoreError> {
        let _ = saved;
        Err(StoreError::NoState)
    }

    /// What the bucket of this name holds, with all changes. Empty if there is no such bucket.
    fn bucket(&mut self, name: &str) -> Arc<Contents> {
        let _ = name;
        Arc::default()
    }

    /// Changes the bucket of this name, once the state is open. The next save keeps it.
    fn change_state(&mut self, bucket: &str, changes: Changes) {
        let _ = (bucket, changes);
    }
}

/// What went wrong with a checkpoint.
#[derive(Debug, Error)]
pub enum StoreError {
    /// An operation on one of its files failed.
    #[error("failed to {what} {path}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither the checkpoint nor its previous generation can be used.
    #[error(
        "the checkpoint {path} can't be used ({reason}), nor can a generation before it ({previous}); to start over from \
         the oldest segment: rm '{path}' '{path}.prev' '{path}.tmp'; to start at a known place: \
         printf '{{\"file\":\"SEGMENT\",\"line\":LINES_DONE}}' > '{path}'",
        path = path.display()
    )]
    Unusable {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What is wrong with the generations before it.
        previous: String,
    },
    /// The state of plug-ins can't be used.
    #[error(
        "the state of plug-ins {path} can't be used ({reason}); put a copy of it in its place that belongs to this checkpoint, \
         or let plug-ins begin with empty state: rm '{path}'",
        path = path.display()
    )]
    UnusableState {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It belongs to another process now, or may.
    #[error(transparent)]
    LostLock(#[from] LostLock),
    /// The store is of a kind that keeps no state.
    #[error("this store of checkpoints keeps no state of plug-ins")]
    NoState,
}
