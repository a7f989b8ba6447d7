//! The files of a quarantine: `.<name>.quarantine`, which is added to, and `.<name>.quarantine.<n>`, older parts of it.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};

use super::QuarantineEntry;
use crate::CheckpointName;
use crate::files::{Access, Files, OpenFile};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    /// The number of an older part; the one that is added to comes last.
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// The number of the part that is added to.
pub(super) const ACTIVE: u64 = u64::MAX;

/// The highest number of an older part. With a part each microsecond it takes thirty years to get there, so that a file with
/// a higher one is none of ours.
pub(super) const HIGHEST: u64 = 999_999_999_999_999;

/// What a file is to the quarantine, by its name.
enum Named {
    /// A part with this number.
    Part(u64),
    /// It has a number as no part has.
    NoPart,
}

fn named(active: &str, file: &str) -> Option<Named> {
    let rest = file.strip_prefix(active)?;
    if rest.is_empty() {
        return Some(Named::Part(ACTIVE));
    }
    let digits = rest.strip_prefix('.')?;
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok().filter(|n| *n <= HIGHEST && !digits.starts_with('0'));
    Some(number.map_or(Named::NoPart, Named::Part))
}

/// The name of the part that comes next: none of that name is there.
///
/// # Errors
/// If the numbers are used up, as by a file that somebody has put there.
pub(super) fn next(files: &dyn Files, name: &CheckpointName) -> io::Result<String> {
    let active = name.file(".quarantine");
    let mut last = 0;
    // Directories and links, too: nothing is replaced.
    for file in files.names()? {
        if let Some(Named::Part(number)) = named(&active, &file)
            && number != ACTIVE
        {
            last = last.max(number);
        }
    }
    if last >= HIGHEST {
        return Err(io::Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "{active}.{last} has the highest number that a part can have; give it a lower one that is free"
            ),
        ));
    }
    Ok(format!("{active}.{}", last + 1))
}

/// Files that look like parts and are none, for they have numbers as no part has.
pub(super) fn no_parts(files: &dyn Files, name: &CheckpointName) -> io::Result<Vec<String>> {
    let active = name.file(".quarantine");
    let mut names = files.names()?;
    names.retain(|file| matches!(named(&active, file), Some(Named::NoPart)));
    names.sort();
    Ok(names)
}

/// The checkpoint whose quarantine a file is a part of, by its name.
pub(super) fn owner(file: &str) -> Option<CheckpointName> {
    let (name, _) = file.strip_prefix('.')?.rsplit_once(".quarantine")?;
    let name = CheckpointName::new(name).ok()?;
    matches!(named(&name.file(".quarantine"), file), Some(Named::Part(_))).then_some(name)
}

/// The parts that there are, oldest first.
pub(super) fn parts(files: &dyn Files, name: &CheckpointName) -> io::Result<Vec<Part>> {
    let active = name.file(".quarantine");
    let mut parts = Vec::new();
    for file in files.names()? {
        let Some(Named::Part(number)) = named(&active, &file) else { continue };
        let stamp = files.stamp(&file)?;
        if stamp.regular {
            parts.push(Part { number, name: file, bytes: stamp.length });
        }
    }
    parts.sort();
    Ok(parts)
}

/// What stands in a line of a part.
pub(super) enum Read<'a> {
    Entry(QuarantineEntry),
    /// Torn by a crash, or none of ours.
    Unreadable {
        /// The line's number in the part, counted from 1.
        number: u64,
        line: &'a [u8],
    },
}

/// Reads a part to its end, one line at a time.
pub(super) fn read(
    files: &dyn Files,
    part: &str,
    mut each: impl FnMut(Read<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let file = match files.open(part, Access::Read) {
        Ok(file) => file,
        // Rolled or dropped meanwhile by the consumer, when the lock is not ours.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let (mut file, mut line, mut number) = (BufReader::new(file), Vec::new(), 0);
    while file.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if !text.is_empty() {
            each(QuarantineEntry::parse(text).map_or(Read::Unreadable { number, line: text }, Read::Entry))?;
        }
        line.clear();
    }
    Ok(())
}

/// A new version of a part on its way to replacing it.
pub(super) struct Replacement<'a> {
    files: &'a dyn Files,
    name: String,
    file: BufWriter<Box<dyn OpenFile>>,
}

impl<'a> Replacement<'a> {
    pub(super) fn begin(files: &'a dyn Files, name: &CheckpointName) -> io::Result<Self> {
        let name = name.file(".quarantine.tmp");
        let file = files.open(&name, Access::Renew)?;
        Ok(Self { files, name, file: BufWriter::new(file) })
    }

    pub(super) fn add(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.file.write_all(b"\n")
    }

    /// Takes the place of `part`. After a crash, or a loss of power, there is the one or the other.
    pub(super) fn replace(self, part: &str) -> io::Result<()> {
        self.file.into_inner().map_err(|e| e.into_error())?.sync()?;
        self.files.rename(&self.name, part)?;
        self.files.sync_names()
    }

    /// Leaves the part as it is.
    pub(super) fn discard(self) -> io::Result<()> {
        self.files.remove(&self.name)
    }
}
