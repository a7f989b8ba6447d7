//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::filter_args::FilterArgs;
use crate::plugin::args::PluginCommandArgs;

/// Tail a directory of compressed JSONL log segments through Lua scripts and WebAssembly plug-ins, with progress kept
/// in checkpoints.
#[derive(Debug, Parser)]
#[command(name = "tailweir", version, max_term_width = 110)]
#[command(after_help = "As kumod spells it: tailweir --script --policy FILE [-- ARGS…]")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) plugins: PluginArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Run a Lua script, as kumod spells it
#[derive(Debug, Parser)]
#[command(name = "tailweir", max_term_width = 110)]
pub(crate) struct KumodCli {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) plugins: PluginArgs,
    /// Run the file given with --policy as a script
    #[arg(long, required = true)]
    pub(crate) script: bool,
    /// The script (may be /dev/stdin)
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    #[command(flatten)]
    pub(crate) how: ScriptOptions,
    /// Arguments for the script's `main`
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

/// Whether the program was called as kumod is.
pub(crate) fn is_kumods(arguments: impl Iterator<Item = OsString>) -> bool {
    let kumods = |argument: &OsString| {
        argument == "--script"
            || argument == "--policy"
            || argument.as_encoded_bytes().starts_with(b"--policy=")
    };
    arguments.take_while(|argument| argument != "--").any(|argument| kumods(&argument))
}

/// What goes to the log, and how.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What to log, to stderr: a level, or `target=level,…` [default: warn, or $TAILWEIR_LOG]
    #[arg(id = "log_filter", long = "log", value_name = "FILTER", global = true)]
    pub(crate) filter: Option<String>,
    /// How log lines look
    #[arg(id = "log_format", long = "log-format", value_name = "FORMAT", global = true)]
    pub(crate) format: Option<LogFormat>,
}

/// What goes for WebAssembly plug-ins wherever they are used.
#[derive(Debug, Args)]
pub(crate) struct PluginArgs {
    /// Keep compiled WebAssembly plug-ins in this directory, or `off` [default: $TAILWEIR_PLUGIN_CACHE, or a directory
    /// `tailweir` among the user's caches]
    #[arg(id = "plugin_cache", long = "plugin-cache", value_name = "DIR", global = true)]
    pub(crate) cache: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What both spellings of running a script take.
#[derive(Debug, Default, Args)]
pub(crate) struct ScriptOptions {
    /// An argument for the script's `main`; those after `--` follow it. Better write all of them after `--`
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) script_args: Vec<String>,
    /// When started as root: run as this user instead (a name or a number of /etc/passwd)
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Write the log to files in this directory, a new one each hour, instead of stderr
    #[arg(long, value_name = "DIR")]
    pub(crate) diag_log_dir: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", conflicts_with = "log_format")]
    pub(crate) diag_format: Option<DiagFormat>,
    #[command(flatten)]
    pub(crate) summary: SummaryArgs,
}

/// What is told in the end.
#[derive(Debug, Default, Args)]
pub(crate) struct SummaryArgs {
    /// In the end, print to stderr what became of all lines: a table, or with `=json` one line of JSON; with `=segments` also
    /// a line of JSON for each segment, once it is dealt with
    #[arg(
        id = "summary",
        long = "summary",
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text"
    )]
    pub(crate) format: Option<SummaryFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SummaryFormat {
    Text,
    Json,
    Segments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiagFormat {
    Full,
    Compact,
    Pretty,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a Lua script written for KumoMTA (or for tailweir)
    Script(ScriptArgs),
    /// Run the consumers described in a pipeline file
    Run(RunArgs),
    /// Print records, those that a filter keeps, to stdout
    Tail(TailArgs),
    /// Show how far the checkpoints in a directory are
    Status(StatusArgs),
    /// Look into the quarantine of a checkpoint, send records again, or drop them
    Quarantine(QuarantineArgs),
    /// Begin, build, test, measure and compare plug-ins
    Plugin(PluginCommandArgs),
    /// Watch it work: segments are written, tailed, interrupted and resumed, in a directory of the demo's own
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ScriptArgs {
    /// The script (may be /dev/stdin)
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) how: ScriptOptions,
    /// Arguments for the script's `main`
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The pipeline file (TOML; see docs/pipeline.md)
    pub(crate) pipeline: PathBuf,
    /// Stop at the end of what is there now
    #[arg(long)]
    pub(crate) once: bool,
    /// Check everything (paths, options, plug-ins, grants) and stop before the first record
    #[arg(long, conflicts_with = "once")]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) summary: SummaryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The directory of segments
    pub(crate) directory: PathBuf,
    /// Which files are segments, by name
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub(crate) pattern: String,
    /// Keep progress in the file `.NAME` in the directory, and go on from there
    #[arg(long, value_name = "NAME")]
    pub(crate) checkpoint: Option<String>,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// Read a component again when its file changes, not only at SIGHUP
    #[arg(long, requires = "filter")]
    pub(crate) reload_on_change: bool,
    /// Records per batch; each batch is committed once it is written
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive)]
    pub(crate) max_batch_size: usize,
    /// How long the first record of a batch waits for others
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) max_batch_latency: Duration,
    /// Start at the newest segment, whatever the checkpoint says
    #[arg(long)]
    pub(crate) latest: bool,
    /// Stop at the end of what is there now
    #[arg(long)]
    pub(crate) once: bool,
    /// Look for changes at this interval instead of asking the system to report them (network file systems)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) poll_watcher: Option<Duration>,
    #[command(flatten)]
    pub(crate) summary: SummaryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The directory of segments
    pub(crate) directory: PathBuf,
    /// Print an array of JSON objects
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether a command starts the log itself.
pub(crate) fn logs_for_itself(command: &Command) -> bool {
    match command {
        Command::Script(_) => true,
        Command::Quarantine(QuarantineArgs { command: QuarantineCommand::Replay(args) }) => {
            args.lua.is_some()
        }
        _ => false,
    }
}

