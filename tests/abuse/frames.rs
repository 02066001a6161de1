//! Abuse of the messages of a session that has logged in.

use tests::wire::{Frame, Login, PATIENCE, Wire};
use tests::wire_message::{self as message, Value};

use crate::Abuse;
use crate::before_login::Noise;

pub(crate) const LIST: &[Abuse] = &[
    ("lengths that lie", lengths),
    ("messages cut at every byte", cut_messages),
    ("garbage in a session", garbage),
    ("every type byte", every_type),
    ("messages in the wrong state", wrong_state),
    ("counts that lie", counts),
    ("bytes that are not UTF-8, and zeros", foreign_bytes),
    ("messages in pieces of every size", pieces),
];

fn log_in(login: &Login) -> Wire {
    Wire::login(login).expect("login")
}

/// After an error in the extended protocol and a Sync the session must be usable.
fn expect_error_then_ready(wire: &mut Wire, what: &str) {
    let frames = wire.read_until_ready(1).unwrap_or_else(|error| panic!("{what}: {error}"));
    let tags: Vec<u8> = frames.iter().map(|frame| frame.tag).collect();
    assert!(tags.contains(&b'E'), "{what}: no error in {tags:?}");
    if tags.last() == Some(&b'Z') {
        wire.rows("select 1").unwrap_or_else(|error| panic!("{what}: unusable after the error: {error}"));
    }
}

fn lengths(login: &Login) {
    for tag in *b"QPBDECSHFdcfXp" {
        for length in [0i32, 1, 2, 3, -1, i32::MIN, i32::MAX, 0x4000_0000] {
            let mut wire = log_in(login);
            _ = wire.send(&message::lying_frame(tag, length, b"select 1\0"));
            let closed = wire.closed_within(PATIENCE);
            assert!(closed, "{} with length {length} was let in", char::from(tag));
        }
        // Allowed lengths, whose end never comes.
        let mut wire = log_in(login);
        _ = wire.send(&message::lying_frame(tag, 0x0fff_ffff, &[b'x'; 4096]));
        drop(wire);
    }
}

fn valid_messages() -> Vec<Vec<u8>> {
    let value = || Value::Text(b"7".to_vec());
    vec![
        message::query("select 1"),
        message::parse("s", "select $1::int", &[23]),
        message::bind("p", "s", &[value()], &[0]),
        message::describe(b'S', "s"),
        message::execute("p", 3),
        message::close(b'P', "p"),
        message::function_call(177, &[value(), value()], 0),
        message::sync(),
        message::copy_data(b"1\t2\n"),
        message::copy_fail("x"),
    ]
}

fn cut_messages(login: &Login) {
    for whole in valid_messages() {
        for length in 1..whole.len() {
            if length > 8 && length % 5 != 0 {
                continue;
            }
            let mut wire = log_in(login);
            wire.send(&whole[..length]).expect("sent");
            drop(wire);
        }
    }
}

fn garbage(login: &Login) {
    let mut noise = Noise(0x5eed_0003);
    for _ in 0..100 {
        let mut wire = log_in(login);
        let length = (noise.next() % 3000) as usize;
        _ = wire.send(&noise.bytes(length));
        drop(wire);
    }
    // Well-formed frames with random bodies.
    for _ in 0..100 {
        let mut wire = log_in(login);
        for _ in 0..20 {
            let tag = b"PBDECHQFd"[(noise.next() % 9) as usize];
            let length = (noise.next() % 200) as usize;
            let body = noise.bytes(length);
            _ = wire.send(&message::frame(tag, &body));
        }
        _ = wire.send(&message::sync());
        _ = wire.read_until_ready(1);
    }
}

fn every_type(login: &Login) {
    for tag in 0..=u8::MAX {
        let mut wire = log_in(login);
        _ = wire.send(&message::frame(tag, b""));
        _ = wire.send(&message::sync());
        let frames = wire.read_until_ready(1).unwrap_or_else(|error| panic!("type {tag:#04x}: {error}"));
        let known = b"QPBDECSHFdcfX".contains(&tag);
        let closed = frames.last().is_none_or(|frame| frame.tag != b'Z');
        assert!(known || closed, "type {tag:#04x} was let in");
    }
}

fn wrong_state(login: &Login) {
    let mut wire = log_in(login);
    let stray = [message::copy_data(b"x\n"), message::copy_done(), message::copy_fail("x"), message::flush()];
    wire.send(&stray.concat()).expect("sent");
    wire.rows("select 1").expect("stray copy messages are ignored");
    let mut wire = log_in(login);
    _ = wire.send(&message::password("nobody asked"));
    _ = wire.send(&message::sync());
    assert!(wire.closed_within(PATIENCE), "a password that nobody asked for was let in");
    for first in [login.startup(), message::cancel(1, b"abcd")] {
        let mut wire = log_in(login);
        _ = wire.send(&first);
        assert!(wire.closed_within(PATIENCE), "a first packet in the middle was let in");
    }
    for intruder in [message::parse("", "select 1", &[]), message::sync(), message::query("select 1")] {
        let mut wire = log_in(login);
        wire.rows("create temp table if not exists abused (a int)").expect("a table");
        wire.send(&message::query("copy abused from stdin")).expect("sent");
        wire.send(&[intruder, message::copy_fail("end"), message::sync()].concat()).expect("sent");
        // Which of them end the COPY is the replay's matter; here the session must not hang.
        let frames = wire.read_until_ready(1).expect("an answer");
        assert!(frames.iter().any(|frame: &Frame| frame.tag == b'E'));
    }
}

