//! Lines and their tokens, 64 bytes at a time.
//!
//! A token is a bracket, a comma or colon outside of strings, the quote that opens a string, or the first byte of anything
//! else. For each 64 bytes the places of tokens are worked out as bits, so that whoever reads the tokens never goes
//! through the text of strings. The method is stage 1 of Langdale and Lemire, "Parsing Gigabytes of JSON per Second"
//! (2019), <https://arxiv.org/abs/1902.08318>, begun anew at each line, so that a line that is no JSON text does not change
//! how the next one is read.

use std::mem::MaybeUninit;
use std::sync::LazyLock;

const CHUNK: usize = 64;

/// The longest line that is cut into tokens: these take up to four times as much memory as the text.
const MAX_LINE: usize = 1 << 20;

/// What a line is, as far as its tokens say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The offset of its line break, or of the end of the text.
    pub(crate) end: usize,
    /// Whether the tokens are all there and every string in it is one: closed, without control characters, and with no
    /// escapes but those of JSON. If not, the tokens mean nothing.
    pub(crate) sound: bool,
    /// Whether all of it is ASCII.
    pub(crate) ascii: bool,
}

/// A line and its tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) facts: Facts,
    /// The text up to the line's end.
    text: &'a [u8],
    /// Where the tokens begin in it; each is below its length.
    places: &'a [u32],
    kinds: &'a [u8],
    escaped: &'a [u32],
}

impl<'a> Line<'a> {
    /// The text up to the line's end.
    pub(crate) fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The kinds of its tokens: their first bytes, but `0` for all that a number may begin with, a point and a slash.
    #[inline(always)]
    pub(crate) fn kinds(&self) -> &'a [u8] {
        self.kinds
    }

    /// The offset of a token.
    ///
    /// # Panics
    /// If there is no such token.
    #[inline(always)]
    pub(crate) fn place(&self, token: usize) -> usize {
        self.places[token] as usize
    }

    /// Where the bytes are that a backslash escapes.
    pub(crate) fn escaped(&self) -> &'a [u32] {
        self.escaped
    }
}

/// The tokens of a line.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// Where they are, as offsets in the text.
    places: Vec<u32>,
    /// Their kinds, as many as places.
    kinds: Vec<u8>,
    /// Where the bytes are that a backslash escapes.
    escaped: Vec<u32>,
}

/// The bytes of a chunk, sorted: one bit for each.
struct Sorted {
    quotes: u64,
    backslashes: u64,
    /// Brackets, commas, colons; perhaps also control characters.
    marks: u64,
    spaces: u64,
    /// Below 0x20: among them tabs, carriage returns, and the line's end.
    controls: u64,
    beyond_ascii: u64,
}

/// A way to sort the bytes of a chunk.
trait Sort {
    /// # Safety
    /// The machine must have what the implementation asks for.
    unsafe fn sort(chunk: &[u8; CHUNK]) -> Sorted;

    /// Each bit of the result is the parity of the bits up to it.
    ///
    /// # Safety
    /// As above.
    unsafe fn prefix_xor(bits: u64) -> u64;

    /// Writes the places of the bits, counted from `base`, and the kinds of their bytes to the start of the rooms, and anything
    /// behind them.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn write(
        chunk: &[u8; CHUNK],
        mut bits: u64,
        base: u32,
        places: &mut [MaybeUninit<u32>; CHUNK],
        kinds: &mut [MaybeUninit<u8>; CHUNK],
    ) {
        let (mut next, mut at) = (0, 0);
        while bits != 0 {
            // From one bit to the next: so there is nothing that a compiler could do for several at once, and worse.
            let step = bits.trailing_zeros();
            at += step;
            places[next].write(base + at);
            kinds[next].write(KINDS[usize::from(chunk[at as usize % CHUNK])]);
            next += 1;
            at += 1;
            bits = bits >> step >> 1;
        }
    }
}

/// The kind of a token that begins with a byte.
const KINDS: [u8; 256] = {
    let (mut kinds, mut byte) = ([0; 256], 0);
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'-'..=b'9' => b'0',
            byte => byte,
        };
        byte += 1;
    }
    kinds
};

