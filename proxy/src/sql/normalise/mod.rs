//! Texts without their literals: key of the facts' cache, splitting into statements, identifiers of a text.
//!
//! Invariants: two texts with the same key differ in literals and routing hints alone; the n-th literal of one stands
//! where the n-th literal of the other stands; everything between literals is the same bytes.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use super::lexer::{Kind, Lexer, Token};

/// A literal of a text, with its quotes and prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    /// Which spelling: number, `'…'`, `E'…'`, …
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Literal {
    /// The value: a number as written, a string without quotes and escapes. `None` when the spelling is not
    /// supported (bit strings, `U&''` with escapes, bytes that are not UTF-8).
    pub fn value<'t>(&self, text: &'t [u8], conforming: bool) -> Option<Cow<'t, str>> {
        let raw = std::str::from_utf8(text.get(self.start..self.end)?).ok()?;
        match self.kind {
            Kind::Number => Some(Cow::Borrowed(raw)),
            Kind::String => {
                let body =
                    raw.strip_prefix(['n', 'N']).unwrap_or(raw).strip_prefix('\'')?.strip_suffix('\'')?;
                if !conforming && body.contains('\\') {
                    return unescape(body).map(Cow::Owned);
                }
                Some(undouble(body))
            }
            Kind::Escaped => {
                let body = raw.get(2..)?.strip_suffix('\'')?;
                if body.contains('\\') { unescape(body).map(Cow::Owned) } else { Some(undouble(body)) }
            }
            Kind::Unicode => {
                let body = raw.get(3..)?.strip_suffix('\'')?;
                if body.contains('\\') { None } else { Some(undouble(body)) }
            }
            Kind::Dollar => {
                let tag = raw.get(1..)?.find('$')? + 2;
                raw.get(tag..raw.len().checked_sub(tag)?).map(Cow::Borrowed)
            }
            _ => None,
        }
    }
}

fn undouble(body: &str) -> Cow<'_, str> {
    if body.contains('\'') { Cow::Owned(body.replace("''", "'")) } else { Cow::Borrowed(body) }
}

/// Backslash escapes of `E''`; `None` for those that make bytes (octal, hex, Unicode).
fn unescape(body: &str) -> Option<String> {
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                '0'..='9' | 'x' | 'u' | 'U' => return None,
                other => out.push(other),
            },
            '\'' => {
                chars.next();
                out.push('\'');
            }
            other => out.push(other),
        }
    }
    Some(out)
}

/// Literals in order of appearance.
pub type Literals = SmallVec<[Literal; 8]>;

/// Hint comments: number of literals before it, first byte, one past the last.
pub type HintSpans = SmallVec<[(usize, usize, usize); 1]>;

/// Routing hints found in comments, as bytes of the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// `/* gavel: key=42 */`
    pub key: Option<Range<usize>>,
    /// `/* gavel: shard=2 */`
    pub shard: Option<Range<usize>>,
    /// A word in such a comment that is none of these, or has no value.
    pub unknown: Option<Range<usize>>,
}

/// A text without its literals.
#[derive(Debug, Clone, Default)]
pub struct Normalised {
    /// The text with a marker byte for each literal and hint.
    pub key: SmallVec<[u8; 1024]>,
    /// The literals.
    pub literals: Literals,
    /// Replaced hint comments: position in `literals` before which each stands, and its bytes. Rare.
    pub hint_spans: HintSpans,
    /// The hints.
    pub hints: Hints,
}

const NUMBER_MARK: u8 = 1;
const STRING_MARK: u8 = 2;
const BITS_MARK: u8 = 3;
const HINT_MARK: u8 = 4;

/// Scans `text` once.
pub fn normalise(text: &[u8], conforming: bool) -> Normalised {
    let mut out = Normalised::default();
    normalise_into(text, conforming, &mut out);
    out
}

