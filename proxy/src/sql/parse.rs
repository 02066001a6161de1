//! The only file that names the parser.

/// Whether a word belongs to the grammar.
pub(super) fn is_keyword(word: &str) -> bool {
    sqlparser::keywords::ALL_KEYWORDS.binary_search(&word.to_ascii_uppercase().as_str()).is_ok()
}
