//! Instances: making them, and calling them.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tailweir_core::{Batch, Bucket, CallCost, CallFault, PluginFigures, PluginKind};
use thiserror::Error;
use wasmtime::component::InstancePre;
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::runtime::with_ambient_tokio_runtime;

use crate::call::{CallError, Clock, Overrun, Timed};
use crate::limits::Limits;
use crate::load::{Description, LoadError, LoadErrorKind, Loaded};
use crate::meter::Meter;
use crate::schema;
use crate::state::{Refused, State, clip};
use crate::tally::Tally;

/// The bindings of a world: how an instance is made and set up.
pub(crate) trait World: Sized + Send {
    /// The component, linked and its exports found.
    type Pre: Clone + Send + Sync;

    /// What its plug-ins are used as.
    const KIND: PluginKind;

    fn prepare(pre: InstancePre<State>) -> wasmtime::Result<Self::Pre>;
    fn instantiate(
        pre: &Self::Pre,
        store: &mut Store<State>,
    ) -> impl Future<Output = wasmtime::Result<Self>> + Send;
    fn describe(
        &self,
        store: &mut Store<State>,
    ) -> impl Future<Output = wasmtime::Result<Description>> + Send;
    fn init(
        &self,
        store: &mut Store<State>,
        config: &str,
    ) -> impl Future<Output = wasmtime::Result<Result<(), String>>> + Send;
}

/// What happens when a running guest is looked at and has time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnTick {
    /// It goes on.
    Continue,
    /// It lets others have a turn, so that it can be given up.
    Yield,
}

/// What instances of a plug-in are made from.
pub(crate) struct Template<W: World> {
    loaded: Loaded,
    pre: W::Pre,
    on_tick: OnTick,
    own_name: Arc<str>,
    /// With its place, if it has one, and the label of the host.
    name: Arc<str>,
}

