//! What scripts say about a tailer, checked and turned into what the pipeline is told.

use std::path::Path;

use mlua::{Lua, Table, Value};
use tailweir_pipeline::{
    CheckpointName, CheckpointOptions, CheckpointSync, ConsumerOptions, FilterOptions, OnMalformed,
    QuarantineOptions, SourceOptions, StartFrom, WhenFull,
};
use tailweir_segments::{Mode, Ordering, Pattern, ReaderOptions, Watch};

use crate::error::{fail, with_causes};
use crate::kumo::Host;
use crate::native::FilterHandle;
use crate::options::{self, DURATION, Options, describe, userdata};
use crate::plugin::LuaFilter;

/// Everything that a tailer is opened with.
pub(super) struct Config {
    pub(super) function: &'static str,
    pub(super) source: SourceOptions,
    pub(super) consumers: Vec<ConsumerOptions>,
}

const SINGLE: &[&str] = &[
    "directory",
    "pattern",
    "max_batch_size",
    "max_batch_latency",
    "checkpoint_name",
    "poll_watcher",
    "tail",
    "follow",
    "ordering",
    "max_line_size",
    "read_ahead_bytes",
    "max_batch_bytes",
    "max_uncommitted",
    "checkpoint_sync",
    "on_malformed",
    "quarantine_max_bytes",
    "quarantine_when_full",
];

const MULTI: &[&str] = &[
    "directory",
    "pattern",
    "poll_watcher",
    "tail",
    "consumers",
    "follow",
    "ordering",
    "max_line_size",
    "read_ahead_bytes",
    "max_batch_bytes",
    "max_uncommitted",
    "checkpoint_sync",
    "on_malformed",
    "quarantine_max_bytes",
    "quarantine_when_full",
];

const CONSUMER: &[&str] = &[
    "name",
    "max_batch_size",
    "max_batch_latency",
    "checkpoint_name",
    "filter",
    "max_batch_bytes",
    "max_uncommitted",
    "checkpoint_sync",
    "on_malformed",
    "quarantine_max_bytes",
    "quarantine_when_full",
];

/// The arguments of `new_tailer`.
pub(super) fn single(lua: &Lua, options: Value, filter_value: Value, host: &Host) -> mlua::Result<Config> {
    let function = "kumo.jsonl.new_tailer";
    let options = Options::new(lua, function, options, SINGLE)?;
    let source = source(&options, host)?;
    let mut consumer = ConsumerOptions::new("default");
    fill(&options, None, &mut consumer)?;
    set_filters(&mut consumer, lua, function, &filter_value)?;
    redirect(Config { function, source, consumers: vec![consumer] }, host)
}

/// The argument of `new_multi_tailer`.
pub(super) fn multi(lua: &Lua, options: Value, host: &Host) -> mlua::Result<Config> {
    let function = "kumo.jsonl.new_multi_tailer";
    let options = Options::new(lua, function, options, MULTI)?;
    let source = source(&options, host)?;
    let value = options.value("consumers")?;
    let table = match &value {
        Value::Table(table) => table,
        Value::Nil => return options.required("consumers", None),
        _ => return Err(options.wrong("consumers", "an array of tables", &value)),
    };
    let mut entries = Vec::new();
    for (key, entry) in options::entries(lua, table)? {
        match key.as_integer() {
            Some(index) => entries.push((index, entry)),
            None => return Err(options.wrong("consumers", "an array of tables", &key)),
        }
    }
    entries.sort_by_key(|(index, _)| *index);
    let mut consumers = Vec::new();
    for (number, (index, entry)) in (1..).zip(entries) {
        if index != number {
            return Err(fail(format!(
                "{function}: consumers[{number}] is missing, but there is consumers[{index}]"
            )));
        }
        consumers.push(consumer(lua, function, number, &options, entry)?);
    }
    match consumers.is_empty() {
        true => {
            Err(options.wrong("consumers", "an array of at least one table", &Value::Table(table.clone())))
        }
        false => redirect(Config { function, source, consumers }, host),
    }
}

