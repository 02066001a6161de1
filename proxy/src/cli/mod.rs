//! Subcommands of `gavel`.

pub mod route;
