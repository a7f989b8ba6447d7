//! `kumo.wasm`: WebAssembly plug-ins for scripts. Installed here, since the engines do not know each other.

use std::path::PathBuf;
use std::sync::Arc;

use mlua::{Lua, LuaSerdeExt, Table, Value};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tailweir_lua::{Extension, FilterHandle, ProcessorHandle};
use tailweir_wasm::{Grants, Host, Limits};

use crate::config::in_our_words;
use crate::engine::WasmEngine;
use crate::exit::one_line;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterTable {
    path: PathBuf,
    #[serde(default)]
    config: serde_json::Value,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessorTable {
    path: PathBuf,
    #[serde(default)]
    config: serde_json::Value,
    #[serde(default)]
    grants: Grants,
    #[serde(default)]
    limits: Limits,
}

/// Puts `kumo.wasm.filter` and `kumo.wasm.processor` in place. Relative paths are taken from the script's folder. The
/// engine starts with the first plug-in.
pub(crate) fn extension(folder: PathBuf, engine: WasmEngine) -> Extension {
    Box::new(move |lua, kumo| {
        let wasm = lua.create_table()?;
        let (the_engine, the_folder) = (engine.clone(), folder.clone());
        let filter = lua.create_function(move |lua, table: Table| {
            let name = "kumo.wasm.filter";
            let FilterTable { path, config, limits } = options(lua, name, table)?;
            let filter = host(&the_engine, name)?.filter(&the_folder.join(path), &config, limits);
            Ok(FilterHandle(Arc::new(filter.map_err(|e| fail(name, &e))?)))
        })?;
        let (the_engine, the_folder) = (engine.clone(), folder.clone());
        let processor = lua.create_function(move |lua, table: Table| {
            let name = "kumo.wasm.processor";
            let ProcessorTable { path, config, grants, limits } = options(lua, name, table)?;
            let plugin = host(&the_engine, name)?.processor(&the_folder.join(path), &config, grants, limits);
            Ok(ProcessorHandle::new(plugin.map_err(|e| fail(name, &e))?.create()))
        })?;
        wasm.set("filter", filter)?;
        wasm.set("processor", processor)?;
        kumo.set("wasm", wasm)
    })
}

fn host<'a>(engine: &'a WasmEngine, name: &str) -> mlua::Result<&'a Arc<Host>> {
    engine.host().map_err(|e| mlua::Error::runtime(format!("{name}: {e}")))
}

fn options<T: DeserializeOwned>(lua: &Lua, name: &str, table: Table) -> mlua::Result<T> {
    lua.from_value(Value::Table(table)).map_err(|e| {
        let text = e.to_string();
        let text = text.strip_prefix("deserialize error: ").unwrap_or(&text);
        mlua::Error::runtime(format!("{name}: {}", in_our_words(text)))
    })
}

fn fail(name: &str, error: &(dyn std::error::Error + 'static)) -> mlua::Error {
    mlua::Error::runtime(format!("{name}: {}", one_line(error)))
}
