//! `CREATE ROLE … PASSWORD 'x'` on several shards: each would draw a salt of its own, and an application's SCRAM login could not be
//! passed through to all of them. The password is therefore sent as one verifier, the same everywhere.

use crate::scram::{DEFAULT_ITERATIONS, Verifier};
use crate::sql::lexer::{Kind, Lexer};
use crate::sql::normalise::Literal;

/// The statement with its password replaced by a verifier made with `salt`; `None` where there is nothing to replace: another statement,
/// no password, PASSWORD NULL, or a secret that is stored as it is (`md5…`, `SCRAM-SHA-256$…`).
pub fn sealed(text: &[u8], conforming: bool, salt: [u8; 16]) -> Option<Vec<u8>> {
    let word = |start: usize, end: usize| text[start..end].to_ascii_lowercase();
    let mut tokens = Lexer::new(text, conforming).filter(|token| token.kind != Kind::Unterminated);
    let verb = tokens.next()?;
    let object = tokens.next()?;
    let verb = word(verb.start, verb.end);
    let object = word(object.start, object.end);
    if !matches!(&verb[..], b"create" | b"alter") || !matches!(&object[..], b"role" | b"user" | b"group") {
        return None;
    }
    let mut after_password = false;
    for token in tokens {
        if after_password && token.kind.is_literal() {
            let literal = Literal { kind: token.kind, start: token.start, end: token.end };
            let password = literal.value(text, conforming)?;
            let stored = Verifier::parse(&password).is_some() || crate::md5_password::is_stored(&password);
            if stored || password.is_empty() {
                return None;
            }
            let verifier = Verifier::of_password(&password, salt.to_vec(), DEFAULT_ITERATIONS);
            let mut sealed = text[..token.start].to_vec();
            sealed.extend_from_slice(format!("'{verifier}'").as_bytes());
            sealed.extend_from_slice(&text[token.end..]);
            return Some(sealed);
        }
        after_password = token.kind == Kind::Word && word(token.start, token.end) == b"password";
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(text: &str) -> Option<String> {
        sealed(text.as_bytes(), true, [7; 16]).map(|bytes| String::from_utf8(bytes).expect("still text"))
    }

    #[test]
    fn a_password_becomes_a_verifier_that_it_fits() {
        let text = seal("create role bob login password 'it''s' valid until 'infinity'").expect("a password");
        let verifier = text.split('\'').nth(1).and_then(Verifier::parse).expect("a verifier");
        assert!(verifier.fits("it's"));
        assert!(text.starts_with("create role bob login password 'SCRAM-SHA-256$4096:"));
        assert!(text.ends_with(" valid until 'infinity'"));
    }

    #[test]
    fn other_statements_stay() {
        for text in [
            "create role bob",
            "alter role bob password null",
            "alter role password valid until 'infinity'",
            "create table role (password text default 'x')",
            "alter user bob password 'md5d41d8cd98f00b204e9800998ecf8427e'",
            "",
        ] {
            assert_eq!(seal(text), None, "{text}");
        }
    }
}
