//! Where the values of one execution are: the literals of its text and the parameters of its Bind.
//!
//! Invariants: everything here borrows from the request; looking a value up allocates nothing unless the value must be
//! unescaped. A Bind whose counts or lengths point outside of its frame is an error when it is looked at first, so that
//! no later look-up can fail.
//! Source: PostgreSQL 15 documentation, "Message Formats", Bind; `src/backend/tcop/postgres.c`, `exec_bind_message`.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

use crate::sql::cache::Analysed;
use crate::sql::normalise::Literal;
use crate::sql::spelling::Words;
use crate::sql::times::names_the_time;

/// What the bytes of strings mean in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRules {
    /// `client_encoding` is UTF8; otherwise only ASCII strings can be keys.
    pub utf8: bool,
    /// Bytes below 0x80 are ASCII characters wherever they stand; otherwise nothing of the text can be relied on.
    pub ascii_safe: bool,
    /// `standard_conforming_strings` is on.
    pub standard_strings: bool,
}

impl Default for TextRules {
    fn default() -> Self {
        Self { utf8: true, ascii_safe: true, standard_strings: true }
    }
}

impl TextRules {
    /// The rules under a `client_encoding`, in any of PostgreSQL's spellings of it.
    pub fn new(client_encoding: &str, standard_strings: bool) -> Self {
        /// Client-only encodings: the second byte of a character may be an ASCII one, a backslash among them.
        const UNSAFE: [&str; 13] = [
            "sjis",
            "mskanji",
            "shiftjis",
            "win932",
            "windows932",
            "big5",
            "win950",
            "windows950",
            "gbk",
            "win936",
            "windows936",
            "uhc",
            "win949",
        ];
        const UNSAFE_TOO: [&str; 4] = ["windows949", "gb18030", "johab", "shiftjis2004"];
        let name: String = client_encoding
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase();
        let utf8 = matches!(name.as_str(), "utf8" | "unicode");
        let ascii_safe = !UNSAFE.contains(&name.as_str()) && !UNSAFE_TOO.contains(&name.as_str());
        Self { utf8, ascii_safe, standard_strings }
    }
}

/// Where the values of one execution of one statement are found.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The whole text of the Query or Parse.
    pub text: &'a [u8],
    /// The text's facts, with its literals.
    pub analysed: &'a Analysed,
    /// Which of its statements it is.
    pub index: usize,
    /// Values of `$n`; `None` in the simple protocol and before Bind.
    pub params: Option<&'a BindParams<'a>>,
    /// What the bytes of strings mean.
    pub rules: TextRules,
}

impl<'a> Values<'a> {
    /// Values of statement `index` of a text, without parameters.
    pub fn of_text(text: &'a [u8], analysed: &'a Analysed, index: usize) -> Self {
        Self { text, analysed, index, params: None, rules: TextRules::default() }
    }

    /// The same with the parameters of a Bind.
    #[must_use]
    pub fn with_params(self, params: &'a BindParams<'a>) -> Self {
        Self { params: Some(params), ..self }
    }

    /// Whether a literal or a parameter in text is read by the types of dates and times as the time of the statement.
    pub(super) fn name_the_time(&self) -> bool {
        let mut literals = (0..).map_while(|n| self.literal(n));
        let names = |literal: &Literal| match literal.words(self.text, self.rules.standard_strings) {
            Words::Text(text) => names_the_time(&text),
            Words::None => false,
            // What it says cannot be told.
            Words::Unknown => true,
        };
        let params =
            self.params.into_iter().flat_map(|params| (1..=params.len() as u16).map(|n| params.get(n)));
        // A text is the same bytes in binary.
        let mut texts = params.filter_map(|param| match param {
            Some(ParamValue::Text(text) | ParamValue::Binary(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        });
        literals.any(names) || texts.any(names_the_time)
    }

    /// The n-th literal (0-based) of the statement.
    pub(super) fn literal(&self, n: u32) -> Option<&'a Literal> {
        self.analysed.literal(self.index, n)
    }

    /// The bytes of a literal as they stand in the text.
    pub(super) fn raw(&self, literal: &Literal) -> Option<&'a str> {
        std::str::from_utf8(self.text.get(literal.start..literal.end)?).ok()
    }

