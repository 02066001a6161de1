//! What a COPY says of its data: the format, and which columns matter here.

use router_config::key::KeyType;

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
