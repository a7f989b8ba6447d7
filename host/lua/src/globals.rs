//! What is different in Lua's own libraries: coroutines in which functions that wait may be called, and `os.exit`.

use mlua::{Function, Lua, Table, Value};

use crate::error::fail;

/// A function that waits, such as a tailer's iterator, yields a mark to the host until it is done. In a coroutine of the
/// script that mark would reach whoever resumes it; here it is passed on, and the coroutine goes on when the host does.
const COROUTINES: &str = r"
local pending, coroutine, error, type = ...
local create, resume, yield, status, close =
  coroutine.create, coroutine.resume, coroutine.yield, coroutine.status, coroutine.close

local function go_on(co, ...)
  local ok, what = ...
  if ok and what == pending then
    return go_on(co, resume(co, yield(what)))
  end
  return ...
end

local function finish(co, ok, ...)
  if ok then
    return ...
  end
  local failure = ...
  if status(co) == 'dead' then
    local clean, replaced = close(co)
    if not clean then
      failure = replaced
    end
  end
  error(failure, 2)
end

function coroutine.resume(co, ...)
  return go_on(co, resume(co, ...))
end

function coroutine.wrap(body)
  local co = create(body)
  return function(...)
    return finish(co, go_on(co, resume(co, ...)))
  end
end
";

/// Replaces `coroutine.resume` and `coroutine.wrap`.
pub(crate) fn let_coroutines_wait(lua: &Lua) -> mlua::Result<()> {
    let globals = lua.globals();
    let (error, kind): (Function, Function) = (globals.get("error")?, globals.get("type")?);
    let chunk = lua.load(COROUTINES).set_name("=__tailweir_coroutine");
    chunk.call((Lua::poll_pending(), globals.get::<Table>("coroutine")?, error, kind))
}

/// Replaces `os.exit`, which would end the process with all of its segments half written: `end` comes first, with the
/// exit code, and returns the one to end with.
pub(crate) fn end_before_exit(lua: &Lua, end: impl Fn(i32) -> i32 + 'static) -> mlua::Result<()> {
    let exit = lua.create_function(move |_, code: Value| -> mlua::Result<()> {
        let code = match code {
            Value::Nil | Value::Boolean(true) => 0,
            Value::Boolean(false) => 1,
            // As C does, of which the system keeps the lowest eight bits.
            Value::Integer(code) => code as i32,
            Value::Number(code) if code.fract() == 0.0 => code as i32,
            other => {
                return Err(fail(format!("os.exit: expected a whole number, got {}", other.type_name())));
            }
        };
        std::process::exit(end(code))
    })?;
    lua.globals().get::<Table>("os")?.set("exit", exit)
}

/// Replaces `os.exit` in a plug-in, which shares the process with others.
pub(crate) fn refuse_exit(lua: &Lua) -> mlua::Result<()> {
    let refuse = lua.create_function(|_, _: Value| -> mlua::Result<()> {
        Err(fail("os.exit: a plug-in cannot end the program; raise an error instead"))
    })?;
    lua.globals().get::<Table>("os")?.set("exit", refuse)
}
