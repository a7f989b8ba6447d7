//! `tailweir plugin new`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::args::{KindArg, Language, NewArgs};
use super::print;
use crate::exit::UsageError;

/// What a plug-in of one kind in one language begins as.
struct Template {
    language: Language,
    kind: KindArg,
    /// The configuration that its golden file was made with, as an option of `plugin test`.
    config: &'static str,
    /// What runs its own tests, or looks it over.
    test: &'static str,
    /// What must be installed first and when, with the command in backticks, if anything.
    before: Option<&'static str>,
    /// The files: where each belongs in the folder, and its content, in which `{{name}}` and the like stand for what is known
    /// only when it is written.
    files: &'static [(&'static str, &'static str)],
}

/// The content of a file of a template.
macro_rules! text {
    ($folder:literal, $path:literal) => {
        ($path, include_str!(concat!("../../templates/", $folder, "/", $path)))
    };
    // Under its own name cargo would take it for something of its own, or git would.
    ($folder:literal, $path:literal as $kept:literal) => {
        ($path, include_str!(concat!("../../templates/", $folder, "/", $kept)))
    };
}

/// A file of the crate that plug-ins in Rust are written with.
macro_rules! sdk {
    ($path:literal) => {
        (concat!("guest/", $path), include_str!(concat!("../../../../guest-sdk/", $path)))
    };
}

/// The files of a Rust plug-in, which has the crate `tailweir-guest` in its folder: it can be built without a registry that has it.
macro_rules! rust {
    ($folder:literal) => {
        &[
            text!($folder, "Cargo.toml" as "Cargo.toml.tmpl"),
            text!($folder, ".gitignore" as "gitignore"),
            text!($folder, "README.md"),
            text!($folder, "config.schema.json"),
            text!($folder, "src/lib.rs"),
            text!($folder, "tests/records.jsonl"),
            text!($folder, "tests/expected.txt"),
            ("guest/Cargo.toml", include_str!("../../templates/rust-guest/Cargo.toml.tmpl")),
            sdk!("src/backend/mod.rs"),
            sdk!("src/backend/native.rs"),
            sdk!("src/backend/wasm.rs"),
            sdk!("src/batch.rs"),
            sdk!("src/http.rs"),
            sdk!("src/lib.rs"),
            sdk!("src/log.rs"),
            sdk!("src/metrics.rs"),
            sdk!("src/parse.rs"),
            sdk!("src/plugin.rs"),
            sdk!("src/state.rs"),
        ]
    };
}

/// A file that plug-ins of a language share: part of the helper layer in `examples/plugins`.
macro_rules! guest {
    ($helper:literal, $path:literal) => {
        (
            concat!("guest/", $path),
            include_str!(concat!("../../../../examples/plugins/", $helper, "/", $path)),
        )
    };
}

/// The files of a plug-in in C. The kind's own part of the helper and bindings come with it.
macro_rules! c {
    ($folder:literal, $($of_kind:literal),*) => {
        &[
            text!($folder, "Makefile"),
            text!($folder, ".gitignore" as "gitignore"),
            text!($folder, "README.md"),
            text!($folder, "plugin.c"),
            text!($folder, "test.c"),
            text!($folder, "tests/records.jsonl"),
            text!($folder, "tests/expected.txt"),
            guest!("c-guest", "plugin.mk"),
            guest!("c-guest", "requirements.txt"),
            guest!("c-guest", "tailweir.h"),
            guest!("c-guest", "tailweir.c"),
            guest!("c-guest", "json.c"),
            guest!("c-guest", "testing.h"),
            guest!("c-guest", "testing.c"),
            guest!("c-guest", "metrics.c"),
            guest!("c-guest", "testing_metrics.c"),
            $(guest!("c-guest", $of_kind),)*
        ]
    };
}

/// The files of a plug-in in JavaScript, and what its kind has besides.
macro_rules! javascript {
    ($folder:literal $(, $of_kind:literal)*) => {
        &[
            text!($folder, "package.json"),
            text!($folder, ".gitignore" as "gitignore"),
            text!($folder, "README.md"),
            text!($folder, "plugin.js"),
            text!($folder, "plugin.test.js"),
            text!($folder, "tests/records.jsonl"),
            text!($folder, "tests/expected.txt"),
            guest!("js-guest", "tailweir.js"),
            guest!("js-guest", "errors.js"),
            guest!("js-guest", "absent.js"),
            guest!("js-guest", "metrics.js"),
            $(guest!("js-guest", $of_kind),)*
            guest!("js-guest", "testing.js"),
            guest!("js-guest", "build.js"),
        ]
    };
}

