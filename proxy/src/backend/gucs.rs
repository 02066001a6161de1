//! Server settings (GUCs) that a session has set, and how a conn is brought from one set of them to another.
//!
//! Values are the SQL that the application wrote after `SET name TO`, replayed as it is: the proxy does not interpret them.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

/// The setting that ends statements of the proxy's own as well.
const TIMEOUT: &str = "statement_timeout";

/// Settings that differ from those a fresh connection has: name (lower case) to the value as SQL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gucs {
    values: BTreeMap<String, String>,
    fingerprint: u64,
}

impl Gucs {
    /// None set.
    pub fn none() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Value of a setting as SQL.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// With `name` set to `value`, or back to its default.
    pub fn with(self: &Arc<Self>, name: &str, value: Option<&str>) -> Arc<Self> {
        // SET SESSION AUTHORIZATION resets the role, also where it changes nothing else.
        let resets_role = name == "session_authorization" && self.get("role").is_some();
        if self.get(name) == value && !resets_role {
            return Arc::clone(self);
        }
        let mut values = self.values.clone();
        match value {
            Some(value) => drop(values.insert(name.to_owned(), value.to_owned())),
            None => drop(values.remove(name)),
        }
        if resets_role {
            values.remove("role");
        }
        Arc::new(Self::of(values))
    }

    /// These settings.
    pub fn of(values: BTreeMap<String, String>) -> Self {
        let fingerprint = if values.is_empty() { 0 } else { FixedState::default().hash_one(&values) };
        Self { values, fingerprint }
    }

    /// A number that is equal for equal settings (and, but for a hash collision, only for those).
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Same settings.
    pub fn same(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.values.is_empty() && other.values.is_empty())
            || (self.fingerprint == other.fingerprint && self.values == other.values)
    }

    /// SQL that brings a conn from `applied` (`None`: unknown) to these settings; `None` when there is nothing to do.
    pub fn replay_sql(&self, applied: Option<&Self>) -> Option<String> {
        let mut sql = String::new();
        match applied {
            None => {
                sql.push_str("RESET SESSION AUTHORIZATION;RESET ALL;");
            }
            Some(applied) => {
                if applied.same(self) {
                    return None;
                }
                for name in applied.values.keys().filter(|name| !self.values.contains_key(*name)) {
                    sql.push_str(&format!("RESET {};", spelled(name)));
                }
            }
        }
        let changed = |name: &str, value: &str| applied.and_then(|a| a.get(name)) != Some(value);
        // A change of session authorization resets the role, so the role comes last and again.
        let authorization =
            self.get("session_authorization").filter(|value| changed("session_authorization", value));
        if let Some(value) = authorization {
            sql.push_str(&format!("SET SESSION AUTHORIZATION {value};"));
        }
        for (name, value) in &self.values {
            if matches!(name.as_str(), "session_authorization" | "role" | TIMEOUT) || !changed(name, value) {
                continue;
            }
            match name.as_str() {
                // An interval is a value in this syntax alone.
                "timezone" => sql.push_str(&format!("SET TIME ZONE {value};")),
                name => sql.push_str(&format!("SET {} TO {value};", spelled(name))),
            }
        }
        let authorization_moves = applied
            .is_none_or(|applied| applied.get("session_authorization") != self.get("session_authorization"));
        if let Some(value) = self.get("role")
            && (changed("role", value) || authorization_moves)
        {
            sql.push_str(&format!("SET ROLE {value};"));
        }
        // The commands behind it would run under it.
        if let Some(value) = self.get(TIMEOUT).filter(|value| changed(TIMEOUT, value)) {
            sql.push_str(&format!("SET {TIMEOUT} TO {value};"));
        }
        (!sql.is_empty()).then_some(sql)
    }

    /// Lifts the limit of statements, on a conn that then has [`Self::unlimited`] settings.
    pub const LIFT: &'static str = "SET statement_timeout TO 0";

    /// These without the limit of statements.
    pub fn unlimited(self: &Arc<Self>) -> Arc<Self> {
        self.with(TIMEOUT, Some("0"))
    }

    /// Whether statements may be cut short by them.
    pub fn limits_statements(&self) -> bool {
        self.get(TIMEOUT).is_some()
    }

    /// Each as `(name, value)`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A setting's name as SQL: special syntaxes, and custom names (`a.b`) with each part quoted where needed.
fn spelled(name: &str) -> String {
    match name {
        "session_authorization" => "SESSION AUTHORIZATION".to_owned(),
        plain if plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') => {
            plain.to_owned()
        }
        odd => odd
            .split('.')
            .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
            .collect::<Vec<_>>()
            .join("."),
    }
}

