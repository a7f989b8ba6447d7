//! Running a program.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// A program with its arguments.
pub struct Program(Command);

/// How it ended and what it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What was left of its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Program {
    /// The program at this path, with an environment that has no influence on what it logs. Plug-ins that it compiles are
    /// kept beside it, for all tests together.
    pub fn new(path: &str) -> Self {
        let mut command = Command::new(path);
        command.env_remove("TAILWEIR_LOG").env_remove("KUMOD_LOG").stdin(Stdio::null());
        command.env("TAILWEIR_PLUGIN_CACHE", Path::new(path).with_file_name("plugin-cache"));
        Self(command)
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    /// Adds arguments that hold no space.
    #[must_use]
    pub fn args(mut self, arguments: &str) -> Self {
        self.0.args(arguments.split_whitespace());
        self
    }

    /// Runs it in this folder.
    #[must_use]
    pub fn folder(mut self, path: impl AsRef<Path>) -> Self {
        self.0.current_dir(path);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Gives it a file as stdin.
    #[must_use]
    pub fn stdin(mut self, path: PathBuf) -> Self {
        self.0.stdin(std::fs::File::open(path).unwrap());
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let mut child = self.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        Running { child, stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// Runs it to its end.
    pub fn run(self) -> Ended {
        self.start().end()
    }
}

/// A program that runs. It is killed when dropped.
pub struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// The next line of its stdout, without its end; `None` if there is none or it is not whole.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.stdout.as_mut()?.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    }

    /// Closes our end of its stdout.
    pub fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads its stdout to the end and waits for it.
    pub fn end(mut self) -> Ended {
        let mut stdout = Vec::new();
        if let Some(mut rest) = self.stdout.take() {
            rest.read_to_end(&mut stdout).unwrap();
        }
        let mut status: Option<ExitStatus> = None;
        wait_for("the program to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        Ended {
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: self.stderr.take().unwrap().join().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Its stdout, if it ended with exit code 0 and said nothing on stderr.
    ///
    /// # Panics
    /// If it did not.
    pub fn quietly(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""));
        self.stdout
    }

    /// Its stderr, if it ended with this exit code.
    ///
    /// # Panics
    /// If it did not.
    pub fn with_code(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}
