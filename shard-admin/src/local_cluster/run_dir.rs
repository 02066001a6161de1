//! The directory of a run and its watchdog.
//!
//! Invariant: once the last owner of a [`RunDirectory`] is gone no process of the run is left, and a temporary
//! directory is removed, however our process ends. On an orderly end the nodes stop first (each holds the
//! directory) and the watchdog is released. If our process is killed outright, the watchdog reads the end of its
//! pipe, stops what still runs and removes the directory itself.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::account::Account;
use super::error::Error;

/// Reads until the pipe ends; anything but the word of an orderly end means that the parent died.
/// A process id is believed only if the process was started with this directory on its command line. Proxies hold
/// nothing and are killed; servers are told to end at once, which takes their backends along.
const WATCHDOG: &str = r#"
dir=$1; remove=$2
while read -r word; do [ "$word" = release ] && exit 0; done
ours() { tr '\0' ' ' 2>/dev/null < "/proc/$1/cmdline" | grep -qF -- "$dir"; }
pids=
stop() {
    [ -f "$2" ] && read -r pid < "$2" && ours "$pid" && kill -"$1" "$pid" && pids="$pids $pid"
}
for file in "$dir"/*.pid; do stop KILL "$file"; done
for file in "$dir"/*/*/postmaster.pid; do stop QUIT "$file"; done
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=
    for pid in $pids; do ours "$pid" && left="$left $pid"; done
    [ -z "$left" ] && break
    sleep 0.25
done
for pid in $left; do kill -KILL "$pid"; done
[ "$remove" = remove ] && rm -rf -- "$dir"
"#;

/// Where a run keeps its files.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    temporary: Option<TempDir>,
    watchdog: Child,
}

impl RunDirectory {
    /// A temporary directory, or the given one, which must be empty and is kept at the end.
    pub(crate) fn create(given: Option<&Path>, prefix: &str, account: &Account) -> Result<Self, Error> {
        let (path, temporary) = match given {
            Some(path) => (given_directory(path)?, None),
            None => {
                let root = std::env::temp_dir();
                let directory = tempfile::Builder::new()
                    .prefix(prefix)
                    .tempdir_in(&root)
                    .map_err(|source| Error::io("create a directory in", &root, source))?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        account.allow_passage(&path)?;
        account.check_reach(&path)?;
        let watchdog = start_watchdog(&path, temporary.is_some())?;
        Ok(Self { path, temporary, watchdog })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it vanishes at the end.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            // A watchdog that is gone needs no word.
            let _ = pipe.write_all(b"release\n");
        }
        let _ = self.watchdog.wait();
        if let Some(directory) = self.temporary.take()
            && let Err(error) = directory.close()
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the directory");
        }
    }
}

fn given_directory(path: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::io("create", path, source))?;
    let mut entries = std::fs::read_dir(path).map_err(|source| Error::io("read", path, source))?;
    if entries.next().is_some() {
        return Err(Error::NotEmpty { path: path.to_owned() });
    }
    path.canonicalize().map_err(|source| Error::io("find", path, source))
}

fn start_watchdog(path: &Path, remove: bool) -> Result<Child, Error> {
    Command::new("/bin/sh")
        .args(["-c", WATCHDOG, "gavel-watchdog"])
        .arg(path)
        .arg(if remove { "remove" } else { "keep" })
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| Error::io("start the watchdog of", path, source))
}
