//! The programs under test, and the consumers in each: Lua, WebAssembly, and both mixed.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tailweir_tests::{DEADLINE, repository};
use tempfile::TempDir;

use crate::faults::Fault;
use crate::writer::Records;

/// Who the programs run as where a directory must be read-only to them, and we are root, who may write to anything.
const NOBODY: u32 = 65_534;

/// What a consumer is to get, and how it tells what it got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) pool: Option<&'static str>,
    /// Whether recipients are masked on the way.
    pub(crate) masked: bool,
    pub(crate) told: Told,
    /// Records that may be delivered and not committed at any time.
    pub(crate) uncommitted: usize,
    /// Whether batches come in order.
    pub(crate) ordered: bool,
    /// The key of its state that has the number of records it was committed for.
    pub(crate) counts: Option<&'static str>,
    /// Whether its plug-in can do nothing with a record that is poison.
    pub(crate) minds_poison: bool,
}

/// How a consumer tells what it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// On stdout: batches with their ids, and what becomes of each.
    Batches,
    /// As lines in a file.
    Lines,
    /// By its state only; what it writes to the file is something else.
    State,
}

const fn lua(name: &'static str, pool: Option<&'static str>, uncommitted: usize) -> Kind {
    let told = Told::Batches;
    Kind { name, pool, masked: false, told, uncommitted, ordered: true, counts: None, minds_poison: false }
}

const fn file(name: &'static str, pool: Option<&'static str>, masked: bool) -> Kind {
    let (told, uncommitted) = (Told::Lines, 50);
    Kind { name, pool, masked, told, uncommitted, ordered: true, counts: None, minds_poison: false }
}

const fn picky(name: &'static str) -> Kind {
    Kind { minds_poison: true, ..file(name, None, false) }
}

/// One program and its consumers.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) consumers: &'static [Kind],
    /// Whether it runs where this is written, and this is done to it.
    runs: fn(Records, Fault) -> bool,
    arguments: fn(&Path, Run) -> Vec<PathBuf>,
}

/// Whether a program goes on or ends with what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    Follow,
    Once,
}

/// The programs that run at once.
pub(crate) fn plans(records: Records, fault: Fault) -> Vec<&'static Plan> {
    PLANS.iter().filter(|plan| (plan.runs)(records, fault)).collect()
}

const PLANS: [Plan; 4] = [
    Plan {
        name: "multi.lua",
        consumers: &[lua("now", None, 50), lua("later", None, usize::MAX), lua("some", Some("a"), 50)],
        // A script ends when a line can't be put in quarantine.
        runs: |records, fault| records == Records::Good || !fault.may_refuse_writes(),
        arguments: |home, run| script(home, "multi.lua", run),
    },
    Plan {
        name: "two.lua",
        consumers: &[lua("always", None, 50), lua("mixed", Some("b"), 50)],
        runs: |records, _| records == Records::Good,
        arguments: |home, run| script(home, "two.lua", run),
    },
    Plan {
        name: "pipeline",
        consumers: &[
            file("wasm-filter", Some("a"), false),
            file("wasm-processor", None, true),
            file("lua-and-wasm", Some("b"), true),
            file("lua-processor", None, false),
            file("synced", None, false),
            // Batches of 50 records, of which 1,024 may be ahead of the first that is not committed.
            Kind { ordered: false, uncommitted: 1024 * 50, ..file("parallel", Some("b"), true) },
            Kind { counts: Some("n"), ..file("lua-state", None, false) },
            Kind { told: Told::State, counts: Some("records"), ..file("counter", None, false) },
            Kind { told: Told::State, counts: Some("records"), ..file("synced-counter", None, false) },
        ],
        runs: |records, _| records == Records::Good,
        arguments: |home, run| pipeline(home, "pipeline.toml", run),
    },
    Plan {
        name: "picky",
        consumers: &[
            picky("trapping-filter"),
            picky("trapping-processor"),
            picky("failing-filter"),
            Kind { told: Told::State, counts: Some("n"), ..picky("rejecting") },
            Kind { told: Told::State, counts: Some("n"), ..picky("synced-rejecting") },
            Kind { pool: Some("b"), ..picky("failing-chain") },
            Kind { pool: Some("b"), ordered: false, uncommitted: 1024 * 50, ..picky("parallel") },
        ],
        runs: |records, _| records == Records::Mixed,
        arguments: |home, run| pipeline(home, "picky.toml", run),
    },
];

