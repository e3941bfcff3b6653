//! The search for the file that makes a bundle unacceptable, as a plan: which changes to try next, and what the
//! answers come to. A change is known by its number only.
//!
//! Promises: it asks each question once, asks at most [`RUNS_MAX`], and says "not found" rather than guess; a verdict
//! names what was tried, not what is likely.
//! Must never: run anything, or know what is in a file.

use std::collections::BTreeMap;

/// Runs of a validator that one search may cost: enough for 64 changed files.
pub(super) const RUNS_MAX: usize = 10;

/// What the search comes to. Numbers are those of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not even the config without any change is accepted any more.
    BaseRefused,
    /// Refused with this change alone, accepted with all others but this.
    One(usize),
    /// Accepted with either alone, refused with both; the other one is not always known.
    Clash(usize, Option<usize>),
    /// Refused with this change alone, and with all others but this.
    Several(usize),
    /// Accepted with this change alone, refused with all others but this: more than two have to do with it.
    Tangle,
    /// Not found within the runs.
    Unknown,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Have the config with exactly these changes judged.
    Try(Vec<usize>),
    /// It is over.
    Done(Verdict),
}

/// A search over a number of changes that are refused together.
#[derive(Debug)]
pub(super) struct Search {
    count: usize,
    /// Which sets were judged, and whether they were accepted.
    judged: BTreeMap<Vec<usize>, bool>,
    runs: usize,
}

/// A set that has to be judged before anything can be said.
struct Wanted(Vec<usize>);

impl Search {
    /// Over `count` changes, of which it is known that all together are refused.
    pub(super) fn new(count: usize) -> Self {
        Self {
            count,
            judged: BTreeMap::from([((0..count).collect(), false)]),
            runs: 0,
        }
    }

    /// What to do next; the same until [`Search::learn`] brings an answer.
    pub(super) fn next(&self) -> Next {
        match self.walk() {
            Ok(verdict) => Next::Done(verdict),
            Err(Wanted(_)) if self.is_exhausted() => Next::Done(Verdict::Unknown),
            Err(Wanted(set)) => Next::Try(set),
        }
    }

    /// A set was judged by a run.
    pub(super) fn learn(&mut self, set: Vec<usize>, accepted: bool) {
        self.runs = self.runs.saturating_add(1);
        self.judged.insert(set, accepted);
    }

    /// A set cannot even be composed, which costs no run.
    pub(super) fn refuse(&mut self, set: Vec<usize>) {
        self.judged.insert(set, false);
    }

    /// How many runs it has cost.
    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    fn is_exhausted(&self) -> bool {
        self.runs >= RUNS_MAX
    }

    /// Goes over the questions in order, up to the first that has no answer yet.
    fn walk(&self) -> Result<Verdict, Wanted> {
        if !self.accepts(Vec::new())? {
            return Ok(Verdict::BaseRefused);
        }
        let found = self.breaking(None)?;
        let others = self.others(Some(found));
        let others_pass = self.accepts(others)?;
        let alone_passes = self.accepts(vec![found])?;
        Ok(match (others_pass, alone_passes) {
            (true, false) => Verdict::One(found),
            (false, false) => Verdict::Several(found),
            (false, true) => Verdict::Tangle,
            (true, true) => match self.breaking(Some(found)) {
                Ok(partner) => Verdict::Clash(found, Some(partner)),
                Err(Wanted(_)) if self.is_exhausted() => Verdict::Clash(found, None),
                Err(wanted) => return Err(wanted),
            },
        })
    }

    /// The change that turns acceptance into refusal when the changes are added one by one, on top of `fixed`. Found
    /// by halving: what is accepted at one end and refused at the other turns somewhere between.
    fn breaking(&self, fixed: Option<usize>) -> Result<usize, Wanted> {
        let others = self.others(fixed);
        let (mut accepted, mut refused) = (0, others.len());
        while refused.saturating_sub(accepted) > 1 {
            let middle = accepted.midpoint(refused);
            let mut set: Vec<usize> = others.iter().copied().take(middle).chain(fixed).collect();
            crate::units::order::sort(&mut set);
            if self.accepts(set)? {
                accepted = middle;
            } else {
                refused = middle;
            }
        }
        Ok(others.get(accepted).copied().unwrap_or(0))
    }

