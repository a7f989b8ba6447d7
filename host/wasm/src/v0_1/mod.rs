//! `tailweir:plugin@0.1`: the bindings, what the host offers to guests, and how answers become the core's.

mod metrics;
mod state;

use std::sync::Arc;
use std::time::Duration;

use tailweir_core::json::column;
use tailweir_core::{Batch, Failure, Outcome, PluginKind, Pointer, Record, Verdict};
use wasmtime::component::{HasSelf, InstancePre, Linker, Resource};
use wasmtime::{Error, Store, bail, format_err};

use crate::call::Clock;
use crate::instance::World;
use crate::limits::Limits;
use crate::load::Description;
use crate::meter::{HostWorks, Meter};
use crate::state::{Level, State, clip};

/// Bindings of a filter, and of what all guests import.
pub(crate) mod filter {
    wasmtime::component::bindgen!({
        path: "../../wit/v0.1",
        world: "filter-plugin",
        imports: { default: trappable },
        exports: { default: async },
        with: { "tailweir:plugin/records.batch": super::CurrentBatch },
        require_store_data_send: true,
    });
}

/// Bindings of a processor, and of what processors import besides.
pub(crate) mod processor {
    wasmtime::component::bindgen!({
        path: "../../wit/v0.1",
        world: "state-processor-plugin",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "tailweir:plugin/records": super::filter::tailweir::plugin::records,
            "tailweir:plugin/log": super::filter::tailweir::plugin::log,
        },
        require_store_data_send: true,
    });
}

/// Bindings of what plug-ins import that have metrics of their own.
pub(crate) mod measured {
    wasmtime::component::bindgen!({
        path: "../../wit/v0.1",
        world: "metrics-plugin",
        imports: { default: trappable },
        require_store_data_send: true,
    });
}

use filter::tailweir::plugin::{log, records};

/// The package, as it stands in the names of imports and exports.
pub(crate) const PACKAGE: &str = "tailweir:plugin";

/// The version that this module speaks. Later 0.1.x only add to it.
pub(crate) const VERSION: &str = "0.1.0";

/// What a batch resource stands for: the batch of the call that is going on. A guest only ever has a borrowed handle of
/// it, which the component model takes back when the call returns, so there is never another.
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub struct CurrentBatch;

/// The handle that is passed to a guest. A borrowed one: an owned one would take a place in the store's table, which has
/// 100,000, at each call.
pub(crate) fn handle() -> Resource<CurrentBatch> {
    Resource::new_borrow(0)
}

/// Adds what the host offers.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    records::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    log::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    measured::tailweir::plugin::metrics::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    // No filter that imports it is linked.
    processor::tailweir::plugin::state::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl State {
    /// Measures, if anybody wants to know, how long the host takes until the value that is returned is dropped.
    fn measure(&self) -> Option<HostWorks> {
        self.meter.as_ref().map(Meter::host_works)
    }

    fn batch(&self) -> wasmtime::Result<&Arc<Batch>> {
        self.batch
            .as_ref()
            .ok_or_else(|| Error::msg("the batch was used outside of the call that it was passed to"))
    }

    fn record(&self, index: u32) -> wasmtime::Result<Record<'_>> {
        let batch = self.batch()?;
        batch.get(index as usize).ok_or_else(|| {
            format_err!("the plug-in asked for the record at index {index} of a batch of {}", batch.len())
        })
    }

    fn column<T>(
        &mut self,
        pointer: &str,
        of: impl Fn(&str) -> Option<T>,
    ) -> wasmtime::Result<Vec<Option<T>>> {
        let _measured = self.measure();
        let pointer = Pointer::parse(pointer)?;
        let batch = self.batch()?;
        let each = entries_per_look(batch);
        let mut column = Vec::with_capacity(batch.len());
        for value in batch.column(&pointer) {
            if column.len().is_multiple_of(each) {
                self.clock.check()?;
            }
            column.push(value.and_then(&of));
        }
        self.handed += size_of_val(&*column) as u64;
        Ok(column)
    }

    /// A column of texts, each in a place of its own.
    fn texts(
        &mut self,
        pointer: &str,
        of: impl Fn(&str) -> Option<String>,
    ) -> wasmtime::Result<Vec<Option<String>>> {
        let texts = self.column(pointer, of)?;
        self.handed += texts.iter().flatten().map(|text| text.len() as u64).sum::<u64>();
        Ok(texts)
    }

    /// Counts what the guest is handed in one piece.
    fn hand(&mut self, joined: records::JoinedEntries) -> records::JoinedEntries {
        let records::JoinedEntries { bytes, lengths } = &joined;
        self.handed += (bytes.len() + size_of_val(&**lengths)) as u64;
        joined
    }
}

impl records::Host for State {}

/// After how many entries the host looks at the clock of the call: the deadline holds in what the guest has the host do, too.
/// To find an entry may take going through its whole record.
fn entries_per_look(batch: &Batch) -> usize {
    const BYTES: usize = 64 << 20;
    (BYTES / batch.bytes().max(1)).clamp(1, 4096)
}

