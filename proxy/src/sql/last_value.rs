//! A query that reads a sequence as a table: `SELECT last_value, is_called FROM s`, as pg_dump does.

use super::tokens::Tokens;

/// Its columns.
const COLUMNS: [&str; 3] = ["last_value", "is_called", "log_cnt"];

/// The sequence that `text` reads, as it is written, and its name without the schema; `None` for any other statement.
pub fn sequence_read(text: &[u8], conforming: bool) -> Option<(String, String)> {
    if !text.windows(COLUMNS[0].len()).any(|window| window.eq_ignore_ascii_case(COLUMNS[0].as_bytes())) {
        return None;
    }
    let t = Tokens::new(text, conforming);
    let from = (1..t.len()).find(|at| t.is(*at, "from"))?;
    let columns = (1..from).all(|at| t.is_any(at, &COLUMNS) || t.is_mark(at, ",") || t.is_mark(at, "*"));
    if !t.is(0, "select") || !columns {
        return None;
    }
    let end = if t.is_mark(t.len() - 1, ";") { t.len() - 1 } else { t.len() };
    let qualified = end == from + 4 && t.is_mark(from + 2, ".");
    if !(qualified || end == from + 2) {
        return None;
    }
    let name = t.name(end - 1)?.to_string();
    let written: Vec<_> = (from + 1..end).map(|at| String::from_utf8_lossy(t.raw(at)).into_owned()).collect();
    Some((written.concat(), name))
}

#[cfg(test)]
mod tests {
    use super::sequence_read;

    #[test]
    fn a_sequence_that_is_read_as_a_table_is_seen() {
        let read = |text: &str| sequence_read(text.as_bytes(), true);
        let found = |written: &str, name: &str| Some((written.to_owned(), name.to_owned()));
        assert_eq!(read("SELECT last_value, is_called FROM public.s"), found("public.s", "s"));
        assert_eq!(read("select last_value from \"S\";"), found("\"S\"", "S"));
        for other in [
            "select last_value from s where true",
            "select 1 from s",
            "select last_value + 1 from s",
            "last_value",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
