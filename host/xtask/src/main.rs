//! Development tasks, run as `cargo xtask …`. This is the one place that builds guests.

mod bench;
mod fuzz;
mod guests;
mod instructions;
mod interface;
mod languages;
mod measure;
mod soak;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::languages::Tools;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Development tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measures the release build and its peers, and writes docs/performance.md
    Bench(bench::BenchArgs),
    /// Gives the fuzz targets inputs that nobody has thought of
    Fuzz(fuzz::FuzzArgs),
    /// Builds every guest in `examples/plugins` and `tests/guests` into `target/guests`
    Guests(Guests),
    /// Counts instructions per record, with callgrind, and fails if they have grown by more than 3 %
    ///
    /// Callgrind has no AVX-512: it is the AVX2 code that is counted.
    Instructions {
        /// Store what is counted
        #[arg(long)]
        update: bool,
    },
    /// Runs the kill tests for long, and writes what came of them to docs/reliability.md
    Soak(soak::SoakArgs),
    /// Builds the guests and runs all tests
    Test {
        /// What follows is passed on to `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Args)]
struct Guests {
    /// Fail if a component in the tree is not what its source compiles to, or C bindings or docs/wit.md not what the interface gives
    #[arg(long, conflicts_with = "update")]
    check: bool,
    /// Renew all that in the tree
    #[arg(long)]
    update: bool,
    /// Those in C, JavaScript and Python too; fetches their tools from the package registries into `target/tools`
    #[arg(long)]
    languages: bool,
}

fn main() -> ExitCode {
    if std::env::var_os(toolchain::WRAPPER_VARIABLE).is_some() {
        return toolchain::run_wrapped();
    }
    if std::env::var_os(fuzz::WRAPPER_VARIABLE).is_some() {
        return fuzz::run_wrapped();
    }
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let root = root();
    match task {
        Task::Bench(arguments) => bench::run(&root, arguments),
        Task::Fuzz(arguments) => fuzz::run(&root, &arguments),
        Task::Soak(arguments) => soak::run(&root, &arguments),
        Task::Instructions { update } => instructions::run(&root, update),
        Task::Guests(arguments) => build_guests(&root, &arguments),
        Task::Test { arguments } => {
            guests::build_all(&root)?;
            languages::build_all(&root, Tools::AsTheyAre)?;
            let test = |arguments: &[String]| {
                run_command(cargo().current_dir(&root).args(["test", "--release"]).args(arguments))
            };
            test(&arguments)?;
            // Not together with the others: its dependencies want features that would make wasmtime compile twice.
            if arguments.is_empty() { test(&["--package".into(), "xtask".into()]) } else { Ok(()) }
        }
    }
}

fn build_guests(root: &Path, arguments: &Guests) -> Result<()> {
    let built = guests::build_all(root)?;
    if arguments.check {
        guests::check(root, &built)?;
        interface::check(root)?;
    }
    if arguments.update {
        guests::update(root, &built)?;
        interface::update(root)?;
    }
    if arguments.languages { languages::build_all(root, Tools::Fetch) } else { Ok(()) }
}

/// The repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the root").to_owned()
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where cargo puts what it builds.
fn target_directory(root: &Path) -> Result<PathBuf> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps"];
    let metadata: serde_json::Value =
        serde_json::from_str(&output_of(cargo().current_dir(root).args(arguments))?)?;
    Ok(metadata["target_directory"].as_str().context("cargo names no target directory")?.into())
}

/// Runs a command whose output the user sees.
fn run_command(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run `{name}`"))?;
    if !status.success() {
        bail!("`{name}` failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns what it wrote to stdout.
fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run `{name}`"))?;
    if !output.status.success() {
        bail!("`{name}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
