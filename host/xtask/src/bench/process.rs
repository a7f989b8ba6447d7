//! Running a command and seeing what it took.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a process took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) wall: Duration,
    /// The most memory it had, in MiB.
    pub(super) peak_mib: f64,
}

/// Runs a command with its output thrown away, and fails if the command does.
pub(super) fn run(command: &mut Command) -> Result<Usage> {
    command.stdout(Stdio::null());
    wait(Running::start(command)?)
}

/// What a command wrote.
pub(super) struct Output {
    pub(super) lines: u64,
    /// The beginning.
    pub(super) head: String,
}

/// Runs a command and looks at its output. That is not kept: the memory of this process at the start of another one counts
/// as that one's.
pub(super) fn output(command: &mut Command) -> Result<Output> {
    command.stdout(Stdio::piped());
    let mut running = Running::start(command)?;
    let mut stdout = running.child.stdout.take().context("no pipe")?;
    let (mut output, mut buffer) = (Output { lines: 0, head: String::new() }, vec![0; 1 << 16]);
    loop {
        let read = stdout.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        if output.head.is_empty() {
            output.head = String::from_utf8_lossy(&buffer[..read.min(1000)]).into_owned();
        }
        output.lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
    }
    wait(running)?;
    Ok(output)
}

/// Runs a command until its first output, and ends it. Returns how long that took.
pub(super) fn first_output(command: &mut Command) -> Result<Duration> {
    command.stdout(Stdio::piped());
    let mut running = Running::start(command)?;
    let mut stdout = running.child.stdout.take().context("no pipe")?;
    let read = stdout.read(&mut [0; 4096])?;
    let took = running.begun.elapsed();
    running.child.kill()?;
    running.child.wait()?;
    if read == 0 {
        bail!("`{}` ended without any output", running.name);
    }
    Ok(took)
}

/// A process that has been started.
pub(super) struct Running {
    pub(super) child: Child,
    name: String,
    begun: Instant,
    /// Reads what it says on stderr.
    said: thread::JoinHandle<String>,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{name}`"))?;
        let mut stderr = child.stderr.take().context("no pipe")?;
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            // What could be read before an error is better than nothing.
            let _ = stderr.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        Ok(Self { child, name, begun, said })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Waits for the end of a process, which must be a good one.
fn wait(running: Running) -> Result<Usage> {
    let pid = libc::pid_t::try_from(running.pid())?;
    let mut status = 0;
    // SAFETY: all zeros are a value of this struct of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values of the right type that live until the call returns. The child is not waited for
    // anywhere else, so the process id is still its own.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    let wall = running.begun.elapsed();
    if waited != pid {
        return Err(std::io::Error::last_os_error()).context("cannot wait for a process");
    }
    if status != 0 {
        let said = running.said.join().unwrap_or_default();
        let _ = std::io::stderr().write_all(said.as_bytes());
        bail!("`{}` failed (wait status {status})", running.name);
    }
    Ok(Usage { wall, peak_mib: usage.ru_maxrss as f64 / 1024.0 })
}

/// A figure in KiB that the system has of a process, such as `VmHWM`, in MiB.
pub(super) fn memory_mib(pid: u32, figure: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
    let kib: f64 = line.and_then(|l| l.split_whitespace().next()).context("no such figure")?.parse()?;
    Ok(kib / 1024.0)
}

/// Processor time that a process has used.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th figures behind it.
    let figures: Vec<&str> = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().collect();
    let ticks: u64 = figures[11].parse::<u64>()? + figures[12].parse::<u64>()?;
    // SAFETY: the call has no conditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// The middle one.
pub(super) fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}
