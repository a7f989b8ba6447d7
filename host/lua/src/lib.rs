//! Filters and processors as Lua functions, and the `kumo` API that scripts use.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod plugin;
pub mod record;
pub mod serde;

mod error;
mod kumo;
mod native;
mod options;
mod script;

pub use kumo::{Extension, Hooks, SetLogFilter, install};
pub use native::{FilterHandle, ProcessorHandle};
pub use script::{Script, ScriptError};