/// The files of a plug-in in Python, and what its kind has besides.
macro_rules! python {
    ($folder:literal $(, $of_kind:literal)*) => {
        &[
            text!($folder, "pyproject.toml"),
            text!($folder, ".gitignore" as "gitignore"),
            text!($folder, "README.md"),
            text!($folder, "app.py"),
            text!($folder, "test_app.py"),
            text!($folder, "tests/records.jsonl"),
            text!($folder, "tests/expected.txt"),
            guest!("python-guest", "tailweir.py"),
            guest!("python-guest", "tailweir_metrics.py"),
            $(guest!("python-guest", $of_kind),)*
            guest!("python-guest", "worlds.wit"),
            guest!("python-guest", "tailweir_testing.py"),
            guest!("python-guest", "requirements.txt"),
        ]
    };
}

/// The files of a plug-in in Lua.
macro_rules! lua {
    ($folder:literal) => {
        &[
            text!($folder, "{{name}}.lua" as "plugin.lua"),
            text!($folder, "README.md"),
            text!($folder, "tests/records.jsonl"),
            text!($folder, "tests/expected.txt"),
        ]
    };
}

/// The tools out of PyPI that a plug-in wants, in an environment of their own: many systems refuse to install into theirs.
macro_rules! venv {
    ($what:literal) => {
        concat!(
            $what,
            " must be installed, once, in the folder:\n`python3 -m venv .venv && . .venv/bin/activate && ",
            "python3 -m pip install --require-hashes -r guest/requirements.txt`\n",
            "In each new shell `. .venv/bin/activate` has it found again."
        )
    };
}

const COMPILER: &str = venv!("Before `make test`, the compiler");
const COMPONENTIZE: &str = venv!("Before `tailweir plugin build`, the tool that makes components");
const NPM: &str = "Before `npm test`, the tools must be installed, once, in the folder: `npm install`";

/// One row for each language and kind. All but those in Lua have [`WIT`] besides.
const TEMPLATES: &[Template] = &[
    Template {
        language: Language::Rust,
        kind: KindArg::Filter,
        config: r#" --config '{"pool":"pool-1"}'"#,
        test: "cargo test",
        before: None,
        files: rust!("rust-filter"),
    },
    Template {
        language: Language::Rust,
        kind: KindArg::Processor,
        config: "",
        test: "cargo test",
        before: None,
        files: rust!("rust-processor"),
    },
    Template {
        language: Language::C,
        kind: KindArg::Filter,
        config: r#" --config '{"pool":"pool-1"}'"#,
        test: "make test",
        before: Some(COMPILER),
        files: c!(
            "c-filter",
            "filter.c",
            "bindings/filter/plugin.c",
            "bindings/filter/plugin.h",
            "bindings/filter/plugin_component_type.b64"
        ),
    },
    Template {
        language: Language::C,
        kind: KindArg::Processor,
        config: "",
        test: "make test",
        before: Some(COMPILER),
        files: c!(
            "c-processor",
            "processor.c",
            "state.c",
            "testing_state.c",
            "bindings/processor/plugin.c",
            "bindings/processor/plugin.h",
            "bindings/processor/plugin_component_type.b64"
        ),
    },
    Template {
        language: Language::Js,
        kind: KindArg::Filter,
        config: r#" --config '{"pool":"pool-1"}'"#,
        test: "npm test",
        before: Some(NPM),
        files: javascript!("js-filter"),
    },
    Template {
        language: Language::Js,
        kind: KindArg::Processor,
        config: "",
        test: "npm test",
        before: Some(NPM),
        files: javascript!("js-processor", "state.js"),
    },
    Template {
        language: Language::Python,
        kind: KindArg::Filter,
        config: r#" --config '{"pool":"pool-1"}'"#,
        test: "PYTHONPATH=guest python3 -m unittest",
        before: Some(COMPONENTIZE),
        files: python!("python-filter"),
    },
    Template {
        language: Language::Python,
        kind: KindArg::Processor,
        config: "",
        test: "PYTHONPATH=guest python3 -m unittest",
        before: Some(COMPONENTIZE),
        files: python!("python-processor", "tailweir_state.py"),
    },
    Template {
        language: Language::Lua,
        kind: KindArg::Filter,
        config: r#" --config '{"pool":"pool-1"}'"#,
        test: "tailweir plugin inspect {{name}}.lua",
        before: None,
        files: lua!("lua-filter"),
    },
    Template {
        language: Language::Lua,
        kind: KindArg::Processor,
        config: "",
        test: "tailweir plugin inspect {{name}}.lua",
        before: None,
        files: lua!("lua-processor"),
    },
];

