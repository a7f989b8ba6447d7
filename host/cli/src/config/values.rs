//! Values of the pipeline file that are more than TOML's own types. They are checked while the file is read, so that a
//! mistake is reported with its line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::{Deserialize, Deserializer, Error};
use tailweir_pipeline::{CheckpointSync, OnMalformed, Then, WhenFull};
use tailweir_segments::{Ordering, Pattern};

use super::error::nearest;

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
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("the text given"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "the content of {}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let only = |table: &toml::Table| match table.iter().next() {
            Some((key, toml::Value::String(text))) if table.len() == 1 => Some((key.clone(), text.clone())),
            _ => None,
        };
        match &value {
            toml::Value::String(text) => return Ok(Self::Plain(text.clone())),
            toml::Value::Table(table) => match only(table) {
                Some((key, name)) if key == "env" => return Ok(Self::Env(name)),
                Some((key, path)) if key == "file" => return Ok(Self::File(path.into())),
                _ => {}
            },
            _ => {}
        }
        Err(Error::custom("expected a text, { env = \"NAME\" } or { file = \"PATH\" }"))
    }
}

impl Text {
    /// The text. What comes from a file lacks the line break at its end.
    pub(crate) fn read(&self) -> Result<String> {
        match self {
            Self::Plain(text) => Ok(text.clone()),
            Self::Env(name) => std::env::var(name).with_context(|| format!("environment variable {name}")),
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        }
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
        assert_eq!(
            format!("{missing:#}"),
            "environment variable TAILWEIR_TEST_NOT_SET: environment variable not found"
        );
        assert!(read("t = { en = 'x' }").is_err());
        assert!(!format!("{:?}", read("t = 'secret'").unwrap()).contains("secret"));
    }
}
