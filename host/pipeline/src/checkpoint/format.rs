//! The checkpoint's JSON.
//!
//! ```json
//! {"file":"/var/log/kumomta/20250912-110801.44","line":120,
//!  "tailweir":{"version":1,"generation":7,"journal":"5f0c…","segments":[
//!    {"name":"20250912-110801.44","line":120,"offset":130211,"frame":[0,0],"identity":[4711,64,1234],"finished":false}],
//!  "checksum":"9f86d081884c7d65"}}
//! ```
//!
//! `file` is the lowest segment that is not finished, or the last finished one, and `line` the lines of it that are dealt
//! with. `segments` has every segment that is begun and not finished, so that with several open at once the others keep
//! their places; where the `offset` is not known (as after KumoMTA's checkpoint) it is null. `journal` ties the checkpoint
//! to its journal of finished segments. `"state":true` comes behind it if plug-ins have state. The checksum is 64 bits of XXH3 over the JSON text of `[file, line, state]`, where
//! `state` is `tailweir` without the checksum.

use serde::{Deserialize, Serialize};
use tailweir_core::{Frame, Frontier, Identity, Mark, Point, Progress, SegmentName};
use xxhash_rust::xxh3::xxh3_64;

use super::Saved;

const VERSION: u32 = 1;

/// A checkpoint file's content, told by who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// KumoMTA wrote it (or an operator, by hand): so many lines of this segment, and all segments that sort before it.
    Kumod {
        /// The segment.
        segment: SegmentName,
        /// Lines of it that are dealt with.
        line: u64,
    },
    /// tailweir wrote it. The finished segments are not in it.
    Tailweir {
        /// Frontier and unlocated segments.
        saved: Saved,
        /// How many times it had been written.
        generation: u64,
        /// The id of the journal that belongs to it.
        journal: String,
        /// Whether plug-ins have state that goes with it.
        state: HasState,
    },
}

/// Whether there is state that goes with a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HasState {
    /// There is none.
    #[default]
    No,
    /// It is in `.<name>.state`.
    Yes,
}

impl Format {
    /// The history that a checkpoint belongs to, and how many times it had been written. KumoMTA counts neither.
    fn place_in_history(&self) -> Option<(&str, u64)> {
        match self {
            Self::Tailweir { generation, journal, .. } => Some((journal, *generation)),
            Self::Kumod { .. } => None,
        }
    }

    /// Whether one was written after the other, some time.
    pub(super) fn is_of_one_history_with(&self, other: &Self) -> bool {
        let history = |format: &Self| format.place_in_history().map(|(journal, _)| journal.to_owned());
        history(self).is_some() && history(self) == history(other)
    }

