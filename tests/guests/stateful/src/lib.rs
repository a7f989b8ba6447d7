//! A processor that counts records in its state, emits the count, and then does what its configuration says.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use tailweir_guest::{Batch, Failure, Outcome, state};

#[derive(Deserialize)]
#[serde(try_from = "Options")]
struct Config(Options);

#[derive(Deserialize)]
struct Options {
    #[serde(flatten)]
    deed: Deed,
    /// From this count on the state is of a kind that it cannot read.
    #[serde(default)]
    unreadable_from: Option<u64>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Deed {
    Count,
    /// Answers `retry` to the first call of an instance.
    Retry,
    PanicOnPoison,
    /// Counts and deals with all but the records with `"poison":true`.
    RejectPoison,
    /// Stops when it has counted so many.
    StopAt {
        count: u64,
    },
    /// Sets a key of `key` bytes to a value of `value` bytes, and emits what comes back.
    Set {
        key: usize,
        value: usize,
    },
}

impl TryFrom<Options> for Config {
    type Error = String;

    fn try_from(options: Options) -> Result<Self, String> {
        if state::set("set up", "1") != Err(state::Error::NotNow) {
            return Err("state can be changed while it is set up".to_owned());
        }
        match options.unreadable_from {
            Some(from) if count() >= from => Err(format!("it cannot read a state of {}", count())),
            _ => Ok(Self(options)),
        }
    }
}

static CALLS: AtomicU64 = AtomicU64::new(0);

fn count() -> u64 {
    state::get("n").and_then(|value| String::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

fn process(batch: &Batch, config: &Config) -> Result<Outcome, Failure> {
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let column = batch.column::<bool>("/poison").into_iter().enumerate();
    let poison: Vec<u32> =
        column.filter(|(_, poison)| *poison == Some(true)).map(|(index, _)| index as u32).collect();
    let rejected = if matches!(config.0.deed, Deed::RejectPoison) { poison.len() as u64 } else { 0 };
    let now = count() + batch.len() as u64 - rejected;
    state::set("n", now.to_string()).map_err(|e| Failure::stop(e.to_string()))?;
    match &config.0.deed {
        Deed::Count => {}
        Deed::Retry if call == 0 => return Err(Failure::retry("at first")),
        Deed::Retry => {}
        Deed::PanicOnPoison => assert!(poison.is_empty(), "poison"),
        Deed::RejectPoison if poison.is_empty() => {}
        Deed::RejectPoison => return Err(Failure::reject(poison, "poison")),
        Deed::StopAt { count } if now >= *count => return Err(Failure::stop("as configured")),
        Deed::StopAt { .. } => {}
        Deed::Set { key, value } => {
            let answer = state::set(&"k".repeat(*key), vec![b'v'; *value]);
            return Ok(Outcome::Emit(vec![format!(
                "\"{}\"",
                answer.map_or_else(|e| e.to_string(), |()| "set".into())
            )]));
        }
    }
    Ok(Outcome::Emit(vec![now.to_string()]))
}

tailweir_guest::processor!(process);
