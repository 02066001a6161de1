//! Files with lines `"user" "secret"`, as PgBouncer's `userlist.txt`: `auth.users_file` and `backend.passwords_file`.
//!
//! A quote inside of quotes is doubled; empty lines and lines that begin with `;` or `#` are skipped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// A line is not `"user" "secret"`.
    #[error("{path}, line {line}: expected \"user\" \"secret\"")]
    Line {
        /// Where.
        path: PathBuf,
        /// 1-based.
        line: usize,
    },
}

/// Reads the file; the last line of a user wins.
pub fn read_secrets(path: &Path) -> Result<HashMap<String, Arc<str>>, SecretsFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SecretsFileError::Read { path: path.to_owned(), error })?;
    parse_secrets(&text).map_err(|line| SecretsFileError::Line { path: path.to_owned(), line })
}

/// Parses the text; the error is the 1-based line that is wrong.
pub fn parse_secrets(text: &str) -> Result<HashMap<String, Arc<str>>, usize> {
    let mut secrets = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let (user, secret) = parse_line(line).ok_or(index + 1)?;
        secrets.insert(user, secret.into());
    }
    Ok(secrets)
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

    #[test]
    fn quotes_comments_and_mistakes() {
        let read = parse_secrets("; comment\n\n\"a\" \"x\"\"y\"\n # no\n\"b\"\t\"\"\n").expect("good lines");
        assert_eq!((&*read["a"], &*read["b"]), ("x\"y", ""));
        for (text, line) in
            [("\"a\"", 1), ("\n\"a\" \"b", 2), ("a b", 1), ("\"a\" \"b\" c", 1), ("\"\" \"x\"", 1)]
        {
            assert_eq!(parse_secrets(text).expect_err("a wrong line"), line, "{text}");
        }
    }
}