fn counts(login: &Login) {
    let parse = |body: &[u8]| message::frame(b'P', body);
    let bind = |body: &[u8]| message::frame(b'B', body);
    let bodies = [
        ("parse: types that are not there", parse(b"\0select 1\0\xff\xff")),
        ("parse: one type of two", parse(b"\0select 1\0\0\x02\0\0\0\x17")),
        ("parse: no count", parse(b"\0select 1\0")),
        ("parse: no end of the text", parse(b"\0select 1")),
        ("parse: something behind", parse(b"\0select 1\0\0\0xyz")),
        ("bind: formats that are not there", bind(b"\0s\0\xff\xff")),
        ("bind: values that are not there", bind(b"\0s\0\0\0\xff\xff")),
        ("bind: length -2", bind(b"\0s\0\0\0\0\x01\xff\xff\xff\xfe\0\0")),
        ("bind: length of 2 GiB", bind(b"\0s\0\0\0\0\x01\x7f\xff\xff\xff\0\0")),
        ("bind: length that overlaps", bind(b"\0s\0\0\0\0\x01\0\0\0\x05ab\0\0")),
        ("bind: result formats missing", bind(b"\0s\0\0\0\0\x01\0\0\0\x011")),
        ("bind: nothing", bind(b"")),
        ("bind: something behind", bind(b"\0s\0\0\0\0\x01\0\0\0\x011\0\0xyz")),
        ("describe: nothing", message::frame(b'D', b"")),
        ("describe: no end", message::frame(b'D', b"Ss")),
        ("execute: nothing", message::frame(b'E', b"")),
        ("execute: half a count", message::frame(b'E', b"\0\0\0")),
        ("close: nothing", message::frame(b'C', b"")),
        ("close: no such kind", message::frame(b'C', b"Zs\0")),
        ("function call: nothing", message::frame(b'F', b"")),
        ("function call: values that are not there", message::frame(b'F', b"\0\0\0\xb1\0\0\xff\xff")),
    ];
    for (what, bytes) in bodies {
        let mut wire = log_in(login);
        wire.send(&message::parse("s", "select $1::int", &[])).expect("sent");
        wire.send(&bytes).expect("sent");
        wire.send(&message::sync()).expect("sent");
        expect_error_then_ready(&mut wire, what);
    }
}

fn foreign_bytes(login: &Login) {
    let queries: [&[u8]; 4] = [b"select '\xff\xfe'\0", b"\xc3\x28\0", b"select 1\0; select 2\0", b"select 1"];
    for body in queries {
        let mut wire = log_in(login);
        wire.send(&message::frame(b'Q', body)).expect("sent");
        expect_error_then_ready(&mut wire, "query");
    }
    let mut wire = log_in(login);
    let messages = [
        message::frame(b'P', b"n\xff\0select '\xff'\0\0\0"),
        message::frame(b'B', b"\xfe\0n\xff\0\0\0\0\0\0\0"),
        message::sync(),
    ];
    wire.send(&messages.concat()).expect("sent");
    expect_error_then_ready(&mut wire, "names");
    let mut wire = log_in(login);
    let values = [Value::Text(b"\xff".to_vec()), Value::Text(b"a\0b".to_vec())];
    for value in values {
        let messages = [
            message::parse("", "select $1::text", &[]),
            message::bind("", "", &[value], &[]),
            message::sync(),
        ];
        wire.send(&messages.concat()).expect("sent");
        expect_error_then_ready(&mut wire, "values");
    }
    wire.rows("create temp table foreign_bytes (a text)").expect("a table");
    wire.send(&message::query("copy foreign_bytes from stdin")).expect("sent");
    wire.send(&[message::copy_data(b"\xff\xfe\n\0\n"), message::copy_done()].concat()).expect("sent");
    expect_error_then_ready(&mut wire, "copy");
}

fn pieces(login: &Login) {
    for size in 1..40 {
        let mut wire = log_in(login);
        wire.trickle(size);
        let value = Value::Text(b"41".to_vec());
        let messages = [
            message::parse("s", "select $1::int + 1 as answer", &[]),
            message::describe(b'S', "s"),
            message::bind("", "s", &[value], &[]),
            message::describe(b'P', ""),
            message::execute("", 0),
            message::close(b'S', "s"),
            message::sync(),
        ];
        wire.send(&messages.concat()).expect("sent");
        let frames = wire.read_until_ready(1).expect("an answer");
        let tags: Vec<u8> = frames.iter().map(|frame| frame.tag).collect();
        assert_eq!(tags, b"1tT2TDC3Z", "in pieces of {size}");
    }
}
