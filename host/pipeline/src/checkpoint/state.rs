//! The state of plug-ins, `.<name>.state`: a journal of what the checkpoint said and of the keys that were changed with it.
//!
//! The first line is a header with the id of the checkpoint's history. Each other line is an entry: 16 hexadecimal digits of
//! XXH3 over its JSON text, seeded with that of the line before, a space, and the JSON text. The first entry has
//! everything, the others what was changed. One entry is one transaction: the checkpoint in it and the state go together,
//! so whatever is cut off at the end, what is left belongs together.
//!
//! An entry is written before the checkpoint that it holds. So the journal is never behind, but after a loss of power that
//! took more of it than of the checkpoint; then its last entry counts all the same, as there is no state for a later one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tailweir_core::state::{Changes, StateValue};
use tailweir_core::{Contents, SegmentName};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::format::{self, Format};
use super::{Saved, StoreError};
use crate::CheckpointName;
use crate::files::{Access, Files, OpenFile};

/// What files of this name end in.
pub(super) const SUFFIX: &str = ".state";
const SPARE: &str = ".state.tmp";

const HEADER: &str = "tailweir state ";
const VERSION: &str = "1";

/// A journal is written anew when it is so many times as long as what it comes to, but not for less than [`SLACK`].
const GROWTH: u64 = 4;
pub(super) const SLACK: u64 = 1 << 20;

/// How much plug-ins remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StateSize {
    /// Keys that have a value.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
    /// Bytes of the journal, `.<name>.state`, in which former values are, too.
    pub journal_bytes: u64,
}

/// Buckets by the names of their plug-ins.
pub(super) type Buckets = BTreeMap<String, Arc<Contents>>;

/// A line without its checksum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    /// The checkpoint that was written next. None before the first one.
    #[serde(borrow)]
    checkpoint: Option<&'a RawValue>,
    /// Segments that were wholly dealt with since the entry before.
    finished: Vec<Cow<'a, str>>,
    /// By bucket and key, the new values; null for keys that were deleted.
    state: BTreeMap<Cow<'a, str>, StoredBucket<'a>>,
}

/// A value: as text if it is UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored<'a> {
    Text(Cow<'a, str>),
    Bytes { base64: String },
}

impl<'a> Stored<'a> {
    fn new(value: &'a [u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self::Text(text.into()),
            Err(_) => Self::Bytes { base64: STANDARD.encode(value) },
        }
    }

    fn value(&self) -> Result<StateValue, String> {
        match self {
            Self::Text(text) => Ok(text.as_bytes().into()),
            Self::Bytes { base64 } => STANDARD.decode(base64).map(Into::into).map_err(|e| e.to_string()),
        }
    }
}

/// What a journal comes to.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The history that it belongs to.
    pub(super) id: String,
    /// What the checkpoint of the last entry says, without finished segments.
    saved: Saved,
    /// How many times that had been written.
    pub(super) generation: u64,
    finished: HashSet<SegmentName>,
    pub(super) buckets: Buckets,
    /// Bytes of whole entries, the header included, and of all.
    length: u64,
    pub(super) total: u64,
    sum: u64,
}

impl Read {
    /// Of what is to be written.
    pub(super) fn begin(id: &str, finished: &HashSet<SegmentName>, buckets: Buckets) -> Self {
        Self { id: id.to_owned(), finished: finished.clone(), buckets, ..Self::default() }
    }

    /// What the consumer goes on from, with all finished segments.
    pub(super) fn saved(&self) -> Saved {
        let mut saved = Saved { finished: self.finished.clone(), ..self.saved.clone() };
        saved.settle_finished();
        saved
    }

