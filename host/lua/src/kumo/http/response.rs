//! The response to a request: what its head says at once, and its body when it is asked for.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use mlua::{Lua, LuaString, MetaMethod, UserData, UserDataMethods, UserDataRef};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};

use crate::error::{fail, with_causes};

/// The largest body that is taken into memory.
const MAX_BODY: usize = 64 << 20;

/// A response. Its body is read at the first call of `bytes` or `text`, and kept.
pub(super) struct Response {
    /// The request, for messages: method and URL.
    request: String,
    status: StatusCode,
    headers: HeaderMap,
    body: RefCell<Body>,
}

enum Body {
    Unread(reqwest::Response),
    /// Another call is reading it, or was ended while it did.
    Reading,
    Read(Bytes),
}

impl Response {
    pub(super) fn new(response: reqwest::Response, request: String) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { request, status, headers, body: RefCell::new(Body::Unread(response)) }
    }

    async fn bytes(&self) -> mlua::Result<Bytes> {
        let mut response = match self.body.replace(Body::Reading) {
            Body::Unread(response) => response,
            Body::Read(bytes) => {
                self.body.replace(Body::Read(bytes.clone()));
                return Ok(bytes);
            }
            Body::Reading => {
                return Err(fail(format!("{}: the body could not be read before", self.request)));
            }
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| {
            fail(format!("{}: failed to read the response: {}", self.request, with_causes(&e.without_url())))
        })? {
            if bytes.len() + chunk.len() > MAX_BODY {
                return Err(fail(format!("{}: the response has more than {MAX_BODY} bytes", self.request)));
            }
            bytes.extend_from_slice(&chunk);
        }
        let bytes = bytes.freeze();
        self.body.replace(Body::Read(bytes.clone()));
        Ok(bytes)
    }

    /// The body as text: a byte order mark tells its encoding, else the `charset` of its type, else it is UTF-8.
    async fn text(&self) -> mlua::Result<String> {
        let bytes = self.bytes().await?;
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let encoding =
            charset(content_type).and_then(|label| encoding_rs::Encoding::for_label(label.as_bytes()));
        Ok(encoding.unwrap_or(encoding_rs::UTF_8).decode(&bytes).0.into_owned())
    }
}

/// The `charset` parameter of a media type.
fn charset(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut charsets = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charsets.next().map(|(_, value)| value.trim().trim_matches('"'))
}

impl UserData for Response {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("status_code", |_, this, ()| Ok(this.status.as_u16()));
        methods.add_method("status_reason", |_, this, ()| Ok(this.status.canonical_reason()));
        methods.add_method("status_is_informational", |_, this, ()| Ok(this.status.is_informational()));
        methods.add_method("status_is_success", |_, this, ()| Ok(this.status.is_success()));
        methods.add_method("status_is_redirection", |_, this, ()| Ok(this.status.is_redirection()));
        methods.add_method("status_is_client_error", |_, this, ()| Ok(this.status.is_client_error()));
        methods.add_method("status_is_server_error", |_, this, ()| Ok(this.status.is_server_error()));
        methods.add_method("headers", |_, this, ()| Ok(Headers(this.headers.clone())));
        methods.add_method("content_length", |_, this, ()| {
            let length = this.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
            Ok(length.and_then(|length| length.parse::<u64>().ok()))
        });
        methods.add_async_method("bytes", |lua, this: UserDataRef<Self>, ()| async move {
            lua.create_string(this.bytes().await?)
        });
        methods.add_async_method("text", |_, this: UserDataRef<Self>, ()| async move { this.text().await });
    }
}

/// The headers of a response. Indexed by name in any case; `pairs` gives each header line.
struct Headers(HeaderMap);

impl UserData for Headers {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::Index, |lua, this, name: LuaString| {
            let value = this.0.get(name.to_string_lossy());
            value.map(|value| lua.create_string(value.as_bytes())).transpose()
        });
        methods.add_meta_method(MetaMethod::Pairs, |lua, this, ()| {
            let lines: Vec<_> = this.0.iter().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect();
            let mut lines = lines.into_iter();
            lua.create_function_mut(move |lua: &Lua, ()| match lines.next() {
                Some((name, value)) => lua.pack_multi((name, lua.create_string(value)?)),
                None => lua.pack_multi(()),
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::charset;

    #[test]
    fn the_charset_is_a_parameter_of_the_type() {
        assert_eq!(charset("text/html; Charset=\"ISO-8859-1\"; x=y"), Some("ISO-8859-1"));
        assert_eq!(charset("text/html; x=charset"), None);
        assert_eq!(charset("application/json"), None);
    }
}