/// In a replay: lets the consumer that is replayed read what it is to be given again, and no other consumer read at all.
fn redirect(mut config: Config, host: &Host) -> mlua::Result<Config> {
    let Some(redirect) = &host.redirect else { return Ok(config) };
    let same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| Some(a) == b.canonicalize().ok());
    let reader = &mut config.source.reader;
    let wanted = same(&reader.directory, &redirect.directory);
    let checkpoint = |consumer: &ConsumerOptions| consumer.checkpoint.as_ref().map(|c| c.name.clone());
    config.consumers.retain(|consumer| wanted && checkpoint(consumer).as_ref() == Some(&redirect.checkpoint));
    if config.consumers.is_empty() {
        return Err(fail(format!(
            "{}: this is a replay of the checkpoint `{}` in {}; the script opens another one",
            config.function,
            redirect.checkpoint.as_str(),
            redirect.directory.display()
        )));
    }
    reader.directory = redirect.to.clone();
    (reader.mode, config.source.start) = (Mode::Once, StartFrom::Checkpoint);
    for consumer in &mut config.consumers {
        consumer.on_malformed = OnMalformed::Quarantine;
        if let Some(checkpoint) = &mut consumer.checkpoint {
            checkpoint.quarantine.max_bytes = u64::MAX;
        }
    }
    Ok(config)
}

/// One entry of `consumers`. What the whole tailer was told holds for each consumer that is not told otherwise.
fn consumer(
    lua: &Lua,
    function: &str,
    number: i64,
    all: &Options,
    entry: Value,
) -> mlua::Result<ConsumerOptions> {
    let function = format!("{function}: consumers[{number}]");
    let options = Options::new(lua, function.as_str(), entry, CONSUMER)?;
    let name = options.string("name")?;
    let name = options.required("name", name)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(options.wrong("name", "a name without control characters", &options.value("name")?));
    }
    let mut consumer = ConsumerOptions::new(name);
    fill(&options, Some(all), &mut consumer)?;
    set_filters(&mut consumer, lua, &function, &options.value("filter")?)?;
    Ok(consumer)
}

fn source(options: &Options, host: &Host) -> mlua::Result<SourceOptions> {
    let directory = options.string("directory")?;
    let directory = options.required("directory", directory)?;
    if directory.is_empty() {
        return Err(options.wrong("directory", "a path", &options.value("directory")?));
    }
    let mut source = SourceOptions::new(directory);
    fill_reader(options, &mut source.reader)?;
    source.reader.events = host.events.clone();
    if options.boolean("tail")? == Some(true) {
        source.start = StartFrom::Newest;
    }
    Ok(source)
}

fn fill_reader(options: &Options, reader: &mut ReaderOptions) -> mlua::Result<()> {
    if let Some(pattern) = options.string("pattern")? {
        reader.pattern = Pattern::new(&pattern).map_err(|e| options.failed(&e))?;
    }
    if let Some(interval) = options.interval("poll_watcher")? {
        reader.watch = Watch::Poll(interval);
    }
    if options.boolean("follow")? == Some(false) {
        reader.mode = Mode::Once;
    }
    if let Some(ordering) =
        options.choice("ordering", &[("name", Ordering::Name), ("strict", Ordering::Strict)])?
    {
        reader.ordering = ordering;
    }
    if let Some(size) = options.size("max_line_size")? {
        reader.max_line_size = size;
    }
    if let Some(bytes) = options.size("read_ahead_bytes")? {
        reader.read_ahead_bytes = bytes;
    }
    Ok(())
}

/// The options of one consumer. Those that may stand at the whole tailer too are taken from `all` where they are missing.
fn fill(options: &Options, all: Option<&Options>, consumer: &mut ConsumerOptions) -> mlua::Result<()> {
    let (mut sync, mut quarantine) = (None, QuarantineOptions::default());
    for options in all.into_iter().chain([options]) {
        fill_shared(options, consumer)?;
        sync = checkpoint_sync(options)?.or(sync);
        fill_quarantine(options, &mut quarantine)?;
    }
    if let Some(size) = options.size("max_batch_size")? {
        consumer.max_batch_size = size;
    }
    if let Some(latency) = options.duration("max_batch_latency")? {
        consumer.max_batch_latency = latency;
    }
    if let Some(name) = options.string("checkpoint_name")? {
        let name = CheckpointName::new(&name).map_err(|e| options.failed(&e))?;
        consumer.checkpoint = Some(CheckpointOptions { name, sync: sync.unwrap_or_default(), quarantine });
    }
    Ok(())
}