/// As [`normalise`], into an empty place of the caller's, so that nothing large is moved.
pub fn normalise_into(text: &[u8], conforming: bool, out: &mut Normalised) {
    let mut copied = 0;
    let mut lexer = Lexer::new(text, conforming);
    while let Some(Token { kind, start, end }) = lexer.next_literal() {
        if let Some((start, end)) = lexer.take_hint() {
            out.key.extend_from_slice(&text[copied..start]);
            out.key.push(HINT_MARK);
            copied = end;
            out.hint_spans.push((out.literals.len(), start, end));
            read_hint(text, start..end, &mut out.hints);
        }
        if !kind.is_literal() {
            continue;
        }
        out.key.extend_from_slice(&text[copied..start]);
        out.key.push(match kind {
            Kind::Number => NUMBER_MARK,
            Kind::Bits => BITS_MARK,
            _ => STRING_MARK,
        });
        copied = end;
        out.literals.push(Literal { kind, start, end });
    }
    out.key.extend_from_slice(&text[copied..]);
}

/// Reads `gavel: key=… shard=…` out of a comment.
fn read_hint(text: &[u8], comment: Range<usize>, hints: &mut Hints) {
    let Some(colon) = text[comment.clone()].iter().position(|&b| b == b':') else { return };
    let mut at = comment.start + colon + 1;
    let end = comment.end - 2;
    while at < end {
        let separator = |b: &u8| b.is_ascii_whitespace() || *b == b',';
        let start = at + text[at..end].iter().take_while(|b| separator(b)).count();
        let stop = start + text[start..end].iter().take_while(|b| !separator(b)).count();
        let word = &text[start..stop];
        if word.is_empty() {
            return;
        }
        let value = |name: &[u8]| {
            let value = word.strip_prefix(name).filter(|value| !value.is_empty())?;
            Some(unquote(text, stop - value.len()..stop))
        };
        if let Some(value) = value(b"key=") {
            hints.key = Some(value);
        } else if let Some(value) = value(b"shard=") {
            hints.shard = Some(value);
        } else {
            hints.unknown.get_or_insert(start..stop);
        }
        at = stop;
    }
}

fn unquote(text: &[u8], range: Range<usize>) -> Range<usize> {
    let value = &text[range.clone()];
    let quoted = value.len() >= 2 && value[0] == b'\'' && value[value.len() - 1] == b'\'';
    if quoted { range.start + 1..range.end - 1 } else { range }
}

/// The statements of a text: byte ranges without the semicolons, empty ones left out. A text without any statement
/// gives no range.
pub fn split(text: &[u8], conforming: bool) -> SmallVec<[Range<usize>; 4]> {
    let mut out = SmallVec::new();
    let mut splitter = Splitter::default();
    let mut first: Option<usize> = None;
    let mut last = 0;
    for token in Lexer::new(text, conforming) {
        if splitter.ends_statement(text, token) {
            if let Some(start) = first.take() {
                out.push(start..last);
            }
            splitter = Splitter::default();
            continue;
        }
        first.get_or_insert(token.start);
        last = token.end;
    }
    if let Some(start) = first {
        out.push(start..last);
    }
    out
}

/// Follows parentheses and the `BEGIN ATOMIC … END` bodies of SQL functions.
#[derive(Debug, Default)]
struct Splitter {
    parens: usize,
    words: usize,
    creates: bool,
    routine: bool,
    begin: bool,
    atomic: usize,
}

impl Splitter {
    fn ends_statement(&mut self, text: &[u8], token: Token) -> bool {
        match (token.kind, text[token.start]) {
            (Kind::Punct, b'(') => self.parens += 1,
            (Kind::Punct, b')') => self.parens = self.parens.saturating_sub(1),
            (Kind::Punct, b';') => return self.parens == 0 && self.atomic == 0,
            (Kind::Word, _) => self.word(&text[token.start..token.end]),
            _ => {}
        }
        false
    }

    fn word(&mut self, word: &[u8]) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if self.words == 0 {
            self.creates = is("create");
        }
        self.words += 1;
        if !self.creates {
            return;
        }
        if self.atomic > 0 {
            if is("case") {
                self.atomic += 1;
            } else if is("end") {
                self.atomic -= 1;
            }
            return;
        }
        if self.routine && self.begin && is("atomic") {
            self.atomic = 1;
        }
        self.routine |= is("function") || is("procedure");
        self.begin = is("begin");
    }
}

