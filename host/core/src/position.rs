//! Where a record is: segment names, points in a segment's decompressed stream, and spans between them.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::Printable;

/// The bare file name of a segment. Never a path: it holds no `/` and no NUL, and is not empty. Nor does it begin with a dot:
/// that is how the files are called that stand beside segments, such as checkpoints, and they must never pass for segments.
///
/// Names order as bytes, which for KumoMTA's `YYYYMMDD-HHMMSS.fraction` names is (nearly) the order of creation.
/// Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName(Arc<str>);

/// Why a string is no segment name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{}` cannot be a segment's name, which is a bare file name that does not begin with a dot", Printable(.0))]
pub struct SegmentNameError(String);

impl SegmentName {
    /// Checks and takes a file name.
    ///
    /// # Errors
    /// If `name` is empty, begins with a dot, or holds a `/` or a NUL byte.
    pub fn new(name: &str) -> Result<Self, SegmentNameError> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(SegmentNameError(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For people: a file's name may hold line breaks and sequences that a terminal obeys, which are [shown](Printable). Whatever is
/// read back, and the path of the file, is made of [`SegmentName::as_str`].
impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.0).fmt(f)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for SegmentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A point between two lines of a segment: how much of it lies before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Point {
    /// Lines before this point, blank and malformed ones included. The line that ends here has this number, counted
    /// from 1.
    pub line: u64,
    /// Bytes of the decompressed stream before this point.
    pub offset: u64,
}

/// Where a compression frame begins: the place to start decompressing from.
///
/// The default, zero and zero, is the start of the segment and always valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Frame {
    /// Byte offset of the frame in the file.
    pub compressed: u64,
    /// Byte offset in the decompressed stream of the frame's first byte.
    pub decompressed: u64,
}

/// A point together with the frame to resume from: decompress from `frame`, and throw away
/// `point.offset - frame.decompressed` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mark {
    /// The point.
    pub point: Point,
    /// The last frame known to begin at or before it.
    pub frame: Frame,
}

/// What tells a segment from another one that later bears the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The file's inode number.
    pub inode: u64,
    /// How many bytes at the head of the file [`head`](Self::head) covers, at most 64.
    pub head_len: u32,
    /// XXH3 (64 bits) of those bytes.
    pub head: u64,
}

impl Identity {
    /// Whether the two are certainly of different files. One that is taken later may cover more of a file that has grown.
    pub fn differs(&self, other: &Self) -> bool {
        self.inode != other.inode || (self.head_len == other.head_len && self.head != other.head)
    }
}

/// Where one record is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The segment.
    pub segment: SegmentName,
    /// The line's number in the segment, counted from 1, blank and malformed lines included.
    pub line: u64,
    /// Offset of the record's first byte in the segment's decompressed stream.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.line)
    }
}

/// A stretch of one segment, `(from, to]`: the lines `from.line + 1` to `to.line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The segment.
    pub segment: SegmentName,
    /// Which file of that name.
    pub identity: Identity,
    /// The end of what came before.
    pub from: Point,
    /// The end of this stretch, and how to resume there.
    pub to: Mark,
}
