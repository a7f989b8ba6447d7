//! `tailweir plugin compile`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use indicatif::BinaryBytes;
use tailweir_lua::plugin::check_syntax;
use tailweir_wasm::{Compiled, Limits, When};

use super::args::CompileArgs;
use super::{plain, print};
use crate::engine::WasmEngine;
use crate::exit::one_line;
use crate::plugins::is_lua;

/// Compiles plug-ins into the cache, and says where each is.
pub(super) fn run(args: &CompileArgs, engine: &WasmEngine) -> Result<()> {
    let compile = |file: &PathBuf| match is_lua(file) {
        true => lua(file),
        false => wasm(file, engine),
    };
    if let [file] = &args.files[..] {
        return compile(file);
    }
    // One that cannot be compiled keeps nobody from the others.
    let mut failed = Vec::new();
    for file in &args.files {
        if let Err(e) = compile(file) {
            let shown = file.display().to_string();
            let why = one_line(e.as_ref());
            failed.push(if why.contains(&shown) { why } else { format!("{shown}: {why}") });
        }
    }
    let (count, all) = (failed.len(), args.files.len());
    ensure!(failed.is_empty(), "{count} of {all} plug-ins cannot be compiled:\n{}", failed.join("\n"));
    Ok(())
}

/// Lua is compiled whenever it is loaded, which takes no time: there is nothing to keep.
fn lua(file: &Path) -> Result<()> {
    check_syntax(file)?;
    print(&format!("{}: its syntax is right; Lua is not compiled ahead of time\n", file.display()))
}

fn wasm(file: &Path, engine: &WasmEngine) -> Result<()> {
    let Compiled { inspection, place, bytes, when } = engine.host()?.precompile(file, Limits::default())?;
    let when = match when {
        When::Before => "compiled before".to_owned(),
        When::Now(took) => format!("compiled in {} ms", took.as_millis()),
    };
    let (name, version) = (plain(&inspection.description.name), plain(&inspection.description.version));
    print(&format!(
        "{}: {name} {version}, {when}: {} ({})\n",
        file.display(),
        place.display(),
        BinaryBytes(bytes)
    ))
}
