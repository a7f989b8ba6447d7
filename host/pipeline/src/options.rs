//! What a source and its consumers are told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tailweir_core::{Filter, FilterFactory};
use tailweir_segments::ReaderOptions;
use thiserror::Error;

use crate::{OnCrash, QuarantineOptions};

/// As good as never, and not so far away that adding it to the present time overflows: a hundred years. Longer times count
/// as this one.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A directory to read, for all consumers of one [`crate::open`].
pub struct SourceOptions {
    /// What to read and how.
    pub reader: ReaderOptions,
    /// Where to start.
    pub start: StartFrom,
}

impl SourceOptions {
    /// The defaults for a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { reader: ReaderOptions::new(directory), start: StartFrom::Checkpoint }
    }
}

/// Where a consumer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartFrom {
    /// Behind what its checkpoint covers; at the oldest segment, if it has none.
    #[default]
    Checkpoint,
    /// At the newest segment there is, whatever the checkpoint says. Older ones count as dealt with.
    Newest,
}

/// One consumer.
pub struct ConsumerOptions {
    /// Its name; part of every batch's id.
    pub name: String,
    /// Records per batch, at most.
    pub max_batch_size: usize,
    /// Bytes of records per batch, at most; a larger record makes a batch of its own.
    pub max_batch_bytes: usize,
    /// How long the first record of a batch waits for others.
    pub max_batch_latency: Duration,
    /// How many delivered batches may be without commit, if there is a checkpoint.
    pub max_uncommitted: usize,
    /// Where its progress is kept; `None` keeps none, and every run starts over.
    pub checkpoint: Option<CheckpointOptions>,
    /// What to do with lines that are not records.
    pub on_malformed: OnMalformed,
    /// What to do when the filter fails.
    pub on_filter_error: OnFilterError,
    /// With [`OnFilterError::Isolate`]: how many records in a row may be found that the filter fails on, with none that it
    /// answers about between them, until it is held to be broken. `None` is no limit.
    pub max_poison: Option<u32>,
    /// Which records it wants: those that all of these keep. They are asked in this order, each about what those before it have
    /// kept. All records, if there is none.
    pub filters: Vec<FilterOptions>,
    /// How many threads besides the consumer's own may filter at once, of those that a consumer which has fallen behind may be
    /// given; `None` leaves it to the number of cores. There are never more than cores for all consumers of the process
    /// together.
    pub filter_threads: Option<usize>,
}

impl ConsumerOptions {
    /// The defaults: batches of 100 records, 16 MiB or one second, no checkpoint, no filter.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            max_batch_size: 100,
            max_batch_bytes: 16 << 20,
            max_batch_latency: Duration::from_secs(1),
            max_uncommitted: 1024,
            checkpoint: None,
            on_malformed: OnMalformed::default(),
            on_filter_error: OnFilterError::default(),
            max_poison: Some(OnCrash::LIMIT),
            filters: Vec::new(),
            filter_threads: None,
        }
    }
}

/// One filter of a consumer.
pub struct FilterOptions {
    /// What it is called where it is to blame: in the quarantine, and in errors if there are several.
    pub name: String,
    /// The filter.
    pub filter: Box<dyn Filter>,
    /// Makes more of it, for other threads. Without, all filters of the consumer keep to its own thread.
    pub more: Option<Arc<dyn FilterFactory>>,
}

impl FilterOptions {
    /// A filter called `filter`, of which there is only this one.
    pub fn new(filter: impl Filter + 'static) -> Self {
        Self::from(Box::new(filter) as Box<dyn Filter>)
    }
}

impl From<Box<dyn Filter>> for FilterOptions {
    fn from(filter: Box<dyn Filter>) -> Self {
        Self { name: "filter".to_owned(), filter, more: None }
    }
}

/// What to do with a line that is not a record. It is counted and named in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMalformed {
    /// Keep it in `.<checkpoint_name>.quarantine`; without a checkpoint there is no such file, and it is skipped.
    #[default]
    Quarantine,
    /// Go on behind it.
    Skip,
    /// Deliver what comes before it, then fail.
    Fail,
}

