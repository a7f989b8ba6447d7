//! What a reader is told.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tailweir_core::{EventSink, Identity, Mark, Printable, SegmentName};
use thiserror::Error;

use crate::{Hand, Pattern};

/// In which order segments are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ordering {
    /// By name, but a segment that is still open and has no more data does not hold up later ones.
    #[default]
    Name,
    /// By name, each to its end before the next one is begun.
    Strict,
}

/// How changes of the directory are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watch {
    /// By what the operating system has for it, and by a scan that finds what that has missed: of the open segments each
    /// second, of the names each second too, or less often the longer it takes, down to every ten seconds.
    #[default]
    Native,
    /// By a scan at this interval, for file systems that tell nothing.
    Poll(Duration),
}

/// When reading ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Never.
    #[default]
    Follow,
    /// After everything that was there when the reader was opened; in open segments, up to their present end.
    Once,
    /// As [`Once`](Self::Once), and all that is there is complete, whatever the modes of the files say: what stands behind the
    /// last line break of one is a line, and one that ends in the middle of a frame is damaged.
    Complete,
}

/// What to read, and how.
#[derive(Clone)]
pub struct ReaderOptions {
    /// The directory. Directories in it are not looked into.
    pub directory: PathBuf,
    /// Which names in it are segments. Default: all that are not hidden.
    pub pattern: Pattern,
    /// In which order they are read.
    pub ordering: Ordering,
    /// How changes are noticed.
    pub watch: Watch,
    /// When reading ends.
    pub mode: Mode,
    /// Bytes that a line may have; longer ones are passed over. Default: 64 MiB. At most 1 GiB.
    pub max_line_size: usize,
    /// Bytes of text that a block has, about. Default: 1 MiB.
    pub block_size: usize,
    /// Bytes that may be decoded ahead of [`Reader::next`](crate::Reader::next). One block always may. Default: 32 MiB.
    pub read_ahead_bytes: usize,
    /// Threads that decode sealed segments. Default: zero, which means as many as there are processors.
    pub workers: usize,
    /// Who hears of what happens.
    pub events: Arc<dyn EventSink>,
    /// Whoever moves the clock and reports changes, for simulations. Default: `None`, the system does.
    pub hand: Option<Hand>,
}

const MAX_LINE_SIZE: usize = 1 << 30;

impl ReaderOptions {
    /// The defaults, for `directory`, with events going nowhere.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            pattern: Pattern::default(),
            ordering: Ordering::default(),
            watch: Watch::default(),
            mode: Mode::default(),
            max_line_size: 64 << 20,
            block_size: 1 << 20,
            read_ahead_bytes: 32 << 20,
            workers: 0,
            events: Arc::new(()),
            hand: None,
        }
    }

    /// Puts numbers in bounds. A block's arena is addressed with 32 bits.
    pub(super) fn normalize(&mut self) {
        self.max_line_size = self.max_line_size.clamp(1, MAX_LINE_SIZE);
        self.block_size = self.block_size.clamp(16, MAX_LINE_SIZE);
        if self.workers == 0 {
            self.workers = std::thread::available_parallelism().map_or(1, usize::from);
        }
    }
}

impl std::fmt::Debug for ReaderOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { directory, pattern, ordering, watch, mode, .. } = self;
        write!(f, "ReaderOptions({directory:?}, {pattern:?}, {ordering:?}, {watch:?}, {mode:?}, …)")
    }
}

/// Where in a segment reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this place.
    Mark(Mark),
    /// Behind so many lines, wherever that is in bytes: what KumoMTA's checkpoints say.
    Line(u64),
}

/// A segment that was read in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Where reading goes on.
    pub start: Start,
    /// Which file it was. If another file has taken its place, it is read from its start; `None` takes any.
    pub identity: Option<Identity>,
}

impl Begun {
    pub(super) fn is_past_start(&self) -> bool {
        match self.start {
            Start::Mark(mark) => mark.point.offset > 0,
            Start::Line(line) => line > 0,
        }
    }
}

/// What was read before. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    /// Segments that were read in part.
    pub begun: BTreeMap<SegmentName, Begun>,
    /// Segments that were read to their end: they are not read again.
    pub finished: HashSet<SegmentName>,
}

/// Why a directory cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is none.
    #[error("the directory {} does not exist", directory.display())]
    Missing {
        /// The directory.
        directory: PathBuf,
    },
    /// It is something else.
    #[error("{} is not a directory", directory.display())]
    NotADirectory {
        /// The path.
        directory: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read the directory {}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A segment in it cannot be read.
    #[error("cannot read the segment {}", Printable(&path.to_string_lossy()))]
    Segment {
        /// The segment.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Threads that read cannot be started.
    #[error("cannot start threads for reading")]
    Threads {
        /// Why.
        #[source]
        source: io::Error,
    },
}
