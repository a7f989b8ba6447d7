//! A web server on this machine that takes what is posted to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde::de::IgnoredAny;

/// The server. It ends with the program.
pub(super) struct Receiver {
    port: u16,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    /// Counting takes time that belongs to nobody who is measured.
    counting: AtomicBool,
    records: AtomicU64,
}

impl Receiver {
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (port, counted) = (listener.local_addr()?.port(), Arc::<Counted>::default());
        let shared = counted.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = shared.clone();
                // A client that goes away is none of the server's business.
                thread::spawn(move || _ = serve(&stream, &counted));
            }
        });
        Ok(Self { port, counted })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Counts from now on until the number is asked for.
    pub(super) fn reset(&self) {
        self.counted.records.store(0, Ordering::SeqCst);
        self.counted.counting.store(true, Ordering::SeqCst);
    }

    /// How many records came since the last reset.
    pub(super) fn records(&self) -> u64 {
        self.counted.counting.store(false, Ordering::SeqCst);
        self.counted.records.load(Ordering::SeqCst)
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, counted: &Counted) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::with_capacity(1 << 16, stream), stream);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        if counted.counting.load(Ordering::SeqCst) {
            let records: Vec<IgnoredAny> = serde_json::from_slice(&body)?;
            counted.records.fetch_add(records.len() as u64, Ordering::SeqCst);
        }
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
