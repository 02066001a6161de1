//! First packets: well-formed, lying, cut anywhere.

use proptest::prelude::*;

use super::*;

fn packet(code: u32, body: &[u8]) -> BytesMut {
    let mut packet = BytesMut::new();
    packet.put_u32(u32::try_from(body.len() + 8).unwrap());
    packet.put_u32(code);
    packet.put_slice(body);
    packet
}

fn read(code: u32, body: &[u8]) -> Result<FirstPacket, StartupError> {
    let mut buffer = packet(code, body);
    let first = take_first_packet(&mut buffer).map(|first| first.expect("the packet is whole"));
    assert!(first.is_err() || buffer.is_empty());
    first
}

fn started(version: u32, body: &[u8]) -> Startup {
    match read(version, body).expect("a good packet") {
        FirstPacket::Startup(startup) => startup,
        other => panic!("{other:?}"),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const V3: u32 = 3 << 16;

#[test]
fn parameters_apply_in_postgresqls_order() {
    let startup = started(V3, b"user\0al\0options\0-c a=1 --b-c=2\0TimeZone\0UTC\0replication\0false\0\0");
    assert_eq!((startup.user.as_str(), startup.database.as_str()), ("al", "al"));
    assert_eq!(startup.parameters, pairs(&[("a", "1"), ("b_c", "2"), ("TimeZone", "UTC")]));
    assert_eq!(startup.protocol, Protocol::V3_0);
    let mut out = BytesMut::new();
    write_negotiation(&startup, &mut out);
    assert!(out.is_empty());
}

#[test]
fn versions_are_negotiated() {
    let body = b"user\0al\0database\0db\0_pq_.x\0on\0\0";
    let startup = started(V3 | 3, body);
    assert_eq!((startup.protocol, startup.newer_asked), (Protocol::V3_2, true));
    let mut out = BytesMut::new();
    write_negotiation(&startup, &mut out);
    assert_eq!(&out[..], b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0");
    assert_eq!(started(V3 | 1, body).protocol, Protocol::V3_0);
    assert!(!started(V3 | 2, body).newer_asked);
    for version in [2 << 16, 4 << 16, 0, 0x4745_5420, (1234 << 16) | 5681] {
        assert_eq!(read(version, body).unwrap_err().sqlstate, "0A000");
    }
}

#[test]
fn mistakes_are_named() {
    let cases: [(&[u8], &str); 12] = [
        (b"\0", "28000"),
        (b"user\0\0\0", "28000"),
        (b"user\0al\0", "08P01"),
        (b"user\0al", "08P01"),
        (b"user\0", "08P01"),
        (b"", "08P01"),
        (b"user\0al\0\0\0", "08P01"),
        (b"user\0al\0\0x", "08P01"),
        (b"user\0\xff\0\0", "22021"),
        (b"user\0al\0replication\0database\0\0", "0A000"),
        (b"user\0al\0options\0-X\0\0", "42601"),
        (b"user\0al\0options\0-c\0\0", "42601"),
    ];
    for (body, sqlstate) in cases {
        assert_eq!(read(V3, body).unwrap_err().sqlstate, sqlstate, "{}", body.escape_ascii());
    }
    for length in [0_u32, 1, 7, 10_001, 0x8000_0000, u32::MAX] {
        let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
        assert_eq!(take_first_packet(&mut buffer).unwrap_err().sqlstate, "08P01", "{length}");
    }
}

#[test]
fn requests_have_exact_lengths() {
    assert_eq!(read(CODE_SSL, b""), Ok(FirstPacket::Ssl));
    assert_eq!(read(CODE_GSS, b""), Ok(FirstPacket::Gss));
    assert!(read(CODE_SSL, b"x").is_err());
    let key = CancelKey { process_id: 7, secret: Bytes::from_static(b"secr") };
    let mut buffer = BytesMut::new();
    write_cancel(&key, &mut buffer);
    assert_eq!(take_first_packet(&mut buffer), Ok(Some(FirstPacket::Cancel(key.clone()))));
    write_peer_cancel(&key, &mut buffer);
    assert_eq!(take_first_packet(&mut buffer), Ok(Some(FirstPacket::PeerCancel(key))));
    assert!(read(CODE_CANCEL, &[0; 260]).is_ok());
    for length in [0, 4, 7, 261] {
        assert!(read(CODE_CANCEL, &vec![0; length]).is_err(), "{length}");
    }
}

#[test]
fn options_as_postgresql_reads_them() {
    let cases: [(&str, &[(&str, &str)]); 8] = [
        ("", &[]),
        ("  \t", &[]),
        ("-c geqo=off", &[("geqo", "off")]),
        ("-cgeqo=off  --work-mem=4MB", &[("geqo", "off"), ("work_mem", "4MB")]),
        (r"-c search_path=a,\ b", &[("search_path", "a, b")]),
        (r"-c x=\\ -e", &[("x", r"\"), ("datestyle", "euro")]),
        ("-c x=a=b", &[("x", "a=b")]),
        (r"-S 64 -c y=\", &[("work_mem", "64"), ("y", "")]),
    ];
    for (options, expected) in cases {
        assert_eq!(parse_options(options).unwrap(), pairs(expected), "{options}");
    }
    for wrong in ["x", "-", "--", "--x", "-c x", "-c =1", "-d 5"] {
        assert_eq!(parse_options(wrong).unwrap_err().sqlstate, "42601", "{wrong}");
    }
}

#[test]
fn a_startup_for_a_node_is_read_back() {
    let mut out = BytesMut::new();
    write_startup([("user", "al"), ("database", "d\0b"), ("geqo", "off")], &mut out);
    let Ok(Some(FirstPacket::Startup(startup))) = take_first_packet(&mut out) else {
        panic!("not read back")
    };
    assert_eq!((startup.database.as_str(), startup.parameters), ("d", pairs(&[("geqo", "off")])));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = take_first_packet(&mut BytesMut::from(&bytes[..]));
        for code in [V3, V3 | 2, CODE_CANCEL, CODE_SSL] {
            let _ = read(code, &bytes);
        }
    }

    #[test]
    fn chunks_do_not_matter(value in "[a-z\\\\ =-]{0,40}", cuts in proptest::collection::vec(1_usize..9, 0..40)) {
        let body = format!("user\0al\0options\0{value}\0x\0{value}\0\0");
        let whole = packet(V3, body.as_bytes());
        let expected = take_first_packet(&mut whole.clone());
        let (mut buffer, mut rest, mut cuts) = (BytesMut::new(), &whole[..], cuts.into_iter());
        while !rest.is_empty() {
            prop_assert_eq!(take_first_packet(&mut buffer), Ok(None));
            let (chunk, after) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            buffer.extend_from_slice(chunk);
            rest = after;
        }
        prop_assert_eq!(take_first_packet(&mut buffer), expected);
    }

    #[test]
    fn options_never_panic(options in "\\PC*") {
        let _ = parse_options(&options);
    }
}
