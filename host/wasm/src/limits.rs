//! How much a plug-in may use.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use tailweir_core::{MetricLimits, StateLimits};

const MIB: u64 = 1 << 20;

macro_rules! limits {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr, $read:ident, $shown:expr, $about:literal;)*) => {
        /// The limits of each call into a plug-in, and of what its instances hold.
        ///
        /// As a table, in TOML, JSON or Lua, durations are strings such as `"10s"`; what is not named keeps its default, and an
        /// unknown name is an error.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $doc])* pub $name: $type,)* }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// All of them: the name, the value as one writes it in a table, and what it is about, in a few words.
            pub fn list(&self) -> Vec<(&'static str, String, &'static str)> {
                vec![$((stringify!($name), $shown(&self.$name), $about),)*]
            }
        }

        const NAMES: &[&str] = &[$(stringify!($name),)*];

        impl<'de> de::Visitor<'de> for Table {
            type Value = Limits;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of limits")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Limits, A::Error> {
                let mut limits = Limits { recycle_bytes: 0, ..Limits::default() };
                while let Some(name) = map.next_key::<String>()? {
                    match &*name {
                        $(stringify!($name) => limits.$name = map.next_value_seed($read(stringify!($name)))?,)*
                        _ => return Err(de::Error::unknown_field(&name, NAMES)),
                    }
                }
                if limits.recycle_bytes == 0 {
                    limits.recycle_bytes = (limits.memory_bytes / 4 * 3).max(1);
                }
                Ok(limits)
            }
        }
    };
}

limits! {
    /// How long a call may compute; 10 seconds by default. Time that it waits in the host, for an HTTP response, does not count.
    deadline: Duration = Duration::from_secs(10), duration, show_duration,
        "computing time of a call; waiting for an HTTP response does not count";
    /// How long a call may wait in the host, and so the most that any timeout of a request can be; 2 minutes by default.
    wait: Duration = Duration::from_secs(120), duration, show_duration, "time that a call waits in the host";
    /// How many bytes of memory an instance may have; 256 MiB by default.
    memory_bytes: u64 = 256 * MIB, positive, u64::to_string, "memory of an instance";
    /// From how many bytes of memory on an instance is replaced by a fresh one after its call: a WebAssembly memory never
    /// shrinks. Three quarters of `memory_bytes` by default, and never more.
    recycle_bytes: u64 = 192 * MIB, positive, u64::to_string,
        "memory from which on an instance is replaced after its call; at most 3/4 of memory_bytes count";
    /// How many entries the tables of an instance may have together; a million by default. They hold functions, not data.
    table_elements: u64 = 1_000_000, number, u64::to_string, "entries in the tables of an instance, which hold functions";
    /// How many handles to things in the host an instance may hold at once; 10,000 by default.
    handles: u64 = 10_000, positive, u64::to_string, "handles to things in the host that an instance holds at once";
    /// How many bytes a call may hand to the host at once: the records that it emits, for one. 128 MiB by default. Each text
    /// counts 24 bytes more than it is long.
    emitted_bytes: u64 = 128 * MIB, positive, u64::to_string,
        "bytes handed to the host at once: the records that a call emits, for one";
    /// How many lines a call may log, further ones are counted; 100 by default.
    log_lines: u64 = 100, number, u64::to_string, "lines that a call may log; further ones are counted";
    /// How many lines all instances that a consumer has of a plug-in may log in a second, further ones are counted; 100 by default.
    log_lines_per_second: u64 = 100, number, u64::to_string,
        "lines that the plug-in may log in a second; further ones are counted";
    /// How many bytes of a log line, or of a reason that the plug-in gives, are kept; 8 KiB by default.
    log_line_bytes: u64 = 8 << 10, positive, u64::to_string, "bytes kept of a log line or a reason";
    /// How many bytes a key of state may have; 512 by default.
    state_key_bytes: u64 = 512, positive, u64::to_string, "bytes of a key of state";
    /// How many bytes a value of state may have; 1 MiB by default.
    state_value_bytes: u64 = MIB, number, u64::to_string, "bytes of a value of state";
    /// How many keys the state may have; 100,000 by default. It is all kept in memory.
    state_keys: u64 = 100_000, number, u64::to_string, "keys of state";
    /// How many bytes all keys and values of the state may have; 16 MiB by default. It is all kept in memory.
    state_bytes: u64 = 16 * MIB, number, u64::to_string, "bytes of all keys and values of state";
    /// How many keys of state a batch may change; 10,000 by default.
    state_changes: u64 = 10_000, number, u64::to_string, "keys of state that a batch may change";
    /// How many metrics of its own the plug-in may have for each consumer; 100 by default.
    metrics: u64 = 100, number, u64::to_string, "metrics of its own, for each consumer";
    /// How many series, with different labels, a metric may have; 100 by default.
    metric_series: u64 = 100, number, u64::to_string, "series of a metric, with different labels";
    /// How many labels a series may have; 10 by default.
    metric_labels: u64 = 10, number, u64::to_string, "labels of a series";
    /// How many bytes the name of a metric, what it is about, and the name or value of a label may have; 200 by default.
    metric_text_bytes: u64 = 200, number, u64::to_string, "bytes of a metric's name, or of a name or value of a label";
    /// How many buckets a histogram may have, besides the one for all that is larger; 40 by default.
    metric_buckets: u64 = 40, number, u64::to_string, "buckets of a histogram";
}

impl Limits {
    /// From how many bytes on an instance is replaced.
    pub(crate) fn high_water(&self) -> u64 {
        self.recycle_bytes.min(self.memory_bytes / 4 * 3)
    }

