//! The cache of compiled plug-ins: that it is used, and that nothing in it can do harm.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tailweir_tests::{Program, Segments, of_pool, repository};
use tempfile::TempDir;

use crate::tailweir;

const COMPILED: &str = "pool-filter.wasm: compiled in ";
const FROM_CACHE: &str = "pool-filter.wasm: compiled before";

struct World {
    segments: Segments,
    expected: String,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let segments = Segments::generate(100, 1, 18);
        let expected = segments.kept(of_pool("customer-a"));
        Self { segments, expected, folder: tempfile::tempdir().unwrap() }
    }

    /// A directory that is not there at first.
    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The one file in the cache.
    fn file(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.cache()).unwrap();
        let file = entries.next().unwrap().unwrap().path();
        assert!(entries.next().is_none());
        file
    }

    fn program(&self) -> Program {
        let filter = repository("examples/plugins/pool-filter/pool-filter.wasm");
        let program =
            tailweir().args("--log tailweir::wasm=debug tail --once").arg(self.segments.directory());
        let program = program.arg("--filter").arg(filter).arg("--config").arg(r#"{"pool":"customer-a"}"#);
        program.env("TAILWEIR_PLUGIN_CACHE", self.cache().to_str().unwrap())
    }

    /// What `program` says, once it has given the right records.
    fn said(&self, program: Program) -> String {
        let ended = program.run();
        assert_eq!((ended.code, &ended.stdout), (Some(0), &self.expected), "{}", ended.stderr);
        ended.stderr
    }

    /// Has the plug-in compiled, and then taken from the cache.
    fn warmed_up() -> Self {
        let world = Self::new();
        compiles(&world.said(world.program()), 0);
        from_cache(&world.said(world.program()));
        world
    }
}

fn compiles(said: &str, warnings: usize) {
    assert!(said.contains(COMPILED) && !said.contains(FROM_CACHE), "{said}");
    assert_eq!(said.matches("WARN").count(), warnings, "{said}");
}

fn from_cache(said: &str) {
    assert!(said.contains(FROM_CACHE) && !said.contains(COMPILED) && !said.contains("WARN"), "{said}");
}

