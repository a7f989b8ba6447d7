//! A configuration held against the schema that the plug-in gives for it, before the plug-in sees it.

mod cost;

use std::cmp::Reverse;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

use crate::load::{LoadErrorKind, MAX_SCHEMA_BYTES};

/// How many mistakes are named; the others are counted.
const NAMED: usize = 5;

/// With more steps than this nothing but that there is a mistake is told: each may become an error of a KiB.
const EXPLAINED: usize = 50_000;

/// How large a pattern may become when it is compiled, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// Checks `config`, a JSON text, against `schema`, another one or empty, which takes anything.
///
/// Nothing is fetched: a schema that refers to another document is an error of the plug-in, as is one that is none. Without a
/// configuration (`null`), a schema that would take an empty one is content.
pub(crate) fn check(schema: &str, config: &str) -> Result<(), LoadErrorKind> {
    let Some(Usable { schema, validator }) = usable(schema)? else { return Ok(()) };
    // It was a `Value` when it came from the operator.
    let config: Value = serde_json::from_str(config).map_err(|e| LoadErrorKind::Config(e.to_string()))?;
    // How many steps it takes to tell what is wrong, if something is.
    let wrong = |config: &Value| {
        let steps = cost::steps(&schema, config).map_err(LoadErrorKind::Schema)?;
        Ok((!validator.is_valid(config)).then_some(steps))
    };
    let empty = Value::Object(Map::new());
    let Some(mut steps) = wrong(&config)? else { return Ok(()) };
    let (mut held, mut begin) = (&config, "");
    if config.is_null() {
        let Some(without) = wrong(&empty)? else { return Ok(()) };
        (held, begin, steps) = (&empty, "it has none, and ", without);
    }
    let mistakes = match steps {
        ..=EXPLAINED => mistakes(validator.iter_errors(held)),
        _ => "the schema is too involved to tell where".to_owned(),
    };
    Err(LoadErrorKind::ConfigSchema(format!("{begin}{mistakes}")))
}

/// Whether configurations can be held against `schema`, which may be empty.
///
/// # Errors
/// As [`usable`].
pub(crate) fn look(schema: &str) -> Result<(), LoadErrorKind> {
    usable(schema).map(drop)
}

/// A schema, and what holds configurations against it.
struct Usable {
    schema: Value,
    validator: Validator,
}

/// What holds configurations against `schema`; `None` if it is empty.
///
/// # Errors
/// That it is too long or too large, no JSON text or no schema, or refers to another document.
fn usable(schema: &str) -> Result<Option<Usable>, LoadErrorKind> {
    if schema.is_empty() {
        return Ok(None);
    }
    let unusable = |why: String| LoadErrorKind::Schema(why);
    if schema.len() > MAX_SCHEMA_BYTES {
        return Err(unusable(format!("it is longer than {} MiB", MAX_SCHEMA_BYTES >> 20)));
    }
    let schema: Value = serde_json::from_str(schema).map_err(|e| unusable(format!("it is no JSON: {e}")))?;
    cost::bound(&schema).map_err(unusable)?;
    // Those take no longer than the text is long, whatever the pattern.
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES);
    let validator = jsonschema::options().offline().with_pattern_options(patterns).build(&schema);
    let validator = validator.map_err(|e| {
        let at = e.instance_path().to_string();
        unusable(if at.is_empty() { e.to_string() } else { format!("at `{at}`: {e}") })
    })?;
    Ok(Some(Usable { schema, validator }))
}

/// One text of them all. A value is not shown, as it may be a secret; only what kind it is.
fn mistakes<'a>(errors: impl Iterator<Item = ValidationError<'a>>) -> String {
    let (mut text, mut index) = (String::new(), 0);
    for error in errors {
        for error in nearest(&error) {
            if index < NAMED {
                let path = error.instance_path().to_string();
                let place = if path.is_empty() { String::new() } else { format!("at `{path}`: ") };
                let separator = if index == 0 { "" } else { "; " };
                text += &format!("{separator}{place}{}", error.masked_with(kind_of(error.instance())));
            }
            index += 1;
        }
    }
    if index > NAMED {
        text += &format!("; and {} more", index - NAMED);
    }
    text
}

