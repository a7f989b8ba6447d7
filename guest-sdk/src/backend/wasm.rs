//! The host's side, through the interface in `wit`.

use crate::batch::Entries;
use crate::log::Level;
use crate::{Joined, Position};

use filter_world::tailweir::plugin::records;
use lifecycle_world::tailweir::plugin::log as host_log;

// A plug-in exports `lifecycle` and one of the others. The two come from worlds of their own here, as no macro that this
// crate exports may be made twice; the tool that makes the component unites them to a world of `wit/v0.1`.

/// What every plug-in exports, and the log.
#[allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks, reason = "generated")]
pub mod lifecycle_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tailweir:guest-lifecycle;
            world lifecycle { import tailweir:plugin/log@0.1.0; export tailweir:plugin/lifecycle@0.1.0; }",
        world: "tailweir:guest-lifecycle/lifecycle",
        pub_export_macro: true,
        default_bindings_module: "tailweir_guest::__private::lifecycle_world",
        runtime_path: "tailweir_guest::__private::wit_bindgen::rt",
        generate_all,
    });
}

/// What a filter exports, and the batch.
#[allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks, reason = "generated")]
pub mod filter_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tailweir:guest-filter; world filter { export tailweir:plugin/filter@0.1.0; }",
        world: "tailweir:guest-filter/filter",
        pub_export_macro: true,
        default_bindings_module: "tailweir_guest::__private::filter_world",
        runtime_path: "tailweir_guest::__private::wit_bindgen::rt",
        generate_all,
    });
}

/// What a processor exports.
#[allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks, reason = "generated")]
pub mod processor_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tailweir:guest-processor; world processor { export tailweir:plugin/process@0.1.0; }",
        world: "tailweir:guest-processor/processor",
        pub_export_macro: true,
        default_bindings_module: "tailweir_guest::__private::processor_world",
        runtime_path: "tailweir_guest::__private::wit_bindgen::rt",
        with: {
            "tailweir:plugin/records@0.1.0": tailweir_guest::__private::filter_world::tailweir::plugin::records,
        },
        generate_all,
    });
}

/// What a processor that sends requests imports besides.
#[cfg(feature = "http")]
#[allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks, reason = "generated")]
mod http_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tailweir:guest-requests; world requests { import wasi:http/outgoing-handler@0.2.12; }",
        world: "tailweir:guest-requests/requests",
        runtime_path: "tailweir_guest::__private::wit_bindgen::rt",
        generate_all,
    });
}

/// What a processor that keeps state imports besides.
#[cfg(feature = "state")]
#[allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks, reason = "generated")]
mod state_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tailweir:guest-state; world keeper { import tailweir:plugin/state@0.1.0; }",
        world: "tailweir:guest-state/keeper",
        runtime_path: "tailweir_guest::__private::wit_bindgen::rt",
        generate_all,
    });
}

/// State, kept by the host.
#[cfg(feature = "state")]
pub(crate) mod state {
    use super::state_world::tailweir::plugin::state as host;
    use crate::state::Error;

    fn in_words(error: host::Error) -> Error {
        match error {
            host::Error::KeyBytes(limit) => Error::KeyBytes(limit),
            host::Error::ValueBytes(limit) => Error::ValueBytes(limit),
            host::Error::Keys(limit) => Error::Keys(limit),
            host::Error::Bytes(limit) => Error::Bytes(limit),
            host::Error::Changes(limit) => Error::Changes(limit),
            host::Error::NotNow => Error::NotNow,
        }
    }

    pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
        host::get(key)
    }

    pub(crate) fn set(key: &str, value: &[u8]) -> Result<(), Error> {
        host::set(key, value).map_err(in_words)
    }

    pub(crate) fn delete(key: &str) -> Result<(), Error> {
        host::delete(key).map_err(in_words)
    }

    pub(crate) fn list(prefix: &str, after: Option<&str>, limit: u32) -> (Vec<String>, bool) {
        let host::Page { keys, more } = host::list(prefix, after, limit);
        (keys, more)
    }
}

/// What a plug-in with metrics of its own imports besides.
#[cfg(feature = "metrics")]
#[allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks, reason = "generated")]
mod metrics_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tailweir:guest-metrics; world measured { import tailweir:plugin/metrics@0.1.0; }",
        world: "tailweir:guest-metrics/measured",
        runtime_path: "tailweir_guest::__private::wit_bindgen::rt",
        generate_all,
    });
}

/// Metrics, recorded by the host.
#[cfg(feature = "metrics")]
pub(crate) mod metrics {
    use super::metrics_world::tailweir::plugin::metrics as host;

