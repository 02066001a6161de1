//! Texts that a server has accepted: the grammar of several statements, or a statement that it would read in other words than the
//! application's.
//!
//! Texts share an entry when they differ in nothing that the grammar looks at: plain strings and numbers of one kind. Invariant: where
//! a literal's own spelling can be wrong (escapes, Unicode), it is part of the entry, or the text has none.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use quick_cache::sync::Cache;

use super::lexer::{Kind, Lexer, Token};

/// Texts remembered at once, the least used go first.
const TEXTS: usize = 16_384;

/// Which texts are known to be right.
#[derive(Debug)]
pub struct Sound {
    seen: Cache<u64, ()>,
    hasher: RandomState,
}

impl Default for Sound {
    fn default() -> Self {
        Self { seen: Cache::new(TEXTS), hasher: RandomState::default() }
    }
}

impl Sound {
    /// What stands for a text; `None` for one that must be asked about each time. `reading`: a number for all that its names depend on,
    /// where not the grammar alone was asked about.
    pub fn key(&self, text: &[u8], conforming: bool, reading: Option<u32>) -> Option<u64> {
        std::str::from_utf8(text).ok()?;
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(reading.map_or(u64::MAX, u64::from));
        let (mut end, mut before) = (0, [&b""[..]; 2]);
        for token in Lexer::new(text, conforming) {
            let gap = &text[end..token.start];
            hasher.write_u8(if gap.contains(&b'\n') { 2 } else { u8::from(!gap.is_empty()) });
            let spelled = spelled(text, token, conforming, before)?;
            hasher.write(spelled);
            hasher.write_u8(0);
            before = [before[1], &text[token.start..token.end]];
            end = token.end;
        }
        Some(hasher.finish())
    }

    /// Whether a server has accepted it.
    pub fn has(&self, key: u64) -> bool {
        self.seen.get(&key).is_some()
    }

    /// A server has accepted it.
    pub fn note(&self, key: u64) {
        self.seen.insert(key, ());
    }
}

/// The token as the grammar sees it, behind these two; `None`: not known well enough.
fn spelled<'t>(text: &'t [u8], token: Token, conforming: bool, before: [&[u8]; 2]) -> Option<&'t [u8]> {
    let raw = &text[token.start..token.end];
    Some(match token.kind {
        // The precision of float is looked at by the grammar.
        Kind::Number if before[1] == b"(" && before[0].eq_ignore_ascii_case(b"float") => raw,
        Kind::Number => match raw.iter().position(|byte| !byte.is_ascii_digit()) {
            // Greater ones may be no integers to the grammar.
            None if raw.len() <= 9 => b"1",
            None => b"10000000000",
            Some(at) if raw[at] == b'.' && raw[at + 1..].iter().all(u8::is_ascii_digit) => b"1.5",
            Some(_) => raw,
        },
        Kind::String if raw[0] == b'\'' && (conforming || !raw.contains(&b'\\')) => b"''",
        Kind::Dollar => b"$$",
        Kind::Unicode | Kind::QuotedUnicode | Kind::Unterminated => return None,
        Kind::String | Kind::Escaped | Kind::Bits | Kind::Word | Kind::Quoted => raw,
        Kind::Param | Kind::Operator | Kind::Punct => raw,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_share_what_the_grammar_does_not_look_at() {
        let sound = Sound::default();
        let key = |text: &str| sound.key(text.as_bytes(), true, None);
        let one = key("insert into t values (1, 'a', 2.5); commit");
        assert_eq!(one, key("insert into t values (234567, 'it''s', 17.25); commit"));
        sound.note(one.expect("known"));
        assert!(sound.has(one.expect("known")));
        for other in [
            "insert into t values (1, 'a', 2.5); commi",
            "insert into t values (1, 'a', 2); commit",
            "insert into t values (1, 'a' 2.5); commit",
            "insert into t values (1, E'a', 2.5); commit",
            "insert into t values (12345678901, 'a', 2.5); commit",
            "insert into t values (1, 'a', 2.5); commit;",
        ] {
            assert_ne!(one, key(other), "{other}");
        }
        // Strings on two lines are one, on one line they are wrong.
        assert_ne!(key("select 1; select 'a'\n'b'"), key("select 1; select 'a' 'b'"));
        assert_ne!(key("select 1; select 1 a"), key("select 1; select 1a"));
        assert_ne!(key("select 1; select x::float(9)"), key("select 1; select x::float(99)"));
        assert_eq!(key("select 1; select 'open"), None);
        assert_eq!(key("select 1; select U&'\\00'"), None);
        assert_eq!(sound.key(b"select 1; select '\xff'", true, None), None);
        let escaped = |text: &str| sound.key(text.as_bytes(), false, None);
        let read = |reading| sound.key(b"select 1", true, reading);
        assert!(read(None) != read(Some(1)) && read(Some(1)) != read(Some(2)));
        assert_ne!(escaped("select 1; select '\\''"), escaped("select 1; select 'a'"));
    }
}
