//! What docs/security.md promises, tried by doing what must not be possible.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tailweir_tests::{Ended, Program, Server, repository};
use tempfile::TempDir;

use crate::tailweir;

/// Two records, between them a line that is none.
const LINES: &str = "{\"id\":\"1\",\"egress_pool\":\"p\"}\nno record\n{\"id\":\"2\"}\n";
const SECRET: &str = "open-sesame-4711";

/// A folder with a directory `logs` and whatever else a test puts beside it.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        fs::create_dir(world.path("logs")).unwrap();
        fs::write(world.path("logs/a"), LINES).unwrap();
        fs::set_permissions(world.path("logs/a"), Permissions::from_mode(0o444)).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// The command `tail --once` with the checkpoint `c`.
    fn tail(&self) -> Ended {
        tailweir().args("tail --once --checkpoint c").arg(self.path("logs")).run()
    }

    /// A pipeline file of one consumer.
    fn pipeline(&self, consumer: &str) -> PathBuf {
        let text =
            format!("[tailer]\ndirectory = 'logs'\nfollow = false\n[[consumer]]\nname = 'c'\n{consumer}\n");
        self.write("p.toml", &text)
    }

    /// All that is outside of the directory, with contents and modes.
    fn outside(&self) -> BTreeMap<PathBuf, (String, u32)> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.is_file());
        let state =
            |path: &Path| (fs::read_to_string(path).unwrap(), fs::symlink_metadata(path).unwrap().mode());
        files.map(|path| (path.clone(), state(&path))).collect()
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A guest of the examples or the tests.
fn guest(name: &str) -> PathBuf {
    let path = repository("target/guests").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing; run `cargo xtask guests`", path.display());
    path
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let world = World::new();
    let run = |program: Program, expected: &str| {
        let ended = program.run();
        assert!(ended.code != Some(0) && ended.stderr.contains(expected), "{ended:?}");
    };
    for name in ["../x", "a/b", "/tmp/x", "..", ".x", "", "a.lock", "a.quarantine", "a\nb"] {
        let refused = "checkpoint_name `";
        let tail = tailweir().args("tail --once --checkpoint").arg(name).arg(world.path("logs"));
        run(tail, refused);
        let quarantine = tailweir().args("quarantine list").arg(world.path("logs")).arg(name);
        run(quarantine, refused);
        let option = format!("processor = {{ stdout = {{}} }}\ncheckpoint = {}", serde_json::json!(name));
        run(tailweir().arg("run").arg(world.pipeline(&option)), refused);
        let script = format!(
            "local kumo = require 'kumo'\nkumo.on('main', function()\n kumo.jsonl.new_tailer {{ directory = '{}', \
             checkpoint_name = {} }}\nend)\n",
            world.path("logs").display(),
            serde_json::json!(name),
        );
        run(tailweir().arg("script").arg(world.write("s.lua", &script)), refused);
    }
    run(tailweir().args("tail --once --pattern ../*").arg(world.path("logs")), "must not hold a `/`");
    let script = format!(
        "local kumo = require 'kumo'\nkumo.on('main', function()\n local w = kumo.jsonl.new_writer {{ \
         log_dir = '{}', suffix = '/../../x' }}\n w:write_line('1')\nend)\n",
        world.path("logs").display()
    );
    run(tailweir().arg("script").arg(world.write("s.lua", &script)), "suffix");
    let names: Vec<_> = world.outside().into_keys().collect();
    assert_eq!(names, [world.path("p.toml"), world.path("s.lua")]);
    assert_eq!(fs::read_dir(world.path("logs")).unwrap().count(), 1);
}

/// Puts something under a name.
type Plant = fn(&World, &Path);

