//! The records that a plug-in is tried on.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tailweir_core::{Batch, Block, Event, EventSink};
use tailweir_segments::{Cursor, Mode, Pattern, Reader, ReaderOptions, Step};

use super::args::RecordArgs;
use super::plain;
use super::render::count;
use crate::logging::LogEvents;

/// Who the batches are for, which is a part of their ids.
const CONSUMER: &str = "test";
/// How many lines that are no records are told if there is nothing else.
const TOLD: usize = 10;

/// Reads segments once, in the order in which they were named, and cuts their records into batches as a consumer without a
/// filter would.
pub(super) struct Records {
    paths: VecDeque<PathBuf>,
    reader: Option<(PathBuf, Reader, Arc<Foreign>)>,
    max: usize,
    filling: Batch,
    ready: VecDeque<Arc<Batch>>,
    /// How many records were read.
    pub(super) count: u64,
    /// The lines that are no records, each as `SEGMENT:LINE why`.
    pub(super) defects: Vec<String>,
}

impl Records {
    pub(super) fn open(args: &RecordArgs) -> Result<Self> {
        for path in &args.segments {
            path.metadata().with_context(|| format!("cannot read the segment {}", path.display()))?;
        }
        Ok(Self {
            paths: args.segments.iter().cloned().collect(),
            reader: None,
            max: args.max_batch_size,
            filling: Batch::new(CONSUMER.into()),
            ready: VecDeque::new(),
            count: 0,
            defects: Vec::new(),
        })
    }

    /// The next batch; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Arc<Batch>>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            let Some(block) = self.next_block()? else {
                ensure!(self.count > 0, "{}", self.no_record());
                return Ok(self.take_filling());
            };
            self.take(&Arc::new(block));
        }
    }

    /// What is to be said of the lines that are no records, if there are any beside records.
    pub(super) fn passed_over(&self) -> Option<String> {
        let first = plain(self.defects.first()?);
        let lines = count(self.defects.len() as u64, "line that is no record", "lines that are no records");
        Some(format!("passed over: {lines}, the first at {first}"))
    }

    /// Why there is nothing to try a plug-in on.
    fn no_record(&self) -> String {
        let mut text = "there is no record in what `--segment` names".to_owned();
        if self.defects.is_empty() {
            return text;
        }
        let lines = self.defects.len() as u64;
        _ = write!(text, "; {}:", count(lines, "line that is no record", "lines that are no records"));
        for defect in self.defects.iter().take(TOLD) {
            _ = write!(text, "\nskip {}", plain(defect));
        }
        if let more @ 1.. = self.defects.len().saturating_sub(TOLD) {
            _ = write!(text, "\n… and {more} more");
        }
        text
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        loop {
            let Some((path, reader, foreign)) = &mut self.reader else {
                let Some(path) = self.paths.pop_front() else { return Ok(None) };
                let foreign = Arc::new(Foreign::default());
                let reader = Reader::open(options(&path, foreign.clone())?, Cursor::default())?;
                self.reader = Some((path, reader, foreign));
                continue;
            };
            match reader.next()? {
                Step::Block(block) => return Ok(Some(block)),
                Step::End => {
                    if let Some(why) = foreign.take() {
                        bail!("{} is no segment: {why}", path.display());
                    }
                    self.reader = None;
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, block: &Arc<Block>) {
        for defect in block.defects() {
            self.defects.push(format!("{}:{} {}", block.segment(), defect.line, defect.kind));
        }
        self.count += block.len() as u64;
        for index in 0..block.len() {
            self.filling.push(block, index);
            if self.filling.len() == self.max {
                let full = self.take_filling();
                self.ready.extend(full);
            }
        }
    }

    fn take_filling(&mut self) -> Option<Arc<Batch>> {
        let batch = std::mem::replace(&mut self.filling, Batch::new(CONSUMER.into()));
        (!batch.is_empty()).then(|| Arc::new(batch))
    }
}

/// How a segment, or all of a directory, is read.
fn options(path: &Path, foreign: Arc<Foreign>) -> Result<ReaderOptions> {
    Ok(if path.is_dir() {
        // What is no segment in there is passed over, and said in the log, as ever.
        // One that is being written is read as far as it goes.
        ReaderOptions { events: Arc::new(LogEvents), mode: Mode::Once, ..ReaderOptions::new(path) }
    } else {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| anyhow!("{} has no name that a segment can have", path.display()))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut options = ReaderOptions::new(folder.unwrap_or(Path::new(".")));
        options.pattern = exactly(name)?;
        options.events = foreign;
        // Whoever names a file has it whole, even if it is one that an editor has written.
        options.mode = Mode::Complete;
        options
    })
}

/// The pattern that matches this name only.
fn exactly(name: &str) -> Result<Pattern> {
    let mut glob = String::new();
    for c in name.chars() {
        let special = matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!' | ',');
        let escape = if special { "\\" } else { "" };
        write!(glob, "{escape}{c}").expect("a string takes any text");
    }
    Ok(Pattern::new(&glob)?)
}

/// Logs what happens to segments, and remembers that a file is none.
#[derive(Default)]
struct Foreign(Mutex<Option<String>>);

impl Foreign {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl EventSink for Foreign {
    fn emit(&self, event: Event) {
        match event {
            Event::ForeignFile { reason, .. } => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
            }
            event => LogEvents.emit(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_itself_only() {
        for name in ["20250912-110801.44", "a*b", "[x]", "{a,b}", "!", "a\\b"] {
            let pattern = exactly(name).unwrap();
            assert!(pattern.matches(name), "{name}");
            assert!(!pattern.matches("ab") && !pattern.matches("x") && !pattern.matches("a"), "{name}");
        }
    }
}
