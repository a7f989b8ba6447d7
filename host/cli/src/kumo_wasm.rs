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
    engine.host().map_err(|e| mlua::Error::external(format!("{name}: {e}")))
}

fn options<T: DeserializeOwned>(lua: &Lua, name: &str, table: Table) -> mlua::Result<T> {
    lua.from_value(Value::Table(table.clone())).map_err(|e| {
        let why = match at_fault::<T>(lua, &table) {
            Ok(Some((option, why))) => format!("option `{option}`: {why}"),
            Ok(None) | Err(_) => in_lua_words(&e),
        };
        mlua::Error::external(format!("{name}: {why}"))
    })
}

/// The option that cannot be what it is, such as `grants.http`, and why; `None` if that is nothing about one of them, or names it
/// already. The errors of the conversion do not say where in the table they are, so each option is tried without the others.
fn at_fault<T: DeserializeOwned>(lua: &Lua, table: &Table) -> mlua::Result<Option<(String, String)>> {
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let name = key.to_string()?;
        let Some(why) = alone::<T>(lua, &key, value.clone())? else { continue };
        let inner = value.as_table().map(|table| table.pairs::<Value, Value>());
        for pair in inner.into_iter().flatten() {
            let (inner, value) = pair?;
            let table = lua.create_table()?;
            table.set(inner.clone(), value)?;
            let inner = inner.to_string()?;
            if let Some(why) = alone::<T>(lua, &key, Value::Table(table))? {
                let named = why.contains(&format!("`{inner}`"));
                return Ok(Some((if named { name } else { format!("{name}.{inner}") }, why)));
            }
        }
        return Ok((!why.contains(&format!("`{name}`"))).then_some((name, why)));
    }
    Ok(None)
}

/// Why an option cannot be what it is, as the only one of its table.
fn alone<T: DeserializeOwned>(lua: &Lua, key: &Value, value: Value) -> mlua::Result<Option<String>> {
    let table = lua.create_table()?;
    table.set(key.clone(), value)?;
    let wrong = lua.from_value::<T>(Value::Table(table)).err().map(|e| in_lua_words(&e));
    Ok(wrong.filter(|why| !why.starts_with("missing option")))
}

fn in_lua_words(error: &mlua::Error) -> String {
    let text = error.to_string();
    let text = in_our_words(text.strip_prefix("deserialize error: ").unwrap_or(&text));
    text.strip_suffix(", expected table").map_or(text.clone(), |got| format!("{got}, expected a table"))
}

fn fail(name: &str, error: &(dyn std::error::Error + 'static)) -> mlua::Error {
    mlua::Error::external(format!("{name}: {}", one_line(error)))
}
