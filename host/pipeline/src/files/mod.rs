//! The file system behind checkpoints and quarantines: the files beside the segments of one directory.
//!
//! It is a trait so that what a loss of power may leave behind can be enumerated: the tests run the same code over a
//! directory that exists only in memory, and over every state that it may be found in. The advisory lock is not part of
//! it: a lock does not outlive its process.

mod directory;

use std::fmt::Debug;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

pub(crate) use directory::{Directory, explain, is_refusal, only_name, private, regular};

/// The files of one directory, by their names in it.
pub(crate) trait Files: Debug + Send + Sync {
    /// The directory's path as it is now, for people and for KumoMTA.
    fn path(&self) -> PathBuf;

    /// Opens a file. No symbolic link is followed. What is no file, and for adding to it also what has a second name or is
    /// somebody else's, is an error; for writing it anew, it is removed.
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn OpenFile>>;

    /// A file's content.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// What tells a file from another, or from itself at another time.
    fn stamp(&self, name: &str) -> io::Result<Stamp>;

    /// The names in the directory that are UTF-8, in any order.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, in place of whatever had it. There is no moment without a file of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Exchanges the names of two files at once. [`io::ErrorKind::NotFound`] if there are not two; any other error may mean
    /// that the file system can't do it.
    fn exchange(&self, one: &str, other: &str) -> io::Result<()>;

    /// Gives a file a second name, which must be free.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Brings all names to the disk. What is in the files is not brought there.
    fn sync_names(&self) -> io::Result<()>;
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// To read; it must exist.
    Read,
    /// To write over it from its start. What is in it stays until it is written over; it is made if there is none.
    Overwrite,
    /// To write another content, from nothing.
    Renew,
    /// To add to its end, and to read; it must exist.
    Append,
    /// As `Append`, but it is made if there is none.
    AppendOrCreate,
}

/// An open file. It stays the same file when its name is given to another.
pub(crate) trait OpenFile: Read + Write + Seek + Send {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Cuts it off, or fills it up with zero bytes.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Brings its content and its length to the disk. Its name is not brought there.
    fn sync(&self) -> io::Result<()>;
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) length: u64,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, i64),
    /// Whether it is a file, and not a directory, a link or something else.
    pub(crate) regular: bool,
}

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod simulated;
