//! gzip (RFC 1952): any number of members, the last of which may be unfinished.

use std::fs::File;
use std::io;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{Filled, GZIP_MAGIC, Input, Track};

/// The longest header that is looked at; names and comments in it are of no use.
const MAX_HEADER: usize = 64 * 1024;

pub(super) struct Gzip {
    inflate: Decompress,
    crc: Crc,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Body,
    Trailer,
    /// Damaged: nothing says where the next member begins.
    Lost,
}

impl Default for Gzip {
    fn default() -> Self {
        Self { inflate: Decompress::new(false), crc: Crc::new(), state: State::Header }
    }
}

impl Gzip {
    pub(super) fn is_cut(&self, input: &Input) -> bool {
        match self.state {
            State::Header => input.available() > 0,
            State::Body | State::Trailer => true,
            State::Lost => false,
        }
    }

    pub(super) fn fill(
        &mut self,
        file: &File,
        input: &mut Input,
        track: &mut Track,
        out: &mut Vec<u8>,
    ) -> io::Result<Filled> {
        while out.len() < out.capacity() {
            let result = match self.state {
                State::Header => self.header(file, input, track)?,
                State::Body => self.body(file, input, track, out)?,
                State::Trailer => self.trailer(file, input)?,
                State::Lost => return Ok(Filled::Starved),
            };
            match result {
                Progress::Some => {}
                Progress::Starved => return Ok(Filled::Starved),
                Progress::Damaged(what) => {
                    self.state = State::Lost;
                    return Ok(Filled::Damaged(format!(
                        "gzip: {what} near byte {} of the file",
                        input.position()
                    )));
                }
            }
        }
        Ok(Filled::Full)
    }

    fn header(&mut self, file: &File, input: &mut Input, track: &mut Track) -> io::Result<Progress> {
        let padding = input.bytes().iter().take_while(|b| **b == 0).count();
        input.consume(padding);
        let len = loop {
            match header_len(input.bytes()) {
                Header::Ends(len) => break len,
                Header::Bad(what) => return Ok(Progress::Damaged(what)),
                Header::Short if input.available() > MAX_HEADER => {
                    return Ok(Progress::Damaged("overlong header"));
                }
                Header::Short if input.more(file)? == 0 => return Ok(Progress::Starved),
                Header::Short => {}
            }
        };
        track.frame_begins(input.position());
        input.consume(len);
        self.inflate.reset(false);
        self.crc.reset();
        self.state = State::Body;
        Ok(Progress::Some)
    }

    fn body(
        &mut self,
        file: &File,
        input: &mut Input,
        track: &mut Track,
        out: &mut Vec<u8>,
    ) -> io::Result<Progress> {
        let (read, written, before) = (self.inflate.total_in(), self.inflate.total_out(), out.len());
        let result = self.inflate.decompress_vec(input.bytes(), out, FlushDecompress::None);
        let read = self.inflate.total_in() - read;
        input.consume(read as usize);
        let written = self.inflate.total_out() - written;
        track.produced += written;
        self.crc.update(&out[before..]);
        match result {
            Ok(Status::StreamEnd) => self.state = State::Trailer,
            Ok(_) if read > 0 || written > 0 => {}
            Ok(_) if input.available() > 0 => return Ok(Progress::Damaged("no progress")),
            Ok(_) if input.more(file)? == 0 => return Ok(Progress::Starved),
            Ok(_) => {}
            Err(_) => return Ok(Progress::Damaged("corrupt deflate data")),
        }
        Ok(Progress::Some)
    }

    fn trailer(&mut self, file: &File, input: &mut Input) -> io::Result<Progress> {
        if !input.want(file, 8)? {
            return Ok(Progress::Starved);
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| input.bytes()[at + i]));
        if word(0) != self.crc.sum() || word(4) != self.crc.amount() {
            return Ok(Progress::Damaged("checksum mismatch"));
        }
        input.consume(8);
        self.state = State::Header;
        Ok(Progress::Some)
    }
}

enum Progress {
    Some,
    Starved,
    Damaged(&'static str),
}

enum Header {
    Ends(usize),
    Short,
    Bad(&'static str),
}

/// Where the header at the start of `bytes` ends.
fn header_len(bytes: &[u8]) -> Header {
    const CRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    if !bytes.iter().zip(&GZIP_MAGIC).all(|(a, b)| a == b) {
        return Header::Bad("no member where one should begin");
    }
    let Some(flags) = bytes.get(3) else {
        return Header::Short;
    };
    let mut at = 10;
    if flags & EXTRA != 0 {
        let (Some(low), Some(high)) = (bytes.get(at), bytes.get(at + 1)) else {
            return Header::Short;
        };
        at += 2 + usize::from(u16::from_le_bytes([*low, *high]));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = bytes.get(at..).and_then(|rest| memchr::memchr(0, rest));
            let Some(end) = end else { return Header::Short };
            at += end + 1;
        }
    }
    if flags & CRC != 0 {
        at += 2;
    }
    if bytes.len() < at { Header::Short } else { Header::Ends(at) }
}
