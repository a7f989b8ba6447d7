//! The C bindings in `examples/plugins/c-guest/bindings`, which wit-bindgen makes of the interface. They are kept in the tree,
//! so that a plug-in in C needs no Rust.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

const FOLDER: &str = "examples/plugins/c-guest/bindings";

/// A folder of bindings for each world.
const WORLDS: [(&str, &str); 2] = [("filter", "filter-plugin"), ("processor", "processor-plugin")];

/// Fails if the bindings in the tree are not what the interface gives.
pub(crate) fn check(root: &Path) -> Result<()> {
    for (path, made) in generate(root)? {
        if fs::read(&path).ok() != Some(made) {
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            bail!("{shown} is not what the interface gives; `cargo xtask guests --update` renews it");
        }
    }
    eprintln!("{FOLDER} is what the interface gives");
    Ok(())
}

/// Renews the bindings in the tree.
pub(crate) fn update(root: &Path) -> Result<()> {
    for (path, made) in generate(root)? {
        let folder = path.parent().context("bindings lie in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()))?;
    }
    eprintln!("renewed {FOLDER}");
    Ok(())
}

fn generate(root: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut all = Vec::new();
    for (folder, world) in WORLDS {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(root.join("wit/v0.1"))?;
        let world = resolve.select_world(&[package], Some(world)).map_err(|e| anyhow!("{e:#}"))?;
        let options = wit_bindgen_c::Opts {
            rename_world: Some("plugin".to_owned()),
            autodrop_borrows: wit_bindgen_c::Enabled::Yes,
            ..Default::default()
        };
        let mut files = Files::default();
        options.build().generate(&mut resolve, world, &mut files)?;
        let folder = root.join(FOLDER).join(folder);
        all.extend(files.iter().map(|(name, content)| match name.strip_suffix(".o") {
            Some(name) => (folder.join(format!("{name}.b64")), as_text(content)),
            None => (folder.join(name), content.to_vec()),
        }));
    }
    Ok(all)
}

/// An object file as text, in lines: what is kept in the tree and in templates is to be text.
fn as_text(object: &[u8]) -> Vec<u8> {
    let encoded = BASE64_STANDARD.encode(object).into_bytes();
    encoded.chunks(100).flat_map(|line| [line, b"\n"].concat()).collect()
}
