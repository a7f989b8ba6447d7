//! What stands between a guest's HTTP requests and the network.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Request, Response};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, default_send_request};

use crate::grants::{Grants, Origin};

/// Lets requests to granted origins through.
pub(crate) struct Gate {
    pub(crate) grants: Arc<Grants>,
    /// The most that any timeout of a request can be.
    pub(crate) timeout: Duration,
}

type Receiving = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Receiving), Error>> + Send>;

impl Gate {
    fn admits(&self, request: &Request<WasiBody>) -> bool {
        Origin::of(request.uri()).is_some_and(|origin| self.grants.http.contains(&origin))
    }
}

impl WasiHttpHooks for Gate {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _response_error: Receiving,
    ) -> Sending {
        if !self.admits(&request) {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        let asked = options.unwrap_or_default();
        let cap = |timeout: Option<Duration>| Some(timeout.map_or(self.timeout, |t| t.min(self.timeout)));
        let options = RequestOptions {
            connect_timeout: cap(asked.connect_timeout),
            first_byte_timeout: cap(asked.first_byte_timeout),
            between_bytes_timeout: cap(asked.between_bytes_timeout),
        };
        Box::new(async move {
            let (response, receiving) = default_send_request(request, Some(options)).await?;
            Ok((response.map(BodyExt::boxed_unsync), Box::new(receiving) as Receiving))
        })
    }
}
