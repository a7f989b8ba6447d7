//! What hostile guests of both kinds do.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use tailweir_guest::Batch;
use tailweir_guest::metrics::{Counter, Gauge, Histogram};

/// Something that no plug-in should do.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Misdeed {
    /// Panics on the batches that hold a record with `"poison":true`.
    PanicOnPoison,
    /// Panics on its `call`th call, counted from 1.
    PanicAt {
        call: u64,
    },
    /// Panics on the `record`th record that it is given, counted from 1.
    PanicAtRecord {
        record: u64,
    },
    /// Executes an instruction that no host can go on from.
    Trap,
    Loop,
    /// Never ends on the batches that hold a record with `"poison":true`.
    LoopOnPoison,
    /// Takes memory until there is no more.
    Eat,
    /// Takes `bytes` of memory at each call and keeps them.
    Grow {
        bytes: usize,
    },
    /// Calls itself until there is no more stack.
    Recurse,
    /// Logs `lines` lines of `bytes` bytes.
    Flood {
        lines: u32,
        bytes: usize,
    },
    /// Registers `metrics` metrics of `series` series, all new ones at each call, and adds to each.
    Measure {
        metrics: u64,
        series: u64,
    },
    /// Breaks each rule for metrics once.
    Mismeasure,
}

static CALLS: AtomicU64 = AtomicU64::new(0);
static RECORDS: AtomicU64 = AtomicU64::new(0);

impl Misdeed {
    /// Does it. Some misdeeds leave the caller to go on as if nothing had been.
    pub fn commit(&self, batch: &Batch) {
        let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        let records = RECORDS.fetch_add(batch.len() as u64, Ordering::Relaxed) + batch.len() as u64;
        match self {
            Self::PanicOnPoison => {
                if let Some(index) = poison(batch) {
                    panic!("record {index} is poison");
                }
            }
            Self::PanicAt { call: at } => assert!(call != *at, "this is call {call}"),
            Self::PanicAtRecord { record } => assert!(records < *record, "record {record} is too much"),
            Self::Trap => trap(),
            Self::Loop => spin(),
            Self::LoopOnPoison => {
                if poison(batch).is_some() {
                    spin();
                }
            }
            Self::Eat => loop {
                keep(1 << 20);
            },
            Self::Grow { bytes } => keep(*bytes),
            Self::Recurse => _ = recurse(call),
            Self::Flood { lines, bytes } => {
                let line = "x".repeat(*bytes);
                for _ in 0..*lines {
                    tailweir_guest::warn!("{line}");
                }
            }
            Self::Measure { metrics, series } => measure(*metrics, *series, call),
            Self::Mismeasure => mismeasure(),
        }
    }
}

fn measure(metrics: u64, series: u64, call: u64) {
    for metric in 0..metrics {
        let name: &'static str = format!("m{call}_{metric}_total").leak();
        let counter = Counter::new(name, "");
        for series in 0..series {
            counter.labelled(&[("series", &format!("{call}-{series}"))]).add(1);
        }
    }
}

fn mismeasure() {
    static GOOD: Counter = Counter::new("good_total", "What is well made");
    GOOD.add(1);
    Counter::new("not-a-name", "").add(1);
    Gauge::new("good_total", "").set(1.0);
    Gauge::new("good", "").set(f64::NAN);
    Histogram::new("sizes", "", &[2.0, 1.0]).observe(&[1.0]);
    let _ = GOOD.labelled(&[("consumer", "another")]);
    let long: &'static str = "x".repeat(1_000_000).leak();
    Counter::new(long, long).add(1);
}

fn poison(batch: &Batch) -> Option<usize> {
    batch.column::<bool>("/poison").iter().position(|poison| *poison == Some(true))
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

fn spin() -> ! {
    loop {
        std::hint::black_box(CALLS.load(Ordering::Relaxed));
    }
}

fn keep(bytes: usize) {
    std::mem::forget(std::hint::black_box(vec![1u8; bytes]));
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1))) + 1
}