impl<W: World> Template<W> {
    pub(crate) fn new(loaded: Loaded, on_tick: OnTick) -> Result<Self, LoadError> {
        let (own_name, name) = (loaded.stem.clone(), loaded.told_as(&loaded.stem));
        match W::prepare(loaded.pre.clone()) {
            Ok(pre) => Ok(Self { pre, on_tick, own_name, name, loaded }),
            Err(e) => Err(loaded.error(LoadErrorKind::Shape(format!("{e:#}")))),
        }
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The plug-in's name, with the label of its host, for whoever is told of it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The plug-in's own name, as its state is kept under.
    pub(crate) fn own_name(&self) -> &str {
        &self.own_name
    }

    /// What is counted and said of it as this consumer uses it; `None` while it is loaded.
    pub(crate) fn tally(&self, consumer: Option<&str>) -> Arc<Tally> {
        self.loaded.host.tally(&self.name, consumer)
    }

    /// What is counted of it as it is used by this consumer.
    pub(crate) fn figures(&self, consumer: &str) -> Arc<PluginFigures> {
        let limits = || self.loaded.limits.metrics();
        self.loaded.host.figures().of(consumer, self.name(), W::KIND, limits)
    }

    /// Takes the name that the plug-in gives itself, if it can be printed.
    pub(crate) fn rename(&mut self, description: &Description) {
        self.own_name = self.name_of(description).into();
        self.name = self.loaded.told_as(&self.own_name);
    }

    /// The name that the plug-in gives itself, if it can be printed, else that of its file.
    pub(crate) fn name_of<'a>(&'a self, description: &'a Description) -> &'a str {
        let name = &description.name;
        let usable = !name.is_empty() && name.len() <= 100 && !name.contains(char::is_control);
        if usable { name } else { &self.loaded.stem }
    }

    /// Makes an instance.
    async fn instantiate(&self) -> Result<Instance<W>, LoadErrorKind> {
        let limits = &self.loaded.limits;
        let clock = Clock::new(limits.deadline, self.loaded.host.ticks().clone());
        let tally = self.tally(None);
        let mut state = State::new(&tally, limits, &self.loaded.grants, clock.clone());
        state.meter = self.loaded.host.meter().cloned();
        let mut store = Store::new(self.loaded.host.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_max_component_handles(usize::try_from(limits.handles).unwrap_or(usize::MAX));
        store.set_hostcall_fuel(usize::try_from(limits.emitted_bytes).unwrap_or(usize::MAX));
        let (watched, on_tick) = (clock.clone(), self.on_tick);
        store.epoch_deadline_callback(move |_| {
            watched.check()?;
            Ok(match on_tick {
                OnTick::Continue => UpdateDeadline::Continue(1),
                OnTick::Yield => UpdateDeadline::Yield(1),
            })
        });
        let mut call =
            Call { store, clock, plugin: self.name().to_owned(), limits: limits.clone(), consumer: None };
        call.begin(None);
        let world = Timed::new(W::instantiate(&self.pre, &mut call.store), call.clock.clone()).await;
        match world {
            Ok(world) => Ok(Instance { world, call }),
            Err(e) => Err(LoadErrorKind::Start(call.explain(&e))),
        }
    }

    /// Makes an instance, and asks it who it is.
    pub(crate) async fn describe(&self) -> Result<(Instance<W>, Description), LoadErrorKind> {
        let Instance { world, mut call } = self.instantiate().await?;
        call.begin(None);
        let described = Timed::new(world.describe(&mut call.store), call.clock.clone()).await;
        let description = call.end(described).map_err(LoadErrorKind::Call)?;
        Ok((Instance { world, call }, description.clipped(&self.loaded.limits)))
    }

    /// Makes the first instance: holds the configuration against the plug-in's schema, and sets the instance up, with the state
    /// that it can read meanwhile.
    pub(crate) async fn try_out(
        &self,
        state: impl FnOnce(&Description) -> Option<Bucket>,
    ) -> Result<Description, LoadErrorKind> {
        let (instance, description) = self.describe().await?;
        schema::check(&description.config_schema, &self.loaded.config)?;
        self.set_up(instance, state(&description)).await?;
        Ok(description)
    }

    async fn set_up(
        &self,
        instance: Instance<W>,
        state: Option<Bucket>,
    ) -> Result<Instance<W>, LoadErrorKind> {
        let Instance { world, mut call } = instance;
        call.begin(None);
        call.store.data_mut().bucket = state;
        let init = Timed::new(world.init(&mut call.store, &self.loaded.config), call.clock.clone()).await;
        let refused = |why: String| LoadErrorKind::Config(clip(&why, &self.loaded.limits));
        call.end(init).map_err(LoadErrorKind::Call)?.map_err(refused)?;
        Ok(Instance { world, call })
    }

    async fn start(&self, state: Option<Bucket>) -> Result<Instance<W>, LoadErrorKind> {
        let (instance, _) = self.describe().await?;
        self.set_up(instance, state).await
    }

    /// Makes an instance for a call, which may have state.
    pub(crate) async fn restart(&self, state: Option<&Bucket>) -> Result<Instance<W>, CallError> {
        self.start(state.cloned()).await.map_err(|kind| match kind {
            LoadErrorKind::Call(e) => e,
            other => CallError::Crashed {
                plugin: self.name().to_owned(),
                cause: format!("no fresh instance: {other}"),
                said: None,
            },
        })
    }
}

/// An instance that has been set up.
pub(crate) struct Instance<W> {
    pub(crate) world: W,
    pub(crate) call: Call,
}

impl<W> Instance<W> {
    /// The instance after a call that succeeded, if it can be called again.
    pub(crate) fn reuse(self) -> Option<Self> {
        let memory = &self.call.store.data().memory;
        if memory.is_high() {
            if let Some(consumer) = &self.call.consumer {
                consumer.tally.recycled(memory.used);
            }
            return None;
        }
        Some(self)
    }
}

/// What a call may consume where fuel is counted: the deadline is what bounds it.
const FUEL: u64 = u64::MAX;

/// What a call into an instance needs besides the instance.
pub(crate) struct Call {
    pub(crate) store: Store<State>,
    pub(crate) clock: Arc<Clock>,
    plugin: String,
    limits: Limits,
    /// The consumer of the last batch. None before the first one.
    consumer: Option<CountedFor>,
}

/// The consumer that a call is for, and what is counted for it.
struct CountedFor {
    figures: Arc<PluginFigures>,
    tally: Arc<Tally>,
}

impl Call {
    /// Begins a call about a batch.
    pub(crate) fn begin_batch<W: World>(&mut self, batch: &Arc<Batch>, template: &Template<W>) {
        let consumer = batch.consumer();
        if self.consumer.as_ref().is_none_or(|known| known.figures.consumer() != consumer) {
            let (figures, tally) = (template.figures(consumer), template.tally(Some(consumer)));
            self.store.data_mut().bind(figures.metrics(), &tally);
            self.consumer = Some(CountedFor { figures, tally });
        }
        self.begin(Some(batch));
    }

    fn begin(&mut self, batch: Option<&Arc<Batch>>) {
        self.store.set_epoch_deadline(1);
        if self.store.data().meter.as_ref().is_some_and(|meter| meter.measures_fuel()) {
            self.store.set_fuel(FUEL).expect("the engine of a host that measures fuel counts it");
        }
        let state = self.store.data_mut();
        state.batch = batch.cloned();
        state.memory.refused = None;
        state.handed = 0;
        state.log.begin_call(batch);
    }

    /// Ends a call: the batch is out of the guest's reach, whatever has happened. After an error the instance is dead.
    pub(crate) fn end<T>(&mut self, result: wasmtime::Result<T>) -> Result<T, CallError> {
        let state = self.store.data_mut();
        state.bucket = None;
        if let Some(batch) = state.batch.take() {
            if let Some(meter) = state.meter.clone() {
                self.measure(&meter);
            }
            self.count(&batch, result.as_ref().err());
        }
        let said = self.store.data().log.end_call();
        result.map_err(|e| CallError::Crashed { plugin: self.plugin.clone(), cause: self.explain(&e), said })
    }

    /// Counts a call about a batch.
    fn count(&self, batch: &Batch, error: Option<&wasmtime::Error>) {
        let Some(figures) = self.figures() else { return };
        let ((took, computed), state) = (self.clock.times(), self.store.data());
        let (bytes, memory) = (state.handed, state.memory.used);
        figures.called(CallCost { records: batch.len(), took, computed, bytes, memory });
        match error {
            Some(error) if error.root_cause().is::<Overrun>() => figures.failed(CallFault::Overrun),
            Some(_) => figures.failed(CallFault::Trap),
            None => {}
        }
    }

    /// What is counted with the consumer of the last batch.
    pub(crate) fn figures(&self) -> Option<&PluginFigures> {
        self.consumer.as_ref().map(|consumer| &*consumer.figures)
    }

    fn measure(&self, meter: &Meter) {
        let fuel = if meter.measures_fuel() { FUEL - self.store.get_fuel().unwrap_or(FUEL) } else { 0 };
        meter.called(fuel, self.store.data().memory.used);
    }

    fn explain(&self, error: &wasmtime::Error) -> String {
        let cause = match error.downcast_ref::<Trap>() {
            // Not even the operator of a WebAssembly plug-in needs to read that word three times.
            Some(trap) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
            // Some say again what the guest has said.
            None => clip(&error.root_cause().to_string(), &self.limits),
        };
        let Limits { memory_bytes, table_elements, handles, emitted_bytes, .. } = &self.limits;
        match self.store.data().memory.refused {
            Some(Refused::Memory) => {
                return format!("it wanted more memory than its limit, {} ({cause})", size(*memory_bytes));
            }
            Some(Refused::Table) => {
                return format!("it wanted larger tables than its limit, {table_elements} entries ({cause})");
            }
            None => {}
        }
        // The runtime's errors about these have no type that can be asked for.
        if cause.contains("fuel allocated for hostcalls") {
            let limit = size(*emitted_bytes);
            return format!("it handed more to the host at once than its limit, {limit} (`emitted_bytes`)");
        }
        if cause.contains("handle limit exceeded") || cause.contains("resource table has no free keys") {
            return format!("it holds more handles than its limit, {handles} (`handles`)");
        }
        cause
    }

    pub(crate) fn refused(&self, reason: String) -> CallError {
        self.count_bad_answer();
        CallError::Refused { plugin: self.plugin.clone(), reason: clip(&reason, &self.limits) }
    }

    pub(crate) fn invalid(&self, what: String) -> CallError {
        self.count_bad_answer();
        CallError::Invalid { plugin: self.plugin.clone(), what }
    }

    fn count_bad_answer(&self) {
        if let Some(figures) = self.figures() {
            figures.failed(CallFault::Answer);
        }
    }
}

/// A number of bytes, in MiB if it is one in MiB.
fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes >= MIB && bytes.is_multiple_of(MIB) {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{bytes} bytes")
    }
}

/// A call that is not there yet when it first returns to the host. A filter has nothing to wait for.
#[derive(Debug, Error)]
#[error("it waits, which a filter must not")]
pub(crate) struct Waits;

/// Runs a call that must not wait, on this thread, whether or not an asynchronous runtime goes on here.
pub(crate) fn run_now<F: Future>(call: F) -> Result<F::Output, Waits> {
    // A guest that sleeps has the host make a timer, for which there must be a runtime; then the guest is given up.
    with_ambient_tokio_runtime(|| match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err(Waits),
    })
}
