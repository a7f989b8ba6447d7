//! What the reader makes of what is, and happens, in a directory.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::*;
use tailweir_segments::sample::{Becomes, traps};
use tailweir_segments::{
    Begun, Cursor, Hand, Mode, Ordering, Pattern, ReadError, Reader, ReaderOptions, Start, Step, Watch,
    measure,
};

/// One sealed file, read once.
#[track_caller]
fn check(bytes: &[u8], expected: &str, events: &[&str]) {
    for workers in [1, 3] {
        let mut rig = Rig::once();
        rig.options.workers = workers;
        rig.put_sealed("a", bytes);
        rig.open();
        assert_eq!(rig.all(), expected);
        assert_eq!(rig.log.take(), events);
    }
}

#[test]
fn formats_are_told_by_their_first_bytes() {
    let text = lines(1, 3);
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let expected = "a:1 a:2 a:3 a$";
    check(&text, expected, &[]);
    check(&zst(&text), expected, &[]);
    check(&gz(&text), expected, &[]);
    check(&[zst(&lines(1, 1)), skippable.clone(), zst(b""), zst(&lines(2, 3))].concat(), expected, &[]);
    check(&[skippable, zst(&text)].concat(), expected, &[]);
    check(&[gz(&lines(1, 2)), gz(b""), gz(&lines(3, 3)), vec![0; 512]].concat(), expected, &[]);
    check(b"\xef\xbb\xbf \n {\"n\":1}\n", "a:2 a$", &[]);
    check(b"", "a$", &[]);
    check(b" \n", "a$", &["damaged a:0"]);
    check(b"\x7fELF\x02", "", &["foreign a"]);
    check(&[0; 100], "", &["foreign a"]);
    check(b"type,id\n1,2\n", "", &["foreign a"]);
    check(&zst(b""), "a$", &[]);
    check(&zst(&text)[..3], "a$", &["damaged a:0"]);
}

#[test]
fn a_frame_boundary_may_be_anywhere() {
    let text = lines(1, 20);
    for at in 0..text.len() {
        let parts = [zst(&text[..at]), zst(&text[at..])].concat();
        check(&parts, &format!("{} a$", came("a", 1, 20)), &[]);
    }
}

#[test]
fn f25_a_header_is_a_defect_and_the_rest_is_read() {
    check(&zst(b"type,id\n{\"n\":1}\n"), "a:1!malformed a:2 a$", &[]);
}

#[test]
fn the_last_line_may_lack_its_break() {
    check(&zst(b"{\"n\":1}\n{\"n\":2}"), "a:1 a:2 a$", &[]);
    check(&zst(b"{\"n\":1}\n{\"n\""), "a:1 a:2!malformed a$", &[]);
    check(b"{\"n\":1}\n{\"n\"", "a:1 a:2!malformed a$", &[]);
}

#[test]
fn f25_traps_become_what_they_must() {
    let traps = traps();
    let mut text = b"\xef\xbb\xbf".to_vec();
    for trap in &traps {
        text.extend_from_slice(&trap.line);
        text.push(b'\n');
    }
    for file in [text.clone(), zst(&text), gz(&text)] {
        let mut rig = Rig::once();
        rig.put_sealed("a", &file);
        rig.open();
        let mut found = vec![Becomes::Blank; traps.len()];
        loop {
            match rig.reader.as_mut().unwrap().next().unwrap() {
                Step::Block(block) => {
                    for i in 0..block.len() {
                        let line = block.line(i) as usize - 1;
                        let trap = &traps[line];
                        let stripped = trap.line.strip_suffix(b"\r").unwrap_or(&trap.line);
                        assert_eq!(block.bytes(i), stripped, "{}", trap.name);
                        let whole = stripped.len() == trap.line.len();
                        found[line] = if whole { Becomes::Record } else { Becomes::RecordWithoutReturn };
                    }
                    block.defects().iter().for_each(|d| found[d.line as usize - 1] = Becomes::Defect);
                }
                Step::End => break,
                _ => {}
            }
        }
        let expected: Vec<_> = traps.iter().map(|trap| (trap.name, trap.becomes)).collect();
        assert_eq!(traps.iter().map(|trap| trap.name).zip(found).collect::<Vec<_>>(), expected);
        assert_eq!(rig.log.take(), [""; 0]);
    }
}

