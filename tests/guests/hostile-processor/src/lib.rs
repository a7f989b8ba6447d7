//! A processor that does what its configuration says, the bad too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tailweir_guest::{Batch, Failure, Outcome};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Config {
    Done,
    /// Emits every record as it is.
    Emit,
    /// Answers `retry` for the first `times` calls, then `done`.
    Retry {
        times: u64,
        after_ms: Option<u64>,
    },
    Reject {
        indices: Vec<u32>,
    },
    /// Rejects the records with `"poison":true`, if there are any.
    RejectPoison,
    Stop,
    /// Panics on the batches that hold a record with `"poison":true`.
    PanicOnPoison,
    /// Panics on its `call`th call, counted from 1; answers `done` until then.
    PanicAt {
        call: u64,
    },
    Loop,
    Eat,
}

static CALLS: AtomicU64 = AtomicU64::new(0);

fn process(batch: &Batch, config: &Config) -> Result<Outcome, Failure> {
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    match config {
        Config::Done => Ok(Outcome::Done),
        Config::Emit => Ok(Outcome::Emit(batch.records().map(|record| record.json().into_owned()).collect())),
        Config::Retry { times, after_ms } if call <= *times => Err(match after_ms {
            Some(ms) => Failure::retry_after(Duration::from_millis(*ms), format!("call {call}")),
            None => Failure::retry(format!("call {call}")),
        }),
        Config::Retry { .. } => Ok(Outcome::Done),
        Config::Reject { indices } => Err(Failure::reject(indices.iter().copied(), "as configured")),
        Config::RejectPoison => {
            let poison = poison(batch);
            if poison.is_empty() { Ok(Outcome::Done) } else { Err(Failure::reject(poison, "poison")) }
        }
        Config::Stop => Err(Failure::stop("as configured")),
        Config::PanicOnPoison => match poison(batch).first() {
            Some(index) => panic!("record {index} is poison"),
            None => Ok(Outcome::Done),
        },
        Config::PanicAt { call: at } if call == *at => panic!("this is call {call}"),
        Config::PanicAt { .. } => Ok(Outcome::Done),
        Config::Loop => loop {
            std::hint::black_box(call);
        },
        Config::Eat => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(std::hint::black_box(vec![1u8; 1 << 20]));
            }
        }
    }
}

tailweir_guest::processor!(process);

fn poison(batch: &Batch) -> Vec<u32> {
    let column = batch.column::<bool>("/poison").into_iter().enumerate();
    column.filter(|(_, poison)| *poison == Some(true)).map(|(index, _)| index as u32).collect()
}
