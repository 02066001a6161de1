//! Support for the tests: clusters, wire clients, waiting.

pub mod answer;
pub mod cluster;
pub mod random;
pub mod refusals;
pub mod script;
pub mod wire;
pub mod wire_message;
pub mod wire_print;
