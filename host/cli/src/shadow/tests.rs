//! What the live path meets when a shadow is slow, and what is counted then.

use std::sync::mpsc::{Receiver, Sender, channel};

use tailweir_core::{Block, Frame, Identity, Outcome, Point, SegmentName};

use super::thread::{Subject, start};
use super::*;
use crate::reload::Role;

pub(super) fn batch(records: usize) -> Arc<Batch> {
    let text = "{\"n\":1}\n".repeat(records).into_bytes();
    let (segment, identity) = (SegmentName::new("s").unwrap(), Identity { inode: 1, head_len: 0, head: 0 });
    let block = Block::parse(segment, identity, Point::default(), Frame::default(), text);
    Arc::new(Batch::of_block("c".into(), Arc::new(block), 0..records))
}

/// Remembers events.
#[derive(Default)]
struct Events(Mutex<Vec<Event>>);

impl EventSink for Events {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// Says when it is given a batch, and whether it begins anew with it; answers when it may.
struct Gated {
    given: Sender<bool>,
    gate: Receiver<()>,
    anew: bool,
}

impl Subject for Gated {
    fn begin_anew(&mut self, _: Anew) {
        self.anew = true;
    }

    fn answer(&mut self, _: &Job) -> Result<Answer, String> {
        let _ = self.given.send(std::mem::take(&mut self.anew));
        self.gate.recv().map_err(|e| e.to_string())?;
        Ok(Answer::Processed(Ok(Outcome::Done)))
    }
}

struct World {
    shadow: Arc<Shadow>,
    events: Arc<Events>,
    given: Receiver<bool>,
    gate: Sender<()>,
}

impl World {
    fn new() -> Self {
        let events = Arc::<Events>::default();
        let place = Place::new("c", None, Role::Processor);
        let shadow = Shadow::with_events(place, Path::new("s.wasm"), events.clone());
        let ((said, given), (gate, opens)) = (channel(), channel());
        start(&shadow, move || Ok(Gated { given: said, gate: opens, anew: false })).unwrap();
        Self { shadow, events, given, gate }
    }

    fn offer(&self, keeps: Keeps) {
        let live = Ok(Outcome::Done);
        let (took, state) = (Duration::from_nanos(7), || Some(Contents::default()));
        self.shadow.offer(&batch(1), took, keeps, Said::Processed(&live), state);
    }

    /// What is told in the end: compared, failed, skipped.
    fn finish(&self, time: Duration) -> (u64, u64, u64) {
        self.shadow.finish(Instant::now() + time);
        match self.events.0.lock().unwrap().last() {
            Some(Event::ShadowCompared { compared, failed, skipped, .. }) => (*compared, *failed, *skipped),
            other => panic!("{other:?}"),
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn batches_that_a_slow_shadow_has_no_room_for_are_left_out_and_counted() {
    let world = World::new();
    world.offer(Keeps::Nothing);
    assert!(world.given.recv().unwrap(), "it begins with the first one");
    for _ in 0..MAX_BATCHES + 10 {
        world.offer(Keeps::Nothing);
    }
    for _ in 0..MAX_BATCHES {
        world.gate.send(()).unwrap();
        assert!(!world.given.recv().unwrap(), "nothing was left out before it");
    }
    world.offer(Keeps::Nothing);
    world.gate.send(()).unwrap();
    assert!(world.given.recv().unwrap(), "it begins anew behind a gap");
    world.gate.send(()).unwrap();
    assert_eq!(world.finish(LONG), (MAX_BATCHES as u64 + 2, 0, 10));
    world.offer(Keeps::Nothing);
    assert_eq!(world.finish(LONG), (MAX_BATCHES as u64 + 2, 0, 11));
}

#[test]
fn what_an_answer_holds_counts_as_memory() {
    let world = World::new();
    world.offer(Keeps::Nothing);
    assert!(world.given.recv().unwrap());
    let emitted = Ok(Outcome::Emit(vec![" ".repeat(MAX_BYTES / 2)]));
    for _ in 0..3 {
        let live = Said::Processed(&emitted);
        world.shadow.offer(&batch(1), Duration::ZERO, Keeps::Nothing, live, || None);
    }
    assert_eq!(world.shadow.lock().jobs.len(), 1, "two do not fit");
    assert_eq!(world.shadow.lock().figures.skipped, 2);
    world.gate.send(()).unwrap();
    world.given.recv().unwrap();
    assert_eq!(world.shadow.lock().bytes, 0);
}

#[test]
fn state_is_not_copied_all_the_time() {
    let world = World::new();
    world.offer(Keeps::State);
    assert!(world.given.recv().unwrap());
    for _ in 0..MAX_BATCHES + 1 {
        world.offer(Keeps::State);
    }
    for _ in 0..MAX_BATCHES {
        world.gate.send(()).unwrap();
        world.given.recv().unwrap();
    }
    // There is room, and the last copy was made a moment ago, unless this machine sleeps.
    let copied = world.shadow.lock().copied.unwrap();
    world.offer(Keeps::State);
    let waits = world.shadow.lock().jobs.is_empty();
    assert!(waits || copied.elapsed() >= COPY_INTERVAL);
}

#[test]
fn what_it_has_not_come_to_in_the_end_was_left_out() {
    let world = World::new();
    world.offer(Keeps::Nothing);
    world.offer(Keeps::Nothing);
    world.given.recv().unwrap();
    assert_eq!(world.finish(Duration::from_millis(1)), (0, 0, 2));
    // What it says after that comes too late.
    world.gate.send(()).unwrap();
    assert_eq!(world.finish(LONG), (0, 0, 2));
}

#[test]
fn a_thread_that_is_gone_leaves_everything_out() {
    let events = Arc::<Events>::default();
    let place = Place::new("c", None, Role::Processor);
    let shadow = Shadow::with_events(place, Path::new("s.wasm"), events);
    start::<Gated>(&shadow, || anyhow::bail!("none")).unwrap();
    let mut queue = shadow.lock();
    while !queue.closed {
        queue = shadow.done.wait(queue).unwrap();
    }
    drop(queue);
    let live = Ok(Outcome::Done);
    shadow.offer(&batch(3), Duration::ZERO, Keeps::Nothing, Said::Processed(&live), || None);
    assert_eq!(shadow.lock().figures.skipped, 3);
}
