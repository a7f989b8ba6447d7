//! Values of the pipeline file that are more than TOML's own types. They are checked while the file is read, so that a
//! mistake is reported with its line.

use std::collections::BTreeMap;
use std::env::VarError;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use tailweir_pipeline::{CheckpointSync, OnMalformed, Then, WhenFull};
use tailweir_segments::{Ordering, Pattern};

use super::error::nearest;
use crate::reload::When;

/// A duration as text: `"500ms"`, `"1m 30s"`. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(&text) {
            Ok(duration) if duration.is_zero() => {
                Err(Error::custom(format!("`{text}` is no time at all; write more than zero")))
            }
            Ok(duration) => Ok(Self(duration)),
            Err(e) => {
                Err(Error::custom(format!("`{text}` is not a duration ({e}); write one such as '500ms'")))
            }
        }
    }
}

/// A text that may be kept out of the pipeline file: itself, `{ env = "NAME" }` or `{ file = "PATH" }`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Text {
    Plain(String),
    Env(String),
    File(PathBuf),
}

/// Does not show the text: it may be a secret.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("the text given"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "the content of {}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Some(Self::Plain(text)),
            toml::Value::Table(table) => Self::elsewhere(&table),
            _ => None,
        };
        text.ok_or_else(|| Error::custom("expected a text, { env = \"NAME\" } or { file = \"PATH\" }"))
    }
}

impl Text {
    /// `{ env = … }` or `{ file = … }`.
    fn elsewhere(table: &toml::Table) -> Option<Self> {
        match table.iter().next() {
            Some((key, toml::Value::String(place))) if table.len() == 1 => match key.as_str() {
                "env" => Some(Self::Env(place.clone())),
                "file" => Some(Self::File(place.into())),
                _ => None,
            },
            _ => None,
        }
    }

    /// The text. What comes from a file lacks the line break at its end. What comes from a file or the environment is taken
    /// for a secret and not logged.
    pub(crate) fn read(&self) -> Result<String> {
        let text = match self {
            Self::Plain(text) => return Ok(text.clone()),
            // The system's error would show a variable that is no text.
            Self::Env(name) => match std::env::var(name) {
                Ok(text) => text,
                Err(VarError::NotPresent) => bail!("environment variable {name} is not set"),
                Err(VarError::NotUnicode(_)) => bail!("environment variable {name} is not UTF-8"),
            },
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        crate::secrets::keep(&text);
        Ok(text)
    }
}

/// The option `config` of a plug-in, which gets it as JSON: dates and times are strings, as in RFC 3339.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Json(pub(crate) serde_json::Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = toml::Value::deserialize(deserializer)?;
        json(config, "config").map(Self).map_err(Error::custom)
    }
}

/// A value of TOML as one of JSON; `place` is what it is called in the error that it is none there.
fn json(value: toml::Value, place: &str) -> Result<serde_json::Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(is_so) => is_so.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Float(number) if number.is_finite() => number.into(),
        toml::Value::Float(number) => {
            let number = if number.is_nan() { "nan".to_owned() } else { number.to_string() };
            return Err(format!(
                "`{place}` is `{number}`, which a plug-in cannot be given: JSON has no such number"
            ));
        }
        toml::Value::Array(values) => {
            let values = values.into_iter().enumerate();
            values
                .map(|(index, value)| json(value, &format!("{place}[{index}]")))
                .collect::<Result<_, _>>()?
        }
        toml::Value::Table(table) => {
            let field = |(key, value): (String, toml::Value)| {
                let value = json(value, &format!("{place}.{key}"))?;
                Ok::<_, String>((key, value))
            };
            serde_json::Value::Object(table.into_iter().map(field).collect::<Result<_, _>>()?)
        }
    })
}

/// The table `secrets` of a plug-in: it has the shape of its `config`, and each text in it is kept elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Secrets(BTreeMap<String, Secret>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Secret {
    Text(Text),
    Table(Secrets),
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&toml::Table::deserialize(deserializer)?).map_err(Error::custom)
    }
}

