//! The JSON functions against `serde_json`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value as Tree;
use tailweir_core::json::{self, Invalid, Value};
use tailweir_core::{Block, Frame, Identity, Point, Pointer, SegmentName};

/// JSON texts, and texts that nearly are.
fn text() -> impl Strategy<Value = String> {
    let bit = prop_oneof![
        4 => prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"b\":", "\"a\":1", "{}", "[]", "null", "true", "false", " ",
            "\t", "\r", "0", "-", "1", "12.5e-3", "1E9", ".", "e", "+", "01", "-0", "\\", "\\u00e9", "\\u12g4", "\\ud83d",
            "\\n", "\\x", "é", "📧", "\u{0}", "\u{1f}", "\u{7f}", "nul", "tru", "NaN", "Infinity", "/", "'",
        ]).prop_map(str::to_owned),
        1 => "[ -~]{0,40}",
    ];
    prop_oneof![
        prop::collection::vec(bit, 0..12).prop_map(|bits| bits.concat()),
        (tree(), any::<prop::sample::Index>(), "[ -~é]{0,2}").prop_map(|(tree, at, with)| {
            // A valid text with something put into it or taken from it.
            let text = tree.to_string();
            let mut at = at.index(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            let (before, after) = text.split_at(at);
            let after = if with.is_empty() {
                after.char_indices().nth(1).map_or("", |(n, _)| &after[n..])
            } else {
                after
            };
            format!("{before}{with}{after}")
        }),
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,2}", "[a-z\"\\\\/~\u{8}\u{c}\n\r\t\u{0}\u{1f}é你📧]{0,20}", "[a-z \"\\\\]{10,80}",]
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<u64>().prop_map(Tree::from),
        // Eighths are exact, however they are parsed.
        any::<i16>().prop_map(|n| Tree::from(f64::from(n) / 8.0)),
        string().prop_map(Tree::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::from),
            prop::collection::vec((string(), inner), 0..6).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// The same tree as text, with other white space, other escapes, and some keys twice.
fn rewrite(tree: &Tree, out: &mut String, mut seed: u64) {
    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let space = ["", "", " ", "\t", "\r ", "\n"][(seed >> 33) as usize % 6];
    out.push_str(space);
    match tree {
        Tree::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                rewrite(item, out, seed + n as u64);
            }
            out.push(']');
        }
        Tree::Object(members) => {
            out.push('{');
            let mut first = true;
            for (n, (key, value)) in members.iter().enumerate() {
                if (seed >> 40).is_multiple_of(3) {
                    out.push_str(if first { "" } else { "," });
                    out.push_str(&format!("{}:[{{\"a\":[1,\"}}]\"]}}]", escape(key, seed)));
                    first = false;
                }
                out.push_str(if first { "" } else { "," });
                first = false;
                out.push_str(&escape(key, seed + n as u64));
                out.push_str(&format!("{space}:"));
                rewrite(value, out, seed + n as u64);
            }
            out.push('}');
        }
        Tree::String(text) => out.push_str(&escape(text, seed)),
        other => out.push_str(&other.to_string()),
    }
    out.push_str(space);
}

fn escape(text: &str, seed: u64) -> String {
    match (seed >> 35) % 3 {
        0 => {
            text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).fold("\"".to_owned(), |a, b| a + &b)
                + "\""
        }
        _ => Tree::from(text).to_string(),
    }
}

/// A tree built with nothing but the functions under test.
fn rebuild(text: &str) -> Tree {
    match Value::of(text) {
        Value::Null => Tree::Null,
        Value::Bool(value) => value.into(),
        Value::Number(text) => serde_json::from_str(text).unwrap(),
        Value::String(raw) => json::unescape(raw).into(),
        Value::Array(text) => json::elements(text).map(rebuild).collect(),
        Value::Object(text) => json::members(text)
            .map(|(key, value)| (json::unescape(key).into_owned(), rebuild(value)))
            .collect(),
    }
}

