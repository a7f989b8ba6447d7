//! Two answers to one batch.

use tailweir_core::{Batch, Failure, Outcome, Position, Verdict};

/// How much of a record that was emitted is shown.
const SHOWN: usize = 200;

/// How many examples one batch gives.
const EXAMPLES: usize = 5;

/// What a plug-in has answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Verdict(Verdict),
    Processed(Result<Outcome, Failure>),
}

/// The same, not yet copied.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said<'a> {
    Verdict(&'a Verdict),
    Processed(&'a Result<Outcome, Failure>),
}

impl Said<'_> {
    /// How much memory a copy takes, short texts aside.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Verdict(Verdict::Keep(keep)) => keep.len(),
            Self::Processed(Ok(Outcome::Emit(records))) => {
                records.iter().map(|record| record.len() + size_of::<String>()).sum()
            }
            Self::Processed(Err(Failure::Reject { indices, .. })) => size_of_val(&**indices),
            Self::Verdict(_) | Self::Processed(_) => 0,
        }
    }

    pub(super) fn to_owned(self) -> Answer {
        match self {
            Self::Verdict(verdict) => Answer::Verdict(verdict.clone()),
            Self::Processed(answer) => Answer::Processed(answer.clone()),
        }
    }
}

/// How the answer of a shadow compares with that of the live plug-in.
#[derive(Debug, PartialEq)]
pub(super) enum Compared {
    /// The shadow gave none.
    Failed {
        /// Why.
        reason: String,
    },
    Answered {
        /// Records on which the answers differ.
        differing: u64,
        /// The first of them, with the live answer and the shadow's.
        examples: Vec<(Position, String, String)>,
    },
}

/// Compares the answers to `batch`. Where a processor answers on a batch as a whole, all its records differ or none does. The
/// words of a reason make no difference, nor does how long a retry is to wait.
pub(super) fn compare(batch: &Batch, live: &Answer, shadow: &Result<Answer, String>) -> Compared {
    let failed = |reason: &str| Compared::Failed { reason: clip(reason) };
    match (live, shadow) {
        (_, Err(reason)) => failed(reason),
        (Answer::Verdict(live), Ok(Answer::Verdict(shadow))) => verdicts(batch, live, shadow),
        (Answer::Processed(live), Ok(Answer::Processed(shadow))) => match (live, shadow) {
            // Whether or not the live one has crashed, too: a version that crashes is not as good as any.
            (_, Err(Failure::Crash { reason })) => failed(reason),
            (Ok(Outcome::Emit(live)), Ok(Outcome::Emit(shadow)))
                if live.len() == batch.len() && shadow.len() == batch.len() =>
            {
                emitted(batch, live, shadow)
            }
            _ if is_same(live, shadow) => whole(batch, None),
            _ => whole(batch, Some((said(live, shadow), said(shadow, live)))),
        },
        (Answer::Verdict(_), Ok(Answer::Processed(_))) | (Answer::Processed(_), Ok(Answer::Verdict(_))) => {
            failed("it is of another kind")
        }
    }
}

/// Both have answered on the batch as a whole; if they differ, what either says.
fn whole(batch: &Batch, differ: Option<(String, String)>) -> Compared {
    let differing = if differ.is_some() { batch.len() as u64 } else { 0 };
    let examples = placed(batch, differ.into_iter().map(|(live, shadow)| (0, live, shadow)).collect());
    Compared::Answered { differing, examples }
}

fn placed(batch: &Batch, pairs: Vec<(usize, String, String)>) -> Vec<(Position, String, String)> {
    let place = |(index, live, shadow)| Some((batch.get(index)?.position(), live, shadow));
    pairs.into_iter().filter_map(place).collect()
}

fn verdicts(batch: &Batch, live: &Verdict, shadow: &Verdict) -> Compared {
    let differ = || (0..batch.len()).filter(|index| live.keeps(*index) != shadow.keeps(*index));
    let word = |verdict: &Verdict, index| if verdict.keeps(index) { "keep" } else { "drop" }.to_owned();
    let pairs = differ().take(EXAMPLES).map(|index| (index, word(live, index), word(shadow, index)));
    Compared::Answered { differing: differ().count() as u64, examples: placed(batch, pairs.collect()) }
}

/// Both have emitted one record for each of the batch.
fn emitted(batch: &Batch, live: &[String], shadow: &[String]) -> Compared {
    let differ = || live.iter().zip(shadow).enumerate().filter(|(_, (live, shadow))| live != shadow);
    let pairs = differ().take(EXAMPLES).map(|(index, (live, shadow))| (index, clip(live), clip(shadow)));
    Compared::Answered { differing: differ().count() as u64, examples: placed(batch, pairs.collect()) }
}

