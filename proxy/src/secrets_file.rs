//! Files with lines `"user" "secret"`, as PgBouncer's `userlist.txt`: `auth.users_file` and `backend.passwords_file`.
//!
//! A quote inside of quotes is doubled; empty lines and lines that begin with `;` or `#` are skipped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::md5_password;
use crate::scram::Verifier;

/// What is wrong with such a file. The secrets themselves are never part of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretsFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is wrong.
    #[error("{path}, line {line}: {fault}")]
    Line {
        /// Where.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is something else.
    #[error("expected \"user\" \"secret\"")]
    Form,
    /// A user again.
    #[error("user \"{user}\" has line {earlier} already: remove one of them")]
    Twice {
        /// Who.
        user: String,
        /// 1-based.
        earlier: usize,
    },
    /// No secret.
    #[error("the secret is empty: nobody could log in with it; remove the line")]
    Empty,
    /// Damaged.
    #[error(
        "the secret begins like a SCRAM-SHA-256 verifier and is none: \
         copy it whole, as SCRAM-SHA-256$<rounds>:<salt>$<key>:<key>"
    )]
    NoVerifier,
    /// Damaged.
    #[error("the secret looks like an md5 hash and is none: md5 and 32 hexadecimal digits in lower case")]
    NoHash,
    /// Where the password itself is needed.
    #[error("a hash or verifier cannot be used to log in to a shard: write the password itself")]
    Stored,
}

/// What the secrets are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Applications prove that they know them: passwords, hashes and verifiers.
    Check,
    /// The proxy logs in with them: passwords.
    Present,
}

/// Reads `auth.users_file`.
pub fn read_users(path: &Path) -> Result<HashMap<String, Arc<str>>, SecretsFileError> {
    read(path, Use::Check)
}

/// Reads `backend.passwords_file`.
pub fn read_passwords(path: &Path) -> Result<HashMap<String, Arc<str>>, SecretsFileError> {
    read(path, Use::Present)
}

fn read(path: &Path, purpose: Use) -> Result<HashMap<String, Arc<str>>, SecretsFileError> {
    let text = crate::text_file::read(path)
        .map_err(|error| SecretsFileError::Read { path: path.to_owned(), error })?;
    parse(&text, purpose).map_err(|(line, fault)| SecretsFileError::Line {
        path: path.to_owned(),
        line,
        fault,
    })
}

/// Parses the text; the error has the 1-based line that is wrong.
pub fn parse(text: &str, purpose: Use) -> Result<HashMap<String, Arc<str>>, (usize, Fault)> {
    let mut secrets: HashMap<String, Arc<str>> = HashMap::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let (user, secret) = parse_line(line).ok_or((number, Fault::Form))?;
        if let Some(fault) = fault(&secret, purpose) {
            return Err((number, fault));
        }
        if let Some(earlier) = lines.insert(user.clone(), number) {
            return Err((number, Fault::Twice { user, earlier }));
        }
        secrets.insert(user, secret.into());
    }
    Ok(secrets)
}

/// A damaged hash or verifier would be taken for a password, which nobody knows.
fn fault(secret: &str, purpose: Use) -> Option<Fault> {
    let stored = Verifier::parse(secret).is_some() || md5_password::is_stored(secret);
    if secret.is_empty() {
        Some(Fault::Empty)
    } else if stored {
        (purpose == Use::Present).then_some(Fault::Stored)
    } else if secret.starts_with("SCRAM-SHA-256$") {
        Some(Fault::NoVerifier)
    } else {
        (secret.starts_with("md5") && secret.len() == md5_password::STORED_LENGTH).then_some(Fault::NoHash)
    }
}

fn parse_line(line: &str) -> Option<(String, String)> {
    let (user, rest) = quoted(line)?;
    let (secret, rest) = quoted(rest.trim_start())?;
    (rest.trim().is_empty() && !user.is_empty()).then_some((user, secret))
}

/// The quoted text at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut read = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        read.push_str(part);
        let Some(more) = after.strip_prefix('"') else {
            return Some((read, after));
        };
        read.push('"');
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    const HASH: &str = "md54a0a68b43b6cd5cf266fa02f196e2371";

    #[test]
    fn quotes_comments_and_mistakes() {
        let text = "\u{feff}; comment\n\n\"a\" \"x\"\"y\"\n # no\n\"b\"\t\"md5\"\n";
        let read = parse(text, Use::Check).expect("good lines");
        assert_eq!((&*read["a"], &*read["b"]), ("x\"y", "md5"));
        for (text, line) in
            [("\"a\"", 1), ("\n\"a\" \"b", 2), ("a b", 1), ("\"a\" \"b\" c", 1), ("\"\" \"x\"", 1)]
        {
            assert_eq!(parse(text, Use::Check).expect_err("a wrong line"), (line, Fault::Form), "{text}");
        }
    }

    #[test]
    fn secrets_that_cannot_be_meant() {
        let parsed = |secret: &str, purpose| parse(&format!("\n\"a\" \"{secret}\"\n"), purpose).err();
        for secret in ["secret", "md5abc", VERIFIER, HASH] {
            assert_eq!(parsed(secret, Use::Check), None, "{secret}");
        }
        let upper = HASH.to_uppercase().replace("MD5", "md5");
        let damaged = [
            ("", Fault::Empty),
            ("SCRAM-SHA-256$bad", Fault::NoVerifier),
            (&VERIFIER[..VERIFIER.len() - 4], Fault::NoVerifier),
            (upper.as_str(), Fault::NoHash),
        ];
        for (secret, fault) in damaged {
            assert_eq!(parsed(secret, Use::Check), Some((2, fault)), "{secret}");
        }
        for secret in [VERIFIER, HASH] {
            assert_eq!(parsed(secret, Use::Present), Some((2, Fault::Stored)), "{secret}");
        }
        assert_eq!(parsed("secret", Use::Present), None);
        let twice = parse("\"a\" \"x\"\n\"b\" \"x\"\n\"a\" \"y\"\n", Use::Check);
        assert_eq!(twice.err(), Some((3, Fault::Twice { user: "a".into(), earlier: 1 })));
    }
}
