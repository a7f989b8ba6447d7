//! Filters and processors of a pipeline, made from what its file says.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tailweir_core::{Filter, FilterFactory, Processor, StateView};
use tailweir_lua::plugin::{LoadError, LuaFilter, LuaProcessor, PluginFile};
use tailweir_pipeline::{FilterOptions, Outgoing, Sink, SinkFuture, SinkProcessor, Worker};
use tailweir_wasm::{Grants, Host, Limits};

use crate::config::{ConsumerTable, Engine, ForFilter, ForProcessor, Plugin, ProcessorTable, SinkTable};
use crate::engine::WasmEngine;
use crate::figures::Counted;
use crate::filter_args::{FilterArg, ShadowArg};
use crate::reload::{Nth, Place, ProcessorSlot, Reloads, Role};
use crate::shadow::{ShadowOfProcessor, Shadows, shadow_filter};
use crate::sinks::{FileSink, HttpSink, StdoutSink};

/// Loads plug-ins of both kinds, all WebAssembly on one engine.
pub(crate) struct Engines {
    wasm: WasmEngine,
    reloads: Reloads,
    shadows: Shadows,
}

/// Whose a plug-in is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) consumer: &'a str,
    pub(crate) checkpoint: Option<&'a str>,
}

impl Owner<'_> {
    fn place(&self, role: Role) -> Place {
        Place::new(self.consumer, self.checkpoint, role)
    }

    /// The place of one of its filters.
    fn filter(&self, nth: Nth) -> Place {
        Place { nth: Some(nth), ..self.place(Role::Filter) }
    }
}

impl Engines {
    pub(crate) fn new(wasm: WasmEngine) -> Self {
        Self { wasm, reloads: Reloads::default(), shadows: Shadows::default() }
    }

    /// Those of the plug-ins loaded that can be read again, and the shadows.
    pub(crate) fn into_parts(self) -> (Reloads, Shadows) {
        (self.reloads, self.shadows)
    }

    /// The filters of a consumer, each with what it is called where it is to blame.
    ///
    /// `load` makes one of them; its errors are told with which one it is.
    pub(crate) fn filters<T>(
        of: &[T],
        path: impl Fn(&T) -> &Path,
        load: impl Fn(Nth, &T) -> Result<Arc<dyn FilterFactory>>,
    ) -> Result<Vec<NamedFilter>> {
        let named = |(n, filter): (usize, &T)| {
            let nth = Nth { n: n + 1, of: of.len() };
            let (which, path) = (nth.to_string(), path(filter).display());
            let name = if nth.of == 1 { format!("{which} {path}") } else { format!("{which} ({path})") };
            Ok(NamedFilter { name, factory: load(nth, filter).context(which)? })
        };
        of.iter().enumerate().map(named).collect()
    }

    /// The filter in a file, which may be a component or a Lua file that returns a function, with a shadow if there is one.
    pub(crate) fn filter_file(
        &self,
        owner: Owner<'_>,
        nth: Nth,
        filter: &FilterArg,
    ) -> Result<Arc<dyn FilterFactory>> {
        let engine = |path: &Path| match is_lua(path) {
            true => Engine::Lua { path: path.to_owned() },
            false => {
                Engine::Wasm { path: path.to_owned(), grants: Grants::default(), limits: Limits::default() }
            }
        };
        let place = owner.filter(nth);
        let live = self.any_filter(place.clone(), &engine(&filter.path), filter.config.clone())?;
        match &filter.shadow {
            Some(ShadowArg { path, config }) => {
                self.with_shadow(place, live, path, &engine(path), config.clone())
            }
            None => Ok(live),
        }
    }

    /// The filter that a pipeline names, tried once.
    pub(crate) fn filter(
        &self,
        owner: Owner<'_>,
        nth: Nth,
        plugin: &Plugin<ForFilter>,
    ) -> Result<Arc<dyn FilterFactory>> {
        let place = owner.filter(nth);
        let live = self.any_filter(place.clone(), &plugin.engine, plugin.config()?)?;
        match &plugin.shadow {
            Some(shadow) => {
                let (engine, config) = (shadow.engine(&plugin.engine), shadow.config(plugin)?);
                self.with_shadow(place, live, shadow.path(), &engine, config)
            }
            None => Ok(live),
        }
    }

    fn with_shadow(
        &self,
        place: Place,
        live: Arc<dyn FilterFactory>,
        path: &Path,
        engine: &Engine,
        config: serde_json::Value,
    ) -> Result<Arc<dyn FilterFactory>> {
        let shadow = self.any_filter(place.of_shadow(), engine, config).context("shadow")?;
        shadow_filter(&self.shadows, place, path, live, shadow)
    }

