//! One directory: listing it, opening and telling apart the files in it.
//!
//! The directory is held open and files are opened relative to it, so that reading goes on when it is renamed.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat};
use rustix::process::geteuid;
use tailweir_core::{Identity, SegmentName};
use xxhash_rust::xxh3::xxh3_64;

use crate::decode::{SNIFF, Sniffed, sniff};
use crate::{Pattern, ReadError};

/// How many bytes at the head of a file take part in its identity.
const HEAD: usize = 64;
/// Bytes of names that are asked for at a time.
const LISTING: usize = 32 << 10;

/// Whether a segment may still grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// Its mode has a write bit: it is being written.
    Open,
    /// Its mode has none: it is complete, unless somebody is still copying it into the directory.
    Sealed,
}

impl Seal {
    pub(crate) fn of_mode(mode: u32) -> Self {
        if mode & 0o222 == 0 { Self::Sealed } else { Self::Open }
    }
}

/// A file that may be a segment, as the directory shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: SegmentName,
    /// Whether it is complete.
    pub sealed: Seal,
    /// Its size in bytes, as it is on disk.
    pub len: u64,
    /// Its inode number.
    pub inode: u64,
    /// When it was written to last.
    pub modified: SystemTime,
}

/// The regular files of `directory` (links to them too) whose names match, sorted by name. Files that vanish meanwhile
/// are left out.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(directory: &Path, pattern: &Pattern) -> Result<Vec<Entry>, ReadError> {
    let directory = Directory::open(directory)?;
    let mut entries = Vec::new();
    directory.scan(|found| {
        let Some(name) = found.segment(pattern) else {
            return;
        };
        let Ok(stat) = directory.stat(name.as_str()) else {
            return;
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            entries.push(Entry {
                name,
                sealed: Seal::of_mode(stat.st_mode),
                len: stat.st_size as u64,
                inode: stat.st_ino,
                modified: modified(&stat),
            });
        }
    })?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn modified(stat: &Stat) -> SystemTime {
    let (seconds, nanos) = (stat.st_mtime, stat.st_mtime_nsec as u32);
    match u64::try_from(seconds) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

/// What the directory itself says about one name, without a look at the file.
pub(crate) struct Found<'a> {
    pub name: &'a [u8],
    pub inode: u64,
    pub kind: FileType,
}

impl Found<'_> {
    pub(crate) fn segment(&self, pattern: &Pattern) -> Option<SegmentName> {
        SegmentName::new(self.text().filter(|name| pattern.matches(name))?).ok()
    }

    /// The name, unless it is not UTF-8.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.name).ok()
    }

    /// The name as it can be shown to people.
    pub(crate) fn lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.name)
    }
}

/// A directory held open: readers of it that are opened later find it though it was renamed in between.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    fd: Arc<OwnedFd>,
    /// Whether another one is known to be at `path`.
    replaced: bool,
}