    pub(crate) use host::{add, observe, set};

    fn labels(labels: &[(&str, &str)]) -> Vec<host::Label> {
        let label = |(name, value): &(&str, &str)| host::Label {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        labels.iter().map(label).collect()
    }

    pub(crate) fn counter(name: &str, help: &str, of: &[(&str, &str)]) -> u32 {
        host::counter(name, help, &labels(of))
    }

    pub(crate) fn gauge(name: &str, help: &str, of: &[(&str, &str)]) -> u32 {
        host::gauge(name, help, &labels(of))
    }

    pub(crate) fn histogram(name: &str, help: &str, of: &[(&str, &str)], bounds: &[f64]) -> u32 {
        host::histogram(name, help, &labels(of), bounds)
    }
}

/// The host's batch.
#[repr(transparent)]
pub struct Batch(records::Batch);

impl Batch {
    pub(crate) fn id(&self) -> String {
        self.0.id()
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.len()
    }

    pub(crate) fn json(&self, index: u32) -> String {
        self.0.json(index)
    }

    pub(crate) fn position(&self, index: u32) -> Position {
        let records::Position { segment, line, offset } = self.0.position(index);
        Position { segment, line, offset }
    }

    pub(crate) fn text(&self) -> Joined {
        let records::Joined { bytes, ends } = self.0.text();
        Joined { text: utf8(bytes), ends }
    }

    pub(crate) fn owned_strings(&self, pointer: &str) -> Vec<Option<String>> {
        self.0.strings(pointer)
    }

    pub(crate) fn strings(&self, pointer: &str) -> Entries {
        let records::JoinedEntries { bytes, lengths } = self.0.strings_joined(pointer);
        Entries { text: utf8(bytes), lengths }
    }

    pub(crate) fn joined_values(&self, pointers: &[String]) -> Entries {
        let records::JoinedEntries { bytes, lengths } = self.0.values_joined(pointers);
        Entries { text: utf8(bytes), lengths }
    }

    pub(crate) fn integers(&self, pointer: &str) -> Vec<Option<i64>> {
        self.0.integers(pointer)
    }

    pub(crate) fn numbers(&self, pointer: &str) -> Vec<Option<f64>> {
        self.0.numbers(pointer)
    }

    pub(crate) fn booleans(&self, pointer: &str) -> Vec<Option<bool>> {
        self.0.booleans(pointer)
    }

    pub(crate) fn values(&self, pointer: &str) -> Vec<Option<String>> {
        self.0.values(pointer)
    }
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => host_log::Level::Trace,
        Level::Debug => host_log::Level::Debug,
        Level::Info => host_log::Level::Info,
        Level::Warn => host_log::Level::Warn,
        Level::Error => host_log::Level::Error,
    };
    host_log::write(level, message);
}

/// What the exports of a plug-in call.
pub mod export {
    use std::cell::RefCell;
    use std::sync::Once;
    use std::thread::LocalKey;

    use super::{filter_world, processor_world, records};
    use crate::log::Level;
    use crate::plugin::{Failure, FilterFn, Outcome, ProcessorFn, Verdict};

    use filter_world::exports::tailweir::plugin::filter as filter_wit;
    use processor_world::exports::tailweir::plugin::process as process_wit;

    /// Where a plug-in keeps its configured function.
    pub type Cell<F> = RefCell<Option<F>>;

