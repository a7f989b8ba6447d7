//! Lua functions as filters and processors.
//!
//! # A filter file
//! returns a function that takes a record and answers whether to keep it (anything but `false` and `nil` keeps), or a
//! table with that function as `filter`, and optionally a function `init` that is called once with the configuration.
//! The file itself gets the configuration as its argument:
//!
//! ```lua
//! local config = ...
//! return function(record)
//!   return record.egress_pool == config.pool
//! end
//! ```
//!
//! # A processor file
//! returns a function that takes a batch, or a table with that function as `process`, and optionally `init`. It may wait,
//! as for an HTTP request, and answers:
//!
//! | returned | means |
//! |---|---|
//! | nothing, `nil` or `true` | done |
//! | an array of strings (JSON texts), tables and other values | these records go to the sink; done |
//! | `nil` or `false`, then `{retry = '2s', reason = '…'}` | deliver the batch again, after that time (seconds if a number, the consumer's back-off if `true`) |
//! | `nil` or `false`, then `{reject = {1, 3}, reason = '…'}` | these records, counted from 1, can never be dealt with; the others are |
//! | `nil` or `false`, then `{stop = true, reason = '…'}` | stop the consumer, the batch stays unacknowledged |
//! | `nil` or `false`, then a string | deliver the batch again, for that reason |
//!
//! An error is what the consumer's error policy says.

mod look;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Table, Value};
use tailweir_core::{
    Batch, Failure, Filter, FilterError, Located, Outcome, ProcessFuture, Processor, StateKeeper, Verdict,
};
use thiserror::Error;

use crate::batch::{LuaBatch, StateRefused};
use crate::error::{lua_text, plain};
use crate::globals;
use crate::record::Records;
use crate::serde::to_lua;

pub use look::{Gives, Look, LookFunction, check_syntax, look};

/// Why a file gives no filter or processor.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It raises an error, or has a syntax error.
    #[error("{} failed to load", path.display())]
    Run {
        /// The file.
        path: PathBuf,
        /// What Lua says.
        source: mlua::Error,
    },
    /// It returns something else.
    #[error("{} must return a function, or a table with a function `{entry}` and optionally `init`; {problem}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The function that is wanted.
        entry: &'static str,
        /// What it returns.
        problem: String,
    },
}

impl LoadError {
    fn run(path: &Path, error: &mlua::Error) -> Self {
        Self::Run { path: path.to_owned(), source: plain(error) }
    }
}

/// What is to be installed in a new Lua state: the `kumo` modules.
pub type Install<'a> = &'a dyn Fn(&Lua) -> mlua::Result<()>;

/// A filter that asks a Lua function about each record.
#[derive(Debug)]
pub struct LuaFilter {
    lua: Lua,
    records: Records,
    function: Function,
}

impl LuaFilter {
    /// A filter that calls `function`, which belongs to `lua`.
    ///
    /// # Errors
    /// If Lua is out of memory.
    pub fn new(lua: &Lua, function: Function) -> mlua::Result<Self> {
        Ok(Self { lua: lua.clone(), records: Records::install(lua)?, function })
    }

    /// Bytes of memory that its Lua state has at present.
    pub fn memory(&self) -> usize {
        self.lua.used_memory()
    }
}

impl Filter for LuaFilter {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let mut decided = Vec::new();
        let answer = self
            .records
            .batch_handle(&self.lua, candidates.clone())
            .and_then(|handle| self.records.ask(&self.lua, &handle, &self.function, &mut decided));
        match answer {
            Ok(()) => Ok(Verdict::Keep(decided)),
            Err(e) => Err(FilterError { decided, located: Located::Record, source: plain(&e).into() }),
        }
    }
}

/// A processor that hands each batch to a Lua function.
#[derive(Debug)]
pub struct LuaProcessor {
    lua: Lua,
    records: Records,
    function: Function,
}

impl LuaProcessor {
    /// A processor that calls `function`, which belongs to `lua`.
    ///
    /// # Errors
    /// If Lua is out of memory.
    pub fn new(lua: &Lua, function: Function) -> mlua::Result<Self> {
        Ok(Self { lua: lua.clone(), records: Records::install(lua)?, function })
    }

    /// Bytes of memory that its Lua state has at present.
    pub fn memory(&self) -> usize {
        self.lua.used_memory()
    }

