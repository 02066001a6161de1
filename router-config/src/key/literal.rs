//! SQL literals.

use super::{KeyError, KeyType, KeyValue, numeric, without_modifier};

impl KeyType {
    /// The key that equals a literal, quoted or not, with its innermost explicit cast if it has one. `text` is the content
    /// of a quoted literal, or a number with its minus signs folded.
    ///
    /// A number and a quoted text of the same spelling mostly mean the same; where only one of them is valid, the shard
    /// that is asked raises the error. Where they differ (a text key: `'007'` is not what `007` becomes), a quoted one
    /// is assumed: use [`KeyType::coerce_number`] for the other.
    pub fn coerce_literal(&self, text: &str, cast: Option<&str>) -> Result<KeyValue, KeyError> {
        let Some(cast) = cast else {
            return match self {
                // A text that is no integer may be an unquoted number such as 7.0, which is compared as numeric.
                Self::Int2 | Self::Int4 | Self::Int8 => self.parse_text(text).or_else(|error| match error {
                    KeyError::Invalid { .. } | KeyError::OutOfRange { .. } => match self.number(text) {
                        Err(KeyError::Invalid { .. }) => Err(error),
                        other => other,
                    },
                    other => Err(other),
                }),
                _ => self.parse_text(text),
            };
        };
        let cast_type = lossless_cast(text, cast)?;
        let value = match cast_type {
            Self::Int2 | Self::Int4 | Self::Int8 => cast_type.integer_cast(text)?,
            _ => cast_type.parse_text(text)?,
        };
        self.convert(cast_type, value)
    }

    /// The key that equals an unquoted number, with its minus signs folded, and with its innermost explicit cast if it has
    /// one.
    pub fn coerce_number(&self, text: &str, cast: Option<&str>) -> Result<KeyValue, KeyError> {
        let target = cast.map(|cast| lossless_cast(text, cast)).transpose()?;
        match target.unwrap_or(*self) {
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Numeric => self.coerce_literal(text, cast),
            // Written as text a number loses its spelling (007, 1e3); a plain one keeps it.
            Self::Text | Self::Bpchar if is_plain_integer(text) => self.coerce_literal(text, cast),
            _ => {
                Err(KeyError::ambiguous(format!("the number {text} is compared with a {}", self.type_name())))
            }
        }
    }

    /// A number in an integer column's comparison.
    fn number(self, text: &str) -> Result<KeyValue, KeyError> {
        let number = numeric::parse(text)?;
        match self.convert(Self::Numeric, KeyValue::Numeric(number)) {
            Err(KeyError::NoRow { .. }) => Err(self.no_row(text)),
            other => other,
        }
    }

    /// `7.0::int` is 7; `7.5::int` would round, `'7.5'::int` is an error: neither pins.
    fn integer_cast(self, text: &str) -> Result<KeyValue, KeyError> {
        match self.parse_text(text) {
            Err(KeyError::Invalid { .. }) => match self.number(text) {
                Ok(value) => Ok(value),
                Err(_) => {
                    Err(KeyError::ambiguous(format!("a cast of {text} to {} may round", self.type_name())))
                }
            },
            other => other,
        }
    }
}

/// The type of a cast that keeps the literal as it is.
fn lossless_cast(text: &str, cast: &str) -> Result<KeyType, KeyError> {
    let unknown = || KeyError::ambiguous(format!("the effect of a cast to {cast} is not known"));
    let name = cast.trim();
    let cast_type = KeyType::from_type_name(name).ok_or_else(unknown)?;
    let modified = without_modifier(name) != name;
    let bare_char = cast_type == KeyType::Bpchar && !name.to_lowercase().ends_with("bpchar");
    let limit = match (cast_type, modified) {
        (KeyType::Text | KeyType::Bpchar, true) => Some(length_of(name).ok_or_else(unknown)?),
        // `char` without a length is char(1).
        (KeyType::Bpchar, false) if bare_char => Some(1),
        (_, true) => return Err(unknown()),
        (_, false) => None,
    };
    if limit.is_some_and(|limit| text.chars().count() > limit) {
        return Err(KeyError::ambiguous(format!("the cast to {cast} cuts the value")));
    }
    Ok(cast_type)
}

fn length_of(cast: &str) -> Option<usize> {
    let (_, rest) = cast.split_once('(')?;
    rest.split_once(')')?.0.trim().parse().ok()
}

/// A number that is spelled as PostgreSQL would write it.
fn is_plain_integer(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}
