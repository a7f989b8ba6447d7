//! Fuzzing without a nightly compiler: our crates are compiled with LLVM's coverage counters, which stable has too, and what
//! they depend on is what all other builds use, so that nothing large is compiled again. cargo-fuzz would do the same with
//! address sanitizing, and with all dependencies compiled anew.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{cargo, run_command, target_directory};

/// The variable that makes this program stand in for rustc; see [`run_wrapped`].
pub(crate) const WRAPPER_VARIABLE: &str = "TAILWEIR_FUZZ_WRAPPER";

/// What libFuzzer needs to see where an input leads, and what it is compared with; and what makes more mistakes show.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// Folders with more seeds: what is in the tree anyway.
const MORE_SEEDS: [(&str, &str); 1] = [("component", "examples/plugins/pool-filter")];

/// An input that takes longer than so many seconds is a finding. Checks go several times over what they are given.
const TIMEOUT: u32 = 20;

/// So many MiB of memory are a finding.
const MEMORY: u32 = 2048;

/// How much of what a target has said is shown when it fails.
const LAST_LINES: usize = 40;

#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Which targets; all, if none is named
    targets: Vec<String>,
    /// How long each one runs
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where libFuzzer's choices begin: the same seed tries much the same inputs. Chance decides, if there is none
    #[arg(long, conflicts_with = "input")]
    seed: Option<u32>,
    /// Run one target on one input, once: to see again what was found
    #[arg(long, value_name = "FILE", conflicts_with = "seconds")]
    input: Option<PathBuf>,
}

/// Builds the targets and runs them one after the other.
///
/// # Errors
/// If a target is unknown, or if one has found something; where that is kept is in the message.
pub(crate) fn run(root: &Path, arguments: &FuzzArgs) -> Result<()> {
    let there = targets(root)?;
    let chosen = choose(&there, &arguments.targets)?;
    let target_directory = target_directory(root)?;
    build(root)?;
    let place = Place::new(root, &target_directory)?;
    if let Some(input) = &arguments.input {
        let [target] = chosen[..] else { bail!("name the target that `--input` is for") };
        // The target runs in another folder.
        let input = input.canonicalize().with_context(|| format!("cannot read {}", input.display()))?;
        return run_command(place.command(target)?.arg(input));
    }
    let mut failed = Vec::new();
    for target in chosen {
        match fuzz(&place, target, arguments) {
            Ok(runs) => eprintln!("{target}: {runs} inputs in {} s, nothing found", arguments.seconds),
            Err(error) => {
                eprintln!("{target}: {error:#}");
                failed.push(target);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("fuzzing has found something: {}", failed.join(", ")) }
}

/// The names of all targets, sorted.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for file in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let name = file?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".rs")).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The targets that are named; all, if none is.
fn choose<'a>(there: &'a [String], named: &[String]) -> Result<Vec<&'a str>> {
    if named.is_empty() {
        return Ok(there.iter().map(String::as_str).collect());
    }
    let choose = |name: &String| match there.iter().find(|target| *target == name) {
        Some(target) => Ok(target.as_str()),
        None => bail!("there is no target `{name}`; there are {}", there.join(", ")),
    };
    named.iter().map(choose).collect()
}

fn build(root: &Path) -> Result<()> {
    let mut command = cargo();
    command.current_dir(root).args(["build", "--quiet", "--release", "--package", "tailweir-fuzz", "--bins"]);
    // For packages of this workspace only, whose results cargo then keeps apart from those of other builds.
    command.env("RUSTC_WORKSPACE_WRAPPER", env::current_exe()?).env(WRAPPER_VARIABLE, "1");
    run_command(&mut command)
}

/// Runs the compiler as cargo asks for it, with [`FLAGS`] for what ends up in a target.
pub(crate) fn run_wrapped() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().unwrap_or_default();
    let mut command = Command::new(&rustc);
    command.args(arguments);
    // Cargo also asks the compiler what it is; then there is no crate.
    if env::var("CARGO_CRATE_NAME").is_ok_and(|name| name != "build_script_build") {
        command.args(FLAGS);
    }
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(e) => {
            eprintln!("error: cannot run `{}`: {e}", rustc.display());
            ExitCode::FAILURE
        }
    }
}

