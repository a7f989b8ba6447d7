//! The journal of finished segments, `.<name>.finished`: a header line, then one line per segment. A line that is torn or
//! altered is ignored, which can only make a segment be read again.

use std::collections::HashSet;
use std::fmt::Write as _;

use tailweir_core::SegmentName;
use xxhash_rust::xxh3::xxh3_64;

const HEADER: &str = "tailweir finished segments 1 ";

/// The text of a journal with this id and these names.
pub(super) fn write<'a>(id: &str, names: impl IntoIterator<Item = &'a SegmentName>) -> String {
    let mut text = format!("{HEADER}{id}\n");
    names.into_iter().for_each(|name| push(&mut text, name));
    text
}

/// Adds one name's line to a journal's text.
pub(super) fn push(text: &mut String, name: &SegmentName) {
    // As a JSON string: a file's name may hold a line break.
    let quoted = serde_json::Value::from(name.as_str()).to_string();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{:016x} {quoted}", xxh3_64(quoted.as_bytes()));
}

/// A journal's id and names, whatever its id is.
#[cfg(test)]
pub(crate) fn names(text: &[u8]) -> Option<(String, Vec<SegmentName>)> {
    let header = std::str::from_utf8(text.split(|b| *b == b'\n').next()?).ok()?;
    let id = header.strip_prefix(HEADER)?.trim_end();
    let mut names = Vec::from_iter(read(text, id)?);
    names.sort();
    Some((id.to_owned(), names))
}

/// The names in a journal's text, or `None` if it is not the journal with this id.
pub(super) fn read(text: &[u8], id: &str) -> Option<HashSet<SegmentName>> {
    let mut lines = text.split_inclusive(|b| *b == b'\n');
    let header = std::str::from_utf8(lines.next()?).ok()?;
    if header.strip_prefix(HEADER)?.trim_end() != id {
        return None;
    }
    Some(lines.filter_map(name).collect())
}

fn name(line: &[u8]) -> Option<SegmentName> {
    let (sum, quoted) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
    if u64::from_str_radix(sum, 16).ok()? != xxh3_64(quoted.as_bytes()) {
        return None;
    }
    SegmentName::new(&serde_json::from_str::<String>(quoted).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_lines_are_ignored_and_foreign_journals_refused() {
        let names: Vec<_> = ["a", "b\nc", "\"d\""].iter().map(|n| SegmentName::new(n).unwrap()).collect();
        let text = write("id", &names);
        assert_eq!(read(text.as_bytes(), "id"), Some(names.iter().cloned().collect()));
        assert_eq!(read(text.as_bytes(), "other"), None);
        let torn = &text.as_bytes()[..text.len() - 3];
        assert_eq!(read(torn, "id").map(|n| n.len()), Some(2));
    }
}
