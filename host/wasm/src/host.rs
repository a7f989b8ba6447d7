//! The engine that all plug-ins share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tailweir_core::{EventSink, Figures};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, WasmBacktraceDetails};

use crate::compile::{Compiler, Key};
use crate::filter::FilterPlugin;
use crate::grants::Grants;
use crate::inspect::{Inspection, inspect};
use crate::limits::Limits;
use crate::load::{Kind, LoadError, Loaded, Setup};
use crate::meter::Meter;
use crate::precompile::{Compiled, PrecompileError, precompile};
use crate::processor::ProcessorPlugin;
use crate::state::State;
use crate::tally::{PluginTally, Tallies, Tally};
use crate::ticks::Ticks;
use crate::v0_1;

/// Settings of a [`Host`].
#[derive(Clone)]
pub struct HostOptions {
    /// A directory for the machine code of plug-ins, so that the next process need not compile them; none by default. It is
    /// made if it is not there, holds at most 256 MiB, and is not used if anybody but this user (or root) can write to it.
    pub cache: Option<PathBuf>,
    /// What is added to the names of plug-ins wherever they are told, so that they can be told from those of another host.
    /// Nothing by default.
    pub label: Option<&'static str>,
    /// Is told when a call fails, when a request is not sent, when an instance is replaced, and when log lines or metrics are left
    /// out.
    pub events: Arc<dyn EventSink>,
    /// Where all that is counted of plug-ins is. Whoever made them has them [reported](Figures::report) now and then.
    pub figures: Arc<Figures>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { cache: None, label: None, events: Arc::new(()), figures: Arc::default() }
    }
}

impl std::fmt::Debug for HostOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostOptions")
            .field("cache", &self.cache)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// Loads plug-ins. One is enough for a process.
pub struct Host {
    engine: Engine,
    compiler: Compiler,
    ticks: Arc<Ticks>,
    tallies: Tallies,
    label: Option<&'static str>,
    figures: Arc<Figures>,
    meter: Option<Arc<Meter>>,
    /// For guests that send no requests.
    plain: OnceLock<Linker<State>>,
    /// For guests that do.
    http: OnceLock<Linker<State>>,
}

impl Host {
    /// Makes a host, and starts the thread that watches over deadlines; it ends with the host and its plug-ins.
    ///
    /// # Errors
    /// If WebAssembly cannot be compiled or run on this machine.
    pub fn new(options: HostOptions) -> Result<Arc<Self>, wasmtime::Error> {
        Self::build(options, None)
    }

    /// Makes a host whose calls are measured; see [`new`](Self::new).
    ///
    /// # Errors
    /// As there.
    pub fn measured(options: HostOptions, meter: Arc<Meter>) -> Result<Arc<Self>, wasmtime::Error> {
        Self::build(options, Some(meter))
    }

    fn build(options: HostOptions, meter: Option<Arc<Meter>>) -> Result<Arc<Self>, wasmtime::Error> {
        let mut config = config();
        config.consume_fuel(meter.as_ref().is_some_and(|meter| meter.measures_fuel()));
        let engine = Engine::new(&config)?;
        let ticks = Arc::new(Ticks::start(engine.clone())?);
        let compiler = Compiler::new(options.cache);
        let (tallies, label) = (Tallies::new(options.events), options.label);
        let (plain, http) = (OnceLock::new(), OnceLock::new());
        let figures = options.figures;
        Ok(Arc::new(Self { engine, compiler, ticks, tallies, label, figures, meter, plain, http }))
    }

    /// Loads a filter: compiles it, checks what it imports and exports, and tries one instance with `config`.
    ///
    /// # Errors
    /// If there is no usable filter at `path`, or it refuses `config`.
    pub fn filter(
        self: &Arc<Self>,
        path: &Path,
        config: &serde_json::Value,
        limits: Limits,
    ) -> Result<FilterPlugin, LoadError> {
        let setup = Setup::new(config, Grants::default(), limits);
        FilterPlugin::new(Loaded::new(self, path, Kind::Filter, setup)?)
    }

    /// Loads a filter that is one of several of a consumer, which may have the same name: wherever it is told of, its place, such as
    /// `filter 2`, stands behind its name, that of later versions too. See [`filter`](Self::filter).
    ///
    /// # Errors
    /// As there.
    pub fn filter_at(
        self: &Arc<Self>,
        place: &str,
        path: &Path,
        config: &serde_json::Value,
        limits: Limits,
    ) -> Result<FilterPlugin, LoadError> {
        let setup = Setup { place: Some(place.into()), ..Setup::new(config, Grants::default(), limits) };
        FilterPlugin::new(Loaded::new(self, path, Kind::Filter, setup)?)
    }