    fn any_filter(
        &self,
        place: Place,
        engine: &Engine,
        config: serde_json::Value,
    ) -> Result<Arc<dyn FilterFactory>> {
        match engine {
            Engine::Wasm { path, limits, .. } => {
                let host = self.host(&place)?;
                let plugin = match place.nth.and_then(Nth::label) {
                    Some(label) => host.filter_at(&label, path, &config, limits.clone())?,
                    None => host.filter(path, &config, limits.clone())?,
                };
                Ok(self.reloads.filter(place, plugin))
            }
            Engine::Lua { path } => {
                let file = self.lua_file(path, config, &place)?;
                file.filter()?;
                Ok(Arc::new(file))
            }
        }
    }

    fn host(&self, place: &Place) -> Result<&Arc<Host>> {
        match place.role {
            Role::Filter | Role::Processor => self.wasm.host(),
            Role::ShadowFilter | Role::ShadowProcessor => self.wasm.shadow_host(),
        }
    }

    /// The processor that a consumer of a pipeline names, tried once.
    pub(crate) fn processor(&self, owner: Owner<'_>, consumer: &ConsumerTable) -> Result<ProcessorMaker> {
        let plugin = match &consumer.processor {
            ProcessorTable::BuiltIn(sink) => {
                check_sink(sink)?;
                return Ok(ProcessorMaker::Sink(sink.clone()));
            }
            ProcessorTable::Plugin(plugin) => plugin,
        };
        let place = owner.place(Role::Processor);
        let live = match &plugin.engine {
            Engine::Wasm { .. } => {
                let instances = consumer.instances();
                ProcessorMaker::Wasm(self.component(
                    place.clone(),
                    &plugin.engine,
                    plugin.config()?,
                    instances,
                )?)
            }
            Engine::Lua { path } => {
                let file = self.lua_file(path, plugin.config()?, &place)?;
                file.processor()?;
                ProcessorMaker::Lua(file)
            }
        };
        match &plugin.shadow {
            Some(_) => Ok(ProcessorMaker::Shadowed(
                Box::new(live),
                self.shadow_of(place, plugin, consumer.instances())?,
            )),
            None => Ok(live),
        }
    }

    /// The component that a pipeline names as a processor, of which there will be so many instances at once.
    fn component(
        &self,
        place: Place,
        engine: &Engine,
        config: serde_json::Value,
        instances: usize,
    ) -> Result<ProcessorSlot> {
        let Engine::Wasm { path, grants, limits } = engine else {
            bail!("{}: not a component", engine.path().display())
        };
        let plugin = self.host(&place)?.processor(path, &config, grants.clone(), limits.clone());
        let mut plugin = plugin.map_err(|e| match place.role {
            Role::ShadowProcessor => anyhow!(place.role.explain(&e)),
            _ => e.into(),
        })?;
        if instances > 1 {
            plugin = plugin.in_parallel()?;
        }
        Ok(self.reloads.processor(place, plugin))
    }

    /// The shadow of the processor at `place`.
    fn shadow_of(
        &self,
        place: Place,
        plugin: &Plugin<ForProcessor>,
        instances: usize,
    ) -> Result<ShadowOfProcessor> {
        let shadow = plugin.shadow.as_ref().context("no shadow")?;
        let (engine, config) = (shadow.engine(&plugin.engine), shadow.config(plugin)?);
        let slot = self.component(place.of_shadow(), &engine, config, instances).context("shadow")?;
        ShadowOfProcessor::start(&self.shadows, place, shadow.path(), slot)
    }

    fn lua_file(&self, path: &Path, config: serde_json::Value, place: &Place) -> Result<LuaFile> {
        expect_lua(path)?;
        let mut name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(label) = place.nth.and_then(Nth::label) {
            name += &format!(" ({label})");
        }
        if place.role.is_shadow() {
            name += " (shadow)";
        }
        Ok(LuaFile { file: PluginFile::read(path)?, config, engine: self.wasm.clone(), name })
    }
}

/// A filter of a consumer.
pub(crate) struct NamedFilter {
    name: String,
    factory: Arc<dyn FilterFactory>,
}

impl NamedFilter {
    /// Makes one for a consumer's thread, which may have more made.
    pub(crate) fn options(&self) -> Result<FilterOptions> {
        let filter = self.factory.create().map_err(|e| anyhow!(e)).context("cannot make the filter")?;
        Ok(FilterOptions { name: self.name.clone(), filter, more: Some(self.factory.clone()) })
    }
}

/// Whether a plug-in's file is in Lua: its name says so, and it does not begin as WebAssembly does.
pub(crate) fn is_lua(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lua") && !is_binary(path)
}

/// Whether a file begins as all WebAssembly does. One that cannot be read is left to whoever reads it in earnest.
fn is_binary(path: &Path) -> bool {
    let mut start = [0; 4];
    // To open a pipe may take for ever.
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && start == *b"\0asm"
}

