//! PostgreSQL's lexical rules over bytes, without allocation.
//!
//! One pass, one token at a time, white space and comments left out. Every later stage (normalising, splitting,
//! recognising commands, feeding the parser) reads these tokens, so all of them agree on where a literal ends.
//! Source: PostgreSQL's `src/backend/parser/scan.l`.
//!
//! Invariants: tokens are in order, do not overlap, lie inside the text, and any bytes at all are accepted.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Unquoted identifier or keyword.
    Word,
    /// `"identifier"`.
    Quoted,
    /// `U&"identifier"`.
    QuotedUnicode,
    /// Number without a sign.
    Number,
    /// `'…'`, also `N'…'`; backslashes count only when `standard_conforming_strings` is off.
    String,
    /// `E'…'`.
    Escaped,
    /// `U&'…'`.
    Unicode,
    /// `B'…'` or `X'…'`.
    Bits,
    /// `$tag$…$tag$`.
    Dollar,
    /// `$n`.
    Param,
    /// An operator.
    Operator,
    /// `( ) [ ] , ; . : :: :=` and any other single byte.
    Punct,
    /// A literal, quoted identifier or comment that the text ends in.
    Unterminated,
}

impl Kind {
    /// Whether texts that differ in this token alone share their facts.
    pub fn is_literal(self) -> bool {
        matches!(
            self,
            Kind::Number | Kind::String | Kind::Escaped | Kind::Unicode | Kind::Bits | Kind::Dollar
        )
    }
}

/// A token of a text: `text[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// The tokens of a text. `comment` is called with the bytes of each block comment.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    conforming: bool,
    hint: Option<(usize, usize)>,
}

/// Classes of first bytes.
const SPACE: u8 = 1;
const IDENT: u8 = 2;
const DIGIT: u8 = 3;
const OPERATOR: u8 = 4;
const QUOTE: u8 = 5;
const DOUBLE: u8 = 6;
const DOLLAR: u8 = 7;
const OTHER: u8 = 0;

const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [OTHER; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => IDENT,
            b'0'..=b'9' => DIGIT,
            b'+' | b'-' | b'*' | b'/' | b'<' | b'>' | b'=' | b'~' | b'!' | b'@' | b'#' | b'%' | b'^'
            | b'&' | b'|' | b'`' | b'?' => OPERATOR,
            b'\'' => QUOTE,
            b'"' => DOUBLE,
            b'$' => DOLLAR,
            _ => OTHER,
        };
        byte += 1;
    }
    table
}

const IDENT_PART: [bool; 256] = ident_parts();

const fn ident_parts() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASS[byte], IDENT | DIGIT | DOLLAR);
        byte += 1;
    }
    table
}

fn is_ident_part(byte: u8) -> bool {
    IDENT_PART[byte as usize]
}

impl<'a> Lexer<'a> {
    /// Reads `text`; `conforming` is `standard_conforming_strings`.
    pub fn new(text: &'a [u8], conforming: bool) -> Self {
        Self { text, at: 0, conforming, hint: None }
    }

