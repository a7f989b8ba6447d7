//! `kumo.http`: clients, requests and responses.

mod response;

use std::time::Duration;

use mlua::{AnyUserData, Lua, LuaString, MetaMethod, Table, UserData, UserDataMethods, Value};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};

use self::response::Response;
use crate::error::{fail, with_causes};
use crate::options::{self, DURATION, Options, describe, texts};

/// Makes the module's table.
pub(crate) fn module(lua: &Lua) -> mlua::Result<Table> {
    let http = lua.create_table()?;
    http.set("build_client", lua.create_function(|lua, options: Value| build_client(lua, options))?)?;
    http.set(
        "build_url",
        lua.create_function(|lua, (base, query): (String, Table)| build_url(lua, &base, &query))?,
    )?;
    Ok(http)
}

const CLIENT_OPTIONS: &[&str] =
    &["user_agent", "connection_verbose", "pool_idle_timeout", "timeout", "accept_invalid_certs"];

fn build_client(lua: &Lua, options: Value) -> mlua::Result<Client> {
    let options = match options {
        Value::Nil => Value::Table(lua.create_table()?),
        other => other,
    };
    let options = Options::new(lua, "kumo.http.build_client", options, CLIENT_OPTIONS)?;
    let settings = Settings {
        user_agent: options
            .string("user_agent")?
            .unwrap_or_else(|| format!("tailweir/{}", env!("CARGO_PKG_VERSION"))),
        verbose: options.boolean("connection_verbose")?.unwrap_or(false),
        pool_idle_timeout: options.interval("pool_idle_timeout")?.unwrap_or(Duration::from_secs(90)),
        timeout: options.interval("timeout")?.unwrap_or(Duration::from_secs(60)),
        accept_invalid_certs: options.boolean("accept_invalid_certs")?.unwrap_or(false),
    };
    settings.build().map(|client| Client { client: Some(client) }).map_err(|e| options.failed(&e))
}

/// What a client is built from.
struct Settings {
    user_agent: String,
    verbose: bool,
    pool_idle_timeout: Duration,
    timeout: Duration,
    accept_invalid_certs: bool,
}

impl Settings {
    fn build(&self) -> reqwest::Result<reqwest::Client> {
        // An error says that the program has installed one already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match self.builder().build() {
            // A bare machine has no certificates of its own; then it trusts the authorities that Mozilla trusts.
            Err(e) if !self.accept_invalid_certs => self.build_with_bundled_roots().or(Err(e)),
            built => built,
        }
    }

    fn build_with_bundled_roots(&self) -> reqwest::Result<reqwest::Client> {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.builder().tls_backend_preconfigured(tls).build()
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .connection_verbose(self.verbose)
            .pool_idle_timeout(self.pool_idle_timeout)
            .timeout(self.timeout)
            .tls_danger_accept_invalid_certs(self.accept_invalid_certs)
    }
}

/// `base` with the entries of `query` added to its query, in the order of their names.
fn build_url(lua: &Lua, base: &str, query: &Table) -> mlua::Result<String> {
    let mut url = Url::parse(base).map_err(|e| fail(format!("kumo.http.build_url: `{base}`: {e}")))?;
    let mut query = texts(lua, "kumo.http.build_url", query)?;
    query.sort_by(|a, b| a.0.cmp(&b.0));
    if !query.is_empty() {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in &query {
            pairs.append_pair(name, &value.to_string_lossy());
        }
    }
    Ok(url.into())
}

/// A pool of connections. Empty once it is closed.
struct Client {
    client: Option<reqwest::Client>,
}

impl Client {
    fn close(&mut self) -> mlua::Result<()> {
        self.client = None;
        Ok(())
    }

    fn request(&self, method: Method, url: &str) -> mlua::Result<Request> {
        let client = self.client.as_ref().ok_or_else(|| fail("the HTTP client has been closed"))?;
        let parsed = Url::parse(url).map_err(|e| fail(format!("`{url}` is no URL: {e}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(fail(format!("`{}` is no http or https URL", shown(&parsed))));
        }
        Ok(Request { builder: Some(client.request(method, parsed)) })
    }
}

impl UserData for Client {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get", |_, this, url: String| this.request(Method::GET, &url));
        methods.add_method("post", |_, this, url: String| this.request(Method::POST, &url));
        methods.add_method("put", |_, this, url: String| this.request(Method::PUT, &url));
        methods.add_method_mut("close", |_, this, ()| this.close());
        methods.add_meta_method_mut(MetaMethod::Close, |_, this, _: Value| this.close());
    }
}

/// A request until it is sent; empty from then on.
struct Request {
    builder: Option<RequestBuilder>,
}

impl Request {
    fn take(&mut self) -> mlua::Result<RequestBuilder> {
        let sent = "the request has been sent already; make a new one for each attempt";
        self.builder.take().ok_or_else(|| fail(sent))
    }

