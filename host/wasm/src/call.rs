//! One call into a guest: its clock, and what can go wrong with it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::{Sleep, sleep};

use crate::ticks::Ticks;

/// A call into a plug-in failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// The plug-in answered with an error.
    #[error("plug-in {plugin}: {reason}")]
    Refused {
        /// The plug-in's name.
        plugin: String,
        /// What it says.
        reason: String,
    },
    /// The plug-in answered with something that it must not answer with.
    #[error("plug-in {plugin} is at fault: {what}")]
    Invalid {
        /// The plug-in's name.
        plugin: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// The plug-in trapped, or ran into a limit. The next call gets a fresh instance.
    #[error("plug-in {plugin} crashed: {cause}{}", what_it_said(.said))]
    Crashed {
        /// The plug-in's name.
        plugin: String,
        /// Why the call ended.
        cause: String,
        /// The last error that it logged in the call; the text of a panic, if that is what happened.
        said: Option<String>,
    },
}

fn what_it_said(said: &Option<String>) -> String {
    said.as_ref().map_or_else(String::new, |said| format!("; it said: {said}"))
}

/// Measures how long a call computes; the time that it waits in the host does not count.
pub(crate) struct Clock {
    /// Makes guests look at their clock. The host holds them, and this clock as well, so that they outlive the call.
    ticks: Arc<Ticks>,
    origin: Instant,
    limit: Duration,
    /// When the call began, in nanoseconds since `origin`.
    began: AtomicU64,
    /// Nanoseconds that the call has computed before it was resumed last.
    spent: AtomicU64,
    /// When it was resumed last, in nanoseconds since `origin`.
    resumed: AtomicU64,
}

impl Clock {
    pub(crate) fn new(limit: Duration, ticks: Arc<Ticks>) -> Arc<Self> {
        Arc::new(Self {
            ticks,
            origin: Instant::now(),
            limit,
            began: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
        })
    }

    /// A call begins.
    pub(crate) fn reset(&self) {
        self.spent.store(0, Ordering::Relaxed);
        self.resume();
        self.began.store(self.resumed.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// How long the call has taken until now, and how long it has computed before it was resumed last.
    pub(crate) fn times(&self) -> (Duration, Duration) {
        let took = self.now().saturating_sub(self.began.load(Ordering::Relaxed));
        (Duration::from_nanos(took), Duration::from_nanos(self.spent.load(Ordering::Relaxed)))
    }

    /// How long the call has waited in the host. To be asked while it computes.
    pub(crate) fn waited(&self) -> Duration {
        let ran = self.now().saturating_sub(self.resumed.load(Ordering::Relaxed));
        let (took, computed) = self.times();
        took.saturating_sub(computed).saturating_sub(Duration::from_nanos(ran))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn resume(&self) {
        self.resumed.store(self.now(), Ordering::Relaxed);
    }

    fn pause(&self) {
        let ran = self.now().saturating_sub(self.resumed.load(Ordering::Relaxed));
        self.spent.fetch_add(ran, Ordering::Relaxed);
    }

    /// Looks at the clock.
    ///
    /// # Errors
    /// If the running call has computed for longer than it may.
    pub(crate) fn check(&self) -> Result<(), Overrun> {
        let ran = self.now().saturating_sub(self.resumed.load(Ordering::Relaxed));
        let computed = Duration::from_nanos(self.spent.load(Ordering::Relaxed) + ran);
        if computed > self.limit { Err(Overrun(self.limit)) } else { Ok(()) }
    }
}

/// A call has computed for longer than it may.
#[derive(Debug, Error)]
#[error("it ran for longer than its deadline, {}", humantime::format_duration(*.0))]
pub(crate) struct Overrun(Duration);

/// A call that may wait in the host for so long in all; the time that it computes does not count.
pub(crate) struct Patient<F> {
    call: Pin<Box<F>>,
    left: Duration,
    /// Since when it waits.
    waits: Option<Instant>,
    /// Wakes it when it has waited for too long.
    alarm: Pin<Box<Sleep>>,
}

/// A call has waited for longer than it may.
pub(crate) struct WaitedTooLong;

/// What a call may wait beyond its limit: a request that is given up at the limit is told to the guest first.
const GRACE: Duration = Duration::from_secs(1);

impl<F> Patient<F> {
    /// To be made where tokio's time runs.
    pub(crate) fn new(limit: Duration, call: F) -> Self {
        let left = limit.saturating_add(GRACE);
        Self { call: Box::pin(call), left, waits: None, alarm: Box::pin(sleep(left)) }
    }
}

impl<F: Future> Future for Patient<F> {
    type Output = Result<F::Output, WaitedTooLong>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(since) = this.waits.take() {
            this.left = this.left.saturating_sub(since.elapsed());
        }
        if let Poll::Ready(output) = this.call.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if this.left.is_zero() {
            return Poll::Ready(Err(WaitedTooLong));
        }
        let now = Instant::now();
        this.waits = Some(now);
        // One that is further away than clocks reach never comes.
        let end = now.checked_add(this.left).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365));
        this.alarm.as_mut().reset(end.into());
        this.alarm.as_mut().poll(cx).map(|()| Err(WaitedTooLong))
    }
}

/// A call whose clock runs while it computes.
pub(crate) struct Timed<F> {
    call: Pin<Box<F>>,
    clock: Arc<Clock>,
}

impl<F> Timed<F> {
    pub(crate) fn new(call: F, clock: Arc<Clock>) -> Self {
        clock.reset();
        Self { call: Box::pin(call), clock }
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _computing = this.clock.ticks.computing();
        this.clock.resume();
        let poll = this.call.as_mut().poll(cx);
        this.clock.pause();
        poll
    }
}
