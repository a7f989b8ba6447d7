//! Shadows of processors.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tailweir_core::{
    Batch, Failure, MemoryState, Outcome, ProcessFuture, Processor, Replaced, StateKeeper, processor,
};
use tokio::runtime::{Builder, Runtime};

use super::compare::{Answer, Said};
use super::cpu::computing;
use super::thread::{Subject, start};
use super::{Anew, Job, Keeps, Shadow, Shadows};
use crate::reload::{Place, ProcessorSlot, is_part};

/// Gives processors a shadow: one for all of them together.
pub(crate) struct ShadowOfProcessor {
    shadow: Arc<Shadow>,
    slot: ProcessorSlot,
}

impl ShadowOfProcessor {
    /// Starts the shadow that `slot` makes, of the plug-in at `place`.
    pub(crate) fn start(shadows: &Shadows, place: Place, file: &Path, slot: ProcessorSlot) -> Result<Self> {
        let shadow = Shadow::new(place, file);
        let made = slot.clone();
        start(&shadow, move || ProcessorSubject::new(made))?;
        shadows.add(&shadow);
        Ok(Self { shadow, slot })
    }

    /// A processor that answers as `live` does.
    pub(crate) fn follow(&self, live: Box<dyn Processor>) -> Box<dyn Processor> {
        let (shadow, slot) = (self.shadow.clone(), self.slot.clone());
        let version = slot.version();
        Box::new(ShadowedProcessor { live, shadow, slot, version, last: None })
    }
}

struct ShadowedProcessor {
    live: Box<dyn Processor>,
    shadow: Arc<Shadow>,
    slot: ProcessorSlot,
    /// The shadow's when it was looked at last.
    version: u64,
    /// What the shadow was given last. It comes again, whole or in parts, if the answer or the sink has left it undone.
    last: Option<Arc<Batch>>,
}

impl ShadowedProcessor {
    async fn ask(
        &mut self,
        batch: &Arc<Batch>,
        state: Option<&Arc<dyn StateKeeper>>,
    ) -> Result<Outcome, Failure> {
        let (answer, took) = computing(processor::process(&mut *self.live, batch, state)).await;
        self.answered(batch, took, &answer, state);
        answer
    }

    fn answered(
        &mut self,
        batch: &Arc<Batch>,
        took: Duration,
        answer: &Result<Outcome, Failure>,
        state: Option<&Arc<dyn StateKeeper>>,
    ) {
        let again = |whole: &Arc<Batch>| Arc::ptr_eq(batch, whole) || is_part(batch, whole);
        if self.last.as_ref().is_some_and(again) {
            self.shadow.out_of_step();
            return;
        }
        self.last = Some(batch.clone());
        // What an old version has counted wrong, the new one is not to go on from.
        let version = self.slot.version();
        if std::mem::replace(&mut self.version, version) != version {
            self.shadow.out_of_step();
        }
        let bucket = self.slot.bucket();
        let keeps = if bucket.is_some() { Keeps::State } else { Keeps::Nothing };
        // Nothing of the batch is committed yet.
        let before = || state?.view().upgrade()?.contents(&bucket?);
        self.shadow.offer(batch, took, keeps, Said::Processed(answer), before);
    }
}

impl Processor for ShadowedProcessor {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        Box::pin(self.ask(batch, None))
    }

    fn process_with_state<'a>(
        &'a mut self,
        batch: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        Box::pin(self.ask(batch, Some(state)))
    }

    fn replaced(&self) -> Replaced {
        self.live.replaced()
    }
}

/// The second version, with state that is written nowhere.
struct ProcessorSubject {
    slot: ProcessorSlot,
    processor: Box<dyn Processor>,
    state: Arc<MemoryState>,
    runtime: Runtime,
}

impl ProcessorSubject {
    fn new(slot: ProcessorSlot) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        Ok(Self { processor: slot.create(), slot, state: Arc::default(), runtime })
    }
}

impl Subject for ProcessorSubject {
    fn begin_anew(&mut self, anew: Anew) {
        let Some(bucket) = self.slot.bucket() else { return };
        self.state = Arc::new(MemoryState::with(&bucket, anew.state.unwrap_or_default()));
        // An instance may have kept something of the state from before.
        self.processor = self.slot.create();
    }

    fn answer(&mut self, job: &Job) -> Result<Answer, String> {
        let state: Arc<dyn StateKeeper> = self.state.clone();
        let answer = self.runtime.block_on(self.processor.process_with_state(&job.batch, &state));
        self.state.settle(&answer);
        Ok(Answer::Processed(answer))
    }
}
