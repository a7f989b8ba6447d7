//! Machine code of components in a directory, so that the next process need not compile them.
//!
//! Machine code is run as it is, so a file is only as good as the right to write it: the directory and the file must belong
//! to us (or to root), and nobody else may write to them. A file that is stale, cut off or damaged is found out by its
//! header. Whatever is wrong is said and the component compiled anew; nothing here ever fails a load.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::compile::Key;

/// How many bytes the files may have together; those that were not used for longest go first.
const LIMIT: u64 = 256 << 20;
/// What each file begins with; the key and the SHA-256 of what follows come next.
const MAGIC: [u8; 16] = *b"tailweir code 1\n";
const HEADER: usize = MAGIC.len() + 32 + 32;
const SUFFIX: &str = ".code";
const UNFINISHED: &str = ".part";
/// An unfinished file of this age was left behind by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Why something of the cache is not used.
#[derive(Debug, Error)]
pub(crate) enum CacheError {
    /// The system refuses.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    /// It may be somebody else's.
    #[error("{}: {why}", path.display())]
    Untrusted { path: PathBuf, why: &'static str },
    /// It is not what was written.
    #[error("{}: {why}", path.display())]
    Unfit { path: PathBuf, why: &'static str },
}

impl CacheError {
    /// Whether it is no more than a place where nothing can be kept, which many services have.
    pub(crate) fn is_common(&self) -> bool {
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem))
    }
}

/// A directory that is trusted, held open: what its path leads to later does not matter.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    /// Opens it, and makes it first if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, CacheError> {
        let io = |doing, source| CacheError::Io { path: path.to_owned(), doing, source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| io("make", e))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
            rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
                let why = "a symbolic link or no directory; name the directory itself";
                CacheError::Untrusted { path: path.to_owned(), why }
            }
            e => io("open", e.into()),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| io("look at", e.into()))?;
        check_owner(&stat).map_err(|why| CacheError::Untrusted { path: path.to_owned(), why })?;
        Ok(Self { path: path.to_owned(), fd })
    }

    /// Where the code for this key is, or would be.
    pub(crate) fn path_of(&self, key: &Key) -> PathBuf {
        self.path.join(file_name(key))
    }

    /// The code for this key, if it is there, as it was written.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Code>, CacheError> {
        let path = self.path_of(key);
        let io = |doing, source| CacheError::Io { path: path.clone(), doing, source };
        // A pipe of that name must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, file_name(key), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => {
                return Err(CacheError::Untrusted { path, why: "a symbolic link" });
            }
            Err(e) => return Err(io("open", e.into())),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| io("look at", e.into()))?;
        let untrusted = |why| CacheError::Untrusted { path: path.clone(), why };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(untrusted("not a file"));
        }
        check_owner(&stat).map_err(untrusted)?;
        let unfit = |why| CacheError::Unfit { path: path.clone(), why };
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if size > LIMIT {
            return Err(unfit("larger than any that was written"));
        }
        let mut file = File::from(fd);
        // What is checked is this copy, and so is what is run.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        (&mut file).take(LIMIT).read_to_end(&mut bytes).map_err(|e| io("read", e))?;
        let code = Code::check(bytes, key).map_err(unfit)?;
        // For `trim`. It is no matter if it cannot be told.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(code))
    }

    /// Keeps the code for this key, in place of what there is, and drops what was not used for longest.
    ///
    /// Nothing is synchronized to the disk: a file that a power failure cuts off is found out by its header.
    pub(crate) fn put(&self, key: &Key, code: &[u8]) -> Result<(), CacheError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        if code.len() as u64 + HEADER as u64 > LIMIT {
            return Ok(());
        }
        let name = file_name(key);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{name}.{}-{count}{UNFINISHED}", std::process::id());
        let written = self.write(&unfinished, key, code).and_then(|()| {
            rustix::fs::renameat(&self.fd, &unfinished, &self.fd, &name).map_err(io::Error::from)
        });
        written.map_err(|source| {
            // It may never have been there.
            let _ = rustix::fs::unlinkat(&self.fd, &unfinished, AtFlags::empty());
            CacheError::Io { path: self.path.join(&name), doing: "write", source }
        })?;
        self.trim(&name, LIMIT);
        Ok(())
    }

    fn write(&self, name: &str, key: &Key, code: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        file.write_all(&MAGIC)?;
        file.write_all(key.bytes())?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)
    }

    /// Removes files until the rest has at most `limit` bytes, never `newest`. A process that has one of them open goes on
    /// reading it, and one that comes too late compiles; so whatever goes wrong here is no matter.
    fn trim(&self, newest: &str, limit: u64) {
        let Ok(entries) = Dir::read_from(&self.fd) else { return };
        let now = SystemTime::now();
        let mut kept = Vec::new();
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let Ok(stat) = rustix::fs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if name.ends_with(UNFINISHED)
                && now.duration_since(modified(&stat)).is_ok_and(|age| age > ABANDONED)
            {
                let _ = rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty());
            } else if name.ends_with(SUFFIX) {
                let newness = (name == newest, modified(&stat));
                kept.push((newness, u64::try_from(stat.st_size).unwrap_or(0), name));
            }
        }
        kept.sort_unstable();
        let mut total: u64 = kept.iter().map(|(_, size, _)| size).sum();
        for ((is_newest, _), size, name) in kept {
            if total <= limit || is_newest {
                break;
            }
            let _ = rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty());
            total -= size;
        }
    }
}

