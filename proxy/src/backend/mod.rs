//! Connections to PostgreSQL: opened, pooled, lent, kept clean.
//!
//! Invariants: a conn goes back to its pool only idle, with nothing owed and no session state left on it, else it is
//! closed; no frame is forwarded that is not owed.

pub mod conn;
pub mod connect;
pub mod copy_trim;
mod events;
pub mod gucs;
pub mod oids;
pub mod owed;
pub mod pool;
pub mod prepared;
pub mod rewritten;
pub mod shape;
pub mod traffic;
pub mod verdict;
