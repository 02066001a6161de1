//! Bytes of applications and nodes: frames, first packets, SCRAM, Bind.

use bytes::{Bytes, BytesMut};
use proxy::exec::bind::choose;
use proxy::route::values::BindParams;
use proxy::scram::client::{ClientBinding, ClientExchange};
use proxy::scram::server::{Binding, ServerExchange};
use proxy::scram::{Keys, Verifier};
use proxy::wire::backend::{Status, command_tag, error_field, parameter_status};
use proxy::wire::error::{NodeError, fields};
use proxy::wire::frame::header;
use proxy::wire::frontend::{Bind, Execute, Named, Parse, bare, known, query};
use proxy::wire::startup::{
    FirstPacket, parse_options, take_first_packet, write_cancel, write_negotiation, write_startup,
};

const LIMIT: usize = 1 << 20;

/// A stream of frames of either side.
pub(crate) fn frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(found)) = header(rest, LIMIT) {
        // A header does not change when more bytes come, and is not there before its last byte.
        for cut in 0..5 {
            assert!(header(&rest[..cut], LIMIT).is_ok_and(|h| h.is_none()));
        }
        assert!((5..=LIMIT).contains(&found.len));
        let Some(body) = rest.get(5..found.len) else { return };
        bodies(found.tag, body);
        rest = &rest[found.len..];
    }
}

fn bodies(tag: u8, body: &[u8]) {
    let _ = known(tag);
    if let Ok(parse) = Parse::read(body) {
        // Two strings with their ends, a count, four bytes a type.
        assert_eq!(parse.name.len() + parse.text.len() + 4 + parse.types.len(), body.len());
        assert_eq!(parse.types.len() % 4, 0);
    }
    if let Ok(bind) = Bind::read(body) {
        assert_eq!(bind.portal.len() + bind.statement.len() + 2 + bind.rest.len(), body.len());
        let params = BindParams::parse(bind.rest, &[]);
        if let Ok(params) = params {
            (1..=u16::try_from(params.len()).unwrap_or(u16::MAX))
                .for_each(|n| assert!(params.get(n).is_some()));
        }
    }
    let _ = (Named::read(tag, body), Execute::read(body), bare(body));
    if let Ok(text) = query(body) {
        assert_eq!(text.len() + 1, body.len());
    }
    let _ = (Status::read(body), error_field(body, b'C'), parameter_status(body), command_tag(body));
    let error = NodeError::parse(Bytes::copy_from_slice(body));
    let mut out = BytesMut::new();
    error.write(&mut out);
    // What is passed on is a frame, whole and alone.
    let written = header(&out, usize::MAX >> 1).expect("a header").expect("five bytes");
    assert_eq!(written.len, out.len());
    let _ = fields(&out[5..]).count();
}

/// The first packet of a connection.
pub(crate) fn startup(data: &[u8]) {
    let mut whole = BytesMut::from(data);
    let read = take_first_packet(&mut whole);
    // Cut short it is incomplete or wrong in the same way, never another packet.
    let mut short = BytesMut::from(&data[..data.len() / 2]);
    if let Ok(Some(early)) = take_first_packet(&mut short) {
        assert_eq!(Some(early), read.as_ref().ok().cloned().flatten());
    }
    match read {
        Ok(Some(FirstPacket::Startup(startup))) => {
            let mut out = BytesMut::new();
            let named = [("user", startup.user.as_str()), ("database", startup.database.as_str())];
            let all =
                named.into_iter().chain(startup.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            // An option may be named like a parameter that has a meaning of its own in the packet.
            let own = ["user", "database", "options", "replication", ""];
            let plain =
                startup.parameters.iter().all(|(n, _)| !own.contains(&n.as_str()) && !n.starts_with("_pq_."));
            write_startup(all, &mut out);
            if plain
                && out.len() < 10_000
                && let Ok(Some(FirstPacket::Startup(again))) = take_first_packet(&mut out)
            {
                assert_eq!((&again.user, &again.database), (&startup.user, &startup.database));
                assert_eq!(again.parameters, startup.parameters);
            }
            write_negotiation(&startup, &mut out);
        }
        Ok(Some(FirstPacket::Cancel(key))) => {
            let mut out = BytesMut::new();
            write_cancel(&key, &mut out);
            assert_eq!(take_first_packet(&mut out).ok().flatten(), Some(FirstPacket::Cancel(key)));
        }
        _ => {}
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_options(text);
    }
}

/// Both sides of a SCRAM exchange, and stored verifiers.
pub(crate) fn scram(data: &[u8]) {
    let mut parts = data.splitn(3, |&b| b == b'\n');
    let (first, second, third) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let verifier = || Verifier::mock("user", &[7; 32]);
    for binding in [Binding::NotOffered, Binding::Declined, Binding::EndPoint(b"hash")] {
        if let Ok(exchange) = ServerExchange::start(verifier(), first, binding) {
            assert!(exchange.first().starts_with("r="));
            // Nobody guesses the proof.
            assert!(exchange.finish(second).is_err());
        }
    }
    for binding in [ClientBinding::None, ClientBinding::NotOffered, ClientBinding::EndPoint(b"hash")] {
        let exchange = ClientExchange::start(binding);
        // The nonce is random: the rest of the message is the fuzzer's.
        let nonce = exchange.first().rsplit("r=").next().unwrap_or_default().to_owned();
        let message = [b"r=", nonce.as_bytes(), first].concat();
        if let Ok(challenge) = exchange.challenged(&message) {
            let (_, proven) = challenge.answer(&Keys::of_salted(&[3; 32]));
            assert!(proven.verify(second).is_err());
        }
    }
    if let Ok(text) = std::str::from_utf8(third) {
        let _ = Verifier::parse(text);
    }
}

/// The values of a Bind, and a choice of them for a statement of the proxy's own.
pub(crate) fn bind(data: &[u8]) {
    let Some((&pick, rest)) = data.split_first() else { return };
    let Ok(params) = BindParams::parse(rest, &[20, 0, 25]) else { return };
    let len = u16::try_from(params.len()).expect("counted by 16 bits");
    // Any order of look-ups gives the same values.
    let forwards: Vec<_> = (1..=len).map(|n| params.get(n)).collect();
    let mut backwards: Vec<_> = (1..=len).rev().map(|n| params.get(n)).collect();
    backwards.reverse();
    assert_eq!(forwards, backwards);
    assert_eq!(params.get(0), None);
    assert_eq!(params.get(len.saturating_add(1)), if len == u16::MAX { params.get(len) } else { None });
    let chosen: Vec<u16> = (1..=len).filter(|n| (n ^ u16::from(pick)) & 1 == 0).rev().collect();
    if let Some(rebound) = choose(rest, &[0, 0, 0, 20], &chosen) {
        let again = BindParams::parse(&rebound.rest, &[]).expect("what we write can be read");
        assert_eq!(again.len(), chosen.len());
        for (at, n) in (1_u16..).zip(&chosen) {
            assert_eq!(again.get(at), params.get(*n));
        }
    }
}
