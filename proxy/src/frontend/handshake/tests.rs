//! Handshakes over real sockets: requests in every order, versions, TLS, abuse.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use router_config::settings::AuthMethod;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::frontend::secrets::SecretSource;
use crate::testing::certificates::{Authority, tls_client};
use crate::testing::{error_of, frame, rest, sockets, startup_packet, write};
use crate::wire::startup::{ssl_request, write_cancel};

const V3: u32 = 3 << 16;
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

async fn accept(socket: TcpStream, context: &HandshakeContext) -> Result<Arrival, HandshakeError> {
    super::accept(socket, context, &mut Claim::default()).await
}

async fn turn_away(
    socket: TcpStream,
    context: &HandshakeContext,
    refused: (Report<'_>, impl FnOnce(&str) -> bool),
) -> Result<Arrival, HandshakeError> {
    super::turn_away(socket, context, &mut Claim::default(), refused).await
}

fn trust() -> HandshakeContext {
    let authenticator = Authenticator::new(AuthMethod::Trust, SecretSource::of_users(HashMap::new()));
    HandshakeContext::new(&Settings::default(), None, authenticator)
}

/// A context with TLS; the directory holds the certificates.
fn with_tls(mode: ListenTls) -> (HandshakeContext, Authority, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(directory.path());
    let pair = authority.issue("127.0.0.1");
    let mut settings = Settings::default();
    settings.listen.tls = mode;
    settings.listen.tls_certificate = Some(pair.certificate);
    settings.listen.tls_key = Some(pair.key);
    let tls = ListenerTls::from_settings(&settings.listen).expect("good files").map(Arc::new);
    let HandshakeContext { authenticator, .. } = trust();
    (HandshakeContext::new(&settings, tls, authenticator), authority, directory)
}

/// Writes `bytes`, shuts down; the outcome and all that was answered.
async fn outcome(context: &HandshakeContext, bytes: &[u8]) -> (Result<Arrival, HandshakeError>, Vec<u8>) {
    let (ours, mut theirs) = sockets().await;
    let peer = async {
        write(&mut theirs, bytes).await;
        let _ = theirs.shutdown().await;
        rest(&mut theirs).await
    };
    let handshake = async {
        match accept(ours, context).await {
            Ok(Arrival::Login(mut login)) => {
                login.stream.write_all(&login.out).await.expect("open");
                login.stream.shutdown().await.expect("open");
                Ok(Arrival::Login(login))
            }
            other => other,
        }
    };
    tokio::join!(handshake, peer)
}

fn login(arrival: Result<Arrival, HandshakeError>) -> Login {
    match arrival {
        Ok(Arrival::Login(login)) => *login,
        other => panic!("no login: {other:?}"),
    }
}

#[tokio::test]
async fn a_login_and_what_follows_it() {
    let mut bytes = startup_packet(V3, &[("user", "al"), ("database", "auction"), ("TimeZone", "UTC")]);
    bytes.extend_from_slice(&frame(b'Q', b"SELECT 1\0"));
    let (arrival, answer) = outcome(&trust(), &bytes).await;
    let login = login(arrival);
    assert_eq!(answer, &frame(b'R', &[0; 4])[..]);
    assert_eq!((login.user.as_str(), login.database.as_str()), ("al", "auction"));
    assert_eq!(login.parameters, [("TimeZone".to_owned(), "UTC".to_owned())]);
    assert_eq!(login.leftover, frame(b'Q', b"SELECT 1\0"));
    assert_eq!(login.protocol, Protocol::V3_0);
}

#[tokio::test]
async fn newer_versions_are_negotiated_before_authentication() {
    let bytes = startup_packet(V3 | 9999, &[("user", "al"), ("_pq_.magic", "1")]);
    let (arrival, answer) = outcome(&trust(), &bytes).await;
    let expected = [frame(b'v', b"\0\x03\0\x02\0\0\0\x01_pq_.magic\0"), frame(b'R', &[0; 4])].concat();
    assert_eq!(answer, expected);
    assert_eq!(login(arrival).protocol, Protocol::V3_2);
    let (arrival, answer) = outcome(&trust(), &startup_packet(V3 | 2, &[("user", "al")])).await;
    assert_eq!(answer, &frame(b'R', &[0; 4])[..]);
    assert_eq!(login(arrival).protocol, Protocol::V3_2);
}

#[tokio::test]
async fn encryption_requests_without_tls_are_answered_no() {
    let startup = startup_packet(V3, &[("user", "al")]);
    for requests in [vec![ssl_request()], vec![GSS_REQUEST], vec![GSS_REQUEST, ssl_request()]] {
        let mut bytes = requests.concat();
        bytes.extend_from_slice(&startup);
        let (arrival, answer) = outcome(&trust(), &bytes).await;
        login(arrival);
        assert_eq!(answer[..requests.len()], b"NN"[..requests.len()]);
    }
    let twice = [ssl_request(), ssl_request()].concat();
    let (arrival, answer) = outcome(&trust(), &twice).await;
    assert_eq!(arrival.expect_err("twice").sqlstate(), "08P01");
    assert_eq!(error_of(&answer[1..]).0, "08P01");
}

#[tokio::test]
async fn cancel_requests_arrive() {
    let key = CancelKey { process_id: 5, secret: bytes::Bytes::from_static(&[7; 32]) };
    let mut bytes = BytesMut::new();
    write_cancel(&key, &mut bytes);
    for context in [trust(), with_tls(ListenTls::Require).0] {
        let (ours, mut theirs) = sockets().await;
        write(&mut theirs, &bytes).await;
        let Ok(Arrival::Cancel(request)) = accept(ours, &context).await else { panic!("no cancel request") };
        assert_eq!(*request, key);
        // Nothing is answered; the application sees the end only when the request is done with.
        let waiting = tokio::time::timeout(Duration::from_millis(20), theirs.read_u8()).await;
        assert!(waiting.is_err());
        drop(request);
        assert!(rest(&mut theirs).await.is_empty());
    }
}

#[tokio::test]
async fn abuse_gets_an_error_and_nothing_else() {
    let startup = startup_packet(V3, &[("user", "al")]);
    for cut in 1..startup.len() {
        let (arrival, _) = outcome(&trust(), &startup[..cut]).await;
        assert!(matches!(arrival, Err(HandshakeError::Incomplete)), "{cut}");
    }
    assert!(matches!(outcome(&trust(), b"").await.0, Ok(Arrival::Closed)));
    let cases: [(&[u8], &str); 7] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "08P01"),
        (&[0; 64], "08P01"),
        (&[0xff; 64], "08P01"),
        (&[0x16; 64], "08P01"),
        (&[0, 0, 0, 9, 0, 3, 0, 0, 0], "28000"),
        (&[0, 0, 0, 9, 0, 2, 0, 0, 0], "0A000"),
        (&[0, 0, 0, 9, 0, 3, 0, 0, 65], "08P01"),
    ];
    for (bytes, sqlstate) in cases {
        let (arrival, answer) = outcome(&trust(), bytes).await;
        assert_eq!(arrival.expect_err("refused").sqlstate(), sqlstate);
        assert_eq!(error_of(&answer).0, sqlstate, "{}", bytes.escape_ascii());
    }
    let replication = startup_packet(V3, &[("user", "al"), ("replication", "database")]);
    assert_eq!(error_of(&outcome(&trust(), &replication).await.1).0, "0A000");
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let bytes = startup_packet(V3, &[("user", "al")]);
    let (ours, mut theirs) = sockets().await;
    theirs.set_nodelay(true).expect("a socket");
    let context = trust();
    let peer = async {
        for byte in &bytes {
            theirs.write_all(&[*byte]).await.expect("open");
            tokio::task::yield_now().await;
        }
    };
    let (arrival, ()) = tokio::join!(accept(ours, &context), peer);
    assert_eq!(login(arrival).user, "al");
}