/// Whatever stands under the names of a checkpoint's files, nothing outside is changed, and what is not done is named.
#[test]
fn nothing_outside_is_changed_through_what_is_planted_inside() {
    let suffixes = [
        "",
        ".lock",
        ".prev",
        ".tmp",
        ".finished",
        ".finished.tmp",
        ".quarantine",
        ".quarantine.1",
        ".quarantine.tmp",
        ".state",
        ".unbalanced",
    ];
    let plants: [(&str, Plant); 4] = [
        ("symbolic link", |world, name| symlink(world.path("precious"), name).unwrap()),
        ("hard link", |world, name| fs::hard_link(world.path("precious"), name).unwrap()),
        ("dangling link", |world, name| symlink(world.path("none"), name).unwrap()),
        ("pipe", |_, name| assert!(Command::new("mkfifo").arg(name).status().unwrap().success())),
    ];
    for suffix in suffixes {
        for (what, plant) in plants {
            let world = World::new();
            world.write("precious", "as it was\n");
            fs::set_permissions(world.path("precious"), Permissions::from_mode(0o606)).unwrap();
            let name = world.path("logs").join(format!(".c{suffix}"));
            plant(&world, &name);
            let before = world.outside();
            for _ in 0..2 {
                let ended = world.tail();
                let refused = ["is a symbolic link", "a hard link", "is no regular file", "can't be used"];
                let named = ended.stderr.contains(name.to_str().unwrap())
                    && refused.iter().any(|why| ended.stderr.contains(why));
                assert!(ended.code == Some(0) || named, "{what} {suffix}: {ended:?}");
                let dropped =
                    tailweir().args("quarantine drop").arg(world.path("logs")).args("c --all").run();
                assert!(dropped.code.is_some(), "{what} {suffix}: {dropped:?}");
                let status = tailweir().arg("status").arg(world.path("logs")).run();
                assert!(status.code.is_some(), "{what} {suffix}: {status:?}");
                assert_eq!(world.outside(), before, "{what} {suffix}: {ended:?}");
            }
        }
    }
}

#[test]
fn files_are_private_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let world = World::new();
        let filter = guest("pool-filter");
        let consumer = format!(
            "filter = {{ wasm = '{}', config = {{ pool = 'p' }} }}\nprocessor = {{ file = {{ path = 'out' }} }}",
            filter.display()
        );
        let pipeline = world.pipeline(&consumer);
        let script = "require('kumo').on('main', function() require('kumo').log_error('said') end)";
        let script = world.write("s.lua", script);
        let cache = world.path("cache");
        for arguments in [
            vec![Path::new("run"), &pipeline],
            vec![Path::new("script"), &script, Path::new("--diag-log-dir"), &world.path("diag")],
        ] {
            let program = Program::new("/bin/sh").env("TAILWEIR_PLUGIN_CACHE", cache.to_str().unwrap());
            let program = program.arg("-c").arg(format!("umask {umask}; exec \"$0\" \"$@\""));
            let program = arguments.iter().fold(program.arg(env!("CARGO_BIN_EXE_tailweir")), Program::arg);
            let ended = program.run();
            assert_eq!(ended.code, Some(0), "{ended:?}");
        }
        let mut modes = BTreeMap::new();
        for folder in ["logs", "cache", "diag"].map(|name| world.path(name)) {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                modes.insert(
                    entry.file_name().into_string().unwrap(),
                    entry.metadata().unwrap().mode() & 0o777,
                );
            }
        }
        modes.insert("out".to_owned(), fs::metadata(world.path("out")).unwrap().mode() & 0o777);
        assert_eq!(modes.remove("a"), Some(0o444));
        for name in [".c", ".c.lock", ".c.finished", ".c.quarantine", "out", "log."] {
            assert!(modes.keys().any(|made| made.starts_with(name)), "{name} in {modes:?}");
        }
        let expected = if umask == "077" { 0o600 } else { 0o640 };
        for (name, mode) in modes {
            let expected = if name.ends_with(".code") { 0o600 } else { expected };
            assert_eq!(mode, expected, "{name}: {mode:o} with umask {umask}");
        }
        assert_eq!(fs::metadata(cache).unwrap().mode() & 0o077, 0);
    }
}

