//! The configuration file of a proxy in front of a local cluster.
//!
//! The placement rules are those of the auction house: every table with a column `auction_id` is sharded by it, users
//! and categories are reference tables, all else is unsharded. Additions are merged in: sections key by key, and
//! entries of `[[tables]]`, `[[databases]]`, `[[functions]]` and `[[overrides]]` in front of ours, because the first
//! match wins there.

use std::fmt::Write;
use std::io;
use std::path::Path;

use router_config::file::{self, Mistake};
use toml::de::DeTable;
use toml::{Table, Value};

use crate::local_cluster::{LocalCluster, USER};

/// The database that is spread over the shards.
pub const DATABASE: &str = "auction";

/// What differs between proxies.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Port of the PostgreSQL protocol, on the loopback address.
    pub port: u16,
    /// Port of the metrics, on the loopback address.
    pub metrics_port: u16,
    /// `transaction` or `session`.
    pub pool_mode: String,
    /// More configuration (TOML), merged in.
    pub extra: Option<String>,
}

/// The text of the file. The error tells where the additions are not TOML.
pub(super) fn render(
    cluster: &LocalCluster,
    options: &ProxyOptions,
    password_file: &Path,
) -> Result<String, toml::de::Error> {
    let shards = cluster.shards.iter().map(|shard| Entry {
        name: shard.name.clone(),
        primary: shard.primary.address(),
        replicas: shard.replicas.iter().map(|node| node.address()).collect(),
    });
    let base = base(&shards.collect::<Vec<_>>(), options, password_file);
    let Some(extra) = &options.extra else { return Ok(base) };
    let mut merged: Table = base.parse()?;
    merge(&mut merged, extra.parse()?);
    Ok(format!("# Generated, with additions merged in.\n{merged}"))
}

/// What is wrong with additions for a cluster that is yet to be made: by their own lines, where it can be told.
pub fn mistakes_of_additions(extra: &str, shards: u16, pool_mode: &str) -> Vec<String> {
    let table: Table = match extra.parse() {
        Ok(table) => table,
        Err(error) => return vec![error.to_string().trim_end().to_owned()],
    };
    let taken = taken_addresses(extra);
    if !taken.is_empty() {
        return taken;
    }
    let entry =
        |n| Entry { name: format!("shard-{n}"), primary: format!("127.0.0.1:{n}"), replicas: Vec::new() };
    let options =
        ProxyOptions { port: 6432, metrics_port: 9127, pool_mode: pool_mode.to_owned(), extra: None };
    let entries: Vec<Entry> = (1..=shards).map(entry).collect();
    let base = base(&entries, &options, Path::new(STAND_IN));
    let Ok(mut merged) = base.parse::<Table>() else { return Vec::new() };
    merge(&mut merged, table);
    let mistakes = |text: &str| -> Vec<Mistake> {
        let env = |name: &str| std::env::var(name).ok();
        file::load(text, Path::new(""), &env, &read_absolute).err().unwrap_or_default()
    };
    let own = mistakes(extra);
    let as_merged = mistakes(&merged.to_string());
    let told = as_merged.into_iter().map(|mistake| {
        // Entries that are added come first, and have the same numbers.
        let same = |own: &&Mistake| own.key == mistake.key && own.message == mistake.message;
        match own.iter().find(same) {
            Some(own) => own.to_string(),
            None => format!("{}: {}; {}", mistake.key, mistake.message, mistake.cure),
        }
    });
    told.collect()
}

/// What stands for the file with the password before that is written.
const STAND_IN: &str = "/password";

/// Names relative to the generated file, in a directory that does not exist yet, cannot be meant.
fn read_absolute(path: &Path) -> io::Result<String> {
    if path == Path::new(STAND_IN) {
        Ok("secret".to_owned())
    } else if path.is_absolute() {
        std::fs::read_to_string(path)
    } else {
        Err(io::Error::other("the demo's files are in a directory of their own: write an absolute name"))
    }
}

/// The addresses are chosen by options, and whoever waits for the proxy waits there.
fn taken_addresses(extra: &str) -> Vec<String> {
    let (document, _) = DeTable::parse_recoverable(extra);
    let listen = document.get_ref().get("listen").and_then(|value| value.get_ref().as_table());
    let options = [("address", "--port"), ("metrics", "--metrics-port")];
    let taken = options.into_iter().filter_map(|(key, option)| {
        let at = listen?.get(key)?.span().start;
        let line = extra.get(..at)?.matches('\n').count() + 1;
        Some(format!("line {line}: listen.{key} is the demo's own: choose the port with {option}"))
    });
    taken.collect()
}

