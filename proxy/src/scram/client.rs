//! The client's side of SCRAM-SHA-256, towards a node: with keys, from a password or from an application's login.

use base64::Engine as _;

use super::{
    BASE64, ITERATIONS_MAX, Key, Keys, ScramError, attribute, decode_key, equal, hmac, nonce, sha256, xor,
};

/// What the exchange is bound to.
#[derive(Debug, Clone, Copy)]
pub enum ClientBinding<'a> {
    /// Not over TLS, or the certificate has no hash: `n`.
    None,
    /// We could, but the node did not offer it: `y`, which a node that did offer it takes as an attack.
    NotOffered,
    /// -PLUS was chosen; this is the `tls-server-end-point` hash of the node's certificate.
    EndPoint(&'a [u8]),
}

impl<'a> ClientBinding<'a> {
    fn header_and_data(self) -> (&'static str, &'a [u8]) {
        match self {
            Self::None => ("n,,", &[]),
            Self::NotOffered => ("y,,", &[]),
            Self::EndPoint(hash) => ("p=tls-server-end-point,,", hash),
        }
    }
}

/// Before the node's first message.
#[derive(Debug)]
pub struct ClientExchange {
    /// `n,,` or `p=tls-server-end-point,,`, and the bound data: what `c=` holds.
    binding: Vec<u8>,
    client_first: String,
    bare_starts_at: usize,
    nonce: String,
}

/// The node's first message: which keys are wanted.
#[derive(Debug)]
pub struct Challenge {
    /// Salt of the node's verifier.
    pub salt: Vec<u8>,
    /// Rounds of the node's verifier.
    pub iterations: u32,
    nonce: String,
    signed: String,
    binding: Vec<u8>,
}

/// After the client's last message: the signature that the node owes.
#[derive(Debug)]
pub struct Proven {
    signature: Key,
}

impl ClientExchange {
    /// Starts an exchange.
    pub fn start(binding: ClientBinding<'_>) -> Self {
        Self::start_with_nonce(binding, "", nonce())
    }

    /// PostgreSQL ignores the name in SCRAM messages (it has the startup packet's); it is left empty.
    pub(super) fn start_with_nonce(binding: ClientBinding<'_>, user: &str, nonce: String) -> Self {
        let (header, data) = binding.header_and_data();
        let binding = [header.as_bytes(), data].concat();
        Self {
            binding,
            client_first: format!("{header}n={user},r={nonce}"),
            bare_starts_at: header.len(),
            nonce,
        }
    }

    /// client-first-message.
    pub fn first(&self) -> &str {
        &self.client_first
    }

    /// Reads server-first-message.
    pub fn challenged(self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let text = std::str::from_utf8(server_first).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let mut attributes = text.split(',');
        let nonce = attribute(attributes.next(), "r", "nonce missing")?;
        let salt = attribute(attributes.next(), "s", "salt missing")?;
        let iterations = attribute(attributes.next(), "i", "iteration count missing")?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Malformed("nonce does not match"));
        }
        let salt = BASE64.decode(salt).map_err(|_| ScramError::Malformed("malformed salt"))?;
        let iterations = iterations
            .parse()
            .ok()
            .filter(|rounds| (1..=ITERATIONS_MAX).contains(rounds))
            .ok_or(ScramError::Malformed("invalid iteration count"))?;
        let signed = format!("{},{text},", &self.client_first[self.bare_starts_at..]);
        Ok(Challenge { salt, iterations, nonce: nonce.to_owned(), signed, binding: self.binding })
    }
}

impl Challenge {
    /// client-final-message, made with the keys for this salt and these rounds.
    pub fn answer(self, keys: &Keys) -> (String, Proven) {
        let without_proof = format!("c={},r={}", BASE64.encode(&self.binding), self.nonce);
        let signed: [&[u8]; 2] = [self.signed.as_bytes(), without_proof.as_bytes()];
        let proof = xor(&keys.client_key, &hmac(&sha256(&keys.client_key), &signed));
        let signature = hmac(&keys.server_key, &signed);
        (format!("{without_proof},p={}", BASE64.encode(proof)), Proven { signature })
    }
}

impl Proven {
    /// Reads server-final-message: the node, too, must know the keys.
    pub fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let text = std::str::from_utf8(server_final).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let signature = attribute(text.split(',').next(), "v", "verifier missing")?;
        match decode_key(signature) {
            Some(signature) if equal(&signature, &self.signature) => Ok(()),
            _ => Err(ScramError::WrongSignature),
        }
    }
}