/// Every pointer into a tree.
fn pointers(tree: &Tree, prefix: &str, out: &mut Vec<String>) {
    out.push(prefix.to_owned());
    match tree {
        Tree::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| pointers(item, &format!("{prefix}/{n}"), out));
        }
        Tree::Object(members) => members.iter().for_each(|(key, value)| {
            pointers(value, &format!("{prefix}/{}", key.replace('~', "~0").replace('/', "~1")), out);
        }),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn validation_agrees_with_serde_json(text in text()) {
        let ours = json::validate(&text);
        let trimmed = text.trim_matches([' ', '\t', '\r']);
        let theirs = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        match ours {
            Ok(()) => prop_assert!(theirs, "{text:?}"),
            Err(Invalid::Blank) => prop_assert!(trimmed.is_empty()),
            Err(Invalid::Null) => prop_assert_eq!(trimmed, "null"),
            Err(error) => prop_assert!(!theirs, "{text:?}: {error:?}"),
        }
    }

    #[test]
    fn blocks_agree_with_serde_json(lines in prop::collection::vec(text(), 1..8)) {
        let valid = |line: &&String| {
            serde_json::from_str::<IgnoredAny>(line).is_ok() && line.trim_matches([' ', '\t', '\r']) != "null"
        };
        let stream = lines.join("\n");
        let block = block_of(&stream);
        let found: Vec<_> = (0..block.len()).map(|n| block.text(n)).collect();
        let expected: Vec<_> =
            lines.iter().filter(valid).map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
        prop_assert_eq!(found, expected, "{:?}", stream);
    }

    #[test]
    fn lines_that_are_built_alike_agree_with_serde_json(
        tree in tree(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[-01.eE+tfnul\"\\\\,:{}\\[\\] a\u{1}]"), 0..20),
    ) {
        let text = tree.to_string();
        let mut lines = vec![text.clone()];
        for (at, byte) in changes {
            // Most of these have the kinds of tokens that the first one has.
            let mut line = text.clone();
            let at = at.index(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                line.replace_range(at..=at, &byte);
            }
            lines.push(line);
        }
        let block = block_of(&lines.join("\n"));
        let valid = |line: &&String| serde_json::from_str::<IgnoredAny>(line).is_ok() && *line != "null";
        let expected: Vec<_> = lines.iter().filter(valid).collect();
        prop_assert_eq!(block.len(), expected.len(), "{:?}", lines);
        for (index, line) in expected.into_iter().enumerate() {
            prop_assert_eq!(block.text(index), line);
            let keys = json::members(line).map(|(key, _)| json::unescape(key).into_owned());
            for key in keys.chain(["a".to_owned()]) {
                prop_assert_eq!(block.field(index, &key), json::get(line, &key), "{:?} of {}", key, line);
            }
        }
    }

    #[test]
    fn functions_on_text_that_was_never_validated_return(text in text()) {
        for (key, value) in json::members(&text) {
            json::unescape(key);
            Value::of(value);
        }
        json::elements(&text).for_each(|value| _ = Value::of(value));
        let _ = json::get(&text, "a");
        let _ = Pointer::parse("/a/0/b").unwrap().find(&text);
    }
}

