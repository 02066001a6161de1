//! How an application proves who it is: trust, md5, SCRAM-SHA-256 (-PLUS over TLS), certificate.
//!
//! Source: PostgreSQL documentation, "Authentication Methods" and "SASL Authentication"; texts of errors as in `auth.c`.
//! Invariants: whether a user exists, has a password, or has one of another kind cannot be told from the exchange; what
//! the application was told is never the reason, only the log knows it.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use router_config::settings::AuthMethod;
use subtle::ConstantTimeEq as _;

use super::secrets::{Secret, SecretError, SecretSource};
use crate::backend::connect::Credentials;
use crate::md5_password;
use crate::scram::server::{Binding, ServerExchange};
use crate::scram::{Key, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, Verifier};
use crate::tls::common_name;
use crate::wire::error::Report;
use crate::wire::sqlstate;
use crate::wire::talk::{Talk, TalkError};

/// `PG_MAX_SASL_MESSAGE_LENGTH`
const SASL_BYTES_MAX: usize = 1024;
/// A longer password message is refused.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Authentication as the settings have it.
#[derive(Debug)]
pub struct Authenticator {
    method: AuthMethod,
    secrets: SecretSource,
    /// Seed of what unknown users get.
    mock: Key,
}

/// Why an application is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Wrong password, unknown user, no usable secret; the reason is for the log.
    #[error("password authentication failed for user \"{user}\": {reason}")]
    Password {
        /// Role.
        user: String,
        /// For the log only.
        reason: &'static str,
    },
    /// The password is right, but the role has no LOGIN.
    #[error("role \"{user}\" is not permitted to log in")]
    NoLogin {
        /// Role.
        user: String,
    },
    /// No certificate, or of another name; the reason is for the log.
    #[error("certificate authentication failed for user \"{user}\": {reason}")]
    Certificate {
        /// Role.
        user: String,
        /// For the log only.
        reason: &'static str,
    },
    /// The messages are not those of the exchange.
    #[error("{message} ({detail})")]
    Protocol {
        /// SQLSTATE.
        sqlstate: &'static str,
        /// Text.
        message: &'static str,
        /// What exactly.
        detail: String,
    },
    /// The secret could not be looked up.
    #[error("password of user \"{user}\" could not be looked up: {error}")]
    Secret {
        /// Role.
        user: String,
        /// Why.
        error: SecretError,
    },
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
}

impl AuthError {
    /// SQLSTATE as the application sees it.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Password { .. } => sqlstate::INVALID_PASSWORD,
            Self::Certificate { .. } | Self::NoLogin { .. } => sqlstate::INVALID_AUTHORIZATION,
            Self::Protocol { sqlstate, .. } => sqlstate,
            Self::Secret { .. } => sqlstate::CANNOT_CONNECT_NOW,
            Self::Io(_) => sqlstate::CONNECTION_FAILURE,
        }
    }

    /// Tells the application and closes.
    pub(super) async fn close(&self, talk: Talk) {
        let (message, detail) = match self {
            Self::Password { user, .. } => {
                (format!("password authentication failed for user \"{user}\""), None)
            }
            Self::Certificate { user, .. } => {
                (format!("certificate authentication failed for user \"{user}\""), None)
            }
            Self::NoLogin { .. } => (self.to_string(), None),
            Self::Protocol { message, detail, .. } => ((*message).to_owned(), Some(detail.as_str())),
            Self::Secret { user, .. } => {
                (format!("password of user \"{user}\" cannot be looked up now"), None)
            }
            Self::Io(_) => return,
        };
        talk.close_with(Report::fatal(self.sqlstate(), &message).detail(detail)).await;
    }
}

impl Authenticator {
    /// With the secrets' source.
    pub fn new(method: AuthMethod, secrets: SecretSource) -> Self {
        let mock = secrets.mock_seed();
        Self { method, secrets, mock }
    }

    /// Roles may have changed: every secret that is not of the users file is asked for again.
    pub fn forget_secrets(&self) {
        self.secrets.forget_all();
    }

    /// Tries `auth.query`, where passwords are asked for. `Err`: PostgreSQL refuses it, or it does not return what it must; a node that
    /// cannot be asked proves nothing.
    pub async fn try_query(&self) -> Result<(), SecretError> {
        match self.method {
            AuthMethod::Trust | AuthMethod::Cert => Ok(()),
            AuthMethod::Md5 | AuthMethod::ScramSha256 => self.secrets.try_query().await,
        }
    }

