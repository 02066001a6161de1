//! Runs plans: on one shard, on several, in one transaction over them.

pub mod bind;
pub mod copy_in;
pub mod copy_split;
pub mod cursors;
pub mod draw;
mod merge;
pub mod password;
mod rounds;
pub mod single;
pub mod spread;
mod together;
pub mod two_phase;
mod whole;
