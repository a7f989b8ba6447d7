//! Reads a directory once and says how fast: `cargo run --release --example throughput DIR [WORKERS]`.

use std::path::PathBuf;
use std::time::Instant;

use tailweir_segments::{Cursor, Mode, Reader, ReaderOptions, Step};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: throughput DIR [WORKERS]")?);
    let workers = arguments.next().map_or(Ok(0), |n| n.parse())?;
    let begun = Instant::now();
    let options = ReaderOptions { mode: Mode::Once, workers, ..ReaderOptions::new(directory) };
    let mut reader = Reader::open(options, Cursor::default())?;
    let (mut records, mut bytes, mut defects) = (0, 0, 0);
    loop {
        match reader.next()? {
            Step::Block(block) => {
                records += block.len();
                defects += block.defects().len();
                bytes += block.to().point.offset - block.from().offset;
            }
            Step::End => break,
            _ => {}
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rate = bytes as f64 / 1e6 / seconds;
    eprintln!("{records} records, {defects} defects, {bytes} bytes in {seconds:.3} s: {rate:.0} MB/s");
    Ok(())
}
