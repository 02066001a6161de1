//! Support for the tests: clusters, wire clients, waiting.

pub mod cluster;
