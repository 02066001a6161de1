//! The side of PostgreSQL.

pub mod connect;
