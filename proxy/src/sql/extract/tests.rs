//! Facts of statements, as tables of expectations: `group` lines say what a key is pinned to, `!` lines why shards'
//! answers cannot be concatenated.

mod support;

mod inserts;
mod pins;
mod reads;
mod session;
mod unreadable;
