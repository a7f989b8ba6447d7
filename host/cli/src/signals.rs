//! SIGINT and SIGTERM end the program in good order.

use std::process;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// How long a batch in progress may take after the first signal; longer than a script gets, which is ended in better order.
const GRACE: Duration = Duration::from_secs(15);

/// Whether, and when, the program was asked to end.
#[derive(Clone)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Starts listening, on a thread of its own, and calls `then` there at the first signal. A second signal, or the end
    /// of the grace period, ends the process at once: nothing that is not committed counts as done, so that is safe.
    pub(crate) fn on_signal(then: impl FnOnce() + Send + 'static) -> Result<Self> {
        let (asked, answer) = watch::channel(false);
        let (listening, is_listening) = mpsc::channel();
        let listen = async move {
            let mut signals = match Signals::new() {
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
                    process::exit(130);
                }
                () = tokio::time::sleep(GRACE) => {
                    warn!("a batch is still in progress after {GRACE:?}; leaving it for the next run");
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
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
