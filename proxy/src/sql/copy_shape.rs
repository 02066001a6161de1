//! What a COPY says of its data: the format, and which columns matter here.

use router_config::key::KeyType;

use super::tokens::Tokens;

/// COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyShape {
    /// Format.
    pub format: CopyFormat,
    /// Field delimiter (text: tab, csv: comma).
    pub delimiter: u8,
    /// NULL string (text: `\N`, csv: empty).
    pub null: String,
    /// csv QUOTE.
    pub quote: u8,
    /// csv ESCAPE.
    pub escape: u8,
    /// A header line is present.
    pub header: bool,
    /// 0-based position of the key among the columns copied; `None` when the key is left to its default.
    pub key_field: Option<usize>,
    /// Key column's type, if the table is sharded.
    pub key_type: Option<KeyType>,
    /// Modifier of the key column's type (`atttypmod`).
    pub key_modifier: Option<i32>,
    /// Number of columns copied.
    pub columns: usize,
    /// `FORCE_NOT_NULL`/`FORCE_NULL` name the key column.
    pub force_null_key: bool,
    /// ENCODING option, if named.
    pub encoding: Option<String>,
    /// 0-based positions, among the columns copied in, of those whose texts may be read by the clock (`now`). In binary format none.
    pub times: Vec<usize>,
}

/// COPY format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// text
    Text,
    /// csv
    Csv,
    /// binary
    Binary,
}

/// The table of a `COPY … FROM`, as it is spelled there.
pub fn copied_into(text: &[u8], conforming: bool) -> Option<String> {
    let t = Tokens::new(text, conforming);
    let (_, _, next) = t.qualified(1).filter(|_| t.is(0, "copy"))?;
    let columns = if t.is_mark(next, "(") { t.closing(next)? + 1 } else { next };
    t.is(columns, "from").then(|| t.source(1, next - 1))
}

#[cfg(test)]
mod tests {
    use super::copied_into;

    #[test]
    fn the_table_of_a_copy_is_found_as_it_is_spelled() {
        let table = |text: &str| copied_into(text.as_bytes(), true);
        assert_eq!(table("copy nosuch from stdin").as_deref(), Some("nosuch"));
        assert_eq!(table("COPY \"No such\" (a, b) FROM STDIN").as_deref(), Some("\"No such\""));
        assert_eq!(table("copy /* c */ s.t(a) from stdin").as_deref(), Some("s.t"));
        for text in [
            "copy t to stdout",
            "copy (select 1) to stdout",
            "copy",
            "select 1 from t",
            "copy t (a from stdin",
        ] {
            assert_eq!(table(text), None, "{text}");
        }
    }
}
