//! `tailweir quarantine`.

mod folder;
mod groups;

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};
use tailweir_core::{Position, Printable, PrintableWords, SegmentName};
use tailweir_lua::Redirect;
use tailweir_pipeline::{
    CheckpointName, Fate, KeptQuarantine, QuarantineEntry, Replay, Replayed, Unreadable, quarantines,
    read_quarantine,
};

use self::folder::Folder;
use self::groups::{Group, Groups, without_places};
use crate::args::{
    ChooseArgs, LogArgs, QuarantineArgs, QuarantineCommand, QuarantineDrop, QuarantineList, QuarantinePlace,
    QuarantineReplay, QuarantineShow, ScriptOptions, SummaryArgs, TailArgs,
};
use crate::config;
use crate::end::{self, Done};
use crate::engine::WasmEngine;
use crate::exit::{self, UsageError, say};
use crate::script::{self, Spelling};
use crate::signals::Shutdown;
use crate::{run, tail};

/// Looks into a quarantine, or takes records out of it.
pub(crate) fn run(args: &QuarantineArgs, log: &LogArgs, engine: &WasmEngine) -> Result<()> {
    match &args.command {
        QuarantineCommand::List(args) => list(args),
        QuarantineCommand::Show(args) => show(args),
        QuarantineCommand::Replay(args) => replay(args, log, engine),
        QuarantineCommand::Drop(args) => remove(args),
    }
}

/// The checkpoint whose quarantine is meant. It must have one, or have been in use at least.
fn known(place: &QuarantinePlace) -> Result<CheckpointName> {
    let QuarantinePlace { directory, name: given } = place;
    let name = CheckpointName::new(given).map_err(|e| UsageError(e.to_string()))?;
    let found = quarantines(directory)?;
    let is_there = |suffix: &str| directory.join(format!(".{given}{suffix}")).symlink_metadata().is_ok();
    if found.contains(&name) || ["", ".prev", ".lock"].into_iter().any(is_there) {
        return Ok(name);
    }
    let names: Vec<_> = found.iter().map(CheckpointName::as_str).collect();
    let others = match (config::nearest(given, &names), names.is_empty()) {
        (Some(near), _) if names.len() > 1 => {
            format!("did you mean `{near}`? There are `{}`", names.join("`, `"))
        }
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, true) => "there is no quarantine".to_owned(),
        (None, false) => format!("there are `{}`", names.join("`, `")),
    };
    bail!("no checkpoint in {} is called `{given}`, and no quarantine; {others}", directory.display())
}

/// Which entries are meant.
struct Choice {
    places: Vec<(SegmentName, u64)>,
    reason: Option<String>,
}

impl Choice {
    fn new(args: &ChooseArgs) -> Result<Self> {
        let place = |text: &String| {
            let (segment, line) = text.rsplit_once(':')?;
            Some((SegmentName::new(segment).ok()?, line.parse().ok()?))
        };
        let places = args.places.iter().map(|text| {
            place(text)
                .ok_or_else(|| UsageError(format!("`{text}` is not SEGMENT:LINE, as `list` prints it")))
        });
        Ok(Self { places: places.collect::<Result<_, _>>()?, reason: args.reason.clone() })
    }

    fn takes(&self, entry: &QuarantineEntry) -> bool {
        let Position { segment, line, .. } = &entry.position;
        // A name may be given as it is, or as it is shown.
        let is = |name: &SegmentName| {
            name == segment
                || segment.as_str().contains(Printable::escapes) && name.as_str() == segment.to_string()
        };
        let here = self.places.is_empty() || self.places.iter().any(|(s, l)| l == line && is(s));
        // A reason may be given as it is, or as it is listed.
        let says =
            |reason: &String| entry.reason.contains(reason) || without_places(&entry.reason).contains(reason);
        here && self.reason.as_ref().is_none_or(says)
    }
}

fn list(args: &QuarantineList) -> Result<()> {
    let name = known(&args.place)?;
    let mut groups = Groups::default();
    let unreadable = read_quarantine(&args.place.directory, &name, |entry| groups.add(entry))?;
    let groups = groups.sorted();
    let text = match args.json {
        true => serde_json::to_string_pretty(&groups)? + "\n",
        false => table(&groups, &name, &args.place.directory),
    };
    print(text)?;
    tell(&unreadable);
    Ok(())
}

