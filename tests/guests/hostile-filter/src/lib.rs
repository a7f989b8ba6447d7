//! A filter that does what its configuration says, the bad too.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use tailweir_guest::{Batch, Raw, Verdict};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Config {
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
    /// Panics on the batches that hold a record with `"poison":true`.
    PanicOnPoison,
    /// Panics on its `call`th call, counted from 1; keeps all until then.
    PanicAt {
        call: u64,
    },
    /// Executes an instruction that no host can go on from.
    Trap,
    Loop,
    /// Takes memory until there is no more.
    Eat,
    /// Answers for `more` records more than there are.
    Misalign {
        more: i64,
    },
    /// Asks for the record behind the last one.
    OutOfRange,
    /// Calls itself until there is no more stack.
    Recurse,
    /// Logs `lines` lines of `bytes` bytes.
    Flood {
        lines: u32,
        bytes: usize,
    },
    /// Answers with an error.
    Fail {
        reason: String,
    },
}

static CALLS: AtomicU64 = AtomicU64::new(0);

fn keep(batch: &Batch, config: &Config) -> Result<Verdict, String> {
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    Ok(match config {
        Config::All => Verdict::All,
        Config::None => Verdict::None,
        Config::Keep { pointer, equals } => batch
            .column::<Raw>(pointer)
            .iter()
            .map(|value| value.as_ref().is_some_and(|v| v.0 == *equals))
            .collect(),
        Config::AtLeast { pointer, least } => {
            batch.column::<i64>(pointer).iter().map(|value| value.is_some_and(|v| v >= *least)).collect()
        }
        Config::Tell { pointer } => return Err(tell(batch, pointer)),
        Config::PanicOnPoison => {
            let poison = batch.column::<bool>("/poison").iter().position(|poison| *poison == Some(true));
            if let Some(index) = poison {
                panic!("record {index} is poison");
            }
            Verdict::All
        }
        Config::PanicAt { call: at } if call == *at => panic!("this is call {call}"),
        Config::PanicAt { .. } => Verdict::All,
        Config::Trap => trap(),
        Config::Loop => loop {
            std::hint::black_box(call);
        },
        Config::Eat => eat(),
        Config::Misalign { more } => {
            let len = batch.len() as i64 + more;
            Verdict::Keep(vec![true; len.max(0) as usize])
        }
        Config::OutOfRange => return Err(batch.json(batch.len())),
        Config::Recurse => return Err(recurse(call).to_string()),
        Config::Flood { lines, bytes } => {
            for _ in 0..*lines {
                tailweir_guest::info!("{}", "x".repeat(*bytes));
            }
            Verdict::All
        }
        Config::Fail { reason } => return Err(reason.clone()),
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
        "{}\n{}:{}:{}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
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

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

fn eat() -> ! {
    let mut eaten = Vec::new();
    loop {
        eaten.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1))) + 1
}