    fn others(&self, but: Option<usize>) -> Vec<usize> {
        (0..self.count).filter(|it| Some(*it) != but).collect()
    }

    fn accepts(&self, set: Vec<usize>) -> Result<bool, Wanted> {
        match self.judged.get(&set) {
            Some(accepted) => Ok(*accepted),
            None => Err(Wanted(set)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches with a validator that is a function of the set of changes.
    fn found(count: usize, accepts: impl Fn(&[usize]) -> bool) -> (Verdict, usize) {
        let all: Vec<usize> = (0..count).collect();
        assert!(!accepts(&all), "a search begins with a refusal");
        let mut search = Search::new(count);
        loop {
            match search.next() {
                Next::Done(verdict) => return (verdict, search.runs()),
                Next::Try(set) => {
                    let accepted = accepts(&set);
                    search.learn(set, accepted);
                }
            }
        }
    }

    #[test]
    fn one_bad_change_is_found_wherever_it_stands() {
        for count in 2..=64 {
            for bad in 0..count {
                let (verdict, runs) = found(count, |set| !set.contains(&bad));
                assert_eq!(verdict, Verdict::One(bad), "{bad} of {count}");
                assert!(runs <= RUNS_MAX, "{runs} runs for {bad} of {count}");
            }
        }
    }

    #[test]
    fn two_that_do_not_go_together_are_both_named() {
        for (one, other) in [(0, 1), (0, 3), (1, 2), (2, 5)] {
            let both = |set: &[usize]| set.contains(&one) && set.contains(&other);
            let (verdict, _) = found(6, |set| !both(set));
            assert_eq!(verdict, Verdict::Clash(other, Some(one)));
        }
    }

    #[test]
    fn one_of_two_that_do_not_go_together_is_named_where_the_runs_end_before_the_other_is_found() {
        let both = |set: &[usize]| set.contains(&3) && set.contains(&30);
        let (verdict, runs) = found(40, |set| !both(set));
        assert_eq!((verdict, runs), (Verdict::Clash(30, None), RUNS_MAX));
    }

    #[test]
    fn what_no_single_change_explains_is_said_so() {
        // Each is bad for itself.
        assert_eq!(found(2, <[usize]>::is_empty).0, Verdict::Several(0));
        // Two that need each other, and a third that is bad.
        let pair = |set: &[usize]| set.contains(&0) == set.contains(&1);
        let (verdict, _) = found(3, |set| pair(set) && !set.contains(&2));
        assert_eq!(verdict, Verdict::Several(0));
        // Each half of a renamed reference is refused without the other, and so are both with the third.
        let tangle = |set: &[usize]| matches!(set, [] | [0 | 2] | [0, 2]);
        assert_eq!(found(4, tangle).0, Verdict::Several(1));
        // What was accepted before is refused now: the change is elsewhere.
        assert_eq!(found(3, |_| false).0, Verdict::BaseRefused);
    }

    #[test]
    fn search_ends_within_its_runs_whatever_the_validator_says() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let count = random.usize(2..200);
            let salt = random.u64(..);
            let all: Vec<usize> = (0..count).collect();
            let (verdict, runs) = found(count, |set| {
                // No sense in it, but the same answer to the same question.
                let mut sum = salt;
                for number in set {
                    sum = sum.rotate_left(7) ^ (*number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                }
                set != all && !sum.is_multiple_of(3)
            });
            assert!(runs <= RUNS_MAX, "{runs} runs, {verdict:?}");
        }
    }

    #[test]
    fn what_cannot_be_composed_costs_no_run() {
        let mut search = Search::new(2);
        assert_eq!(search.next(), Next::Try(Vec::new()));
        search.learn(Vec::new(), true);
        assert_eq!(search.next(), Next::Try(vec![0]));
        search.refuse(vec![0]);
        assert_eq!(search.next(), Next::Try(vec![1]));
        search.learn(vec![1], true);
        assert_eq!(search.next(), Next::Done(Verdict::One(0)));
        assert_eq!(search.runs(), 2);
    }
}
