//! Connects to a real PostgreSQL by each method, and to peers that lie.

use std::time::Duration;

use router_config::settings::{BackendTls, Settings};
use tokio::net::TcpListener;

use super::*;
use crate::md5_password;
use crate::testing::postgres::{Server, server};
use crate::testing::{frame, write};
use crate::wire::talk::Talk;

fn settings(server: &Server, tls: BackendTls) -> Settings {
    let mut settings = Settings::default();
    settings.backend.tls = tls;
    settings.backend.tls_ca = Some(server.authority.path());
    settings
}

fn context(server: &Server, tls: BackendTls) -> ConnectContext {
    ConnectContext::from_settings(&settings(server, tls)).expect("good settings")
}

fn login(user: &str, credentials: Credentials) -> BackendLogin {
    let parameters = vec![("application_name".to_owned(), "gavel's test".to_owned())];
    BackendLogin { user: user.into(), database: "postgres".into(), credentials, parameters }
}

fn secret() -> Credentials {
    Credentials::Password("secret".into())
}

/// Runs a query whose answer is one text.
async fn ask(connected: Connected, query: &str) -> String {
    let mut talk = Talk::new(connected.stream);
    talk.put(b'Q', &[query.as_bytes(), b"\0"]);
    talk.send().await.expect("sent");
    loop {
        let (tag, body) = talk.frame(1 << 20).await.expect("answered");
        match tag {
            b'D' => return String::from_utf8_lossy(&body[6..]).into_owned(),
            b'E' => return NodeError::parse(body).sqlstate,
            _ => {}
        }
    }
}

#[tokio::test]
async fn each_method_over_each_transport() {
    let server = server();
    let hash = md5_password::stored("secret", "md5_user");
    let logins = [
        login("postgres", Credentials::None),
        login("password_user", secret()),
        login("md5_user", secret()),
        login("md5_user", Credentials::Md5(hash.as_str().into())),
        login("scram_user", secret()),
        login("scram_user", secret()),
    ];
    let modes = [
        BackendTls::Off,
        BackendTls::Prefer,
        BackendTls::Require,
        BackendTls::VerifyCa,
        BackendTls::VerifyFull,
    ];
    for mode in modes {
        let context = context(&server, mode);
        for login in &logins {
            let connected = connect(&server.tcp(), login, &context).await.expect("logged in");
            assert_eq!(connected.stream.is_tls(), mode != BackendTls::Off);
            assert!(
                connected.leftover.is_empty() && connected.process_id != 0 && connected.secret.len() == 4
            );
            assert!(
                connected.parameters.contains(&("application_name".to_owned(), "gavel's test".to_owned()))
            );
            assert_eq!(ask(connected, "SELECT current_user").await, *login.user);
        }
        let connected = connect(&server.unix(), &logins[0], &context).await.expect("logged in");
        assert!(matches!(connected.stream, Stream::Unix(_)));
    }
}