    /// The content of a string literal, escapes resolved; `None` when it cannot be told.
    pub(super) fn content(&self, literal: &Literal) -> Option<Cow<'a, str>> {
        // N'…' is of type char(n), where trailing blanks count differently.
        let national = matches!(self.text.get(literal.start), Some(b'n' | b'N'));
        if national { None } else { literal.value(self.text, self.rules.standard_strings) }
    }

    /// The statement's text.
    pub fn statement(&self) -> &'a [u8] {
        self.text.get(self.analysed.range(self.index)).unwrap_or_default()
    }

    /// An offset of the facts as an offset into [`Values::statement`].
    pub(super) fn here(&self, offset: usize) -> usize {
        self.analysed.offset(self.index, offset).saturating_sub(self.analysed.range(self.index).start)
    }
}

/// What is wrong with a Bind message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A count or a length leads out of the frame.
    #[error("insufficient data left in message")]
    Truncated,
    /// Neither no format, nor one, nor one for each parameter.
    #[error("bind message has {formats} parameter formats but {params} parameters")]
    Formats {
        /// Format codes.
        formats: u16,
        /// Parameters.
        params: u16,
    },
    /// Neither text (0) nor binary (1).
    #[error("unsupported format code: {0}")]
    FormatCode(i16),
}

/// The value of one parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamValue<'a> {
    /// NULL
    Null,
    /// In text format.
    Text(&'a [u8]),
    /// In binary format.
    Binary(&'a [u8]),
}

/// A view over the body of a Bind message after its two names.
#[derive(Debug)]
pub struct BindParams<'a> {
    body: &'a [u8],
    types: &'a [u32],
    formats: Range<usize>,
    count: u16,
    /// Parameter index (0-based) and offset of the value looked up last: values are mostly asked for in order.
    last: Cell<(u16, usize)>,
    first: usize,
}

impl<'a> BindParams<'a> {
    /// Looks over the body of a Bind message after its two names; `types` are the parameter type OIDs of its statement,
    /// which may be fewer than there are parameters (0: unspecified).
    pub fn parse(body: &'a [u8], types: &'a [u32]) -> Result<Self, BindError> {
        let n_formats = read_u16(body, 0)?;
        let formats = 2..2 + 2 * usize::from(n_formats);
        for format in body.get(formats.clone()).ok_or(BindError::Truncated)?.chunks_exact(2) {
            match format {
                [0, 0 | 1] => {}
                other => return Err(BindError::FormatCode(i16::from_be_bytes([other[0], other[1]]))),
            }
        }
        let count = read_u16(body, formats.end)?;
        if n_formats > 1 && n_formats != count {
            return Err(BindError::Formats { formats: n_formats, params: count });
        }
        let first = formats.end + 2;
        let mut at = first;
        for _ in 0..count {
            at = value_at(body, at).ok_or(BindError::Truncated)?.1;
        }
        Ok(Self { body, types, formats, count, last: Cell::new((0, first)), first })
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Type OID of parameter `n` (1-based); 0 when it was not specified.
    pub fn type_oid(&self, n: u16) -> u32 {
        n.checked_sub(1).and_then(|i| self.types.get(usize::from(i))).copied().unwrap_or(0)
    }

    /// Value of parameter `n` (1-based).
    pub fn get(&self, n: u16) -> Option<ParamValue<'a>> {
        let index = n.checked_sub(1).filter(|&i| i < self.count)?;
        let (mut i, mut at) = self.last.get();
        if i > index {
            (i, at) = (0, self.first);
        }
        while i < index {
            at = value_at(self.body, at)?.1;
            i += 1;
        }
        self.last.set((i, at));
        let (value, _) = value_at(self.body, at)?;
        Some(match value {
            None => ParamValue::Null,
            Some(bytes) if self.is_binary(index) => ParamValue::Binary(bytes),
            Some(bytes) => ParamValue::Text(bytes),
        })
    }

    fn is_binary(&self, index: u16) -> bool {
        let at = match self.formats.len() {
            0 => return false,
            2 => self.formats.start,
            _ => self.formats.start + 2 * usize::from(index),
        };
        self.body.get(at + 1) == Some(&1)
    }
}

/// The value that starts at `at` (`None` for NULL) and where the next one starts.
fn value_at(body: &[u8], at: usize) -> Option<(Option<&[u8]>, usize)> {
    let length: [u8; 4] = body.get(at..at.checked_add(4)?)?.try_into().ok()?;
    let start = at + 4;
    match i32::from_be_bytes(length) {
        -1 => Some((None, start)),
        length => {
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            Some((Some(body.get(start..end)?), end))
        }
    }
}

fn read_u16(body: &[u8], at: usize) -> Result<u16, BindError> {
    match body.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(BindError::Truncated),
    }
}

#[cfg(test)]
mod tests;
