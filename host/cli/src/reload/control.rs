//! Requests from another process to read plug-ins again, and what comes of them: `tailweir plugin reload`.
//!
//! They come through a Unix socket in the kernel's abstract namespace, which has no file: nothing is left behind, and nobody
//! can put a link in its place. Who is at the other end the kernel says: here, that it is the same user or root; there, that
//! it is the process that holds the lock of the checkpoint.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::net::unix::UCred;
use tokio::runtime::Builder;
use tracing::warn;

use super::{Reloads, Report};
use crate::secrets::cross_out;

/// How long either side may take to say what it has to say, once it has begun.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long plug-ins may take to be compiled and tried, all together.
const COMPILING: Duration = Duration::from_secs(15 * 60);

/// A request and an answer are each one line, and no longer than that.
const LONGEST_REQUEST: u64 = 64 << 10;
const LONGEST_ANSWER: u64 = 16 << 20;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The checkpoint whose consumer's plug-ins are meant; all, if `None`.
    checkpoint: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    plugins: Vec<Report>,
}

/// Where a process listens that reads `directory`. The number alone would not do: it may be one of another container's.
fn address(directory: &Path, pid: u32) -> io::Result<SocketAddr> {
    let directory = fs::metadata(directory)?;
    SocketAddr::from_abstract_name(format!("tailweir/reload/{pid}/{}/{}", directory.dev(), directory.ino()))
}

/// Starts the thread that takes requests about the work of this process in `directory`. Where there can be no such socket,
/// plug-ins are read again at SIGHUP only.
pub(super) fn start(directory: &Path, plugins: Arc<Reloads>) -> Result<()> {
    let listener = address(directory, std::process::id()).and_then(|at| UnixListener::bind_addr(&at));
    let listener = match listener {
        Ok(listener) => listener,
        Err(e) => {
            warn!("`tailweir plugin reload` will not find this process, only SIGHUP will: {e}");
            return Ok(());
        }
    };
    let serve = move || {
        loop {
            match listener.accept() {
                // Whoever hangs up, or makes no sense, has no claim to an answer.
                Ok((stream, _)) => _ = answer(stream, &plugins),
                // Out of file descriptors, perhaps.
                Err(_) => thread::sleep(Duration::from_secs(1)),
            }
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(serve).context("cannot start a thread")?;
    Ok(())
}

/// Does what is asked for, if whoever asks may.
fn answer(stream: UnixStream, plugins: &Reloads) -> io::Result<()> {
    let (stream, who) = peer(stream)?;
    if !may_ask(who.uid(), geteuid().as_raw()) {
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(LONGEST_REQUEST)).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let wanted = |checkpoint: Option<&str>| match &request.checkpoint {
        Some(name) => checkpoint == Some(name),
        None => true,
    };
    let plugins = plugins.reload(|place| wanted(place.checkpoint.as_deref()));
    let text = serde_json::to_string(&Answer { plugins })? + "\n";
    // What a plug-in says of its configuration may repeat a secret.
    (&stream).write_all(cross_out(&text).as_bytes())
}

fn may_ask(who: u32, own: u32) -> bool {
    who == own || who == 0
}

/// Who is at the other end, by the kernel's word. A process that cannot be seen from here has the number 0.
fn peer(stream: UnixStream) -> io::Result<(UnixStream, UCred)> {
    stream.set_nonblocking(true)?;
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    let stream = tokio::net::UnixStream::from_std(stream)?;
    let who = stream.peer_cred()?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok((stream, who))
}

/// Whether a process that listens would be heard here: sockets without a file go by network namespaces.
fn is_near(pid: u32) -> bool {
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    network("self").is_some_and(|own| network(&pid.to_string()) == Some(own))
}

/// Asks a process that has a checkpoint in `directory` to read plug-ins again: those of the consumer with this checkpoint, or
/// all. Returns what came of each; `None` if it is one that never reads any again, as a script.
pub(crate) fn ask(directory: &Path, pid: u32, checkpoint: Option<&str>) -> Result<Option<Vec<Report>>> {
    let stream = address(directory, pid).and_then(|at| UnixStream::connect_addr(&at));
    // Whoever reads plug-ins again listens before it has a checkpoint.
    if stream.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) && is_near(pid) {
        return Ok(None);
    }
    let stream = stream.with_context(|| {
        format!(
            "process {pid} cannot be asked: `tailweir run`, and `tailweir tail` with a filter, can be, from where they run \
             (the same container)"
        )
    })?;
    let (stream, who) = peer(stream).context("cannot tell who answers")?;
    let answers = who.pid().unwrap_or_default();
    ensure!(
        u32::try_from(answers) == Ok(pid),
        "process {pid} holds the checkpoint, and another process, {answers}, answers in its place"
    );
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(COMPILING))?;
    let request = Request { checkpoint: checkpoint.map(str::to_owned) };
    let sent = (&stream).write_all((serde_json::to_string(&request)? + "\n").as_bytes());
    let mut text = String::new();
    let mut answer = BufReader::new((&stream).take(LONGEST_ANSWER));
    match sent.and_then(|()| answer.read_line(&mut text)) {
        Ok(1..) => {}
        Err(e) if !matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            return Err(e).with_context(|| format!("process {pid} does not answer"));
        }
        Ok(0) | Err(_) => bail!(
            "process {pid} did not answer: it has ended, or runs as another user; only that user and root may ask it"
        ),
    }
    let Answer { plugins } =
        serde_json::from_str(&text).with_context(|| format!("process {pid} is of another version"))?;
    Ok(Some(plugins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }

    #[test]
    fn what_makes_no_sense_ends_the_conversation_only() {
        let folder = tempfile::tempdir().unwrap();
        start(folder.path(), Arc::default()).unwrap();
        let at = address(folder.path(), std::process::id()).unwrap();
        for nonsense in ["\n", "{}{}\n", "{\"checkpoint\":5}\n", "{\"what\":1}\n", &"x".repeat(100_000)] {
            let stream = UnixStream::connect_addr(&at).unwrap();
            // It may have hung up before all is written.
            let _ = (&stream).write_all(nonsense.as_bytes());
            let mut text = Vec::new();
            let _ = (&stream).read_to_end(&mut text);
            assert_eq!(text, b"", "{nonsense:.20}");
        }
        assert_eq!(ask(folder.path(), std::process::id(), Some("a")).unwrap(), Some(vec![]));
        // Nobody listens there.
        let other = tempfile::tempdir().unwrap();
        assert_eq!(ask(other.path(), std::process::id(), None).unwrap(), None);
        // There is no process that could be heard.
        let error = ask(folder.path(), u32::MAX, None).unwrap_err().to_string();
        assert!(error.starts_with("process 4294967295 cannot be asked"), "{error}");
    }
}
