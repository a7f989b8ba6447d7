//! A directory in memory whose disk may lose power: it remembers what was brought to the disk and what was not, and
//! enumerates everything that may be found afterwards.
//!
//! What is assumed of a file system, which is what journaling ones keep and is less than ext4 promises:
//!
//! * Each operation on names (making, renaming, exchanging, linking and removing) happens as a whole or not at all.
//! * Those that were not brought to the disk may be lost or kept in any combination in which an operation is kept only if
//!   all earlier ones on the same names are: a change of a name does not overtake another change of that name, and no
//!   order is kept between different names.
//! * A write or a change of length that was not brought to the disk may be lost or kept, whatever became of others, or
//!   be kept in part: up to some byte, or with zero bytes for what it added to the length.
//! * Bringing a file to the disk says nothing about its name, and bringing the names nothing about what is in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Access, Files, OpenFile, Stamp};

/// Whether names can be exchanged, as on local file systems, or not, as on NFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    Possible,
    Impossible,
}

/// The directory. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Simulated(Arc<Mutex<Machine>>);

#[derive(Debug)]
struct Machine {
    state: State,
    exchange: Exchange,
    /// The state after each change so far.
    past: Vec<State>,
    /// The change that fails, counted from 0.
    fails_at: Option<usize>,
    changes: usize,
}

/// What the kernel shows, and what is on the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    names_on_disk: BTreeMap<String, u64>,
    /// Changes of names since.
    renamed: Vec<Renaming>,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    data: Vec<u8>,
    on_disk: Vec<u8>,
    /// Changes of the data since.
    changed: Vec<Change>,
    /// Counts changes, in place of the time of the last one.
    version: i64,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Clone)]
enum Renaming {
    Make(String, u64),
    Link(String, String),
    Rename(String, String),
    Exchange(String, String),
    Remove(String),
}

/// Files by name.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

impl Simulated {
    pub(crate) fn new(exchange: Exchange) -> Self {
        Self::with(&Content::new(), exchange)
    }

