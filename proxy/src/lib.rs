//! The data plane of Gavel.

pub mod control;
pub mod http;
pub mod metrics;
pub mod route;
pub mod sql;
