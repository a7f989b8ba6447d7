//! Finding the records that a plug-in fails on, by trying parts of what it was given.
//!
//! What fails as a whole is tried once more, and then in halves. A record by itself is to blame only if it is all that an
//! instance was ever given: after a failure a plug-in is a fresh one, while one that has answered before may fail of what
//! it keeps. So a record that is failed on right after an answer is tried again.

use std::ops::Range;

/// Which part to try next.
#[derive(Debug)]
pub(crate) struct Halving {
    /// Parts that nothing is known of, the first one last.
    open: Vec<Range<usize>>,
    whole: usize,
    /// The call before failed.
    fresh: bool,
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The same part is to be tried again.
    Again,
    /// Parts of it are to be tried.
    Halved,
    /// The record at this index is to blame, and is not tried again.
    Found(usize),
}

impl Halving {
    /// Of `len` records, to be tried as a whole first.
    pub(crate) fn new(len: usize) -> Self {
        let whole = 0..len;
        Self { open: Vec::from_iter((len > 0).then_some(whole)), whole: len, fresh: false }
    }

    /// The part to try; `None` when all is decided.
    pub(crate) fn next(&self) -> Option<Range<usize>> {
        self.open.last().cloned()
    }

    /// The part that was tried is dealt with.
    pub(crate) fn passed(&mut self) {
        self.open.pop();
        self.fresh = false;
    }

    /// The plug-in failed somewhere in the part that was tried.
    pub(crate) fn failed(&mut self) -> Failed {
        let fresh = std::mem::replace(&mut self.fresh, true);
        let Some(part) = self.open.pop() else { return Failed::Halved };
        if !fresh && (part.len() == 1 || part.len() == self.whole) {
            self.open.push(part);
            return Failed::Again;
        }
        if part.len() == 1 {
            return Failed::Found(part.start);
        }
        let middle = part.start + part.len() / 2;
        self.open.push(middle..part.end);
        self.open.push(part.start..middle);
        Failed::Halved
    }

    /// The plug-in dealt with the part that was tried up to the record at `index`, and failed on that.
    pub(crate) fn failed_at(&mut self, index: usize) -> Failed {
        self.fresh = true;
        if let Some(part) = self.open.pop()
            && index + 1 < part.end
        {
            self.open.push(index + 1..part.end);
        }
        Failed::Found(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Which records are found by a plug-in that fails on `poison`, and at each call that is the `nth` of an instance; and
    /// how many calls that takes. Each record must be answered exactly once.
    fn find(len: usize, poison: &[usize], nth: usize) -> (Vec<usize>, usize) {
        let (mut halving, mut found, mut answered) = (Halving::new(len), Vec::new(), Vec::new());
        let (mut calls, mut of_instance) = (0, 0);
        while let Some(part) = halving.next() {
            calls += 1;
            of_instance += 1;
            if part.clone().any(|index| poison.contains(&index)) || of_instance == nth {
                of_instance = 0;
                if let Failed::Found(index) = halving.failed() {
                    found.push(index);
                }
            } else {
                answered.extend(part);
                halving.passed();
            }
        }
        let mut all = [&found[..], &answered].concat();
        assert!(answered.is_sorted(), "the order is kept");
        all.sort_unstable();
        assert!(all.into_iter().eq(0..len));
        (found, calls)
    }

    #[test]
    fn one_of_many_takes_a_few_calls() {
        assert_eq!(find(0, &[], 0), (vec![], 0));
        assert_eq!(find(1, &[0], 0), (vec![0], 2));
        let (found, calls) = find(1000, &[617], 0);
        assert_eq!(found, [617]);
        assert!(calls <= 22, "{calls}");
    }

    proptest! {
        #[test]
        fn exactly_the_poisonous_ones_are_found(
            len in 1usize..70, poison in proptest::collection::btree_set(0usize..70, 0..6), nth in 0usize..9,
        ) {
            // One that fails at its very first call fails on everything.
            prop_assume!(nth != 1);
            let poison: Vec<usize> = poison.into_iter().filter(|index| *index < len).collect();
            prop_assert_eq!(find(len, &poison, nth).0, poison);
        }
    }
}
