//! zstd: any number of frames, skippable ones too, the last of which may be unfinished.
//!
//! The decoder keeps a window of its own and copies from it. To decode into the arenas instead (with
//! `ZSTD_decompressContinue`, where two stretches of at least a window's size hold the history) was tried with arenas of
//! 2.5 and 4 MiB: decompressing alone took 5 to 8 % less, which is 3 to 4 % of reading. For that, blocks would share memory
//! that the decoder still writes to and refers to, and several of them would stay for the sake of one: it is not worth it.

use std::fs::File;
use std::io;

use ::zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};
use memchr::memmem;
use tailweir_core::Frame;

use super::{Filled, Input, Track, ZSTD_MAGIC, is_zstd};

/// The largest window that is decoded, as a power of two: 128 MiB, what the `zstd` tool allows by default.
const WINDOW_LOG_MAX: u32 = 27;
/// The largest block of a frame, decompressed.
const BLOCK: usize = 128 * 1024;
const BLOCK_HEADER: usize = 3;

pub(super) struct Zstd {
    context: DCtx<'static>,
    /// Where the present frame begins, or the next one if none is begun.
    frame: Frame,
    state: State,
    /// How many bytes the decoder wants to see next; zero between frames.
    hint: usize,
    /// The decoder may hold bytes that the last buffer had no room for.
    holds_output: bool,
    /// The last thing that happened was damage, which is told only once however many false starts follow.
    after_damage: bool,
}

enum State {
    /// As much input as there is at a time.
    Fast,
    /// The decoder has failed in this frame and does not say how far it came: the frame is decoded again from its
    /// start, block by block, and this many bytes of it, which are delivered already, are thrown away.
    Careful { delivered: u64 },
    /// Between damage and the next frame.
    Searching,
}

impl Zstd {
    pub(super) fn new(frame: Frame) -> io::Result<Self> {
        let mut context = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(to_io)?;
        let (state, hint) = (State::Fast, 0);
        Ok(Self { context, frame, state, hint, holds_output: false, after_damage: false })
    }

    pub(super) fn is_cut(&self) -> bool {
        self.hint != 0
    }

