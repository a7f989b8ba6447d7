//! What the compiler says to an author's mistakes: each message names the fix.

#![allow(missing_docs, clippy::unwrap_used)]

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// What cargo has built of a library, the latest first. They are several where it is needed with several sets of
/// features, and which of them comes last is a matter of chance.
fn built(library: &str) -> Vec<PathBuf> {
    let test = env::current_exe().unwrap();
    let beside = fs::read_dir(test.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let begin = format!("lib{library}-");
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&begin) && name.ends_with(".rlib")
    };
    let mut found: Vec<PathBuf> = beside.filter(is_it).collect();
    found.sort_by_key(|path| Reverse(path.metadata().unwrap().modified().unwrap()));
    found
}

/// The SDK and the serde that belong together, which are the ones that a right plug-in compiles with.
static LIBRARIES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let right = "#[derive(serde::Deserialize)]\nstruct Config { pool: String }\n\
        fn keep(batch: &Batch, config: &Config) -> Verdict { Verdict::All }\ntailweir_guest::filter!(keep);";
    let mut said = None;
    for sdk in built("tailweir_guest") {
        for serde in built("serde") {
            let pair = [sdk.clone(), serde];
            said = said_with(&pair, right);
            if said.is_none() {
                return pair;
            }
        }
    }
    panic!("no pair of libraries compiles a right plug-in; the last that the compiler said:\n{said:?}")
});

/// What the compiler says to this code; `None` if it is content.
fn said(code: &str) -> Option<String> {
    said_with(&LIBRARIES, code)
}

fn said_with([sdk, serde]: &[PathBuf; 2], code: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("plugin.rs");
    let prelude = "#![allow(unused)]\nuse tailweir_guest::{Batch, Failure, Outcome, Verdict};\n";
    fs::write(&source, format!("{prelude}{code}")).unwrap();
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--color", "never"]);
    rustc.env("CARGO_PKG_NAME", "plugin").env("CARGO_PKG_VERSION", "0.1.0");
    rustc.arg("-L").arg(format!("dependency={}", sdk.parent().unwrap().display()));
    rustc.arg("--extern").arg(format!("tailweir_guest={}", sdk.display()));
    rustc.arg("--extern").arg(format!("serde={}", serde.display()));
    let output = rustc.arg("--out-dir").arg(folder.path()).arg(&source).output().unwrap();
    (!output.status.success()).then(|| String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn check(code: &str, expected: &[&str]) {
    let said = said(code).expect("the compiler is content");
    for part in expected {
        assert!(said.contains(part), "`{part}` is not in\n{said}");
    }
}

#[test]
fn right_code_compiles() {
    let code = "fn keep(batch: &Batch) -> Vec<bool> { vec![true; batch.len()] }\n\
        fn filter(batch: &Batch) -> Result<Vec<bool>, String> { Ok(keep(batch)) }\n\
        tailweir_guest::filter!(filter);";
    assert_eq!(said(code), None);
}

#[test]
fn a_filter_that_returns_something_else() {
    check(
        "fn keep(batch: &Batch) -> bool { true }\ntailweir_guest::filter!(keep);",
        &[
            "this function cannot be a filter",
            "fn(&'a Batch) -> bool {keep}",
            "a filter is `fn(&Batch) -> Verdict`",
            "`Result<V, E>` where `V` is `Verdict` or `Vec<bool>`",
        ],
    );
}

#[test]
fn a_function_that_takes_something_else() {
    check(
        "fn keep(record: &str) -> Verdict { Verdict::All }\ntailweir_guest::filter!(keep);",
        &["a filter is `fn(&Batch) -> Verdict`, or `fn(&Batch, &Config) -> Verdict`"],
    );
    check(
        "fn process(batch: Batch) -> Result<Outcome, Failure> { Ok(Outcome::Done) }\n\
         tailweir_guest::processor!(process);",
        &["a processor is `fn(&Batch) -> Result<Outcome, Failure>`"],
    );
}

#[test]
fn a_function_of_the_other_kind() {
    check(
        "fn process(batch: &Batch) -> Result<Outcome, Failure> { Ok(Outcome::Done) }\n\
         tailweir_guest::filter!(process);",
        &["this function cannot be a filter", "is a processor: `tailweir_guest::processor!`"],
    );
    check(
        "fn keep(batch: &Batch) -> Verdict { Verdict::All }\ntailweir_guest::processor!(keep);",
        &["this function cannot be a processor", "is a filter: `tailweir_guest::filter!`"],
    );
}

#[test]
fn a_processor_with_an_error_of_its_own() {
    check(
        "fn process(batch: &Batch) -> Result<Outcome, String> { Ok(Outcome::Done) }\n\
         tailweir_guest::processor!(process);",
        &["Result<Outcome, Failure>"],
    );
}

#[test]
fn a_configuration_that_cannot_be_parsed() {
    check(
        "struct Config;\nfn keep(batch: &Batch, config: &Config) -> Verdict { Verdict::All }\n\
         tailweir_guest::filter!(keep);",
        &["#[derive(serde::Deserialize)]"],
    );
}

#[test]
fn a_configuration_that_borrows() {
    for (macros, function) in [
        ("filter", "fn plugin(batch: &Batch, config: &Config) -> Verdict { Verdict::All }"),
        (
            "processor",
            "fn plugin(batch: &Batch, config: &Config) -> Result<Outcome, Failure> { Ok(Outcome::Done) }",
        ),
    ] {
        let code = |kind| {
            format!(
                "#[derive(serde::Deserialize)]\nstruct Config{kind}\n{function}\ntailweir_guest::{macros}!(plugin);"
            )
        };
        check(
            &code("<'a> { pool: &'a str }"),
            &["ConfigWithStringInPlaceOfStr` is not general enough", "`Config<'_>` must"],
        );
        assert_eq!(said(&code(" { pool: String }")), None);
    }
}

#[test]
fn two_plugins_in_one_crate() {
    let keep = "pub fn keep(batch: &Batch) -> Verdict { Verdict::All }";
    let process = "pub fn process(batch: &Batch) -> Result<Outcome, Failure> { Ok(Outcome::Done) }";
    let twice = "the name `a_crate_has_one_filter_or_one_processor` is defined multiple times";
    let (filter, processor) =
        ("tailweir_guest::filter!(crate::keep);", "tailweir_guest::processor!(crate::process);");
    check(&format!("{keep}{process}\n{filter}\n{processor}"), &[twice, filter, processor]);
    check(
        &format!("{keep}{process}\nmod a {{ {filter} }}\nmod b {{ {processor} }}"),
        &[twice, filter, processor],
    );
    check(&format!("{keep}\n{filter}\n{filter}"), &[twice]);
}

#[test]
fn a_plugin_that_has_the_compiler_deny_what_it_can() {
    let code = "#[deny(warnings, missing_docs)]\n/// A filter.\npub mod plugin { use super::*;\n\
        fn keep(batch: &Batch) -> Verdict { Verdict::All }\ntailweir_guest::filter!(keep); }";
    assert_eq!(said(code), None);
    let code = "#[deny(warnings)]\npub fn f() { fn keep(batch: &Batch) -> Verdict { Verdict::All }\n\
        tailweir_guest::filter!(keep); }";
    assert_eq!(said(code), None);
}

#[test]
fn a_column_of_something_else() {
    check(
        "fn f(batch: &Batch) { batch.column::<char>(\"/type\"); }",
        &["a column cannot hold `char`", "`String`, an integer such as `i64`, `f64`, `bool`, or `Raw`"],
    );
}
