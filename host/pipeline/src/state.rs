//! The state of plug-ins during one batch, from the first that asks for it to the batch's commit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tailweir_core::state::Changes;
use tailweir_core::{Bucket, StateError, StateKeeper, StateLimits, StateView, Ticket};

use crate::settlement::Settlement;

/// What plug-ins read and change for one delivery. Nothing is opened before somebody asks.
pub(crate) struct BatchState {
    /// `None` without a checkpoint.
    ticket: Option<Ticket>,
    view: Weak<dyn StateView>,
    open: Mutex<Open>,
}

struct Open {
    /// `None` once the batch is over: whoever has a batch for longer shall not hold on to its checkpoint.
    settlement: Option<Arc<Settlement>>,
    buckets: Vec<(String, Bucket)>,
}

impl BatchState {
    pub(crate) fn new(settlement: Arc<Settlement>, ticket: Option<Ticket>) -> Self {
        let view: Arc<dyn StateView> = settlement.clone();
        let open = Mutex::new(Open { settlement: Some(settlement), buckets: Vec::new() });
        Self { ticket, view: Arc::downgrade(&view), open }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has come to a good end: what it has changed stays.
    pub(crate) fn keep(&self) {
        self.open().buckets.iter().for_each(|(_, bucket)| bucket.keep());
    }

    /// A call has failed: what it has changed is undone.
    pub(crate) fn undo(&self) {
        self.open().buckets.iter().for_each(|(_, bucket)| bucket.undo());
    }

    /// The batch is over. Returns what was changed in each bucket.
    pub(crate) fn finish(&self) -> Vec<(String, Changes)> {
        let mut open = self.open();
        open.settlement = None;
        open.buckets.drain(..).map(|(name, bucket)| (name, bucket.close())).collect()
    }
}

impl StateKeeper for BatchState {
    fn open(&self, name: &str, limits: &StateLimits) -> Result<Bucket, StateError> {
        let mut open = self.open();
        let settlement = open.settlement.as_ref().ok_or(StateError::NoBatch)?;
        if let Some((_, bucket)) = open.buckets.iter().find(|(known, _)| known == name) {
            return Ok(bucket.clone());
        }
        let ticket = self.ticket.ok_or(StateError::NoCheckpoint)?;
        let bucket = Bucket::new(settlement.open_bucket(ticket, name)?, limits.clone());
        open.buckets.push((name.to_owned(), bucket.clone()));
        Ok(bucket)
    }

    fn view(&self) -> Weak<dyn StateView> {
        self.view.clone()
    }
}
