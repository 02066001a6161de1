//! FETCH and MOVE, taken apart.

use super::tokens::Tokens;

/// How many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The rest.
    All,
    /// So many; none of MOVE alone, which asks whether the cursor is on a row.
    Rows(u64),
}

impl Count {
    /// The number; `None`: all.
    pub fn rows(self) -> Option<u64> {
        match self {
            Self::All => None,
            Self::Rows(rows) => Some(rows),
        }
    }
}

/// A FETCH or MOVE that goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// MOVE.
    pub moves: bool,
    /// How far.
    pub count: Count,
}

impl Fetch {
    /// `FETCH` or `MOVE`.
    pub fn verb(&self) -> &'static str {
        if self.moves { "MOVE" } else { "FETCH" }
    }
}

/// Whether it is MOVE, which returns no rows.
pub fn moves(text: &[u8], conforming: bool) -> bool {
    let mut tokens = super::lexer::Lexer::new(text, conforming);
    tokens.next().is_some_and(|first| text[first.start..first.end].eq_ignore_ascii_case(b"move"))
}

/// `None` for what does not go forward, but for `MOVE 0`.
pub fn read(text: &[u8], conforming: bool) -> Option<Fetch> {
    let t = Tokens::new(text, conforming);
    let moves = t.is(0, "move");
    if !moves && !t.is(0, "fetch") {
        return None;
    }
    let number =
        |at: usize| std::str::from_utf8(t.raw(at)).ok()?.parse().ok().filter(|rows: &u64| moves || *rows > 0);
    // What may stand between the verb and the cursor's name, which is the last token.
    let mut words = 1..t.len().checked_sub(1)?;
    if t.is_any(words.end - 1, &["from", "in"]) && !words.is_empty() {
        words.end -= 1;
    }
    let count = match words.len() {
        0 => Count::Rows(1),
        1 if t.is_any(1, &["next", "forward"]) => Count::Rows(1),
        1 if t.is(1, "all") => Count::All,
        1 => Count::Rows(number(1)?),
        2 if t.is(1, "forward") && t.is(2, "all") => Count::All,
        2 if t.is(1, "forward") => Count::Rows(number(2)?),
        _ => return None,
    };
    Some(Fetch { moves, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_forward_is_read() {
        let count = |text: &str| read(text.as_bytes(), true).map(|fetch| fetch.count);
        assert_eq!(count("FETCH c"), Some(Count::Rows(1)));
        assert_eq!(count("fetch next from c;"), Some(Count::Rows(1)));
        assert_eq!(count("FETCH FORWARD 2000 FROM \"c d\""), Some(Count::Rows(2000)));
        assert_eq!(count("FETCH 10 IN c"), Some(Count::Rows(10)));
        assert_eq!(count("MOVE FORWARD ALL c"), Some(Count::All));
        assert_eq!(count("FETCH ALL FROM c"), Some(Count::All));
        assert_eq!(count("MOVE FORWARD 0 FROM c"), Some(Count::Rows(0)));
        for text in [
            "FETCH 0 c",
            "FETCH -1 FROM c",
            "FETCH PRIOR c",
            "FETCH LAST FROM c",
            "FETCH ABSOLUTE 2 c",
            "SELECT 1",
        ] {
            assert_eq!(count(text), None, "{text}");
        }
        assert!(read(b"MOVE 3 c", true).is_some_and(|fetch| fetch.moves && fetch.verb() == "MOVE"));
    }
}
