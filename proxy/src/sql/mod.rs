//! What a statement says. Pure: no I/O, no clock, no globals.
//!
//! [`extract::analyse`] turns a statement into [`facts::Facts`]; [`cache::Cache`] remembers them for every session.
//! Only `parse` (and the extractor, through it) names the SQL parser; everything else of the proxy sees facts.

pub mod cache;
pub mod calls;
pub mod clocks;
mod command;
pub mod constraints;
pub mod copy_shape;
pub mod extract;
pub mod facts;
pub mod fetch;
pub mod free_database;
pub(crate) mod leavings;
pub mod lexer;
pub mod logins;
pub mod normalise;
mod parse;
mod prepass;
pub mod schema;
pub mod set_config;
pub mod sound;
pub mod spelling;
pub mod sql_prepare;
pub(crate) mod stored;
pub mod times;
pub(crate) mod tokens;

pub use extract::{Context, analyse};
