//! Records as lines in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::Deserialize;
use tailweir_pipeline::{Outgoing, Sink, SinkFuture};
use tracing::warn;

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
    file: Option<File>,
}

impl FileSink {
    pub(crate) fn new(options: FileOptions) -> Self {
        Self { options, file: None }
    }

    /// Whether the file can be appended to. Leaves no new file behind.
    pub(crate) fn check(&self) -> io::Result<()> {
        let existed = self.options.path.exists();
        OpenOptions::new().append(true).create(true).open(&self.options.path)?;
        if !existed {
            std::fs::remove_file(&self.options.path)?;
        }
        Ok(())
    }

    fn write(&mut self, lines: Vec<&[u8]>) -> io::Result<()> {
        if !self.is_current() {
            self.file = Some(open(&self.options.path)?);
        }
        let file = self.file.as_mut().expect("opened above");
        let before = file.metadata()?;
        let written = super::write_all(file, lines)
            // A pipe or a device has nothing that could be brought to a disk or cut off.
            .and_then(|()| if self.options.sync && before.is_file() { file.sync_data() } else { Ok(()) });
        if written.is_err() && before.is_file() {
            // What is there of the batch would come again behind a torn line.
            if let Err(e) = file.set_len(before.len()) {
                warn!("cannot remove part of a batch from {}: {e}", self.options.path.display());
            }
        }
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
        self.file.as_ref().and_then(same) == Some(true)
    }
}

/// Opens for appending; a last line that lacks its end, left by a crash, gets it.
fn open(path: &PathBuf) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    if file.metadata()?.is_file() && file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            warn!(
                "the last line of {} was not finished; records go on in a line of their own",
                path.display()
            );
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
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
    fn checking_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        FileSink::new(FileOptions { path: path.clone(), sync: false }).check().unwrap();
        assert!(!path.exists());
        let missing = directory.path().join("no/such/folder/out");
        assert!(FileSink::new(FileOptions { path: missing, sync: false }).check().is_err());
    }
}