#[test]
fn f01_long_lines_are_delivered_or_passed_over_alone() {
    let long = |len: usize| [br#"{"a":""#, vec![b'x'; len - 8].as_slice(), b"\"}"].concat();
    let file = |len: usize| zst(&[lines(1, 2), long(len), b"\n".to_vec(), lines(3, 4)].concat());
    check(&file(5 << 20), "a:1 a:2 a:3 a:4 a:5 a$", &[]);
    for max in [8usize, 100, 5000, 1 << 20] {
        for (len, verdict) in [(max, ""), (max + 1, "!long"), (max + 3000, "!long"), (3 * max, "!long")] {
            for end in ["\n", ""] {
                let mut text =
                    [lines(1, 2), long(len.max(8)), b"\n".to_vec(), lines(3, 4), long(len.max(8))].concat();
                text.extend_from_slice(end.as_bytes());
                let mut rig = Rig::once();
                rig.options.max_line_size = max;
                rig.options.block_size = 1000;
                rig.put_sealed("a", &zst(&text));
                rig.open();
                assert_eq!(rig.all(), format!("a:1 a:2 a:3{verdict} a:4 a:5 a:6{verdict} a$"), "{max} {len}");
                assert_eq!(rig.log.take(), [""; 0]);
            }
        }
    }
}

#[test]
fn f09_a_cut_frame_gives_every_whole_line() {
    let mut rig = Rig::once();
    let mut kumo = Kumo::create(rig.path("a"));
    kumo.write(&lines(1, 5));
    kumo.write(b"{\"n\":");
    kumo.flush();
    kumo.write(&lines(7, 8));
    kumo.kill();
    rig.put_sealed("b", &lines(1, 1));
    rig.open();
    assert_eq!(rig.all(), "a:1 a:2 a:3 a:4 a:5 a:6!cut a$ b:1 b$");
    assert_eq!(rig.log.take(), ["damaged a:6"]);
}

#[test]
fn f09_a_file_cut_anywhere_gives_what_is_before() {
    let text = lines(1, 3000);
    for (file, step) in [(zst(&text), 61), (gz(&text), 61)] {
        for len in (4..file.len()).step_by(step) {
            let mut rig = Rig::once();
            rig.put_sealed("a", &file[..len]);
            rig.open();
            let all = rig.all();
            let whole = all.split(' ').take_while(|text| !text.contains(['!', '$'])).count() as u64;
            let rest = match all.contains('!') {
                true => format!("a:{}!cut a$", whole + 1),
                false => "a$".to_owned(),
            };
            let expected = [came("a", 1, whole), rest].join(" ");
            assert_eq!(all, expected.trim_start());
            assert_eq!(rig.log.take().len(), 1);
        }
    }
}

/// What `cp`, `tar x`, and `mv` from another file system make: a file that is read-only, and filled later.
struct Copy {
    rig: Rig,
    hand: Hand,
    file: File,
}

impl Copy {
    fn begin() -> Self {
        let (mut rig, hand) = (Rig::new(), Hand::default());
        rig.options.hand = Some(hand.clone());
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o444).open(rig.path("a")).unwrap();
        Self { rig, hand, file }
    }

    /// What comes once this is there, too, and a second has passed.
    fn write(&mut self, bytes: &[u8]) -> String {
        self.file.write_all(bytes).unwrap();
        self.after(1)
    }

    fn after(&mut self, seconds: u64) -> String {
        self.hand.advance(Duration::from_secs(seconds));
        self.rig.all()
    }
}

/// Its absent write bit used to be taken for its end, and what came later was never read.
#[test]
fn f09_a_sealed_segment_that_is_still_copied_is_read_as_it_grows() {
    let text = lines(1, 200);
    let frames: Vec<u8> = text.chunks(700).flat_map(zst).collect();
    for bytes in [zst(&text), frames, gz(&text), text] {
        let mut copy = Copy::begin();
        copy.rig.options.block_size = 256;
        copy.rig.open();
        assert_eq!(copy.rig.all(), "");
        assert_eq!(copy.rig.waiting, ["a"], "that it is there is known");
        let (first, second) = (&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]);
        let (few, first) = first.split_at(2);
        let mut all = copy.write(few);
        for part in [first, second] {
            assert!(!all.contains(['$', '!']), "{all}");
            all = format!("{all} {}", copy.write(part)).trim().to_owned();
        }
        assert_eq!(all, format!("{} a$", came("a", 1, 200)));
        assert_eq!(copy.rig.log.take(), [""; 0]);
    }
}

#[test]
fn f09_a_sealed_segment_that_ends_torn_and_is_changed_no_more_is_finished() {
    for ahead in [0, 3600] {
        let mut copy = Copy::begin();
        copy.rig.open();
        let mut torn = zst(&lines(1, 2));
        torn.extend_from_slice(&zst(&lines(3, 3))[..9]);
        assert_eq!(copy.write(&torn), "a:1 a:2");
        // The clock of a file server may be ahead of ours.
        copy.file.set_modified(SystemTime::now() + Duration::from_secs(ahead)).unwrap();
        assert_eq!((copy.after(1), copy.after(29)), (String::new(), String::new()), "{ahead}");
        assert_eq!(copy.rig.log.take(), [""; 0]);
        assert_eq!(copy.after(1), "a$", "{ahead}");
        assert_eq!(copy.rig.log.take(), ["damaged a:2"]);
    }
    let mut empty = Copy::begin();
    empty.rig.open();
    assert_eq!(
        (empty.after(1), empty.after(29), empty.after(1)),
        (String::new(), String::new(), "a$".to_owned())
    );
    // One whose last line has no end, after which nothing came.
    let mut line = Copy::begin();
    line.rig.open();
    assert_eq!(line.write(b"{\"n\":1}\n{\"n\":2}"), "a:1");
    assert_eq!(line.after(30), "a:2 a$");
    assert_eq!([empty.rig.log.take(), line.rig.log.take()], [[""; 0]; 2]);
}

