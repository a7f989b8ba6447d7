//! Log lines of which there may be one for each record. So many a second of one kind and consumer (or segment) are written; the others
//! are counted, and one line tells their number when the second is over, or the program ends.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::secrets::cross_out;

/// How many lines of one kind and consumer are written in a second.
const LINES: u64 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// How many kinds and consumers are remembered that have nothing to be told of.
const IDLE: usize = 1000;

static FLOODS: LazyLock<Floods> = LazyLock::new(Floods::default);

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Malformed,
    Quarantined,
    Rejected,
    Retried,
    Repaired,
    Damaged,
}

impl Kind {
    /// What there were more of.
    fn what(self) -> &'static str {
        match self {
            Self::Malformed => "lines that are not records",
            Self::Quarantined => "records put in quarantine",
            Self::Rejected => "records rejected",
            Self::Retried => "batches that will be delivered again",
            Self::Repaired => "blocks with records that hold invalid UTF-8",
            Self::Damaged => "places where the segment is damaged",
        }
    }
}

/// Whether a line may be written now. If not, it is counted, and told of within little more than a second.
pub(crate) fn admits(kind: Kind, consumer: &str) -> bool {
    let (admitted, teller) = FLOODS.admit(kind, consumer, Instant::now());
    if teller == Teller::Needed {
        // Without a thread it is told in the end.
        let _ = thread::Builder::new().name("log".to_owned()).spawn(|| {
            loop {
                thread::sleep(SECOND);
                if tell() == Teller::NotNeeded {
                    return;
                }
            }
        });
    }
    admitted == Admitted::Yes
}

/// Tells what was not told yet, as the program ends.
pub(crate) fn finish() {
    tell();
}

fn tell() -> Teller {
    let (left_out, teller) = FLOODS.take();
    for LeftOut { kind, consumer, lines } in left_out {
        let what = kind.what();
        let (consumer, segment) =
            if kind == Kind::Damaged { (None, Some(consumer)) } else { (Some(consumer), None) };
        warn!(target: crate::logging::TARGET, consumer, segment, "{lines} more {what}, of which no line tells: there were more than {LINES} in a second");
    }
    teller
}

/// Lines that were not written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LeftOut {
    kind: Kind,
    consumer: String,
    lines: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    Yes,
    No,
}

/// Whether somebody must come back to tell what was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    Needed,
    NotNeeded,
}

#[derive(Default)]
struct Floods(Mutex<State>);

#[derive(Default)]
struct State {
    seconds: HashMap<(Kind, String), Second>,
    /// Somebody will ask what is due.
    teller: bool,
}

/// What was written within a second, and what was not.
struct Second {
    began: Instant,
    lines: u64,
    left_out: u64,
}

impl Second {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= SECOND
    }
}

impl Floods {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line may be written, and whether this is the first one that somebody must be told of later.
    fn admit(&self, kind: Kind, consumer: &str, now: Instant) -> (Admitted, Teller) {
        let mut state = self.lock();
        if state.seconds.len() > IDLE {
            state.seconds.retain(|_, second| second.left_out > 0 || !second.is_over(now));
        }
        let fresh = || Second { began: now, lines: 0, left_out: 0 };
        let second = state.seconds.entry((kind, consumer.to_owned())).or_insert_with(fresh);
        if second.is_over(now) {
            // What was left out before is still to be told, by whoever has been asked to.
            (second.began, second.lines) = (now, 0);
        }
        if second.lines < LINES {
            second.lines += 1;
            return (Admitted::Yes, Teller::NotNeeded);
        }
        second.left_out += 1;
        match std::mem::replace(&mut state.teller, true) {
            true => (Admitted::No, Teller::NotNeeded),
            false => (Admitted::No, Teller::Needed),
        }
    }

