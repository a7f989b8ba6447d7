//! Conservation: a consumer keeps a book of what became of each line that it was given, per segment, and says so if one is
//! missing or there twice.
//!
//! The terms are counted where things happen, per block and per batch; that they add up is checked when a segment is wholly
//! dealt with and when the consumer ends. The number of blank lines in each block is counted by whoever reads, and checked
//! against what the others leave.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tailweir_core::{Event, EventSink, SegmentName, Sums};

use crate::CheckpointName;
use crate::files::{Access, Files};

/// How many entries a consumer writes about sums that do not add up.
const MAX_WRITTEN: u64 = 16;

/// A consumer's book, until its last batch is gone.
pub(crate) struct Book {
    pages: Mutex<Pages>,
    consumer: Arc<str>,
    events: Arc<dyn EventSink>,
    /// Where sums that do not add up are written down, for `tailweir status`.
    noted_in: Option<(Arc<dyn Files>, CheckpointName)>,
}

#[derive(Default)]
struct Pages {
    /// Segments that are not wholly dealt with. A file that replaces another of its name has a page of its own.
    open: BTreeMap<PageId, Page>,
    last: u64,
    /// The sums of all other segments.
    closed: Sums,
    unbalanced: u64,
    repaired: u64,
    /// Dropped from the quarantine to make room.
    dropped: u64,
    /// The last word was said.
    told: bool,
}

/// Names a segment's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageId(u64);

struct Page {
    segment: SegmentName,
    sums: Sums,
    /// Records in flight whose batch was dropped: they will not be acknowledged any more.
    abandoned: u64,
    /// Nothing more will be read of it.
    ended: bool,
}

/// Consecutive lines of a segment that a consumer has gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Part {
    pub(crate) lines: u64,
    /// Records that the filter kept.
    pub(crate) kept: u64,
    /// Records that it did not, whatever it said of them.
    pub(crate) dropped: u64,
    /// Of those, and of the lines that are not records: what was set aside.
    pub(crate) quarantined: u64,
    pub(crate) rejected: u64,
    /// Lines that are not records.
    pub(crate) malformed: u64,
}

impl Part {
    /// Blank lines: what is left. `None` if there are fewer lines than things in them.
    pub(crate) fn blank(&self) -> Option<u64> {
        self.lines.checked_sub(self.kept + self.dropped + self.malformed)
    }

    /// Records that the filter dropped and that were not set aside.
    pub(crate) fn filtered(&self) -> u64 {
        (self.dropped + self.malformed).saturating_sub(self.quarantined + self.rejected)
    }
}

/// How many records of a segment a batch holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) segment: SegmentName,
    pub(crate) page: PageId,
    pub(crate) records: u64,
}

/// Where a record that a batch held is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In quarantine.
    Yes,
    /// Nowhere.
    No,
}

