//! A configuration held against the schema that the plug-in gives for it, before the plug-in sees it.

use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value};

use crate::load::{LoadErrorKind, MAX_SCHEMA_BYTES};

/// How many mistakes are named; the others are counted.
const NAMED: usize = 5;

/// Checks `config`, a JSON text, against `schema`, another one or empty, which takes anything.
///
/// Nothing is fetched: a schema that refers to another document is an error of the plug-in, as is one that is none. Without a
/// configuration (`null`), a schema that would take an empty one is content.
pub(crate) fn check(schema: &str, config: &str) -> Result<(), LoadErrorKind> {
    let Some(validator) = compile(schema)? else { return Ok(()) };
    // It was a `Value` when it came from the operator.
    let config: Value = serde_json::from_str(config).map_err(|e| LoadErrorKind::Config(e.to_string()))?;
    if validator.is_valid(&config) {
        return Ok(());
    }
    let empty = Value::Object(Map::new());
    let mistakes = match &config {
        Value::Null if validator.is_valid(&empty) => return Ok(()),
        Value::Null => format!("it has none, and {}", mistakes(validator.iter_errors(&empty))),
        config => mistakes(validator.iter_errors(config)),
    };
    Err(LoadErrorKind::ConfigSchema(mistakes))
}

/// What holds configurations against `schema`; `None` if it is empty.
///
/// # Errors
/// That it is too long, no JSON text or no schema, or refers to another document.
pub(crate) fn compile(schema: &str) -> Result<Option<Validator>, LoadErrorKind> {
    if schema.is_empty() {
        return Ok(None);
    }
    let unusable = |why: String| LoadErrorKind::Schema(why);
    if schema.len() > MAX_SCHEMA_BYTES {
        return Err(unusable(format!("it is longer than {} MiB", MAX_SCHEMA_BYTES >> 20)));
    }
    let schema: Value = serde_json::from_str(schema).map_err(|e| unusable(format!("it is no JSON: {e}")))?;
    let validator = jsonschema::options().offline().build(&schema).map_err(|e| {
        let at = e.instance_path().to_string();
        unusable(if at.is_empty() { e.to_string() } else { format!("at `{at}`: {e}") })
    });
    validator.map(Some)
}

/// One text of them all. A value is not shown, as it may be a secret; only what kind it is.
fn mistakes<'a>(errors: impl Iterator<Item = ValidationError<'a>>) -> String {
    let (mut text, mut left_out) = (String::new(), 0);
    for (index, error) in errors.enumerate() {
        if index >= NAMED {
            left_out += 1;
            continue;
        }
        let path = error.instance_path().to_string();
        let place = if path.is_empty() { String::new() } else { format!("at `{path}`: ") };
        let separator = if index == 0 { "" } else { "; " };
        text += &format!("{separator}{place}{}", error.masked_with(kind_of(error.instance())));
    }
    if left_out > 0 {
        text += &format!("; and {left_out} more");
    }
    text
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::load::Description;

    #[test]
    fn mistakes_have_a_path_and_say_what_was_expected() {
        let schema = r#"{
            "type": "object",
            "properties": {
                "pool": {"type": "string"},
                "servers": {"type": "array", "items": {"properties": {"port": {"maximum": 65535}}}}
            },
            "required": ["pool"],
            "additionalProperties": false
        }"#;
        let check = |config: &str| match check(schema, config) {
            Ok(()) => "fits".to_owned(),
            Err(e) => e.to_string(),
        };
        let wrong = |what: &str| {
            format!(
                "its configuration is not as its schema wants it: {what}; `tailweir plugin inspect` shows the schema"
            )
        };
        assert_eq!(check(r#"{"pool":"a"}"#), "fits");
        assert_eq!(check(r#"{"pool":5}"#), wrong("at `/pool`: a number is not of type \"string\""));
        assert_eq!(
            check(r#"{"pool":"a","servers":[{"port":1},{"port":70000}]}"#),
            wrong("at `/servers/1/port`: a number is greater than the maximum of 65535")
        );
        assert_eq!(
            check(r#"{"pol":"s3cret"}"#),
            wrong(
                "Additional properties are not allowed ('pol' was unexpected); \"pool\" is a required property"
            )
        );
        assert_eq!(check("null"), wrong("it has none, and \"pool\" is a required property"));
        assert_eq!(check("[]"), wrong("an array is not of type \"object\""));
    }

    #[test]
    fn without_a_configuration_an_empty_one_counts() {
        assert!(check("", "null").is_ok());
        assert!(check(r#"{"type":"object"}"#, "null").is_ok());
        assert!(check(r#"{"type":"object","required":["a"]}"#, "null").is_err());
    }

    #[test]
    fn a_schema_that_is_none_is_the_plugins_fault() {
        for (schema, why) in [
            ("{", "it is no JSON"),
            (r#"{"type":"strnig"}"#, "strnig"),
            (r#"{"$ref":"https://example.com/schema.json"}"#, "https://example.com/schema.json"),
            (r#"{"$ref":"file:///etc/passwd"}"#, "file:///etc/passwd"),
        ] {
            let error = check(schema, "{}").unwrap_err();
            assert!(matches!(error, LoadErrorKind::Schema(_)), "{schema}: {error}");
            assert!(error.to_string().contains(why), "{schema}: {error}");
        }
    }

    #[test]
    fn a_schema_that_is_too_long_is_not_passed_over() {
        let schema = format!("{{{}}}", " ".repeat(MAX_SCHEMA_BYTES));
        let description = |config_schema| Description {
            name: "p".into(),
            version: "1".into(),
            needs: vec![],
            config_schema,
        };
        for schema in [schema.replace(' ', "ä"), schema] {
            let kept = description(schema).clipped(&Limits::default()).config_schema;
            assert!(kept.len() <= MAX_SCHEMA_BYTES + 4);
            let error = check(&kept, "{}").unwrap_err().to_string();
            assert!(error.contains("it is longer than 1 MiB; repair `config-schema`"), "{error}");
        }
        assert_eq!(description("{}".to_owned()).clipped(&Limits::default()).config_schema, "{}");
    }

    #[test]
    fn a_schema_that_leads_to_itself_ends() {
        for schema in [r##"{"$ref":"#"}"##, r##"{"allOf":[{"$ref":"#"}]}"##, r##"{"not":{"$ref":"#"}}"##] {
            // Whatever it says to it: it must not run for ever or out of stack.
            let _ = check(schema, r#"{"a":1}"#);
        }
    }
}
