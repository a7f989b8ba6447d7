//! Whatever is done to a directory, in whatever order: each record comes once, in order within its segment.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::*;
use fastrand::Rng;
use tailweir_core::Block;
use tailweir_segments::{Begun, Cursor, Ordering, Start, Step};

/// What was written to one segment and what came of it.
#[derive(Default)]
struct Model {
    written: Vec<String>,
    /// So many of them can be seen.
    visible: usize,
    came: Vec<String>,
    begun: Option<Begun>,
    file: Option<File>,
    finished: bool,
    deleted: bool,
}

enum File {
    Zstd(Kumo),
    Plain(Vec<u8>),
}

struct World {
    rig: Rig,
    random: Rng,
    models: BTreeMap<String, Model>,
    made: u32,
    last: u64,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut rig = Rig::new();
        rig.options.block_size = random.usize(16..2000);
        rig.options.read_ahead_bytes = random.usize(0..5000);
        rig.options.workers = random.usize(1..4);
        rig.options.ordering = if random.bool() { Ordering::Name } else { Ordering::Strict };
        rig.open();
        Self { rig, random, models: BTreeMap::new(), made: 0, last: 0, seed }
    }

    fn act(&mut self) {
        match self.random.u8(0..12) {
            0 | 1 => self.create(),
            2..=5 => self.write(),
            6 => self.seal(),
            7 => self.delete(),
            8 => self.restart(),
            _ => self.read(),
        }
    }

    /// A name that sorts last, mostly.
    fn new_name(&mut self) -> String {
        self.made += 1;
        match self.random.u8(0..6) {
            0 => format!("a{:04}", self.made),
            _ => format!("s{:04}", self.made),
        }
    }

    fn create(&mut self) {
        let name = self.new_name();
        let mut model = Model::default();
        if self.random.bool() {
            // It is sealed already, and renamed into the directory.
            let text: String = (0..self.random.usize(0..50)).map(|_| self.line(&mut model) + "\n").collect();
            model.visible = model.written.len();
            let bytes = match self.random.u8(0..3) {
                0 => zst(text.as_bytes()),
                1 => gz(text.as_bytes()),
                _ => text.as_bytes().chunks(97).flat_map(zst).collect(),
            };
            self.rig.put_sealed(".new", &bytes);
            std::fs::rename(self.rig.path(".new"), self.rig.path(&name)).unwrap();
        } else if self.random.bool() {
            model.file = Some(File::Zstd(Kumo::create(self.rig.path(&name))));
        } else {
            self.rig.put(&name, b"");
            model.file = Some(File::Plain(Vec::new()));
        }
        self.models.insert(name, model);
    }

    fn line(&mut self, model: &mut Model) -> String {
        self.last += 1;
        let line = format!("{{\"n\":{},\"pad\":\"{}\"}}", self.last, "x".repeat(self.random.usize(0..100)));
        model.written.push(line.clone());
        line
    }

    fn pick_open(&mut self) -> Option<(String, Model)> {
        let open: Vec<_> = self
            .models
            .iter()
            .filter(|(_, model)| model.file.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        let name = self.random.choice(open)?;
        let model = self.models.remove(&name)?;
        Some((name, model))
    }

    fn write(&mut self) {
        let Some((name, mut model)) = self.pick_open() else {
            return;
        };
        let text: String = (0..self.random.usize(1..30)).map(|_| self.line(&mut model) + "\n").collect();
        match model.file.as_mut().unwrap() {
            File::Zstd(kumo) => {
                kumo.write(text.as_bytes());
                if self.random.bool() {
                    kumo.flush();
                    model.visible = model.written.len();
                }
            }
            File::Plain(held) => {
                held.extend_from_slice(text.as_bytes());
                // Cut wherever it may be.
                let cut = self.random.usize(0..=held.len());
                self.rig.append(&name, &held[..cut]);
                held.drain(..cut);
                let unseen = held.iter().filter(|b| **b == b'\n').count();
                model.visible = model.written.len() - unseen;
            }
        }
        self.models.insert(name, model);
    }

    fn seal(&mut self) {
        if let Some((name, mut model)) = self.pick_open() {
            self.finish(&name, &mut model);
            self.models.insert(name, model);
        }
    }

    fn finish(&mut self, name: &str, model: &mut Model) {
        match model.file.take() {
            Some(File::Zstd(kumo)) => kumo.finish(),
            Some(File::Plain(held)) => {
                self.rig.append(name, &held);
                self.rig.seal(name);
            }
            None => {}
        }
        model.visible = model.written.len();
    }

    /// Deletes a segment that is sealed: operators do that.
    fn delete(&mut self) {
        let sealed = self.models.iter().filter(|(_, model)| model.file.is_none() && !model.deleted);
        let names: Vec<_> = sealed.map(|(name, _)| name.clone()).collect();
        if let Some(name) = self.random.choice(names) {
            self.rig.remove(&name);
            self.models.get_mut(&name).unwrap().deleted = true;
        }
    }

    /// Opens the reader again where it was.
    fn restart(&mut self) {
        let mut cursor = Cursor::default();
        for (name, model) in &self.models {
            let segment = common::name(name);
            match (&model.begun, model.finished) {
                (_, true) => drop(cursor.finished.insert(segment)),
                (Some(begun), false) => drop(cursor.begun.insert(segment, *begun)),
                _ => {}
            }
        }
        self.rig.reader = None;
        self.rig.open_at(cursor);
    }

    fn read(&mut self) {
        for _ in 0..self.random.usize(1..30) {
            if let Seen::Nothing = self.step() {
                self.rig.reader.as_ref().unwrap().wait(Duration::from_millis(1));
                return;
            }
        }
    }

    fn step(&mut self) -> Seen {
        let seed = self.seed;
        match self.rig.reader.as_mut().unwrap().next().unwrap() {
            Step::Block(block) => self.take(&block),
            Step::Finished { segment, .. } => {
                let model = self.models.get_mut(segment.as_str()).unwrap();
                assert!(
                    !std::mem::replace(&mut model.finished, true),
                    "{segment} finished twice, seed {seed}"
                );
                assert_eq!(model.came.len(), model.written.len(), "{segment}, seed {seed}");
            }
            Step::Vanished { segment } => {
                let model = self.models.get_mut(segment.as_str()).unwrap();
                assert!(model.deleted, "{segment} was not deleted, seed {seed}");
                model.finished = true;
            }
            Step::Pending { .. } => {}
            Step::Replaced { segment } => panic!("{segment} was not replaced, seed {seed}"),
            Step::Idle => return Seen::Nothing,
            Step::End => panic!("it follows, seed {seed}"),
        }
        Seen::Something
    }

    fn take(&mut self, block: &Block) {
        let (segment, seed) = (block.segment().as_str(), self.seed);
        let model = self.models.get_mut(segment).unwrap();
        assert!(block.defects().is_empty(), "{segment} {:?}, seed {seed}", block.defects());
        assert_eq!(block.from().line, model.came.len() as u64, "{segment}, seed {seed}");
        model.came.extend((0..block.len()).map(|i| block.text(i).to_owned()));
        assert_eq!(model.came[..], model.written[..model.came.len()], "{segment}, seed {seed}");
        model.begun = Some(Begun { start: Start::Mark(block.to()), identity: Some(block.identity()) });
    }

    fn is_done(&self) -> bool {
        self.models.values().all(|model| model.finished)
    }

    /// With order by name, everything that can be seen comes without anything being sealed.
    fn see_all_visible(&mut self) {
        if self.rig.options.ordering == Ordering::Name {
            self.read_until(|world| world.models.values().all(|m| m.came.len() >= m.visible || m.deleted));
        }
    }

    fn read_until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < deadline, "too little came, seed {}", self.seed);
            if let Seen::Nothing = self.step() {
                self.rig.reader.as_ref().unwrap().wait(Duration::from_millis(20));
            }
        }
    }

    fn finish_all(&mut self) {
        while let Some((name, mut model)) = self.pick_open() {
            self.finish(&name, &mut model);
            self.models.insert(name, model);
        }
        // What was deleted before the reader had seen it leaves no trace.
        self.read_until(|world| world.models.values().all(|m| m.finished || m.deleted));
        while let Seen::Something = self.step() {}
    }
}

enum Seen {
    Something,
    Nothing,
}

#[test]
fn each_record_comes_once_and_in_order() {
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = match first {
        Some(seed) => vec![seed],
        None => (0..60).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..80 {
            world.act();
        }
        world.see_all_visible();
        world.finish_all();
        let missing = world.models.values().filter(|m| !m.deleted && !m.finished).count();
        assert!(missing == 0 || world.is_done(), "seed {seed}");
        let events = world.rig.log.take();
        let odd: Vec<_> =
            events.iter().filter(|e| !e.starts_with("gap ") && !e.starts_with("late ")).collect();
        assert!(odd.is_empty(), "{odd:?}, seed {seed}");
    }
}
