//! Filters and processors of a pipeline, made from what its file says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tailweir_core::{Filter, FilterFactory, Processor};
use tailweir_lua::plugin::{self, LoadError, LuaFilter, LuaProcessor};
use tailweir_pipeline::{Sink, SinkProcessor};
use tailweir_wasm::Limits;

use crate::config::{Engine, ForFilter, Plugin, ProcessorTable, SinkTable};
use crate::engine::WasmEngine;
use crate::figures::Counted;
use crate::reload::{ProcessorSlot, Reloads};
use crate::sinks::{FileSink, HttpSink, StdoutSink};

/// Loads plug-ins of both kinds, all WebAssembly on one engine.
pub(crate) struct Engines {
    wasm: WasmEngine,
    reloads: Reloads,
}

impl Engines {
    pub(crate) fn new(wasm: WasmEngine) -> Self {
        Self { wasm, reloads: Reloads::default() }
    }

    /// Those of the plug-ins loaded that can be read again.
    pub(crate) fn into_reloads(self) -> Reloads {
        self.reloads
    }

    /// The filter in a file, which may be a component or a Lua file that returns a function.
    pub(crate) fn filter_file(
        &self,
        path: &Path,
        config: serde_json::Value,
    ) -> Result<Arc<dyn FilterFactory>> {
        if is_lua(path) {
            return self.lua_filter(path, config);
        }
        Ok(self.reloads.filter(self.wasm.host()?.filter(path, &config, Limits::default())?))
    }

    /// The filter that a pipeline names, tried once.
    pub(crate) fn filter(&self, plugin: &Plugin<ForFilter>) -> Result<Arc<dyn FilterFactory>> {
        match &plugin.engine {
            Engine::Wasm { path, limits, .. } => {
                Ok(self.reloads.filter(self.wasm.host()?.filter(path, &plugin.config()?, limits.clone())?))
            }
            Engine::Lua { path } => self.lua_filter(path, plugin.config()?),
        }
    }

    /// The processor that a pipeline names, tried once.
    pub(crate) fn processor(&self, table: &ProcessorTable) -> Result<ProcessorMaker> {
        let maker = match table {
            ProcessorTable::BuiltIn(sink) => {
                check_sink(sink)?;
                ProcessorMaker::Sink(sink.clone())
            }
            ProcessorTable::Plugin(plugin) => match &plugin.engine {
                Engine::Wasm { path, grants, limits } => {
                    let host = self.wasm.host()?;
                    let loaded = host.processor(path, &plugin.config()?, grants.clone(), limits.clone())?;
                    ProcessorMaker::Wasm(self.reloads.processor(loaded))
                }
                Engine::Lua { path } => {
                    expect_lua(path)?;
                    let file =
                        LuaFile { path: path.clone(), config: plugin.config()?, engine: self.wasm.clone() };
                    file.processor()?;
                    ProcessorMaker::Lua(file)
                }
            },
        };
        Ok(maker)
    }

    fn lua_filter(&self, path: &Path, config: serde_json::Value) -> Result<Arc<dyn FilterFactory>> {
        expect_lua(path)?;
        let file = LuaFile { path: path.to_owned(), config, engine: self.wasm.clone() };
        file.filter()?;
        Ok(Arc::new(file))
    }
}

/// Whether a plug-in's file is in Lua: its name says so, and it does not begin as WebAssembly does.
pub(crate) fn is_lua(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lua") && !is_binary(path)
}

/// Whether a file begins as all WebAssembly does. One that cannot be read is left to whoever reads it in earnest.
fn is_binary(path: &Path) -> bool {
    let mut start = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"\0asm"
}

fn expect_lua(path: &Path) -> Result<()> {
    ensure!(!is_binary(path), "{}: WebAssembly, not Lua; name it as `wasm`", path.display());
    Ok(())
}

/// A plug-in file in Lua. It is loaded anew for each thread: Lua states do not leave theirs.
pub(crate) struct LuaFile {
    path: PathBuf,
    config: serde_json::Value,
    engine: WasmEngine,
}

impl LuaFile {
    fn filter(&self) -> Result<LuaFilter, LoadError> {
        plugin::load_filter(&self.path, &self.config, &|lua| self.install(lua))
    }

    fn processor(&self) -> Result<LuaProcessor, LoadError> {
        plugin::load_processor(&self.path, &self.config, &|lua| self.install(lua))
    }

    /// Has what it does counted, by the name of the file.
    fn counted<P>(&self, plugin: P) -> Counted<P> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Counted::new(plugin, name, self.engine.figures())
    }

    /// Gives it the `kumo` module that scripts have.
    fn install(&self, lua: &mlua::Lua) -> mlua::Result<()> {
        tailweir_lua::install(lua, crate::script::hooks(&self.path, &self.engine)).map(drop)
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
}

impl ProcessorMaker {
    pub(crate) fn create(&self) -> Result<Box<dyn Processor>> {
        Ok(match self {
            Self::Wasm(plugin) => plugin.create(),
            Self::Lua(file) => Box::new(file.counted(file.processor()?)),
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

pub(crate) fn sink(table: &SinkTable) -> Result<Box<dyn Sink>> {
    Ok(match table {
        SinkTable::Stdout {} => Box::new(StdoutSink::new()?),
        SinkTable::File(options) => Box::new(FileSink::new(options.clone())),
        SinkTable::Http(options) => Box::new(HttpSink::new(options)?),
    })
}