    /// How many keys plug-ins have.
    pub(super) fn keys(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.len()).sum()
    }

    /// Bytes at the end that are no whole entry.
    pub(super) fn torn(&self) -> u64 {
        self.total - self.length
    }

    /// Reads a journal up to the first entry that is not whole.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().unwrap_or_default();
        let id =
            std::str::from_utf8(header).ok().and_then(|line| line.strip_prefix(HEADER)?.strip_suffix('\n'));
        let id = match id.and_then(|rest| rest.split_once(' ')) {
            Some((VERSION, id)) => id.to_owned(),
            Some((version, _)) => {
                return Err(format!(
                    "it is of version {version}, and this program knows {VERSION}; the newer program that wrote it can read it"
                ));
            }
            None => return Err("it does not begin as such a file does".to_owned()),
        };
        let (length, sum) = (header.len() as u64, xxh3_64(header));
        let mut read = Self { id, length, sum, total: text.len() as u64, ..Self::default() };
        for (number, line) in lines.enumerate() {
            match whole(line, read.sum) {
                Some((json, sum)) => {
                    // Its checksum is right, so it was written like this.
                    read.add(json).map_err(|e| format!("entry {} is not understood: {e}", number + 1))?;
                    (read.sum, read.length) = (sum, read.length + line.len() as u64);
                }
                None if number == 0 => return Err("its first entry is damaged".to_owned()),
                None => return Ok(read),
            }
        }
        if read.length == header.len() as u64 { Err("it has no entry".to_owned()) } else { Ok(read) }
    }

    fn add(&mut self, json: &[u8]) -> Result<(), String> {
        let entry: Entry<'_> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if let Some(checkpoint) = entry.checkpoint {
            match format::parse(checkpoint.get().as_bytes())? {
                Format::Tailweir { mut saved, generation, .. } => {
                    self.finished.extend(super::file::take_ended(&mut saved));
                    (self.saved, self.generation) = (saved, generation);
                }
                Format::Kumod { .. } => return Err("it holds a checkpoint of kumod's".to_owned()),
            }
        }
        for name in entry.finished {
            self.finished.insert(SegmentName::new(&name).map_err(|e| e.to_string())?);
        }
        for (bucket, changed) in entry.state {
            let mut changes = Changes::new();
            for (key, stored) in changed {
                changes.insert(key.into_owned(), stored.as_ref().map(Stored::value).transpose()?);
            }
            Arc::make_mut(self.buckets.entry(bucket.into_owned()).or_default()).apply(changes);
        }
        Ok(())
    }
}

/// The JSON text of a line that is whole, and its checksum.
fn whole(line: &[u8], before: u64) -> Option<(&[u8], u64)> {
    let (digits, json) = line.strip_suffix(b"\n")?.split_at_checked(16)?;
    let json = json.strip_prefix(b" ")?;
    let sum = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (sum == xxh3_64_with_seed(json, before)).then_some((json, sum))
}

/// The journal that is added to.
pub(super) struct StateFile {
    files: Arc<dyn Files>,
    name: CheckpointName,
    id: String,
    /// What was acknowledged, also if it is not in the file yet.
    buckets: Buckets,
    finished: HashSet<SegmentName>,
    /// Changes that are not in the file yet.
    queue: BTreeMap<String, Changes>,
    /// Finished segments that are not in the file yet.
    owed: Vec<SegmentName>,
    file: Option<Box<dyn OpenFile>>,
    /// Bytes of whole entries, the header included.
    length: u64,
    /// The checksum of the last one.
    sum: u64,
    /// Something else may be behind them.
    torn: bool,
    unsynced: bool,
    slack: u64,
}

impl StateFile {
    /// Goes on with a journal: what is torn is cut off, and all of it is brought to the disk.
    pub(super) fn resume(
        files: Arc<dyn Files>,
        name: CheckpointName,
        slack: u64,
        read: Read,
    ) -> Result<Self, StoreError> {
        let mut this = Self::new(files, name, slack, read);
        this.unsynced = true;
        this.mend().and_then(|()| this.sync_file()).map_err(this.io("mend"))?;
        Ok(this)
    }

    /// Begins a journal in place of any that there is. It is on the disk when this returns, but for its name.
    pub(super) fn begin(
        files: Arc<dyn Files>,
        name: CheckpointName,
        slack: u64,
        read: Read,
        checkpoint: Option<&[u8]>,
    ) -> Result<Self, StoreError> {
        let mut this = Self::new(files, name, slack, read);
        this.rewrite(checkpoint)?;
        Ok(this)
    }

    fn new(files: Arc<dyn Files>, name: CheckpointName, slack: u64, read: Read) -> Self {
        let torn = read.torn() > 0;
        let Read { id, finished, buckets, length, sum, .. } = read;
        let (queue, owed, file, unsynced) = (BTreeMap::new(), Vec::new(), None, false);
        Self { files, name, id, buckets, finished, queue, owed, file, length, sum, torn, unsynced, slack }
    }

    /// What plug-ins have.
    #[cfg(test)]
    pub(super) fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// The bucket of this name.
    pub(super) fn bucket(&self, name: &str) -> Arc<Contents> {
        self.buckets.get(name).cloned().unwrap_or_default()
    }

    /// Changes a bucket. The next entry has the changes.
    pub(super) fn change(&mut self, bucket: &str, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        self.queue.entry(bucket.to_owned()).or_default().extend(changes.clone());
        Arc::make_mut(self.buckets.entry(bucket.to_owned()).or_default()).apply(changes);
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
        let path = self.files.path().join(self.name.file(SUFFIX));
        move |source| StoreError::Io { what, path, source }
    }