impl Secrets {
    fn new(table: &toml::Table) -> Result<Self, String> {
        let secret = |(key, value): (&String, &toml::Value)| {
            let secret = match value {
                toml::Value::Table(table) => match Text::elsewhere(table) {
                    Some(text) => Secret::Text(text),
                    None => Secret::Table(Self::new(table)?),
                },
                // It may be a secret that stands in the wrong place: it is not shown.
                _ => {
                    return Err(format!(
                        "`{key}` in `secrets` must be {{ env = \"NAME\" }} or {{ file = \"PATH\" }}; what is no secret \
                         belongs in `config`"
                    ));
                }
            };
            Ok((key.clone(), secret))
        };
        table.iter().map(secret).collect::<Result<_, _>>().map(Self)
    }

    /// The files that texts are read from.
    pub(crate) fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let secrets = self.0.values_mut();
        let paths = secrets.flat_map(|secret| match secret {
            Secret::Text(Text::File(path)) => vec![path],
            Secret::Text(Text::Plain(_) | Text::Env(_)) => Vec::new(),
            Secret::Table(table) => table.paths_mut(),
        });
        paths.collect()
    }

    /// Reads them and adds them to `config`.
    pub(crate) fn add_to(&self, config: &mut serde_json::Value) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        if config.is_null() {
            *config = serde_json::Value::Object(serde_json::Map::new());
        }
        let config = config.as_object_mut().context("`config` must be a table to take secrets")?;
        for (key, secret) in &self.0 {
            match secret {
                Secret::Text(_) if config.contains_key(key) => bail!("`config` has `{key}` already"),
                Secret::Text(text) => {
                    config.insert(key.clone(), text.read().with_context(|| key.clone())?.into());
                }
                Secret::Table(table) => table
                    .add_to(config.entry(key).or_insert(serde_json::Value::Null))
                    .with_context(|| key.clone())?,
            }
        }
        Ok(())
    }
}

/// One of a few names.
fn choice<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    choices: &[(&str, T)],
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(Some(*value));
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let hint = nearest(&text, &names).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Err(Error::custom(format!("`{text}` is none of `{}`{hint}", names.join("`, `"))))
}

pub(super) fn plugin_reload<'de, D: Deserializer<'de>>(deserializer: D) -> Result<When, D::Error> {
    let when = choice(deserializer, &[("on_signal", When::Asked), ("on_change", When::Changed)])?;
    Ok(when.unwrap_or_default())
}

pub(super) fn ordering<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ordering>, D::Error> {
    choice(deserializer, &[("name", Ordering::Name), ("strict", Ordering::Strict)])
}

pub(super) fn on_malformed<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OnMalformed>, D::Error> {
    let choices =
        [("quarantine", OnMalformed::Quarantine), ("skip", OnMalformed::Skip), ("fail", OnMalformed::Fail)];
    choice(deserializer, &choices)
}

pub(super) fn then<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Then>, D::Error> {
    choice(deserializer, &[("quarantine", Then::Quarantine), ("stop", Then::Stop)])
}

pub(super) fn when_full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WhenFull>, D::Error> {
    choice(deserializer, &[("stop", WhenFull::Stop), ("drop_oldest", WhenFull::DropOldest)])
}

pub(super) fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pattern>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Pattern::new(&text).map(Some).map_err(Error::custom)
}

pub(super) fn checkpoint_sync<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<CheckpointSync>, D::Error> {
    let text = String::deserialize(deserializer)?;
    CheckpointSync::parse(&text).map(Some).map_err(Error::custom)
}

pub(super) fn multiplier<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    number(deserializer, 1.0..=1000.0)
}

pub(super) fn jitter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    number(deserializer, 0.0..=1.0)
}