macro_rules! wit {
    ($($path:literal),*) => {
        &[$(($path, include_str!(concat!("../../../../wit/v0.1/", $path))),)*]
    };
}

/// The interface, of which the tools of each language make bindings.
const WIT: &[(&str, &str)] = wit![
    "worlds.wit",
    "lifecycle.wit",
    "filter.wit",
    "process.wit",
    "records.wit",
    "log.wit",
    "state.wit",
    "metrics.wit",
    "deps/cli.wit",
    "deps/clocks.wit",
    "deps/filesystem.wit",
    "deps/http.wit",
    "deps/io.wit",
    "deps/random.wit",
    "deps/sockets.wit"
];

/// Begins a plug-in.
pub(super) fn run(args: &NewArgs) -> Result<()> {
    let NewArgs { name, lang, kind } = args;
    check_name(name).map_err(|why| UsageError(format!("`{name}` cannot be the name of a plug-in: {why}")))?;
    let template = TEMPLATES.iter().find(|template| (template.language, template.kind) == (*lang, *kind));
    let template = template.expect("there is one for each language and kind, says a test");
    let folder = Path::new(name);
    match fs::create_dir(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            bail!("{name} is there already; choose another name, or remove it first")
        }
        made => made.with_context(|| format!("cannot make the folder {name}"))?,
    }
    if let Err(e) = write(folder, template, name) {
        // Half a plug-in would be in the way of the next attempt.
        let _ = fs::remove_dir_all(folder);
        return Err(e);
    }
    let (build, extension) = match lang {
        Language::Lua => ("", "lua"),
        _ => ("\n  tailweir plugin build", "wasm"),
    };
    print(&format!(
        "{name}: a {} in {}\n\n  cd {name}\n  {}{build}\n  \
         tailweir plugin test {name}.{extension}{} --segment tests/records.jsonl --expect tests/expected.txt\n{}",
        kind_name(*kind),
        language_name(*lang),
        fill_in(template.test, name),
        template.config,
        template.before.map(|before| format!("\n{before}\n")).unwrap_or_default()
    ))
}

fn write(folder: &Path, template: &Template, name: &str) -> Result<()> {
    let files = template.files.iter().map(|(path, content)| (fill_in(path, name), *content));
    let of_interface = template
        .wit_folder()
        .into_iter()
        .flat_map(|folder| WIT.iter().map(move |(path, content)| (format!("{folder}/{path}"), *content)));
    for (path, content) in files.chain(of_interface) {
        let path = folder.join(path);
        let folder = path.parent().unwrap_or(folder);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, fill_in(content, name))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Template {
    /// Where the interface belongs, if bindings are made of it: in Rust by the crate in the folder.
    fn wit_folder(&self) -> Option<&'static str> {
        match self.language {
            Language::Rust => Some("guest/wit"),
            Language::Js | Language::Python | Language::C => Some("wit"),
            Language::Lua => None,
        }
    }
}

/// `{{name}}` is the plug-in's name, `{{snake}}` the same with `_` for `-`, `{{version}}` that of this program.
fn fill_in(content: &str, name: &str) -> String {
    content
        .replace("{{name}}", name)
        .replace("{{snake}}", &name.replace('-', "_"))
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
}

/// A name that is good in all languages, on the command line, and in file names.
fn check_name(name: &str) -> Result<(), &'static str> {
    // Cargo, npm or Python have a use of their own for these.
    const TAKEN: [&str; 10] =
        ["test", "core", "std", "alloc", "proc-macro", "crate", "self", "super", "wit", "node-modules"];
    // What plug-ins in Rust are made with: cargo would take the plug-in itself for it.
    const CRATES: [&str; 3] = ["tailweir-guest", "serde", "serde-json"];
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("it must begin with a small letter");
    }
    if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(match bad {
            'A'..='Z' => "it must have no capital letters",
            '_' => "write `-` instead of `_`",
            '/' => "it is a name, not a path; the folder is made where you are",
            _ => "it may have small letters, digits and `-`",
        });
    }
    if name.ends_with('-') || name.contains("--") {
        return Err("a `-` stands between letters or digits");
    }
    if name.len() > 50 {
        return Err("it has more than 50 characters");
    }
    if TAKEN.contains(&name) || CRATES.contains(&name) || KEYWORDS.contains(&name) {
        return Err("it means something else to the tools that build it");
    }
    Ok(())
}

/// Words that Rust does not take as the name of a crate.
const KEYWORDS: [&str; 37] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro",
    "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "true", "type",
];

fn kind_name(kind: KindArg) -> &'static str {
    tailweir_wasm::Kind::from(kind).name()
}

