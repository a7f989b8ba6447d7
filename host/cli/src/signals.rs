//! SIGINT and SIGTERM end the program in good order; SIGHUP has plug-ins read again, where there can be some.

use std::process;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::reload::Asker;

/// How long a batch in progress may take after the first signal; longer than a script gets, which is ended in better order.
const GRACE: Duration = Duration::from_secs(15);

/// From now on a file that may not grow, by the limit of its size, is an error of whoever writes to it, as a full disk is, and not
/// the end of the program.
pub(crate) fn outlive_file_limits() {
    let limit = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    if let Ok(runtime) = runtime::Builder::new_current_thread().enable_io().build() {
        // Whoever has listened for a signal once is not ended by it any more. Where nobody can listen, all is as it was.
        let _ = runtime.block_on(async { signal(limit) });
    }
}

/// Whether, and when, the program was asked to end.
#[derive(Clone)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Starts listening, on a thread of its own, and calls `then` there at the first signal. A second signal, or the end
    /// of the grace period, ends the process at once: nothing that is not committed counts as done, so that is safe.
    pub(crate) fn on_signal(then: impl FnOnce() + Send + 'static) -> Result<Self> {
        Self::listen(then, None)
    }

    /// As [`on_signal`](Self::on_signal), with SIGHUP asking for a reload. From then on that signal does not end the process.
    pub(crate) fn or_reload(then: impl FnOnce() + Send + 'static, reload: Asker) -> Result<Self> {
        Self::listen(then, Some(reload))
    }

    fn listen(then: impl FnOnce() + Send + 'static, reload: Option<Asker>) -> Result<Self> {
        let (asked, answer) = watch::channel(false);
        let (listening, is_listening) = mpsc::channel();
        let listen = async move {
            let mut signals = match Signals::new(reload) {
                Ok(signals) => signals,
                Err(e) => return drop(listening.send(Err(e))),
            };
            drop(listening.send(Ok(())));
            let name = signals.next().await;
            info!("{name}: ending in good order");
            // Nobody waits for the answer where `then` is all that is needed.
            let _ = asked.send(true);
            then();
            tokio::select! {
                name = signals.next() => {
                    warn!("{name} again: ending at once; what is not committed comes again on the next run");
                    crate::flood::finish();
                    process::exit(130);
                }
                () = tokio::time::sleep(GRACE) => {
                    warn!("a batch is still in progress after {GRACE:?}; leaving it for the next run");
                    crate::flood::finish();
                    process::exit(0);
                }
            }
        };
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listen))
            .context("cannot start a thread")?;
        is_listening.recv().context("the signal thread ended early")?.context("cannot listen for signals")?;
        Ok(Self(answer))
    }

    /// Returns once the program was asked to end.
    pub(crate) async fn asked(mut self) {
        // The sender lives until the process ends.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<(Signal, Asker)>,
}

impl Signals {
    fn new(reload: Option<Asker>) -> std::io::Result<Self> {
        let hangup = |asker| Ok::<_, std::io::Error>((signal(SignalKind::hangup())?, asker));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: reload.map(hangup).transpose()?,
        })
    }

    /// The next signal that ends the program.
    async fn next(&mut self) -> &'static str {
        let Self { interrupt, terminate, hangup } = self;
        let reloads = async {
            if let Some((hangup, reload)) = hangup {
                while hangup.recv().await.is_some() {
                    reload.ask();
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            () = reloads => unreachable!("it never ends"),
        }
    }
}
