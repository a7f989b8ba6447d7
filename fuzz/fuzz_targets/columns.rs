//! A JSON pointer, and records.
#![no_main]

#[path = "../checks/columns.rs"]
mod columns;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((pointer, lines)) = columns::split(input) {
        columns::check(pointer, lines);
    }
});
