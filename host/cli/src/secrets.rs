//! Texts that are taken from files or the environment so that they stand in no pipeline file, and that stand in no log
//! either: whatever repeats one of them, a plug-in that was given it say, has it crossed out.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{PoisonError, RwLock};

use percent_encoding::percent_decode_str;
use reqwest::Url;

/// A shorter text is no secret, and crossing it out would spoil what is said.
const SHORTEST: usize = 6;
const CROSSED_OUT: &str = "[secret]";

/// The longest first: one may be part of another.
static KNOWN: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Has `secret` crossed out from now on, also without the scheme before it or the server in it: `Bearer …`, `https://…/…`.
pub(crate) fn keep(secret: &str) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let token = secret.split_once(' ').map(|(_, token)| token).filter(|token| !token.contains(' '));
    let path = secret.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    let mut texts: Vec<String> =
        [Some(secret), token, path].into_iter().flatten().map(str::to_owned).collect();
    // Servers repeat the path as it was sent, with the query or without.
    if path.is_some()
        && let Ok(url) = Url::parse(secret)
    {
        let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
        texts.extend([url.as_str().to_owned(), url.path().to_owned() + &query, url.path().to_owned()]);
        texts.push(percent_decode_str(url.path()).decode_utf8_lossy().into_owned());
    }
    for text in &texts {
        // As lines of JSON have it, too.
        let quoted = serde_json::Value::from(text.as_str()).to_string();
        for text in [text.as_str(), &quoted[1..quoted.len() - 1]] {
            if text.len() >= SHORTEST && !known.iter().any(|other| other == text) {
                known.push(text.to_owned());
            }
        }
    }
    known.sort_by_key(|text| std::cmp::Reverse(text.len()));
}

/// `text` with all secrets crossed out.
pub(crate) fn cross_out(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for secret in KNOWN.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), CROSSED_OUT).into();
        }
    }
    text
}

/// A writer that is given whole lines and crosses secrets out of them.
pub(crate) struct Discreet<W>(pub(crate) W);

impl<W: Write> Write for Discreet<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) => self.0.write_all(cross_out(text).as_bytes())?,
            Err(_) => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_crossed_out_wherever_they_are_repeated() {
        for secret in ["sesame", "open sesame \"now\"", "x"] {
            keep(secret);
        }
        let mut out = Vec::new();
        Discreet(&mut out)
            .write_all(b"x: sesame, open sesame \"now\", {\"a\":\"open sesame \\\"now\\\"\"}")
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "x: [secret], [secret], {\"a\":\"[secret]\"}");
        keep("Basic dXNlcjpwdw==");
        keep("https://u:p@hooks.example.com/in/T0P?k=1");
        assert_eq!(
            cross_out("dXNlcjpwdw== at hooks.example.com: /in/T0P?k=1"),
            "[secret] at hooks.example.com: [secret]"
        );
        // As a server has it that names the path alone, or as it was sent, or made plain again.
        keep("https://hooks.example.com/api/../in/S%C3%A9c<ret?wait=true");
        for said in ["/in/S%C3%A9c%3Cret", "/in/S%C3%A9c%3Cret?wait=true", "/in/Séc<ret"] {
            assert_eq!(cross_out(&format!("Cannot POST \"{said}\"")), "Cannot POST \"[secret]\"");
        }
        assert!(matches!(cross_out("nothing"), Cow::Borrowed("nothing")));
    }
}