    /// Runs the exchange; AuthenticationOk is buffered at the end, not sent.
    pub(super) async fn prove(
        &self,
        talk: &mut Talk,
        user: &str,
        end_point: Option<&[u8]>,
    ) -> Result<Credentials, AuthError> {
        let credentials = match self.method {
            AuthMethod::Trust => Credentials::None,
            AuthMethod::Cert => certificate(talk, user)?,
            AuthMethod::Md5 | AuthMethod::ScramSha256 => {
                let known = self.secrets.lookup(user).await;
                let known = known.map_err(|error| AuthError::Secret { user: user.to_owned(), error })?;
                let barred = known.as_ref().is_some_and(|known| !known.may_log_in);
                let secret = known.map(|known| known.secret);
                let proved = self.password(talk, user, secret, end_point).await;
                if matches!(proved, Err(AuthError::Password { .. })) {
                    // The password may have been changed since: the next attempt asks again.
                    self.secrets.forget(user);
                }
                if barred && proved.is_ok() {
                    self.secrets.forget(user);
                    return Err(AuthError::NoLogin { user: user.to_owned() });
                }
                proved?
            }
        };
        talk.put(b'R', &[&0_u32.to_be_bytes()]);
        Ok(credentials)
    }

    async fn password(
        &self,
        talk: &mut Talk,
        user: &str,
        secret: Option<Secret>,
        end_point: Option<&[u8]>,
    ) -> Result<Credentials, AuthError> {
        let wrong = |reason| AuthError::Password { user: user.to_owned(), reason };
        match (self.method, secret) {
            (AuthMethod::Md5, Some(Secret::Md5(stored))) => md5(talk, &stored)
                .await?
                .then_some(Credentials::Md5(stored))
                .ok_or(wrong("wrong md5 response")),
            (AuthMethod::Md5, Some(Secret::Plain(plain))) => {
                let right = md5(talk, &md5_password::stored(&plain.password, user)).await?;
                right
                    .then(|| Credentials::Password(plain.password.clone()))
                    .ok_or(wrong("wrong md5 response"))
            }
            (_, Some(Secret::Scram(verifier))) => {
                scram(talk, (*verifier).clone(), end_point).await?.ok_or(wrong("wrong SCRAM proof"))
            }
            (_, Some(Secret::Plain(plain))) => {
                let keys = scram(talk, plain.verifier().clone(), end_point).await?;
                keys.map(|_| Credentials::Password(plain.password.clone())).ok_or(wrong("wrong SCRAM proof"))
            }
            (_, Some(Secret::Md5(_))) => {
                scram(talk, Verifier::mock(user, &self.mock), end_point).await?;
                Err(wrong("the stored secret is md5, which auth.method = \"scram-sha-256\" cannot check"))
            }
            (AuthMethod::Md5, None) if self.secrets.md5_is_usual() => {
                md5(talk, &md5_password::stored(&BASE64.encode(self.mock), user)).await?;
                Err(wrong("no such user, or it has no password"))
            }
            (_, None) => {
                scram(talk, Verifier::mock(user, &self.mock), end_point).await?;
                Err(wrong("no such user, or it has no password"))
            }
        }
    }
}

fn certificate(talk: &Talk, user: &str) -> Result<Credentials, AuthError> {
    let wrong = |reason| AuthError::Certificate { user: user.to_owned(), reason };
    let Some(shown) = talk.stream.peer_certificate() else {
        return Err(AuthError::Protocol {
            sqlstate: sqlstate::INVALID_AUTHORIZATION,
            message: "connection requires a valid client certificate",
            detail: "The client showed none, or did not use TLS.".to_owned(),
        });
    };
    match common_name(shown) {
        Some(name) if name == user => Ok(Credentials::None),
        Some(_) => Err(wrong("the certificate's common name is another")),
        None => Err(wrong("the certificate has no single common name")),
    }
}

/// AuthenticationMD5Password and its answer.
async fn md5(talk: &mut Talk, stored: &str) -> Result<bool, AuthError> {
    let salt: [u8; 4] = rand::random();
    talk.put(b'R', &[&5_u32.to_be_bytes(), &salt]);
    let answer = answer(talk, PASSWORD_BYTES_MAX).await?;
    let Some(given) = answer.strip_suffix(b"\0") else {
        return Err(violation("invalid password packet size", String::new()));
    };
    if given.is_empty() {
        return Err(violation("empty password returned by client", String::new()));
    }
    Ok(md5_password::response(stored, salt).as_bytes().ct_eq(given).into())
}

