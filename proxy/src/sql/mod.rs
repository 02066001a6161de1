//! What a statement says. Pure: no I/O, no clock, no globals.
//!
//! [`analyse`](cache) turns a text into [`facts::Facts`] once; every session shares them. Only `parse` names the
//! SQL parser; everything else of the proxy sees facts.

pub mod facts;
pub mod schema;
