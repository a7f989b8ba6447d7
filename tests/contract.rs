//! One contract for all engines: the same filters and processors, native, as Lua and as components, give equal results on
//! the same segments.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tailweir_core::{
    Batch, Failure, Filter, FilterError, Located, Outcome, Pointer, ProcessFuture, Processor, Verdict,
};
use tailweir_lua::plugin::{load_filter, load_processor};
use tailweir_pipeline::{
    Backoff, CheckpointName, CheckpointOptions, Consumer, ConsumerOptions, FilterOptions, OnCrash,
    OnFilterError, Outgoing, Policy, Sink, SinkFuture, SinkProcessor, SourceOptions, Then, drive, open,
};
use tailweir_segments::{Mode, sample};
use tailweir_wasm::{Grants, Host, HostOptions, Limits};
use tempfile::{TempDir, tempdir};

/// A filter or a processor in each engine.
struct Case<N> {
    name: &'static str,
    native: fn() -> N,
    lua: &'static str,
    /// The configuration of the component that does what its configuration says.
    wasm: Value,
}

fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests").join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask guests`", path.display());
    path
}

fn host() -> &'static Arc<Host> {
    static HOST: OnceLock<Arc<Host>> = OnceLock::new();
    HOST.get_or_init(|| Host::new(HostOptions::default()).unwrap())
}

fn lua_file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("plugin.lua");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn filter_in(engine: &str, case: &Case<Box<dyn Filter>>) -> Box<dyn Filter> {
    match engine {
        "native" => (case.native)(),
        "lua" => Box::new(load_filter(&lua_file(case.lua).1, &Value::Null, &|_| Ok(())).unwrap()),
        _ => {
            let plugin = host().filter(&guest("hostile-filter.wasm"), &case.wasm, Limits::default()).unwrap();
            tailweir_core::FilterFactory::create(&plugin).unwrap()
        }
    }
}

fn processor_in(engine: &str, case: &Case<Box<dyn Processor>>) -> Box<dyn Processor> {
    match engine {
        "native" => (case.native)(),
        "lua" => Box::new(load_processor(&lua_file(case.lua).1, &Value::Null, &|_| Ok(())).unwrap()),
        _ => {
            let path = guest("hostile-processor.wasm");
            host().processor(&path, &case.wasm, Grants::default(), Limits::default()).unwrap().create()
        }
    }
}

const ENGINES: [&str; 3] = ["native", "lua", "wasm"];

/// Keeps the records whose value at a pointer a function likes.
struct Column(Pointer, fn(Option<&str>) -> bool);

impl Column {
    fn boxed(pointer: &str, likes: fn(Option<&str>) -> bool) -> Box<dyn Filter> {
        Box::new(Self(Pointer::parse(pointer).unwrap(), likes))
    }
}

impl Filter for Column {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        Ok(Verdict::Keep(candidates.column(&self.0).map(self.1).collect()))
    }
}

/// Fails on records that say that they are poison.
struct FailsOnPoison;

impl Filter for FailsOnPoison {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        match poison(candidates).is_empty() {
            true => Ok(Verdict::All),
            false => {
                Err(FilterError { decided: Vec::new(), located: Located::Batch, source: "poison".into() })
            }
        }
    }
}

