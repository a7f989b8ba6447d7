//! A processor that counts records by type, and emits after each batch what it has counted so far. The counts are in its
//! state, so they are exact: no record is counted twice, whatever crashes. What it has done since it was started, batches that
//! came again included, it tells in metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tailweir_guest::metrics::{Counter, Histogram};
use tailweir_guest::{Batch, Failure, Outcome, state};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// JSON pointer to the text that records are counted by.
    field: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { field: "/type".to_owned() }
    }
}

/// What is emitted.
#[derive(Serialize)]
struct Summary {
    records: u64,
    by: BTreeMap<String, u64>,
}

static COUNTED: Counter = Counter::new("counted_total", "Records counted, by type");
static TYPES: Histogram =
    Histogram::new("batch_types", "How many different types a batch had", &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);

/// The key of the number of all records.
const RECORDS: &str = "records";
/// What the keys of the other numbers begin with.
const BY: &str = "by/";
/// Bytes of a type that count: a key of state has a limit.
const MAX_TYPE: usize = 200;

fn process(batch: &Batch, config: &Option<Config>) -> Result<Outcome, Failure> {
    let standard = Config::default();
    let config = config.as_ref().unwrap_or(&standard);
    let mut by: BTreeMap<String, u64> = BTreeMap::new();
    for kind in batch.strings(&config.field).iter().flatten() {
        *by.entry(format!("{BY}{}", clip(kind))).or_default() += 1;
    }
    add(RECORDS, batch.len() as u64)?;
    for (key, count) in &by {
        add(key, *count)?;
        COUNTED.labelled(&[("type", &key[BY.len()..])]).add(*count);
    }
    TYPES.observe(&[by.len() as f64]);
    let summary = serde_json::to_string(&summary()?).map_err(|e| Failure::stop(e.to_string()))?;
    Ok(Outcome::Emit(vec![summary]))
}

tailweir_guest::processor!(process, config_schema = include_str!("../config.schema.json"));

fn clip(kind: &str) -> &str {
    &kind[..kind.floor_char_boundary(MAX_TYPE)]
}

fn count(key: &str) -> Result<u64, Failure> {
    let Some(value) = state::get(key) else { return Ok(0) };
    let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        Failure::stop(format!("the state has no number under `{key}`: another program wrote it"))
    })
}

fn add(key: &str, more: u64) -> Result<(), Failure> {
    let now = count(key)? + more;
    state::set(key, now.to_string()).map_err(|e| Failure::stop(e.to_string()))
}

fn summary() -> Result<Summary, Failure> {
    let mut by = BTreeMap::new();
    for key in state::list(BY) {
        by.insert(key[BY.len()..].to_owned(), count(&key)?);
    }
    Ok(Summary { records: count(RECORDS)?, by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(batch: &[&str], expected: &str) {
        let answer = process(&Batch::from_json(batch.iter().copied()), &None);
        assert_eq!(answer, Ok(Outcome::Emit(vec![expected.to_owned()])));
    }

    #[test]
    fn counts_go_on_from_batch_to_batch() {
        check(
            &[r#"{"type":"Bounce"}"#, r#"{"type":"Delivery"}"#],
            r#"{"records":2,"by":{"Bounce":1,"Delivery":1}}"#,
        );
        check(&[r#"{"type":"Bounce"}"#, r#"{"x":1}"#], r#"{"records":4,"by":{"Bounce":2,"Delivery":1}}"#);
    }

    #[test]
    fn metrics_tell_what_was_done() {
        check(
            &[r#"{"type":"Bounce"}"#, r#"{"type":"Bounce"}"#, r#"{"type":"OOB"}"#],
            r#"{"records":3,"by":{"Bounce":2,"OOB":1}}"#,
        );
        assert_eq!(COUNTED.labelled(&[("type", "Bounce")]).value(), 2);
        assert_eq!(TYPES.values(), [2.0]);
    }

    #[test]
    fn a_type_of_any_length_is_counted() {
        let long = "é".repeat(1000);
        let expected = format!(r#"{{"records":1,"by":{{"{}":1}}}}"#, "é".repeat(100));
        check(&[&format!(r#"{{"type":"{long}"}}"#)], &expected);
    }

    #[test]
    fn state_that_is_no_number_is_not_written_over() {
        state::set(RECORDS, "many").unwrap();
        assert!(matches!(process(&Batch::from_json(["1"]), &None), Err(Failure::Stop(_))));
        assert_eq!(state::get(RECORDS).as_deref(), Some(&b"many"[..]));
    }
}
