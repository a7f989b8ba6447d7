//! What a plug-in answered, as lines of text that can be kept, read and compared.
//!
//! The text is the same whenever the plug-in's answers are:
//!
//! ```text
//! filter
//! keep 20250912-110801.44:1 Delivery d7ef132b5d7711eea8c8000c29c33806
//! drop 20250912-110801.44:2 Bounce 1a2b…
//! skip 20250912-110801.44:3 malformed JSON: …
//! = 2 records: 1 kept, 1 dropped; 1 line that is no record
//! ```
//!
//! ```text
//! processor
//! batch 20250912-110801.44:1 100 records: emit 1
//!   {"type":"summary","count":100}
//! batch 20250912-110801.44:101 100 records: reject 1: no recipient
//!   20250912-110801.44:117 Delivery 2f…
//! = 200 records in 2 batches: 1 emitted, 1 rejected
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use tailweir_core::json::{Value, unescape};
use tailweir_core::{
    Batch, Failure, Filter, Located, MemoryState, Outcome, Processor, Record, StateKeeper, Verdict,
};
use tokio::runtime::{Builder, Runtime};

use super::plain;
use super::records::Records;
use super::subject::{Role, Subject};

/// How many characters are shown of a record that has neither `type` nor `id`.
const EXCERPT: usize = 60;

/// What a plug-in answered about all records.
pub(super) struct Answers {
    pub(super) text: String,
    /// The last line of the text, without its mark.
    pub(super) summary: String,
}

/// Runs a plug-in over records to their end, or until it stops.
pub(super) fn answers(subject: &mut Subject, mut records: Records) -> Result<Answers> {
    let mut text = format!("{}\n", subject.kind().name());
    let mut sums = match subject.role() {
        Role::Filter(filter) => filtered(filter, &mut records, &mut text)?,
        Role::Processor(processor) => processed(processor, &mut records, &mut text)?,
    };
    for defect in &records.defects {
        _ = writeln!(text, "skip {}", plain(defect));
    }
    if !records.defects.is_empty() {
        _ = write!(
            sums,
            "; {}",
            count(records.defects.len() as u64, "line that is no record", "lines that are no records")
        );
    }
    _ = writeln!(text, "= {sums}");
    Ok(Answers { text, summary: sums })
}

fn filtered(filter: &mut dyn Filter, records: &mut Records, text: &mut String) -> Result<String> {
    let (mut seen, mut kept) = (0_u64, 0_u64);
    while let Some(batch) = records.next()? {
        let verdict = evaluate(filter, &batch)?;
        for (index, record) in batch.iter().enumerate() {
            let word = match verdict.keeps(index) {
                true => {
                    kept += 1;
                    "keep"
                }
                false => "drop",
            };
            _ = writeln!(text, "{word} {}", name_of(&record));
        }
        seen += batch.len() as u64;
    }
    Ok(format!("{}: {kept} kept, {} dropped", count(seen, "record", "records"), seen - kept))
}

fn processed(processor: &mut dyn Processor, records: &mut Records, text: &mut String) -> Result<String> {
    let run = ProcessorRun::new()?;
    let (mut seen, mut batches, mut emitted, mut rejected, mut retried, mut stopped) = (0, 0, 0, 0, 0, false);
    while let Some(batch) = records.next()? {
        let answer = run.process(processor, &batch)?;
        (seen, batches) = (seen + batch.len() as u64, batches + 1);
        match &answer {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Emit(records)) => emitted += records.len(),
            Err(Failure::Reject { indices, .. }) => rejected += indices.len(),
            Err(Failure::Stop { .. }) => stopped = true,
            Err(Failure::Retry { .. } | Failure::Crash { .. }) => retried += 1,
        }
        text.push_str(&of_batch(&batch, &answer));
        if stopped {
            break;
        }
    }
    let (seen, batches) = (count(seen, "record", "records"), count(batches, "batch", "batches"));
    let mut sums = format!("{seen} in {batches}: {emitted} emitted, {rejected} rejected");
    if retried > 0 {
        _ = write!(sums, "; {} to be delivered again", count(retried, "batch", "batches"));
    }
    if stopped {
        sums.push_str("; stopped");
    }
    Ok(sums)
}

/// Asks a filter. If it fails, the error names the record that it fails on by itself, if there is one.
pub(super) fn evaluate(filter: &mut dyn Filter, batch: &Arc<Batch>) -> Result<Verdict> {
    let error = match filter.evaluate(batch) {
        Ok(verdict) => return Ok(verdict),
        Err(error) => error,
    };
    let index = match error.located {
        Located::Record => Some(error.decided.len()),
        Located::Batch => blame(batch, |part| filter.evaluate(part).is_err()),
    };
    Err(anyhow!("{error}").context(place("filter", batch, index)))
}

/// Where a plug-in failed: on the record with this index, or on the batch.
fn place(kind: &str, batch: &Batch, index: Option<usize>) -> String {
    match index.and_then(|index| batch.get(index)) {
        Some(record) => format!(
            "the {kind} failed on {} (a file with that line alone, as `--segment`, brings it back): {}",
            record.position(),
            excerpt(record.text(), 1000)
        ),
        None => format!("the {kind} failed on the batch of {}", extent(batch)),
    }
}

