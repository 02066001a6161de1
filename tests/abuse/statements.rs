//! SQL that is meant to break a parser: nested, endless, never closed.

use tests::wire::{Login, Wire};
use tests::wire_message as message;

use crate::Abuse;

pub(crate) const LIST: &[Abuse] = &[
    ("nested 100,000 deep, simple", nested_simple),
    ("nested 100,000 deep, extended", nested_extended),
    ("never closed", never_closed),
    ("100,000 statements in one", many_statements),
    ("a list of a million", long_list),
];

const DEPTH: usize = 100_000;

/// Texts nested as deeply as the promise says.
fn nested() -> Vec<String> {
    let around = |open: &str, middle: &str, close: &str| {
        format!("select {}{middle}{}", open.repeat(DEPTH), close.repeat(DEPTH))
    };
    vec![
        around("(", "1", ")"),
        around("(select ", "1", ")"),
        around("not ", "true", ""),
        around("- ", "1", ""),
        around("case when true then ", "1", " end"),
        around("array[", "1", "]"),
        around("abs(", "1", ")"),
        around("1 + ", "1", ""),
        around("true or ", "true", ""),
        around("'a' || ", "'a'", ""),
        around("1::int", "", "::int"),
        around("(", "", ""),
        around("", "1", ")"),
        format!("select * from {}items{}", "(select * from ".repeat(DEPTH), ") x".repeat(DEPTH)),
        format!("select 1 {}", "union all select 1 ".repeat(DEPTH)),
        format!("select x{}", ".x".repeat(DEPTH)),
        format!("select x{}", "[1]".repeat(DEPTH)),
        format!("{}select 1", "explain ".repeat(DEPTH)),
        format!("{}select 1{}", "with a as (".repeat(DEPTH), ") select 1".repeat(DEPTH)),
        format!("select * from a {}", "join a on true ".repeat(DEPTH)),
        format!("select 1 where {}", "exists (select 1 where ".repeat(DEPTH)),
    ]
}

fn beginning(sql: &str) -> &str {
    sql.get(..40).unwrap_or(sql)
}

fn nested_simple(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    for sql in nested() {
        let frames = wire.query(&sql).unwrap_or_else(|error| panic!("{}: {error}", beginning(&sql)));
        let last = frames.last().map(|frame| frame.tag);
        assert_eq!(last, Some(b'Z'), "{}…: the session ended", beginning(&sql));
    }
}

fn nested_extended(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    for sql in nested() {
        wire.send(&[message::parse("", &sql, &[]), message::sync()].concat()).expect("sent");
        let frames = wire.read_until_ready(1).unwrap_or_else(|error| panic!("{}: {error}", beginning(&sql)));
        let last = frames.last().map(|frame| frame.tag);
        assert_eq!(last, Some(b'Z'), "{}…: the session ended", beginning(&sql));
    }
}

fn never_closed(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    let long = "x".repeat(1_000_000);
    let openings =
        ["'", "\"", "$$", "$a$", "/*", "E'\\", "U&'", "--", "(", "$", "b'", "1e", "::", "@", "/*/*"];
    for opening in openings {
        let frames = wire.query(&format!("select {opening}{long}")).expect("an answer");
        assert_eq!(frames.last().map(|frame| frame.tag), Some(b'Z'), "{opening}");
        let frames = wire.query(opening).expect("an answer");
        assert_eq!(frames.last().map(|frame| frame.tag), Some(b'Z'), "{opening}");
    }
}

fn many_statements(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    for (statement, count) in [(";", 1_000_000), ("select;", 10_000), ("selec;", 100_000)] {
        let frames = wire.query(&statement.repeat(count)).expect("an answer");
        assert_eq!(frames.last().map(|frame| frame.tag), Some(b'Z'), "{statement}");
    }
}

fn long_list(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    let list = vec!["7"; 1_000_000].join(",");
    let rows = wire.rows(&format!("select 7 in ({list})")).expect("an answer");
    assert_eq!(rows, vec![vec![Some("t".to_owned())]]);
}