#[test]
fn links_between_users_are_not_followed() {
    if !is_root() {
        // Nobody else can make links that belong to others.
        return;
    }
    const SOMEBODY: u32 = 54321;
    let world = World::new();
    let precious = world.write("precious", "{\"id\":\"precious\"}\n");
    fs::set_permissions(&precious, Permissions::from_mode(0o400)).unwrap();
    let link = world.path("logs/b");
    symlink(&precious, &link).unwrap();
    assert!(tailweir().args("tail --once").arg(world.path("logs")).run().stdout.contains("precious"));
    lchown(&link, Some(SOMEBODY), None).unwrap();
    let ended = world.tail();
    assert!(!ended.stdout.contains("precious") && ended.stdout.contains("\"2\""), "{ended:?}");
    assert!(ended.stderr.contains("a link that one user made to a file of another"), "{ended:?}");
    // To a file of their own they may link.
    lchown(&precious, Some(SOMEBODY), None).unwrap();
    assert!(world.tail().stdout.contains("precious"));

    let out = world.path("out");
    symlink(&precious, &out).unwrap();
    lchown(&out, Some(SOMEBODY), None).unwrap();
    let pipeline = world.pipeline("checkpoint = 'd'\nprocessor = { file = { path = 'out' } }");
    let ended = tailweir().arg("run").arg(pipeline).run();
    assert!(ended.with_code(1).contains("a symbolic link that another user made"));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "{\"id\":\"precious\"}\n");
}

/// Runs the example `webhook`, which posts to `url`, with a grant for `granted`.
fn post(granted: &str, url: &str) -> Ended {
    let world = World::new();
    let consumer = format!(
        "processor = {{ wasm = '{}', config = {{ url = {} }}, grants = {{ http = ['{granted}'] }} }}\n\
         on_error = {{ initial = '1ms', max_attempts = 2 }}",
        guest("webhook").display(),
        serde_json::json!(url)
    );
    tailweir().arg("run").arg(world.pipeline(&consumer)).run()
}

#[test]
fn no_request_leaves_the_granted_origins() {
    let (granted, evil) = (Server::start(), Server::start());
    let (url, evil_url) = (granted.url(), evil.url());
    let (authority, evil_authority) = (&url["http://".len()..], &evil_url["http://".len()..]);
    let port = authority.rsplit(':').next().unwrap();
    // It works at all.
    assert_eq!(post(&url, &format!("{url}/a")).code, Some(0));
    assert_eq!(granted.requests().len(), 1);
    for other in [
        format!("{evil_url}/"),
        format!("http://{authority}@{evil_authority}/"),
        format!("http://{authority}:@{evil_authority}/"),
        format!("http://{evil_authority}/@{authority}/"),
        format!("http://{evil_authority}#@{authority}/"),
        format!("http://{evil_authority}?@{authority}/"),
        format!("http://{evil_authority}\\@{authority}/"),
        format!("http://{authority}\\@{evil_authority}/"),
        format!("http://{authority}\r\n@{evil_authority}/"),
        format!("https://{authority}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://127.0.0.1.:{port}/."),
        format!("http://127.0.0.1.evil.invalid:{port}/"),
        "http://127.0.0.1/".to_owned(),
    ] {
        let ended = post(&url, &other);
        assert!(evil.requests().is_empty(), "{other}: {ended:?}");
        let to_granted =
            granted.requests().into_iter().skip(1).all(|request| request.headers["host"] == authority);
        assert!(to_granted, "{other}: {ended:?}");
    }
    let before = granted.requests().len();
    for status in
        ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        granted.answer(&[&format!("{status}\r\nLocation: {evil_url}/a")]);
        let ended = post(&url, &format!("{url}/a"));
        assert_eq!(ended.code, Some(1), "{status}: {ended:?}");
        // The built-in processor does the same.
        granted.answer(&[&format!("{status}\r\nLocation: {evil_url}/a")]);
        let world = World::new();
        let pipeline = world.pipeline(&format!("processor = {{ http = {{ url = '{url}/a' }} }}"));
        let said = tailweir().arg("run").arg(pipeline).run().with_code(1);
        assert!(said.contains(&status[..3]), "{said}");
    }
    assert_eq!(granted.requests().len(), before + 10);
    assert!(evil.requests().is_empty());
}

#[test]
fn a_request_that_is_not_granted_is_told_to_the_operator() {
    let server = Server::start();
    let url = server.url();
    let said = post("https://hooks.example.com", &format!("{url}/s3cret?s3cret"));
    let line = said.stderr.lines().find(|line| line.contains("its HTTP request was not sent")).unwrap();
    for part in
        ["WARN", "webhook", "consumer=\"c\"", &format!("{url} is not granted"), "`grants`", "--grant-http"]
    {
        assert!(line.contains(part), "`{part}` in {line}");
    }
    assert!(!line.contains("s3cret"), "{line}");
    assert!(server.requests().is_empty());
}

