//! Guests in languages other than Rust. Their tool-chains come from the package registries, with versions and digests pinned,
//! into `target/tools`, and nothing else of the machine is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::guests::{componentize, write_if_changed};
use crate::{output_of, run_command};

/// The folder of plug-ins, from the repository's.
const PLUGINS: &str = "examples/plugins";

/// A language: the helper layer for it, and how its plug-ins are made.
struct Language {
    name: &'static str,
    /// The folder of what its plug-ins share, where its tools are pinned, too.
    helper: &'static str,
    plugins: [Plugin; 3],
    /// What must be on the machine, and where it comes from.
    needs: &'static [(&'static str, &'static str)],
    /// The file in `helper` that pins the tools.
    pins: &'static str,
    install: fn(&Workshop<'_>) -> Result<()>,
    test_helper: fn(&Workshop<'_>) -> Result<()>,
    build: fn(&Workshop<'_>, &Plugin, &Path) -> Result<Vec<u8>>,
}

/// A plug-in in one of them.
struct Plugin {
    name: &'static str,
    kind: Kind,
    /// The world that Python's tool is told. The component imports all of it, used or not; the tools of the other languages see what
    /// a plug-in uses.
    world: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Filter,
    Processor,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Processor => "processor",
        }
    }
}

/// The same three in each language.
const fn examples(pool_filter: &'static str, summary: &'static str, counter: &'static str) -> [Plugin; 3] {
    [
        Plugin { name: pool_filter, kind: Kind::Filter, world: "tailweir:plugin/filter-plugin@0.1.0" },
        Plugin { name: summary, kind: Kind::Processor, world: "tailweir:plugin/processor-plugin@0.1.0" },
        Plugin {
            name: counter,
            kind: Kind::Processor,
            world: "tailweir:guest/metrics-state-processor-plugin",
        },
    ]
}

const PYTHON: (&str, &str) = ("python3", "python.org, or the package python3-pip");

const LANGUAGES: [Language; 3] = [
    Language {
        name: "C",
        helper: "c-guest",
        plugins: examples("c-pool-filter", "c-summary", "c-counter"),
        needs: &[PYTHON, ("make", "the package make")],
        pins: "requirements.txt",
        install: pip_install,
        test_helper: |workshop| make(workshop, "c-guest", "test"),
        build: build_c,
    },
    Language {
        name: "JavaScript",
        helper: "js-guest",
        plugins: examples("js-pool-filter", "js-summary", "js-counter"),
        needs: &[("npm", "nodejs.org: Node.js 20 or later"), ("node", "nodejs.org: Node.js 20 or later")],
        pins: "package-lock.json",
        install: npm_install,
        test_helper: |workshop| node_test(workshop, "js-guest"),
        build: build_javascript,
    },
    Language {
        name: "Python",
        helper: "python-guest",
        plugins: examples("python-pool-filter", "python-summary", "python-counter"),
        needs: &[PYTHON],
        pins: "requirements.txt",
        install: pip_install,
        test_helper: |workshop| python_test(workshop, "python-guest"),
        build: build_python,
    },
];

/// Whether tools that are missing are fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tools {
    /// Fetched, and it is an error if they cannot be.
    Fetch,
    /// Not fetched: what would need them is left out.
    AsTheyAre,
}

/// Tests and builds the plug-ins in other languages into `target/guests`.
pub(crate) fn build_all(root: &Path, tools: Tools) -> Result<()> {
    for language in &LANGUAGES {
        let workshop = Workshop::new(root, language);
        if tools == Tools::AsTheyAre && !workshop.is_complete() {
            eprintln!(
                "SKIPPED: the plug-ins in {}; `cargo xtask guests --languages` fetches their tools",
                language.name
            );
            // What was built with tools that have been changed since is not to be tested in their place.
            for plugin in &language.plugins {
                let _ = fs::remove_file(workshop.component(plugin));
            }
            continue;
        }
        workshop.build().with_context(|| format!("cannot build the plug-ins in {}", language.name))?;
    }
    Ok(())
}

