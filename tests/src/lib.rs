//! What the black-box tests of the `tailweir` binary share: generated segments, an oracle that reads them with nothing of
//! ours, an HTTP server, and running the program.

#![allow(clippy::unwrap_used)]

mod program;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tailweir_segments::sample;
use tempfile::TempDir;

pub use program::{Ended, Program, Running};
pub use server::{Request, Server};

/// Nothing that a test waits for takes so long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something is so.
///
/// # Panics
/// If it does not come about within [`DEADLINE`].
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory of sealed segments.
pub struct Segments {
    folder: TempDir,
}

impl Segments {
    /// Generates one.
    pub fn generate(records: u64, segments: u64, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        sample::write_directory(&folder.path().join("logs"), records, segments, seed, 3).unwrap();
        Self { folder }
    }

    /// Where the segments are.
    pub fn directory(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// A file beside their directory.
    pub fn beside(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Lines of each segment, decompressed with zstd's own library and split at line ends.
    pub fn lines(&self) -> BTreeMap<String, Vec<String>> {
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(self.directory()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.starts_with('.') {
                let text = zstd::decode_all(fs::File::open(&path).unwrap()).unwrap();
                let text = String::from_utf8(text).unwrap();
                segments.insert(name, text.lines().map(str::to_owned).collect());
            }
        }
        segments
    }

    /// All lines that a filter keeps, in order, each with its line break.
    pub fn kept(&self, keep: impl Fn(&Value) -> bool) -> String {
        let lines = self.lines().into_values().flatten();
        lines.filter(|line| keep(&serde_json::from_str(line).unwrap())).map(|line| line + "\n").collect()
    }

    /// The ids of the records that a filter keeps.
    pub fn ids(&self, keep: impl Fn(&Value) -> bool) -> Vec<String> {
        self.kept(keep).lines().map(id).collect()
    }

    /// The checkpoint of this name as JSON.
    pub fn checkpoint(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.directory().join(format!(".{name}"))).unwrap()).unwrap()
    }
}

/// A record's id.
pub fn id(record: &str) -> String {
    let record: Value = serde_json::from_str(record).unwrap();
    record["id"].as_str().unwrap().to_owned()
}

/// Whether a record is of a pool.
pub fn of_pool(pool: &str) -> impl Fn(&Value) -> bool {
    let pool = pool.to_owned();
    move |record| record["egress_pool"] == pool.as_str()
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}
