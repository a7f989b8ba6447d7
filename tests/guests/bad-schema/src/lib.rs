//! A filter that keeps everything, and says of its configuration what is no JSON schema.

use tailweir_guest::{Batch, Verdict};

fn keep(_: &Batch) -> Verdict {
    Verdict::All
}

tailweir_guest::filter!(keep, config_schema = r#"{"type":"strnig"}"#);