/// What is carried from one chunk of a line to the next.
#[derive(Default)]
struct Carry {
    /// All ones within a string.
    in_string: u64,
    /// 1 if the next byte is escaped.
    escaped: u64,
    /// 1 if the last byte was part of a number, a literal or of nothing that JSON has.
    in_scalar: u64,
    /// Not zero if a byte was not ASCII.
    beyond_ascii: u64,
}

/// Cuts a line; see [`Tokens::of_line`].
///
/// # Safety
/// The machine must have what the function is compiled for.
type Cut = unsafe fn(&mut Tokens, &[u8], usize) -> Facts;

/// What this machine can cut lines with, the fastest first.
fn cuts() -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi2")
    {
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vbmi2") {
            cuts.push(x86::cut_avx512);
        }
        if is_x86_feature_detected!("avx2") {
            cuts.push(x86::cut_avx2);
        }
    }
    cuts.push(cut::<Portable>);
    cuts
}

impl Tokens {
    /// Finds the end of the line that begins at `start`, and its tokens.
    pub(crate) fn of_line<'a>(&'a mut self, text: &'a [u8], start: usize) -> Line<'a> {
        static FASTEST: LazyLock<Cut> = LazyLock::new(|| cuts()[0]);
        // SAFETY: `cuts` lists what the machine has.
        let facts = unsafe { FASTEST(self, text, start) };
        let Self { places, kinds, escaped } = self;
        Line { facts, text: &text[..facts.end], places, kinds, escaped }
    }
}

/// # Safety
/// The machine must have what `S` asks for.
#[inline(always)]
unsafe fn cut<S: Sort>(tokens: &mut Tokens, text: &[u8], start: usize) -> Facts {
    let mut cutting = Cutting::begin(tokens, text);
    let mut padded;
    let mut base = start;
    while base < text.len() {
        let bytes = match text[base..].first_chunk::<CHUNK>() {
            Some(bytes) => bytes,
            None => {
                padded = pad(&text[base..]);
                &padded
            }
        };
        // SAFETY: the caller's promise.
        let mut sorted = unsafe { S::sort(bytes) };
        if sorted.controls == 0 {
            // SAFETY: as above.
            unsafe { cutting.add::<S>(base, bytes, sorted, u64::MAX) };
        } else {
            let of = |byte: u8| each(sorted.controls, |at| bytes[at] == byte);
            let line_breaks = of(b'\n');
            sorted.spaces |= of(b'\t') | of(b'\r');
            sorted.marks &= !sorted.controls;
            let ours =
                if line_breaks == 0 { u64::MAX } else { (line_breaks & line_breaks.wrapping_neg()) - 1 };
            // SAFETY: as above.
            unsafe { cutting.add::<S>(base, bytes, sorted, ours) };
            if line_breaks != 0 {
                return cutting.end(base + line_breaks.trailing_zeros() as usize);
            }
        }
        base += CHUNK;
        if base - start > MAX_LINE {
            let end = memchr::memchr(b'\n', &text[base..]).map_or(text.len(), |at| base + at);
            cutting.sound = false;
            cutting.carry.beyond_ascii |= u64::from(!text[base..end].is_ascii());
            return cutting.end(end);
        }
    }
    cutting.end(text.len())
}

/// What is left of a text, with line breaks behind it.
#[cold]
fn pad(rest: &[u8]) -> [u8; CHUNK] {
    let mut padded = [b'\n'; CHUNK];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// The bits of those places among `bits` that are so.
fn each(bits: u64, mut is: impl FnMut(usize) -> bool) -> u64 {
    let (mut rest, mut found) = (bits, 0);
    while rest != 0 {
        let bit = rest & rest.wrapping_neg();
        if is(bit.trailing_zeros() as usize) {
            found |= bit;
        }
        rest &= !bit;
    }
    found
}

/// A line whose tokens are being found.
struct Cutting<'a> {
    tokens: &'a mut Tokens,
    text: &'a [u8],
    /// How many tokens were written behind the ends of the vectors, which are empty till the end.
    written: usize,
    /// How many both have room for.
    room: usize,
    sound: bool,
    carry: Carry,
}

impl<'a> Cutting<'a> {
    fn begin(tokens: &'a mut Tokens, text: &'a [u8]) -> Self {
        tokens.places.clear();
        tokens.kinds.clear();
        tokens.escaped.clear();
        let room = tokens.places.capacity().min(tokens.kinds.capacity());
        Self { tokens, text, written: 0, room, sound: true, carry: Carry::default() }
    }

