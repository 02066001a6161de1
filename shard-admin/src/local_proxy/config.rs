//! The configuration file of a proxy in front of a local cluster.
//!
//! The placement rules are those of the auction house: every table with a column `auction_id` is sharded by it, users
//! and categories are reference tables, all else is unsharded. Additions are merged in: sections key by key, and
//! entries of `[[tables]]`, `[[databases]]`, `[[functions]]` and `[[overrides]]` in front of ours, because the first
//! match wins there.

use std::fmt::Write;
use std::path::Path;

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
    let base = base(cluster, options, password_file);
    let Some(extra) = &options.extra else { return Ok(base) };
    let mut merged: Table = base.parse()?;
    merge(&mut merged, extra.parse()?);
    Ok(format!("# Generated, with additions merged in.\n{merged}"))
}

fn base(cluster: &LocalCluster, options: &ProxyOptions, password_file: &Path) -> String {
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
    for shard in &cluster.shards {
        let replicas: Vec<Value> = shard.replicas.iter().map(|node| Value::String(node.address())).collect();
        let (name, primary, replicas) = (&shard.name, shard.primary.address(), Value::Array(replicas));
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
