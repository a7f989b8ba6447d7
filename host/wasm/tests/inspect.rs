//! What is told of a plug-in before it is used.
#![allow(clippy::unwrap_used)]

mod common;

use common::{guest, host, limits};
use tailweir_wasm::{Inspection, Kind, LoadError};

fn inspect(name: &str) -> Result<Inspection, LoadError> {
    host().inspect(&guest(name), limits())
}

#[test]
fn a_filter_needs_no_configuration_for_it() {
    let found = inspect("pool-filter").unwrap();
    assert_eq!(
        (found.kind, found.world, &*found.interface),
        (Kind::Filter, "filter-plugin", "tailweir:plugin@0.1.0")
    );
    assert_eq!(found.imports, ["tailweir:plugin/records@0.1.0", "tailweir:plugin/log@0.1.0"]);
    assert!(found.grants.is_empty());
    assert_eq!(
        (&*found.description.name, found.bytes),
        ("pool-filter", guest("pool-filter").metadata().unwrap().len())
    );
    assert!(found.description.config_schema.contains("egress pool"));
}

#[test]
fn a_processor_that_sends_requests_needs_no_grant_for_it() {
    let found = inspect("webhook").unwrap();
    assert_eq!(
        (found.kind, found.world, &found.grants[..]),
        (Kind::Processor, "http-processor-plugin", &["http"][..])
    );
    assert!(found.imports.iter().any(|import| import.starts_with("wasi:http/outgoing-handler@0.2")));
    assert_eq!(inspect("redact").unwrap().world, "processor-plugin");
}

#[test]
fn what_is_no_plugin_is_named() {
    let said = host().inspect(std::path::Path::new("/dev/zero"), limits()).unwrap_err().to_string();
    assert_eq!(said, "/dev/zero: cannot read it: it is no regular file");
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.wasm");
    std::fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
    let said = host().inspect(&large, limits()).unwrap_err().to_string();
    assert!(
        said.ends_with("large.wasm: larger than 256 MiB, so it is not read; a plug-in has a few"),
        "{said}"
    );
    let path = folder.path().join("x.wasm");
    std::fs::write(&path, b"\0asm\x0d\0\x01\0").unwrap();
    assert!(host().inspect(&path, limits()).unwrap_err().to_string().contains("no tailweir plug-in"));
}
