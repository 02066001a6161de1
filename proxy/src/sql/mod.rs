//! What a statement says. Pure: no I/O, no clock, no globals.
//!
//! [`extract::analyse`] turns a statement into [`facts::Facts`]; [`cache::Cache`] remembers them for every session.
//! Only `parse` (and the extractor, through it) names the SQL parser; everything else of the proxy sees facts.

pub mod broadcast;
pub mod cache;
pub mod calls;
pub mod clocks;
pub mod combine;
pub(crate) mod command;
pub mod concealed;
pub mod constraints;
pub mod copy_shape;
pub(crate) mod defining;
pub mod extract;
pub mod facts;
pub mod fetch;
pub mod fill;
pub mod free_database;
pub mod gather_shape;
pub mod insert_rows;
pub mod last_value;
pub(crate) mod leavings;
pub mod lexer;
pub mod logins;
pub mod merge_rows;
pub mod normalise;
mod parse;
mod prepass;
pub mod schema;
pub mod set_config;
pub mod sound;
pub mod sources;
pub mod spelling;
pub mod sql_prepare;
pub(crate) mod stored;
pub mod times;
pub(crate) mod tokens;
pub mod with_writes;

pub use extract::{Context, analyse};