    /// Whether what comes next, if anything does, begins a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.hint == 0 && !matches!(self.state, State::Searching)
    }

    pub(super) fn fill(
        &mut self,
        file: &File,
        input: &mut Input,
        track: &mut Track,
        out: &mut Vec<u8>,
    ) -> io::Result<Filled> {
        while out.len() < out.capacity() {
            if matches!(self.state, State::Searching) {
                if !self.search(file, input, track)? {
                    return Ok(Filled::Starved);
                }
            } else if input.available() == 0 && !self.holds_output && input.more(file)? == 0 {
                return Ok(Filled::Starved);
            }
            let decoded = match self.state {
                State::Careful { delivered } => self.decode_carefully(input, track, out, delivered),
                _ => self.decode(input, track, out),
            };
            match decoded {
                Ok(()) => {}
                Err(code) => {
                    if let Some(damage) = self.failed(code, input, track) {
                        return Ok(Filled::Damaged(damage));
                    }
                }
            }
        }
        Ok(Filled::Full)
    }

    /// Decodes what is in `input`, straight into `out`.
    fn decode(&mut self, input: &mut Input, track: &mut Track, out: &mut Vec<u8>) -> Result<(), usize> {
        let before = out.len();
        let mut source = InBuffer::around(input.bytes());
        let result = self.context.decompress_stream(&mut OutBuffer::around_pos(out, before), &mut source);
        let consumed = source.pos();
        match result {
            Ok(hint) => {
                self.holds_output = out.len() == out.capacity();
                self.advance(input, track, consumed, (out.len() - before) as u64, hint);
                Ok(())
            }
            Err(code) => {
                out.truncate(before);
                Err(code)
            }
        }
    }

    /// Decodes one block, so that all before the one that fails is had. The decoder asks for a block together with the
    /// header of the next one, and gives nothing of the block if it is given both and the header is damaged: so it is given
    /// the block alone.
    fn decode_carefully(
        &mut self,
        input: &mut Input,
        track: &mut Track,
        out: &mut Vec<u8>,
        delivered: u64,
    ) -> Result<(), usize> {
        let mut block = Vec::with_capacity(BLOCK);
        let wanted = match self.hint {
            // Between frames any five bytes will do: the shortest header.
            0 => 5,
            hint @ ..=BLOCK_HEADER => hint,
            hint => hint - BLOCK_HEADER,
        };
        let mut source = InBuffer::around(&input.bytes()[..wanted.min(input.available())]);
        let hint = self.context.decompress_stream(&mut OutBuffer::around(&mut block), &mut source)?;
        let consumed = source.pos();
        let known = delivered.min(block.len() as u64);
        out.extend_from_slice(&block[known as usize..]);
        self.state = State::Careful { delivered: delivered - known };
        self.holds_output = block.len() == BLOCK;
        self.advance(input, track, consumed, block.len() as u64 - known, hint);
        Ok(())
    }

    fn advance(&mut self, input: &mut Input, track: &mut Track, consumed: usize, produced: u64, hint: usize) {
        input.consume(consumed);
        track.produced += produced;
        self.after_damage &= produced == 0;
        // A call that neither reads nor writes says nothing about the frame.
        let ended = hint == 0 && (consumed > 0 || self.hint != 0);
        self.hint = hint;
        if ended {
            self.holds_output = false;
            self.state = State::Fast;
            self.begin(input.position(), track);
        }
    }

    fn begin(&mut self, compressed: u64, track: &mut Track) {
        track.frame_begins(compressed);
        self.frame = Frame { compressed, decompressed: track.produced };
    }

    /// Prepares to go on after an error. Returns what to say about it if it has not been said.
    fn failed(&mut self, code: usize, input: &mut Input, track: &Track) -> Option<String> {
        // The parameters survive a reset of the session, which cannot fail.
        let _ = self.context.reset(ResetDirective::SessionOnly);
        (self.hint, self.holds_output) = (0, false);
        if matches!(self.state, State::Fast) {
            input.seek(self.frame.compressed);
            self.state = State::Careful { delivered: track.produced - self.frame.decompressed };
            return None;
        }
        let at = input.position();
        // Damage may have made the decoder take later frames for data of this one: they begin behind its first byte.
        input.seek(self.frame.compressed + 1);
        self.state = State::Searching;
        let first = !std::mem::replace(&mut self.after_damage, true);
        first.then(|| format!("zstd: {} near byte {at} of the file", get_error_name(code)))
    }

    /// Goes on behind a frame that has no end, if another one begins before the end of the file: then it was not cut,
    /// but damaged. Returns what to say about it.
    pub(super) fn salvage(&mut self, file: &File, input: &mut Input) -> io::Result<Option<String>> {
        if !self.is_cut() {
            return Ok(None);
        }
        let mut ahead = Input::new(self.frame.compressed + 1);
        if !find_frame(file, &mut ahead)? {
            return Ok(None);
        }
        // The parameters survive a reset of the session, which cannot fail.
        let _ = self.context.reset(ResetDirective::SessionOnly);
        (self.hint, self.holds_output) = (0, false);
        input.seek(ahead.position());
        self.state = State::Searching;
        self.after_damage = true;
        Ok(Some(format!("zstd: the frame at byte {} of the file has no end", self.frame.compressed)))
    }

    /// Looks for the next frame. Returns whether there is one.
    fn search(&mut self, file: &File, input: &mut Input, track: &mut Track) -> io::Result<bool> {
        let found = find_frame(file, input)?;
        if found {
            debug_assert!(is_zstd(input.bytes()));
            self.state = State::Fast;
            self.begin(input.position(), track);
        }
        Ok(found)
    }
}

/// Consumes what is before the next frame. Returns whether there is one.
fn find_frame(file: &File, input: &mut Input) -> io::Result<bool> {
    loop {
        let found = memmem::find(input.bytes(), &ZSTD_MAGIC);
        input.consume(found.unwrap_or(input.available().saturating_sub(3)));
        if found.is_some() {
            return Ok(true);
        }
        if input.more(file)? == 0 {
            return Ok(false);
        }
    }
}

fn to_io(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}
