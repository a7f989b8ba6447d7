//! What the README promises.

use std::fs;
use std::path::Path;
use std::process::Command;

use tailweir_tests::{Segments, repository};

use crate::tailweir;

fn readme() -> String {
    fs::read_to_string(repository("README.md")).unwrap()
}

/// The code blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_first_command_runs_the_demo_to_its_end() {
    assert!(blocks(&readme(), "sh")[0].contains("cargo run --release -- demo"), "the README's first command");
    let said = tailweir().arg("demo").run();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("nothing is missing"), "{}", said.stdout);
}

#[test]
fn its_commands_exist() {
    let commands = blocks(&readme(), "sh").concat();
    let ours = commands.lines().filter_map(|line| line.strip_prefix("tailweir "));
    let mut seen = 0;
    for line in ours {
        let name = line.split_whitespace().next().unwrap();
        let help = if name.starts_with('-') { "--help".to_owned() } else { format!("{name} --help") };
        let help = tailweir().args(&help).run().quietly();
        for option in
            line.split(" -- ").next().unwrap().split_whitespace().filter(|word| word.starts_with("--"))
        {
            assert!(help.contains(option), "`tailweir {line}`: no {option}");
        }
        seen += 1;
    }
    assert!(seen >= 4, "{commands}");
}

#[test]
fn its_script_runs() {
    let script = blocks(&readme(), "lua").remove(0);
    let segments = Segments::generate(500, 1, 41);
    let path =
        segments.beside("readme.lua", &script.replace("directory = dir", "directory = dir, follow = false"));
    let said = tailweir().arg("script").arg(path).arg("--").arg(segments.directory()).run().quietly();
    let bounced = segments.ids(|r| r["type"] == "Bounce").len();
    assert_eq!(said.lines().count(), bounced);
}

#[test]
fn its_links_lead_somewhere() {
    let docs = fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages: Vec<_> = ["README.md", "ARCHITECTURE.md"].map(repository).into_iter().chain(docs).collect();
    assert!(pages.len() > 5, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let folder = page.parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                assert!(folder.join(path).exists(), "{}: {link}", page.display());
            }
        }
    }
}

#[test]
fn the_scripts_in_the_documentation_are_lua() {
    let text = fs::read_to_string(repository("docs/scripts.md")).unwrap();
    let segments = Segments::generate(1, 1, 1);
    for block in blocks(&text, "lua") {
        let check = format!("assert(load([==[\nlocal kumo = require 'kumo'\n{block}]==]))");
        let path = segments.beside("block.lua", &check);
        let ended = tailweir().arg("script").arg(path).run();
        assert_eq!(ended.code, Some(0), "{block}\n{}", ended.stderr);
    }
}

#[test]
fn core_depends_on_no_engine() {
    let arguments = ["tree", "--offline", "-p", "tailweir-core", "-e", "normal", "--prefix", "none"];
    let tree = Command::new(env!("CARGO")).args(arguments).current_dir(repository("")).output().unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("tailweir-core"), "{tree}");
    for engine in ["wasmtime", "mlua", "tokio", "zstd", "tailweir-segments"] {
        assert!(!tree.lines().any(|line| line.starts_with(&format!("{engine} "))), "{tree}");
    }
}

/// All Rust code below a folder.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn each_row_of_the_reliability_page_names_tests_that_there_are() {
    let page = fs::read_to_string(repository("docs/reliability.md")).unwrap();
    let mut code = String::new();
    sources(&repository("tests"), &mut code);
    for row in 1..=27 {
        let line = page.lines().find(|line| line.starts_with(&format!("| F{row} |"))).unwrap();
        let named: Vec<_> = line.split('`').filter(|part| part.starts_with(&format!("f{row:02}_"))).collect();
        assert!(!named.is_empty(), "{line}");
        for name in line.split('`').filter(|part| part.starts_with('f') && part.contains("_")) {
            assert!(code.contains(&format!("fn {name}(")), "there is no test {name}");
        }
    }
}
