//! The only file that names the parser: from tokens of ours to its tree.
//!
//! The parser is fed with tokens of `lexer`, not with text: both then agree on every literal, and each span of the tree
//! is a byte range of the statement ([`offset`]). `prepass` has rewritten what the parser would misread.
//! Invariants: trees deeper than [`MAX_DEPTH`] are never built; deep ones are built, read and dropped on a thread with
//! a stack that fits them.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token as Theirs, TokenWithSpan};

pub(super) use sqlparser::ast;

use super::lexer::Kind;
use super::normalise::{clipped, identifier};
use super::prepass::{Piece, Prepared};
use super::tokens::Tokens;

/// Longest chain of operators, set operations and parentheses inside one another.
pub(super) const MAX_DEPTH: usize = 1000;

/// Chains up to here are safe on any thread's stack.
const SMALL_DEPTH: usize = 40;

/// Stack of the thread that reads deep statements; memory is used only as far as it is touched.
const DEEP_STACK_BYTES: usize = 512 * 1024 * 1024;

/// The parser's own limit of nested parentheses, CASEs, function calls.
const RECURSION_LIMIT: usize = 100;

/// Whether a word belongs to the grammar.
pub(super) fn is_keyword(word: &str) -> bool {
    sqlparser::keywords::ALL_KEYWORDS.binary_search(&word.to_ascii_uppercase().as_str()).is_ok()
}

/// First byte of a span in the statement; `None` for spans that the parser made up.
pub(super) fn offset(span: Span) -> Option<usize> {
    (span.start.line == 1).then(|| usize::try_from(span.start.column).ok()?.checked_sub(1)).flatten()
}

/// One past the last byte of a span.
pub(super) fn end_offset(span: Span) -> Option<usize> {
    (span.end.line == 1).then(|| usize::try_from(span.end.column).ok()?.checked_sub(1)).flatten()
}

/// Parses one statement and hands its tree to `read`, on a thread of its own if it is deep.
pub(super) fn with_tree<T: Send>(
    tokens: &Tokens<'_>,
    prepared: &Prepared,
    read: impl FnOnce(&ast::Statement) -> Result<T, String> + Send,
) -> Result<T, String> {
    let depth = depth(tokens);
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} operators or parentheses inside one another"));
    }
    let work = move || read(&parse(tokens, prepared)?);
    if depth <= SMALL_DEPTH {
        return work();
    }
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(DEEP_STACK_BYTES);
        let handle =
            builder.spawn_scoped(scope, work).map_err(|e| format!("no thread for a deep statement: {e}"))?;
        handle.join().unwrap_or_else(|_| Err("the statement could not be analysed".to_string()))
    })
}

/// An upper bound of the depth of the tree: operators since the last comma, set operations and parentheses, added up
/// along the nesting.
fn depth(tokens: &Tokens<'_>) -> usize {
    let mut stack: Vec<(usize, usize)> = vec![(0, 0)];
    let (mut sum, mut most) = (0usize, 0usize);
    for at in 0..tokens.len() {
        let raw = tokens.raw(at);
        match (tokens.kind(at), raw.first()) {
            (Some(Kind::Punct), Some(bracket @ (b'(' | b'['))) => {
                if *bracket == b'[' {
                    // Subscripts in a row wrap one another.
                    add(&mut stack, &mut sum, false);
                }
                stack.push((0, 1));
                sum += 1;
            }
            (Some(Kind::Punct), Some(b')' | b']')) => {
                if let Some((operators, fixed)) = stack.pop() {
                    sum -= operators + fixed;
                }
                if stack.is_empty() {
                    stack.push((0, 0));
                }
            }
            (Some(Kind::Punct), Some(b',')) => {
                if let Some(top) = stack.last_mut() {
                    sum -= top.0;
                    top.0 = 0;
                }
            }
            (Some(Kind::Operator), _) | (Some(Kind::Punct), Some(b':')) => add(&mut stack, &mut sum, false),
            (Some(Kind::Word), _) if nests(raw) => add(&mut stack, &mut sum, fixed(raw)),
            _ => {}
        }
        most = most.max(sum);
    }
    most
}

fn add(stack: &mut [(usize, usize)], sum: &mut usize, fixed: bool) {
    if let Some(top) = stack.last_mut() {
        if fixed {
            top.1 += 1;
        } else {
            top.0 += 1;
        }
        *sum += 1;
    }
}

