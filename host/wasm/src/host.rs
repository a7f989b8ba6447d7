//! The engine that all plug-ins share.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

use crate::filter::FilterPlugin;
use crate::limits::{Grants, Limits};
use crate::load::{Kind, LoadError, Loaded};
use crate::processor::ProcessorPlugin;
use crate::state::State;
use crate::v0_1;

/// How often running guests are looked at, and so how exact a deadline is.
const TICK: Duration = Duration::from_millis(20);

/// Settings of a [`Host`].
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// How many plug-in instances there can be at once; 64 by default. Each reserves 4 GiB of address space, not memory,
    /// where the system lets us; where it does not, instances are made one by one and there is no such limit.
    pub instances: u32,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { instances: 64 }
    }
}

/// Loads plug-ins. One is enough for a process.
pub struct Host {
    engine: Engine,
    /// For guests that send no requests.
    plain: Linker<State>,
    /// For guests that do.
    http: Linker<State>,
}

impl Host {
    /// Makes a host, and starts the thread that watches over deadlines; it ends with the host and its plug-ins.
    ///
    /// # Errors
    /// If WebAssembly cannot be compiled or run on this machine.
    pub fn new(options: HostOptions) -> Result<Arc<Self>, wasmtime::Error> {
        let engine = pooled(&options).or_else(|error| {
            tracing::debug!(target: "tailweir::wasm", "no pool of instances, making them one by one: {error:#}");
            Engine::new(&config())
        })?;
        let plain = linker(&engine)?;
        let mut http = linker(&engine)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut http)?;
        watch(engine.weak())?;
        Ok(Arc::new(Self { engine, plain, http }))
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
        let loaded = Loaded::new(self, path, Kind::Filter, config, Grants::default(), limits)?;
        FilterPlugin::new(loaded)
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
        let loaded = Loaded::new(self, path, Kind::Processor, config, grants, limits)?;
        ProcessorPlugin::new(loaded)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What a guest may import.
    pub(crate) fn linker(&self, http: Http) -> &Linker<State> {
        match http {
            Http::Granted => &self.http,
            Http::Withheld => &self.plain,
        }
    }
}

/// Whether a guest may send requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    Granted,
    Withheld,
}

fn linker(engine: &Engine) -> Result<Linker<State>, wasmtime::Error> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    v0_1::add_to_linker(&mut linker)?;
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
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

fn pooled(options: &HostOptions) -> Result<Engine, wasmtime::Error> {
    let mut pool = PoolingAllocationConfig::new();
    let instances = options.instances;
    pool.total_component_instances(instances);
    // Some languages' components are made of dozens of modules.
    pool.total_core_instances(instances.saturating_mul(16));
    pool.max_core_instances_per_component(256);
    pool.total_memories(instances);
    pool.total_tables(instances.saturating_mul(4));
    pool.max_memories_per_component(8);
    pool.max_tables_per_component(32);
    pool.table_elements(100_000);
    pool.total_stacks(instances);
    pool.max_component_instance_size(8 << 20);
    pool.max_core_instance_size(8 << 20);
    // What an instance leaves behind goes back to the system: instances are few and live long.
    pool.linear_memory_keep_resident(0);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Advances the engine's epoch, which makes running guests look at their clock, for as long as there is an engine.
fn watch(engine: EngineWeak) -> Result<(), wasmtime::Error> {
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    };
    thread::Builder::new().name("plugin-deadlines".to_owned()).spawn(tick)?;
    Ok(())
}
