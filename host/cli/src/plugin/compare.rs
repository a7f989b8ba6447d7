//! Two texts, and where they differ.

use similar::TextDiff;

/// Lines of a difference that are shown.
const SHOWN: usize = 200;

/// The difference as a unified diff, cut off where it is more than anybody reads; `None` if there is none.
pub(super) fn compare(old: (&str, &str), new: (&str, &str)) -> Option<String> {
    let ((old_name, old), (new_name, new)) = (old, new);
    if old == new {
        return None;
    }
    let diff = TextDiff::configure().timeout(std::time::Duration::from_secs(10)).diff_lines(old, new);
    let diff = diff.unified_diff().context_radius(2).header(old_name, new_name).to_string();
    let total = diff.lines().count();
    if total <= SHOWN {
        return Some(diff);
    }
    let shown: String = diff.lines().take(SHOWN).flat_map(|line| [line, "\n"]).collect();
    Some(format!("{shown}… and {} more lines\n", total - SHOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_differences_are_cut_off() {
        assert_eq!(compare(("a", "1\n"), ("b", "1\n")), None);
        assert_eq!(
            compare(("a", "1\n2\n"), ("b", "1\n3\n")).unwrap(),
            "--- a\n+++ b\n@@ -1,2 +1,2 @@\n 1\n-2\n+3\n"
        );
        let many = |from: u32| (from..from + 1000).map(|n| format!("{n}\n")).collect::<String>();
        let diff = compare(("a", &many(0)), ("b", &many(5000))).unwrap();
        assert_eq!(diff.lines().count(), SHOWN + 1);
        assert!(diff.ends_with("more lines\n"), "{diff}");
    }
}