    /// What was left out and not told yet, in order, and whether to ask again in a second.
    fn take(&self) -> (Vec<LeftOut>, Teller) {
        let mut state = self.lock();
        let seconds = state.seconds.iter_mut().filter(|(_, second)| second.left_out > 0);
        let left_out = |((kind, consumer), second): (&(Kind, String), &mut Second)| LeftOut {
            kind: *kind,
            consumer: consumer.clone(),
            lines: std::mem::take(&mut second.left_out),
        };
        let mut all: Vec<LeftOut> = seconds.map(left_out).collect();
        all.sort_unstable();
        state.teller = !all.is_empty();
        (all, if state.teller { Teller::Needed } else { Teller::NotNeeded })
    }
}

/// How many bytes of a reason are written.
const REASON: usize = 1000;

/// A reason as a log line has it, which nobody reads to the end if it is very long. A quarantine has more of it.
pub(crate) fn shortened(reason: &str) -> Cow<'_, str> {
    // Before it is cut: half a secret would not be recognised.
    let mut reason = cross_out(reason);
    // Tracebacks have tabs, which a log line would show as `\t`.
    if reason.contains('\t') {
        reason = Cow::Owned(reason.replace('\t', "    "));
    }
    if reason.len() <= REASON {
        return reason;
    }
    let end = reason.floor_char_boundary(REASON);
    Cow::Owned(format!("{}… ({} more bytes)", &reason[..end], reason.len() - end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_written_or_told_of() {
        let (floods, start) = (Floods::default(), Instant::now());
        let mut random = fastrand::Rng::with_seed(4);
        let (mut now, mut last_told) = (Duration::ZERO, Duration::ZERO);
        let (mut teller, mut offered, mut written, mut told) = (false, 0, 0, 0);
        let mut in_second = std::collections::BTreeMap::<(Kind, u64), u64>::new();
        for _ in 0..50_000 {
            now += Duration::from_micros(random.u64(0..2_000));
            if random.u32(0..2_000) == 0 {
                now += Duration::from_secs(random.u64(1..10));
            }
            let kind = if random.bool() { Kind::Malformed } else { Kind::Rejected };
            offered += 1;
            let (admitted, asked) = floods.admit(kind, "c", start + now);
            if admitted == Admitted::Yes {
                written += 1;
                *in_second.entry((kind, now.as_secs())).or_default() += 1;
            }
            if asked == Teller::Needed {
                assert!(!teller, "one is enough");
                (teller, last_told) = (true, now);
            }
            if teller && now - last_told >= SECOND {
                let (left_out, again) = floods.take();
                told += left_out.iter().map(|left_out| left_out.lines).sum::<u64>();
                (teller, last_told) = (again == Teller::Needed, now);
            }
        }
        told += floods.take().0.iter().map(|left_out| left_out.lines).sum::<u64>();
        assert_eq!(written + told, offered);
        assert!(told > offered / 2, "{told}");
        // A second of the clock touches two of ours at most.
        assert!(in_second.values().all(|lines| *lines <= 2 * LINES), "{in_second:?}");
    }

    #[test]
    fn kinds_and_consumers_are_apart_and_forgotten_when_idle() {
        let (floods, now) = (Floods::default(), Instant::now());
        for _ in 0..=LINES {
            for (kind, consumer) in [(Kind::Rejected, "b"), (Kind::Malformed, "b"), (Kind::Rejected, "a")] {
                floods.admit(kind, consumer, now);
            }
        }
        let left_out = |kind, consumer: &str| LeftOut { kind, consumer: consumer.to_owned(), lines: 1 };
        let expected =
            [left_out(Kind::Malformed, "b"), left_out(Kind::Rejected, "a"), left_out(Kind::Rejected, "b")];
        assert_eq!(floods.take(), (expected.to_vec(), Teller::Needed));
        assert_eq!(floods.take(), (vec![], Teller::NotNeeded));
        for n in 0..10 * IDLE {
            floods.admit(Kind::Retried, &n.to_string(), now + SECOND * n as u32);
        }
        assert!(floods.lock().seconds.len() <= IDLE + 1);
    }

    #[test]
    fn long_reasons_are_shortened() {
        assert_eq!(shortened("why"), "why");
        assert_eq!(shortened("why:\n\tin x"), "why:\n    in x");
        let long = "é".repeat(REASON);
        assert_eq!(shortened(&long), format!("{}… (1000 more bytes)", "é".repeat(REASON / 2)));
    }
}
