//! HTTP requests, for processors. The operator grants the origins that a plug-in may reach; a request to any other is
//! [`Error::Denied`]. Sending waits for the whole response, and the host's deadline does not count the wait.

use std::fmt;
use std::time::Duration;

/// How many bytes a response's body may have: 16 MiB.
pub const MAX_RESPONSE: usize = 16 << 20;

/// A request to be sent.
///
/// ```
/// use tailweir_guest::http::{Request, Response, answer_with};
///
/// // Tests stand in for the server; in the host this line is not there.
/// answer_with(|request| {
///     assert_eq!(request.header("Content-Type"), Some("application/json"));
///     Ok(Response { status: 204, headers: vec![], body: vec![] })
/// });
///
/// let response = Request::post("https://hooks.example.com/log")
///     .with_header("Content-Type", "application/json")
///     .with_body("[]")
///     .send()
///     .unwrap();
/// assert_eq!(response.status, 204);
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl Request {
    /// A request with this method, such as `PUT`, to a whole URL, such as `https://hooks.example.com/log?source=mta`.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// let request = Request::new("PUT", "https://hooks.example.com/log?source=mta");
    /// assert_eq!(request.method(), "PUT");
    /// ```
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        let timeout = Duration::from_secs(30);
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout }
    }

    /// A GET request.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// assert_eq!(Request::get("https://hooks.example.com/").method(), "GET");
    /// ```
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A POST request.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// let request = Request::post("https://hooks.example.com/log").with_body("[]");
    /// assert_eq!((request.method(), request.body()), ("POST", &b"[]"[..]));
    /// ```
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// Adds a header. `Content-Length` and `Host` are set already.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// let request = Request::post("https://hooks.example.com/log")
    ///     .with_header("Content-Type", "application/json")
    ///     .with_header("Idempotency-Key", "6b1f");
    /// assert_eq!(request.header("content-type"), Some("application/json"));
    /// ```
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// let request = Request::post("https://hooks.example.com/log").with_body(r#"{"records":2}"#);
    /// assert_eq!(request.body(), br#"{"records":2}"#);
    /// ```
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets how long connecting, the first byte of the response, and each pause in it may take: 30 seconds unless set.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tailweir_guest::http::{Request, Response, answer_with};
    ///
    /// answer_with(|_| Ok(Response { status: 204, headers: vec![], body: vec![] }));
    /// let request = Request::post("https://hooks.example.com/log").with_timeout(Duration::from_secs(5));
    /// assert_eq!(request.send().unwrap().status, 204);
    /// ```
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The value of the first header of that name, whatever its case.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// let request = Request::get("https://hooks.example.com/").with_header("Accept", "text/plain");
    /// assert_eq!(request.header("ACCEPT"), Some("text/plain"));
    /// assert_eq!(request.header("Cookie"), None);
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Its method.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// assert_eq!(Request::new("PATCH", "https://hooks.example.com/").method(), "PATCH");
    /// ```
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Its URL.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// let request = Request::get("https://hooks.example.com/log");
    /// assert_eq!(request.url(), "https://hooks.example.com/log");
    /// ```
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its body.
    ///
    /// ```
    /// use tailweir_guest::http::Request;
    ///
    /// assert_eq!(Request::get("https://hooks.example.com/").body(), b"");
    /// ```
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Sends it and waits for the response, whatever its status.
    ///
    /// # Errors
    /// If the request cannot be sent, or its response not be received whole.
    ///
    /// ```
    /// use tailweir_guest::http::{Error, Request, Response, answer_with};
    ///
    /// answer_with(|request| match request.url() {
    ///     "https://hooks.example.com/log" => Ok(Response { status: 503, headers: vec![], body: vec![] }),
    ///     other => Err(Error::Denied(other.to_owned())),
    /// });
    /// // That the server does not want it is a response like any other.
    /// assert_eq!(Request::post("https://hooks.example.com/log").send().unwrap().status, 503);
    /// let denied = Request::post("https://elsewhere.example").send().unwrap_err();
    /// assert!(denied.to_string().contains("`grants.http`"));
    /// ```
    pub fn send(&self) -> Result<Response, Error> {
        let url = Url::parse(&self.url)?;
        transport::send(self, &url)
    }
}

