//! The pipeline over a simulated world: time stands still until it is moved, changes of the directory are reported or not,
//! and whatever is done to the segments, a naive model says which records each consumer must have got by then.
//!
//! No test here waits for anything but the readers' threads to have nothing more to do. `PROPTEST_CASES` says how many
//! worlds are tried.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tailweir_pipeline::{Consumer, ConsumerOptions, Delivery, FilterOptions, SourceOptions, open};
use tailweir_segments::Hand;
use tempfile::TempDir;

/// How long the first record of a batch waits for others.
const LATENCY: Duration = Duration::from_millis(100);
/// By when a change is noticed that was not reported.
const RESCAN: Duration = Duration::from_secs(1);

/// Something that happens. Numbers choose among the segments that are fit for it; without one nothing happens.
#[derive(Debug, Clone)]
enum Action {
    /// A segment is begun whose name sorts last, or first.
    Create(Name),
    /// Lines are added; the last one may lack its line break until the next flush.
    Append(usize, u8, End),
    /// The last line gets its line break.
    Flush(usize),
    Seal(usize),
    /// All but the first lines are cut off.
    Truncate(usize, u8),
    Delete(usize),
    /// A segment gets another name.
    Rename(usize),
    /// Another sealed file takes the name.
    Replace(usize, u8),
    MoveDirectory,
    Pass(Duration),
    /// The consumer that puts commits off commits what it has, the last first.
    Commit,
    /// The program ends, without another commit, and is started again.
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Last,
    First,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Torn,
}

/// Whether the system reports a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Reported,
    Lost,
}

fn action() -> impl Strategy<Value = Action> {
    let name = prop_oneof![4 => Just(Name::Last), 1 => Just(Name::First)];
    let end = prop_oneof![3 => Just(End::Whole), 1 => Just(End::Torn)];
    prop_oneof![
        3 => name.prop_map(Action::Create),
        10 => (any::<usize>(), 1..30u8, end).prop_map(|(n, lines, end)| Action::Append(n, lines, end)),
        2 => any::<usize>().prop_map(Action::Flush),
        3 => any::<usize>().prop_map(Action::Seal),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(n, lines)| Action::Truncate(n, lines)),
        1 => any::<usize>().prop_map(Action::Delete),
        1 => any::<usize>().prop_map(Action::Rename),
        1 => (any::<usize>(), 1..30u8).prop_map(|(n, lines)| Action::Replace(n, lines)),
        1 => Just(Action::MoveDirectory),
        4 => (1..1500u64).prop_map(|ms| Action::Pass(Duration::from_millis(ms))),
        2 => Just(Action::Commit),
        1 => Just(Action::Restart),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![Just(Event::Reported), Just(Event::Lost)]
}

/// What a segment holds.
#[derive(Debug, Default)]
struct Segment {
    numbers: Vec<u64>,
    /// The last line lacks its line break.
    torn: bool,
    sealed: bool,
    /// It was cut off, which was not noticed yet.
    cut: bool,
    /// It has another name, which was not noticed yet: it may be read under both.
    renamed: bool,
    /// It has taken another one's place, which was not noticed yet.
    replaced: bool,
    /// The program was started again since it was sealed. Of segments that it was done with before, it knows only the names.
    old: bool,
}

impl Segment {
    /// What readers can see of it.
    fn visible(&self) -> &[u64] {
        let hidden = usize::from(self.torn && !self.sealed);
        &self.numbers[..self.numbers.len() - hidden]
    }
}

/// One consumer and what it has got.
struct Subject {
    name: &'static str,
    keep: fn(u64) -> bool,
    /// Whether it commits only when told to.
    late: bool,
    consumer: Option<Consumer>,
    held: Vec<Delivery>,
    seen: BTreeSet<u64>,
    /// What it has got in this run of the program.
    run: BTreeSet<u64>,
    /// What was committed, with all that was delivered before.
    settled: BTreeSet<u64>,
    /// The last number of each segment in this run.
    last: BTreeMap<String, u64>,
}

