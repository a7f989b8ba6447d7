//! What does not load, and what it says.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../fuzz/checks/component.rs"]
mod component_check;
#[path = "../../../fuzz/checks/seeds.rs"]
mod seeds;

use std::fs;
use std::path::Path;

use common::{granted, guest, host, limits, load_filter, load_processor};
use serde_json::json;
use tailweir_wasm::{Grants, LoadErrorKind};

/// What loading these bytes as a filter says, after the file's name.
fn load(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.wasm");
    fs::write(&path, bytes).unwrap();
    let error = host().filter(&path, &json!(null), limits()).unwrap_err().to_string();
    error.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

/// An empty component, followed by these sections.
fn component(sections: &[u8]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0", sections].concat()
}

/// A component that imports (`0x0a`) or exports (`0x0b`) an empty instance under this name.
fn with_instance(section: u8, name: &str) -> Vec<u8> {
    let len = u8::try_from(name.len()).unwrap();
    let mut body = vec![1, 0, len];
    body.extend_from_slice(name.as_bytes());
    match section {
        // The import's type: instance, index 0.
        0x0a => {
            body.extend_from_slice(&[5, 0]);
            let types = [7, 3, 1, 0x42, 0];
            component(&[&types[..], &[0x0a, u8::try_from(body.len()).unwrap()], &body].concat())
        }
        // The export's sort and index: instance, index 0; and no type.
        _ => {
            body.extend_from_slice(&[5, 0, 0]);
            let instances = [5, 3, 1, 1, 0];
            component(&[&instances[..], &[0x0b, u8::try_from(body.len()).unwrap()], &body].concat())
        }
    }
}

#[test]
fn files_that_are_no_components() {
    let missing = host().filter(Path::new("/nowhere/guest.wasm"), &json!(null), limits()).unwrap_err();
    assert!(matches!(missing.kind, LoadErrorKind::Read(_)));
    assert!(
        missing.to_string().starts_with("/nowhere/guest.wasm: cannot read it: No such file"),
        "{missing}"
    );
    let no_wasm =
        "not a WebAssembly component; a plug-in is a binary file that begins with the bytes `\\0asm`";
    assert_eq!(load(b""), no_wasm);
    assert_eq!(load(b"-- a Lua script\nreturn {}"), no_wasm);
    let module = "a WebAssembly module, not a component; make one of it with `tailweir plugin build` or `wasm-tools component new`";
    assert_eq!(load(b"\0asm\x01\0\0\0"), module);
    assert!(load(b"\0asm\xff\xff\xff\xff").starts_with("damaged, or made for a later WebAssembly runtime"));
}

#[test]
fn a_component_that_was_cut_off_anywhere_is_an_error() {
    let whole = fs::read(guest("pool-filter")).unwrap();
    for end in [8, 9, 100, whole.len() / 3, whole.len() / 2, whole.len() - 100] {
        let said = load(&whole[..end]);
        let known = ["damaged, or made for a later", "a component, but no tailweir plug-in"];
        assert!(known.iter().any(|known| said.starts_with(known)), "{end}: {said}");
    }
}

#[test]
fn seeds_and_found_inputs_are_refused_or_can_be_called() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(guest("pool-filter")).unwrap();
    for input in seeds::seeds("component").into_iter().map(|(_, input)| input).chain([whole]) {
        component_check::check(host(), folder.path(), &input);
    }
}

#[test]
fn components_that_are_no_plugins() {
    let none = "a component, but no tailweir plug-in: it exports neither tailweir:plugin/filter nor tailweir:plugin/process; build it for one of the worlds `filter-plugin` and `processor-plugin`";
    assert_eq!(load(&component(&[])), none);
    assert_eq!(load(&with_instance(0x0b, "wasi:cli/run@0.2.0")), none);
}

#[test]
fn other_versions_of_the_interface() {
    let expected = "built for tailweir:plugin@0.9.0, and this program serves tailweir:plugin@0.1.0; \
                    use a plug-in or a tailweir of the other version";
    assert_eq!(load(&with_instance(0x0b, "tailweir:plugin/filter@0.9.0")), expected);
    assert_eq!(load(&with_instance(0x0a, "tailweir:plugin/records@0.9.0")), expected);
}

