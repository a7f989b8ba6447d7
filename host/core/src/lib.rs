//! The nouns of tailweir and the rules that hold between them: segments and positions, blocks of records, batches,
//! the [`Filter`] and [`Processor`] traits, the commit [`Ledger`], and the closed [`Event`] enum.
//!
//! This crate is pure: it opens no file, reads no clock, starts no thread, and knows no engine and no runtime. Reading
//! directories is the work of `tailweir-segments`, driving consumers that of `tailweir-pipeline`, and the engines that
//! implement the traits live in `tailweir-lua` and `tailweir-wasm`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod block;
pub mod event;
pub mod figures;
pub mod filter;
pub mod json;
pub mod ledger;
pub mod metrics;
pub mod position;
pub mod printable;
pub mod processor;
pub mod state;
pub mod sums;

pub use batch::{Batch, BatchId, Record, Values};
pub use block::{Block, Defect, DefectKind, Shelf};
pub use event::{Event, EventSink, Fate};
pub use figures::{CallCost, CallFault, Figures, PluginFigures, PluginKind, PluginSnapshot};
pub use filter::{Filter, FilterError, FilterFactory, Located, Verdict};
pub use json::Pointer;
pub use ledger::{Advance, Frontier, Ledger, LedgerError, Progress, Ticket};
pub use metrics::{MetricError, MetricKind, MetricLimits, Metrics, Registration};
pub use position::{Frame, Identity, Mark, Point, Position, SegmentName, SegmentNameError, Span};
pub use printable::{Printable, PrintableWords};
pub use processor::{Failure, Outcome, ProcessFuture, Processor, Replaced};
pub use state::{Bucket, Contents, MemoryState, StateError, StateKeeper, StateLimits, StateView};
pub use sums::Sums;
