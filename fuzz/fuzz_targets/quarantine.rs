//! The file of a quarantine.
#![no_main]

#[path = "../checks/quarantine.rs"]
mod quarantine;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| quarantine::check(tailweir_fuzz::folder(), input));
