//! Batches, their records and their columns.

use std::borrow::Cow;
use std::convert::identity;
use std::fmt;
use std::rc::Rc;

use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::parse;

/// Consecutive log records, which the host keeps: a plug-in asks for what it needs of them.
///
/// From cheap to expensive: one [`column`](Self::column), the whole [`text`](Self::text), single
/// [`records`](Self::records). A batch that the host passes is never empty.
///
/// ```
/// use tailweir_guest::Batch;
///
/// fn bounces(batch: &Batch) -> usize {
///     batch.strings("/type").iter().filter(|kind| *kind == Some("Bounce")).count()
/// }
/// let batch = Batch::from_json([r#"{"type":"Bounce"}"#, r#"{"type":"Delivery"}"#]);
/// assert_eq!((bounces(&batch), batch.len()), (1, 2));
/// ```
#[repr(transparent)]
pub struct Batch(pub(crate) Backend);

impl Batch {
    /// What identifies the batch: the same records, delivered again, come with the same id, and two batches that differ
    /// never share one. A ready-made idempotency key.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json([r#"{"id":1}"#]);
    /// assert_eq!(batch.id(), batch.id());
    /// ```
    pub fn id(&self) -> String {
        self.0.id()
    }

    /// How many records there are.
    ///
    /// ```
    /// assert_eq!(tailweir_guest::Batch::from_json([r#"{"id":1}"#, "[]"]).len(), 2);
    /// ```
    #[expect(clippy::len_without_is_empty, reason = "the host never passes an empty batch")]
    pub fn len(&self) -> usize {
        self.0.len() as usize
    }

    /// The JSON text of the record at `index`, as it stands in its segment.
    ///
    /// ```
    /// assert_eq!(tailweir_guest::Batch::from_json([r#"{ "id": 1 }"#]).json(0), r#"{ "id": 1 }"#);
    /// ```
    ///
    /// # Panics
    /// If there is no such record: then the host ends the instance.
    pub fn json(&self, index: usize) -> String {
        self.0.json(narrow(index))
    }

    /// Where the record at `index` is.
    ///
    /// ```
    /// assert_eq!(tailweir_guest::Batch::from_json(["1", "2"]).position(1).line, 2);
    /// ```
    ///
    /// # Panics
    /// If there is no such record: then the host ends the instance.
    pub fn position(&self, index: usize) -> Position {
        self.0.position(narrow(index))
    }

    /// The JSON texts of all records, fetched at once: cheaper than one by one.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json([r#"{"id":1}"#, r#"{"id":2}"#]);
    /// assert_eq!(batch.text().iter().collect::<Vec<_>>(), [r#"{"id":1}"#, r#"{"id":2}"#]);
    /// ```
    pub fn text(&self) -> Joined {
        self.0.text()
    }

