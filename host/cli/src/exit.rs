//! How the program ends: exit codes and the last words on stderr.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Error;
use tailweir_core::PrintableWords;

/// The command line asks for something that cannot be: exit code 2 instead of 1.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Says what went wrong and gives the exit code for it.
pub(crate) fn report(error: &Error) -> ExitCode {
    // What a record or a server says may be in it, and is not for the terminal to obey.
    for line in crate::secrets::cross_out(&describe(error)).lines() {
        say(&PrintableWords(line).to_string());
    }
    if error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Writes a line to stderr. There is nobody to tell if whoever reads it has seen enough.
pub(crate) fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// `Error: …` and one line per cause. A cause whose text its parent has already said is left out.
pub(crate) fn describe(error: &Error) -> String {
    let mut text = format!("Error: {error}\n");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.ends_with(&cause) {
            writeln!(text, "caused by: {cause}").expect("a string takes any text");
        }
        said = cause;
    }
    text
}

/// An error and its causes on one line.
pub(crate) fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_are_named_once_each() {
        let root = std::io::Error::other("no space left");
        let error = Err::<(), _>(root)
            .context("cannot write a.json: no space left")
            .context("cannot commit")
            .unwrap_err();
        let text = describe(&error);
        assert_eq!(text, "Error: cannot commit\ncaused by: cannot write a.json: no space left\n");
    }
}
