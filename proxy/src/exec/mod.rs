//! Runs plans: on one shard, on several, in one transaction over them.

pub mod ask;
pub mod bind;
pub mod combine;
pub mod copy_in;
pub mod copy_split;
pub mod cursors;
pub mod draw;
mod explain;
mod fill;
mod gather;
mod limited;
mod merge;
mod merge_rows;
mod merged_walk;
mod moves;
pub mod password;
mod read_first;
mod rounds;
pub mod single;
pub mod spread;
mod stop;
mod together;
pub mod two_phase;
pub mod walk;
mod whole;
mod with_writes;
