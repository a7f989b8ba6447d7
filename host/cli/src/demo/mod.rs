//! `tailweir demo`: the whole of it in front of the reader, checked at the end.
//!
//! The tailing is done by child processes of this program, with the commands that the demo prints, so that interrupting
//! and resuming are real.

mod child;
mod receiver;
mod world;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{BinaryBytes, HumanCount};
use tailweir_pipeline::{CheckpointStatus, Listed, status};

use self::child::{Child, Children};
use self::receiver::Receiver;
use self::world::World;
use crate::args::DemoArgs;
use crate::signals::Shutdown;

const WEBHOOK: &str = include_str!("../../../../examples/scripts/webhook.lua");
const POOL_FILTER: &[u8] = include_bytes!("../../../../examples/plugins/pool-filter/pool-filter.wasm");

/// The customer that the script serves, and the one that the filter is for.
const SCRIPTS: &str = "customer-a";
const FILTERS: &str = "customer-b";

/// What the documented script calls its checkpoint.
const SCRIPTS_CHECKPOINT: &str = "webhook-poster";
const FILTERS_CHECKPOINT: &str = "to-stdout";

/// Sealed records, and those written each second while the demo runs.
const SEALED: u64 = 60_000;
const PER_SECOND: u64 = 200;

/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a record arrived, by its id.
type Arrived = HashMap<String, u32>;

macro_rules! say {
    ($($text:tt)*) => { writeln!(std::io::stdout(), $($text)*).context("cannot write to stdout")? };
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let mut folder =
        tempfile::Builder::new().prefix("tailweir-demo-").tempdir().context("cannot make a directory")?;
    folder.disable_cleanup(args.keep);
    let children = Arc::new(Children::default());
    let (on_signal, path, keep) = (children.clone(), folder.path().to_owned(), args.keep);
    Shutdown::on_signal(move || {
        on_signal.kill();
        if !keep {
            // The process ends here, and nothing else would remove it.
            let _ = std::fs::remove_dir_all(path);
        }
        std::process::exit(130);
    })?;
    let told = Demo::new(folder.path(), children)?.tell();
    if args.keep {
        say!("\nThe demo's files are in {}.", folder.path().display());
    }
    told
}

struct Demo {
    segments: PathBuf,
    script: PathBuf,
    filter: PathBuf,
    children: Arc<Children>,
}

impl Demo {
    fn new(folder: &Path, children: Arc<Children>) -> Result<Self> {
        let (script, filter) = (folder.join("webhook.lua"), folder.join("pool-filter.wasm"));
        std::fs::write(&script, WEBHOOK).context("cannot write the script")?;
        std::fs::write(&filter, POOL_FILTER).context("cannot write the filter")?;
        Ok(Self { segments: folder.join("segments"), script, filter, children })
    }

    fn tell(&self) -> Result<()> {
        say!("1. Segments");
        let mut world = World::new(&self.segments, SEALED, PER_SECOND)?;
        say!(
            "   Wrote {} records of mail log ({} of JSON) into {} zstd segments in {},",
            HumanCount(SEALED),
            BinaryBytes(world.sealed_bytes()),
            world.sealed_segments(),
            self.segments.display()
        );
        say!("   and from now on a live segment beside them grows by {PER_SECOND} records a second.\n");

        let receiver = Receiver::start()?;
        self.run_script(&receiver)?;
        let (filter, filtered) = self.run_filter()?;
        let script = self.script(&receiver)?;
        say!("4. Catching up with the live segment");
        world.stop()?;
        say!(
            "   The writer has stopped after {} records. Waiting for both to have read them all.",
            HumanCount(world.written())
        );
        wait_for("the script to deliver everything", || {
            Ok(receiver.distinct() >= world.expected(SCRIPTS).len())
        })?;
        let filtered = filtered.wait_for(world.expected(FILTERS).len(), PATIENCE)?;
        self.wait_for_checkpoints()?;
        script.terminate().context("the script")?;
        filter.terminate().context("the filter")?;
        say!("   Both have, and ended in good order when asked to.\n");
        self.summarize(&world, &receiver.arrived(), &filtered.arrived())?;
        next_steps()
    }

    /// The Lua script, interrupted half-way.
    fn run_script(&self, receiver: &Receiver) -> Result<()> {
        say!(
            "2. A Lua script: KumoMTA's documented webhook script, posting {SCRIPTS}'s records to a receiver in this demo"
        );
        say!("   $ tailweir {}", self.script_arguments(receiver).join(" "));
        let script = self.script(receiver)?;
        wait_for("the first batches", || Ok(receiver.distinct() >= 2_000))?;
        say!(
            "   {} records have arrived. Now the receiver answers one request with 503; the script tries again by itself:",
            HumanCount(receiver.distinct() as u64)
        );
        let before = receiver.distinct();
        receiver.refuse_once();
        wait_for("the batch that was refused", || Ok(receiver.distinct() > before + 100))?;
        say!("   It has. Interrupting the script as Ctrl-C would (SIGINT).");
        script.interrupt().context("the script")?;
        let checkpoint = self.checkpoint(SCRIPTS_CHECKPOINT)?;
        say!(
            "   It ended in good order. {} records have arrived; its checkpoint is at line {} of {}, {} behind.",
            HumanCount(receiver.distinct() as u64),
            HumanCount(checkpoint.line),
            checkpoint.segment,
            BinaryBytes(checkpoint.behind_bytes),
        );
        say!("   The same command will go on from there.\n");
        Ok(())
    }

