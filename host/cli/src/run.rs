//! `tailweir run`.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, access};
use tailweir_core::Printable;
use tailweir_pipeline::{
    CheckpointName, Closer, Consumer, Counters, Policy, Source, SourceOptions, StartFrom, Worker, drive,
    drive_parallel,
};
use tailweir_segments::{Mode, Watch, list};
use tokio::sync::watch;
use tracing::{error, info};

use crate::args::RunArgs;
use crate::config::{self, ConsumerTable, Pipeline, Plugin, ProcessorTable, SinkTable, Tailer};
use crate::engine::WasmEngine;
use crate::exit::one_line;
use crate::logging::LogEvents;
use crate::plugins::{Engines, NamedFilter, Owner, ProcessorMaker, check_sink, workers};
use crate::progress;
use crate::quarantine;
use crate::reload::{self, Reloads};
use crate::shadow::Shadows;
use crate::signals::Shutdown;
use crate::sinks::{check_is_no_segment, check_stdout_is_no_segment};

/// Runs the consumers of a pipeline file until they end, or only checks them.
pub(crate) fn run(args: &RunArgs, engine: &WasmEngine) -> Result<()> {
    let closers = Arc::new(Closers::default());
    let (asker, reload) = reload::channel();
    if !args.check {
        // Before plug-ins are compiled, which takes a while.
        let on_signal = closers.clone();
        Shutdown::or_reload(move || on_signal.close(), asker)?;
    }
    let pipeline = config::load(&args.pipeline)?;
    let (plans, reloads, shadows) =
        prepare(&pipeline, engine).with_context(|| format!("{} cannot be used", args.pipeline.display()))?;
    if args.check {
        return summarize(&args.pipeline, &pipeline);
    }
    reload.serve(reloads, pipeline.plugin_reload, &pipeline.tailer.directory)?;
    let ended = consume_all(&pipeline, plans, &closers, args.once);
    shadows.finish();
    ended
}

/// Sends what is laid out in `room` through the consumer of a pipeline file that has the checkpoint `name`.
pub(crate) fn replay(
    file: &Path,
    directory: &Path,
    name: &CheckpointName,
    room: &Path,
    engine: &WasmEngine,
) -> Result<()> {
    let closers = Arc::new(Closers::default());
    let on_signal = closers.clone();
    Shutdown::on_signal(move || on_signal.close())?;
    let mut pipeline = config::load(file)?;
    quarantine::only(&mut pipeline, file, directory, name, room.to_owned())?;
    let (plans, _, _) =
        prepare(&pipeline, engine).with_context(|| format!("{} cannot be used", file.display()))?;
    consume_all(&pipeline, plans, &closers, true)
}

/// Runs consumers, each in a thread of its own, until all have ended.
fn consume_all(pipeline: &Pipeline, plans: Vec<Plan>, closers: &Arc<Closers>, once: bool) -> Result<()> {
    let source = Source::new(source(&pipeline.tailer, once))?;
    let gate = Gate::new();
    let mut threads = Vec::with_capacity(plans.len());
    for plan in plans {
        let (source, closers, pass, name) = (source.clone(), closers.clone(), gate.pass(), plan.name.clone());
        let work = move || {
            let ended = consume(&plan, &source, &closers, pass);
            ended.inspect_err(|e| {
                error!(
                    consumer = plan.name,
                    "stopped: {}; the others go on",
                    Printable(&one_line(e.as_ref()))
                )
            })
        };
        let thread =
            thread::Builder::new().name(name.clone()).spawn(work).context("cannot start a thread")?;
        threads.push((name, thread));
    }
    gate.open();
    let tailer = &pipeline.tailer;
    progress::start(&tailer.directory, &tailer.pattern.clone().unwrap_or_default(), closers.counters());
    let failed = join(threads);
    progress::clear();
    if failed.is_empty() { Ok(()) } else { bail!("consumers that failed: {}", failed.join(", ")) }
}

/// What a consumer's thread needs.
struct Plan {
    name: String,
    table: ConsumerTable,
    filters: Vec<NamedFilter>,
    processor: ProcessorMaker,
    sink: SinkTable,
    policy: Policy,
}

/// Checks all that can be checked without reading a record.
fn prepare(pipeline: &Pipeline, engine: &WasmEngine) -> Result<(Vec<Plan>, Reloads, Shadows)> {
    let tailer = &pipeline.tailer;
    list(&tailer.directory, &tailer.pattern.clone().unwrap_or_default())?;
    access(&tailer.directory, Access::WRITE_OK)
        .with_context(|| format!("no checkpoint can be written in {}", tailer.directory.display()))?;
    let engines = Engines::new(engine.with_pipeline(pipeline.plugin_cache.as_deref()));
    let plan = |table: &ConsumerTable| -> Result<Plan> {
        let sink = table.sink.clone().unwrap_or_default();
        let (consumer, checkpoint) = (table.name.get_ref(), Some(table.checkpoint_name().get_ref().as_str()));
        let owner = Owner { consumer, checkpoint };
        check_sink(&sink).context("sink")?;
        check_feeds_nothing(tailer, &sink).context("sink")?;
        if let ProcessorTable::BuiltIn(sink) = &table.processor {
            check_feeds_nothing(tailer, sink).context("processor")?;
        }
        Ok(Plan {
            name: table.name.get_ref().clone(),
            filters: Engines::filters(&table.filter, Plugin::path, |nth, plugin| {
                engines.filter(owner, nth, plugin)
            })?,
            processor: engines.processor(owner, table).context("processor")?,
            sink,
            policy: table.on_error.policy(&table.processor),
            table: table.clone(),
        })
    };
    let named = |table| plan(table).with_context(|| format!("consumer `{}`", table.name.get_ref()));
    let plans = pipeline.consumers.iter().map(named).collect::<Result<Vec<_>>>()?;
    let (reloads, shadows) = engines.into_parts();
    Ok((plans, reloads, shadows))
}

