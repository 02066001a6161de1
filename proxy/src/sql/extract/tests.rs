//! Facts of statements, as tables of expectations.
