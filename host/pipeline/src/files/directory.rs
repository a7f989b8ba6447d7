//! A directory held open, so that files in it are found again when it is moved or renamed.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

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

    /// Who may have made a file that we add to: we, root, or whose directory it is.
    fn trusts(&self, meta: &Metadata) -> bool {
        let owner = meta.uid();
        owner == geteuid().as_raw() || owner == 0 || self.0.metadata().is_ok_and(|dir| dir.uid() == owner)
    }

    /// Opens a file that is written anew, and of which nothing is kept but its place on the disk. One that is not ours
    /// alone, or no file, is removed, and another made.
    fn open_spare(&self, name: &str) -> io::Result<File> {
        let path = self.entry(name);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.0, name, flags, Mode::empty()).map_err(io::Error::from) {
            Ok(file) => {
                let file = File::from(file);
                let meta = file.metadata()?;
                let ours = meta.uid() == geteuid().as_raw() && meta.mode() & 0o777 & !MODE == 0;
                if ours && meta.is_file() && meta.nlink() == 1 {
                    return Ok(file);
                }
                std::fs::remove_file(&path)?;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            // A directory of that name is not removed so, and stays an error.
            Err(e) => std::fs::remove_file(&path).map_err(|_| e)?,
        }
        private().write(true).create_new(true).open(&path)
    }

    /// A path to a file in it that leads there even while it is moved. What each commit does is done without one, in fewer steps.
    pub(crate) fn entry(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

impl Files for Directory {
    fn path(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).unwrap_or_default()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn OpenFile>> {
        let mut options = private();
        options.read(true);
        match access {
            Access::Overwrite => return Ok(Box::new(self.open_spare(name)?)),
            Access::Renew => {
                let file = self.open_spare(name)?;
                file.set_len(0)?;
                return Ok(Box::new(file));
            }
            Access::Read => {}
            Access::Append => _ = options.append(true),
            Access::AppendOrCreate => _ = options.append(true).create(true),
        }
        let file = options.open(self.entry(name)).map_err(explain)?;
        let meta = regular(&file)?;
        if access != Access::Read {
            only_name(&meta)?;
            if !self.trusts(&meta) {
                return Err(refusal("it belongs to another user, who may read what is added; remove it"));
            }
        }
        Ok(Box::new(file))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let (mut file, mut content) = (self.open(name, Access::Read)?, Vec::new());
        file.read_to_end(&mut content)?;
        Ok(content)
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let stat = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Stamp {
            inode: stat.st_ino,
            length: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            regular: FileType::from_raw_mode(stat.st_mode).is_file(),
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
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        Ok(renameat_with(&self.0, one, &self.0, other, RenameFlags::EXCHANGE)?)
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

/// The mode of files beside the segments, of which a umask may take some away.
const MODE: u32 = 0o640;

/// How files beside the segments are opened: only the owner and the group may read them, only the owner may write, no link
/// leads out of the directory, and no pipe makes us wait.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(MODE).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

/// What of a file beside the segments is looked at before it is used, if it is a file.
pub(crate) fn regular(file: &File) -> io::Result<Metadata> {
    let meta = file.metadata()?;
    if meta.is_file() { Ok(meta) } else { Err(refusal("it is no regular file; remove it")) }
}

/// Refuses a file that has a second name, which may be one outside of the directory.
pub(crate) fn only_name(meta: &Metadata) -> io::Result<()> {
    match meta.nlink() {
        0 | 1 => Ok(()),
        _ => Err(refusal(
            "it has a second name, a hard link, under which it would be changed too; remove one of them",
        )),
    }
}

/// Says what is meant by an error of [`private`]'s.
pub(crate) fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => refusal("it is a symbolic link, which is not followed; remove it"),
        Some(Errno::NXIO) => refusal("it is no regular file; remove it"),
        _ => error,
    }
}

/// Whether it was us who refused the file, and not the system.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

fn refusal(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Something that somebody put in the place of a file, and the file outside that must stay as it is.
    fn planted(plant: impl FnOnce(&Path, &Path)) -> (tempfile::TempDir, PathBuf, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(&outside, "precious").unwrap();
        plant(&outside, &inside.join("x"));
        let directory = Directory::open(&inside).unwrap();
        (folder, outside, directory)
    }

    fn check(access: Access, plant: impl Fn(&Path, &Path), expected: Result<(), &str>) {
        let (_folder, outside, directory) = planted(plant);
        let opened = directory.open("x", access).and_then(|mut file| match access {
            Access::Read => Ok(()),
            _ => file.write_all(b"new"),
        });
        let said = opened.map_err(|e| e.to_string());
        assert_eq!(
            said.as_ref()
                .map_err(|e| &e[..e.find(',').unwrap_or(e.len()).min(e.find(';').unwrap_or(e.len()))]),
            expected.as_ref().map_err(|e| *e),
            "{access:?}"
        );
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "precious", "{access:?}");
    }

    #[test]
    fn what_is_planted_under_a_name_leads_nowhere() {
        let link = |outside: &Path, inside: &Path| symlink(outside, inside).unwrap();
        let hard = |outside: &Path, inside: &Path| std::fs::hard_link(outside, inside).unwrap();
        let pipe = |_: &Path, inside: &Path| {
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, inside, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        };
        for access in [Access::Overwrite, Access::Renew] {
            check(access, link, Ok(()));
            check(access, hard, Ok(()));
            check(access, pipe, Ok(()));
        }
        for access in [Access::Append, Access::AppendOrCreate] {
            check(access, link, Err("it is a symbolic link"));
            check(access, hard, Err("it has a second name"));
            check(access, pipe, Err("it is no regular file"));
        }
        check(Access::Read, link, Err("it is a symbolic link"));
        check(Access::Read, pipe, Err("it is no regular file"));
        let dangling =
            |outside: &Path, inside: &Path| symlink(outside.with_file_name("none"), inside).unwrap();
        check(Access::AppendOrCreate, dangling, Err("it is a symbolic link"));
        check(Access::Overwrite, dangling, Ok(()));
    }

    #[test]
    fn a_spare_is_kept_only_if_nobody_else_can_use_it() {
        let mode = |mode| {
            move |_: &Path, inside: &Path| {
                std::fs::write(inside, "old").unwrap();
                std::fs::set_permissions(inside, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        let inode = |directory: &Directory| std::fs::metadata(directory.entry("x")).unwrap().ino();
        let (_folder, _, directory) = planted(mode(0o600));
        let before = inode(&directory);
        directory.open("x", Access::Overwrite).unwrap();
        assert_eq!((inode(&directory), directory.read("x").unwrap()), (before, b"old".to_vec()));
        let (_folder, _, directory) = planted(mode(0o644));
        directory.open("x", Access::Overwrite).unwrap();
        assert_eq!(directory.read("x").unwrap(), b"");
        assert_eq!(std::fs::metadata(directory.entry("x")).unwrap().mode() & 0o777 & !MODE, 0);
    }
}
