//! The files of a checkpoint.
#![no_main]

#[path = "../checks/checkpoint.rs"]
mod checkpoint;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| checkpoint::check(tailweir_fuzz::folder(), input));
