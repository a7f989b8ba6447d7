//! Text from outside, such as a file's name, on its way to a log or a terminal.

use std::fmt::{self, Write as _};

/// A text that others have chosen, without what a terminal or a log would obey: line breaks and other control characters,
/// and those that change the direction of writing, are shown as `\n`, `\u{1b}` and so on. All else is as it is, a backslash
/// too.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl Printable<'_> {
    /// Whether a character is shown in place of being obeyed.
    pub fn escapes(character: char) -> bool {
        let changes_direction = matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        character.is_control() || changes_direction || matches!(character, '\u{2028}' | '\u{2029}')
    }
}

/// A text of several words, such as a reason or a traceback, of which tabs are no more than space: they are shown as four
/// spaces, and all else as [`Printable`] shows it.
#[derive(Debug, Clone, Copy)]
pub struct PrintableWords<'a>(pub &'a str);

impl fmt::Display for PrintableWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, part) in self.0.split('\t').enumerate() {
            if nth > 0 {
                f.write_str("    ")?;
            }
            Printable(part).fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in self.0.char_indices().filter(|(_, character)| Self::escapes(*character)) {
            f.write_str(&self.0[plain..at])?;
            character.escape_default().try_for_each(|part| f.write_char(part))?;
            plain = at + character.len_utf8();
        }
        f.write_str(&self.0[plain..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_obeyed_is_shown() {
        let check = |text: &str, shown: &str| assert_eq!(Printable(text).to_string(), shown);
        check("", "");
        check("20250912-110801.44", "20250912-110801.44");
        check("Grüße 📧 a\\n", "Grüße 📧 a\\n");
        check("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}");
        check("\u{1b}[2J\u{9b}31m\u{7f}", "\\u{1b}[2J\\u{9b}31m\\u{7f}");
        check("gpj.\u{202e}exe\u{2028}x", "gpj.\\u{202e}exe\\u{2028}x");
    }

    #[test]
    fn between_words_a_tab_is_space() {
        assert_eq!(
            PrintableWords("\t[C]: in ?\ta\u{1b}[2J\n").to_string(),
            "    [C]: in ?    a\\u{1b}[2J\\n"
        );
        assert_eq!(PrintableWords("").to_string(), "");
    }
}