    /// Those of state.
    pub(crate) fn state(&self) -> StateLimits {
        StateLimits {
            key_bytes: self.state_key_bytes,
            value_bytes: self.state_value_bytes,
            keys: self.state_keys,
            bytes: self.state_bytes,
            changes: self.state_changes,
        }
    }

    /// Those of metrics.
    pub(crate) fn metrics(&self) -> MetricLimits {
        MetricLimits {
            metrics: self.metrics,
            series: self.metric_series,
            labels: self.metric_labels,
            text_bytes: self.metric_text_bytes,
            buckets: self.metric_buckets,
        }
    }
}

fn show_duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

/// Takes a table. Not derived, so that a mistake in a value names its limit: not every format's errors have a place.
struct Table;

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table)
    }
}

fn duration(name: &'static str) -> DurationOf {
    DurationOf(name)
}

fn number(name: &'static str) -> NumberOf {
    NumberOf { name, least: 0 }
}

fn positive(name: &'static str) -> NumberOf {
    NumberOf { name, least: 1 }
}

/// Takes the duration of the limit of this name.
struct DurationOf(&'static str);

impl<'de> de::DeserializeSeed<'de> for DurationOf {
    type Value = Duration;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl DurationOf {
    fn without_unit<E: de::Error>(&self, number: impl fmt::Display) -> Result<Duration, E> {
        Err(E::custom(format!(
            "`{}`: `{number}` has no unit; write a duration such as `\"{number}s\"`",
            self.0
        )))
    }
}

impl de::Visitor<'_> for DurationOf {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a duration such as \"10s\" for `{}`", self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        let name = self.0;
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => {
                Err(E::custom(format!("`{name}`: `{text}` is no time at all; write more than zero")))
            }
            Ok(duration) => Ok(duration),
            Err(e) => Err(E::custom(format!("`{name}`: `{text}` is no duration such as `10s`: {e}"))),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        self.without_unit(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        self.without_unit(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Duration, E> {
        self.without_unit(number)
    }
}

/// Takes the number of the limit of this name.
struct NumberOf {
    name: &'static str,
    least: u64,
}

impl<'de> de::DeserializeSeed<'de> for NumberOf {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl de::Visitor<'_> for NumberOf {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number, {} or more, for `{}`", self.least, self.name)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        if number < self.least {
            return Err(E::invalid_value(de::Unexpected::Unsigned(number), &self));
        }
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }

    /// In Lua, `64e6` is one.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
        if number.fract() == 0.0 && (0.0..9e15).contains(&number) {
            return self.visit_u64(number as u64);
        }
        Err(E::invalid_value(de::Unexpected::Float(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let limits: Limits = serde_json::from_str(r#"{"deadline":"250ms","memory_bytes":1048576}"#).unwrap();
        assert_eq!(limits.deadline, Duration::from_millis(250));
        assert_eq!((limits.log_lines, limits.high_water()), (Limits::default().log_lines, 786_432));
        assert_eq!(limits.recycle_bytes, 786_432);
        assert_eq!(serde_json::from_str::<Limits>("{}").unwrap(), Limits::default());
        assert_eq!(serde_json::from_str::<Limits>(r#"{"handles":5e3}"#).unwrap().handles, 5000);
        let error = |text: &str| serde_json::from_str::<Limits>(text).unwrap_err().to_string();
        assert!(error(r#"{"dedline":"1s"}"#).contains("unknown field `dedline`"));
        assert!(error(r#"{"deadline":"soon"}"#).contains("`soon` is no duration such as `10s`"));
    }

    #[test]
    fn a_mistake_names_its_limit() {
        for (name, ..) in Limits::default().list() {
            for value in ["-1", "true", "1.5", "[]", "{}", "\"x\"", "null"] {
                let error = serde_json::from_str::<Limits>(&format!("{{\"{name}\":{value}}}")).unwrap_err();
                assert!(error.to_string().contains(&format!("`{name}`")), "{value}: {error}");
            }
        }
        let error = |text: &str| serde_json::from_str::<Limits>(text).unwrap_err().to_string();
        for limit in ["deadline", "wait"] {
            let number = error(&format!(r#"{{"{limit}":5}}"#));
            let expected = format!("`{limit}`: `5` has no unit; write a duration such as `\"5s\"`");
            assert!(number.starts_with(&expected), "{number}");
            let table = format!(r#"{{"{limit}":"0s"}}"#);
            assert!(error(&table).contains("`0s` is no time at all"), "{}", error(&table));
        }
        let none = error(r#"{"memory_bytes":0}"#);
        let expected = "invalid value: integer `0`, expected a whole number, 1 or more, for `memory_bytes`";
        assert!(none.starts_with(expected), "{none}");
    }

    #[test]
    fn state_and_metrics_have_the_limits_that_they_have_everywhere() {
        assert_eq!(Limits::default().state(), StateLimits::default());
        assert_eq!(Limits::default().metrics(), MetricLimits::default());
    }

    #[test]
    fn what_is_listed_can_be_written() {
        let listed = Limits::default().list();
        let toml = |(name, value, _): &(&str, String, &str)| match value.parse::<u64>() {
            Ok(number) => format!("\"{name}\":{number}"),
            Err(_) => format!("\"{name}\":\"{value}\""),
        };
        let table = format!("{{{}}}", listed.iter().map(toml).collect::<Vec<_>>().join(","));
        assert_eq!(serde_json::from_str::<Limits>(&table).unwrap(), Limits::default());
    }
}
