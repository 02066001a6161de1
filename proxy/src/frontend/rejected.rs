//! Logins that come to nothing: how they are counted, and their line in the log: whose, from where, why.
//!
//! Invariant: the line never has a password or the value of a setting in it, and is one line whatever the names are.

use std::net::SocketAddr;

use crate::metrics::Metrics;
use crate::wire::startup::Claim;

/// What stands for a text that may be a setting's value.
const MASK: &str = "********";

/// Counts one, with the error that the application was told, and logs it.
pub fn note(metrics: &Metrics, (claim, peer): (&Claim, SocketAddr), (sqlstate, why): (&str, &str)) {
    metrics.rejected.inc();
    metrics.error(sqlstate);
    log(claim, peer, &format!("{why} ({sqlstate})"));
}

/// Its line.
pub fn log(claim: &Claim, peer: SocketAddr, why: &str) {
    let said = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let (user, database) = (said(&claim.user), said(&claim.database));
    let why: String = why.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    tracing::info!(user, database, %peer, "login failed: {why}");
}

/// What PostgreSQL says about a setting, without its value: only `known` names (roles, databases, settings) stay in their quotes,
/// numbers outside of them go.
pub fn without_values(message: &str, known: &[&str]) -> String {
    let is_known = |text: &str| known.iter().any(|name| name.eq_ignore_ascii_case(text));
    let mut shown = String::new();
    let mut rest = message;
    while let Some((before, quoted)) = rest.split_once('"') {
        push_without_numbers(&mut shown, before);
        shown.push('"');
        match quoted.split_once('"') {
            Some((name, after)) if is_known(name) => {
                shown.push_str(name);
                rest = after;
            }
            // PostgreSQL does not mark quotes within a value: it may go up to the last one.
            _ => {
                shown.push_str(MASK);
                rest = quoted.rsplit_once('"').map_or("", |(_, after)| after);
            }
        }
        shown.push('"');
    }
    push_without_numbers(&mut shown, rest);
    shown
}

fn push_without_numbers(shown: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '0'..='9' if shown.ends_with('#') => {}
            '0'..='9' => shown.push('#'),
            _ => shown.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_and_values_go() {
        let known = ["al", "auction", "timezone", "work_mem"];
        for (message, expected) in [
            (
                "invalid value for parameter \"TimeZone\": \"Mars\"",
                "invalid value for parameter \"TimeZone\": \"********\"",
            ),
            (
                "invalid value for parameter \"work_mem\": \"a\"b\"c\"",
                "invalid value for parameter \"work_mem\": \"********\"",
            ),
            (
                "invalid value for parameter \"work_mem\": \"a\"b",
                "invalid value for parameter \"work_mem\": \"********\"b",
            ),
            ("role \"nosuch\" does not exist", "role \"********\" does not exist"),
            ("permission denied for role \"al\"", "permission denied for role \"al\""),
            (
                "17 kB is outside the valid range for parameter \"work_mem\" (64 .. 2147483647)",
                "# kB is outside the valid range for parameter \"work_mem\" (# .. #)",
            ),
            ("no quotes", "no quotes"),
            ("open \"work_mem", "open \"********\""),
        ] {
            assert_eq!(without_values(message, &known), expected);
        }
    }
}
