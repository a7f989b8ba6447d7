//! Says what each consumer must have got, and finds what is missing, out of order, came again, or is covered by a
//! checkpoint without having been acknowledged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::consumers::{Kind, Told};
use crate::writer::{Kind as LineKind, Log, Place, Segment};

/// What is wrong.
pub(crate) type Violation = String;

/// How far a checkpoint says that a consumer is.
#[derive(Debug, Default, Clone)]
struct Frontier {
    lines: BTreeMap<String, u64>,
    finished: HashSet<String>,
}

impl Frontier {
    /// Reads a checkpoint and its journal, with nothing of the program under test.
    fn read(directory: &Path, name: &str) -> Result<Self, Violation> {
        let mut frontier = Self::default();
        let Ok(text) = fs::read(directory.join(format!(".{name}"))) else {
            return Ok(frontier);
        };
        let checkpoint: Value =
            serde_json::from_slice(&text).map_err(|e| format!("the checkpoint is torn: {e}"))?;
        let state = &checkpoint["tailweir"];
        let journal = fs::read_to_string(directory.join(format!(".{name}.finished"))).unwrap_or_default();
        let mut lines = journal.split_inclusive('\n');
        if lines
            .next()
            .is_some_and(|head| head.trim_end().ends_with(state["journal"].as_str().unwrap_or("?")))
        {
            // The last line may be torn; the name of a segment holds no quote here.
            let names = lines.filter_map(|line| line.strip_suffix("\"\n")?.split_once(" \""));
            frontier.finished.extend(names.map(|(_, name)| name.to_owned()));
        }
        frontier.take(state)?;
        Ok(frontier)
    }

    /// Takes what a checkpoint says of segments.
    fn take(&mut self, state: &Value) -> Result<(), Violation> {
        self.lines.clear();
        for segment in state["segments"].as_array().ok_or("the checkpoint has no segments")? {
            let name = segment["name"].as_str().ok_or("a segment without name")?.to_owned();
            if segment["finished"] == true {
                self.finished.insert(name);
            } else {
                self.finished.remove(&name);
                self.lines.insert(name, segment["line"].as_u64().ok_or("a segment without line")?);
            }
        }
        Ok(())
    }

    /// Reads the journal of state beside a checkpoint: what its last whole entry covers, and the number under a key of the
    /// only bucket. `None` if there is no such file, or no checkpoint: then a consumer starts over.
    fn read_with_state(directory: &Path, name: &str, key: &str) -> Result<Option<(Self, u64)>, Violation> {
        let Ok(text) = fs::read_to_string(directory.join(format!(".{name}.state"))) else {
            return Ok(None);
        };
        if !directory.join(format!(".{name}")).exists() {
            return Ok(None);
        }
        let (mut frontier, mut number) = (Self::default(), 0);
        // A last line without end is torn. The power stays on, so no other is.
        let whole = text.split_inclusive('\n').skip(1).filter_map(|line| line.strip_suffix('\n'));
        for line in whole {
            let entry: Value =
                serde_json::from_str(&line[17..]).map_err(|e| format!("the state is damaged: {e}"))?;
            let names = entry["finished"].as_array().ok_or("an entry without finished segments")?;
            frontier.finished.extend(names.iter().filter_map(|name| Some(name.as_str()?.to_owned())));
            if !entry["checkpoint"].is_null() {
                frontier.take(&entry["checkpoint"]["tailweir"])?;
            }
            for changed in entry["state"].as_object().ok_or("an entry without state")?.values() {
                if let Some(value) = changed[key].as_str() {
                    number = value.parse().map_err(|_| format!("the count is `{value}`"))?;
                }
            }
        }
        Ok(Some((frontier, number)))
    }

    /// Lines of a segment that are dealt with; no number is higher than that of a finished segment.
    fn line(&self, name: &str) -> u64 {
        if self.finished.contains(name) { u64::MAX } else { self.lines.get(name).copied().unwrap_or(0) }
    }
}

/// What was counted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    /// Records that consumers got for the first time.
    pub(crate) records: u64,
    /// Records that came again, from batches that were not committed.
    pub(crate) duplicates: u64,
    /// Records that went with a file that was deleted, shortened or replaced.
    pub(crate) gone: u64,
    /// Commits that were refused and succeeded later.
    pub(crate) refused: u64,
}

