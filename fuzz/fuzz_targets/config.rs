//! A pipeline file.
#![no_main]

#[path = "../checks/config.rs"]
mod config;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| config::check(text));