/// What a name turned out to be.
pub(crate) enum Opened {
    /// A regular file, open for reading.
    File(File),
    /// It is gone, or a link to nowhere.
    Missing,
    /// Not a regular file; what it is.
    Other(&'static str),
}

impl Directory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// If it is missing, is no directory, or may not be read.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { path: path.to_owned(), fd: Arc::new(fd), replaced: false }),
            Err(rustix::io::Errno::NOENT) => Err(ReadError::Missing { directory: path.to_owned() }),
            Err(rustix::io::Errno::NOTDIR) => Err(ReadError::NotADirectory { directory: path.to_owned() }),
            Err(e) => Err(ReadError::Directory { directory: path.to_owned(), source: e.into() }),
        }
    }

    /// Whether a reader takes the file of this name for a segment, as far as its first bytes tell; an empty one may become one.
    /// Not if it can't be opened.
    pub fn is_segment(&self, name: &SegmentName) -> bool {
        let Ok(Opened::File(file)) = self.open_file(name.as_str()) else { return false };
        let mut head = [0; SNIFF];
        read_head(&file, &mut head).is_ok_and(|len| !matches!(sniff(&head[..len]), Sniffed::Foreign(_)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// If the directory was deleted and one of the same name is there again, goes on with that one.
    pub(crate) fn reopen_if_deleted(&mut self) -> bool {
        let deleted = rustix::fs::fstat(&*self.fd).is_ok_and(|stat| stat.st_nlink == 0);
        if deleted && let Ok(again) = Self::open(&self.path) {
            *self = again;
            return true;
        }
        false
    }

    /// Whether another directory is at this one's path, since it was moved away. Says so once.
    pub(crate) fn is_replaced(&mut self) -> bool {
        let Ok(there) = rustix::fs::stat(&self.path) else { return false };
        let Ok(ours) = rustix::fs::fstat(&*self.fd) else { return false };
        let replaced = (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) && ours.st_nlink > 0;
        replaced && !std::mem::replace(&mut self.replaced, true)
    }

    /// Calls `each` for each name but `.` and `..`, in no order.
    pub(crate) fn scan(&self, mut each: impl FnMut(&Found<'_>)) -> Result<(), ReadError> {
        let error =
            |e: rustix::io::Errno| ReadError::Directory { directory: self.path.clone(), source: e.into() };
        // Opened anew, since the place in a directory belongs to the descriptor.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let again = rustix::fs::openat(&*self.fd, ".", flags, Mode::empty()).map_err(error)?;
        let mut buffer = Vec::with_capacity(LISTING);
        let mut dir = RawDir::new(again, buffer.spare_capacity_mut());
        while let Some(entry) = dir.next() {
            let entry = entry.map_err(error)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                each(&Found { name, inode: entry.ino(), kind: entry.file_type() });
            }
        }
        Ok(())
    }

    /// What is behind `name`, links followed.
    pub(crate) fn stat(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&*self.fd, name, AtFlags::empty())?)
    }

    /// Opens `name` if it is a regular file. Never blocks on a FIFO or a device.
    ///
    /// A link is followed if we or root made it, or if who made it owns what it leads to: nobody who can write to the
    /// directory gets at files that only we can read.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<Opened> {
        let stat = match self.stat(name) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let link = rustix::fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
                return Ok(if link { Opened::Other("a dangling link") } else { Opened::Missing });
            }
            Err(e) => return Err(e),
        };
        if let Some(other) = kind_of(FileType::from_raw_mode(stat.st_mode)) {
            return Ok(Opened::Other(other));
        }
        // Held by a descriptor of its own, so that what is checked is what is followed.
        let handle = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = match rustix::fs::openat(&*self.fd, name, handle, Mode::empty()) {
            Ok(fd) => Some(fd).filter(is_link),
            Err(rustix::io::Errno::NOENT) => return Ok(Opened::Missing),
            Err(e) => return Err(e.into()),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = match &link {
            None => rustix::fs::openat(&*self.fd, name, flags | OFlags::NOFOLLOW, Mode::empty()),
            Some(link) => rustix::fs::readlinkat(link, "", Vec::new())
                .and_then(|target| rustix::fs::openat(&*self.fd, &target, flags, Mode::empty())),
        };
        let file = match opened {
            Ok(fd) => File::from(fd),
            // The second: a link has just taken the name, and is looked at next time.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => return Ok(Opened::Missing),
            Err(e) => return Err(e.into()),
        };
        let metadata = file.metadata()?;
        if let Some(link) = link {
            let made_by = rustix::fs::fstat(&link)?.st_uid;
            if made_by != geteuid().as_raw() && made_by != 0 && made_by != metadata.uid() {
                return Ok(Opened::Other("a link that one user made to a file of another"));
            }
        }
        // It may have been swapped between the calls.
        if metadata.is_file() { Ok(Opened::File(file)) } else { Ok(Opened::Other("not a regular file")) }
    }
}

fn is_link(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// `None` for a regular file; else what it is.
fn kind_of(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        _ => Some("not a regular file"),
    }
}

/// Why a name is certainly no segment, as far as the directory itself tells.
pub(crate) fn certainly_foreign(kind: FileType) -> Option<&'static str> {
    if matches!(kind, FileType::Symlink | FileType::Unknown) { None } else { kind_of(kind) }
}

/// Inode and the hash of the first bytes.
pub(crate) fn identify(file: &File) -> io::Result<Identity> {
    let mut head = [0; HEAD];
    let len = read_head(file, &mut head)?;
    Ok(Identity { inode: file.metadata()?.ino(), head_len: len as u32, head: xxh3_64(&head[..len]) })
}

/// Whether `file` is the one that `identity` was taken of. It may have grown.
pub(crate) fn is_same(file: &File, identity: &Identity) -> io::Result<bool> {
    let mut head = [0; HEAD];
    let want = (identity.head_len as usize).min(HEAD);
    let len = read_head(file, &mut head[..want])?;
    Ok(file.metadata()?.ino() == identity.inode && len == want && xxh3_64(&head[..len]) == identity.head)
}

/// Reads until `buffer` is full or the file ends.
pub(crate) fn read_head(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}
