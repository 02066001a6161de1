//! The login to a node: StartupMessage, the proof that the node asks for, and all up to ReadyForQuery.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::{BackendLogin, ConnectCause, ConnectContext, Connected, Credentials};
use crate::md5_password;
use crate::scram::client::{Challenge, ClientBinding, ClientExchange};
use crate::scram::{Keys, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, salted_password};
use crate::tls::end_point_hash;
use crate::wire::error::NodeError;
use crate::wire::startup::write_startup;
use crate::wire::stream::Stream;
use crate::wire::talk::{Talk, TalkError};

/// No message of a login is longer.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// More rounds than this are computed on a thread of their own.
const INLINE_ITERATIONS_MAX: u32 = 10_000;

impl From<TalkError> for ConnectCause {
    fn from(error: TalkError) -> Self {
        match error {
            TalkError::Io(error) => Self::Unreachable(error),
            TalkError::Closed { .. } => Self::Unreachable(std::io::ErrorKind::UnexpectedEof.into()),
            TalkError::Length => Self::Protocol("invalid message length".to_owned()),
            TalkError::Startup(error) => Self::Protocol(error.to_string()),
        }
    }
}

/// Logs in over a fresh stream.
pub(super) async fn log_in(
    stream: Stream,
    login: &BackendLogin,
    context: &ConnectContext,
) -> Result<Connected, ConnectCause> {
    let mut talk = Talk::new(stream);
    let names = [("user", &*login.user), ("database", &*login.database)];
    let others = login.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    write_startup(names.into_iter().chain(others), &mut talk.outbox);
    talk.send().await?;
    prove(&mut talk, login, context).await?;
    until_ready(talk).await
}

/// The next message that is neither a notice nor an error.
async fn message(talk: &mut Talk) -> Result<(u8, Bytes), ConnectCause> {
    loop {
        let (tag, body) = talk.frame(BODY_BYTES_MAX).await?;
        match tag {
            b'E' => return Err(ConnectCause::Refused(Box::new(NodeError::parse(body)))),
            b'N' => {}
            // NegotiateProtocolVersion: we asked for nothing that could be negotiated away.
            b'v' => {}
            _ => return Ok((tag, body)),
        }
    }
}

/// The next Authentication message: its code and what follows.
async fn authentication(talk: &mut Talk) -> Result<(u32, Bytes), ConnectCause> {
    let (tag, body) = message(talk).await?;
    match (tag, body.first_chunk::<4>()) {
        (b'R', Some(code)) => Ok((u32::from_be_bytes(*code), body.slice(4..))),
        _ => Err(ConnectCause::Protocol("authentication expected".to_owned())),
    }
}

async fn prove(talk: &mut Talk, login: &BackendLogin, context: &ConnectContext) -> Result<(), ConnectCause> {
    loop {
        let (code, body) = authentication(talk).await?;
        match code {
            0 => return Ok(()),
            3 => {
                let password =
                    password(login, context).ok_or_else(|| missing(login, "the password itself"))?;
                talk.put(b'p', &[password.as_bytes(), b"\0"]);
                talk.send().await?;
            }
            5 => {
                let salt = body.first_chunk::<4>().ok_or_else(|| malformed("AuthenticationMD5Password"))?;
                let stored = match &login.credentials {
                    Credentials::Md5(stored) => stored.to_string(),
                    Credentials::None | Credentials::Password(_) | Credentials::ScramKeys(_) => {
                        let password =
                            password(login, context).ok_or_else(|| missing(login, "an md5 password"))?;
                        md5_password::stored(password, &login.user)
                    }
                };
                talk.put(b'p', &[md5_password::response(&stored, *salt).as_bytes(), b"\0"]);
                talk.send().await?;
            }
            10 => scram(talk, &body, login, context).await?,
            other => {
                let reason =
                    format!("the node asks for authentication method {other}, which is not supported");
                return Err(ConnectCause::Credentials(reason));
            }
        }
    }
}

/// The whole exchange, AuthenticationSASL up to AuthenticationSASLFinal.
async fn scram(
    talk: &mut Talk,
    mechanisms: &[u8],
    login: &BackendLogin,
    context: &ConnectContext,
) -> Result<(), ConnectCause> {
    let offered =
        |name: &str| mechanisms.split(|&byte| byte == 0).any(|mechanism| mechanism == name.as_bytes());
    let end_point = talk.stream.peer_certificate().and_then(end_point_hash);
    let (mechanism, binding) = match &end_point {
        Some(hash) if offered(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ClientBinding::EndPoint(hash)),
        _ if !offered(SCRAM_SHA_256) => {
            let reason = "the node offers no SASL mechanism that the proxy knows".to_owned();
            return Err(ConnectCause::Credentials(reason));
        }
        Some(_) => (SCRAM_SHA_256, ClientBinding::NotOffered),
        None => (SCRAM_SHA_256, ClientBinding::None),
    };
    let exchange = ClientExchange::start(binding);
    let first = exchange.first().as_bytes();
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
    talk.put(b'p', &[mechanism.as_bytes(), b"\0", &length, first]);
    talk.send().await?;
    let (code, server_first) = authentication(talk).await?;
    if code != 11 {
        return Err(malformed("AuthenticationSASLContinue"));
    }
    let challenge =
        exchange.challenged(&server_first).map_err(|error| ConnectCause::Protocol(error.to_string()))?;
    let keys = scram_keys(&challenge, login, context).await?;
    let (answer, proven) = challenge.answer(&keys);
    talk.put(b'p', &[answer.as_bytes()]);
    talk.send().await?;
    let (code, server_final) = authentication(talk).await?;
    if code != 12 {
        return Err(malformed("AuthenticationSASLFinal"));
    }
    proven.verify(&server_final).map_err(|error| ConnectCause::Credentials(error.to_string()))
}

