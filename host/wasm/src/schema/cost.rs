//! How much work a schema makes. Whoever writes a plug-in is not trusted, and a short schema can ask for more steps than there is
//! time for, and for errors that no memory holds: each definition that refers to another twice doubles both. So a schema is measured
//! before it is used.

use serde_json::{Map, Value};

/// How many objects and arrays a schema may have. To compile it goes as deep as its references lead.
const MAX_PARTS: usize = 5_000;

/// How many regular expressions it may have: each may take a MiB once it is compiled.
const MAX_PATTERNS: usize = 100;

/// How many steps it may take to hold a configuration against it.
const MAX_STEPS: usize = 1_000_000;

/// How deeply it may be nested, references counted.
const MAX_DEPTH: usize = 300;

/// What a schema consists of.
#[derive(Default)]
struct Parts {
    containers: usize,
    patterns: usize,
}

/// Whether a schema is one that can be measured, and is small enough to be compiled.
///
/// # Errors
/// What is wrong with it.
pub(super) fn bound(schema: &Value) -> Result<(), String> {
    let draft = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
    if draft.contains("draft-04") {
        return Err("it is of draft 4; write it for draft 2020-12".to_owned());
    }
    let mut parts = Parts::default();
    parts.count(schema, true)?;
    if parts.containers > MAX_PARTS {
        return Err(format!(
            "it has {} objects and arrays, of which {MAX_PARTS} are allowed",
            parts.containers
        ));
    }
    if parts.patterns > MAX_PATTERNS {
        return Err(format!("it has {} patterns, of which {MAX_PATTERNS} are allowed", parts.patterns));
    }
    Ok(())
}

impl Parts {
    fn count(&mut self, part: &Value, is_root: bool) -> Result<(), String> {
        match part {
            Value::Object(members) => {
                self.containers += 1;
                for (key, value) in members {
                    self.member(key, value, is_root)?;
                    self.count(value, false)?;
                }
            }
            Value::Array(elements) => {
                self.containers += 1;
                elements.iter().try_for_each(|element| self.count(element, false))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A member of an object, which may be a keyword or not.
    fn member(&mut self, key: &str, value: &Value, is_root: bool) -> Result<(), String> {
        match (key, value) {
            ("pattern", Value::String(_)) => self.patterns += 1,
            ("patternProperties", Value::Object(patterns)) => self.patterns += patterns.len(),
            ("$ref", Value::String(to)) if *to != "#" && !to.starts_with("#/") => {
                return Err(format!(
                    "it refers to `{to}`; a reference is to a place within it, such as `#/$defs/name`"
                ));
            }
            ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                return Err(format!("it has a `{key}`; use `$ref`"));
            }
            ("$id", Value::String(_)) if !is_root => {
                return Err("it has an `$id` in its midst; write all of it as one schema".to_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

/// How many steps it takes, at most, to hold `config` against a schema that is [bounded](bound).
///
/// # Errors
/// That it is more than there may be.
pub(super) fn steps(schema: &Value, config: &Value) -> Result<usize, String> {
    let mut walk = Walk { root: schema, steps: 0, path: Vec::new() };
    match walk.at(schema, config, 1) {
        Ok(()) => Ok(walk.steps),
        Err(TooMuch) => Err(format!(
            "to hold the configuration against it takes more than {MAX_STEPS} steps, or goes more than {MAX_DEPTH} levels deep"
        )),
    }
}

struct TooMuch;

/// A walk through all that could be looked at, whether it has to be or not.
struct Walk<'a> {
    root: &'a Value,
    steps: usize,
    /// The schemas on the way, each with what it is held against.
    path: Vec<(*const Value, *const Value)>,
}

impl Walk<'_> {
    /// A schema and what is held against it, so often.
    fn at(&mut self, schema: &Value, value: &Value, times: usize) -> Result<(), TooMuch> {
        let here = (std::ptr::from_ref(schema), std::ptr::from_ref(value));
        // What leads to itself is not gone into again.
        if self.path.contains(&here) {
            return Ok(());
        }
        if self.path.len() >= MAX_DEPTH {
            return Err(TooMuch);
        }
        self.path.push(here);
        self.spend(times)?;
        if let Value::Object(keywords) = schema {
            self.keywords(keywords, value, times)?;
        }
        self.path.pop();
        Ok(())
    }

    fn spend(&mut self, steps: usize) -> Result<(), TooMuch> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS { Err(TooMuch) } else { Ok(()) }
    }

    fn keywords(
        &mut self,
        keywords: &Map<String, Value>,
        value: &Value,
        times: usize,
    ) -> Result<(), TooMuch> {
        let beside =
            ["unevaluatedProperties", "unevaluatedItems"].iter().any(|key| keywords.contains_key(*key));
        // For each thing in the value it may be asked once more what the others have said of it.
        let again = if beside { times.saturating_mul(2 + length(value)) } else { times };
        for (keyword, given) in keywords {
            self.spend(length(given).saturating_mul(times))?;
            match (keyword.as_str(), given, value) {
                ("$ref", Value::String(to), _) => {
                    let root = self.root;
                    if let Some(target) = target(root, to) {
                        self.at(target, value, again)?;
                    }
                }
                ("allOf" | "anyOf" | "oneOf", Value::Array(schemas), _) => {
                    schemas.iter().try_for_each(|schema| self.at(schema, value, again))?;
                }
                ("not" | "if" | "then" | "else", schema, _) => self.at(schema, value, again)?,
                ("dependentSchemas" | "dependencies", Value::Object(schemas), _) => {
                    schemas.values().try_for_each(|schema| self.at(schema, value, again))?;
                }
                ("properties", Value::Object(schemas), Value::Object(members)) => {
                    for (name, schema) in schemas {
                        members.get(name).map_or(Ok(()), |member| self.at(schema, member, again))?;
                    }
                }
                ("patternProperties", Value::Object(schemas), Value::Object(members)) => {
                    for schema in schemas.values() {
                        members.values().try_for_each(|member| self.at(schema, member, again))?;
                    }
                }
                ("additionalProperties" | "unevaluatedProperties", schema, Value::Object(members)) => {
                    members.values().try_for_each(|member| self.at(schema, member, again))?;
                }
                // Of a name no more is looked at than of anything that has no parts.
                ("propertyNames", schema, Value::Object(members)) => {
                    self.at(schema, &Value::Null, again.saturating_mul(members.len()))?;
                }
                ("items" | "prefixItems", Value::Array(schemas), Value::Array(elements)) => {
                    schemas
                        .iter()
                        .zip(elements)
                        .try_for_each(|(schema, element)| self.at(schema, element, again))?;
                }
                (
                    "items" | "additionalItems" | "contains" | "unevaluatedItems",
                    schema,
                    Value::Array(elements),
                ) => elements.iter().try_for_each(|element| self.at(schema, element, again))?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// How many parts a value has.
fn length(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.len(),
        Value::Array(elements) => elements.len(),
        _ => 0,
    }
}

/// What a reference leads to.
fn target<'a>(root: &'a Value, to: &str) -> Option<&'a Value> {
    let pointer = to.strip_prefix('#')?;
    match pointer.contains('%') {
        false => root.pointer(pointer),
        true => root.pointer(&percent_encoding::percent_decode_str(pointer).decode_utf8().ok()?),
    }
}