    /// One field of every record, by JSON pointer (RFC 6901): one entry per record, in order. It is `None` where the record
    /// does not have the field, where it is `null`, and where it is of another type. `T` is one of [`String`],
    /// [`i64`] and the other integers, [`f64`], [`bool`] and, for a value of any type as JSON text, [`Raw`].
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json([r#"{"response":{"code":250}}"#, r#"{"response":null}"#]);
    /// assert_eq!(batch.column::<u16>("/response/code"), [Some(250), None]);
    /// assert_eq!(batch.column::<String>("/response/code"), [None, None]);
    /// ```
    ///
    /// # Panics
    /// If `pointer` is no JSON pointer: then the host ends the instance.
    pub fn column<T: Column>(&self, pointer: &str) -> Vec<Option<T>> {
        T::fetch(&self.0, pointer)
    }

    /// A field that is a string in every record, without a [`String`] for each: what [`column`](Self::column) gives, much
    /// faster.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json([r#"{"type":"Bounce"}"#, r#"{"type":7}"#, "{}"]);
    /// assert_eq!(batch.strings("/type").iter().collect::<Vec<_>>(), [Some("Bounce"), None, None]);
    /// ```
    ///
    /// # Panics
    /// If `pointer` is no JSON pointer: then the host ends the instance.
    pub fn strings(&self, pointer: &str) -> Strings {
        Strings(self.0.strings(pointer))
    }

    /// All records as values of your own type, in order. Only the fields that `T` names are fetched, so it costs a fraction
    /// of parsing the texts; the values are the same. Where a record has a field twice, the last one counts.
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Delivery {
    ///     id: u32,
    /// }
    /// let batch = tailweir_guest::Batch::from_json([r#"{"id":7,"size":100}"#, r#"{"id":"x"}"#]);
    /// let ids: Vec<_> = batch.parse::<Delivery>().map(|record| record.map(|r| r.id).ok()).collect();
    /// assert_eq!(ids, [Some(7), None]);
    /// ```
    pub fn parse<T: DeserializeOwned>(&self) -> impl Iterator<Item = Result<T, serde_json::Error>> {
        parse::all(self)
    }

    /// The record at `index`. Its text is fetched when it is asked for.
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Delivery {
    ///     id: u32,
    /// }
    /// let batch = tailweir_guest::Batch::from_json([r#"{"id":7}"#]);
    /// assert_eq!(batch.record(0).parse::<Delivery>().unwrap().id, 7);
    /// ```
    ///
    /// # Panics
    /// If there is no such record.
    pub fn record(&self, index: usize) -> Record<'_> {
        let len = self.len();
        assert!(index < len, "record {index} of a batch of {len}");
        Record { batch: self, index, text: None }
    }

    /// All records, in order. Their texts are fetched at once.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json(["1", "2"]);
    /// let sum: u32 = batch.records().map(|record| record.parse::<u32>().unwrap()).sum();
    /// assert_eq!(sum, 3);
    /// ```
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        let text = Rc::new(self.text());
        (0..self.len()).map(move |index| Record { batch: self, index, text: Some(text.clone()) })
    }

    /// A batch of these JSON texts, for unit tests: it needs no host, and there is none on the target that tests run on.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json([r#"{"type":"Delivery"}"#]);
    /// assert_eq!(batch.column::<String>("/type"), [Some("Delivery".to_owned())]);
    /// ```
    ///
    /// # Panics
    /// If one of them is no JSON text.
    #[cfg(not(target_family = "wasm"))]
    pub fn from_json<T: Into<String>>(records: impl IntoIterator<Item = T>) -> Self {
        Self(Backend::new(records.into_iter().map(Into::into).collect()))
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("id", &self.id()).field("len", &self.len()).finish()
    }
}

/// The host counts with 32 bits, and has no record at an index beyond them.
fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// One record of a batch.
///
/// ```
/// let batch = tailweir_guest::Batch::from_json([r#"{"id":1}"#, r#"{"id":2}"#]);
/// let second = batch.record(1);
/// assert_eq!((second.index(), &*second.json()), (1, r#"{"id":2}"#));
/// ```
#[derive(Debug, Clone)]
pub struct Record<'a> {
    batch: &'a Batch,
    index: usize,
    /// The texts of the batch, if they were fetched.
    text: Option<Rc<Joined>>,
}

impl Record<'_> {
    /// Its index in the batch, counted from 0.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json(["1", "2"]);
    /// assert!(batch.records().map(|record| record.index()).eq([0, 1]));
    /// ```
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its JSON text, as it stands in its segment.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json(["[1, 2]"]);
    /// assert_eq!(batch.record(0).json(), "[1, 2]");
    /// ```
    pub fn json(&self) -> Cow<'_, str> {
        match &self.text {
            Some(text) => Cow::Borrowed(text.get(self.index)),
            None => Cow::Owned(self.batch.json(self.index)),
        }
    }

    /// Where it is.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json(["1", "2"]);
    /// let lines: Vec<_> = batch.records().map(|record| record.position().line).collect();
    /// assert_eq!(lines, [1, 2]);
    /// ```
    pub fn position(&self) -> Position {
        self.batch.position(self.index)
    }

    /// It as a value of your own type.
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Delivery {
    ///     id: u32,
    /// }
    /// let batch = tailweir_guest::Batch::from_json([r#"{"id":7}"#, r#"{"id":"seven"}"#]);
    /// assert_eq!(batch.record(0).parse::<Delivery>().unwrap().id, 7);
    /// assert!(batch.record(1).parse::<Delivery>().is_err());
    /// ```
    ///
    /// # Errors
    /// If it does not have the shape of `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.json())
    }
}

/// Where a record is.
///
/// ```
/// let batch = tailweir_guest::Batch::from_json(["1", "2"]);
/// let position = batch.position(1);
/// assert_eq!(format!("{}:{}", position.segment, position.line), "segment:2");
/// assert_eq!(position.offset, 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The bare file name of its segment.
    pub segment: String,
    /// The number of its line, counted from 1.
    pub line: u64,
    /// Bytes before it in the segment's decompressed text.
    pub offset: u64,
}

