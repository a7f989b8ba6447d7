//! What a plug-in remembers from one batch to the next: keys and values that become durable with the checkpoint.
//!
//! A [`Bucket`] is what one plug-in sees of it during one batch. What it changes there is seen by itself at once, and by
//! nobody else before the batch is committed: whoever commits takes the changes out and keeps them where the checkpoint is
//! kept, in one step with it. A call that fails is undone.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use thiserror::Error;

use crate::{Failure, Outcome};

/// A value: any bytes.
pub type StateValue = Arc<[u8]>;

/// Keys that were changed, with their new values; `None` if they were deleted.
pub type Changes = BTreeMap<String, Option<StateValue>>;

/// How many keys a page of [`Bucket::list`] has at most.
pub const MAX_PAGE: usize = 1000;

/// How much may be in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateLimits {
    /// Bytes of a key.
    pub key_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Keys in a bucket.
    pub keys: u64,
    /// Bytes of all keys and values in a bucket.
    pub bytes: u64,
    /// Keys that one batch may change.
    pub changes: u64,
}

impl Default for StateLimits {
    /// 512 bytes, 1 MiB, 100,000 keys, 16 MiB, 10,000 changes.
    fn default() -> Self {
        Self { key_bytes: 512, value_bytes: 1 << 20, keys: 100_000, bytes: 16 << 20, changes: 10_000 }
    }
}

/// Why state can't be read or changed. Nothing was changed then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateError {
    /// The key is too long.
    #[error("the key is longer than its limit, {0} bytes (`state_key_bytes`)")]
    KeyBytes(u64),
    /// The value is too long.
    #[error("the value is longer than its limit, {0} bytes (`state_value_bytes`)")]
    ValueBytes(u64),
    /// The bucket has as many keys as it may.
    #[error("the state has as many keys as its limit, {0} (`state_keys`)")]
    Keys(u64),
    /// The bucket would be larger than it may.
    #[error("the state would be larger than its limit, {0} bytes (`state_bytes`)")]
    Bytes(u64),
    /// The batch has changed as many keys as it may.
    #[error("the batch has changed as many keys as its limit, {0} (`state_changes`)")]
    Changes(u64),
    /// There is no batch that the change would belong to.
    #[error("state can be changed only while a batch is processed, and this one is over")]
    NoBatch,
    /// Nothing is kept, so neither is state.
    #[error("state is kept with the checkpoint, and there is none: set `checkpoint_name`")]
    NoCheckpoint,
    /// An earlier batch is not committed, which may change state, too.
    #[error(
        "an earlier batch, {0}, is not committed; with state, each batch is committed before the next one is begun"
    )]
    Earlier(String),
    /// Batches are not dealt with one after the other.
    #[error(
        "several batches are dealt with at once (`parallelism`), and state is made of one after the other; leave `parallelism` out"
    )]
    Parallel,
    /// It can't be read or written.
    #[error("{0}")]
    Store(String),
}

/// What a bucket held when it was committed last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    entries: BTreeMap<String, StateValue>,
    /// Bytes of all keys and values.
    bytes: u64,
}

impl Contents {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&StateValue> {
        self.entries.get(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All keys and their values, in the order of the keys' bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &StateValue)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Makes changes.
    pub fn apply(&mut self, changes: Changes) {
        for (key, value) in changes {
            let size = key.len() as u64;
            if let Some(old) = self.entries.remove(&key) {
                self.bytes -= size + old.len() as u64;
            }
            if let Some(value) = value {
                self.bytes += size + value.len() as u64;
                self.entries.insert(key, value);
            }
        }
    }
}

/// Keys of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Keys, in the order of their bytes.
    pub keys: Vec<String>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// Gives a processor its state, for one batch.
pub trait StateKeeper: Send + Sync {
    /// The bucket of this name. It is the same one whenever it is asked for during the batch.
    ///
    /// # Errors
    /// If there is no checkpoint to keep state with, an earlier batch is not committed, or it can't be read.
    fn open(&self, bucket: &str, limits: &StateLimits) -> Result<Bucket, StateError>;