/// Of what fits none of several schemas: what is wrong with it for the one that it was most likely meant for. What fits none even
/// in its type, and any other mistake, is left as it is.
fn nearest<'a, 'b>(error: &'a ValidationError<'b>) -> Vec<&'a ValidationError<'b>>
where
    'b: 'a,
{
    let (ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context }) =
        error.kind()
    else {
        return vec![error];
    };
    let here = error.instance_path().as_str();
    let branches = context.iter().map(|branch| branch.iter().flat_map(nearest).collect::<Vec<_>>());
    let rank = |branch: &Vec<&ValidationError<'_>>| {
        let is = |wanted: fn(&ValidationErrorKind) -> bool| branch.iter().any(|error| wanted(error.kind()));
        let of_type = branch.iter().any(|error| {
            matches!(error.kind(), ValidationErrorKind::Type { .. }) && error.instance_path().as_str() == here
        });
        // One of several fixed words tells one schema from another.
        let of_word = is(|kind| {
            matches!(kind, ValidationErrorKind::Constant { .. } | ValidationErrorKind::Enum { .. })
        });
        let depth = branch.iter().map(|error| error.instance_path().as_str().matches('/').count()).max();
        (!of_type, !of_word, depth, Reverse(branch.len()))
    };
    match branches.max_by_key(rank) {
        Some(branch) if rank(&branch).0 && !branch.is_empty() => branch,
        _ => vec![error],
    }
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

    #[test]
    fn the_mistake_is_told_of_the_schema_that_was_most_likely_meant() {
        let told = |schema: &str, config: &str| match check(schema, config) {
            Err(LoadErrorKind::ConfigSchema(told)) => told,
            other => panic!("{other:?}"),
        };
        // What `Option<Config>` becomes.
        let optional = r##"{"anyOf":[{"$ref":"#/$defs/C"},{"type":"null"}],"$defs":{"C":{"type":"object",
            "properties":{"field":{"type":"string"}},"additionalProperties":false,"required":["field"]}}}"##;
        assert_eq!(told(optional, r#"{"field":5}"#), "at `/field`: a number is not of type \"string\"");
        assert!(told(optional, r#"{"feld":"x"}"#).contains("('feld' was unexpected)"));
        assert_eq!(
            told(optional, "[]"),
            "an array is not valid under any of the schemas listed in the 'anyOf' keyword"
        );
        // An enum whose variants are told apart by a word.
        let tagged = r#"{"properties":{"targets":{"items":{"oneOf":[
            {"properties":{"to":{"const":"file"},"path":{"type":"string"}},"required":["to","path"]},
            {"properties":{"to":{"const":"http"},"port":{"maximum":65535}},"required":["to","port"]}]}}}}"#;
        let port = r#"{"targets":[{"to":"file","path":"x"},{"to":"http","port":70000}]}"#;
        assert_eq!(told(tagged, port), "at `/targets/1/port`: a number is greater than the maximum of 65535");
        let words = r#"{"anyOf":[{"type":"null"},{"enum":["a","b"]}]}"#;
        assert!(told(words, r#""c""#).contains("a string is not one of"), "{}", told(words, r#""c""#));
        // However deep it is.
        let tree = r##"{"$ref":"#/$defs/t","$defs":{"t":{"anyOf":[
            {"type":"object","properties":{"not":{"$ref":"#/$defs/t"}},"required":["not"]},{"type":"string"}]}}}"##;
        let config = format!("{}5{}", r#"{"not":"#.repeat(20), "}".repeat(20));
        let expected = format!("at `{}`: a number is not valid under any", "/not".repeat(20));
        assert!(told(tree, &config).starts_with(&expected), "{}", told(tree, &config));
    }

    /// Definitions of which each refers twice to the one before.
    fn doubling(definitions: usize) -> String {
        let of = |n: usize| {
            let before = n - 1;
            format!(
                r##""a{n}":{{"anyOf":[{{"$ref":"#/$defs/a{before}"}},{{"allOf":[{{"$ref":"#/$defs/a{before}"}}]}}]}}"##
            )
        };
        let all: Vec<String> = (1..=definitions).map(of).collect();
        let rest = all.join(",");
        format!(r##"{{"$ref":"#/$defs/a{definitions}","$defs":{{"a0":{{"type":"string"}},{rest}}}}}"##)
    }

    #[test]
    fn a_short_schema_that_asks_for_much_is_refused() {
        let fine = check(&doubling(5), "{}").unwrap_err().to_string();
        assert!(fine.contains("its configuration is not as its schema wants it"), "{fine}");
        let involved = check(&doubling(14), "{}").unwrap_err().to_string();
        assert!(involved.contains("the schema is too involved to tell where"), "{involved}");
        for definitions in [25, 500] {
            let error = check(&doubling(definitions), "{}").unwrap_err();
            assert!(matches!(error, LoadErrorKind::Schema(_)), "{error}");
            assert!(error.to_string().contains("takes more than 1000000 steps"), "{error}");
        }
        let unevaluated = (0..40).fold(r#"{"type":"string"}"#.to_owned(), |inner, _| {
            format!(r#"{{"anyOf":[{inner}],"unevaluatedProperties":false}}"#)
        });
        assert!(check(&unevaluated, r#"{"a":1,"b":2}"#).unwrap_err().to_string().contains("steps"));
        let chain: Vec<String> =
            (1..4_990).map(|n| format!(r##""a{n}":{{"$ref":"#/$defs/a{}"}}"##, n - 1)).collect();
        let chain = format!(r##"{{"$ref":"#/$defs/a4989","$defs":{{"a0":{{}},{}}}}}"##, chain.join(","));
        assert!(check(&chain, "{}").unwrap_err().to_string().contains("levels deep"));
    }

    #[test]
    fn a_schema_that_cannot_be_measured_or_compiled_cheaply_is_refused() {
        let parts = format!(r#"{{"anyOf":[{}]}}"#, vec!["{}"; 5_000].join(","));
        let patterns = format!(r#"{{"allOf":[{}]}}"#, vec![r#"{"pattern":"a"}"#; 101].join(","));
        for (schema, why) in [
            (&*parts, "objects and arrays, of which 5000"),
            (&*patterns, "101 patterns"),
            (r#"{"pattern":"(\\w{1000}){1000}"}"#, "pattern"),
            (r#"{"$schema":"http://json-schema.org/draft-04/schema#"}"#, "draft 4"),
            (r##"{"$defs":{"a":{"$anchor":"a"}},"$ref":"#a"}"##, "`#a`"),
            (r##"{"$dynamicRef":"#a"}"##, "use `$ref`"),
            (r#"{"$defs":{"a":{"$id":"http://a.example/"}}}"#, "`$id`"),
        ] {
            let error = check(schema, "{}").unwrap_err();
            assert!(matches!(error, LoadErrorKind::Schema(_)) && error.to_string().contains(why), "{error}");
        }
        // Names are no keywords.
        assert!(
            check(r#"{"properties":{"$ref":{"type":"string"},"$id":{},"pattern":{}}}"#, r#"{"$ref":"a"}"#)
                .is_ok()
        );
    }
}
