//! Guests: finding them, compiling them, and making components of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use wasmparser::{KnownCustom, Parser, Payload};
use wit_component::ComponentEncoder;

use crate::toolchain::{TARGET, Toolchain};
use crate::{cargo, output_of, run_command};

/// Workspaces of guests.
const WORKSPACES: [&str; 2] = ["examples/plugins", "tests/guests"];

/// Guests whose component is kept in the tree, for those who want to try one without building any.
const PREBUILT: [&str; 1] = ["pool-filter"];

/// The section of a component that says what compiled it.
const COMPILER_SECTION: &str = "tailweir:compiler";

/// A guest's source.
struct Guest {
    name: String,
    folder: PathBuf,
    workspace: PathBuf,
}

/// A guest's component.
pub(crate) struct Built {
    name: String,
    folder: PathBuf,
    component: Vec<u8>,
}

/// Builds every guest into `target/guests`.
pub(crate) fn build_all(root: &Path) -> Result<Vec<Built>> {
    let toolchain = Toolchain::find()?;
    let folder = root.join("target/guests");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // For tests that build plug-ins themselves.
    write_if_changed(&folder.join("toolchain.env"), toolchain.variables().as_bytes())?;
    let mut all = Vec::new();
    for workspace in WORKSPACES {
        for guest in find(&root.join(workspace))? {
            let built = build(root, &toolchain, guest)?;
            write_if_changed(&folder.join(format!("{}.wasm", built.name)), &built.component)?;
            all.push(built);
        }
    }
    Ok(all)
}

/// The packages of a workspace that compile to a WebAssembly module.
fn find(workspace: &Path) -> Result<Vec<Guest>> {
    let manifest = workspace.join("Cargo.toml");
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--manifest-path"];
    let metadata = output_of(cargo().args(arguments).arg(&manifest))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut guests = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let targets = package["targets"].as_array().into_iter().flatten();
        let is_guest = |target: &Value| {
            target["crate_types"].as_array().is_some_and(|types| types.iter().any(|t| t == "cdylib"))
        };
        if let (Some(name), Some(path), true) =
            (package["name"].as_str(), package["manifest_path"].as_str(), targets.into_iter().any(is_guest))
        {
            let folder = Path::new(path).parent().context("a manifest lies in a folder")?.to_owned();
            guests.push(Guest { name: name.to_owned(), folder, workspace: workspace.to_owned() });
        }
    }
    if guests.is_empty() {
        bail!("no guests in {}", workspace.display());
    }
    Ok(guests)
}

fn build(root: &Path, toolchain: &Toolchain, guest: Guest) -> Result<Built> {
    let Guest { name, folder, workspace } = guest;
    let target_dir = root.join("target/guests/build").join(toolchain.id());
    let mut command = cargo();
    command.current_dir(&workspace);
    // One package at a time: features are not to leak from one guest into another.
    command.args(["build", "--quiet", "--release", "--locked", "--package", &name, "--target", TARGET]);
    command.arg("--target-dir").arg(&target_dir);
    toolchain.configure(&mut command, root)?;
    run_command(&mut command).with_context(|| format!("cannot compile the guest {name}"))?;

    let module = target_dir.join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
    let module = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = in_stable_order(&module).and_then(|module| componentize(&module));
    let component = component.with_context(|| format!("cannot make a component of {name}"))?;
    Ok(Built { name, folder, component: note_compiler(component, toolchain.id()) })
}

pub(crate) fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// The linker puts the sections that describe the component's type in an order that depends on the folder in which it was
/// compiled. This orders them by name, behind all others.
fn in_stable_order(module: &[u8]) -> Result<Vec<u8>> {
    let broken = "a section ends behind the module";
    let (header, mut rest) = module.split_at_checked(8).context(broken)?;
    let mut ordered = header.to_vec();
    let mut descriptions: Vec<(&[u8], &[u8])> = Vec::new();
    while let Some((&id, after_id)) = rest.split_first() {
        let (len, body) = read_length(after_id).context(broken)?;
        let end = rest.len() - body.len() + len;
        let (section, next) = rest.split_at_checked(end).context(broken)?;
        let name = read_length(body).and_then(|(len, name)| name.get(..len)).unwrap_or_default();
        match id {
            0 if name.starts_with(b"component-type") => descriptions.push((name, section)),
            _ => ordered.extend_from_slice(section),
        }
        rest = next;
    }
    descriptions.sort_unstable();
    descriptions.iter().for_each(|(_, section)| ordered.extend_from_slice(section));
    Ok(ordered)
}

/// A length as LEB128, and what follows it.
fn read_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((length, &bytes[index + 1..]));
        }
    }
    None
}

/// Appends a custom section that says what compiled the component.
fn note_compiler(mut component: Vec<u8>, compiler: &str) -> Vec<u8> {
    let mut section = Vec::new();
    push_bytes(&mut section, COMPILER_SECTION.as_bytes());
    section.extend_from_slice(compiler.as_bytes());
    component.push(0);
    push_bytes(&mut component, &section);
    component
}

/// Appends the length as LEB128, and the bytes.
fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(bytes);
}

/// What compiled a component, if it says so.
fn compiler_of(component: &[u8]) -> Option<String> {
    let sections = Parser::new(0).parse_all(component).filter_map(Result::ok);
    let found = sections.filter_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == COMPILER_SECTION => match section.as_known() {
            KnownCustom::Unknown => String::from_utf8(section.data().to_vec()).ok(),
            _ => None,
        },
        _ => None,
    });
    found.last()
}

/// Fails if a component in the tree is not what its source compiles to. Compilers differ in the bytes that they make, so
/// this can only be told with the one that made it.
pub(crate) fn check(root: &Path, all: &[Built]) -> Result<()> {
    for built in prebuilt(all) {
        let path = path_of(built);
        let shown = path.strip_prefix(root).unwrap_or(&path).display();
        let kept = fs::read(&path).with_context(|| format!("cannot read {shown}"))?;
        if kept == built.component {
            eprintln!("{shown} is what its source compiles to");
            continue;
        }
        match (compiler_of(&kept), compiler_of(&built.component)) {
            (Some(then), Some(now)) if then != now => {
                eprintln!("{shown} was compiled by {then}; with {now} it cannot be compared");
            }
            _ => bail!("{shown} is not what its source compiles to; `cargo xtask guests --update` renews it"),
        }
    }
    Ok(())
}

/// Renews the components in the tree.
pub(crate) fn update(root: &Path, all: &[Built]) -> Result<()> {
    for built in prebuilt(all) {
        let path = path_of(built);
        write_if_changed(&path, &built.component)?;
        eprintln!("renewed {}", path.strip_prefix(root).unwrap_or(&path).display());
    }
    Ok(())
}

fn prebuilt(all: &[Built]) -> impl Iterator<Item = &Built> {
    all.iter().filter(|built| PREBUILT.contains(&&*built.name))
}

fn path_of(built: &Built) -> PathBuf {
    built.folder.join(format!("{}.wasm", built.name))
}

/// What depends on the file is not to be made again for the same bytes.
pub(crate) fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    // By rename: a test that runs at the same time is not to see half a component.
    let temporary = path.with_extension("wasm.tmp");
    fs::write(&temporary, bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}
