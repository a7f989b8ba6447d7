//! `tailweir plugin`: the tools of a plug-in's author.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tailweir_tests::{Program, Segments, of_pool, repository};

use crate::tailweir;

const POOL: &str = r#"{"pool":"customer-a"}"#;

fn guest(name: &str) -> PathBuf {
    repository("target/guests").join(format!("{name}.wasm"))
}

/// A tool with its plug-in, on these segments.
fn tool(tool: &str, file: impl AsRef<Path>, segments: &Segments) -> Program {
    let program = tailweir().args("plugin").arg(tool).arg(file.as_ref());
    program.arg("--segment").arg(segments.directory())
}

/// Commands in a shell, in a folder, with `tailweir` on its path and the compiler that builds the tests' own guests.
fn shell(folder: &Path, commands: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_tailweir"));
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("sh");
    command.args(["-e", "-c", commands]).current_dir(folder);
    command.env("PATH", format!("{}:{path}", program.parent().unwrap().display()));
    command.env("TAILWEIR_PLUGIN_CACHE", program.with_file_name("plugin-cache")).env_remove("TAILWEIR_LOG");
    // What the guests were built of is there; the network may not be.
    command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", repository("target/scaffolds"));
    for line in fs::read_to_string(repository("target/guests/toolchain.env")).unwrap().lines() {
        let (name, value) = line.split_once('=').unwrap();
        command.env(name, value);
    }
    command.output().unwrap()
}

/// What they print on stdout, if all went well.
pub(crate) fn shell_quietly(folder: &Path, commands: &str) -> String {
    let Output { status, stdout, stderr } = shell(folder, commands);
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{commands}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// The commands that `plugin new` prints.
pub(crate) fn steps(said: &str) -> String {
    let steps: String =
        said.lines().filter_map(|line| line.strip_prefix("  ")).map(|l| format!("{l}\n")).collect();
    assert_eq!(steps.lines().count(), 4, "{said}");
    steps
}

#[test]
fn a_new_plugin_builds_and_passes_its_own_tests_as_its_readme_says() {
    for kind in ["filter", "processor"] {
        let folder = tempfile::tempdir().unwrap();
        let begun =
            tailweir().folder(folder.path()).args("plugin new my-plugin --lang rust --kind").arg(kind);
        let said = begun.run().quietly();
        let steps = steps(&said);
        let shown = shell_quietly(folder.path(), &steps);
        assert!(shown.contains("as tests/expected.txt says\n"), "{shown}");
        assert!(shown.contains(&format!(": my-plugin 0.1.0, a {kind}\n")), "{shown}");
        // What the README tells to run is the same.
        let readme = fs::read_to_string(folder.path().join("my-plugin/README.md")).unwrap();
        for step in steps.lines().skip(1) {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let told = readme.lines().any(|line| {
                let command = line.split(" #").next().unwrap();
                let mut both = [words(command), words(step)]
                    .map(|c| c.split(' ').map(str::to_owned).collect::<Vec<_>>());
                both.iter_mut().for_each(|words| words.sort());
                both[0] == both[1]
            });
            assert!(told, "{step} in {readme}");
        }
    }
}

#[test]
fn a_new_plugin_in_lua_passes_its_own_test() {
    for kind in ["filter", "processor"] {
        let folder = tempfile::tempdir().unwrap();
        let said =
            shell_quietly(folder.path(), &format!("tailweir plugin new mine --lang lua --kind {kind}"));
        let steps: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert_eq!(steps.len(), 3, "{said}");
        let shown = shell_quietly(folder.path(), &steps.join("\n"));
        assert!(shown.contains(&format!("kind       {kind}\n")), "{shown}");
        assert!(shown.contains("as tests/expected.txt says\n"), "{shown}");
        let made = folder.path().join("mine");
        let readme = fs::read_to_string(made.join("README.md")).unwrap();
        assert!(readme.contains(steps[1]) && readme.contains(steps[2]), "{readme}");
        assert!(!made.join("wit").exists());
        let said = tailweir().args("plugin build").arg(&made).run().with_code(1);
        assert!(said.contains("A file in Lua is used as it is"), "{said}");
        let test =
            tailweir().folder(&made).args("plugin test mine.lua --segment tests/records.jsonl --config 5");
        let said = test.run().with_code(1);
        assert!(said.contains("mine.lua") && said.contains("the configuration m"), "{said}");
    }
}

#[test]
fn what_a_new_plugin_wants_first_is_told_and_is_in_its_readme() {
    let room = tempfile::tempdir().unwrap();
    let check = |language: &str, kind: &str, told: &[&str], written: &[&str]| {
        let name = format!("{language}-{kind}");
        let program =
            tailweir().folder(room.path()).args("plugin new").arg(&name).arg("--lang").arg(language);
        let said = program.arg("--kind").arg(kind).run().quietly();
        steps(&said);
        let readme = fs::read_to_string(room.path().join(&name).join("README.md")).unwrap();
        told.iter().for_each(|words| assert!(said.contains(words), "{words} in {said}"));
        written.iter().for_each(|words| assert!(readme.contains(words), "{words} in {readme}"));
    };
    let (venv, install) = (
        "python3 -m venv .venv && . .venv/bin/activate",
        "python3 -m pip install --require-hashes -r guest/requirements.txt",
    );
    let both = format!("`{venv} && {install}`");
    for kind in ["filter", "processor"] {
        check("c", kind, &["Before `make test`, the compiler", &both], &[venv, install]);
        check("python", kind, &["Before `tailweir plugin build`", &both], &[venv, install]);
        check("js", kind, &["Before `npm test`", "`npm install`"], &["npm install"]);
    }
}

#[test]
fn a_folder_in_the_way_and_a_bad_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let new = |name: &str| {
        tailweir().folder(folder.path()).args("plugin new --lang rust --kind filter").arg(name).run()
    };
    assert_eq!(new("mine").code, Some(0));
    let manifest = folder.path().join("mine/Cargo.toml");
    fs::write(&manifest, "changed").unwrap();
    let said = new("mine").with_code(1);
    assert!(said.contains("mine is there already; choose another name"), "{said}");
    assert_eq!(fs::read_to_string(&manifest).unwrap(), "changed");
    let said = new("My_Filter").with_code(2);
    assert!(
        said.contains("`My_Filter` cannot be the name of a plug-in: it must begin with a small letter"),
        "{said}"
    );
    let said = new("tailweir-guest").with_code(2);
    assert!(said.contains("it means something else to the tools that build it"), "{said}");
}

