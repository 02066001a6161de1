//! Facts of statements, as tables of expectations: `group` lines say what a key is pinned to, `!` lines why shards'
//! answers cannot be concatenated.

#![allow(clippy::too_many_lines, reason = "a table of expectations is one piece")]

mod support;

mod fuzz;
mod gather;
mod inserts;
mod oracle;
mod pins;
mod reads;
mod session;
mod unreadable;
