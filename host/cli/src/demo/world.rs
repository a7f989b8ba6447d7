//! The segments of the demo, and what is in them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use tailweir_segments::sample::{self, Sample};
use tailweir_segments::{Writer, WriterOptions};

const SEGMENTS: u64 = 6;
const SEED: u64 = 20_260_804;

/// How often the live writer writes.
const BEAT: Duration = Duration::from_millis(100);

/// What the demo looks at in a record.
#[derive(Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    egress_pool: Option<String>,
}

/// Sealed segments, and a live one while [`stop`](Self::stop) has not been called.
pub(super) struct World {
    records: Vec<Record>,
    sealed_bytes: u64,
    sealed_segments: usize,
    stopping: Arc<AtomicBool>,
    writer: Option<JoinHandle<Result<Vec<Record>>>>,
}

impl World {
    pub(super) fn new(directory: &Path, sealed: u64, per_second: u64) -> Result<Self> {
        let paths =
            sample::write_directory(directory, sealed, SEGMENTS, SEED, 3).context("cannot write segments")?;
        // The same seed makes the same records.
        let (mut sample, mut records, mut sealed_bytes) = (Sample::new(SEED), Vec::new(), 0);
        for _ in 0..sealed {
            let text = sample.next_record();
            sealed_bytes += text.len() as u64 + 1;
            records.push(parse(&text)?);
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let flush_interval = Some(Duration::from_millis(200));
        let writer = Writer::new(WriterOptions { flush_interval, ..WriterOptions::new(directory) })?;
        let stop = stopping.clone();
        let write = move || write_on(sample, writer, per_second, &stop);
        let thread = std::thread::Builder::new().name("writer".to_owned()).spawn(write)?;
        Ok(Self { records, sealed_bytes, sealed_segments: paths.len(), stopping, writer: Some(thread) })
    }

    /// Ends the live segment.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            self.records.extend(writer.join().map_err(|_| anyhow!("the writer panicked"))??);
        }
        Ok(())
    }

    pub(super) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    pub(super) fn sealed_segments(&self) -> usize {
        self.sealed_segments
    }

    /// Records written; with those of the live segment once it has ended.
    pub(super) fn written(&self) -> u64 {
        self.records.len() as u64
    }

    /// Ids of the records of a pool.
    pub(super) fn expected(&self, pool: &str) -> HashSet<&str> {
        let of_pool = self.records.iter().filter(|record| record.egress_pool.as_deref() == Some(pool));
        of_pool.map(|record| record.id.as_str()).collect()
    }
}

fn write_on(mut sample: Sample, writer: Writer, per_second: u64, stop: &AtomicBool) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..(per_second * BEAT.as_millis() as u64).div_ceil(1000) {
            let text = sample.next_record();
            records.push(parse(&text)?);
            writer.write_line(text.as_bytes())?;
        }
        std::thread::sleep(BEAT);
    }
    writer.close()?;
    Ok(records)
}

pub(super) fn parse(text: &str) -> Result<Record> {
    serde_json::from_str(text).with_context(|| format!("not a record: {text}"))
}
