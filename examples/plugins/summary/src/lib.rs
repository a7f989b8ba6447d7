//! A processor that turns each batch into one record: how many records it has, and how many of each type.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tailweir_guest::{Batch, Failure, Outcome};

// The host is told the schema of this type, and holds configurations to it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The field whose values are counted, as a JSON pointer.
    #[serde(default = "standard_field")]
    #[schemars(regex(pattern = "^/([^~]|~[01])*$"))]
    field: String,
}

fn standard_field() -> String {
    "/type".to_owned()
}

#[derive(Serialize)]
struct Summary<'a> {
    batch: String,
    records: usize,
    types: BTreeMap<&'a str, u64>,
}

fn summarize(batch: &Batch, config: &Option<Config>) -> Result<Outcome, Failure> {
    let field = config.as_ref().map_or("/type", |config| &config.field);
    let values = batch.strings(field);
    let mut types = BTreeMap::new();
    for value in values.iter().flatten() {
        *types.entry(value).or_insert(0) += 1;
    }
    let summary = Summary { batch: batch.id(), records: batch.len(), types };
    let record = serde_json::to_string(&summary).map_err(|e| Failure::stop(e.to_string()))?;
    Ok(Outcome::Emit(vec![record]))
}

tailweir_guest::processor!(summarize);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: Option<Config>, expected: &str) {
        let records = [
            r#"{"type":"Delivery","q":"a"}"#,
            r#"{"type":"Bounce"}"#,
            r#"{"type":"Delivery"}"#,
            r#"{"type":null}"#,
        ];
        let batch = Batch::from_json(records);
        let id = batch.id();
        let record = format!(r#"{{"batch":"{id}","records":4,"types":{expected}}}"#);
        assert_eq!(summarize(&batch, &config), Ok(Outcome::Emit(vec![record])));
    }

    #[test]
    fn records_are_counted_by_type() {
        check(None, r#"{"Bounce":1,"Delivery":2}"#);
    }

    #[test]
    fn another_field_can_be_counted() {
        check(Some(Config { field: "/q".into() }), r#"{"a":1}"#);
    }
}
