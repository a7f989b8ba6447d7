//! `kumo.wasm`: WebAssembly plug-ins for scripts. Installed here, since the engines do not know each other.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{Lua, LuaSerdeExt, Table, Value};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tailweir_lua::{Extension, FilterHandle, ProcessorHandle};
use tailweir_wasm::{Grants, Host, HostOptions, Limits};

use crate::config::in_our_words;
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
pub(crate) fn extension(folder: PathBuf) -> Extension {
    let host: Rc<OnceCell<Arc<Host>>> = Rc::default();
    Box::new(move |lua, kumo| {
        let wasm = lua.create_table()?;
        let (the_host, the_folder) = (host.clone(), folder.clone());
        let filter = lua.create_function(move |lua, table: Table| {
            let name = "kumo.wasm.filter";
            let FilterTable { path, config, limits } = options(lua, name, table)?;
            let filter = engine(&the_host, name)?.filter(&the_folder.join(path), &config, limits);
            Ok(FilterHandle(Arc::new(filter.map_err(|e| fail(name, &e))?)))
        })?;
        let (the_host, the_folder) = (host.clone(), folder.clone());
        let processor = lua.create_function(move |lua, table: Table| {
            let name = "kumo.wasm.processor";
            let ProcessorTable { path, config, grants, limits } = options(lua, name, table)?;
            let plugin = engine(&the_host, name)?.processor(&the_folder.join(path), &config, grants, limits);
            Ok(ProcessorHandle::new(plugin.map_err(|e| fail(name, &e))?.create()))
        })?;
        wasm.set("filter", filter)?;
        wasm.set("processor", processor)?;
        kumo.set("wasm", wasm)
    })
}

fn engine(host: &OnceCell<Arc<Host>>, name: &str) -> mlua::Result<Arc<Host>> {
    if let Some(host) = host.get() {
        return Ok(host.clone());
    }
    let made = Host::new(HostOptions::default())
        .map_err(|e| mlua::Error::runtime(format!("{name}: cannot start the WebAssembly engine: {e:#}")))?;
    Ok(host.get_or_init(|| made).clone())
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
