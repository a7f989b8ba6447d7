//! Filters and processors as Lua functions, and the `kumo` API that scripts use.
//!
//! [`Script`] runs a script written for KumoMTA; [`install`] puts the `kumo` module into any Lua state; [`plugin`] makes
//! filters and processors of single files; records reach Lua as the lazy tables of [`record`]. Reading, batching and
//! committing are the work of `tailweir-pipeline`. Filters and processors of other engines come in as [`FilterHandle`]
//! and [`ProcessorHandle`], made by the program that knows both.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod plugin;
pub mod record;
pub mod serde;

mod error;
mod globals;
mod kumo;
mod native;
mod options;
mod script;

pub use kumo::{BeforeExit, Extension, Hooks, Redirect, SetLogFilter, install};
pub use native::{FilterHandle, ProcessorHandle};
pub use script::{Script, ScriptError};
