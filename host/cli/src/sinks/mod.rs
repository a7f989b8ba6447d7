//! Built-in sinks: where batches, or the records that a processor emits, can go.

mod file;
mod http;
mod stdout;

pub(crate) use file::{FileOptions, FileSink};
pub(crate) use http::{HttpOptions, HttpSink};
pub(crate) use stdout::StdoutSink;

use tailweir_core::Failure;

/// `records`, each with a line break, in `buffer`.
fn fill_lines(buffer: &mut Vec<u8>, records: &[&[u8]]) {
    buffer.clear();
    buffer.reserve(records.iter().map(|r| r.len() + 1).sum());
    for record in records {
        buffer.extend_from_slice(record);
        buffer.push(b'\n');
    }
}

fn retry(reason: String) -> Failure {
    Failure::Retry { after: None, reason }
}
