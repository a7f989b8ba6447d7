//! Released versions of the plug-in interface: they stay as they are, and plug-ins that were built for them are served.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tailweir_tests::{Segments, Server, of_pool, repository};

use crate::tailweir;

/// A component that was built for a released version, and is never built again.
fn released(version: &str, name: &str) -> PathBuf {
    repository("tests/released").join(version).join(format!("{name}.wasm"))
}

/// The files in these folders, as paths from the root.
fn files(folders: &[&str]) -> BTreeSet<String> {
    let path =
        |folder: &str, entry: fs::DirEntry| format!("{folder}/{}", entry.file_name().to_str().unwrap());
    let files = folders.iter().flat_map(|folder| {
        let entries = fs::read_dir(repository(folder)).unwrap().map(Result::unwrap);
        entries.filter(|entry| entry.path().is_file()).map(|entry| path(folder, entry))
    });
    files.collect()
}

#[test]
fn a_released_interface_and_what_was_built_for_it_never_change() {
    let hashes = fs::read_to_string(repository("wit/released-0.1.0.sha256")).unwrap();
    let mut listed = BTreeSet::new();
    for line in hashes.lines() {
        let (expected, file) = line.split_once("  ").expect("lines as sha256sum writes them");
        let content = fs::read(repository(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, expected, "{file} was released, so it must not change; see wit/README.md");
        listed.insert(file.to_owned());
    }
    assert_eq!(
        listed,
        files(&["wit/v0.1", "wit/v0.1/deps", "tests/released/0.1.0"]),
        "all of a release is listed"
    );
}

#[test]
fn packages_that_the_interface_refers_to_are_beside_it() {
    let text = fs::read_to_string(repository("wit/wkg.toml")).unwrap();
    let of_line = |line: &str| {
        let path = line.strip_prefix("\"wasi:")?.split('"').nth(2)?;
        Some(format!("wit/{path}"))
    };
    let named: BTreeSet<String> = text.lines().filter_map(of_line).collect();
    let mut there = files(&["wit/v0.1/deps"]);
    there.retain(|file| file.ends_with(".wit"));
    assert_eq!(named, there);
}

#[test]
fn a_filter_built_for_0_1_0_is_served() {
    let segments = Segments::generate(2000, 2, 5);
    let filter = released("0.1.0", "pool-filter");
    let program = tailweir().args("tail").arg(segments.directory()).args("--once --filter").arg(filter);
    let said = program.arg("--config").arg(r#"{"pool":"customer-a"}"#).run().quietly();
    assert_eq!(said, segments.kept(of_pool("customer-a")));
}

/// A pipeline of one processor, with these further settings of it and of its consumer.
fn run(segments: &Segments, processor: &str, more: &str, consumer: &str) {
    let pipeline = format!(
        "[tailer]\ndirectory = '{}'\n[[consumer]]\nname = 'c'\nprocessor = {{ wasm = '{}'{more} }}\n{consumer}\n",
        segments.directory().display(),
        released("0.1.0", processor).display()
    );
    tailweir().arg("run").arg(segments.beside("p.toml", &pipeline)).arg("--once").run().quietly();
}

#[test]
fn a_processor_with_state_built_for_0_1_0_is_served() {
    let segments = Segments::generate(1000, 2, 6);
    let out = segments.beside("out.jsonl", "");
    run(&segments, "counter", "", &format!("sink = {{ file = {{ path = '{}' }} }}", out.display()));
    let said = fs::read_to_string(out).unwrap();
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["records"], 1000);
    assert_eq!(
        last["by"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(),
        1000,
        "{last}"
    );
}

#[test]
fn a_processor_with_requests_built_for_0_1_0_is_served() {
    let segments = Segments::generate(300, 1, 7);
    let server = Server::start();
    let url = server.url();
    run(
        &segments,
        "webhook",
        &format!(", grants = {{ http = ['{url}'] }}, config = {{ url = '{url}/log' }}"),
        "",
    );
    assert_eq!(server.delivered("/log"), segments.ids(|_| true));
}

/// A section that says something about a component, as registries' tools add them.
fn add_section(component: &mut Vec<u8>, name: &str, content: &str) {
    let length = |text: &str| u8::try_from(text.len()).expect("short texts");
    let size = length(name) + length(content) + 1;
    component.extend([0, size | 0x80, 0, length(name)]);
    component.extend(name.bytes().chain(content.bytes()));
}

#[test]
fn a_component_from_a_registry_is_inspected_whatever_its_file_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let mut component = fs::read(released("0.1.0", "pool-filter")).unwrap();
    add_section(&mut component, "registry-metadata", r#"{"description":"from a registry"}"#);
    add_section(&mut component, "version", "1.0.0");
    let digest: String = Sha256::digest(&component).iter().map(|byte| format!("{byte:02x}")).collect();
    for name in [digest.as_str(), "acme_pool-filter@1.0.0.wasm", "blob.tmp"] {
        let path: &Path = &folder.path().join(name);
        fs::write(path, &component).unwrap();
        let said = tailweir().args("plugin inspect").arg(path).run().quietly();
        assert!(said.contains("filter-plugin of tailweir:plugin@0.1.0"), "{name}: {said}");
    }
}
