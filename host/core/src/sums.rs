//! What became of the lines that a consumer was given.

use std::fmt;

/// Lines, and what became of them. Each line is in one of the terms, so that they add up to `lines`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Lines scanned, of every kind.
    pub lines: u64,
    /// Records in batches that were acknowledged.
    pub acknowledged: u64,
    /// Records that the filter kept, and that are in no acknowledged batch yet.
    pub in_flight: u64,
    /// Records that the filter dropped.
    pub filtered: u64,
    /// Records and lines that are in quarantine.
    pub quarantined: u64,
    /// Records and lines that nothing could be done with and that are kept nowhere: there is no quarantine without a
    /// checkpoint, and malformed lines may be skipped by request.
    pub rejected: u64,
    /// Lines with nothing in them.
    pub blank: u64,
}

impl Sums {
    /// The lines of which it is known what became of them.
    pub fn accounted(&self) -> u64 {
        self.acknowledged + self.in_flight + self.filtered + self.quarantined + self.rejected + self.blank
    }

    /// Whether no line is missing, and none there twice.
    pub fn is_balanced(&self) -> bool {
        self.lines == self.accounted()
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.acknowledged += other.acknowledged;
        self.in_flight += other.in_flight;
        self.filtered += other.filtered;
        self.quarantined += other.quarantined;
        self.rejected += other.rejected;
        self.blank += other.blank;
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, acknowledged, in_flight, filtered, quarantined, rejected, blank } = self;
        write!(
            f,
            "{lines} lines; {acknowledged} acknowledged, {in_flight} in flight, {filtered} filtered, {quarantined} \
             quarantined, {rejected} rejected, {blank} blank"
        )
    }
}
