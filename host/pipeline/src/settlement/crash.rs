//! Loss of power and death of the process at every step of up to three commits. Every state that the files may be found in
//! is recovered from with the code that a consumer starts with.
//!
//! What is held to it: what is recovered covers nothing that was not acknowledged, and lacks nothing that was brought to
//! the disk, or, if only the process died, whose commit has returned. There always is a checkpoint that can be used. What
//! it passes and was put in quarantine is in quarantine. A plug-in that keeps account of what it was given, in its state,
//! has an account of exactly what is covered. And all this holds once more for a loss of power while a consumer goes on from
//! what was recovered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use tailweir_core::{Mark, Point, Position};

use super::*;
use crate::checkpoint::{FileStore, journal_names, parse, state_class};
use crate::files::simulated::{Content, Exchange, Simulated, State};
use crate::quarantine::{QuarantineOptions, read_from};

/// What a batch of a scenario is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    Plain,
    /// One of its records is put in quarantine.
    Rejected,
    /// It is the last one of its segment.
    Last,
}

/// What happens after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// The interval of `checkpoint_sync` is over.
    Sync,
    /// The process dies, and another one starts.
    Kill,
}

#[derive(Debug, Clone, PartialEq)]
struct Scenario {
    sync: CheckpointSync,
    exchange: Exchange,
    /// How much the quarantine may hold, in bytes.
    quarantine: u64,
    account: Account,
    steps: Vec<(Commit, Then)>,
}

/// Whether a plug-in keeps account of what is done with, in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Account {
    None,
    /// From the first batch on.
    Kept,
    /// From the second batch on.
    Later,
    /// From the first batch on, and the journal is written anew for each.
    Compacted,
}

/// How many lines of each segment are dealt with; [`ALL`] if it is finished.
type Done = BTreeMap<SegmentName, u64>;

const ALL: u64 = u64::MAX;

fn done(saved: &Saved) -> Done {
    let begun = saved.frontier.segments.iter();
    let mut done: Done =
        begun.map(|(n, p)| (n.clone(), if p.finished { ALL } else { p.mark.point.line })).collect();
    // Any file may be a segment, as far as KumoMTA's checkpoint goes.
    let segments = saved.finished.iter().filter(|name| !name.as_str().starts_with(".c"));
    done.extend(segments.map(|name| (name.clone(), ALL)));
    // One that is only known of is as good as none.
    done.retain(|_, lines| *lines > 0);
    done
}

const BUCKET: &str = "account";

/// What the plug-in has in its account.
fn account(buckets: &BTreeMap<String, Arc<Contents>>) -> Done {
    let entries = buckets.get(BUCKET).map(|bucket| bucket.iter()).into_iter().flatten();
    let lines = |value: &[u8]| std::str::from_utf8(value).unwrap().parse().unwrap();
    entries.map(|(name, value)| (SegmentName::new(name).unwrap(), lines(value))).collect()
}

fn covers(more: &Done, less: &Done) -> bool {
    less.iter().all(|(name, lines)| more.get(name).unwrap_or(&0) >= lines)
}

/// Something that is so once a number of changes was made to the files.
#[derive(Debug, Clone)]
enum Fact {
    Acknowledged(Done),
    /// A commit of this has returned.
    Committed(Done),
    OnDisk(Done),
    Quarantined(Position),
}

/// What happened in a scenario.
struct History {
    past: Vec<State>,
    facts: Vec<(usize, Fact)>,
    /// What the account was at the start, and what was done with when the plug-in was first asked.
    account: Option<(Done, Done)>,
    /// The number of changes before the last step.
    last_step: usize,
}

fn checkpoint() -> CheckpointName {
    CheckpointName::new("c").unwrap()
}

/// A consumer's part that commits, over simulated files.
struct Player {
    files: Arc<Simulated>,
    sync: CheckpointSync,
    quarantine: u64,
    settlement: Option<Settlement>,
    done: Done,
    facts: Vec<(usize, Fact)>,
    /// The segment that is read, and the lines of it that were.
    segment: u64,
    line: u64,
    account: Account,
    commits: usize,
    /// The account as it is committed.
    entered: Done,
    opened: Option<(Done, Done)>,
}

