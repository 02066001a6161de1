//! The data plane of Gavel.

pub mod backend;
pub mod frontend;
pub mod md5_password;
pub mod route;
pub mod scram;
pub mod secrets_file;
pub mod sql;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod wire;