    /// The line's end is at `end`.
    #[inline(always)]
    fn end(self, end: usize) -> Facts {
        // SAFETY: so many were written.
        unsafe {
            self.tokens.places.set_len(self.written);
            self.tokens.kinds.set_len(self.written);
        }
        let sound = self.sound && self.carry.in_string == 0;
        Facts { end, sound, ascii: self.carry.beyond_ascii == 0 }
    }

    /// Adds the tokens of the chunk at `base`, of which the bits in `ours` belong to the line.
    ///
    /// # Safety
    /// The machine must have what `S` asks for.
    #[inline(always)]
    unsafe fn add<S: Sort>(&mut self, base: usize, bytes: &[u8; CHUNK], sorted: Sorted, ours: u64) {
        let carry = &mut self.carry;
        let backslashes = sorted.backslashes & ours;
        let mut escaped = std::mem::take(&mut carry.escaped);
        if backslashes != 0 {
            escaped = super::scan::escaped_by(backslashes, escaped, &mut carry.escaped);
        }
        let quotes = sorted.quotes & !escaped & ours;
        // From each opening quote up to the byte before the closing one. The line's end ends a string too, for the sake of
        // what comes after it.
        // SAFETY: the caller's promise.
        let strings = unsafe { S::prefix_xor(quotes) } ^ carry.in_string;
        let at_end = strings & ours;
        carry.in_string = match ours.checked_add(1) {
            None => ((strings as i64) >> 63) as u64,
            Some(1) => carry.in_string,
            Some(_) => at_end >> (ours.trailing_ones() - 1) & 1,
        };
        carry.beyond_ascii |= sorted.beyond_ascii & ours;

        let scalars = !(sorted.marks | sorted.spaces);
        let unquoted = scalars & !quotes;
        let begun = scalars & !(unquoted << 1 | carry.in_scalar);
        carry.in_scalar = unquoted >> 63;
        let bits = (sorted.marks | begun) & !(strings ^ quotes) & ours;
        self.sound &= sorted.controls & at_end == 0;
        if escaped & at_end != 0 {
            self.sound &= self.add_escapes(base, escaped & at_end);
        }
        // SAFETY: the caller's promise.
        unsafe { self.write::<S>(base, bytes, bits) };
    }

    /// Adds bytes that a backslash escapes. Returns whether each of them may be.
    #[inline(never)]
    fn add_escapes(&mut self, base: usize, escaped: u64) -> bool {
        let text = self.text;
        let unknown = each(escaped, |n| {
            let at = base + n;
            self.tokens.escaped.push(at as u32);
            match text.get(at) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => false,
                Some(b'u') => !super::grammar::is_hex(text.get(at + 1..at + 5)),
                _ => true,
            }
        });
        unknown == 0
    }

    /// Adds the tokens that the bits stand for.
    ///
    /// # Safety
    /// The machine must have what `S` asks for.
    #[inline(always)]
    unsafe fn write<S: Sort>(&mut self, base: usize, bytes: &[u8; CHUNK], bits: u64) {
        if self.room - self.written < CHUNK {
            self.grow();
        }
        // SAFETY: both have room for so many more, and whatever is in there may be overwritten; and the caller's promise.
        unsafe {
            let places = &mut *self.tokens.places.as_mut_ptr().add(self.written).cast();
            let kinds = &mut *self.tokens.kinds.as_mut_ptr().add(self.written).cast();
            S::write(bytes, bits, base as u32, places, kinds);
        }
        self.written += bits.count_ones() as usize;
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let Tokens { places, kinds, .. } = &mut *self.tokens;
        // SAFETY: so many were written.
        unsafe {
            places.set_len(self.written);
            kinds.set_len(self.written);
        }
        places.reserve(8 * CHUNK);
        kinds.reserve(8 * CHUNK);
        self.room = places.capacity().min(kinds.capacity());
    }
}

/// For any machine.
struct Portable;

impl Sort for Portable {
    #[inline(always)]
    unsafe fn sort(chunk: &[u8; CHUNK]) -> Sorted {
        let bits =
            |is: fn(u8) -> bool| chunk.iter().rev().fold(0u64, |bits, b| bits << 1 | u64::from(is(*b)));
        Sorted {
            quotes: bits(|b| b == b'"'),
            backslashes: bits(|b| b == b'\\'),
            marks: bits(|b| matches!(b, b',' | b':' | b'{' | b'}' | b'[' | b']')),
            spaces: bits(|b| b == b' '),
            controls: bits(|b| b < 0x20),
            beyond_ascii: bits(|b| b >= 0x80),
        }
    }

