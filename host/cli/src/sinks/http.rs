//! Batches as JSON arrays over HTTP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tailweir_core::{BatchId, Failure, Printable};
use tailweir_pipeline::{Outgoing, Sink, SinkFuture};

use crate::config::{Period, Text};
use crate::exit::one_line;
use crate::secrets::cross_out;

/// A server may ask for a pause, but not put a consumer to sleep for good.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How much of an error's body is shown.
const EXCERPT: usize = 500;
/// How much of it is looked through for secrets.
const LOOKED_AT: usize = 16 << 10;

/// The table `http = { … }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpOptions {
    /// Where to POST.
    pub(crate) url: Text,
    /// Sent with each request.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Text>,
    /// For one request, from its start to the end of the answer.
    #[serde(default = "a_minute")]
    pub(crate) timeout: Period,
}

impl HttpOptions {
    /// The files that texts are read from.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        std::iter::once(&mut self.url).chain(self.headers.values_mut()).filter_map(|text| match text {
            Text::File(path) => Some(path),
            Text::Plain(_) | Text::Env(_) => None,
        })
    }
}

fn a_minute() -> Period {
    Period(Duration::from_secs(60))
}

/// POSTs each batch as one JSON array with the batch's id as `Idempotency-Key`.
pub(crate) struct HttpSink {
    client: Client,
    url: Url,
    /// The URL for messages.
    shown: String,
    headers: HeaderMap,
}

impl HttpSink {
    /// Reads what the options refer to and checks it; connects to nothing.
    pub(crate) fn new(options: &HttpOptions) -> Result<Self> {
        let url = options.url.read().context("url")?;
        let url: Url = url.parse().with_context(|| format!("url: {:?} is not a URL", options.url))?;
        let shown = shown(&url, &options.url);
        anyhow::ensure!(
            matches!(url.scheme(), "http" | "https"),
            "url: `{}` is neither http nor https",
            url.scheme()
        );
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &options.headers {
            let header: HeaderName =
                name.parse().with_context(|| format!("headers: `{name}` is not a header's name"))?;
            let value = value.read().with_context(|| format!("headers: {name}"))?;
            // The value may be a secret: the error does not show it.
            let mut value: HeaderValue = value
                .parse()
                .with_context(|| format!("headers: the value of {name} cannot be sent in a header"))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        let client = client(options.timeout.into()).context("cannot make an HTTP client")?;
        Ok(Self { client, url, shown, headers })
    }

    async fn post(&self, id: &BatchId, body: Vec<u8>) -> Result<(), Failure> {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone());
        let key = HeaderValue::from_bytes(id.as_str().as_bytes());
        let request = match key {
            Ok(key) => request.header("Idempotency-Key", key),
            Err(e) => {
                return Err(Failure::Stop {
                    reason: format!("batch id `{id}` cannot be sent in a header: {e}"),
                });
            }
        };
        match request.body(body).send().await {
            Ok(response) => judge(response, &self.shown).await,
            Err(e) => Err(super::retry(format!("POST {}: {}", self.shown, one_line(&e.without_url())))),
        }
    }
}

/// A URL without what may be secret in it: user, password and query, and all but the server if it was kept out of the
/// pipeline file.
fn shown(url: &Url, origin: &Text) -> String {
    let server = url.origin().ascii_serialization();
    match origin {
        Text::Plain(_) => server + url.path(),
        Text::Env(_) | Text::File(_) => server + "/…",
    }
}

fn client(timeout: Duration) -> reqwest::Result<Client> {
    let builder = || {
        let agent = concat!("tailweir/", env!("CARGO_PKG_VERSION"));
        Client::builder().user_agent(agent).timeout(timeout).redirect(reqwest::redirect::Policy::none())
    };
    // A bare machine has no certificates of its own; then the authorities count that Mozilla trusts.
    builder().build().or_else(|_| {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        builder().tls_backend_preconfigured(tls).build()
    })
}

/// What an answer means for the batch.
async fn judge(mut response: Response, shown: &str) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(pause);
    let mut body = Vec::new();
    while body.len() < LOOKED_AT
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(LOOKED_AT - body.len())]);
    }
    let body = String::from_utf8_lossy(&body);
    // Before it is cut: half a secret would not be recognised.
    let body = cross_out(&body);
    let body = &body[..body.floor_char_boundary(EXCERPT)];
    let reason = format!("POST {shown}: {status}: {}", Printable(body.trim()));
    let passing = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        || status.is_server_error();
    Err(if passing { Failure::Retry { after, reason } } else { Failure::Stop { reason } })
}

/// `Retry-After`: seconds, or a date.
fn pause(text: &str) -> Option<Duration> {
    let pause = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = chrono::DateTime::parse_from_rfc2822(text.trim()).ok()?;
            SystemTime::from(date).duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(pause.min(LONGEST_PAUSE))
}

impl Sink for HttpSink {
    fn send<'a>(&'a mut self, outgoing: Outgoing<'a>) -> SinkFuture<'a> {
        let records = outgoing.records();
        let mut body = Vec::with_capacity(records.iter().map(|r| r.len() + 1).sum::<usize>() + 1);
        body.push(b'[');
        body.extend_from_slice(&records.join(&b','));
        body.push(b']');
        Box::pin(self.post(outgoing.id(), body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("999999999"), Some(LONGEST_PAUSE));
        assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("Wed, 21 Oct 2099 07:28:00 GMT"), Some(LONGEST_PAUSE));
        assert_eq!(pause("soon"), None);
    }

    #[test]
    fn a_url_is_shown_without_secrets() {
        let url = "https://me:pw@hooks.example.com/in/T0P?key=1".parse().unwrap();
        assert_eq!(shown(&url, &Text::Plain(String::new())), "https://hooks.example.com/in/T0P");
        assert_eq!(shown(&url, &Text::Env("URL".into())), "https://hooks.example.com/…");
    }

    #[test]
    fn an_error_never_shows_a_header_value() {
        let text = "url = 'http://x/'\nheaders = { Authorization = \"se\\u0000cret\" }";
        let error = HttpSink::new(&toml::from_str(text).unwrap()).err().unwrap();
        assert_eq!(
            format!("{error:#}"),
            "headers: the value of Authorization cannot be sent in a header: failed to parse header value"
        );
    }
}
