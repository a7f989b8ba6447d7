//! Tables of options, as scripts pass them: each option is checked, and none is ignored.

use std::time::Duration;

use mlua::{AnyUserData, Lua, LuaString, Table, Value};
use thiserror::Error;

use crate::error::{fail, raise};
use crate::record::Records;

/// Why a table of options was refused. `function` is what it was passed to.
#[derive(Debug, Error)]
enum OptionError {
    #[error("{function}: unknown option `{name}`{}", nearest(name, known))]
    Unknown { function: String, name: String, known: &'static [&'static str] },
    #[error("{function}: option `{name}` is required")]
    Missing { function: String, name: &'static str },
    #[error("{function}: option `{name}` must be {expected}, got {got}")]
    Wrong { function: String, name: &'static str, expected: String, got: String },
    #[error("{function}: expected a table of options, got {got}")]
    NoTable { function: String, got: String },
}

fn nearest(name: &str, known: &[&str]) -> String {
    let close = known.iter().map(|k| (strsim::damerau_levenshtein(k, name), k)).min();
    match close {
        Some((distance, k)) if distance <= 1 + name.len() / 3 => format!("; did you mean `{k}`?"),
        _ => format!("; the options are {}", known.join(", ")),
    }
}

/// A table of options that was passed to a function.
pub(crate) struct Options {
    function: String,
    table: Table,
}

impl Options {
    /// Takes the table, and refuses names that are not among the known ones.
    pub(crate) fn new(
        lua: &Lua,
        function: impl Into<String>,
        value: Value,
        known: &'static [&'static str],
    ) -> mlua::Result<Self> {
        let function = function.into();
        let Value::Table(table) = value else {
            return Err(raise(&OptionError::NoTable { function, got: describe(&value) }));
        };
        for (key, _) in entries(lua, &table)? {
            let name = match &key {
                Value::String(name) => name.to_string_lossy(),
                other => format!("[{}]", describe(other)),
            };
            if !known.contains(&name.as_str()) {
                return Err(raise(&OptionError::Unknown { function, name, known }));
            }
        }
        Ok(Self { function, table })
    }

    /// An error about the option `name`.
    pub(crate) fn wrong(&self, name: &'static str, expected: impl Into<String>, got: &Value) -> mlua::Error {
        let (function, expected) = (self.function.clone(), expected.into());
        raise(&OptionError::Wrong { function, name, expected, got: describe(got) })
    }

    /// An error that something found out about the value of an option.
    pub(crate) fn failed(&self, error: &(dyn std::error::Error + 'static)) -> mlua::Error {
        fail(format!("{}: {}", self.function, crate::error::with_causes(error)))
    }

    pub(crate) fn value(&self, name: &'static str) -> mlua::Result<Value> {
        self.table.get(name)
    }

    pub(crate) fn required<T>(&self, name: &'static str, value: Option<T>) -> mlua::Result<T> {
        value.ok_or_else(|| raise(&OptionError::Missing { function: self.function.clone(), name }))
    }

    pub(crate) fn string(&self, name: &'static str) -> mlua::Result<Option<String>> {
        match self.value(name)? {
            Value::Nil => Ok(None),
            Value::String(text) => match text.to_str() {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(self.wrong(name, "text in UTF-8", &Value::String(text))),
            },
            other => Err(self.wrong(name, "a string", &other)),
        }
    }

    pub(crate) fn boolean(&self, name: &'static str) -> mlua::Result<Option<bool>> {
        match self.value(name)? {
            Value::Nil => Ok(None),
            Value::Boolean(value) => Ok(Some(value)),
            other => Err(self.wrong(name, "true or false", &other)),
        }
    }

    /// A whole number within `least..=most`.
    pub(crate) fn integer(&self, name: &'static str, least: i64, most: i64) -> mlua::Result<Option<i64>> {
        let value = self.value(name)?;
        let number = match &value {
            Value::Nil => return Ok(None),
            Value::Integer(number) => Some(*number),
            Value::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
            _ => None,
        };
        let expected = || match most {
            i64::MAX if least == 1 => "a whole number above zero".to_owned(),
            i64::MAX => format!("a whole number, at least {least}"),
            _ => format!("a whole number from {least} to {most}"),
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(name, expected(), &value)),
        }
    }

    /// A number of things or bytes, above zero.
    pub(crate) fn size(&self, name: &'static str) -> mlua::Result<Option<usize>> {
        Ok(self.integer(name, 1, i64::MAX)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    /// A time span, zero included.
    pub(crate) fn duration(&self, name: &'static str) -> mlua::Result<Option<Duration>> {
        let value = self.value(name)?;
        if value.is_nil() {
            return Ok(None);
        }
        match duration(&value) {
            Some(duration) => Ok(Some(duration)),
            None => Err(self.wrong(name, DURATION, &value)),
        }
    }

    /// A time span above zero.
    pub(crate) fn interval(&self, name: &'static str) -> mlua::Result<Option<Duration>> {
        match self.duration(name)? {
            Some(zero) if zero.is_zero() => Err(self.wrong(name, "more than zero", &self.value(name)?)),
            other => Ok(other),
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> mlua::Result<Option<T>> {
        let value = self.value(name)?;
        let word = match &value {
            Value::Nil => return Ok(None),
            Value::String(word) => word.to_string_lossy(),
            _ => String::new(),
        };
        match choices.iter().find(|(choice, _)| *choice == word) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let words: Vec<_> = choices.iter().map(|(choice, _)| format!("'{choice}'")).collect();
                Err(self.wrong(name, words.join(" or "), &value))
            }
        }
    }
}

/// What a duration may be, in messages.
pub(crate) const DURATION: &str = "a duration such as '500ms', '1s' or '2m 30s', or a number of seconds";

/// A time span: text such as `1m 30s`, or a number of seconds. `None` if it is neither.
pub(crate) fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => humantime::parse_duration(text.to_str().ok()?.trim()).ok(),
        Value::Integer(seconds) => Some(Duration::from_secs(u64::try_from(*seconds).ok()?)),
        Value::Number(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    }
}

/// A value as messages show it.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Nil => "nil".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => {
            let text = text.to_string_lossy();
            match text.char_indices().nth(60) {
                Some((cut, _)) => format!("'{}…'", &text[..cut]),
                None => format!("'{text}'"),
            }
        }
        other => format!("a {}", other.type_name()),
    }
}

/// The entries of a table. Records are read like the plain tables that they stand for.
pub(crate) fn entries(lua: &Lua, table: &Table) -> mlua::Result<Vec<(Value, Value)>> {
    let mut entries = Vec::new();
    Records::install(lua)?.for_each_pair(lua, table, |key, value| {
        entries.push((key, value));
        Ok(())
    })?;
    Ok(entries)
}

/// The entries of a table of texts. Numbers and booleans become text, as `tostring` would have it.
pub(crate) fn texts(lua: &Lua, function: &str, table: &Table) -> mlua::Result<Vec<(String, LuaString)>> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Number(_) | Value::Boolean(_) => lua.create_string(value.to_string()?),
        other => Err(fail(format!("{function}: names and values must be strings, got {}", describe(other)))),
    };
    let entry = |(key, value): (Value, Value)| Ok((text(&key)?.to_string_lossy(), text(&value)?));
    entries(lua, table)?.into_iter().map(entry).collect()
}

/// Userdata of type `T`, if that is what the value is.
pub(crate) fn userdata<T: 'static>(value: &Value) -> Option<&AnyUserData> {
    value.as_userdata().filter(|data| data.is::<T>())
}
