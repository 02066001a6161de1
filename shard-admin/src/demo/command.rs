//! The command of `--exec`: run against the demo, its status becomes ours.

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long the command may take to end after a signal.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The running command.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// Its process group, unless it shares ours to own the terminal.
    group: Option<Pid>,
}

impl Running {
    /// Starts `sh -c command`. With a terminal it stays in the foreground group, so that psql and editors work; without
    /// one it gets a group of its own, so that all that it started can be ended.
    pub(super) fn start(command: &str, environment: &[(&str, String)]) -> std::io::Result<Self> {
        let interactive = std::io::stdin().is_terminal();
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).kill_on_drop(true);
        shell.envs(environment.iter().map(|(name, value)| (name, value)));
        if !interactive {
            shell.process_group(0);
        }
        let child = shell.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        Ok(Self { child, group: pid.filter(|_| !interactive) })
    }

    /// Waits for its end. Cancel safe.
    pub(super) async fn wait(&mut self) -> std::io::Result<u8> {
        self.child.wait().await.map(status_byte)
    }

    /// Whether a Ctrl-C at the terminal has reached it without us.
    pub(super) fn shares_terminal(&self) -> bool {
        self.group.is_none()
    }

    /// Ends it: politely, then for certain.
    pub(super) async fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            // It cannot refuse this one.
            let _ = self.child.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // The only failure is that nobody is left.
            let _ = killpg(group, signal);
        } else if let Some(pid) = self.child.id() {
            crate::local_cluster::send(pid, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What the command has left in the background goes with it.
        self.signal(Signal::SIGKILL);
    }
}

/// As shells report it: 128 and the signal for a killed one.
fn status_byte(status: ExitStatus) -> u8 {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_status_is_passed_on() {
        for (command, expected) in [("true", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
            let mut running = Running::start(command, &[]).expect("start");
            assert_eq!(running.wait().await.expect("wait"), expected, "{command}");
        }
    }

    #[tokio::test]
    async fn the_environment_is_passed_on_and_the_end_is_certain() {
        let environment = [("ANSWER", "42".to_owned())];
        let mut running = Running::start("test \"$ANSWER\" = 42", &environment).expect("start");
        assert_eq!(running.wait().await.expect("wait"), 0);
        let mut running = Running::start("sleep 1000", &[]).expect("start");
        running.end().await;
        assert_ne!(running.wait().await.expect("wait"), 0);
    }
}