    /// Whether this one was written after the other one, in one history, which may have begun with one of KumoMTA's.
    pub(super) fn follows(&self, other: &Self) -> bool {
        match (self.place_in_history(), other.place_in_history()) {
            (Some((journal, generation)), Some((other, before))) => journal == other && generation > before,
            (own, _) => own.is_some(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    file: String,
    line: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tailweir: Option<Checked>,
}

#[derive(Serialize, Deserialize)]
struct Checked {
    #[serde(flatten)]
    state: State,
    checksum: String,
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    generation: u64,
    journal: String,
    /// Left out if it is false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    state: bool,
    segments: Vec<Segment>,
}

#[derive(Serialize, Deserialize)]
struct Segment {
    name: String,
    line: u64,
    offset: Option<u64>,
    frame: [u64; 2],
    identity: Option<(u64, u32, u64)>,
    finished: bool,
}

fn checksum(file: &str, line: u64, state: &State) -> Result<String, serde_json::Error> {
    Ok(format!("{:016x}", xxh3_64(&serde_json::to_vec(&(file, line, state))?)))
}

/// Reads a checkpoint's text.
///
/// # Errors
/// Why it can't be used, as a phrase.
pub fn parse(text: &[u8]) -> Result<Format, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.iter().all(|b| *b == 0) {
        return Err("it is filled with zero bytes".to_owned());
    }
    if let Some(version) = version_of(text)
        && version > VERSION
    {
        return Err(format!("a newer tailweir wrote it, format {version}; this one reads up to {VERSION}"));
    }
    let wire: Wire = serde_json::from_slice(text).map_err(|e| format!("it is torn or no checkpoint: {e}"))?;
    let base = wire.file.rsplit('/').next().unwrap_or_default();
    let segment = SegmentName::new(base).map_err(|_| format!("its file `{}` names no segment", wire.file))?;
    let Some(checked) = wire.tailweir else {
        return Ok(Format::Kumod { segment, line: wire.line });
    };
    let state = checked.state;
    match checksum(&wire.file, wire.line, &state) {
        Ok(sum) if sum == checked.checksum => {}
        _ => {
            return Err(
                "its checksum does not match; if it was edited by hand, remove its `tailweir` member"
                    .to_owned(),
            );
        }
    }
    let mut saved = Saved::default();
    for s in state.segments {
        let name = SegmentName::new(&s.name).map_err(|e| e.to_string())?;
        if s.offset.is_none() {
            saved.unlocated.insert(name.clone());
        }
        let mark = Mark {
            point: Point { line: s.line, offset: s.offset.unwrap_or(0) },
            frame: Frame { compressed: s.frame[0], decompressed: s.frame[1] },
        };
        let identity = s.identity.map(|(inode, head_len, head)| Identity { inode, head_len, head });
        saved.frontier.segments.insert(name, Progress { mark, identity, finished: s.finished });
    }
    let has_state = if state.state { HasState::Yes } else { HasState::No };
    Ok(Format::Tailweir { saved, generation: state.generation, journal: state.journal, state: has_state })
}

/// The format version, read leniently: a newer format may have other members.
fn version_of(text: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    value.get("tailweir")?.get("version")?.as_u64()?.try_into().ok()
}

/// Writes a checkpoint's text. `directory` is the path that `file` begins with. `None` if the frontier is empty: there is
/// nothing to say yet.
pub(super) fn write(
    saved: &Saved,
    directory: &str,
    (generation, journal): (u64, &str),
    has_state: HasState,
) -> Option<Vec<u8>> {
    let frontier: &Frontier = &saved.frontier;
    let lowest =
        frontier.segments.iter().find(|(_, p)| !p.finished).or(frontier.segments.iter().next_back())?;
    let segment = |(name, p): (&SegmentName, &Progress)| Segment {
        name: name.as_str().to_owned(),
        line: p.mark.point.line,
        offset: (!saved.unlocated.contains(name)).then_some(p.mark.point.offset),
        frame: [p.mark.frame.compressed, p.mark.frame.decompressed],
        identity: p.identity.map(|i| (i.inode, i.head_len, i.head)),
        finished: p.finished,
    };
    let state = State {
        version: VERSION,
        generation,
        journal: journal.to_owned(),
        state: has_state == HasState::Yes,
        segments: frontier.segments.iter().map(segment).collect(),
    };
    let (file, line) =
        (format!("{}/{}", directory.trim_end_matches('/'), lowest.0.as_str()), lowest.1.mark.point.line);
    let checksum = checksum(&file, line, &state).ok()?;
    serde_json::to_vec(&Wire { file, line, tailweir: Some(Checked { state, checksum }) }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let name = |n| SegmentName::new(n).unwrap();
        let progress = |line, finished| Progress {
            mark: Mark {
                point: Point { line, offset: line * 10 },
                frame: Frame { compressed: 5, decompressed: 7 },
            },
            identity: Some(Identity { inode: 1, head_len: 64, head: u64::MAX }),
            finished,
        };
        let mut saved = Saved::default();
        saved.frontier.segments.insert(name("b"), progress(3, false));
        saved.frontier.segments.insert(name("a"), progress(9, true));
        saved
    }

    #[test]
    fn what_is_written_is_read() {
        let mut saved = saved();
        for state in [HasState::No, HasState::Yes] {
            let text = write(&saved, "/logs/", (3, "id"), state).unwrap();
            let read = parse(&text).unwrap();
            let journal = "id".into();
            assert_eq!(read, Format::Tailweir { saved: saved.clone(), generation: 3, journal, state });
        }

        let name = SegmentName::new("b").unwrap();
        saved.unlocated.insert(name.clone());
        saved.frontier.segments.get_mut(&name).unwrap().mark.point.offset = 0;
        let Ok(Format::Tailweir { saved: read, .. }) =
            parse(&write(&saved, "/logs", (3, "id"), HasState::No).unwrap())
        else {
            panic!()
        };
        assert_eq!(read, saved);
    }

    #[test]
    fn kumomta_sees_the_lowest_unfinished_segment() {
        let text = write(&saved(), "/logs/", (3, "id"), HasState::No).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((value["file"].as_str(), value["line"].as_u64()), (Some("/logs/b"), Some(3)));
    }

    #[test]
    fn kumomtas_own_checkpoint_is_read() {
        let segment = SegmentName::new("20250912-110801.44").unwrap();
        let text = br#"{"file":"/var/log/kumomta/20250912-110801.44","line":17}"#;
        assert_eq!(parse(text), Ok(Format::Kumod { segment, line: 17 }));
    }

    #[test]
    fn every_torn_or_altered_checkpoint_is_refused() {
        let text = write(&saved(), "/logs", (3, "id"), HasState::No).unwrap();
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            let mut altered = text.clone();
            altered[at] ^= 1;
            if let Ok(read) = parse(&altered) {
                panic!("byte {at} altered, read as {read:?}");
            }
        }
        assert!(parse(&vec![0; 400]).unwrap_err().contains("zero bytes"));
        let newer = br#"{"file":"/l/a","line":1,"tailweir":{"version":9}}"#;
        assert!(parse(newer).unwrap_err().contains("newer"));
    }
}
