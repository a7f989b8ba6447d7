//! A batch on its way to being committed, and the handle that closes its consumer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tailweir_core::{Batch, Event, EventSink, StateKeeper, Ticket};
use tokio::sync::Notify;

use crate::Counters;
use crate::book::Share;
use crate::quarantine::Blame;
use crate::settlement::{Aside, CommitError, Settlement, chain};
use crate::state::BatchState;

/// Closes a consumer from any thread.
#[derive(Debug, Clone)]
pub struct Closer {
    pub(crate) closed: Arc<AtomicBool>,
    /// Wakes the consumer.
    pub(crate) notify: Arc<Notify>,
    /// Wakes all who wait for the end.
    pub(crate) closing: Arc<Notify>,
}

impl Closer {
    /// A pending or later [`crate::Consumer::next`] gives `None`. Batches that were delivered may still be committed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.notify.notify_one();
        self.closing.notify_waiters();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        // Before the look: whoever closes it afterwards wakes this.
        let closing = self.closing.notified();
        if !self.is_closed() {
            closing.await;
        }
    }
}

/// A batch that must be committed. If it is dropped without, its records come again on the next run.
#[must_use = "a delivery that is dropped is not committed"]
pub struct Delivery {
    batch: Arc<Batch>,
    state: State,
    /// Its records, less those that were set aside.
    shares: Vec<Share>,
    /// Records that were set aside.
    aside: BTreeSet<u32>,
    settlement: Arc<Settlement>,
    events: Arc<dyn EventSink>,
    /// Once somebody has asked for it.
    plugin_state: Option<Arc<BatchState>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no checkpoint to keep it in.
    Unkept,
    Outstanding(Ticket),
    /// Acknowledged, but the checkpoint could not be written.
    Unsaved,
    Committed,
}

impl Delivery {
    /// A batch that was recorded in the ledger as `ticket`, if there is a checkpoint to keep.
    pub(crate) fn new(
        batch: Batch,
        ticket: Option<Ticket>,
        shares: Vec<Share>,
        settlement: Arc<Settlement>,
        events: Arc<dyn EventSink>,
    ) -> Self {
        let state = ticket.map_or(State::Unkept, State::Outstanding);
        let (batch, aside) = (Arc::new(batch), BTreeSet::new());
        Self { batch, state, shares, aside, settlement, events, plugin_state: None }
    }

    /// The batch.
    pub fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }

    /// Where plug-ins find their state, to read and change it for this batch. What they change is kept with the commit: it is
    /// there after a crash if and only if the commit is. If the delivery is dropped instead, it is as if nothing had been
    /// changed.
    pub fn state(&mut self) -> Arc<dyn StateKeeper> {
        self.batch_state().clone()
    }

    pub(crate) fn batch_state(&mut self) -> &Arc<BatchState> {
        let (settlement, state) = (&self.settlement, self.state);
        self.plugin_state.get_or_insert_with(|| {
            let ticket = if let State::Outstanding(ticket) = state { Some(ticket) } else { None };
            let made = BatchState::new(settlement.clone(), ticket);
            if matches!(state, State::Unsaved | State::Committed) {
                made.finish();
            }
            Arc::new(made)
        })
    }

    /// Says that the batch is dealt with, and writes the checkpoint. Works after the consumer was closed, too.
    ///
    /// # Errors
    /// [`CommitError::AlreadyCommitted`] the second time. If the checkpoint can't be written, say because the disk is
    /// full, the batch counts as dealt with all the same, and it may be committed again to try again.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        match self.state {
            State::Committed => return Err(CommitError::AlreadyCommitted),
            State::Unkept => self.settlement.book().acknowledge(&self.shares),
            State::Unsaved => self.settlement.save()?,
            State::Outstanding(ticket) => {
                let changes = self.plugin_state.as_ref().map(|state| state.finish()).unwrap_or_default();
                self.settlement.ack(ticket, changes)?;
                self.state = State::Unsaved;
                self.settlement.book().acknowledge(&self.shares);
                self.settlement.save()?;
            }
        }
        self.state = State::Committed;
        let (records, bytes) = (self.batch.len() as u64, self.batch.bytes() as u64);
        let counters = self.settlement.counters();
        Counters::add(&counters.committed_batches, 1);
        Counters::add(&counters.committed_records, records);
        Counters::add(&counters.committed_bytes, bytes);
        self.events.emit(Event::Committed { consumer: self.batch.consumer().to_owned(), records, bytes });
        Ok(())
    }

    /// Puts records of the batch in quarantine; without a checkpoint there is none, and they are only counted and named.
    /// The batch must still be committed.
    ///
    /// # Errors
    /// If the quarantine can't be written.
    pub fn quarantine(&mut self, indices: &[u32], reason: &str) -> Result<(), CommitError> {
        for index in indices {
            let Some(record) = self.batch.get(*index as usize) else { continue };
            if self.aside.contains(index) {
                continue;
            }
            let position = record.position();
            let aside = Aside { position: &position, reason, blame: Blame::Processor, bytes: record.bytes() };
            let kept = self.settlement.set_aside(&aside)?;
            self.aside.insert(*index);
            if let Some(share) = self.shares.iter_mut().find(|share| share.segment == position.segment) {
                self.settlement.book().set_aside(share, kept);
            }
        }
        Ok(())
    }

    /// Says that committing it, and putting what is rejected of it in quarantine, is tried again until it works.
    pub(crate) fn unwritten(&self, error: &CommitError) {
        let (consumer, batch) = (self.batch.consumer(), self.batch.id());
        let message = format!(
            "consumer `{consumer}` waits until it can write what became of batch {batch}: {}",
            chain(error)
        );
        self.events.emit(Event::Warning { message });
    }

    /// Says that the batch will be delivered again.
    pub(crate) fn retrying(&self, after: Duration, reason: &str) {
        Counters::add(&self.settlement.counters().retries, 1);
        let (consumer, batch) = (self.batch.consumer().to_owned(), self.batch.id().to_string());
        let after_ms = after.as_millis() as u64;
        self.events.emit(Event::Retried { consumer, batch, after_ms, reason: reason.to_owned() });
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if matches!(self.state, State::Unkept | State::Outstanding(_)) {
            self.settlement.book().abandon(&self.shares);
        }
        // Whoever has a bucket still shall not hold on to what is in it.
        self.plugin_state.iter().for_each(|state| _ = state.finish());
    }
}