/// A writer makes its file read-only when it is through with it.
#[test]
fn f09_a_segment_that_is_sealed_while_it_is_followed_is_finished_at_once() {
    let mut rig = Rig::new();
    rig.open();
    rig.put("a", b"{\"n\":1}\n{\"n\":2}");
    rig.put("b", b"");
    rig.expect("a:1");
    ["a", "b"].iter().for_each(|name| seal(&rig.path(name)));
    rig.expect("a:2 a$ b$");
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn f09_a_single_pass_leaves_what_is_still_copied_for_the_next() {
    let left = "warning segment a is read-only and ends torn, but was changed a moment ago: it may not be all there yet, so \
                what it ends with is left for the next run";
    for begun in ["", "{\"n\":1}\n{\"n\":2}\n{\"n\""] {
        let mut copy = Copy::begin();
        copy.rig.options.mode = Mode::Once;
        copy.rig.open();
        assert_eq!(copy.rig.log.take(), [""; 0]);
        copy.file.write_all(begun.as_bytes()).unwrap();
        let lines = if begun.is_empty() { 0 } else { 2 };
        assert_eq!(copy.rig.all(), came("a", 1, lines));
        assert_eq!(copy.rig.log.take(), [left]);
        copy.file.write_all(b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n"[begun.len()..].as_ref()).unwrap();
        copy.rig.open_at(copy.rig.cursor());
        assert_eq!(copy.rig.all(), format!("{} a$", came("a", lines + 1, 3)));
    }
    // All is there if that is said.
    let mut copy = Copy::begin();
    copy.rig.options.mode = Mode::Complete;
    copy.file.write_all(&zst(&lines(1, 1))[..9]).unwrap();
    copy.rig.open();
    assert_eq!(copy.rig.all(), "a$");
    assert_eq!(copy.rig.log.take(), ["damaged a:0"]);
}

#[test]
fn f09_many_segments_that_are_still_copied_are_finished_and_named_when_they_go() {
    let (mut rig, hand) = (Rig::new(), Hand::default());
    rig.options.hand = Some(hand.clone());
    let whole = zst(&lines(1, 3));
    let names: Vec<_> = (0..40).map(|n| format!("s{n:02}")).collect();
    for name in &names {
        rig.put(name, &whole[..whole.len() - 1]);
        seal(&rig.path(name));
    }
    rig.open();
    let all = rig.all();
    assert!(!all.contains('$'), "{all}");
    // Some are closed by now, and the others open.
    rig.remove("s00");
    rig.remove("s39");
    hand.advance(Duration::from_secs(1));
    let gone = rig.all();
    assert!(gone.contains("s00$") && gone.contains("s39$"), "{gone}");
    assert_eq!(rig.log.take(), ["gap s39", "damaged s00:0", "gap s00"]);
    hand.advance(Duration::from_secs(30));
    assert_eq!(rig.all().matches('$').count(), 38);
    assert_eq!(rig.log.take().iter().filter(|event| event.starts_with("damaged ")).count(), 38);
}

#[test]
fn damage_in_the_middle_costs_one_frame_at_most() {
    // Without a checksum zstd may take damaged bytes for good.
    let frame = |n: u64| zst_checked(&lines(1 + n * 1000, (n + 1) * 1000));
    let frames: Vec<_> = (0..5).map(frame).collect();
    let whole = frames.concat();
    let (begin, end) = (frames[..2].concat().len(), frames[..3].concat().len());
    let (before, after): (Vec<u64>, Vec<u64>) = ((1..=2000).collect(), (3001..=5000).collect());
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let mut file = whole.clone();
        let at = random.usize(begin..end);
        file[at] ^= 1 << random.u8(0..8);
        let mut rig = Rig::once();
        rig.put_sealed("a", &file);
        rig.open();
        // The numbers in the records, for lines are counted as they come.
        let mut numbers = Vec::new();
        let mut marks = Vec::new();
        loop {
            match rig.reader.as_mut().unwrap().next().unwrap() {
                Step::Block(block) => {
                    // Damaged text may be anything.
                    let number = |text: &str| text.get(5..)?.trim_end_matches('}').parse::<u64>().ok();
                    numbers.extend((0..block.len()).map(|i| number(block.text(i)).unwrap_or(0)));
                    marks.push((block.to(), numbers.len()));
                }
                Step::End => break,
                _ => {}
            }
        }
        // The damaged frame may give any numbers before its checksum is seen to be wrong, those of others too.
        assert!(numbers.starts_with(&before) && numbers.ends_with(&after), "seed {seed}, byte {at}");
        // Resuming behind the damage gives the rest, exactly.
        for (to, count) in marks {
            let begun = Begun { start: Start::Mark(to), identity: None };
            rig.open_at(Cursor { begun: [(name("a"), begun)].into(), ..Cursor::default() });
            let rest = rig.all().split(' ').filter(|text| !text.contains(['!', '$'])).count();
            assert_eq!(rest, numbers.len() - count, "seed {seed}, byte {at}");
        }
    }
}

/// A block that is not the last one of its frame any more swallows the frames behind it.
#[test]
fn damage_in_a_frames_headers_costs_that_frame_alone() {
    let frames: Vec<_> = (0..4).map(|n| zst_checked(&lines(1 + n * 10, (n + 1) * 10))).collect();
    let begin = frames[0].len();
    for bit in 0..16 * 8 {
        let mut file = frames.concat();
        file[begin + bit / 8] ^= 1 << (bit % 8);
        let mut rig = Rig::once();
        rig.put_sealed("a", &file);
        rig.open();
        let mut numbers = Vec::new();
        loop {
            match rig.reader.as_mut().unwrap().next().unwrap() {
                Step::Block(block) => {
                    let number = |text: &str| text.get(5..)?.trim_end_matches('}').parse::<u64>().ok();
                    numbers.extend((0..block.len()).filter_map(|i| number(block.text(i))));
                }
                Step::End => break,
                _ => {}
            }
        }
        let (before, after): (Vec<u64>, Vec<u64>) = ((1..=10).collect(), (21..=40).collect());
        assert!(numbers.starts_with(&before) && numbers.ends_with(&after), "bit {bit}: {numbers:?}");
    }
}

#[test]
fn everything_before_damage_in_a_single_frame_is_delivered() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut sample = tailweir_segments::sample::Sample::new(3);
    let text: String = (0..2000).map(|_| sample.next_record() + "\n").collect();
    let file = zst_checked(text.as_bytes());
    for _ in 0..10 {
        let at = random.usize(file.len() / 2..file.len());
        let mut damaged = file.clone();
        damaged[at] ^= 0x55;
        damaged[at + 1..].iter_mut().take(40).for_each(|b| *b = !*b);
        let mut rig = Rig::once();
        rig.put_sealed("a", &damaged);
        rig.open();
        let all = rig.all();
        let records = all.split(' ').filter(|text| !text.contains(['!', '$'])).count();
        // A block of zstd is 128 KiB of text, about 110 records: those of all blocks before are there.
        let certain = 2000 * at / file.len();
        assert!(records + 250 > certain, "{records} of {certain}");
        assert_eq!(rig.log.take().len(), 1);
    }
}

