//! One segment's decompressed stream, carved at line ends.
//!
//! A [`Segment`] decompresses straight into the arena that becomes the block; only the unfinished last line is copied,
//! to the head of the next arena. Nobody counts the lines of a piece before it is parsed, when they are counted anyway.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memrchr};
use tailweir_core::{Block, Defect, DefectKind, Frame, Identity, Mark, Point, SegmentName, Shelf};

use crate::decode::{Decoder, Filled, Format};
use crate::reader::Start;
use crate::{Seal, directory};

/// How much of a line that is too long goes into its defect.
const OVERSIZED_HEAD: usize = 4096;

/// Bounds on what a segment's reader holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub block_size: usize,
    pub max_line_size: usize,
}

/// What the present end of a segment's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ending {
    /// The file is written to.
    Open,
    /// The file is sealed, but was changed a moment ago. Programs that copy make a file read-only and then fill it: it is all
    /// there unless it ends torn.
    Fresh,
    /// It is all there will be.
    #[default]
    Final,
}

/// An open segment.
pub(crate) struct Segment {
    name: SegmentName,
    identity: Identity,
    file: File,
    decoder: Decoder,
    limits: Limits,
    shelf: Arc<Shelf>,
    /// Bytes from `point` on.
    arena: Vec<u8>,
    /// So many bytes at the head of the arena hold no line break.
    searched: usize,
    /// The end of what is queued or was given. Its line is that of what was skipped and [counted](Self::count).
    point: Point,
    skip: Skip,
    oversized: Option<Oversized>,
    /// What comes next, before anything else is read.
    queue: VecDeque<Carved>,
}

/// What to throw away before the first line that is wanted.
enum Skip {
    Nothing,
    To(Point),
    Lines {
        wanted: u64,
        /// The last line seen has not ended yet.
        partial: bool,
    },
}

/// A line that is too long to be held, as far as it was read.
struct Oversized {
    len: u64,
    head: Vec<u8>,
}

/// What one step gives. Lines are numbered as if blocks that were not [counted](Segment::count) had none.
pub(crate) enum Carved {
    /// Whole lines.
    Piece(Piece),
    /// A line too long to be held.
    Oversized(Block),
    /// Something is lost behind this line.
    Damaged { line: u64, reason: String },
    /// Nothing yet, but there is more to do.
    Working,
    /// Nothing more at present.
    Starved,
    /// The segment ends before the place where reading was to begin.
    Short,
    /// The segment is sealed and this is its end.
    End(Mark),
}

/// Lines to be parsed, which may happen on another thread.
pub(crate) struct Piece {
    name: SegmentName,
    identity: Identity,
    from: Point,
    frame: Frame,
    text: Vec<u8>,
    last_line: LastLine,
    shelf: Arc<Shelf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LastLine {
    /// It is as its writer left it.
    Whole,
    /// The stream was cut somewhere in it.
    Cut,
}

impl Piece {
    pub(crate) fn len(&self) -> u64 {
        self.text.len() as u64
    }

    /// How many lines it has.
    pub(crate) fn count_lines(&self) -> u64 {
        let unended = self.text.last().is_some_and(|last| *last != b'\n');
        memchr_iter(b'\n', &self.text).count() as u64 + u64::from(unended)
    }

    pub(crate) fn footprint(&self) -> usize {
        self.text.capacity()
    }

