//! What stands between a guest's HTTP requests and the network.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use tokio::time::timeout;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, default_send_request};

use crate::call::Clock;
use crate::grants::{Grants, Origin};
use crate::tally::Tally;

/// Lets requests to granted origins through.
pub(crate) struct Gate {
    pub(crate) grants: Arc<Grants>,
    /// How long a call may wait. A request is given up when no more of that is left, so that the guest can still say what it makes
    /// of that.
    pub(crate) wait: Duration,
    /// Knows how long the call has waited.
    pub(crate) clock: Arc<Clock>,
    /// Is told what is not let through: the guest alone may keep it to itself.
    pub(crate) tally: Arc<Tally>,
}

type Receiving = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Receiving), Error>> + Send>;

impl Gate {
    /// The request if it goes to a granted origin, addressed in the words of the grant: who resolves and connects must not
    /// read the guest's words in another way than they were read here.
    fn admit(&self, mut request: Request<WasiBody>) -> Option<Request<WasiBody>> {
        let wanted = Origin::of(request.uri());
        let Some(origin) = wanted.as_ref().filter(|origin| self.grants.http.contains(origin)) else {
            self.tally.denied(wanted.map(|origin| origin.to_string()));
            return None;
        };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let uri = Uri::builder().scheme(origin.scheme()).authority(origin.authority()).path_and_query(path);
        *request.uri_mut() = uri.build().ok()?;
        request.headers_mut().insert(HOST, HeaderValue::from_str(&origin.authority()).ok()?);
        Some(request)
    }
}

impl WasiHttpHooks for Gate {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _response_error: Receiving,
    ) -> Sending {
        let Some(request) = self.admit(request) else {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        };
        let asked = options.unwrap_or_default();
        let left = self.wait.saturating_sub(self.clock.waited());
        let cap = |timeout: Option<Duration>| Some(timeout.map_or(left, |t| t.min(left)));
        let options = RequestOptions {
            connect_timeout: cap(asked.connect_timeout),
            first_byte_timeout: cap(asked.first_byte_timeout),
            between_bytes_timeout: cap(asked.between_bytes_timeout),
        };
        Box::new(async move {
            let sent = timeout(left, default_send_request(request, Some(options))).await;
            let (response, receiving) = sent.unwrap_or(Err(Error::ConnectionReadTimeout))?;
            Ok((response.map(BodyExt::boxed_unsync), Box::new(receiving) as Receiving))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tallies;
    use crate::ticks::Ticks;
    use http_body_util::Empty;
    use wasmtime::Engine;

    #[test]
    fn a_request_is_addressed_in_the_words_of_the_grant() {
        let grants = Grants { http: vec![Origin::parse("http://127.0.0.1:8080").unwrap()] };
        let clock = Clock::new(Duration::from_secs(1), Arc::new(Ticks::start(Engine::default()).unwrap()));
        let tally = Tallies::new(Arc::new(())).of("p", None);
        let gate = Gate { grants: Arc::new(grants), wait: Duration::from_secs(1), clock, tally };
        let sent = |uri: &str| {
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::get(uri).header(HOST, "evil.example").body(body).unwrap();
            let request = gate.admit(request)?;
            Some((request.uri().to_string(), request.headers()[HOST].to_str().unwrap().to_owned()))
        };
        let expected = Some(("http://127.0.0.1:8080/a?b".to_owned(), "127.0.0.1:8080".to_owned()));
        assert_eq!(sent("http://127.0.0.1:8080/a?b"), expected);
        // The system's resolver takes these for other addresses than the grant's parser, or for none.
        assert_eq!(sent("http://0x7f.1:8080/a?b"), expected);
        assert_eq!(sent("http://127.1:8080/a?b"), expected);
        assert_eq!(sent("http://127.0.0.1:8081/a?b"), None);
        assert_eq!(sent("http://127.0.0.1/a?b"), None);
    }
}