/// `SET name TO value`, with LOCAL or without; `None`: to the default.
pub fn set_sql(name: &str, value: Option<&str>, local: bool) -> String {
    let local = if local { "LOCAL " } else { "" };
    match (name, value) {
        // Intervals and the like are values in these syntaxes alone.
        ("timezone", value) => format!("SET {local}TIME ZONE {}", value.unwrap_or("DEFAULT")),
        ("session_authorization", value) => {
            format!("SET {local}SESSION AUTHORIZATION {}", value.unwrap_or("DEFAULT"))
        }
        ("role", value) => format!("SET {local}ROLE {}", value.unwrap_or("NONE")),
        (name, value) => format!("SET {local}{} TO {}", spelled(name), value.unwrap_or("DEFAULT")),
    }
}

/// A setting's value in text, as at login or in set_config, as what SET wants: lists of names are spelled as lists.
pub fn value_sql(name: &str, value: &str) -> String {
    if !matches!(name, "search_path" | "temp_tablespaces") {
        return literal(value);
    }
    let name =
        |part: &str| if part.starts_with('"') { part.to_owned() } else { literal(&part.to_lowercase()) };
    value.split(',').map(|part| name(part.trim())).collect::<Vec<_>>().join(", ")
}

/// A string as an SQL literal.
pub fn literal(text: &str) -> String {
    let escaped = text.contains('\\');
    let mut sql = String::with_capacity(text.len() + 4);
    sql.push_str(if escaped { " E'" } else { "'" });
    for letter in text.chars() {
        if letter == '\'' || letter == '\\' {
            sql.push(letter);
        }
        sql.push(letter);
    }
    sql.push('\'');
    sql
}

/// What a literal made by [`literal`] stands for.
pub fn literal_value(sql: &str) -> String {
    let quoted = sql.trim_start().trim_start_matches('E');
    let mut letters =
        quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(quoted).chars();
    let mut text = String::with_capacity(sql.len());
    while let Some(letter) = letters.next() {
        text.push(letter);
        if letter == '\'' || letter == '\\' {
            letters.next();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gucs(pairs: &[(&str, &str)]) -> Gucs {
        Gucs::of(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_literal_stands_for_what_it_was_made_of() {
        for text in ["", "shard-2", "it's", "a\\b", "'", "E"] {
            assert_eq!(literal_value(&literal(text)), text);
        }
    }

    #[test]
    fn only_differences_are_replayed() {
        let have = gucs(&[("timezone", "'UTC'"), ("work_mem", "'1MB'")]);
        let want = gucs(&[("timezone", "'CET'"), ("search_path", "a, b")]);
        assert_eq!(
            want.replay_sql(Some(&have)).as_deref(),
            Some("RESET work_mem;SET search_path TO a, b;SET TIME ZONE 'CET';")
        );
        assert_eq!(want.replay_sql(Some(&want)), None);
    }

    #[test]
    fn the_role_comes_after_the_session_authorization() {
        let want = gucs(&[("role", "bob"), ("session_authorization", "alice")]);
        assert_eq!(
            want.replay_sql(Some(&Gucs::default())).as_deref(),
            Some("SET SESSION AUTHORIZATION alice;SET ROLE bob;")
        );
        let have = gucs(&[("role", "bob"), ("session_authorization", "alice")]);
        let sql = gucs(&[("role", "bob")]).replay_sql(Some(&have));
        assert_eq!(sql.as_deref(), Some("RESET SESSION AUTHORIZATION;SET ROLE bob;"));
    }

    #[test]
    fn the_session_authorization_resets_the_role_even_if_it_stays() {
        let with_role = Arc::new(gucs(&[("role", "bob"), ("work_mem", "'1MB'")]));
        assert_eq!(*with_role.with("session_authorization", None), gucs(&[("work_mem", "'1MB'")]));
    }

    #[test]
    fn a_limit_of_statements_comes_last() {
        let want = gucs(&[("role", "bob"), ("statement_timeout", "2"), ("work_mem", "'1MB'")]);
        assert_eq!(
            want.replay_sql(Some(&Gucs::default())).as_deref(),
            Some("SET work_mem TO '1MB';SET ROLE bob;SET statement_timeout TO 2;")
        );
    }

    #[test]
    fn unknown_state_is_reset_as_a_whole() {
        let sql = gucs(&[("work_mem", "'2MB'")]).replay_sql(None);
        assert_eq!(sql.as_deref(), Some("RESET SESSION AUTHORIZATION;RESET ALL;SET work_mem TO '2MB';"));
    }
}