/// What to do when a filter fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFilterError {
    /// Deliver what comes before the record that it failed on, then return its error.
    #[default]
    Raise,
    /// Find the records that it fails on, put them in quarantine, and go on.
    Isolate,
}

/// Where and how safely progress is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// The checkpoint is the file `.<name>` in the directory.
    pub name: CheckpointName,
    /// When it must have reached the disk.
    pub sync: CheckpointSync,
    /// How much the quarantine beside it may hold, and what happens then.
    pub quarantine: QuarantineOptions,
}

impl CheckpointOptions {
    /// A checkpoint that is brought to the disk every second.
    pub fn new(name: CheckpointName) -> Self {
        Self { name, sync: CheckpointSync::default(), quarantine: QuarantineOptions::default() }
    }
}

/// When a commit reaches the disk. Either way a crash of the process loses no commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointSync {
    /// Before `commit` returns.
    Always,
    /// At most so long after; a loss of power can make the records committed since then come again.
    Interval(Duration),
}

impl Default for CheckpointSync {
    fn default() -> Self {
        Self::Interval(Duration::from_secs(1))
    }
}

impl CheckpointSync {
    /// Parses `always` or a duration such as `1s`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "always" {
            return Ok(Self::Always);
        }
        match humantime::parse_duration(text) {
            Ok(interval) if !interval.is_zero() => Ok(Self::Interval(interval)),
            Ok(_) => Err(format!("checkpoint_sync must be \"always\" or more than zero, not `{text}`")),
            Err(e) => Err(format!(
                "checkpoint_sync must be \"always\" or a duration such as \"1s\", not `{text}`: {e}"
            )),
        }
    }
}

/// A checkpoint's name: the checkpoint is the file `.<name>` inside the directory, and files beside it are named after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointName(String);

/// Why a string can name no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("checkpoint_name `{name}` {problem}")]
pub struct CheckpointNameError {
    name: String,
    problem: String,
}

/// What files beside a checkpoint end in.
const RESERVED: [&str; 7] = [".lock", ".state", ".quarantine", ".prev", ".finished", ".unbalanced", ".tmp"];

impl CheckpointName {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is empty, starts with a dot, holds a `/` or a control character, is longer than 200 bytes, or ends like
    /// one of the files that stand beside a checkpoint.
    pub fn new(name: &str) -> Result<Self, CheckpointNameError> {
        let fail = |problem: String| Err(CheckpointNameError { name: name.to_owned(), problem });
        if name.is_empty() {
            return fail("is empty".to_owned());
        }
        if name.starts_with('.') {
            return fail("starts with a dot; the dot of the file's name is added for you".to_owned());
        }
        if name.contains('/') || name.chars().any(char::is_control) {
            return fail(
                "holds a `/` or a control character; it names a file inside the directory".to_owned(),
            );
        }
        if name.len() > 200 {
            return fail("is longer than 200 bytes".to_owned());
        }
        // Older parts of a quarantine are numbered.
        let unnumbered = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let part = unnumbered.strip_suffix('.').filter(|rest| rest.len() + 1 < name.len());
        let part = part.filter(|rest| rest.ends_with(".quarantine"));
        if let Some(suffix) = RESERVED.iter().find(|s| part.unwrap_or(name).ends_with(*s)) {
            return fail(format!("ends in `{suffix}`, which is kept for files beside the checkpoint"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the checkpoint's file, or with a suffix of a file beside it.
    pub(crate) fn file(&self, suffix: &str) -> String {
        format!(".{}{suffix}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_checkpoint_is_called_like_a_file_that_stands_beside_one() {
        let is_refused = |name: &str| CheckpointName::new(name).is_err();
        for suffix in RESERVED {
            for name in [format!("a{suffix}"), format!("a.b{suffix}"), suffix[1..].to_owned() + suffix] {
                assert!(is_refused(&name), "{name}");
            }
        }
        for name in ["a.quarantine.1", "a.quarantine.23", "", ".a", "a/b", "../a", "a\n", &"a".repeat(201)] {
            assert!(is_refused(name), "{name}");
        }
        for name in ["a", "lock", "a.lock.b", "a.1", "a.quarantine.b", "state", "a..b", &"a".repeat(200)] {
            assert!(!is_refused(name), "{name}");
        }
    }
}
