//! The inputs that fuzzing begins with, and those that it has found.
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

use std::fs;
use std::path::Path;

/// The inputs of the target `name`, each with the name of its file, in order.
///
/// # Panics
/// If there are none.
pub fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = here.ancestors().map(|folder| folder.join("fuzz/seeds")).find(|folder| folder.is_dir());
    let folder = folder.expect("`fuzz` lies at the root").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut seeds: Vec<_> = files
        .map(|file| file.expect("the folder can be read").path())
        .map(|path| {
            let input = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), input)
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    seeds
}
