//! Compressed files to bytes, as far as they go.
//!
//! A [`Decoder`] reads a file at its own offset, writes straight into the caller's buffer, keeps its state when the file
//! has no more bytes yet, remembers where frames begin, and goes on behind damage where that is possible.

mod gzip;
mod input;
mod zstd;

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use tailweir_core::Frame;

use self::gzip::Gzip;
use self::input::Input;
use self::zstd::Zstd;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Zstd,
    Gzip,
    Plain,
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sniffed {
    Format(Format),
    /// There are too few of them to tell.
    Unknown,
    Foreign(&'static str),
}

/// How many bytes [`sniff`] wants to see.
pub(crate) const SNIFF: usize = 4096;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Tells the format by the first bytes of a file.
pub(crate) fn sniff(head: &[u8]) -> Sniffed {
    if is_zstd(head) {
        return Sniffed::Format(Format::Zstd);
    }
    if head.starts_with(&GZIP_MAGIC) {
        return Sniffed::Format(Format::Gzip);
    }
    if head.len() < 4 && (ZSTD_MAGIC.starts_with(head) || GZIP_MAGIC.starts_with(head)) {
        return Sniffed::Unknown;
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match text.first() {
        Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9') => Sniffed::Format(Format::Plain),
        Some(_) if [&b"true"[..], b"false", b"null"].iter().any(|word| text.starts_with(word)) => {
            Sniffed::Format(Format::Plain)
        }
        Some(_) => Sniffed::Foreign("it is neither zstd nor gzip nor JSON text"),
        None if head.len() < SNIFF => Sniffed::Unknown,
        None => Sniffed::Foreign("it begins with nothing but white space"),
    }
}

/// Whether a zstd frame, or a skippable one, begins here.
fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&ZSTD_MAGIC)
        || (head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18])
}

/// What became of a call to [`Decoder::fill`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// The buffer is full.
    Full,
    /// The file has no more bytes at present.
    Starved,
    /// The stream is damaged here. What follows in it, if anything, does not continue what came before.
    Damaged(String),
}

/// Decompresses one file.
pub(crate) struct Decoder {
    input: Input,
    codec: Codec,
    track: Track,
}

enum Codec {
    Zstd(Box<Zstd>),
    Gzip(Box<Gzip>),
    Plain,
}

/// How far the decompressed stream has come, and the frames that begin in the part that is still of interest.
struct Track {
    produced: u64,
    frames: VecDeque<Frame>,
}

impl Track {
    fn frame_begins(&mut self, compressed: u64) {
        let frame = Frame { compressed, decompressed: self.produced };
        match self.frames.back_mut() {
            Some(last) if last.decompressed == frame.decompressed => *last = frame,
            _ => self.frames.push_back(frame),
        }
    }
}

impl Decoder {
    /// Begins at `frame` if a frame begins there, else at the start of the file.
    pub(crate) fn new(file: &File, format: Format, frame: Frame) -> io::Result<Self> {
        let frame = if starts_at(file, format, frame.compressed)? { frame } else { Frame::default() };
        let codec = match format {
            Format::Zstd => Codec::Zstd(Box::new(Zstd::new(frame)?)),
            Format::Gzip => Codec::Gzip(Box::default()),
            Format::Plain => Codec::Plain,
        };
        let track = Track { produced: frame.decompressed, frames: VecDeque::from([frame]) };
        Ok(Self { input: Input::new(frame.compressed), codec, track })
    }

    /// Appends decompressed bytes to `out` until its capacity is reached or there are no more at present.
    pub(crate) fn fill(&mut self, file: &File, out: &mut Vec<u8>) -> io::Result<Filled> {
        match &mut self.codec {
            Codec::Zstd(zstd) => zstd.fill(file, &mut self.input, &mut self.track, out),
            Codec::Gzip(gzip) => gzip.fill(file, &mut self.input, &mut self.track, out),
            Codec::Plain => {
                let filled = self.input.pass_through(file, out)?;
                self.track.produced += filled.1;
                Ok(filled.0)
            }
        }
    }

    /// The file ends here: goes on behind a frame that lacks its end though others follow. Returns what to say about it.
    pub(crate) fn salvage(&mut self, file: &File) -> io::Result<Option<String>> {
        match &mut self.codec {
            Codec::Zstd(zstd) => zstd.salvage(file, &mut self.input),
            Codec::Gzip(_) | Codec::Plain => Ok(None),
        }
    }

    /// Whether the file, if it ends here, ends in the middle of a frame.
    pub(crate) fn is_cut(&self) -> bool {
        match &self.codec {
            Codec::Zstd(zstd) => zstd.is_cut(),
            Codec::Gzip(gzip) => gzip.is_cut(&self.input),
            Codec::Plain => false,
        }
    }

    /// Whether the file was read to the end of a frame. `None` if it has no frames.
    pub(crate) fn is_between_frames(&self) -> Option<bool> {
        match &self.codec {
            Codec::Zstd(zstd) => Some(zstd.is_between_frames()),
            Codec::Gzip(gzip) => Some(!gzip.is_cut(&self.input)),
            Codec::Plain => None,
        }
    }

    /// Bytes decompressed so far, counted from the start of the segment.
    pub(crate) fn produced(&self) -> u64 {
        self.track.produced
    }

    /// Bytes of the file that were read so far.
    pub(crate) fn consumed(&self) -> u64 {
        self.input.end()
    }

    /// The last frame that begins at or before `offset` of the decompressed stream. Offsets must not fall from call to
    /// call.
    pub(crate) fn frame_at(&mut self, offset: u64) -> Frame {
        if matches!(self.codec, Codec::Plain) {
            return Frame { compressed: offset, decompressed: offset };
        }
        let frames = &mut self.track.frames;
        while frames.get(1).is_some_and(|next| next.decompressed <= offset) {
            frames.pop_front();
        }
        frames.front().copied().unwrap_or_default()
    }
}

fn starts_at(file: &File, format: Format, offset: u64) -> io::Result<bool> {
    if offset == 0 || format == Format::Plain {
        return Ok(true);
    }
    let mut input = Input::new(offset);
    input.want(file, 4)?;
    Ok(match format {
        _ if input.available() == 0 => true,
        Format::Zstd => is_zstd(input.bytes()),
        _ => input.bytes().starts_with(&GZIP_MAGIC),
    })
}
