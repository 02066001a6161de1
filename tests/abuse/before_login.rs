//! Abuse of the first packet and of the login.

use std::time::Duration;

use tests::wire::{Login, PATIENCE, Wire};
use tests::wire_message::{self as message, GSSENC_REQUEST, PROTOCOL_3_0, SSL_REQUEST};

use crate::Abuse;

pub(crate) const LIST: &[Abuse] = &[
    ("connect and go", connect_and_go),
    ("garbage first", garbage),
    ("another protocol", other_protocols),
    ("lengths that lie in the first packet", lengths),
    ("unknown versions", versions),
    ("startup cut at every byte", cut_startup),
    ("startup with broken parameters", broken_parameters),
    ("one byte at a time", one_byte_at_a_time),
    ("encryption asked for twice", encryption_twice),
    ("cancel with random keys", random_cancels),
    ("cancel of odd lengths", odd_cancels),
    ("password before startup", password_first),
    ("broken answers to the password question", broken_sasl),
];

const SHORT: Duration = Duration::from_millis(20);

/// Pseudo-random bytes, the same at each run.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[3]).collect()
    }
}

fn connect(login: &Login) -> Wire {
    Wire::connect(login.address).expect("the listener accepts")
}

/// Sends bytes; whether the server takes them all is its own business.
fn throw(login: &Login, bytes: &[u8]) -> Wire {
    let mut wire = connect(login);
    _ = wire.send(bytes);
    wire
}

fn connect_and_go(login: &Login) {
    for _ in 0..200 {
        drop(connect(login));
    }
}

fn garbage(login: &Login) {
    let mut noise = Noise(0x5eed_0001);
    for round in 0..200 {
        let mut bytes = noise.bytes(8 + round * 7);
        bytes[0] |= 0x40; // a length that no first packet has
        assert!(throw(login, &bytes).closed_within(PATIENCE), "garbage of round {round} was let in");
    }
}

fn other_protocols(login: &Login) {
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 600]].concat();
    for bytes in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), b"SSH-2.0-OpenSSH_9.2\r\n", &hello] {
        assert!(throw(login, bytes).closed_within(PATIENCE), "{:?} was let in", &bytes[..4]);
    }
}

fn lengths(login: &Login) {
    for length in [0i32, 1, 3, 4, 7, 10_005, 1 << 24, i32::MAX, -1, i32::MIN] {
        let bytes = [&length.to_be_bytes()[..], &PROTOCOL_3_0.to_be_bytes(), b"user\0x\0\0"].concat();
        assert!(throw(login, &bytes).closed_within(PATIENCE), "a first packet of length {length} was let in");
    }
}

fn versions(login: &Login) {
    for version in [0, 1, 1 << 16, 2 << 16, (2 << 16) + 5, 4 << 16, 80_877_100, 80_877_105, u32::MAX] {
        let bytes = message::startup(version, &[("user", "postgres")]);
        assert!(throw(login, &bytes).closed_within(PATIENCE), "version {version:#x} was let in");
    }
}

fn cut_startup(login: &Login) {
    let whole = login.startup();
    for length in 0..whole.len() {
        drop(throw(login, &whole[..length]));
    }
}

fn broken_parameters(login: &Login) {
    let bodies: [&[u8]; 8] = [
        b"",
        b"\0",
        b"user",
        b"user\0postgres",
        b"user\0postgres\0",
        b"user\0\0\0",
        b"\0\0\0\0",
        b"database\0x\0\0",
    ];
    for body in bodies {
        let bytes = message::first_packet(PROTOCOL_3_0, body);
        assert!(throw(login, &bytes).closed_within(PATIENCE), "startup with {body:?} was let in");
    }
    for name in [b"\xff\xfe".as_slice(), &[b'x'; 9000]] {
        let body = [b"user\0", name, b"\0database\0", name, b"\0\0"].concat();
        // A password question is a fair answer, too.
        _ = throw(login, &message::first_packet(PROTOCOL_3_0, &body)).frame(PATIENCE);
    }
}

