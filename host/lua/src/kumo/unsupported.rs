//! What KumoMTA's `kumo` module has and ours has not: calling it is an error that says so.

use mlua::{Lua, Table, Value, Variadic};

use crate::error::fail;

/// Functions in `kumo` itself.
const FUNCTIONS: &[&str] = &[
    "memoize",
    "spawn_task",
    "toml_encode",
    "toml_encode_pretty",
    "toml_load",
    "toml_parse",
    "glob",
    "uncached_glob",
    "read_dir",
];

/// Functions in modules of which the rest is provided.
const MEMBERS: &[(&str, &str)] = &[
    ("http", "connect_websocket"),
    ("serde", "toml_encode"),
    ("serde", "toml_encode_pretty"),
    ("serde", "toml_load"),
    ("serde", "toml_parse"),
    ("serde", "yaml_encode"),
    ("serde", "yaml_load"),
    ("serde", "yaml_parse"),
];

/// Modules of which nothing is provided.
const MODULES: &[&str] = &[
    "amqp",
    "counter_series",
    "crypto",
    "digest",
    "encode",
    "fs",
    "kafka",
    "mpsc",
    "nats",
    "redis",
    "regex",
    "secrets",
    "sqlite",
    "string",
    "uuid",
];

/// Fills the gaps in `kumo`. Names that KumoMTA does not know either stay nil.
pub(crate) fn install(lua: &Lua, kumo: &Table) -> mlua::Result<()> {
    for name in FUNCTIONS {
        if kumo.get::<Value>(*name)?.is_nil() {
            kumo.set(*name, refuse(lua, format!("kumo.{name}"))?)?;
        }
    }
    for module in MODULES {
        let index = lua.create_function(move |lua, (_, name): (Table, String)| {
            refuse(lua, format!("kumo.{module}.{name}"))
        })?;
        let table = lua.create_table()?;
        table.set_metatable(Some(lua.create_table_from([("__index", index)])?))?;
        kumo.set(*module, table)?;
    }
    for (module, name) in MEMBERS {
        let table: Table = kumo.get(*module)?;
        if table.get::<Value>(*name)?.is_nil() {
            table.set(*name, refuse(lua, format!("kumo.{module}.{name}"))?)?;
        }
    }
    Ok(())
}

fn refuse(lua: &Lua, name: String) -> mlua::Result<mlua::Function> {
    lua.create_function(move |_, _: Variadic<Value>| -> mlua::Result<()> {
        Err(fail(format!("{name} is not provided by tailweir")))
    })
}