/// How many pointers may be given at once: the host has a copy of each.
const MAX_POINTERS: usize = 4096;

/// Makes entries one piece.
struct Joiner<'a> {
    clock: &'a Clock,
    /// After how many entries it is looked at.
    entries_per_look: usize,
    joined: records::JoinedEntries,
    /// How many bytes the guest could take, lengths included.
    room: usize,
}

impl<'a> Joiner<'a> {
    /// For so many entries about each record of the batch, on behalf of a guest that has `state`.
    fn new(batch: &Batch, entries: usize, state: &'a State) -> wasmtime::Result<Self> {
        let (entries, entries_per_look) = (batch.len().saturating_mul(entries), entries_per_look(batch));
        let room = state.memory.room();
        let Some(room) = entries.checked_mul(size_of::<i32>()).and_then(|lengths| room.checked_sub(lengths))
        else {
            bail!(LARGER_THAN_MEMORY)
        };
        let joined = records::JoinedEntries { bytes: Vec::new(), lengths: Vec::with_capacity(entries) };
        Ok(Self { clock: &state.clock, entries_per_look, joined, room: room.min(i32::MAX as usize) })
    }

    /// Adds an entry: what `write` adds, if it says that there is one.
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>) -> bool) -> wasmtime::Result<()> {
        let joined = &mut self.joined;
        if joined.lengths.len().is_multiple_of(self.entries_per_look) {
            self.clock.check()?;
        }
        let before = joined.bytes.len();
        let is_some = write(&mut joined.bytes);
        joined.lengths.push(if is_some { (joined.bytes.len() - before) as i32 } else { -1 });
        // At each entry: what is asked for many times over must not fill the host's memory.
        if joined.bytes.len() > self.room {
            bail!(LARGER_THAN_MEMORY)
        }
        Ok(())
    }
}

const LARGER_THAN_MEMORY: &str = "the plug-in asked for more at once than its memory, or 2 GiB, can hold";

impl records::HostBatch for State {
    fn id(&mut self, _: Resource<CurrentBatch>) -> wasmtime::Result<String> {
        Ok(self.batch()?.id().to_string())
    }

    fn len(&mut self, _: Resource<CurrentBatch>) -> wasmtime::Result<u32> {
        Ok(u32::try_from(self.batch()?.len())?)
    }

    fn json(&mut self, _: Resource<CurrentBatch>, index: u32) -> wasmtime::Result<String> {
        let text = self.record(index)?.text().to_owned();
        self.handed += text.len() as u64;
        Ok(text)
    }

    fn position(&mut self, _: Resource<CurrentBatch>, index: u32) -> wasmtime::Result<records::Position> {
        let position = self.record(index)?.position();
        let segment = position.segment.as_str().to_owned();
        Ok(records::Position { segment, line: position.line, offset: position.offset })
    }

    fn text(&mut self, _: Resource<CurrentBatch>) -> wasmtime::Result<records::Joined> {
        let _measured = self.measure();
        let batch = self.batch()?;
        let mut joined = records::Joined {
            bytes: Vec::with_capacity(batch.bytes()),
            ends: Vec::with_capacity(batch.len()),
        };
        for record in batch.iter() {
            joined.bytes.extend_from_slice(record.text().as_bytes());
            match u32::try_from(joined.bytes.len()) {
                Ok(end) => joined.ends.push(end),
                Err(_) => bail!("the batch is longer than 4 GiB"),
            }
        }
        self.handed += (joined.bytes.len() + size_of_val(&*joined.ends)) as u64;
        Ok(joined)
    }

    fn strings(
        &mut self,
        _: Resource<CurrentBatch>,
        pointer: String,
    ) -> wasmtime::Result<Vec<Option<String>>> {
        self.texts(&pointer, column::string)
    }

    fn strings_joined(
        &mut self,
        _: Resource<CurrentBatch>,
        pointer: String,
    ) -> wasmtime::Result<records::JoinedEntries> {
        let _measured = self.measure();
        let (pointer, batch) = (Pointer::parse(&pointer)?, self.batch()?);
        let mut joiner = Joiner::new(batch, 1, self)?;
        for value in batch.column(&pointer) {
            joiner.add(|bytes| value.is_some_and(|value| column::add_string(value, bytes)))?;
        }
        let joined = joiner.joined;
        Ok(self.hand(joined))
    }

    fn integers(&mut self, _: Resource<CurrentBatch>, pointer: String) -> wasmtime::Result<Vec<Option<i64>>> {
        self.column(&pointer, column::integer)
    }

    fn numbers(&mut self, _: Resource<CurrentBatch>, pointer: String) -> wasmtime::Result<Vec<Option<f64>>> {
        self.column(&pointer, column::number)
    }

    fn booleans(
        &mut self,
        _: Resource<CurrentBatch>,
        pointer: String,
    ) -> wasmtime::Result<Vec<Option<bool>>> {
        self.column(&pointer, column::boolean)
    }

