//! A directory held open, so that files in it are found again when it is moved or renamed.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(File);

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { what: "open", path: path.to_owned(), source };
        File::open(path).map(Self).map_err(io)
    }

    /// Its path as it is now, for people and for KumoMTA.
    pub(crate) fn path(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).unwrap_or_default()
    }

    /// A path to a file in it that leads there even while it is moved.
    pub(crate) fn entry(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Brings the names in it to the disk.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.0.sync_all()
    }
}

/// How files beside the segments are opened: only the owner and the group may read them, only the owner may write, and no
/// link leads out of the directory.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o640).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options
}
