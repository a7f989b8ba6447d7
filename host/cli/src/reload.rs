//! Plug-ins that are read again, at SIGHUP, on request or when their files change, while those that were loaded before go on.
//!
//! A new version is compiled and tried beside the old one; only one that would have been loaded at the start, too, takes
//! over. Those who call the plug-in see at their next call that there is one, and make themselves an instance of it.
//! [`watch`] looks at the files, [`control`] takes requests.

pub(crate) mod control;
mod watch;

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tailweir_core::{
    Batch, Failure, Filter, FilterError, FilterFactory, Outcome, ProcessFuture, Processor, Replaced,
    StateKeeper, StateView, Verdict, processor,
};
use tailweir_wasm::{Description, FilterPlugin, LoadError, LoadErrorKind, ProcessorPlugin};
use tokio::sync::Notify;
use tracing::{error, info, warn};

/// Asks for a reload. It may do so before there is anything to reload.
pub(crate) struct Asker(SyncSender<()>);

impl Asker {
    pub(crate) fn ask(&self) {
        // If one is waiting already, that will do: it looks at the files when it begins.
        let _ = self.0.try_send(());
    }
}

/// What is asked for, to be done by a thread.
pub(crate) struct Asked(Receiver<()>);

/// An [`Asker`] and where what it asks arrives.
pub(crate) fn channel() -> (Asker, Asked) {
    let (sender, receiver) = sync_channel(1);
    (Asker(sender), Asked(receiver))
}

/// When plug-ins are read again without anybody asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum When {
    /// Never.
    #[default]
    Asked,
    /// When their files have changed.
    Changed,
}

impl Asked {
    /// Starts the threads that read plug-ins again: at signals, also those that have come so far, at requests to the process
    /// about its work in `directory`, and when their files change if that is wanted.
    pub(crate) fn serve(self, plugins: Reloads, when: When, directory: &Path) -> Result<()> {
        let plugins = Arc::new(plugins);
        if when == When::Changed {
            watch::start(plugins.clone())?;
        }
        control::start(directory, plugins.clone())?;
        let serve = move || {
            for () in self.0 {
                if plugins.reload(|_| true).is_empty() {
                    info!("SIGHUP: there is no WebAssembly plug-in to read again");
                }
            }
        };
        thread::Builder::new().name("reload".to_owned()).spawn(serve).context("cannot start a thread")?;
        Ok(())
    }
}

/// What a plug-in is to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) consumer: String,
    /// The consumer's checkpoint, if it has one.
    pub(crate) checkpoint: Option<String>,
    pub(crate) role: Role,
    /// Which of the consumer's filters it is, or is the shadow of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nth: Option<Nth>,
}

/// One of a consumer's filters, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nth {
    pub(crate) n: usize,
    pub(crate) of: usize,
}

impl Nth {
    /// What a plug-in is told of with, besides its name, if there are several.
    pub(crate) fn label(self) -> Option<String> {
        (self.of > 1).then(|| format!("filter {}", self.n))
    }
}

impl fmt::Display for Nth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            1 => f.write_str("filter"),
            of => write!(f, "filter {} of {of}", self.n),
        }
    }
}

impl Place {
    pub(crate) fn new(consumer: &str, checkpoint: Option<&str>, role: Role) -> Self {
        let (consumer, checkpoint) = (consumer.to_owned(), checkpoint.map(str::to_owned));
        Self { consumer, checkpoint, role, nth: None }
    }

    /// The place of the shadow of what is here.
    pub(crate) fn of_shadow(&self) -> Self {
        let role = match self.role {
            Role::Filter | Role::ShadowFilter => Role::ShadowFilter,
            Role::Processor | Role::ShadowProcessor => Role::ShadowProcessor,
        };
        Self { role, ..self.clone() }
    }
}

