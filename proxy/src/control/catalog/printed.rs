//! Definitions as PostgreSQL prints them, each kept under a key of all that its text depends on.
//!
//! To print an expression, a trigger or a view PostgreSQL opens the tables that it names: it waits for whatever transaction is
//! changing one of them, and two that change and print get into a circle of waits. What has been printed before is not
//! printed again, so that a reading of the catalog opens those tables alone that have been changed since the last one: in an open
//! transaction, those that it has changed itself.

use std::collections::HashMap;

use super::rows::TextRow;

/// Length of a key, which is the MD5 of [`Depends`]' texts in hexadecimal digits.
const KEY: usize = 32;

/// What the printed text of an object depends on beside its own row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Depends {
    /// An expression: the names of what is used in it.
    Used,
    /// A query, or SQL as a function's body: also the names of all columns of the relations, as they decide about aliases.
    Whole,
}

/// Texts by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Printed(HashMap<String, String>);

impl Printed {
    /// The SQL of a question with the keys of the known texts in it.
    pub(super) fn ask(&self, question: &str) -> String {
        let keys: Vec<&str> = self.0.keys().map(String::as_str).collect();
        question.replace("{known}", &format!("'{{{}}}'::pg_catalog.text[]", keys.join(",")))
    }

    /// The text for an answer of [`print`], which is kept in `now`.
    pub(super) fn text(&self, answer: &str, now: &mut Self) -> String {
        let (key, text) = answer.split_at_checked(KEY).unwrap_or((answer, ""));
        let known = || self.0.get(key).cloned().unwrap_or_default();
        let text = if text.is_empty() { known() } else { text.to_owned() };
        now.0.insert(key.to_owned(), text.clone());
        text
    }

    /// Puts the texts into a column of the answers to a question.
    pub(super) fn put_in(&self, rows: &mut [TextRow], column: usize, now: &mut Self) {
        for row in rows {
            if let Some(answer) = row.optional(column) {
                row.set(column, self.text(&answer, now));
            }
        }
    }
}

/// SQL of one value: NULL where `printed` (an expression of type text) is, else the key and behind it the text, which is left out
/// when the key is among `{known}`. `row` is the alias of a row of the catalog table `class`, `part` what of it is printed. `printed`
/// is not evaluated where its text is known.
pub(super) fn print(printed: &str, (class, row, part): (&str, &str, &str), depends: Depends) -> String {
    let (columns, names) = match depends {
        Depends::Used => ("refobjsubid", "''"),
        Depends::Whole => (
            "0",
            "(SELECT pg_catalog.string_agg(a.attname::text, ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
              WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND a.attrelid = d.refobjid AND a.attnum > 0 \
              AND NOT a.attisdropped)",
        ),
    };
    format!(
        "(SELECT k.key || CASE WHEN k.key = ANY ({{known}}) THEN '' ELSE {printed} END FROM ( \
           SELECT pg_catalog.md5('{part}' || {row}::text || coalesce((SELECT pg_catalog.string_agg( \
               pg_catalog.concat_ws(' ', i.identity, {names}), ',' ORDER BY i.identity) \
             FROM (SELECT DISTINCT refclassid, refobjid, {columns} AS refobjsubid FROM pg_catalog.pg_depend \
                   WHERE classid = 'pg_catalog.{class}'::regclass AND objid = {row}.oid) d, \
             LATERAL pg_catalog.pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) i), '')) OFFSET 0) k (key))"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_text_is_put_where_its_key_alone_is_answered() {
        let key = |digit: &str| digit.repeat(KEY);
        let (mut first, mut second) = (Printed::default(), Printed::default());
        assert_eq!(Printed::default().text(&format!("{}a > 0", key("1")), &mut first), "a > 0");
        assert_eq!(Printed::default().text(&format!("{}b > 0", key("2")), &mut first), "b > 0");
        assert_eq!(first.text(&key("1"), &mut second), "a > 0");
        assert_eq!(
            second,
            Printed(HashMap::from([(key("1"), "a > 0".to_owned())])),
            "what is gone is forgotten"
        );
        assert_eq!(second.ask("= ANY ({known})"), format!("= ANY ('{{{}}}'::pg_catalog.text[])", key("1")));
    }
}
