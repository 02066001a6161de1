//! The side of applications.

pub mod auth;
pub mod handshake;
pub mod secrets;
