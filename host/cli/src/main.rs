//! The `tailweir` program: arguments, configuration, wiring and exit codes. Reading and committing is the work of
//! `tailweir-pipeline`, running plug-ins that of `tailweir-lua` and `tailweir-wasm`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod config;
mod demo;
mod exit;
mod kumo_wasm;
mod logging;
mod plugins;
mod privileges;
mod progress;
mod run;
mod script;
mod signals;
mod sinks;
mod status;
mod tail;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::UsageError;
use crate::script::Spelling;

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::clear();
            exit::report(&error)
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    // Fails only if there is a provider already, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let log = cli.log;
    let Some(command) = cli.command else {
        let file = cli
            .kumod
            .policy
            .context(UsageError("give a command; `tailweir --help` lists them".to_owned()))?;
        return script::run(&file, &cli.kumod.how, cli.kumod.args, &log, Spelling::Kumods);
    };
    if let Command::Script(script) = command {
        return script::run(&script.file, &script.how, script.args, &log, Spelling::Ours);
    }
    logging::start(&log)?;
    match command {
        Command::Script(_) => Ok(()),
        Command::Run(args) => run::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}
