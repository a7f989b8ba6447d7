//! Processors. A guest may compute for long and wait for the network, so each has a thread of its own with a small runtime,
//! and whoever calls it awaits the answer.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tailweir_core::{
    Batch, Bucket, CallCost, CallFault, Failure, Outcome, ProcessFuture, Processor, StateError, StateKeeper,
    StateView, json,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::call::{CallError, Patient, Timed, WaitedTooLong};
use crate::host::Keeps;
use crate::instance::{Instance, OnTick, Template};
use crate::load::{Description, Kind, LoadError, LoadErrorKind, Loaded};
use crate::v0_1::{answer, handle, processor::StateProcessorPlugin as World};

/// A loaded processor. Each processor that it makes is an instance of its own.
#[derive(Clone)]
pub struct ProcessorPlugin {
    template: Arc<Template<World>>,
    description: Arc<Description>,
    live: Arc<Live>,
    instances: Instances,
}

/// How many instances deal with batches at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instances {
    One,
    Several,
}

/// Where the state is that a plug-in uses, for the next version of it to read before it takes over.
#[derive(Default)]
struct Live(Mutex<Option<Weak<dyn StateView>>>);

impl Live {
    fn set(&self, view: Weak<dyn StateView>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    /// A copy of what the plug-in of this name has.
    fn copy(&self, template: &Template<World>, description: &Description) -> Option<Bucket> {
        if template.loaded().keeps == Keeps::Nothing {
            return None;
        }
        let view = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()?;
        let contents = view.contents(&bucket_name(template.name_of(description)))?;
        Some(Bucket::new(Arc::new(contents), template.loaded().limits.state()))
    }
}

/// The bucket of the plug-in of this name. No other engine's has that name.
fn bucket_name(plugin: &str) -> String {
    format!("wasm:{plugin}")
}

impl ProcessorPlugin {
    pub(crate) fn new(loaded: Loaded) -> Result<Self, LoadError> {
        Self::with_state(loaded, Arc::default())
    }

    fn with_state(loaded: Loaded, live: Arc<Live>) -> Result<Self, LoadError> {
        let mut template = Template::new(loaded, OnTick::Yield)?;
        let started = wait_for(&template, template.try_out(|description| live.copy(&template, description)));
        let description = started.map_err(|kind| template.loaded().error(kind))?;
        template.rename(&description);
        let (template, description) = (Arc::new(template), Arc::new(description));
        Ok(Self { template, description, live, instances: Instances::One })
    }

    /// The same, to be run in several instances, each with another batch. Later versions of it are held to that as well.
    ///
    /// # Errors
    /// If it keeps state: what it comes to would depend on which batch is done first.
    pub fn in_parallel(self) -> Result<Self, LoadError> {
        match self.template.loaded().keeps {
            Keeps::State => Err(self.template.loaded().error(LoadErrorKind::ParallelState)),
            Keeps::Nothing => Ok(Self { instances: Instances::Several, ..self }),
        }
    }

    /// Loads what is in its file now, and tries one instance of it, with the same configuration, grants and limits, and with
    /// the state that this one has come to. This one goes on as it is. `None` if the file has not changed.
    ///
    /// # Errors
    /// As when it was loaded.
    pub fn reload(&self) -> Result<Option<Self>, LoadError> {
        let old = self.template.loaded();
        let Some(loaded) = old.again(Kind::Processor)? else { return Ok(None) };
        let mut new = Self::with_state(loaded, self.live.clone())?;
        if self.instances == Instances::Several {
            new = new.in_parallel()?;
        }
        old.host.forget(&old.key);
        Ok(Some(new))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.template.loaded().path
    }

    /// What the plug-in says about itself.
    pub fn info(&self) -> &Description {
        &self.description
    }

    /// Says where the state is that the plug-in will use, so that [`reload`](Self::reload) can show it to a new version even
    /// before there was a batch.
    pub fn will_use(&self, state: Weak<dyn StateView>) {
        self.live.set(state);
    }

    /// The name of the bucket that it keeps state in; `None` if it keeps none.
    pub fn bucket(&self) -> Option<String> {
        let keeps = self.template.loaded().keeps == Keeps::State;
        keeps.then(|| bucket_name(self.template.own_name()))
    }

