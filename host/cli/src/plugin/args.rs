//! The command line of `tailweir plugin`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tailweir_wasm::{Kind, Limits, Origin};

use crate::args::{duration, positive};
use crate::config::in_our_words;

#[derive(Debug, Args)]
pub(crate) struct PluginCommandArgs {
    #[command(subcommand)]
    pub(crate) command: PluginCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Begin a plug-in: a folder that builds and passes its own test as it is
    New(NewArgs),
    /// Build the plug-in in a folder into a component, and try to load it
    Build(BuildArgs),
    /// Show what a plug-in is, what it imports and wants, how it is configured, and the limits it runs within
    Inspect(InspectArgs),
    /// Run a plug-in over segments and show what it answers, or compare that with a file that holds what it should
    Test(TestArgs),
    /// Measure what a plug-in costs per record
    Bench(BenchArgs),
    /// Show the records of segments on which two plug-ins, or two versions of one, do not agree
    Diff(DiffArgs),
    /// Compile plug-ins ahead of time, into the cache that `run`, `tail` and `script` take them from
    Compile(CompileArgs),
    /// Have the running processes that tail a directory read their components again, and say what came of each
    Reload(ReloadArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// It says which records to keep
    Filter,
    /// It deals with batches
    Processor,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Filter => Self::Filter,
            KindArg::Processor => Self::Processor,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    Js,
    Python,
    C,
    Lua,
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Its name: small letters, digits and `-`, beginning with a letter. The folder made has the same name
    pub(crate) name: String,
    /// The language to write it in
    #[arg(long)]
    pub(crate) lang: Language,
    /// What it is to be
    #[arg(long)]
    pub(crate) kind: KindArg,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The plug-in's folder
    #[arg(default_value = ".")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The plug-in
    #[arg(value_name = "FILE.wasm|FILE.lua")]
    pub(crate) file: PathBuf,
    /// A configuration for a Lua file, which must run to be looked into
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a plug-in is set up to be tried.
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Its configuration, as JSON
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<String>,
    /// Let it send HTTP requests to this origin, such as `https://hooks.example.com`; they are really sent (repeatable)
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub(crate) grant_http: Vec<Origin>,
    /// What a Lua file is that returns a function, not a table with `filter` or `process`
    #[arg(long)]
    pub(crate) kind: Option<KindArg>,
    /// The limits that a component runs within, as JSON: `{"deadline":"2s","memory_bytes":67108864}`; `plugin inspect` lists
    /// them
    #[arg(long, value_name = "JSON", value_parser = limits)]
    pub(crate) limits: Option<Limits>,
}

/// What a plug-in is tried on.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// A segment, or a directory of segments, to try it on (repeatable)
    #[arg(long = "segment", value_name = "FILE|DIR", required = true)]
    pub(crate) segments: Vec<PathBuf>,
    /// Records per batch
    #[arg(long, value_name = "N", default_value = "100", value_parser = positive)]
    pub(crate) max_batch_size: usize,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The plug-in
    #[arg(value_name = "FILE.wasm|FILE.lua")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,
    #[command(flatten)]
    pub(crate) records: RecordArgs,
    /// Compare what it answers with this file, and fail if it differs
    #[arg(long, value_name = "GOLDEN")]
    pub(crate) expect: Option<PathBuf>,
    /// Write what it answers to the file of --expect
    #[arg(long, requires = "expect")]
    pub(crate) update: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The plug-in
    #[arg(value_name = "FILE.wasm|FILE.lua")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,
    #[command(flatten)]
    pub(crate) records: RecordArgs,
    /// For how long to measure, at least
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) time: Duration,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A plug-in
    #[arg(value_name = "OLD")]
    pub(crate) old: PathBuf,
    /// Another, of the same kind
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,
    /// The configuration of NEW, as JSON, if it has another one
    #[arg(long, value_name = "JSON")]
    pub(crate) new_config: Option<String>,
    #[command(flatten)]
    pub(crate) records: RecordArgs,
    /// How many differences to show; all are counted
    #[arg(long, value_name = "N", default_value = "20", value_parser = positive)]
    pub(crate) show: usize,
}

#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// Plug-ins. One that cannot be compiled does not keep the others from it
    #[arg(value_name = "FILE.wasm|FILE.lua", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// The directory of segments
    pub(crate) directory: PathBuf,
    /// Only those of the consumer with this checkpoint
    pub(crate) name: Option<String>,
    /// Print an array of JSON objects
    #[arg(long)]
    pub(crate) json: bool,
}

fn origin(text: &str) -> Result<Origin, String> {
    Origin::parse(text).map_err(|e| e.to_string())
}

/// The table `limits` of a pipeline, in JSON.
fn limits(text: &str) -> Result<Limits, String> {
    let table: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    serde_json::from_value(table).map_err(|e| in_our_words(&e.to_string()))
}