    /// Adds finished segments. The next entry has them.
    pub(super) fn finish(&mut self, names: &[SegmentName]) {
        for name in names {
            // One that is there came again as a new file; each checkpoint in between has said so.
            if self.finished.insert(name.clone()) {
                self.owed.push(name.clone());
            }
        }
    }

    /// Adds an entry with this checkpoint, and all changes since the last one.
    pub(super) fn append(&mut self, checkpoint: &[u8]) -> Result<(), StoreError> {
        // On a disk that is full there may be no place for another file, but for one more entry.
        if self.length > self.slack.max(GROWTH * self.live()) && self.rewrite(Some(checkpoint)).is_ok() {
            return Ok(());
        }
        let names = self.owed.iter().map(|name| name.as_str().into()).collect();
        let state = self.queue.iter().map(|(name, queue)| (name.as_str().into(), changes(queue))).collect();
        let (line, sum) = line(Some(checkpoint), names, state, self.sum).map_err(self.io("write"))?;
        let write = |this: &mut Self| {
            this.mend()?;
            this.torn = true;
            this.unsynced = true;
            this.open()?.write_all(&line)
        };
        write(self).map_err(self.io("append to"))?;
        self.torn = false;
        (self.length, self.sum) = (self.length + line.len() as u64, sum);
        self.queue.clear();
        self.owed.clear();
        Ok(())
    }

    /// Bytes that there are to be kept, about.
    fn live(&self) -> u64 {
        let names = self.finished.iter().map(|name| name.as_str().len() as u64);
        self.buckets.values().map(|bucket| bucket.bytes()).sum::<u64>() + names.sum::<u64>()
    }

    /// Writes it anew, under a new name first, so that there always is a whole one on the disk.
    fn rewrite(&mut self, checkpoint: Option<&[u8]>) -> Result<(), StoreError> {
        let header = format!("{HEADER}{VERSION} {}\n", self.id);
        let mut finished: Vec<Cow<'_, str>> = self.finished.iter().map(|name| name.as_str().into()).collect();
        finished.sort_unstable();
        let state =
            self.buckets.iter().map(|(name, bucket)| (name.as_str().into(), contents(bucket))).collect();
        let (entry, sum) =
            line(checkpoint, finished, state, xxh3_64(header.as_bytes())).map_err(self.io("write"))?;
        let text = [header.as_bytes(), &entry].concat();
        let [spare, current] = [SPARE, SUFFIX].map(|suffix| self.name.file(suffix));
        let write = || {
            let mut file = self.files.open(&spare, Access::Renew)?;
            file.write_all(&text)?;
            file.sync()?;
            self.files.rename(&spare, &current)
        };
        write().map_err(self.io("write"))?;
        (self.file, self.torn, self.unsynced) = (None, false, false);
        (self.length, self.sum) = (text.len() as u64, sum);
        self.queue.clear();
        self.owed.clear();
        Ok(())
    }

    fn open(&mut self) -> std::io::Result<&mut Box<dyn OpenFile>> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(self.files.open(&self.name.file(SUFFIX), Access::Append)?)),
        }
    }

    /// Cuts off what is no whole entry: another one behind it would never be read.
    fn mend(&mut self) -> std::io::Result<()> {
        if self.torn {
            let length = self.length;
            self.open()?.set_length(length)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Brings it to the disk. A new name that it got meanwhile is not brought there.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.sync_file().map_err(self.io("sync"))
    }

    fn sync_file(&mut self) -> std::io::Result<()> {
        if self.unsynced {
            match &self.file {
                Some(file) => file.sync()?,
                None => self.files.open(&self.name.file(SUFFIX), Access::Read)?.sync()?,
            }
            self.unsynced = false;
        }
        Ok(())
    }
}

type StoredBucket<'a> = BTreeMap<Cow<'a, str>, Option<Stored<'a>>>;

fn contents(bucket: &Contents) -> StoredBucket<'_> {
    bucket.iter().map(|(key, value)| (key.into(), Some(Stored::new(value)))).collect()
}

fn changes(changes: &Changes) -> StoredBucket<'_> {
    changes.iter().map(|(key, value)| (key.as_str().into(), value.as_deref().map(Stored::new))).collect()
}

