//! Which tables a rule is about.

use super::TableMatch;

impl TableMatch {
    /// Whether the rule is about this table. `has_column` tells its columns.
    #[must_use]
    pub fn matches(&self, schema: &str, name: &str, has_column: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Name(wanted) => named(wanted, schema, name, |pattern, text| pattern == text),
            Self::Pattern(wanted) => named(wanted, schema, name, like),
            Self::HasColumn(column) => has_column(column),
        }
    }

    /// Whether every table that `later` is about is one of this rule's, as far as that can be told without a catalog.
    #[must_use]
    pub fn covers(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Pattern(pattern), Self::Pattern(_)) if pattern == "*" => true,
            (Self::Name(_) | Self::Pattern(_), Self::Name(table)) => {
                let (schema, name) = table.split_once('.').unwrap_or(("", table));
                let unqualified = !table.contains('.');
                let qualified_rule =
                    matches!(self, Self::Name(wanted) | Self::Pattern(wanted) if wanted.contains('.'));
                !(unqualified && qualified_rule) && self.matches(schema, name, &|_| false)
            }
            _ => self == later,
        }
    }
}

/// Compares `schema.name`, or the name alone where the rule names no schema.
fn named(wanted: &str, schema: &str, name: &str, equal: impl Fn(&str, &str) -> bool) -> bool {
    match wanted.split_once('.') {
        Some((wanted_schema, wanted_name)) => equal(wanted_schema, schema) && equal(wanted_name, name),
        None => equal(wanted, name),
    }
}

/// `*` stands for any text, `?` for one character.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to resume when a star must take one more character.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    p = star_at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("bid?", "bids", true),
            ("bid?", "bid", false),
            ("*_log", "audit_log", true),
            ("*_log", "audit_log_1", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*a*a*", "banana", true),
            ("bids", "bids", true),
            ("bids", "Bids", false),
            ("?", "é", true),
        ] {
            assert_eq!(like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_schema_counts_only_where_it_is_named() {
        let none = |_: &str| false;
        assert!(TableMatch::Name("users".into()).matches("any", "users", &none));
        assert!(TableMatch::Name("app.users".into()).matches("app", "users", &none));
        assert!(!TableMatch::Name("app.users".into()).matches("public", "users", &none));
        assert!(TableMatch::Pattern("app_?.*".into()).matches("app_1", "users", &none));
        assert!(!TableMatch::Pattern("app_?.*".into()).matches("app", "users", &none));
        assert!(TableMatch::HasColumn("a".into()).matches("s", "t", &|column| column == "a"));
    }

    #[test]
    fn covering() {
        let name = |text: &str| TableMatch::Name(text.into());
        let pattern = |text: &str| TableMatch::Pattern(text.into());
        assert!(pattern("u*").covers(&name("users")));
        assert!(pattern("u*").covers(&name("app.users")));
        assert!(!pattern("app.u*").covers(&name("users")));
        assert!(name("users").covers(&name("app.users")));
        assert!(!name("app.users").covers(&name("users")));
        assert!(pattern("*").covers(&pattern("x*")));
        assert!(!TableMatch::HasColumn("a".into()).covers(&name("users")));
    }
}
