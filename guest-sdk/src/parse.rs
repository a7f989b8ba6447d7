//! Records as values of a type, of which only the fields that the type names are fetched.
//!
//! A type that derives `Deserialize` says which fields it has before it looks at any input; the host can look just those up
//! while it has the record at hand. That gives the same value as the whole text, unless the type minds fields that it does
//! not have, or takes more than a struct's own (`flatten`): then the whole text is parsed.

use std::cell::Cell;
use std::iter::once;

use serde::de::value::{Error as Refusal, MapDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::Batch;
use crate::batch::Entries;

/// See [`Batch::parse`].
pub(crate) fn all<T: DeserializeOwned>(batch: &Batch) -> impl Iterator<Item = Result<T, serde_json::Error>> {
    let fields = fields_of::<T>();
    let (mut fetched, mut text) = (None, None);
    match fields {
        Some(fields) => {
            let pointer = |field: &&str| format!("/{}", field.replace('~', "~0").replace('/', "~1"));
            let pointers: Vec<_> = fields.iter().map(pointer).collect();
            fetched = Some(Fetched { fields, entries: batch.0.joined_values(&pointers), entry: 0, at: 0 });
        }
        None => text = Some(batch.text()),
    }
    (0..batch.len()).map(move |index| match (&mut fetched, &text) {
        (Some(fetched), _) => fetched.next(|index| batch.json(index), index),
        (None, Some(text)) => serde_json::from_str(text.get(index)),
        (None, None) => serde_json::from_str(&batch.json(index)),
    })
}

/// The fields of a struct that takes no notice of others; `None` for any other type.
fn fields_of<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    let fields = Cell::new(None);
    let _ = T::deserialize(Ask { fields: &fields });
    let fields = fields.get()?;
    // One that is in no record, and that a type which minds would refuse.
    let strange = MapDeserializer::<_, Refusal>::new(once(("\u{0}", ())));
    let refused = T::deserialize(strange).err().is_some_and(|e| e.to_string().starts_with("unknown field"));
    (!refused).then_some(fields)
}

/// Notes which fields a struct has, and refuses to be one.
struct Ask<'a> {
    fields: &'a Cell<Option<&'static [&'static str]>>,
}

impl<'de> Deserializer<'de> for Ask<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refusal> {
        Err(Refusal::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Refusal> {
        self.fields.set(Some(fields));
        Err(Refusal::custom("only asked"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The fields of all records.
struct Fetched {
    fields: &'static [&'static str],
    entries: Entries,
    /// The first entry of the next record, and where its text begins.
    entry: usize,
    at: usize,
}

impl Fetched {
    /// The next record as a value. `json` gives its text, for what is no object.
    fn next<T: DeserializeOwned>(
        &mut self,
        json: impl FnOnce(usize) -> String,
        index: usize,
    ) -> Result<T, serde_json::Error> {
        let lengths = &self.entries.lengths[self.entry..][..self.fields.len()];
        let start = self.at;
        self.entry += lengths.len();
        self.at += lengths.iter().filter_map(|length| usize::try_from(*length).ok()).sum::<usize>();
        if lengths.iter().all(|length| *length < 0) {
            // It may be an array, which a struct can be made of too, or no object at all.
            return serde_json::from_str(&json(index));
        }
        let rest = &self.entries.text[start..self.at];
        T::deserialize(Fields { names: self.fields, lengths, rest, value: "" })
    }
}

/// The fields of one record, as an object.
struct Fields<'a> {
    names: &'static [&'static str],
    lengths: &'a [i32],
    rest: &'a str,
    /// Of the key that was given last.
    value: &'a str,
}

impl<'de> Deserializer<'de> for Fields<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, serde_json::Error> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        while let ([name, names @ ..], [length, lengths @ ..]) = (self.names, self.lengths) {
            (self.names, self.lengths) = (names, lengths);
            if let Ok(length) = usize::try_from(*length) {
                (self.value, self.rest) = self.rest.split_at(length);
                return seed.deserialize(serde::de::value::BorrowedStrDeserializer::new(name)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        let mut value = serde_json::Deserializer::from_str(self.value);
        let parsed = seed.deserialize(&mut value)?;
        value.end()?;
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    const RECORDS: [&str; 9] = [
        r#"{"id":1,"to/from~":["a",{"b":"\u00e9"}],"other":null}"#,
        r#"{"other":1,"name":"x","id":2,"note":null}"#,
        r#"{"id":"3"}"#,
        r#"{"id":4,"second":true}"#,
        r#"{"note":"n"}"#,
        "{}",
        "[5,null,null]",
        "7",
        "null",
    ];

    /// The same values as parsing the texts, or errors for the same records.
    fn check<T: DeserializeOwned + PartialEq + std::fmt::Debug>(fetches_fields: bool) {
        assert_eq!(fields_of::<T>().is_some(), fetches_fields);
        let batch = Batch::from_json(RECORDS);
        let parsed: Vec<Option<T>> = batch.parse().map(Result::ok).collect();
        let whole: Vec<Option<T>> = RECORDS.iter().map(|text| serde_json::from_str(text).ok()).collect();
        assert_eq!(parsed, whole);
    }

    #[derive(Deserialize, PartialEq, Debug)]
    struct Plain {
        id: u32,
        #[serde(default, rename = "to/from~")]
        to: Value,
        note: Option<String>,
    }

    #[derive(Deserialize, PartialEq, Debug)]
    struct Alias {
        #[serde(alias = "name", alias = "note", default)]
        called: Option<String>,
        #[serde(skip, default)]
        skipped: u8,
    }

    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        id: u32,
        other: Option<Value>,
    }

    #[derive(Deserialize, PartialEq, Debug)]
    struct Rest {
        id: u32,
        #[serde(flatten)]
        rest: BTreeMap<String, Value>,
    }

    #[test]
    fn values_are_those_of_the_whole_text() {
        check::<Plain>(true);
        check::<Alias>(true);
        check::<Strict>(false);
        check::<Rest>(false);
        check::<Value>(false);
        check::<(u32, Value, Value)>(false);
        check::<Option<Plain>>(false);
    }

    #[test]
    fn of_a_field_that_is_there_twice_the_last_one_counts() {
        let batch = Batch::from_json([r#"{"id":1,"id":2}"#]);
        assert_eq!(batch.parse::<Plain>().next().unwrap().unwrap().id, 2);
    }

    #[test]
    fn errors_name_the_field_that_is_missing() {
        let batch = Batch::from_json([r#"{"note":"n"}"#]);
        assert_eq!(batch.parse::<Plain>().next().unwrap().unwrap_err().to_string(), "missing field `id`");
    }
}
