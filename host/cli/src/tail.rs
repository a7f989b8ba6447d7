//! `tailweir tail`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use tailweir_pipeline::{
    CheckpointName, CheckpointOptions, Closer, ConsumerOptions, DriveError, Policy, SinkProcessor,
    SourceOptions, StartFrom, drive, open,
};
use tailweir_segments::{Mode, Pattern, Watch};

use crate::args::TailArgs;
use crate::engine::WasmEngine;
use crate::exit::UsageError;
use crate::filter_args::FilterArg;
use crate::logging::LogEvents;
use crate::plugins::{Engines, NamedFilter, Owner};
use crate::progress;
use crate::reload::{self, When};
use crate::signals::Shutdown;
use crate::sinks::{StdoutSink, check_stdout_is_no_segment};

/// Prints the records that are kept; commits each batch once it is written.
pub(crate) fn run(args: &TailArgs, engine: &WasmEngine) -> Result<()> {
    // Before a plug-in is compiled, which takes a while.
    let stop = Arc::new(Stop::default());
    let on_signal = stop.clone();
    let (asker, reload) = reload::channel();
    match args.filters.has_component() {
        true => Shutdown::or_reload(move || on_signal.ask(), asker)?,
        // There is nothing to read again, so a terminal that is closed ends it as it does any program.
        false => Shutdown::or_hangup(move || on_signal.ask())?,
    };
    if args.reload_on_change && !args.filters.has_component() {
        return Err(UsageError(
            "--reload-on-change: no --filter is a component, and files in Lua are not read again; leave it out".to_owned(),
        )
        .into());
    }
    let pattern = Pattern::new(&args.pattern).map_err(|e| UsageError(format!("--pattern: {e}")))?;
    let engines = Engines::new(engine.clone());
    let options = consumer(args, &engines)?;
    let (reloads, shadows) = engines.into_parts();
    if !args.filters.0.is_empty() {
        let when = if args.reload_on_change { When::Changed } else { When::Asked };
        reload.serve(reloads, when, &args.directory)?;
    }
    let mut consumer =
        open(source(args, pattern.clone()), vec![options])?.pop().context("no consumer was opened")?;
    check_stdout_is_no_segment(&args.directory, &pattern)?;
    let stdout = StdoutSink::new().context("cannot write to stdout")?;
    let broken = stdout.broken_pipe();
    let closer = consumer.closer();
    broken.watch(move || closer.close()).context("cannot watch stdout")?;
    stop.closes(consumer.closer());
    progress::start(&args.directory, &pattern, vec![consumer.counters()]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    // The processor emits nothing; its own sink is the one that counts.
    let (mut processor, mut unused) = (SinkProcessor(stdout), StdoutSink::new()?);
    let ended = runtime.block_on(drive(&mut consumer, &mut processor, &mut unused, &Policy::default()));
    progress::clear();
    shadows.finish();
    match ended {
        // Whoever reads has seen enough; the batch that did not get through comes again.
        Err(DriveError::Stopped { .. }) if broken.is_broken() => Ok(()),
        ended => Ok(ended?),
    }
}

/// Closes the consumer when asked to, even if that is before there is one.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    closer: OnceLock<Closer>,
}

impl Stop {
    fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        if let Some(closer) = self.closer.get() {
            closer.close();
        }
    }

    fn closes(&self, closer: Closer) {
        let closer = self.closer.get_or_init(|| closer);
        if self.asked.load(Ordering::SeqCst) {
            closer.close();
        }
    }
}

fn consumer(args: &TailArgs, engines: &Engines) -> Result<ConsumerOptions> {
    let mut options = ConsumerOptions::new(args.checkpoint.as_deref().unwrap_or("default"));
    options.max_batch_size = args.max_batch_size;
    options.max_batch_latency = args.max_batch_latency;
    if let Some(name) = &args.checkpoint {
        let name = CheckpointName::new(name).map_err(|e| UsageError(format!("--checkpoint: {e}")))?;
        options.checkpoint = Some(CheckpointOptions::new(name));
    }
    let owner = Owner { consumer: &options.name, checkpoint: args.checkpoint.as_deref() };
    let load = |nth, filter: &FilterArg| engines.filter_file(owner, nth, filter);
    let filters = Engines::filters(&args.filters.0, |filter| &filter.path, load)?;
    options.filters = filters.iter().map(NamedFilter::options).collect::<Result<_>>()?;
    Ok(options)
}

fn source(args: &TailArgs, pattern: Pattern) -> SourceOptions {
    let mut source = SourceOptions::new(&args.directory);
    source.reader.pattern = pattern;
    source.reader.events = Arc::new(LogEvents);
    source.reader.mode = if args.once { Mode::Once } else { Mode::Follow };
    source.reader.watch = args.poll_watcher.map_or(Watch::Native, Watch::Poll);
    if args.latest {
        source.start = StartFrom::Newest;
    }
    source
}