/// The block before a damaged block header used to be lost: the decoder takes both together, and gives neither.
#[test]
fn everything_before_a_damaged_block_header_is_delivered() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    let mut ends = Vec::new();
    for n in 1..=5 {
        encoder.write_all(&lines(n, n)).unwrap();
        // Ends a block.
        encoder.flush().unwrap();
        ends.push(encoder.get_ref().len());
    }
    let file = encoder.finish().unwrap();
    for (before, at) in (1..).zip(&ends) {
        let mut damaged = file.clone();
        // The type of block that is reserved.
        damaged[*at] |= 0b110;
        check(&damaged, &format!("{} a$", came("a", 1, before)), &[&format!("damaged a:{before}")]);
    }
}

#[test]
fn f02_malformed_lines_are_passed() {
    check(
        &zst(b"nope\n{\"n\":1}\n{\"n\":\nnull\n\n{\"n\":2}\n["),
        "a:1!malformed a:2 a:3!malformed a:4!null a:6 a:7!malformed a$",
        &[],
    );
}

#[test]
fn segments_come_in_order_of_their_names() {
    let mut rig = Rig::once();
    for (n, name) in ["20250101-000000", "20250101-000000.5", "20250101-000001", "b", "a"].iter().enumerate()
    {
        rig.put_sealed(name, &zst(&lines(1, n as u64)));
    }
    rig.open();
    let expected = "20250101-000000$ 20250101-000000.5:1 20250101-000000.5$ \
                    20250101-000001:1 20250101-000001:2 20250101-000001$ a:1 a:2 a:3 a:4 a$ b:1 b:2 b:3 b$";
    assert_eq!(rig.all(), expected);
}

#[test]
fn many_segments_within_a_small_budget() {
    let mut rig = Rig::once();
    (rig.options.read_ahead_bytes, rig.options.block_size, rig.options.workers) = (1, 64, 4);
    let mut expected = String::new();
    for n in 0..150 {
        rig.put_sealed(&format!("s{n:03}"), &zst(&lines(1, n % 20)));
        expected += &format!(" {} s{n:03}$", came(&format!("s{n:03}"), 1, n % 20));
    }
    rig.open();
    assert_eq!(rig.all(), expected.split_whitespace().collect::<Vec<_>>().join(" "));
}