impl Place {
    /// What the plug-in is to its consumer, such as `filter 2 of 3`.
    pub(crate) fn what(&self) -> String {
        match (self.role, self.nth) {
            (Role::Filter, Some(nth)) => nth.to_string(),
            (Role::ShadowFilter, Some(nth)) if nth.of > 1 => format!("shadow of {nth}"),
            (role, _) => role.name().to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consumer `{}`, {}", self.consumer, self.what())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    Filter,
    Processor,
    ShadowFilter,
    ShadowProcessor,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Processor => "processor",
            Self::ShadowFilter => "shadow of the filter",
            Self::ShadowProcessor => "shadow of the processor",
        }
    }

    pub(crate) fn is_shadow(self) -> bool {
        matches!(self, Self::ShadowFilter | Self::ShadowProcessor)
    }

    /// Why a plug-in in this role was not loaded.
    pub(crate) fn explain(self, error: &LoadError) -> String {
        match (self, &error.kind) {
            (Self::ShadowFilter | Self::ShadowProcessor, LoadErrorKind::MissingGrant) => format!(
                "{}: it sends HTTP requests, and a shadow must have no effect; try it with `tailweir plugin test`, or build \
                 a version that sends none",
                error.path.display()
            ),
            _ => error.to_string(),
        }
    }
}

/// What came of reading a plug-in again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) place: Place,
    pub(crate) file: String,
    /// Name and version of what was in use before.
    pub(crate) before: String,
    #[serde(flatten)]
    pub(crate) came: Came,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Came {
    /// Another version takes over.
    Replaced {
        by: String,
        /// What is to be minded about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// The file is as it was.
    Unchanged,
    /// What is in the file cannot be used.
    Kept { why: String },
}

impl Report {
    fn log(&self) {
        let Self { place, file, before, came } = self;
        match came {
            Came::Replaced { by, note: None } => info!("{place}: {file}: {by} takes over from {before}"),
            Came::Replaced { by, note: Some(note) } => {
                warn!("{place}: {file}: {by} takes over from {before}; {note}")
            }
            Came::Unchanged => info!("{place}: {file}: not changed, so {before} goes on"),
            // The error names the file.
            Came::Kept { why } => error!("{place}: plug-in not replaced, {before} goes on: {why}"),
        }
    }
}

/// The plug-ins that can be read again.
#[derive(Default)]
pub(crate) struct Reloads {
    plugins: Mutex<Vec<Arc<dyn Reload>>>,
    /// One is read at a time.
    turn: Mutex<()>,
}

impl Reloads {
    /// Has a filter read again from now on.
    pub(crate) fn filter(&self, place: Place, plugin: FilterPlugin) -> Arc<dyn FilterFactory> {
        Arc::new(FilterSlot(self.add(place, plugin)))
    }

    /// Has a processor read again from now on.
    pub(crate) fn processor(&self, place: Place, plugin: ProcessorPlugin) -> ProcessorSlot {
        ProcessorSlot(self.add(place, plugin))
    }

    fn add<P: Plugin>(&self, place: Place, plugin: P) -> Arc<Slot<P>> {
        let slot = Arc::new(Slot {
            place,
            plugin: Mutex::new(plugin),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
        });
        lock(&self.plugins).push(slot.clone());
        slot
    }

    fn all(&self) -> Vec<Arc<dyn Reload>> {
        lock(&self.plugins).clone()
    }

    /// Reads those again that are wanted, and tells the log what came of each.
    fn reload(&self, wanted: impl Fn(&Place) -> bool) -> Vec<Report> {
        let plugins = self.all().into_iter().filter(|plugin| wanted(plugin.place()));
        plugins.map(|plugin| self.reload_one(&*plugin)).inspect(Report::log).collect()
    }

    fn reload_one(&self, plugin: &dyn Reload) -> Report {
        let _turn = lock(&self.turn);
        plugin.reload()
    }
}

/// What can be read again.
trait Reload: Send + Sync {
    fn place(&self) -> &Place;

    fn file(&self) -> PathBuf;

    /// Reads it again.
    fn reload(&self) -> Report;
}

/// A plug-in in one version.
trait Plugin: Clone + Send + 'static {
    /// The version that is in the file now, tried once. `None` if it is this one.
    fn reloaded(&self) -> Result<Option<Self>, LoadError>;
    fn info(&self) -> &Description;
    fn file(&self) -> &Path;

    /// Where its state is, if it keeps any.
    fn bucket(&self) -> Option<String> {
        None
    }
}

