//! The map of Gavel: shard keys and PostgreSQL's hashes of them, slots, the ring, the topology at an epoch, settings and
//! the configuration file. Pure: no I/O but the file text that is handed in, no clock, no randomness.

pub mod file;
pub mod hash;
pub mod key;
pub mod ring;
pub mod settings;
pub mod topology;