/// The SASL exchange; `None`: the proof is wrong.
async fn scram(
    talk: &mut Talk,
    verifier: Verifier,
    end_point: Option<&[u8]>,
) -> Result<Option<Credentials>, AuthError> {
    let mechanisms = match end_point {
        Some(_) => [SCRAM_SHA_256_PLUS, SCRAM_SHA_256].join("\0"),
        None => SCRAM_SHA_256.to_owned(),
    };
    talk.put(b'R', &[&10_u32.to_be_bytes(), mechanisms.as_bytes(), b"\0\0"]);
    let initial = answer(talk, SASL_BYTES_MAX).await?;
    let (mechanism, client_first) = initial_response(&initial)?;
    let binding = match (mechanism, end_point) {
        (SCRAM_SHA_256, None) => Binding::NotOffered,
        (SCRAM_SHA_256, Some(_)) => Binding::Declined,
        (SCRAM_SHA_256_PLUS, Some(hash)) => Binding::EndPoint(hash),
        _ => {
            return Err(violation("client selected an invalid SASL authentication mechanism", String::new()));
        }
    };
    let exchange = ServerExchange::start(verifier, client_first, binding).map_err(scram_error)?;
    talk.put(b'R', &[&11_u32.to_be_bytes(), exchange.first().as_bytes()]);
    let client_final = answer(talk, SASL_BYTES_MAX).await?;
    match exchange.finish(&client_final) {
        Ok((server_final, keys)) => {
            talk.put(b'R', &[&12_u32.to_be_bytes(), server_final.as_bytes()]);
            Ok(Some(Credentials::ScramKeys(keys.into())))
        }
        Err(ScramError::WrongProof) => Ok(None),
        Err(error) => Err(scram_error(error)),
    }
}

/// Sends what is buffered and takes the password message that answers it.
async fn answer(talk: &mut Talk, bytes_max: usize) -> Result<bytes::Bytes, AuthError> {
    talk.send().await?;
    match talk.frame(bytes_max).await {
        Ok((b'p', body)) => Ok(body),
        Ok((tag, _)) => Err(violation(
            "expected a password or SASL response",
            format!("got message type {}", tag.escape_ascii()),
        )),
        Err(TalkError::Io(error)) => Err(error.into()),
        // As PostgreSQL's clients do to ask for the password first.
        Err(TalkError::Closed { .. }) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Err(error @ (TalkError::Length | TalkError::Startup(_))) => {
            Err(violation("invalid password message", error.to_string()))
        }
    }
}

/// SASLInitialResponse: mechanism and client-first-message.
fn initial_response(body: &[u8]) -> Result<(&str, &[u8]), AuthError> {
    let malformed = || violation("malformed SASL initial response", String::new());
    let end = body.iter().position(|&byte| byte == 0).ok_or_else(malformed)?;
    let mechanism = std::str::from_utf8(&body[..end]).map_err(|_| malformed())?;
    let (length, data) = body[end + 1..].split_first_chunk::<4>().ok_or_else(malformed)?;
    if usize::try_from(i32::from_be_bytes(*length)) != Ok(data.len()) {
        return Err(malformed());
    }
    Ok((mechanism, data))
}

fn scram_error(error: ScramError) -> AuthError {
    match error {
        ScramError::Unsupported(detail) => AuthError::Protocol {
            sqlstate: sqlstate::FEATURE_NOT_SUPPORTED,
            message: "SCRAM request is not supported",
            detail: detail.to_owned(),
        },
        ScramError::ChannelBinding(detail) => AuthError::Protocol {
            sqlstate: sqlstate::INVALID_AUTHORIZATION,
            message: "SCRAM channel binding failed",
            detail: detail.to_owned(),
        },
        ScramError::Malformed(_)
        | ScramError::WrongProof
        | ScramError::WrongSignature
        | ScramError::OtherVerifier => violation("malformed SCRAM message", error.to_string()),
    }
}

fn violation(message: &'static str, detail: String) -> AuthError {
    AuthError::Protocol { sqlstate: sqlstate::PROTOCOL_VIOLATION, message, detail }
}

#[cfg(test)]
mod tests;
