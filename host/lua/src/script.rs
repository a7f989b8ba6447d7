//! Running a script: a Lua state of its own, the file, and the `main` handler that the file registers.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use mlua::{Lua, LuaOptions, StdLib, Table, Value, Variadic};
use thiserror::Error;

use crate::error::{lua_text, with_causes};
use crate::globals;
use crate::kumo::{self, Hooks, Host};

/// How long a script may go on once it has been asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Why a script did not run to its end. The text is whole: message, traceback and causes.
#[derive(Debug, Error)]
pub enum ScriptError {
    /// The Lua state could not be set up.
    #[error("failed to set up Lua: {}", lua_text(.0))]
    Setup(mlua::Error),
    /// The file could not be read.
    #[error("failed to read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not valid Lua, or raised an error while it was evaluated, before `main` was called.
    #[error("failed to evaluate {}\ncaused by: {}", path.display(), lua_text(error))]
    Evaluate {
        /// The file.
        path: PathBuf,
        /// What it raised.
        error: mlua::Error,
    },
    /// `main` raised an error.
    #[error("{}", lua_text(.0))]
    Main(mlua::Error),
}

/// A Lua state in which one script runs.
///
/// It must be polled on a tokio runtime with I/O and time enabled. It never leaves its thread.
pub struct Script {
    lua: Lua,
    host: Rc<Host>,
}

impl Script {
    /// Makes the state: Lua's standard library, and the `kumo` module.
    ///
    /// # Errors
    /// If an extension fails.
    pub fn new(hooks: Hooks) -> Result<Self, ScriptError> {
        Self::try_new(hooks).map_err(ScriptError::Setup)
    }

    fn try_new(mut hooks: Hooks) -> mlua::Result<Self> {
        let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::new())?;
        provide_traceback(&lua)?;
        globals::let_coroutines_wait(&lua)?;
        let before_exit = hooks.before_exit.take();
        let (_, host) = kumo::build(&lua, hooks)?;
        let ending = Rc::downgrade(&host);
        globals::end_before_exit(&lua, move |code| {
            if let Some(host) = ending.upgrade() {
                host.close_all();
                host.finish_all();
            }
            before_exit.as_ref().map_or(code, |before_exit| before_exit(code))
        })?;
        Ok(Self { lua, host })
    }

    /// The Lua state.
    pub fn lua(&self) -> &Lua {
        &self.lua
    }

    /// Evaluates the file and calls the handler that it registered for `main`, if any, with `args` as strings.
    ///
    /// When `shutdown` is ready, all tailers are closed, so that the script's loops end. What then still runs ten seconds
    /// later is abandoned, batches that it did not commit included, and the script counts as ended.
    ///
    /// # Errors
    /// If the file cannot be read, or the script raises an error.
    pub async fn run(
        &self,
        path: &Path,
        args: Vec<String>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ScriptError> {
        let result = tokio::select! {
            biased;
            result = self.evaluate(path, args) => result,
            () = self.stop(shutdown) => {
                tracing::warn!("the script did not end within {STOP_LIMIT:?} of being asked to stop; abandoned");
                Ok(())
            }
        };
        self.host.close_all();
        result
    }

    async fn stop(&self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        self.host.close_all();
        tokio::time::sleep(STOP_LIMIT).await;
    }

    async fn evaluate(&self, path: &Path, args: Vec<String>) -> Result<(), ScriptError> {
        let source =
            std::fs::read(path).map_err(|error| ScriptError::Read { path: path.to_owned(), error })?;
        let failed = |error| ScriptError::Evaluate { path: path.to_owned(), error };
        self.find_modules_beside(path).map_err(failed)?;
        let chunk = self.lua.load(without_first_line(&source)).set_name(format!("@{}", path.display()));
        let chunk = chunk.set_mode(mlua::chunk::ChunkMode::Text).into_function().map_err(failed)?;
        // `...` in the file holds the arguments too, as it does in Lua's own interpreter.
        chunk.call_async::<()>(Variadic::from_iter(args.clone())).await.map_err(failed)?;
        match self.host.handler("main") {
            Some(main) => main.call_async(Variadic::from_iter(args)).await.map_err(ScriptError::Main),
            None => Ok(()),
        }
    }

    /// Lets `require` find the modules beside the script before all others, and last those of a KumoMTA that is
    /// installed here, which scripts written for it may use.
    fn find_modules_beside(&self, path: &Path) -> mlua::Result<()> {
        let package: Table = self.lua.globals().get("package")?;
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() && path.is_file() => {
                directory.display().to_string()
            }
            _ => ".".to_owned(),
        };
        let usual: String = package.get("path")?;
        let search = [directory.as_str(), "/opt/kumomta/etc/policy", "/opt/kumomta/share"]
            .map(|directory| format!("{directory}/?.lua;{directory}/?/init.lua"));
        let [beside, policy, share] = search;
        package.set("path", format!("{beside};{usual};{policy};{share}"))
    }
}

/// The source with its first line blank if that is for the shell: `#!/usr/bin/env …`. Line numbers stay.
fn without_first_line(source: &[u8]) -> &[u8] {
    let source = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
    match source.first() {
        Some(b'#') => &source[source.iter().position(|&byte| byte == b'\n').unwrap_or(source.len())..],
        _ => source,
    }
}

/// The `debug` library can break the state's safety and is not loaded; its `traceback` is what handlers of `xpcall` use.
fn provide_traceback(lua: &Lua) -> mlua::Result<()> {
    let traceback = lua.create_function(|lua, (message, level): (Value, Option<usize>)| {
        let text = match &message {
            Value::Nil => None,
            Value::String(text) => Some(text.to_string_lossy()),
            Value::Error(error) => Some(with_causes(&**error)),
            // As Lua does: what is no text is handed back untouched.
            _ => return Ok(message),
        };
        Ok(Value::String(lua.traceback(text.as_deref(), level.unwrap_or(1))?))
    })?;
    let debug = lua.create_table_from([("traceback", traceback)])?;
    lua.globals().get::<Table>("package")?.get::<Table>("loaded")?.set("debug", &debug)?;
    lua.globals().set("debug", debug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_the_shell_is_blank() {
        assert_eq!(without_first_line(b"#!/bin/lua\nx = 1"), b"\nx = 1");
        assert_eq!(without_first_line(b"#!"), b"");
        assert_eq!(without_first_line(b"x = 1"), b"x = 1");
    }
}
