//! Errors on their way into Lua and out of it.

use std::error::Error as StdError;
use std::fmt::Write as _;

use mlua::Error;

/// A message for the script, with the causes already in its text: a script that catches an error sees nothing else.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

/// An error that Lua code may catch, with this text.
pub(crate) fn fail(message: impl Into<String>) -> Error {
    Error::external(Message(message.into()))
}

/// An error of the Lua state with its text as [`lua_text`] has it, for whoever prints it without knowing that.
pub(crate) fn plain(error: &Error) -> Error {
    fail(lua_text(error))
}

/// An error that Lua code may catch, with the text of `error` and of its causes.
pub(crate) fn raise(error: &(dyn StdError + 'static)) -> Error {
    fail(with_causes(error))
}

/// The text of `error`, and a line for each of its causes that the text does not hold already.
pub(crate) fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = describe(error);
    let mut cause = error.source();
    while let Some(next) = cause {
        let line = describe(next);
        if !text.contains(line.as_str()) {
            let _ = write!(text, "\ncaused by: {line}");
        }
        cause = next.source();
    }
    text
}

fn describe(error: &(dyn StdError + 'static)) -> String {
    match error.downcast_ref::<Error>() {
        Some(lua) => lua_text(lua),
        None => error.to_string(),
    }
}

/// What an error of the Lua state says, without the words that the binding puts before it and the stack frames that
/// belong to the binding rather than to the script.
pub(crate) fn lua_text(error: &Error) -> String {
    let text = match error {
        Error::RuntimeError(message) | Error::SyntaxError { message, .. } => message.clone(),
        other => other.to_string(),
    };
    let text = text.strip_prefix("runtime error: ").unwrap_or(&text);
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_binding_frame(line)).collect();
    drop_repeated_traceback(&mut lines);
    while lines.last().is_some_and(|line| line.trim().is_empty() || line.trim() == TRACEBACK) {
        lines.pop();
    }
    lines.join("\n")
}

const TRACEBACK: &str = "stack traceback:";

/// Leaves the last traceback out if all of its frames are in an earlier one: an error that passed through a function of
/// the binding, such as an iterator that called a filter, has two.
fn drop_repeated_traceback(lines: &mut Vec<&str>) {
    let Some(last) = lines.iter().rposition(|line| line.trim() == TRACEBACK) else { return };
    let (earlier, frames) = lines.split_at(last);
    if earlier.contains(&TRACEBACK) && frames[1..].iter().all(|frame| earlier.contains(frame)) {
        lines.truncate(last);
    }
}

fn is_binding_frame(line: &str) -> bool {
    let frame = line.trim_start_matches('>').trim();
    let of_c = frame == "[C]: in ?"
        || frame.starts_with("[C]: in ") && (frame.ends_with(" 'poll'") || frame.ends_with(" 'get_future'"));
    line.starts_with(['\t', '>'])
        && (of_c || (frame.starts_with("__mlua_") || frame.starts_with("__tailweir_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to open the door")]
    struct Door(#[source] std::io::Error);

    #[test]
    fn causes_stand_on_lines_of_their_own_and_once() {
        let error = Door(std::io::Error::other("the key is missing"));
        assert_eq!(with_causes(&error), "failed to open the door\ncaused by: the key is missing");
        let same = Error::external(std::io::Error::other("once"));
        assert_eq!(with_causes(&same), "once");
    }

    #[test]
    fn frames_of_the_binding_are_left_out() {
        let error = Error::RuntimeError(
            "a.lua:1: no\nstack traceback:\n\t[C]: in ?\n\t__mlua_async_poll:25: in function <x>\n\ta.lua:1: in main chunk".into(),
        );
        assert_eq!(lua_text(&error), "a.lua:1: no\nstack traceback:\n\ta.lua:1: in main chunk");
    }

    #[test]
    fn a_traceback_that_says_nothing_new_is_left_out() {
        let check =
            |text: &str, expected: &str| assert_eq!(lua_text(&Error::RuntimeError(text.into())), expected);
        check(
            "no\nstack traceback:\n\ta:2\n\ta:1\nstack traceback:\n\ta:1",
            "no\nstack traceback:\n\ta:2\n\ta:1",
        );
        let both = "no\nstack traceback:\n\ta:2\nstack traceback:\n\ta:1";
        check(both, both);
    }
}
