//! A directory held open, so that files in it are found again when it is moved or renamed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Access, Files, OpenFile, Stamp};
use crate::StoreError;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(File);

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { what: "open", path: path.to_owned(), source };
        File::open(path).map(Self).map_err(io)
    }

    /// A path to a file in it that leads there even while it is moved.
    fn entry(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

impl Files for Directory {
    fn path(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).unwrap_or_default()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn OpenFile>> {
        let mut options = private();
        match access {
            Access::Read => options.read(true),
            Access::Overwrite => options.write(true).create(true).truncate(false),
            Access::Renew => options.write(true).create(true).truncate(true),
            Access::Append => options.read(true).append(true),
            Access::AppendOrCreate => options.read(true).append(true).create(true),
        };
        Ok(Box::new(options.open(self.entry(name))?))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.entry(name))
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let meta = std::fs::symlink_metadata(self.entry(name))?;
        Ok(Stamp {
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            regular: meta.is_file(),
        })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.entry(""))? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.entry(from), self.entry(to))
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        Ok(renameat_with(CWD, self.entry(one), CWD, self.entry(other), RenameFlags::EXCHANGE)?)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::hard_link(self.entry(from), self.entry(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.entry(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl OpenFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        // Of a file's attributes only the length matters here, and this brings it along.
        self.sync_data()
    }
}

/// How files beside the segments are opened: only the owner and the group may read them, only the owner may write, and no
/// link leads out of the directory.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o640).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options
}