#[test]
fn a_plugin_with_the_right_names_and_other_shapes() {
    let said = load(&with_instance(0x0b, "tailweir:plugin/filter@0.1.0"));
    let expected = "it does not have the shape of a tailweir:plugin@0.1.0 plug-in; build it against the released interface";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn the_other_kind() {
    let said = load_filter("redact", json!(null)).unwrap_err().kind.to_string();
    assert_eq!(said, "a processor, not a filter; use it where a processor is expected");
    let said = load_processor("pool-filter", json!(null), &[]).unwrap_err().kind.to_string();
    assert_eq!(said, "a filter, not a processor; use it where a filter is expected");
}

#[test]
fn a_processor_that_sends_requests_needs_a_grant() {
    let config = json!({"url": "https://hooks.example.com"});
    let said = load_processor("webhook", config.clone(), &[]).unwrap_err().to_string();
    let expected = "webhook.wasm: it sends HTTP requests, so it needs a grant: name the origins that it may reach, \
                    as in `grants.http = [\"https://hooks.example.com\"]`";
    assert!(said.ends_with(expected), "{said}");
    let plugin = load_processor("webhook", config, &["https://hooks.example.com"]).unwrap();
    assert_eq!((&*plugin.info().name, &*plugin.info().needs), ("webhook", &["http".to_owned()][..]));
}

#[test]
fn imports_that_nobody_offers() {
    // It imports this, and exports it again as if it were a filter.
    let plugin = |import: &str| {
        let export = with_instance(0x0b, "tailweir:plugin/filter@0.1.0");
        let instances = 5;
        // The header is there already, and the instance to export is the imported one.
        load(&[&with_instance(0x0a, import)[..], &export[8 + instances..]].concat())
    };
    let unknown = |import: &str| {
        format!("it imports `{import}`, which this program does not offer to a filter; build it without")
    };
    for import in ["acme:billing/meter@1.0.0", "wasi:nn/graph@0.2.0", "wasi:cli/environment@0.3.0"] {
        assert_eq!(plugin(import), unknown(import));
    }
    let http = "a filter cannot send HTTP requests, and this one imports `wasi:http/outgoing-handler@0.2.0`; \
                build it without, or make it a processor";
    assert_eq!(plugin("wasi:http/outgoing-handler@0.2.0"), http);
    let state = "a filter cannot keep state, and this one imports `tailweir:plugin/state@0.1.0`; build it without, or make it \
                 a processor";
    assert_eq!(plugin("tailweir:plugin/state@0.1.0"), state);
}

#[test]
fn configurations() {
    let said = |name: &str, config| load_filter(name, config).unwrap_err().kind.to_string();
    let unfit = "its configuration is not as its schema wants it: ";
    let none = said("pool-filter", json!(null));
    assert!(none.starts_with(&format!("{unfit}it has none, and \"pool\" is a required property")), "{none}");
    let wrong = said("pool-filter", json!({"pool": 7}));
    assert!(wrong.starts_with(&format!("{unfit}at `/pool`: a number is not of type \"string\"")), "{wrong}");
    assert!(load_processor("redact", json!(null), &[]).is_ok());
    let deep = host().processor(&guest("redact"), &json!({"fields": ["a", 1]}), Grants::default(), limits());
    let deep = deep.unwrap_err();
    assert!(matches!(deep.kind, LoadErrorKind::ConfigSchema(_)), "{deep}");
    assert!(deep.to_string().contains("at `/fields/1`"), "{deep}");
    // A plug-in that gives no schema has to look for itself.
    let own = said("hostile-filter", json!({"do": "nothing-that-it-knows"}));
    assert!(own.starts_with("it does not accept its configuration: "), "{own}");
}

#[test]
fn a_schema_that_is_none_is_an_error_whatever_the_configuration() {
    for config in [json!(null), json!({}), json!("x")] {
        let error = load_filter("bad-schema", config).unwrap_err();
        assert!(matches!(error.kind, LoadErrorKind::Schema(_)), "{error}");
        assert!(error.to_string().contains("which is a mistake of the plug-in's: at `/type`"), "{error}");
    }
}

#[test]
fn a_grant_does_no_harm_where_it_is_not_needed() {
    let grants = granted(&["https://hooks.example.com"]);
    assert!(host().processor(&guest("redact"), &json!(null), grants, limits()).is_ok());
}