#[tokio::test]
async fn turned_away_with_a_reason_but_cancel_still_counts() {
    let report = Report::fatal(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
    let (ours, mut theirs) = sockets().await;
    write(&mut theirs, &ssl_request()).await;
    write(&mut theirs, &startup_packet(V3, &[("user", "al")])).await;
    assert!(matches!(
        turn_away(ours, &trust(), (report, |_: &str| false)).await,
        Err(HandshakeError::TurnedAway)
    ));
    assert_eq!(error_of(&rest(&mut theirs).await[1..]).0, "53300");
    let mut cancel = BytesMut::new();
    write_cancel(&CancelKey { process_id: 5, secret: bytes::Bytes::from_static(b"1234") }, &mut cancel);
    let (ours, mut theirs) = sockets().await;
    write(&mut theirs, &cancel).await;
    assert!(matches!(turn_away(ours, &trust(), (report, |_: &str| false)).await, Ok(Arrival::Cancel(_))));
    let (ours, mut theirs) = sockets().await;
    write(&mut theirs, &startup_packet(V3, &[("user", "al"), ("database", "console")])).await;
    let arrival = turn_away(ours, &trust(), (report, |database: &str| database == "console")).await;
    assert_eq!(login(arrival).user, "al", "one database is spared");
}

#[tokio::test]
async fn plain_connections_where_tls_is_required() {
    let (context, ..) = with_tls(ListenTls::Require);
    let (arrival, answer) = outcome(&context, &startup_packet(V3, &[("user", "al")])).await;
    assert_eq!(arrival.expect_err("plain").sqlstate(), "28000");
    assert_eq!(error_of(&answer).1, "connections without TLS are not accepted");
}

#[tokio::test]
async fn bytes_injected_before_tls_are_refused() {
    let (context, ..) = with_tls(ListenTls::Allow);
    let mut bytes = BytesMut::from(&ssl_request()[..]);
    bytes.extend_from_slice(&startup_packet(V3, &[("user", "mallory")]));
    let (arrival, answer) = outcome(&context, &bytes).await;
    assert_eq!(arrival.expect_err("injected").sqlstate(), "08P01");
    assert_eq!(error_of(&answer).1, "received unencrypted data after SSL request");
    // Garbage in place of a TLS handshake, after our answer or at once.
    for bytes in [&b"\x16garbage"[..], b"\x16\x03\x01\xff\xff"] {
        assert!(matches!(outcome(&context, bytes).await.0, Err(HandshakeError::Tls(_))));
    }
}

#[tokio::test]
async fn tls_by_request_and_direct() {
    let (context, authority, _directory) = with_tls(ListenTls::Require);
    for (request, alpn) in [(true, None), (true, Some(&b"postgresql"[..])), (false, Some(&b"postgresql"[..]))]
    {
        let (ours, mut theirs) = sockets().await;
        let peer = async {
            if request {
                theirs.write_all(&ssl_request()).await.expect("open");
                assert_eq!(theirs.read_u8().await.expect("answered"), b'S');
            }
            let mut tls = tls_client(theirs, &authority, alpn).await.expect("a handshake");
            tls.write_all(&startup_packet(V3, &[("user", "al")])).await.expect("open");
            tls.flush().await.expect("open");
            tls
        };
        let (arrival, _tls) = tokio::join!(accept(ours, &context), peer);
        assert!(login(arrival).stream.is_tls());
    }
    // Direct TLS without ALPN could be another protocol's client, led here by somebody.
    let (ours, theirs) = sockets().await;
    let peer = async {
        let mut tls = tls_client(theirs, &authority, None).await.expect("a handshake");
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer).await;
        answer
    };
    let (arrival, answer) = tokio::join!(accept(ours, &context), peer);
    assert_eq!(arrival.expect_err("no ALPN").sqlstate(), "08P01");
    assert_eq!(error_of(&answer).0, "08P01");
}

