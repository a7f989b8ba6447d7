//! What a consumer has seen, as numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A consumer's counters since it was opened. They only grow.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: AtomicU64,)* }

        /// The counters' values at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        pub struct Snapshot { $($(#[doc = $doc])* pub $name: u64,)* }

        impl Counters {
            /// Reads all counters. They are read one after another, not at one instant.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Lines scanned, of every kind.
    lines,
    /// Decompressed bytes scanned, line ends included.
    bytes,
    /// Lines that are records.
    records,
    /// Lines that are not records.
    malformed,
    /// Records with invalid UTF-8, which engines see repaired.
    repaired,
    /// Records that the filter kept.
    kept,
    /// Records that the filter dropped.
    filtered,
    /// Records and malformed lines put in quarantine.
    quarantined,
    /// Records and malformed lines dropped from the quarantine to make room (`quarantine_when_full`), of this run or of earlier
    /// ones.
    dropped,
    /// Records and malformed lines that nothing could be done with and that are kept nowhere.
    rejected,
    /// Batches delivered, repetitions not counted.
    batches,
    /// Batches committed.
    committed_batches,
    /// Records in committed batches.
    committed_records,
    /// Bytes of the records in committed batches.
    committed_bytes,
    /// Times a batch was delivered again.
    retries,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }
}
