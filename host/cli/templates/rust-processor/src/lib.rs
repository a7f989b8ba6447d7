//! A processor: counts the records of each batch by their `type`, and emits one record with the counts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use tailweir_guest::{Batch, Failure, Outcome};

/// What the operator says. `config.schema.json` describes it, and is checked before this is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "summary")]
    name: String,
}

fn summary() -> String {
    "summary".to_owned()
}

/// Is called once per batch. What it emits is written to the consumer's sink, and then the batch is done; it may also ask for
/// the batch again, or have records put in quarantine: see `Failure`. A batch can come more than once, with the same id.
fn process(batch: &Batch, config: &Option<Config>) -> Result<Outcome, Failure> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for kind in batch.strings("/type").iter() {
        *counts.entry(kind.unwrap_or("none").to_owned()).or_default() += 1;
    }
    let name = config.as_ref().map_or_else(summary, |config| config.name.clone());
    Ok(Outcome::Emit(vec![json!({ "type": name, "counts": counts }).to_string()]))
}

tailweir_guest::processor!(process, config_schema = include_str!("../config.schema.json"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_type() {
        let batch = Batch::from_json([
            r#"{"type":"Delivery"}"#,
            r#"{"type":"Bounce"}"#,
            r#"{"type":"Delivery"}"#,
        ]);
        let emitted = r#"{"type":"summary","counts":{"Bounce":1,"Delivery":2}}"#.to_owned();
        assert_eq!(process(&batch, &None), Ok(Outcome::Emit(vec![emitted])));
    }
}
