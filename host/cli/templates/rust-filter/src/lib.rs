//! A filter: keeps the records whose `egress_pool` is the one in its configuration.

use serde::Deserialize;
use tailweir_guest::{Batch, Verdict};

/// What the operator says. `config.schema.json` describes it, and is checked before this is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    pool: String,
}

/// Is called once for many records. The verdict on a record must depend on that record and the configuration alone.
fn keep(batch: &Batch, config: &Config) -> Verdict {
    let pools = batch.strings("/egress_pool");
    pools.iter().map(|pool| pool == Some(config.pool.as_str())).collect()
}

tailweir_guest::filter!(keep, config_schema = include_str!("../config.schema.json"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_pool_are_kept() {
        let batch = Batch::from_json([
            r#"{"type":"Delivery","egress_pool":"pool-1"}"#,
            r#"{"type":"Delivery","egress_pool":"pool-2"}"#,
            r#"{"type":"Reception"}"#,
        ]);
        let verdict = keep(&batch, &Config { pool: "pool-1".into() });
        assert_eq!(verdict, Verdict::Keep(vec![true, false, false]));
    }
}