/// The keys for the node's salt and rounds: those of the application's login if they fit, else from a password.
async fn scram_keys(
    challenge: &Challenge,
    login: &BackendLogin,
    context: &ConnectContext,
) -> Result<Arc<Keys>, ConnectCause> {
    let mut reason = None;
    if let Credentials::ScramKeys(passed) = &login.credentials {
        if passed.salt == challenge.salt && passed.iterations == challenge.iterations {
            return Ok(Arc::new(passed.keys.clone()));
        }
        reason = Some(ConnectCause::Credentials(ScramError::OtherVerifier.to_string()));
    }
    let Some(password) = password(login, context) else {
        return Err(reason.unwrap_or_else(|| missing(login, "a SCRAM login or a password")));
    };
    let (salt, iterations) = (challenge.salt.clone(), challenge.iterations);
    let id = Sha256::new()
        .chain_update(password.as_bytes())
        .chain_update([0])
        .chain_update(&salt)
        .chain_update(iterations.to_be_bytes())
        .finalize()
        .into();
    if let Some(keys) = context.salted.get(&id) {
        return Ok(keys);
    }
    let salted = if iterations > INLINE_ITERATIONS_MAX {
        let password = Arc::clone(password);
        let task = tokio::task::spawn_blocking(move || salted_password(&password, &salt, iterations));
        task.await.map_err(|error| ConnectCause::Unreachable(std::io::Error::other(error)))?
    } else {
        salted_password(password, &salt, iterations)
    };
    let keys = Arc::new(Keys::of_salted(&salted));
    context.salted.insert(id, Arc::clone(&keys));
    Ok(keys)
}

/// The password itself: the login's, else the passwords file's.
fn password<'a>(login: &'a BackendLogin, context: &'a ConnectContext) -> Option<&'a Arc<str>> {
    match &login.credentials {
        Credentials::Password(password) => Some(password),
        Credentials::None | Credentials::ScramKeys(_) | Credentials::Md5(_) => context.password(&login.user),
    }
}

fn missing(login: &BackendLogin, what: &str) -> ConnectCause {
    ConnectCause::Credentials(format!(
        "the node asks for {what} of user \"{}\", which the proxy does not have (see backend.passwords_file)",
        login.user
    ))
}

fn malformed(what: &str) -> ConnectCause {
    ConnectCause::Protocol(format!("{what} expected"))
}

/// ParameterStatus, BackendKeyData, ReadyForQuery.
async fn until_ready(mut talk: Talk) -> Result<Connected, ConnectCause> {
    let mut parameters: Vec<(String, String)> = Vec::with_capacity(16);
    let (mut process_id, mut secret) = (0, Bytes::new());
    loop {
        let (tag, body) = message(&mut talk).await?;
        match tag {
            b'S' => {
                let (name, value) = parameter_status(&body).ok_or_else(|| malformed("ParameterStatus"))?;
                match parameters.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, old)) => *old = value,
                    None => parameters.push((name, value)),
                }
            }
            b'K' => {
                let id = body.first_chunk::<4>().ok_or_else(|| malformed("BackendKeyData"))?;
                process_id = i32::from_be_bytes(*id);
                // Copied: a slice would keep the whole read buffer alive.
                secret = Bytes::copy_from_slice(&body[4..]);
            }
            b'Z' if *body == *b"I" => break,
            _ => return Err(malformed("ReadyForQuery")),
        }
    }
    let mut leftover = BytesMut::new();
    if !talk.inbox.is_empty() {
        leftover.put_slice(&talk.inbox);
    }
    Ok(Connected { stream: talk.stream, parameters, process_id, secret, leftover })
}

fn parameter_status(body: &[u8]) -> Option<(String, String)> {
    let mut parts = body.strip_suffix(b"\0")?.split(|&byte| byte == 0);
    let (name, value) = (parts.next()?, parts.next()?);
    let owned = |text| String::from_utf8_lossy(text).into_owned();
    parts.next().is_none().then(|| (owned(name), owned(value)))
}
