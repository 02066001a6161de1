//! Finding PostgreSQL's server programs, which distributions keep off PATH.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::Error;

/// The command that installs the servers on Debian and its relatives.
pub const INSTALL_COMMAND: &str = "sudo apt-get install -y postgresql";

/// A directory with `initdb` and `postgres` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Looks where the servers may be: `pg_config --bindir`, PATH, then the highest version of Debian's directories.
    pub fn find() -> Result<Self, Error> {
        let mut candidates: Vec<PathBuf> = pg_config_bindir().into_iter().collect();
        if let Some(path) = std::env::var_os("PATH") {
            candidates.extend(std::env::split_paths(&path));
        }
        candidates.extend(versioned_directories(Path::new("/usr/lib/postgresql")));
        candidates
            .into_iter()
            .find(|directory| has_server(directory))
            .map(|directory| Self { directory })
            .ok_or(Error::NoServer { install: INSTALL_COMMAND })
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What `postgres --version` says, as a file name: the key of cached templates.
    pub(crate) fn version(&self) -> Result<String, Error> {
        let program = self.program("postgres");
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .map_err(|source| Error::io("run", &program, source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.trim().chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect())
    }
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// Both must be side by side: some systems have `initdb` alone on PATH.
fn has_server(directory: &Path) -> bool {
    directory.join("initdb").is_file() && directory.join("postgres").is_file()
}

/// `{root}/{version}/bin`, highest version first.
fn versioned_directories(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .map(|entry| (version_of(&entry.file_name()), entry.path().join("bin")))
        .filter(|(version, _)| !version.is_empty())
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// `9.6` before `15`: by number, not by letter.
fn version_of(name: &OsStr) -> Vec<u32> {
    let Some(name) = name.to_str() else { return Vec::new() };
    name.split('.').map(str::parse).collect::<Result<_, _>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_version_first_and_nonsense_ignored() {
        let root = tempfile::tempdir().expect("temporary directory");
        for name in ["9.6", "15", "17", "common"] {
            std::fs::create_dir_all(root.path().join(name).join("bin")).expect("create");
        }
        let found = versioned_directories(root.path());
        let names: Vec<_> = found
            .iter()
            .map(|path| path.strip_prefix(root.path()).expect("below").display().to_string())
            .collect();
        assert_eq!(names, ["17/bin", "15/bin", "9.6/bin"]);
    }

    #[test]
    fn a_lone_initdb_is_not_a_server() {
        let root = tempfile::tempdir().expect("temporary directory");
        std::fs::write(root.path().join("initdb"), "").expect("write");
        assert!(!has_server(root.path()));
        std::fs::write(root.path().join("postgres"), "").expect("write");
        assert!(has_server(root.path()));
    }

    #[test]
    fn a_missing_server_names_package_and_command() {
        let message = Error::NoServer { install: INSTALL_COMMAND }.to_string();
        assert!(message.contains("`postgresql`"), "{message}");
        assert!(message.contains("sudo apt-get install -y postgresql"), "{message}");
    }
}
