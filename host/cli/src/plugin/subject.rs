//! The plug-in under test.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tailweir_core::{Filter, FilterFactory, Processor};
use tailweir_lua::plugin::{self as lua, Gives, Look, LuaFilter, LuaProcessor};
use tailweir_wasm::{Grants, Host, Kind, LoadErrorKind};

use super::args::SetupArgs;
use crate::engine::WasmEngine;
use crate::exit::UsageError;
use crate::plugins::is_lua;

/// A plug-in that was loaded and set up as it would be for a consumer.
pub(super) enum Subject {
    WasmFilter(Box<dyn Filter>),
    WasmProcessor(Box<dyn Processor>),
    LuaFilter(LuaFilter),
    LuaProcessor(LuaProcessor),
}

/// A plug-in as what it is used for.
pub(super) enum Role<'a> {
    Filter(&'a mut dyn Filter),
    Processor(&'a mut dyn Processor),
}

impl Subject {
    /// Loads a component or a Lua file.
    pub(super) fn load(file: &Path, setup: &SetupArgs, engine: &WasmEngine) -> Result<Self> {
        match is_lua(file) {
            true => Self::load_lua(file, setup, engine),
            false => Self::load_wasm(file, setup, engine.host()?),
        }
    }

    /// Loads a component on this host.
    pub(super) fn load_wasm(file: &Path, setup: &SetupArgs, host: &Arc<Host>) -> Result<Self> {
        let config = config(setup.config.as_deref())?;
        let limits = setup.limits.clone().unwrap_or_default();
        let kind = host.inspect(file, limits.clone())?.kind;
        check_kind(file, kind, setup)?;
        match kind {
            Kind::Filter if !setup.grant_http.is_empty() => {
                Err(useless(file, "`--grant-http` is for processors: a filter gets no capability"))
            }
            Kind::Filter => {
                let filter = host.filter(file, &config, limits)?.create();
                Ok(Self::WasmFilter(filter.map_err(|e| anyhow!(e)).context("cannot make the filter")?))
            }
            Kind::Processor => {
                let grants = Grants { http: setup.grant_http.clone() };
                match host.processor(file, &config, grants, limits) {
                    Err(e) if matches!(e.kind, LoadErrorKind::MissingGrant) => {
                        Err(UsageError(format!("{e}; here with `--grant-http ORIGIN`")).into())
                    }
                    processor => Ok(Self::WasmProcessor(processor?.create())),
                }
            }
        }
    }

    fn load_lua(file: &Path, setup: &SetupArgs, engine: &WasmEngine) -> Result<Self> {
        if setup.limits.is_some() {
            return Err(useless(file, "`--limits` is for components: a Lua file has none"));
        }
        if !setup.grant_http.is_empty() {
            return Err(useless(
                file,
                "`--grant-http` is for components: a Lua file has the rights of the program",
            ));
        }
        let config = config(setup.config.as_deref())?;
        let install = |lua: &mlua::Lua| install(lua, file, engine);
        let kind = match (look(file, &config, engine)?.gives, setup.kind) {
            (Gives::Filter, _) => Kind::Filter,
            (Gives::Processor, _) => Kind::Processor,
            (Gives::Function, Some(kind)) => kind.into(),
            (Gives::Function, None) => {
                let why = "it returns a function, which may be a filter or a processor: say which with `--kind`, or \
                           let it return a table, as in `return { filter = … }`";
                return Err(UsageError(format!("{}: {why}", file.display())).into());
            }
        };
        check_kind(file, kind, setup)?;
        Ok(match kind {
            Kind::Filter => Self::LuaFilter(lua::load_filter(file, &config, &install)?),
            Kind::Processor => Self::LuaProcessor(lua::load_processor(file, &config, &install)?),
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::WasmFilter(_) | Self::LuaFilter(_) => Kind::Filter,
            Self::WasmProcessor(_) | Self::LuaProcessor(_) => Kind::Processor,
        }
    }

    pub(super) fn role(&mut self) -> Role<'_> {
        match self {
            Self::WasmFilter(filter) => Role::Filter(&mut **filter),
            Self::LuaFilter(filter) => Role::Filter(filter),
            Self::WasmProcessor(processor) => Role::Processor(&mut **processor),
            Self::LuaProcessor(processor) => Role::Processor(processor),
        }
    }

    /// Bytes that a Lua state has at present.
    pub(super) fn lua_memory(&self) -> Option<usize> {
        match self {
            Self::LuaFilter(filter) => Some(filter.memory()),
            Self::LuaProcessor(processor) => Some(processor.memory()),
            Self::WasmFilter(_) | Self::WasmProcessor(_) => None,
        }
    }
}

/// An option that has no effect on this file.
fn useless(file: &Path, why: &str) -> anyhow::Error {
    UsageError(format!("{}: {why}; leave it out", file.display())).into()
}

/// A plug-in that says itself what it is must not have been said to be the other.
fn check_kind(file: &Path, kind: Kind, setup: &SetupArgs) -> Result<()> {
    match setup.kind.map(Kind::from) {
        Some(said) if said != kind => Err(UsageError(format!(
            "{}: a {}, not a {}, as `--kind` says; leave `--kind` out",
            file.display(),
            kind.name(),
            said.name()
        ))
        .into()),
        _ => Ok(()),
    }
}

/// What a Lua plug-in file gives.
pub(super) fn look(file: &Path, config: &Value, engine: &WasmEngine) -> Result<Look> {
    Ok(lua::look(file, config, &|lua| install(lua, file, engine))?)
}

/// The configuration that `--config` gives, `null` without it.
pub(super) fn config(text: Option<&str>) -> Result<Value> {
    match text {
        Some(text) => {
            Ok(serde_json::from_str(text).map_err(|e| UsageError(format!("--config is not JSON: {e}")))?)
        }
        None => Ok(Value::Null),
    }
}

/// Gives a Lua file the `kumo` module that scripts have.
fn install(lua: &mlua::Lua, file: &Path, engine: &WasmEngine) -> mlua::Result<()> {
    tailweir_lua::install(lua, crate::script::hooks(file, engine)).map(drop)
}
