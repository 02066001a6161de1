//! Runs plans: on one shard, on several, in one transaction over them.

pub mod copy_in;
pub mod single;