/// A response.
///
/// ```
/// use tailweir_guest::http::Response;
///
/// let response = Response { status: 404, headers: vec![], body: b"no such hook".to_vec() };
/// assert_eq!((response.status, response.excerpt(7).as_str()), (404, "no such"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of the first header of that name, whatever its case.
    ///
    /// ```
    /// let headers = vec![("retry-after".to_owned(), "3".to_owned())];
    /// let response = tailweir_guest::http::Response { status: 429, headers, body: vec![] };
    /// assert_eq!(response.header("Retry-After"), Some("3"));
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The first characters of its body, at most `limit`, for a message: in one line, with a space for what cannot be seen.
    ///
    /// ```
    /// let body = b"no such\n\x1b[31mhook\n".to_vec();
    /// let response = tailweir_guest::http::Response { status: 404, headers: vec![], body };
    /// assert_eq!(response.excerpt(200), "no such  [31mhook");
    /// ```
    pub fn excerpt(&self, limit: usize) -> String {
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = String::from_utf8_lossy(&self.body).chars().take(limit).map(visible).collect();
        text.trim().to_owned()
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Why there is no response. What to do about it is up to the processor; as a rule:
///
/// ```
/// use tailweir_guest::Failure;
/// use tailweir_guest::http::Error;
///
/// fn failure(error: Error) -> Failure {
///     match error {
///         Error::Transport(_) => Failure::retry(error.to_string()),
///         _ => Failure::stop(error.to_string()),
///     }
/// }
/// assert!(matches!(failure(Error::Denied("https://a.example".into())), Failure::Stop(_)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The URL is not one that a request can go to.
    Url(String),
    /// The host does not accept the request as it is.
    Request(String),
    /// The operator has not granted this origin. Trying again does not help.
    Denied(String),
    /// The server was not reached, or the response not received whole. Trying again may help.
    Transport(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "`{url}` is no URL of the form `https://host[:port][/path]`"),
            Self::Request(what) => write!(f, "the request cannot be sent: {what}"),
            Self::Denied(origin) => {
                write!(f, "requests to {origin} are not granted: add it to `grants.http`")
            }
            Self::Transport(what) => write!(f, "the request failed: {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// The name of an error of `wasi:http`, such as `ErrorCode::ConnectionRefused`, for people.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "without a host nothing fails"))]
pub(crate) fn in_words(code: &str) -> String {
    let name = code.strip_prefix("ErrorCode::").unwrap_or(code);
    if !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return name.to_owned();
    }
    let mut words = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// The parts of a URL that a request is made of.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "without a host only its form is checked"))]
pub(crate) struct Url<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: String,
}

impl<'a> Url<'a> {
    pub(crate) fn parse(url: &'a str) -> Result<Self, Error> {
        let bad = || Error::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let plain = !url.contains(|c: char| c.is_control() || c.is_whitespace());
        if !matches!(scheme, "http" | "https") || authority.is_empty() || authority.contains('@') || !plain {
            return Err(bad());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { scheme, authority, path })
    }
}

#[cfg(target_family = "wasm")]
use crate::backend as transport;

#[cfg(not(target_family = "wasm"))]
pub use transport::answer_with;

#[cfg(not(target_family = "wasm"))]
mod transport {
    use std::cell::RefCell;

    use super::{Error, Request, Response, Url};

    type Server = Box<dyn FnMut(&Request) -> Result<Response, Error>>;

    thread_local! {
        static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
    }

    /// Stands in for the server in unit tests: requests of the current thread get what `server` answers, until it is
    /// replaced. Without one they fail. It is not there on WebAssembly targets.
    ///
    /// ```
    /// use tailweir_guest::http::{Request, Response, answer_with};
    ///
    /// answer_with(|_| Ok(Response { status: 429, headers: vec![("Retry-After".into(), "3".into())], body: vec![] }));
    /// let response = Request::get("https://hooks.example.com/").send().unwrap();
    /// assert_eq!(response.header("retry-after"), Some("3"));
    /// ```
    pub fn answer_with(server: impl FnMut(&Request) -> Result<Response, Error> + 'static) {
        SERVER.set(Some(Box::new(server)));
    }

    pub(super) fn send(request: &Request, _url: &Url<'_>) -> Result<Response, Error> {
        SERVER.with_borrow_mut(|server| match server {
            Some(server) => server(request),
            None => Err(Error::Transport(
                "there is no host; unit tests call `http::answer_with` first".to_owned(),
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Url, in_words};

    #[test]
    fn errors_are_put_into_words() {
        assert_eq!(in_words("ErrorCode::ConnectionReadTimeout"), "connection read timeout");
        let payload = "DnsError(DnsErrorPayload { rcode: None, info_code: Some(0) })";
        assert_eq!(in_words(&format!("ErrorCode::{payload}")), payload);
    }

    #[test]
    fn urls_are_taken_apart() {
        let check =
            |url: &str| Url::parse(url).ok().map(|u| format!("{} {} {}", u.scheme, u.authority, u.path));
        assert_eq!(check("https://a.example").as_deref(), Some("https a.example /"));
        assert_eq!(check("http://a:81/b?c=d#e").as_deref(), Some("http a:81 /b?c=d"));
        assert_eq!(check("http://a?c").as_deref(), Some("http a /?c"));
        for bad in ["a.example", "ftp://a", "http://", "http://user@a/", "http://a/ b", "http:/a"] {
            assert_eq!(check(bad), None, "{bad}");
        }
    }
}
