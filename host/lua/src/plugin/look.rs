//! Looking into plug-in files, without using them.

use std::path::Path;

use mlua::{Function, Lua, Value};

use super::{Install, LoadError, PluginFile, run};

/// What a plug-in file gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Whether it gives a bare function, which may be a filter or a processor.
    pub gives: Gives,
    /// Its functions: the bare one, which has no name, or those of the table, by name.
    pub functions: Vec<LookFunction>,
}

/// What a file returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// A function: a filter or a processor, which only its user knows.
    Function,
    /// A table with a function `filter`.
    Filter,
    /// A table with a function `process`.
    Processor,
}

/// A function of a plug-in file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookFunction {
    /// Its name in the table, if it is in one.
    pub name: Option<String>,
    /// How many parameters it has.
    pub parameters: u8,
    /// The line where it begins, counted from 1, unless it is not written in Lua.
    pub line: Option<usize>,
}

/// Runs a plug-in file in a Lua state of its own, and tells what it gives. Its `init` is not called.
///
/// # Errors
/// If it cannot be read, raises an error, or gives neither a function nor a table with either `filter` or `process`.
pub fn look(path: &Path, config: &serde_json::Value, install: Install<'_>) -> Result<Look, LoadError> {
    let (_lua, _, answer) = run(path, &PluginFile::read(path)?.text, config, install)?;
    let shape =
        |problem: String| LoadError::Shape { path: path.to_owned(), entry: "filter` or `process", problem };
    let table = match answer {
        Value::Function(function) => {
            return Ok(Look { gives: Gives::Function, functions: vec![describe(None, &function)] });
        }
        Value::Table(table) => table,
        other => return Err(shape(format!("it returns {}", other.type_name()))),
    };
    let mut functions = Vec::new();
    for pair in table.pairs::<String, Value>() {
        let (name, value) = pair.map_err(|e| LoadError::run(path, &e))?;
        match value {
            Value::Function(function) => functions.push(describe(Some(name), &function)),
            other => return Err(shape(format!("its `{name}` is of type {}", other.type_name()))),
        }
    }
    functions.sort_by(|a, b| a.name.cmp(&b.name));
    let has = |entry: &str| functions.iter().any(|function| function.name.as_deref() == Some(entry));
    let gives = match (has("filter"), has("process")) {
        (true, false) => Gives::Filter,
        (false, true) => Gives::Processor,
        (true, true) => return Err(shape("its table has both".to_owned())),
        (false, false) => return Err(shape("its table has neither".to_owned())),
    };
    Ok(Look { gives, functions })
}

fn describe(name: Option<String>, function: &Function) -> LookFunction {
    let info = function.info();
    LookFunction { name, parameters: info.num_params, line: info.line_defined }
}

/// Checks that a file is Lua, without running it.
///
/// # Errors
/// If it cannot be read, or has a syntax error.
pub fn check_syntax(path: &Path) -> Result<(), LoadError> {
    let name = format!("@{}", path.display());
    let checked = Lua::new().load(PluginFile::read(path)?.text).set_name(name).into_function();
    checked.map(drop).map_err(|e| LoadError::run(path, &e))
}
