//! Functions of the user's that run where no call names them: behind an operator, a cast, a type's checks, or a dot.
//!
//! Only functions that may read tables are kept. What is met errs on the side of more: a column that has the name of such a type
//! counts as that type.

use std::collections::HashMap;

use super::lexer::Kind;
use super::stored::{self, Token};
use super::tokens::Tokens;

/// How the use of a function looks in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Look {
    /// A name anywhere: of a type, of a relation with columns of it, of a function that takes or gives such values.
    Name,
    /// An operator.
    Sign,
    /// A name behind a dot: `row.function`.
    Attribute,
}

/// Words and operators that run functions which may read tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Concealed {
    /// To the name of the function.
    looks: HashMap<(Look, String), String>,
    /// One that any statement may run.
    anywhere: Option<String>,
}

impl Concealed {
    /// What looks so runs this function; of several functions the first one stays.
    pub(crate) fn add(&mut self, look: Option<Look>, word: &str, function: &str) {
        match look {
            None => {
                self.anywhere.get_or_insert_with(|| function.to_owned());
            }
            Some(look) => {
                self.looks.entry((look, word.to_owned())).or_insert_with(|| function.to_owned());
            }
        }
    }

    fn get(&self, look: Look, word: &str) -> Option<&str> {
        self.looks.get(&(look, word.to_owned())).map(String::as_str)
    }

    /// The functions that a statement may run.
    pub(crate) fn met(&self, tokens: &Tokens<'_>) -> Vec<&str> {
        let mut met: Vec<&str> = self.anywhere.iter().map(String::as_str).collect();
        if self.looks.is_empty() {
            return met;
        }
        for at in 0..tokens.len() {
            if let Some(name) = tokens.name(at) {
                met.extend(self.get(Look::Name, &name));
                let behind_dot = at > 0 && tokens.is_mark(at - 1, ".") && !tokens.is_mark(at + 1, "(");
                met.extend(self.get(Look::Attribute, &name).filter(|_| behind_dot));
            } else if tokens.kind(at) == Some(Kind::Operator) {
                let sign = String::from_utf8_lossy(tokens.raw(at));
                met.extend(self.get(Look::Sign, &sign));
            }
        }
        met
    }

    /// The functions that SQL which is stored in the catalog may run, calls that name them left aside.
    pub(crate) fn met_in_stored(&self, sql: &str) -> Vec<&str> {
        if self.looks.is_empty() {
            return Vec::new();
        }
        let signs = self.looks.iter().filter(|((look, word), _)| *look == Look::Sign && sql.contains(word));
        let mut met: Vec<&str> = signs.map(|(_, function)| function.as_str()).collect();
        let tokens = stored::tokens(sql);
        for name in tokens.iter().filter_map(Token::name) {
            met.extend(self.get(Look::Name, name).or_else(|| self.get(Look::Attribute, name)));
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operators_and_attributes_are_met() {
        let mut concealed = Concealed::default();
        concealed.add(Some(Look::Name), "zc", "of_type");
        concealed.add(Some(Look::Sign), "%%>", "of_sign");
        concealed.add(Some(Look::Attribute), "zattr", "zattr");
        let met = |sql: &str| concealed.met(&Tokens::new(sql.as_bytes(), true)).join(" ");
        assert_eq!(met("SELECT 1 %%> 0"), "of_sign");
        assert_eq!(met("SELECT 1 OPERATOR(public.%%>) 0"), "of_sign");
        assert_eq!(met("SELECT ROW(1)::\"zc\"::bigint"), "of_type");
        assert_eq!(met("SELECT u.zattr, (u).ZATTR FROM users u"), "zattr zattr");
        assert_eq!(met("SELECT zattr, s.zattr(u), 'zc %%>' FROM users u"), "");
        assert_eq!(concealed.met_in_stored("SELECT (1 OPERATOR(public.%%>) 0)"), ["of_sign"]);
        concealed.add(None, "", "of_any");
        assert_eq!(concealed.met(&Tokens::new(b"SELECT 1", true)), ["of_any"]);
    }
}
