//! Which file names are segments.

use globset::{GlobBuilder, GlobMatcher};
use thiserror::Error;

/// A glob on bare file names: `*`, `?`, `[…]` and `{a,b}`.
///
/// Names that begin with a dot (checkpoints, quarantines, temporary files) never match.
#[derive(Debug, Clone)]
pub struct Pattern(GlobMatcher);

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
    /// If it is malformed; if it holds a `/`: segments are looked for in one directory only; if it begins with a dot: then
    /// nothing would ever match.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let error = |reason: String| PatternError { pattern: pattern.to_owned(), reason };
        if pattern.contains('/') {
            return Err(error("it matches bare file names, so it must not hold a `/`".to_owned()));
        }
        if pattern.starts_with('.') {
            return Err(error(
                "names that begin with a dot are those of checkpoints and the like, never of segments"
                    .to_owned(),
            ));
        }
        let glob = GlobBuilder::new(pattern).backslash_escape(true).build();
        let glob = glob.map_err(|e| error(e.kind().to_string()))?;
        Ok(Self(glob.compile_matcher()))
    }

    /// Whether `name` is the name of a segment.
    pub fn matches(&self, name: &str) -> bool {
        !name.starts_with('.') && self.0.is_match(name)
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
        // However it is put, a checkpoint beside the segments is none.
        for hidden in ["{.,}*", "[.]*", "?c*", r"\.c*"] {
            check(hidden, &[], &[".c", ".c.prev", ".c.quarantine"]);
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert!(Pattern::new("[a").unwrap_err().to_string().contains("`[a`"));
        assert!(Pattern::new("a/b").unwrap_err().to_string().contains('/'));
        let hidden = Pattern::new(".c*").unwrap_err().to_string();
        assert!(hidden.contains("`.c*`") && hidden.contains("checkpoints"), "{hidden}");
    }
}