/// Words that make the tree deeper.
fn nests(word: &[u8]) -> bool {
    const WORDS: [&str; 16] = [
        "and", "or", "not", "is", "in", "like", "ilike", "between", "collate", "at", "case", "isnull",
        "notnull", "similar", "explain", "overlaps",
    ];
    fixed(word) || WORDS.iter().any(|w| word.eq_ignore_ascii_case(w.as_bytes()))
}

fn fixed(word: &[u8]) -> bool {
    ["union", "intersect", "except", "join"].iter().any(|w| word.eq_ignore_ascii_case(w.as_bytes()))
}

fn parse(tokens: &Tokens<'_>, prepared: &Prepared) -> Result<ast::Statement, String> {
    let theirs = translate(tokens, prepared);
    let dialect = PostgreSqlDialect {};
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(theirs);
    let statement = parser.parse_statement().map_err(|e| without_value(&e.to_string()))?;
    match &parser.peek_token_ref().token {
        Theirs::EOF => Ok(statement),
        other => Err(format!("unexpected {}", named(&other.to_string()))),
    }
}

/// The parser's complaint, which names the token that it has found.
fn without_value(complaint: &str) -> String {
    const FOUND: &str = "found: ";
    let Some((before, found)) = complaint.split_once(FOUND) else { return complaint.to_owned() };
    let at = found.rfind(" at Line").unwrap_or(found.len());
    let (token, place) = found.split_at(at);
    format!("{before}{FOUND}{}{place}", named(token))
}

/// A token as complaints name it: they get into logs, where values of the application do not belong.
pub(super) fn named(token: &str) -> &str {
    let dollar_quoted = token.starts_with('$') && token.len() > 1 && token.ends_with('$');
    let number = token.starts_with(|c: char| c.is_ascii_digit())
        || token.strip_prefix('.').is_some_and(|rest| !rest.is_empty());
    if token.contains('\'') || dollar_quoted || number { "a literal" } else { token }
}

fn translate(tokens: &Tokens<'_>, prepared: &Prepared) -> Vec<TokenWithSpan> {
    let at = |byte: usize| Location::new(1, byte as u64 + 1);
    let none = Span::empty();
    let mut out = Vec::with_capacity(prepared.pieces.len() + 1);
    for piece in &prepared.pieces {
        match *piece {
            Piece::Source(index) => {
                let token = tokens.list[index];
                let span = Span::new(at(token.start), at(token.end));
                out.push(TokenWithSpan::new(convert(token.kind, tokens.raw(index)), span));
            }
            Piece::Word(word) => out.push(TokenWithSpan::new(Theirs::make_word(word, None), none)),
            Piece::Mark(mark) => out.push(TokenWithSpan::new(operator(mark), none)),
        }
    }
    out.push(TokenWithSpan::new(Theirs::EOF, none));
    out
}

fn convert(kind: Kind, raw: &[u8]) -> Theirs {
    let text = || String::from_utf8_lossy(raw).into_owned();
    match kind {
        Kind::Word => Theirs::make_word(&String::from_utf8_lossy(clipped(raw)), None),
        Kind::Quoted | Kind::QuotedUnicode => Theirs::make_word(&identifier(kind, raw), Some('"')),
        Kind::Number => Theirs::Number(text(), false),
        // The value is read from the statement when it is needed.
        Kind::String | Kind::Escaped | Kind::Unicode | Kind::Dollar => {
            Theirs::SingleQuotedString(String::new())
        }
        Kind::Bits => Theirs::HexStringLiteral(String::new()),
        Kind::Param => Theirs::Placeholder(text()),
        Kind::Operator | Kind::Punct => operator(&String::from_utf8_lossy(raw)),
        Kind::Unterminated => Theirs::Char('\0'),
    }
}

/// The parser's token for an operator or punctuation.
fn operator(mark: &str) -> Theirs {
    let plain =
        punctuation(mark).or_else(|| common(mark)).or_else(|| matching(mark)).or_else(|| geometric(mark));
    plain.unwrap_or_else(|| match mark.chars().next() {
        Some(c) if mark.len() == c.len_utf8() && !"+-*/<>=~!@#%^&|`?".contains(c) => Theirs::Char(c),
        _ => Theirs::CustomBinaryOperator(mark.to_string()),
    })
}

