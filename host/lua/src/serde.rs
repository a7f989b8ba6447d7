//! `kumo.serde`: JSON to Lua values and back.

use std::borrow::Cow;
use std::cell::RefCell;

use mlua::serde::SerializeOptions;
use mlua::{Lua, LuaSerdeExt, Table, Value};
use tailweir_core::json;

use crate::error::fail;
use crate::record::Records;

/// Buffers larger than this are not kept for the next call.
const KEPT_BUFFER: usize = 4 << 20;

/// Makes the table `kumo.serde`: `json_encode`, `json_encode_pretty`, `json_parse`, `json_load`.
///
/// # Errors
/// If Lua is out of memory.
pub fn install(lua: &Lua) -> mlua::Result<Table> {
    let records = Records::install(lua)?;
    let module = lua.create_table()?;
    let buffer = RefCell::new(Vec::new());
    let encoder = records.clone();
    module.set(
        "json_encode",
        lua.create_function(move |lua, value: Value| {
            let mut out = buffer.take();
            out.clear();
            let done = encoder.encode(lua, &value, &mut out).map_err(|e| named("json_encode", e));
            let text = done.and_then(|()| lua.create_string(&out));
            if out.capacity() <= KEPT_BUFFER {
                buffer.replace(out);
            }
            text
        })?,
    )?;
    module.set(
        "json_encode_pretty",
        lua.create_function(move |lua, value: Value| {
            let mut out = Vec::new();
            records.encode(lua, &value, &mut out).map_err(|e| named("json_encode_pretty", e))?;
            let mut sorted = String::with_capacity(out.len() * 2);
            pretty(&String::from_utf8(out).map_err(mlua::Error::external)?, 0, &mut sorted);
            lua.create_string(sorted)
        })?,
    )?;
    module.set(
        "json_parse",
        lua.create_function(|lua, text: mlua::LuaString| {
            parse(lua, &text.as_bytes()).map_err(|e| named("json_parse", e))
        })?,
    )?;
    module.set(
        "json_load",
        lua.create_function(|lua, path: String| {
            let text = std::fs::read(&path)
                .map_err(|e| named("json_load", mlua::Error::runtime(format!("cannot read {path}: {e}"))))?;
            parse(lua, &text)
                .map_err(|e| named("json_load", mlua::Error::runtime(format!("{path}: {}", message(&e)))))
        })?,
    )?;
    Ok(module)
}

fn named(function: &str, error: mlua::Error) -> mlua::Error {
    fail(format!("kumo.serde.{function}: {}", message(&error)))
}

fn message(error: &mlua::Error) -> String {
    match error {
        mlua::Error::RuntimeError(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The Lua value that a JSON text with comments stands for, as plain tables.
fn parse(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    let text = without_comments(text).map_err(mlua::Error::runtime)?;
    let tree: serde_json::Value = serde_json::from_slice(&text).map_err(mlua::Error::runtime)?;
    to_lua(lua, &tree)
}

/// A tree as plain Lua tables: null members are absent, and empty arrays are empty tables.
///
/// # Errors
/// If Lua is out of memory.
pub fn to_lua(lua: &Lua, tree: &serde_json::Value) -> mlua::Result<Value> {
    let options = SerializeOptions::new()
        .set_array_metatable(false)
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false);
    lua.to_value_with(tree, options)
}

/// Replaces `// …`, `# …` and `/* … */` outside of strings by spaces, so that positions in messages remain right.
fn without_comments(text: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let mut out = Cow::Borrowed(text);
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let len = match rest {
            [b'"', ..] => {
                at += string_len(rest);
                continue;
            }
            [b'#', ..] | [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => match rest[2..].windows(2).position(|w| w == b"*/") {
                Some(end) => end + 4,
                None => {
                    let line = text[..at].iter().filter(|b| **b == b'\n').count() + 1;
                    return Err(format!("the comment that starts in line {line} does not end"));
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in out.to_mut()[at..at + len].iter_mut().filter(|b| **b != b'\n') {
            *byte = b' ';
        }
        at += len;
    }
    Ok(out)
}

/// Length of the string literal at the start of `text`, or of all of it if it does not end.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// Appends a JSON text with its keys sorted and two spaces per level. Strings and numbers are copied as they are.
fn pretty(text: &str, level: usize, out: &mut String) {
    let indent = |out: &mut String, level: usize| {
        out.push('\n');
        (0..level).for_each(|_| out.push_str("  "));
    };
    match json::Value::of(text) {
        json::Value::Object(object) => {
            let mut members: Vec<_> =
                json::members(object).map(|(key, value)| (json::unescape(key), key, value)).collect();
            // Of equal keys the last one counts: after a stable sort it is the last of its run.
            members.sort_by(|a, b| a.0.cmp(&b.0));
            let count = members.len();
            let mut first = true;
            out.push('{');
            for n in (0..count).filter(|n| n + 1 == count || members[*n].0 != members[n + 1].0) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                indent(out, level + 1);
                out.push('"');
                out.push_str(members[n].1);
                out.push_str("\": ");
                pretty(members[n].2, level + 1, out);
            }
            if !first {
                indent(out, level);
            }
            out.push('}');
        }
        json::Value::Array(array) => {
            let mut first = true;
            out.push('[');
            for element in json::elements(array) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                indent(out, level + 1);
                pretty(element, level + 1, out);
            }
            if !first {
                indent(out, level);
            }
            out.push(']');
        }
        _ => out.push_str(text.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_blanked_outside_of_strings() {
        let check = |text: &str, expected: &str| {
            assert_eq!(String::from_utf8_lossy(&without_comments(text.as_bytes()).unwrap()), expected);
        };
        check(r#"{"a": "// no # no /* no */"}"#, r#"{"a": "// no # no /* no */"}"#);
        check("1 // x\n", "1     \n");
        check("1 # x", "1    ");
        check("[1, /* a\nb */ 2]", "[1,     \n     2]");
        check(r#"{"a\\": 1} # "#, r#"{"a\\": 1}   "#);
        assert_eq!(
            without_comments(b"1\n/* x").unwrap_err(),
            "the comment that starts in line 2 does not end"
        );
    }

    #[test]
    fn pretty_sorts_keys_and_keeps_numbers() {
        let mut out = String::new();
        pretty(r#"{"b":[1.0,{}],"a":{"y":1e3,"x":[]},"b":[12345678901234567890]}"#, 0, &mut out);
        let expected = "{\n  \"a\": {\n    \"x\": [],\n    \"y\": 1e3\n  },\n  \"b\": [\n    12345678901234567890\n  ]\n}";
        assert_eq!(out, expected);
    }
}
