//! The `tailweir` program: arguments, configuration, wiring and exit codes. Reading and committing is the work of
//! `tailweir-pipeline`, running plug-ins that of `tailweir-lua` and `tailweir-wasm`.
//!
//! It is a library so that the reading of pipeline files can be tested by itself; all else is reached through [`main`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(test)]
extern crate self as tailweir;

mod args;
pub mod config;
mod demo;
mod end;
mod engine;
mod exit;
mod figures;
mod filter_args;
mod flood;
mod kumo_wasm;
mod logging;
mod plugin;
mod plugins;
mod privileges;
mod progress;
mod quarantine;
mod reload;
mod run;
mod script;
mod secrets;
mod shadow;
mod signals;
mod sinks;
mod status;
mod summary;
mod tail;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Cli, Command, KumodCli, is_kumods};
use crate::engine::WasmEngine;
use crate::script::Spelling;

/// Does what the arguments of the process say. Returns the exit code: 0 done or asked to stop, 1 failure (what it was is on
/// stderr then). A mistake on the command line ends the process with code 2.
pub fn main() -> ExitCode {
    let ended = match is_kumods(std::env::args_os().skip(1)) {
        true => as_kumod(KumodCli::parse()),
        false => dispatch(Cli::parse()),
    };
    end::last_words();
    match ended.and_then(|()| end::all_was_read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

fn as_kumod(cli: KumodCli) -> Result<()> {
    use_ring();
    signals::outlive_file_limits();
    let engine = WasmEngine::new(cli.plugins.cache.as_deref());
    end::tells_of(&engine);
    let ended = script::run(&cli.policy, &cli.how, cli.args, &cli.log, &engine, Spelling::Kumods, None);
    engine.report();
    ended
}

fn dispatch(cli: Cli) -> Result<()> {
    use_ring();
    signals::outlive_file_limits();
    let log = cli.log;
    let engine = WasmEngine::new(cli.plugins.cache.as_deref());
    end::tells_of(&engine);
    if !args::logs_for_itself(&cli.command) {
        logging::start(&log)?;
    }
    let ended = match cli.command {
        Command::Script(args) => {
            script::run(&args.file, &args.how, args.args, &log, &engine, Spelling::Ours, None)
        }
        Command::Run(args) => {
            summary::ask(args.summary.format);
            run::run(&args, &engine)
        }
        Command::Tail(args) => {
            summary::ask(args.summary.format);
            tail::run(&args, &engine)
        }
        Command::Status(args) => status::run(&args),
        Command::Quarantine(args) => quarantine::run(&args, &log, &engine),
        Command::Plugin(args) => plugin::run(&args, &engine),
        Command::Demo(args) => demo::run(&args),
    };
    engine.report();
    ended
}

/// Chooses who does the cryptography of TLS.
fn use_ring() {
    // Fails only if there is a provider already, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
