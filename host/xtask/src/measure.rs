//! What measurements need: the built program, the data, and the commands that are measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{cargo, run_command, target_directory};

/// Builds the program and what makes data, and says where builds go.
///
/// In one command, and without naming a package: an example has cargo take the features that `cargo test` takes, of all
/// the default members, so that what the tests were run on is what is measured, and wasmtime is not compiled again.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let arguments = ["build", "--quiet", "--release", "--bins", "--example", "generate", "--example", "live"];
    run_command(cargo().current_dir(root).args(arguments))?;
    Ok(target_directory(root)?.join("release"))
}

/// A directory of records, made unless it is there already. The name says all that it depends on but the generator, so
/// whoever changes that one removes the folder.
pub(crate) fn data(folder: &Path, built: &Path, records: u64, segments: u64) -> Result<PathBuf> {
    let directory = folder.join(format!("records-{records}-{segments}"));
    if !directory.exists() {
        // A generation that was cut short must not pass for a whole one.
        let partial = folder.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        let counts = [records.to_string(), segments.to_string()];
        run_command(Command::new(built.join("examples/generate")).arg(&partial).args(counts))?;
        fs::rename(&partial, &directory)?;
    }
    Ok(directory)
}

/// Removes what a run leaves in a directory, so that the next one begins at the start.
pub(crate) fn remove_checkpoints(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The script of P4: it reads two fields of each record that its filter keeps.
pub(crate) fn script(directory: &Path) -> String {
    format!(
        "local kumo = require 'kumo'
local tailer = kumo.jsonl.new_tailer({{ directory = {directory:?}, max_batch_size = 1000, checkpoint_name = 'bench',
  follow = false }}, function(r) return r.egress_pool == 'customer-a' or r.egress_pool == 'customer-b' end)
local count, sum = 0, 0
for batch in tailer:batches() do
  for r in batch:iter_records() do count = count + 1; sum = sum + #r.type + r.size end
  batch:commit()
end
print(count, sum)
"
    )
}

/// `tailweir tail` over all that is there, with a filter that is configured for one pool.
pub(crate) fn tail(program: &Path, directory: &Path, filter: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("tail").arg(directory).args(["--once", "--checkpoint", "bench"]);
    command.args(["--max-batch-size", "1000"]);
    command.arg("--filter").arg(filter).args(["--config", r#"{"pool":"customer-a"}"#]);
    command
}
