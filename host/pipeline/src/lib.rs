//! The loop: read, filter, batch, deliver, settle, persist.
//!
//! [`open`] starts reading a directory for any number of [`Consumer`]s. Each is one named subscription with a filter,
//! batching, a commit ledger and a checkpoint of its own, and gives out [`Delivery`]s: batches that must be committed.
//! Consumers share one pass over the directory while they keep up with each other; one that falls behind reads on its
//! own and re-joins later. [`drive`] runs a consumer with a [`tailweir_core::Processor`].
//!
//! Decoding belongs to `tailweir-segments`, the rules of committing to `tailweir_core::Ledger`; which engine a filter or
//! a processor runs in is not known here.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ahead;
mod book;
mod chain;
pub mod checkpoint;
mod consumer;
mod counters;
mod delivery;
mod drive;
mod files;
mod halving;
mod holders;
mod last;
mod options;
mod parallel;
mod pass;
mod quarantine;
mod settlement;
mod source;
mod state;
mod status;

pub use checkpoint::{CheckpointStore, FileStore, Guard, Loaded, LostLock, Saved, StateSize, StoreError};
pub use consumer::{Consumer, NextError};
pub use counters::{Counters, Snapshot};
pub use delivery::{Closer, Delivery};
pub use drive::{
    Backoff, DriveError, OnCrash, Outgoing, Policy, Sink, SinkFuture, SinkProcessor, Then, drive,
};
pub use holders::holders;
pub use last::tell_open;
pub use options::{
    CheckpointName, CheckpointNameError, CheckpointOptions, CheckpointSync, ConsumerOptions, FilterOptions,
    OnFilterError, OnMalformed, SourceOptions, StartFrom,
};
pub use parallel::{Worker, drive_parallel};
pub use quarantine::{
    Fate, FullError, KeptQuarantine, QuarantineEntry, QuarantineError, QuarantineOptions, Refusal, Replay,
    Replayed, TooLargeError, Unreadable, Updated, WhenFull, quarantines, read as read_quarantine,
};
pub use settlement::{CommitError, MakeStore, OpenError};
pub use source::{Source, open, open_with};
pub use status::{CheckpointStatus, Listed, StatusError, WrittenBy, status};