#[tokio::test]
async fn refusals_say_whose_fault_they_are() {
    let server = server();
    let context = context(&server, BackendTls::Off);
    let wrong = Credentials::Password("wrong".into());
    let unknown = BackendLogin { database: "nowhere".into(), ..login("postgres", Credentials::None) };
    let setting = BackendLogin {
        parameters: vec![("work_mem".to_owned(), "x".to_owned())],
        ..login("postgres", Credentials::None)
    };
    let cases = [
        (login("scram_user", wrong.clone()), "28P01", Fault::Application),
        (login("md5_user", wrong.clone()), "28P01", Fault::Application),
        (login("password_user", wrong), "28P01", Fault::Application),
        (login("nobody", secret()), "28000", Fault::Application),
        (unknown, "3D000", Fault::Application),
        (setting, "22023", Fault::Application),
        (login("scram_user", Credentials::None), "28000", Fault::Proxy),
        (login("md5_user", Credentials::None), "28000", Fault::Proxy),
        (login("password_user", Credentials::None), "28000", Fault::Proxy),
    ];
    for (login, sqlstate, fault) in cases {
        let error = connect(&server.tcp(), &login, &context).await.expect_err("refused");
        assert_eq!((error.sqlstate(), error.fault()), (sqlstate, fault), "{error}");
        let mut out = BytesMut::new();
        error.write(Severity::Error, "s1", &mut out);
        assert_eq!(crate::testing::error_of(&out).0, sqlstate);
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn keys_of_another_verifier_are_not_tried() {
    let server = server();
    let keys = ScramKeys {
        keys: Keys { client_key: [0; 32], server_key: [0; 32] },
        salt: b"another".to_vec(),
        iterations: 4096,
    };
    let login = login("scram_user", Credentials::ScramKeys(Arc::new(keys)));
    let error =
        connect(&server.tcp(), &login, &context(&server, BackendTls::Off)).await.expect_err("no keys");
    assert_eq!((error.sqlstate(), error.fault()), ("28000", Fault::Proxy), "{error}");
    // The passwords file helps out.
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("passwords");
    std::fs::write(&file, "\"scram_user\" \"secret\"\n").expect("written");
    let mut settings = settings(&server, BackendTls::Off);
    settings.backend.passwords_file = Some(file);
    let context = ConnectContext::from_settings(&settings).expect("good settings");
    for _ in 0..2 {
        connect(&server.tcp(), &login, &context).await.expect("logged in");
    }
    assert_eq!(context.salted.len(), 1, "salted once");
}

#[tokio::test]
async fn certificates_are_verified_as_the_mode_says() {
    let server = server();
    let directory = tempfile::tempdir().expect("a directory");
    let mut foreign = settings(&server, BackendTls::VerifyCa);
    foreign.backend.tls_ca = Some(crate::testing::certificates::Authority::new(directory.path()).path());
    let foreign = ConnectContext::from_settings(&foreign).expect("good settings");
    let postgres = login("postgres", Credentials::None);
    let error = connect(&server.tcp(), &postgres, &foreign).await.expect_err("another authority");
    assert!(matches!(error.cause, ConnectCause::Tls(_)), "{error}");
    assert_eq!((error.sqlstate(), error.fault()), ("08001", Fault::Proxy));
    let localhost = NodeAddress { host: "localhost".to_owned(), ..server.tcp() };
    connect(&localhost, &postgres, &context(&server, BackendTls::VerifyCa))
        .await
        .expect("the chain is right");
    let error = connect(&localhost, &postgres, &context(&server, BackendTls::VerifyFull)).await;
    assert!(matches!(error.expect_err("another name").cause, ConnectCause::Tls(_)));
    let mut none = settings(&server, BackendTls::VerifyFull);
    none.backend.tls_ca = None;
    assert!(ConnectContext::from_settings(&none).is_err());
}

#[tokio::test]
async fn cancel_reaches_the_query() {
    let server = server();
    for mode in [BackendTls::Off, BackendTls::Require] {
        let context = context(&server, mode);
        let node = server.tcp();
        let connected =
            connect(&node, &login("postgres", Credentials::None), &context).await.expect("logged in");
        let key = connected.cancel_key();
        let query = tokio::spawn(ask(connected, "SELECT pg_sleep(60)::text"));
        // The first may come before the query has begun.
        while !query.is_finished() {
            cancel(&node, &key, &context).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(query.await.expect("no panic"), "57014");
    }
}

/// Connects to a peer that answers the startup packet with `answer` and then closes or stays silent.
async fn against(answer: &[u8], close: bool) -> ConnectError {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let node =
        NodeAddress { host: "127.0.0.1".to_owned(), port: listener.local_addr().expect("bound").port() };
    let mut settings = Settings::default();
    settings.backend.connect_timeout = Duration::from_millis(300);
    let context = ConnectContext::from_settings(&settings).expect("good settings");
    let login = login("postgres", secret());
    let peer = async {
        let (mut socket, _) = listener.accept().await.expect("connected");
        write(&mut socket, answer).await;
        if close {
            drop(socket);
            return std::future::pending::<()>().await;
        }
        let _kept = socket;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = connect(&node, &login, &context) => result.expect_err("no login"),
        () = peer => unreachable!("never ends"),
    }
}

#[tokio::test]
async fn peers_that_lie() {
    let ok = frame(b'R', &[0; 4]);
    let with_ok = |rest: &[u8]| [&ok[..], rest].concat();
    let violations: [Vec<u8>; 12] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        frame(b'R', &[]).to_vec(),
        frame(b'R', &[0, 0, 0, 5]).to_vec(),
        frame(b'Z', b"I").to_vec(),
        frame(b'R', b"\0\0\0\x0b r=").to_vec(),
        with_ok(&frame(b'Z', b"T")),
        with_ok(&frame(b'K', b"12")),
        with_ok(&frame(b'S', b"name\0value")),
        with_ok(&frame(b'S', b"")),
        with_ok(&frame(b'S', b"a\0b\0c\0")),
    ];
    for answer in violations {
        let error = against(&answer, false).await;
        let shown = answer.escape_ascii().to_string();
        assert!(matches!(error.sqlstate(), "08P01" | "28000"), "{shown}: {error}");
    }
    assert!(matches!(against(b"", false).await.cause, ConnectCause::Timeout(_)));
    assert!(matches!(against(b"R\0\0", false).await.cause, ConnectCause::Timeout(_)));
    for cut in 0..ok.len() {
        assert!(matches!(against(&ok[..cut], true).await.cause, ConnectCause::Unreachable(_)));
    }
    let busy = Report::fatal("53300", "sorry, too many clients already").to_frame();
    let error = against(&busy, true).await;
    assert_eq!((error.sqlstate(), error.fault(), error.is_retryable()), ("53300", Fault::Node, true));
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let node =
        NodeAddress { host: "127.0.0.1".to_owned(), port: listener.local_addr().expect("bound").port() };
    drop(listener);
    let context = ConnectContext::from_settings(&Settings::default()).expect("good settings");
    let error = connect(&node, &login("postgres", secret()), &context).await.expect_err("refused");
    assert_eq!((error.sqlstate(), error.is_retryable()), ("08001", true));
}