fn expect_lua(path: &Path) -> Result<()> {
    ensure!(!is_binary(path), "{}: WebAssembly, not Lua; name it as `wasm`", path.display());
    Ok(())
}

/// A plug-in file in Lua, as it is now. It is run anew for each thread: Lua states do not leave theirs.
pub(crate) struct LuaFile {
    file: PluginFile,
    config: serde_json::Value,
    engine: WasmEngine,
    /// What it is counted by.
    name: String,
}

impl LuaFile {
    fn filter(&self) -> Result<LuaFilter, LoadError> {
        self.file.filter(&self.config, &|lua| self.install(lua))
    }

    fn processor(&self) -> Result<LuaProcessor, LoadError> {
        self.file.processor(&self.config, &|lua| self.install(lua))
    }

    /// Has what it does counted.
    fn counted<P>(&self, plugin: P) -> Counted<P> {
        Counted::new(plugin, self.name.clone(), self.engine.figures())
    }

    /// Gives it the `kumo` module that scripts have.
    fn install(&self, lua: &mlua::Lua) -> mlua::Result<()> {
        tailweir_lua::install(lua, crate::script::hooks(self.file.path(), &self.engine)).map(drop)
    }
}

impl FilterFactory for LuaFile {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(self.counted(self.filter()?)))
    }
}

/// Makes a processor on the thread of its consumer.
pub(crate) enum ProcessorMaker {
    Wasm(ProcessorSlot),
    Lua(LuaFile),
    Sink(SinkTable),
    Shadowed(Box<ProcessorMaker>, ShadowOfProcessor),
}

impl ProcessorMaker {
    /// Says where the state is that the processors will use.
    pub(crate) fn will_use(&self, state: Weak<dyn StateView>) {
        match self {
            Self::Wasm(plugin) => plugin.will_use(state),
            Self::Shadowed(live, _) => live.will_use(state),
            Self::Lua(_) | Self::Sink(_) => {}
        }
    }

    pub(crate) fn create(&self) -> Result<Box<dyn Processor>> {
        Ok(match self {
            Self::Wasm(plugin) => plugin.create(),
            Self::Lua(file) => Box::new(file.counted(file.processor()?)),
            Self::Shadowed(live, shadow) => shadow.follow(live.create()?),
            Self::Sink(SinkTable::Stdout {}) => Box::new(SinkProcessor(StdoutSink::new()?)),
            Self::Sink(SinkTable::File(options)) => Box::new(SinkProcessor(FileSink::new(options.clone()))),
            Self::Sink(SinkTable::Http(options)) => Box::new(SinkProcessor(HttpSink::new(options)?)),
        })
    }
}

/// Whether a sink could be used, as far as can be told without sending anything.
pub(crate) fn check_sink(table: &SinkTable) -> Result<()> {
    match table {
        SinkTable::Stdout {} => Ok(()),
        SinkTable::File(options) => {
            let check = FileSink::new(options.clone()).check();
            check.with_context(|| format!("cannot append to {}", options.path.display()))
        }
        SinkTable::Http(options) => HttpSink::new(options).map(drop).context("http"),
    }
}

/// Processors that are alike, and where what they emit goes: so many for batches that are dealt with at once.
pub(crate) fn workers(maker: &ProcessorMaker, table: &SinkTable, instances: usize) -> Result<Vec<Worker>> {
    let shared = match table {
        // One at a time writes to it, each its whole batch.
        SinkTable::Stdout {} | SinkTable::File(_) if instances > 1 => Some(SharedSink::new(sink(table)?)),
        _ => None,
    };
    let worker = |_| {
        let sink = match &shared {
            Some(shared) => Box::new(shared.clone()) as Box<dyn Sink>,
            None => sink(table)?,
        };
        Ok(Worker { processor: maker.create()?, sink })
    };
    (0..instances).map(worker).collect()
}

/// A sink for several, who take turns.
#[derive(Clone)]
struct SharedSink(Rc<tokio::sync::Mutex<Box<dyn Sink>>>);

impl SharedSink {
    fn new(sink: Box<dyn Sink>) -> Self {
        Self(Rc::new(tokio::sync::Mutex::new(sink)))
    }
}

impl Sink for SharedSink {
    fn send<'a>(&'a mut self, records: Outgoing<'a>) -> SinkFuture<'a> {
        Box::pin(async move { self.0.lock().await.send(records).await })
    }
}

pub(crate) fn sink(table: &SinkTable) -> Result<Box<dyn Sink>> {
    Ok(match table {
        SinkTable::Stdout {} => Box::new(StdoutSink::new()?),
        SinkTable::File(options) => Box::new(FileSink::new(options.clone())),
        SinkTable::Http(options) => Box::new(HttpSink::new(options)?),
    })
}
