//! What the writer leaves behind, and what a reader sees of it meanwhile.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::*;
use tailweir_segments::sample::{self, Sample};
use tailweir_segments::{Pattern, Seal, WriteError, Writer, WriterOptions, list};

fn segments(rig: &Rig) -> Vec<PathBuf> {
    let entries = list(&rig.options.directory, &Pattern::default()).unwrap();
    entries.iter().map(|entry| rig.path(entry.name.as_str())).collect()
}

fn texts(rig: &Rig) -> Vec<String> {
    let decode =
        |path| String::from_utf8(zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()).unwrap();
    segments(rig).into_iter().map(decode).collect()
}

fn options(rig: &Rig) -> WriterOptions {
    WriterOptions::new(&rig.options.directory)
}

#[test]
fn what_is_written_is_read() {
    let rig = Rig::new();
    let options = WriterOptions {
        max_file_size: 300_000,
        frame_bytes: 50_000,
        suffix: Some("_x".to_owned()),
        ..options(&rig)
    };
    let writer = Writer::new(options).unwrap();
    let mut sample = Sample::new(1);
    let records: Vec<_> = (0..1000).map(|_| sample.next_record()).collect();
    assert!(segments(&rig).is_empty());
    records.iter().for_each(|record| writer.write_line(record.as_bytes()).unwrap());
    writer.close().unwrap();
    let texts = texts(&rig);
    assert!(texts.len() >= 3);
    assert_eq!(texts.concat(), records.join("\n") + "\n");
    for (path, text) in segments(&rig).iter().zip(&texts) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with("_x") && name.as_bytes()[8] == b'-', "{name}");
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o222, 0);
        let magic = b"\x28\xb5\x2f\xfd";
        let bytes = std::fs::read(path).unwrap();
        let frames = bytes.windows(4).filter(|window| window == magic).count();
        assert!(frames >= text.len() / 55_000, "{frames} frames for {} bytes", text.len());
    }
}

#[test]
fn a_reader_of_a_live_segment_sees_records_soon() {
    let mut rig = Rig::new();
    let writer =
        Writer::new(WriterOptions { flush_interval: Some(Duration::from_millis(20)), ..options(&rig) })
            .unwrap();
    rig.open();
    let mut first = None;
    for n in 1..=5u64 {
        writer.write_line(format!("{{\"n\":{n}}}").as_bytes()).unwrap();
        let name =
            first.get_or_insert_with(|| segments(&rig)[0].file_name().unwrap().to_str().unwrap().to_owned());
        rig.expect(&format!("{name}:{n}"));
    }
    let name = first.unwrap();
    drop(writer);
    rig.expect(&format!("{name}$"));
    assert_eq!(rig.log.take(), [""; 0]);
}

#[test]
fn an_idle_segment_is_finished_on_time() {
    let mut rig = Rig::new();
    let limit = Some(Duration::from_millis(20));
    let writer =
        Writer::new(WriterOptions { max_segment_duration: limit, flush_interval: None, ..options(&rig) })
            .unwrap();
    writer.write_line(b"{}").unwrap();
    rig.open();
    let name = segments(&rig)[0].file_name().unwrap().to_str().unwrap().to_owned();
    rig.expect(&format!("{name}:1 {name}$"));
    writer.write_line(b"{}").unwrap();
    assert_eq!(segments(&rig).len(), 2);
}

#[test]
fn without_an_interval_flush_does_it() {
    let mut rig = Rig::new();
    let writer = Writer::new(WriterOptions { flush_interval: None, ..options(&rig) }).unwrap();
    writer.write_line(b"{}").unwrap();
    rig.open();
    assert_eq!(rig.all(), "");
    writer.flush().unwrap();
    let name = segments(&rig)[0].file_name().unwrap().to_str().unwrap().to_owned();
    rig.expect(&format!("{name}:1"));
}

#[test]
fn a_record_is_one_line() {
    let rig = Rig::new();
    let writer = Writer::new(options(&rig)).unwrap();
    let error = writer.write_line(b"{}\n{}").unwrap_err();
    assert!(matches!(error, WriteError::LineBreak { at: 2 }), "{error}");
    writer.write_line(b"{\"a\":\"\\n\"}").unwrap();
    writer.close().unwrap();
    assert_eq!(texts(&rig), ["{\"a\":\"\\n\"}\n"]);
}

#[test]
fn writers_side_by_side_never_share_a_segment() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let options = WriterOptions { max_file_size: 1, ..options(&rig) };
            scope.spawn(move || {
                let writer_of = Writer::new(options).unwrap();
                (0..50).for_each(|n| {
                    writer_of.write_line(format!("{{\"w\":{writer},\"n\":{n}}}").as_bytes()).unwrap()
                });
            });
        }
    });
    let texts = texts(&rig);
    assert_eq!(texts.len(), 200);
    assert!(texts.iter().all(|text| text.lines().count() == 1));
}

#[test]
fn what_cannot_be_written_is_an_error_that_names_the_file() {
    let rig = Rig::new();
    let writer = Writer::new(options(&rig)).unwrap();
    std::fs::remove_dir(&rig.options.directory).unwrap();
    let error = writer.write_line(b"{}").unwrap_err();
    assert!(error.to_string().contains(rig.options.directory.to_str().unwrap()), "{error}");
    // It succeeds once the directory is there.
    std::fs::create_dir(&rig.options.directory).unwrap();
    writer.write_line(b"{}").unwrap();
    writer.close().unwrap();
    assert_eq!(texts(&rig), ["{}\n"]);
}

#[test]
fn samples_are_valid_and_the_same_for_a_seed() {
    let mut rig = Rig::once();
    let directory = rig.options.directory.clone();
    let paths = sample::write_directory(&directory, 5000, 3, 42, 3).unwrap();
    assert_eq!(paths, segments(&rig));
    let text = texts(&rig).concat();
    let mut again = Sample::new(42);
    let mut pools = std::collections::BTreeMap::<String, u32>::new();
    for line in text.lines() {
        assert_eq!(line, again.next_record());
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        *pools.entry(value["egress_pool"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(pools.keys().eq(sample::POOLS) && pools.values().all(|n| (800..1200).contains(n)), "{pools:?}");
    assert!((1000..1300).contains(&(text.len() / 5000)), "{} bytes per record", text.len() / 5000);
    rig.open();
    assert_eq!(rig.all().split(' ').filter(|text| text.contains('!')).count(), 0);
    assert!(list(&directory, &Pattern::default()).unwrap().iter().all(|entry| entry.sealed == Seal::Sealed));
}

#[test]
fn writing_is_quick_to_stop() {
    let rig = Rig::new();
    let hour = Some(Duration::from_secs(3600));
    let writer =
        Writer::new(WriterOptions { flush_interval: hour, max_segment_duration: hour, ..options(&rig) })
            .unwrap();
    writer.write_line(b"{}").unwrap();
    let begun = Instant::now();
    writer.close().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}