impl Player {
    fn start(files: Simulated, scenario: &Scenario, seed: u64) -> Self {
        // So that the journals of many scenarios have the same id.
        fastrand::seed(seed);
        let mut this = Self {
            files: Arc::new(files),
            sync: scenario.sync,
            quarantine: scenario.quarantine,
            settlement: None,
            done: Done::new(),
            facts: Vec::new(),
            segment: 0,
            line: 0,
            account: scenario.account,
            commits: 0,
            entered: Done::new(),
            opened: None,
        };
        let saved = this.open();
        this.done = done(&saved);
        while this.done.get(&this.name()) == Some(&ALL) {
            this.segment += 1;
        }
        this.line = this.done.get(&this.name()).copied().unwrap_or(0);
        this.facts = vec![(0, Fact::Acknowledged(this.done.clone())), (0, Fact::OnDisk(this.done.clone()))];
        this
    }

    fn name(&self) -> SegmentName {
        SegmentName::new(&format!("s{}", self.segment)).unwrap()
    }

    fn note(&mut self, fact: Fact) {
        self.facts.push((self.files.changes(), fact));
    }

    /// Tries something until it does not fail; one change at most was told to.
    fn insist<T, E: std::fmt::Debug>(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<T, E>) -> T {
        attempt(self).or_else(|_| attempt(self)).unwrap()
    }

    fn open(&mut self) -> Saved {
        let events: Arc<dyn EventSink> = Arc::new(());
        let (store, loaded) = self.insist(|this| {
            let mut store = FileStore::over(this.files.clone(), checkpoint(), events.clone());
            if this.account == Account::Compacted {
                store.set_state_slack(0);
            }
            store.load().map(|loaded| (store, loaded))
        });
        self.entered = account(&store.buckets());
        let saved = match loaded {
            Loaded::Fresh => Saved::default(),
            Loaded::Saved(saved) => saved,
        };
        let options = QuarantineOptions { max_bytes: self.quarantine, ..QuarantineOptions::default() };
        let quarantine = Quarantine::new(self.files.clone(), &checkpoint(), "c", options, events.clone());
        let (store, files, name) = (Box::new(store), self.files.clone(), checkpoint());
        let keeping = Keeping { store, quarantine, sync: self.sync, lock: None, files, name };
        let settlement = Settlement::build("c".into(), events, Some(keeping), &saved);
        self.settlement = Some(settlement);
        saved
    }

    fn settlement(&self) -> &Settlement {
        self.settlement.as_ref().unwrap()
    }

    fn commit(&mut self, commit: Commit) {
        let segment = self.name();
        let identity = Identity { inode: self.segment, head_len: 0, head: 0 };
        let from = Point { line: self.line, offset: self.line * 10 };
        self.line += 5;
        let to = Mark { point: Point { line: self.line, offset: self.line * 10 }, ..Mark::default() };
        let span = Span { segment: segment.clone(), identity, from, to };
        let ticket = self.settlement().deliver(&[span], String::new()).unwrap();
        let done_before = self.done.clone();
        if commit == Commit::Last {
            self.settlement().end_segment(&segment, to, identity);
            self.done.insert(segment.clone(), ALL);
            (self.segment, self.line) = (self.segment + 1, 0);
        } else {
            self.done.insert(segment.clone(), self.line);
        }
        if commit == Commit::Rejected {
            let position = Position { segment, line: self.line, offset: 0 };
            let aside = Aside { position: &position, reason: "why", blame: Blame::Processor, bytes: b"{}" };
            self.insist(|this| this.settlement().set_aside(&aside));
            self.note(Fact::Quarantined(position));
        }
        let changes = self.enter(ticket, &done_before);
        self.note(Fact::Acknowledged(self.done.clone()));
        self.settlement().ack(ticket, changes).unwrap();
        self.insist(|this| this.settlement().save());
        self.note(Fact::Committed(self.done.clone()));
        if self.sync == CheckpointSync::Always {
            self.note(Fact::OnDisk(self.done.clone()));
        }
    }

    /// The plug-in enters a batch into its account. What the account lacks, as it was done with before the plug-in was
    /// there, it enters with its first batch.
    fn enter(&mut self, ticket: Ticket, done_before: &Done) -> Vec<(String, Changes)> {
        self.commits += 1;
        let asked = match self.account {
            Account::None => false,
            Account::Later => self.commits > 1,
            Account::Kept | Account::Compacted => true,
        };
        if !asked {
            return Vec::new();
        }
        let contents = self.insist(|this| this.settlement().open_bucket(ticket, BUCKET));
        let before = account(&[(BUCKET.to_owned(), contents)].into());
        assert_eq!(before, self.entered);
        self.opened.get_or_insert_with(|| (before.clone(), done_before.clone()));
        let mut changes = Changes::new();
        for name in before.keys().filter(|name| !self.done.contains_key(*name)) {
            changes.insert(name.to_string(), None);
        }
        for (name, lines) in self.done.iter().filter(|(name, lines)| before.get(*name) != Some(*lines)) {
            changes.insert(name.to_string(), Some(lines.to_string().into_bytes().into()));
        }
        self.entered = self.done.clone();
        vec![(BUCKET.to_owned(), changes)]
    }

