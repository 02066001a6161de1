//! The data plane of Gavel: speaks PostgreSQL's protocol to applications, places each statement on the shards that hold its
//! rows.

pub mod backend;
pub mod control;
pub mod exec;
pub mod frontend;
pub mod http;
pub mod md5_password;
pub mod metrics;
pub mod route;
pub mod scram;
pub mod secrets_file;
pub mod sql;
pub mod tls;
pub mod wire;
pub mod worker;
