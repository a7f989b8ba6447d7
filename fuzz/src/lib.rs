//! What the fuzz targets share. They are in `fuzz_targets`, the checks that they call in `checks`, where the tests of the
//! crates find them too; `cargo xtask fuzz` builds and runs them. docs/fuzzing.md says more.

use std::path::Path;
use std::sync::LazyLock;

use tempfile::TempDir;

/// A folder of this process's own. What is in it is the target's to remove; whoever runs the target removes the folder, since
/// libFuzzer ends the process without a word.
///
/// # Panics
/// If none can be made.
pub fn folder() -> &'static Path {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a place for temporary files"));
    FOLDER.path()
}
