//! `tailweir plugin`: what a plug-in's author, and whoever is to use it, needs.
//!
//! Each tool is a file. What they share: [`subject`] loads the plug-in under test, [`records`] reads the segments that it is
//! tried on, [`render`] says in lines of text what it answered.

pub(crate) mod args;
mod bench;
mod build;
mod compare;
mod compile;
mod diff;
mod inspect;
mod new;
mod records;
mod reload;
mod render;
mod subject;
mod test;

use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

use crate::engine::WasmEngine;
use args::{PluginCommand, PluginCommandArgs};

/// Runs a tool.
pub(crate) fn run(args: &PluginCommandArgs, engine: &WasmEngine) -> Result<()> {
    match &args.command {
        PluginCommand::New(args) => new::run(args),
        PluginCommand::Build(args) => build::run(args, engine),
        PluginCommand::Inspect(args) => inspect::run(args, engine),
        PluginCommand::Test(args) => test::run(args, engine),
        PluginCommand::Bench(args) => bench::run(args, engine),
        PluginCommand::Diff(args) => diff::run(args, engine),
        PluginCommand::Compile(args) => compile::run(args, engine),
        PluginCommand::Reload(args) => reload::run(args),
    }
}

/// Writes to stdout. Whoever reads may have seen enough, which is no error.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

/// Words of the plug-in's or of a record, which shall not move the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
