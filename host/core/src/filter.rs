//! What decides which records a consumer wants.

use std::error::Error as StdError;
use std::sync::Arc;

use thiserror::Error;

use crate::Batch;

/// Keeps or drops records; does no I/O. Called once per batch of candidates.
///
/// Native, Lua and WebAssembly filters implement it and are held to one contract suite:
/// * the verdict has one answer per candidate, in order;
/// * the same candidates get the same verdict, however they are cut into batches.
pub trait Filter {
    /// Says which of the candidates to keep.
    ///
    /// # Errors
    /// If the filter failed; see [`FilterError::decided`] for what it had decided before.
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError>;
}

/// Makes filters that are alike, one for each thread that wants one.
pub trait FilterFactory: Send + Sync {
    /// Makes a filter.
    ///
    /// # Errors
    /// If the engine cannot; what it says.
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn StdError + Send + Sync>>;
}

/// A filter's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Keep every candidate.
    All,
    /// Keep none.
    None,
    /// Keep those with `true`; one entry per candidate.
    Keep(Vec<bool>),
}

impl Verdict {
    /// Whether the candidate at `index` is kept. A candidate without an entry is not.
    pub fn keeps(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Keep(keep) => keep.get(index).copied().unwrap_or(false),
        }
    }
}

/// A filter failed.
#[derive(Debug, Error)]
#[error("{source}")]
pub struct FilterError {
    /// Verdicts on the candidates before the one that it failed on. Empty if the filter decides the batch as a whole:
    /// then which candidate it failed on is not known.
    pub decided: Vec<bool>,
    /// Whether `decided.len()` is the index of the candidate that it failed on.
    pub located: Located,
    /// What it says.
    pub source: Box<dyn StdError + Send + Sync>,
}

/// Whether it is known which record a filter failed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// On the candidate after the ones decided.
    Record,
    /// Somewhere in the batch.
    Batch,
}
