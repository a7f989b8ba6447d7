//! Which file names are segments.

use globset::{GlobBuilder, GlobMatcher};
use thiserror::Error;

/// A glob on bare file names: `*`, `?`, `[…]` and `{a,b}`.
///
/// Names that start with a dot (checkpoints, temporary files) only match a pattern that starts with a dot itself.
#[derive(Debug, Clone)]
pub struct Pattern {
    glob: GlobMatcher,
    hidden: bool,
}

/// Why a pattern is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("pattern `{pattern}` is not a valid glob: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

impl Pattern {
    /// Parses a glob.
    ///
    /// # Errors
    /// If it is malformed, or holds a `/`: segments are looked for in one directory only.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let error = |reason: String| PatternError { pattern: pattern.to_owned(), reason };
        if pattern.contains('/') {
            return Err(error("it matches bare file names, so it must not hold a `/`".to_owned()));
        }
        let glob = GlobBuilder::new(pattern).backslash_escape(true).build();
        let glob = glob.map_err(|e| error(e.kind().to_string()))?;
        Ok(Self { glob: glob.compile_matcher(), hidden: pattern.starts_with('.') })
    }

    /// Whether `name` is the name of a segment.
    pub fn matches(&self, name: &str) -> bool {
        (self.hidden || !name.starts_with('.')) && self.glob.is_match(name)
    }
}

/// Every name that is not hidden.
impl Default for Pattern {
    fn default() -> Self {
        Self::new("*").expect("`*` is a glob")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let pattern = Pattern::new(pattern).unwrap();
        assert!(yes.iter().all(|name| pattern.matches(name)), "{pattern:?} {yes:?}");
        assert!(!no.iter().any(|name| pattern.matches(name)), "{pattern:?} {no:?}");
    }

    #[test]
    fn names_match() {
        check("*", &["a", "20250912-110801.44", "a b"], &[".hidden", ".a.lock"]);
        check("*.zst", &["a.zst"], &["a", "a.zst.tmp", ".a.zst"]);
        check("2025*_{bounce,oob}", &["20250912_bounce", "2025_oob"], &["2024_oob", "2025"]);
        check(".x*", &[".xy"], &["xy", ".y"]);
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert!(Pattern::new("[a").unwrap_err().to_string().contains("`[a`"));
        assert!(Pattern::new("a/b").unwrap_err().to_string().contains('/'));
    }
}
