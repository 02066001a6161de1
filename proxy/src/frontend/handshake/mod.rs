//! From an accepted socket to a logged-in application: TLS, first packet, authentication.
//!
//! Source: PostgreSQL documentation, "Start-up" and "SSL Session Encryption", and `ProcessStartupPacket`. A typestate: an
//! `Opened` connection may still ask for encryption, a `Started` one has named its user, a [`Login`] has proved it.
//! Invariants: what arrives in plain text before TLS is never read as if it had come through TLS; whatever the bytes, the
//! outcome is a login, a cancel request or an error that the application was told; dropping the future at any point only
//! closes the socket.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use router_config::settings::{ListenTls, Settings};
use tokio::net::TcpStream;

use super::auth::{AuthError, Authenticator};
use crate::backend::connect::Credentials;
use crate::tls::ListenerTls;
use crate::wire::error::Report;
use crate::wire::startup::{
    CancelKey, Claim, FirstPacket, Protocol, Startup, StartupError, write_negotiation,
};
use crate::wire::stream::Stream;
use crate::wire::talk::{Talk, TalkError};
use crate::wire::{buffers, sqlstate};

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What all handshakes share; made anew when the settings are reloaded.
#[derive(Debug)]
pub struct HandshakeContext {
    /// Certificate and key; `None`: TLS is off.
    pub tls: Option<Arc<ListenerTls>>,
    /// Whether plain connections are taken.
    pub tls_mode: ListenTls,
    /// How applications prove who they are.
    pub authenticator: Authenticator,
}

impl HandshakeContext {
    /// `tls` comes from [`ListenerTls::from_settings`].
    pub fn new(settings: &Settings, tls: Option<Arc<ListenerTls>>, authenticator: Authenticator) -> Self {
        Self { tls, tls_mode: settings.listen.tls, authenticator }
    }
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Arrival {
    /// An application that has proved who it is.
    Login(Box<Login>),
    /// A request to cancel what another connection runs.
    Cancel(CancelRequest),
    /// It went away without a word (port checks do).
    Closed,
}

/// A request to cancel. The application waits for its socket to be closed and takes its next statement to be safe from
/// the cancel then: this is to be kept until the request has reached its node.
#[derive(Debug)]
pub struct CancelRequest {
    /// Whose query.
    pub key: CancelKey,
    /// Another proxy passes it on.
    pub from_peer: bool,
    /// Closed with it.
    pub stream: Stream,
}

impl std::ops::Deref for CancelRequest {
    type Target = CancelKey;

    fn deref(&self) -> &CancelKey {
        &self.key
    }
}

/// A logged-in application. AuthenticationOk is *in `out`, not sent*: ParameterStatus, BackendKeyData and ReadyForQuery
/// are appended to it and all goes out in one write.
#[derive(Debug)]
pub struct Login {
    /// The connection.
    pub stream: Stream,
    /// Role.
    pub user: String,
    /// Database, as the application named it.
    pub database: String,
    /// Settings of the startup packet in the order in which they apply: those of `options` first. The later wins.
    pub parameters: Vec<(String, String)>,
    /// The version spoken, which decides how long the secret in BackendKeyData may be.
    pub protocol: Protocol,
    /// What can be proved to the nodes with what the application has shown.
    pub credentials: Credentials,
    /// Bytes that the application has sent after its login; as a rule none.
    pub leftover: BytesMut,
    /// To be sent first.
    pub out: BytesMut,
}

/// Why there is no login. The application has been told, where there was one to tell.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket broke.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// Closed in the middle of a packet.
    #[error("incomplete startup packet")]
    Incomplete,
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    /// The packets are not what the protocol says, or ask for what is not supported.
    #[error(transparent)]
    Startup(StartupError),
    /// Not who it says.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Turned away by [`turn_away`].
    #[error("turned away")]
    TurnedAway,
}

impl HandshakeError {
    /// SQLSTATE, for counting.
    pub fn sqlstate(&self) -> &str {
        match self {
            Self::Io(_) | Self::Incomplete | Self::Tls(_) => sqlstate::CONNECTION_FAILURE,
            Self::Startup(error) => error.sqlstate,
            Self::Auth(error) => error.sqlstate(),
            Self::TurnedAway => sqlstate::TOO_MANY_CONNECTIONS,
        }
    }
}