/// The JSON texts of a batch, one directly after the other.
///
/// ```
/// let text = tailweir_guest::Batch::from_json(["1", "[2]"]).text();
/// assert_eq!(text.iter().map(str::len).sum::<usize>(), 4);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub(crate) text: String,
    /// Where each text ends; the ends do not decrease.
    pub(crate) ends: Vec<u32>,
}

impl Joined {
    /// The texts, in order.
    ///
    /// ```
    /// let text = tailweir_guest::Batch::from_json(["1", "[2]"]).text();
    /// assert!(text.iter().eq(["1", "[2]"]));
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map(|index| self.get(index))
    }

    pub(crate) fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start as usize..self.ends[index] as usize).unwrap_or_default()
    }
}

/// One string of every record, if it has it.
///
/// ```
/// let batch = tailweir_guest::Batch::from_json([r#"{"type":"Bounce"}"#, "{}"]);
/// assert_eq!(batch.strings("/type").iter().flatten().count(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings(pub(crate) Entries);

/// Texts, one directly after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(crate) text: String,
    /// How long each text is; below zero where there is none.
    pub(crate) lengths: Vec<i32>,
}

impl Strings {
    /// One entry per record, in order.
    ///
    /// ```
    /// let batch = tailweir_guest::Batch::from_json([r#"{"type":"Bounce"}"#, "{}"]);
    /// assert!(batch.strings("/type").iter().eq([Some("Bounce"), None]));
    /// ```
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        let mut rest = self.0.text.as_str();
        self.0.lengths.iter().map(move |&length| {
            let (string, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = behind;
            Some(string)
        })
    }
}

/// A value's JSON text, of whatever type: strings have their quotes and escapes, arrays and objects are whole.
///
/// ```
/// use tailweir_guest::{Batch, Raw};
/// let batch = Batch::from_json([r#"{"to":["a@example.com"]}"#, r#"{"to":"b@example.com"}"#]);
/// let texts = batch.column::<Raw>("/to").into_iter().map(|raw| raw.unwrap().0).collect::<Vec<_>>();
/// assert_eq!(texts, [r#"["a@example.com"]"#, r#""b@example.com""#]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(pub String);

/// A type that a column can have: [`String`], an integer, [`f64`], [`bool`] or [`Raw`]. An integer that does not fit in the
/// type is `None` in its column, and so is one beyond 64 bits with a sign.
///
/// ```
/// use tailweir_guest::{Batch, Column};
/// fn present<T: Column>(batch: &Batch, pointer: &str) -> usize {
///     batch.column::<T>(pointer).into_iter().flatten().count()
/// }
/// let batch = Batch::from_json([r#"{"code":250}"#, r#"{"code":"x"}"#, r#"{"code":-1}"#]);
/// assert_eq!((present::<i64>(&batch, "/code"), present::<u16>(&batch, "/code")), (2, 1));
/// ```
#[diagnostic::on_unimplemented(
    message = "a column cannot hold `{Self}`",
    label = "not a type that a column can have",
    note = "a column holds `String`, an integer such as `i64`, `f64`, `bool`, or `Raw`, the JSON text of any value",
    note = "for values of your own type, `batch.parse::<T>()` fetches all the fields that it names"
)]
pub trait Column: Sized + sealed::Sealed {
    #[doc(hidden)]
    fn fetch(batch: &Backend, pointer: &str) -> Vec<Option<Self>>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! columns {
    ($($type:ty => $method:ident $convert:expr),*) => {$(
        impl sealed::Sealed for $type {}

        impl Column for $type {
            fn fetch(batch: &Backend, pointer: &str) -> Vec<Option<Self>> {
                $convert(batch.$method(pointer))
            }
        }
    )*};
}

columns!(
    String => owned_strings identity,
    f64 => numbers identity,
    bool => booleans identity,
    Raw => values raw,
    i64 => integers identity,
    i8 => integers narrowed,
    i16 => integers narrowed,
    i32 => integers narrowed,
    isize => integers narrowed,
    u8 => integers narrowed,
    u16 => integers narrowed,
    u32 => integers narrowed,
    u64 => integers narrowed,
    usize => integers narrowed
);

fn raw(values: Vec<Option<String>>) -> Vec<Option<Raw>> {
    values.into_iter().map(|value| value.map(Raw)).collect()
}

fn narrowed<T: TryFrom<i64>>(integers: Vec<Option<i64>>) -> Vec<Option<T>> {
    integers.into_iter().map(|integer| T::try_from(integer?).ok()).collect()
}
