//! The inner pieces that every record passes: reading a block, looking fields up, and the ledger.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tailweir_core::{
    Batch, Block, Frame, Frontier, Identity, Ledger, Mark, Point, Pointer, SegmentName, Shelf, Span, json,
};

mod made;

/// Bytes of text in the block.
const BLOCK: usize = 512 << 10;
const RECORDS: usize = 1000;

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = parse, fields, ledger
}

/// Cutting a block into records, validating them, and indexing their members.
fn parse(c: &mut Criterion) {
    let mut text = made::records(RECORDS);
    text.truncate(text[..BLOCK].rfind('\n').unwrap() + 1);
    let mut group = c.benchmark_group("block");
    group.throughput(Throughput::Bytes(text.len() as u64));
    // With memory that blocks before used, as the reader does.
    let shelf = Shelf::new(1, BLOCK);
    let arena = || {
        let mut arena = shelf.take_arena();
        arena.extend_from_slice(text.as_bytes());
        arena
    };
    let parse =
        |text| Block::parse_with(&shelf, segment(), identity(), Point::default(), Frame::default(), text);
    group.bench_function("parse", |b| b.iter_batched(arena, parse, BatchSize::PerIteration));
    group.finish();
}

/// One field of each of 1,000 records.
fn fields(c: &mut Criterion) {
    let text = made::records(RECORDS).into_bytes();
    let block = Block::parse(segment(), identity(), Point::default(), Frame::default(), text);
    let batch = Batch::of_block("bench".into(), Arc::new(block), 0..RECORDS);
    let mut group = c.benchmark_group("field");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (name, pointer) in [("column", "/egress_pool"), ("column, nested", "/response/code")] {
        let pointer = Pointer::parse(pointer).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| batch.column(&pointer).flatten().map(str::len).sum::<usize>());
        });
    }
    // The same where several ask: what the first one has found is kept for the others.
    batch.share();
    for (name, pointer) in [("column, kept", "/egress_pool"), ("column, nested, kept", "/response/code")] {
        let pointer = Pointer::parse(pointer).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| batch.column(&pointer).flatten().map(str::len).sum::<usize>());
        });
    }
    for (name, key) in [("first", "type"), ("far back", "egress_pool"), ("absent", "no_such_field")] {
        group.bench_function(name, |b| {
            b.iter(|| {
                batch.iter().filter_map(|record| record.field(black_box(key))).map(str::len).sum::<usize>()
            });
        });
    }
    // What there is without the index, as for values inside of values.
    group.bench_function("far back, in the text", |b| {
        let get = |text| json::get(text, black_box("egress_pool"));
        b.iter(|| batch.iter().filter_map(|record| get(record.text())).map(str::len).sum::<usize>());
    });
    group.finish();
}

/// 1,000 batches, delivered and acknowledged.
fn ledger(c: &mut Criterion) {
    let point = |batch: usize| Point { line: batch as u64 * 1000, offset: batch as u64 * 1_200_000 };
    let span = |batch: usize| Span {
        segment: segment(),
        identity: identity(),
        from: point(batch),
        to: Mark { point: point(batch + 1), frame: Frame::default() },
    };
    let spans: Vec<Span> = (0..RECORDS).map(span).collect();
    let mut group = c.benchmark_group("ledger");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("one at a time", |b| {
        b.iter(|| {
            let mut ledger = Ledger::new(&Frontier::default());
            for span in &spans {
                let ticket = ledger.deliver(std::slice::from_ref(span)).unwrap();
                ledger.ack(ticket).unwrap();
            }
            ledger.frontier()
        });
    });
    group.bench_function("32 under way, the newest first", |b| {
        b.iter(|| {
            let mut ledger = Ledger::new(&Frontier::default());
            for spans in spans.chunks(32) {
                let deliver = |span| ledger.deliver(std::slice::from_ref(span)).unwrap();
                let tickets: Vec<_> = spans.iter().map(deliver).collect();
                for ticket in tickets.into_iter().rev() {
                    ledger.ack(ticket).unwrap();
                }
            }
            ledger.frontier()
        });
    });
    group.finish();
}

fn segment() -> SegmentName {
    SegmentName::new("20250912-110801.440526026").unwrap()
}

fn identity() -> Identity {
    Identity { inode: 1, head_len: 0, head: 0 }
}
