//! The ledger against a naive model: a set of acknowledged lines per segment.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tailweir_core::{Advance, Frame, Identity, Ledger, LedgerError, Mark, Point, SegmentName, Span, Ticket};

const MOVED: Advance = Advance { moved: true, held: false };
const HELD: Advance = Advance { moved: false, held: true };
const IDENTITY: Identity = Identity { inode: 1, head_len: 0, head: 0 };

fn name(segment: u8) -> SegmentName {
    SegmentName::new(&format!("segment-{segment}")).unwrap()
}

fn mark(line: u64) -> Mark {
    Mark { point: Point { line, offset: line * 100 }, frame: Frame::default() }
}

fn span(segment: u8, from: u64, to: u64) -> Span {
    Span { segment: name(segment), identity: IDENTITY, from: mark(from).point, to: mark(to) }
}

#[derive(Debug, Clone)]
enum Action {
    /// Deliver so many more lines of each of these segments, as one batch.
    Deliver(Vec<(u8, u64)>),
    /// Acknowledge the delivery at this index among those outstanding.
    Ack(prop::sample::Index),
    /// The segment is read to its end.
    End(u8),
    /// Forget everything in memory and go on from the frontier, as after a crash.
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => prop::collection::btree_map(0u8..4, 1u64..5, 1..3).prop_map(|m| Action::Deliver(m.into_iter().collect())),
        4 => any::<prop::sample::Index>().prop_map(Action::Ack),
        1 => (0u8..4).prop_map(Action::End),
        1 => Just(Action::Restart),
    ]
}

/// What a segment of the model has had.
#[derive(Default)]
struct Lines {
    delivered: u64,
    acked: BTreeSet<u64>,
    ended: bool,
}

impl Lines {
    fn prefix(&self) -> u64 {
        (1..).take_while(|line| self.acked.contains(line)).count() as u64
    }
}

/// A segment, and the lines `(from, to]` of it.
type Given = (u8, u64, u64);

#[derive(Default)]
struct Model {
    segments: BTreeMap<u8, Lines>,
    outstanding: Vec<(Ticket, Vec<Given>)>,
}

impl Model {
    fn check(&self, ledger: &mut Ledger, finished: &mut BTreeSet<SegmentName>) {
        finished.extend(ledger.take_finished());
        let frontier = ledger.frontier();
        for (segment, lines) in &self.segments {
            let done = lines.ended && lines.prefix() == lines.delivered;
            match frontier.segments.get(&name(*segment)) {
                Some(progress) => {
                    assert_eq!(progress.mark.point.line, lines.prefix(), "frontier of segment {segment}");
                    assert_eq!(progress.finished, done, "segment {segment}");
                }
                None => assert!(
                    done && finished.contains(&name(*segment)),
                    "segment {segment} left the frontier early"
                ),
            }
        }
        assert_eq!(ledger.outstanding(), self.outstanding.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_frontier_is_the_acknowledged_prefix(actions in prop::collection::vec(action(), 1..60)) {
        let (mut ledger, mut model, mut finished) = (Ledger::default(), Model::default(), BTreeSet::new());
        for action in actions {
            match action {
                Action::Deliver(parts) => {
                    let mut spans = Vec::new();
                    let mut given = Vec::new();
                    for (segment, lines) in parts {
                        let state = model.segments.entry(segment).or_default();
                        if !state.ended {
                            given.push((segment, state.delivered, state.delivered + lines));
                            spans.push(span(segment, state.delivered, state.delivered + lines));
                            state.delivered += lines;
                        }
                    }
                    let ticket = ledger.deliver(&spans).unwrap();
                    model.outstanding.push((ticket, given));
                }
                Action::Ack(index) if !model.outstanding.is_empty() => {
                    let (ticket, given) = model.outstanding.remove(index.index(model.outstanding.len()));
                    ledger.ack(ticket).unwrap();
                    for (segment, from, to) in given {
                        model.segments.get_mut(&segment).unwrap().acked.extend(from + 1..=to);
                    }
                    prop_assert_eq!(ledger.ack(ticket), Err(LedgerError::UnknownTicket));
                }
                Action::End(segment) => {
                    let state = model.segments.entry(segment).or_default();
                    state.ended = true;
                    if !finished.contains(&name(segment)) {
                        ledger.end_segment(&name(segment), mark(state.delivered), IDENTITY);
                    }
                }
                Action::Restart => {
                    ledger = Ledger::new(&ledger.frontier());
                    model.outstanding.clear();
                    for state in model.segments.values_mut() {
                        let prefix = state.prefix();
                        state.ended &= prefix == state.delivered;
                        state.delivered = prefix;
                        state.acked.retain(|line| *line <= prefix);
                    }
                }
                Action::Ack(_) => {}
            }
            model.check(&mut ledger, &mut finished);
        }
    }
}

#[test]
fn a_gap_or_an_overlap_is_refused_and_changes_nothing() {
    let mut ledger = Ledger::default();
    let ticket = ledger.deliver(&[span(1, 0, 10)]).unwrap();
    for (from, to) in [(11, 12), (9, 12), (0, 10)] {
        let refused = ledger.deliver(&[span(2, 0, 5), span(1, from, to)]);
        assert!(matches!(refused, Err(LedgerError::Gap { expected: 10, .. })), "{refused:?}");
    }
    assert!(matches!(ledger.deliver(&[span(1, 10, 9)]), Err(LedgerError::Backwards { .. })));
    assert_eq!(ledger.outstanding(), 1);
    assert_eq!(ledger.ack(ticket), Ok(MOVED));
    assert!(ledger.deliver(&[span(2, 0, 5), span(1, 10, 12)]).is_ok());
}

#[test]
fn nothing_is_delivered_of_a_segment_that_was_read_to_its_end() {
    let mut ledger = Ledger::default();
    let ticket = ledger.deliver(&[span(1, 0, 10)]).unwrap();
    ledger.end_segment(&name(1), mark(10), IDENTITY);
    let finished = LedgerError::Finished { segment: name(1) };
    assert_eq!(ledger.deliver(&[span(2, 0, 5), span(1, 10, 12)]), Err(finished.clone()));
    assert_eq!(ledger.ack(ticket), Ok(MOVED));
    let start = ledger.frontier();
    assert_eq!(Ledger::new(&start).deliver(&[span(1, 10, 12)]), Err(finished), "after a restart neither");
}

#[test]
fn the_second_batch_waits_for_the_first() {
    let mut ledger = Ledger::default();
    let first = ledger.deliver(&[span(1, 0, 10)]).unwrap();
    let second = ledger.deliver(&[span(1, 10, 20)]).unwrap();
    assert_eq!(ledger.ack(second), Ok(HELD));
    assert_eq!(ledger.frontier().segments[&name(1)].mark.point.line, 0);
    assert_eq!(ledger.ack(first), Ok(MOVED));
    assert_eq!(ledger.frontier().segments[&name(1)].mark, mark(20));
}

#[test]
fn one_segment_moves_while_another_is_held() {
    let mut ledger = Ledger::default();
    let _first = ledger.deliver(&[span(1, 0, 10)]).unwrap();
    let second = ledger.deliver(&[span(1, 10, 20), span(2, 0, 5)]).unwrap();
    assert_eq!(ledger.ack(second), Ok(Advance { moved: true, held: true }));
    assert_eq!(ledger.frontier().segments[&name(2)].mark, mark(5));
}
