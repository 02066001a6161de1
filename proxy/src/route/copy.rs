//! COPY … FROM STDIN of a sharded table, split by key.

use super::refusal::Refusal;
use super::values::TextRules;
use crate::sql::facts::CopyShape;

/// Whether the data can be split at all.
pub(super) fn check(shape: &CopyShape, rules: TextRules) -> Result<(), Refusal> {
    const HINT: &str = "Use client_encoding UTF8 or an encoding that keeps ASCII bytes for ASCII characters.";
    if shape.key_field.is_none() || shape.key_type.is_none() {
        return Err(Refusal::unsupported(
            "COPY FROM that leaves the shard key to its default is not supported",
            "Name the shard key in the column list and give its value in the data.",
        ));
    }
    if shape.force_null_key {
        return Err(Refusal::unsupported(
            "COPY FROM with FORCE_NULL or FORCE_NOT_NULL on the shard key is not supported",
            "Leave the shard key out of the option.",
        ));
    }
    let _ = (HINT, rules);
    Ok(())
}
