//! The data plane of Gavel: speaks PostgreSQL's protocol to applications, places each statement on the shards that hold its
//! rows.

pub mod admin;
pub mod backend;
pub mod cli;
pub mod control;
pub mod exec;
pub mod frontend;
pub mod gather;
pub mod http;
pub mod listener;
pub mod md5_password;
pub mod metrics;
pub mod route;
pub mod run;
pub mod scram;
pub mod secrets_file;
pub mod signals;
pub mod sql;
#[cfg(test)]
mod testing;
pub mod text_file;
pub mod tls;
pub mod wire;
pub mod worker;
