//! A filter that wants state, which no filter gets.

use tailweir_guest::{Batch, Verdict, state};

fn keep(_: &Batch) -> Verdict {
    if state::get("all").is_some() { Verdict::All } else { Verdict::None }
}

tailweir_guest::filter!(keep);
