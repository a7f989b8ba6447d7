//! Rust: cargo, for the first WebAssembly target that there is a standard library for.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Built, execute, missing, read, tool};

/// In this order: with the first, the standard library can do all that it can elsewhere; with the second, components are
/// smaller.
const TARGETS: [&str; 2] = ["wasm32-wasip2", "wasm32-unknown-unknown"];

const INSTALL: &str = "install Rust: https://rustup.rs";

pub(super) fn build(directory: &Path) -> Result<Built> {
    let Package { name, library, target_directory } = package(directory)?;
    let target = target(directory)?;
    execute(directory, "cargo", &["build", "--release", "--target", target], INSTALL)?;
    let module = target_directory.join(target).join("release").join(format!("{library}.wasm"));
    Ok(Built { name, code: read(&module)?, modified: None })
}

struct Package {
    name: String,
    /// The name of its library, as in its file's.
    library: String,
    target_directory: PathBuf,
}

/// The package in the folder, as cargo sees it.
fn package(directory: &Path) -> Result<Package> {
    let metadata = output(
        Command::new("cargo").args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(directory),
        "cargo",
    )?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("cannot read what `cargo metadata` says")?;
    let manifest = directory.join("Cargo.toml");
    let whole = manifest.canonicalize().with_context(|| format!("cannot find {}", manifest.display()))?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let here = packages.iter().find(|package| {
        package["manifest_path"]
            .as_str()
            .is_some_and(|path| Path::new(path).canonicalize().is_ok_and(|path| path == whole))
    });
    let here = here
        .with_context(|| format!("{} is a workspace; name the folder of one plug-in", manifest.display()))?;
    let targets = here["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let library = targets.iter().find(|target| {
        target["crate_types"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
    });
    let (Some(name), Some(library), Some(target_directory)) = (
        here["name"].as_str(),
        library.and_then(|library| library["name"].as_str()),
        metadata["target_directory"].as_str(),
    ) else {
        bail!(
            "{} makes no WebAssembly: a plug-in is a library with\n  [lib]\n  crate-type = [\"cdylib\"]",
            manifest.display()
        );
    };
    Ok(Package {
        name: name.to_owned(),
        library: library.replace('-', "_"),
        target_directory: target_directory.into(),
    })
}

/// The target to build for.
fn target(directory: &Path) -> Result<&'static str> {
    let rustc = tool("RUSTC", "rustc");
    let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]).current_dir(directory), "rustc")?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    let installed = TARGETS.into_iter().find(|target| libraries.join(target).join("lib").is_dir());
    installed.with_context(|| {
        format!(
            "the Rust compiler has no standard library for {}; install one:\n  rustup target add {}",
            TARGETS.join(" or "),
            TARGETS[0]
        )
    })
}

/// What a command prints.
fn output(command: &mut Command, program: &str) -> Result<String> {
    let output = command.output().map_err(|e| missing(program, &e, INSTALL))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program}` failed: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
