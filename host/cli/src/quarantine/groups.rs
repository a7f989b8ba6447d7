//! Entries by their reason.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use tailweir_core::Position;
use tailweir_pipeline::QuarantineEntry;

/// Entries with the same plug-in and, but for places in it, the same reason.
#[derive(Serialize)]
pub(super) struct Group {
    pub(super) reason: String,
    pub(super) plugin: Option<String>,
    pub(super) records: u64,
    #[serde(serialize_with = "as_it_is")]
    pub(super) first: Position,
    #[serde(serialize_with = "as_it_is")]
    pub(super) last: Position,
    /// Seconds since 1970.
    pub(super) newest: u64,
}

/// A place with the segment's name as it is.
fn as_it_is<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}:{}", position.segment.as_str(), position.line))
}

/// Entries that are being grouped.
#[derive(Default)]
pub(super) struct Groups(BTreeMap<(String, Option<String>), Group>);

impl Groups {
    pub(super) fn add(&mut self, entry: QuarantineEntry) {
        let (reason, plugin, at) = (without_places(&entry.reason), entry.plugin, entry.position);
        let group = self.0.entry((reason.clone(), plugin.clone())).or_insert_with(|| {
            let (first, last) = (at.clone(), at.clone());
            Group { reason, plugin, records: 0, first, last, newest: 0 }
        });
        group.records += 1;
        (group.last, group.newest) = (at, group.newest.max(entry.time));
    }

    /// The largest first.
    pub(super) fn sorted(self) -> Vec<Group> {
        let mut groups: Vec<_> = self.0.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.records));
        groups
    }
}

/// A reason with `…` for the numbers that say where in a line something is, or how long it is: each line has others.
pub(super) fn without_places(reason: &str) -> String {
    const BEFORE: [&str; 6] = ["byte ", "offset ", "line ", "column ", "position ", "character "];
    let (mut text, mut rest) = (String::with_capacity(reason.len()), reason);
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let (number, after) =
            number.split_at(number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len()));
        let is_place = BEFORE.iter().any(|word| before.ends_with(word)) || after.starts_with(" bytes");
        text += before;
        text += if is_place { "…" } else { number };
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_are_taken_out_of_a_reason() {
        let check = |reason: &str, common: &str| assert_eq!(without_places(reason), common);
        check("", "");
        check(
            "malformed JSON: expected `,` or `}` but the line ends at byte 861",
            "malformed JSON: expected `,` or `}` but the line ends at byte …",
        );
        check(
            "a line of 70 bytes, longer than max_line_size (64 bytes)",
            "a line of … bytes, longer than max_line_size (… bytes)",
        );
        check("EOF while parsing at line 1 column 17", "EOF while parsing at line … column …");
        check("filter.lua:12: status 550, ü5", "filter.lua:12: status 550, ü5");
        check("7", "7");
    }
}
