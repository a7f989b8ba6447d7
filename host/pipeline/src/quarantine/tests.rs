use super::*;
use crate::files::Directory;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use tailweir_core::SegmentName;

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl EventSink for Warnings {
    fn emit(&self, event: Event) {
        if let Event::Warning { message } = event {
            self.0.lock().unwrap().push(message);
        }
    }
}

struct World {
    dir: tempfile::TempDir,
    name: CheckpointName,
    warnings: Arc<Warnings>,
}

impl World {
    fn new() -> Self {
        let (dir, name) = (tempfile::tempdir().unwrap(), CheckpointName::new("c").unwrap());
        Self { dir, name, warnings: Arc::default() }
    }

    fn open(&self, max_bytes: u64, when_full: WhenFull) -> Quarantine {
        let options = QuarantineOptions { max_bytes, when_full, ..QuarantineOptions::default() };
        let files = Arc::new(Directory::open(self.dir.path()).unwrap());
        Quarantine::new(files, &self.name, "who", options, self.warnings.clone())
    }

    fn lines(&self) -> Vec<u64> {
        let mut lines = Vec::new();
        read(self.dir.path(), &self.name, |entry| lines.push(entry.position.line)).unwrap();
        lines
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn at(line: u64) -> Position {
    Position { segment: SegmentName::new("s").unwrap(), line, offset: line * 10 }
}

fn put(quarantine: &mut Quarantine, line: u64) -> Result<(), QuarantineError> {
    quarantine.put(&at(line), "why", Blame::Processor, format!("{{\"n\":{line}}}").as_bytes())
}

#[test]
fn the_exact_bytes_come_back() {
    let world = World::new();
    let mut quarantine = world.open(1 << 20, WhenFull::Stop);
    let all: [&[u8]; 5] = [b"", b"{\"a\":1}", b"\xff\x00\n\"", "\u{2028}\u{0}\\".as_bytes(), &[0x80; 1000]];
    for (line, bytes) in (1..).zip(all) {
        quarantine.put(&at(line), "r\n", Blame::Line { length: Some(7) }, bytes).unwrap();
    }
    quarantine.sync().unwrap();
    let mut entries = Vec::new();
    assert_eq!(
        read(world.dir.path(), &world.name, |entry| entries.push(entry)).unwrap(),
        Unreadable::default()
    );
    assert_eq!(entries.iter().map(|e| e.bytes.as_slice()).collect::<Vec<_>>(), all);
    assert!(entries.iter().all(|e| e.plugin.is_none() && e.length == Some(7) && e.consumer == "who"));
    let mode = fs::metadata(quarantine.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_torn_line_hides_no_other_and_a_record_that_comes_again_is_known() {
    let world = World::new();
    put(&mut world.open(1 << 20, WhenFull::Stop), 1).unwrap();
    let path = world.dir.path().join(".c.quarantine");
    let whole = fs::read(&path).unwrap();
    for cut in 1..whole.len() {
        fs::write(&path, [&whole[..], &whole[..cut]].concat()).unwrap();
        let mut quarantine = world.open(1 << 20, WhenFull::Stop);
        put(&mut quarantine, 1).unwrap();
        put(&mut quarantine, 2).unwrap();
        let lines = world.lines();
        // Cut right before its line break, the second line is whole.
        let expected: &[u64] = if cut + 1 == whole.len() { &[1, 1, 2] } else { &[1, 2] };
        assert_eq!(lines, expected, "cut after {cut}");
    }
}

#[test]
fn a_full_quarantine_says_what_helps_and_loses_nothing() {
    let world = World::new();
    let mut quarantine = world.open(1000, WhenFull::Stop);
    let mut line = 1;
    let error = loop {
        match put(&mut quarantine, line) {
            Ok(()) => line += 1,
            Err(error) => break error.to_string(),
        }
    };
    let directory = world.dir.path().display().to_string();
    for part in [&format!("{directory}/.c.quarantine"), "limit is 1000", "quarantine list", "replay", "drop"]
    {
        assert!(error.contains(part), "{error} lacks {part}");
    }
    assert!(error.contains(&format!("'{directory}' 'c'")), "{error}");
    assert!(line > 3);
    assert_eq!(world.lines(), (1..line).collect::<Vec<_>>());
    assert!(put(&mut quarantine, 1).is_ok(), "it is there already");
    assert!(put(&mut world.open(2000, WhenFull::Stop), line).is_ok());
}

#[test]
fn the_oldest_are_dropped_by_name_if_that_is_asked_for() {
    let world = World::new();
    let mut quarantine = world.open(4000, WhenFull::DropOldest);
    (1..=100).for_each(|line| put(&mut quarantine, line).unwrap());
    let lines = world.lines();
    assert_eq!(lines, (lines[0]..=100).collect::<Vec<_>>());
    assert!(lines.len() > 20 && lines[0] > 1, "{lines:?}");
    assert!(world.files().len() > 5, "{:?}", world.files());
    // At once, then once a second, and what is left to tell in the end.
    drop(quarantine);
    let warnings = world.warnings.0.lock().unwrap();
    let last = format!("to s:{}, are dropped; {} since the start", lines[0] - 1, lines[0] - 1);
    assert!(warnings.last().unwrap().ends_with(&last), "{warnings:?}");
    assert!(warnings.len() < 10 && warnings[0].contains("s:1 to "), "{warnings:?}");
    drop(warnings);
    let mut quarantine = world.open(4000, WhenFull::DropOldest);
    put(&mut quarantine, 1).unwrap();
    assert_eq!(world.lines().last(), Some(&1), "what was dropped may come again");
}

/// All that was in quarantine used to be dropped for a record that did not fit even then, with the advice to drop the oldest.
#[test]
fn nothing_is_dropped_for_a_record_that_can_never_fit() {
    for when_full in [WhenFull::DropOldest, WhenFull::Stop] {
        let world = World::new();
        let mut quarantine = world.open(4000, when_full);
        (1..=10).for_each(|line| put(&mut quarantine, line).unwrap());
        let before = world.files();
        let error = quarantine.put(&at(200), "why", Blame::Filter("filter"), &[b'x'; 5000]).unwrap_err();
        assert!(!error.may_pass());
        let said = error.to_string();
        assert!(said.starts_with("s:200 needs ") && !said.contains("drop_oldest"), "{said}");
        assert_eq!((world.lines(), world.files()), ((1..=10).collect(), before));
        let QuarantineError::TooLarge(error) = error else { panic!("{said}") };
        let mut quarantine = world.open(error.needed, WhenFull::DropOldest);
        quarantine.put(&at(200), "why", Blame::Filter("filter"), &[b'x'; 5000]).unwrap();
        assert_eq!(world.lines(), [200], "what the error says is enough");
    }
}

#[test]
fn a_quarantine_that_somebody_else_has_removed_has_room() {
    let world = World::new();
    let mut quarantine = world.open(4000, WhenFull::DropOldest);
    (1..=10).for_each(|line| put(&mut quarantine, line).unwrap());
    world.files().iter().for_each(|file| fs::remove_file(world.dir.path().join(file)).unwrap());
    quarantine.put(&at(200), "why", Blame::Filter("filter"), &[b'x'; 3600]).unwrap();
    assert_eq!(world.lines(), [200]);
}

#[test]
fn entries_go_stay_or_get_another_reason() {
    let world = World::new();
    let mut quarantine = world.open(2000, WhenFull::DropOldest);
    (1..=8).for_each(|line| put(&mut quarantine, line).unwrap());
    drop(quarantine);
    let kept = KeptQuarantine::lock(world.dir.path(), &world.name).unwrap();
    let before = world.files();
    let updated = kept.update(|_| Fate::Stay).unwrap();
    assert_eq!((updated, world.files()), (Updated { left: 8, ..Updated::default() }, before));
    let again = || Fate::FailedAgain { reason: "new".into(), plugin: None };
    let updated = kept
        .update(|entry| match entry.position.line {
            1 | 8 => Fate::Go,
            4 => again(),
            _ => Fate::Stay,
        })
        .unwrap();
    assert_eq!(updated, Updated { gone: 2, failed_again: 1, left: 6, ..Updated::default() });
    assert_eq!(world.lines(), [2, 3, 4, 5, 6, 7]);
    assert_eq!(kept.update(|_| Fate::Go).unwrap().left, 0);
    assert_eq!(world.files(), [".c.lock"]);
}

#[test]
fn lines_that_can_not_be_read_are_named_and_stay() {
    let world = World::new();
    let mut quarantine = world.open(2000, WhenFull::DropOldest);
    (1..=8).for_each(|line| put(&mut quarantine, line).unwrap());
    drop(quarantine);
    let spoil = |file: &str| {
        let path = world.dir.path().join(file);
        fs::write(&path, "\n{\"segment\n".to_owned() + &fs::read_to_string(&path).unwrap() + "{torn")
            .unwrap();
    };
    let told = || read(world.dir.path(), &world.name, |_| {}).unwrap().to_string();
    spoil(".c.quarantine");
    let start =
        "2 lines of the quarantine can't be read: .c.quarantine:2, .c.quarantine:4. Each was either torn by";
    assert!(told().starts_with(start), "{}", told());
    spoil(".c.quarantine.2");
    let start = "4 lines of the quarantine can't be read, the first of them .c.quarantine.2:2, .c.quarantine.2:4, \
                 .c.quarantine:2. Each was";
    assert!(told().starts_with(start), "{}", told());
    let kept = KeptQuarantine::lock(world.dir.path(), &world.name).unwrap();
    let updated = kept.update(|_| Fate::Go).unwrap();
    assert_eq!((updated.gone, updated.unreadable.lines), (8, 4));
    assert_eq!(
        read(world.dir.path(), &world.name, |_| {}).unwrap(),
        updated.unreadable,
        "where they are now"
    );
}

#[test]
fn quarantines_are_found_by_their_files() {
    let world = World::new();
    for file in [
        ".a.quarantine",
        ".b.quarantine.12",
        ".c.quarantine.tmp",
        ".d",
        ".e.quarantine.007",
        "f.quarantine",
        ".quarantine",
    ] {
        fs::write(world.dir.path().join(file), "").unwrap();
    }
    let found: Vec<_> = quarantines(world.dir.path()).unwrap().into_iter().collect();
    assert_eq!(found.iter().map(CheckpointName::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

/// A reason may be as long as a plug-in likes.
#[test]
fn of_a_long_reason_the_beginning_is_kept() {
    let world = World::new();
    let mut quarantine = world.open(1 << 20, WhenFull::Stop);
    for (line, reason) in [(1, "x".repeat(4096)), (2, "ü".repeat(100_000)), (3, "y".repeat(4097))] {
        quarantine.put(&at(line), &reason, Blame::Processor, b"{}").unwrap();
    }
    let mut reasons = Vec::new();
    read(world.dir.path(), &world.name, |entry| reasons.push(entry.reason)).unwrap();
    assert_eq!(reasons[0], "x".repeat(4096));
    assert_eq!(reasons[1], "ü".repeat(2048) + "… (195904 more bytes)");
    assert_eq!(reasons[2], "y".repeat(4096) + "… (1 more bytes)");
}

#[test]
fn a_replay_gives_each_record_its_own_place() {
    let world = World::new();
    let mut quarantine = world.open(1 << 20, WhenFull::Stop);
    [3, 100_000].into_iter().for_each(|line| put(&mut quarantine, line).unwrap());
    quarantine.put(&at(5), "long", Blame::Line { length: Some(1 << 30) }, b"{").unwrap();
    quarantine.put(&at(3), "replaced", Blame::Filter("filter"), b"{}").unwrap();
    let kept = KeptQuarantine::lock(world.dir.path(), &world.name).unwrap();
    let room = tempfile::tempdir().unwrap();
    let replay = Replay::lay_out(kept, room.path(), |_| true, &AtomicBool::new(false)).unwrap().unwrap();
    assert_eq!(replay.len(), 2);
    let text = zstd::decode_all(fs::File::open(room.path().join("s")).unwrap()).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<_> = text.split('\n').enumerate().filter(|(_, line)| !line.is_empty()).collect();
    assert_eq!(lines, [(2, "{\"n\":3}"), (99_999, "{\"n\":100000}")]);
    let replayed = replay.settle().unwrap();
    assert_eq!((replayed.chosen, replayed.updated.left), (4, 4), "nobody read them");
    assert_eq!(replayed.refused, [(at(5), Refusal::Cut), (at(3), Refusal::SamePlace)]);
}

/// A line break used to move all records behind it to other lines, of which one counted as dealt with; blank text did so, too.
#[test]
fn what_is_not_one_line_with_a_record_is_refused() {
    let world = World::new();
    let mut quarantine = world.open(1 << 20, WhenFull::Stop);
    let mut put = |line, text: &str| {
        let position = Position { line, ..at(1) };
        quarantine.put(&position, "why", Blame::Processor, text.as_bytes()).unwrap();
    };
    let bad = ["{}\n{}", "{}\n", "", " \t", "\r", "\u{feff} "];
    (1..).zip(bad).for_each(|(line, text)| put(line, text));
    put(100_000_001, "{}");
    put(u64::MAX, "{}");
    put(20, "{bad\r}");
    put(2, "{}");
    let kept = KeptQuarantine::lock(world.dir.path(), &world.name).unwrap();
    let room = tempfile::tempdir().unwrap();
    let replay = Replay::lay_out(kept, room.path(), |_| true, &AtomicBool::new(false)).unwrap().unwrap();
    let text = zstd::decode_all(fs::File::open(room.path().join("s")).unwrap()).unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), format!("\n{{}}{}{{bad\r}}\n", "\n".repeat(18)));
    let replayed = replay.settle().unwrap();
    use Refusal::{Blank, FarDown, LineBreak};
    let refused: Vec<_> = replayed.refused.iter().map(|(position, why)| (position.line, *why)).collect();
    let expected = [
        (1, LineBreak),
        (2, LineBreak),
        (3, Blank),
        (4, Blank),
        (5, Blank),
        (6, Blank),
        (100_000_001, FarDown),
        (u64::MAX, FarDown),
    ];
    assert_eq!((refused, replayed.updated.left), (expected.to_vec(), 10));
}

#[test]
fn laying_out_ends_when_it_is_told_to() {
    let world = World::new();
    put(&mut world.open(1 << 20, WhenFull::Stop), 99_999_999).unwrap();
    let room = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let kept = KeptQuarantine::lock(world.dir.path(), &world.name).unwrap();
    let choose = |_: &QuarantineEntry| {
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        true
    };
    assert!(Replay::lay_out(kept, room.path(), choose, &stop).unwrap().is_none());
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);
}

/// Behind a file with the last number but one, each part used to take the place of the one before.
#[test]
fn no_file_that_is_there_is_replaced_by_a_part() {
    for planted in
        ["18446744073709551614", "18446744073709551615", "99999999999999999999999", "007", "1000000000000000"]
    {
        let world = World::new();
        let name = format!(".c.quarantine.{planted}");
        fs::write(world.dir.path().join(&name), "mine").unwrap();
        fs::create_dir(world.dir.path().join(".c.quarantine.3")).unwrap();
        let mut quarantine = world.open(10_000, WhenFull::Stop);
        (1..=40).for_each(|line| put(&mut quarantine, line).unwrap());
        assert_eq!(world.lines(), (1..=40).collect::<Vec<_>>(), "{planted}");
        assert!(world.files().contains(&".c.quarantine.4".to_owned()), "{:?}", world.files());
        assert_eq!(fs::read(world.dir.path().join(&name)).unwrap(), b"mine");
        let warnings = world.warnings.0.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains(&name), "{warnings:?}");
    }
}

#[test]
fn without_a_number_left_it_says_so_and_loses_nothing() {
    let world = World::new();
    fs::write(world.dir.path().join(".c.quarantine.999999999999999"), "").unwrap();
    let mut quarantine = world.open(10_000, WhenFull::Stop);
    let (last, error) =
        (1..).find_map(|line| put(&mut quarantine, line).err().map(|error| (line, error))).unwrap();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.starts_with(".c.quarantine.999999999999999 has the highest number"), "{said}");
    assert_eq!(world.lines(), (1..last).collect::<Vec<_>>());
}