#[test]
fn what_cannot_be_built_says_what_is_missing() {
    let room = tempfile::tempdir().unwrap();
    let folder = room.path().join("p");
    fs::create_dir(&folder).unwrap();
    let build =
        |path: &str| tailweir().args("plugin build").arg(&folder).env("PATH", path).run().with_code(1);
    let path = std::env::var("PATH").unwrap();
    let said = build(&path);
    assert!(said.contains("holds no plug-in that I can build") && said.contains("plugin new"), "{said}");
    fs::write(folder.join("Makefile"), "all:\n\ttouch other.wasm\n").unwrap();
    let said = build("/nowhere");
    assert!(said.contains("`make` is missing; install your system's package `make`"), "{said}");
    fs::remove_file(folder.join("Makefile")).unwrap();
    fs::write(folder.join("pyproject.toml"), "[project]\nname = 'p'\n").unwrap();
    assert!(build(&path).contains("[tool.tailweir]\n  build = ["));
    fs::remove_file(folder.join("pyproject.toml")).unwrap();
    fs::create_dir(folder.join("src")).unwrap();
    fs::write(folder.join("src/lib.rs"), "").unwrap();
    let manifest = "[package]\nname = 'p'\nversion = '0.1.0'\nedition = '2024'\n[workspace]\n";
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    let said = build(&path);
    assert!(said.contains("[lib]\n  crate-type = [\"cdylib\"]"), "{said}");
    assert!(build("/nowhere").contains("`cargo` is missing; install Rust: https://rustup.rs"));
}

#[test]
fn whoever_has_seen_enough_of_a_difference_may_go() {
    let segments = Segments::generate(3000, 1, 7);
    let diff = format!(
        "tailweir plugin diff {0} {0} --config '{POOL}' --new-config '{{\"pool\":\"customer-b\"}}' --segment {1} \
         --show 3000",
        guest("pool-filter").display(),
        segments.directory().display()
    );
    let folder = tempfile::tempdir().unwrap();
    // More than a pipe holds, so that `head` is gone when the last words are said.
    let whole = shell(folder.path(), &format!("{diff} || true")).stdout;
    assert!(whole.len() > 80_000, "{}", whole.len());
    for (to, told) in [("", 1), ("2>&1", 0)] {
        let commands = format!("{{ {diff} {to} || echo $? >code; }} 2>said | head -n 1; cat code said");
        let seen = shell_quietly(folder.path(), &commands);
        let lines: Vec<_> = seen.lines().collect();
        assert!(lines[0].contains(" -> ") && lines[1] == "1", "that they differ is the exit code: {seen}");
        assert_eq!(lines.len(), 2 + told, "{seen}");
    }
}

#[test]
fn any_tool_that_leaves_a_component_is_a_build() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = guest("pool-filter");
    let copy = format!("cp {} p.wasm", plugin.display());
    let project = format!("[project]\nname = 'p'\n[tool.tailweir]\nbuild = ['sh', '-c', \"{copy}\"]\n");
    fs::write(folder.path().join("pyproject.toml"), project).unwrap();
    let ended = tailweir().args("plugin build").arg(folder.path()).run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.ends_with(": pool-filter 0.1.0, a filter\n"), "{ended:?}");
    assert!(ended.stderr.contains(&format!("+ sh -c {copy}")), "{ended:?}");
}

