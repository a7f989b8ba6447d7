//! What a processor remembers from one batch to the next: keys and values, in a bucket of its own for each consumer and each
//! name of a plug-in. **What is changed becomes durable in one step with the batch's checkpoint**, so that a counter kept
//! here is exact after any crash. It is undone if the batch comes again: after [`Failure::Retry`] and [`Failure::Stop`], a
//! panic, or if the sink does not take what was emitted. After [`Failure::Reject`] it stays: leave out what you reject.
//!
//! ```standalone_crate
//! use tailweir_guest::{Batch, Failure, Outcome, state};
//!
//! fn count(batch: &Batch) -> Result<Outcome, Failure> {
//!     let before = state::get("records").and_then(|value| String::from_utf8(value).ok()?.parse().ok()).unwrap_or(0);
//!     let now = before + batch.len() as u64;
//!     state::set("records", now.to_string()).map_err(|e| Failure::stop(e.to_string()))?;
//!     Ok(Outcome::Done)
//! }
//!
//! tailweir_guest::processor!(count);
//!
//! // Unit tests have state of their own, one per thread.
//! count(&Batch::from_json(["1", "2"])).unwrap();
//! count(&Batch::from_json(["3"])).unwrap();
//! assert_eq!(state::get("records").as_deref(), Some(&b"3"[..]));
//! ```
//!
//! An instance may be replaced between two calls, and what it has in memory is not undone: read from here in each call what
//! must be exact. In the set-up of a plug-in state can be read and not changed.
//!
//! [`Failure::Retry`]: crate::Failure::Retry
//! [`Failure::Stop`]: crate::Failure::Stop
//! [`Failure::Reject`]: crate::Failure::Reject

use std::fmt;

use crate::backend::state as host;

/// Why nothing was changed. The numbers are the limits, which the operator can change.
///
/// ```
/// use tailweir_guest::state::{self, Error};
/// assert_eq!(state::set(&"k".repeat(513), "v"), Err(Error::KeyBytes(512)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The key has more bytes than this.
    KeyBytes(u64),
    /// The value has more bytes than this.
    ValueBytes(u64),
    /// There are as many keys as there may be.
    Keys(u64),
    /// All keys and values together would have more bytes than this.
    Bytes(u64),
    /// So many keys were changed for this batch.
    Changes(u64),
    /// State can be changed only while a batch is processed.
    NotNow,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyBytes(limit) => {
                write!(f, "a key of state has at most {limit} bytes (`state_key_bytes`)")
            }
            Self::ValueBytes(limit) => {
                write!(f, "a value of state has at most {limit} bytes (`state_value_bytes`)")
            }
            Self::Keys(limit) => write!(f, "the state has at most {limit} keys (`state_keys`)"),
            Self::Bytes(limit) => write!(f, "the state has at most {limit} bytes (`state_bytes`)"),
            Self::Changes(limit) => {
                write!(f, "a batch changes at most {limit} keys of state (`state_changes`)")
            }
            Self::NotNow => f.write_str("state can be changed only while a batch is processed"),
        }
    }
}

impl std::error::Error for Error {}

/// The value of a key, if it has one.
///
/// ```
/// assert_eq!(tailweir_guest::state::get("no such key"), None);
/// ```
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::get(key)
}

/// Gives a key a value, in place of any that it has.
///
/// ```
/// use tailweir_guest::state;
/// state::set("seen", "yes").unwrap();
/// assert_eq!(state::get("seen").as_deref(), Some(&b"yes"[..]));
/// ```
///
/// # Errors
/// If that is more than the limits allow. Nothing is changed then.
pub fn set(key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
    host::set(key, value.as_ref())
}

/// Takes a key and its value out. One that is not there stays so.
///
/// ```
/// use tailweir_guest::state;
/// state::set("seen", "yes").unwrap();
/// state::delete("seen").unwrap();
/// assert_eq!(state::get("seen"), None);
/// ```
///
/// # Errors
/// If the batch has changed as many keys as it may.
pub fn delete(key: &str) -> Result<(), Error> {
    host::delete(key)
}

/// The keys that begin with `prefix`, in the order of their bytes. They are fetched a thousand at a time, as they are asked
/// for; keys that are changed meanwhile may be missing or there.
///
/// ```
/// use tailweir_guest::state;
/// state::set("type/Bounce", "1").unwrap();
/// state::set("type/Delivery", "2").unwrap();
/// state::set("total", "3").unwrap();
/// assert_eq!(state::list("type/").collect::<Vec<_>>(), ["type/Bounce", "type/Delivery"]);
/// ```
pub fn list(prefix: &str) -> impl Iterator<Item = String> {
    Keys { prefix: prefix.to_owned(), last: None, page: Vec::new().into_iter(), more: true }
}

struct Keys {
    prefix: String,
    last: Option<String>,
    page: std::vec::IntoIter<String>,
    more: bool,
}

impl Iterator for Keys {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.page.len() == 0 && self.more {
            let (keys, more) = host::list(&self.prefix, self.last.as_deref(), 1000);
            self.last = keys.last().cloned();
            (self.page, self.more) = (keys.into_iter(), more);
        }
        self.page.next()
    }
}
