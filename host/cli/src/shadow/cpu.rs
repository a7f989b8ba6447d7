//! How long a version computes: what it waits for, a processor, an answer from elsewhere, the disk, says nothing about it.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time that this thread has computed.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// What comes of a future, and how long it has computed.
pub(super) async fn computing<T>(what: impl Future<Output = T>) -> (T, Duration) {
    let (mut what, mut took) = (pin!(what), Duration::ZERO);
    let answer = poll_fn(|context| {
        let begun = cpu_time();
        let polled = what.as_mut().poll(context);
        took += cpu_time().saturating_sub(begun);
        polled
    });
    let answer = answer.await;
    (answer, took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_computing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let begun = cpu_time();
        let (last, took) = runtime.block_on(computing(async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            (0..1_000_000u64).fold(0, |sum, n| std::hint::black_box(sum ^ n))
        }));
        assert_eq!(last, (0..1_000_000).fold(0, |sum, n| sum ^ n));
        // Both are of the same clock, which does not go on while the thread waits.
        assert!(took > Duration::ZERO && took <= cpu_time().saturating_sub(begun));
    }
}