/// A line, and its checksum.
fn line(
    checkpoint: Option<&[u8]>,
    finished: Vec<Cow<'_, str>>,
    state: BTreeMap<Cow<'_, str>, StoredBucket<'_>>,
    before: u64,
) -> std::io::Result<(Vec<u8>, u64)> {
    let checkpoint = checkpoint.map(serde_json::from_slice::<&RawValue>).transpose()?;
    let mut line = vec![b'0'; 16];
    line.push(b' ');
    serde_json::to_writer(&mut line, &Entry { checkpoint, finished, state })?;
    let sum = xxh3_64_with_seed(&line[17..], before);
    line[..16].copy_from_slice(format!("{sum:016x}").as_bytes());
    line.push(b'\n');
    Ok((line, sum))
}

/// The journal of a checkpoint, if there is one.
pub(super) fn read(files: &dyn Files, name: &CheckpointName) -> Result<Option<Read>, StoreError> {
    let file = name.file(SUFFIX);
    let path = || files.path().join(&file);
    match files.read(&file) {
        Ok(text) => match Read::parse(&text) {
            Ok(read) => Ok(Some(read)),
            Err(reason) => Err(StoreError::UnusableState { path: path(), reason }),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { what: "read", path: path(), source }),
    }
}

/// How much state a checkpoint has; `None` if there is none, or none that can be read.
pub(crate) fn size(files: &dyn Files, name: &CheckpointName) -> Option<StateSize> {
    let read = read(files, name).ok()??;
    let bytes = read.buckets.values().map(|bucket| bucket.bytes()).sum();
    Some(StateSize { keys: read.keys() as u64, bytes, journal_bytes: read.total })
}

#[cfg(test)]
pub(crate) mod tests {
    use tailweir_core::{Frontier, Mark, Point, Progress};

    use super::*;
    use crate::checkpoint::HasState;
    use crate::files::simulated::{Content, Exchange, Simulated};

    /// Calls journals by one name that are read alike.
    pub(crate) fn class(text: &[u8]) -> String {
        Read::parse(text).map_or_else(
            |_| String::new(),
            |read| format!("{} {:x} {}", read.length, read.sum, read.torn() > 0),
        )
    }

    fn name() -> CheckpointName {
        CheckpointName::new("c").unwrap()
    }

    fn checkpoint(generation: u64) -> Vec<u8> {
        let mark = Mark { point: Point { line: generation, offset: 0 }, ..Mark::default() };
        let progress = Progress { mark, identity: None, finished: false };
        let segments = [(SegmentName::new("s").unwrap(), progress)].into();
        let saved = Saved { frontier: Frontier { segments }, ..Saved::default() };
        format::write(&saved, "/", (generation, "id"), HasState::Yes).unwrap()
    }

    fn begin(files: &Arc<Simulated>) -> StateFile {
        let read = Read::begin("id", &HashSet::new(), Buckets::new());
        StateFile::begin(files.clone(), name(), SLACK, read, None).unwrap()
    }

    fn set(file: &mut StateFile, generation: u64, key: &str, value: &[u8]) {
        file.change("b", [(key.to_owned(), Some(value.into()))].into());
        file.finish(&[SegmentName::new(&format!("f{generation}")).unwrap()]);
        file.append(&checkpoint(generation)).unwrap();
    }

    fn text(files: &Simulated) -> Vec<u8> {
        files.read(".c.state").unwrap()
    }

    fn shown(read: &Read) -> String {
        let entries = read.buckets.iter().flat_map(|(bucket, contents)| {
            contents.iter().map(move |(key, value)| format!("{bucket}/{key}={}", value.escape_ascii()))
        });
        let mut finished: Vec<_> = read.finished.iter().map(|name| name.to_string()).collect();
        finished.sort();
        format!("{}: {} after {}", read.generation, entries.collect::<Vec<_>>().join(" "), finished.join(" "))
    }

    #[test]
    fn what_is_written_is_read_and_bytes_that_are_no_text_too() {
        let files = Arc::new(Simulated::new(Exchange::Possible));
        let mut file = begin(&files);
        assert_eq!(shown(&Read::parse(&text(&files)).unwrap()), "0:  after ");
        set(&mut file, 1, "a", b"text\n");
        set(&mut file, 2, "k\u{e9}", &[0xff, 0]);
        file.change("other", [("gone".to_owned(), Some(b"".as_slice().into()))].into());
        file.change("other", [("gone".to_owned(), None)].into());
        set(&mut file, 3, "a", b"new");
        let read = read(&*files, &name()).unwrap().unwrap();
        assert_eq!(shown(&read), "3: b/a=new b/k\u{e9}=\\xff\\x00 after f1 f2 f3");
        assert_eq!((read.torn(), read.total), (0, size(&*files, &name()).unwrap().journal_bytes));
    }