fn block_of(stream: &str) -> Block {
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    let segment = SegmentName::new("s").unwrap();
    // Not at the start of the segment, where a byte order mark would be taken away.
    let from = Point { line: 1, offset: 1 };
    Block::parse(segment, identity, from, Frame::default(), stream.as_bytes().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn fields_of_records_are_those_of_their_text(
        trees in prop::collection::vec((tree(), any::<u64>()), 1..5),
        long in prop::option::of("[k]{250,260}"),
        keep in any::<u8>(),
    ) {
        let line = |(tree, seed): &(Tree, u64)| {
            let mut tree = tree.clone();
            if let (Tree::Object(members), Some(long)) = (&mut tree, &long) {
                members.insert(long.clone(), Tree::from(1));
            }
            let mut text = String::new();
            rewrite(&tree, &mut text, *seed);
            (text.replace('\n', "\t"), tree)
        };
        let lines: Vec<_> = trees.iter().map(line).filter(|(_, tree)| !tree.is_null()).collect();
        let block = block_of(&lines.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join("\r\n"));
        prop_assert_eq!(block.len(), lines.len());
        let kept: Vec<_> = (0..block.len()).filter(|n| keep & (1 << n) != 0).collect();
        let excerpt = block.excerpt(kept.iter().copied());
        for (place, n) in kept.into_iter().enumerate().chain((0..block.len()).map(|n| (usize::MAX, n))) {
            let (block, index) = if place == usize::MAX { (&block, n) } else { (&excerpt, place) };
            let keys = lines[n].1.as_object().map(|members| members.keys().cloned()).into_iter().flatten();
            for key in keys.chain(["a".to_owned(), String::new(), "k".repeat(255)]) {
                prop_assert_eq!(block.field(index, &key), json::get(&lines[n].0, &key), "{:?} of {}", key, lines[n].0);
            }
        }
    }

    #[test]
    fn walking_gives_the_same_tree(tree in tree(), seed in any::<u64>()) {
        let mut text = String::new();
        rewrite(&tree, &mut text, seed);
        let parsed: Tree = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&parsed, &tree);
        prop_assert_eq!(rebuild(&text), tree);
    }

    #[test]
    fn pointers_find_what_serde_json_finds(tree in tree(), seed in any::<u64>(), odd in "(/[a-c01~]{0,2}){0,3}") {
        let mut text = String::new();
        rewrite(&tree, &mut text, seed);
        let mut all = vec![odd];
        pointers(&tree, "", &mut all);
        for pointer in all {
            let Ok(parsed) = Pointer::parse(&pointer) else { continue };
            prop_assert_eq!(parsed.to_string(), pointer.clone());
            let found = parsed.find(&text).map(|text| serde_json::from_str::<Tree>(text).unwrap());
            prop_assert_eq!(found.as_ref(), tree.pointer(&pointer), "{} in {}", pointer, text);
        }
    }
}

#[track_caller]
fn check(text: &str, expected: Result<(), &str>) {
    let found = json::validate(text).map_err(|error| match error {
        Invalid::Malformed(why) => why,
        other => format!("{other:?}"),
    });
    assert_eq!(found, expected.map_err(str::to_owned), "{text}");
}

#[test]
fn what_is_wrong_is_said() {
    check("  {\"a\":1 }\r", Ok(()));
    check("", Err("Blank"));
    check(" \t\r", Err("Blank"));
    check("null", Err("Null"));
    check("  {\"a\" 1}", Err("expected `:` but found '1' at byte 7"));
    check("{\"a\":1", Err("expected `,` or `}` but the line ends at byte 6"));
    check("{\"egress_pool\":\"a\", nope", Err("expected a key in quotes but found 'n' at byte 20"));
    check("{\"a\":1,}", Err("expected a key in quotes but found '}' at byte 7"));
    check("[1,]", Err("expected a value but found ']' at byte 3"));
    check("[1 é]", Err("expected `,` or `]` but found 'é' at byte 3"));
    check("[1}", Err("expected `,` or `]` but found '}' at byte 2"));
    check("{} {}", Err("expected the end of the line but found '{' at byte 3"));
    check("NaN", Err("expected a value but found 'N' at byte 0"));
    check("01", Err("expected the end of the line but found '1' at byte 1"));
    check("-", Err("expected a digit but the line ends at byte 1"));
    check("\"a", Err("expected the end of a string but the line ends at byte 2"));
    check("\"\\q\"", Err("expected an escape that JSON has but found '\\\\' at byte 1"));
    check("\"\\u12\"", Err("expected four hexadecimal digits after `\\u` but found '\\\\' at byte 1"));
    check(
        "\"abcdefghijklmnopqrstuvwxyz\u{1}\"",
        Err("expected no control character in a string but found '\\u{1}' at byte 27"),
    );
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    check(&nested(json::MAX_DEPTH), Ok(()));
    check(&nested(json::MAX_DEPTH + 1), Err("TooDeep"));
    check(&"[".repeat(1_000_000), Err("TooDeep"));
    check(&format!("\"{}\"", "[".repeat(1000)), Ok(()));
    check(&format!("[{}1]", "[1],".repeat(1000)), Ok(()));
    let object = "{\"a\":".repeat(128) + "1" + &"}".repeat(128);
    check(&object, Ok(()));
    check(&format!("[{object}]"), Err("TooDeep"));
}