/// The options that may stand at a consumer and, for all of its consumers, at a multi tailer.
fn fill_shared(options: &Options, consumer: &mut ConsumerOptions) -> mlua::Result<()> {
    if let Some(bytes) = options.size("max_batch_bytes")? {
        consumer.max_batch_bytes = bytes;
    }
    if let Some(limit) = options.size("max_uncommitted")? {
        consumer.max_uncommitted = limit;
    }
    let choices =
        [("quarantine", OnMalformed::Quarantine), ("skip", OnMalformed::Skip), ("fail", OnMalformed::Fail)];
    if let Some(choice) = options.choice("on_malformed", &choices)? {
        consumer.on_malformed = choice;
    }
    Ok(())
}

fn fill_quarantine(options: &Options, quarantine: &mut QuarantineOptions) -> mlua::Result<()> {
    if let Some(bytes) = options.size("quarantine_max_bytes")? {
        quarantine.max_bytes = bytes as u64;
    }
    let choices = [("stop", WhenFull::Stop), ("drop_oldest", WhenFull::DropOldest)];
    if let Some(choice) = options.choice("quarantine_when_full", &choices)? {
        quarantine.when_full = choice;
    }
    Ok(())
}

fn checkpoint_sync(options: &Options) -> mlua::Result<Option<CheckpointSync>> {
    let value = options.value("checkpoint_sync")?;
    match &value {
        Value::Nil => return Ok(None),
        Value::String(word) if *word == "always" => return Ok(Some(CheckpointSync::Always)),
        _ => {}
    }
    match options::duration(&value).filter(|interval| !interval.is_zero()) {
        Some(interval) => Ok(Some(CheckpointSync::Interval(interval))),
        None => Err(options.wrong("checkpoint_sync", format!("'always' or {DURATION}, above zero"), &value)),
    }
}

/// Sets the filters: one, or an array of them.
fn set_filters(consumer: &mut ConsumerOptions, lua: &Lua, function: &str, value: &Value) -> mlua::Result<()> {
    match value {
        Value::Nil => {}
        Value::Table(list) => {
            let list = list_of(lua, function, list)?;
            for (n, value) in (1..).zip(&list) {
                let name = format!("filter {n} of {}", list.len());
                consumer.filters.push(FilterOptions { name, ..filter(lua, function, value)? });
            }
        }
        one => consumer.filters.push(filter(lua, function, one)?),
    }
    Ok(())
}

/// The elements of an array that is not empty and has nothing else in it.
fn list_of(lua: &Lua, function: &str, list: &Table) -> mlua::Result<Vec<Value>> {
    let mut elements = Vec::new();
    for (key, value) in options::entries(lua, list)? {
        match key.as_integer() {
            Some(index) => elements.push((index, value)),
            None => {
                let got = describe(&key);
                return Err(fail(format!(
                    "{function}: the filters must be an array of filters, got the key {got}"
                )));
            }
        }
    }
    elements.sort_by_key(|(index, _)| *index);
    if elements.is_empty() || elements.iter().zip(1..).any(|((index, _), n)| *index != n) {
        return Err(fail(format!(
            "{function}: the filters must be an array without holes, and not an empty one"
        )));
    }
    Ok(elements.into_iter().map(|(_, value)| value).collect())
}

/// A filter: a function of this state, or something that makes filters in another engine.
fn filter(lua: &Lua, function: &str, value: &Value) -> mlua::Result<FilterOptions> {
    if let Value::Function(filter) = value {
        return Ok(FilterOptions::new(LuaFilter::new(lua, filter.clone())?));
    }
    let Some(handle) = userdata::<FilterHandle>(value) else {
        let got = describe(value);
        return Err(fail(format!(
            "{function}: the filter must be a function, a filter made by kumo.wasm, or an array of such, got {got}"
        )));
    };
    let factory = handle.borrow::<FilterHandle>()?.0.clone();
    let filter = factory.create().map_err(|e| fail(format!("{function}: {}", with_causes(&*e))))?;
    Ok(FilterOptions { more: Some(factory), ..FilterOptions::from(filter) })
}