/// The index of a record that a plug-in fails on by itself. Parts are tried that fail, each half as long as the one before.
fn blame(batch: &Arc<Batch>, mut fails_on: impl FnMut(&Arc<Batch>) -> bool) -> Option<usize> {
    let (mut from, mut to) = (0, batch.len());
    let mut fails = |from: usize, to: usize| fails_on(&Arc::new(batch.slice(from..to)));
    while to - from > 1 {
        let middle = from.midpoint(to);
        if fails(from, middle) {
            to = middle;
        } else if fails(middle, to) {
            from = middle;
        } else {
            return None;
        }
    }
    fails(from, to).then_some(from)
}

/// What a processor's calls run in, as a consumer's do, and what it remembers from one batch to the next.
pub(super) struct ProcessorRun {
    runtime: Runtime,
    state: Arc<MemoryState>,
}

impl ProcessorRun {
    /// One that remembers nothing yet.
    pub(super) fn new() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        Ok(Self { runtime, state: Arc::default() })
    }

    /// What it remembered is gone.
    pub(super) fn forget(&mut self) {
        self.state = Arc::default();
    }

    /// Hands a batch to a processor. What it changes in its state stays if it deals with the batch, as in a pipeline.
    pub(super) fn answer(
        &self,
        processor: &mut dyn Processor,
        batch: &Arc<Batch>,
    ) -> Result<Outcome, Failure> {
        let state: Arc<dyn StateKeeper> = self.state.clone();
        let answer = self.runtime.block_on(processor.process_with_state(batch, &state));
        self.state.settle(&answer);
        answer
    }

    /// As [`answer`](Self::answer), but that it crashes is an error, which names the record that it crashes on by itself, if
    /// there is one.
    pub(super) fn process(
        &self,
        processor: &mut dyn Processor,
        batch: &Arc<Batch>,
    ) -> Result<Result<Outcome, Failure>> {
        match self.answer(processor, batch) {
            Err(Failure::Crash { reason }) => {
                let crashes =
                    |part: &Arc<Batch>| matches!(self.answer(processor, part), Err(Failure::Crash { .. }));
                let index = blame(batch, crashes);
                bail!(anyhow!(reason).context(place("processor", batch, index)))
            }
            answer => Ok(answer),
        }
    }
}

/// A batch and what became of it: one line, and one for each record that is emitted or rejected.
pub(super) fn of_batch(batch: &Batch, answer: &Result<Outcome, Failure>) -> String {
    let first = batch.get(0).map(|record| record.position().to_string()).unwrap_or_default();
    let mut text = format!("batch {first} {}: ", count(batch.len() as u64, "record", "records"));
    match answer {
        Ok(Outcome::Done) => text.push_str("done\n"),
        Ok(Outcome::Emit(records)) => {
            _ = writeln!(text, "emit {}", records.len());
            records.iter().for_each(|record| _ = writeln!(text, "  {record}"));
        }
        Err(Failure::Retry { after: None, reason }) => _ = writeln!(text, "retry: {}", plain(reason)),
        Err(Failure::Retry { after: Some(after), reason }) => {
            _ = writeln!(text, "retry after {}: {}", humantime::format_duration(*after), plain(reason));
        }
        Err(Failure::Reject { indices, reason }) => {
            _ = writeln!(text, "reject {}: {}", indices.len(), plain(reason));
            for record in indices.iter().filter_map(|&index| batch.get(index as usize)) {
                _ = writeln!(text, "  {}", name_of(&record));
            }
        }
        Err(Failure::Stop { reason }) => _ = writeln!(text, "stop: {}", plain(reason)),
        Err(Failure::Crash { reason }) => _ = writeln!(text, "crash: {}", plain(first_line(reason))),
    }
    text
}

/// What is said of an error, without where it was called from.
pub(super) fn first_line(error: &str) -> &str {
    error.lines().next().unwrap_or_default()
}

/// A record's place, and what tells a reader which one it is: its type and id, or else its beginning.
pub(super) fn name_of(record: &Record<'_>) -> String {
    let word = |key| match record.field(key).map(Value::of) {
        Some(Value::String(raw)) => Some(plain(&unescape(raw))),
        _ => None,
    };
    let words: Vec<String> = [word("type"), word("id")].into_iter().flatten().collect();
    let shown = if words.is_empty() { excerpt(record.text(), EXCERPT) } else { words.join(" ") };
    format!("{} {shown}", record.position())
}

/// So many characters of a text.
pub(super) fn excerpt(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", plain(&text[..end])),
        None => plain(text),
    }
}

/// From its first record to its last.
pub(super) fn extent(batch: &Batch) -> String {
    let place = |index| batch.get(index).map(|record| record.position().to_string()).unwrap_or_default();
    let records = count(batch.len() as u64, "record", "records");
    format!("{records} from {} to {}", place(0), place(batch.len().saturating_sub(1)))
}

/// A number of things.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
