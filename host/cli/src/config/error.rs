//! What is wrong with a pipeline file, where, and what was probably meant.

use std::fmt;
use std::path::{Path, PathBuf};

/// A mistake in a pipeline file.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    line: Option<usize>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// The number of the line that it is in, if it is in one, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// A mistake at a byte offset of the file's text, if it has a place.
    pub(crate) fn new(path: &Path, at: Option<(&str, usize)>, message: String) -> Self {
        let line = at.map(|(text, offset)| text[..offset].matches('\n').count() + 1);
        Self { path: path.to_owned(), line, message }
    }

    pub(crate) fn from_toml(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map(|span| (text, span.start.min(text.len())));
        Self::new(path, at, in_our_words(error.message()))
    }
}

/// The parser's message, with the nearest valid name instead of a list of all, and without a text that has another type
/// than it should: it may be a secret.
pub(crate) fn in_our_words(message: &str) -> String {
    for start in ["invalid type: string ", "invalid value: string "] {
        if let Some(rest) = message.strip_prefix(start)
            && let Some((_, expected)) = rest.rsplit_once("\", expected ")
        {
            return format!("{}, expected {expected}", start.trim_end());
        }
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("missing option {field}");
    }
    let unknown = message.strip_prefix("unknown field ").or_else(|| message.strip_prefix("unknown variant "));
    let Some((name, expected)) = unknown.and_then(|rest| rest.strip_prefix('`')?.split_once('`')) else {
        return message.to_owned();
    };
    let valid: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    match nearest(name, &valid) {
        Some(near) => format!("unknown option `{name}`; did you mean `{near}`?"),
        None if valid.is_empty() => format!("unknown option `{name}`; none is expected here"),
        None => format!("unknown option `{name}`; there are `{}`", valid.join("`, `")),
    }
}

/// The one of `valid` that `name` probably means.
pub(crate) fn nearest<'a>(name: &str, valid: &[&'a str]) -> Option<&'a str> {
    let alike = |valid: &str| strsim::jaro_winkler(name, valid);
    let best = valid.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(best) >= 0.75).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_the_wrong_type_is_not_shown() {
        let error = toml::from_str::<toml::Table>("a = 1").unwrap().try_into::<Vec<u8>>().unwrap_err();
        assert_eq!(in_our_words(error.message()), "invalid type: map, expected a sequence");
        let message = "invalid type: string \"Bearer \", expected x\", expected a map";
        assert_eq!(in_our_words(message), "invalid type: string, expected a map");
    }
}
