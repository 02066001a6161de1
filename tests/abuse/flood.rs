//! Too much of it: connections, messages, answers that nobody reads.

use std::time::{Duration, Instant};

use tests::wire::{Login, Wire};
use tests::wire_message as message;

use crate::Abuse;

pub(crate) const LIST: &[Abuse] = &[
    ("100,000 syncs", syncs),
    ("an answer of gigabytes that nobody reads", unread),
    ("a message of 100 MB", large_message),
    ("a storm of logins", storm),
    ("statements without end", statements),
    ("a large message, given up half way", half_a_large_message),
];

/// Connections that say nothing, a little, or half a startup message, and stay.
pub(crate) fn half_open(login: &Login, count: usize) -> Vec<Wire> {
    let startup = login.startup();
    (0..count)
        .map(|number| {
            let mut wire = Wire::connect(login.address).unwrap_or_else(|error| panic!("{number}: {error}"));
            let part = [0, 1, 4, 7, startup.len() / 2, startup.len()][number % 6];
            // Those that are turned away over a limit do not matter.
            _ = wire.send(&startup[..part]);
            wire
        })
        .collect()
}

fn syncs(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    wire.send(&message::sync().repeat(100_000)).expect("sent");
    let frames = wire.read_until_ready(100_000).expect("answers");
    assert_eq!(frames.len(), 100_000);
}

fn unread(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    let sql = "select repeat('x', 1000000) from generate_series(1, 4000)";
    wire.send(&message::query(sql)).expect("sent");
    // The first rows are on their way; then the reader sleeps, and leaves.
    _ = wire.frame(Duration::from_secs(10)).expect("a row description");
    let until = Instant::now() + Duration::from_secs(1);
    let mut other = Wire::login(login).expect("login");
    while Instant::now() < until {
        other.rows("select 1").expect("others are served");
    }
    drop(wire);
}

fn large_message(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    wire.rows("create temp table large_message (id int, t text)").expect("a table");
    wire.send(&message::query("copy large_message from stdin")).expect("sent");
    assert_eq!(wire.frame(Duration::from_secs(10)).expect("an answer").expect("open").tag, b'G');
    let row = format!("1\t{}\n", "y".repeat(99_997));
    wire.send(&message::copy_data(row.repeat(1000).as_bytes())).expect("sent");
    wire.send(&message::copy_done()).expect("sent");
    let frames = wire.read_until_ready(1).expect("an answer");
    assert_eq!(frames[0].body, b"COPY 1000\0");
    let sql = format!("select length('{}')", "z".repeat(50_000_000));
    assert_eq!(wire.rows(&sql).expect("an answer"), vec![vec![Some("50000000".to_owned())]]);
}

fn half_a_large_message(login: &Login) {
    for tag in *b"QPBd" {
        let mut wire = Wire::login(login).expect("login");
        _ = wire.send(&message::lying_frame(tag, 500_000_000, &vec![b'x'; 5_000_000]));
        drop(wire);
    }
}

fn storm(login: &Login) {
    for _ in 0..20 {
        let wires: Vec<_> = (0..20).map(|_| Wire::connect(login.address).expect("accepted")).collect();
        for mut wire in wires {
            wire.greet(login).expect("login");
            assert_eq!(wire.greeting.last().map(|frame| frame.tag), Some(b'Z'));
        }
    }
}

fn statements(login: &Login) {
    let mut wire = Wire::login(login).expect("login");
    for number in 0..5_000 {
        wire.send(&message::parse(&format!("s{number}"), &format!("select {number}"), &[])).expect("sent");
    }
    wire.send(&message::sync()).expect("sent");
    let frames = wire.read_until_ready(1).expect("answers");
    assert_eq!(frames.len(), 5_001);
    wire.send(&[message::bind("", "s4999", &[], &[]), message::execute("", 0), message::sync()].concat())
        .expect("sent");
    let frames = wire.read_until_ready(1).expect("answers");
    assert_eq!(frames.iter().map(|frame| frame.tag).collect::<Vec<_>>(), b"2DCZ");
}
