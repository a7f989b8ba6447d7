//! An HTTP/1.1 server on a port of its own.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::id;

/// Notes the requests that it gets, and answers with 200 unless it was told otherwise.
#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: VecDeque<String>,
    requests: Vec<Request>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path.
    pub path: String,
    /// Header values by lower-case name.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// The status that it was answered with.
    pub status: String,
}

impl Request {
    /// The ids of the records in its body, a JSON array.
    pub fn ids(&self) -> Vec<String> {
        let records: Vec<Value> = serde_json::from_slice(&self.body).unwrap();
        records.iter().map(|record| id(&record.to_string())).collect()
    }
}

impl Server {
    /// Starts one.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let shared = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = shared.clone();
                // A connection that breaks is the client's to report.
                std::thread::spawn(move || server.serve(&stream).ok());
            }
        });
        server
    }

    /// The next requests are answered with these statuses, which may have headers behind them.
    pub fn answer(&self, statuses: &[&str]) {
        self.state.lock().unwrap().answers.extend(statuses.iter().map(|s| (*s).to_owned()));
    }

    /// Its address as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has got.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The ids of records that it has taken with 200, under a path.
    pub fn delivered(&self, path: &str) -> Vec<String> {
        let taken = |request: &&Request| request.status.starts_with("200") && request.path == path;
        self.requests().iter().filter(taken).flat_map(Request::ids).collect()
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some(mut request) = read(&mut reader)? {
            let mut state = self.state.lock().unwrap();
            let answer = state.answers.pop_front().unwrap_or_else(|| "200 OK".to_owned());
            request.status.clone_from(&answer);
            state.requests.push(request);
            drop(state);
            (&mut &*stream)
                .write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 4\r\n\r\nsaid").as_bytes())?;
        }
        Ok(())
    }
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Some(Request { path, headers, body, status: String::new() }))
}
