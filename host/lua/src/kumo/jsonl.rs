//! `kumo.jsonl`: tailers that read a directory of segments, and writers that make one.

mod config;
mod tailer;
mod writer;

use std::rc::Rc;

use mlua::{Lua, Table, Value};

use self::tailer::{MultiTailer, Tailer};
use crate::kumo::Host;

/// Makes the module's table.
pub(crate) fn module(lua: &Lua, host: &Rc<Host>) -> mlua::Result<Table> {
    let jsonl = lua.create_table()?;
    let shared = host.clone();
    let new_tailer = lua.create_function(move |lua, (options, filter): (Value, Value)| {
        Tailer::open(&shared, config::single(lua, options, filter, &shared)?)
    })?;
    jsonl.set("new_tailer", new_tailer)?;
    let shared = host.clone();
    let new_multi_tailer = lua.create_function(move |lua, options: Value| {
        MultiTailer::open(&shared, config::multi(lua, options, &shared)?)
    })?;
    jsonl.set("new_multi_tailer", new_multi_tailer)?;
    let shared = host.clone();
    let new_writer = lua.create_function(move |lua, options: Value| writer::open(lua, options, &shared))?;
    jsonl.set("new_writer", new_writer)?;
    Ok(jsonl)
}