fn poison(batch: &Batch) -> Vec<u32> {
    let is_poison = |(_, record): &(usize, tailweir_core::Record<'_>)| record.field("poison") == Some("true");
    batch.iter().enumerate().filter(is_poison).map(|(i, _)| i as u32).collect()
}

fn filters() -> Vec<Case<Box<dyn Filter>>> {
    vec![
        Case {
            name: "keep all",
            native: || Column::boxed("", |_| true),
            lua: "return function(r) return true end",
            wasm: json!({"do": "all"}),
        },
        Case {
            name: "keep none",
            native: || Column::boxed("", |_| false),
            lua: "return function(r) return false end",
            wasm: json!({"do": "none"}),
        },
        Case {
            name: "one pool",
            native: || Column::boxed("/egress_pool", |value| value == Some("\"customer-a\"")),
            lua: "return function(r) return type(r) == 'table' and r.egress_pool == 'customer-a' end",
            wasm: json!({"do": "keep", "pointer": "/egress_pool", "equals": "\"customer-a\""}),
        },
        Case {
            name: "a nested integer",
            native: || {
                Column::boxed("/response/code", |value| {
                    value.and_then(|v| v.parse().ok()).is_some_and(|n: i64| n >= 400)
                })
            },
            lua: "return function(r)
                local code = type(r) == 'table' and type(r.response) == 'table' and r.response.code
                return math.type(code) == 'integer' and code >= 400
            end",
            wasm: json!({"do": "at-least", "pointer": "/response/code", "least": 400}),
        },
        Case {
            name: "an integer beyond 2^53",
            native: || {
                Column::boxed("/meta/n", |value| {
                    value.and_then(|v| v.parse().ok()).is_some_and(|n: i64| n >= 9_007_199_254_740_993)
                })
            },
            lua: "return function(r)
                local n = type(r) == 'table' and type(r.meta) == 'table' and r.meta.n
                return math.type(n) == 'integer' and n >= 9007199254740993
            end",
            wasm: json!({"do": "at-least", "pointer": "/meta/n", "least": 9_007_199_254_740_993_i64}),
        },
        Case {
            name: "fail on poison",
            native: || Box::new(FailsOnPoison),
            lua: "return function(r) if type(r) == 'table' and r.poison == true then error('poison') end return true end",
            wasm: json!({"do": "panic-on-poison"}),
        },
    ]
}

/// A directory with records of every kind, lines that are none, and two that are poison.
fn directory() -> TempDir {
    let dir = tempdir().unwrap();
    sample::write_directory(dir.path(), 600, 2, 11, 3).unwrap();
    let mut lines = sample::Sample::new(5);
    let mut text = Vec::new();
    for i in 0..90 {
        match i {
            17 | 60 => text.extend_from_slice(format!("{{\"poison\":true,\"i\":{i}}}").as_bytes()),
            _ => text.extend_from_slice(lines.next_record().as_bytes()),
        }
        text.push(b'\n');
    }
    for trap in sample::traps().into_iter().filter(|trap| trap.line.len() < 1 << 16) {
        text.extend_from_slice(&trap.line);
        text.push(b'\n');
    }
    let path = dir.path().join("20261102-000000");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    dir
}

fn consumer(dir: &Path, filter: Option<Box<dyn Filter>>, size: usize, block: usize) -> Consumer {
    let mut source = SourceOptions::new(dir);
    source.reader.mode = Mode::Once;
    source.reader.block_size = block;
    let mut options = ConsumerOptions::new("c");
    options.max_batch_size = size;
    options.filters = filter.map(FilterOptions::from).into_iter().collect();
    options.on_filter_error = OnFilterError::Isolate;
    options.checkpoint = Some(CheckpointOptions::new(CheckpointName::new("c").unwrap()));
    open(source, vec![options]).unwrap().pop().unwrap()
}

/// A batch's id, and one of its records.
type Sent = (String, Vec<u8>);

/// Remembers records, by the batch that they came from.
#[derive(Default, Clone)]
struct Memory(Rc<RefCell<Vec<Sent>>>);

impl Sink for Memory {
    fn send<'a>(&'a mut self, outgoing: Outgoing<'a>) -> SinkFuture<'a> {
        let id = outgoing.id();
        self.0.borrow_mut().extend(outgoing.records().iter().map(|r| (id.to_string(), r.to_vec())));
        Box::pin(async { Ok(()) })
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Segment and line of everything in the quarantine, in order.
fn quarantine(dir: &Path) -> Vec<(String, u64)> {
    let text = fs::read_to_string(dir.join(".c.quarantine")).unwrap_or_default();
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut places: Vec<_> =
        entries.map(|e| (e["segment"].as_str().unwrap().to_owned(), e["line"].as_u64().unwrap())).collect();
    places.sort();
    places
}

#[test]
fn filters_give_equal_results_however_the_records_are_cut() {
    for case in filters() {
        let mut results = BTreeMap::new();
        for engine in ENGINES {
            for (size, block) in [(100, 256 << 10), (7, 3_000)] {
                let dir = directory();
                let sink = Memory::default();
                let mut c = consumer(dir.path(), Some(filter_in(engine, &case)), size, block);
                let mut to_memory = SinkProcessor(sink.clone());
                block_on(drive(&mut c, &mut to_memory, &mut Memory::default(), &Policy::default())).unwrap();
                drop(c);
                let kept: Vec<Vec<u8>> = sink.0.take().into_iter().map(|(_, record)| record).collect();
                results.insert((engine, size), (kept, quarantine(dir.path())));
            }
        }
        let reference = &results[&("native", 100)];
        for (key, result) in &results {
            assert_eq!(result.0.len(), reference.0.len(), "{}: records kept by {key:?}", case.name);
            assert_eq!(result.1, reference.1, "{}: what {key:?} put in quarantine", case.name);
            let differs = result.0.iter().zip(&reference.0).find(|(ours, theirs)| ours != theirs);
            let differs = differs.map(|(ours, theirs)| [ours, theirs].map(|r| String::from_utf8_lossy(r)));
            assert_eq!(differs, None, "{}: a record kept by {key:?}, and the native filter's", case.name);
        }
        if case.name == "fail on poison" {
            let poison: Vec<u64> =
                reference.1.iter().filter(|(name, _)| name == "20261102-000000").map(|q| q.1).collect();
            assert!(poison.contains(&18) && poison.contains(&61), "{poison:?}");
        } else if case.name != "keep none" {
            assert!(!reference.0.is_empty(), "{}: a case that keeps nothing shows nothing", case.name);
        }
    }
}

/// A native processor from a function.
struct Native<F>(F);

impl<F: FnMut(&Batch) -> Result<Outcome, Failure>> Processor for Native<F> {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        let answer = (self.0)(batch);
        Box::pin(async { answer })
    }
}

fn processors() -> Vec<Case<Box<dyn Processor>>> {
    vec![
        Case {
            name: "done",
            native: || Box::new(Native(|_: &Batch| Ok(Outcome::Done))),
            lua: "return function(batch) end",
            wasm: json!({"do": "done"}),
        },
        Case {
            name: "emit",
            native: || {
                Box::new(Native(|b: &Batch| {
                    Ok(Outcome::Emit(b.iter().map(|r| r.text().to_owned()).collect()))
                }))
            },
            lua: "return function(batch) return batch:records() end",
            wasm: json!({"do": "emit"}),
        },
        Case {
            name: "retry twice",
            native: || {
                let mut calls = 0;
                Box::new(Native(move |_: &Batch| {
                    calls += 1;
                    let after = Some(Duration::from_millis(1));
                    if calls > 2 {
                        Ok(Outcome::Done)
                    } else {
                        Err(Failure::Retry { after, reason: "busy".into() })
                    }
                }))
            },
            lua: "local calls = 0
                return function(batch)
                    calls = calls + 1
                    if calls <= 2 then return nil, {retry = '1ms', reason = 'busy'} end
                end",
            wasm: json!({"do": "retry", "times": 2, "after_ms": 1}),
        },
        Case {
            name: "reject poison",
            native: || {
                Box::new(Native(|b: &Batch| match poison(b) {
                    indices if indices.is_empty() => Ok(Outcome::Done),
                    indices => Err(Failure::Reject { indices, reason: "poison".into() }),
                }))
            },
            lua: "return function(batch)
                    local bad = {}
                    for i, r in ipairs(batch:records()) do
                        if type(r) == 'table' and r.poison == true then bad[#bad + 1] = i end
                    end
                    if #bad > 0 then return nil, {reject = bad, reason = 'poison'} end
                end",
            wasm: json!({"do": "reject-poison"}),
        },
        Case {
            name: "stop",
            native: || Box::new(Native(|_: &Batch| Err(Failure::Stop { reason: "as configured".into() }))),
            lua: "return function(batch) return nil, {stop = true, reason = 'as configured'} end",
            wasm: json!({"do": "stop"}),
        },
        Case {
            name: "crash on poison",
            native: || {
                Box::new(Native(|b: &Batch| match poison(b).is_empty() {
                    true => Ok(Outcome::Done),
                    false => Err(Failure::Crash { reason: "poison".into() }),
                }))
            },
            lua: "return function(batch)
                    for r in batch:iter_records() do
                        if type(r) == 'table' and r.poison == true then error('poison') end
                    end
                end",
            wasm: json!({"do": "panic-on-poison"}),
        },
    ]
}

/// What is to be seen of a run from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    /// How it ended, without what each engine says in its own words.
    end: String,
    emitted: Vec<Sent>,
    quarantined: Vec<(String, u64)>,
    retries: u64,
    committed: u64,
    left: usize,
}

fn run(engine: &str, case: &Case<Box<dyn Processor>>, then: Then, on_crash: OnCrash) -> Seen {
    let dir = directory();
    let brief = Duration::from_millis(1);
    let backoff = Backoff { initial: brief, max: brief, ..Backoff::default() };
    let policy = Policy { backoff, max_attempts: Some(3), then, on_crash };
    let mut sink = Memory::default();
    let mut c = consumer(dir.path(), None, 50, 256 << 10);
    let mut processor = processor_in(engine, case);
    let end = match block_on(drive(&mut c, &mut *processor, &mut sink, &policy)) {
        Ok(()) => "ok".to_owned(),
        Err(e) => e.to_string().split(": ").next().unwrap_or_default().to_owned(),
    };
    let counters = c.counters().snapshot();
    drop(c);
    let rest = Memory::default();
    let mut again = consumer(dir.path(), None, 50, 256 << 10);
    let mut to_rest = SinkProcessor(rest.clone());
    block_on(drive(&mut again, &mut to_rest, &mut Memory::default(), &Policy::default())).unwrap();
    Seen {
        end,
        emitted: sink.0.take(),
        quarantined: quarantine(dir.path()),
        retries: counters.retries,
        committed: counters.committed_records,
        left: rest.0.take().len(),
    }
}

#[test]
fn processors_answer_alike_and_their_answers_have_equal_effects() {
    let isolate = OnCrash::Isolate { limit: Some(OnCrash::LIMIT) };
    let policies = [(Then::Stop, OnCrash::Retry), (Then::Quarantine, OnCrash::Retry), (Then::Stop, isolate)];
    for case in processors() {
        for (then, on_crash) in policies {
            let reference = run("native", &case, then, on_crash);
            for engine in ["lua", "wasm"] {
                let seen = run(engine, &case, then, on_crash);
                assert!(
                    seen == reference,
                    "{} ({then:?}, {on_crash:?}): {engine} differs from native\n{engine}: end {}, {} emitted, quarantined {:?}, {} retries, {} committed, {} left\nnative: end {}, {} emitted, quarantined {:?}, {} retries, {} committed, {} left",
                    case.name,
                    seen.end,
                    seen.emitted.len(),
                    seen.quarantined,
                    seen.retries,
                    seen.committed,
                    seen.left,
                    reference.end,
                    reference.emitted.len(),
                    reference.quarantined,
                    reference.retries,
                    reference.committed,
                    reference.left,
                );
            }
        }
    }
}
