//! Rows of the simple protocol: every value is text.
//!
//! The accessors are for queries of the control side's own, whose columns are known: a NULL where none can be reads as
//! nothing.

use tokio_postgres::{SimpleQueryMessage, Transaction};

use crate::wire::frame;

/// One row, values as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow(Vec<Option<String>>);

/// Rows of a query.
pub(crate) async fn ask(tx: &Transaction<'_>, sql: &str) -> Result<Vec<TextRow>, tokio_postgres::Error> {
    let messages = tx.simple_query(sql).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some(TextRow((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()))
        }
        _ => None,
    });
    Ok(rows.collect())
}

impl TextRow {
    /// Of the body of a DataRow in text format; `None` when it is malformed or not UTF-8.
    pub fn of_data_row(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let count = frame::i16(&mut rest)?;
        let mut values = Vec::new();
        for _ in 0..count {
            let len = frame::i32(&mut rest)?;
            values.push(match usize::try_from(len) {
                Ok(len) => {
                    let value = std::str::from_utf8(rest.get(..len)?).ok()?;
                    rest = &rest[len..];
                    Some(value.to_owned())
                }
                Err(_) => None,
            });
        }
        Some(Self(values))
    }

    /// The values in order; `None`: NULL.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(Option::as_deref)
    }

    /// Without columns.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn text(&self, n: usize) -> &str {
        self.0.get(n).and_then(Option::as_deref).unwrap_or_default()
    }

    pub(crate) fn owned(&self, n: usize) -> String {
        self.text(n).to_owned()
    }

    /// Its columns.
    pub(crate) fn into_values(self) -> Vec<Option<String>> {
        self.0
    }

    pub(crate) fn optional(&self, n: usize) -> Option<String> {
        self.0.get(n).cloned().flatten()
    }

    /// Replaces a column that is there.
    pub(crate) fn set(&mut self, n: usize, text: String) {
        if let Some(value) = self.0.get_mut(n) {
            *value = Some(text);
        }
    }

    pub(crate) fn flag(&self, n: usize) -> bool {
        self.text(n) == "t"
    }

    pub(crate) fn number<T: std::str::FromStr + Default>(&self, n: usize) -> T {
        self.text(n).parse().unwrap_or_default()
    }

    /// An array of numbers.
    pub(crate) fn numbers(&self, n: usize) -> Vec<u32> {
        let inner = self.text(n).trim_matches(['{', '}']);
        inner.split(',').filter_map(|number| number.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::TextRow;

    #[test]
    fn a_data_row_is_read() {
        let row =
            TextRow::of_data_row(b"\0\x03\0\0\0\x05{1,7}\xff\xff\xff\xff\0\0\0\x01t").expect("well formed");
        assert_eq!(row.numbers(0), [1, 7]);
        assert_eq!((row.optional(1), row.text(1), row.flag(1)), (None, "", false));
        assert!(row.flag(2));
        assert_eq!(TextRow::of_data_row(b"\0\x01\0\0\0\x05{1"), None);
    }
}
