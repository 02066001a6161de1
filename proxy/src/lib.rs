//! The data plane of Gavel.

pub mod cli;
pub mod route;
pub mod sql;
