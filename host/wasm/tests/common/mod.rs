//! What the tests of this folder share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tailweir_core::{Batch, Block, Filter, FilterFactory, Frame, Identity, Point, Processor, SegmentName};
use tailweir_wasm::{FilterPlugin, Grants, Host, HostOptions, Limits, LoadError, ProcessorPlugin};

static HOST: LazyLock<Arc<Host>> = LazyLock::new(|| Host::new(HostOptions::default()).unwrap());

pub fn host() -> &'static Arc<Host> {
    &HOST
}

/// The component of a guest.
pub fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing; run `cargo xtask guests`", path.display());
    path
}

pub fn batch(records: &[&str]) -> Arc<Batch> {
    let segment = SegmentName::new("20250912-110801.44").unwrap();
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    let text = records.join("\n").into_bytes();
    let block = Block::parse(segment, identity, Point::default(), Frame::default(), text);
    assert_eq!(block.len(), records.len(), "{:?}", block.defects());
    Arc::new(Batch::of_block("test".into(), Arc::new(block), 0..records.len()))
}

pub fn load_filter(name: &str, config: Value) -> Result<FilterPlugin, LoadError> {
    host().filter(&guest(name), &config, limits())
}

pub fn load_processor(name: &str, config: Value, grants: &[&str]) -> Result<ProcessorPlugin, LoadError> {
    host().processor(&guest(name), &config, granted(grants), limits())
}

pub fn granted(origins: &[&str]) -> Grants {
    serde_json::from_value(serde_json::json!({ "http": origins })).unwrap()
}

/// Generous in time: the machine may be busy.
pub fn limits() -> Limits {
    Limits::default()
}

pub fn filter(config: Value) -> Box<dyn Filter> {
    load_filter("hostile-filter", config).unwrap().create().unwrap()
}

pub fn processor(config: Value) -> Box<dyn Processor> {
    load_processor("hostile-processor", config, &[]).unwrap().create()
}

/// What a filter says to a batch, in short.
pub fn evaluate(filter: &mut dyn Filter, batch: &Arc<Batch>) -> String {
    match filter.evaluate(batch) {
        Ok(tailweir_core::Verdict::All) => "all".to_owned(),
        Ok(tailweir_core::Verdict::None) => "none".to_owned(),
        Ok(tailweir_core::Verdict::Keep(keep)) => keep.iter().map(|k| if *k { '+' } else { '-' }).collect(),
        Err(e) => {
            assert!(e.decided.is_empty());
            e.to_string()
        }
    }
}

/// Runs a future as the pipeline does: inside a runtime on this thread.
pub fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// What a processor says to a batch, in short.
pub fn process(processor: &mut dyn Processor, batch: &Arc<Batch>) -> String {
    match run(processor.process(batch)) {
        Ok(outcome) => format!("{outcome:?}"),
        Err(failure) => failure.to_string(),
    }
}