fn number<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Option<f64>, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if range.contains(&number) {
        return Ok(Some(number));
    }
    Err(Error::custom(format!("{number} is not from {} to {}", range.start(), range.end())))
}

pub(super) fn max_attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    at_least_one(deserializer, "max_attempts")
}

pub(super) fn max_poison<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    at_least_one(deserializer, "max_poison")
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D, name: &str) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(Error::custom(format!("{name} must be at least 1"))),
        number => Ok(Some(number)),
    }
}

/// How many instances of a plug-in there may be: each has its memory, and a thread if it is a component.
const MAX_PARALLELISM: usize = 64;

/// A number of instances.
pub(super) fn parallelism<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<NonZeroUsize>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let instances = usize::try_from(number).ok().and_then(NonZeroUsize::new);
    match instances.filter(|instances| instances.get() <= MAX_PARALLELISM) {
        Some(instances) => Ok(Some(instances)),
        None => Err(Error::custom(format!(
            "`parallelism` must be a whole number from 1 to {MAX_PARALLELISM}, not {number}"
        ))),
    }
}

/// One table, or a list of them that is not empty.
pub(super) fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    /// Not an untagged enum, which would not say what is wrong with a table.
    struct OneOrMore<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table, or a list of tables")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            Ok(vec![T::deserialize(MapAccessDeserializer::new(map))?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(Table(one)) = list.next_element()? {
                all.push(one);
            }
            match all.is_empty() {
                true => Err(Error::custom("an empty list; leave it out to have everything")),
                false => Ok(all),
            }
        }
    }

    deserializer.deserialize_any(OneOrMore(PhantomData))
}

/// One of a list. What is wrong with it as a whole is told with its own line, not with the list's.
struct Table<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InTable<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InTable<T> {
            type Value = Table<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Table)
            }
        }

        deserializer.deserialize_any(InTable(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_can_be_kept_elsewhere() {
        #[derive(serde::Deserialize)]
        struct Table {
            t: Text,
        }
        let read = |text: &str| toml::from_str::<Table>(text).map(|table| table.t);
        assert_eq!(read("t = 'a'").unwrap().read().unwrap(), "a");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\n").unwrap();
        let text = read(&format!("t = {{ file = '{}' }}", file.path().display())).unwrap();
        assert_eq!(text.read().unwrap(), "from a file");
        let missing = read("t = { env = 'TAILWEIR_TEST_NOT_SET' }").unwrap().read().unwrap_err();
        assert_eq!(format!("{missing:#}"), "environment variable TAILWEIR_TEST_NOT_SET is not set");
        assert!(read("t = { en = 'x' }").is_err());
        assert!(!format!("{:?}", read("t = 'secret'").unwrap()).contains("secret"));
    }

    #[test]
    fn secrets_are_added_where_the_configuration_has_room_for_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Bearer x\n").unwrap();
        let text = format!("h = {{ a = {{ file = '{}' }} }}", file.path().display());
        let secrets: Secrets = toml::from_str(&text).unwrap();
        let added = |mut config: serde_json::Value| match secrets.add_to(&mut config) {
            Ok(()) => config.to_string(),
            Err(e) => format!("{e:#}"),
        };
        assert_eq!(added(serde_json::json!(null)), r#"{"h":{"a":"Bearer x"}}"#);
        assert_eq!(added(serde_json::json!({"h": {"b": "c"}})), r#"{"h":{"b":"c","a":"Bearer x"}}"#);
        assert_eq!(added(serde_json::json!({"h": {"a": "c"}})), "h: `config` has `a` already");
        assert_eq!(added(serde_json::json!({"h": 1})), "h: `config` must be a table to take secrets");
        let error = toml::from_str::<Secrets>("a = { b = 'hidden' }").unwrap_err();
        assert!(
            error.message().starts_with("`b` in `secrets` must be {") && !error.message().contains("hidden")
        );
    }
}