/// Refuses a sink that would write what is then read.
fn check_feeds_nothing(tailer: &Tailer, sink: &SinkTable) -> Result<()> {
    let pattern = tailer.pattern.clone().unwrap_or_default();
    match sink {
        SinkTable::File(options) => check_is_no_segment(&options.path, &tailer.directory, &pattern),
        SinkTable::Stdout {} => check_stdout_is_no_segment(&tailer.directory, &pattern),
        SinkTable::Http(_) => Ok(()),
    }
}

fn source(tailer: &Tailer, once: bool) -> SourceOptions {
    let mut source = SourceOptions::new(&tailer.directory);
    let reader = &mut source.reader;
    reader.events = Arc::new(LogEvents);
    reader.pattern = tailer.pattern.clone().unwrap_or_default();
    reader.ordering = tailer.ordering.unwrap_or_default();
    reader.watch = tailer.poll_watcher.map_or(Watch::Native, |interval| Watch::Poll(interval.into()));
    reader.mode = if once || !tailer.follow { Mode::Once } else { Mode::Follow };
    if let Some(size) = tailer.max_line_size {
        reader.max_line_size = size.get();
    }
    if let Some(bytes) = tailer.read_ahead_bytes {
        reader.read_ahead_bytes = bytes.get();
    }
    if tailer.tail {
        source.start = StartFrom::Newest;
    }
    source
}

/// A consumer's thread: opens it, waits until all are open, so that they share one pass over the directory, and runs it.
fn consume(plan: &Plan, source: &Source, closers: &Closers, pass: Pass) -> Result<()> {
    let mut consumer = open(plan, source)?;
    closers.add(&consumer);
    plan.processor.will_use(consumer.state_view());
    let mut workers = workers(&plan.processor, &plan.sink, plan.table.instances())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        pass.through().await;
        match &mut workers[..] {
            [Worker { processor, sink }] => {
                drive(&mut consumer, &mut **processor, &mut **sink, &plan.policy).await
            }
            _ => drive_parallel(&mut consumer, workers, &plan.policy).await,
        }
    })?;
    let counted = consumer.counters().snapshot();
    info!(consumer = plan.name, records = counted.records, committed = counted.committed_records, "ended");
    Ok(())
}

/// Opens once everybody who has a pass is at it, or has given the pass up.
struct Gate {
    arriving: mpsc::Receiver<()>,
    arrival: mpsc::Sender<()>,
    open: watch::Sender<bool>,
}

/// A right to go through a [`Gate`]. It is given up when dropped.
struct Pass {
    arrival: mpsc::Sender<()>,
    open: watch::Receiver<bool>,
}

impl Gate {
    fn new() -> Self {
        let (arrival, arriving) = mpsc::channel();
        Self { arriving, arrival, open: watch::Sender::new(false) }
    }

    fn pass(&self) -> Pass {
        Pass { arrival: self.arrival.clone(), open: self.open.subscribe() }
    }

    /// Waits for all and opens.
    fn open(self) {
        drop(self.arrival);
        // Nothing is sent: it returns when the last arrival is dropped.
        let _ = self.arriving.recv();
        self.open.send_replace(true);
    }
}

impl Pass {
    async fn through(mut self) {
        drop(self.arrival);
        // A gate that is gone stops nobody.
        let _ = self.open.wait_for(|open| *open).await;
    }
}

fn open(plan: &Plan, source: &Source) -> Result<Consumer> {
    let mut options = plan.table.options()?;
    options.filters = plan.filters.iter().map(NamedFilter::options).collect::<Result<_>>()?;
    Ok(source.open(options)?)
}

/// Waits for all consumers and names those that failed. A panic has said its words on stderr.
fn join(threads: Vec<(String, JoinHandle<Result<()>>)>) -> Vec<String> {
    let ended = threads.into_iter().map(|(name, thread)| (name, thread.join()));
    ended.filter(|(_, result)| !matches!(result, Ok(Ok(())))).map(|(name, _)| name).collect()
}

/// What closes the consumers that are open, and those that are opened later.
#[derive(Default)]
struct Closers(Mutex<Open>);

#[derive(Default)]
struct Open {
    closed: bool,
    closers: Vec<Closer>,
    counters: Vec<Arc<Counters>>,
}

impl Closers {
    fn add(&self, consumer: &Consumer) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.counters.push(consumer.counters());
        open.closers.push(consumer.closer());
        if open.closed {
            consumer.closer().close();
        }
    }

    fn counters(&self) -> Vec<Arc<Counters>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).counters.clone()
    }

    fn close(&self) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.closed = true;
        open.closers.iter().for_each(Closer::close);
    }
}

/// What `--check` says of a pipeline that is in order.
fn summarize(path: &Path, pipeline: &Pipeline) -> Result<()> {
    let mut text =
        format!("{}: in order\ndirectory {}\n", path.display(), pipeline.tailer.directory.display());
    for table in &pipeline.consumers {
        text +=
            &format!("consumer {}, checkpoint {}\n", table.name.get_ref(), table.checkpoint_name().get_ref());
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}
