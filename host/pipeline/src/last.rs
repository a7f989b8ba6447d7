//! The last words on consumers that are still open when the program ends without waiting for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::settlement::Settlement;

static OPEN: Mutex<Vec<Weak<Settlement>>> = Mutex::new(Vec::new());

fn open() -> MutexGuard<'static, Vec<Weak<Settlement>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds one that there may have to be last words on.
pub(crate) fn add(settlement: &Arc<Settlement>) {
    let mut open = open();
    open.retain(|settlement| settlement.strong_count() > 0);
    open.push(Arc::downgrade(settlement));
}

/// Tells of all consumers of this process that are open what they would tell in the end: their sums
/// ([`Ended`](tailweir_core::Event::Ended)) as they are now, with batches in flight, and what their quarantines have dropped. To be
/// called when the process ends without waiting for them; they tell nothing of it again. It waits for none for longer than a second.
pub fn tell_open() {
    let settlements: Vec<_> = open().iter().filter_map(Weak::upgrade).collect();
    settlements.iter().for_each(|settlement| settlement.tell());
}
