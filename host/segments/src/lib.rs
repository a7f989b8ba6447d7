//! Directories of segments to blocks of records, and records to segments.
//!
//! [`Reader`] finds the segments of a directory, decompresses them, carves the stream at line ends into
//! [`Block`](tailweir_core::Block)s and notices what happens to the files meanwhile. [`Writer`] does the reverse, as
//! KumoMTA does it. What a record *means* is no concern of this crate: filtering, batching, acknowledging and
//! checkpoints are the work of `tailweir-pipeline`; splitting a block into lines and validating them that of
//! `tailweir-core`.
//!
//! A segment is *open* while its mode has a write bit and *sealed* once it has none. The watcher is a hint and the scan
//! is the truth: whatever the watcher loses costs time only.
//!
//! ```
//! use tailweir_segments::{Cursor, Mode, Reader, ReaderOptions, Step, Writer, WriterOptions};
//!
//! # let directory = std::env::temp_dir().join(format!("tailweir-doc-{}", std::process::id()));
//! let writer = Writer::new(WriterOptions::new(&directory))?;
//! writer.write_line(br#"{"type":"Delivery"}"#)?;
//! writer.close()?;
//!
//! let options = ReaderOptions { mode: Mode::Once, ..ReaderOptions::new(&directory) };
//! let mut reader = Reader::open(options, Cursor::default())?;
//! let mut records = Vec::new();
//! loop {
//!     match reader.next()? {
//!         Step::Block(block) => records.extend((0..block.len()).map(|i| block.text(i).to_owned())),
//!         Step::End => break,
//!         _ => {}
//!     }
//! }
//! assert_eq!(records, [r#"{"type":"Delivery"}"#]);
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod carve;
mod decode;
mod directory;
mod hand;
mod measure;
mod pattern;
mod pool;
mod reader;
pub mod sample;
mod signal;
mod writer;

pub use directory::{Directory, Entry, Seal, list};
pub use hand::Hand;
pub use measure::{Remaining, measure};
pub use pattern::{Pattern, PatternError};
pub use reader::{
    Begun, Cursor, Mode, Ordering, ReadError, Reader, ReaderOptions, Start, Step, Unread, Watch,
};
pub use signal::Waker;
pub use writer::{WriteError, Writer, WriterOptions};