fn pipeline(home: &Path, name: &str, run: Run) -> Vec<PathBuf> {
    let mut arguments = vec!["run".into(), home.join(name)];
    arguments.extend((run == Run::Once).then(|| "--once".into()));
    arguments
}

fn script(home: &Path, name: &str, run: Run) -> Vec<PathBuf> {
    let run = if run == Run::Once { "once" } else { "follow" };
    let mut arguments = vec!["script".into(), home.join(name), "--".into()];
    arguments.extend([home.join("logs"), home.join("pool-filter.wasm"), run.into()]);
    arguments
}

const COMMON: &str = r"
local kumo = require 'kumo'
local common = {}

-- One batch with its records, before it is committed.
function common.tell(name, batch)
  local lines = { 'B ' .. name .. ' ' .. batch:id() }
  for record in batch:iter_records() do lines[#lines + 1] = kumo.serde.json_encode(record) end
  lines[#lines + 1] = 'E\n'
  io.write(table.concat(lines, '\n'))
  io.flush()
end

-- Commits until the checkpoint can be written.
function common.commit(name, batch)
  io.write('I ', name, ' ', batch:id(), '\n') io.flush()
  while true do
    local ok, problem = pcall(batch.commit, batch)
    if ok then break end
    io.write('F ', name, ' ', tostring(problem):gsub('%s+', ' ') .. '\n') io.flush()
    kumo.time.sleep(0.003)
  end
  io.write('C ', name, ' ', batch:id(), '\n') io.flush()
end

return common
";

const MULTI: &str = r"
local kumo = require 'kumo'
local common = require 'common'
kumo.on('main', function(directory, _, run)
  local function consumer(name, size, filter)
    return { name = name, checkpoint_name = name, max_batch_size = size, max_batch_latency = 0.01, filter = filter }
  end
  local tailer <close> = kumo.jsonl.new_multi_tailer {
    directory = directory, follow = run == 'follow',
    consumers = { consumer('now', 50), consumer('later', 20), consumer('some', 50, function(r) return r.egress_pool == 'a' end) },
  }
  local held, target = {}, 3
  local function settle(forget)
    -- In any order; once in a while one is left out, and holds the checkpoint back until the next run.
    while #held > 0 do
      local batch = table.remove(held, math.random(#held))
      if not forget or math.random(200) > 1 then common.commit('later', batch) end
    end
  end
  for batches in tailer:batches() do
    for _, batch in ipairs(batches) do
      local name = batch:consumer_name()
      common.tell(name, batch)
      if name == 'later' then
        held[#held + 1] = batch
        if #held >= target then settle(run == 'follow') target = math.random(8) end
      else
        common.commit(name, batch)
      end
    end
  end
  settle(false)
end)
";

const TWO: &str = r"
local kumo = require 'kumo'
local common = require 'common'
kumo.on('main', function(directory, component, run)
  local function tailer(name, more, filter)
    local options = { directory = directory, checkpoint_name = name, max_batch_size = 50, max_batch_latency = 0.01,
      follow = run == 'follow' }
    for key, value in pairs(more) do options[key] = value end
    return { name = name, batches = kumo.jsonl.new_tailer(options, filter):batches() }
  end
  local tailers = {
    tailer('always', { checkpoint_sync = 'always' }),
    tailer('mixed', {}, kumo.wasm.filter { path = component, config = { pool = 'b' } }),
  }
  while #tailers > 0 do
    for index = #tailers, 1, -1 do
      local batch = tailers[index].batches()
      if batch then
        common.tell(tailers[index].name, batch)
        common.commit(tailers[index].name, batch)
      else
        table.remove(tailers, index)
      end
    end
  end
end)
";

const PIPELINE: &str = r"
[tailer]
directory = 'logs'

[[consumer]]
name = 'wasm-filter'
filter = { wasm = 'pool-filter.wasm', config = { pool = 'a' } }
processor = { file = { path = 'out/wasm-filter', sync = false } }
COMMON

[[consumer]]
name = 'wasm-processor'
processor = { wasm = 'redact.wasm' }
sink = { file = { path = 'out/wasm-processor', sync = false } }
COMMON

[[consumer]]
name = 'lua-and-wasm'
filter = { lua = 'filter.lua' }
processor = { wasm = 'redact.wasm' }
sink = { file = { path = 'out/lua-and-wasm', sync = false } }
COMMON

[[consumer]]
name = 'lua-processor'
processor = { lua = 'processor.lua' }
sink = { file = { path = 'out/lua-processor', sync = false } }
COMMON

[[consumer]]
name = 'synced'
processor = { file = { path = 'out/synced', sync = true } }
checkpoint_sync = 'always'
COMMON

[[consumer]]
name = 'parallel'
filter = [{ wasm = 'pool-filter.wasm', config = { pool = 'b' } }, { lua = 'filter.lua' }]
processor = { wasm = 'redact.wasm' }
sink = { file = { path = 'out/parallel', sync = false } }
parallelism = 3
COMMON

[[consumer]]
name = 'lua-state'
processor = { lua = 'counting.lua' }
sink = { file = { path = 'out/lua-state', sync = false } }
COMMON

[[consumer]]
name = 'counter'
processor = { wasm = 'counter.wasm' }
sink = { file = { path = 'out/counter', sync = false } }
COMMON

[[consumer]]
name = 'synced-counter'
processor = { wasm = 'counter.wasm' }
sink = { file = { path = 'out/synced-counter', sync = false } }
checkpoint_sync = 'always'
COMMON
";

const PICKY: &str = r"
[tailer]
directory = 'logs'

[[consumer]]
name = 'trapping-filter'
filter = { wasm = 'hostile-filter.wasm', config = { do = 'panic-on-poison' } }
processor = { file = { path = 'out/trapping-filter', sync = false } }
COMMON

[[consumer]]
name = 'trapping-processor'
processor = { wasm = 'hostile-processor.wasm', config = { do = 'panic-on-poison', emit = true } }
sink = { file = { path = 'out/trapping-processor', sync = false } }
COMMON

[[consumer]]
name = 'failing-filter'
filter = { lua = 'failing.lua' }
processor = { lua = 'processor.lua' }
sink = { file = { path = 'out/failing-filter', sync = false } }
COMMON

[[consumer]]
name = 'rejecting'
processor = { lua = 'rejecting.lua' }
sink = { file = { path = 'out/rejecting', sync = false } }
COMMON

[[consumer]]
name = 'synced-rejecting'
processor = { lua = 'rejecting.lua' }
sink = { file = { path = 'out/synced-rejecting', sync = false } }
checkpoint_sync = 'always'
COMMON

[[consumer]]
name = 'failing-chain'
filter = [
  { lua = 'filter.lua' },
  { wasm = 'hostile-filter.wasm', config = { do = 'panic-on-poison' } },
  { lua = 'failing.lua' },
]
processor = { file = { path = 'out/failing-chain', sync = false } }
COMMON

[[consumer]]
name = 'parallel'
filter = [{ wasm = 'pool-filter.wasm', config = { pool = 'b' } }, { lua = 'filter.lua' }]
processor = { wasm = 'hostile-processor.wasm', config = { do = 'panic-on-poison', emit = true } }
sink = { file = { path = 'out/parallel', sync = false } }
parallelism = 3
COMMON
";

const COMMON_OPTIONS: &str = "max_batch_size = 50\nmax_batch_latency = '10ms'\n\
    on_error = { initial = '3ms', max = '10ms', max_attempts = 1000000 }";

/// Who the programs run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Ours,
    /// One who is bound by the modes of files.
    Plain,
}

/// What programs need besides segments. `home` gets `logs` and `out`.
pub(crate) fn furnish(home: &Path, user: User) {
    for name in ["redact.wasm", "counter.wasm", "hostile-filter.wasm", "hostile-processor.wasm"] {
        let guest = repository("target/guests").join(name);
        assert!(guest.exists(), "{} is missing: run `cargo xtask guests`", guest.display());
        fs::copy(guest, home.join(name)).unwrap();
    }
    let filter = repository("examples/plugins/pool-filter/pool-filter.wasm");
    fs::copy(filter, home.join("pool-filter.wasm")).unwrap();
    let [pipeline, picky] = [PIPELINE, PICKY].map(|text| text.replace("COMMON", COMMON_OPTIONS));
    let processor = "return function(batch)
        local lines = {}
        for r in batch:iter_records() do lines[#lines + 1] = r end
        return lines
      end";
    let counting = "return function(batch)
        local state, lines = batch:state(), {}
        state:set('n', tostring(tonumber(state:get('n') or 0) + #batch))
        for r in batch:iter_records() do lines[#lines + 1] = r end
        return lines
      end";
    // Counts what it is done with, and emits it unless it rejects something.
    let rejecting = "return function(batch)
        local state, lines, reject, n = batch:state(), {}, {}, 0
        for r in batch:iter_records() do
          n = n + 1
          if r.poison then reject[#reject + 1] = n else lines[#lines + 1] = r end
        end
        state:set('n', tostring(tonumber(state:get('n') or 0) + #lines))
        if #reject > 0 then return nil, { reject = reject, reason = 'poison' } end
        return lines
      end";
    let filter = "return function(r) return r.egress_pool == 'b' end";
    let failing = "return function(r) if r.poison then error('poison') end return true end";
    let files = [
        ("common.lua", COMMON),
        ("multi.lua", MULTI),
        ("two.lua", TWO),
        ("pipeline.toml", &pipeline),
        ("picky.toml", &picky),
        ("processor.lua", processor),
        ("counting.lua", counting),
        ("rejecting.lua", rejecting),
        ("filter.lua", filter),
        ("failing.lua", failing),
    ];
    for (name, text) in files {
        fs::write(home.join(name), text).unwrap();
    }
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["logs", "out"] {
        let path = home.join(name);
        fs::create_dir_all(&path).unwrap();
        if user == User::Plain && is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program that runs.
pub(crate) struct Process {
    child: Child,
    /// Bytes that it has written to stdout.
    heard: Arc<AtomicUsize>,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
}

/// What a program left behind.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts a program.
    pub(crate) fn start(plan: &'static Plan, home: &Path, run: Run, user: User) -> Self {
        let mut command = Command::new(binary(user));
        command.args((plan.arguments)(home, run)).stdin(Stdio::null()).current_dir(home);
        command.env_remove("TAILWEIR_LOG").env_remove("KUMOD_LOG").env("TAILWEIR_PLUGIN_CACHE", cache(user));
        if user == User::Plain && is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let heard = Arc::default();
        Self { child, stdout: collect(stdout, &heard), stderr: collect(stderr, &Arc::default()), heard }
    }

    /// How much it has written to stdout.
    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether it has not ended by itself.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Bounds the size of every file that it writes, or lifts the bound.
    pub(crate) fn bound_files(&self, bytes: Option<u64>) {
        // It may have ended, which is found out elsewhere.
        let _ = prlimit(
            Some(Pid::from_child(&self.child)),
            Resource::Fsize,
            Rlimit { current: bytes, maximum: None },
        );
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let mut status = None;
        // Longer than other things are waited for: it may have to read all that there is, on a machine that is busy.
        let deadline = Instant::now() + 5 * DEADLINE;
        while status.is_none() {
            status = self.child.try_wait().unwrap();
            assert!(Instant::now() < deadline, "process {} does not end", self.child.id());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ended {
            status: status.unwrap(),
            stdout: self.stdout.join().unwrap(),
            stderr: String::from_utf8_lossy(&self.stderr.join().unwrap()).into_owned(),
        }
    }
}

fn collect(mut from: impl Read + Send + 'static, heard: &Arc<AtomicUsize>) -> JoinHandle<Vec<u8>> {
    let heard = heard.clone();
    std::thread::spawn(move || {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            match from.read(&mut buffer).unwrap() {
                0 => return bytes,
                n => bytes.extend_from_slice(&buffer[..n]),
            }
            heard.store(bytes.len(), Ordering::Relaxed);
        }
    })
}

/// What a plain user may run and write to, where ours may be out of his reach.
fn plain() -> &'static (TempDir, PathBuf) {
    static PLAIN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    PLAIN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let binary = folder.path().join("tailweir");
        fs::copy(env!("CARGO_BIN_EXE_tailweir"), &binary).unwrap();
        let cache = folder.path().join("cache");
        fs::create_dir(&cache).unwrap();
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&cache, Some(NOBODY), Some(NOBODY)).unwrap();
        (folder, binary)
    })
}

fn binary(user: User) -> PathBuf {
    if user == User::Plain && is_root() { plain().1.clone() } else { env!("CARGO_BIN_EXE_tailweir").into() }
}

fn cache(user: User) -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_tailweir")).with_file_name("plugin-cache");
    if user == User::Plain && is_root() { plain().0.path().join("cache") } else { ours }
}