    /// Makes a processor. Its instance is made at its first batch, and anew after a crash.
    pub fn create(&self) -> Box<dyn Processor> {
        Box::new(WasmProcessor { template: self.template.clone(), live: self.live.clone(), jobs: None })
    }
}

impl std::fmt::Debug for ProcessorPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProcessorPlugin").field(&self.description).finish()
    }
}

/// Runs a future in which a plug-in is set up to its end, in a thread of its own: the caller may be in a runtime, in which
/// another cannot run.
pub(crate) fn wait_for<T: Send>(
    template: &Template<World>,
    setup: impl Future<Output = Result<T, LoadErrorKind>> + Send,
) -> Result<T, LoadErrorKind> {
    let failed = |why: String| LoadErrorKind::Start(why);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = runtime().map_err(|e| failed(e.to_string()))?;
            runtime
                .block_on(async { Patient::new(template.loaded().limits.wait, setup).await })
                .unwrap_or_else(|_| Err(failed("it waits for too long while it is set up".to_owned())))
        });
        thread.join().unwrap_or_else(|_| Err(failed("its thread ended".to_owned())))
    })
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The processor's end of the thread; dropped, it ends the thread.
struct WasmProcessor {
    template: Arc<Template<World>>,
    live: Arc<Live>,
    /// None before the first batch, and after the thread has ended.
    jobs: Option<mpsc::UnboundedSender<Job>>,
}

struct Job {
    batch: Arc<Batch>,
    state: Option<Arc<dyn StateKeeper>>,
    /// Closed when nobody wants the answer any more.
    answer: oneshot::Sender<Result<Outcome, Failure>>,
}

impl Processor for WasmProcessor {
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
}

impl WasmProcessor {
    async fn ask(
        &mut self,
        batch: &Arc<Batch>,
        state: Option<&Arc<dyn StateKeeper>>,
    ) -> Result<Outcome, Failure> {
        if batch.is_empty() {
            return Ok(Outcome::Done);
        }
        let (answer, awaited) = oneshot::channel();
        let job = Job { batch: batch.clone(), state: state.cloned(), answer };
        let sent = self.jobs().and_then(|jobs| jobs.send(job).map_err(io::Error::other));
        let answer = match sent {
            Ok(()) => awaited.await.map_err(io::Error::other),
            Err(e) => Err(e),
        };
        answer.unwrap_or_else(|e| {
            self.jobs = None;
            let plugin = self.template.name();
            Err(Failure::Crash { reason: format!("plug-in {plugin}: its thread ended: {e}") })
        })
    }

    /// Starts the thread if there is none.
    fn jobs(&mut self) -> io::Result<&mpsc::UnboundedSender<Job>> {
        if self.jobs.is_none() {
            let (sender, receiver) = mpsc::unbounded_channel();
            let (template, live) = (self.template.clone(), self.live.clone());
            let worker = Worker { template, live, instance: None };
            let runtime = runtime()?;
            let run = move || {
                runtime.block_on(worker.run(receiver));
                // A look-up of a host name that goes on is not waited for.
                runtime.shutdown_background();
            };
            thread::Builder::new().name(format!("plugin-{}", self.template.name())).spawn(run)?;
            self.jobs = Some(sender);
        }
        self.jobs.as_ref().ok_or_else(|| io::Error::other("no thread"))
    }
}