#[tokio::test]
async fn fast_paths_over_tls_lose_nothing() {
    let (context, authority, _directory) = with_tls(ListenTls::Require);
    let (ours, theirs) = sockets().await;
    let peer = async {
        let mut tls = tls_client(theirs, &authority, Some(b"postgresql")).await.expect("a handshake");
        tls.write_all(&startup_packet(V3, &[("user", "al")])).await.expect("open");
        tls.flush().await.expect("open");
        let sent: Vec<u8> = (0..400_000_u32).map(|number| number as u8).collect();
        let (mut read, mut write) = tokio::io::split(tls);
        let mut back = vec![0; sent.len()];
        let write = async {
            write.write_all(&sent).await.expect("open");
            write.flush().await.expect("open");
        };
        let (read, ()) = tokio::join!(read.read_exact(&mut back), write);
        read.expect("all comes back");
        assert!(sent == back);
    };
    let echo = async {
        let Login { mut stream, leftover: mut kept, .. } = login(accept(ours, &context).await);
        let mut echoed = 0;
        while echoed < 400_000 {
            if kept.is_empty() {
                stream.readable().await.expect("open");
                if let Err(error) = stream.try_read_buf(&mut kept) {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                }
            }
            while !kept.is_empty() {
                match stream.try_write(&kept) {
                    Ok(count) => {
                        echoed += count;
                        let _ = kept.split_to(count);
                    }
                    Err(_) => stream.writable().await.expect("open"),
                }
            }
        }
        stream.flush().await.expect("open");
        assert!(!stream.needs_flush());
        stream.try_flush().expect("nothing left");
    };
    tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(peer, echo) })
        .await
        .expect("no stall");
}

