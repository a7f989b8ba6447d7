//! The commit ledger: which stretches of the stream a consumer was given, which of them it acknowledged, and how far the
//! acknowledged prefix, the *frontier*, reaches.
//!
//! Each segment has a frontier of its own. Spans of one segment chain without gap or overlap; acknowledgements come in
//! any order; the frontier moves over the acknowledged prefix only, and never back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

use crate::{Identity, Mark, Point, SegmentName, Span};

/// How far a consumer has come: the part of its state that a checkpoint keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    /// Segments that are begun and not finished, or finished last of all, in order.
    pub segments: BTreeMap<SegmentName, Progress>,
}

/// How far into one segment a frontier reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Everything before this point is dealt with.
    pub mark: Mark,
    /// The file that it was in, if known.
    pub identity: Option<Identity>,
    /// Whether the segment is sealed and the mark is its end.
    pub finished: bool,
}

/// Names a delivery. Tickets of one ledger are never equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Why the ledger refuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// A span does not begin where the one before it ended.
    #[error("span of {segment} begins after line {from} but the previous one ended at line {expected}")]
    Gap {
        /// The segment.
        segment: SegmentName,
        /// Where the span begins.
        from: u64,
        /// Where it should.
        expected: u64,
    },
    /// A span ends before it begins.
    #[error("span of {segment} ends before it begins, at line {line}")]
    Backwards {
        /// The segment.
        segment: SegmentName,
        /// Where it begins.
        line: u64,
    },
    /// A span lies in a segment that was read to its end.
    #[error("segment {segment} was read to its end already")]
    Finished {
        /// The segment.
        segment: SegmentName,
    },
    /// No delivery has this ticket, or it was acknowledged before.
    #[error("no delivery with this ticket awaits acknowledgement")]
    UnknownTicket,
}

/// One consumer's deliveries and acknowledgements.
#[derive(Debug, Default)]
pub struct Ledger {
    segments: BTreeMap<SegmentName, Account>,
    /// Deliveries not acknowledged, with the segments that each touches.
    outstanding: BTreeMap<Ticket, Vec<SegmentName>>,
    /// Finished segments that have left the frontier since [`Ledger::take_finished`] was called last.
    finished: Vec<SegmentName>,
    next: u64,
}

/// One segment's deliveries.
#[derive(Debug)]
struct Account {
    acked: Mark,
    delivered: Point,
    identity: Option<Identity>,
    pending: VecDeque<Pending>,
    /// The whole segment was delivered and nothing will follow.
    ended: bool,
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    to: Mark,
    acked: bool,
}

impl Account {
    fn at(mark: Mark, identity: Option<Identity>) -> Self {
        Self { acked: mark, delivered: mark.point, identity, pending: VecDeque::new(), ended: false }
    }

    fn is_finished(&self) -> bool {
        self.ended && self.pending.is_empty()
    }

    fn advance(&mut self) {
        while self.pending.front().is_some_and(|p| p.acked) {
            if let Some(pending) = self.pending.pop_front() {
                self.acked = pending.to;
            }
        }
    }
}

impl Ledger {
    /// A ledger that goes on from `start`. Segments that are not in it start at their first line.
    pub fn new(start: &Frontier) -> Self {
        let account = |(name, p): (&SegmentName, &Progress)| {
            let mut account = Account::at(p.mark, p.identity);
            account.ended = p.finished;
            (name.clone(), account)
        };
        Self { segments: start.segments.iter().map(account).collect(), ..Self::default() }
    }