/// One consumer through all its runs.
pub(crate) struct Subject {
    kind: Kind,
    /// Lines of each segment that it got.
    seen: Vec<Vec<bool>>,
    frontier: Frontier,
    /// The highest line of each segment that a checkpoint has named.
    begun: HashMap<usize, u64>,
    /// How much of its file was looked at.
    looked_at: usize,
}

/// What a consumer got in one run.
#[derive(Default)]
struct Run {
    batches: Vec<Batch>,
    by_id: HashMap<String, usize>,
}

#[derive(Default)]
struct Batch {
    places: Vec<Place>,
    intended: bool,
    committed: bool,
}

impl Subject {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, seen: Vec::new(), frontier: Frontier::default(), begun: HashMap::new(), looked_at: 0 }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name
    }

    /// Whether the consumer has got something since its last run.
    pub(crate) fn has_begun(&self, stdout: usize, home: &Path) -> bool {
        match self.kind.told {
            Told::Batches => stdout > 0,
            Told::Lines | Told::State => {
                fs::metadata(self.path(home)).is_ok_and(|meta| meta.len() > self.looked_at as u64)
            }
        }
    }

    fn path(&self, home: &Path) -> PathBuf {
        home.join("out").join(self.kind.name)
    }

    /// Looks at what one run has left: its stdout, the file, and the checkpoint.
    pub(crate) fn check_run(
        &mut self,
        log: &Log,
        stdout: &[u8],
        home: &Path,
        counts: &mut Counts,
    ) -> Result<(), Violation> {
        let mut frontier = Frontier::read(&log.directory, self.kind.name)?;
        if let Some(key) = self.kind.counts
            && let Some((covered, count)) = Frontier::read_with_state(&log.directory, self.kind.name, key)?
        {
            // The next run goes on from there, which the checkpoint itself may lag behind.
            frontier = covered;
            self.check_count(log, &frontier, count)?;
        }
        let run = match self.kind.told {
            Told::Batches => self.parse_batches(log, stdout, counts)?,
            Told::Lines => self.parse_lines(log, home)?,
            Told::State => self.newly_covered(log, home, &frontier),
        };
        self.check_order(log, &run)?;
        self.check_frontier(log, &run, &frontier)?;
        self.check_quarantine(log, &frontier)?;
        self.frontier = frontier;
        for (name, line) in &self.frontier.lines {
            if let Some(segment) = log.by_name.get(name) {
                let highest = self.begun.entry(*segment).or_default();
                *highest = (*highest).max(*line);
            }
        }
        self.note(log, &run, counts);
        Ok(())
    }

    /// Looks at the whole, after everything was read to its end.
    pub(crate) fn check_end(&self, log: &Log, said: &str, counts: &mut Counts) -> Result<(), Violation> {
        for (index, segment) in log.segments.iter().enumerate() {
            // What is only counted can't be told by file where another has taken a name.
            if self.kind.told == Told::State && (segment.disturbed || segment.replaces.is_some()) {
                continue;
            }
            let unseen = self.unseen(log, index);
            let superfluous = segment.replaces.is_some_and(|old| self.unseen(log, old).is_empty());
            if let Some(first) = unseen.first()
                && *first <= segment.required()
                && !superfluous
            {
                return Err(format!("lost: {}:{first} ({} records)", segment.name, unseen.len()));
            }
            counts.gone += unseen.len() as u64;
            // A file that a checkpoint reaches less far into than what is left of it may be any other for all one can tell.
            let noticeable =
                self.begun.get(&index).is_some_and(|line| *line > segment.required()) && !superfluous;
            if !unseen.is_empty() && noticeable && !said.contains(&segment.name) {
                return Err(format!(
                    "{} records of {} are gone and nobody said so",
                    unseen.len(),
                    segment.name
                ));
            }
            // With the end of all, so is whatever nothing could be done with in quarantine: see `check_quarantine`.
            if !segment.disturbed && self.frontier.line(&segment.name) != u64::MAX {
                return Err(format!(
                    "{} was read to its end, and its checkpoint does not say so",
                    segment.name
                ));
            }
        }
        Ok(())
    }

    /// Lines of a segment that the consumer should have got and has not.
    fn unseen(&self, log: &Log, segment: usize) -> Vec<u64> {
        let lines = (1..).zip(&log.segments[segment].ids);
        let unseen = |line: &u64| !self.has_seen(Place { segment, line: *line });
        lines.filter(|(_, id)| self.keeps(log, **id)).map(|(line, _)| line).filter(unseen).collect()
    }

    /// Whether a line is a record that it is to be given.
    fn keeps(&self, log: &Log, id: u64) -> bool {
        !self.condemns(log, id) && self.wants(id)
    }

    /// Whether a record passes the filter that comes before everything else.
    fn wants(&self, id: u64) -> bool {
        self.kind.pool.is_none_or(|pool| (pool == "b") == id.is_multiple_of(3))
    }

    /// Whether a line belongs in its quarantine.
    fn condemns(&self, log: &Log, id: u64) -> bool {
        match log.records.kind(id) {
            LineKind::Good => false,
            LineKind::Malformed => true,
            LineKind::Poison => self.kind.minds_poison && self.wants(id),
        }
    }

    /// Whether a count is of exactly the records that are covered. Where files were tampered with, that can't be told.
    fn check_count(&self, log: &Log, frontier: &Frontier, count: u64) -> Result<(), Violation> {
        if log.segments.iter().any(|segment| segment.disturbed || segment.replaces.is_some()) {
            return Ok(());
        }
        let covered = |segment: &Segment| {
            let lines = frontier.line(&segment.name).min(segment.ids.len() as u64) as usize;
            segment.ids[..lines].iter().filter(|id| self.keeps(log, **id)).count() as u64
        };
        match log.segments.iter().map(covered).sum::<u64>() {
            covered if covered == count => Ok(()),
            covered => {
                Err(format!("the state has counted {count} records, and the checkpoint covers {covered}"))
            }
        }
    }

    /// Whether what nothing can be done with is in quarantine, as far as the checkpoint covers it, and nothing else is.
    fn check_quarantine(&self, log: &Log, frontier: &Frontier) -> Result<(), Violation> {
        let mut kept = HashSet::new();
        for (name, line, bytes) in self.quarantined(log)? {
            let segment = log.by_name.get(&name).copied();
            if segment.is_some_and(|index| log.segments[index].disturbed) {
                continue;
            }
            let written = segment.and_then(|index| log.segments[index].ids.get(line as usize - 1));
            let (Some(segment), Some(id)) = (segment, written.copied()) else {
                return Err(format!("{name}:{line} is in quarantine and was not written"));
            };
            if log.text(id).is_none_or(|text| text.as_bytes() != bytes) {
                return Err(format!("{name}:{line} is in quarantine with other bytes"));
            }
            if !self.condemns(log, id) {
                return Err(format!("{name}:{line} is in quarantine and nothing is wrong with it"));
            }
            if !kept.insert((segment, line)) {
                return Err(format!("{name}:{line} is in quarantine twice"));
            }
        }
        for (index, segment) in log.segments.iter().enumerate().filter(|(_, s)| !s.disturbed) {
            let covered = frontier.line(&segment.name).min(segment.ids.len() as u64);
            for (line, id) in (1..=covered).zip(&segment.ids) {
                if self.condemns(log, *id) && !kept.contains(&(index, line)) {
                    return Err(format!("covered and not in quarantine: {}:{line}", segment.name));
                }
            }
        }
        Ok(())
    }

    /// What is in its quarantine: segment, line and bytes. What a kill has torn is none.
    fn quarantined(&self, log: &Log) -> Result<Vec<(String, u64, Vec<u8>)>, Violation> {
        let prefix = format!(".{}.quarantine", self.kind.name);
        let mut found = Vec::new();
        for entry in fs::read_dir(&log.directory).map_err(|e| e.to_string())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name
                .strip_prefix(&prefix)
                .is_none_or(|rest| rest.contains(|c: char| c != '.' && !c.is_ascii_digit()))
            {
                continue;
            }
            let text = fs::read_to_string(entry.path()).map_err(|e| format!("{name}: {e}"))?;
            for entry in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                match (entry["segment"].as_str(), entry["line"].as_u64(), entry["text"].as_str()) {
                    (Some(segment), Some(line @ 1..), Some(text)) => {
                        found.push((segment.to_owned(), line, text.as_bytes().to_vec()));
                    }
                    _ => return Err(format!("{name} holds something else: {entry}")),
                }
            }
        }
        Ok(found)
    }

    fn has_seen(&self, place: Place) -> bool {
        let line = |segment: &Vec<bool>| segment.get(place.line as usize - 1).copied();
        self.seen.get(place.segment).and_then(line) == Some(true)
    }

    /// The place of a record, which must be one that was written, byte for byte. `None` if it is torn.
    fn place(&self, log: &Log, line: &str) -> Option<Place> {
        let id = line.strip_prefix(r#"{"id":"#)?.split_once(',')?.0.parse().ok()?;
        let mut text = log.text(id)?;
        if self.kind.masked {
            text = text.replace(&format!("u{id}@"), "***@");
        }
        (text == line).then(|| log.places[id as usize])
    }

    fn parse_batches(&self, log: &Log, stdout: &[u8], counts: &mut Counts) -> Result<Run, Violation> {
        let mut run = Run::default();
        let mut open: Option<(String, Batch)> = None;
        let text = String::from_utf8_lossy(stdout);
        let own = |line: &str| line.split(' ').nth(1) == Some(self.kind.name);
        // What follows the last line break was torn by the kill.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let id = line.split(' ').nth(2).unwrap_or_default();
            match line.as_bytes().first() {
                Some(b'B') => open = own(line).then(|| (id.to_owned(), Batch::default())),
                Some(b'{') => {
                    if let Some((_, batch)) = &mut open {
                        let place = self.place(log, line);
                        batch
                            .places
                            .push(place.ok_or_else(|| format!("no record that was written: {line}"))?);
                    }
                }
                Some(b'E') => {
                    if let Some((id, batch)) = open.take() {
                        let count = id.split(':').nth(3).and_then(|count| count.parse().ok());
                        if count != Some(batch.places.len()) {
                            return Err(format!("batch {id} holds {} records", batch.places.len()));
                        }
                        let disturbed =
                            batch.places.iter().any(|place| log.segments[place.segment].disturbed);
                        if run.by_id.insert(id.clone(), run.batches.len()).is_some() && !disturbed {
                            return Err(format!("batch {id} came twice in one run"));
                        }
                        run.batches.push(batch);
                    }
                }
                Some(b'I' | b'C') if own(line) => {
                    let index = *run.by_id.get(id).ok_or_else(|| format!("batch {id} was not told"))?;
                    let batch = &mut run.batches[index];
                    batch.intended = true;
                    batch.committed |= line.starts_with('C');
                }
                Some(b'F') => counts.refused += u64::from(own(line)),
                _ => {}
            }
        }
        Ok(run)
    }

    fn parse_lines(&mut self, log: &Log, home: &Path) -> Result<Run, Violation> {
        let bytes = fs::read(self.path(home)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes[self.looked_at..]).into_owned();
        // A last line without end is ended by the next run, if it is torn; then it is no record.
        self.looked_at = bytes.len();
        let mut batch = Batch { intended: true, ..Batch::default() };
        let mut lines = text.split('\n').enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            match self.place(log, line) {
                Some(place) if lines.peek().is_some() => batch.places.push(place),
                // The rest of a line that the run before has torn is a line break.
                None if line.is_empty() && number == 0 => {}
                // The last one is torn, if there is one. A write that failed half-way is taken back.
                _ if lines.peek().is_none() => {}
                _ => return Err(format!("no record that was written: {line}")),
            }
        }
        Ok(Run { batches: vec![batch], ..Run::default() })
    }

    /// What is covered that was not before: all that is known of a consumer which only counts.
    fn newly_covered(&mut self, log: &Log, home: &Path, frontier: &Frontier) -> Run {
        self.looked_at = fs::metadata(self.path(home)).map_or(0, |meta| meta.len() as usize);
        let mut batch = Batch { intended: true, ..Batch::default() };
        for (index, segment) in log.segments.iter().enumerate() {
            let (before, after) = (self.frontier.line(&segment.name), frontier.line(&segment.name));
            let lines = before.saturating_add(1)..=after.min(segment.ids.len() as u64);
            let kept = lines.filter(|line| self.keeps(log, segment.ids[*line as usize - 1]));
            batch.places.extend(kept.map(|line| Place { segment: index, line }));
        }
        Run { batches: vec![batch], ..Run::default() }
    }

    /// Whether records came in order, none left out, and none that a checkpoint covered; where batches come in any order, each
    /// record once.
    fn check_order(&self, log: &Log, run: &Run) -> Result<(), Violation> {
        let mut reached: HashMap<usize, u64> = HashMap::new();
        let mut once = HashSet::new();
        for place in run.batches.iter().flat_map(|batch| &batch.places) {
            let segment = &log.segments[place.segment];
            if !self.keeps(log, segment.ids[place.line as usize - 1]) {
                return Err(format!("{}:{} is not for this consumer", segment.name, place.line));
            }
            if segment.disturbed {
                continue;
            }
            let start = self.frontier.line(&segment.name);
            if !self.kind.ordered {
                let again = !once.insert((place.segment, place.line));
                if again || place.line <= start {
                    let why = if again { "came twice in one run" } else { "came again though committed" };
                    return Err(format!("{why}: {}:{}", segment.name, place.line));
                }
                continue;
            }
            let reached = reached.entry(place.segment).or_insert(start);
            if place.line <= *reached {
                let why = if *reached == start { "came again though committed" } else { "out of order" };
                return Err(format!("{why}: {}:{} after {reached}", segment.name, place.line));
            }
            let skipped = &segment.ids[*reached as usize..place.line as usize - 1];
            if skipped.iter().any(|id| self.keeps(log, *id)) {
                return Err(format!("skipped: {}:{reached} to {}", segment.name, place.line));
            }
            *reached = place.line;
        }
        Ok(())
    }

    /// Whether the checkpoint covers what was committed, and nothing that was not, and did not move back.
    fn check_frontier(&self, log: &Log, run: &Run, frontier: &Frontier) -> Result<(), Violation> {
        let acknowledged: HashSet<(usize, u64)> = run
            .batches
            .iter()
            .filter(|batch| batch.intended)
            .flat_map(|batch| batch.places.iter().map(|place| (place.segment, place.line)))
            .collect();
        for (index, segment) in log.segments.iter().enumerate().filter(|(_, s)| !s.disturbed) {
            let (before, after) = (self.frontier.line(&segment.name), frontier.line(&segment.name));
            if after < before {
                return Err(format!("the checkpoint moved back in {}: {before} to {after}", segment.name));
            }
            for line in before.saturating_add(1)..=after.min(segment.ids.len() as u64) {
                if self.keeps(log, segment.ids[line as usize - 1]) && !acknowledged.contains(&(index, line)) {
                    return Err(format!("covered without acknowledgement: {}:{line}", segment.name));
                }
            }
            if after == u64::MAX && !segment.sealed {
                return Err(format!("{} is called finished while it is written", segment.name));
            }
        }
        let mut held = HashSet::new();
        let mut uncommitted = 0;
        for batch in &run.batches {
            for place in &batch.places {
                let segment = &log.segments[place.segment];
                let covered = place.line <= frontier.line(&segment.name);
                if batch.committed && !held.contains(&place.segment) && !covered && !segment.disturbed {
                    return Err(format!("a commit was lost: {}:{}", segment.name, place.line));
                }
                uncommitted += usize::from(!covered && !segment.disturbed);
            }
            if !batch.committed {
                held.extend(batch.places.iter().map(|place| place.segment));
            }
        }
        if uncommitted > self.kind.uncommitted {
            return Err(format!("{uncommitted} records were delivered and not committed"));
        }
        Ok(())
    }

    fn note(&mut self, log: &Log, run: &Run, counts: &mut Counts) {
        self.seen.resize_with(log.segments.len(), Vec::new);
        for place in run.batches.iter().flat_map(|batch| &batch.places) {
            let lines = &mut self.seen[place.segment];
            if lines.len() < place.line as usize {
                lines.resize(place.line as usize, false);
            }
            let again = std::mem::replace(&mut lines[place.line as usize - 1], true);
            counts.records += u64::from(!again);
            counts.duplicates += u64::from(again);
        }
    }
}