/// Nothing that was said holds the secret, or the part of a URL that is one.
fn check_discretion(ended: &Ended) {
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn secrets_are_used_and_never_printed() {
    let world = World::new();
    world.write("token", &format!("Bearer {SECRET}\n"));
    let server = Server::start();
    let address = format!("{}/{SECRET}", server.url());
    let run = |consumer: &str, options: &str| {
        for entry in fs::read_dir(world.path("logs")).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with("a") {
                fs::remove_file(path).unwrap();
            }
        }
        let pipeline =
            world.pipeline(&format!("{consumer}\non_error = {{ initial = '1ms', max_attempts = 2 }}"));
        let program = tailweir().args("--log trace run").arg(pipeline).args(options);
        let ended = program.env("URL", &address).env("TOKEN", SECRET).run();
        check_discretion(&ended);
        check_discretion(&tailweir().arg("status").arg(world.path("logs")).run());
        ended
    };
    let sink =
        "processor = { http = { url = { env = 'URL' }, headers = { Authorization = { file = 'token' } } } }";
    let plugin = format!(
        "processor = {{ wasm = '{}', config = {{ headers = {{ X-Name = 'me' }} }}, secrets = {{ url = {{ env = 'URL' }}, \
         headers = {{ Authorization = {{ file = 'token' }} }} }}, grants = {{ http = ['{}'] }} }}",
        guest("webhook").display(),
        server.url()
    );
    for consumer in [sink, &plugin] {
        assert_eq!(run(consumer, "--check").code, Some(0));
        server.answer(&["500 Oops"]);
        assert_eq!(run(consumer, "").code, Some(0));
        let sent = server.requests().pop().unwrap();
        assert_eq!(sent.headers["authorization"], format!("Bearer {SECRET}"));
        assert_eq!(sent.path, format!("/{SECRET}"));
        server.answer(&["404 Nothing here"]);
        assert_eq!(run(consumer, "").code, Some(1));
    }
    // Plug-ins that tell what they were told.
    let lua = |name: &str, content: &str| {
        world.write(name, content);
        format!("processor = {{ lua = '{name}', secrets = {{ token = {{ env = 'TOKEN' }} }} }}")
    };
    let gossip = "local config = ...\nrequire('kumo').log_error('it is', config.token)\n\
                  return function() print('called'); error(config.token) end";
    let ended = run(&lua("gossip.lua", gossip), "");
    assert!(ended.code == Some(1) && ended.stderr.matches("[secret]").count() >= 2, "{ended:?}");
    let ended = run(&lua("never.lua", "local config = ...\nerror('no ' .. config.token)"), "");
    assert!(ended.code == Some(1) && ended.stderr.contains("no [secret]"), "{ended:?}");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown_by_the_error() {
    let world = World::new();
    let check = |consumer: &str, expected: &str| {
        let ended = tailweir().arg("run").arg(world.pipeline(consumer)).env("TOKEN", SECRET).run();
        check_discretion(&ended);
        assert!(ended.code == Some(1) && ended.stderr.contains(expected), "{consumer}: {ended:?}");
    };
    let http = |rest: &str| format!("processor = {{ http = {{ url = 'http://127.0.0.1:9', {rest} }} }}");
    check(&http(&format!("headers = 'Bearer {SECRET}'")), "invalid type: string, expected a map");
    check(&http(&format!("headers = {{ a = ['{SECRET}'] }}")), "expected a text, { env");
    check(&http(&format!("headers = {{ a = \"x\\u0000{SECRET}\" }}")), "the value of a cannot be sent");
    check("processor = { http = { url = { env = 'TOKEN' } } }", "environment variable TOKEN is not a URL");
    check(&format!("processor = {{ http = {{ url = '{SECRET}' }} }}"), "the text given is not a URL");
    let lua = |rest: &str| format!("processor = {{ lua = 'p.lua', {rest} }}");
    check(&lua(&format!("secrets = {{ token = '{SECRET}' }}")), "`token` in `secrets` must be");
    check(&lua("secrets = { token = { env = 'NOT_SET' } }"), "environment variable NOT_SET is not set");
    check(&lua("secrets = { token = { file = 'none' } }"), "/none\ncaused by: No such file");
    check(
        &lua(&format!("config = {{ token = '{SECRET}' }}, secrets = {{ token = {{ env = 'TOKEN' }} }}")),
        "`config` has `token` already",
    );
}