#[derive(Debug, Args)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    pub(crate) command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Count the records by reason, and say where the first and the last of each are
    List(QuarantineList),
    /// Print records, with their place, time, reason and bytes
    Show(QuarantineShow),
    /// Send records again through the filter and processor that they come from; those that are dealt with leave the
    /// quarantine
    Replay(QuarantineReplay),
    /// Drop records for good
    Drop(QuarantineDrop),
}

/// Which quarantine.
#[derive(Debug, Args)]
pub(crate) struct QuarantinePlace {
    /// The directory of segments
    pub(crate) directory: PathBuf,
    /// The checkpoint's name
    pub(crate) name: String,
}

/// Which records of it.
#[derive(Debug, Args)]
pub(crate) struct ChooseArgs {
    /// Records, by their place; without any, all of them
    #[arg(value_name = "SEGMENT:LINE")]
    pub(crate) places: Vec<String>,
    /// Only those with this text in their reason
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct QuarantineList {
    #[command(flatten)]
    pub(crate) place: QuarantinePlace,
    /// Print an array of JSON objects
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuarantineShow {
    #[command(flatten)]
    pub(crate) place: QuarantinePlace,
    #[command(flatten)]
    pub(crate) choose: ChooseArgs,
    /// Print a JSON object per line, as they are in the quarantine
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("dropped").required(true).multiple(true).args(["places", "reason", "all"])))]
pub(crate) struct QuarantineDrop {
    #[command(flatten)]
    pub(crate) place: QuarantinePlace,
    #[command(flatten)]
    pub(crate) choose: ChooseArgs,
    /// Drop everything
    #[arg(long, conflicts_with_all = ["places", "reason"])]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("through").required(true).args(["pipeline", "lua", "stdout"])))]
pub(crate) struct QuarantineReplay {
    #[command(flatten)]
    pub(crate) place: QuarantinePlace,
    #[command(flatten)]
    pub(crate) choose: ChooseArgs,
    /// Through the consumer of this pipeline file that has the checkpoint
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) pipeline: Option<PathBuf>,
    /// Through this Lua script, whose tailer with the checkpoint gets the records
    #[arg(long, value_name = "FILE.lua")]
    pub(crate) lua: Option<PathBuf>,
    /// To stdout, as `tailweir tail` prints them
    #[arg(long)]
    pub(crate) stdout: bool,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// With --lua: arguments for the script's `main`
    #[arg(last = true, requires = "lua")]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the demo's directory, and say where it is
    #[arg(long)]
    pub(crate) keep: bool,
}

pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(e) => Err(format!("{e}; write a number and a unit, such as 500ms or 2s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
        KumodCli::command().debug_assert();
    }

    #[test]
    fn kumods_spelling_is_understood() {
        let text = "tailweir --script --policy a.lua --script-args one --user nobody -- two -x";
        let arguments = || text.split(' ').map(OsString::from);
        assert!(is_kumods(arguments()));
        let cli = KumodCli::parse_from(arguments());
        assert_eq!(cli.policy.to_str(), Some("a.lua"));
        assert_eq!((cli.how.script_args, cli.args), (vec!["one".into()], vec!["two".into(), "-x".into()]));
        assert_eq!(cli.how.user.as_deref(), Some("nobody"));
        assert!(!is_kumods("tailweir script a.lua -- --script".split(' ').map(OsString::from)));
    }

    #[test]
    fn our_spelling_takes_the_same_options() {
        let cli = Cli::parse_from([
            "tailweir",
            "script",
            "a.lua",
            "--diag-format",
            "json",
            "--log",
            "info",
            "--",
            "x",
        ]);
        let Command::Script(script) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!((script.how.diag_format, script.args), (Some(DiagFormat::Json), vec!["x".to_owned()]));
        assert_eq!(cli.log.filter.as_deref(), Some("info"));
    }

    #[test]
    fn options_of_the_same_name_are_told_apart() {
        let cli = Cli::parse_from(["tailweir", "tail", "dir", "--filter", "f.lua", "--log", "info"]);
        let Command::Tail(tail) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!((tail.filters.paths(), cli.log.filter.as_deref()), (vec!["f.lua".into()], Some("info")));
    }
}
