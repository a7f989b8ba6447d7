//! `tailweir plugin test`.

use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tailweir_wasm::Kind;

use super::args::TestArgs;
use super::compare::compare;
use super::records::Records;
use super::render::{Answers, answers};
use super::subject::Subject;
use super::{plain, print};
use crate::engine::WasmEngine;
use crate::exit::UsageError;

/// Shows what a plug-in answers, or holds it against a file.
pub(super) fn run(args: &TestArgs, engine: &WasmEngine) -> Result<()> {
    if let (Some(golden), true) = (&args.expect, args.update) {
        check_replaceable(golden, args)?;
    }
    let mut subject = Subject::load(&args.file, &args.setup, engine)?;
    let Answers { text, summary } = answers(&mut subject, Records::open(&args.records)?)?;
    let Some(golden) = &args.expect else { return print(&text) };
    let shown = golden.display();
    if args.update {
        fs::write(golden, &text).with_context(|| format!("cannot write {shown}"))?;
        return print(&format!("{summary}\nwritten to {shown}\n"));
    }
    let expected = match fs::read_to_string(golden) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            bail!("there is no {shown} yet; `--update` writes it, for you to look through and keep")
        }
        read => read.with_context(|| format!("cannot read {shown}"))?,
    };
    // As a checkout on Windows has it.
    let expected = if expected.replace("\r\n", "\n") == text { text.clone() } else { expected };
    match compare((&shown.to_string(), &expected), (&plain(&args.file.display().to_string()), &text)) {
        None => print(&format!("{summary}\nas {shown} says\n")),
        Some(diff) => {
            print(&diff)?;
            Err(anyhow!(
                "{} does not answer as {shown} says (`-`: expected, `+`: answered); if it is right now, add `--update`",
                args.file.display()
            ))
        }
    }
}

/// Refuses to write over what is no file of answers: what is being read, for one.
fn check_replaceable(golden: &Path, args: &TestArgs) -> Result<()> {
    let shown = golden.display();
    let there = match golden.metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata.with_context(|| format!("cannot read {shown}"))?,
    };
    let identity = |of: &Metadata| (of.dev(), of.ino());
    let is_golden = |path: &&Path| path.metadata().is_ok_and(|other| identity(&other) == identity(&there));
    let read = args.records.segments.iter().map(|segment| (segment, "a segment that is read"));
    let mut read = std::iter::once((&args.file, "the plug-in")).chain(read);
    if let Some((_, what)) = read.find(|(path, _)| is_golden(&path.as_path())) {
        let why = "which `--update` would overwrite; name the file for the answers";
        return Err(UsageError(format!("--expect {shown} is {what}, {why}")).into());
    }
    // A pipe is read by whoever waits for it.
    if there.is_file() && !holds_answers(golden).with_context(|| format!("cannot read {shown}"))? {
        bail!(
            "{shown} does not begin with the line `filter` or `processor`, so `plugin test` has not written it, and `--update` \
             leaves it as it is; name another file, or remove this one first"
        );
    }
    Ok(())
}

/// Whether a file is empty, or begins as one that this tool has written.
fn holds_answers(file: &Path) -> std::io::Result<bool> {
    let mut first = Vec::new();
    // As much as tells.
    BufReader::new(File::open(file)?.take(16)).read_until(b'\n', &mut first)?;
    let word = first.trim_ascii_end();
    Ok(first.is_empty() || [Kind::Filter, Kind::Processor].iter().any(|kind| kind.name().as_bytes() == word))
}
