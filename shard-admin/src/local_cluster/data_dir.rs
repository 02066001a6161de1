//! Data directories: initialised once, copied for replicas, configured by files of ours.
//!
//! A primary's directory is initialised by itself rather than copied from another shard's, because the copy would
//! bear the same system identifier and two shards could no longer be told apart. A replica *is* such a copy. Tests
//! keep initialised directories, one per shard number, and copy those.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::{Account, write_private};
use super::binaries::Binaries;
use super::error::Error;
use super::{Authentication, Blueprint, USER};

/// Name of our settings file, included at the end of `postgresql.conf`.
const SETTINGS_FILE: &str = "gavel.conf";

/// Makes the directory of a primary, from the cache if the blueprint names one.
pub(super) fn initialise(blueprint: &Blueprint, index: usize, directory: &Path) -> Result<(), Error> {
    let account = &blueprint.account;
    account.private_directory(directory)?;
    let Some(cache) = &blueprint.template_cache else {
        return initdb(blueprint, directory);
    };
    let template = cache.join(format!("{}-{index}", blueprint.binaries.version()?));
    if !template.is_dir() {
        initdb(blueprint, directory)?;
        return keep_template(directory, &template, index);
    }
    copy(&template, directory, account)
}

/// Makes the directory of a replica: the primary's, before it has ever run.
pub(super) fn clone_for_replica(primary: &Path, replica: &Path, account: &Account) -> Result<(), Error> {
    account.private_directory(replica)?;
    copy(primary, replica, account)?;
    let signal = replica.join("standby.signal");
    write_private(&signal, "")?;
    account.own(&signal)
}

/// What a node's settings file says beyond the common part.
pub(super) struct NodeSettings<'a> {
    /// Shown in `ps`.
    pub(super) name: &'a str,
    pub(super) port: u16,
    /// `primary_conninfo` and the name of the replication slot there.
    pub(super) follows: Option<(String, String)>,
}

/// Writes `gavel.conf` and `pg_hba.conf`, and the line that includes the former.
pub(super) fn configure(
    blueprint: &Blueprint,
    directory: &Path,
    node: &NodeSettings<'_>,
) -> Result<(), Error> {
    let mut lines = vec![
        "# Written by Gavel at each start; settings of your own go below the include in postgresql.conf."
            .to_owned(),
        format!("cluster_name = {}", quote(node.name)),
        format!("port = {}", node.port),
        format!("fsync = {}", if blueprint.fsync { "on" } else { "off" }),
    ];
    lines.extend(COMMON.iter().map(|&line| line.to_owned()));
    if let Some((conninfo, slot)) = &node.follows {
        lines.push(format!("primary_conninfo = {}", quote(conninfo)));
        lines.push(format!("primary_slot_name = {}", quote(slot)));
    }
    lines.extend(blueprint.settings.iter().map(|(name, value)| format!("{name} = {}", quote(value))));
    let settings = directory.join(SETTINGS_FILE);
    write_private(&settings, &(lines.join("\n") + "\n"))?;
    blueprint.account.own(&settings)?;
    let access = directory.join("pg_hba.conf");
    write_private(&access, &host_rules(blueprint.authentication))?;
    blueprint.account.own(&access)?;
    include_settings(directory)
}

/// 300 connections and prepared transactions as the proxy's pools and two-phase commits want them; small memory,
/// because a dozen servers may share a laptop; logical WAL, because shards can be moved.
const COMMON: &[&str] = &[
    "listen_addresses = '127.0.0.1'",
    "unix_socket_directories = ''",
    "max_connections = 300",
    "max_prepared_transactions = 300",
    "wal_level = logical",
    "hot_standby = on",
    "max_wal_senders = 20",
    "max_replication_slots = 20",
    "wal_retrieve_retry_interval = '200ms'",
    "shared_buffers = '32MB'",
    "min_wal_size = '32MB'",
    "max_wal_size = '512MB'",
    "password_encryption = 'scram-sha-256'",
    "logging_collector = off",
    "log_line_prefix = '%m [%p] %q%u@%d %a '",
];

fn host_rules(authentication: Authentication) -> String {
    let method = match authentication {
        Authentication::Trust => "trust",
        Authentication::Scram => "scram-sha-256",
    };
    ["all", "replication"].map(|database| format!("host {database} all 127.0.0.1/32 {method}\n")).concat()
}

