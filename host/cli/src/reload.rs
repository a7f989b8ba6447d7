//! Plug-ins that are read again at SIGHUP, while those that were loaded before go on.
//!
//! A thread of its own compiles a new version and tries it; only one that would have been loaded at the start, too, takes
//! over. Those who call the plug-in see at their next call that there is one, and make themselves an instance of it.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use tailweir_core::{
    Batch, Failure, Filter, FilterError, FilterFactory, Outcome, ProcessFuture, Processor, StateKeeper,
    Verdict,
};
use tailweir_wasm::{Description, FilterPlugin, LoadError, ProcessorPlugin};
use tracing::{error, info};

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

impl Asked {
    /// Starts the thread that does what is asked, and what has been asked so far.
    pub(crate) fn serve(self, plugins: Reloads) -> Result<()> {
        let serve = move || self.0.iter().for_each(|()| plugins.reload());
        thread::Builder::new().name("reload".to_owned()).spawn(serve).context("cannot start a thread")?;
        Ok(())
    }
}

/// The plug-ins that can be read again.
#[derive(Default)]
pub(crate) struct Reloads(Mutex<Vec<Arc<dyn Reload>>>);

impl Reloads {
    /// Has a filter read again from now on.
    pub(crate) fn filter(&self, plugin: FilterPlugin) -> Arc<dyn FilterFactory> {
        Arc::new(FilterSlot(self.add(plugin)))
    }

    /// Has a processor read again from now on.
    pub(crate) fn processor(&self, plugin: ProcessorPlugin) -> ProcessorSlot {
        ProcessorSlot(self.add(plugin))
    }

    fn add<P: Plugin>(&self, plugin: P) -> Arc<Slot<P>> {
        let slot = Arc::new(Slot { plugin: Mutex::new(plugin), generation: AtomicU64::new(0) });
        lock(&self.0).push(slot.clone());
        slot
    }

    fn reload(&self) {
        let plugins = lock(&self.0).clone();
        if plugins.is_empty() {
            info!("SIGHUP: there is no WebAssembly plug-in to read again");
        }
        plugins.iter().for_each(|plugin| plugin.reload());
    }
}

/// What can be read again.
trait Reload: Send + Sync {
    /// Reads it again, and tells the log what came of it.
    fn reload(&self);
}

/// A plug-in in one version.
trait Plugin: Clone + Send + 'static {
    /// The version that is in the file now, tried once. `None` if it is this one.
    fn reloaded(&self) -> Result<Option<Self>, LoadError>;
    fn info(&self) -> &Description;
    fn file(&self) -> String;
}

impl Plugin for FilterPlugin {
    fn reloaded(&self) -> Result<Option<Self>, LoadError> {
        self.reload()
    }

    fn info(&self) -> &Description {
        self.info()
    }

    fn file(&self) -> String {
        self.path().display().to_string()
    }
}

impl Plugin for ProcessorPlugin {
    fn reloaded(&self) -> Result<Option<Self>, LoadError> {
        self.reload()
    }

    fn info(&self) -> &Description {
        self.info()
    }

    fn file(&self) -> String {
        self.path().display().to_string()
    }
}

/// The version of a plug-in that is in use, and a number that grows with each new one.
struct Slot<P> {
    plugin: Mutex<P>,
    generation: AtomicU64,
}

impl<P: Plugin> Slot<P> {
    /// The version, and its number or an earlier one: then it is asked for once more.
    fn current(&self) -> (u64, P) {
        let generation = self.generation.load(Ordering::Acquire);
        (generation, lock(&self.plugin).clone())
    }
}

impl<P: Plugin> Reload for Slot<P> {
    fn reload(&self) {
        // Not under the lock: to compile takes long, and whoever makes an instance meanwhile makes one of the old version.
        // Nobody else changes it.
        let (_, old) = self.current();
        let file = old.file();
        match old.reloaded() {
            Ok(Some(new)) => {
                let Description { name, version, .. } = new.info().clone();
                *lock(&self.plugin) = new;
                self.generation.fetch_add(1, Ordering::Release);
                info!("{file}: {name} {version} takes over from {}", named(old.info()));
            }
            Ok(None) => info!("{file}: not changed, so {} goes on", named(old.info())),
            // The error names the file.
            Err(e) => error!("plug-in not replaced, {} goes on: {e}", named(old.info())),
        }
    }
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
fn is_part(part: &Batch, whole: &Batch) -> bool {
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
            Err(e) => error!("{}: plug-in not replaced in this thread: {e}", plugin.file()),
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
pub(crate) struct ProcessorSlot(Arc<Slot<ProcessorPlugin>>);

impl ProcessorSlot {
    pub(crate) fn create(&self) -> Box<dyn Processor> {
        let (generation, plugin) = self.0.current();
        let turn = Turn { generation, failed_on: None };
        Box::new(ReloadingProcessor { processor: plugin.create(), slot: self.0.clone(), turn })
    }
}

struct ReloadingProcessor {
    processor: Box<dyn Processor>,
    slot: Arc<Slot<ProcessorPlugin>>,
    turn: Turn,
}

impl ReloadingProcessor {
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
        Box::pin(async move {
            self.renew(batch);
            let answer: Result<Outcome, Failure> = self.processor.process(batch).await;
            self.turn.answered(batch, if answer.is_err() { Failed::Yes } else { Failed::No });
            answer
        })
    }

    fn process_with_state<'a>(
        &'a mut self,
        batch: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        Box::pin(async move {
            self.renew(batch);
            let answer: Result<Outcome, Failure> = self.processor.process_with_state(batch, state).await;
            self.turn.answered(batch, if answer.is_err() { Failed::Yes } else { Failed::No });
            answer
        })
    }
}
