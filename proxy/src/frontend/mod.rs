//! Sessions: one per application connection, from login to Terminate.

pub mod acquire;
pub mod auth;
pub mod cancel;
mod catalog_checks;
pub mod control;
pub mod draws;
pub mod effects;
pub mod failure;
pub mod floor;
pub mod handshake;
pub mod io;
pub mod listening;
pub mod names;
mod opening;
pub mod own_catalog;
pub mod param_types;
pub mod pipeline;
mod plain;
pub mod planning;
pub mod secrets;
pub mod serve;
pub mod session;
pub mod settle;
pub mod simple;
pub mod sql_prepare;
pub mod transaction;
pub mod watch;
