//! `tailweir plugin inspect`.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use indicatif::BinaryBytes;
use serde_json::{Map, Value, json};
use tailweir_lua::plugin::{Gives, Look, LookFunction};
use tailweir_wasm::{Inspection, Limits, MAX_SCHEMA_BYTES};

use super::args::InspectArgs;
use super::subject::{config, look};
use super::{plain, print};
use crate::engine::WasmEngine;
use crate::plugins::is_lua;

/// Shows what a plug-in is.
pub(super) fn run(args: &InspectArgs, engine: &WasmEngine) -> Result<()> {
    if is_lua(&args.file) {
        return lua(args, engine);
    }
    let limits = Limits::default();
    let found = engine.host()?.inspect(&args.file, limits.clone())?;
    match args.json {
        true => print_json(&as_json(&found, &limits)),
        false => print(&as_text(&found, &limits)),
    }?;
    // After all that can be told: with such a schema it is not loaded.
    Ok(found.check_schema()?)
}

fn print_json(value: &Value) -> Result<()> {
    print(&(serde_json::to_string_pretty(value).context("cannot print")? + "\n"))
}

/// A Lua file has no description: what can be told is what it returns.
fn lua(args: &InspectArgs, engine: &WasmEngine) -> Result<()> {
    let file = &args.file;
    let Look { gives, functions } =
        look(file, &config(args.config.as_deref())?, engine).with_context(|| {
            format!(
                "cannot look into {}, which is run for that; `--config` gives it a configuration",
                file.display()
            )
        })?;
    let bytes = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    let kind = match gives {
        Gives::Filter => "filter",
        Gives::Processor => "processor",
        Gives::Function => "filter or processor",
    };
    if args.json {
        let functions: Vec<_> = functions
            .iter()
            .map(|LookFunction { name, parameters, line }| {
                json!({ "name": name, "parameters": parameters, "line": line })
            })
            .collect();
        return print_json(&json!({
            "path": file, "bytes": bytes, "language": "lua", "kind": kind, "functions": functions,
        }));
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let mut text = String::new();
    let mut row = |name: &str, value: &str| _ = writeln!(text, "{name:<10} {value}");
    row("plug-in", &plain(&stem));
    row("kind", kind);
    row("file", &format!("{}, {}", file.display(), BinaryBytes(bytes)));
    for (index, LookFunction { name, parameters, line }) in functions.iter().enumerate() {
        let name = name
            .as_deref()
            .map_or("a function without a name".to_owned(), |name| format!("`{}`", plain(name)));
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        let parameters = super::render::count(u64::from(*parameters), "parameter", "parameters");
        row(if index == 0 { "functions" } else { "" }, &format!("{name}, {parameters}{line}"));
    }
    row("grants", "none: it may do what a script may");
    row("config", "not described");
    print(&text)
}

/// The names are kept.
fn as_json(found: &Inspection, limits: &Limits) -> Value {
    let description = &found.description;
    let number = |text: &str| text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from);
    let limits: Map<String, Value> =
        limits.list().into_iter().map(|(name, value, _)| (name.to_owned(), number(&value))).collect();
    json!({
        "path": found.path,
        "bytes": found.bytes,
        "name": description.name,
        "version": description.version,
        "kind": found.kind.name(),
        "world": found.world,
        "interface": found.interface,
        "imports": found.imports,
        "grants": found.grants,
        "needs": description.needs,
        // As text where it is no JSON, which is the plug-in's fault.
        "config_schema": serde_json::from_str(&description.config_schema)
            .unwrap_or_else(|_| Value::from(description.config_schema.as_str())),
        "limits": limits,
    })
}

fn as_text(found: &Inspection, limits: &Limits) -> String {
    let description = &found.description;
    let (kind, world) = (found.kind.name(), found.world);
    let mut text = String::new();
    let mut row = |name: &str, value: &str| _ = writeln!(text, "{name:<10} {value}");
    row("plug-in", &format!("{} {}", plain(&description.name), plain(&description.version)));
    row("kind", &format!("{kind} (world {world} of {})", found.interface));
    row("file", &format!("{}, {}", found.path.display(), BinaryBytes(found.bytes)));
    for (index, import) in found.imports.iter().enumerate() {
        row(if index == 0 { "imports" } else { "" }, import);
    }
    row(
        "grants",
        match found.grants[..] {
            [] => "none needed",
            _ => {
                "`http`: the origins that it may reach, as in grants = { http = [\"https://hooks.example.com\"] }"
            }
        },
    );
    if !description.needs.is_empty() {
        row("needs", &format!("{} (its own words)", plain(&description.needs.join(", "))));
    }
    let schema = match serde_json::from_str::<Value>(&description.config_schema) {
        _ if description.config_schema.len() > MAX_SCHEMA_BYTES => "a schema that is too long".to_owned(),
        Ok(schema) if found.check_schema().is_ok() => format!("JSON schema:\n{schema:#}"),
        Ok(schema) => format!("a schema that cannot be used:\n{schema:#}"),
        Err(_) if description.config_schema.is_empty() => "not described".to_owned(),
        Err(_) => format!("a schema that is no JSON: {}", plain(&description.config_schema)),
    };
    row("config", &schema);
    text += "\nLimits, unless `limits = { … }` says otherwise:\n";
    for (name, value, about) in limits.list() {
        _ = writeln!(text, "  {name:<20} {value:>9}  {about}");
    }
    text
}
