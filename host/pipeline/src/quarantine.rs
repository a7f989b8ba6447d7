//! Where records go that nothing could be done with, and lines that are no records: `.<checkpoint_name>.quarantine`, one
//! JSON object per line with the place, the reason, the time and the bytes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tailweir_core::Position;
use thiserror::Error;

use crate::directory::{Directory, private};
use crate::{CheckpointName, StoreError};

/// The quarantine of one consumer. The file is made when the first record comes.
#[derive(Debug)]
pub struct Quarantine {
    directory: Directory,
    name: String,
    consumer: String,
    file: Option<File>,
    unsynced: bool,
}

/// A quarantine file could not be written.
#[derive(Debug, Error)]
#[error("failed to write to the quarantine {path}", path = path.display())]
pub struct QuarantineError {
    path: PathBuf,
    source: std::io::Error,
}

/// One line of the file. `text` holds the bytes if they are UTF-8, `bytes` their hexadecimal digits otherwise.
#[derive(Serialize)]
struct Entry<'a> {
    segment: &'a str,
    line: u64,
    offset: u64,
    consumer: &'a str,
    reason: &'a str,
    /// Seconds since 1970.
    time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

impl Quarantine {
    /// The quarantine beside the checkpoint `name` in `directory`.
    ///
    /// # Errors
    /// If the directory can't be opened.
    pub fn new(directory: &Path, name: &CheckpointName, consumer: &str) -> Result<Self, StoreError> {
        let directory = Directory::open(directory)?;
        Ok(Self {
            directory,
            name: name.file(".quarantine"),
            consumer: consumer.to_owned(),
            file: None,
            unsynced: false,
        })
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    fn error(&self, source: std::io::Error) -> QuarantineError {
        QuarantineError { path: self.path(), source }
    }

    /// Adds one record or line. When this returns the kernel has it; see [`sync`](Self::sync).
    ///
    /// # Errors
    /// If it could not be written.
    pub fn put(&mut self, position: &Position, reason: &str, bytes: &[u8]) -> Result<(), QuarantineError> {
        let text = std::str::from_utf8(bytes).ok();
        let entry = Entry {
            segment: position.segment.as_str(),
            line: position.line,
            offset: position.offset,
            consumer: &self.consumer,
            reason,
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            text,
            bytes: text.is_none().then(|| bytes.iter().map(|b| format!("{b:02x}")).collect()),
        };
        let line = serde_json::to_vec(&entry).map_err(std::io::Error::from);
        line.and_then(|line| self.append(line)).map_err(|e| self.error(e))?;
        self.unsynced = true;
        Ok(())
    }

    fn append(&mut self, mut line: Vec<u8>) -> std::io::Result<()> {
        line.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = self.directory.entry(&self.name);
                none.insert(private().append(true).create(true).open(path)?)
            }
        };
        file.write_all(&line)
    }

    /// Brings what was added to the disk.
    ///
    /// # Errors
    /// If the disk says so.
    pub fn sync(&mut self) -> Result<(), QuarantineError> {
        if let (true, Some(file)) = (self.unsynced, &self.file) {
            file.sync_all().map_err(|e| self.error(e))?;
            self.unsynced = false;
        }
        Ok(())
    }
}
