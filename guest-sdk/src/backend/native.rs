//! Batches made of JSON text, for unit tests.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::batch::Entries;
use crate::log::Level;
use crate::{Joined, Position};

/// Records that somebody made up.
#[doc(hidden)]
pub struct Backend {
    records: Vec<Box<RawValue>>,
}

impl Backend {
    pub(crate) fn new(records: Vec<String>) -> Self {
        let record = |(index, text): (usize, String)| match RawValue::from_string(text) {
            Ok(record) => record,
            Err(e) => panic!("record {index} is no JSON text: {e}"),
        };
        Self { records: records.into_iter().enumerate().map(record).collect() }
    }

    pub(crate) fn id(&self) -> String {
        let mut hash = DefaultHasher::new();
        self.records.iter().for_each(|record| record.get().hash(&mut hash));
        format!("test:segment:1:{}:{:016x}", self.records.len(), hash.finish())
    }

    pub(crate) fn len(&self) -> u32 {
        self.records.len() as u32
    }

    pub(crate) fn json(&self, index: u32) -> String {
        self.record(index).get().to_owned()
    }

    pub(crate) fn position(&self, index: u32) -> Position {
        self.record(index);
        let before = &self.records[..index as usize];
        let offset = before.iter().map(|record| record.get().len() as u64 + 1).sum();
        Position { segment: "segment".to_owned(), line: u64::from(index) + 1, offset }
    }

    fn record(&self, index: u32) -> &RawValue {
        match self.records.get(index as usize) {
            Some(record) => record,
            None => panic!("record {index} of a batch of {}", self.records.len()),
        }
    }

    pub(crate) fn text(&self) -> Joined {
        let mut joined = Joined { text: String::new(), ends: Vec::new() };
        for record in &self.records {
            joined.text.push_str(record.get());
            joined.ends.push(joined.text.len() as u32);
        }
        joined
    }

    pub(crate) fn owned_strings(&self, pointer: &str) -> Vec<Option<String>> {
        self.column(pointer, parse)
    }

    pub(crate) fn strings(&self, pointer: &str) -> Entries {
        join(self.owned_strings(pointer))
    }

    pub(crate) fn joined_values(&self, pointers: &[String]) -> Entries {
        let pointers: Vec<_> = pointers.iter().map(|pointer| tokens(pointer)).collect();
        let entries =
            |record| pointers.iter().map(move |tokens| Some(find(record, tokens)?.get().to_owned()));
        join(self.records.iter().flat_map(|record| entries(record)).collect())
    }

    pub(crate) fn integers(&self, pointer: &str) -> Vec<Option<i64>> {
        // Not serde's idea of an integer: `-0` is one, `1e3` is not.
        self.column(pointer, |value| value.get().parse().ok())
    }

    pub(crate) fn numbers(&self, pointer: &str) -> Vec<Option<f64>> {
        self.column(pointer, parse)
    }

    pub(crate) fn booleans(&self, pointer: &str) -> Vec<Option<bool>> {
        self.column(pointer, parse)
    }

    pub(crate) fn values(&self, pointer: &str) -> Vec<Option<String>> {
        self.column(pointer, |value| Some(value.get().to_owned()).filter(|text| text != "null"))
    }

    fn column<T>(&self, pointer: &str, of: impl Fn(&RawValue) -> Option<T>) -> Vec<Option<T>> {
        let tokens = tokens(pointer);
        self.records.iter().map(|record| of(find(record, &tokens)?)).collect()
    }
}

fn join(entries: Vec<Option<String>>) -> Entries {
    let lengths = entries.iter().map(|entry| entry.as_ref().map_or(-1, |text| text.len() as i32)).collect();
    Entries { text: entries.into_iter().flatten().collect(), lengths }
}

fn parse<T: DeserializeOwned>(value: &RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

fn tokens(pointer: &str) -> Vec<String> {
    let bad_tilde = pointer.replace("~0", "").replace("~1", "").contains('~');
    let rest = match pointer.strip_prefix('/') {
        Some(rest) if !bad_tilde => rest,
        None if pointer.is_empty() => return Vec::new(),
        _ => panic!("`{pointer}` is no JSON pointer (RFC 6901)"),
    };
    rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect()
}

fn find<'a>(record: &'a RawValue, tokens: &[String]) -> Option<&'a RawValue> {
    tokens.iter().try_fold(record, |value, token| match value.get().as_bytes().first() {
        Some(b'{') => {
            let mut members: HashMap<String, &RawValue> = serde_json::from_str(value.get()).ok()?;
            members.remove(token)
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
            let canonical = token == "0" || !token.starts_with(['0', '+']);
            elements.get(token.parse::<usize>().ok().filter(|_| canonical)?).copied()
        }
        _ => None,
    })
}

