//! `tailweir plugin build`: runs the tools of the plug-in's language, and makes a component of what they give.

mod rust;

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail, ensure};
use indicatif::BinaryBytes;
use tailweir_wasm::{Inspection, Limits, LoadError};
use wit_component::ComponentEncoder;

use super::args::BuildArgs;
use super::{plain, print};
use crate::engine::WasmEngine;
use crate::exit::say;

/// How the plug-ins of a language are built.
struct Project {
    /// What tells that a folder holds one: a file of this name.
    marker: &'static str,
    /// Builds the one in the folder: its name, and the component or module that came out.
    build: fn(&Path) -> Result<Built>,
}

/// What the tools gave.
struct Built {
    /// The plug-in's name, which the component's file gets.
    name: String,
    /// A component, or a module that holds the description of its world.
    code: Vec<u8>,
    /// When the tools wrote it, if that decides what the next build takes. The component gets the same time: it is never newer
    /// than what it was made of, and never taken for that.
    modified: Option<SystemTime>,
}

const PROJECTS: &[Project] = &[
    Project { marker: "Cargo.toml", build: rust::build },
    Project { marker: "package.json", build: javascript },
    Project { marker: "pyproject.toml", build: python },
    Project { marker: "Makefile", build: c },
];

/// Builds a plug-in, and tries to load it.
pub(super) fn run(args: &BuildArgs, engine: &WasmEngine) -> Result<()> {
    let directory = &args.directory;
    ensure!(directory.is_dir(), "{} is not a folder", directory.display());
    let project = PROJECTS.iter().find(|project| directory.join(project.marker).is_file());
    let Some(project) = project else {
        bail!(
            "{} holds no plug-in that I can build: there is neither Cargo.toml (Rust), package.json (JavaScript), \
             pyproject.toml (Python) nor a Makefile (C); `tailweir plugin new` begins one. A file in Lua is used as it is: \
             `tailweir plugin inspect` looks it over",
            directory.display()
        );
    };
    let Built { name, code, modified } = (project.build)(directory)?;
    let component = match code.starts_with(b"\0asm\x01\0\0\0") {
        true => componentize(&code).map_err(|e| {
            let remedy = remedy(&format!("{e:#}"));
            e.context(format!("cannot make a component of {name}: {remedy}"))
        })?,
        false => code,
    };
    let path = directory.join(format!("{name}.wasm"));
    let found = replace(&path, &component, modified, engine)?;
    let grants = if found.grants.is_empty() { "" } else { "; it needs a grant for HTTP" };
    print(&format!(
        "{}, {}: {} {}, a {}{grants}\n",
        path.display(),
        BinaryBytes(found.bytes),
        plain(&found.description.name),
        plain(&found.description.version),
        found.kind.name()
    ))
}

/// What `wasm-tools component new` does.
fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// What to do about a module of which no component can be made, by the error.
fn remedy(error: &str) -> String {
    let Some((_, import)) = error.split_once("wasi_snapshot_preview1::") else {
        return "is it a plug-in, with one filter or processor?".to_owned();
    };
    let name: String = import.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let what = match name.as_str() {
        "environ_get" | "environ_sizes_get" => "the environment, as `getenv` does",
        "clock_time_get" | "clock_res_get" => "a clock, as `time` does",
        "args_get" | "args_sizes_get" => "arguments",
        "proc_exit" => "`exit`",
        "random_get" => "random numbers",
        _ => "files, as `printf` does",
    };
    format!(
        "it uses {what}, and a plug-in has no files, clock, environment or process. In C, log with `tw_log` in place of \
         `printf` (`snprintf` may be used), take the time from the records and settings from the configuration, and end with \
         `tw_panic` in place of `exit`. In Rust, build for `wasm32-wasip2` or `wasm32-unknown-unknown`, as `tailweir plugin \
         build` does where there is a Cargo.toml"
    )
}

/// Writes a component, if it is a plug-in: what is no plug-in does not take the place of one. In one step: whoever has the old one
/// open keeps it.
fn replace(
    path: &Path,
    component: &[u8],
    modified: Option<SystemTime>,
    engine: &WasmEngine,
) -> Result<Inspection> {
    let host = engine.host()?;
    let unfinished = path.with_extension("wasm.part");
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(component)?;
        modified.map_or(Ok(()), |modified| file.set_modified(modified))
    };
    write().with_context(|| format!("cannot write {}", unfinished.display()))?;
    let found = host.inspect(&unfinished, Limits::default());
    let found = found.and_then(|found| found.check_schema().map(|()| found)).map_err(|e| {
        let _ = fs::remove_file(&unfinished);
        LoadError { path: path.to_owned(), ..e }
    })?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(found)
}

/// `npm run build`, which leaves `NAME.wasm`.
fn javascript(directory: &Path) -> Result<Built> {
    let manifest = directory.join("package.json");
    let package: serde_json::Value = serde_json::from_slice(&read(&manifest)?)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let name = package["name"].as_str();
    let name = plain_name(name.with_context(|| format!("{} has no `name`", manifest.display()))?)?;
    ensure!(
        package["scripts"]["build"].is_string(),
        "{} has no script `build`, which makes {name}.wasm",
        manifest.display()
    );
    let npm = |arguments: &[&str]| {
        execute(
            directory,
            "npm",
            arguments,
            "install Node.js: https://nodejs.org, or your system's package `npm`",
        )
    };
    if !directory.join("node_modules").exists() {
        npm(&["install"])?;
    }
    made(directory, &name, || npm(&["run", "build"]))
}

