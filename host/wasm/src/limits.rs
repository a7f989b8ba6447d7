//! What a plug-in may use.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;
use url::Url;

/// The limits of each call into a plug-in.
///
/// As a table, in TOML, JSON or Lua, durations are strings such as `"10s"`; what is not named keeps its default, and an
/// unknown name is an error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How long a call may compute; 10 seconds by default. Time that it waits in the host, for an HTTP response, does not count.
    #[serde(deserialize_with = "deadline")]
    pub deadline: Duration,
    /// How long a call may wait in the host, and so the most that any timeout of a request can be; 2 minutes by default.
    #[serde(deserialize_with = "wait")]
    pub wait: Duration,
    /// How many bytes of memory an instance may have; 256 MiB by default.
    pub memory_bytes: u64,
    /// How many lines a call may log, further ones are counted; 100 by default.
    pub log_lines: u32,
    /// How many bytes of a log line are kept; 8 KiB by default.
    pub log_line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            wait: Duration::from_secs(120),
            memory_bytes: 256 << 20,
            log_lines: 100,
            log_line_bytes: 8 << 10,
        }
    }
}

fn deadline<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(DurationOf("deadline"))
}

fn wait<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(DurationOf("wait"))
}

/// Takes the duration of the limit of this name, which its errors tell: not every format's errors have a place.
struct DurationOf(&'static str);

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
}

/// The capabilities that the operator gives a processor. By default none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// The origins that it may send HTTP requests to.
    pub http: Vec<Origin>,
}

/// Scheme, host and port of a server: `https://hooks.example.com` or `http://127.0.0.1:8080`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`.
    scheme: String,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    port: u16,
}

/// Why a string is no origin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no origin of the form `https://host[:port]`")]
pub struct OriginError(String);

impl Origin {
    /// Takes an origin: scheme, host and perhaps a port, and nothing after them but one `/`.
    ///
    /// # Errors
    /// If `text` has another form, a path for example.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let error = || OriginError(text.to_owned());
        let url = Url::parse(text).map_err(|_| error())?;
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        match (url.scheme(), url.host_str(), url.port_or_known_default()) {
            (scheme @ ("http" | "https"), Some(host), Some(port)) if plain && anonymous => {
                Ok(Self { scheme: scheme.to_owned(), host: host.to_lowercase(), port })
            }
            _ => Err(error()),
        }
    }

    /// The origin that a request goes to, if it is one that could be granted.
    pub(crate) fn of(uri: &hyper::Uri) -> Option<Self> {
        let authority = uri.authority()?.as_str();
        Self::parse(&format!("{}://{authority}", uri.scheme_str()?)).ok()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standard = if self.scheme == "https" { 443 } else { 80 };
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port == standard { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let check = |text: &str| Origin::parse(text).map(|origin| origin.to_string()).ok();
        assert_eq!(check("https://Hooks.Example.com").as_deref(), Some("https://hooks.example.com"));
        assert_eq!(check("https://hooks.example.com:443/").as_deref(), Some("https://hooks.example.com"));
        assert_eq!(check("http://127.0.0.1:8080").as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(check("http://[::1]:81").as_deref(), Some("http://[::1]:81"));
        for bad in
            ["hooks.example.com", "https://a/b", "https://a?b", "https://u@a", "ftp://a", "https://", "*", ""]
        {
            assert_eq!(check(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_request_has_the_origin_that_it_connects_to() {
        let check = |uri: &str| Origin::of(&uri.parse().unwrap()).map(|origin| origin.to_string());
        assert_eq!(check("https://A.example:443/b?c").as_deref(), Some("https://a.example"));
        assert_eq!(check("http://a.example:443/").as_deref(), Some("http://a.example:443"));
        assert_eq!(check("http://granted.example@evil.example/"), None);
        assert_eq!(check("/b"), None);
    }

    #[test]
    fn tables() {
        let limits: Limits = serde_json::from_str(r#"{"deadline":"250ms","memory_bytes":1048576}"#).unwrap();
        assert_eq!(limits.deadline, Duration::from_millis(250));
        assert_eq!(limits.log_lines, Limits::default().log_lines);
        let error = |text: &str| serde_json::from_str::<Limits>(text).unwrap_err().to_string();
        assert!(error(r#"{"dedline":"1s"}"#).contains("unknown field `dedline`"));
        assert!(error(r#"{"deadline":"soon"}"#).contains("`soon` is no duration such as `10s`"));
        for limit in ["deadline", "wait"] {
            let number = error(&format!(r#"{{"{limit}":5}}"#));
            let expected =
                format!("invalid type: integer `5`, expected a duration such as \"10s\" for `{limit}`");
            assert!(number.starts_with(&expected), "{number}");
            let table = format!(r#"{{"{limit}":"0s"}}"#);
            assert!(error(&table).contains("`0s` is no time at all"), "{}", error(&table));
        }
        let error = serde_json::from_str::<Grants>(r#"{"http":["https://a/b"]}"#).unwrap_err().to_string();
        assert!(error.contains("`https://a/b` is no origin of the form `https://host[:port]`"), "{error}");
    }
}
