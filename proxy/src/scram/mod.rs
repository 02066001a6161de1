//! SCRAM-SHA-256 on both sides, with channel binding and with keys instead of a password.
//!
//! Source: RFC 5802, RFC 7677, RFC 5929 (`tls-server-end-point`), and PostgreSQL's `auth-scram.c` and `scram-common.c`
//! for the stored verifier, the texts of errors and the mock exchange. The server side gives back the *client key* that
//! the application's proof reveals: with it the proxy logs in to a node that stores the same verifier, without ever
//! seeing the password. Pure apart from nonces.

pub mod client;
pub mod server;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// Mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// PostgreSQL's default number of rounds.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// More rounds than this are not computed for a peer: a node could keep the proxy's CPU busy.
pub const ITERATIONS_MAX: u32 = 10_000_000;

/// Length of every key.
pub const KEY_BYTES: usize = 32;
/// A key, a proof or a hash.
pub type Key = [u8; KEY_BYTES];

/// What a node stores of a password: `SCRAM-SHA-256$<rounds>:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// Salt.
    pub salt: Vec<u8>,
    /// H(ClientKey).
    pub stored_key: Key,
    /// Signs the server's last message.
    pub server_key: Key,
}

impl Verifier {
    /// Reads the stored text; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations: u32 = iterations.parse().ok().filter(|&rounds| rounds > 0)?;
        let salt = BASE64.decode(salt).ok()?;
        Some(Self {
            iterations,
            salt,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// The verifier of a password.
    pub fn of_password(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let keys = Keys::of_salted(&salted_password(password, &salt, iterations));
        Self { iterations, salt, stored_key: sha256(&keys.client_key), server_key: keys.server_key }
    }

    /// A verifier that no password fits, the same for the same name while `secret` lives: what an unknown user gets, so
    /// that nobody can tell who exists.
    pub fn mock(user: &str, secret: &Key) -> Self {
        let seed = hmac(secret, &[user.as_bytes()]);
        let (stored_key, server_key) = (hmac(secret, &[b"stored", &seed]), hmac(secret, &[b"server", &seed]));
        Self { iterations: DEFAULT_ITERATIONS, salt: seed[..16].to_vec(), stored_key, server_key }
    }

    /// Whether `password` is the one it was made of.
    pub fn fits(&self, password: &str) -> bool {
        let other = Self::of_password(password, self.salt.clone(), self.iterations);
        equal(&other.stored_key, &self.stored_key)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stored_key, server_key) = (BASE64.encode(self.stored_key), BASE64.encode(self.server_key));
        write!(f, "SCRAM-SHA-256${}:{}${stored_key}:{server_key}", self.iterations, BASE64.encode(&self.salt))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What a login needs instead of the password, for one salt and number of rounds.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Proves that we know the password.
    pub client_key: Key,
    /// Proves that the server does.
    pub server_key: Key,
}

impl Keys {
    /// The keys of a salted password.
    pub fn of_salted(salted: &Key) -> Self {
        Self { client_key: hmac(salted, &[b"Client Key"]), server_key: hmac(salted, &[b"Server Key"]) }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// The keys that an application's login revealed, and the salt and rounds that they hold for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// The keys.
    pub keys: Keys,
    /// Salt of the verifier.
    pub salt: Vec<u8>,
    /// Rounds of the verifier.
    pub iterations: u32,
}

/// How an exchange fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The peer's message is not SCRAM.
    #[error("malformed SCRAM message ({0})")]
    Malformed(&'static str),
    /// The peer asks for what is not supported.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Channel binding was talked out of, or does not fit the certificate.
    #[error("{0}")]
    ChannelBinding(&'static str),
    /// The proof is wrong: password or user.
    #[error("the SCRAM proof is wrong")]
    WrongProof,
    /// The node's signature is wrong: it does not know the password.
    #[error("the server's SCRAM signature is wrong")]
    WrongSignature,
    /// The keys are for another salt or number of rounds than the node's.
    #[error(
        "the node stores another SCRAM verifier than the one that the application was checked against: the password was \
         changed since (log in again), or set on each node by itself (copy the verifier, or use backend.passwords_file)"
    )]
    OtherVerifier,
}

/// `Hi()` of RFC 5802 over the prepared password: the expensive step.
pub fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let mut salted = [0; KEY_BYTES];
    pbkdf2::pbkdf2_hmac::<Sha256>(prepare(password).as_bytes(), salt, iterations, &mut salted);
    salted
}

/// SASLprep as PostgreSQL does it: what cannot be prepared is used as it is.
fn prepare(password: &str) -> std::borrow::Cow<'_, str> {
    if password.is_ascii() {
        return password.into();
    }
    stringprep::saslprep(password).unwrap_or(password.into())
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|index| left[index] ^ right[index])
}

fn equal(left: &Key, right: &Key) -> bool {
    left.ct_eq(right).into()
}

fn decode_key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// Eighteen random bytes in base64, as PostgreSQL's nonces.
fn nonce() -> String {
    BASE64.encode(rand::random::<[u8; 18]>())
}

/// The value of the attribute that `part` has to be (`r=…`).
fn attribute<'a>(part: Option<&'a str>, name: &str, missing: &'static str) -> Result<&'a str, ScramError> {
    part.and_then(|part| part.strip_prefix(name)?.strip_prefix('=')).ok_or(ScramError::Malformed(missing))
}

#[cfg(test)]
mod tests;