    #[inline(always)]
    unsafe fn prefix_xor(bits: u64) -> u64 {
        super::scan::prefix_xor(bits)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    use super::{CHUNK, Facts, Sort, Sorted, Tokens, cut};

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,pclmulqdq,bmi2,popcnt")]
    pub(super) fn cut_avx512(tokens: &mut Tokens, text: &[u8], start: usize) -> Facts {
        // SAFETY: this function is compiled for what `Avx512` asks for.
        unsafe { cut::<Avx512>(tokens, text, start) }
    }

    #[target_feature(enable = "avx2,pclmulqdq,bmi2,popcnt")]
    pub(super) fn cut_avx2(tokens: &mut Tokens, text: &[u8], start: usize) -> Facts {
        // SAFETY: this function is compiled for what `Avx2` asks for.
        unsafe { cut::<Avx2>(tokens, text, start) }
    }

    /// With AVX-512 (F, BW and VBMI2).
    struct Avx512;

    impl Sort for Avx512 {
        #[inline(always)]
        unsafe fn sort(chunk: &[u8; CHUNK]) -> Sorted {
            // SAFETY: the caller's promise, as in the functions below.
            unsafe { sort_avx512(chunk) }
        }

        #[inline(always)]
        unsafe fn prefix_xor(bits: u64) -> u64 {
            // SAFETY: as above.
            unsafe { prefix_xor(bits) }
        }

        #[inline(always)]
        unsafe fn write(
            chunk: &[u8; CHUNK],
            bits: u64,
            base: u32,
            places: &mut [MaybeUninit<u32>; CHUNK],
            kinds: &mut [MaybeUninit<u8>; CHUNK],
        ) {
            // SAFETY: as above.
            unsafe {
                write_places(bits, base, places);
                write_kinds(chunk, bits, kinds);
            }
        }
    }

    /// With AVX2.
    struct Avx2;

    impl Sort for Avx2 {
        #[inline(always)]
        unsafe fn sort(chunk: &[u8; CHUNK]) -> Sorted {
            // SAFETY: the caller's promise, as in the function below.
            unsafe { sort_avx2(chunk) }
        }

        #[inline(always)]
        unsafe fn prefix_xor(bits: u64) -> u64 {
            // SAFETY: as above.
            unsafe { prefix_xor(bits) }
        }
    }

    /// For each lower half of a byte the mark that ends in it, if one does. The two kinds of bracket, which differ in one bit,
    /// are taken for braces. With that bit set nothing else becomes a mark, but for control characters.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn marks() -> __m128i {
        _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3a, 0x7b, 0x2c, 0x7d, 0, 0)
    }

    // The work is in functions with features of their own: a closure has those of the function that it is in.

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn sort_avx512(chunk: &[u8; CHUNK]) -> Sorted {
        // SAFETY: the load reads the chunk, and needs no alignment.
        let bytes = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
        let is = |byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
        let marks = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(marks()), bytes);
        // With this bit set, both kinds of bracket are the same.
        let folded = _mm512_or_si512(bytes, _mm512_set1_epi8(0x20));
        Sorted {
            quotes: is(b'"'),
            backslashes: is(b'\\'),
            marks: _mm512_cmpeq_epi8_mask(marks, folded),
            spaces: is(b' '),
            controls: _mm512_cmplt_epu8_mask(bytes, _mm512_set1_epi8(0x20)),
            beyond_ascii: _mm512_movepi8_mask(bytes),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sort_avx2(chunk: &[u8; CHUNK]) -> Sorted {
        // SAFETY: the loads read the chunk, and need no alignment.
        let (low, high) = unsafe {
            (_mm256_loadu_si256(chunk.as_ptr().cast()), _mm256_loadu_si256(chunk.as_ptr().add(32).cast()))
        };
        let join = |low: __m256i, high: __m256i| {
            u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
        };
        let eq = |bytes: __m256i, byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8));
        let is = |byte: u8| join(eq(low, byte), eq(high, byte));
        let mark = |bytes: __m256i| {
            let marks = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(marks()), bytes);
            // With this bit set, both kinds of bracket are the same.
            _mm256_cmpeq_epi8(marks, _mm256_or_si256(bytes, _mm256_set1_epi8(0x20)))
        };
        let control =
            |bytes: __m256i| _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
        Sorted {
            quotes: is(b'"'),
            backslashes: is(b'\\'),
            marks: join(mark(low), mark(high)),
            spaces: is(b' '),
            controls: join(control(low), control(high)),
            beyond_ascii: join(low, high),
        }
    }

    #[inline]
    #[target_feature(enable = "pclmulqdq")]
    fn prefix_xor(bits: u64) -> u64 {
        let product = _mm_clmulepi64_si128(_mm_set_epi64x(0, bits as i64), _mm_set1_epi8(-1), 0);
        _mm_cvtsi128_si64(product) as u64
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
    fn write_kinds(chunk: &[u8; CHUNK], bits: u64, room: &mut [MaybeUninit<u8>; CHUNK]) {
        // SAFETY: the load reads the chunk, and needs no alignment.
        let bytes = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
        let zero = _mm512_set1_epi8(b'0' as i8);
        // From the minus to the nine; a point and a slash are among them.
        let from_minus = _mm512_sub_epi8(bytes, _mm512_set1_epi8(b'-' as i8));
        let number = _mm512_cmplt_epu8_mask(from_minus, _mm512_set1_epi8(13));
        let kinds = _mm512_maskz_compress_epi8(bits, _mm512_mask_mov_epi8(bytes, number, zero));
        // SAFETY: the store is as long as the room, and needs no alignment.
        unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), kinds) };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi2,popcnt")]
    fn write_places(bits: u64, base: u32, room: &mut [MaybeUninit<u32>; CHUNK]) {
        /// The places of all bytes of a chunk.
        const ALL: [u8; CHUNK] = {
            let mut all = [0; CHUNK];
            let mut n = 0;
            while n < CHUNK {
                all[n] = n as u8;
                n += 1;
            }
            all
        };
        // SAFETY: the load reads `ALL`, and needs no alignment.
        let all = unsafe { _mm512_loadu_si512(ALL.as_ptr().cast()) };
        let places = _mm512_maskz_compress_epi8(bits, all);
        let base = _mm512_set1_epi32(base as i32);
        let mut write = |n: usize, sixteen: __m128i| {
            let places = _mm512_add_epi32(_mm512_cvtepu8_epi32(sixteen), base);
            // SAFETY: `n` is below 4, so the store is within the 64 places; it needs no alignment.
            unsafe { _mm512_storeu_si512(room.as_mut_ptr().add(n * 16).cast(), places) };
        };
        write(0, _mm512_castsi512_si128(places));
        if bits.count_ones() > 16 {
            write(1, _mm512_extracti32x4_epi32::<1>(places));
            write(2, _mm512_extracti32x4_epi32::<2>(places));
            write(3, _mm512_extracti32x4_epi32::<3>(places));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
        #[test]
        fn all_machines_cut_alike(
            text in "([\\[\\]{},:\"a1 \u{e9}\u{0}\t\r\u{7f}]|\\\\|\\\\\"|\\\\u00e9|\\\\\\\\|[a-z]{1,70}|\n){0,80}",
            start in 0usize..10,
        ) {
            let (text, mut first) = (text.as_bytes(), None);
            for cut in cuts() {
                let (mut tokens, mut start, mut lines) = (Tokens::default(), start.min(text.len()), Vec::new());
                while start < text.len() {
                    // SAFETY: `cuts` lists what the machine has.
                    let line = unsafe { cut(&mut tokens, text, start) };
                    let break_at = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at);
                    prop_assert_eq!(line.end, break_at);
                    prop_assert_eq!(line.ascii, text[start..line.end].is_ascii());
                    lines.push((line, tokens.places.clone(), tokens.kinds.clone(), tokens.escaped.clone()));
                    let kinds = tokens.places.iter().map(|at| KINDS[usize::from(text[*at as usize])]);
                    prop_assert!(kinds.eq(tokens.kinds.iter().copied()));
                    start = line.end + 1;
                }
                prop_assert_eq!(first.get_or_insert_with(|| lines.clone()), &lines);
            }
        }
    }
}
