//! The file of a plug-in.
#![no_main]

#[path = "../checks/component.rs"]
mod component;

use std::cell::RefCell;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tailweir_wasm::{Host, HostOptions};

/// A host keeps everything that it has compiled, so there is a new one from time to time.
const INPUTS_PER_HOST: u32 = 200;

thread_local! {
    static HOST: RefCell<Option<(Arc<Host>, u32)>> = const { RefCell::new(None) };
}

fn host() -> Arc<Host> {
    HOST.with_borrow_mut(|host| match host {
        Some((host, left @ 1..)) => {
            *left -= 1;
            host.clone()
        }
        spent => {
            let new = Host::new(HostOptions::default()).expect("WebAssembly can be compiled here");
            *spent = Some((new.clone(), INPUTS_PER_HOST));
            new
        }
    })
}

fuzz_target!(|input: &[u8]| component::check(&host(), tailweir_fuzz::folder(), input));
