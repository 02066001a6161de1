//! The account that the servers run as: PostgreSQL refuses root, so root lends them `postgres` or `nobody`.
//!
//! Invariant: a file that a server must own is made, then given to the account, before the server starts.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use super::error::Error;

/// Who runs the servers.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    /// `None`: ourselves.
    other: Option<User>,
}

impl Account {
    /// Ourselves, unless we are root.
    pub(crate) fn choose() -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self { other: None });
        }
        let named = |name| User::from_name(name).ok().flatten();
        let user = named("postgres").or_else(|| named("nobody")).ok_or(Error::NoAccount)?;
        Ok(Self { other: Some(user) })
    }

    /// Makes a command run as this account. The standard library drops supplementary groups with it.
    pub(crate) fn apply(&self, command: &mut Command) {
        if let Some(user) = &self.other {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            command.env("HOME", &user.dir).env("USER", &user.name);
        }
    }

    /// Gives one file or directory to the account.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        let Some(user) = &self.other else { return Ok(()) };
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(|source| Error::io("change the owner of", path, source))
    }

    /// Makes a directory that only the account may look into.
    pub(crate) fn private_directory(&self, path: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(path).map_err(|source| Error::io("create", path, source))?;
        set_mode(path, 0o700)?;
        self.own(path)
    }

    /// Lets the account pass through a directory of ours, whatever our umask says, without looking into it.
    pub(crate) fn allow_passage(&self, path: &Path) -> Result<(), Error> {
        if self.other.is_none() {
            return Ok(());
        }
        let metadata = std::fs::metadata(path).map_err(|source| Error::io("look at", path, source))?;
        set_mode(path, metadata.mode() & 0o7777 | 0o011)
    }

    /// Checks that the account can reach `path`, so that the failure names the closed directory and not a symptom.
    pub(crate) fn check_reach(&self, path: &Path) -> Result<(), Error> {
        let Some(user) = &self.other else { return Ok(()) };
        for directory in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            let Ok(metadata) = std::fs::metadata(directory) else { continue };
            let bit = if metadata.uid() == user.uid.as_raw() {
                0o100
            } else if metadata.gid() == user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & bit == 0 {
                return Err(Error::NotTraversable { user: user.name.clone(), path: directory.to_owned() });
            }
        }
        Ok(())
    }
}

/// `chmod`.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|source| Error::io("change the permissions of", path, source))
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let result = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    result.map_err(|source| Error::io("write", path, source))
}
