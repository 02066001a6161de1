//! Authentication: real clients (psql, tokio-postgres) through a relay to a real PostgreSQL, and raw exchanges.

use std::collections::HashMap;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use router_config::settings::{ListenTls, Settings};
use router_config::topology::NodeAddress;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::*;
use crate::backend::connect::{BackendLogin, ConnectContext, connect};
use crate::frontend::handshake::{self, Arrival, HandshakeContext, HandshakeError};
use crate::secrets_file::read_users;
use crate::testing::certificates::{Authority, Pair};
use crate::testing::postgres::{Server, program, server};
use crate::testing::{error_of, frame, sockets, startup_packet, write};
use crate::tls::ListenerTls;
use crate::wire::error::Severity;
use crate::wire::startup::Claim;
use crate::wire::talk::take_frame;

/// A relay in front of a server, and what its certificates come from.
struct Relay {
    port: u16,
    authority: Authority,
    _directory: tempfile::TempDir,
    server: Arc<Server>,
}

impl Relay {
    /// Starts it with a method and the lines of a users file.
    async fn start(method: AuthMethod, users: &str) -> Self {
        let server = server();
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new(directory.path());
        let Pair { certificate, key } = authority.issue("127.0.0.1");
        let users_file = directory.path().join("users");
        std::fs::write(&users_file, users).expect("written");
        let mut settings = Settings::default();
        settings.listen.tls = ListenTls::Allow;
        settings.listen.tls_certificate = Some(certificate);
        settings.listen.tls_key = Some(key);
        settings.listen.tls_client_ca = Some(authority.path());
        settings.auth.method = method;
        settings.auth.users_file = Some(users_file);
        let connect = Arc::new(ConnectContext::from_settings(&settings).expect("good settings"));
        let context = Arc::new(context(&settings, &connect, server.tcp()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let node = server.tcp();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&context), Arc::clone(&connect), node.clone()));
            }
        });
        Self { port, authority, _directory: directory, server }
    }

    /// Runs psql against it.
    async fn psql(&self, user: &str, options: &str) -> Output {
        let conninfo = format!("host=127.0.0.1 port={} user={user} dbname=postgres {options}", self.port);
        let task = tokio::task::spawn_blocking(move || {
            let mut psql = Command::new(program("psql"));
            psql.args(["-X", "-A", "-t", "-d", &conninfo, "-c", "SELECT current_user"]);
            psql.env("PGPASSWORD", "secret").env("HOME", "/nonexistent").env_remove("PGSSLMODE").output()
        });
        task.await.expect("no panic").expect("psql runs")
    }

    async fn is_let_in(&self, user: &str, options: &str) {
        let output = self.psql(user, options).await;
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), user, "{options}: {shown}");
    }

    async fn is_refused(&self, user: &str, options: &str, text: &str) {
        let output = self.psql(user, options).await;
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && shown.contains(text), "{options}: {shown}");
    }
}

fn context(settings: &Settings, connect: &Arc<ConnectContext>, home: NodeAddress) -> HandshakeContext {
    let home = Arc::new(move || vec![home.clone()]);
    let users = settings.auth.users_file.as_deref().map(|path| read_users(path).expect("a good users file"));
    let users = users.unwrap_or_default();
    let secrets = SecretSource::new(settings, users, Arc::clone(connect), Handle::current(), home);
    let authenticator = Authenticator::new(settings.auth.method, secrets);
    let tls = ListenerTls::from_settings(&settings.listen).expect("good files").map(Arc::new);
    HandshakeContext::new(settings, tls, authenticator)
}

async fn accept(socket: TcpStream, context: &HandshakeContext) -> Result<Arrival, HandshakeError> {
    handshake::accept(socket, context, &mut Claim::default()).await
}

