//! Whatever is in the file of a plug-in: it is refused with a message that names the file, or it can be called, and is stopped
//! by its limits.
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tailweir_core::{Batch, Block, FilterFactory, Frame, Identity, Point, SegmentName, Verdict};
use tailweir_wasm::{FilterPlugin, Grants, Host, Limits, LoadError};

/// Loads `bytes` in all ways there are, from a file in `folder`, and calls what has loaded.
///
/// # Panics
/// If a message lacks the file's name, or a verdict does not fit.
pub fn check(host: &Arc<Host>, folder: &Path, bytes: &[u8]) {
    let path = folder.join("guest.wasm");
    fs::write(&path, bytes).expect("the folder can be written to");
    let inspected = host.inspect(&path, limits());
    let filter = host.filter(&path, &Value::Null, limits());
    let processor = host.processor(&path, &Value::Null, Grants::default(), limits());
    assert!(filter.is_err() || processor.is_err(), "it is of one kind");
    for error in [inspected.err(), filter.as_ref().err().map(same), processor.err()].into_iter().flatten() {
        said(&path, &error);
    }
    if let Ok(plugin) = filter {
        evaluate(&plugin);
    }
}

/// An error's words, as those of an error.
fn same(error: &LoadError) -> LoadError {
    let kind = tailweir_wasm::LoadErrorKind::Start(error.kind.to_string());
    LoadError { path: error.path.clone(), kind }
}

fn said(path: &Path, error: &LoadError) {
    let message = error.to_string();
    let rest = message.strip_prefix(&format!("{}: ", path.display())).expect("the file is named");
    assert!(rest.len() > 10, "{message:?} says nothing");
}

fn evaluate(plugin: &FilterPlugin) {
    let Ok(mut filter) = plugin.create() else { return };
    let segment = SegmentName::new("s").expect("a bare name");
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    let text =
        b"{\"type\":\"Delivery\",\"egress_pool\":\"customer-a\"}\n{\"type\":\"Bounce\"}\n[1]\n".to_vec();
    let block = Block::parse(segment, identity, Point::default(), Frame::default(), text);
    let batch = Arc::new(Batch::of_block("test".into(), Arc::new(block), 0..3));
    // Twice: after a failure there is another instance.
    for _ in 0..2 {
        match filter.evaluate(&batch) {
            Ok(Verdict::Keep(keep)) => assert_eq!(keep.len(), 3),
            Ok(Verdict::All | Verdict::None) => {}
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// So tight that an endless loop does not take long.
fn limits() -> Limits {
    Limits { deadline: Duration::from_millis(100), memory_bytes: 16 << 20, ..Limits::default() }
}