    async fn run(
        &self,
        batch: &Arc<Batch>,
        state: Option<&Arc<dyn StateKeeper>>,
    ) -> Result<Outcome, Failure> {
        let mut object = LuaBatch::new(&self.lua, batch.clone(), None).map_err(crash)?;
        if let Some(state) = state {
            object = object.with_state(state.clone());
        }
        let answer: MultiValue = self.function.call_async(object).await.map_err(crash)?;
        self.outcome(batch.len(), answer).map_err(crash)?
    }

    /// What the function's answer means.
    fn outcome(&self, len: usize, answer: MultiValue) -> mlua::Result<Result<Outcome, Failure>> {
        let mut answer = answer.into_iter();
        match (answer.next().unwrap_or(Value::Nil), answer.next().unwrap_or(Value::Nil)) {
            (Value::Nil | Value::Boolean(true), Value::Nil) => Ok(Ok(Outcome::Done)),
            (Value::Table(emitted), Value::Nil) => {
                self.emitted(&emitted).map(|texts| Ok(Outcome::Emit(texts)))
            }
            (Value::Nil | Value::Boolean(false), Value::Table(why)) => self.failure(len, &why).map(Err),
            (Value::Nil | Value::Boolean(false), Value::String(why)) => {
                Ok(Err(Failure::Retry { after: None, reason: why.to_string_lossy() }))
            }
            (Value::Boolean(false), Value::Nil) => {
                Ok(Err(Failure::Retry { after: None, reason: "the processor returned false".to_owned() }))
            }
            (first, second) => Err(mlua::Error::runtime(format!(
                "a processor returns nothing, an array of records, or nil and a table that says why; \
                 this one returned {} and {}",
                first.type_name(),
                second.type_name()
            ))),
        }
    }

    fn emitted(&self, emitted: &Table) -> mlua::Result<Vec<String>> {
        let hint =
            "the processor returned a table that is not an array; to report a failure, return nil first";
        let len = self.array_len(emitted, hint)?;
        let mut texts = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        for n in 1..=len {
            let bad = |e: String| {
                mlua::Error::runtime(format!("record {n} of {len} that the processor returned: {e}"))
            };
            texts.push(match emitted.get::<Value>(n)? {
                Value::String(text) => {
                    let text = text.to_str().map_err(|e| bad(e.to_string()))?;
                    serde_json::from_str::<&serde_json::value::RawValue>(&text)
                        .map_err(|e| bad(format!("the string is not JSON: {e}")))?;
                    // What ends the record is the sink's.
                    let text = text.trim_ascii_end();
                    if text.contains('\n') {
                        return Err(
                            bad("the string has a line break, which would end the record".to_owned()),
                        );
                    }
                    text.to_owned()
                }
                value @ (Value::Table(_) | Value::Integer(_) | Value::Number(_) | Value::Boolean(_)) => {
                    let mut text = Vec::new();
                    self.records.encode(&self.lua, &value, &mut text).map_err(|e| bad(e.to_string()))?;
                    String::from_utf8(text).map_err(|e| bad(e.to_string()))?
                }
                other => return Err(bad(format!("expected a table or a string, got {}", other.type_name()))),
            });
        }
        Ok(texts)
    }

    /// How many entries an array has. `no_array` says what is wrong with a table that is none.
    ///
    /// An array with gaps has any length that comes before one, so that the entries behind it would be lost.
    fn array_len(&self, table: &Table, no_array: &str) -> mlua::Result<i64> {
        let len = table.len()?;
        let mut entries = 0;
        self.records.for_each_pair(&self.lua, table, |key, value| {
            // `table.pack` puts its length there.
            let is_length = key.as_string().is_some_and(|key| key.as_bytes() == b"n")
                && value.as_integer().is_some_and(|n| n == len || (n > len && len > 0));
            entries += i64::from(!is_length);
            Ok(())
        })?;
        match len {
            _ if len == entries => Ok(len),
            0 => Err(mlua::Error::runtime(no_array)),
            _ => Err(mlua::Error::runtime(format!(
                "the processor returned an array with gaps, or with other keys: it has {entries} entries, and {len} by \
                 Lua's `#`; add entries with `t[#t + 1] = entry`"
            ))),
        }
    }

