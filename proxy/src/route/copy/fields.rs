//! The key field of one line, parsed no further than it ends.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::KeyField;
use super::lines::Syntax;

/// Field `n` (0-based) of a line in text format (`CopyReadAttributesText`); `None` when the line has fewer.
pub(super) fn text<'b>(line: &'b [u8], syntax: &Syntax, n: usize) -> Option<KeyField<'b>> {
    let mut start = 0;
    let mut field = 0;
    let mut escaped = false;
    let mut at = 0;
    loop {
        let found = memchr2(syntax.delimiter, b'\\', line.get(at..)?).map(|found| at + found);
        match found {
            Some(found) if line[found] == b'\\' => {
                escaped = true;
                at = (found + 2).min(line.len());
            }
            found => {
                let end = found.unwrap_or(line.len());
                if field == n {
                    let raw = line.get(start..end)?;
                    return Some(value(raw, escaped, syntax));
                }
                field += 1;
                start = found? + 1;
                at = start;
                escaped = false;
            }
        }
    }
}

fn value<'b>(raw: &'b [u8], escaped: bool, syntax: &Syntax) -> KeyField<'b> {
    if raw == syntax.null {
        KeyField::Null
    } else if escaped {
        KeyField::Text(Cow::Owned(unescape(raw)))
    } else {
        KeyField::Text(Cow::Borrowed(raw))
    }
}

/// Backslash escapes of the text format.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        // A backslash at the very end stands for nothing.
        let Some(byte) = bytes.next() else { break };
        out.push(match byte {
            b'0'..=b'7' => {
                let mut value = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(|b| matches!(b, b'0'..=b'7')) else { break };
                    value = (value << 3) + u32::from(digit - b'0');
                }
                low_byte(value)
            }
            b'x' => {
                let mut value = None;
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(u8::is_ascii_hexdigit) else { break };
                    let digit = char::from(digit).to_digit(16).unwrap_or(0);
                    value = Some((value.unwrap_or(0) << 4) + digit);
                }
                value.map_or(b'x', low_byte)
            }
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => other,
        });
    }
    out
}

fn low_byte(value: u32) -> u8 {
    u8::try_from(value & 0xff).unwrap_or(0)
}

/// Field `n` (0-based) of a line in csv format (`CopyReadAttributesCSV`); `None` when the line has fewer.
pub(super) fn csv<'b>(
    line: &'b [u8],
    syntax: &Syntax,
    (quote, escape): (u8, u8),
    n: usize,
) -> Option<KeyField<'b>> {
    let mut rest = line;
    for field in 0.. {
        // The common case: no quote before the next delimiter.
        let plain = memchr2(syntax.delimiter, quote, rest);
        let (value, after) = match plain {
            Some(at) if rest[at] == quote => quoted(rest, syntax.delimiter, (quote, escape)),
            plain => {
                let raw = rest.get(..plain.unwrap_or(rest.len()))?;
                let null = raw == syntax.null;
                let value = if null { KeyField::Null } else { KeyField::Text(Cow::Borrowed(raw)) };
                (value, plain.map(|at| at + 1))
            }
        };
        if field == n {
            return Some(value);
        }
        rest = rest.get(after?..)?;
    }
    None
}

/// A field with quotes in it: its content, and where the next field starts.
fn quoted(rest: &[u8], delimiter: u8, (quote, escape): (u8, u8)) -> (KeyField<'static>, Option<usize>) {
    let mut content = Vec::new();
    let mut in_quote = false;
    let mut at = 0;
    while let Some(&byte) = rest.get(at) {
        at += 1;
        if !in_quote {
            match byte {
                byte if byte == delimiter => return (KeyField::Text(Cow::Owned(content)), Some(at)),
                byte if byte == quote => in_quote = true,
                byte => content.push(byte),
            }
            continue;
        }
        if byte == escape
            && let Some(&next) = rest.get(at)
            && (next == escape || next == quote)
        {
            content.push(next);
            at += 1;
        } else if byte == quote {
            in_quote = false;
        } else {
            let end = memchr(quote, rest.get(at..).unwrap_or_default());
            let plain = if escape == quote { end.map_or(rest.len(), |end| at + end) } else { at };
            content.push(byte);
            content.extend_from_slice(rest.get(at..plain).unwrap_or_default());
            at = plain;
        }
    }
    (KeyField::Text(Cow::Owned(content)), None)
}
