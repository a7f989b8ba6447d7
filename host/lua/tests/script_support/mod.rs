//! What the tests of scripts share: directories of segments, an HTTP server, and running a script.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlua::Value;
use tailweir_lua::{Extension, Hooks, Script, ScriptError};
use tokio::sync::watch;

/// Nothing that a test waits for takes so long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Writes a sealed segment.
pub fn segment(directory: &Path, name: &str, lines: &[String]) -> PathBuf {
    let path = directory.join(name);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    path
}

/// Records of a pool, told apart by `n`.
pub fn records(pool: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    let record = |n| {
        format!(
            r#"{{"type":"Delivery","id":"{pool}-{n}","n":{n},"egress_pool":"{pool}","response":{{"code":250}}}}"#
        )
    };
    numbers.map(record).collect()
}

/// Runs a Lua text as a script of its own.
pub fn run(source: &str) -> Result<(), String> {
    run_with(source, &[], Vec::new())
}

/// Runs a Lua text with arguments and extensions.
pub fn run_with(source: &str, args: &[&str], extensions: Vec<Extension>) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script.lua");
    std::fs::write(&path, source).unwrap();
    run_file(&path, args, extensions, std::future::pending()).map_err(|e| e.to_string())
}

/// Runs a script file until it ends, or until `shutdown` is ready and it ends then.
pub fn run_file(
    path: &Path,
    args: &[&str],
    extensions: Vec<Extension>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ScriptError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = Script::new(Hooks { extensions, ..Hooks::default() })?;
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    let run = async { tokio::time::timeout(DEADLINE, script.run(path, args, shutdown)).await };
    runtime.block_on(run).expect("the script ends in time")
}

/// The error of a script that must fail; its first line.
pub fn first_line_of_error(source: &str) -> String {
    let error = run(source).expect_err("the script fails");
    // The line that says which file could not be evaluated comes first.
    let line = error.lines().find_map(|line| line.strip_prefix("caused by: "));
    line.unwrap_or_else(|| panic!("no cause in {error:?}")).to_owned()
}

/// Makes `kumo.time.sleep` return at once; what was asked for is recorded.
pub fn record_sleeps() -> (Extension, Rc<RefCell<Vec<f64>>>) {
    let sleeps = Rc::new(RefCell::new(Vec::new()));
    let seen = sleeps.clone();
    let extension: Extension = Box::new(move |lua, kumo| {
        let seen = seen.clone();
        let sleep = lua.create_async_function(move |_, seconds: f64| {
            seen.borrow_mut().push(seconds);
            async {
                tokio::task::yield_now().await;
                Ok(())
            }
        })?;
        kumo.get::<mlua::Table>("time")?.set("sleep", sleep)
    });
    (extension, sleeps)
}

/// A function `name(text)` in Lua that collects texts.
pub fn collector(name: &'static str) -> (Extension, Rc<RefCell<Vec<String>>>) {
    let texts = Rc::new(RefCell::new(Vec::new()));
    let seen = texts.clone();
    let extension: Extension = Box::new(move |lua, _| {
        let seen = seen.clone();
        let collect = lua.create_function(move |_, value: Value| {
            seen.borrow_mut().push(value.to_string()?);
            Ok(())
        })?;
        lua.globals().set(name, collect)
    });
    (extension, texts)
}

/// A request that the server got.
#[derive(Debug, Clone)]
pub struct Received {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An HTTP server on a port of its own. It answers with the heads and bodies that it was given, and then with 200.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    answers: VecDeque<String>,
    received: Vec<Received>,
}

impl Server {
    /// Answers with these statuses first.
    pub fn new(statuses: &[&str]) -> Self {
        let answer = |status: &&str| format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nbody");
        Self::answering(statuses.iter().map(answer).collect())
    }

    /// Answers with these whole responses first.
    pub fn answering(answers: VecDeque<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Self { address, state: Arc::default(), count: watch::Sender::new(0) };
        server.state.lock().unwrap().answers = answers;
        let accepting = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (accepting.clone(), stream.unwrap());
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// Ready once the server has got `count` requests.
    pub async fn has_received(self, count: usize) {
        let mut received = self.count.subscribe();
        received.wait_for(|&received| received >= count).await.unwrap();
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            let answer = {
                let mut state = self.state.lock().unwrap();
                state.received.push(request);
                self.count.send_modify(|count| *count += 1);
                state.answers.pop_front()
            };
            let answer = answer.unwrap_or_else(|| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned());
            if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Received> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut request = Received { line: line.trim_end().to_owned(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(':') {
            Some((name, value)) => request.headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}
