//! A scanner for SQL that PostgreSQL printed (view definitions) or stored (function bodies): words, quoted names,
//! strings, punctuation; comments are gone. It is used only to *exclude*: whatever it cannot see makes the caller
//! assume the worst.

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// Unquoted word, lower case.
    Word(String),
    /// Quoted identifier, as stored.
    Quoted(String),
    /// Content of a string, of any quoting.
    Text(String),
    /// Anything else, one character at a time.
    Sign(char),
}

impl Token {
    /// The identifier that it may be.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Quoted(name) => Some(name),
            Self::Text(_) | Self::Sign(_) => None,
        }
    }

    /// Whether it is this keyword.
    pub(crate) fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(name) if name == word)
    }

    /// Whether it is this character.
    pub(crate) fn sign(&self, sign: char) -> bool {
        *self == Self::Sign(sign)
    }
}

/// Tokens of `sql`.
pub(crate) fn tokens(sql: &str) -> Vec<Token> {
    let chars: Vec<char> = sql.chars().collect();
    let mut at = 0;
    let mut out = Vec::new();
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        if c.is_whitespace() {
            at += 1;
        } else if c == '-' && next == Some('-') {
            at = find(&chars, at, |c| c == '\n');
        } else if c == '/' && next == Some('*') {
            at = comment_end(&chars, at);
        } else if c == '\'' {
            let (text, end) = quoted(&chars, at, '\'', out.last().is_some_and(|token: &Token| token.is("e")));
            out.push(Token::Text(text));
            at = end;
        } else if c == '"' {
            let (text, end) = quoted(&chars, at, '"', false);
            out.push(Token::Quoted(text));
            at = end;
        } else if c == '$'
            && let Some((text, end)) = dollar(&chars, at)
        {
            out.push(Token::Text(text));
            at = end;
        } else if c.is_alphabetic() || c == '_' {
            let end = find(&chars, at, |c| !(c.is_alphanumeric() || c == '_' || c == '$'));
            out.push(Token::Word(chars[at..end].iter().collect::<String>().to_lowercase()));
            at = end;
        } else {
            out.push(Token::Sign(c));
            at += 1;
        }
    }
    out
}

fn find(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&at| stop(chars[at])).unwrap_or(chars.len())
}

fn comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn quoted(chars: &[char], start: usize, quote: char, escapes: bool) -> (String, usize) {
    let mut text = String::new();
    let mut at = start + 1;
    while let Some(&c) = chars.get(at) {
        if c == quote {
            if chars.get(at + 1) != Some(&quote) {
                return (text, at + 1);
            }
            at += 1;
        } else if escapes && c == '\\' {
            at += 1;
        }
        text.extend(chars.get(at));
        at += 1;
    }
    (text, chars.len())
}

fn dollar(chars: &[char], start: usize) -> Option<(String, usize)> {
    let close = (start + 1..chars.len()).find(|&at| chars[at] == '$')?;
    let tag = &chars[start..=close];
    let inner = &tag[1..tag.len() - 1];
    if inner.iter().any(|c| !(c.is_alphanumeric() || *c == '_'))
        || inner.first().is_some_and(char::is_ascii_digit)
    {
        return None;
    }
    let body = close + 1;
    let end = (body..chars.len()).find(|&at| chars[at..].starts_with(tag))?;
    Some((chars[body..end].iter().collect(), end + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay_apart() {
        let sql = "SELECT \"A\"\"b\", 'it''s' -- bids\n /* bids /* nested */ */ FROM Users $x$ bids $x$ E'a\\'b' $1";
        let words: Vec<Token> = tokens(sql);
        let text = |s: &str| Token::Text(s.to_owned());
        let word = |s: &str| Token::Word(s.to_owned());
        assert_eq!(
            words,
            vec![
                word("select"),
                Token::Quoted(String::from("A\"b")),
                Token::Sign(','),
                text("it's"),
                word("from"),
                word("users"),
                text(" bids "),
                word("e"),
                text("a'b"),
                Token::Sign('$'),
                Token::Sign('1'),
            ]
        );
    }

    #[test]
    fn unfinished_texts_end() {
        for sql in ["'abc", "\"abc", "/* abc", "$x$ abc", "--", "$", "e'\\"] {
            assert!(tokens(sql).len() <= 5, "{sql}");
        }
    }
}