/// Where a language's plug-ins are made.
struct Workshop<'a> {
    root: &'a Path,
    language: &'a Language,
}

impl<'a> Workshop<'a> {
    fn new(root: &'a Path, language: &'a Language) -> Self {
        Self { root, language }
    }

    fn plugins(&self) -> PathBuf {
        self.root.join(PLUGINS)
    }

    fn wit(&self) -> PathBuf {
        self.root.join("wit/v0.1")
    }

    /// Where its tools are.
    fn tools(&self) -> PathBuf {
        self.root.join("target/tools").join(self.language.helper)
    }

    /// Where what is made on the way is.
    fn scratch(&self) -> PathBuf {
        self.root.join("target/guests/build").join(self.language.helper)
    }

    fn component(&self, plugin: &Plugin) -> PathBuf {
        self.root.join("target/guests").join(format!("{}.wasm", plugin.name))
    }

    /// What pins its tools, and a copy of that from when they were installed.
    fn pins(&self) -> [PathBuf; 2] {
        [self.plugins().join(self.language.helper).join(self.language.pins), self.tools().join("installed")]
    }

    /// Whether the tools are there, in the versions that are asked for.
    fn is_complete(&self) -> bool {
        let [asked, installed] = self.pins().map(fs::read);
        matches!((asked, installed), (Ok(asked), Ok(installed)) if asked == installed)
    }

    fn install(&self) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        for (program, from) in self.language.needs {
            let found = Command::new(program).arg("--version").output();
            if !found.is_ok_and(|output| output.status.success()) {
                bail!("`{program}` is missing; it comes from {from}");
            }
        }
        let tools = self.tools();
        let _ = fs::remove_dir_all(&tools);
        fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
        eprintln!("fetching the tools for {} into {} (once)", self.language.name, tools.display());
        (self.language.install)(self)?;
        let [asked, installed] = self.pins();
        fs::copy(&asked, &installed).with_context(|| format!("cannot copy {}", asked.display()))?;
        Ok(())
    }

    fn build(&self) -> Result<()> {
        self.install()?;
        fs::create_dir_all(self.scratch())?;
        let helper = self.digest(&[self.language.helper])?;
        self.once("helper", &helper, || (self.language.test_helper)(self))?;
        for plugin in &self.language.plugins {
            let digest = self.digest(&[self.language.helper, plugin.name])?;
            let component = self.component(plugin);
            if !component.exists() {
                let _ = fs::remove_file(self.stamp(plugin.name));
            }
            self.once(plugin.name, &digest, || {
                let built = (self.language.build)(self, plugin, &self.scratch());
                write_if_changed(&component, &built.with_context(|| plugin.name)?)
            })?;
        }
        Ok(())
    }

    fn stamp(&self, what: &str) -> PathBuf {
        self.scratch().join(format!("{what}.digest"))
    }

    /// Does what is not done yet for input with this digest.
    fn once(&self, what: &str, digest: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let stamp = self.stamp(what);
        if fs::read_to_string(&stamp).is_ok_and(|done| done == digest) {
            return Ok(());
        }
        work()?;
        Ok(fs::write(&stamp, digest)?)
    }

    /// A digest of all that a component is made of: folders of plug-ins, and the interface.
    fn digest(&self, folders: &[&str]) -> Result<String> {
        let mut files = Vec::new();
        list(&self.wit(), &mut files)?;
        for folder in folders {
            list(&self.plugins().join(folder), &mut files)?;
        }
        files.sort_unstable();
        let mut digest = Sha256::new();
        for file in files {
            let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            digest.update(file.as_os_str().as_encoded_bytes());
            digest.update((content.len() as u64).to_le_bytes());
            digest.update(content);
        }
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// What tools leave in a source folder, which is no source.
const LEFT_BEHIND: [&str; 3] = ["node_modules", "__pycache__", "build"];

/// All source files below a folder; pages of documentation are none.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if !LEFT_BEHIND.iter().any(|name| entry.file_name() == *name) {
                list(&entry.path(), files)?;
            }
        } else if entry.path().extension().is_none_or(|extension| extension != "md") {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Runs a command, whose output is shown if it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?} failed ({})\n{said}{why}", output.status);
    }
    Ok(())
}

