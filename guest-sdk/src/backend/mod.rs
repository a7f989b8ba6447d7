//! Where batches, the log, HTTP, state and metrics come from: the host, or on a target without one what the tests made up.
//! Both offer the same functions, with the same answers.

#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(target_family = "wasm")]
mod wasm;

#[cfg(not(target_family = "wasm"))]
pub(crate) use native::*;
#[cfg(target_family = "wasm")]
pub(crate) use wasm::Batch as Backend;
#[cfg(target_family = "wasm")]
pub(crate) use wasm::log;
#[cfg(all(target_family = "wasm", feature = "metrics"))]
pub(crate) use wasm::metrics;
#[cfg(all(target_family = "wasm", feature = "http"))]
pub(crate) use wasm::send;
#[cfg(all(target_family = "wasm", feature = "state"))]
pub(crate) use wasm::state;
#[cfg(target_family = "wasm")]
pub use wasm::{export, filter_world, lifecycle_world, processor_world};