/// One session: the application's credentials are what the backend is logged in to with.
async fn serve(
    socket: TcpStream,
    context: Arc<HandshakeContext>,
    connects: Arc<ConnectContext>,
    node: NodeAddress,
) -> Option<()> {
    let Ok(Arrival::Login(mut login)) = accept(socket, &context).await else {
        return None;
    };
    let backend = BackendLogin {
        user: login.user.as_str().into(),
        database: login.database.as_str().into(),
        credentials: login.credentials.clone(),
        parameters: login.parameters.clone(),
    };
    let mut out = std::mem::take(&mut login.out);
    match connect(&node, &backend, &connects).await {
        Err(error) => {
            error.write(Severity::Fatal, "s1", &mut out);
            login.stream.write_all(&out).await.ok()?;
            login.stream.shutdown().await.ok()
        }
        Ok(mut connected) => {
            for (name, value) in &connected.parameters {
                out.extend_from_slice(&frame(b'S', format!("{name}\0{value}\0").as_bytes()));
            }
            out.extend_from_slice(&frame(b'K', &[0; 8]));
            out.extend_from_slice(&frame(b'Z', b"I"));
            login.stream.write_all(&out).await.ok()?;
            login.stream.flush().await.ok()?;
            connected.stream.write_all(&login.leftover).await.ok()?;
            tokio::io::copy_bidirectional(&mut login.stream, &mut connected.stream).await.ok()?;
            Some(())
        }
    }
}

#[tokio::test]
async fn trust_lets_everybody_in_with_and_without_tls() {
    let relay = Relay::start(AuthMethod::Trust, "").await;
    for mode in ["disable", "prefer", "require"] {
        relay.is_let_in("postgres", &format!("sslmode={mode}")).await;
    }
    let root = relay.authority.path();
    relay.is_let_in("postgres", &format!("sslmode=verify-full sslrootcert={}", root.display())).await;
}

#[tokio::test]
async fn scram_keys_are_passed_through_to_the_server() {
    let relay = Relay::start(AuthMethod::ScramSha256, "").await;
    relay.is_let_in("scram_user", "sslmode=disable").await;
    relay.is_let_in("scram_user", "sslmode=require channel_binding=require").await;
    relay.is_let_in("scram_user", "sslmode=require channel_binding=disable").await;
    // Its verifier is SCRAM, the server wants the password itself, which nobody has told the proxy.
    relay.is_refused("password_user", "sslmode=disable", "which the proxy does not have").await;
    let wrong = "sslmode=disable password=wrong";
    for user in ["scram_user", "md5_user", "nobody", "postgres"] {
        let text = format!("password authentication failed for user \"{user}\"");
        relay.is_refused(user, wrong, &text).await;
    }
    relay.is_let_in("scram_user", "sslmode=disable").await;
    drop(relay.server);
}

#[tokio::test]
async fn tokio_postgres_with_scram_and_md5() {
    for (method, user) in [
        (AuthMethod::ScramSha256, "scram_user"),
        (AuthMethod::Md5, "md5_user"),
        (AuthMethod::Md5, "scram_user"),
    ] {
        let relay = Relay::start(method, "").await;
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(relay.port).user(user).dbname("postgres").password("secret");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("logged in");
        tokio::spawn(connection);
        let row = client.query_one("SELECT current_user::text", &[]).await.expect("answered");
        assert_eq!(row.get::<_, String>(0), user);
    }
}

#[tokio::test]
async fn md5_hashes_and_plain_passwords_of_the_users_file() {
    let hash = md5_password::stored("secret", "md5_user");
    let users = format!("\"md5_user\" \"{hash}\"\n\"password_user\" \"secret\"\n");
    for method in [AuthMethod::Md5, AuthMethod::ScramSha256] {
        let relay = Relay::start(method, &users).await;
        relay.is_let_in("password_user", "sslmode=disable").await;
        relay.is_let_in("password_user", "sslmode=require").await;
        let wrong = "sslmode=disable password=wrong";
        relay.is_refused("password_user", wrong, "password authentication failed").await;
        relay.is_refused("md5_user", wrong, "password authentication failed").await;
        relay.is_refused("nobody", wrong, "password authentication failed").await;
        if method == AuthMethod::Md5 {
            relay.is_let_in("md5_user", "sslmode=disable").await;
        }
    }
}

#[tokio::test]
async fn certificates_name_the_user() {
    let relay = Relay::start(AuthMethod::Cert, "").await;
    let Pair { certificate, key } = relay.authority.issue("postgres");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
    let options = format!("sslmode=require sslcert={} sslkey={}", certificate.display(), key.display());
    relay.is_let_in("postgres", &options).await;
    let text = "certificate authentication failed for user \"scram_user\"";
    relay.is_refused("scram_user", &options, text).await;
    let none = "connection requires a valid client certificate";
    relay.is_refused("postgres", "sslmode=require", none).await;
    relay.is_refused("postgres", "sslmode=disable", none).await;
}