struct Worker {
    template: Arc<Template<World>>,
    live: Arc<Live>,
    /// None at first, and after a call that ended the instance.
    instance: Option<Instance<World>>,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(Job { batch, state, answer: mut reply }) = jobs.recv().await {
            let bucket = match self.bucket(state.as_ref()) {
                Ok(bucket) => bucket,
                Err(failure) => {
                    let _ = reply.send(Err(failure));
                    continue;
                }
            };
            let undo = || bucket.iter().for_each(Bucket::undo);
            let begun = Instant::now();
            let limit = self.template.loaded().limits.wait;
            let call = Patient::new(limit, self.call(&batch, bucket.as_ref()));
            // A call that is given up takes its instance with it.
            let answer = tokio::select! {
                answer = call => match answer {
                    Ok(answer) => answer,
                    Err(WaitedTooLong) => Err(self.gave_up(&batch, begun.elapsed())),
                },
                () = reply.closed() => {
                    undo();
                    continue;
                }
            };
            if !matches!(answer, Ok(_) | Err(Failure::Reject { .. })) {
                undo();
            }
            // Nobody who wants the answer is no error.
            let _ = reply.send(answer);
        }
    }

    /// The state of the plug-in, if it keeps any. What it has changed in earlier calls for the same batch stays, whatever
    /// becomes of the next one.
    fn bucket(&self, state: Option<&Arc<dyn StateKeeper>>) -> Result<Option<Bucket>, Failure> {
        let plugin = self.template.name();
        if self.template.loaded().keeps == Keeps::Nothing {
            return Ok(None);
        }
        let open = |keeper: &Arc<dyn StateKeeper>| {
            self.live.set(keeper.view());
            keeper.open(&bucket_name(self.template.own_name()), &self.template.loaded().limits.state())
        };
        match state.map_or(Err(StateError::NoCheckpoint), open) {
            Ok(bucket) => {
                bucket.keep();
                Ok(Some(bucket))
            }
            Err(e @ StateError::Store(_)) => {
                Err(Failure::Retry { after: None, reason: format!("the state of plug-in {plugin}: {e}") })
            }
            Err(e) => Err(Failure::Stop { reason: format!("plug-in {plugin} keeps state: {e}") }),
        }
    }

    async fn call(&mut self, batch: &Arc<Batch>, bucket: Option<&Bucket>) -> Result<Outcome, Failure> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.template.restart(bucket).await.map_err(|e| {
                self.template.figures(batch.consumer()).failed(CallFault::Trap);
                self.crash(batch, e)
            })?,
        };
        let Instance { world, call } = &mut instance;
        call.begin_batch(batch, &self.template);
        call.store.data_mut().bucket = bucket.cloned();
        let clock = call.clock.clone();
        let process = world.tailweir_plugin_process().call_process(&mut call.store, handle());
        let result = Timed::new(process, clock).await;
        let answer =
            answer(call.end(result).map_err(|e| self.crash(batch, e))?, &self.template.loaded().limits);
        let checked = check(answer, batch.len()).map_err(|what| self.crash(batch, call.invalid(what)));
        if let (Ok(answer), Some(figures)) = (&checked, call.figures()) {
            figures.answered(answer);
        }
        self.instance = instance.reuse();
        checked?
    }

    /// A call of which nothing came in the time that it may wait.
    fn gave_up(&self, batch: &Batch, took: Duration) -> Failure {
        let figures = self.template.figures(batch.consumer());
        // How much of it was computing went with its instance.
        figures.called(CallCost { records: batch.len(), took, ..CallCost::default() });
        figures.failed(CallFault::Overrun);
        let (plugin, wait) = (self.template.name().to_owned(), self.template.loaded().limits.wait);
        let cause =
            format!("it waited for longer than its limit `wait`, {}", humantime::format_duration(wait));
        self.crash(batch, CallError::Crashed { plugin, cause, said: None })
    }

    fn crash(&self, batch: &Batch, error: CallError) -> Failure {
        self.template.tally(Some(batch.consumer())).failed(&error);
        Failure::Crash { reason: error.to_string() }
    }
}

/// What a plug-in answers must make sense for the batch, and must not break what comes after it; else what is wrong with it.
fn check(mut answer: Result<Outcome, Failure>, len: usize) -> Result<Result<Outcome, Failure>, String> {
    match &mut answer {
        Err(Failure::Reject { indices, .. }) => {
            if let Some(index) = indices.iter().find(|&&index| index as usize >= len) {
                return Err(format!("it rejects the record at index {index} of a batch of {len}"));
            }
            indices.sort_unstable();
            indices.dedup();
        }
        Ok(Outcome::Emit(records)) => {
            for (index, record) in records.iter().enumerate() {
                if record.contains('\n') {
                    return Err(format!("the record that it emits at index {index} has a line break"));
                }
                if let Err(json::Invalid::Blank | json::Invalid::Malformed(_)) = json::validate(record) {
                    return Err(format!("the record that it emits at index {index} is no JSON text"));
                }
            }
        }
        _ => {}
    }
    Ok(answer)
}
