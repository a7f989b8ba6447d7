//! A record, and what a script does to it.
#![no_main]

#[path = "../checks/lazy.rs"]
mod lazy;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((record, operations)) = lazy::split(input) {
        lazy::check(record, &operations);
    }
});
