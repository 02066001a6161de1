//! Support for the tests: clusters, wire clients, waiting.