impl Plugin for FilterPlugin {
    fn reloaded(&self) -> Result<Option<Self>, LoadError> {
        self.reload()
    }

    fn info(&self) -> &Description {
        self.info()
    }

    fn file(&self) -> &Path {
        self.path()
    }
}

impl Plugin for ProcessorPlugin {
    fn reloaded(&self) -> Result<Option<Self>, LoadError> {
        self.reload()
    }

    fn info(&self) -> &Description {
        self.info()
    }

    fn file(&self) -> &Path {
        self.path()
    }

    fn bucket(&self) -> Option<String> {
        self.bucket()
    }
}

/// The version of a plug-in that is in use, and a number that grows with each new one.
struct Slot<P> {
    place: Place,
    plugin: Mutex<P>,
    generation: AtomicU64,
    /// Is told of each new version.
    changed: Notify,
}

impl<P: Plugin> Slot<P> {
    /// The version, and its number or an earlier one: then it is asked for once more.
    fn current(&self) -> (u64, P) {
        let generation = self.generation.load(Ordering::Acquire);
        (generation, lock(&self.plugin).clone())
    }

    /// Waits for a version behind the `seen` one.
    async fn newer(&self, seen: u64) {
        loop {
            let changed = self.changed.notified();
            if self.generation.load(Ordering::Acquire) != seen {
                return;
            }
            changed.await;
        }
    }
}

impl<P: Plugin> Reload for Slot<P> {
    fn place(&self) -> &Place {
        &self.place
    }

    fn file(&self) -> PathBuf {
        self.current().1.file().to_owned()
    }

    fn reload(&self) -> Report {
        // Not under the lock: to compile takes long, and whoever makes an instance meanwhile makes one of the old version.
        // Nobody else changes it.
        let (_, old) = self.current();
        let came = match old.reloaded() {
            Ok(Some(new)) => {
                let (by, note) = (named(new.info()), renamed(&old, &new));
                *lock(&self.plugin) = new;
                self.generation.fetch_add(1, Ordering::Release);
                self.changed.notify_waiters();
                Came::Replaced { by, note }
            }
            Ok(None) => Came::Unchanged,
            Err(e) => Came::Kept { why: self.place.role.explain(&e) },
        };
        Report {
            place: self.place.clone(),
            file: old.file().display().to_string(),
            before: named(old.info()),
            came,
        }
    }
}

/// State goes with the name of a plug-in: a version with another name does not find it.
fn renamed<P: Plugin>(old: &P, new: &P) -> Option<String> {
    let (before, after) = (old.bucket()?, new.bucket()?);
    let (old, new) = (&old.info().name, &new.info().name);
    (before != after).then(|| {
        format!("state goes by the plug-in's name: `{new}` does not find that of `{old}`, which is kept for a plug-in of that name")
    })
}