    /// A directory in which these files have been on the disk for ever.
    pub(crate) fn with(content: &Content, exchange: Exchange) -> Self {
        let mut state = State::default();
        for (inode, (name, data)) in (1..).zip(content) {
            let file = Inode { data: data.clone(), on_disk: data.clone(), ..Inode::default() };
            state.inodes.insert(inode, file);
            state.names.insert(name.clone(), inode);
        }
        state.names_on_disk = state.names.clone();
        let past = vec![state.clone()];
        Self(Arc::new(Mutex::new(Machine { state, exchange, past, fails_at: None, changes: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }

    /// How many changes there were.
    pub(crate) fn changes(&self) -> usize {
        self.lock().changes
    }

    /// The state after each change, the first one before any.
    pub(crate) fn past(&self) -> Vec<State> {
        self.lock().past.clone()
    }

    /// Has the change with this number, counted from 0, fail without effect.
    pub(crate) fn fail_at(&self, change: usize) {
        self.lock().fails_at = Some(change);
    }
}

impl Machine {
    /// Each change goes through here.
    fn change<T>(&mut self, apply: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.changes += 1;
        if self.fails_at == Some(self.changes - 1) {
            self.past.push(self.state.clone());
            return Err(Error::from(ErrorKind::StorageFull));
        }
        let result = apply(&mut self.state);
        self.past.push(self.state.clone());
        result
    }
}

impl State {
    fn inode(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn file(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("inodes are never removed")
    }

    fn rename(&mut self, renaming: Renaming) {
        renaming.apply(&mut self.names);
        self.renamed.push(renaming);
    }

    /// What a process that starts now finds, if the power stayed on.
    pub(crate) fn after_kill(&self) -> Content {
        self.names.iter().map(|(name, inode)| (name.clone(), self.inodes[inode].data.clone())).collect()
    }

    /// What may be found when the power was lost now, of the files whose names `concerns` likes. Contents that `same` calls
    /// by one name are not told apart: one of them stands for all.
    pub(crate) fn after_power_loss(
        &self,
        concerns: impl Fn(&str) -> bool,
        same: impl Fn(&[u8]) -> String,
    ) -> Vec<Content> {
        let mut found = Vec::new();
        let mut known = BTreeSet::new();
        let mut variants: BTreeMap<u64, Vec<(String, Vec<u8>)>> = BTreeMap::new();
        let own = self.names_on_disk.iter().filter(|(name, _)| concerns(name));
        let start = own.map(|(name, inode)| (name.clone(), *inode)).collect();
        let renamed: Vec<_> = self.renamed.iter().filter(|r| r.names().iter().all(|n| concerns(n))).collect();
        let mut all_names = BTreeSet::new();
        kept(&renamed, start, &mut Vec::new(), &mut all_names);
        for names in all_names {
            // A file with two names has one content.
            let mut choices = vec![BTreeMap::new()];
            for inode in names.values().collect::<BTreeSet<_>>() {
                let variants =
                    variants.entry(*inode).or_insert_with(|| distinct(self.inodes[inode].variants(), &same));
                let each = |choice: BTreeMap<u64, usize>| {
                    (0..variants.len()).map(move |index| {
                        let mut choice = choice.clone();
                        choice.insert(*inode, index);
                        choice
                    })
                };
                choices = choices.into_iter().flat_map(each).collect();
            }
            for choice in choices {
                let chosen = |inode: &u64| &variants[inode][choice[inode]];
                let key: String =
                    names.iter().map(|(n, inode)| format!("{n}={};", chosen(inode).0)).collect();
                if known.insert(key) {
                    let file = |(name, inode): (&String, _)| (name.clone(), chosen(inode).1.clone());
                    found.push(names.iter().map(file).collect());
                }
            }
        }
        found
    }
}

fn distinct(contents: BTreeSet<Vec<u8>>, same: impl Fn(&[u8]) -> String) -> Vec<(String, Vec<u8>)> {
    let mut classes = BTreeMap::new();
    for content in contents {
        classes.entry(same(&content)).or_insert(content);
    }
    classes.into_iter().collect()
}

/// Each combination of changes of names that may be kept.
fn kept(
    left: &[&Renaming],
    names: BTreeMap<String, u64>,
    lost: &mut Vec<String>,
    all: &mut BTreeSet<BTreeMap<String, u64>>,
) {
    let Some((first, rest)) = left.split_first() else {
        all.insert(names);
        return;
    };
    if first.names().iter().all(|name| !lost.iter().any(|l| l == name)) {
        let mut names = names.clone();
        first.apply(&mut names);
        kept(rest, names, lost, all);
    }
    let before = lost.len();
    lost.extend(first.names().into_iter().map(str::to_owned));
    kept(rest, names, lost, all);
    lost.truncate(before);
}

impl Renaming {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Make(name, _) | Self::Remove(name) => vec![name],
            Self::Link(from, to) | Self::Rename(from, to) | Self::Exchange(from, to) => vec![from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Make(name, inode) => _ = names.insert(name.clone(), *inode),
            Self::Link(from, to) => _ = names.insert(to.clone(), names[from]),
            Self::Remove(name) => _ = names.remove(name),
            Self::Rename(from, to) => {
                let inode = names.remove(from).expect("an earlier change of the name is kept, too");
                names.insert(to.clone(), inode);
            }
            Self::Exchange(one, other) => {
                let (a, b) = (names[one], names[other]);
                names.extend([(one.clone(), b), (other.clone(), a)]);
            }
        }
    }
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => write(data, *at, bytes),
            Self::Length(length) => data.resize(*length, 0),
        }
    }
}

fn write(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    data.resize(data.len().max(end), 0);
    data[at..end].copy_from_slice(bytes);
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.data);
        self.version += 1;
        self.changed.push(change);
    }

    /// Everything that may be in the file after a loss of power.
    fn variants(&self) -> BTreeSet<Vec<u8>> {
        let mut all = BTreeSet::from([self.on_disk.clone()]);
        for change in &self.changed {
            let before = std::mem::take(&mut all);
            for data in before {
                all.extend(change.variants(&data));
                all.insert(data);
            }
        }
        all
    }
}

impl Change {
    /// What becomes of a file's data when the change is kept, wholly or in part.
    fn variants(&self, before: &[u8]) -> Vec<Vec<u8>> {
        let Self::Write { at, bytes } = self else {
            let mut data = before.to_vec();
            self.apply(&mut data);
            return vec![data];
        };
        let len = bytes.len();
        let cuts = BTreeSet::from([0, 1.min(len), len / 2, len.saturating_sub(1), len]);
        let mut all = Vec::new();
        for cut in cuts {
            let mut data = before.to_vec();
            if cut > 0 {
                write(&mut data, *at, &bytes[..cut]);
            }
            if data.len() < at + len {
                let mut zeros = data.clone();
                zeros.resize(at + len, 0);
                all.push(zeros);
            }
            all.push(data);
        }
        all
    }
}