    fn then(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Sync => {
                self.insist(|this| {
                    let mut inner = this.settlement().inner();
                    inner.save_if_dirty().and_then(|()| inner.sync())
                });
                self.note(Fact::OnDisk(self.done.clone()));
            }
            Then::Kill => {
                self.die();
                let saved = self.open();
                assert_eq!(done(&saved), self.done);
                self.note(Fact::OnDisk(self.done.clone()));
            }
        }
    }

    /// Nothing is saved on the way out.
    fn die(&mut self) {
        self.settlement().inner().superseded = true;
        self.settlement = None;
    }
}

impl Scenario {
    fn play(&self, start: &Content, seed: u64, fails_at: Option<usize>) -> History {
        let files = Simulated::with(start, self.exchange);
        fails_at.into_iter().for_each(|change| files.fail_at(change));
        let mut player = Player::start(files.clone(), self, seed);
        let mut last_step = 0;
        for (index, (commit, then)) in self.steps.iter().enumerate() {
            if index > 0 {
                last_step = files.changes();
            }
            player.commit(*commit);
            player.then(*then);
        }
        player.die();
        History { past: files.past(), facts: player.facts, account: player.opened, last_step }
    }
}

impl History {
    fn latest(&self, changes: usize, choose: impl Fn(&Fact) -> Option<&Done>) -> Done {
        let facts = self.facts.iter().rev().filter(|(after, _)| *after <= changes);
        facts.filter_map(|(_, fact)| choose(fact)).next().cloned().unwrap_or_default()
    }

    fn acknowledged(&self, changes: usize) -> Done {
        self.latest(changes, |fact| if let Fact::Acknowledged(done) = fact { Some(done) } else { None })
    }

    fn committed(&self, changes: usize) -> Done {
        self.latest(changes, |fact| if let Fact::Committed(done) = fact { Some(done) } else { None })
    }

    fn on_disk(&self, changes: usize) -> Done {
        self.latest(changes, |fact| if let Fact::OnDisk(done) = fact { Some(done) } else { None })
    }

    /// The records in quarantine that `done` passes.
    fn to_be_found(&self, done: &Done) -> HashSet<Position> {
        let put = self.facts.iter().filter_map(|(_, fact)| match fact {
            Fact::Quarantined(position) => Some(position),
            _ => None,
        });
        put.filter(|p| done.get(&p.segment).is_some_and(|lines| *lines >= p.line)).cloned().collect()
    }
}

/// What a consumer would start from, and the account that a plug-in would find, or why it would not.
type Outcome = Rc<Result<(Done, Done), String>>;

/// Recovers from states of the files, and remembers what came of it.
#[derive(Default)]
struct Recovery {
    known: HashMap<Content, Outcome>,
    /// States that a consumer has gone on from.
    continued: BTreeSet<Content>,
    states: u64,
}

impl Recovery {
    fn load(&mut self, content: &Content, exchange: Exchange) -> Outcome {
        self.states += 1;
        if let Some(known) = self.known.get(content) {
            return known.clone();
        }
        let files = Arc::new(Simulated::with(content, exchange));
        let mut store = FileStore::over(files, checkpoint(), Arc::new(()));
        let outcome = match store.load() {
            Ok(Loaded::Fresh) => Ok((Done::new(), account(&store.buckets()))),
            Ok(Loaded::Saved(saved)) => Ok((done(&saved), account(&store.buckets()))),
            Err(e) => Err(chain(&e)),
        };
        let outcome = Rc::new(outcome);
        self.known.insert(content.clone(), outcome.clone());
        outcome
    }

