//! What is done to programs and their directory, other than killing them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fastrand::Rng;

use crate::consumers::Process;
use crate::writer::Writer;

/// One fault. Each round ends with a signal, whatever was done before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Term,
    /// No file may grow (`RLIMIT_FSIZE` of zero: `EFBIG` wherever a full disk says `ENOSPC`).
    NoGrowth,
    /// The directory is on a file system that is full.
    FullDisk,
    /// The directory is read-only.
    ReadOnly,
    /// A segment is deleted.
    Deleted,
    /// A segment is cut off.
    Truncated,
    /// Another file takes a segment's name.
    Replaced,
    /// A segment is moved out of the directory and back.
    SegmentMoved,
    /// The directory is renamed and renamed back.
    DirectoryMoved,
    /// The files that say who has the checkpoints are removed.
    Unlocked,
}

impl Fault {
    /// What the report calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Term => "SIGTERM",
            Self::NoGrowth => "no file may grow (`EFBIG`), SIGKILL",
            Self::FullDisk => "disk full (`ENOSPC`), SIGKILL",
            Self::ReadOnly => "directory read-only, SIGKILL",
            Self::Deleted => "segment deleted, SIGKILL",
            Self::Truncated => "segment cut off, SIGKILL",
            Self::Replaced => "segment replaced, SIGKILL",
            Self::SegmentMoved => "segment moved away and back, SIGKILL",
            Self::DirectoryMoved => "directory renamed and back, SIGKILL",
            Self::Unlocked => "locks removed, SIGKILL",
        }
    }
}

/// What has to be done to end a fault.
pub(crate) enum Undo {
    Nothing,
    LiftBounds,
    Empty(PathBuf),
    Writable(PathBuf),
    MoveBack { from: PathBuf, to: PathBuf },
    RenameBack { away: PathBuf },
}

impl Fault {
    /// Whether files can't be written meanwhile.
    pub(crate) fn may_refuse_writes(self) -> bool {
        matches!(self, Self::NoGrowth | Self::FullDisk | Self::ReadOnly)
    }

    /// Whether a program that is started meanwhile may end with an error.
    pub(crate) fn may_refuse(self) -> bool {
        matches!(self, Self::FullDisk | Self::ReadOnly | Self::DirectoryMoved)
    }

    /// Whether a program that runs may end with an error.
    pub(crate) fn may_end(self) -> bool {
        self == Self::Unlocked
    }

    /// Brings the fault about.
    pub(crate) fn begin(self, home: &Path, writer: &Writer, processes: &[Process], rng: &mut Rng) -> Undo {
        let logs = home.join("logs");
        match self {
            Self::Kill | Self::Term => Undo::Nothing,
            Self::NoGrowth => {
                processes.iter().for_each(|process| process.bound_files(Some(0)));
                Undo::LiftBounds
            }
            Self::FullDisk => {
                let filler = logs.join(".filler");
                let file = File::create(&filler).unwrap();
                fill(&file);
                // A checkpoint is written over an older one, which needs no space; this makes it need some.
                for entry in fs::read_dir(&logs).unwrap().flatten() {
                    if entry.file_name().as_encoded_bytes().ends_with(b".tmp") {
                        // It may be gone again already.
                        let _ = fs::remove_file(entry.path());
                    }
                }
                fill(&file);
                Undo::Empty(filler)
            }
            Self::ReadOnly => {
                writer.hold(true);
                fs::set_permissions(&logs, Permissions::from_mode(0o555)).unwrap();
                Undo::Writable(logs)
            }
            Self::Deleted | Self::Replaced | Self::Truncated | Self::SegmentMoved => {
                self.strike(home, writer, rng)
            }
            Self::DirectoryMoved => {
                let away = home.join("away");
                let mut log = writer.log();
                fs::rename(&logs, &away).unwrap();
                log.directory.clone_from(&away);
                Undo::RenameBack { away }
            }
            Self::Unlocked => {
                let is_lock = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().ends_with(b".lock");
                for entry in fs::read_dir(&logs).unwrap().flatten().filter(is_lock) {
                    fs::remove_file(entry.path()).unwrap();
                }
                Undo::Nothing
            }
        }
    }

    /// Does something to one segment.
    fn strike(self, home: &Path, writer: &Writer, rng: &mut Rng) -> Undo {
        let mut log = writer.log();
        let Some(victim) = log.victim(rng, self != Self::Truncated) else {
            return Undo::Nothing;
        };
        match self {
            Self::Deleted => log.delete(victim),
            Self::Replaced => log.replace(victim, rng),
            Self::Truncated => {
                log.truncate(victim, rng);
            }
            _ => {
                let name = log.disturb(victim);
                let (from, to) = (home.join(&name), log.directory.join(&name));
                fs::rename(&to, &from).unwrap();
                return Undo::MoveBack { from, to };
            }
        }
        Undo::Nothing
    }
}

impl Undo {
    /// Ends the fault.
    pub(crate) fn end(self, home: &Path, writer: &Writer, processes: &[Process]) {
        match self {
            Self::Nothing => {}
            Self::LiftBounds => processes.iter().for_each(|process| process.bound_files(None)),
            Self::Empty(filler) => fs::remove_file(filler).unwrap(),
            Self::Writable(logs) => {
                fs::set_permissions(logs, Permissions::from_mode(0o755)).unwrap();
                writer.hold(false);
            }
            Self::MoveBack { from, to } => fs::rename(from, to).unwrap(),
            Self::RenameBack { away } => {
                let mut log = writer.log();
                log.directory = home.join("logs");
                fs::rename(away, &log.directory).unwrap();
            }
        }
    }
}

/// Takes all the space there is.
fn fill(file: &File) {
    let (mut at, mut step) = (file.metadata().unwrap().len(), 1 << 24);
    while step >= 4096 {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(_) => step /= 2,
        }
    }
}

/// A small file system of its own, if the system lets us have one.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=64m,mode=0755", "none"]).arg(at);
        let output = command.output().ok()?;
        output.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
