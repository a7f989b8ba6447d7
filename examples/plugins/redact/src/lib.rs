//! A processor that passes every record on to the sink with its recipients' addresses masked: `ada@example.com` becomes
//! `***@example.com`. All other bytes of a record stay as they are.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tailweir_guest::{Batch, Failure, Outcome};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// The top-level fields whose addresses are masked, each a string or an array of strings.
    fields: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { fields: vec!["recipient".to_owned()] }
    }
}

fn process(batch: &Batch, config: &Option<Config>) -> Result<Outcome, Failure> {
    let standard = Config::default();
    let config = config.as_ref().unwrap_or(&standard);
    Ok(Outcome::Emit(batch.text().iter().map(|record| redact(record, config)).collect()))
}

tailweir_guest::processor!(process, config_schema = include_str!("../config.schema.json"));

fn redact(record: &str, config: &Config) -> String {
    let Ok(Members(members)) = serde_json::from_str(record) else { return record.to_owned() };
    let secret = members.into_iter().filter(|(key, _)| config.fields.contains(key));
    let addresses = secret.flat_map(|(_, value)| match serde_json::from_str::<Vec<&RawValue>>(value.get()) {
        Ok(elements) => elements,
        Err(_) => vec![value],
    });

    let mut redacted = String::with_capacity(record.len());
    let mut copied = 0;
    for value in addresses {
        let Ok(address) = serde_json::from_str::<String>(value.get()) else { continue };
        let place = place_of(value, record);
        redacted.push_str(&record[copied..place.start]);
        redacted.push_str(&serde_json::Value::from(mask(&address)).to_string());
        copied = place.end;
    }
    redacted.push_str(&record[copied..]);
    redacted
}

/// The local part can name a person; the domain is what statistics need.
fn mask(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((_, domain)) => format!("***@{domain}"),
        None => "***".to_owned(),
    }
}

/// Where in `record` a value that was borrowed from it stands.
fn place_of(value: &RawValue, record: &str) -> Range<usize> {
    let start = value.get().as_ptr().addr() - record.as_ptr().addr();
    start..start + value.get().len()
}

/// The members of an object in the order of their text, with their values' text.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;

        impl<'de> Visitor<'de> for Walk {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Walk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(record: &str, expected: &str) {
        assert_eq!(redact(record, &Config::default()), expected);
    }

    #[test]
    fn only_recipients_change() {
        check(
            r#"{ "z":1.50,"recipient":"ada@example.com", "a":[ ],"sender":"bob@example.com","n":null }"#,
            r#"{ "z":1.50,"recipient":"***@example.com", "a":[ ],"sender":"bob@example.com","n":null }"#,
        );
        check(r#"{"recipient":["a@x.org" , "b@y.org"]}"#, r#"{"recipient":["***@x.org" , "***@y.org"]}"#);
        check(r#"{"recipient":"\"odd\\@\"@x.org"}"#, r#"{"recipient":"***@x.org"}"#);
        check(r#"{"recipient":"postmaster"}"#, r#"{"recipient":"***"}"#);
    }

    #[test]
    fn no_spelling_of_the_field_gets_through() {
        check(
            r#"{"recipient":"a@x.org","recipient":"b@x.org"}"#,
            r#"{"recipient":"***@x.org","recipient":"***@x.org"}"#,
        );
        check(r#"{"\u0072ecipient":"a@x.org"}"#, r#"{"\u0072ecipient":"***@x.org"}"#);
    }

    #[test]
    fn records_without_addresses_stay_as_they_are() {
        for record in [
            r#"{"recipient":null}"#,
            r#"{"recipient":7}"#,
            "[1, 2]",
            r#"{"x":{"recipient":"a@x.org"}}"#,
            "{}",
        ] {
            check(record, record);
        }
    }

    #[test]
    fn other_fields_can_be_named() {
        let batch = Batch::from_json([r#"{"sender":"a@x.org","recipient":"b@x.org"}"#]);
        let config = Some(Config { fields: vec!["sender".into()] });
        let expected = vec![r#"{"sender":"***@x.org","recipient":"b@x.org"}"#.to_owned()];
        assert_eq!(process(&batch, &config), Ok(Outcome::Emit(expected)));
    }
}
