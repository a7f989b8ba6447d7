//! A value's JSON text as the entry of a column of one type. The text is that of a valid JSON value other than `null`, as
//! [`Batch::column`](crate::Batch::column) gives it; there is no entry where it is of another type.

use super::{Value, unescape};

/// The string that it is, unescaped.
#[inline]
pub fn string(text: &str) -> Option<String> {
    match Value::of(text) {
        Value::String(raw) => Some(unescape(raw).into_owned()),
        _ => None,
    }
}

/// Adds the string that it is to `bytes`, unescaped. Returns whether it is one; if not, nothing is added.
#[inline]
pub fn add_string(text: &str, bytes: &mut Vec<u8>) -> bool {
    match Value::of(text) {
        Value::String(raw) => {
            bytes.extend_from_slice(unescape(raw).as_bytes());
            true
        }
        _ => false,
    }
}

/// The number that it is, if that is written as an integer of 64 bits: a fraction or an exponent makes it none, even where
/// the value is whole.
#[inline]
pub fn integer(text: &str) -> Option<i64> {
    match Value::of(text) {
        Value::Number(number) => number.parse().ok(),
        _ => None,
    }
}

/// The number that it is, rounded to the nearest of 64 bits; none if that is infinite.
#[inline]
pub fn number(text: &str) -> Option<f64> {
    match Value::of(text) {
        Value::Number(number) => number.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

/// The truth value that it is.
#[inline]
pub fn boolean(text: &str) -> Option<bool> {
    match Value::of(text) {
        Value::Bool(value) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_type_that_was_asked_for() {
        let check = |text: &str| {
            let mut bytes = Vec::new();
            let joined = add_string(text, &mut bytes).then(|| String::from_utf8(bytes).unwrap());
            assert_eq!(joined, string(text));
            (string(text), integer(text), number(text), boolean(text))
        };
        assert_eq!(check(r#""a\u00e9""#), (Some("aé".into()), None, None, None));
        assert_eq!(check("-0"), (None, Some(0), Some(-0.0), None));
        assert_eq!(check("9223372036854775807"), (None, Some(i64::MAX), Some(i64::MAX as f64), None));
        assert_eq!(check("9223372036854775808"), (None, None, Some(9_223_372_036_854_775_808.0), None));
        assert_eq!(check("1e3"), (None, None, Some(1000.0), None));
        assert_eq!(check("1.0"), (None, None, Some(1.0), None));
        assert_eq!(check("1e999"), (None, None, None, None));
        assert_eq!(check("true"), (None, None, None, Some(true)));
        assert_eq!(check("[1]"), (None, None, None, None));
        assert_eq!(check("{}"), (None, None, None, None));
    }
}
