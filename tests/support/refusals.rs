//! The refusals that `docs/sql-support.md` lists.

/// The heading under which the table of messages stands.
const HEADING: &str = "### Messages of refusals";

/// The messages, `…` for what differs from one to the next.
#[derive(Debug)]
pub struct Listed {
    patterns: Vec<String>,
}

impl Listed {
    /// Reads the page.
    ///
    /// # Panics
    /// When the page or its table is not where it is expected.
    pub fn read() -> Self {
        let here =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let page = std::fs::read_to_string(format!("{here}/../docs/sql-support.md")).expect("the page");
        let section = page.split(HEADING).nth(1).expect("the table of messages");
        let section = section.split("\n#").next().unwrap_or_default();
        let first = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
        let patterns: Vec<_> = section.lines().filter_map(first).collect();
        assert!(patterns.len() > 10, "the messages are found: {patterns:?}");
        Self { patterns }
    }

    /// Every line.
    pub fn all(&self) -> &[String] {
        &self.patterns
    }

    /// The line that a message is of.
    pub fn pattern(&self, message: &str) -> Option<&str> {
        self.patterns.iter().map(String::as_str).find(|pattern| matches(pattern, message))
    }
}

fn matches(pattern: &str, message: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('…') else { return pattern == message };
    let Some(left) = message.strip_prefix(head) else { return false };
    left.char_indices().any(|(at, _)| matches(rest, &left[at..])) || matches(rest, "")
}

#[test]
fn a_pattern_stands_for_messages_of_its_kind_alone() {
    assert!(matches("the table … is gone", "the table bids is gone"));
    assert!(matches("view …", "view house"));
    assert!(!matches("the table … is gone", "the table bids is there"));
    assert!(!matches("ORDER BY", "ORDER BY x"));
}