fn include_settings(directory: &Path) -> Result<(), Error> {
    let main = directory.join("postgresql.conf");
    let mut text = fs::read_to_string(&main).map_err(|source| Error::io("read", &main, source))?;
    let line = format!("include '{SETTINGS_FILE}'");
    if !text.lines().any(|existing| existing == line) {
        text.push_str(&format!("\n{line}\n"));
        fs::write(&main, text).map_err(|source| Error::io("write", &main, source))?;
    }
    Ok(())
}

/// A value of a settings file.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

fn initdb(blueprint: &Blueprint, directory: &Path) -> Result<(), Error> {
    let password_file = directory.with_extension("password");
    write_private(&password_file, &blueprint.password)?;
    blueprint.account.own(&password_file)?;
    let result = run_initdb(&blueprint.binaries, &blueprint.account, directory, &password_file);
    fs::remove_file(&password_file).map_err(|source| Error::io("remove", &password_file, source))?;
    result
}

fn run_initdb(
    binaries: &Binaries,
    account: &Account,
    directory: &Path,
    password: &Path,
) -> Result<(), Error> {
    let program = binaries.program("initdb");
    let mut command = Command::new(&program);
    // The files are synced by the first checkpoint; until then there is nothing to lose.
    command.args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust"]);
    command.arg(format!("--username={USER}")).arg("--pwfile").arg(password).arg("-D").arg(directory);
    command.current_dir("/").stdin(Stdio::null());
    account.apply(&mut command);
    let output = command.output().map_err(|source| Error::io("run", &program, source))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Error::Program {
        program: program.display().to_string(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&said).into_owned(),
    })
}

/// Copies a fresh directory into the cache; whoever renames first wins, the others throw theirs away.
fn keep_template(directory: &Path, template: &Path, index: usize) -> Result<(), Error> {
    let unique = format!("making-{}-{index}-{:x}", std::process::id(), rand::random::<u32>());
    let making = template.with_file_name(unique);
    fs::create_dir_all(&making).map_err(|source| Error::io("create", &making, source))?;
    copy_tree(directory, &making, &|_| Ok(()))?;
    if fs::rename(&making, template).is_err() {
        fs::remove_dir_all(&making).map_err(|source| Error::io("remove", &making, source))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, account: &Account) -> Result<(), Error> {
    copy_tree(from, to, &|path| account.own(path))
}

/// Copies a directory that no server uses, and gives each file to its new owner.
fn copy_tree(from: &Path, to: &Path, own: &dyn Fn(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = pending.pop() {
        let entries = fs::read_dir(&from).map_err(|source| Error::io("read", &from, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| Error::io("read", &from, source))?;
            let (source_path, target) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().map_err(|source| Error::io("read", &source_path, source))?;
            if kind.is_dir() {
                fs::create_dir(&target)
                    .and_then(|()| fs::set_permissions(&target, fs::Permissions::from_mode(0o700)))
                    .map_err(|source| Error::io("create", &target, source))?;
                pending.push((source_path, target.clone()));
            } else {
                fs::copy(&source_path, &target).map_err(|source| Error::io("copy", &source_path, source))?;
            }
            own(&target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        assert_eq!(quote(r"it's a \ password"), r"'it''s a \\ password'");
    }

    #[test]
    fn a_tree_is_copied_with_contents() {
        let root = tempfile::tempdir().expect("temporary directory");
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("base/1")).expect("create");
        fs::create_dir(&to).expect("create");
        fs::write(from.join("base/1/PG_VERSION"), "15").expect("write");
        copy_tree(&from, &to, &|_| Ok(())).expect("copy");
        assert_eq!(fs::read_to_string(to.join("base/1/PG_VERSION")).expect("read"), "15");
    }

    #[test]
    fn settings_are_included_once() {
        let root = tempfile::tempdir().expect("temporary directory");
        let main = root.path().join("postgresql.conf");
        fs::write(&main, "port = 5432").expect("write");
        include_settings(root.path()).expect("first");
        include_settings(root.path()).expect("second");
        assert_eq!(fs::read_to_string(&main).expect("read"), "port = 5432\ninclude 'gavel.conf'\n");
    }
}
