//! `tailweir plugin`.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use anyhow::{Context, Result};
use indicatif::BinaryBytes;
use serde_json::{Map, Value, json};
use tailweir_wasm::{Inspection, Limits};

use crate::args::{InspectArgs, PluginCommand, PluginCommandArgs};
use crate::engine::WasmEngine;

/// Looks into a plug-in.
pub(crate) fn run(args: &PluginCommandArgs, engine: &WasmEngine) -> Result<()> {
    match &args.command {
        PluginCommand::Inspect(args) => inspect(args, engine),
    }
}

fn inspect(args: &InspectArgs, engine: &WasmEngine) -> Result<()> {
    let limits = Limits::default();
    let found = engine.host()?.inspect(&args.file, limits.clone())?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&as_json(&found, &limits)).context("cannot print")? + "\n",
        false => as_text(&found, &limits),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
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

/// Words of the plug-in's, which shall not move the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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
        Ok(schema) => format!("JSON schema:\n{schema:#}"),
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