fn punctuation(mark: &str) -> Option<Theirs> {
    Some(match mark {
        "(" => Theirs::LParen,
        ")" => Theirs::RParen,
        "[" => Theirs::LBracket,
        "]" => Theirs::RBracket,
        "{" => Theirs::LBrace,
        "}" => Theirs::RBrace,
        "," => Theirs::Comma,
        ";" => Theirs::SemiColon,
        "." => Theirs::Period,
        ":" => Theirs::Colon,
        "::" => Theirs::DoubleColon,
        ":=" => Theirs::Assignment,
        "\\" => Theirs::Backslash,
        _ => return None,
    })
}

fn common(mark: &str) -> Option<Theirs> {
    Some(match mark {
        "=" => Theirs::Eq,
        "<>" | "!=" => Theirs::Neq,
        "<" => Theirs::Lt,
        ">" => Theirs::Gt,
        "<=" => Theirs::LtEq,
        ">=" => Theirs::GtEq,
        "+" => Theirs::Plus,
        "-" => Theirs::Minus,
        "*" => Theirs::Mul,
        "/" => Theirs::Div,
        "%" => Theirs::Mod,
        "||" => Theirs::StringConcat,
        "&" => Theirs::Ampersand,
        "|" => Theirs::Pipe,
        "^" => Theirs::Caret,
        "#" => Theirs::Sharp,
        "<<" => Theirs::ShiftLeft,
        ">>" => Theirs::ShiftRight,
        "&&" => Theirs::Overlap,
        "=>" => Theirs::RArrow,
        "->" => Theirs::Arrow,
        "->>" => Theirs::LongArrow,
        "#>" => Theirs::HashArrow,
        "#>>" => Theirs::HashLongArrow,
        "@>" => Theirs::AtArrow,
        "<@" => Theirs::ArrowAt,
        "#-" => Theirs::HashMinus,
        "@?" => Theirs::AtQuestion,
        "@@" => Theirs::AtAt,
        "?" => Theirs::Question,
        "?&" => Theirs::QuestionAnd,
        "?|" => Theirs::QuestionPipe,
        _ => return None,
    })
}

fn matching(mark: &str) -> Option<Theirs> {
    Some(match mark {
        "~" => Theirs::Tilde,
        "~*" => Theirs::TildeAsterisk,
        "!~" => Theirs::ExclamationMarkTilde,
        "!~*" => Theirs::ExclamationMarkTildeAsterisk,
        "~~" => Theirs::DoubleTilde,
        "~~*" => Theirs::DoubleTildeAsterisk,
        "!~~" => Theirs::ExclamationMarkDoubleTilde,
        "!~~*" => Theirs::ExclamationMarkDoubleTildeAsterisk,
        "^@" => Theirs::CaretAt,
        "@" => Theirs::AtSign,
        "|/" => Theirs::PGSquareRoot,
        "||/" => Theirs::PGCubeRoot,
        "!!" => Theirs::DoubleExclamationMark,
        _ => return None,
    })
}

fn geometric(mark: &str) -> Option<Theirs> {
    Some(match mark {
        "##" => Theirs::DoubleSharp,
        "@-@" => Theirs::AtDashAt,
        "?-" => Theirs::QuestionMarkDash,
        "&<" => Theirs::AmpersandLeftAngleBracket,
        "&>" => Theirs::AmpersandRightAngleBracket,
        "&<|" => Theirs::AmpersandLeftAngleBracketVerticalBar,
        "|&>" => Theirs::VerticalBarAmpersandRightAngleBracket,
        "<->" => Theirs::TwoWayArrow,
        "<^" => Theirs::LeftAngleBracketCaret,
        ">^" => Theirs::RightAngleBracketCaret,
        "?#" => Theirs::QuestionMarkSharp,
        "?-|" => Theirs::QuestionMarkDashVerticalBar,
        "?||" => Theirs::QuestionMarkDoubleVerticalBar,
        "~=" => Theirs::TildeEqual,
        "<<|" => Theirs::ShiftLeftVerticalBar,
        "|>>" => Theirs::VerticalBarShiftRight,
        _ => return None,
    })
}
