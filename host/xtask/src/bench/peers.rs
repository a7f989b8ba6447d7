//! Other programs that do the job of P2: which records have a certain egress pool?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::output_of;

/// A program to compare with.
pub(super) struct Peer {
    pub(super) name: String,
    /// How often it is run: some take too long for more than once.
    pub(super) rounds: usize,
    pub(super) command: Vec<String>,
}

/// The peers that are there, and why others are not.
pub(super) fn find(folder: &Path, directory: &Path) -> (Vec<Peer>, Vec<String>) {
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    let segments = format!("{}/2*", directory.display());
    match version("jq") {
        Ok(_) => peers.push(Peer {
            name: "`zstd -dc` piped to `jq`".to_owned(),
            rounds: 1,
            command: shell(format!(
                "zstd -dc {segments} | jq -r 'select(.egress_pool == \"customer-a\") | .id' | wc -l"
            )),
        }),
        Err(why) => missing.push(why),
    }
    for (module, sql) in [("duckdb", DUCKDB), ("chdb", CLICKHOUSE)] {
        let python = match install(folder, module) {
            Ok(python) => python,
            Err(e) => {
                missing.push(format!("{module}: {e:#}"));
                continue;
            }
        };
        for threads in [1, 0] {
            let program = sql.replace("SEGMENTS", &segments).replace("THREADS", &threads.to_string());
            let how = if threads == 1 { "one thread" } else { "all cores" };
            peers.push(Peer {
                name: format!("{}, {how}", if module == "duckdb" { "DuckDB" } else { "ClickHouse local" }),
                rounds: 3,
                command: vec![python.display().to_string(), "-c".to_owned(), program],
            });
        }
    }
    (peers, missing)
}

const DUCKDB: &str = "import duckdb
duckdb.sql('SET enable_progress_bar = false')
if THREADS: duckdb.sql('SET threads TO THREADS')
print(duckdb.sql(\"SELECT count(*) FROM read_json('SEGMENTS', format = 'newline_delimited', compression = 'zstd', \
                      columns = {egress_pool: 'VARCHAR'}) WHERE egress_pool = 'customer-a'\").fetchall()[0][0])";

const CLICKHOUSE: &str = "import chdb
print(chdb.query(\"SELECT count() FROM file('SEGMENTS', JSONEachRow, 'egress_pool Nullable(String)', 'zstd') \
                      WHERE egress_pool = 'customer-a' SETTINGS input_format_skip_unknown_fields = 1, \
                      max_threads = THREADS\", 'TSV'))";

fn shell(script: String) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

/// What a program says about its version.
pub(super) fn version(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .trim_matches(['*', ' '])
        .to_owned())
}

/// A Python that has a module, in an environment of its own.
fn install(folder: &Path, module: &str) -> Result<PathBuf> {
    let environment = folder.join("python");
    let python = environment.join("bin/python");
    if !python.exists() {
        output_of(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    let has = |module: &str| {
        let import = format!("import {module}");
        Command::new(&python).args(["-c", &import]).output().is_ok_and(|output| output.status.success())
    };
    if !has(module) {
        output_of(Command::new(&python).args(["-m", "pip", "install", "--quiet", module]))?;
    }
    if !has(module) {
        bail!("it was installed but cannot be imported");
    }
    Ok(python)
}

/// The versions of the modules that are installed.
pub(super) fn module_versions(folder: &Path) -> Vec<String> {
    let program = "import importlib.metadata as m
for n in ['duckdb', 'chdb']:
    try: print(n, m.version(n))
    except Exception: pass";
    let output = output_of(Command::new(folder.join("python/bin/python")).args(["-c", program]));
    output.unwrap_or_default().lines().map(str::to_owned).collect()
}
