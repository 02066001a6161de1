//! The control plane of Gavel: the DBA's tool, and clusters on this machine for the demo and the tests.

pub mod demo;
pub mod local_cluster;
pub mod local_proxy;
pub mod sql_error;
pub mod transactions;