/// Identifiers of a text outside of literals, folded as PostgreSQL stores them. With `inside`, strings and
/// dollar-quoted bodies are searched as well, as if they were SQL (four levels deep).
pub fn identifiers(text: &[u8], conforming: bool, inside: bool, found: &mut dyn FnMut(&str)) {
    collect(text, conforming, if inside { 4 } else { 0 }, found);
}

fn collect(text: &[u8], conforming: bool, depth: usize, found: &mut dyn FnMut(&str)) {
    for token in Lexer::new(text, conforming) {
        let raw = &text[token.start..token.end];
        match token.kind {
            Kind::Word | Kind::Quoted | Kind::QuotedUnicode => found(&identifier(token.kind, raw)),
            Kind::String | Kind::Escaped | Kind::Unicode | Kind::Dollar | Kind::Unterminated if depth > 0 => {
                collect(string_body(token.kind, raw), conforming, depth - 1, found);
            }
            _ => {}
        }
    }
}

/// What is between the quotes, escapes left as they are: good enough to look for names.
fn string_body(kind: Kind, raw: &[u8]) -> &[u8] {
    let skip = match kind {
        Kind::Dollar => raw[1..].iter().position(|&b| b == b'$').map_or(raw.len(), |at| at + 2),
        Kind::Unicode => 3,
        Kind::Escaped => 2,
        Kind::Unterminated => {
            let body = raw.iter().position(|b| matches!(b, b'\'' | b'"' | b'*' | b'$'));
            return body.map_or(&[], |at| &raw[at + 1..]);
        }
        _ => raw.iter().position(|&b| b == b'\'').map_or(raw.len(), |at| at + 1),
    };
    let tail = if kind == Kind::Dollar { skip } else { 1 };
    raw.get(skip..raw.len().saturating_sub(tail)).unwrap_or(&[])
}

/// Bytes of a name; PostgreSQL cuts longer ones off (`NAMEDATALEN` less one).
const NAME_BYTES: usize = 63;

/// The name that an identifier token stands for.
pub fn identifier(kind: Kind, raw: &[u8]) -> Cow<'_, str> {
    if !matches!(kind, Kind::Quoted | Kind::QuotedUnicode) {
        return folded(raw);
    }
    let text = String::from_utf8_lossy(raw);
    let mut name = match kind {
        Kind::Quoted => {
            let body = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
            body.replace("\"\"", "\"")
        }
        _ => {
            let body = text.get(3..text.len().saturating_sub(1)).unwrap_or_default();
            unicode(&body.replace("\"\"", "\"")).unwrap_or_else(|| body.to_string())
        }
    };
    let end = (0..=NAME_BYTES.min(name.len())).rev().find(|&at| name.is_char_boundary(at));
    name.truncate(end.unwrap_or(0));
    Cow::Owned(name)
}

/// The part of an unquoted name that counts.
pub(super) fn clipped(raw: &[u8]) -> &[u8] {
    if raw.len() <= NAME_BYTES {
        return raw;
    }
    let continues = |at: usize| raw[at] & 0xc0 == 0x80;
    let end = (NAME_BYTES - 3..=NAME_BYTES).rev().find(|&at| !continues(at)).unwrap_or(NAME_BYTES);
    &raw[..end]
}

fn folded(raw: &[u8]) -> Cow<'_, str> {
    let raw = clipped(raw);
    let text = String::from_utf8_lossy(raw);
    match raw {
        _ if raw.iter().any(u8::is_ascii_uppercase) => Cow::Owned(text.to_ascii_lowercase()),
        _ => text,
    }
}

/// `\0061` and `\+000061` escapes with the default escape character.
fn unicode(body: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('\\') {
            out.push('\\');
            rest = tail;
            continue;
        }
        let (digits, skip) = if rest.starts_with('+') { (rest.get(1..7)?, 7) } else { (rest.get(..4)?, 4) };
        out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = rest.get(skip..)?;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests;