/// A Python that finds the tools.
fn python(workshop: &Workshop<'_>) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", workshop.tools()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn pip_install(workshop: &Workshop<'_>) -> Result<()> {
    let [pins, _] = workshop.pins();
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    command.args(["--root-user-action=ignore", "--no-deps", "--require-hashes", "--only-binary", ":all:"]);
    run_command(command.arg("--target").arg(workshop.tools()).arg("-r").arg(pins))
}

fn npm_install(workshop: &Workshop<'_>) -> Result<()> {
    let (from, to) = (workshop.plugins().join(workshop.language.helper), workshop.tools());
    for file in ["package.json", "package-lock.json", "build.js"] {
        fs::copy(from.join(file), to.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    output_of(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&to)).map(drop)
}

/// Runs make in a plug-in's folder.
fn make(workshop: &Workshop<'_>, folder: &str, target: &str) -> Result<()> {
    let mut command = Command::new("make");
    command.arg("--directory").arg(workshop.plugins().join(folder)).arg(target);
    command.arg(format!("BUILD={}", workshop.scratch().display()));
    command.env("PYTHONPATH", workshop.tools()).env("ZIG_GLOBAL_CACHE_DIR", workshop.tools().join("cache"));
    quietly(command.env("ZIG_LOCAL_CACHE_DIR", workshop.tools().join("cache")))
}

fn build_c(workshop: &Workshop<'_>, plugin: &Plugin, scratch: &Path) -> Result<Vec<u8>> {
    make(workshop, plugin.name, "test")?;
    make(workshop, plugin.name, "module")?;
    let module = scratch.join(format!("{}.wasm", plugin.name));
    componentize(&fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?)
}

fn node_test(workshop: &Workshop<'_>, folder: &str) -> Result<()> {
    let testing = workshop.plugins().join("js-guest/testing.js");
    let folder = workshop.plugins().join(folder);
    quietly(Command::new("node").arg("--import").arg(testing).arg("--test").current_dir(folder))
}

fn build_javascript(workshop: &Workshop<'_>, plugin: &Plugin, scratch: &Path) -> Result<Vec<u8>> {
    node_test(workshop, plugin.name)?;
    let out = scratch.join(format!("{}.wasm", plugin.name));
    // A copy beside the tools, as modules find what they import from where they are.
    let script = workshop.tools().join("build.js");
    fs::copy(workshop.plugins().join("js-guest/build.js"), &script)?;
    let mut command = Command::new("node");
    command.arg(script).arg(plugin.kind.name()).arg(workshop.plugins().join(plugin.name).join("plugin.js"));
    command.arg("--root").arg(workshop.plugins()).arg("--wit").arg(workshop.wit());
    quietly(command.arg("-o").arg(&out))?;
    fs::read(&out).with_context(|| format!("cannot read {}", out.display()))
}

fn python_test(workshop: &Workshop<'_>, folder: &str) -> Result<()> {
    let helper = workshop.plugins().join("python-guest");
    let mut command = python(workshop);
    command.args(["-m", "unittest", "discover", "-q"]).current_dir(workshop.plugins().join(folder));
    quietly(command.env("PYTHONPATH", helper))
}

fn build_python(workshop: &Workshop<'_>, plugin: &Plugin, scratch: &Path) -> Result<Vec<u8>> {
    python_test(workshop, plugin.name)?;
    let out = scratch.join(format!("{}.wasm", plugin.name));
    let mut command = python(workshop);
    command.arg(workshop.tools().join("bin/componentize-py")).arg("--wit-path").arg(workshop.wit());
    command.arg("--wit-path").arg(workshop.plugins().join("python-guest/worlds.wit"));
    command.args(["--world", plugin.world, "componentize", "app"]);
    for folder in [plugin.name, workshop.language.helper] {
        command.arg("--python-path").arg(workshop.plugins().join(folder));
    }
    quietly(command.arg("--output").arg(&out))?;
    fs::read(&out).with_context(|| format!("cannot read {}", out.display()))
}
