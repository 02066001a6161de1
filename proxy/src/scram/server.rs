//! The server's side of SCRAM-SHA-256: two messages in, two out, and the client key at the end.

use base64::Engine as _;

use super::{
    BASE64, Key, Keys, ScramError, ScramKeys, Verifier, attribute, decode_key, equal, hmac, nonce, sha256,
    xor,
};

/// What the client may bind the exchange to.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// SCRAM-SHA-256 was chosen and -PLUS not offered.
    NotOffered,
    /// SCRAM-SHA-256 was chosen although -PLUS was offered.
    Declined,
    /// SCRAM-SHA-256-PLUS was chosen; this is the `tls-server-end-point` hash of our certificate.
    EndPoint(&'a [u8]),
}

/// Between the server's first message and the client's last.
#[derive(Debug)]
pub struct ServerExchange {
    verifier: Verifier,
    nonce: String,
    /// `n=…,r=…` + `,` + server-first-message + `,`: the part of AuthMessage known so far.
    signed: String,
    /// What `c=` has to hold.
    binding: String,
    server_first: String,
}

impl ServerExchange {
    /// Reads client-first-message; the answer is [`ServerExchange::first`].
    pub fn start(verifier: Verifier, client_first: &[u8], binding: Binding<'_>) -> Result<Self, ScramError> {
        Self::start_with_nonce(verifier, client_first, binding, &nonce())
    }

    pub(super) fn start_with_nonce(
        verifier: Verifier,
        client_first: &[u8],
        binding: Binding<'_>,
        server_nonce: &str,
    ) -> Result<Self, ScramError> {
        let text = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let mut parts = text.splitn(3, ',');
        let (flag, authorization) = (parts.next().unwrap_or_default(), parts.next());
        let bare = parts.next().ok_or(ScramError::Malformed("attributes missing"))?;
        let bound = check_flag(flag, binding)?;
        if authorization != Some("") {
            return Err(ScramError::Unsupported(
                "client uses authorization identity, but it is not supported",
            ));
        }
        let mut attributes = bare.split(',');
        let user = attributes.next();
        if user.is_some_and(|user| user.starts_with("m=")) {
            return Err(ScramError::Unsupported("client requires an unsupported SCRAM extension"));
        }
        attribute(user, "n", "user name missing")?;
        let client_nonce = attribute(attributes.next(), "r", "nonce missing")?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) {
            return Err(ScramError::Malformed("non-printable characters in nonce"));
        }
        let nonce = format!("{client_nonce}{server_nonce}");
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let signed = format!("{bare},{server_first},");
        let mut bound_to = format!("{flag},,").into_bytes();
        bound_to.extend_from_slice(bound);
        Ok(Self { verifier, nonce, signed, binding: BASE64.encode(bound_to), server_first })
    }

    /// server-first-message.
    pub fn first(&self) -> &str {
        &self.server_first
    }

    /// Reads client-final-message; the answer is server-final-message and the keys that the proof revealed.
    pub fn finish(self, client_final: &[u8]) -> Result<(String, ScramKeys), ScramError> {
        let text = std::str::from_utf8(client_final).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("proof missing"))?;
        let mut attributes = without_proof.split(',');
        let binding = attribute(attributes.next(), "c", "channel binding missing")?;
        let nonce = attribute(attributes.next(), "r", "nonce missing")?;
        if binding != self.binding {
            return Err(ScramError::ChannelBinding("SCRAM channel binding check failed"));
        }
        if nonce != self.nonce {
            return Err(ScramError::Malformed("nonce does not match"));
        }
        let proof: Key = decode_key(proof).ok_or(ScramError::Malformed("malformed proof"))?;
        let signed: [&[u8]; 2] = [self.signed.as_bytes(), without_proof.as_bytes()];
        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, &signed));
        if !equal(&sha256(&client_key), &self.verifier.stored_key) {
            return Err(ScramError::WrongProof);
        }
        let signature = hmac(&self.verifier.server_key, &signed);
        let keys = ScramKeys {
            keys: Keys { client_key, server_key: self.verifier.server_key },
            salt: self.verifier.salt,
            iterations: self.verifier.iterations,
        };
        Ok((format!("v={}", BASE64.encode(signature)), keys))
    }
}

/// Checks the GS2 flag against what was offered and chosen; returns the data that `c=` must carry.
fn check_flag<'a>(flag: &str, binding: Binding<'a>) -> Result<&'a [u8], ScramError> {
    match (flag, binding) {
        ("n" | "y", Binding::EndPoint(_)) => Err(ScramError::Malformed(
            "SCRAM-SHA-256-PLUS was selected, but the message lacks channel binding data",
        )),
        ("n", _) | ("y", Binding::NotOffered) => Ok(&[]),
        ("y", Binding::Declined) => {
            Err(ScramError::ChannelBinding("SCRAM channel binding negotiation error"))
        }
        ("p=tls-server-end-point", Binding::EndPoint(hash)) => Ok(hash),
        (_, Binding::EndPoint(_)) if flag.starts_with("p=") => {
            Err(ScramError::Unsupported("unsupported SCRAM channel-binding type"))
        }
        _ => Err(ScramError::Malformed("unexpected channel-binding flag")),
    }
}
