//! Plug-ins that are read again when their files change.
//!
//! To look at the files is what counts, and is done every two seconds; events of the file system only have it done sooner. A
//! file is read once it has been left alone for a while, so that one which is being written is not taken for a bad one; what
//! is wrong with it is said if it still is so after a while longer.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tracing::warn;

use super::{Came, Reload, Reloads, Report};

/// How often files are looked at when nothing is heard of them.
const POLL: Duration = Duration::from_secs(2);

/// How often at most, whatever is heard.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a file must be left alone before it is read.
const QUIET: Duration = Duration::from_millis(500);

/// How long a file that can't be used must be left alone until that is said.
const GRACE: Duration = Duration::from_secs(3);

/// Starts the thread that looks at the files.
pub(super) fn start(plugins: Arc<Reloads>) -> Result<()> {
    let run = move || {
        let mut files: Vec<Watched> = plugins.all().into_iter().map(Watched::new).collect();
        if !files.is_empty() {
            watch(&plugins, &mut files);
        }
    };
    thread::Builder::new().name("plugin-files".to_owned()).spawn(run).context("cannot start a thread")?;
    Ok(())
}

/// Looks at the files for as long as the process runs.
fn watch(plugins: &Reloads, files: &mut [Watched]) {
    let mut ears = Ears::default();
    loop {
        let mut next = POLL;
        for file in &mut *files {
            let path = file.plugin.file();
            match file.progress.look(Instant::now(), stamp(&path)) {
                Look::Wait(time) => next = next.min(time),
                Look::Read => {
                    let report = plugins.reload_one(&*file.plugin);
                    match report.came {
                        Came::Replaced { .. } => report.log(),
                        // Touched, or read before.
                        Came::Unchanged => {}
                        Came::Kept { .. } => file.progress.failed(Instant::now(), report),
                    }
                    next = PAUSE;
                }
                Look::Tell(report) => report.log(),
            }
        }
        ears.listen_at(files.iter().flat_map(|file| folders(&file.plugin.file())).collect());
        ears.wait(next);
    }
}

struct Watched {
    plugin: Arc<dyn Reload>,
    progress: Progress,
}

impl Watched {
    fn new(plugin: Arc<dyn Reload>) -> Self {
        Self { plugin, progress: Progress::default() }
    }
}

/// What tells one state of a file from another without reading it. Symbolic links on the way to it are followed, so one that
/// leads elsewhere gives another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// `None` if there is no file.
fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp {
        file: (meta.dev(), meta.ino()),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// How far one is with a file.
#[derive(Debug, Default)]
enum Progress {
    /// Nothing is known. The file may have changed since it was loaded.
    #[default]
    New,
    /// It was found like this first at that time, and not read since.
    Moving { found: Option<Stamp>, since: Instant },
    /// It was read.
    Settled { found: Option<Stamp>, untold: Option<Untold> },
}

/// A file could not be used.
#[derive(Debug)]
struct Untold {
    since: Instant,
    report: Report,
}

/// What to do about a file now.
#[derive(Debug, PartialEq)]
enum Look {
    /// Nothing, unless something is heard, for so long at most.
    Wait(Duration),
    Read,
    /// It has not got better.
    Tell(Report),
}

impl Progress {
    /// The file is like this now.
    fn look(&mut self, now: Instant, is: Option<Stamp>) -> Look {
        match self {
            Self::Settled { found, untold } if *found == is => match untold {
                Some(Untold { since, .. }) if now < *since + GRACE => Look::Wait(*since + GRACE - now),
                untold => untold.take().map_or(Look::Wait(POLL), |untold| Look::Tell(untold.report)),
            },
            Self::Moving { found, since } if *found == is => {
                let left = (*since + QUIET).saturating_duration_since(now);
                if left.is_zero() {
                    *self = Self::Settled { found: is, untold: None };
                    return Look::Read;
                }
                Look::Wait(left.max(PAUSE))
            }
            _ => {
                *self = Self::Moving { found: is, since: now };
                Look::Wait(QUIET)
            }
        }
    }

    /// What was read can't be used.
    fn failed(&mut self, now: Instant, report: Report) {
        if let Self::Settled { untold, .. } = self {
            *untold = Some(Untold { since: now, report });
        }
    }
}

/// The folders in which something happens when what is at `path` becomes another: its own, that of each symbolic link that
/// it leads through, and that of the file in the end.
fn folders(path: &Path) -> Vec<PathBuf> {
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let (mut folders, mut at) = (vec![folder(path)], path.to_owned());
    // As many as the system follows.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&at) else { break };
        at = folder(&at).join(target);
        folders.push(folder(&at));
    }
    folders.extend(fs::canonicalize(path).ok().map(|path| folder(&path)));
    folders
}

/// Hears of changes in folders.
#[derive(Default)]
struct Ears {
    /// With the number of each, by which one is told from another of its name.
    folders: BTreeSet<(PathBuf, u64)>,
    heard: Option<(RecommendedWatcher, Receiver<()>)>,
    /// Nothing could be watched, and that was said.
    deaf: bool,
}