    fn failure(&self, len: usize, why: &Table) -> mlua::Result<Failure> {
        const KNOWN: [&str; 4] = ["retry", "reject", "stop", "reason"];
        self.records.for_each_pair(&self.lua, why, |key, _| {
            let key = key.to_string()?;
            if KNOWN.contains(&key.as_str()) { Ok(()) } else { Err(unknown(&key, &KNOWN)) }
        })?;
        let given: Vec<&str> =
            KNOWN[..3].iter().copied().filter(|k| why.contains_key(*k).unwrap_or(false)).collect();
        let [kind] = given[..] else {
            return Err(mlua::Error::runtime("a failure has exactly one of `retry`, `reject` and `stop`"));
        };
        let value: Value = why.get(kind)?;
        let mut reason = why.get::<Option<String>>("reason")?;
        match kind {
            "retry" => {
                let after = retry_after(&value)?;
                Ok(Failure::Retry {
                    after,
                    reason: reason.unwrap_or_else(|| "the processor asks for it".to_owned()),
                })
            }
            "reject" => {
                let indices = self.rejected(len, &value)?;
                Ok(Failure::Reject {
                    indices,
                    reason: reason.unwrap_or_else(|| "rejected by the processor".to_owned()),
                })
            }
            _ => {
                if let Value::String(text) = &value {
                    reason.get_or_insert(text.to_string_lossy());
                }
                Ok(Failure::Stop { reason: reason.unwrap_or_else(|| "the processor asks for it".to_owned()) })
            }
        }
    }

    /// Indices counted from 1 in Lua, from 0 here.
    fn rejected(&self, len: usize, value: &Value) -> mlua::Result<Vec<u32>> {
        let Value::Table(table) = value else {
            let got = value.type_name();
            return Err(mlua::Error::runtime(format!(
                "`reject` is an array of record numbers such as {{1, 3}}; got {got}"
            )));
        };
        let mut indices = Vec::new();
        let no_array = "`reject` is an array of record numbers such as {1, 3}; it has other keys";
        for n in 1..=self.array_len(table, no_array)? {
            let number: i64 = table.get(n)?;
            if number < 1 || number as u64 > len as u64 {
                let text = format!("`reject` names record {number}, but the batch has records 1 to {len}");
                return Err(mlua::Error::runtime(text));
            }
            indices.push(number as u32 - 1);
        }
        if indices.is_empty() {
            return Err(mlua::Error::runtime(
                "`reject` is an array of record numbers such as {1, 3}; it is empty",
            ));
        }
        indices.sort_unstable();
        indices.dedup();
        Ok(indices)
    }
}

fn crash(error: mlua::Error) -> Failure {
    let reason = lua_text(&error);
    match error.downcast_ref::<StateRefused>() {
        Some(refused) if refused.is_for_good() => Failure::Stop { reason },
        _ => Failure::Crash { reason },
    }
}

/// `true`, seconds, or a duration such as `2s`.
fn retry_after(value: &Value) -> mlua::Result<Option<Duration>> {
    let seconds = match value {
        Value::Boolean(true) => return Ok(None),
        Value::Integer(n) => *n as f64,
        Value::Number(n) => *n,
        Value::String(text) => {
            let text = text.to_string_lossy();
            let bad =
                |e| mlua::Error::runtime(format!("`retry = '{text}'` is no duration such as '2s': {e}"));
            return humantime::parse_duration(&text).map(Some).map_err(bad);
        }
        other => {
            let got = other.type_name();
            return Err(mlua::Error::runtime(format!(
                "`retry` is true, seconds, or a duration such as '2s'; got {got}"
            )));
        }
    };
    let bad = |_| mlua::Error::runtime(format!("`retry = {seconds}` is no number of seconds"));
    Duration::try_from_secs_f64(seconds).map(Some).map_err(bad)
}

fn unknown(key: &str, known: &[&str]) -> mlua::Error {
    let nearest =
        known.iter().min_by_key(|k| strsim::damerau_levenshtein(k, key)).copied().unwrap_or_default();
    mlua::Error::runtime(format!("unknown key `{key}` in the processor's answer; did you mean `{nearest}`?"))
}

