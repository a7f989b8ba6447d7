//! Compiling ahead of time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use crate::cache::CacheError;
use crate::compile::Key;
use crate::host::Host;
use crate::inspect::Inspection;
use crate::limits::Limits;
use crate::load::{LoadError, read};

/// A plug-in whose machine code is kept.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// What it is.
    pub inspection: Inspection,
    /// Where its code is.
    pub place: PathBuf,
    /// Bytes of the code.
    pub bytes: u64,
    /// Whether it was compiled just now.
    pub when: When,
}

/// When a plug-in was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Earlier: its code was there.
    Before,
    /// Now, which took so long.
    Now(std::time::Duration),
}

/// A plug-in was not compiled, or its code is not kept.
#[derive(Debug, Error)]
pub enum PrecompileError {
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no place to keep it.
    #[error("compiled code is kept nowhere: the cache is off; name a directory with `--plugin-cache DIR`")]
    NoCache,
    /// The place is not usable.
    #[error("the plug-in cache: {0}")]
    Cache(String),
}

impl From<CacheError> for PrecompileError {
    fn from(error: CacheError) -> Self {
        Self::Cache(error.to_string())
    }
}

pub(crate) fn precompile(host: &Arc<Host>, path: &Path, limits: Limits) -> Result<Compiled, PrecompileError> {
    let key = Key::of(host.engine(), &read(path)?);
    let directory = host.compiler().open_cache()?.ok_or(PrecompileError::NoCache)?;
    // What cannot be used is replaced, and said in the log as at any start.
    let before = matches!(directory.get(&key), Ok(Some(_)));
    let begun = Instant::now();
    let inspection = host.inspect(path, limits)?;
    let when = if before { When::Before } else { When::Now(begun.elapsed()) };
    let Some(code) = directory.get(&key)? else {
        let why = format!("{}: the code was not kept; `--log warn` says why", path.display());
        return Err(PrecompileError::Cache(why));
    };
    let bytes = code.bytes().len() as u64;
    Ok(Compiled { inspection, place: directory.path_of(&key), bytes, when })
}