/// The content of a file whose header is in order.
pub(crate) struct Code(Vec<u8>);

impl Code {
    fn check(bytes: Vec<u8>, key: &Key) -> Result<Self, &'static str> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or("not written by this version of the program")?;
        let (written_for, rest) = rest.split_first_chunk::<32>().ok_or("cut off")?;
        let (digest, code) = rest.split_first_chunk::<32>().ok_or("cut off")?;
        if written_for != key.bytes() {
            return Err("made of another plug-in or by another version of the program");
        }
        if Sha256::digest(code)[..] != digest[..] {
            return Err("cut off, or changed since it was written");
        }
        Ok(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[HEADER..]
    }
}

fn file_name(key: &Key) -> String {
    format!("{key}{SUFFIX}")
}

fn check_owner(stat: &Stat) -> Result<(), &'static str> {
    if stat.st_uid != geteuid().as_raw() && stat.st_uid != 0 {
        return Err("it belongs to another user");
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err("others can write to it; take that away with `chmod go-w`");
    }
    Ok(())
}

fn modified(stat: &Stat) -> SystemTime {
    let (seconds, nanos) = (u64::try_from(stat.st_mtime).unwrap_or(0), stat.st_mtime_nsec);
    UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 32])
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(&folder.path().join("a/b")).unwrap();
        for n in 1..=4 {
            directory.put(&key(n), &[n; 1000]).unwrap();
            let file = File::open(directory.path_of(&key(n))).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1000 + u64::from(n))).unwrap();
        }
        let stale = folder.path().join("a/b").join(format!("x{UNFINISHED}"));
        File::create(&stale).unwrap().set_modified(UNIX_EPOCH).unwrap();
        // Its use makes it the newest but for the one that was written.
        assert_eq!(directory.get(&key(1)).unwrap().unwrap().bytes(), [1; 1000]);
        directory.trim(&file_name(&key(2)), 2 * (1000 + HEADER as u64));
        let left: Vec<u8> = (1..=4).filter(|n| directory.get(&key(*n)).unwrap().is_some()).collect();
        assert_eq!(left, [1, 2]);
        assert!(!stale.exists());
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        directory.put(&key(7), b"some machine code").unwrap();
        let whole = std::fs::read(directory.path_of(&key(7))).unwrap();
        assert!(Code::check(whole.clone(), &key(7)).is_ok_and(|code| code.bytes() == b"some machine code"));
        assert!(Code::check(whole.clone(), &key(8)).is_err());
        for at in 0..whole.len() {
            assert!(Code::check(whole[..at].to_vec(), &key(7)).is_err(), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(Code::check(changed, &key(7)).is_err(), "changed at {at}");
        }
    }
}
