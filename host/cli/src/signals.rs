//! SIGINT and SIGTERM end the program in good order; SIGHUP has plug-ins read again where there can be some, and is else left to the
//! system, or ends the program as the others do.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::{self, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::end;
use crate::reload::Asker;

/// How long a batch in progress may take after the first signal; longer than a script gets, which is ended in better order.
const GRACE: Duration = Duration::from_secs(15);

/// From now on a file that may not grow, by the limit of its size, is an error of whoever writes to it, as a full disk is, and not
/// the end of the program.
pub(crate) fn outlive_file_limits() {
    let limit = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    if let Ok(runtime) = runtime::Builder::new_current_thread().enable_io().build() {
        // Whoever has listened for a signal once is not ended by it any more. Where nobody can listen, all is as it was.
        let _ = on(runtime.handle(), limit);
    }
}

/// The process has one.
static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

/// The thread that listens, as others see it.
struct Listener {
    runtime: Handle,
    asked: watch::Receiver<bool>,
    /// What is called at the first signal.
    then: Vec<Box<dyn FnOnce() + Send>>,
}

fn listener() -> MutexGuard<'static, Option<Listener>> {
    LISTENER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether, and when, the program was asked to end.
#[derive(Clone)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Starts listening, on a thread of its own, and calls `then` there at the first signal; at once, if that has come
    /// already. A second signal, or the end of the grace period, ends the process at once: nothing that is not committed counts
    /// as done, so that is safe.
    pub(crate) fn on_signal(then: impl FnOnce() + Send + 'static) -> Result<Self> {
        Self::listen(then, Hangup::IsNotHeard)
    }

    /// As [`on_signal`](Self::on_signal), also when the terminal goes away, unless SIGHUP was ignored when the program began, as
    /// `nohup` has it. Of whatever listens for signals in the process it must be the first.
    pub(crate) fn or_hangup(then: impl FnOnce() + Send + 'static) -> Result<Self> {
        let hangup = if is_ignored(rustix::process::Signal::HUP) { Hangup::IsNotHeard } else { Hangup::Ends };
        Self::listen(then, hangup)
    }

    fn listen(then: impl FnOnce() + Send + 'static, hangup: Hangup) -> Result<Self> {
        let mut listener = listener();
        if listener.is_none() {
            *listener = Some(Listener::start(hangup)?);
        }
        let Listener { asked, then: all, .. } = listener.as_mut().expect("it was just started");
        let shutdown = Self(asked.clone());
        if *asked.borrow() {
            drop(listener);
            then();
        } else {
            all.push(Box::new(then));
        }
        Ok(shutdown)
    }

    /// As [`on_signal`](Self::on_signal), with SIGHUP asking for a reload. From then on that signal does not end the process.
    pub(crate) fn or_reload(then: impl FnOnce() + Send + 'static, reload: Asker) -> Result<Self> {
        let shutdown = Self::on_signal(then)?;
        if let Some(Listener { runtime, .. }) = &*listener() {
            let mut hangup = on(runtime, SignalKind::hangup()).context("cannot listen for signals")?;
            runtime.spawn(async move {
                while hangup.recv().await.is_some() {
                    reload.ask();
                }
            });
        }
        Ok(shutdown)
    }

    /// Returns once the program was asked to end.
    pub(crate) async fn asked(mut self) {
        // The sender lives until the process ends.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

impl Listener {
    fn start(hangup: Hangup) -> Result<Self> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let handle = runtime.handle().clone();
        let signals = Signals::new(&handle, hangup).context("cannot listen for signals")?;
        let (asking, asked) = watch::channel(false);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(serve(signals, asking)))
            .context("cannot start a thread")?;
        Ok(Self { runtime: handle, asked, then: Vec::new() })
    }
}

async fn serve(mut signals: Signals, asking: watch::Sender<bool>) {
    let name = signals.first().await;
    info!("{name}: ending in good order");
    let then = {
        let mut listener = listener();
        asking.send_replace(true);
        listener.as_mut().map(|listener| std::mem::take(&mut listener.then)).unwrap_or_default()
    };
    then.into_iter().for_each(|then| then());
    tokio::select! {
        name = signals.next() => {
            warn!("{name} again: ending at once; what is not committed comes again on the next run");
            end::at_once(130)
        }
        () = tokio::time::sleep(GRACE) => {
            warn!("a batch is still in progress after {GRACE:?}; leaving it for the next run");
            end::at_once(0)
        }
    }
}

fn on(runtime: &Handle, kind: SignalKind) -> io::Result<Signal> {
    let _guard = runtime.enter();
    signal(kind)
}

/// Whether the program ends when its terminal goes away, as it does at other signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangup {
    Ends,
    IsNotHeard,
}

/// Whether the process was told to ignore a signal, by whoever has started it. If nobody knows, it was not.
fn is_ignored(signal: rustix::process::Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal.as_raw() - 1)) != 0
}

/// Those that end the program.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn new(runtime: &Handle, hangup: Hangup) -> io::Result<Self> {
        let hangup = (hangup == Hangup::Ends).then(|| on(runtime, SignalKind::hangup())).transpose()?;
        Ok(Self {
            interrupt: on(runtime, SignalKind::interrupt())?,
            terminate: on(runtime, SignalKind::terminate())?,
            hangup,
        })
    }

    async fn first(&mut self) -> &'static str {
        let hangup = self.hangup.take();
        tokio::select! {
            name = self.next() => name,
            () = heard(hangup) => "SIGHUP",
        }
    }

    /// Those that may end the program at once. A terminal that goes away is told of more than once, and nobody is in haste then.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Never returns if nobody listens.
async fn heard(signal: Option<Signal>) {
    match signal {
        Some(mut signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}