#[tokio::test]
async fn a_changed_password_counts_after_one_refusal_and_a_lost_home_is_said() {
    let server = server();
    let (client, connection) = {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(server.tcp().port).user("postgres").dbname("postgres");
        config.connect(tokio_postgres::NoTls).await.expect("trusted")
    };
    tokio::spawn(connection);
    client
        .batch_execute("DROP ROLE IF EXISTS mover; CREATE ROLE mover LOGIN PASSWORD 'old'")
        .await
        .expect("created");
    let mut settings = Settings::default();
    settings.auth.method = AuthMethod::ScramSha256;
    let connect = Arc::new(ConnectContext::from_settings(&settings).expect("good settings"));
    let home = server.tcp();
    let here: super::super::secrets::Askable = Arc::new(move || vec![home.clone()]);
    let source = SecretSource::new(&settings, HashMap::new(), Arc::clone(&connect), Handle::current(), here);
    let secret = async || source.lookup("mover").await.expect("found").map(|known| known.secret);
    let fits = async |password: &str| match secret().await {
        Some(Secret::Scram(verifier)) => verifier.fits(password),
        other => panic!("{other:?}"),
    };
    assert!(fits("old").await);
    client.batch_execute("ALTER ROLE mover PASSWORD 'new'").await.expect("altered");
    assert!(fits("old").await, "remembered");
    source.forget("mover");
    assert!(fits("new").await);
    // The kept connection is lost: the look-up makes another.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gavel auth'";
    client.query(end, &[]).await.expect("terminated");
    source.forget("mover");
    assert!(fits("new").await);
    assert!(matches!(source.lookup("nobody").await, Ok(None)));
    client.batch_execute("DROP ROLE mover").await.expect("dropped");
    let nowhere = NodeAddress { host: "127.0.0.1".to_owned(), port: 1 };
    let context = context(&settings, &connect, nowhere);
    let (error, answer) = exchange(&context, &[]).await;
    assert_eq!(error.sqlstate(), "57P03");
    assert_eq!(
        error_of(&answer),
        ("57P03".to_owned(), "password of user \"al\" cannot be looked up now".to_owned())
    );
}

#[tokio::test]
async fn another_node_answers_for_a_lost_one_and_then_what_was_last_known() {
    let server = server();
    let mut settings = Settings::default();
    settings.auth.cache = Duration::ZERO;
    let connect = Arc::new(ConnectContext::from_settings(&settings).expect("good settings"));
    let nowhere = NodeAddress { host: "127.0.0.1".to_owned(), port: 1 };
    let nodes = Arc::new(std::sync::Mutex::new(vec![nowhere.clone(), server.tcp()]));
    let source = |settings: &Settings| {
        let nodes = Arc::clone(&nodes);
        let askable: super::super::secrets::Askable =
            Arc::new(move || nodes.lock().expect("no panic").clone());
        SecretSource::new(settings, HashMap::new(), Arc::clone(&connect), Handle::current(), askable)
    };
    let forgetful = source(&Settings {
        auth: router_config::settings::Auth { last_known: Duration::ZERO, ..settings.auth.clone() },
        ..settings.clone()
    });
    let source = source(&settings);
    for source in [&source, &forgetful] {
        assert!(source.lookup("scram_user").await.expect("the second one answers").is_some());
    }
    *nodes.lock().expect("no panic") = vec![nowhere];
    assert!(source.lookup("scram_user").await.expect("remembered").is_some());
    source.forget("scram_user");
    assert!(source.lookup("scram_user").await.expect("a wrong password does not change that").is_some());
    assert!(source.lookup("never_seen").await.is_err());
    assert!(forgetful.lookup("scram_user").await.is_err(), "its time is over");
}

/// Sends a startup packet of user `al` and then `frames`; the error and all that was answered.
async fn exchange(context: &HandshakeContext, frames: &[BytesMut]) -> (AuthError, Vec<u8>) {
    let (ours, mut theirs) = sockets().await;
    let peer = async {
        write(&mut theirs, &startup_packet(3 << 16, &[("user", "al")])).await;
        write(&mut theirs, &frames.concat()).await;
        let _ = theirs.shutdown().await;
        crate::testing::rest(&mut theirs).await
    };
    let (arrival, answer) = tokio::join!(accept(ours, context), peer);
    match arrival.expect_err("refused") {
        crate::frontend::handshake::HandshakeError::Auth(error) => (error, answer),
        other => panic!("{other}"),
    }
}

