//! Taking single segments further.

use std::fs::File;
use std::io;
use std::ops::Bound;

use tailweir_core::{Block, Event, Identity, Mark, SegmentName};

use super::entries::{Entry, Follow, Held, Late, Seen, State};
use super::{Begun, Mode, Reader, Start, Step};
use crate::Seal;
use crate::carve::{Carved, Ending, Limits, Segment};
use crate::decode::{SNIFF, Sniffed, sniff};
use crate::directory::{self, Opened};
use crate::pool::Output;

/// How many segments without news are kept open. The others are closed and opened again when they change.
const KEPT_OPEN: usize = 32;
/// How many names ahead of the present one are looked at for segments to decode.
const LOOK_AHEAD: usize = 64;

impl Reader {
    /// Gives the workers sealed segments to decode.
    pub(super) fn decode_ahead(&mut self) {
        if !self.pool.has_room() {
            return;
        }
        let mut at = Bound::Unbounded;
        for _ in 0..LOOK_AHEAD {
            let Some(name) = self.ready.range((at, Bound::Unbounded)).next().cloned() else {
                return;
            };
            if self.must_wait_for_another(&name) {
                return;
            }
            if self.entries.get_mut(&name).is_some_and(|entry| matches!(entry.state, State::Waiting)) {
                self.begin(&name);
                if !self.pool.has_room() {
                    return;
                }
            }
            at = Bound::Excluded(name);
        }
    }

