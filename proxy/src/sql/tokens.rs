//! A statement's tokens, collected, with the small questions that recognisers ask of them.

use std::borrow::Cow;

use super::lexer::{Kind, Lexer, Token};
use super::normalise::identifier;

/// Tokens of one statement over its text.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) list: Vec<Token>,
    /// Literals of the statement before the first token.
    pub(crate) literals_before: usize,
}

/// Where the pieces of a query in WITH are.
pub(crate) struct WithItem {
    /// The word AS.
    pub(crate) word: usize,
    /// Its parenthesis.
    pub(crate) open: usize,
    /// The one that closes it.
    pub(crate) close: usize,
}

impl<'a> Tokens<'a> {
    /// All tokens of `text`; a trailing semicolon is left out.
    pub(crate) fn new(text: &'a [u8], conforming: bool) -> Self {
        let mut list: Vec<Token> = Lexer::new(text, conforming).collect();
        while list.last().is_some_and(|t| t.kind == Kind::Punct && text[t.start] == b';') {
            list.pop();
        }
        Self { text, list, literals_before: 0 }
    }

    /// The tokens `from..to`, over the same text.
    pub(crate) fn part(&self, from: usize, to: usize) -> Self {
        let list = self.list.get(from..to).map(<[Token]>::to_vec).unwrap_or_default();
        let skipped = self.list.iter().take(from).filter(|t| t.kind.is_literal()).count();
        Self { text: self.text, list, literals_before: self.literals_before + skipped }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Bytes of the token, empty past the end.
    pub(crate) fn raw(&self, at: usize) -> &'a [u8] {
        self.list.get(at).map_or(&[], |t| &self.text[t.start..t.end])
    }

    pub(crate) fn kind(&self, at: usize) -> Option<Kind> {
        self.list.get(at).map(|t| t.kind)
    }

    /// Whether the token is this keyword (unquoted, any case).
    pub(crate) fn is(&self, at: usize, word: &str) -> bool {
        self.kind(at) == Some(Kind::Word) && self.raw(at).eq_ignore_ascii_case(word.as_bytes())
    }

    pub(crate) fn is_any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|w| self.is(at, w))
    }

    /// Whether the token is this punctuation or operator.
    pub(crate) fn is_mark(&self, at: usize, mark: &str) -> bool {
        matches!(self.kind(at), Some(Kind::Punct | Kind::Operator)) && self.raw(at) == mark.as_bytes()
    }

    /// The identifier as PostgreSQL stores it.
    pub(crate) fn name(&self, at: usize) -> Option<Cow<'a, str>> {
        let token = self.list.get(at)?;
        match token.kind {
            Kind::Word | Kind::Quoted | Kind::QuotedUnicode => Some(identifier(token.kind, self.raw(at))),
            _ => None,
        }
    }

    /// The keyword at this place in lower case, empty if there is none.
    pub(crate) fn keyword(&self, at: usize) -> String {
        match self.kind(at) {
            Some(Kind::Word) => String::from_utf8_lossy(self.raw(at)).to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    /// Source text from one token to another, both included.
    pub(crate) fn source(&self, first: usize, last: usize) -> String {
        match (self.list.get(first), self.list.get(last)) {
            (Some(a), Some(b)) if a.start <= b.end => {
                String::from_utf8_lossy(&self.text[a.start..b.end]).into_owned()
            }
            _ => String::new(),
        }
    }

    /// A possibly qualified name at `at`: its last two parts and the index after it.
    pub(crate) fn qualified(&self, at: usize) -> Option<(Option<String>, String, usize)> {
        let mut name = self.name(at)?.into_owned();
        let mut schema = None;
        let mut next = at + 1;
        while self.is_mark(next, ".") {
            let Some(part) = self.name(next + 1) else { break };
            schema = Some(std::mem::replace(&mut name, part.into_owned()));
            next += 2;
        }
        Some((schema, name, next))
    }

    /// Indices of the tokens between two that are outside of all parentheses and brackets between them.
    pub(crate) fn outermost(&self, from: usize, to: usize) -> impl Iterator<Item = usize> + '_ {
        let mut depth = 0_usize;
        (from..to).filter(move |&at| {
            if self.is_mark(at, "(") || self.is_mark(at, "[") {
                depth += 1;
            } else if self.is_mark(at, ")") || self.is_mark(at, "]") {
                depth = depth.saturating_sub(1);
            }
            depth == 0
        })
    }

    /// The items of a list between two tokens, each as its first token and the one behind it; none of them is empty.
    pub(crate) fn items(&self, from: usize, to: usize) -> Vec<(usize, usize)> {
        let commas = self.outermost(from, to).filter(|&at| self.is_mark(at, ","));
        let mut start = from;
        let mut items: Vec<(usize, usize)> =
            commas.chain([to]).map(|end| (std::mem::replace(&mut start, end + 1), end)).collect();
        items.retain(|(first, end)| first < end);
        items
    }

    /// Index of the word that says what the statement does, behind its own WITH.
    pub(crate) fn verb(&self) -> Option<usize> {
        if !self.is(0, "with") {
            return Some(0);
        }
        let mut at = 1 + usize::from(self.is(1, "recursive"));
        loop {
            at = self.with_item(at)?.close + 1;
            for (clause, last) in [("search", "set"), ("cycle", "using")] {
                if self.is(at, clause) {
                    at = (at..self.len()).find(|&at| self.is(at, last))? + 2;
                }
            }
            if !self.is_mark(at, ",") {
                return (at < self.len()).then_some(at);
            }
            at += 1;
        }
    }

    /// The query of WITH whose name is at `name`.
    pub(crate) fn with_item(&self, name: usize) -> Option<WithItem> {
        self.name(name)?;
        let word = if self.is_mark(name + 1, "(") { self.closing(name + 1)? + 1 } else { name + 1 };
        let open = match () {
            () if !self.is(word, "as") => return None,
            () if self.is(word + 1, "materialized") => word + 2,
            () if self.is(word + 1, "not") && self.is(word + 2, "materialized") => word + 3,
            () => word + 1,
        };
        let close = self.is_mark(open, "(").then(|| self.closing(open)).flatten()?;
        Some(WithItem { word, open, close })
    }

    /// Index of the parenthesis that closes the one at `open`.
    pub(crate) fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for at in open..self.len() {
            if self.is_mark(at, "(") {
                depth += 1;
            } else if self.is_mark(at, ")") {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        None
    }
}
