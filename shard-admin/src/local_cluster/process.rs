//! A child process that is certainly gone once its owner is: signals, waiting with a deadline, the end of its log.
//!
//! Children get a process group of their own, so that Ctrl-C in a terminal reaches only us and the order of
//! stopping stays ours.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// How long a signalled child may take before it is killed, when its owner is dropped.
const DROP_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a log shown in errors.
const TAIL_BYTES: u64 = 4096;

/// A running child with a log file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Sent when the owner goes without having stopped it.
    drop_signal: Signal,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    pub fn spawn(command: &mut Command, log: &Path, drop_signal: Signal) -> io::Result<Self> {
        let output = File::options().append(true).create(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        Ok(Self { child: command.spawn()?, drop_signal })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // An error means that somebody else reaped it, which is an end too.
        self.child.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(0)))
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            send(self.child.id(), signal);
        }
    }

    /// Waits for the end; `false` when the time is over first. Cancel safe.
    pub async fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.ended().is_none() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(self.drop_signal);
        let tries = DROP_LIMIT.as_millis() / POLL.as_millis();
        for _ in 0..tries {
            if self.ended().is_some() {
                return;
            }
            std::thread::sleep(POLL);
        }
        // Nothing is left to do if even this fails: the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process id; a process that is gone is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // The only failure for a child of ours is that it is gone.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Processes whose working directory is `directory`: a server and all its backends, also orphaned ones.
pub(crate) fn processes_in(directory: &Path) -> Vec<u32> {
    let Ok(directory) = directory.canonicalize() else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path): &(u32, PathBuf)| {
            let is_server =
                std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "postgres");
            is_server && std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == directory)
        })
        .map(|(pid, _)| pid)
        .collect()
}

/// The last lines of a log, for error messages.
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(cannot read {}: {error})", log.display()))
}