#[tokio::test]
async fn whose_login_failed_is_known_and_what_it_sent_is_not_repeated() {
    type Case<'a> = (&'a HandshakeContext, &'a [(&'a str, &'a str)], &'a str);
    let (require, _authority, _directory) = with_tls(ListenTls::Require);
    let secret = "hunter2";
    let cases: [Case<'_>; 5] = [
        (&require, &[], "connections without TLS are not accepted"),
        (&trust(), &[("replication", "database")], "replication connections are not supported"),
        (&trust(), &[("options", "-X hunter2")], "an option that is none of -c, --, -e and -S"),
        (&trust(), &[("options", "-c hunter2")], "an option -c or -- without name=value"),
        (&trust(), &[("options", "--=hunter2")], "an option -c or -- without name=value"),
    ];
    for (context, asked, expected) in cases {
        for named in [&[("user", "al"), ("database", "auction")][..], &[("user", "al")]] {
            let packet = startup_packet(V3, &[named, asked].concat());
            let (ours, mut theirs) = sockets().await;
            write(&mut theirs, &packet).await;
            let mut claim = Claim::default();
            let error = super::accept(ours, context, &mut claim).await.expect_err(expected).to_string();
            assert!(error.contains(expected) && !error.contains(secret), "{error}");
            let database = if named.len() == 2 { "auction" } else { "al" };
            assert_eq!((claim.user.as_str(), claim.database.as_str()), ("al", database), "{expected}");
        }
    }
    // A login that takes too long is dropped by its caller.
    let (ours, mut theirs) = sockets().await;
    let cert = HandshakeContext {
        authenticator: Authenticator::new(AuthMethod::Md5, SecretSource::of_users(HashMap::new())),
        ..trust()
    };
    write(&mut theirs, &startup_packet(V3, &[("user", "al")])).await;
    let mut claim = Claim::default();
    let waited =
        tokio::time::timeout(Duration::from_millis(50), super::accept(ours, &cert, &mut claim)).await;
    assert!(waited.is_err() && claim.user == "al", "{claim:?}");
}

#[tokio::test]
async fn a_handshake_is_small_and_may_be_dropped() {
    let context = trust();
    let (ours, mut theirs) = sockets().await;
    {
        let mut claim = Claim::default();
        let handshake = super::accept(ours, &context, &mut claim);
        assert!(size_of_val(&handshake) <= 128, "{}", size_of_val(&handshake));
        write(&mut theirs, b"\0\0").await;
        assert!(tokio::time::timeout(Duration::from_millis(20), handshake).await.is_err());
    }
    assert!(rest(&mut theirs).await.is_empty(), "closed");
    assert!(size_of::<Stream>() <= 48, "{}", size_of::<Stream>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..80), as_startup: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut packet = bytes.clone();
        if as_startup {
            packet = [&u32::try_from(bytes.len() + 8).expect("short").to_be_bytes()[..], &V3.to_be_bytes(), &bytes].concat();
        }
        let (arrival, answer) = runtime.block_on(outcome(&trust(), &packet));
        if let Err(HandshakeError::Startup(error)) = arrival {
            prop_assert_eq!(error_of(&answer[answer.iter().take_while(|&&byte| byte == b'N').count()..]).0, error.sqlstate);
        }
    }
}