    /// The block comment that starts with `gavel:` and was passed last, with its delimiters; taken once.
    pub fn take_hint(&mut self) -> Option<(usize, usize)> {
        self.hint.take()
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn token(&mut self, kind: Kind, start: usize, end: usize) -> Option<Token> {
        self.at = end;
        Some(Token { kind, start, end })
    }

    /// Skips white space and comments; `Err` when a block comment does not end.
    fn skip_blank(&mut self) -> Result<(), usize> {
        loop {
            match self.text.get(self.at) {
                Some(&b) if CLASS[b as usize] == SPACE => self.at += 1,
                Some(b'-') if self.peek(1) == b'-' => {
                    let rest = &self.text[self.at..];
                    let line = rest.iter().position(|&b| b == b'\n' || b == b'\r');
                    self.at += line.unwrap_or(rest.len());
                }
                Some(b'/') if self.peek(1) == b'*' => {
                    let start = self.at;
                    self.at = comment_end(self.text, start).ok_or(start)?;
                    let body = self.text[start + 2..self.at].trim_ascii_start();
                    if body.starts_with(b"gavel:") {
                        self.hint = Some((start, self.at));
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn word(&mut self) -> Option<Token> {
        let start = self.at;
        match (self.text[start], self.peek(1), self.peek(2)) {
            (b'e' | b'E', b'\'', _) => return self.quoted(start, start + 1, Kind::Escaped),
            (b'b' | b'B' | b'x' | b'X', b'\'', _) => return self.quoted(start, start + 1, Kind::Bits),
            (b'n' | b'N', b'\'', _) => return self.quoted(start, start + 1, Kind::String),
            (b'u' | b'U', b'&', b'\'') => return self.quoted(start, start + 2, Kind::Unicode),
            (b'u' | b'U', b'&', b'"') => return self.quoted(start, start + 2, Kind::QuotedUnicode),
            _ => {}
        }
        let mut end = start + 1;
        while end < self.text.len() && is_ident_part(self.text[end]) {
            end += 1;
        }
        self.token(Kind::Word, start, end)
    }

    /// A token in quotes that open at `quote`.
    fn quoted(&mut self, start: usize, quote: usize, kind: Kind) -> Option<Token> {
        let mark = self.text[quote];
        let backslash = match kind {
            Kind::Escaped => true,
            Kind::String => !self.conforming,
            _ => false,
        };
        let mut at = quote + 1;
        while at < self.text.len() {
            let byte = self.text[at];
            if byte == mark {
                if self.text.get(at + 1) != Some(&mark) {
                    return self.token(kind, start, at + 1);
                }
                at += 2;
            } else if byte == b'\\' && backslash {
                at += 2;
            } else {
                at += 1;
            }
        }
        let end = self.text.len();
        self.token(Kind::Unterminated, start, end)
    }

    /// The next literal, leaving out everything else; a comment with a hint comes as [`Kind::Punct`]. What the iterator
    /// does, for those who need the literals alone, at a fraction of the time.
    pub fn next_literal(&mut self) -> Option<Token> {
        let text = self.text;
        loop {
            let byte = *text.get(self.at)?;
            match CLASS[byte as usize] {
                IDENT => {
                    let next = self.peek(1);
                    if next == b'\'' || next == b'&' {
                        let token = self.word()?;
                        if token.kind.is_literal() {
                            return Some(token);
                        }
                        continue;
                    }
                    let mut end = self.at + 1;
                    while end < text.len() && is_ident_part(text[end]) {
                        end += 1;
                    }
                    self.at = end;
                }
                DIGIT => return self.number(),
                QUOTE => return self.quoted(self.at, self.at, Kind::String),
                OPERATOR => {
                    let start = self.at;
                    if matches!((byte, self.peek(1)), (b'-', b'-') | (b'/', b'*')) {
                        if self.skip_blank().is_err() {
                            return None;
                        }
                        if self.hint.is_some() {
                            return Some(Token { kind: Kind::Punct, start, end: self.at });
                        }
                    } else {
                        self.at += 1;
                    }
                }
                DOUBLE => {
                    self.quoted(self.at, self.at, Kind::Quoted);
                }
                DOLLAR => {
                    let token = self.dollar()?;
                    if token.kind == Kind::Dollar {
                        return Some(token);
                    }
                }
                OTHER if byte == b'.' && self.peek(1).is_ascii_digit() => return self.number(),
                _ => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Option<Token> {
        let start = self.at;
        let text = self.text;
        let digits = |mut at: usize| {
            while at < text.len() && (text[at].is_ascii_digit() || text[at] == b'_') {
                at += 1;
            }
            at
        };
        if text[start] == b'0' && matches!(self.peek(1), b'x' | b'X' | b'o' | b'O' | b'b' | b'B') {
            let mut end = start + 2;
            while end < text.len() && (text[end].is_ascii_hexdigit() || text[end] == b'_') {
                end += 1;
            }
            if end > start + 2 {
                return self.token(Kind::Number, start, end);
            }
        }
        let mut end = digits(start);
        if text.get(end) == Some(&b'.') && text.get(end + 1) != Some(&b'.') {
            end = digits(end + 1);
        }
        if matches!(text.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
            if matches!(text.get(end + 1 + sign), Some(b'0'..=b'9')) {
                end = digits(end + 1 + sign);
            }
        }
        self.token(Kind::Number, start, end)
    }

    fn dollar(&mut self) -> Option<Token> {
        let start = self.at;
        let text = self.text;
        let mut end = start + 1;
        while end < text.len() && text[end].is_ascii_digit() {
            end += 1;
        }
        if end > start + 1 {
            return self.token(Kind::Param, start, end);
        }
        while end < text.len() && matches!(CLASS[text[end] as usize], IDENT | DIGIT) {
            end += 1;
        }
        if text.get(end) != Some(&b'$') {
            return self.token(Kind::Punct, start, start + 1);
        }
        let tag = &text[start..=end];
        let mut at = end + 1;
        while at + tag.len() <= text.len() {
            match text[at..].iter().position(|&b| b == b'$') {
                Some(offset) if text[at + offset..].starts_with(tag) => {
                    return self.token(Kind::Dollar, start, at + offset + tag.len());
                }
                Some(offset) => at += offset + 1,
                None => break,
            }
        }
        let end = text.len();
        self.token(Kind::Unterminated, start, end)
    }

    fn operator(&mut self) -> Option<Token> {
        let start = self.at;
        let text = self.text;
        let mut end = start;
        while end < text.len() && CLASS[text[end] as usize] == OPERATOR {
            let pair = (text[end], text.get(end + 1).copied().unwrap_or(0));
            if end > start && (pair == (b'-', b'-') || pair == (b'/', b'*')) {
                break;
            }
            end += 1;
        }
        let special =
            |b: &u8| matches!(b, b'~' | b'!' | b'@' | b'#' | b'%' | b'^' | b'&' | b'|' | b'`' | b'?');
        if !text[start..end].iter().any(special) {
            while end > start + 1 && matches!(text[end - 1], b'+' | b'-') {
                end -= 1;
            }
        }
        self.token(Kind::Operator, start, end)
    }

    fn punct(&mut self) -> Option<Token> {
        let start = self.at;
        match (self.text[start], self.peek(1)) {
            (b'.', b'0'..=b'9') => self.number(),
            (b':', b':' | b'=') => self.token(Kind::Punct, start, start + 2),
            _ => self.token(Kind::Punct, start, start + 1),
        }
    }
}

/// Numbers of the parameters of a text, as often as they occur.
pub fn param_numbers(text: &[u8]) -> impl Iterator<Item = u16> + '_ {
    let params = Lexer::new(text, true).filter(|token| token.kind == Kind::Param);
    params.filter_map(|token| std::str::from_utf8(text.get(token.start + 1..token.end)?).ok()?.parse().ok())
}

/// End of the (nested) block comment that opens at `start`.
fn comment_end(text: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if let Err(start) = self.skip_blank() {
            let end = self.text.len();
            return self.token(Kind::Unterminated, start, end);
        }
        let byte = *self.text.get(self.at)?;
        match CLASS[byte as usize] {
            IDENT => self.word(),
            DIGIT => self.number(),
            OPERATOR => self.operator(),
            QUOTE => self.quoted(self.at, self.at, Kind::String),
            DOUBLE => self.quoted(self.at, self.at, Kind::Quoted),
            DOLLAR => self.dollar(),
            _ => self.punct(),
        }
    }
}
