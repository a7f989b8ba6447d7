//! Segments of any bytes: those that fuzzing begins with or has found, and intact ones that something was done to.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../fuzz/checks/decode.rs"]
mod decode;
#[path = "../../../fuzz/checks/seeds.rs"]
mod seeds;

use common::{gz, zst, zst_checked};
use decode::{How, check};
use proptest::prelude::*;
use proptest::sample::Index;

#[test]
fn seeds_and_found_inputs_are_read_as_a_naive_reader_would() {
    let folder = tempfile::tempdir().unwrap();
    for (_, input) in seeds::seeds("decode") {
        let (how, bytes) = How::of(&input).unwrap();
        check(folder.path(), how, bytes);
    }
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (any::<u32>(), 0..60usize).prop_map(|(n, pad)| format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(pad)).into()),
        1 => prop::sample::select(vec![
            &b""[..], b" \t", b"null", b" null\r", b"{\"torn\":", b"\xef\xbb\xbf{}", b"{\"a\":\"\xff\xfe\"}", b"[1]\r",
            b"\"\\ud83d\"", b"\x00",
        ]).prop_map(<[u8]>::to_vec),
        1 => (100..140usize).prop_map(|deep| ["[".repeat(deep), "]".repeat(deep)].concat().into()),
    ]
}

/// Lines as segments, in one of the forms that they have.
fn file() -> impl Strategy<Value = Vec<u8>> {
    let text = (prop::collection::vec(line(), 0..80), any::<bool>()).prop_map(|(lines, ended)| {
        let mut text = lines.join(&b'\n');
        text.extend(ended.then_some(b'\n'));
        text
    });
    (text, 0..6u8, 1..500usize).prop_map(|(text, form, size)| match form {
        0 => text,
        1 => gz(&text),
        2 => text.chunks(size).flat_map(gz).collect(),
        3 => zst_checked(&text),
        4 => text.chunks(size).flat_map(zst).collect(),
        _ => text.chunks(size).flat_map(zst_checked).collect(),
    })
}

/// What is done to a file: so many bytes, from one place on, give way to others.
fn damage() -> impl Strategy<Value = Vec<(Index, usize, Vec<u8>)>> {
    let with = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..8),
        Just(vec![0x28, 0xb5, 0x2f, 0xfd]),
        (0..100usize).prop_map(|zeros| vec![0; zeros]),
    ];
    prop_oneof![Just(Vec::new()), prop::collection::vec((any::<Index>(), 0..8usize, with), 1..4)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn files_are_read_as_a_naive_reader_would(
        file in file(),
        damage in damage(),
        block_size in 16..3000usize,
        max_line_size in prop_oneof![Just(1 << 20), 20..300usize],
        sealed in any::<bool>(),
    ) {
        let mut file = file;
        for (at, len, with) in damage {
            let at = at.index(file.len() + 1);
            let to = (at + len).min(file.len());
            file.splice(at..to, with);
        }
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), How { block_size, max_line_size, sealed }, &file);
    }
}