    /// Who can tell what is in it when no batch is processed.
    fn view(&self) -> Weak<dyn StateView>;
}

/// Tells what was committed.
pub trait StateView: Send + Sync {
    /// A copy of what the bucket of this name holds; `None` if nobody has opened state yet.
    fn contents(&self, bucket: &str) -> Option<Contents>;
}

/// One plug-in's state as one batch sees and changes it. Clones are the same one.
#[derive(Clone)]
pub struct Bucket(Arc<Mutex<Inner>>);

struct Inner {
    limits: StateLimits,
    /// `None` once the batch is over.
    committed: Option<Arc<Contents>>,
    /// What calls have changed that came to a good end, and what it all amounts to then.
    kept: Changes,
    kept_size: Size,
    /// What the call that is going on has changed.
    draft: Changes,
    size: Size,
    /// Keys that only that call has changed.
    fresh: u64,
}

/// How much is in a bucket.
#[derive(Debug, Clone, Copy)]
struct Size {
    keys: u64,
    bytes: u64,
}

impl Bucket {
    /// A bucket that holds this, and no change.
    pub fn new(committed: Arc<Contents>, limits: StateLimits) -> Self {
        let size = Size { keys: committed.len() as u64, bytes: committed.bytes() };
        let (kept, draft) = (Changes::new(), Changes::new());
        Self(Arc::new(Mutex::new(Inner {
            limits,
            committed: Some(committed),
            kept,
            kept_size: size,
            draft,
            size,
            fresh: 0,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a key, if it has one.
    ///
    /// # Errors
    /// [`StateError::NoBatch`] once the batch is over.
    pub fn get(&self, key: &str) -> Result<Option<StateValue>, StateError> {
        self.inner().get(key).map(|value| value.cloned())
    }

    /// Gives a key a value.
    ///
    /// # Errors
    /// If that is more than the limits allow, or the batch is over.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), StateError> {
        let mut inner = self.inner();
        let (key_bytes, value_bytes) = (inner.limits.key_bytes, inner.limits.value_bytes);
        if key.len() as u64 > key_bytes {
            return Err(StateError::KeyBytes(key_bytes));
        }
        if value.len() as u64 > value_bytes {
            return Err(StateError::ValueBytes(value_bytes));
        }
        inner.change(key, Some(value))
    }

    /// Takes a key and its value out. One that is not there stays so.
    ///
    /// # Errors
    /// If the batch has changed as many keys as it may, or is over.
    pub fn delete(&self, key: &str) -> Result<(), StateError> {
        let mut inner = self.inner();
        if inner.get(key)?.is_none() {
            return Ok(());
        }
        inner.change(key, None)
    }

    /// The keys that begin with `prefix` and come behind `after`, in the order of their bytes; `limit` and [`MAX_PAGE`] of
    /// them at most.
    ///
    /// # Errors
    /// [`StateError::NoBatch`] once the batch is over.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StateError> {
        let inner = self.inner();
        let committed = inner.committed.as_ref().ok_or(StateError::NoBatch)?;
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = (from, Bound::Unbounded);
        let mut sources = [
            Keys::new(inner.draft.range::<str, _>(range).map(|(key, value)| (&**key, value.is_some()))),
            Keys::new(inner.kept.range::<str, _>(range).map(|(key, value)| (&**key, value.is_some()))),
            Keys::new(committed.entries.range::<str, _>(range).map(|(key, _)| (&**key, true))),
        ];
        let limit = limit.min(MAX_PAGE);
        let mut page = Page::default();
        while let Some((key, is_there)) = next_key(&mut sources) {
            if !key.starts_with(prefix) {
                break;
            }
            if !is_there {
                continue;
            }
            if page.keys.len() == limit {
                page.more = true;
                break;
            }
            page.keys.push(key.to_owned());
        }
        Ok(page)
    }

    /// A call has come to a good end: what it has changed is kept until the batch is committed.
    pub fn keep(&self) {
        let inner = &mut *self.inner();
        inner.kept.append(&mut inner.draft);
        (inner.kept_size, inner.fresh) = (inner.size, 0);
    }

    /// A call has failed: what was changed since [`keep`](Self::keep) is as it was before.
    pub fn undo(&self) {
        let inner = &mut *self.inner();
        inner.draft.clear();
        (inner.size, inner.fresh) = (inner.kept_size, 0);
    }

    /// The batch is over. Returns what was changed in all, and nothing can be read or changed any more.
    pub fn close(&self) -> Changes {
        self.keep();
        let mut inner = self.inner();
        inner.committed = None;
        std::mem::take(&mut inner.kept)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").finish_non_exhaustive()
    }
}

impl Inner {
    fn get(&self, key: &str) -> Result<Option<&StateValue>, StateError> {
        let committed = self.committed.as_ref().ok_or(StateError::NoBatch)?;
        Ok(match self.draft.get(key).or_else(|| self.kept.get(key)) {
            Some(changed) => changed.as_ref(),
            None => committed.get(key),
        })
    }

    fn change(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), StateError> {
        let old = self.get(key)?.map(|old| old.len() as u64);
        let key_bytes = key.len() as u64;
        let mut size = self.size;
        if let Some(old) = old {
            size.keys -= 1;
            size.bytes -= key_bytes + old;
        }
        if let Some(value) = value {
            size.keys += 1;
            size.bytes += key_bytes + value.len() as u64;
        }
        // What was more than the limits before they were lowered may still be made less.
        if size.keys > self.limits.keys && size.keys > self.size.keys {
            return Err(StateError::Keys(self.limits.keys));
        }
        if size.bytes > self.limits.bytes && size.bytes > self.size.bytes {
            return Err(StateError::Bytes(self.limits.bytes));
        }
        if !self.draft.contains_key(key) && !self.kept.contains_key(key) {
            if self.kept.len() as u64 + self.fresh >= self.limits.changes {
                return Err(StateError::Changes(self.limits.changes));
            }
            self.fresh += 1;
        }
        self.draft.insert(key.to_owned(), value.map(Arc::from));
        self.size = size;
        Ok(())
    }
}

/// Keys of one source, and whether they have a value there.
struct Keys<'a> {
    next: Option<(&'a str, bool)>,
    rest: Box<dyn Iterator<Item = (&'a str, bool)> + 'a>,
}

impl<'a> Keys<'a> {
    fn new(mut keys: impl Iterator<Item = (&'a str, bool)> + 'a) -> Self {
        Self { next: keys.next(), rest: Box::new(keys) }
    }
}

/// The lowest key of all sources, and whether it has a value in the first of them that knows it.
fn next_key<'a>(sources: &mut [Keys<'a>]) -> Option<(&'a str, bool)> {
    let lowest = sources.iter().filter_map(|source| source.next).map(|(key, _)| key).min()?;
    let mut found = None;
    for source in sources {
        if let Some(next) = source.next.filter(|(key, _)| *key == lowest) {
            found = found.or(Some(next));
            source.next = source.rest.next();
        }
    }
    found
}

/// State that lasts as long as the process: for tests, and for trying a plug-in out. It has one batch at a time.
#[derive(Debug, Default)]
pub struct MemoryState(Arc<Memory>);

#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<String, Kept>>);

#[derive(Debug, Default)]
struct Kept {
    committed: Arc<Contents>,
    open: Option<Bucket>,
}

impl Memory {
    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryState {
    /// With one bucket that holds this.
    pub fn with(bucket: &str, contents: Contents) -> Self {
        let kept = Kept { committed: Arc::new(contents), open: None };
        Self(Arc::new(Memory(Mutex::new([(bucket.to_owned(), kept)].into()))))
    }

    /// Keeps or undoes what was changed during a call, as whoever calls a processor does after such an answer.
    pub fn settle(&self, answer: &Result<Outcome, Failure>) {
        match answer {
            Ok(_) | Err(Failure::Reject { .. }) => self.commit(),
            Err(_) => self.abandon(),
        }
    }

    /// The batch is committed.
    pub fn commit(&self) {
        for kept in self.0.buckets().values_mut() {
            if let Some(open) = kept.open.take() {
                Arc::make_mut(&mut kept.committed).apply(open.close());
            }
        }
    }

    /// The batch is not dealt with, and will come again.
    pub fn abandon(&self) {
        self.0.buckets().values_mut().filter_map(|kept| kept.open.take()).for_each(|open| _ = open.close());
    }
}

impl StateKeeper for MemoryState {
    fn open(&self, bucket: &str, limits: &StateLimits) -> Result<Bucket, StateError> {
        let mut buckets = self.0.buckets();
        let kept = buckets.entry(bucket.to_owned()).or_default();
        let committed = &kept.committed;
        Ok(kept.open.get_or_insert_with(|| Bucket::new(committed.clone(), limits.clone())).clone())
    }

    fn view(&self) -> Weak<dyn StateView> {
        let memory: Arc<dyn StateView> = self.0.clone();
        Arc::downgrade(&memory)
    }
}

impl StateView for Memory {
    fn contents(&self, bucket: &str) -> Option<Contents> {
        Some(self.buckets().get(bucket).map(|kept| (*kept.committed).clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(limits: StateLimits) -> Bucket {
        let mut committed = Contents::default();
        committed.apply([("a".to_owned(), Some(b"12".as_slice().into()))].into());
        Bucket::new(Arc::new(committed), limits)
    }

    #[test]
    fn limits_are_kept_and_named() {
        let limits = StateLimits { key_bytes: 3, value_bytes: 4, keys: 3, bytes: 12, changes: 4 };
        let bucket = bucket(limits);
        let set = |key: &str, value: &str| bucket.set(key, value.as_bytes());
        assert_eq!(set("aaaa", ""), Err(StateError::KeyBytes(3)));
        assert_eq!(set("b", "12345"), Err(StateError::ValueBytes(4)));
        assert_eq!(set("b", "1234"), Ok(()));
        assert_eq!(set("c", "1234"), Err(StateError::Bytes(12)));
        assert_eq!(set("c", ""), Ok(()));
        assert_eq!(set("d", ""), Err(StateError::Keys(3)));
        assert_eq!(bucket.delete("c"), Ok(()));
        assert_eq!(set("d", ""), Ok(()));
        assert_eq!(set("a", "4"), Ok(()));
        bucket.delete("a").unwrap();
        assert_eq!(set("e", ""), Err(StateError::Changes(4)));
        assert_eq!(bucket.delete("none"), Ok(()), "no change");
    }

    #[test]
    fn a_call_that_fails_leaves_what_calls_before_it_did() {
        let bucket = bucket(StateLimits { bytes: 8, ..StateLimits::default() });
        bucket.set("b", b"1").unwrap();
        bucket.keep();
        bucket.set("b", b"234").unwrap();
        bucket.delete("a").unwrap();
        assert_eq!(bucket.list("", None, 9).unwrap().keys, ["b"]);
        bucket.undo();
        assert_eq!(bucket.get("b").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(bucket.list("", None, 9).unwrap().keys, ["a", "b"]);
        assert_eq!(bucket.set("c", b"123"), Err(StateError::Bytes(8)), "the size is as before, too");
        let changes = bucket.close();
        assert_eq!(changes, [("b".to_owned(), Some(b"1".as_slice().into()))].into());
        assert_eq!(bucket.get("a"), Err(StateError::NoBatch));
        assert_eq!(bucket.set("a", b""), Err(StateError::NoBatch));
        assert!(bucket.close().is_empty());
    }

    #[test]
    fn limits_that_were_lowered_let_things_be_taken_out() {
        let bucket = bucket(StateLimits { bytes: 1, keys: 0, ..StateLimits::default() });
        assert_eq!(bucket.set("a", b"123"), Err(StateError::Bytes(1)));
        assert_eq!(bucket.set("a", b"1"), Ok(()));
        assert_eq!(bucket.delete("a"), Ok(()));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(String, Vec<u8>),
        Delete(String),
        Keep,
        Undo,
        Commit,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || "[a-c]{1,2}";
        prop_oneof![
            (key(), proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(k, v)| Step::Set(k, v)),
            (key(), proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(k, v)| Step::Set(k, v)),
            key().prop_map(Step::Delete),
            Just(Step::Keep),
            Just(Step::Undo),
            Just(Step::Commit),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map_with_savepoints(steps in proptest::collection::vec(step(), 0..60), page in 1usize..4) {
            let mut committed = Contents::default();
            let mut bucket = Bucket::new(Arc::default(), StateLimits::default());
            let (mut model, mut kept) = (BTreeMap::<String, Vec<u8>>::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Set(key, value) => {
                        bucket.set(&key, &value).unwrap();
                        model.insert(key, value);
                    }
                    Step::Delete(key) => {
                        bucket.delete(&key).unwrap();
                        model.remove(&key);
                    }
                    Step::Keep => {
                        bucket.keep();
                        kept = model.clone();
                    }
                    Step::Undo => {
                        bucket.undo();
                        model = kept.clone();
                    }
                    Step::Commit => {
                        committed.apply(bucket.close());
                        kept = model.clone();
                        bucket = Bucket::new(Arc::new(committed.clone()), StateLimits::default());
                    }
                }
                for prefix in ["", "a", "bc"] {
                    let (mut listed, mut after) = (Vec::new(), None);
                    loop {
                        let found = bucket.list(prefix, after.as_deref(), page).unwrap();
                        prop_assert!(found.keys.len() == page || !found.more);
                        listed.extend(found.keys);
                        after = listed.last().cloned();
                        if !found.more { break }
                    }
                    let expected: Vec<_> = model.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                    prop_assert_eq!(listed, expected);
                }
                for (key, value) in &model {
                    let found = bucket.get(key).unwrap();
                    prop_assert_eq!(found.as_deref(), Some(&value[..]));
                }
                let size = bucket.inner().size;
                let bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
                prop_assert_eq!((size.keys, size.bytes), (model.len() as u64, bytes as u64));
            }
        }
    }
}