    fn values(
        &mut self,
        _: Resource<CurrentBatch>,
        pointer: String,
    ) -> wasmtime::Result<Vec<Option<String>>> {
        self.texts(&pointer, |value| Some(value.to_owned()))
    }

    fn values_joined(
        &mut self,
        _: Resource<CurrentBatch>,
        pointers: Vec<String>,
    ) -> wasmtime::Result<records::JoinedEntries> {
        let _measured = self.measure();
        if pointers.len() > MAX_POINTERS {
            bail!("the plug-in asked for {} fields at once, more than {MAX_POINTERS}", pointers.len());
        }
        let pointers = pointers.iter().map(|p| Pointer::parse(p)).collect::<Result<Vec<_>, _>>()?;
        let batch = self.batch()?;
        let mut joiner = Joiner::new(batch, pointers.len(), self)?;
        let columns: Vec<_> = pointers.iter().map(|pointer| batch.values(pointer)).collect();
        for index in 0..batch.len() {
            for column in &columns {
                let value = column.get(index);
                joiner.add(|bytes| {
                    bytes.extend_from_slice(value.unwrap_or_default().as_bytes());
                    value.is_some()
                })?;
            }
        }
        let joined = joiner.joined;
        Ok(self.hand(joined))
    }

    fn drop(&mut self, _: Resource<CurrentBatch>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.log.write(level, &message);
        Ok(())
    }
}

macro_rules! world {
    ($world:ty, $pre:ident, $bindings:ident, $kind:ident) => {
        impl World for $world {
            type Pre = $bindings::$pre<State>;

            const KIND: PluginKind = PluginKind::$kind;

            fn prepare(pre: InstancePre<State>) -> wasmtime::Result<Self::Pre> {
                $bindings::$pre::new(pre)
            }

            async fn instantiate(pre: &Self::Pre, store: &mut Store<State>) -> wasmtime::Result<Self> {
                pre.instantiate_async(store).await
            }

            async fn describe(&self, store: &mut Store<State>) -> wasmtime::Result<Description> {
                let description = self.tailweir_plugin_lifecycle().call_describe(store).await?;
                let $bindings::exports::tailweir::plugin::lifecycle::Description {
                    name,
                    version,
                    needs,
                    config_schema,
                } = description;
                Ok(Description { name, version, needs, config_schema })
            }

            async fn init(
                &self,
                store: &mut Store<State>,
                config: &str,
            ) -> wasmtime::Result<Result<(), String>> {
                self.tailweir_plugin_lifecycle().call_init(store, config).await
            }
        }
    };
}

world!(filter::FilterPlugin, FilterPluginPre, filter, Filter);
world!(processor::StateProcessorPlugin, StateProcessorPluginPre, processor, Processor);

impl From<filter::exports::tailweir::plugin::filter::Verdict> for Verdict {
    fn from(verdict: filter::exports::tailweir::plugin::filter::Verdict) -> Self {
        use filter::exports::tailweir::plugin::filter::Verdict as Theirs;
        match verdict {
            Theirs::All => Self::All,
            Theirs::None => Self::None,
            Theirs::Keep(keep) => Self::Keep(keep),
        }
    }
}

/// A processor's answer in the core's words.
pub(crate) fn answer(
    answer: Result<
        processor::exports::tailweir::plugin::process::Outcome,
        processor::exports::tailweir::plugin::process::Failure,
    >,
    limits: &Limits,
) -> Result<Outcome, Failure> {
    use processor::exports::tailweir::plugin::process as theirs;
    let clip = |reason: String| clip(&reason, limits);
    match answer {
        Ok(theirs::Outcome::Done) => Ok(Outcome::Done),
        Ok(theirs::Outcome::Emit(records)) => Ok(Outcome::Emit(records)),
        Err(theirs::Failure::Retry(theirs::Retry { after_ms, reason })) => {
            Err(Failure::Retry { after: after_ms.map(Duration::from_millis), reason: clip(reason) })
        }
        Err(theirs::Failure::Reject(theirs::Reject { indices, reason })) => {
            Err(Failure::Reject { indices, reason: clip(reason) })
        }
        Err(theirs::Failure::Stop(reason)) => Err(Failure::Stop { reason: clip(reason) }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use wasmtime::Engine;

    use super::*;
    use crate::ticks::Ticks;

    #[test]
    fn f14_the_clock_is_looked_at_while_entries_are_joined() {
        let limit = Duration::from_millis(20);
        let clock = Clock::new(limit, Arc::new(Ticks::start(Engine::default()).expect("a thread")));
        let joined = records::JoinedEntries { bytes: Vec::new(), lengths: Vec::new() };
        let mut joiner = Joiner { clock: &clock, entries_per_look: 10, joined, room: usize::MAX };
        clock.reset();
        let begun = Instant::now();
        let error = loop {
            if let Err(e) = joiner.add(|_| false) {
                break e;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "it goes on for ever");
        };
        assert_eq!(error.to_string(), "it ran for longer than its deadline, 20ms");
    }
}
