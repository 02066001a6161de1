//! How rows of several shards become one answer. Pure: bytes in, bytes out.

pub mod decimal;
pub mod fold;
pub mod key;
pub mod merge;
pub mod row;