/// A line for each group.
fn table(groups: &[Group], name: &CheckpointName, directory: &Path) -> String {
    if groups.is_empty() {
        return format!("nothing in the quarantine of {} in {}\n", name.as_str(), directory.display());
    }
    let head = ["records", "first", "last", "newest", "plug-in", "reason"].map(str::to_owned);
    let row = |group: &Group| {
        let plugin = Printable(group.plugin.as_deref().unwrap_or("-")).to_string();
        let (first, last) = (group.first.to_string(), group.last.to_string());
        [group.records.to_string(), first, last, time(group.newest), plugin, one_line(&group.reason)]
    };
    let rows: Vec<_> = std::iter::once(head).chain(groups.iter().map(row)).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Says which lines of a quarantine can't be read.
fn tell(unreadable: &Unreadable) {
    if unreadable.lines > 0 {
        say(&unreadable.to_string());
    }
}

/// A time that no calendar has, as somebody may have written it, stays a number.
fn time(seconds: u64) -> String {
    let (time, mut text) = (SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)), String::new());
    let shown = time.map(|time| {
        fmt::Write::write_fmt(&mut text, format_args!("{}", humantime::format_rfc3339_seconds(time)))
    });
    if shown == Some(Ok(())) { text } else { seconds.to_string() }
}

/// The first line of a reason; some are tracebacks.
fn one_line(reason: &str) -> String {
    let mut lines = reason.lines();
    let first = PrintableWords(lines.next().unwrap_or_default());
    if lines.next().is_some() { format!("{first} …") } else { first.to_string() }
}

fn show(args: &QuarantineShow) -> Result<()> {
    let (choice, name) = (Choice::new(&args.choose)?, known(&args.place)?);
    let reader = if io::stdout().is_terminal() { Reader::Terminal } else { Reader::Program };
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let (mut shown, mut written) = (0, Ok(()));
    let unreadable = read_quarantine(&args.place.directory, &name, |entry| {
        if choice.takes(&entry) && written.is_ok() {
            written = if args.json {
                writeln!(stdout, "{}", json(&entry, reader))
            } else {
                describe(&mut stdout, &entry, reader)
            };
            shown += 1;
        }
    })?;
    match written.and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to stdout")?,
    }
    tell(&unreadable);
    let asked = !args.choose.places.is_empty() || args.choose.reason.is_some();
    ensure!(shown > 0 || !asked, "no such record in the quarantine of {}", name.as_str());
    Ok(())
}

/// Who reads what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Obeys what may be in a record: nothing of it is written as it is.
    Terminal,
    /// Gets the bytes as they are.
    Program,
}

/// The line of an entry as it is in the file.
fn json(entry: &QuarantineEntry, reader: Reader) -> String {
    let line = entry.to_line();
    if reader == Reader::Program || !line.contains(Printable::escapes) {
        return line;
    }
    // They can only be in texts, where this is the same in JSON.
    line.chars().fold(String::with_capacity(line.len()), |mut text, character| {
        match Printable::escapes(character) {
            true => text += &format!("\\u{:04x}", u32::from(character)),
            false => text.push(character),
        }
        text
    })
}

fn describe(out: &mut impl Write, entry: &QuarantineEntry, reader: Reader) -> io::Result<()> {
    let Position { offset, .. } = entry.position;
    let plugin = entry.plugin.as_ref().map(|plugin| format!(", {}", Printable(plugin))).unwrap_or_default();
    // Some reasons are tracebacks.
    let reason =
        entry.reason.lines().map(|line| PrintableWords(line).to_string()).collect::<Vec<_>>().join("\n");
    writeln!(out, "{} (offset {offset}), {}{plugin}: {reason}", entry.position, time(entry.time))?;
    if let Some(length) = entry.length {
        writeln!(out, "the first {} of {length} bytes:", entry.bytes.len())?;
    }
    match reader {
        Reader::Program => out.write_all(&entry.bytes)?,
        Reader::Terminal => {
            for chunk in entry.bytes.utf8_chunks() {
                write!(out, "{}{}", Printable(chunk.valid()), chunk.invalid().escape_ascii())?;
            }
        }
    }
    out.write_all(b"\n\n")
}

