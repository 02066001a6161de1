//! Settings under which PostgreSQL reads an expression or a text otherwise than the proxy does.

use super::session::Session;
use crate::route::combine::Combine;
use crate::route::refusal::Refusal;
use crate::sql::tokens::Tokens;

impl Session {
    /// Value of a setting of the session or its role, without quotes, in lower case.
    fn setting(&self, name: &str) -> Option<String> {
        let own = self.gucs_in_force().get(name).map(str::to_owned);
        let value = own.or_else(|| self.schema().role_setting(&self.who.user, name).map(str::to_owned))?;
        Some(value.trim().trim_matches('\'').to_ascii_lowercase())
    }

    /// Whether `= NULL` means IS NULL.
    pub(super) fn null_equals(&self) -> bool {
        let on = |value: String| value.starts_with(['t', 'y']) || matches!(value.as_str(), "on" | "1");
        self.setting("transform_null_equals").is_some_and(on)
    }

    /// Refuses `= NULL` where it means IS NULL: the planner takes it for a condition that never holds, which matters where there are
    /// several shards.
    pub(super) fn check_null_equals(&self, several: bool, text: &[u8]) -> Result<(), Refusal> {
        if !several || !self.context.as_ref().is_some_and(|context| context.null_equals) {
            return Ok(());
        }
        let tokens = Tokens::new(text, self.text_rules().standard_strings);
        if !compares_null(&tokens) {
            return Ok(());
        }
        let hint = "Write IS NULL, or SET transform_null_equals TO off.";
        Err(Refusal::unsupported("= NULL under transform_null_equals is not supported", hint))
    }

    /// Why the rows of this query do not travel as they are under the session's settings.
    pub(super) fn bends_texts(&self, combine: &Combine) -> Option<String> {
        let texts = combine.tables.iter().any(|table| !table.binary);
        let is_xml = |(_, declared): &(String, String)| declared.starts_with("xml");
        let xml = texts || combine.tables.iter().any(|table| table.columns.iter().any(is_xml));
        if texts && self.reads_null_as_text() {
            return Some("array_nulls is off, by which NULL in an array becomes a text".to_owned());
        }
        let document = xml && self.setting("xmloption").is_some_and(|value| value == "document");
        document.then(|| "xmloption is DOCUMENT, by which other XML is rejected".to_owned())
    }

    /// Whether NULL in the text of an array is a text.
    pub(crate) fn reads_null_as_text(&self) -> bool {
        let off =
            |value: String| value.starts_with(['f', 'n']) || matches!(value.as_str(), "of" | "off" | "0");
        self.setting("array_nulls").is_some_and(off)
    }
}

/// Whether `=` stands beside the word NULL, parentheses left aside.
fn compares_null(tokens: &Tokens<'_>) -> bool {
    (0..tokens.len()).filter(|at| tokens.is_mark(*at, "=")).any(|at| {
        let after = (at + 1..tokens.len()).find(|at| !tokens.is_mark(*at, "("));
        let before = (0..at).rev().find(|at| !tokens.is_mark(*at, ")"));
        [after, before].into_iter().flatten().any(|at| tokens.is(at, "null"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_with_null_are_found() {
        let found = |sql: &str| compares_null(&Tokens::new(sql.as_bytes(), true));
        for sql in ["select 1 where a = NULL", "select 1 where (null) = a", "select a=((null))"] {
            assert!(found(sql), "{sql}");
        }
        for sql in ["select 1 where a is null and b = 1", "select a <> null", "select \"null\" = 'null'"] {
            assert!(!found(sql), "{sql}");
        }
    }
}
