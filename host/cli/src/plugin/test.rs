//! `tailweir plugin test`.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result, anyhow, bail};

use super::args::TestArgs;
use super::compare::compare;
use super::records::Records;
use super::render::{Answers, answers};
use super::subject::Subject;
use super::{plain, print};
use crate::engine::WasmEngine;

/// Shows what a plug-in answers, or holds it against a file.
pub(super) fn run(args: &TestArgs, engine: &WasmEngine) -> Result<()> {
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