/// A file in the cache that is spoiled is named with the reason, once, and replaced.
fn check_file(expected: &str, spoil: impl FnOnce(&Path)) {
    let world = World::warmed_up();
    let file = world.file();
    spoil(&file);
    let said = world.said(world.program());
    compiles(&said, 1);
    assert!(said.contains(&format!("{}: {expected}", file.display())), "{said}");
    from_cache(&world.said(world.program()));
    assert_eq!(fs::metadata(world.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A directory that is spoiled is named with the reason, once, and left alone.
fn check_directory(expected: &str, spoil: impl FnOnce(&Path)) {
    let world = World::warmed_up();
    spoil(&world.cache());
    for _ in 0..2 {
        let said = world.said(world.program());
        compiles(&said, 1);
        assert!(said.contains(&format!("{}: {expected}", world.cache().display())), "{said}");
    }
}

/// Changes one byte of a file, keeping its length.
fn flip(file: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = fs::read(file).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

#[test]
fn f18_what_is_stale_is_compiled_anew() {
    check_file("not written by this version", |file| flip(file, |_| 3));
    check_file("made of another plug-in or by another version", |file| flip(file, |_| 20));
}

#[test]
fn f18_what_was_tampered_with_or_cut_off_is_compiled_anew() {
    for at in [50, 80, 1000] {
        check_file("cut off, or changed", |file| flip(file, |_| at));
    }
    check_file("cut off, or changed", |file| flip(file, |len| len - 1));
    let cut =
        |to: u64| move |file: &Path| OpenOptions::new().write(true).open(file).unwrap().set_len(to).unwrap();
    check_file("not written by this version", cut(0));
    check_file("cut off", cut(40));
    check_file("cut off, or changed", cut(10_000));
    let longer = |file: &Path| OpenOptions::new().append(true).open(file).unwrap().write_all(b"x").unwrap();
    check_file("cut off, or changed", longer);
}

#[test]
fn f18_what_others_could_write_is_not_run() {
    let mode =
        |mode: u32| move |path: &Path| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    check_file("others can write to it", mode(0o620));
    check_file("others can write to it", mode(0o602));
    check_directory("others can write to it", mode(0o770));
    check_directory("others can write to it", mode(0o703));
    if is_root() {
        check_file("it belongs to another user", |file| chown(file, Some(65534), None).unwrap());
        check_directory("it belongs to another user", |cache| chown(cache, Some(65534), None).unwrap());
    }
}

#[test]
fn f18_links_and_pipes_are_not_followed() {
    let elsewhere = |path: &Path| {
        let to = path.with_file_name("elsewhere");
        fs::rename(path, &to).unwrap();
        to
    };
    check_directory("a symbolic link", |cache| symlink(elsewhere(cache), cache).unwrap());
    let outside = tempfile::tempdir().unwrap();
    check_file("a symbolic link", |file| {
        let to = outside.path().join("code");
        fs::rename(file, &to).unwrap();
        symlink(to, file).unwrap();
    });
    check_file("not a file", |file| {
        fs::remove_file(file).unwrap();
        assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
    });
}

#[test]
fn f18_a_cache_that_cannot_be_written_costs_only_the_time() {
    let world = World::new();
    let nowhere = || world.program().args("--plugin-cache /proc/no/such/place");
    for _ in 0..2 {
        let said = world.said(nowhere());
        compiles(&said, 0);
        assert!(said.contains("/proc/no/such/place: "), "{said}");
    }
    fs::create_dir(world.cache()).unwrap();
    fs::set_permissions(world.cache(), Permissions::from_mode(0o500)).unwrap();
    compiles(&world.said(world.program()), 0);
    // The modes say nothing to root.
    match is_root() {
        true => from_cache(&world.said(world.program())),
        false => compiles(&world.said(world.program()), 0),
    }
}

#[test]
fn f18_starts_at_the_same_time_do_not_disturb_each_other() {
    let world = World::new();
    let running: Vec<_> = (0..4).map(|_| world.program().start()).collect();
    for ended in running.into_iter().map(|running| running.end()) {
        assert_eq!((ended.code, &ended.stdout), (Some(0), &world.expected), "{}", ended.stderr);
        assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
    }
    world.file();
    from_cache(&world.said(world.program()));
}

#[test]
fn the_option_counts_for_more_than_the_variable_and_that_for_more_than_the_pipeline() {
    let world = World::warmed_up();
    let filter = repository("examples/plugins/pool-filter/pool-filter.wasm");
    let pipeline = format!(
        "plugin_cache = 'code'\n[tailer]\ndirectory = 'logs'\n[[consumer]]\nname = 'a'\nprocessor = {{ stdout = {{}} }}\n\
         filter = {{ wasm = '{}', config = {{ pool = 'customer-a' }} }}\n",
        filter.display()
    );
    let file = world.segments.beside("pipeline.toml", &pipeline);
    let check = |variable: &Path, option: &str| {
        let program = tailweir().args("--log tailweir::wasm=debug run --check").args(option).arg(&file);
        program.env("TAILWEIR_PLUGIN_CACHE", variable.to_str().unwrap()).run().with_code(0)
    };
    from_cache(&check(&world.cache(), ""));
    let own = file.with_file_name("code");
    assert!(!own.exists());
    compiles(&check(Path::new(""), ""), 0);
    assert!(own.exists());
    from_cache(&check(Path::new(""), ""));
    compiles(&check(Path::new("off"), ""), 0);
    compiles(&check(&world.cache(), "--plugin-cache off"), 0);
    from_cache(&check(Path::new("off"), &format!("--plugin-cache {}", own.display())));
}

#[test]
fn scripts_use_it_too_and_one_file_is_compiled_once() {
    let world = World::new();
    let filter = repository("examples/plugins/pool-filter/pool-filter.wasm");
    let script = format!(
        "local kumo = require 'kumo'\nkumo.on('main', function()\nfor i = 1, 100 do\n\
         kumo.wasm.filter {{ path = '{}', config = {{ pool = 'customer-a' }} }}\nend\nend)\n",
        filter.display()
    );
    let script = world.segments.beside("script.lua", &script);
    let run = || {
        let program = tailweir().args("--log tailweir::wasm=debug script").arg(&script);
        program.env("TAILWEIR_PLUGIN_CACHE", world.cache().to_str().unwrap()).run().with_code(0)
    };
    let said = run();
    compiles(&said, 0);
    assert_eq!(said.matches(COMPILED).count(), 1, "{said}");
    from_cache(&run());
}
