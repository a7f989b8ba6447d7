//! Filters and processors as WebAssembly components: loading them, checking them, and calling them within limits.
//!
//! [`Host`] loads a component and gives a [`FilterPlugin`] or a [`ProcessorPlugin`], which make what `tailweir-core` knows
//! as a `Filter` or a `Processor`. A plug-in that does not load, does not fit, wants what it is not granted, or refuses its
//! configuration is a [`LoadError`] before any record is read. What happens to a batch whose call fails is not decided
//! here: that is the work of `tailweir-pipeline`.
//!
//! Compiling takes many times as long as all else: a [`Host`] compiles each content once, and keeps the machine code in a
//! directory if it is given one. What is in there is checked before it is run, and compiled anew if anything is wrong.
//!
//! A guest has no capability: no files, sockets, environment or arguments, whatever WASI it imports. A processor may send
//! HTTP requests to the origins of its [`Grants`]. [`Limits`] bound each call's time, memory and log lines, and all else that
//! a guest could take too much of. An instance that trapped, or ran into a limit, is never used again.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
mod call;
mod compile;
mod filter;
mod grants;
mod host;
mod http;
mod inspect;
mod instance;
mod limits;
mod load;
mod meter;
mod metrics;
mod precompile;
mod processor;
mod schema;
mod state;
mod tally;
mod ticks;
mod v0_1;

pub use call::CallError;
pub use filter::FilterPlugin;
pub use grants::{Grants, Origin, OriginError};
pub use host::{Host, HostOptions};
pub use inspect::Inspection;
pub use limits::Limits;
pub use load::{Description, Kind, LoadError, LoadErrorKind, MAX_SCHEMA_BYTES};
pub use meter::{Measures, Meter, Metered};
pub use precompile::{Compiled, PrecompileError, When};
pub use processor::ProcessorPlugin;
pub use tally::{PluginCounts, PluginTally};