    /// Sends the text of a panic to the host, before the instance ends.
    pub fn report_panics() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| super::log(Level::Error, &panic.to_string())));
        });
    }

    /// Keeps the configured function.
    pub fn init<F>(cell: &'static LocalKey<Cell<F>>, configured: Result<F, String>) -> Result<(), String> {
        cell.set(Some(configured?));
        Ok(())
    }

    /// Calls the filter.
    pub fn evaluate(
        cell: &'static LocalKey<Cell<FilterFn>>,
        batch: &records::Batch,
    ) -> Result<filter_wit::Verdict, String> {
        cell.with_borrow_mut(|filter| match filter {
            Some(filter) => filter(wrap(batch)).map(|verdict| match verdict {
                Verdict::All => filter_wit::Verdict::All,
                Verdict::None => filter_wit::Verdict::None,
                Verdict::Keep(keep) => filter_wit::Verdict::Keep(keep),
            }),
            None => Err("`evaluate` was called before `init`".to_owned()),
        })
    }

    /// Calls the processor.
    pub fn process(
        cell: &'static LocalKey<Cell<ProcessorFn>>,
        batch: &records::Batch,
    ) -> Result<process_wit::Outcome, process_wit::Failure> {
        let answer = cell.with_borrow_mut(|processor| match processor {
            Some(processor) => processor(wrap(batch)),
            None => Err(Failure::stop("`process` was called before `init`")),
        });
        match answer {
            Ok(Outcome::Done) => Ok(process_wit::Outcome::Done),
            Ok(Outcome::Emit(records)) => Ok(process_wit::Outcome::Emit(records)),
            Err(Failure::Retry { after, reason }) => {
                let after_ms = after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                Err(process_wit::Failure::Retry(process_wit::Retry { after_ms, reason }))
            }
            Err(Failure::Reject { indices, reason }) => {
                Err(process_wit::Failure::Reject(process_wit::Reject { indices, reason }))
            }
            Err(Failure::Stop(reason)) => Err(process_wit::Failure::Stop(reason)),
        }
    }

    fn wrap(batch: &records::Batch) -> &crate::Batch {
        // SAFETY: both wrappers are `repr(transparent)` around `records::Batch`, so the reference points at a valid value
        // of the type, and it has the lifetime of the one it is made of.
        unsafe { &*std::ptr::from_ref(batch).cast::<crate::Batch>() }
    }
}

/// The exports of a plug-in.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (filter_world, $configure:ident, $description:ident) => {
        $crate::__lifecycle!(FilterFn, $configure, $description);

        impl $crate::__private::filter_world::exports::tailweir::plugin::filter::Guest for Plugin {
            fn evaluate(
                batch: &$crate::__private::filter_world::tailweir::plugin::records::Batch,
            ) -> ::core::result::Result<
                $crate::__private::filter_world::exports::tailweir::plugin::filter::Verdict,
                ::std::string::String,
            > {
                $crate::__private::export::evaluate(&PLUGIN, batch)
            }
        }

        $crate::__private::filter_world::export!(Plugin with_types_in $crate::__private::filter_world);
    };
    (processor_world, $configure:ident, $description:ident) => {
        $crate::__lifecycle!(ProcessorFn, $configure, $description);

        impl $crate::__private::processor_world::exports::tailweir::plugin::process::Guest for Plugin {
            fn process(
                batch: &$crate::__private::filter_world::tailweir::plugin::records::Batch,
            ) -> ::core::result::Result<
                $crate::__private::processor_world::exports::tailweir::plugin::process::Outcome,
                $crate::__private::processor_world::exports::tailweir::plugin::process::Failure,
            > {
                $crate::__private::export::process(&PLUGIN, batch)
            }
        }

        $crate::__private::processor_world::export!(Plugin with_types_in $crate::__private::processor_world);
    };
}

/// The exports that all plug-ins have.
#[doc(hidden)]
#[macro_export]
macro_rules! __lifecycle {
    ($function_type:ident, $configure:ident, $description:ident) => {
        struct Plugin;

        ::std::thread_local! {
            static PLUGIN: $crate::__private::export::Cell<$crate::__private::$function_type> =
                const { ::std::cell::RefCell::new(None) };
        }

        impl $crate::__private::lifecycle_world::exports::tailweir::plugin::lifecycle::Guest for Plugin {
            fn describe() -> $crate::__private::lifecycle_world::exports::tailweir::plugin::lifecycle::Description {
                $crate::__private::export::report_panics();
                $crate::__private::lifecycle_world::exports::tailweir::plugin::lifecycle::Description {
                    name: $description.name.to_owned(),
                    version: $description.version.to_owned(),
                    needs: $description.needs.iter().map(|need| (*need).to_owned()).collect(),
                    config_schema: ($description.config_schema)(),
                }
            }

            fn init(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                $crate::__private::export::report_panics();
                $crate::__private::export::init(&PLUGIN, $configure(&config))
            }
        }

        $crate::__private::lifecycle_world::export!(Plugin with_types_in $crate::__private::lifecycle_world);
    };
}

#[cfg(feature = "http")]
pub(crate) use requests::send;

/// HTTP requests through `wasi:http/outgoing-handler`.
#[cfg(feature = "http")]
mod requests {
    use super::http_world::wasi::http::outgoing_handler;
    use super::http_world::wasi::http::types::{
        ErrorCode, Fields, HeaderError, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
        RequestOptions, Scheme,
    };
    use super::http_world::wasi::io::streams::StreamError;
    use crate::http::{Error, MAX_RESPONSE, Request, Response, Url, in_words};