struct World {
    root: TempDir,
    directory: PathBuf,
    moved: u32,
    hand: Hand,
    since_start: Duration,
    segments: BTreeMap<String, Segment>,
    names: u32,
    numbers: u64,
    /// What could be seen at any time, by whoever had the file open.
    ever: BTreeSet<u64>,
    /// What may come again, and out of order, because of what was done to its file.
    disturbed: BTreeSet<u64>,
    /// When something was changed last that was not reported.
    unnoticed: Option<Duration>,
    subjects: Vec<Subject>,
}

/// Remembers whether a task wants to be polled again.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Subject {
    fn new(name: &'static str, keep: fn(u64) -> bool, late: bool) -> Self {
        Self {
            name,
            keep,
            late,
            consumer: None,
            held: Vec::new(),
            seen: BTreeSet::new(),
            run: BTreeSet::new(),
            settled: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    fn options(&self) -> ConsumerOptions {
        let mut options = consumer(self.name);
        options.max_batch_latency = LATENCY;
        options.filters.push(FilterOptions::new(Keep(self.keep)));
        options
    }

    /// Takes all batches that are ready.
    fn poll(&mut self, ever: &BTreeSet<u64>, disturbed: &BTreeSet<u64>) {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag.clone());
        loop {
            let polled = pin!(self.consumer.as_mut().unwrap().next()).poll(&mut Context::from_waker(&waker));
            match polled {
                Poll::Ready(result) => self.take(result.unwrap().unwrap(), ever, disturbed),
                Poll::Pending if flag.0.swap(false, Ordering::Relaxed) => {}
                Poll::Pending => return,
            }
        }
    }

    fn take(&mut self, mut delivery: Delivery, ever: &BTreeSet<u64>, disturbed: &BTreeSet<u64>) {
        for record in delivery.batch().iter() {
            let n: u64 = record.field("n").unwrap().parse().unwrap();
            let segment = record.position().segment.to_string();
            let name = self.name;
            assert!(ever.contains(&n) && (self.keep)(n), "{name} got {n}, which it should not see");
            let again = !self.run.insert(n);
            let last = self.last.insert(segment, n);
            if !disturbed.contains(&n) {
                assert!(!again, "{name} got {n} twice in one run");
                assert!(!self.settled.contains(&n), "{name} got {n} again though it was committed");
                assert!(
                    last.is_none_or(|last| last < n || disturbed.contains(&last)),
                    "{name}: {n} after {last:?}"
                );
            }
            self.seen.insert(n);
        }
        if self.late {
            self.held.push(delivery);
        } else {
            delivery.commit().unwrap();
            self.settle();
        }
    }

    fn commit(&mut self) {
        while let Some(mut delivery) = self.held.pop() {
            delivery.commit().unwrap();
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.settled.extend(self.run.iter().copied());
    }
}

impl World {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let directory = root.path().join("logs");
        fs::create_dir(&directory).unwrap();
        let subjects = vec![
            Subject::new("all", |_| true, false),
            Subject::new("even", |n| n.is_multiple_of(2), false),
            Subject::new("none", |_| false, false),
            Subject::new("late", |_| true, true),
        ];
        let mut world = Self {
            root,
            directory,
            moved: 0,
            hand: Hand::default(),
            since_start: Duration::ZERO,
            segments: BTreeMap::new(),
            names: 0,
            numbers: 0,
            ever: BTreeSet::new(),
            disturbed: BTreeSet::new(),
            unnoticed: None,
            subjects,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let mut source = SourceOptions::new(&self.directory);
        source.reader.hand = Some(self.hand.clone());
        source.reader.workers = 1;
        source.reader.block_size = 200;
        let options = self.subjects.iter().map(Subject::options).collect();
        let consumers = open(source, options).unwrap();
        for (subject, consumer) in self.subjects.iter_mut().zip(consumers) {
            subject.consumer = Some(consumer);
        }
    }

    fn restart(&mut self) {
        for subject in &mut self.subjects {
            subject.consumer = None;
            subject.held.clear();
            subject.run.clear();
            subject.last.clear();
        }
        // It may have taken the place of one that the program was done with, of which only the name is kept.
        self.segments.retain(|_, segment| !segment.replaced);
        for segment in self.segments.values_mut() {
            segment.old |= segment.sealed;
            (segment.cut, segment.renamed) = (false, false);
        }
        self.unnoticed = None;
        self.start();
    }

    fn step(&mut self, action: &Action, event: Event) {
        let changed = self.act(action);
        for segment in self.segments.values() {
            self.ever.extend(segment.visible());
        }
        if changed && event == Event::Lost {
            self.unnoticed = Some(self.since_start);
        } else if changed {
            self.hand.report();
            self.unnoticed = None;
        }
        self.quiesce();
        if self.unnoticed.is_none_or(|since| self.since_start >= since + RESCAN + LATENCY) {
            self.unnoticed = None;
            for segment in self.segments.values_mut() {
                (segment.cut, segment.renamed, segment.replaced) = (false, false, false);
            }
            self.check();
        }
    }

    /// Does it, and says whether the directory has changed.
    fn act(&mut self, action: &Action) -> bool {
        match *action {
            Action::Pass(time) => self.pass(time),
            Action::Commit => self.subjects.iter_mut().for_each(Subject::commit),
            Action::Restart => self.restart(),
            Action::Create(place) => return self.create(place),
            Action::MoveDirectory => {
                self.moved += 1;
                let to = self.root.path().join(format!("logs{}", self.moved));
                fs::rename(&self.directory, &to).unwrap();
                self.directory = to;
            }
            Action::Append(n, lines, end) => return self.append(n, lines, end),
            Action::Flush(n) => {
                let Some(name) = self.pick(n, |segment| segment.torn && !segment.sealed && !segment.cut)
                else {
                    return false;
                };
                append_text(&self.directory, &name, "\n");
                self.segments.get_mut(&name).unwrap().torn = false;
                return true;
            }
            Action::Seal(n) => {
                let Some(name) = self.pick(n, |segment| !segment.sealed) else { return false };
                seal(&self.directory, &name);
                self.segments.get_mut(&name).unwrap().sealed = true;
                return true;
            }
            Action::Truncate(n, lines) => return self.truncate(n, lines),
            Action::Delete(n) => {
                let Some(name) = self.pick(n, |_| true) else { return false };
                fs::remove_file(self.directory.join(&name)).unwrap();
                // The last line of a file that nobody can write to any more is whole.
                self.ever.extend(self.segments.remove(&name).unwrap().numbers);
                return true;
            }
            Action::Rename(n) => {
                let Some(name) = self.pick(n, |_| true) else { return false };
                let segment = self.segments.remove(&name).unwrap();
                self.disturbed.extend(&segment.numbers);
                self.ever.extend(&segment.numbers);
                let to = self.name(Name::Last);
                fs::rename(self.directory.join(name), self.directory.join(&to)).unwrap();
                self.segments.insert(to, Segment { old: false, renamed: true, ..segment });
                return true;
            }
            Action::Replace(n, lines) => return self.replace(n, lines),
        }
        false
    }

    fn pass(&mut self, time: Duration) {
        self.since_start += time;
        self.hand.advance(time);
    }

    fn name(&mut self, place: Name) -> String {
        self.names += 1;
        if place == Name::Last { format!("m{:04}", self.names) } else { format!("a{:04}", 5000 - self.names) }
    }

    /// One of the segments that are fit.
    fn pick(&self, n: usize, fit: impl Fn(&Segment) -> bool) -> Option<String> {
        let fit: Vec<&String> = self.segments.iter().filter(|(_, s)| fit(s)).map(|(name, _)| name).collect();
        (!fit.is_empty()).then(|| fit[n % fit.len()].clone())
    }

    fn create(&mut self, place: Name) -> bool {
        let name = self.name(place);
        append_text(&self.directory, &name, "");
        self.segments.insert(name, Segment::default());
        true
    }

    fn numbers(&mut self, lines: u8) -> Vec<u64> {
        let first = self.numbers;
        self.numbers += u64::from(lines);
        (first..self.numbers).collect()
    }

    fn append(&mut self, n: usize, lines: u8, end: End) -> bool {
        // A file that is cut off and has grown again before anybody looked is like one that was not.
        let Some(name) = self.pick(n, |segment| !segment.sealed && !segment.cut) else { return false };
        let numbers = self.numbers(lines);
        let segment = self.segments.get_mut(&name).unwrap();
        let mut text = if segment.torn { "\n" } else { "" }.to_owned() + &text(&numbers);
        if end == End::Torn {
            text.pop();
        }
        segment.torn = end == End::Torn;
        if segment.renamed {
            // Under the old name this is all there will ever be of it.
            self.ever.extend(&numbers);
            self.disturbed.extend(&numbers);
        }
        segment.numbers.extend(numbers);
        append_text(&self.directory, &name, &text);
        true
    }

    fn truncate(&mut self, n: usize, lines: u8) -> bool {
        let Some(name) = self.pick(n, |segment| !segment.sealed && !segment.numbers.is_empty()) else {
            return false;
        };
        let segment = self.segments.get_mut(&name).unwrap();
        self.disturbed.extend(&segment.numbers);
        segment.numbers.truncate(usize::from(lines) % segment.numbers.len());
        (segment.torn, segment.cut) = (false, true);
        let file = OpenOptions::new().write(true).open(self.directory.join(name)).unwrap();
        file.set_len(text(&segment.numbers).len() as u64).unwrap();
        true
    }

    fn replace(&mut self, n: usize, lines: u8) -> bool {
        let Some(name) = self.pick(n, |segment| !segment.old) else { return false };
        let numbers = self.numbers(lines);
        append_text(&self.directory, ".new", &text(&numbers));
        seal(&self.directory, ".new");
        fs::rename(self.directory.join(".new"), self.directory.join(&name)).unwrap();
        let segment = Segment { numbers, sealed: true, replaced: true, ..Segment::default() };
        // The last number of what was there before may be followed by anything.
        let before = self.segments.insert(name, segment).unwrap();
        self.ever.extend(&before.numbers);
        self.disturbed.extend(before.numbers);
        true
    }

    /// Lets everything happen that happens at this time and within the latency of batches.
    fn quiesce(&mut self) {
        self.hand.settle();
        self.poll();
        self.pass(LATENCY);
        self.hand.settle();
        self.poll();
    }

    fn poll(&mut self) {
        for subject in &mut self.subjects {
            subject.poll(&self.ever, &self.disturbed);
        }
    }

    /// Whether every consumer has got what it must.
    fn check(&self) {
        for subject in &self.subjects {
            for (name, segment) in &self.segments {
                let missing =
                    segment.visible().iter().find(|n| (subject.keep)(**n) && !subject.seen.contains(n));
                assert!(missing.is_none(), "{} has not got {missing:?} of {name}: {segment:?}", subject.name);
            }
        }
    }

    /// Everything is sealed and committed; then nothing is left for another run.
    fn end(&mut self) {
        while self.act(&Action::Seal(0)) {}
        self.unnoticed = Some(self.since_start);
        self.step(&Action::Pass(RESCAN), Event::Lost);
        self.subjects.iter_mut().for_each(Subject::commit);
        self.disturbed.clear();
        self.restart();
        self.quiesce();
        self.check();
        for subject in &self.subjects {
            assert_eq!(subject.run, BTreeSet::new(), "{} got something again", subject.name);
        }
    }
}

fn text(numbers: &[u64]) -> String {
    numbers.iter().map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)) })]
    #[test]
    fn each_consumer_gets_what_it_must_whatever_happens(
        actions in prop::collection::vec((action(), event()), 1..40),
    ) {
        let mut world = World::new();
        for (action, event) in &actions {
            world.step(action, *event);
        }
        world.end();
    }
}