    /// Records a delivery of these spans and returns the ticket to acknowledge it with.
    ///
    /// # Errors
    /// If a span does not begin where the segment's last one ended. Then nothing is recorded.
    pub fn deliver(&mut self, spans: &[Span]) -> Result<Ticket, LedgerError> {
        let mut ends: BTreeMap<&SegmentName, u64> = BTreeMap::new();
        for span in spans {
            let account = self.segments.get(&span.segment);
            if account.is_some_and(|a| a.ended) {
                return Err(LedgerError::Finished { segment: span.segment.clone() });
            }
            let expected =
                ends.get(&span.segment).copied().or(account.map(|a| a.delivered.line)).unwrap_or(0);
            if span.from.line != expected {
                return Err(LedgerError::Gap {
                    segment: span.segment.clone(),
                    from: span.from.line,
                    expected,
                });
            }
            if span.to.point.line < span.from.line {
                return Err(LedgerError::Backwards { segment: span.segment.clone(), line: span.from.line });
            }
            ends.insert(&span.segment, span.to.point.line);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        for span in spans {
            let start = Mark { point: span.from, ..Mark::default() };
            let account =
                self.segments.entry(span.segment.clone()).or_insert_with(|| Account::at(start, None));
            account.identity = Some(span.identity);
            account.delivered = span.to.point;
            account.pending.push_back(Pending { ticket, to: span.to, acked: false });
        }
        self.outstanding.insert(ticket, spans.iter().map(|s| s.segment.clone()).collect());
        Ok(ticket)
    }

    /// Acknowledges a delivery. The frontier does not move in a segment of which an earlier delivery awaits
    /// acknowledgement.
    ///
    /// # Errors
    /// If the ticket is not outstanding.
    pub fn ack(&mut self, ticket: Ticket) -> Result<Advance, LedgerError> {
        let touched = self.outstanding.remove(&ticket).ok_or(LedgerError::UnknownTicket)?;
        let mut moved = touched.is_empty();
        let mut held = false;
        for name in touched {
            let Some(account) = self.segments.get_mut(&name) else {
                continue;
            };
            let before = account.acked.point.line;
            account.pending.iter_mut().filter(|p| p.ticket == ticket).for_each(|p| p.acked = true);
            account.advance();
            moved |= account.acked.point.line > before;
            held |= account.pending.iter().any(|p| p.ticket == ticket);
        }
        self.retire();
        Ok(Advance { moved, held })
    }

    /// Says that a segment is there of which nothing was delivered yet: the frontier holds its first line.
    pub fn begin_segment(&mut self, segment: &SegmentName) {
        self.segments.entry(segment.clone()).or_insert_with(|| Account::at(Mark::default(), None));
        self.retire();
    }

    /// Says that a segment is sealed and wholly delivered. It is finished once all of it is acknowledged.
    pub fn end_segment(&mut self, segment: &SegmentName, end: Mark, identity: Identity) {
        let account =
            self.segments.entry(segment.clone()).or_insert_with(|| Account::at(Mark::default(), None));
        account.identity = Some(identity);
        account.ended = true;
        if account.pending.is_empty() && account.acked.point.line <= end.point.line {
            account.acked = end;
        }
        self.retire();
    }

    /// Says that a segment was replaced by another file of the same name, which is read from its start. What was
    /// delivered from the old one may still be acknowledged, without effect on the frontier.
    pub fn restart_segment(&mut self, segment: &SegmentName) {
        self.segments.remove(segment);
        for touched in self.outstanding.values_mut() {
            touched.retain(|name| name != segment);
        }
    }

    /// Says that a segment is gone from the directory for good: it no longer holds the frontier.
    pub fn forget_segment(&mut self, segment: &SegmentName) {
        self.restart_segment(segment);
        self.retire();
    }

    /// Drops finished segments from the frontier, but for the last segment of all: its place is what a checkpoint names.
    fn retire(&mut self) {
        let Some(last) = self.segments.keys().next_back().cloned() else {
            return;
        };
        let finished: BTreeSet<_> = self
            .segments
            .iter()
            .filter(|(name, a)| a.is_finished() && **name != last)
            .map(|(n, _)| n.clone())
            .collect();
        self.segments.retain(|name, _| !finished.contains(name));
        self.finished.extend(finished);
    }

    /// Segments that were finished since the last call and are no longer in the frontier.
    pub fn take_finished(&mut self) -> Vec<SegmentName> {
        std::mem::take(&mut self.finished)
    }

    /// The acknowledged prefix of each segment that is not retired.
    pub fn frontier(&self) -> Frontier {
        let progress =
            |a: &Account| Progress { mark: a.acked, identity: a.identity, finished: a.is_finished() };
        Frontier { segments: self.segments.iter().map(|(name, a)| (name.clone(), progress(a))).collect() }
    }

    /// How many deliveries await acknowledgement.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }
}

/// What an acknowledgement did to the frontier. Both may be so: a batch can touch several segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// It moved in some segment.
    pub moved: bool,
    /// In some segment an earlier delivery holds it back.
    pub held: bool,
}
