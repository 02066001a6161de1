//! The data plane of Gavel.

pub mod route;
pub mod sql;
