//! Shadows of filters.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tailweir_core::{Batch, Filter, FilterError, FilterFactory, Verdict};

use super::compare::{Answer, Said};
use super::cpu::cpu_time;
use super::thread::{Subject, start};
use super::{Anew, Job, Keeps, Shadow, Shadows};
use crate::exit::one_line;
use crate::reload::Place;

/// Gives the filters that `live` makes a shadow, which `shadow` makes: one for all of them together. `place` is that of the
/// live one, `file` the shadow's.
pub(crate) fn shadow_filter(
    shadows: &Shadows,
    place: Place,
    file: &Path,
    live: Arc<dyn FilterFactory>,
    shadow: Arc<dyn FilterFactory>,
) -> Result<Arc<dyn FilterFactory>> {
    let shared = Shadow::new(place, file);
    start(&shared, move || Ok(FilterSubject { factory: shadow, filter: None }))?;
    shadows.add(&shared);
    Ok(Arc::new(Shadowed { live, shadow: shared }))
}

struct Shadowed {
    live: Arc<dyn FilterFactory>,
    shadow: Arc<Shadow>,
}

impl FilterFactory for Shadowed {
    fn create(&self) -> Result<Box<dyn Filter>, Box<dyn StdError + Send + Sync>> {
        Ok(Box::new(ShadowedFilter { live: self.live.create()?, shadow: self.shadow.clone() }))
    }
}

struct ShadowedFilter {
    live: Box<dyn Filter>,
    shadow: Arc<Shadow>,
}

impl Filter for ShadowedFilter {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let begun = cpu_time();
        let answer = self.live.evaluate(candidates);
        // What it fails on it is asked about again, in parts.
        if let Ok(verdict) = &answer {
            let took = cpu_time().saturating_sub(begun);
            self.shadow.offer(candidates, took, Keeps::Nothing, Said::Verdict(verdict), || None);
        }
        answer
    }
}

struct FilterSubject {
    factory: Arc<dyn FilterFactory>,
    filter: Option<Box<dyn Filter>>,
}

impl Subject for FilterSubject {
    /// It remembers nothing.
    fn begin_anew(&mut self, _: Anew) {}

    fn answer(&mut self, job: &Job) -> Result<Answer, String> {
        let filter = match &mut self.filter {
            Some(filter) => filter,
            None => self.filter.insert(self.factory.create().map_err(|e| one_line(&*e))?),
        };
        filter.evaluate(&job.batch).map(Answer::Verdict).map_err(|e| one_line(&*e.source))
    }
}
