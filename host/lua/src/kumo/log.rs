//! `kumo.log_debug`, `log_info`, `log_warn`, `log_error` and `set_diagnostic_log_filter`.

use std::rc::Rc;

use mlua::{Lua, Table, Value, Variadic};

use crate::error::fail;
use crate::kumo::Host;

/// Sets the functions in `kumo`.
pub(crate) fn install(lua: &Lua, kumo: &Table, host: &Rc<Host>) -> mlua::Result<()> {
    // The level of an event is a constant where it is emitted, hence a macro.
    macro_rules! logger {
        ($level:ident) => {
            lua.create_function(|lua, args: Variadic<Value>| {
                tracing::$level!(target: "lua", "{}{}", caller(lua), join(&args));
                Ok(())
            })?
        };
    }
    kumo.set("log_debug", logger!(debug))?;
    kumo.set("log_info", logger!(info))?;
    kumo.set("log_warn", logger!(warn))?;
    kumo.set("log_error", logger!(error))?;
    let host = host.clone();
    let set_filter = lua.create_function(move |_, filter: String| match &host.set_log_filter {
        Some(set) => {
            set(&filter).map_err(|e| fail(format!("kumo.set_diagnostic_log_filter: `{filter}`: {e}")))
        }
        None => Err(fail("kumo.set_diagnostic_log_filter: the log filter of this program is fixed")),
    })?;
    kumo.set("set_diagnostic_log_filter", set_filter)
}

/// `file:line: ` of the Lua code that called the running function; empty if it was not Lua code.
fn caller(lua: &Lua) -> String {
    let place = |frame: &mlua::debug::Debug<'_>| {
        let file = frame.source().short_src?.into_owned();
        Some(format!("{file}:{}: ", frame.current_line()?))
    };
    lua.inspect_stack(1, place).flatten().unwrap_or_default()
}

/// All arguments as `tostring` gives them, with a space between each two.
fn join(args: &[Value]) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.to_string_lossy(),
        other => other.to_string().unwrap_or_else(|_| format!("<{}>", other.type_name())),
    };
    args.iter().map(text).collect::<Vec<_>>().join(" ")
}