/// Where things are, and a folder for temporary files that is removed in the end.
struct Place {
    root: PathBuf,
    /// Seeds, and what was found.
    fuzz: PathBuf,
    built: PathBuf,
    /// What is kept between runs.
    kept: PathBuf,
    temporary: PathBuf,
}

impl Place {
    fn new(root: &Path, target_directory: &Path) -> Result<Self> {
        let kept = target_directory.join("fuzz");
        // In memory, if there is such a place: targets write files all the time.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory } else { &kept };
        let temporary = parent.join(format!("tailweir-fuzz-{}", std::process::id()));
        fs::create_dir_all(&temporary).with_context(|| format!("cannot make {}", temporary.display()))?;
        let (fuzz, built) = (root.join("fuzz"), target_directory.join("release"));
        Ok(Self { root: root.to_owned(), fuzz, built, kept, temporary })
    }

    /// The command that runs a target, which keeps what it finds in `fuzz/artifacts`.
    fn command(&self, target: &str) -> Result<Command> {
        let artifacts = self.fuzz.join("artifacts").join(target);
        fs::create_dir_all(&artifacts).with_context(|| format!("cannot make {}", artifacts.display()))?;
        let mut command = Command::new(self.built.join(target));
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        command.args([format!("-timeout={TIMEOUT}"), format!("-rss_limit_mb={MEMORY}")]);
        command.env("TMPDIR", &self.temporary).current_dir(&self.temporary);
        Ok(command)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.temporary) {
            eprintln!("{} was not removed: {e}", self.temporary.display());
        }
    }
}

/// Runs one target. Returns how many inputs it was given.
fn fuzz(place: &Place, target: &str, arguments: &FuzzArgs) -> Result<u64> {
    let corpus = place.kept.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let log = place.kept.join(format!("{target}.log"));
    let mut command = place.command(target)?;
    command.args([format!("-max_total_time={}", arguments.seconds), "-print_final_stats=1".to_owned()]);
    command.args(arguments.seed.map(|seed| format!("-seed={seed}")));
    // What is new goes to the first; the others are only read.
    command.arg(&corpus).arg(place.fuzz.join("seeds").join(target));
    for (_, folder) in MORE_SEEDS.iter().filter(|(of, _)| *of == target) {
        command.arg(place.root.join(folder));
    }
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = command.stdout(Stdio::null()).stderr(file).status();
    let status = status.with_context(|| format!("cannot run the target `{target}`"))?;
    // What a panic shows of an input need not be text.
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        bail!(
            "{last}\n\nIt ended with {status}; all that it said is in {}. The input is named above; to see it again: \
             cargo xtask fuzz {target} --input FILE",
            log.display()
        );
    }
    match runs(&said) {
        Some(runs @ 1..) => Ok(runs),
        _ => bail!("it ran on no input at all; see {}", log.display()),
    }
}

/// How many inputs a target says that it was given.
fn runs(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_that_cargo_knows_and_have_seeds() {
        let root = crate::root();
        let targets = targets(&root).expect("the folder can be read");
        assert!(targets.len() >= 7, "{targets:?}");
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("the manifest can be read");
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            let seeds = fs::read_dir(root.join("fuzz/seeds").join(target)).expect("there are seeds");
            assert!(seeds.count() > 0, "{target}");
        }
        assert_eq!(choose(&targets, &["decode".to_owned()]).expect("there is one"), ["decode"]);
        let error = choose(&targets, &["decoed".to_owned()]).expect_err("there is none").to_string();
        assert!(error.contains("`decoed`") && error.contains("decode"), "{error}");
    }

    #[test]
    fn the_number_of_inputs_is_read() {
        assert_eq!(runs("Done 12 runs\nstat::number_of_executed_units: 12\nstat::new: 3"), Some(12));
        assert_eq!(runs("INFO: nothing"), None);
    }
}
