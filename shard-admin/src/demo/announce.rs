//! What the demo says when it is ready: a banner for people, one line of JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::local_cluster::{LocalCluster, LocalNode, USER};
use crate::local_proxy::{DATABASE, LocalProxy};

/// Where everything is.
#[derive(Debug, Serialize)]
pub(super) struct Announcement {
    proxy: Address,
    user: &'static str,
    password: String,
    database: &'static str,
    metrics: String,
    shards: Vec<Shard>,
    config: String,
    data_dir: String,
}

#[derive(Debug, Serialize)]
struct Address {
    host: String,
    port: u16,
}

#[derive(Debug, Serialize)]
struct Shard {
    name: String,
    primary: Address,
    replicas: Vec<Address>,
}

impl Announcement {
    /// Of a running demo.
    pub(super) fn new(cluster: &LocalCluster, proxy: &LocalProxy) -> Self {
        let address = |node: &LocalNode| Address { host: node.host.clone(), port: node.port };
        let shards = cluster.shards.iter().map(|shard| Shard {
            name: shard.name.clone(),
            primary: address(&shard.primary),
            replicas: shard.replicas.iter().map(address).collect(),
        });
        Self {
            proxy: Address { host: proxy.host.clone(), port: proxy.port },
            user: USER,
            password: proxy.password.clone(),
            database: DATABASE,
            metrics: proxy.metrics_url(),
            shards: shards.collect(),
            config: proxy.config_path.display().to_string(),
            data_dir: cluster.directory().display().to_string(),
        }
    }

    /// One line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("plain strings and numbers are always JSON")
    }

    /// The environment of `--exec`: libpq's variables and all the rest as JSON.
    pub(super) fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("PGHOST", self.proxy.host.clone()),
            ("PGPORT", self.proxy.port.to_string()),
            ("PGUSER", self.user.to_owned()),
            ("PGPASSWORD", self.password.clone()),
            ("PGDATABASE", self.database.to_owned()),
            ("GAVEL_DEMO_JSON", self.json()),
        ]
    }

    /// For people. `notes` are lines on what differs from what they may expect.
    pub(super) fn banner(&self, has_data: bool, notes: &[String]) -> String {
        let servers: usize = self.shards.iter().map(|shard| 1 + shard.replicas.len()).sum();
        let mut text = format!(
            "\nGavel: one address for {} in {}.\n\n  psql '{}'\n\n",
            count(servers, "PostgreSQL server"),
            count(self.shards.len(), "shard"),
            self.url(self.database)
        );
        for shard in &self.shards {
            let replicas: Vec<_> = shard.replicas.iter().map(|address| address.port.to_string()).collect();
            let replicas = if replicas.is_empty() { "none".to_owned() } else { replicas.join(", ") };
            line(
                &mut text,
                &shard.name,
                &format!("primary on port {}, replicas: {replicas}", shard.primary.port),
            );
        }
        line(&mut text, "metrics", &self.metrics);
        line(&mut text, "files", &format!("{} (gavel.toml, gavel.log, one log per server)", self.data_dir));
        if has_data {
            text.push_str(LOOK_NEXT);
        }
        for note in notes {
            text.push_str(&format!("\nNote: {note}\n"));
        }
        text.push_str("\nCtrl-C stops everything.\n");
        text
    }

    fn url(&self, database: &str) -> String {
        let Address { host, port } = &self.proxy;
        format!("postgresql://{}:{}@{host}:{port}/{database}", self.user, self.password)
    }
}

const LOOK_NEXT: &str = "
Look next, in psql:
  SELECT title, price FROM auctions WHERE auction_id = 42;              one shard answers
  EXPLAIN (GAVEL) SELECT * FROM bids WHERE auction_id = 42;             which one, and why
  \\d bids                                                               tools see one database
  INSERT INTO auctions (title, seller_id, category_id)
    VALUES ('Pocket watch', 1, 1) RETURNING auction_id;                 new rows find their shard
";

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn line(text: &mut String, label: &str, value: &str) {
    writeln!(text, "  {label:<10}{value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Announcement {
        let address = |port| Address { host: "127.0.0.1".to_owned(), port };
        Announcement {
            proxy: address(6432),
            user: USER,
            password: "secret".to_owned(),
            database: DATABASE,
            metrics: "http://127.0.0.1:9127/metrics".to_owned(),
            shards: vec![Shard {
                name: "shard-1".to_owned(),
                primary: address(1),
                replicas: vec![address(2)],
            }],
            config: "/run/gavel.toml".to_owned(),
            data_dir: "/run".to_owned(),
        }
    }

    #[test]
    fn json_is_one_line_with_every_address() {
        let expected = concat!(
            r#"{"proxy":{"host":"127.0.0.1","port":6432},"user":"postgres","password":"secret","database":"auction","#,
            r#""metrics":"http://127.0.0.1:9127/metrics","shards":[{"name":"shard-1","#,
            r#""primary":{"host":"127.0.0.1","port":1},"replicas":[{"host":"127.0.0.1","port":2}]}],"#,
            r#""config":"/run/gavel.toml","data_dir":"/run"}"#
        );
        assert_eq!(sample().json(), expected);
    }

    #[test]
    fn the_banner_has_a_line_to_paste_and_the_notes() {
        let banner = sample().banner(true, &["port 6432 was taken".to_owned()]);
        assert!(banner.contains("psql 'postgresql://postgres:secret@127.0.0.1:6432/auction'"), "{banner}");
        assert!(banner.contains("one address for 2 PostgreSQL servers in 1 shard."), "{banner}");
        assert!(banner.contains("Note: port 6432 was taken"), "{banner}");
    }
}