fn language_name(language: Language) -> &'static str {
    match language {
        Language::Rust => "Rust",
        Language::Js => "JavaScript",
        Language::Python => "Python",
        Language::C => "C",
        Language::Lua => "Lua",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::ValueEnum as _;
    use toml::{Table, Value};

    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        for template in TEMPLATES {
            for (path, content) in template.files.iter().chain(WIT) {
                let filled = fill_in(content, "my-filter");
                let mut left = filled.split("{{").skip(1).filter_map(|rest| rest.split_once("}}"));
                let left = left.find(|(word, _)| word.chars().all(|c| c.is_ascii_lowercase()));
                assert_eq!(left, None, "{:?} {:?} {path}", template.language, template.kind);
            }
        }
    }

    /// The files below a folder, with their paths in it.
    fn below(folder: &Path) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
            if path.is_dir() {
                all.extend(below(&path).into_iter().map(|(within, text)| (format!("{name}/{within}"), text)));
            } else {
                all.insert(name, fs::read_to_string(path).unwrap());
            }
        }
        all
    }

    #[test]
    fn a_plugin_in_rust_has_the_whole_crate() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let sources = below(&repository.join("guest-sdk/src"));
        assert!(sources.len() > 5);
        for template in TEMPLATES.iter().filter(|template| template.language == Language::Rust) {
            let of_crate = template.files.iter().filter_map(|(path, content)| {
                Some((path.strip_prefix("guest/src/")?.to_owned(), (*content).to_owned()))
            });
            assert_eq!(of_crate.collect::<BTreeMap<_, _>>(), sources);
        }
    }

    #[test]
    fn the_crate_in_the_folder_has_the_dependencies_of_the_one_here() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |path: &str| fs::read_to_string(repository.join(path)).unwrap();
        let parse = |text: &str| toml::from_str::<Table>(text).unwrap();
        let workspace = parse(&read("Cargo.toml"))["workspace"].clone();
        let mut expected = parse(&read("guest-sdk/Cargo.toml"));
        let inherited = |own: &mut Value, of: &Value| {
            for (key, value) in own.as_table_mut().unwrap() {
                let Some(entry) = value.as_table_mut().filter(|entry| entry.contains_key("workspace")) else {
                    continue;
                };
                entry.remove("workspace");
                match &of[key.as_str()] {
                    Value::String(version) if !entry.is_empty() => {
                        entry.insert("version".into(), Value::String(version.clone()));
                    }
                    Value::Table(more) => entry.extend(more.clone()),
                    other => *value = other.clone(),
                }
            }
        };
        inherited(&mut expected["package"], &workspace["package"]);
        inherited(&mut expected["dependencies"], &workspace["dependencies"]);
        let for_host = &mut expected["target"]["cfg(target_family = \"wasm\")"]["dependencies"];
        inherited(for_host, &workspace["dependencies"]);
        expected["package"].as_table_mut().unwrap().insert("publish".into(), Value::Boolean(false));
        expected.retain(|key, _| !["lints", "dev-dependencies"].contains(&key));
        let template = include_str!("../../templates/rust-guest/Cargo.toml.tmpl");
        assert_eq!(parse(&fill_in(template, "x")), expected);
    }

    #[test]
    fn there_is_one_for_each_language_and_kind() {
        for language in Language::value_variants() {
            for kind in [KindArg::Filter, KindArg::Processor] {
                let of_this = |template: &&Template| (template.language, template.kind) == (*language, kind);
                assert_eq!(TEMPLATES.iter().filter(of_this).count(), 1, "{language:?} {kind:?}");
            }
        }
    }

    #[test]
    fn templates_test_themselves() {
        for template in TEMPLATES {
            for wanted in ["README.md", "tests/records.jsonl", "tests/expected.txt"] {
                assert!(template.files.iter().any(|(path, _)| *path == wanted), "{wanted}");
            }
        }
    }

    #[test]
    fn names() {
        for good in ["a", "pool-filter", "x2", "by-type-2"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "begin with a small letter"),
            ("2x", "begin with a small letter"),
            ("-x", "begin with a small letter"),
            ("Pool", "begin with a small letter"),
            ("pOol", "no capital letters"),
            ("pool_filter", "instead of `_`"),
            ("a/b", "not a path"),
            ("a..", "small letters, digits"),
            ("a-", "between"),
            ("a--b", "between"),
            ("fn", "something else"),
            ("test", "something else"),
            ("tailweir-guest", "something else"),
        ] {
            assert!(check_name(bad).unwrap_err().contains(why), "{bad}");
        }
        assert!(check_name(&"a".repeat(51)).is_err());
    }
}