pub(crate) fn log(level: Level, message: &str) {
    eprintln!("{}: {message}", format!("{level:?}").to_lowercase());
}

/// Metrics in memory. Numbers of series are the same in all threads, as a series may be kept in a `static`; values are each
/// thread's own.
#[cfg(feature = "metrics")]
pub(crate) mod metrics {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    /// A name, and its labels in order.
    type Key = (String, Vec<(String, String)>);

    static SERIES: Mutex<Vec<Key>> = Mutex::new(Vec::new());

    thread_local! {
        static VALUES: RefCell<HashMap<u32, Vec<f64>>> = RefCell::default();
    }

    fn register(name: &str, labels: &[(&str, &str)]) -> u32 {
        let mut labels: Vec<_> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        labels.sort_unstable();
        let key = (name.to_owned(), labels);
        let mut series = SERIES.lock().unwrap_or_else(PoisonError::into_inner);
        let index = series.iter().position(|other| *other == key).unwrap_or_else(|| {
            series.push(key);
            series.len() - 1
        });
        index as u32 + 1
    }

    pub(crate) fn counter(name: &str, _: &str, labels: &[(&str, &str)]) -> u32 {
        register(name, labels)
    }

    pub(crate) fn gauge(name: &str, _: &str, labels: &[(&str, &str)]) -> u32 {
        register(name, labels)
    }

    pub(crate) fn histogram(name: &str, _: &str, labels: &[(&str, &str)], _: &[f64]) -> u32 {
        register(name, labels)
    }

    pub(crate) fn add(counter: u32, amount: u64) {
        observe(counter, &[amount as f64]);
    }

    pub(crate) fn set(gauge: u32, value: f64) {
        observe(gauge, &[value]);
    }

    pub(crate) fn observe(histogram: u32, values: &[f64]) {
        VALUES.with_borrow_mut(|all| all.entry(histogram).or_default().extend(values));
    }

    /// All that was added, set or observed, in order.
    pub(crate) fn values(series: u32) -> Vec<f64> {
        VALUES.with_borrow(|all| all.get(&series).cloned().unwrap_or_default())
    }
}

/// State in memory, with the limits that the host has if nobody changes them.
#[cfg(feature = "state")]
pub(crate) mod state {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use crate::state::Error;

    thread_local! {
        static STATE: RefCell<BTreeMap<String, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
    }

    const KEY_BYTES: usize = 512;
    const VALUE_BYTES: usize = 1 << 20;
    const KEYS: usize = 100_000;
    const BYTES: usize = 16 << 20;

    pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
        STATE.with_borrow(|state| state.get(key).cloned())
    }

    pub(crate) fn set(key: &str, value: &[u8]) -> Result<(), Error> {
        if key.len() > KEY_BYTES {
            return Err(Error::KeyBytes(KEY_BYTES as u64));
        }
        if value.len() > VALUE_BYTES {
            return Err(Error::ValueBytes(VALUE_BYTES as u64));
        }
        STATE.with_borrow_mut(|state| {
            if state.len() == KEYS && !state.contains_key(key) {
                return Err(Error::Keys(KEYS as u64));
            }
            let others = state.iter().filter(|(other, _)| *other != key);
            let bytes: usize = others.map(|(key, value)| key.len() + value.len()).sum();
            if bytes + key.len() + value.len() > BYTES {
                return Err(Error::Bytes(BYTES as u64));
            }
            state.insert(key.to_owned(), value.to_owned());
            Ok(())
        })
    }

    // The host may refuse.
    pub(crate) fn delete(key: &str) -> Result<(), Error> {
        STATE.with_borrow_mut(|state| state.remove(key));
        Ok(())
    }

    pub(crate) fn list(prefix: &str, after: Option<&str>, limit: u32) -> (Vec<String>, bool) {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        STATE.with_borrow(|state| {
            let mut keys = state.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key);
            let page: Vec<_> = keys
                .by_ref()
                .take_while(|key| key.starts_with(prefix))
                .take(limit as usize)
                .cloned()
                .collect();
            let more = page.len() == limit as usize && keys.next().is_some_and(|key| key.starts_with(prefix));
            (page, more)
        })
    }
}