#[test]
fn what_was_built_before_is_never_taken_for_what_is_built_now() {
    let room = tempfile::tempdir().unwrap();
    let folder = room.path().join("p");
    fs::create_dir_all(folder.join("build")).unwrap();
    fs::write(folder.join("Makefile"), "build/p.wasm: source.wasm\n\tcp source.wasm build/p.wasm\n").unwrap();
    let build = || tailweir().args("plugin build").arg(&folder).run();
    let built = || {
        let ended = build();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    };
    let make = |code: &[u8]| fs::write(folder.join("source.wasm"), code).unwrap();
    let code = |name: &str| fs::read(guest(name)).unwrap();
    make(&code("pool-filter"));
    assert!(built().contains(": pool-filter 0.1.0, a filter"));
    assert!(built().contains(": pool-filter 0.1.0, a filter"), "nothing to do");
    // Somebody else has run make since.
    make(&code("redact"));
    shell_quietly(&folder, "make 2>&1");
    assert!(built().contains(": redact 0.1.0, a processor"));
    // What is no plug-in stays an error, however often it is tried.
    make(b"\0asm\x01\0\0\0junk");
    for _ in 0..2 {
        let said = build().with_code(1);
        assert!(said.contains("cannot make a component of p: is it a plug-in"), "{said}");
    }
    // Nor does a component that is none take the place of one.
    make(b"\0asm\x0d\0\x01\0");
    let said = build().with_code(1);
    assert!(said.contains("p.wasm: a component, but no tailweir plug-in"), "{said}");
    assert_eq!(fs::read(folder.join("p.wasm")).unwrap(), code("redact"));
    assert!(!folder.join("p.wasm.part").exists());
    // A tool that makes its own component of the module, in the folder, has its own taken.
    let own = "p.wasm: build/p.wasm\n\tsleep 0.05; cp good.wasm p.wasm\n\
               build/p.wasm: source.wasm\n\tcp source.wasm build/p.wasm\n";
    fs::write(folder.join("Makefile"), own).unwrap();
    fs::write(folder.join("good.wasm"), code("summary")).unwrap();
    make(b"\0asm\x01\0\0\0junk");
    for _ in 0..2 {
        assert!(built().contains(": summary 0.1.0, a processor"));
    }
}

/// A module that imports one function of WASI, without parameters or results.
fn wasi_module(function: &str) -> Vec<u8> {
    let section = |id: u8, content: &[u8]| [&[id, u8::try_from(content.len()).unwrap()], content].concat();
    let name = |name: &str| [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    let import = [&[1], &name("wasi_snapshot_preview1")[..], &name(function), &[0, 0]].concat();
    [b"\0asm\x01\0\0\0".to_vec(), section(1, &[1, 0x60, 0, 0]), section(2, &import)].concat()
}

#[test]
fn what_asks_for_files_or_a_clock_is_told_that_there_are_none() {
    let room = tempfile::tempdir().unwrap();
    let folder = room.path().join("p");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("Makefile"), "all:\n\ttrue\n").unwrap();
    for (function, uses) in [
        ("fd_write", "it uses files, as `printf` does, and"),
        ("clock_time_get", "it uses a clock, as `time` does, and"),
        ("environ_get", "it uses the environment, as `getenv` does, and"),
        ("proc_exit", "it uses `exit`, and"),
    ] {
        fs::write(folder.join("p.wasm"), wasi_module(function)).unwrap();
        let said = tailweir().args("plugin build").arg(&folder).run().with_code(1);
        let told = format!(
            "cannot make a component of p: {uses} a plug-in has no files, clock, environment or process"
        );
        assert!(said.contains(&told) && said.contains("In C, log with `tw_log`"), "{said}");
        assert!(said.contains(&format!("wasi_snapshot_preview1::{function}")), "{said}");
    }
}