    #[test]
    fn what_is_torn_is_left_out_and_cut_off() {
        let files = Arc::new(Simulated::new(Exchange::Possible));
        let mut file = begin(&files);
        set(&mut file, 1, "a", b"1");
        let before = text(&files).len();
        set(&mut file, 2, "a", b"2");
        let whole = text(&files);
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let second = first + whole[first..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for end in 0..whole.len() {
            match Read::parse(&whole[..end]) {
                Err(_) => assert!(end < second, "{end}"),
                Ok(read) if end < before => assert_eq!(read.generation, 0),
                Ok(read) => assert_eq!(read.generation, 1),
            }
        }
        for end in [before + 1, whole.len() - 1] {
            let content = Content::from([(".c.state".to_owned(), whole[..end].to_vec())]);
            let files = Arc::new(Simulated::with(&content, Exchange::Possible));
            let read = read(&*files, &name()).unwrap().unwrap();
            assert_eq!(read.torn(), (end - before) as u64);
            let mut file = StateFile::resume(files.clone(), name(), SLACK, read).unwrap();
            assert_eq!(text(&files).len(), before);
            set(&mut file, 2, "a", b"2");
            assert_eq!(text(&files), whole);
        }
    }

    #[test]
    fn no_altered_byte_passes() {
        let files = Arc::new(Simulated::new(Exchange::Possible));
        let mut file = begin(&files);
        set(&mut file, 1, "a", b"1");
        let before = text(&files).len();
        set(&mut file, 2, "a", b"2");
        let whole = text(&files);
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            if let Ok(read) = Read::parse(&altered) {
                assert!(read.generation < 2 && (at >= before || read.generation < 1), "byte {at}");
            }
        }
        // An entry of another journal does not pass for one of this, nor one that was cut off and came back.
        let swapped = [&whole[..before], &whole[before..], &whole[before..]].concat();
        assert_eq!(Read::parse(&swapped).unwrap().torn(), (whole.len() - before) as u64);
        assert!(
            Read::parse(b"").is_err()
                && Read::parse(b"tailweir state 2 id\n").unwrap_err().contains("version 2")
        );
    }

    #[test]
    fn an_append_that_failed_half_way_is_taken_back() {
        let files = Arc::new(Simulated::new(Exchange::Possible));
        let mut file = begin(&files);
        set(&mut file, 1, "a", b"1");
        let whole = text(&files);
        files.fail_at(files.changes());
        file.change("b", [("a".to_owned(), Some(b"2".as_slice().into()))].into());
        assert!(file.append(&checkpoint(2)).is_err());
        // As a disk that becomes full leaves it.
        files.open(".c.state", Access::Append).unwrap().write_all(b"0123").unwrap();
        assert_eq!(Read::parse(&text(&files)).unwrap().torn(), 4);
        file.append(&checkpoint(2)).unwrap();
        let read = Read::parse(&text(&files)).unwrap();
        assert_eq!((shown(&read), read.torn()), ("2: b/a=2 after f1".into(), 0));
        assert!(text(&files).starts_with(&whole));
    }

    #[test]
    fn it_is_written_anew_when_most_of_it_is_old() {
        let files = Arc::new(Simulated::new(Exchange::Possible));
        let mut file = begin(&files);
        file.slack = 4000;
        let (mut longest, mut shrank) = (0, 0);
        for generation in 1..200 {
            let before = text(&files).len();
            set(&mut file, generation, &format!("k{}", generation % 7), generation.to_string().as_bytes());
            let after = text(&files).len();
            longest = longest.max(after);
            shrank += usize::from(after < before);
            let read = Read::parse(&text(&files)).unwrap();
            assert_eq!(
                (read.generation, read.finished.len() as u64, read.torn()),
                (generation, generation, 0)
            );
        }
        assert!(shrank > 5 && longest < 12_000, "{shrank} times, {longest} bytes");
        let read = Read::parse(&text(&files)).unwrap();
        assert_eq!(read.buckets["b"].get("k3").map(|value| &**value), Some(&b"199"[..]));
        // Where there is no space for that, it goes on as it is.
        file.slack = 0;
        while file.length <= GROWTH * file.live() {
            set(&mut file, 200, "k", b"v");
        }
        files.fail_at(files.changes() + 1);
        let before = text(&files).len();
        set(&mut file, 201, "k", b"w");
        assert!(text(&files).len() > before);
        assert_eq!(Read::parse(&text(&files)).unwrap().generation, 201);
    }
}