    /// The WASM filter, killed half-way and started again.
    fn run_filter(&self) -> Result<(Child, child::Lines)> {
        say!("3. A WebAssembly filter: {FILTERS}'s records to stdout, which the demo reads");
        say!("   $ tailweir {}", shell(&self.filter_arguments()));
        let (filter, mut lines) = self.filter()?;
        lines.read_until(3_000, PATIENCE)?;
        say!(
            "   {} lines read. Killing it with no chance to say goodbye (SIGKILL), in the middle of a batch.",
            HumanCount(lines.len() as u64)
        );
        filter.kill()?;
        let before = lines.finish();
        let checkpoint = self.checkpoint(FILTERS_CHECKPOINT)?;
        say!(
            "   Its checkpoint is at line {} of {}. The same command again: the batch that was not committed comes again.\n",
            HumanCount(checkpoint.line),
            checkpoint.segment
        );
        let (filter, lines) = self.filter()?;
        Ok((filter, lines.after(before)))
    }

    fn script_arguments(&self, receiver: &Receiver) -> Vec<String> {
        let (script, segments) = (self.script.display().to_string(), self.segments.display().to_string());
        vec!["script".into(), script, "--".into(), segments, receiver.url(), SCRIPTS.into()]
    }

    fn filter_arguments(&self) -> Vec<String> {
        let (filter, segments) = (self.filter.display().to_string(), self.segments.display().to_string());
        let config = format!("{{\"pool\":\"{FILTERS}\"}}");
        let options = ["--checkpoint", FILTERS_CHECKPOINT, "--filter", &filter, "--config", &config];
        ["tail", &segments].into_iter().chain(options).map(str::to_owned).collect()
    }

    fn script(&self, receiver: &Receiver) -> Result<Child> {
        self.children.start(&self.script_arguments(receiver)).context("the script")
    }

    fn filter(&self) -> Result<(Child, child::Lines)> {
        self.children.start_piped(&self.filter_arguments()).context("the filter")
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointStatus>> {
        Ok(status(&self.segments)?.into_iter().filter_map(Listed::usable).collect())
    }

    fn checkpoint(&self, name: &str) -> Result<CheckpointStatus> {
        let found = self.checkpoints()?.into_iter().find(|checkpoint| checkpoint.name == name);
        found.with_context(|| format!("checkpoint {name} is not there"))
    }

    /// Waits until both checkpoints are at the end of everything.
    fn wait_for_checkpoints(&self) -> Result<()> {
        wait_for("the checkpoints", || {
            let checkpoints = self.checkpoints()?;
            Ok(checkpoints.len() == 2 && checkpoints.iter().all(|c| c.behind_bytes == 0))
        })
    }

    /// Says what was read, kept, delivered and committed, and fails if that does not add up.
    fn summarize(&self, world: &World, script: &Arrived, filter: &Arrived) -> Result<()> {
        say!("5. What happened");
        let head = ["", "read", "kept", "arrived", "of them again", "committed"];
        say!("   {:<28}{:>9}{:>9}{:>9}{:>15}  {}", head[0], head[1], head[2], head[3], head[4], head[5]);
        let mut wrong = Vec::new();
        let rows = [
            ("Lua script to webhook", SCRIPTS_CHECKPOINT, world.expected(SCRIPTS), script),
            ("WASM filter to stdout", FILTERS_CHECKPOINT, world.expected(FILTERS), filter),
        ];
        for (what, checkpoint, kept, arrived) in rows {
            let committed = self.checkpoint(checkpoint)?;
            let complete = committed.behind_bytes == 0 && committed.held_by.is_none();
            let again: u64 = arrived.values().map(|times| u64::from(*times) - 1).sum();
            // Padded as texts: the number itself ignores the width.
            let count = |n: u64| HumanCount(n).to_string();
            let (kept_count, arrived_count) = (count(kept.len() as u64), count(arrived.len() as u64));
            let (read, again) = (count(world.written()), count(again));
            let committed = if complete { "everything" } else { "not everything" };
            say!("   {what:<28}{read:>9}{kept_count:>9}{arrived_count:>9}{again:>15}  {committed}");
            let (missing, foreign) = (
                kept.iter().filter(|id| !arrived.contains_key(**id)).count(),
                arrived.keys().filter(|id| !kept.contains(id.as_str())).count(),
            );
            if missing + foreign > 0 || !complete {
                wrong.push(format!("{what}: {missing} records missing, {foreign} that should not be there, {committed} committed"));
            }
        }
        if !wrong.is_empty() {
            bail!("the demo does not add up: {}", wrong.join("; "));
        }
        say!(
            "   Compared id by id with what was written: nothing is missing, and nothing is there that should not be."
        );
        say!("   What came again was in flight when the process was killed: delivery is at least once.\n");
        Ok(())
    }
}

fn next_steps() -> Result<()> {
    say!("6. What to try next");
    say!("   tailweir tail DIR --once                    print the records of a directory of yours");
    say!("   tailweir script examples/scripts/multi.lua -- DIR");
    say!("   tailweir run examples/pipelines/to-files.toml --check");
    say!("   tailweir status DIR                         where each consumer is");
    say!("   docs/scripts.md, docs/plugins.md            write your own");
    Ok(())
}

/// Waits for a condition, and gives up with an error that names it.
fn wait_for(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Arguments as they are typed in a shell.
fn shell(arguments: &[String]) -> String {
    let quote = |text: &String| match text.contains(['"', ' ', '{', '*']) {
        true => format!("'{text}'"),
        false => text.clone(),
    };
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}