/// A shard of the file.
struct Entry {
    name: String,
    primary: String,
    replicas: Vec<String>,
}

fn base(shards: &[Entry], options: &ProxyOptions, password_file: &Path) -> String {
    let mut text = format!(
        r#"# Generated. `gavel config --example` explains every setting.
[listen]
address = "127.0.0.1:{port}"
metrics = "127.0.0.1:{metrics_port}"

[auth]
method = "scram-sha-256" # users and passwords are those of the database
query_user = "{USER}"
query_password_file = {password_file}

[pool]
mode = "{pool_mode}"

[admin]
users = ["{USER}"]

# The database of the auction house is on all shards; any other passes through to the first one.
[[databases]]
name = "{DATABASE}"
kind = "sharded"

[[databases]]
name = "*"
kind = "first_shard"

# Where rows belong. The first match wins; what matches nothing is on the first shard alone.
[[tables]]
column = "auction_id"
kind = "sharded"

[[tables]]
name = "users"
kind = "reference"

[[tables]]
name = "categories"
kind = "reference"
"#,
        port = options.port,
        metrics_port = options.metrics_port,
        pool_mode = options.pool_mode,
        password_file = Value::String(password_file.display().to_string()),
    );
    for Entry { name, primary, replicas } in shards {
        let replicas = Value::Array(replicas.iter().cloned().map(Value::String).collect());
        let entry =
            format!("\n[[shards]]\nname = \"{name}\"\nprimary = \"{primary}\"\nreplicas = {replicas}\n");
        text.write_str(&entry).expect("writing to a String cannot fail");
    }
    text
}

/// Merges `extra` into `base`.
fn merge(base: &mut Table, extra: Table) {
    for (key, value) in extra {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(ours)), Value::Table(theirs)) => merge(ours, theirs),
            (Some(Value::Array(ours)), Value::Array(mut theirs)) if ours.iter().all(Value::is_table) => {
                theirs.append(ours);
                *ours = theirs;
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, extra: &str) -> Table {
        let mut base = base.parse().expect("TOML");
        merge(&mut base, extra.parse().expect("TOML"));
        base
    }

    #[test]
    fn sections_merge_key_by_key() {
        let result =
            merged("[pool]\nmode = 'transaction'\nsize = 20", "[pool]\nsize = 3\n[log]\nlevel = 'debug'");
        let expected = "[pool]\nmode = 'transaction'\nsize = 3\n[log]\nlevel = 'debug'";
        assert_eq!(result, expected.parse().expect("TOML"));
    }

    #[test]
    fn mistakes_in_additions_have_their_own_lines() {
        let told = |extra: &str| mistakes_of_additions(extra, 2, "transaction");
        let right = "[listen]\nthreads = 2\n[[tables]]\nname = 'notes'\nkind = 'reference'\n\
                     [[overrides]]\nkey = 1\nkey_type = 'bigint'\nshard = 'shard-2'\n";
        assert_eq!(told(right), Vec::<String>::new());
        assert_eq!(
            told("# mine\n[pool]\nszie = 5\n[[tables]]\nname = 'x*'\nkind = 'reference'\n"),
            [
                "line 3, column 1: pool.szie: is not a setting; did you mean \"size\"?",
                "line 5, column 8: tables[1].name: \"x*\" is a pattern; write pattern = \"x*\" instead of name",
            ]
        );
        assert_eq!(
            told("[pool]\nsize = 1\n[listen]\naddress = '127.0.0.1:1'\n"),
            ["line 4: listen.address is the demo's own: choose the port with --port"]
        );
        assert!(told("[pool\n").concat().contains("line 1"), "{:?}", told("[pool\n"));
        assert!(told("[auth]\nusers_file = 'users'\n").concat().contains("write an absolute name"));
    }

    #[test]
    fn added_rules_come_first() {
        let result = merged("[[tables]]\nname = 'a'", "[[tables]]\nname = 'b'\n[[functions]]\nname = 'f'");
        assert_eq!(result["tables"][0]["name"].as_str(), Some("b"));
        assert_eq!(result["tables"][1]["name"].as_str(), Some("a"));
        assert_eq!(result["functions"][0]["name"].as_str(), Some("f"));
    }

    #[test]
    fn plain_lists_are_replaced() {
        let result = merged("[admin]\nusers = ['postgres']", "[admin]\nusers = ['dba']");
        assert_eq!(result["admin"]["users"].as_array().expect("array").len(), 1);
    }
}