#[test]
fn verdicts_are_shown_and_held_against_a_golden_file() {
    let segments = Segments::generate(300, 2, 7);
    let run = |config: &str| tool("test", guest("pool-filter"), &segments).arg("--config").arg(config);
    let shown = run(POOL).run().quietly();
    let kept = segments.ids(of_pool("customer-a"));
    let said: Vec<_> = shown.lines().filter(|line| line.starts_with("keep ")).collect();
    assert!(!kept.is_empty() && kept.len() < 300);
    assert_eq!(said.len(), kept.len());
    assert!(said.iter().zip(&kept).all(|(line, id)| line.ends_with(id.as_str())), "{shown}");
    assert_eq!(shown.lines().next(), Some("filter"));
    let summary = format!("= 300 records: {} kept, {} dropped", kept.len(), 300 - kept.len());
    assert_eq!(shown.lines().last(), Some(&*summary));
    assert_eq!(shown.lines().count(), 302);

    let golden = segments.beside("golden.txt", "");
    fs::remove_file(&golden).unwrap();
    let expect = |config: &str| run(config).arg("--expect").arg(&golden);
    let said = expect(POOL).run().with_code(1);
    assert!(said.contains("`--update` writes it"), "{said}");
    expect(POOL).arg("--update").run().quietly();
    assert_eq!(fs::read_to_string(&golden).unwrap(), shown);
    assert!(expect(POOL).run().quietly().contains("golden.txt says"));
    fs::write(&golden, shown.replace('\n', "\r\n")).unwrap();
    assert!(expect(POOL).run().quietly().contains("golden.txt says"));
    fs::write(&golden, &shown).unwrap();
    // How the records are cut into batches makes no difference.
    expect(POOL).args("--max-batch-size 7").run().quietly();
    let ended = expect(r#"{"pool":"customer-b"}"#).run();
    assert!(ended.stdout.contains("\n-keep ") && ended.stdout.contains("\n+drop "), "{}", ended.stdout);
    assert!(ended.stdout.starts_with("--- ") && ended.stdout.lines().count() <= 201);
    let said = ended.with_code(1);
    assert!(said.contains("does not answer as") && said.contains("add `--update`"), "{said}");
}

#[test]
fn an_update_overwrites_answers_only() {
    let segments = Segments::generate(1, 1, 1);
    let line = "{\"id\":\"1\"}\n";
    let (records, notes) =
        (segments.beside("r.jsonl", line), segments.beside("notes.txt", "filters: none\n"));
    let plugin = segments.beside("p.lua", "return { filter = function(r) return true end }\n");
    let update = |golden: &Path| {
        let program = tailweir().args("plugin test").arg(&plugin).arg("--segment").arg(&records);
        program.args("--update --expect").arg(golden)
    };
    // Under another name too.
    let link = segments.beside("link", "");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&records, &link).unwrap();
    for (golden, code, why) in [
        (&records, 2, "r.jsonl is a segment that is read, which `--update` would overwrite"),
        (&link, 2, "link is a segment that is read"),
        (&plugin, 2, "p.lua is the plug-in, which `--update` would overwrite"),
        (&notes, 1, "notes.txt does not begin with the line `filter` or `processor`"),
    ] {
        let before = fs::read(golden).unwrap();
        let said = update(golden).run().with_code(code);
        assert!(said.contains(why), "{said}");
        assert_eq!(fs::read(golden).unwrap(), before);
    }
    let golden = segments.beside("golden.txt", "");
    update(&golden).run().quietly();
    assert!(fs::read_to_string(&golden).unwrap().starts_with("filter\nkeep r.jsonl:1 "));
    fs::write(&golden, "processor\nwhat another one answered\n").unwrap();
    update(&golden).run().quietly();
    assert!(fs::read_to_string(&golden).unwrap().starts_with("filter\nkeep r.jsonl:1 "));
}

#[test]
fn a_lua_file_is_tried_like_a_component() {
    let segments = Segments::generate(300, 2, 7);
    let component = tool("test", guest("pool-filter"), &segments).arg("--config").arg(POOL).run().quietly();
    let bare = "local config = ...\nreturn function(r) return r.egress_pool == config.pool end\n";
    let table = "local pool\nreturn { init = function(config) pool = config.pool end,\n  filter = function(r) return r.egress_pool == pool end }\n";
    let (bare, table) = (segments.beside("bare.lua", bare), segments.beside("table.lua", table));
    let test = |file: &Path| tool("test", file, &segments).arg("--config").arg(POOL);
    assert_eq!(test(&bare).args("--kind filter").run().quietly(), component);
    assert_eq!(test(&table).run().quietly(), component);
    let said = test(&bare).run().with_code(2);
    assert!(said.contains("say which with `--kind`"), "{said}");
    // Whatever says itself what it is is taken at its word.
    for file in [&table, &guest("pool-filter")] {
        let said = test(file).args("--kind processor").run().with_code(2);
        assert!(said.contains(": a filter, not a processor, as `--kind` says; leave"), "{said}");
        assert_eq!(test(file).args("--kind filter").run().quietly(), component);
    }
    let processor = "return { process = function(batch) return { { count = #batch } } end }\n";
    let processor = segments.beside("count.lua", processor);
    let shown = tool("test", &processor, &segments).run();
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains(" 100 records: emit 1\n  {\"count\":100}\n"), "{shown:?}");
    assert!(shown.stdout.ends_with("= 300 records in 3 batches: 3 emitted, 0 rejected\n"), "{shown:?}");
    // It agrees with the component, and not with another pool.
    let diff = |new: &Path, config: &str| {
        let program = tailweir().args("plugin diff").arg(guest("pool-filter")).arg(new);
        program
            .arg("--config")
            .arg(POOL)
            .arg("--new-config")
            .arg(config)
            .arg("--segment")
            .arg(segments.directory())
    };
    assert_eq!(diff(&table, POOL).run().quietly(), "no difference on 300 records\n");
    let (one, two) = (segments.ids(of_pool("customer-a")), segments.ids(of_pool("customer-b")));
    let ended = diff(&table, r#"{"pool":"customer-b"}"#).run();
    assert_eq!(ended.stdout.lines().count(), 20, "{ended:?}");
    assert!(ended.stdout.contains("keep -> drop ") && ended.stdout.contains("drop -> keep "), "{ended:?}");
    let expected = format!(
        "the verdicts on {} of 300 records differ: {} newly kept, {} newly dropped",
        one.len() + two.len(),
        two.len(),
        one.len()
    );
    let said = ended.with_code(1);
    assert!(said.contains(&expected), "{expected}: {said}");
    let said = diff(&processor, POOL).run().with_code(2);
    assert!(said.contains("is a filter and") && said.contains("a processor"), "{said}");
}

