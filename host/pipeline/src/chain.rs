//! A consumer's filters: a record is kept if all of them keep it.
//!
//! They are asked one after the other, each about what those before it have kept. One that fails is dealt with by itself: the
//! records that it fails on are found with it alone, which knows what it was given since it failed last.

use std::sync::Arc;

use tailweir_core::{Batch, Filter, FilterError, FilterFactory, Located, Position, Verdict};

use crate::halving::{Failed, Halving};
use crate::settlement::chain;
use crate::{FilterOptions, OnFilterError};

/// The filters of one consumer.
pub(crate) struct Chain {
    links: Vec<Link>,
    on_error: OnFilterError,
    max_poison: Option<u32>,
}

/// One filter.
struct Link {
    name: Arc<str>,
    filter: Box<dyn Filter>,
    /// Records that it failed on since it last answered about one.
    poison_in_a_row: u32,
}

/// What a chain says about candidates.
pub(crate) struct Judged {
    /// On all of them, or on those before the one at which it failed.
    pub(crate) verdict: Verdict,
    /// The index of the candidate at which it cannot go on, and why.
    pub(crate) failed: Option<(usize, Fault)>,
    /// Records that a filter fails on, in order of filters; none is kept.
    pub(crate) poison: Vec<Poison>,
}

/// A filter has failed.
pub(crate) struct Fault {
    /// What the filter is called.
    pub(crate) filter: String,
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

/// A filter fails on whatever it is given.
pub(crate) struct Broken {
    pub(crate) in_a_row: u32,
    pub(crate) position: Position,
    pub(crate) fault: Fault,
}

/// A record that a filter fails on.
pub(crate) struct Poison {
    /// Its index among the candidates.
    pub(crate) index: usize,
    /// What the filter is called.
    pub(crate) filter: Arc<str>,
    /// What it says.
    pub(crate) reason: String,
}

/// What a chain, mostly of other instances, said about a whole block, and how many of them were asked.
pub(crate) struct Sifted {
    pub(crate) verdict: Verdict,
    pub(crate) asked: usize,
}

/// What a chain of other instances said about a whole block. An error is that of the first filter, if that one has failed: what
/// one further on has failed on is asked again, from the start.
pub(crate) type Answer = Result<Sifted, Option<FilterError>>;

impl Chain {
    pub(crate) fn new(filters: Vec<FilterOptions>, on_error: OnFilterError, max_poison: Option<u32>) -> Self {
        let link = |filter: FilterOptions| Link {
            name: filter.name.into(),
            filter: filter.filter,
            poison_in_a_row: 0,
        };
        Self { links: filters.into_iter().map(link).collect(), on_error, max_poison }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Takes an answer of other instances as its own.
    pub(crate) fn adopt(&mut self, sifted: Sifted) -> Judged {
        self.links.iter_mut().take(sifted.asked).for_each(|link| link.poison_in_a_row = 0);
        Judged { verdict: sifted.verdict, failed: None, poison: Vec::new() }
    }

    /// Asks about a block that is not to be judged yet: [`adopt`](Self::adopt) or [`judge`](Self::judge) get the answer when it is.
    pub(crate) fn sift(&mut self, candidates: Arc<Batch>) -> Answer {
        sift(self.links.iter_mut().map(|link| &mut link.filter), candidates)
    }

    /// Asks all filters about candidates. `known` is what another instance of the first one has failed with on all of them.
    ///
    /// # Errors
    /// If a filter is held to be broken.
    pub(crate) fn judge(
        &mut self,
        candidates: &Arc<Batch>,
        mut known: Option<FilterError>,
    ) -> Result<Judged, Broken> {
        let (alone, last) = (self.links.len() == 1, self.links.len().saturating_sub(1));
        if !alone {
            candidates.share();
        }
        let mut sieve = Sieve::new(candidates.clone());
        let (mut failed, mut poison) = (None, Vec::new());
        for (n, link) in self.links.iter_mut().enumerate() {
            if sieve.left.is_empty() {
                break;
            }
            let answer = match known.take() {
                Some(error) => Err(error),
                None => link.filter.evaluate(&sieve.left),
            };
            let verdict = match (answer, self.on_error) {
                (Ok(verdict), _) => {
                    link.poison_in_a_row = 0;
                    verdict
                }
                (Err(FilterError { decided, source, .. }), OnFilterError::Raise) => {
                    let at = sieve.candidate(decided.len());
                    let filter = link.title(alone);
                    failed = Some((at, Fault { filter, source }));
                    // What comes before may be delivered, if the others keep it.
                    sieve.cut(at);
                    Verdict::Keep(decided)
                }
                (Err(error), OnFilterError::Isolate) => {
                    let found =
                        link.isolate(&sieve.left, error, self.max_poison).map_err(|found| Broken {
                            fault: Fault { filter: link.title(alone), source: found.source },
                            in_a_row: found.in_a_row,
                            position: found.position,
                        })?;
                    poison.extend(found.poison.into_iter().map(|(index, reason)| {
                        let (index, filter) = (sieve.candidate(index), link.name.clone());
                        Poison { index, filter, reason }
                    }));
                    Verdict::Keep(found.keep)
                }
            };
            sieve.apply(verdict, if n == last { Then::Nobody } else { Then::Next });
        }
        Ok(Judged { verdict: sieve.verdict, failed, poison })
    }
}

/// Asks filters about candidates, without a second try.
pub(crate) fn sift<'a>(
    filters: impl ExactSizeIterator<Item = &'a mut Box<dyn Filter>>,
    candidates: Arc<Batch>,
) -> Answer {
    let last = filters.len().saturating_sub(1);
    if last > 0 {
        candidates.share();
    }
    let mut sieve = Sieve::new(candidates);
    let mut asked = 0;
    for (n, filter) in filters.enumerate() {
        if sieve.left.is_empty() {
            break;
        }
        let verdict = filter.evaluate(&sieve.left).map_err(|error| (n == 0).then_some(error))?;
        sieve.apply(verdict, if n == last { Then::Nobody } else { Then::Next });
        asked += 1;
    }
    Ok(Sifted { verdict: sieve.verdict, asked })
}

/// Makes one filter of each factory; `None` if one cannot.
pub(crate) fn instances(factories: &[Arc<dyn FilterFactory>]) -> Option<Vec<Box<dyn Filter>>> {
    factories.iter().map(|factory| factory.create().ok()).collect()
}

/// Candidates on their way through a chain.
struct Sieve {
    /// On the candidates, so far. It says nothing of those behind its end.
    verdict: Verdict,
    /// Those that are kept so far, for the next filter.
    left: Arc<Batch>,
    /// How many candidates the verdict is about; `None` is all.
    end: Option<usize>,
}

/// Who is asked about what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    Nobody,
}

