//! Records as lines in a file.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::Deserialize;
use tailweir_pipeline::{Outgoing, Sink, SinkFuture};

/// The table `file = { … }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileOptions {
    /// Appended to; made if it is not there.
    pub(crate) path: PathBuf,
    /// Whether a batch must be on the disk before it counts as done. Without it a loss of power can lose records that
    /// the checkpoint covers.
    #[serde(default = "yes")]
    pub(crate) sync: bool,
}

fn yes() -> bool {
    true
}

/// Appends to a file. A file that was moved away is made anew under its name; a batch that could not be written as a
/// whole leaves no part of it behind.
pub(crate) struct FileSink {
    options: FileOptions,
    /// With the turn at it, if it is a regular file.
    file: Option<(File, Option<super::Turn>)>,
}

impl FileSink {
    pub(crate) fn new(options: FileOptions) -> Self {
        Self { options, file: None }
    }

    /// Whether the file can be appended to. Leaves no new file behind.
    pub(crate) fn check(&self) -> io::Result<()> {
        let place = place(&self.options.path)?;
        match own(&place).create_new(true).open(&place.path) {
            Ok(_) => std::fs::remove_file(&place.path),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => own(&place).open(&place.path).map(drop),
            Err(e) => Err(e),
        }
    }

    fn write(&mut self, lines: Vec<&[u8]>) -> io::Result<()> {
        if !self.is_current() {
            self.file = Some(open(&self.options.path)?);
        }
        let (file, turn) = self.file.as_mut().expect("opened above");
        let written = match turn {
            Some(turn) => {
                let sync = |file: &File| if self.options.sync { file.sync_data() } else { Ok(()) };
                super::append(file, turn, lines, sync)
            }
            // A pipe or a device has nothing that could be brought to a disk or cut off.
            None => super::write_all(file, lines, &mut 0),
        };
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Whether the open file is still the one of that name.
    fn is_current(&self) -> bool {
        let same = |file: &File| {
            let (open, named) = (file.metadata().ok()?, std::fs::metadata(&self.options.path).ok()?);
            Some((open.dev(), open.ino()) == (named.dev(), named.ino()))
        };
        self.file.as_ref().and_then(|(file, _)| same(file)) == Some(true)
    }
}

/// A path, and whether it has come from a link.
pub(super) struct Place {
    pub(super) path: PathBuf,
    is_target: bool,
}

/// Where a path leads: a link is followed if it is the operator's own, made by this user or by root (`/dev/stdout` is one).
/// Whoever else can write to the folder shall not choose the file that is written to.
pub(super) fn place(path: &Path) -> io::Result<Place> {
    let handle = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = match rustix::fs::open(path, handle, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(Place { path: path.to_owned(), is_target: false }),
        Err(e) => return Err(e.into()),
    };
    let stat = rustix::fs::fstat(&link)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(Place { path: path.to_owned(), is_target: false });
    }
    if stat.st_uid != geteuid().as_raw() && stat.st_uid != 0 {
        let why = "it is a symbolic link that another user made, and is not followed; name the file itself";
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    // Read from the link that was looked at; it may have been replaced.
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    let target = Path::new(OsStr::from_bytes(target.as_bytes()));
    Ok(Place { path: path.parent().unwrap_or(Path::new("")).join(target), is_target: true })
}

/// How it is opened: records are mail data, so if it is made, only owner and group may read it.
fn own(place: &Place) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o640);
    if !place.is_target {
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    }
    options
}

/// Opens for appending; a last line that lacks its end, left by a crash, gets it.
fn open(path: &Path) -> io::Result<(File, Option<super::Turn>)> {
    let place = place(path)?;
    let file = own(&place).read(true).create(true).open(&place.path)?;
    let metadata = file.metadata()?;
    let turn = metadata.is_file().then(|| super::turn_at(&metadata));
    if let Some(turn) = &turn {
        super::end_last_line(&file, &file, turn, &path.display().to_string())?;
    }
    Ok((file, turn))
}

impl Sink for FileSink {
    fn send<'a>(&'a mut self, records: Outgoing<'a>) -> SinkFuture<'a> {
        let result = self.write(records.lines());
        let result =
            result.map_err(|e| super::retry(format!("cannot write to {}: {e}", self.options.path.display())));
        Box::pin(std::future::ready(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_after_a_torn_one_and_after_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.jsonl");
        std::fs::write(&path, "{\"torn").unwrap();
        let mut sink = FileSink::new(FileOptions { path: path.clone(), sync: true });
        sink.write(vec![b"1\n", b"2\n"]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"torn\n1\n2\n");
        std::fs::rename(&path, directory.path().join("old")).unwrap();
        sink.write(vec![b"3\n"]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3\n");
    }

    #[test]
    fn a_device_takes_records_too() {
        let mut sink = FileSink::new(FileOptions { path: "/dev/null".into(), sync: true });
        sink.write(vec![b"1\n"]).unwrap();
    }

    #[test]
    fn a_link_of_ours_is_followed_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (link, target) = (directory.path().join("link"), directory.path().join("target"));
        std::os::unix::fs::symlink("target", &link).unwrap();
        let mut sink = FileSink::new(FileOptions { path: link.clone(), sync: true });
        sink.check().unwrap();
        assert!(link.is_symlink() && !target.exists());
        sink.write(vec![b"1\n"]).unwrap();
        sink.write(vec![b"2\n"]).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "1\n2\n");
        assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o027, 0);
    }

    #[test]
    fn checking_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        FileSink::new(FileOptions { path: path.clone(), sync: false }).check().unwrap();
        assert!(!path.exists());
        let missing = directory.path().join("no/such/folder/out");
        assert!(FileSink::new(FileOptions { path: missing, sync: false }).check().is_err());
    }
}
