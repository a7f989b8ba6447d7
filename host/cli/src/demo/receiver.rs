//! The demo's webhook: a small HTTP/1.1 server on a port of its own that notes which records arrive.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Arrived;
use super::world::Record;

/// How long each request takes, so that there is time to interrupt.
const THINKING: Duration = Duration::from_millis(25);

/// More than any batch of the demo.
const LONGEST_BODY: u64 = 64 << 20;

#[derive(Clone)]
pub(super) struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    arrived: Mutex<Arrived>,
    refuse: AtomicBool,
}

impl Receiver {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let receiver = Self { address, state: state.clone() };
        std::thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                // A connection that breaks is the client's to report.
                std::thread::spawn(move || serve(&stream, &state).ok());
            }
        })?;
        Ok(receiver)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/log", self.address)
    }

    /// Answers the next request with 503.
    pub(super) fn refuse_once(&self) {
        self.state.refuse.store(true, Ordering::SeqCst);
    }

    /// How many different records have arrived.
    pub(super) fn distinct(&self) -> usize {
        self.state.arrived.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn arrived(&self) -> Arrived {
        self.state.arrived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: &TcpStream, state: &State) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(body) = request(&mut reader)? {
        std::thread::sleep(THINKING);
        let answer = match serde_json::from_slice::<Vec<Record>>(&body) {
            _ if state.refuse.swap(false, Ordering::SeqCst) => "503 Service Unavailable",
            Err(_) => "400 Bad Request",
            Ok(records) => {
                let mut arrived = state.arrived.lock().unwrap_or_else(PoisonError::into_inner);
                records.into_iter().for_each(|record| *arrived.entry(record.id).or_default() += 1);
                "200 OK"
            }
        };
        (&mut &*stream).write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    }
    Ok(())
}

/// The body of the next request; `None` at the end of the connection.
fn request(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut length = 0;
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = Vec::new();
    reader.take(u64::min(length, LONGEST_BODY)).read_to_end(&mut body)?;
    Ok(Some(body))
}