impl Sieve {
    fn new(candidates: Arc<Batch>) -> Self {
        Self { verdict: Verdict::All, left: candidates, end: None }
    }

    /// The index among the candidates of the one at `index` of those that are left.
    fn candidate(&self, index: usize) -> usize {
        match &self.verdict {
            Verdict::Keep(keep) => {
                let mut kept = keep.iter().enumerate().filter(|(_, keep)| **keep);
                kept.nth(index).map_or(keep.len(), |(candidate, _)| candidate)
            }
            _ => index,
        }
    }

    /// Leaves the candidates from `end` on undecided.
    fn cut(&mut self, end: usize) {
        self.end = Some(end);
    }

    /// Takes a verdict on those that are left. Whatever it has no entry for is not kept.
    fn apply(&mut self, verdict: Verdict, then: Then) {
        if then == Then::Next && verdict != Verdict::All {
            let len = self.left.len();
            let left = self.left.kept(&verdict);
            if left.len() < len {
                self.left = Arc::new(left);
            }
        }
        match (&mut self.verdict, verdict) {
            (_, Verdict::All) | (Verdict::None, _) => {}
            (Verdict::All, verdict) => self.verdict = verdict,
            (Verdict::Keep(_), Verdict::None) => self.verdict = Verdict::None,
            (Verdict::Keep(keep), Verdict::Keep(of_left)) => {
                let mut answers = of_left.into_iter();
                keep.iter_mut().filter(|keep| **keep).for_each(|keep| *keep = answers.next() == Some(true));
            }
        }
        if let (Some(end), Verdict::Keep(keep)) = (self.end, &mut self.verdict) {
            keep.truncate(end);
        }
    }
}

/// What was found by trying parts of what a filter fails on.
struct Found {
    keep: Vec<bool>,
    poison: Vec<(usize, String)>,
}

/// Why it was not found.
struct Hopeless {
    in_a_row: u32,
    position: Position,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Link {
    /// What it is called where it is told that it has failed.
    fn title(&self, alone: bool) -> String {
        if alone { "the filter".to_owned() } else { self.name.to_string() }
    }

    /// Finds the records that it fails on, by trying again and then by halving.
    fn isolate(
        &mut self,
        candidates: &Arc<Batch>,
        error: FilterError,
        max_poison: Option<u32>,
    ) -> Result<Found, Hopeless> {
        let mut keep = vec![false; candidates.len()];
        let mut halving = Halving::new(candidates.len());
        let (mut error, mut poison) = (Some(error), Vec::new());
        while let Some(part) = halving.next() {
            let answer = match error.take() {
                Some(error) => Err(error),
                None => self.filter.evaluate(&Arc::new(candidates.slice(part.clone()))),
            };
            let error = match answer {
                Ok(verdict) => {
                    for (index, keep) in keep[part].iter_mut().enumerate() {
                        *keep = verdict.keeps(index);
                    }
                    halving.passed();
                    self.poison_in_a_row = 0;
                    continue;
                }
                Err(error) => error,
            };
            let failed = match error.located {
                Located::Batch => halving.failed(),
                Located::Record => {
                    let decided = error.decided.len().min(part.len() - 1);
                    keep[part.start..][..decided].copy_from_slice(&error.decided[..decided]);
                    self.poison_in_a_row *= u32::from(decided == 0);
                    halving.failed_at(part.start + decided)
                }
            };
            let Failed::Found(index) = failed else { continue };
            self.poison_in_a_row += 1;
            if max_poison.is_some_and(|max| self.poison_in_a_row >= max) {
                let in_a_row = std::mem::take(&mut self.poison_in_a_row);
                let position = candidates.get(index).map(|record| record.position());
                let position = position.expect("the index is one of the candidates'");
                return Err(Hopeless { in_a_row, position, source: error.source });
            }
            poison.push((index, chain(&*error.source)));
        }
        Ok(Found { keep, poison })
    }
}