    /// Loads a processor: compiles it, checks what it imports and exports, and tries one instance with `config`.
    ///
    /// # Errors
    /// If there is no usable processor at `path`, it sends HTTP requests and `grants` has no origin, or it refuses `config`.
    pub fn processor(
        self: &Arc<Self>,
        path: &Path,
        config: &serde_json::Value,
        grants: Grants,
        limits: Limits,
    ) -> Result<ProcessorPlugin, LoadError> {
        let setup = Setup::new(config, grants, limits);
        ProcessorPlugin::new(Loaded::new(self, path, Kind::Processor, setup)?)
    }

    /// Tells what a plug-in is and what it wants, without configuring it and without granting it anything.
    ///
    /// # Errors
    /// If there is no plug-in at `path` that this program could load, or it crashes when it is asked who it is.
    pub fn inspect(self: &Arc<Self>, path: &Path, limits: Limits) -> Result<Inspection, LoadError> {
        inspect(self, path, limits)
    }

    /// Compiles a plug-in, after looking into it as [`inspect`](Self::inspect) does, and keeps its machine code where this
    /// host, and any other with the same cache, finds it.
    ///
    /// # Errors
    /// If there is no plug-in at `path`, the host has no cache, or the code cannot be kept there.
    pub fn precompile(self: &Arc<Self>, path: &Path, limits: Limits) -> Result<Compiled, PrecompileError> {
        precompile(self, path, limits)
    }

    /// What was counted of each plug-in and consumer, in order of their names.
    pub fn counts(&self) -> Vec<PluginTally> {
        self.tallies.counts()
    }

    pub(crate) fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    pub(crate) fn tally(&self, name: &str, consumer: Option<&str>) -> Arc<Tally> {
        self.tallies.of(name, consumer)
    }

    /// The name under which is told of a plug-in.
    pub(crate) fn labelled(&self, name: &str) -> Arc<str> {
        match self.label {
            Some(label) => format!("{name} ({label})").into(),
            None => name.into(),
        }
    }

    pub(crate) fn meter(&self) -> Option<&Arc<Meter>> {
        self.meter.as_ref()
    }

    pub(crate) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn ticks(&self) -> &Arc<Ticks> {
        &self.ticks
    }

    /// The component in `bytes`, which are the content of the file at `path`.
    pub(crate) fn compile(&self, path: &Path, key: &Key, bytes: &[u8]) -> Result<Component, wasmtime::Error> {
        self.compiler.compile(&self.engine, path, key, bytes)
    }

    /// Lets go of a component that is not in use any more.
    pub(crate) fn forget(&self, key: &Key) {
        self.compiler.forget(key);
    }

    /// What a guest may import.
    pub(crate) fn linker(&self, http: Http) -> Result<&Linker<State>, wasmtime::Error> {
        let linker = match http {
            Http::Granted => &self.http,
            Http::Withheld => &self.plain,
        };
        if let Some(made) = linker.get() {
            return Ok(made);
        }
        let made = new_linker(&self.engine, http)?;
        Ok(linker.get_or_init(|| made))
    }
}

/// Whether a guest may send requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    Granted,
    Withheld,
}

/// Whether a guest keeps state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    State,
    Nothing,
}

/// What a guest imports that not all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) http: Http,
    pub(crate) state: Keeps,
}

fn new_linker(engine: &Engine, http: Http) -> Result<Linker<State>, wasmtime::Error> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    v0_1::add_to_linker(&mut linker)?;
    if http == Http::Granted {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    }
    Ok(linker)
}

/// All guests are called asynchronously, so that a call which waits can be given up. Component-model concurrency (several
/// calls into one instance at once) is another thing, makes each call dearer, and no guest can ask for it in WIT 0.1.
fn config() -> Config {
    let mut config = Config::new();
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.parallel_compilation(true);
    config.memory_init_cow(true);
    // One by one, not out of a pool: a pool reserves address space for as many instances as there may ever be (277 GB for 64
    // of them), which takes longer at each start than making the instances that there really are; and a process that has
    // more consumers than that could not make them all.
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}
