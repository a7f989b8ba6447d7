//! Makes a directory of sealed segments with records like KumoMTA's.
//!
//! `cargo run --release -p tailweir-segments --example generate -- DIRECTORY RECORDS SEGMENTS [SEED]`

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| arguments.get(i).map_or(Some(default), |text| text.parse().ok());
    let (Some(directory), Some(records), Some(segments), Some(seed)) =
        (arguments.first(), number(1, 1000), number(2, 4), number(3, 1))
    else {
        eprintln!("usage: generate DIRECTORY [RECORDS [SEGMENTS [SEED]]]");
        return ExitCode::from(2);
    };
    match tailweir_segments::sample::write_directory(directory.as_ref(), records, segments, seed, 3) {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("failed to write segments in {directory}: {e}");
            ExitCode::FAILURE
        }
    }
}