/// The command in `pyproject.toml`, which leaves `NAME.wasm`.
fn python(directory: &Path) -> Result<Built> {
    let manifest = directory.join("pyproject.toml");
    let text = String::from_utf8(read(&manifest)?)
        .with_context(|| format!("{} is not UTF-8", manifest.display()))?;
    let project: toml::Table =
        toml::from_str(&text).with_context(|| format!("cannot read {}", manifest.display()))?;
    let name = project.get("project").and_then(|project| project.get("name")).and_then(toml::Value::as_str);
    let name = plain_name(name.with_context(|| format!("{} has no `project.name`", manifest.display()))?)?;
    let command =
        project.get("tool").and_then(|tool| tool.get("tailweir")).and_then(|tool| tool.get("build"));
    let words: Option<Vec<&str>> = command
        .and_then(toml::Value::as_array)
        .and_then(|words| words.iter().map(toml::Value::as_str).collect());
    let Some([program, arguments @ ..]) = words.as_deref() else {
        bail!(
            "{} does not say how it is built: it needs the command as a list of words, as in\n  [tool.tailweir]\n  \
             build = [\"componentize-py\", \"-d\", \"wit\", \"-w\", \"filter-plugin\", \"componentize\", \"app\", \
             \"--stub-wasi\", \"-o\", \"{name}.wasm\"]",
            manifest.display()
        );
    };
    made(directory, &name, || {
        execute(
            directory,
            program,
            arguments,
            "install it, in a venv if need be: pip install componentize-py",
        )
    })
}

/// `make`, which leaves `NAME.wasm`; the name is the `NAME` of the Makefile, or that of the folder.
fn c(directory: &Path) -> Result<Built> {
    let makefile = fs::read_to_string(directory.join("Makefile")).unwrap_or_default();
    let folder = directory.canonicalize().with_context(|| format!("cannot find {}", directory.display()))?;
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    let name = plain_name(makefile.lines().find_map(name_of_make).unwrap_or(&folder))?;
    made(directory, &name, || execute(directory, "make", &[], "install your system's package `make`"))
}

/// The name that a line of a Makefile gives, as in `NAME = pool-filter` or `NAME := pool-filter`.
fn name_of_make(line: &str) -> Option<&str> {
    let (variable, value) = line.split_once('=')?;
    let name = value.split('#').next().unwrap_or_default().trim();
    (variable.trim_end_matches([':', '?', ' ', '\t']) == "NAME" && !name.is_empty()).then_some(name)
}

/// What a command has put in `NAME.wasm`, in the folder or in its `build` or `dist`: the newest of what it has written. A tool
/// that has nothing to do leaves what is there; then it is the newest of that, and rather what the tool has elsewhere than what is
/// in the folder, which may be the component that was made of it here.
fn made(directory: &Path, name: &str, command: impl FnOnce() -> Result<()>) -> Result<Built> {
    let begun = SystemTime::now();
    let places = ["build", "dist", ""].map(|folder| directory.join(folder).join(format!("{name}.wasm")));
    let before = places.clone().map(|place| modified(&place));
    command()?;
    let found: Vec<(&PathBuf, SystemTime, Option<SystemTime>)> = places
        .iter()
        .zip(before)
        .filter_map(|(place, before)| Some((place, modified(place)?, before)))
        .collect();
    let fresh = found.iter().filter(|(_, now, before)| Some(*now) != *before || *now >= begun);
    // Of several of the same time the last is taken.
    let newest = fresh.max_by_key(|(_, now, _)| *now);
    let Some((path, modified, _)) = newest.or_else(|| found.iter().rev().max_by_key(|(_, now, _)| *now))
    else {
        bail!(
            "what was run has made no {name}.wasm in {}, nor in its `build` or `dist`",
            directory.display()
        );
    };
    Ok(Built { name: name.to_owned(), code: read(path)?, modified: Some(*modified) })
}

/// When a file was written last; `None` if there is none.
fn modified(path: &Path) -> Option<SystemTime> {
    let metadata = path.metadata().ok().filter(|metadata| metadata.is_file())?;
    metadata.modified().ok()
}

/// A name out of a manifest, which becomes a file name.
fn plain_name(name: &str) -> Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = name.rsplit('/').next().unwrap_or(name);
    ensure!(
        !name.is_empty() && name.chars().all(fine) && !name.starts_with('.'),
        "`{}` is no name for a file: use letters, digits and `-`",
        plain(name)
    );
    Ok(name.to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Runs a tool in the plug-in's folder, after saying so on stderr, where its own words go too.
fn execute(directory: &Path, program: &str, arguments: &[&str], remedy: &str) -> Result<()> {
    say(&format!("+ {program} {}", arguments.join(" ")));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdout(std::io::stderr());
    let status = command.status().map_err(|e| missing(program, &e, remedy))?;
    ensure!(status.success(), "`{program} {}` failed ({status}); what it said is above", arguments.join(" "));
    Ok(())
}

fn missing(program: &str, error: &std::io::Error, remedy: &str) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => anyhow!("`{program}` is missing; {remedy}"),
        _ => anyhow!("cannot run `{program}`: {error}"),
    }
}

/// A variable that names a tool, or the tool's usual name.
fn tool(variable: &str, usual: &str) -> PathBuf {
    env::var_os(variable).filter(|value| !value.is_empty()).map_or_else(|| usual.into(), PathBuf::from)
}