    pub(crate) fn send(request: &Request, url: &Url<'_>) -> Result<Response, Error> {
        let refused = |what: &str| Error::Request(format!("the host does not accept its {what}"));
        let length = ("Content-Length".to_owned(), request.body.len().to_string());
        let fields = Fields::new();
        for (name, value) in request.headers.iter().chain([&length]) {
            fields.append(name, value.as_bytes()).map_err(|e| Error::Request(not_a_header(name, e)))?;
        }
        let outgoing = OutgoingRequest::new(fields);
        outgoing.set_method(&method(&request.method)).map_err(|()| refused("method"))?;
        outgoing.set_scheme(Some(&scheme(url.scheme))).map_err(|()| refused("scheme"))?;
        outgoing.set_authority(Some(url.authority)).map_err(|()| refused("host"))?;
        outgoing.set_path_with_query(Some(&url.path)).map_err(|()| refused("path"))?;

        let nanoseconds = u64::try_from(request.timeout.as_nanos()).unwrap_or(u64::MAX);
        let options = RequestOptions::new();
        // A host that knows no timeouts says so, and then has none.
        let _ = options.set_connect_timeout(Some(nanoseconds));
        let _ = options.set_first_byte_timeout(Some(nanoseconds));
        let _ = options.set_between_bytes_timeout(Some(nanoseconds));

        let body = outgoing.body().map_err(|()| refused("body"))?;
        let answer = outgoing_handler::handle(outgoing, Some(options)).map_err(|e| error(e, url))?;
        // A server may answer, or refuse, before it has read the whole body: what it says counts, not the broken pipe.
        let written = write(&body, &request.body);
        if written.is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
        answer.subscribe().block();
        match answer.get() {
            Some(Ok(Ok(response))) => read(&response),
            Some(Ok(Err(e))) => Err(error(e, url)),
            Some(Err(())) | None => Err(Error::Transport("the host lost the response".to_owned())),
        }
    }

    fn not_a_header(name: &str, error: HeaderError) -> String {
        match error {
            HeaderError::InvalidSyntax => format!("`{name}` or its value cannot be a header"),
            HeaderError::Forbidden => format!("the header `{name}` is set by the host"),
            other => format!("the header `{name}`: {other:?}"),
        }
    }

    fn write(body: &OutgoingBody, mut bytes: &[u8]) -> Result<(), StreamError> {
        let Ok(stream) = body.write() else {
            return Err(StreamError::Closed);
        };
        while !bytes.is_empty() {
            let room = stream.check_write()?.min(bytes.len() as u64) as usize;
            if room == 0 {
                stream.subscribe().block();
                continue;
            }
            let (now, rest) = bytes.split_at(room);
            stream.write(now)?;
            bytes = rest;
        }
        stream.blocking_flush()
    }

    fn read(response: &IncomingResponse) -> Result<Response, Error> {
        let lost = |what: &str| Error::Transport(format!("the response's body: {what}"));
        let header = |(name, value): (String, Vec<u8>)| (name, String::from_utf8_lossy(&value).into_owned());
        let headers = response.headers().entries().into_iter().map(header).collect();
        let incoming = response.consume().map_err(|()| lost("taken already"))?;
        let stream = incoming.stream().map_err(|()| lost("taken already"))?;
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(64 * 1024) {
                Ok(bytes) if body.len() + bytes.len() > MAX_RESPONSE => return Err(lost("too long")),
                Ok(bytes) => body.extend_from_slice(&bytes),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(e)) => {
                    // The host may add where in its own code that happened.
                    let text = e.to_debug_string();
                    return Err(lost(text.lines().next().unwrap_or_default()));
                }
            }
        }
        Ok(Response { status: response.status(), headers, body })
    }

    fn error(code: ErrorCode, url: &Url<'_>) -> Error {
        match code {
            ErrorCode::HttpRequestDenied => Error::Denied(format!("{}://{}", url.scheme, url.authority)),
            ErrorCode::InternalError(Some(text)) => Error::Transport(text),
            other => Error::Transport(in_words(&format!("{other:?}"))),
        }
    }

    fn method(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            other => Method::Other(other.to_owned()),
        }
    }

    fn scheme(name: &str) -> Scheme {
        match name {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => Scheme::Other(other.to_owned()),
        }
    }
}

/// Text that the interface says to be UTF-8. Checking it again would take longer than most filters do.
fn utf8(bytes: Vec<u8>) -> String {
    // SAFETY: the host promises UTF-8. One that broke its promise could as well write to this memory what it likes.
    unsafe { String::from_utf8_unchecked(bytes) }
}