    /// Checks every state after each change from `first` on, and returns those that the power may leave.
    fn check(&mut self, scenario: &Scenario, history: &History, first: usize) -> Vec<Content> {
        let mut left = Vec::new();
        for (changes, state) in history.past.iter().enumerate().skip(first) {
            let context = || format!("{scenario:?}, after {changes} of {} changes", history.past.len() - 1);
            let acknowledged = history.acknowledged(changes);
            let mut hold = |content: &Content, quarantine: &HashSet<Position>, at_least: &Done| {
                let outcome = self.load(content, scenario.exchange);
                let (recovered, account) = match &*outcome {
                    Ok((recovered, account)) => (recovered, account),
                    Err(e) => panic!("{e}\n{}\n{}", context(), show(content)),
                };
                let text = || format!("{recovered:?}\n{}\n{}", context(), show(content));
                assert!(covers(&acknowledged, recovered), "not acknowledged: {}", text());
                assert!(covers(recovered, at_least), "lost, of {at_least:?}: {}", text());
                if let Some((before, opened_at)) = &history.account {
                    let unasked = account == before && covers(opened_at, recovered);
                    assert!(account == recovered || unasked, "in the account: {account:?}, not {}", text());
                }
                assert!(
                    history.to_be_found(recovered).is_subset(quarantine),
                    "not in quarantine: {}",
                    text()
                );
            };
            let content = state.after_kill();
            hold(&content, &quarantined(&content), &history.committed(changes));

            let quarantines = state.after_power_loss(|name| name.starts_with(".c.quarantine"), show_bytes);
            let kept = quarantines.iter().map(quarantined).reduce(|a, b| &a & &b).unwrap_or_default();
            let at_least = history.on_disk(changes);
            for content in checkpoint_states(state) {
                hold(&content, &kept, &at_least);
                left.push(content);
            }
        }
        left
    }

    /// Goes on from states that the power may have left, and loses it again.
    fn go_on(&mut self, scenario: &Scenario, left: Vec<Content>) {
        for content in left {
            let mut key = content.clone();
            key.remove(".c.finished");
            if !self.continued.insert(key) {
                continue;
            }
            let steps = Vec::from_iter(std::iter::repeat_n((Commit::Plain, Then::Nothing), 1));
            let next = Scenario { steps, ..scenario.clone() };
            let history = next.play(&content, 2, None);
            self.check(&next, &history, 0);
        }
    }
}

/// What may be found of the checkpoint, its journal, and the state. Files that can't be used for different reasons are not told apart.
fn checkpoint_states(state: &State) -> Vec<Content> {
    let is_journal = |name: &str| name.starts_with(".c.finished");
    let generation =
        |bytes: &[u8]| parse(bytes).map_or_else(|_| String::new(), |format| format!("{format:?}"));
    let is_state = |name: &str| name.starts_with(".c.state");
    let is_other = |name: &str| is_journal(name) || is_state(name) || name.starts_with(".c.quarantine");
    let generations = state.after_power_loss(|name| !is_other(name), generation);
    let journals = state.after_power_loss(is_journal, |bytes| format!("{:?}", journal_names(bytes)));
    let states = state.after_power_loss(is_state, state_class);
    let mut all = Vec::new();
    for generation in &generations {
        for journal in &journals {
            for state in &states {
                all.push(
                    [generation, journal, state]
                        .into_iter()
                        .flatten()
                        .map(|(n, b)| (n.clone(), b.clone()))
                        .collect(),
                );
            }
        }
    }
    all
}

fn quarantined(content: &Content) -> HashSet<Position> {
    let files = Simulated::with(content, Exchange::Possible);
    let mut found = HashSet::new();
    read_from(&files, &checkpoint(), |entry| _ = found.insert(entry.position)).unwrap();
    found
}

