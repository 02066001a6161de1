//! The traps of sharding proxies and the points at which PostgreSQL's semantics bite them are numbered; each has a test with its number.

use crate::rust_sources;

/// Traps, and points of semantics.
const KINDS: [(&str, usize); 2] = [("trap", 16), ("pitfall", 20)];

/// Points that cannot be met yet.
const LATER: [&str; 2] = [
    // Leftovers of rows that have moved to another shard, and predicates that hide them: no rows move between shards yet.
    "pitfall_12",
    "pitfall_13",
];

#[test]
fn every_trap_and_every_pitfall_has_a_test_with_its_number() {
    let sources = rust_sources();
    let tests: Vec<&str> = sources
        .iter()
        .flat_map(|source| source.text.lines())
        .filter_map(|line| {
            line.trim_start().strip_prefix("async fn ").or(line.trim_start().strip_prefix("fn "))
        })
        .filter_map(|rest| rest.split_once("()").map(|(name, _)| name))
        .collect();
    let has = |number: &str| tests.iter().any(|name| name.contains(&format!("{number}_")));
    let mut wrong = Vec::new();
    for (kind, last) in KINDS {
        for number in (1..=last).map(|n| format!("{kind}_{n:02}")) {
            match (has(&number), LATER.contains(&number.as_str())) {
                (true, false) | (false, true) => {}
                (true, true) => wrong.push(format!("{number} is met: take it out of the list")),
                (false, false) => wrong.push(format!("{number} has no test")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