fn remove(args: &QuarantineDrop) -> Result<()> {
    let (choice, name) = (Choice::new(&args.choose)?, known(&args.place)?);
    let kept = lock(&args.place.directory, &name)?;
    let updated = kept.update(|entry| if choice.takes(entry) { Fate::Go } else { Fate::Stay })?;
    tell(&updated.unreadable);
    ensure!(updated.gone > 0 || args.all, "no such record in the quarantine of {}", name.as_str());
    print(format!("{} dropped, {} left\n", updated.gone, updated.left))
}

fn lock(directory: &Path, name: &CheckpointName) -> Result<KeptQuarantine> {
    KeptQuarantine::lock(directory, name)
        .context("stop the consumer first: it may put records in quarantine meanwhile")
}

fn replay(args: &QuarantineReplay, log: &LogArgs, engine: &WasmEngine) -> Result<()> {
    let choice = Choice::new(&args.choose)?;
    if !args.stdout && !args.filters.0.is_empty() {
        let why = "--filter is for --stdout; a pipeline and a script have filters of their own";
        return Err(UsageError(why.to_owned()).into());
    }
    if args.filters.0.iter().any(|filter| filter.shadow.is_some()) {
        return Err(UsageError("--shadow is for `tailweir tail`; a replay has no shadows".to_owned()).into());
    }
    let name = known(&args.place)?;
    let kept = lock(&args.place.directory, &name)?;
    let asked = !args.choose.places.is_empty() || args.choose.reason.is_some();
    // Before anything is laid out, which takes a while if there is much.
    let stop = Arc::new(AtomicBool::new(false));
    let on_signal = stop.clone();
    Shutdown::on_signal(move || on_signal.store(true, Ordering::SeqCst))?;
    let room = Room::new(name.clone())?;
    let replay = Replay::lay_out(kept, &room.path, |entry| choice.takes(entry), &stop)?
        .context("ended before anything was sent; all that was to be replayed is still in quarantine")?;
    let is_empty = replay.is_empty();
    room.take_in(replay);
    let ended = match is_empty {
        true => Ok(()),
        false => send(args, &name, &room.path, log, engine),
    };
    // Whatever the end was: what is dealt with must not come again.
    let Replayed { chosen, updated, .. } = room.settle()?;
    ended?;
    if chosen == 0 && asked {
        bail!("no such record in the quarantine of {}", name.as_str());
    }
    ensure!(updated.gone >= chosen, "{} of {chosen} records are still in quarantine", chosen - updated.gone);
    Ok(())
}

/// Where records are laid out, until what became of them is settled. It is settled and removed once: by whoever replays, or
/// by whoever ends the program in the middle of it.
struct Room {
    path: PathBuf,
    content: Arc<Mutex<Option<Content>>>,
}

struct Content {
    folder: Folder,
    name: CheckpointName,
    /// Once everything is laid out.
    replay: Option<Replay>,
}

impl Room {
    fn new(name: CheckpointName) -> Result<Self> {
        let folder = Folder::new(&env::temp_dir()).context("no place for a replay")?;
        let path = folder.path().to_owned();
        let content = Arc::new(Mutex::new(Some(Content { folder, name, replay: None })));
        let in_haste = content.clone();
        end::before_ending_at_once(move || settle_in_haste(&in_haste));
        Ok(Self { path, content })
    }

    fn take_in(&self, replay: Replay) {
        if let Some(content) = &mut *contents(&self.content) {
            content.replay = Some(replay);
        }
    }