impl Ears {
    /// Listens in these folders. A folder that was deleted and made again is listened to again.
    fn listen_at(&mut self, folders: BTreeSet<PathBuf>) {
        let known = |path: PathBuf| fs::metadata(&path).ok().map(|meta| (path, meta.ino()));
        let folders: BTreeSet<_> = folders.into_iter().filter_map(known).collect();
        if folders == self.folders && (self.heard.is_some() || self.deaf) {
            return;
        }
        match listen(folders.iter().map(|(path, _)| &**path)) {
            Ok(heard) => self.heard = Some(heard),
            Err(e) => {
                self.heard = None;
                if !std::mem::replace(&mut self.deaf, true) {
                    warn!(
                        "cannot watch the folders of plug-ins ({e}); they are looked at every {POLL:?} instead"
                    );
                }
            }
        }
        self.folders = folders;
    }

    /// Returns when something was heard, but not too soon, or after this time.
    fn wait(&mut self, time: Duration) {
        thread::sleep(PAUSE.min(time));
        let left = time.saturating_sub(PAUSE);
        match &self.heard {
            Some((_, heard)) => {
                if let Err(RecvTimeoutError::Disconnected) = heard.recv_timeout(left) {
                    self.heard = None;
                }
            }
            None => thread::sleep(left),
        }
    }
}

fn listen<'a>(folders: impl Iterator<Item = &'a Path>) -> notify::Result<(RecommendedWatcher, Receiver<()>)> {
    let (sender, heard) = mpsc::sync_channel(1);
    let mut watcher = notify::recommended_watcher(move |event| hear(&sender, event))?;
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok((watcher, heard))
}

fn hear(sender: &SyncSender<()>, event: notify::Result<notify::Event>) {
    // One that says that events were lost counts, too.
    if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
        // One that waits to be heard will do.
        let _ = sender.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Place, Role};
    use super::*;

    fn file(size: u64) -> Option<Stamp> {
        Some(Stamp { file: (1, 1), size, modified: (0, 0), changed: (0, 0) })
    }

    fn failed() -> Report {
        Report {
            place: Place::new("a", None, Role::Filter),
            file: "p.wasm".into(),
            before: "p 1".to_owned(),
            came: Came::Kept { why: "no".to_owned() },
        }
    }

    #[test]
    fn a_file_that_grows_is_read_once_it_is_left_alone() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut progress = Progress::default();
        assert_eq!(progress.look(at(0), file(0)), Look::Wait(QUIET));
        for step in 1..20 {
            assert_eq!(progress.look(at(step * 400), file(step)), Look::Wait(QUIET), "it has grown");
            assert!(matches!(progress.look(at(step * 400 + 399), file(step)), Look::Wait(_)));
        }
        let Look::Wait(left) = progress.look(at(19 * 400 + 400), file(19)) else { panic!("too soon") };
        assert_eq!(left, PAUSE);
        assert_eq!(progress.look(at(19 * 400 + 500), file(19)), Look::Read);
        assert_eq!(progress.look(at(60_000), file(19)), Look::Wait(POLL));
        assert_eq!(progress.look(at(60_001), None), Look::Wait(QUIET), "it is gone");
        assert_eq!(progress.look(at(60_600), None), Look::Read);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_once_and_only_if_it_stays_so() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut progress = Progress::default();
        for size in 1..10 {
            let ms = size * 1000;
            assert_eq!(progress.look(at(ms), file(size)), Look::Wait(QUIET));
            assert_eq!(progress.look(at(ms + 500), file(size)), Look::Read);
            progress.failed(at(ms + 500), failed());
            assert!(matches!(progress.look(at(ms + 999), file(size)), Look::Wait(_)), "a copy that stalls");
        }
        assert_eq!(progress.look(at(9500) + GRACE, file(9)), Look::Tell(failed()));
        assert_eq!(progress.look(at(60_000), file(9)), Look::Wait(POLL));
    }

    #[test]
    fn every_folder_on_the_way_is_known() {
        let room = tempfile::tempdir().unwrap();
        let room = room.path().canonicalize().unwrap();
        let path = |name: &str| room.join(name);
        fs::create_dir_all(path("mount/..1")).unwrap();
        fs::create_dir(path("use")).unwrap();
        fs::write(path("mount/..1/p.wasm"), "").unwrap();
        std::os::unix::fs::symlink("..1", path("mount/..data")).unwrap();
        std::os::unix::fs::symlink("..data/p.wasm", path("mount/p.wasm")).unwrap();
        std::os::unix::fs::symlink("../mount/p.wasm", path("use/p.wasm")).unwrap();
        let found: BTreeSet<PathBuf> =
            folders(&path("use/p.wasm")).iter().map(|folder| folder.canonicalize().unwrap()).collect();
        assert_eq!(found, [path("use"), path("mount"), path("mount/..1")].into());
        assert_eq!(folders(Path::new("p.wasm"))[0], Path::new("."));
    }
}