    fn change(&mut self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> mlua::Result<()> {
        self.builder = Some(change(self.take()?));
        Ok(())
    }

    fn header(&mut self, name: &str, value: &[u8]) -> mlua::Result<()> {
        let no_name = |_| fail(format!("`{name}` is no name of an HTTP header"));
        let no_value = |_| {
            fail(format!("the value of the HTTP header `{name}` holds a line break or control character"))
        };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(no_name)?;
        let value = HeaderValue::from_bytes(value).map_err(no_value)?;
        self.change(|builder| builder.header(header, value))
    }

    fn multipart(&mut self, fields: Vec<(String, LuaString)>) -> mlua::Result<()> {
        let mut form = reqwest::multipart::Form::new();
        for (name, value) in fields {
            form = match value.to_str() {
                Ok(text) => form.text(name, text.to_owned()),
                Err(_) => form.part(name, binary_part(value.as_bytes().to_vec())?),
            };
        }
        self.change(|builder| builder.multipart(form))
    }

    fn form(&mut self, fields: &[(String, LuaString)]) -> mlua::Result<()> {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in fields {
            match value.to_str() {
                Ok(value) => text.append_pair(name, &value),
                Err(_) => {
                    return Err(fail(format!("request:form_url_encoded: `{name}` is not text in UTF-8")));
                }
            };
        }
        let body = text.finish();
        self.header("content-type", b"application/x-www-form-urlencoded")?;
        self.change(|builder| builder.body(body))
    }
}

fn binary_part(bytes: Vec<u8>) -> mlua::Result<reqwest::multipart::Part> {
    let part = reqwest::multipart::Part::bytes(bytes).mime_str("application/octet-stream");
    part.map_err(|e| fail(e.to_string()))
}

/// A method that changes a request and returns it, so that calls can be chained.
fn add_chained<M, A, F>(methods: &mut M, name: &'static str, change: F)
where
    M: UserDataMethods<Request>,
    A: mlua::FromLuaMulti,
    F: Fn(&Lua, &mut Request, A) -> mlua::Result<()> + 'static,
{
    methods.add_function(name, move |lua, (this, args): (AnyUserData, mlua::MultiValue)| {
        change(lua, &mut *this.borrow_mut::<Request>()?, A::from_lua_multi(args, lua)?)?;
        Ok(this)
    });
}

impl UserData for Request {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_chained(methods, "header", |_, this, (name, value): (String, LuaString)| {
            this.header(&name, &value.as_bytes())
        });
        add_chained(methods, "headers", |lua, this, headers: Table| {
            let headers = texts(lua, "request:headers", &headers)?;
            headers.iter().try_for_each(|(name, value)| this.header(name, &value.as_bytes()))
        });
        add_chained(methods, "basic_auth", |_, this, (user, password): (String, Option<String>)| {
            this.change(|builder| builder.basic_auth(user, password))
        });
        add_chained(methods, "bearer_auth", |_, this, token: String| {
            this.change(|builder| builder.bearer_auth(token))
        });
        add_chained(methods, "body", |_, this, body: LuaString| {
            let body = body.as_bytes().to_vec();
            this.change(|builder| builder.body(body))
        });
        add_chained(methods, "form_url_encoded", |lua, this, fields: Table| {
            this.form(&texts(lua, "request:form_url_encoded", &fields)?)
        });
        add_chained(methods, "form_multipart_data", |lua, this, fields: Table| {
            this.multipart(texts(lua, "request:form_multipart_data", &fields)?)
        });
        add_chained(methods, "timeout", |_, this, timeout: Value| {
            let wrong = || fail(format!("request:timeout: expected {DURATION}, got {}", describe(&timeout)));
            let timeout = options::duration(&timeout).filter(|t| !t.is_zero()).ok_or_else(wrong)?;
            this.change(|builder| builder.timeout(timeout))
        });
        methods.add_method("aws_sign_v4", |_, _, _: Value| -> mlua::Result<()> {
            Err(fail("request:aws_sign_v4 is not provided by tailweir"))
        });
        methods.add_async_function("send", |_, this: AnyUserData| async move {
            let builder = this.borrow_mut::<Self>()?.take()?;
            send(builder).await
        });
    }
}

async fn send(builder: RequestBuilder) -> mlua::Result<Response> {
    let (client, request) = builder.build_split();
    let request = request
        .map_err(|e| fail(format!("failed to build the request: {}", with_causes(&e.without_url()))))?;
    let what = format!("{} {}", request.method(), shown(request.url()));
    match client.execute(request).await {
        Ok(response) => Ok(Response::new(response, what)),
        Err(e) => Err(fail(format!("{what} failed: {}", with_causes(&e.without_url())))),
    }
}

/// A URL for messages: without the user's name and password, and without the query, which may hold secrets too.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Only URLs without a host refuse these, and such have no credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