impl Processor for LuaProcessor {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        Box::pin(self.run(batch, None))
    }

    fn process_with_state<'a>(
        &'a mut self,
        batch: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        Box::pin(self.run(batch, Some(state)))
    }
}

/// A plug-in file as it was when it was read: all that are made of it are of one version, whatever becomes of the file.
#[derive(Debug, Clone)]
pub struct PluginFile {
    path: PathBuf,
    text: Vec<u8>,
}

impl PluginFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`LoadError::Read`].
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let path = path.to_owned();
        // To read anything else, a pipe for one, may take for ever.
        let read = || match path.metadata()?.is_file() {
            true => std::fs::read(&path),
            false => Err(io::Error::other("it is no regular file")),
        };
        match read() {
            Ok(text) => Ok(Self { path, text }),
            Err(source) => Err(LoadError::Read { path, source }),
        }
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the filter that it gives, in a Lua state of its own.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn filter(&self, config: &serde_json::Value, install: Install<'_>) -> Result<LuaFilter, LoadError> {
        let (lua, function) = load(&self.path, &self.text, config, install, "filter")?;
        LuaFilter::new(&lua, function).map_err(|e| LoadError::run(&self.path, &e))
    }

    /// Makes the processor that it gives, in a Lua state of its own.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn processor(
        &self,
        config: &serde_json::Value,
        install: Install<'_>,
    ) -> Result<LuaProcessor, LoadError> {
        let (lua, function) = load(&self.path, &self.text, config, install, "process")?;
        LuaProcessor::new(&lua, function).map_err(|e| LoadError::run(&self.path, &e))
    }
}

/// Loads a filter file into a Lua state of its own.
///
/// # Errors
/// See [`LoadError`].
pub fn load_filter(
    path: &Path,
    config: &serde_json::Value,
    install: Install<'_>,
) -> Result<LuaFilter, LoadError> {
    PluginFile::read(path)?.filter(config, install)
}

/// Loads a processor file into a Lua state of its own.
///
/// # Errors
/// See [`LoadError`].
pub fn load_processor(
    path: &Path,
    config: &serde_json::Value,
    install: Install<'_>,
) -> Result<LuaProcessor, LoadError> {
    PluginFile::read(path)?.processor(config, install)
}

/// Runs a file in a new Lua state: the state, the configuration in it, and what the file returns.
fn run(
    path: &Path,
    text: &[u8],
    config: &serde_json::Value,
    install: Install<'_>,
) -> Result<(Lua, Value, Value), LoadError> {
    let lua = Lua::new();
    let run = || {
        Records::install(&lua)?;
        globals::let_coroutines_wait(&lua)?;
        globals::refuse_exit(&lua)?;
        install(&lua)?;
        let config = to_lua(&lua, config)?;
        let name = format!("@{}", path.display());
        let answer: Value = lua.load(text).set_name(name).call(config.clone())?;
        Ok((config, answer))
    };
    let (config, answer) = run().map_err(|e| LoadError::run(path, &e))?;
    Ok((lua, config, answer))
}

/// Runs a file in a new Lua state and takes the function that it gives.
fn load(
    path: &Path,
    text: &[u8],
    config: &serde_json::Value,
    install: Install<'_>,
    entry: &'static str,
) -> Result<(Lua, Function), LoadError> {
    let failed = |e| LoadError::run(path, &e);
    let shape = |problem: String| LoadError::Shape { path: path.to_owned(), entry, problem };
    let (lua, config, answer) = run(path, text, config, install)?;
    let table = match answer {
        Value::Function(function) => return Ok((lua, function)),
        Value::Table(table) => table,
        other => return Err(shape(format!("it returns {}", other.type_name()))),
    };
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(failed)?;
        let key = key.to_string().map_err(failed)?;
        if key != entry && key != "init" {
            return Err(shape(format!("its table has an unknown field `{key}`")));
        }
        if !value.is_function() {
            return Err(shape(format!("its `{key}` is of type {}", value.type_name())));
        }
    }
    let Some(function) = table.get::<Option<Function>>(entry).map_err(failed)? else {
        return Err(shape(format!("its table has no `{entry}`")));
    };
    if let Some(init) = table.get::<Option<Function>>("init").map_err(failed)? {
        init.call::<()>(config).map_err(failed)?;
    }
    Ok((lua, function))
}