    fn settle(&self) -> Result<Replayed> {
        let mut contents = contents(&self.content);
        match contents.take() {
            // Until it is done nobody else ends the program.
            Some(content) => content.settle(),
            None => {
                drop(contents);
                wait_for_the_end()
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        contents(&self.content).take();
    }
}

fn contents(content: &Mutex<Option<Content>>) -> MutexGuard<'_, Option<Content>> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another thread has settled it, and ends the program.
fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}

fn settle_in_haste(content: &Mutex<Option<Content>>) -> Done {
    let mut contents = contents(content);
    let Some(content) = contents.take() else {
        drop(contents);
        wait_for_the_end()
    };
    if content.replay.is_none() {
        return Done::No;
    }
    match content.settle() {
        Ok(Replayed { chosen, updated, .. }) if updated.gone >= chosen => Done::Yes,
        Ok(_) => Done::No,
        Err(e) => {
            exit::report(&e);
            Done::No
        }
    }
}

impl Content {
    /// Takes out of the quarantine what is dealt with, says how it went, and removes the folder.
    fn settle(self) -> Result<Replayed> {
        let Self { folder, name, replay } = self;
        let replayed = replay.map_or_else(|| Ok(Replayed::default()), Replay::settle);
        let replayed = replayed.context("what was replayed is still in the quarantine")?;
        report(&replayed);
        if folder.path().join(format!(".{}.state", name.as_str())).exists() {
            say(
                "the consumer keeps state, which began empty in this replay; what it kept there, such as counts of these \
                 records, is not added to its state",
            );
        }
        Ok(replayed)
    }
}

/// How many records are named that were not sent.
const NAMED: usize = 20;

fn report(replayed: &Replayed) {
    let Replayed { chosen, updated, refused } = replayed;
    for (position, refusal) in refused.iter().take(NAMED) {
        say(&format!("{position} is not sent: {refusal}"));
    }
    let mut text = format!(
        "{chosen} replayed: {} dealt with, {} failed again, {} in quarantine now",
        updated.gone, updated.failed_again, updated.left
    );
    match refused.len() {
        0 => {}
        all @ 1..=NAMED => text += &format!("; {all} were not sent, as said above"),
        all => text += &format!("; {all} were not sent, of which the first {NAMED} are named above"),
    }
    say(&text);
    tell(&updated.unreadable);
}

/// Sends what is laid out in `room` through the consumer.
fn send(
    args: &QuarantineReplay,
    name: &CheckpointName,
    room: &Path,
    log: &LogArgs,
    engine: &WasmEngine,
) -> Result<()> {
    if let Some(file) = &args.pipeline {
        return run::replay(file, &args.place.directory, name, room, engine);
    }
    if let Some(file) = &args.lua {
        let how = ScriptOptions { script_args: Vec::new(), ..ScriptOptions::default() };
        let redirect = Redirect {
            directory: args.place.directory.clone(),
            checkpoint: name.clone(),
            to: room.to_owned(),
        };
        return script::run(file, &how, args.args.clone(), log, engine, Spelling::Ours, Some(redirect));
    }
    tail::run(
        &TailArgs {
            directory: room.to_owned(),
            pattern: "*".to_owned(),
            checkpoint: Some(name.as_str().to_owned()),
            filters: args.filters.clone(),
            reload_on_change: false,
            max_batch_size: 1000,
            max_batch_latency: Duration::from_secs(1),
            latest: false,
            once: true,
            poll_watcher: None,
            summary: SummaryArgs::default(),
        },
        engine,
    )
}

/// The consumer of a pipeline file that keeps the checkpoint `name` in `directory`, alone and reading `room`.
pub(crate) fn only(
    pipeline: &mut config::Pipeline,
    file: &Path,
    directory: &Path,
    name: &CheckpointName,
    room: PathBuf,
) -> Result<()> {
    let real = |path: &Path| path.canonicalize().with_context(|| format!("cannot find {}", path.display()));
    ensure!(
        real(&pipeline.tailer.directory)? == real(directory)?,
        "{} reads {}, not {}",
        file.display(),
        pipeline.tailer.directory.display(),
        directory.display()
    );
    pipeline.consumers.retain(|consumer| consumer.checkpoint_name().get_ref() == name.as_str());
    ensure!(
        !pipeline.consumers.is_empty(),
        "{} has no consumer with the checkpoint `{}`",
        file.display(),
        name.as_str()
    );
    pipeline.replay_from(room);
    Ok(())
}

fn print(text: String) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}