    pub(crate) fn parse(self) -> Block {
        let mut block =
            Block::parse_with(&self.shelf, self.name, self.identity, self.from, self.frame, self.text);
        if self.last_line == LastLine::Cut {
            block.cut_last_line();
        }
        block
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.shelf.put_arena(std::mem::take(&mut self.arena));
    }
}

impl Segment {
    pub(crate) fn new(
        name: SegmentName,
        file: File,
        format: Format,
        start: Start,
        limits: Limits,
        shelf: Arc<Shelf>,
    ) -> io::Result<Self> {
        let frame = match start {
            Start::Mark(mark) if mark.frame.decompressed <= mark.point.offset => mark.frame,
            _ => Frame::default(),
        };
        let (skip, mut frame) = match start {
            Start::Mark(mark) if mark.point.offset > 0 => (Skip::To(mark.point), frame),
            Start::Line(wanted) if wanted > 0 => (Skip::Lines { wanted, partial: false }, frame),
            _ => (Skip::Nothing, Frame::default()),
        };
        if let (Format::Plain, Skip::To(point)) = (format, &skip) {
            frame = Frame { compressed: point.offset, decompressed: point.offset };
        }
        Ok(Self {
            identity: directory::identify(&file)?,
            decoder: Decoder::new(&file, format, frame)?,
            name,
            file,
            limits,
            shelf,
            arena: Vec::new(),
            searched: 0,
            point: Point::default(),
            skip,
            oversized: None,
            queue: VecDeque::new(),
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Bytes of the file that were read.
    pub(crate) fn consumed(&self) -> u64 {
        self.decoder.consumed()
    }

    /// Where reading would resume.
    pub(crate) fn mark(&mut self) -> Option<Mark> {
        matches!(self.skip, Skip::Nothing).then(|| self.mark_at(self.point))
    }

    fn mark_at(&mut self, point: Point) -> Mark {
        Mark { point, frame: self.decoder.frame_at(point.offset) }
    }

    /// Counts the lines of a block that was given. What is given next is numbered after them.
    pub(crate) fn count(&mut self, block: &Block) {
        self.point.line += block.lines();
    }

    /// Counts lines of blocks that were given by somebody else.
    pub(crate) fn count_lines(&mut self, lines: u64) {
        self.point.line += lines;
    }

    /// Bytes of a line that has not ended yet.
    pub(crate) fn unfinished(&self) -> u64 {
        self.arena.len() as u64 + self.oversized.as_ref().map_or(0, |oversized| oversized.len)
    }

    /// Takes a file that has grown to tell it by more of its head.
    pub(crate) fn refresh_identity(&mut self) -> io::Result<()> {
        if self.identity.head_len < 64 {
            self.identity = directory::identify(&self.file)?;
        }
        Ok(())
    }

    /// Does a bounded amount of work. `ending` must have been looked up before the call: if it was final then, what is read now
    /// is all there will be.
    pub(crate) fn step(&mut self, ending: Ending) -> io::Result<Carved> {
        if !self.queue.is_empty() {
            return Ok(self.next_queued(Carved::Working));
        }
        let Limits { block_size, max_line_size } = self.limits;
        if self.arena.capacity() == 0 {
            self.arena = self.shelf.take_arena();
        }
        if self.arena.len() == self.arena.capacity() {
            let room = (max_line_size + block_size).saturating_sub(self.arena.len()).max(1);
            self.arena.reserve_exact(self.arena.len().max(block_size).min(room));
        }
        let mut filled = self.decoder.fill(&self.file, &mut self.arena)?;
        let seal = match ending {
            Ending::Final => Seal::Sealed,
            Ending::Fresh if filled == Filled::Starved && !self.is_torn() => Seal::Sealed,
            Ending::Fresh | Ending::Open => Seal::Open,
        };
        if filled == Filled::Starved
            && ending == Ending::Final
            && let Some(damage) = self.decoder.salvage(&self.file)?
        {
            filled = Filled::Damaged(damage);
        }
        match self.skip {
            Skip::Nothing => Ok(self.carve(filled, seal)),
            Skip::To(point) => Ok(self.skip_to(point, filled, seal)),
            Skip::Lines { wanted, partial } => Ok(self.skip_lines(wanted, partial, filled, seal)),
        }
    }

    /// Whether something has begun where the file ends that may be meant to go on: a frame, or else a line.
    fn is_torn(&self) -> bool {
        if let Some(between_frames) = self.decoder.is_between_frames() {
            return !between_frames;
        }
        match self.arena.last() {
            Some(last) => *last != b'\n',
            None => self.oversized.is_some() || matches!(self.skip, Skip::Lines { partial: true, .. }),
        }
    }

    /// Queues the lines in the arena, and what follows them, and takes the first of it.
    fn carve(&mut self, filled: Filled, seal: Seal) -> Carved {
        let nothing = if filled == Filled::Starved { Carved::Starved } else { Carved::Working };
        match filled {
            Filled::Full => self.carve_lines(None),
            Filled::Starved if seal == Seal::Open => self.carve_lines(None),
            Filled::Damaged(reason) => {
                self.carve_lines(Some(LastLine::Cut));
                self.queue.push_back(Carved::Damaged { line: 0, reason });
            }
            Filled::Starved => {
                let cut = self.decoder.is_cut();
                self.carve_lines(Some(if cut { LastLine::Cut } else { LastLine::Whole }));
                if cut {
                    let reason = "it ends in the middle of a compressed frame".to_owned();
                    self.queue.push_back(Carved::Damaged { line: 0, reason });
                }
                let end = self.mark_at(self.point);
                self.queue.push_back(Carved::End(end));
            }
        }
        self.next_queued(nothing)
    }

    /// The first in the queue, with the number of its line, or `nothing`.
    fn next_queued(&mut self, nothing: Carved) -> Carved {
        let mut next = self.queue.pop_front().unwrap_or(nothing);
        let lines = self.point.line;
        match &mut next {
            Carved::Piece(piece) => piece.from.line = lines,
            Carved::Oversized(block) => block.move_lines(lines),
            Carved::Damaged { line, .. } => *line = lines,
            Carved::End(mark) => mark.point.line = lines,
            Carved::Working | Carved::Starved | Carved::Short => {}
        }
        next
    }

    /// Queues whole lines. What is left in the arena behind them counts as a line if it is the `last` one.
    fn carve_lines(&mut self, last: Option<LastLine>) {
        self.carve_oversized(last);
        while self.arena.len() > self.limits.max_line_size {
            let Some(start) = self.find_long_line() else { break };
            if start > 0 {
                self.queue_piece(start, LastLine::Whole);
            }
            let head = self.arena[..OVERSIZED_HEAD.min(self.arena.len())].to_vec();
            self.oversized = Some(Oversized { len: 0, head });
            self.carve_oversized(last);
        }
        let line_end = memrchr(b'\n', &self.arena[self.searched..]).map(|at| self.searched + at + 1);
        let cut = if last.is_some() { Some(self.arena.len()) } else { line_end };
        if let Some(cut @ 1..) = cut {
            self.queue_piece(cut, last.unwrap_or(LastLine::Whole));
        }
        self.searched = self.arena.len();
    }

    /// Where the first line in the arena that is longer than allowed begins.
    fn find_long_line(&self) -> Option<usize> {
        let max = self.limits.max_line_size;
        let mut start = 0;
        for end in memchr_iter(b'\n', &self.arena) {
            if end - start > max {
                return Some(start);
            }
            start = end + 1;
        }
        (self.arena.len() - start > max).then_some(start)
    }

    /// If an oversized line is under way, passes over as much of it as is in the arena.
    fn carve_oversized(&mut self, last: Option<LastLine>) {
        let Some(oversized) = &mut self.oversized else {
            return;
        };
        self.searched = 0;
        let (line, line_break) = match memchr(b'\n', &self.arena) {
            Some(end) => (end, 1),
            None => (self.arena.len(), 0),
        };
        oversized.len += line as u64;
        self.arena.drain(..line + line_break);
        if line_break == 0 {
            // It may have grown to the size of the longest line.
            self.arena.shrink_to(self.limits.block_size);
        }
        if line_break == 0 && last.is_none() {
            return;
        }
        let Some(Oversized { len, head }) = self.oversized.take() else {
            return;
        };
        let from = Point { line: 0, offset: self.point.offset };
        self.point.offset += len + line_break as u64;
        let to = self.mark_at(Point { line: 1, offset: self.point.offset });
        let kind = DefectKind::TooLong { len, max: self.limits.max_line_size as u64 };
        let defect = Defect { line: 1, offset: from.offset, kind, bytes: head };
        let block = Block::oversized(self.name.clone(), self.identity, from, to, defect);
        self.queue.push_back(Carved::Oversized(block));
    }

    /// Queues the first `cut` bytes of the arena as lines.
    fn queue_piece(&mut self, cut: usize, last_line: LastLine) {
        let text = self.cut_arena(cut);
        self.searched = 0;
        let (from, frame) = (self.point, self.decoder.frame_at(self.point.offset));
        self.point.offset += text.len() as u64;
        let (name, identity, shelf) = (self.name.clone(), self.identity, self.shelf.clone());
        self.queue.push_back(Carved::Piece(Piece { name, identity, from, frame, text, last_line, shelf }));
    }

    /// Takes the first `cut` bytes out of the arena.
    fn cut_arena(&mut self, cut: usize) -> Vec<u8> {
        // A live segment gives a few lines at a time, and their block may be kept for long.
        let few = cut < self.arena.capacity() / 2;
        if few && self.arena.capacity() <= self.limits.block_size * 2 {
            let text = self.arena[..cut].to_vec();
            self.arena.drain(..cut);
            return text;
        }
        let tail = &self.arena[cut..];
        let mut next = if tail.len() > self.limits.block_size / 2 {
            Vec::with_capacity(tail.len() * 2)
        } else {
            self.shelf.take_arena()
        };
        next.extend_from_slice(tail);
        let mut text = std::mem::replace(&mut self.arena, next);
        text.truncate(cut);
        if few {
            text.shrink_to_fit();
        }
        text
    }

    /// Throws away what lies before `point`.
    fn skip_to(&mut self, point: Point, filled: Filled, seal: Seal) -> Carved {
        let produced = self.decoder.produced();
        // Frames before the point are of no interest any more, and there may be many.
        self.decoder.frame_at(produced.min(point.offset));
        let base = produced - self.arena.len() as u64;
        if produced < point.offset {
            self.arena.clear();
            return if filled == Filled::Starved { Carved::Short } else { Carved::Working };
        }
        self.arena.drain(..(point.offset - base) as usize);
        self.point = point;
        self.skip = Skip::Nothing;
        self.carve(filled, seal)
    }

    /// Throws away that many lines.
    fn skip_lines(&mut self, wanted: u64, partial: bool, filled: Filled, seal: Seal) -> Carved {
        for at in memchr_iter(b'\n', &self.arena) {
            self.point.line += 1;
            if self.point.line == wanted {
                return self.skipped_lines(at + 1, filled, seal);
            }
        }
        let len = self.arena.len();
        let partial = self.arena.last().map_or(partial, |last| *last != b'\n');
        let ends =
            matches!(filled, Filled::Damaged(_)) || (filled == Filled::Starved && seal == Seal::Sealed);
        if partial && ends {
            self.point.line += 1;
            if self.point.line == wanted {
                return self.skipped_lines(len, filled, seal);
            }
        }
        self.skip = Skip::Lines { wanted, partial: partial && !ends };
        self.point.offset += len as u64;
        self.arena.clear();
        self.decoder.frame_at(self.point.offset);
        match filled {
            Filled::Starved if seal == Seal::Sealed => Carved::Short,
            Filled::Starved => Carved::Starved,
            _ => Carved::Working,
        }
    }

    fn skipped_lines(&mut self, len: usize, filled: Filled, seal: Seal) -> Carved {
        self.point.offset += len as u64;
        self.arena.drain(..len);
        self.skip = Skip::Nothing;
        self.carve(filled, seal)
    }
}
