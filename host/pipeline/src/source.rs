//! A directory, and the consumers that are opened on it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tailweir_core::{Event, EventSink, SegmentName};
use tailweir_segments::{Begun, Directory, Entry, Start, list};

use crate::checkpoint::{CheckpointStore, FileStore, Saved, StoreError};
use crate::consumer::Consumer;
use crate::pass::{Place, Pool};
use crate::settlement::{MakeStore, OpenError, Opened, Settlement};
use crate::{CheckpointOptions, ConsumerOptions, SourceOptions, StartFrom};

/// Opens the consumers' checkpoints and begins to read for them.
///
/// # Errors
/// If the directory can't be read, or a checkpoint can't be opened: another process or another consumer has it, or its
/// file can't be used. The error says what to do. Nothing is begun then.
pub fn open(source: SourceOptions, consumers: Vec<ConsumerOptions>) -> Result<Vec<Consumer>, OpenError> {
    let (directory, events) = (source.reader.directory.clone(), source.reader.events.clone());
    open_with(source, consumers, &files(directory, events))
}

/// As [`open`], with checkpoints in stores of the caller's choice.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    source: SourceOptions,
    consumers: Vec<ConsumerOptions>,
    make_store: MakeStore<'_>,
) -> Result<Vec<Consumer>, OpenError> {
    refuse_twins(&consumers)?;
    let source = Source::new(source)?;
    let prepare = |options| source.prepare(options, make_store);
    let mut opened = consumers.into_iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
    // All subscribe before the first takes anything, so that those at one place share a pass from its start.
    for consumer in &mut opened {
        consumer.subscribe()?;
    }
    Ok(opened)
}

/// Checkpoints in files of the directory.
fn files(
    directory: PathBuf,
    events: Arc<dyn EventSink>,
) -> impl Fn(&CheckpointOptions) -> Result<Box<dyn CheckpointStore>, StoreError> {
    move |options| Ok(Box::new(FileStore::new(&directory, options.name.clone(), events.clone())?))
}

/// A directory to open consumers on one by one, each on the thread that it will stay on. Clones share their passes over
/// the directory; consumers share one from its start if none of them is asked for a batch before all are open.
#[derive(Clone)]
pub struct Source {
    pool: Arc<Pool>,
    directory: PathBuf,
    events: Arc<dyn EventSink>,
    /// What is passed over because the newest was asked for.
    older: Option<Arc<HashSet<SegmentName>>>,
}

impl Source {
    /// Looks at the directory. Nothing is read, and no file made, before a consumer is opened.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub fn new(options: SourceOptions) -> Result<Self, OpenError> {
        let SourceOptions { reader, start } = options;
        let (directory, events) = (reader.directory.clone(), reader.events.clone());
        // The whole directory is listed before a file is made in it, so that a wrong directory fails as such.
        let entries = list(&directory, &reader.pattern)?;
        let older = match start {
            StartFrom::Newest => older_than_newest(entries, &Directory::open(&directory)?, &*events),
            StartFrom::Checkpoint => None,
        };
        let pool = Pool::new(reader)?;
        Ok(Self { pool, directory, events, older })
    }

    /// Opens a consumer and begins to read for it.
    ///
    /// # Errors
    /// If its checkpoint can't be opened, as with [`open`].
    pub fn open(&self, options: ConsumerOptions) -> Result<Consumer, OpenError> {
        let make_store = files(self.directory.clone(), self.events.clone());
        let mut consumer = self.prepare(options, &make_store)?;
        consumer.subscribe()?;
        Ok(consumer)
    }

    /// A consumer with its checkpoint open, for which nothing is read yet.
    fn prepare(&self, options: ConsumerOptions, make_store: MakeStore<'_>) -> Result<Consumer, OpenError> {
        let (name, events): (Arc<str>, _) = (options.name.as_str().into(), self.events.clone());
        let Opened { settlement, saved } = match &options.checkpoint {
            None => Settlement::unkept(name.clone(), events.clone()),
            Some(checkpoint) => {
                Settlement::open(&self.directory, name.clone(), events.clone(), checkpoint, make_store)?
            }
        };
        let place = match &self.older {
            None => place_of(saved),
            Some(older) => {
                settlement.start_behind(older);
                Place { finished: older.as_ref().clone(), ..Place::default() }
            }
        };
        Ok(Consumer::new(name, options, settlement, place, self.pool.clone(), events))
    }
}

/// The segments that sort before the newest one, which are passed over. Says so.
fn older_than_newest(
    mut entries: Vec<Entry>,
    directory: &Directory,
    events: &dyn EventSink,
) -> Option<Arc<HashSet<SegmentName>>> {
    let newest = entries.iter().rposition(|entry| directory.is_segment(&entry.name))?;
    let first = entries.swap_remove(newest).name;
    entries.truncate(newest);
    if !entries.is_empty() {
        events.emit(Event::SkippedByRequest { first, segments: entries.len() as u64 });
    }
    Some(Arc::new(entries.into_iter().map(|entry| entry.name).collect()))
}

fn refuse_twins(consumers: &[ConsumerOptions]) -> Result<(), OpenError> {
    let (mut names, mut checkpoints) = (HashSet::new(), HashSet::new());
    for consumer in consumers {
        if !names.insert(&consumer.name) {
            return Err(OpenError::Twice { what: "name", name: consumer.name.clone() });
        }
        if let Some(checkpoint) = &consumer.checkpoint
            && !checkpoints.insert(&checkpoint.name)
        {
            return Err(OpenError::Twice {
                what: "checkpoint_name",
                name: checkpoint.name.as_str().to_owned(),
            });
        }
    }
    Ok(())
}

/// The place that a checkpoint stands for.
pub(crate) fn place_of(saved: Saved) -> Place {
    let mut place = Place { finished: saved.finished, ..Place::default() };
    for (name, progress) in saved.frontier.segments {
        if progress.finished {
            continue;
        }
        let start = match saved.unlocated.contains(&name) {
            true => Start::Line(progress.mark.point.line),
            false => Start::Mark(progress.mark),
        };
        place.begun.insert(name, Begun { start, identity: progress.identity });
    }
    place
}