#[test]
fn the_last_of_equal_keys_counts() {
    let text = r#"{"a":1,"\u0061":2,"b":{"a":3}, "a" : "4" }"#;
    assert_eq!(json::get(text, "a"), Some("\"4\""));
    assert_eq!(json::get(r#"{"a":1,"\u0061":null}"#, "a"), Some("null"));
    assert_eq!(json::get(r#"{"ab":1}"#, "a"), None);
    assert_eq!(json::get("[1]", "a"), None);
    assert_eq!(Pointer::parse("/a/b").unwrap().find(r#"{"a":{"b":1},"a":{"b":2}}"#), Some("2"));
}

/// A key that is the text of a member, from within its key on, used to be taken for one, or looked for behind the record.
#[test]
fn a_key_does_not_run_on_into_its_value() {
    for line in [r#"{"ize":0,"queue":"x"}"#, r#"{"a":"b","c":"d","ab":"cd","abc":"def"}"#] {
        let block = block_of(line);
        let tree: Tree = serde_json::from_str(line).unwrap();
        for (from, to) in (2..=line.len()).flat_map(|to| (2..to).map(move |from| (from, to))) {
            let key = &line[from..to];
            let expected = tree.get(key).map(Tree::to_string);
            assert_eq!(block.field(0, key).map(str::to_owned), expected, "{key} in {line}");
        }
    }
}

#[test]
fn strings_are_unescaped() {
    let check = |raw: &str, expected: &str| assert_eq!(json::unescape(raw), expected);
    check(r"plain é", "plain é");
    check(r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t");
    check(r"\u00e9\ud83d\udce7\u0000", "é📧\0");
    check(r"\ud83d", "\u{fffd}");
    check(r"\ud83dx\udce7", "\u{fffd}x\u{fffd}");
    check(r"\ud83d\ud83d\udce7", "\u{fffd}📧");
}

#[test]
fn bad_pointers_are_refused() {
    let error = |text| Pointer::parse(text).unwrap_err().to_string();
    assert!(error("response/code").contains("`/response/code`"));
    assert!(error("/a~2").contains("~1"));
    assert!(error("/a~").contains("~"));
    // What is left once the escapes are taken out is an escape again.
    assert!(error("/a~~10").contains("~1"));
    assert!(error("/a~~00").contains("~1"));
    assert_eq!(Pointer::parse("").unwrap().find("[1]"), Some("[1]"));
    for pointer in ["/01", "/+1", "/-", "/1a", "/2", "/"] {
        assert_eq!(Pointer::parse(pointer).unwrap().find("[1,2]"), None, "{pointer}");
    }
    assert_eq!(Pointer::parse("/").unwrap().find(r#"{"":1}"#), Some("1"));
}

#[test]
fn pointers_into_records_are_those_into_their_text() {
    let lines = [r#"{"a":{"b":[1,2]},"":3}"#, "[[5]]", "{}", "7", "{\"a\":null}"];
    let block = block_of(&lines.join("\n"));
    for pointer in ["", "/", "/a", "/a/b", "/a/b/1", "/0", "/0/0", "/x", "/a/b/2"] {
        let pointer = Pointer::parse(pointer).unwrap();
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(block.find(index, &pointer), pointer.find(line), "{pointer} in {line}");
        }
    }
}