#[test]
fn a_reader_that_is_dropped_midway_stops_its_threads() {
    let mut rig = Rig::once();
    rig.options.read_ahead_bytes = 1 << 16;
    for n in 0..10 {
        rig.put_sealed(&format!("s{n}"), &zst(&lines(1, 200_000)));
    }
    rig.open();
    assert!(rig.next().is_some());
    let begun = Instant::now();
    rig.reader = None;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_open_segment_is_read_as_far_as_it_goes_and_then_on() {
    let mut rig = Rig::new();
    rig.open();
    let mut kumo = Kumo::create(rig.path("a"));
    rig.expect("");
    kumo.write(&lines(1, 2));
    kumo.write(b"{\"n\"");
    rig.expect("");
    kumo.flush();
    rig.expect("a:1 a:2");
    kumo.write(b":3}\n");
    kumo.flush();
    rig.expect("a:3");
    kumo.write(&lines(4, 4));
    kumo.finish();
    rig.expect("a:4 a$");
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn gzip_and_plain_segments_grow_too() {
    for (whole, one) in [(gz(&lines(1, 3)), gz(&lines(4, 4))), (lines(1, 3), lines(4, 4))] {
        let mut rig = Rig::new();
        rig.open();
        let expected = ["a:1", "a:2", "a:3"];
        let mut seen = Vec::new();
        for byte in &whole {
            rig.append("a", &[*byte]);
            rig.reader.as_ref().unwrap().wait(Duration::from_millis(3));
            seen.extend(std::iter::from_fn(|| rig.next()));
        }
        assert_eq!(seen, expected[..seen.len()]);
        rig.expect(&expected[seen.len()..].join(" "));
        rig.append("a", &one);
        rig.expect("a:4");
        rig.seal("a");
        rig.expect("a$");
    }
}

#[test]
fn f05_open_segments_do_not_starve_each_other() {
    let mut rig = Rig::new();
    let mut first = Kumo::create(rig.path("a"));
    let mut second = Kumo::create(rig.path("b"));
    rig.put_sealed("c", &zst(&lines(1, 1)));
    rig.open();
    rig.expect("c:1 c$");
    second.write(&lines(1, 2));
    second.flush();
    rig.expect("b:1 b:2");
    first.write(&lines(1, 1));
    first.flush();
    rig.expect("a:1");
    second.finish();
    rig.expect("b$");
    first.write(&lines(2, 2));
    first.finish();
    rig.expect("a:2 a$");
}

#[test]
fn strict_order_waits() {
    let mut rig = Rig::new();
    rig.options.ordering = Ordering::Strict;
    let mut first = Kumo::create(rig.path("a"));
    rig.put_sealed("b", &zst(&lines(1, 1)));
    rig.put_sealed("c", &zst(&lines(1, 1)));
    first.write(&lines(1, 1));
    first.flush();
    rig.open();
    rig.expect("a:1");
    first.write(&lines(2, 2));
    first.finish();
    rig.expect("a:2 a$ b:1 b$ c:1 c$");
    // With `Once` there is nothing to wait for.
    let mut rig = Rig::once();
    rig.options.ordering = Ordering::Strict;
    rig.put("a", &lines(1, 1));
    rig.put_sealed("b", &lines(1, 1));
    rig.open();
    assert_eq!(rig.all(), "a:1 b:1 b$");
}

#[test]
fn what_is_complete_has_a_last_line_without_an_end() {
    let mut rig = Rig::once();
    rig.options.mode = Mode::Complete;
    rig.put("a", b"{\"n\":1}\n{\"n\":2}");
    rig.put("b", b"{");
    rig.open();
    assert_eq!(rig.all(), "a:1 a:2 a$ b:1!malformed b$");
}

#[test]
fn once_ends_at_the_present_end() {
    let mut rig = Rig::once();
    rig.put("a", &[zst(&lines(1, 2)), zst(b"{\"n\"")].concat());
    rig.put("b", b"");
    rig.put_sealed("c", &lines(1, 1));
    rig.open();
    rig.put_sealed("d", &lines(1, 1));
    assert_eq!(rig.all(), "a:1 a:2 c:1 c$");
    assert!(matches!(rig.reader.as_mut().unwrap().next().unwrap(), Step::End));
}

#[test]
fn an_empty_file_is_not_yet_known() {
    let mut rig = Rig::new();
    rig.put("a", b"");
    rig.put("b", b"\x28");
    rig.open();
    rig.expect("");
    assert_eq!(rig.waiting, ["a", "b"], "that they are there is said before anything of them is read");
    rig.append("a", &lines(1, 1));
    rig.append("b", &zst(&lines(1, 1))[1..]);
    rig.expect("a:1 b:1");
    assert_eq!(rig.waiting.len(), 2);
    rig.put("c", b"");
    rig.expect("");
    rig.seal("c");
    rig.expect("c$");
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn f08_renamed_into_the_directory_and_chmod_only_are_noticed() {
    for watch in [Watch::Native, Watch::Poll(Duration::from_millis(2))] {
        let mut rig = Rig::new();
        rig.options.watch = watch;
        rig.open();
        rig.expect("");
        let outside = rig.temp.path().join("x");
        std::fs::write(&outside, zst(&lines(1, 1))).unwrap();
        std::fs::rename(&outside, rig.path("a")).unwrap();
        rig.expect("a:1");
        rig.seal("a");
        rig.expect("a$");
    }
}

#[test]
fn f10_a_segment_deleted_while_it_is_read_is_read_to_its_end() {
    let mut rig = Rig::new();
    let mut kumo = Kumo::create(rig.path("a"));
    kumo.write(&lines(1, 1));
    kumo.flush();
    rig.open();
    rig.expect("a:1");
    kumo.write(&lines(2, 2));
    kumo.flush();
    rig.remove("a");
    rig.expect("a:2 a$");
    // Its writer may not have been done.
    assert_eq!(rig.log.take(), ["damaged a:2", "gap a"]);
    // One that was sealed was done, and is in no way lost.
    rig.put("b", &lines(1, 1));
    rig.expect("b:1");
    rig.seal("b");
    rig.remove("b");
    rig.expect("b$");
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn f10_a_segment_deleted_before_its_turn_is_a_gap() {
    let mut rig = Rig::new();
    rig.options.ordering = Ordering::Strict;
    rig.put("a", &lines(1, 1));
    rig.put_sealed("b", &lines(1, 1));
    rig.open();
    rig.expect("a:1");
    rig.remove("b");
    rig.expect("b?");
    assert_eq!(rig.log.take(), ["gap b"]);
    // One that the cursor names, too.
    let mut rig = Rig::new();
    rig.put_sealed("b", &lines(1, 1));
    let begun = Begun { start: Start::Line(1), identity: None };
    rig.open_at(Cursor { begun: [(name("a"), begun)].into(), ..Cursor::default() });
    rig.expect("a? b:1 b$");
    assert_eq!(rig.log.take(), ["gap a"]);
}

#[test]
fn f10_a_segment_that_somebody_else_has_seen_is_a_gap_if_it_is_gone() {
    for mode in [Mode::Once, Mode::Follow] {
        let mut rig = Rig::new();
        rig.options.mode = mode;
        rig.put_sealed("a", &lines(1, 1));
        rig.put_sealed("c", &lines(1, 1));
        rig.open();
        assert_eq!(rig.all(), "a:1 a$ c:1 c$");
        let unread = rig.reader.as_ref().unwrap().unread();
        assert_eq!(unread.names(), names(&[]));
        rig.put_sealed("d", &lines(1, 1));
        rig.reader.as_mut().unwrap().expect(["a", "b", "d"].map(name));
        assert_eq!(unread.names(), names(&["b", "d"]));
        rig.expect("b? d:1 d$");
        assert_eq!(unread.names(), names(&[]));
        assert_eq!(rig.log.take(), ["gap b"]);
        rig.expect("");
    }
}

#[test]
fn f10_a_reader_that_only_keeps_up_names_what_comes_and_goes() {
    let mut rig = Rig::new();
    rig.put_sealed("a", &lines(1, 1));
    rig.open();
    let deadline = Instant::now() + DEADLINE;
    let until = |rig: &mut Rig, done: &dyn Fn(&Rig) -> bool| {
        while !done(rig) {
            assert!(Instant::now() < deadline);
            let reader = rig.reader.as_mut().unwrap();
            reader.wait(Duration::from_millis(50));
            reader.keep_up();
        }
    };
    rig.put_sealed("b", &lines(1, 1));
    let unread = rig.reader.as_ref().unwrap().unread();
    until(&mut rig, &|_| unread.names() == names(&["a", "b"]));
    rig.remove("b");
    until(&mut rig, &|_| unread.names() == names(&["a"]));
    assert_eq!(rig.log.take(), ["gap b"]);
    rig.expect("b? a:1 a$");
}

#[test]
fn f11_a_file_replaced_under_its_reader_is_read_from_its_start() {
    // Overwritten in place.
    let mut rig = Rig::new();
    rig.put("a", &lines(1, 3));
    rig.open();
    rig.expect("a:1 a:2 a:3");
    rig.put("a", &lines(5, 6));
    rig.expect("a# a:1 a:2");
    // Truncated below the position, with the same head.
    rig.put("a", &lines(5, 5));
    rig.expect("a# a:1");
    // Another file under the name: the old one is read to its end first.
    rig.append("a", &lines(6, 6));
    rig.put("new", &lines(10, 11));
    std::fs::rename(rig.path("new"), rig.path("a")).unwrap();
    rig.expect("a:2 a# a:1 a:2");
    assert_eq!(rig.log.take(), ["gap a", "gap a", "gap a"]);
}

#[test]
fn f11_a_file_replaced_after_it_was_finished_is_read() {
    let mut rig = Rig::new();
    rig.put_sealed("a", &lines(1, 2));
    rig.open();
    rig.expect("a:1 a:2 a$");
    rig.put_sealed(".new", &lines(3, 3));
    std::fs::rename(rig.path(".new"), rig.path("a")).unwrap();
    rig.expect("a# a:1 a$");
    assert_eq!(rig.log.take(), ["gap a"]);
}

#[test]
fn f11_a_cursor_of_another_file_does_not_count() {
    let mut rig = Rig::once();
    rig.options.block_size = 100;
    rig.put_sealed("a", &zst(&lines(1, 100)));
    rig.open();
    rig.all();
    let cursor = Cursor { begun: [rig.marks[3].clone()].into(), ..Cursor::default() };
    rig.open_at(cursor.clone());
    let rest = rig.all();
    assert!(rest.starts_with("a:4") && rest.ends_with("a:100 a$"), "{rest}");
    rig.remove("a");
    rig.put_sealed("a", &zst(&lines(2, 101)));
    rig.open_at(cursor);
    assert_eq!(rig.all(), format!("a# {} a$", came("a", 1, 100)));
    assert_eq!(rig.log.take(), ["gap a"]);
}

#[test]
fn f11_a_segment_shorter_than_its_cursor_is_read_from_its_start() {
    let text = lines(1, 3);
    for (file, sealed) in [
        (zst(&text), true),
        (zst(&text), false),
        (text.clone(), true),
        (text.clone(), false),
        (gz(&text), true),
    ] {
        let mut rig = Rig::once();
        rig.put("a", &file);
        if sealed {
            rig.seal("a");
        }
        let end = if sealed { " a$" } else { "" };
        for start in [Start::Line(4), Start::Mark(far())] {
            if (sealed, start) == (false, Start::Line(4)) {
                continue;
            }
            rig.open_at(Cursor {
                begun: [(name("a"), Begun { start, identity: None })].into(),
                ..Cursor::default()
            });
            assert_eq!(rig.all(), format!("a# a:1 a:2 a:3{end}"));
            assert_eq!(rig.log.take(), ["gap a"]);
        }
    }
}

fn far() -> tailweir_core::Mark {
    tailweir_core::Mark { point: tailweir_core::Point { line: 1000, offset: 100_000 }, ..Default::default() }
}

#[test]
fn f12_a_directory_that_is_renamed_is_read_on() {
    for watch in [Watch::Native, Watch::Poll(Duration::from_millis(2))] {
        let mut rig = Rig::new();
        rig.options.watch = watch;
        rig.put("a", &lines(1, 1));
        rig.open();
        rig.expect("a:1");
        let moved = rig.temp.path().join("moved");
        std::fs::rename(&rig.options.directory, &moved).unwrap();
        rig.options.directory = moved;
        rig.append("a", &lines(2, 2));
        rig.put_sealed("b", &lines(1, 1));
        rig.expect("a:2 b:1 b$");
    }
}

#[test]
fn f12_a_directory_that_is_deleted_and_made_again_is_read_on() {
    let mut rig = Rig::new();
    rig.put_sealed("a", &lines(1, 1));
    rig.open();
    rig.expect("a:1 a$");
    std::fs::remove_dir_all(&rig.options.directory).unwrap();
    rig.expect("");
    std::fs::create_dir(&rig.options.directory).unwrap();
    rig.put_sealed("b", &lines(1, 1));
    rig.expect("b:1 b$");
}

#[test]
fn f20_a_segment_that_sorts_before_those_read_is_read_and_named() {
    let mut rig = Rig::new();
    rig.put_sealed("b", &lines(1, 1));
    rig.open();
    rig.expect("b:1 b$");
    rig.put_sealed("a", &lines(1, 1));
    rig.expect("a:1 a$");
    assert_eq!(rig.log.take(), ["late a"]);
    // After a restart, too.
    rig.open_at(Cursor { finished: names(&["b"]), ..Cursor::default() });
    rig.expect("a:1 a$");
    assert_eq!(rig.log.take(), ["late a"]);
}

#[test]
fn f27_foreign_files_are_named_once_and_never_block() {
    let mut rig = Rig::new();
    rig.put_sealed("core", b"\x7fELF...");
    std::fs::create_dir(rig.path("dir")).unwrap();
    symlink("/nonexistent", rig.path("dangling")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(rig.path("fifo")).status().unwrap();
    assert!(fifo.success());
    let _socket = std::os::unix::net::UnixListener::bind(rig.path("socket")).unwrap();
    rig.put_sealed("real", &lines(1, 1));
    symlink("real", rig.path("zlink")).unwrap();
    rig.put_sealed(".hidden", &lines(1, 1));
    rig.open();
    rig.expect("real:1 real$ zlink:1 zlink$");
    for _ in 0..5 {
        rig.expect("");
        rig.reader.as_ref().unwrap().wait(Duration::from_millis(5));
    }
    let mut events = rig.log.take();
    events.sort();
    assert_eq!(events, ["foreign core", "foreign dangling", "foreign dir", "foreign fifo", "foreign socket"]);
    // After a restart they are foreign, and not late.
    let finished = names(&["real", "zlink"]);
    rig.open_at(Cursor { finished, ..Cursor::default() });
    rig.expect("");
    assert!(rig.log.take().iter().all(|event| event.starts_with("foreign ")));
    // The name is free again, and then a segment's.
    rig.remove("core");
    rig.reader.as_ref().unwrap().wait(Duration::from_millis(5));
    rig.expect("");
    rig.put_sealed(".new", &lines(1, 1));
    std::fs::rename(rig.path(".new"), rig.path("core")).unwrap();
    rig.expect("core:1 core$");
}

#[test]
fn the_pattern_chooses() {
    let mut rig = Rig::once();
    rig.options.pattern = Pattern::new("*_bounce").unwrap();
    rig.put_sealed("a_bounce", &lines(1, 1));
    rig.put_sealed("a", &lines(1, 1));
    rig.open();
    assert_eq!(rig.all(), "a_bounce:1 a_bounce$");
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn f07_resuming_gives_exactly_the_rest() {
    let text = lines(1, 500);
    let frames: Vec<u8> = text.chunks(700).flat_map(zst).collect();
    for (file, sealed) in
        [(zst(&text), true), (frames.clone(), true), (frames, false), (gz(&text), true), (text, true)]
    {
        let mut rig = Rig::once();
        rig.options.block_size = 256;
        rig.put("a", &file);
        if sealed {
            rig.seal("a");
        }
        rig.open();
        let whole = rig.all();
        for (segment, begun) in rig.marks.clone() {
            let done = mark(&begun).point.line;
            let rest = whole.strip_prefix(&came("a", 1, done)).unwrap().trim_start();
            for start in [begun.start, Start::Line(done)] {
                let begun = Begun { start, ..begun };
                let cursor = Cursor { begun: [(segment.clone(), begun)].into(), ..Cursor::default() };
                let left = measure(&rig.options.directory, &Pattern::default(), &cursor).unwrap();
                assert_eq!(left.first().map_or(0, |left| left.lines), 500 - done);
                rig.open_at(cursor);
                assert_eq!(rig.all(), rest);
            }
        }
        assert_eq!(rig.log.take(), [""; 0]);
    }
}

#[test]
fn resuming_in_bounded_frames_does_not_begin_at_the_start() {
    let mut rig = Rig::once();
    rig.options.block_size = 256;
    let frames: Vec<u8> = lines(1, 500).chunks(700).flat_map(zst).collect();
    rig.put_sealed("a", &frames);
    rig.open();
    rig.all();
    let last = mark(&rig.marks.last().unwrap().1);
    assert!(last.frame.compressed > frames.len() as u64 * 8 / 10);
    assert!(last.point.offset - last.frame.decompressed < 2000);
    assert!(last.frame.decompressed <= last.point.offset);
}

#[test]
fn kumods_last_line_may_lack_its_break() {
    let mut rig = Rig::once();
    rig.put_sealed("a", &zst(b"{\"n\":1}\n{\"n\":2}"));
    let begun = Begun { start: Start::Line(2), identity: None };
    rig.open_at(Cursor { begun: [(name("a"), begun)].into(), ..Cursor::default() });
    assert_eq!(rig.all(), "a$");
}

#[test]
fn what_remains_is_measured() {
    let rig = Rig::new();
    rig.put_sealed("a", &zst(&lines(1, 10)));
    rig.put("b", &[lines(1, 2), b"{".to_vec()].concat());
    rig.put_sealed("c", &gz(&lines(1, 1)));
    rig.put_sealed("foreign", b"\x7f");
    rig.put("empty", b"");
    let begun = Begun { start: Start::Line(4), identity: None };
    let cursor = Cursor { begun: [(name("a"), begun)].into(), finished: names(&["c"]) };
    let left = measure(&rig.options.directory, &Pattern::default(), &cursor).unwrap();
    let left: Vec<_> = left.iter().map(|r| (r.segment.as_str(), r.bytes, r.lines)).collect();
    assert_eq!(left, [("a", lines(5, 10).len() as u64, 6), ("b", 17, 3)]);
}

#[test]
fn many_open_segments_do_not_use_up_file_descriptors() {
    let mut rig = Rig::new();
    for n in 0..200 {
        rig.put(&format!("s{n:03}"), &zst(&lines(1, 1)));
    }
    rig.open();
    let expected: Vec<_> = (0..200).map(|n| format!("s{n:03}:1")).collect();
    rig.expect(&expected.join(" "));
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = open
        .filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(&rig.options.directory)));
    assert!(ours.count() < 60);
    rig.append("s000", &zst(&lines(2, 2)));
    rig.append("s199", &zst(&lines(2, 2)));
    rig.expect("s000:2 s199:2");
    rig.seal("s000");
    rig.expect("s000$");
    rig.remove("s001");
    rig.expect("s001$");
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn a_waker_ends_the_wait() {
    let mut rig = Rig::new();
    rig.options.watch = Watch::Poll(Duration::from_secs(3600));
    rig.open();
    let reader = rig.reader.as_ref().unwrap();
    let waker = reader.waker();
    waker.wake();
    let begun = Instant::now();
    reader.wait(Duration::from_secs(3600));
    let thread = std::thread::spawn(move || waker.wake());
    reader.wait(Duration::from_secs(3600));
    thread.join().unwrap();
    assert!(begun.elapsed() < DEADLINE);
}

#[test]
fn the_native_watcher_is_quicker_than_the_scan() {
    let mut rig = Rig::new();
    rig.options.watch = Watch::Native;
    rig.open();
    rig.expect("");
    let begun = Instant::now();
    for n in 1..=5 {
        rig.append("a", &lines(n, n));
        rig.expect(&came("a", n, n));
    }
    // Where there is no watcher to be had, that was said.
    if !rig.log.take().is_empty() {
        return;
    }
    // Each would take up to a second without.
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
}

#[test]
fn directories_that_cannot_be_read_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let open = |path| Reader::open(ReaderOptions::new(path), Cursor::default()).unwrap_err();
    assert!(matches!(open(temp.path().join("missing")), ReadError::Missing { .. }));
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(open(file), ReadError::NotADirectory { .. }));
}

#[test]
fn events_name_openings_and_ends() {
    use tailweir_core::Event;
    #[derive(Default)]
    struct All(std::sync::Mutex<Vec<Event>>);
    impl tailweir_core::EventSink for All {
        fn emit(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }
    let rig = Rig::once();
    rig.put_sealed("a", &lines(1, 2));
    let all = Arc::new(All::default());
    let options =
        ReaderOptions { events: all.clone(), mode: Mode::Once, ..ReaderOptions::new(&rig.options.directory) };
    let mut reader = Reader::open(options, Cursor::default()).unwrap();
    while !matches!(reader.next().unwrap(), Step::End) {}
    let segment = name("a");
    let finished = Event::SegmentFinished { segment: segment.clone(), lines: 2, bytes: 16 };
    assert_eq!(*all.0.lock().unwrap(), [Event::SegmentOpened { segment }, finished]);
}

#[test]
fn a_reader_may_move_to_another_thread() {
    fn check<T: Send>() {}
    check::<Reader>();
    check::<ReaderOptions>();
    check::<tailweir_segments::Writer>();
}

#[test]
fn a_segment_that_cannot_be_read_stops_only_itself() {
    let mut rig = Rig::new();
    // A regular file that cannot be read at its start, whoever tries.
    symlink("/proc/self/mem", rig.path("a")).unwrap();
    rig.put_sealed("b", &lines(1, 1));
    rig.open();
    rig.expect("b:1 b$");
    assert_eq!(rig.log.take(), ["unreadable now a"]);
    rig.put_sealed(".new", &lines(1, 1));
    std::fs::rename(rig.path(".new"), rig.path("a")).unwrap();
    rig.expect("a:1 a$");
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn a_frame_that_wants_too_much_memory_is_damage() {
    // A window of 2 GiB.
    let greedy = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
    check(&[&greedy[..], &zst(&lines(1, 2))].concat(), "a:1 a:2 a$", &["damaged a:0"]);
    check(&[&zst(&lines(1, 2))[..], &greedy].concat(), "a:1 a:2 a$", &["damaged a:2"]);
}

#[test]
fn a_cursor_at_the_end_finishes_at_once() {
    for (file, sealed) in
        [(zst(&lines(1, 3)), true), (gz(&lines(1, 3)), true), (lines(1, 3), true), (lines(1, 3), false)]
    {
        let mut rig = Rig::new();
        rig.put("a", &file);
        rig.open();
        rig.expect("a:1 a:2 a:3");
        if sealed {
            rig.seal("a");
        }
        rig.open_at(rig.cursor());
        rig.expect(if sealed { "a$" } else { "" });
        assert_eq!(rig.log.take(), [""; 0]);
    }
}
