//! What a tailweir plug-in written in Rust uses: the batch, the answers, one macro line, the log and, with the features
//! `http`, `state` and `metrics`, HTTP requests, what is remembered between batches, and figures of the plug-in's own. With the
//! feature `schema` the JSON schema of the configuration is that of its type. It speaks the interface of `wit/v0.1`; the host's side of it is `tailweir-wasm`.
//!
//! A filter is one function and one macro line:
//!
//! ```standalone_crate
//! use tailweir_guest::{Batch, Verdict};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     pool: String,
//! }
//!
//! fn keep(batch: &Batch, config: &Config) -> Verdict {
//!     let pools = batch.strings("/egress_pool");
//!     pools.iter().map(|pool| pool == Some(config.pool.as_str())).collect()
//! }
//!
//! tailweir_guest::filter!(keep);
//! ```
//!
//! So is a processor, see [`processor!`]. The crate that holds them is a `cdylib`, and is turned into a component as the
//! examples' README says. Its unit tests need no host: on any target but WebAssembly, [`Batch::from_json`] makes batches.
//!
//! ```
//! # use tailweir_guest::{Batch, Verdict};
//! # struct Config { pool: String }
//! # fn keep(batch: &Batch, config: &Config) -> Verdict {
//! #     batch.strings("/egress_pool").iter().map(|pool| pool == Some(config.pool.as_str())).collect()
//! # }
//! let batch = Batch::from_json([r#"{"egress_pool":"a"}"#, r#"{"egress_pool":"b"}"#]);
//! assert_eq!(keep(&batch, &Config { pool: "a".into() }), Verdict::Keep(vec![true, false]));
//! ```
//!
//! A panic ends the instance, not the host: its text is sent to the host's log and becomes part of the host's error.

#![cfg_attr(test, allow(clippy::unwrap_used))]

// What wit-bindgen generates names this crate as a plug-in does.
#[cfg(target_family = "wasm")]
extern crate self as tailweir_guest;

mod backend;
mod batch;
#[cfg(feature = "http")]
pub mod http;
pub mod log;
#[cfg(feature = "metrics")]
pub mod metrics;
mod parse;
mod plugin;
#[cfg(feature = "state")]
pub mod state;

pub use batch::{Batch, Column, Joined, Position, Raw, Record, Strings};
pub use plugin::{Failure, Outcome, Verdict};

/// What the macros expand to. No part of the interface.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "schema")]
    pub use crate::plugin::ConfigSchema;
    pub use crate::plugin::{
        Description, FilterFn, IntoFilter, IntoProcessor, NEEDS, NoConfigSchema, ProcessorFn,
        shape_of_filter, shape_of_processor,
    };

    #[cfg(target_family = "wasm")]
    pub use crate::backend::{export, filter_world, lifecycle_world, processor_world};
    #[cfg(target_family = "wasm")]
    pub use wit_bindgen;
}
