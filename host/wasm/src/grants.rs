//! What a plug-in may reach.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;
use url::Url;

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
#[error("`{0}` is no origin of the form `https://host[:port]`, of which each is named by itself")]
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
        // A `*` is a character as any other to URLs, and whoever writes one means more than it does.
        let anonymous = url.username().is_empty() && url.password().is_none() && !text.contains('*');
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

    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host, with the port unless it is the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let standard = if self.scheme == "https" { 443 } else { 80 };
        if self.port == standard { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
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
        for bad in [
            "hooks.example.com",
            "https://a/b",
            "https://a?b",
            "https://u@a",
            "ftp://a",
            "https://",
            "*",
            "https://*.a",
            "",
        ] {
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
    fn what_looks_like_a_granted_origin_is_another() {
        let granted = Origin::parse("https://hooks.example.com").unwrap();
        let same = |uri: &str| uri.parse().is_ok_and(|uri| Origin::of(&uri) == Some(granted.clone()));
        for uri in [
            "https://hooks.example.com/a",
            "HTTPS://HOOKS.example.COM:443",
            "https://hooks.example.com?x=@evil",
        ] {
            assert!(same(uri), "{uri}");
        }
        for uri in [
            "http://hooks.example.com/",
            "https://hooks.example.com:80/",
            "https://hooks.example.com:4430/",
            "https://hooks.example.com./",
            "https://hooks.example.com.evil.example/",
            "https://evil-hooks.example.com/",
            "https://hooks.example.com@evil.example/",
            "https://hooks.example.com:443@evil.example/",
            "https://evil@hooks.example.com/",
            "https://evil.example/#@hooks.example.com",
            "https://evil.example?https://hooks.example.com",
            "https://hooks.example.com\\@evil.example/",
            "https://[::ffff:93.184.216.34]/",
            "ftp://hooks.example.com/",
        ] {
            assert!(!same(uri), "{uri}");
        }
        // One address, however it is written.
        let loopback = Origin::parse("http://[::1]:81").unwrap();
        assert_eq!(Origin::of(&"http://[0:0::1]:81/".parse().unwrap()), Some(loopback));
    }

    #[test]
    fn a_mistake_is_named() {
        let error = serde_json::from_str::<Grants>(r#"{"http":["https://a/b"]}"#).unwrap_err().to_string();
        assert!(error.contains("`https://a/b` is no origin of the form `https://host[:port]`"), "{error}");
    }
}
