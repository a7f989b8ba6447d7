//! Built-in sinks: where batches, or the records that a processor emits, can go.

mod file;
mod http;
mod stdout;

pub(crate) use file::{FileOptions, FileSink};
pub(crate) use http::{HttpOptions, HttpSink};
pub(crate) use stdout::StdoutSink;

use std::fs::File;
use std::io::{self, IoSlice, Write};

use tailweir_core::Failure;

/// Pieces that the system takes at once: `IOV_MAX` of Linux.
const PIECES: usize = 1024;

/// Writes all the pieces, from where they are.
fn write_all(file: &mut File, pieces: Vec<&[u8]>) -> io::Result<()> {
    let mut pieces: Vec<_> = pieces.into_iter().map(IoSlice::new).collect();
    let mut rest = &mut pieces[..];
    // Pieces of no length must not look like a file that takes nothing.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(&rest[..rest.len().min(PIECES)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn retry(reason: String) -> Failure {
    Failure::Retry { after: None, reason }
}