fn one_byte_at_a_time(login: &Login) {
    let mut wire = connect(login);
    wire.trickle(1);
    wire.greet(login).expect("a slow login is a login");
    let rows = wire.rows("select 'slow', 'but right'").expect("an answer");
    assert_eq!(rows, vec![vec![Some("slow".to_owned()), Some("but right".to_owned())]]);
    let value = message::Value::Text(b"5".to_vec());
    let extended = [
        message::parse("s", "select $1::int + 1", &[]),
        message::bind("", "s", &[value], &[]),
        message::execute("", 0),
        message::sync(),
    ];
    wire.send(&extended.concat()).expect("sent");
    let frames = wire.read_until_ready(1).expect("an answer");
    assert_eq!(frames.iter().map(|frame| frame.tag).collect::<Vec<_>>(), b"12DCZ");
}

fn encryption_twice(login: &Login) {
    let codes = [SSL_REQUEST, GSSENC_REQUEST];
    for first in codes {
        for second in codes {
            let mut wire = throw(login, &message::first_packet(first, b""));
            let answer = wire.byte(PATIENCE).expect("an answer");
            assert!(answer.is_some_and(|answer| b"NSG".contains(&answer)), "{answer:?}");
            _ = wire.send(&message::first_packet(second, b""));
            // Asking for the other kind is allowed; asking for the same again ends or is refused again.
            _ = wire.byte(PATIENCE);
            _ = wire.send(&message::first_packet(second, b""));
            _ = wire.send(&login.startup());
            drop(wire);
        }
    }
    let together = [message::first_packet(SSL_REQUEST, b""), login.startup()].concat();
    drop(throw(login, &together));
    let long = message::first_packet(SSL_REQUEST, b"more");
    _ = throw(login, &long).byte(SHORT);
}

fn random_cancels(login: &Login) {
    let mut noise = Noise(0x5eed_0002);
    for _ in 0..300 {
        let process = (noise.next() % 100_000) as u32;
        let secret = noise.bytes(4);
        assert!(throw(login, &message::cancel(process, &secret)).closed_within(PATIENCE));
    }
}

fn odd_cancels(login: &Login) {
    for length in [0, 1, 3, 5, 32, 256, 257, 4000] {
        assert!(
            throw(login, &message::cancel(1, &vec![9; length])).closed_within(PATIENCE),
            "{length} bytes"
        );
    }
    drop(throw(login, &message::first_packet(message::CANCEL_REQUEST, b"")));
}

fn password_first(login: &Login) {
    for bytes in [message::password("secret"), message::query("select 1"), message::sync()] {
        assert!(throw(login, &bytes).closed_within(PATIENCE), "tagged message before the startup was let in");
    }
}

fn broken_sasl(login: &Login) {
    let proof = message::sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdefghijklmnop");
    let answers = [
        message::password("wrong"),
        message::password(""),
        message::frame(b'p', b""),
        message::sasl_initial("NO-SUCH-MECHANISM", b"n,,n=,r=x"),
        message::sasl_initial("SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=x"),
        message::sasl_initial("SCRAM-SHA-256", b""),
        message::sasl_initial("SCRAM-SHA-256", b"\xff\xfe\0\0"),
        message::frame(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xff"),
        message::lying_frame(b'p', i32::MAX, b"x"),
        message::lying_frame(b'p', -5, b"x"),
        message::query("select 1"),
        message::sync(),
        [proof.clone(), message::frame(b'p', b"c=biws,r=forged,p=AAAA")].concat(),
        [proof, message::frame(b'p', b"")].concat(),
    ];
    for (number, answer) in answers.iter().enumerate() {
        let mut wire = throw(login, &login.startup());
        let question = wire.frame(PATIENCE).expect("a question").expect("not closed");
        if question.body == [0, 0, 0, 0] {
            return; // trust: nobody asks
        }
        _ = wire.send(answer);
        assert!(wire.closed_within(PATIENCE), "answer {number} was let in");
    }
}
