//! Filters.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use tailweir_core::{Batch, CallFault, Filter, FilterError, FilterFactory, Located, Verdict};

use crate::call::{CallError, Timed};
use crate::instance::{Instance, OnTick, Template, run_now};
use crate::load::{Description, Kind, LoadError, LoadErrorKind, Loaded};
use crate::v0_1::{filter::FilterPlugin as World, handle};

/// A loaded filter. Each filter that it makes is an instance of its own.
#[derive(Clone)]
pub struct FilterPlugin {
    template: Arc<Template<World>>,
    description: Arc<Description>,
}

impl FilterPlugin {
    pub(crate) fn new(loaded: Loaded) -> Result<Self, LoadError> {
        let mut template = Template::new(loaded, OnTick::Continue)?;
        let started = run_now(template.try_out(|_| None))
            .unwrap_or_else(|waits| Err(LoadErrorKind::Start(waits.to_string())));
        let description = started.map_err(|kind| template.loaded().error(kind))?;
        template.rename(&description);
        Ok(Self { template: Arc::new(template), description: Arc::new(description) })
    }

    /// Loads what is in its file now, and tries one instance of it, with the same configuration, grants and limits. This one
    /// goes on as it is. `None` if the file has not changed.
    ///
    /// # Errors
    /// As when it was loaded.
    pub fn reload(&self) -> Result<Option<Self>, LoadError> {
        let old = self.template.loaded();
        let Some(loaded) = old.again(Kind::Filter)? else { return Ok(None) };
        let new = Self::new(loaded)?;
        old.host.forget(&old.key);
        Ok(Some(new))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.template.loaded().path
    }

    /// What the plug-in says about itself.
    pub fn info(&self) -> &Description {
        &self.description
    }
}

impl std::fmt::Debug for FilterPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FilterPlugin").field(&self.description).finish()
    }
}

impl FilterFactory for FilterPlugin {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn StdError + Send + Sync>> {
        let instance = restart(&self.template)?;
        Ok(Box::new(WasmFilter { template: self.template.clone(), instance: Some(instance) }))
    }
}

fn restart(template: &Template<World>) -> Result<Instance<World>, CallError> {
    run_now(template.restart(None)).unwrap_or_else(|waits| Err(crashed(template, &waits)))
}

fn crashed(template: &Template<World>, cause: &dyn StdError) -> CallError {
    CallError::Crashed { plugin: template.name().to_owned(), cause: cause.to_string(), said: None }
}

struct WasmFilter {
    template: Arc<Template<World>>,
    /// None after a call that ended the instance.
    instance: Option<Instance<World>>,
}

impl WasmFilter {
    fn call(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, CallError> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => restart(&self.template).inspect_err(|_| {
                self.template.figures(candidates.consumer()).failed(CallFault::Trap);
            })?,
        };
        let Instance { world, call } = &mut instance;
        call.begin_batch(candidates, &self.template);
        let clock = call.clock.clone();
        let evaluate = world.tailweir_plugin_filter().call_evaluate(&mut call.store, handle());
        let result = run_now(Timed::new(evaluate, clock)).unwrap_or_else(|waits| Err(waits.into()));
        let answer = match call.end(result)? {
            Ok(verdict) => check_length(verdict.into(), candidates.len()).map_err(|what| call.invalid(what)),
            Err(reason) => Err(call.refused(reason)),
        };
        if let (Ok(verdict), Some(figures)) = (&answer, call.figures()) {
            figures.decided(verdict, candidates.len());
        }
        self.instance = instance.reuse();
        answer
    }
}

/// A verdict of another length says nothing about any record.
fn check_length(verdict: Verdict, len: usize) -> Result<Verdict, String> {
    match &verdict {
        Verdict::Keep(keep) if keep.len() != len => Err(format!(
            "its verdict has {} entries for {len} records; it must have one for each, in order",
            keep.len()
        )),
        _ => Ok(verdict),
    }
}

impl Filter for WasmFilter {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        if candidates.is_empty() {
            return Ok(Verdict::All);
        }
        self.call(candidates).map_err(|e| {
            self.template.tally(Some(candidates.consumer())).failed(&e);
            FilterError { decided: Vec::new(), located: Located::Batch, source: e.into() }
        })
    }
}
