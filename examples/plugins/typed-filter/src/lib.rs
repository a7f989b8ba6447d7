//! A filter that takes each record as a value of a type of its own, and keeps those of one egress pool.
//!
//! Where one column is enough, `pool-filter` shows the faster way; this is for conditions over many fields.

use serde::Deserialize;
use tailweir_guest::{Batch, Verdict};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    pool: String,
}

/// The part of a record that conditions can be written over. A record that doesn't fit is not kept.
#[derive(Deserialize)]
struct Record {
    #[serde(rename = "type")]
    _kind: String,
    #[serde(rename = "size")]
    _size: u64,
    egress_pool: Option<String>,
}

fn keep(batch: &Batch, config: &Config) -> Verdict {
    let is_of_pool = |record: Record| record.egress_pool.as_ref() == Some(&config.pool);
    batch.parse().map(|record| record.is_ok_and(is_of_pool)).collect()
}

tailweir_guest::filter!(keep, config_schema = include_str!("../config.schema.json"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_pool_are_kept() {
        let batch = Batch::from_json([
            r#"{"type":"Delivery","size":1,"egress_pool":"pool-1"}"#,
            r#"{"type":"Delivery","size":1,"egress_pool":"pool-2"}"#,
            r#"{"type":"Reception","size":1,"egress_pool":null}"#,
            r#"{"type":"Reception"}"#,
        ]);
        let verdict = keep(&batch, &Config { pool: "pool-1".into() });
        assert_eq!(verdict, Verdict::Keep(vec![true, false, false, false]));
    }
}