fn named(Description { name, version, .. }: &Description) -> String {
    format!("{name} {version}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the version may change. What one version failed on as a whole, and is tried again in parts, is all left to that
/// version: else a part of a batch would be judged by one and the rest by another.
#[derive(Default)]
struct Turn {
    /// The number of the version that is called.
    generation: u64,
    failed_on: Option<Arc<Batch>>,
}

impl Turn {
    /// Whether `batch` should be given to a new version.
    fn is_over<P>(&self, slot: &Slot<P>, batch: &Batch) -> bool {
        slot.generation.load(Ordering::Relaxed) != self.generation
            && !self.failed_on.as_ref().is_some_and(|whole| is_part(batch, whole))
    }

    /// Notes what became of `batch`.
    fn answered(&mut self, batch: &Arc<Batch>, failed: Failed) {
        if self.failed_on.as_ref().is_some_and(|whole| is_part(batch, whole)) {
            return;
        }
        self.failed_on = match failed {
            Failed::Yes => Some(batch.clone()),
            Failed::No => None,
        };
    }
}

enum Failed {
    Yes,
    No,
}

/// Whether a batch is another one's [slice](Batch::slice), and not the whole. Parts share their bytes with the whole.
pub(crate) fn is_part(part: &Batch, whole: &Batch) -> bool {
    part.len() < whole.len()
        && part.get(0).is_some_and(|first| {
            whole.iter().any(|record| std::ptr::eq(record.bytes().as_ptr(), first.bytes().as_ptr()))
        })
}

/// Makes filters that change to a new version by themselves.
struct FilterSlot(Arc<Slot<FilterPlugin>>);

impl FilterFactory for FilterSlot {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn StdError + Send + Sync>> {
        let (generation, plugin) = self.0.current();
        let turn = Turn { generation, failed_on: None };
        Ok(Box::new(ReloadingFilter { filter: plugin.create()?, slot: self.0.clone(), turn }))
    }
}

struct ReloadingFilter {
    filter: Box<dyn Filter>,
    slot: Arc<Slot<FilterPlugin>>,
    turn: Turn,
}

impl ReloadingFilter {
    fn renew(&mut self) {
        let (generation, plugin) = self.slot.current();
        // Whatever comes of it: it is not tried at each call.
        self.turn.generation = generation;
        match plugin.create() {
            Ok(filter) => self.filter = filter,
            Err(e) => {
                let (place, file) = (&self.slot.place, plugin.file().display());
                error!("{place}: {file}: plug-in not replaced in this thread: {e}");
            }
        }
    }
}

impl Filter for ReloadingFilter {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        if self.turn.is_over(&self.slot, candidates) {
            self.renew();
        }
        let answer = self.filter.evaluate(candidates);
        self.turn.answered(candidates, if answer.is_err() { Failed::Yes } else { Failed::No });
        answer
    }
}

/// Makes processors that change to a new version by themselves.
#[derive(Clone)]
pub(crate) struct ProcessorSlot(Arc<Slot<ProcessorPlugin>>);

impl ProcessorSlot {
    /// Says where the state is that it will use, so that a new version can read it even before the first batch.
    pub(crate) fn will_use(&self, state: Weak<dyn StateView>) {
        self.0.current().1.will_use(state);
    }

    /// The bucket that the present version keeps its state in, if it keeps any.
    pub(crate) fn bucket(&self) -> Option<String> {
        self.0.current().1.bucket()
    }

    /// A number that changes with each new version.
    pub(crate) fn version(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    pub(crate) fn create(&self) -> Box<dyn Processor> {
        let (generation, plugin) = self.0.current();
        let turn = Turn { generation, failed_on: None };
        Box::new(ReloadingProcessor {
            processor: plugin.create(),
            slot: self.0.clone(),
            turn,
            seen: generation,
        })
    }
}

struct ReloadingProcessor {
    processor: Box<dyn Processor>,
    slot: Arc<Slot<ProcessorPlugin>>,
    turn: Turn,
    /// The number of the version that there was when it was called last, whether that was called or one before it.
    seen: u64,
}

impl ReloadingProcessor {
    async fn ask(
        &mut self,
        batch: &Arc<Batch>,
        state: Option<&Arc<dyn StateKeeper>>,
    ) -> Result<Outcome, Failure> {
        self.seen = self.slot.generation.load(Ordering::Acquire);
        self.renew(batch);
        let answer = processor::process(&mut *self.processor, batch, state).await;
        self.turn.answered(batch, if answer.is_err() { Failed::Yes } else { Failed::No });
        answer
    }

    /// Takes the new version, if there is one and it is its turn.
    fn renew(&mut self, batch: &Batch) {
        if self.turn.is_over(&self.slot, batch) {
            let (generation, plugin) = self.slot.current();
            self.turn.generation = generation;
            self.processor = plugin.create();
        }
    }
}

impl Processor for ReloadingProcessor {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        Box::pin(self.ask(batch, None))
    }

    fn process_with_state<'a>(
        &'a mut self,
        batch: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        Box::pin(self.ask(batch, Some(state)))
    }

    fn replaced(&self) -> Replaced {
        let (slot, seen) = (self.slot.clone(), self.seen);
        Box::pin(async move { slot.newer(seen).await })
    }
}
