//! A filter that does what its configuration says, the bad too.

use misdeeds::Misdeed;
use serde::Deserialize;
use tailweir_guest::{Batch, Raw, Verdict};

#[derive(Deserialize)]
#[serde(untagged)]
enum Config {
    Deed(Deed),
    /// Does it, and keeps all.
    Misdeed(Misdeed),
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Deed {
    All,
    None,
    /// Keeps the records whose value at `pointer`, as JSON text, is `equals`.
    Keep {
        pointer: String,
        equals: String,
    },
    /// Keeps the records whose integer at `pointer` is at least `least`.
    AtLeast {
        pointer: String,
        least: i64,
    },
    /// Answers an error that holds everything that the batch has to tell about `pointer`.
    Tell {
        pointer: String,
    },
    /// Answers for `more` records more than there are.
    Misalign {
        more: i64,
    },
    /// Asks for the record behind the last one.
    OutOfRange,
    /// Answers with an error.
    Fail {
        reason: String,
    },
    /// Answers with an error of `bytes` bytes.
    Boast {
        bytes: usize,
    },
}

fn keep(batch: &Batch, config: &Config) -> Result<Verdict, String> {
    let deed = match config {
        Config::Deed(deed) => deed,
        Config::Misdeed(misdeed) => {
            misdeed.commit(batch);
            return Ok(Verdict::All);
        }
    };
    Ok(match deed {
        Deed::All => Verdict::All,
        Deed::None => Verdict::None,
        Deed::Keep { pointer, equals } => batch
            .column::<Raw>(pointer)
            .iter()
            .map(|value| value.as_ref().is_some_and(|v| v.0 == *equals))
            .collect(),
        Deed::AtLeast { pointer, least } => {
            batch.column::<i64>(pointer).iter().map(|value| value.is_some_and(|v| v >= *least)).collect()
        }
        Deed::Tell { pointer } => return Err(tell(batch, pointer)),
        Deed::Misalign { more } => {
            let len = batch.len() as i64 + more;
            Verdict::Keep(vec![true; len.max(0) as usize])
        }
        Deed::OutOfRange => return Err(batch.json(batch.len())),
        Deed::Fail { reason } => return Err(reason.clone()),
        Deed::Boast { bytes } => return Err("x".repeat(*bytes)),
    })
}

tailweir_guest::filter!(keep);

fn tell(batch: &Batch, pointer: &str) -> String {
    let texts: Vec<String> = batch.text().iter().map(str::to_owned).collect();
    assert!(batch.records().map(|record| record.json().into_owned()).eq(texts));
    let strings = batch.column::<String>(pointer);
    assert!(batch.strings(pointer).iter().eq(strings.iter().map(Option::as_deref)));
    let last = batch.position(batch.len() - 1);
    format!(
        "{} | {}:{}:{} | {:?} | {:?} | {:?} | {:?} | {:?}",
        batch.id(),
        last.segment,
        last.line,
        last.offset,
        strings,
        batch.column::<i64>(pointer),
        batch.column::<f64>(pointer),
        batch.column::<bool>(pointer),
        batch.column::<Raw>(pointer).into_iter().map(|v| v.map(|v| v.0)).collect::<Vec<_>>(),
    )
}