#[test]
fn the_answers_of_processors_are_shown_and_compared() {
    let segments = Segments::generate(50, 1, 3);
    let redact = |fields: &str| format!(r#"{{"fields":["{fields}"]}}"#);
    let shown = tool("test", guest("redact"), &segments).args("--max-batch-size 20").run().quietly();
    let batches: Vec<_> = shown.lines().filter(|line| line.starts_with("batch ")).collect();
    assert!(
        batches[0].ends_with(":1 20 records: emit 20") && batches[2].ends_with(":41 10 records: emit 10")
    );
    assert!(shown.ends_with("= 50 records in 3 batches: 50 emitted, 0 rejected\n"), "{shown}");
    let diff = |new: &str| {
        let program = tailweir().args("plugin diff").arg(guest("redact")).arg(guest("redact"));
        program
            .arg("--config")
            .arg(redact("recipient"))
            .arg("--new-config")
            .arg(redact(new))
            .arg("--segment")
            .arg(segments.directory())
    };
    diff("recipient").run().quietly();
    let ended = diff("sender").args("--show 1").run();
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{ended:?}");
    assert!(
        lines[0].contains(":1 ") && lines[1].starts_with("- {") && lines[2].starts_with("+ {"),
        "{ended:?}"
    );
    assert!(ended.with_code(1).contains("the answers to 1 of 1 batch differ, in what comes of 50 records"));
}

#[test]
fn what_a_plugin_remembers_goes_from_batch_to_batch_and_from_segment_to_segment() {
    let segments = Segments::generate(40, 2, 3);
    // What the last batch emits counts all records.
    let counted = tool("test", guest("counter"), &segments).args("--max-batch-size 15").run().quietly();
    let emitted: Vec<_> = counted.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let records: Vec<_> = emitted.iter().map(|line| line.split([':', ',']).nth(1).unwrap()).collect();
    assert_eq!(records.last(), Some(&"40"), "{counted}");
    assert!(counted.contains(": 3 emitted, 0 rejected") || counted.contains(": 4 emitted, 0 rejected"));
    assert!(!counted.contains("stop"), "{counted}");
    // Lua the same. A batch that is to come again leaves nothing behind, and one with rejected records does.
    let lua = "return { process = function(batch)\n\
               \x20 local state = batch:state()\n\
               \x20 local n = tonumber(state:get('n') or 0) + 1\n\
               \x20 state:set('n', n)\n\
               \x20 if batch:records()[1].a == 'again' then return nil, { retry = true } end\n\
               \x20 if batch:records()[1].a == 'bad' then return nil, { reject = { 1 }, reason = 'bad' } end\n\
               \x20 return { { n = n } }\nend }\n";
    let lua = segments.beside("n.lua", lua);
    let lines = |of: &[&str]| of.iter().map(|a| format!("{{\"a\":\"{a}\"}}\n").repeat(5)).collect::<String>();
    let one = segments.beside("one.jsonl", &lines(&["good"]));
    let two = segments.beside("two.jsonl", &lines(&["again", "good", "bad", "good"]));
    let run = |tool: &str| tailweir().args("plugin").arg(tool).arg(&lua).arg("--segment").arg(&one);
    let shown = run("test").arg("--segment").arg(&two).args("--max-batch-size 5").run().quietly();
    let told: Vec<_> = shown.lines().filter(|line| line.starts_with("  {")).collect();
    assert_eq!(told, ["  {\"n\":1}", "  {\"n\":2}", "  {\"n\":4}"], "{shown}");
    let said = run("bench").args("--time 10ms").run();
    assert!(said.stdout.contains("plug-in "), "{said:?}");
}

#[test]
fn that_one_version_fails_is_a_difference_as_any_other() {
    let segments = Segments::generate(300, 2, 7);
    let bounces = segments.ids(|record| record["type"] == "Bounce").len();
    assert!((1..100).contains(&bounces));
    let old = segments.beside("old.lua", "return { filter = function(r) return true end }");
    let new = "return { filter = function(r) if r.type == 'Bounce' then error('no bounce', 0) end return true end }";
    let new = segments.beside("new.lua", new);
    let diff = |old: &Path, new: &Path| {
        tailweir().args("plugin diff").arg(old).arg(new).arg("--segment").arg(segments.directory()).run()
    };
    let ended = diff(&old, &new);
    let differ = format!("the verdicts on {bounces} of 300 records differ: 0 newly kept, 0 newly dropped");
    assert!(ended.stdout.contains("keep -> fail ") && ended.stdout.contains(": no bounce\n"), "{ended:?}");
    let said = ended.with_code(1);
    assert!(said.contains(&format!("{differ}, {bounces} newly failed on, 0 no longer failed on")), "{said}");
    let ended = diff(&new, &old);
    assert!(ended.stdout.contains("fail -> keep "), "{ended:?}");
    assert!(ended.with_code(1).contains(&format!("0 newly failed on, {bounces} no longer failed on")));
    let both = diff(&new, &new).quietly();
    assert_eq!(both, format!("no difference on 300 records; both fail on {bounces} of them\n"));
    // Of processors it is the batch.
    let old = segments.beside("old.lua", "return { process = function(batch) end }");
    let new = segments.beside("new.lua", "return { process = function(batch) error('no batch', 0) end }");
    let ended = diff(&old, &new);
    assert!(ended.stdout.contains("100 records: done\n"), "{ended:?}");
    assert!(ended.stdout.contains("100 records: crash: no batch\n"), "{ended:?}");
    assert!(ended.with_code(1).contains("the answers to 3 of 3 batches differ"));
    let both = diff(&new, &new).quietly();
    assert_eq!(both, "no difference on 300 records; both fail on 3 batches\n");
}

#[test]
fn processors_with_state_are_compared_each_with_its_own() {
    let segments = Segments::generate(300, 2, 7);
    let diff = |field: &str| {
        let program = tailweir().args("plugin diff").arg(guest("counter")).arg(guest("counter"));
        let config = format!(r#"{{"field":"{field}"}}"#);
        program.arg("--new-config").arg(config).arg("--segment").arg(segments.directory())
    };
    assert_eq!(diff("/type").run().quietly(), "no difference on 300 records\n");
    let ended = diff("/egress_pool").run();
    assert!(ended.stdout.contains("\n-  {") && ended.stdout.contains("\n+  {"), "{ended:?}");
    assert!(ended.stdout.contains("\"records\":300") && !ended.stdout.contains("stop"), "{ended:?}");
    assert!(ended.with_code(1).contains("the answers to 3 of 3 batches differ"));
    // Fuel is the same each time only if each round begins with the same state.
    let fuel = || {
        let shown = tool("bench", guest("counter"), &segments).args("--time 10ms --json").run().quietly();
        serde_json::from_str::<Value>(&shown).unwrap()["fuel_per_record"].as_f64().unwrap()
    };
    assert!(fuel() > 1.0 && fuel() == fuel());
    // That both do nothing is told, and is not taken for agreement about the rest.
    let stop = segments
        .beside("stop.lua", "return { process = function() return nil, { stop = true, reason = 'no' } end }");
    let both = tailweir().args("plugin diff").arg(&stop).arg(&stop).arg("--segment");
    let said = both.arg(segments.directory()).run().quietly();
    assert!(said.starts_with("no difference on 100 records, after which both stop: no"), "{said}");
}

#[test]
fn lines_that_are_no_records_are_told_and_so_is_what_is_no_segment() {
    let segments = Segments::generate(1, 1, 1);
    let file = segments.beside("some.jsonl", "{\"type\":\"a\",\"id\":\"1\"}\n{oops\n{\"type\":\"b\"}\n");
    let test = |file: &Path| {
        tailweir()
            .args("plugin test")
            .arg(guest("pool-filter"))
            .arg("--config")
            .arg(POOL)
            .arg("--segment")
            .arg(file)
    };
    let shown = test(&file).run().quietly();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(&lines[1..3], ["drop some.jsonl:1 a 1", "drop some.jsonl:3 b"]);
    assert!(lines[3].starts_with("skip some.jsonl:2 malformed JSON"), "{shown}");
    assert!(lines[4].ends_with("; 1 line that is no record"), "{shown}");
    let lua = segments.beside("f.lua", "return { filter = function() return true end }");
    let passed_over = "passed over: 1 line that is no record, the first at some.jsonl:2 malformed JSON";
    let bench = || tailweir().args("plugin bench --time 1ms").arg(&lua).arg("--segment").arg(&file);
    let table = bench().run().quietly();
    assert!(table.contains(passed_over), "{table}");
    let figures: Value = serde_json::from_str(&bench().arg("--json").run().quietly()).unwrap();
    assert_eq!((&figures["records"], &figures["malformed"]), (&json!(2), &json!(1)));
    let diff = tailweir().args("plugin diff").arg(&lua).arg(&lua).arg("--segment").arg(&file).run();
    assert_eq!(diff.stdout, "no difference on 2 records\n");
    assert!(diff.with_code(0).starts_with(passed_over));
    let said = test(&segments.beside("x.bin", "\u{1}\u{2}no")).run().with_code(1);
    assert!(said.contains("x.bin is no segment: "), "{said}");
    let said = test(Path::new("/nowhere/at.all")).run().with_code(1);
    assert!(said.contains("cannot read the segment /nowhere/at.all"), "{said}");
    let said = test(&segments.beside("empty", "")).run().with_code(1);
    assert!(said.contains("there is no record"), "{said}");
    // Where there is nothing else, the first of them are told with the error.
    let bad = segments.beside("bad.jsonl", &"{oops\n".repeat(12));
    for tool in ["test", "bench"] {
        let program = tailweir().arg("plugin").arg(tool).arg(guest("redact")).arg("--segment").arg(&bad);
        let said = program.run().with_code(1);
        assert!(said.contains("there is no record in what `--segment` names; 12 lines that are"), "{said}");
        assert!(said.contains("\nskip bad.jsonl:10 malformed JSON: ") && !said.contains(":11 "), "{said}");
        assert!(said.ends_with("\n… and 2 more\n"), "{said}");
    }
}

#[test]
fn a_file_that_is_named_is_complete_whatever_its_mode() {
    let segments = Segments::generate(1, 1, 1);
    let file = segments.beside("some.jsonl", "{\"id\":\"1\"}\n{\"id\":\"2\"}");
    let test = |file: &Path| tailweir().args("plugin test").arg(guest("redact")).arg("--segment").arg(file);
    // An editor has left out the last line break.
    let shown = test(&file).run().quietly();
    assert!(shown.ends_with("= 2 records in 1 batch: 2 emitted, 0 rejected\n"), "{shown}");
    let torn = segments.beside("torn.jsonl", "{\"id\":\"1\"}\n{\"id\":");
    assert!(test(&torn).run().stdout.contains("\nskip torn.jsonl:2 "));
    // What is whole of a file that was cut off is taken, and that it was is said, as `tail` says it.
    let whole = zstd::encode_all(&*"{\"id\":\"1\"}\n".repeat(100).into_bytes(), 3).unwrap();
    let cut = [&whole, &whole[..whole.len() / 2]].concat();
    let file = segments.beside("cut.zst", "");
    fs::write(&file, cut).unwrap();
    let ended = test(&file).run();
    assert!(ended.stdout.contains("= 100 records in 1 batch"), "{ended:?}");
    let said = ended.with_code(0);
    assert!(said.contains("segment damaged") && said.contains("middle of a compressed frame"), "{said}");
}

#[test]
fn a_benchmark_has_figures_and_fuel_is_the_same_each_time() {
    let segments = Segments::generate(2000, 1, 9);
    let bench = |name: &str| tool("bench", guest(name), &segments).args("--time 50ms");
    let json = || -> Value {
        serde_json::from_str(&bench("pool-filter").arg("--config").arg(POOL).arg("--json").run().quietly())
            .unwrap()
    };
    let (one, two) = (json(), json());
    assert_eq!(one["fuel_per_record"], two["fuel_per_record"]);
    assert!(one["fuel_per_record"].as_f64().unwrap() > 1.0, "{one}");
    assert_eq!(
        (&one["records"], &one["batches"], &one["all_records"]),
        (&2000.into(), &20.into(), &true.into())
    );
    let nanos = |row: &str| one[row]["ns_per_record"].as_f64().unwrap();
    assert!(nanos("plugin") > nanos("native_no_op") && nanos("native_no_op") > 0.0, "{one}");
    let share = one["host_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{one}");
    assert!(one["peak_memory_bytes"].as_u64().unwrap() >= 65536, "{one}");
    assert!(one["rounds"].as_u64().unwrap() >= 3);
    let table = bench("redact").run().quietly();
    for row in ["plug-in ", "native no-op ", "reading ", "fuel ", "host ", "peak memory "] {
        assert!(table.lines().any(|line| line.starts_with(row)), "{row} in {table}");
    }
    let lua = segments.beside("f.lua", "return { filter = function(r) return r.type == 'Bounce' end }");
    let lua = tool("bench", lua, &segments).args("--time 50ms").run().quietly();
    assert!(lua.contains("plug-in ") && !lua.contains("fuel "), "{lua}");
}

#[test]
fn compiled_ahead_is_not_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let compile =
        || tailweir().args("--plugin-cache").arg(&cache).args("plugin compile").arg(guest("pool-filter"));
    let first = compile().run().quietly();
    assert!(first.contains("pool-filter 0.1.0, compiled in "), "{first}");
    let place = first.split(": ").nth(2).unwrap().split(" (").next().unwrap();
    assert!(Path::new(place).starts_with(&cache) && Path::new(place).is_file(), "{first}");
    assert!(compile().run().quietly().contains(", compiled before: "));
    // `tail` takes it from there.
    let segments = Segments::generate(5, 1, 1);
    let tail = tailweir()
        .args("--log tailweir::wasm=debug --plugin-cache")
        .arg(&cache)
        .arg("tail")
        .arg(segments.directory());
    let said = tail.arg("--once").arg("--filter").arg(guest("pool-filter")).arg("--config").arg(POOL).run();
    assert!(said.stderr.contains("compiled before, as") && said.stderr.contains(place), "{}", said.stderr);
    let off =
        tailweir().args("--plugin-cache off plugin compile").arg(guest("pool-filter")).run().with_code(1);
    assert!(off.contains("the cache is off; name a directory with `--plugin-cache DIR`"), "{off}");
    let file = segments.beside("a-file", "");
    let said = tailweir()
        .arg("--plugin-cache")
        .arg(file)
        .args("plugin compile")
        .arg(guest("pool-filter"))
        .run()
        .with_code(1);
    assert!(said.contains("the plug-in cache: cannot make"), "{said}");
    let good = segments.beside("good.lua", "return function(r) return true end");
    let bad = segments.beside("bad.lua", "return function(r) return true");
    assert!(tailweir().args("plugin compile").arg(good).run().quietly().contains("its syntax is right"));
    let said = tailweir().args("plugin compile").arg(bad).run().with_code(1);
    assert!(said.contains("bad.lua:1:") && said.contains("'end' expected"), "{said}");
}

#[test]
fn what_cannot_be_compiled_keeps_nothing_else_from_it() {
    let segments = Segments::generate(1, 1, 1);
    let (bad, none) = (segments.beside("bad.lua", "return {"), segments.beside("none.wasm", "no"));
    let good = segments.beside("good.lua", "return function(r) return true end");
    let compile = tailweir().args("plugin compile").arg(&bad).arg(guest("pool-filter")).arg(&none).arg(&good);
    let ended = compile.run();
    let shown: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(shown.len(), 2, "{ended:?}");
    assert!(
        shown[0].contains("pool-filter.wasm: pool-filter 0.1.0, compiled ")
            && shown[1].contains("good.lua: ")
    );
    let said = ended.with_code(1);
    assert!(said.starts_with("Error: 2 of 4 plug-ins cannot be compiled:\n"), "{said}");
    let lines: Vec<_> = said.lines().skip(1).collect();
    assert!(
        lines[0].contains("/bad.lua:1: ") && lines[1].contains("/none.wasm: not a WebAssembly component")
    );
}

#[test]
fn a_lua_file_is_inspected_for_its_functions() {
    let segments = Segments::generate(1, 1, 1);
    let file = "return {\n  init = function(config) end,\n  process = function(batch) end,\n}\n";
    let file = segments.beside("p.lua", file);
    let shown = tailweir().args("plugin inspect").arg(&file).run().quietly();
    for part in [
        "plug-in    p\n",
        "kind       processor\n",
        "functions  `init`, 1 parameter, line 2\n",
        "`process`, 1 parameter, line 3\n",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let json = tailweir().args("plugin inspect --json").arg(&file).run().quietly();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["kind"], &json["functions"][1]["name"]), (&"processor".into(), &"process".into()));
    let needy =
        segments.beside("needy.lua", "local config = ...\nlocal pool = config.pool\nreturn function(r) end");
    let said = tailweir().args("plugin inspect").arg(&needy).run().with_code(1);
    assert!(said.contains("needy.lua, which is run for that") && said.contains("--config"), "{said}");
    let shown = tailweir().args("plugin inspect").arg(&needy).arg("--config").arg(POOL).run().quietly();
    assert!(shown.contains("kind       filter or processor\n"), "{shown}");
    let script = segments.beside("script.lua", "print('hello')");
    let said = tailweir().args("plugin inspect").arg(&script).run().with_code(1);
    assert!(
        said.contains("must return a function, or a table with a function `filter` or `process`"),
        "{said}"
    );
}