fn show_bytes(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(content: &Content) -> String {
    content.iter().map(|(name, bytes)| format!("  {name}: {:?}\n", show_bytes(bytes))).collect()
}

/// All sequences of up to `commits` commits.
fn scenarios(sync: CheckpointSync, exchange: Exchange, commits: usize) -> Vec<Scenario> {
    scenarios_with(Account::None, sync, exchange, commits)
}

fn scenarios_with(
    account: Account,
    sync: CheckpointSync,
    exchange: Exchange,
    commits: usize,
) -> Vec<Scenario> {
    let thens: &[Then] = match sync {
        CheckpointSync::Always => &[Then::Nothing, Then::Kill],
        CheckpointSync::Interval(_) => &[Then::Nothing, Then::Sync, Then::Kill],
    };
    let mut step = Vec::new();
    for commit in [Commit::Plain, Commit::Last, Commit::Rejected] {
        if commit == Commit::Rejected && account != Account::None {
            // What a quarantine has to do with it is seen without.
            continue;
        }
        step.extend(thens.iter().map(|then| (commit, *then)));
    }
    let mut all = vec![Vec::new()];
    let mut longest = all.clone();
    for _ in 0..commits {
        let longer = |steps: &Vec<_>| step.iter().map(|s| [&steps[..], &[*s]].concat()).collect::<Vec<_>>();
        longest = longest.iter().flat_map(longer).collect();
        all.extend(longest.iter().cloned());
    }
    // With the one limit a quarantine is one file, with the other one it is rolled before each record.
    let quarantine = if exchange == Exchange::Possible { 1 << 20 } else { 1200 };
    all.into_iter().skip(1).map(|steps| Scenario { sync, exchange, quarantine, account, steps }).collect()
}

fn check_all(sync: CheckpointSync, exchange: Exchange, commits: usize) {
    check_all_with(Account::None, sync, exchange, commits);
}

fn check_all_with(account: Account, sync: CheckpointSync, exchange: Exchange, commits: usize) {
    let mut recovery = Recovery::default();
    for scenario in scenarios_with(account, sync, exchange, commits) {
        let history = scenario.play(&Content::new(), 1, None);
        let left = recovery.check(&scenario, &history, history.last_step);
        recovery.go_on(&scenario, left);
    }
    assert!(recovery.states > 1000, "{}", recovery.states);
}

#[test]
fn no_loss_of_power_takes_more_than_was_not_brought_to_the_disk() {
    check_all(CheckpointSync::default(), Exchange::Possible, 3);
}

#[test]
fn no_loss_of_power_takes_a_commit_that_was_brought_to_the_disk_at_once() {
    check_all(CheckpointSync::Always, Exchange::Possible, 3);
}

#[test]
fn a_file_system_that_cannot_exchange_names_loses_no_more() {
    check_all(CheckpointSync::default(), Exchange::Impossible, 3);
    check_all(CheckpointSync::Always, Exchange::Impossible, 2);
}

#[test]
fn state_is_of_exactly_what_the_checkpoint_covers_after_any_loss_of_power() {
    for account in [Account::Kept, Account::Later, Account::Compacted] {
        check_all_with(account, CheckpointSync::default(), Exchange::Possible, 2);
        check_all_with(account, CheckpointSync::Always, Exchange::Possible, 2);
        check_all_with(account, CheckpointSync::Always, Exchange::Impossible, 2);
    }
    check_all_with(Account::Kept, CheckpointSync::default(), Exchange::Possible, 3);
}

#[test]
fn no_operation_that_fails_parts_state_from_its_checkpoint() {
    let mut recovery = Recovery::default();
    for account in [Account::Kept, Account::Later, Account::Compacted] {
        for sync in [CheckpointSync::default(), CheckpointSync::Always] {
            for scenario in scenarios_with(account, sync, Exchange::Possible, 2) {
                let changes = scenario.play(&Content::new(), 1, None).past.len() - 1;
                for fails in 0..changes {
                    let history = scenario.play(&Content::new(), 1, Some(fails));
                    recovery.check(&scenario, &history, fails);
                }
            }
        }
    }
}

#[test]
fn a_history_that_somebody_has_ended_does_not_come_back() {
    let mut recovery = Recovery::default();
    let by_hand = br#"{"file":"s0","line":2}"#;
    for (sync, account) in [
        (CheckpointSync::default(), Account::None),
        (CheckpointSync::Always, Account::None),
        (CheckpointSync::default(), Account::Kept),
        (CheckpointSync::Always, Account::Later),
    ] {
        for scenario in scenarios_with(account, sync, Exchange::Possible, 2) {
            let history = scenario.play(&Content::new(), 1, None);
            let content = history.past.last().unwrap().after_kill();
            for checkpoint in [None, Some(by_hand)] {
                let mut content = content.clone();
                content.remove(".c");
                content.extend(checkpoint.map(|text| (".c".to_owned(), text.to_vec())));
                let history = scenario.play(&content, 2, None);
                assert!(!covers(
                    &history.acknowledged(0),
                    &Done::from([(SegmentName::new("s0").unwrap(), 5)])
                ));
                recovery.check(&scenario, &history, 0);
            }
        }
    }
}

#[test]
fn no_operation_that_fails_opens_a_gap() {
    let mut recovery = Recovery::default();
    for sync in [CheckpointSync::default(), CheckpointSync::Always] {
        for exchange in [Exchange::Possible, Exchange::Impossible] {
            for scenario in scenarios(sync, exchange, 2) {
                let changes = scenario.play(&Content::new(), 1, None).past.len() - 1;
                for fails in 0..changes {
                    let history = scenario.play(&Content::new(), 1, Some(fails));
                    recovery.check(&scenario, &history, fails);
                }
            }
        }
    }
}
