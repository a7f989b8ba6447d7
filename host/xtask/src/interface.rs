//! What is made of the plug-in interface and kept in the tree: bindings, so that a plug-in in C needs no Rust, and the
//! reference of the interface.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::{PackageId, Resolve, WorldId};

/// The interface that is made things of: the newest one.
const SOURCE: &str = "wit/v0.1";

const BINDINGS: &str = "examples/plugins/c-guest/bindings";

const REFERENCE: &str = "docs/wit.md";

/// A folder of bindings for each kind of plug-in, and the worlds that they are for together: all that a plug-in of the kind may
/// use. What it does not call the linker leaves out, and then its component does not import it.
const BINDINGS_FOR: [(&str, [&str; 2]); 2] = [
    ("filter", ["filter-plugin", "metrics-plugin"]),
    ("processor", ["state-processor-plugin", "metrics-plugin"]),
];

/// Fails if anything of it in the tree is not what the interface gives.
pub(crate) fn check(root: &Path) -> Result<()> {
    for (path, made) in generate(root)? {
        if fs::read(&path).ok() != Some(made) {
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            bail!("{shown} is not what the interface gives; `cargo xtask guests --update` renews it");
        }
    }
    eprintln!("{BINDINGS} and {REFERENCE} are what the interface gives");
    Ok(())
}

/// Renews what is in the tree.
pub(crate) fn update(root: &Path) -> Result<()> {
    for (path, made) in generate(root)? {
        let folder = path.parent().context("files lie in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()))?;
    }
    eprintln!("renewed {BINDINGS} and {REFERENCE}");
    Ok(())
}

/// The files, and what they should hold.
fn generate(root: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut all = vec![(root.join(REFERENCE), reference(root)?.into_bytes())];
    for (folder, worlds) in BINDINGS_FOR {
        let (mut resolve, package) = parse(root)?;
        let includes =
            worlds.map(|world| format!("include {};", resolve.packages[package].name.interface_id(world)));
        let source = format!("package tailweir:guest; world plugin {{ {} }}", includes.join(" "));
        let guest = resolve.push_str("guest.wit", &source)?;
        let world = resolve.select_world(&[guest], None).map_err(|e| anyhow!("{e:#}"))?;
        let options =
            wit_bindgen_c::Opts { autodrop_borrows: wit_bindgen_c::Enabled::Yes, ..Default::default() };
        let mut files = Files::default();
        options.build().generate(&mut resolve, world, &mut files)?;
        let folder = root.join(BINDINGS).join(folder);
        all.extend(files.iter().map(|(name, content)| match name.strip_suffix(".o") {
            Some(name) => (folder.join(format!("{name}.b64")), as_text(content)),
            None => (folder.join(name), content.to_vec()),
        }));
    }
    Ok(all)
}

fn parse(root: &Path) -> Result<(Resolve, PackageId)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root.join(SOURCE))?;
    Ok((resolve, package))
}

/// The reference: the worlds, then each interface as wit-bindgen shows it.
fn reference(root: &Path) -> Result<String> {
    let (mut resolve, package) = parse(root)?;
    let name = resolve.packages[package].name.clone();
    let mut text = format!(
        "# The plug-in interface, `{name}`\n\nMade of [`{SOURCE}`](../{SOURCE}) by `cargo xtask guests --update`; what may change in it, \
         and what never will, is in [wit/README.md](../wit/README.md). How plug-ins are written is in [plugins.md](plugins.md).\n\n\
         ## Worlds\n\nA plug-in is built for one of them.\n"
    );
    for world in resolve.packages[package].worlds.values() {
        describe_world(&resolve, *world, &mut text)?;
    }
    // One that imports everything: of exports the generator leaves out what is said about the interface.
    let imports: String = resolve.packages[package]
        .interfaces
        .values()
        .filter_map(|interface| resolve.id_of(*interface))
        .map(|interface| format!("import {interface};"))
        .collect();
    let source = format!("package tailweir:reference; world everything {{ {imports} }}");
    let everything = resolve.push_str("everything.wit", &source)?;
    let world = resolve.select_world(&[everything], None).map_err(|e| anyhow!("{e:#}"))?;
    let mut files = Files::default();
    wit_bindgen_markdown::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    let (_, made) = files.iter().find(|(name, _)| name.ends_with(".md")).context("no Markdown was made")?;
    let made = std::str::from_utf8(made)?;
    let interfaces = made.find("\n## ").context("the Markdown has no interface")?;
    let interfaces = made[interfaces..].replace("</a>Import interface ", "</a>Interface ");
    for line in interfaces.trim_end().lines() {
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(text)
}

fn describe_world(resolve: &Resolve, world: WorldId, text: &mut String) -> Result<()> {
    let world = &resolve.worlds[world];
    let docs = world.docs.contents.as_deref().unwrap_or_default().trim();
    writeln!(text, "\n### `{}`\n\n{docs}\n", world.name)?;
    for (items, what) in [(&world.imports, "Imports"), (&world.exports, "Exports")] {
        // The others of WASI are there because this one refers to their types.
        let is_shown = |name: &String| !name.starts_with("wasi:") || name.contains("/outgoing-handler");
        let names = items.keys().map(|key| resolve.name_world_key(key)).filter(is_shown);
        let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        writeln!(text, "* {what}: {}", names.join(", "))?;
    }
    Ok(())
}

/// An object file as text, in lines: what is kept in the tree and in templates is to be text.
fn as_text(object: &[u8]) -> Vec<u8> {
    let encoded = BASE64_STANDARD.encode(object).into_bytes();
    encoded.chunks(100).flat_map(|line| [line, b"\n"].concat()).collect()
}
