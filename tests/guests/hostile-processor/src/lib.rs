//! A processor that does what its configuration says, the bad too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use misdeeds::Misdeed;
use serde::Deserialize;
use tailweir_guest::{Batch, Failure, Outcome};

#[derive(Deserialize)]
struct Config {
    /// Emits every record as it is, if all else goes well.
    #[serde(default)]
    emit: bool,
    #[serde(flatten)]
    what: What,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum What {
    Deed(Deed),
    /// Does it, and is done.
    Misdeed(Misdeed),
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Deed {
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
    /// Rejects the first record, a million times.
    RejectOften,
    Stop,
    /// Emits `records` records of `bytes` bytes.
    EmitMuch {
        records: usize,
        bytes: usize,
    },
    /// Emits this text.
    EmitText {
        text: String,
    },
    /// Answers with an error of `bytes` bytes.
    Boast {
        bytes: usize,
    },
}

static CALLS: AtomicU64 = AtomicU64::new(0);

fn process(batch: &Batch, config: &Config) -> Result<Outcome, Failure> {
    let all = || Outcome::Emit(batch.records().map(|record| record.json().into_owned()).collect());
    match &config.what {
        What::Deed(deed) => return deed.answer(batch, all),
        What::Misdeed(misdeed) => misdeed.commit(batch),
    }
    Ok(if config.emit { all() } else { Outcome::Done })
}

impl Deed {
    fn answer(&self, batch: &Batch, all: impl Fn() -> Outcome) -> Result<Outcome, Failure> {
        let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        match self {
            Self::Done => Ok(Outcome::Done),
            Self::Emit => Ok(all()),
            Self::Retry { times, after_ms } if call <= *times => Err(match after_ms {
                Some(ms) => Failure::retry_after(Duration::from_millis(*ms), format!("call {call}")),
                None => Failure::retry(format!("call {call}")),
            }),
            Self::Retry { .. } => Ok(Outcome::Done),
            Self::Reject { indices } => Err(Failure::reject(indices.iter().copied(), "as configured")),
            Self::RejectPoison => {
                let poison = poison(batch);
                if poison.is_empty() { Ok(Outcome::Done) } else { Err(Failure::reject(poison, "poison")) }
            }
            Self::RejectOften => Err(Failure::reject(vec![0; 1_000_000], "often")),
            Self::Stop => Err(Failure::stop("as configured")),
            Self::EmitMuch { records, bytes } => {
                Ok(Outcome::Emit(vec![format!("\"{}\"", "x".repeat(*bytes)); *records]))
            }
            Self::EmitText { text } => Ok(Outcome::Emit(vec![text.clone()])),
            Self::Boast { bytes } => Err(Failure::stop("x".repeat(*bytes))),
        }
    }
}

tailweir_guest::processor!(process);

fn poison(batch: &Batch) -> Vec<u32> {
    let column = batch.column::<bool>("/poison").into_iter().enumerate();
    column.filter(|(_, poison)| *poison == Some(true)).map(|(index, _)| index as u32).collect()
}
