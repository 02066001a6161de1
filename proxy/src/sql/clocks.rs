//! Functions and keywords that tell the time of the transaction or the statement: one PostgreSQL would read its clock once.
//!
//! `clock_timestamp()` and `timeofday()` are not among them: they go on within a statement, and the catalog calls them volatile.

/// Their names, in lower case.
pub const CLOCKS: [&str; 8] = [
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "current_timestamp",
    "localtimestamp",
    "current_date",
    "current_time",
    "localtime",
];

/// Whether `name` is one of them; `name()` is too.
pub fn is_clock(name: &str) -> bool {
    CLOCKS.contains(&name.strip_suffix("()").unwrap_or(name))
}