    /// Takes one segment further. `None` if there is no more of it at present.
    pub(super) fn advance(&mut self, name: &SegmentName) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            let entry = self.entries.get_mut(name)?;
            match entry.state {
                State::Decoding => {
                    if let Some(step) = self.take_decoded(name) {
                        return Some(step);
                    }
                }
                State::Following(_) => match self.follow(name) {
                    Followed::Step(step) => return Some(step),
                    Followed::Again => {}
                    Followed::Quiet => return None,
                },
                _ => {
                    if !self.begin(name) {
                        return self.steps.pop_front();
                    }
                }
            }
        }
    }

    /// Takes what a worker has decoded. `None` if that alone makes no step.
    fn take_decoded(&mut self, name: &SegmentName) -> Option<Step> {
        match self.pool.take(name) {
            Some(Output::Block(block)) => Some(self.block(block)),
            Some(Output::Damaged { line, reason }) => {
                self.emit(Event::SegmentDamaged { segment: name.clone(), line, reason });
                None
            }
            Some(Output::End(end)) => {
                let entry = self.entries.get_mut(name)?;
                let identity = entry.identity?;
                Some(self.finished(name, identity, end))
            }
            Some(Output::Short) => {
                self.replaced(
                    name,
                    "it ends before the place where reading was to go on; it is read from its start",
                );
                None
            }
            Some(Output::Failed(error)) => {
                self.failed(name, &error);
                None
            }
            Some(Output::Torn(segment)) => {
                if let Err(e) = self.go_on_with_torn(name, segment) {
                    self.failed(name, &e);
                }
                None
            }
            None => {
                self.entries.get_mut(name)?.state = State::Waiting;
                None
            }
        }
    }

    /// Follows a sealed segment that may be on its way into the directory as one that is open.
    fn go_on_with_torn(&mut self, name: &SegmentName, segment: Box<Segment>) -> io::Result<()> {
        let (held, checked) = (Held::new(&self.following), Seen::of(segment.file())?);
        if let Some(entry) = self.entries.get_mut(name) {
            let detached = entry.replaced;
            entry.state = State::Following(Follow { segment, held, detached, checked });
        }
        Ok(())
    }

    fn block(&mut self, block: Block) -> Step {
        self.entries.note_read(block.segment());
        if let Some(entry) = self.entries.get_mut(block.segment()) {
            // Should it fail, reading goes on here.
            entry.begun = Some(Begun { start: Start::Mark(block.to()), identity: Some(block.identity()) });
            entry.identity = Some(block.identity());
        }
        Step::Block(block)
    }

    pub(super) fn finished(&mut self, name: &SegmentName, identity: Identity, end: Mark) -> Step {
        let replaced = self.entries.get_mut(name).is_some_and(|entry| entry.replaced);
        if replaced {
            self.replaced(name, "another file has taken its place, after what was there was read to its end");
            return self.steps.pop_back().unwrap_or(Step::Idle);
        }
        self.entries.finish(name, identity);
        self.ready.remove(name);
        let Mark { point, .. } = end;
        self.emit(Event::SegmentFinished { segment: name.clone(), lines: point.line, bytes: point.offset });
        Step::Finished { segment: name.clone(), identity, end }
    }

    /// A segment cannot be read now. It is tried again at later scans, if there are any.
    fn failed(&mut self, name: &SegmentName, error: &io::Error) {
        self.ready.remove(name);
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let said = std::mem::replace(&mut entry.error_said, true);
        entry.state = State::Failed;
        self.pending(name);
        if !said {
            let tried_again = matches!(self.options.mode, Mode::Follow);
            let (segment, reason) = (name.clone(), error.to_string());
            self.emit(Event::SegmentUnreadable { segment, reason, tried_again });
        }
    }

    /// Opens a segment whose turn it is. Returns whether it is being read now.
    pub(super) fn begin(&mut self, name: &SegmentName) -> bool {
        match self.directory.open_file(name.as_str()) {
            Ok(Opened::File(file)) => match self.begin_file(name, file) {
                Ok(reading) => reading,
                Err(e) => {
                    self.failed(name, &e);
                    false
                }
            },
            Ok(Opened::Missing) => {
                self.vanished(name, Some("it was deleted before it was read to its end"));
                false
            }
            Ok(Opened::Other(reason)) => {
                self.foreign(name, reason);
                false
            }
            Err(e) => {
                self.failed(name, &e);
                false
            }
        }
    }

    fn foreign(&mut self, name: &SegmentName, reason: &str) {
        let Some(before) = self.entries.make_foreign(name) else {
            return;
        };
        self.ready.remove(name);
        self.emit(Event::ForeignFile { name: name.as_str().to_owned(), reason: reason.to_owned() });
        if before.begun.is_some() {
            let reason = format!("another file has taken its place, and {reason}");
            self.emit(Event::SegmentGap { segment: name.clone(), reason });
        }
        if before.begun.is_some() || before.pending_said {
            self.steps.push_back(Step::Vanished { segment: name.clone() });
        }
    }

    fn begin_file(&mut self, name: &SegmentName, file: File) -> io::Result<bool> {
        // The mode before the head: what is written before it is sealed is not missed.
        let seen = Seen::of(&file)?;
        let mut head = [0; SNIFF];
        let len = directory::read_head(&file, &mut head)?;
        let format = match sniff(&head[..len]) {
            Sniffed::Format(format) => format,
            Sniffed::Foreign(reason) => {
                self.foreign(name, reason);
                return Ok(false);
            }
            Sniffed::Unknown => return self.begin_unknown(name, &file, seen, len),
        };
        let ending = self.ending(name, &seen);
        let Some(entry) = self.entries.get_mut(name) else {
            return Ok(false);
        };
        let first = entry.identity.is_none();
        let late = std::mem::replace(&mut entry.late, Late::No) == Late::Yes;
        if let Some(reason) = entry.is_replaced_by(&file, seen.len, format)? {
            self.replaced(name, reason);
            return Ok(false);
        }
        let start = entry.begun.map_or(Start::Mark(Mark::default()), |begun| begun.start);
        let limits =
            Limits { block_size: self.options.block_size, max_line_size: self.options.max_line_size };
        let shelf = self.pool.shelf().clone();
        let segment = Box::new(Segment::new(name.clone(), file, format, start, limits, shelf)?);
        entry.identity = Some(segment.identity());
        entry.error_said = false;
        if ending == Ending::Open {
            entry.state = State::Following(Follow {
                segment,
                held: Held::new(&self.following),
                detached: false,
                checked: seen,
            });
        } else {
            entry.state = State::Decoding;
            self.pool.submit(name.clone(), segment, ending);
        }
        if late {
            self.emit(Event::SegmentLate { segment: name.clone() });
        }
        if first {
            self.emit(Event::SegmentOpened { segment: name.clone() });
        }
        Ok(true)
    }

    fn ending(&mut self, name: &SegmentName, seen: &Seen) -> Ending {
        let now = self.signal.now();
        match (self.options.mode, self.entries.get_mut(name)) {
            // Nobody is there to see for how long it stays the same.
            (Mode::Once, _) if seen.seal == Seal::Sealed && seen.is_of_the_future() => Ending::Final,
            (Mode::Follow | Mode::Once, Some(entry)) => entry.rest.ending(seen, now),
            _ => Ending::Final,
        }
    }

    /// A file with too few bytes to tell what it is.
    fn begin_unknown(&mut self, name: &SegmentName, file: &File, seen: Seen, len: usize) -> io::Result<bool> {
        let ending = self.ending(name, &seen);
        let Some(entry) = self.entries.get_mut(name) else {
            return Ok(false);
        };
        if entry.begun.is_some_and(|begun| begun.is_past_start()) {
            self.replaced(name, "it has shrunk; it is read from its start");
            return Ok(false);
        }
        if ending != Ending::Final {
            entry.state = State::Unknown { seen };
            self.ready.remove(name);
            self.pending(name);
            self.say_what_is_left(name, &seen);
            return Ok(false);
        }
        if len > 0 {
            let reason = format!("it is sealed and holds {len} bytes, too few to be a segment");
            self.emit(Event::SegmentDamaged { segment: name.clone(), line: 0, reason });
        }
        let identity = directory::identify(file)?;
        let step = self.finished(name, identity, Mark::default());
        self.steps.push_back(step);
        Ok(false)
    }

    /// Reads on in an open segment.
    fn follow(&mut self, name: &SegmentName) -> Followed {
        match self.try_follow(name) {
            Ok(followed) => followed,
            Err(e) => {
                self.failed(name, &e);
                Followed::Quiet
            }
        }
    }

    fn try_follow(&mut self, name: &SegmentName) -> io::Result<Followed> {
        let now = self.signal.now();
        let Some(entry) = self.entries.get_mut(name) else { return Ok(Followed::Quiet) };
        let Entry { state: State::Following(follow), identity, rest, .. } = entry else {
            return Ok(Followed::Quiet);
        };
        // The mode before the data: what is written before it is sealed is not missed.
        let seen = Seen::of(follow.segment.file())?;
        if seen.changed_since(&follow.checked) {
            if seen.len < follow.segment.consumed()
                || !directory::is_same(follow.segment.file(), &follow.segment.identity())?
            {
                self.replaced(name, "it was truncated or overwritten; it is read from its start");
                return Ok(Followed::Again);
            }
            follow.segment.refresh_identity()?;
            *identity = Some(follow.segment.identity());
            follow.checked = seen;
        }
        let present = rest.ending(&seen, now);
        let ending = if follow.detached || seen.unlinked { Ending::Final } else { present };
        let identity = follow.segment.identity();
        Ok(match follow.segment.step(ending)? {
            Carved::Piece(piece) => {
                let block = piece.parse();
                follow.segment.count(&block);
                Followed::Step(self.block(block))
            }
            Carved::Oversized(block) => {
                follow.segment.count(&block);
                Followed::Step(self.block(block))
            }
            Carved::Damaged { line, reason } => {
                self.emit(Event::SegmentDamaged { segment: name.clone(), line, reason });
                Followed::Again
            }
            Carved::Working => Followed::Again,
            Carved::Starved => {
                self.pending(name);
                self.say_what_is_left(name, &seen);
                self.park(name, seen);
                Followed::Quiet
            }
            Carved::Short => {
                self.replaced(
                    name,
                    "it ends before the place where reading was to go on; it is read from its start",
                );
                Followed::Again
            }
            Carved::End(end) => {
                // One that is whole is finished before.
                if ending != present {
                    self.lost_sight_of(name);
                }
                Followed::Step(self.finished(name, identity, end))
            }
        })
    }

    /// Says that of a sealed segment more may come and is left for the next run. That it is so with open ones goes without saying.
    fn say_what_is_left(&self, name: &SegmentName, seen: &Seen) {
        if matches!(self.options.mode, Mode::Once) && seen.seal == Seal::Sealed {
            let message = format!(
                "segment {name} is read-only and ends torn, but was changed a moment ago: it may not be all there yet, so \
                 what it ends with is left for the next run"
            );
            self.emit(Event::Warning { message });
        }
    }

    /// Says that a segment went away before it was complete. If another file has its name, that is said anyway.
    pub(super) fn lost_sight_of(&mut self, name: &SegmentName) {
        if self.entries.get_mut(name).is_some_and(|entry| !entry.replaced) {
            let reason = "it was deleted or moved away before it was complete; it was read as far as it went, and what \
                          is written to it from now on is not read";
            self.emit(Event::SegmentGap { segment: name.clone(), reason: reason.to_owned() });
        }
    }

    /// Closes a segment without news if there are many of them.
    fn park(&mut self, name: &SegmentName, seen: Seen) {
        let once = matches!(self.options.mode, Mode::Once);
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if let State::Following(follow) = &mut entry.state
            && (once || follow.held.count() > KEPT_OPEN)
            && let Some(end) = follow.segment.mark()
        {
            let identity = follow.segment.identity();
            entry.begun = Some(Begun { start: Start::Mark(end), identity: Some(identity) });
            entry.state = State::Parked { end, identity, seen };
        }
    }
}

/// What came of reading on in an open segment.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Followed {
    Step(Step),
    Again,
    Quiet,
}