fn is_same(live: &Result<Outcome, Failure>, shadow: &Result<Outcome, Failure>) -> bool {
    match (live, shadow) {
        (Ok(live), Ok(shadow)) => live == shadow,
        (Err(Failure::Reject { indices: live, .. }), Err(Failure::Reject { indices: shadow, .. })) => {
            live == shadow
        }
        (Err(live), Err(shadow)) => std::mem::discriminant(live) == std::mem::discriminant(shadow),
        _ => false,
    }
}

/// An answer in words, with what tells it from the other.
fn said(answer: &Result<Outcome, Failure>, other: &Result<Outcome, Failure>) -> String {
    match (answer, other) {
        (Ok(Outcome::Done), _) => "done".to_owned(),
        (Ok(Outcome::Emit(records)), Ok(Outcome::Emit(others))) => {
            let at = records.iter().zip(others).position(|(record, other)| record != other);
            let at = at.unwrap_or(records.len().min(others.len()));
            let record = records.get(at).map(|record| format!(", then {}", clip(record)));
            format!("emit {}, {at} of them the same{}", records.len(), record.unwrap_or_default())
        }
        (Ok(Outcome::Emit(records)), _) => format!("emit {}", records.len()),
        (Err(Failure::Reject { indices, reason }), _) => {
            format!("reject {}: {}", indices.len(), clip(reason))
        }
        (Err(failure), _) => clip(&failure.to_string()),
    }
}

fn clip(text: &str) -> String {
    let plain = |text: &str| text.replace(char::is_control, " ");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => plain(&text[..end]) + "…",
        None => plain(text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::batch;
    use super::*;
    use std::time::Duration;

    fn check(live: Answer, shadow: Answer, expected: &[&str], count: u64) {
        let Compared::Answered { differing, examples } = compare(&batch(3), &live, &Ok(shadow.clone()))
        else {
            panic!("{live:?} {shadow:?}")
        };
        let examples: Vec<String> =
            examples.into_iter().map(|(at, live, shadow)| format!("{at} {live} | {shadow}")).collect();
        assert_eq!(
            (examples.iter().map(String::as_str).collect::<Vec<_>>(), differing),
            (expected.to_vec(), count)
        );
    }

    #[test]
    fn answers_are_compared_by_what_they_mean() {
        let emit = |texts: &[&str]| {
            Answer::Processed(Ok(Outcome::Emit(texts.iter().map(|t| (*t).to_owned()).collect())))
        };
        let reject = |indices: &[u32], reason: &str| {
            Answer::Processed(Err(Failure::Reject { indices: indices.into(), reason: reason.to_owned() }))
        };
        let retry = |after: Option<Duration>, reason: &str| {
            Answer::Processed(Err(Failure::Retry { after, reason: reason.to_owned() }))
        };
        let done = || Answer::Processed(Ok(Outcome::Done));
        check(Answer::Verdict(Verdict::All), Answer::Verdict(Verdict::Keep(vec![true; 3])), &[], 0);
        let some = Answer::Verdict(Verdict::Keep(vec![false, true, true]));
        check(some, Answer::Verdict(Verdict::None), &["s:2 keep | drop", "s:3 keep | drop"], 2);
        check(done(), done(), &[], 0);
        check(done(), emit(&[]), &["s:1 done | emit 0"], 3);
        check(emit(&["1", "2", "3"]), emit(&["1", "2", "4"]), &["s:3 3 | 4"], 1);
        check(
            emit(&["1", "2"]),
            emit(&["1"]),
            &["s:1 emit 2, 1 of them the same, then 2 | emit 1, 1 of them the same"],
            3,
        );
        check(reject(&[1], "a"), reject(&[1], "b"), &[], 0);
        check(reject(&[1], "a"), reject(&[1, 2], "b"), &["s:1 reject 1: a | reject 2: b"], 3);
        check(retry(None, "a"), retry(Some(Duration::from_secs(1)), "b"), &[], 0);
        check(retry(None, "a"), done(), &["s:1 retry: a | done"], 3);
        let crash = || Answer::Processed(Err(Failure::Crash { reason: "trap".to_owned() }));
        check(crash(), done(), &["s:1 trap | done"], 3);
        let failed = |reason: &str| Compared::Failed { reason: reason.to_owned() };
        assert_eq!(compare(&batch(1), &done(), &Ok(crash())), failed("trap"));
        assert_eq!(compare(&batch(1), &crash(), &Ok(crash())), failed("trap"), "it is no better");
        assert_eq!(compare(&batch(1), &done(), &Err("a\nb".to_owned())), failed("a b"));
    }
}
