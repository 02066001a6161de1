//! Subcommands of `gavel`. The only place of the crate that prints.

pub mod config;
pub mod route;
