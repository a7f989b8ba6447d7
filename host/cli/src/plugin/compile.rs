//! `tailweir plugin compile`.

use std::path::Path;

use anyhow::Result;
use indicatif::BinaryBytes;
use tailweir_lua::plugin::check_syntax;
use tailweir_wasm::{Compiled, Limits, When};

use super::args::CompileArgs;
use super::{plain, print};
use crate::engine::WasmEngine;
use crate::plugins::is_lua;

/// Compiles plug-ins into the cache, and says where each is.
pub(super) fn run(args: &CompileArgs, engine: &WasmEngine) -> Result<()> {
    args.files.iter().try_for_each(|file| match is_lua(file) {
        true => lua(file),
        false => wasm(file, engine),
    })
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
