//! Statements that PostgreSQL refuses while anybody is connected to a database.

use super::tokens::Tokens;

/// The database that must be free of connections for this statement: the one to be dropped, renamed or moved, or the one that
/// is copied. `None`: the statement asks for nothing of the kind.
pub fn must_be_free(text: &[u8], conforming: bool) -> Option<String> {
    let t = Tokens::new(text, conforming);
    if !t.is(1, "database") {
        return None;
    }
    let name = |at: usize| t.name(at).map(std::borrow::Cow::into_owned);
    match t.keyword(0).as_str() {
        "drop" if t.is(2, "if") && t.is(3, "exists") => name(4),
        "drop" => name(2),
        "alter" if t.is(3, "rename") || (t.is(3, "set") && t.is(4, "tablespace")) => name(2),
        "create" => {
            let Some(template) = (3..t.len()).find(|&at| t.is(at, "template")) else {
                return Some("template1".to_owned());
            };
            let at = template + 1 + usize::from(t.is_mark(template + 1, "="));
            name(at).or_else(|| {
                let literal = String::from_utf8_lossy(t.raw(at));
                Some(literal.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'"))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::must_be_free;

    #[test]
    fn the_database_that_must_be_free() {
        let cases = [
            ("DROP DATABASE d", Some("d")),
            ("drop /* it */ database if exists \"My D\" WITH (FORCE);", Some("My D")),
            ("ALTER DATABASE D RENAME TO e", Some("d")),
            ("ALTER DATABASE d SET TABLESPACE t", Some("d")),
            ("ALTER DATABASE d SET timezone = 'UTC'", None),
            ("CREATE DATABASE d", Some("template1")),
            ("CREATE DATABASE d OWNER o TEMPLATE t", Some("t")),
            ("CREATE DATABASE d WITH TEMPLATE = 'it''s'", Some("it's")),
            ("CREATE DATABASE d TEMPLATE DEFAULT", Some("default")),
            ("DROP TABLE d", None),
            ("SELECT 1", None),
        ];
        for (sql, database) in cases {
            assert_eq!(must_be_free(sql.as_bytes(), true).as_deref(), database, "{sql}");
        }
    }
}
