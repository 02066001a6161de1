//! Fuzz targets: each takes any bytes, feeds them to a decoder and asserts more than that nothing panics.
//!
//! Chunking does not matter, what is written again reads the same, no byte is lost, texts that share facts share plans.

mod copy;
mod files;
pub mod seeds;
mod sql;
mod wire;

/// A target.
pub type Target = fn(&[u8]);

/// All of them.
pub const TARGETS: [(&str, Target); 8] = [
    ("frames", wire::frames),
    ("startup", wire::startup),
    ("scram", wire::scram),
    ("bind", wire::bind),
    ("copy", copy::copy),
    ("sql", sql::sql),
    ("keys", files::keys),
    ("files", files::files),
];

/// Their names.
pub const NAMES: [&str; 8] = ["frames", "startup", "scram", "bind", "copy", "sql", "keys", "files"];

/// The target of this name.
pub fn named(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(n, _)| *n == name).map(|(_, target)| *target)
}

/// A cluster of four shards.
fn topology() -> std::sync::Arc<router_config::topology::Topology> {
    use router_config::topology::{NodeAddress, Shard, Topology};
    static MADE: std::sync::OnceLock<std::sync::Arc<Topology>> = std::sync::OnceLock::new();
    let shard = |n: usize| Shard {
        name: format!("shard-{n}"),
        primary: NodeAddress { host: "127.0.0.1".to_owned(), port: 5432 },
        replicas: Vec::new(),
        weight: 1.0,
    };
    MADE.get_or_init(|| std::sync::Arc::new(Topology::new((1..=4).map(shard).collect()))).clone()
}