/// Takes a connection up to its login. The time limit is the caller's; dropping the future closes the socket. `claim` is filled
/// as soon as the connection has said who it is.
pub async fn accept(
    socket: TcpStream,
    context: &HandshakeContext,
    claim: &mut Claim,
) -> Result<Arrival, HandshakeError> {
    Box::pin(async {
        match start(socket, context, claim).await? {
            Begun::Started(started) => started.authenticate(&context.authenticator).await,
            Begun::Cancel(request) => Ok(Arrival::Cancel(request)),
            Begun::Closed => Ok(Arrival::Closed),
        }
    })
    .await
}

/// As [`accept`], but whoever wants to log in gets the report instead, unless the database that is asked for is spared. Cancel
/// requests still count.
pub async fn turn_away(
    socket: TcpStream,
    context: &HandshakeContext,
    claim: &mut Claim,
    (report, spared): (Report<'_>, impl FnOnce(&str) -> bool),
) -> Result<Arrival, HandshakeError> {
    Box::pin(async {
        match start(socket, context, claim).await? {
            Begun::Started(started) => {
                if spared(&started.startup.database) {
                    return started.authenticate(&context.authenticator).await;
                }
                started.talk.close_with(report).await;
                Err(HandshakeError::TurnedAway)
            }
            Begun::Cancel(request) => Ok(Arrival::Cancel(request)),
            Begun::Closed => Ok(Arrival::Closed),
        }
    })
    .await
}

/// A connection whose first packet is not read yet.
struct Opened {
    talk: Talk,
    /// `tls-server-end-point` of our certificate, over TLS.
    end_point: Option<Arc<[u8]>>,
    ssl_asked: bool,
    gss_asked: bool,
}

/// A connection that has said who it is.
struct Started {
    talk: Talk,
    end_point: Option<Arc<[u8]>>,
    startup: Startup,
}

enum Begun {
    Started(Started),
    Cancel(CancelRequest),
    Closed,
}

/// What an `Opened` becomes with one packet.
enum Step {
    Again(Opened),
    Done(Begun),
}

async fn start(
    socket: TcpStream,
    context: &HandshakeContext,
    claim: &mut Claim,
) -> Result<Begun, HandshakeError> {
    let mut opened = Opened::new(socket, context).await?;
    loop {
        match opened.step(context, claim).await? {
            Step::Again(next) => opened = next,
            Step::Done(begun) => return Ok(begun),
        }
    }
}

impl Opened {
    /// Recognises TLS that begins at once (`sslnegotiation=direct`).
    async fn new(socket: TcpStream, context: &HandshakeContext) -> Result<Self, HandshakeError> {
        let mut first = [0];
        let direct = match &context.tls {
            Some(tls) if socket.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE => tls,
            _ => {
                let talk = Talk::new(Stream::Plain(socket));
                return Ok(Self { talk, end_point: None, ssl_asked: false, gss_asked: false });
            }
        };
        let accepted = direct.accept(socket).await.map_err(HandshakeError::Tls)?;
        let talk = Talk::new(accepted.stream);
        if !accepted.alpn {
            let message =
                "received direct SSL connection request without ALPN protocol negotiation extension";
            return Err(refuse(talk, violation(message)).await);
        }
        Ok(Self { talk, end_point: accepted.end_point, ssl_asked: true, gss_asked: true })
    }

    async fn step(mut self, context: &HandshakeContext, claim: &mut Claim) -> Result<Step, HandshakeError> {
        let packet = match self.talk.first_packet().await {
            Ok(packet) => packet,
            Err(TalkError::Startup(error)) => {
                claim.clone_from(&error.claim);
                return Err(refuse(self.talk, error).await);
            }
            Err(TalkError::Io(error)) => return Err(error.into()),
            Err(TalkError::Closed { partial: false }) => return Ok(Step::Done(Begun::Closed)),
            Err(TalkError::Closed { partial: true } | TalkError::Length) => {
                return Err(HandshakeError::Incomplete);
            }
        };
        match packet {
            FirstPacket::Ssl if !self.ssl_asked => self.ssl(context).await.map(Step::Again),
            FirstPacket::Gss if !self.gss_asked => self.gss().await.map(Step::Again),
            FirstPacket::Ssl | FirstPacket::Gss => {
                Err(refuse(self.talk, violation("encryption was already negotiated")).await)
            }
            FirstPacket::Cancel(key) => {
                let request = CancelRequest { key, from_peer: false, stream: self.talk.stream };
                Ok(Step::Done(Begun::Cancel(request)))
            }
            FirstPacket::PeerCancel(key) => {
                let request = CancelRequest { key, from_peer: true, stream: self.talk.stream };
                Ok(Step::Done(Begun::Cancel(request)))
            }
            FirstPacket::Startup(startup) => {
                *claim = Claim { user: startup.user.clone(), database: startup.database.clone() };
                self.started(startup, context).await.map(Begun::Started).map(Step::Done)
            }
        }
    }

    async fn ssl(mut self, context: &HandshakeContext) -> Result<Self, HandshakeError> {
        self.ssl_asked = true;
        let Some(tls) = &context.tls else {
            return self.answer(b"N").await;
        };
        // Bytes behind the request were sent in plain text, perhaps by somebody in between.
        if !self.talk.inbox.is_empty() {
            return Err(refuse(self.talk, violation("received unencrypted data after SSL request")).await);
        }
        let opened = self.answer(b"S").await?;
        let Stream::Plain(socket) = opened.talk.stream else {
            return Err(refuse(opened.talk, violation("encryption was already negotiated")).await);
        };
        let accepted = tls.accept(socket).await.map_err(HandshakeError::Tls)?;
        let talk = Talk::new(accepted.stream);
        Ok(Self { talk, end_point: accepted.end_point, ssl_asked: true, gss_asked: true })
    }

    async fn gss(mut self) -> Result<Self, HandshakeError> {
        self.gss_asked = true;
        self.answer(b"N").await
    }

    async fn answer(mut self, letter: &[u8; 1]) -> Result<Self, HandshakeError> {
        self.talk.outbox.extend_from_slice(letter);
        self.talk.send().await?;
        Ok(self)
    }

    async fn started(self, startup: Startup, context: &HandshakeContext) -> Result<Started, HandshakeError> {
        if context.tls_mode == ListenTls::Require && !self.talk.stream.is_tls() {
            let message = "connections without TLS are not accepted";
            let error = StartupError {
                hint: Some("Connect with sslmode=require."),
                ..StartupError::new(sqlstate::INVALID_AUTHORIZATION, message)
            };
            return Err(refuse(self.talk, error).await);
        }
        let mut talk = self.talk;
        write_negotiation(&startup, &mut talk.outbox);
        Ok(Started { talk, end_point: self.end_point, startup })
    }
}

impl Started {
    async fn authenticate(mut self, authenticator: &Authenticator) -> Result<Arrival, HandshakeError> {
        let proved = authenticator.prove(&mut self.talk, &self.startup.user, self.end_point.as_deref()).await;
        let credentials = match proved {
            Ok(credentials) => credentials,
            Err(error) => {
                error.close(self.talk).await;
                return Err(error.into());
            }
        };
        let mut leftover = self.talk.inbox;
        if leftover.is_empty() {
            // An idle session keeps no read buffer.
            leftover = BytesMut::new();
        }
        // What the login is answered with is more than a word.
        let mut out = BytesMut::new();
        buffers::lend(&mut out);
        out.extend_from_slice(&self.talk.outbox);
        Ok(Arrival::Login(Box::new(Login {
            stream: self.talk.stream,
            user: self.startup.user,
            database: self.startup.database,
            parameters: self.startup.parameters,
            protocol: self.startup.protocol,
            credentials,
            leftover,
            out,
        })))
    }
}

fn violation(message: &str) -> StartupError {
    StartupError::new(sqlstate::PROTOCOL_VIOLATION, message)
}

async fn refuse(talk: Talk, error: StartupError) -> HandshakeError {
    talk.close_with(Report::fatal(error.sqlstate, &error.message).hint(error.hint)).await;
    HandshakeError::Startup(error)
}

#[cfg(test)]
mod tests;
