//! The directory of a run and its watchdog.
//!
//! Invariant: once the last owner of a [`RunDirectory`] is gone no process of the run is left, and a temporary
//! directory is removed, however our process ends. On an orderly end the nodes stop first (each holds the
//! directory) and the watchdog is released. If our process is killed outright, the watchdog reads the end of its
//! pipe, stops what still runs and removes the directory itself.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::account::{Account, write_private};
use super::error::Error;

/// Reads until the pipe ends; anything but the word of an orderly end means that the parent died.
/// A process id is believed only if the process was started with this directory on its command line. Proxies hold
/// nothing and are killed, as is initdb, whose children end with it but may write on for a moment: files are removed until none
/// come after. Servers are told to end at once, which takes their backends along.
const WATCHDOG: &str = r#"
dir=$1; remove=$2
while read -r word; do [ "$word" = release ] && exit 0; done
ours() { tr '\0' ' ' 2>/dev/null < "/proc/$1/cmdline" | grep -qF -- "$dir"; }
pids=
stop() {
    [ -f "$2" ] && read -r pid < "$2" && ours "$pid" && kill -"$1" "$pid" && pids="$pids $pid"
}
for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    [ "$(cat "$entry/comm" 2>/dev/null)" = initdb ] && ours "$pid" && kill -KILL "$pid"
done
for file in "$dir"/*.pid; do stop KILL "$file"; done
for file in "$dir"/*/*/postmaster.pid; do stop QUIT "$file"; done
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=
    for pid in $pids; do ours "$pid" && left="$left $pid"; done
    [ -z "$left" ] && break
    sleep 0.25
done
for pid in $left; do kill -KILL "$pid"; done
[ "$remove" = remove ] || exit 0
for try in 1 2 3 4 5 6 7 8; do
    rm -rf -- "$dir" && break
    sleep 0.25
done
"#;

/// Where a run keeps its files.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    temporary: Option<TempDir>,
    earlier: Option<Shape>,
    watchdog: Child,
    /// The directory, locked: no other run uses it meanwhile.
    _lock: File,
}

/// What a directory that stays has in it, once its cluster has come up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) shards: usize,
    pub(super) replicas: usize,
    pub(super) password: String,
}

/// The file with the [`Shape`].
const SHAPE_FILE: &str = "cluster.json";

impl RunDirectory {
    /// A temporary directory, or the given one, which stays at the end and is empty or has an earlier cluster in it.
    pub(crate) fn create(given: Option<&Path>, prefix: &str, account: &Account) -> Result<Self, Error> {
        let (path, temporary) = match given {
            Some(path) => (absolute(path)?, None),
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
        let lock = lock(&path)?;
        let earlier = read_shape(&path)?;
        let watchdog = start_watchdog(&path, temporary.is_some())?;
        Ok(Self { path, temporary, earlier, watchdog, _lock: lock })
    }

    /// The cluster of an earlier run that is here.
    pub(super) fn earlier(&self) -> Option<&Shape> {
        self.earlier.as_ref()
    }

    /// Remembers that the cluster is complete, for the next run.
    pub(super) fn remember(&self, shape: &Shape) -> Result<(), Error> {
        if self.is_temporary() {
            return Ok(());
        }
        let path = self.path.join(SHAPE_FILE);
        let text = serde_json::to_string(shape).map_err(|source| Error::io("write", &path, source.into()))?;
        write_private(&path, &text)
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

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(path).map_err(|source| Error::io("create", path, source))?;
    path.canonicalize().map_err(|source| Error::io("find", path, source))
}

/// Locks the directory itself, so that no file of ours is in the way of what belongs there.
fn lock(directory: &Path) -> Result<File, Error> {
    let failed = |source| Error::io("lock", directory, source);
    let opened = File::open(directory).map_err(failed)?;
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// `None` for an empty directory; anything that is not a finished cluster is refused.
fn read_shape(directory: &Path) -> Result<Option<Shape>, Error> {
    let mut entries = fs::read_dir(directory).map_err(|source| Error::io("read", directory, source))?;
    if entries.next().is_none() {
        return Ok(None);
    }
    let text = fs::read_to_string(directory.join(SHAPE_FILE)).unwrap_or_default();
    serde_json::from_str(&text).map(Some).map_err(|_| Error::NotEmpty { path: directory.to_owned() })
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