fn with_secret(method: AuthMethod, secret: &str) -> HandshakeContext {
    let users = HashMap::from([("al".to_owned(), secret.into())]);
    HandshakeContext::new(
        &Settings::default(),
        None,
        Authenticator::new(method, SecretSource::of_users(users)),
    )
}

fn initial(mechanism: &str, length: i32, data: &str) -> BytesMut {
    frame(b'p', &[mechanism.as_bytes(), b"\0", &length.to_be_bytes(), data.as_bytes()].concat())
}

#[tokio::test]
async fn broken_exchanges_end_with_an_error() {
    let good = "n,,n=,r=abc";
    let cases = [
        (frame(b'Q', b"SELECT 1\0"), "08P01"),
        (frame(b'p', b""), "08P01"),
        (frame(b'p', b"SCRAM-SHA-256"), "08P01"),
        (frame(b'p', &[b'x'; 2000]), "08P01"),
        (initial("SCRAM-SHA-1", 11, good), "08P01"),
        (initial("SCRAM-SHA-256-PLUS", 11, good), "08P01"),
        (initial("SCRAM-SHA-256", 12, good), "08P01"),
        (initial("SCRAM-SHA-256", -1, ""), "08P01"),
        (initial("SCRAM-SHA-256", 0, ""), "08P01"),
        (initial("SCRAM-SHA-256", 17, "n,a=root,n=,r=abc"), "0A000"),
    ];
    let context = with_secret(AuthMethod::ScramSha256, "secret");
    for (message, sqlstate) in cases {
        let shown = message.escape_ascii().to_string();
        let (error, answer) = exchange(&context, &[message]).await;
        assert_eq!(error.sqlstate(), sqlstate, "{shown}");
        let mut answer = BytesMut::from(&answer[..]);
        let offer = take_frame(&mut answer, 100).ok().flatten().expect("mechanisms first");
        assert_eq!(offer.1, &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..]);
        assert_eq!(error_of(&answer).0, sqlstate, "{shown}");
    }
    let md5 = with_secret(AuthMethod::Md5, "secret");
    for (body, sqlstate) in [(&b"\0"[..], "08P01"), (b"no end", "08P01"), (b"md5wrong\0", "28P01")] {
        assert_eq!(exchange(&md5, &[frame(b'p', body)]).await.0.sqlstate(), sqlstate);
    }
    assert!(matches!(exchange(&md5, &[]).await.0, AuthError::Io(_)));
}

#[tokio::test]
async fn an_unknown_user_cannot_be_told_from_a_wrong_password() {
    let message = initial("SCRAM-SHA-256", 11, "n,,n=,r=abc");
    let users = HashMap::from([("somebody".to_owned(), "secret".into())]);
    let unknown = |method| {
        let secrets = SecretSource::of_users(users.clone());
        HandshakeContext::new(&Settings::default(), None, Authenticator::new(method, secrets))
    };
    let shapes = async |context: &HandshakeContext, message: &BytesMut| {
        let (_, answer) = exchange(context, std::slice::from_ref(message)).await;
        let (mut answer, mut shapes) = (BytesMut::from(&answer[..]), Vec::new());
        while let Ok(Some((tag, body))) = take_frame(&mut answer, 1000) {
            shapes.push((tag, body.first_chunk::<4>().copied(), body.len()));
        }
        shapes
    };
    let known = with_secret(AuthMethod::ScramSha256, "secret");
    let expected = shapes(&known, &message).await;
    assert_eq!(expected.len(), 2);
    assert_eq!(shapes(&unknown(AuthMethod::ScramSha256), &message).await, expected);
    let answer = frame(b'p', b"md5wrong\0");
    let known = with_secret(AuthMethod::Md5, "secret");
    let expected = shapes(&known, &answer).await;
    assert_eq!(expected.len(), 2);
    assert_eq!(shapes(&unknown(AuthMethod::Md5), &answer).await, expected);
}