/// A line without what differs from run to run: numbers, and how wide columns are.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for word in line.split_whitespace() {
        let word = if word.ends_with(".code") { "PLACE" } else { word.trim_start_matches('(') };
        let digits = word.trim_end_matches(|c: char| c.is_ascii_punctuation()).chars();
        let number = word.starts_with(|c: char| c.is_ascii_digit())
            && digits.clone().all(|c| c.is_ascii_digit() || c == '.' || c == ',');
        shape.push_str(if number { "N" } else { word });
        shape.push(' ');
    }
    shape.replace("MiB", "KiB").replace(|c: char| c.is_ascii_hexdigit(), "x")
}

#[test]
fn the_tutorial_works_and_shows_what_is_printed() {
    let page = fs::read_to_string(repository("docs/plugins.md")).unwrap();
    let tutorial = page.split("\n## ").find(|part| part.starts_with("From nothing to production")).unwrap();
    let blocks = |language: &str| -> Vec<&str> {
        let fence = format!("```{language}\n");
        let blocks = tutorial.split(&*fence).skip(1);
        blocks.map(|rest| rest.split("\n```").next().unwrap()).collect()
    };
    let segments = Segments::generate(3000, 2, 11);
    let real = |text: &str| {
        text.replace("~/tailweir", repository("").to_str().unwrap())
            .replace("/var/log/kumomta", segments.directory().to_str().unwrap())
    };
    let room = tempfile::tempdir().unwrap();
    let mut folder = room.path().to_owned();
    let mut commands = 0;
    for block in blocks("console") {
        for step in block.strip_prefix("$ ").unwrap().split("\n$ ") {
            let (command, told) = step.split_once('\n').unwrap_or((step, ""));
            commands += 1;
            if let Some(into) = command.strip_prefix("cd ") {
                folder.push(into);
                let pipeline =
                    blocks("toml").into_iter().find(|block| block.starts_with("# pipeline.toml")).unwrap();
                fs::write(folder.join("pipeline.toml"), real(pipeline)).unwrap();
                continue;
            }
            let Output { status, stdout, stderr } = shell(&folder, &real(command));
            let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            assert_eq!(status.success(), !told.contains("Error: "), "{command}\n{said}");
            let mut shapes = said.lines().map(shape);
            for line in told.lines().filter(|line| *line != "…") {
                let wanted = shape(&real(line));
                assert!(
                    shapes.any(|shape| shape == wanted),
                    "`{line}` is not in what `{command}` says, or not there:\n{said}"
                );
            }
        }
    }
    assert!(commands >= 12, "{commands}");
    // The function that the page shows is the one in the template.
    let code = fs::read_to_string(folder.join("src/lib.rs")).unwrap();
    assert!(code.contains(blocks("rust")[0]), "{code}");
}