impl Files for Simulated {
    fn path(&self) -> PathBuf {
        PathBuf::from("/simulated")
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn OpenFile>> {
        let mut machine = self.lock();
        let create = matches!(access, Access::Overwrite | Access::Renew | Access::AppendOrCreate);
        let inode = match machine.state.inode(name) {
            Ok(inode) => inode,
            Err(_) if create => machine.change(|state| {
                let inode = state.inodes.len() as u64 + 1;
                state.inodes.insert(inode, Inode::default());
                state.rename(Renaming::Make(name.to_owned(), inode));
                Ok(inode)
            })?,
            Err(e) => return Err(e),
        };
        if access == Access::Renew && !machine.state.file(inode).data.is_empty() {
            machine.change(|state| {
                state.file(inode).change(Change::Length(0));
                Ok(())
            })?;
        }
        Ok(Box::new(Open { machine: self.clone(), inode, access, at: 0 }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut machine = self.lock();
        let inode = machine.state.inode(name)?;
        Ok(machine.state.file(inode).data.clone())
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let mut machine = self.lock();
        let inode = machine.state.inode(name)?;
        let file = machine.state.file(inode);
        Ok(Stamp { inode, length: file.data.len() as u64, modified: (file.version, 0), regular: true })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.lock().change(|state| {
            state.inode(from)?;
            state.rename(Renaming::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        let mut machine = self.lock();
        if machine.exchange == Exchange::Impossible {
            return Err(ErrorKind::InvalidInput.into());
        }
        machine.change(|state| {
            state.inode(one)?;
            state.inode(other)?;
            state.rename(Renaming::Exchange(one.to_owned(), other.to_owned()));
            Ok(())
        })
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.lock().change(|state| {
            state.inode(from)?;
            if state.names.contains_key(to) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            state.rename(Renaming::Link(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lock().change(|state| {
            state.inode(name)?;
            state.rename(Renaming::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync_names(&self) -> io::Result<()> {
        self.lock().change(|state| {
            state.names_on_disk = state.names.clone();
            state.renamed.clear();
            Ok(())
        })
    }
}

struct Open {
    machine: Simulated,
    inode: u64,
    access: Access,
    at: usize,
}

impl Read for Open {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut machine = self.machine.lock();
        let data = &machine.state.file(self.inode).data;
        let read = data.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut machine = self.machine.lock();
        if matches!(self.access, Access::Append | Access::AppendOrCreate) {
            self.at = machine.state.file(self.inode).data.len();
        }
        let change = Change::Write { at: self.at, bytes: bytes.to_vec() };
        machine.change(|state| {
            state.file(self.inode).change(change);
            Ok(())
        })?;
        self.at += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Open {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(ErrorKind::Unsupported.into()) };
        self.at = at as usize;
        Ok(at)
    }
}

impl OpenFile for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(self.machine.lock().state.file(self.inode).data.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.machine.lock().change(|state| {
            state.file(self.inode).change(Change::Length(length as usize));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.lock().change(|state| {
            let file = state.file(self.inode);
            (file.on_disk, file.changed) = (file.data.clone(), Vec::new());
            Ok(())
        })
    }
}

#[test]
fn what_was_not_brought_to_the_disk_may_be_lost_in_every_order() {
    let files = Simulated::new(Exchange::Possible);
    files.open("a", Access::Overwrite).unwrap().write_all(b"one").unwrap();
    let all = |files: &Simulated| {
        let found = files.past().last().unwrap().after_power_loss(|_| true, |b| format!("{b:?}"));
        let show = |content: Content| {
            let file = |(name, data): (_, Vec<u8>)| {
                format!("{name}={}", String::from_utf8(data).unwrap().replace('\0', "0"))
            };
            content.into_iter().map(file).collect::<Vec<_>>().join(" ")
        };
        let mut found: Vec<_> = found.into_iter().map(show).collect();
        found.sort();
        found
    };
    assert_eq!(all(&files), ["", "a=", "a=000", "a=o", "a=o00", "a=on", "a=on0", "a=one"]);
    files.open("a", Access::Read).unwrap().sync().unwrap();
    assert_eq!(all(&files), ["", "a=one"]);
    files.sync_names().unwrap();
    assert_eq!(all(&files), ["a=one"]);
    files.open("b", Access::Overwrite).unwrap();
    files.open("c", Access::Overwrite).unwrap();
    files.exchange("a", "b").unwrap();
    assert_eq!(all(&files), ["a= b=one", "a= b=one c=", "a=one", "a=one b=", "a=one b= c=", "a=one c="]);
    files.remove("c").unwrap();
    assert!(!all(&files).contains(&"c=".to_owned()));
    files.sync_names().unwrap();
    assert_eq!(all(&files), ["a= b=one"]);
    let mut file = files.open("b", Access::Overwrite).unwrap();
    file.write_all(b"t").unwrap();
    file.set_length(1).unwrap();
    assert_eq!(all(&files), ["a= b=o", "a= b=one", "a= b=t", "a= b=tne"]);
}