impl Book {
    pub(crate) fn new(
        consumer: Arc<str>,
        events: Arc<dyn EventSink>,
        noted_in: Option<(Arc<dyn Files>, CheckpointName)>,
    ) -> Self {
        Self { pages: Mutex::default(), consumer, events, noted_in }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters lines of a segment. Its kept records are in flight from now on.
    pub(crate) fn enter(&self, segment: &SegmentName, part: Part) -> PageId {
        let mut pages = self.pages();
        let id = pages.page(segment);
        if let Some(page) = pages.open.get_mut(&id) {
            page.sums += Sums {
                lines: part.lines,
                acknowledged: 0,
                in_flight: part.kept,
                filtered: part.filtered(),
                quarantined: part.quarantined,
                rejected: part.rejected,
                blank: part.blank().unwrap_or(0),
            };
        }
        id
    }

    /// Counts records that plug-ins see repaired.
    pub(crate) fn repaired(&self, records: u64) {
        self.pages().repaired += records;
    }

    /// So many were dropped from the quarantine so far, to make room.
    pub(crate) fn dropped(&self, records: u64) {
        self.pages().dropped = records;
    }

    /// Records of a batch are acknowledged.
    pub(crate) fn acknowledge(&self, shares: &[Share]) {
        let mut pages = self.pages();
        for share in shares {
            if let Some(page) = pages.open.get_mut(&share.page) {
                page.sums.in_flight = page.sums.in_flight.wrapping_sub(share.records);
                page.sums.acknowledged += share.records;
            }
        }
        for share in shares {
            self.close(&mut pages, share.page);
        }
    }

    /// A batch was dropped; its records stay in flight.
    pub(crate) fn abandon(&self, shares: &[Share]) {
        let mut pages = self.pages();
        for share in shares {
            if let Some(page) = pages.open.get_mut(&share.page) {
                page.abandoned += share.records;
            }
            self.close(&mut pages, share.page);
        }
    }

    /// A record of a batch was set aside.
    pub(crate) fn set_aside(&self, share: &mut Share, kept: Kept) {
        let mut pages = self.pages();
        if let Some(page) = pages.open.get_mut(&share.page) {
            share.records = share.records.wrapping_sub(1);
            page.sums.in_flight = page.sums.in_flight.wrapping_sub(1);
            match kept {
                Kept::Yes => page.sums.quarantined += 1,
                Kept::No => page.sums.rejected += 1,
            }
        }
    }

    /// Nothing more will be read of the file that has this name now.
    pub(crate) fn end(&self, segment: &SegmentName) {
        let mut pages = self.pages();
        let page = pages.open.iter_mut().find(|(_, page)| page.segment == *segment && !page.ended);
        if let Some((id, page)) = page {
            let id = *id;
            page.ended = true;
            self.close(&mut pages, id);
        }
    }

    /// Closes a page of a segment that is wholly dealt with, and checks it.
    fn close(&self, pages: &mut Pages, id: PageId) {
        let done =
            pages.open.get(&id).is_some_and(|page| page.ended && page.sums.in_flight == page.abandoned);
        if let Some(page) = done.then(|| pages.open.remove(&id)).flatten() {
            pages.closed += page.sums;
            self.check(pages, &page);
        }
    }

    /// Tells a page's sums, and whether they add up.
    fn check(&self, pages: &mut Pages, page: &Page) {
        if pages.told {
            return;
        }
        self.events.emit(Event::Accounted {
            consumer: self.consumer.to_string(),
            checkpoint: self.checkpoint(),
            segment: page.segment.clone(),
            sums: page.sums,
        });
        if !page.sums.is_balanced() {
            self.complain(
                pages,
                &page.segment,
                format!("{} are accounted for", page.sums.accounted()),
                page.sums,
            );
        }
    }

    /// Says that a block has other blank lines than were left.
    pub(crate) fn blank_lines_differ(&self, segment: &SegmentName, left: u64, blank: u64) {
        let mut pages = self.pages();
        let id = pages.page(segment);
        let sums = pages.open.get(&id).map_or_else(Sums::default, |page| page.sums);
        let problem = format!("{left} lines of a block were left for blank ones, of which it has {blank}");
        self.complain(&mut pages, segment, problem, sums);
    }

    fn complain(&self, pages: &mut Pages, segment: &SegmentName, problem: String, sums: Sums) {
        pages.unbalanced += 1;
        let consumer = self.consumer.to_string();
        let line = format!(
            "{} consumer `{consumer}`, segment {segment}: {sums}; {problem}\n",
            humantime::format_rfc3339_seconds(SystemTime::now())
        );
        self.events.emit(Event::Unbalanced { consumer, segment: segment.clone(), sums, problem });
        if pages.unbalanced <= MAX_WRITTEN
            && let Some((files, name)) = &self.noted_in
            && let Err(e) = note(&**files, name, &line)
        {
            let message = format!("failed to write {}: {e}", files.path().join(name.file(SUFFIX)).display());
            self.events.emit(Event::Warning { message });
        }
    }

    fn checkpoint(&self) -> Option<String> {
        self.noted_in.as_ref().map(|(_, name)| name.as_str().to_owned())
    }

    /// The last word on the consumer: all pages are checked, and the sums told. What happens later is not told of.
    pub(crate) fn tell(&self) {
        let mut pages = self.pages();
        for page in std::mem::take(&mut pages.open).into_values() {
            pages.closed += page.sums;
            self.check(&mut pages, &page);
        }
        if std::mem::replace(&mut pages.told, true) {
            return;
        }
        self.events.emit(Event::Ended {
            consumer: self.consumer.to_string(),
            checkpoint: self.checkpoint(),
            sums: pages.closed,
            repaired: pages.repaired,
            dropped: pages.dropped,
            unbalanced: pages.unbalanced,
        });
    }

    /// The sums of all segments.
    pub(crate) fn total(&self) -> Sums {
        let pages = self.pages();
        let mut total = pages.closed;
        pages.open.values().for_each(|page| total += page.sums);
        total
    }
}

impl Pages {
    /// The page of the file that has this name now.
    fn page(&mut self, segment: &SegmentName) -> PageId {
        let page = self.open.iter().find(|(_, page)| page.segment == *segment && !page.ended);
        if let Some((id, _)) = page {
            return *id;
        }
        self.last += 1;
        let page = Page { segment: segment.clone(), sums: Sums::default(), abandoned: 0, ended: false };
        self.open.insert(PageId(self.last), page);
        PageId(self.last)
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.tell();
    }
}

const SUFFIX: &str = ".unbalanced";

fn note(files: &dyn Files, name: &CheckpointName, line: &str) -> io::Result<()> {
    files.open(&name.file(SUFFIX), Access::AppendOrCreate)?.write_all(line.as_bytes())
}

/// What was written down about sums of a checkpoint that did not add up.
pub(crate) fn noted(files: &dyn Files, name: &CheckpointName) -> Option<String> {
    let text = files.read(&name.file(SUFFIX)).ok()?;
    Some(String::from_utf8_lossy(&text).trim_end().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::simulated::{Exchange, Simulated};

    #[derive(Default)]
    struct Events(Mutex<Vec<Event>>);

    impl EventSink for Events {
        fn emit(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    /// Keeps a book in a way, and returns what was said and noted in the end.
    fn told(keep: impl FnOnce(&Book, &SegmentName)) -> (Vec<String>, String) {
        let (events, files) = (Arc::new(Events::default()), Arc::new(Simulated::new(Exchange::Possible)));
        let name = CheckpointName::new("c").unwrap();
        let book = Book::new("who".into(), events.clone(), Some((files.clone(), name.clone())));
        keep(&book, &SegmentName::new("s").unwrap());
        drop(book);
        let tell = |event: Event| match event {
            Event::Unbalanced { problem, sums, .. } => format!("{sums}: {problem}"),
            Event::Accounted { segment, sums, .. } => format!("{segment}: {sums}"),
            Event::Ended { sums, unbalanced, .. } => format!("{sums}; {unbalanced} unbalanced"),
            other => format!("{other:?}"),
        };
        let events = std::mem::take(&mut *events.0.lock().unwrap());
        (events.into_iter().map(tell).collect(), noted(&*files, &name).unwrap_or_default())
    }

    const PART: Part = Part { lines: 10, kept: 4, dropped: 3, quarantined: 2, rejected: 0, malformed: 1 };

    #[test]
    fn each_line_is_in_one_term() {
        let (events, noted) = told(|book, segment| {
            let page = book.enter(segment, PART);
            let mut share = Share { segment: segment.clone(), page, records: 4 };
            book.set_aside(&mut share, Kept::No);
            book.end(segment);
            book.acknowledge(&[share]);
            // Another file of the same name.
            book.enter(segment, PART);
        });
        assert_eq!(
            events,
            [
                "s: 10 lines; 3 acknowledged, 0 in flight, 2 filtered, 2 quarantined, 1 rejected, 2 blank",
                "s: 10 lines; 0 acknowledged, 4 in flight, 2 filtered, 2 quarantined, 0 rejected, 2 blank",
                "20 lines; 3 acknowledged, 4 in flight, 4 filtered, 4 quarantined, 1 rejected, 4 blank; 0 unbalanced"
            ]
        );
        assert_eq!(noted, "");
    }

    #[test]
    fn the_last_word_may_be_said_before_the_end() {
        let (events, _) = told(|book, segment| {
            let page = book.enter(segment, PART);
            book.tell();
            book.acknowledge(&[Share { segment: segment.clone(), page, records: 4 }]);
            book.enter(segment, PART);
            book.end(segment);
            book.tell();
        });
        let sums = "10 lines; 0 acknowledged, 4 in flight, 2 filtered, 2 quarantined, 0 rejected, 2 blank";
        assert_eq!(events, [format!("s: {sums}"), format!("{sums}; 0 unbalanced")]);
    }

    #[test]
    fn a_wrong_count_is_told_and_noted() {
        let (events, noted) = told(|book, segment| {
            let page = book.enter(segment, PART);
            book.acknowledge(&[Share { segment: segment.clone(), page, records: 3 }]);
            book.set_aside(&mut Share { segment: segment.clone(), page, records: 1 }, Kept::Yes);
            // One too many.
            book.enter(segment, Part { lines: 1, kept: 1, malformed: 1, quarantined: 1, ..Part::default() });
            book.blank_lines_differ(segment, 1, 0);
        });
        assert_eq!(events.len(), 4, "{events:?}");
        assert!(events[0].ends_with("1 lines of a block were left for blank ones, of which it has 0"));
        assert!(events[1].starts_with("s: 11 lines"), "{events:?}");
        assert!(events[2].starts_with("11 lines; 3 acknowledged, 1 in flight"), "{events:?}");
        assert!(events[2].ends_with("12 are accounted for"), "{events:?}");
        assert!(events[3].ends_with("2 unbalanced"), "{events:?}");
        assert_eq!(noted.lines().count(), 2, "{noted}");
    }
}
