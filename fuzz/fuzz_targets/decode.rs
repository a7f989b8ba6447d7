//! The bytes of a segment, and how they are read.
#![no_main]

#[path = "../checks/decode.rs"]
mod decode;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((how, bytes)) = decode::How::of(input) {
        decode::check(tailweir_fuzz::folder(), how, bytes);
    }
});
