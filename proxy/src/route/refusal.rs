//! Why a statement is not executed, in the words that the application's developer reads.
//!
//! Every refusal that rests on placement is made here, so that this file is the list of them; those that speak in
//! PostgreSQL's own words (a key that is no integer, say) are made where the value is read.

use std::borrow::Cow;

/// How [`Refusal::insert_key`] begins.
const KEY_OF_ROW: &str = "the shard key of row ";

/// What [`Refusal::not_joined_on_key`] says.
const COMBINES: &str = "the statement combines sharded tables whose rows may be on different shards";

/// How [`Refusal::needs_home`] begins.
const USES_TOGETHER: &str = "the statement uses sharded tables together with ";

/// A typed refusal: becomes an ErrorResponse of severity ERROR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE, five characters; `0A000` for statements that cannot be placed.
    pub sqlstate: &'static str,
    /// What cannot be done, naming the table or construct.
    pub message: String,
    /// Why.
    pub detail: Option<String>,
    /// The cure.
    pub hint: Option<String>,
}

impl Refusal {
    /// `0A000`, feature not supported.
    pub fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { sqlstate: "0A000", message: message.into(), detail: None, hint: Some(hint.into()) }
    }

    /// Any SQLSTATE, without detail or hint.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// With the reason.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With one more reason.
    #[must_use]
    pub fn because_too(self, why: &str) -> Self {
        let ended = |detail: &String| if detail.ends_with('.') { "" } else { "." };
        let both = |detail: &String| format!("{detail}{} {why}", ended(detail));
        let detail = self.detail.as_ref().map_or_else(|| why.to_owned(), both);
        self.because(detail)
    }

    /// Message and detail for logs. Errors of class 22 speak of data, and quote it; those of other classes quote names. Unless
    /// literals may be shown, what is quoted of data is left out.
    pub fn logged(&self, literals: bool) -> (Cow<'_, str>, Option<Cow<'_, str>>) {
        let shown = |text| {
            if literals || !self.sqlstate.starts_with("22") { Cow::Borrowed(text) } else { masked(text) }
        };
        (shown(&self.message), self.detail.as_deref().map(shown))
    }

    /// The statement could not be read or its tables are not understood.
    pub(super) fn not_placed(why: &str) -> Self {
        Self::unsupported(
            "the statement cannot be placed on a shard",
            "Place it with a comment such as /* gavel: key=42 */ or /* gavel: shard=1 */, or rewrite it.",
        )
        .because(why.to_owned())
    }

    /// The statement would set off what is not right on a shard, or uses a table that cannot be sharded as it is.
    pub(crate) fn barred(why: &str) -> Self {
        Self::unsupported(
            "the statement cannot be executed on a cluster of several shards as it is",
            "Change what the detail names; a function of a trigger, default, check or policy that is known to be harmless \
             can be declared in [[functions]].",
        )
        .because(why.to_owned())
    }

    /// DDL that fills a table which is not the home shard's alone.
    pub(super) fn fills(table: &str) -> Self {
        Self::unsupported(
            format!("{table} cannot be created and filled in one statement"),
            "Create the table first, then fill it with INSERT ... SELECT or COPY.",
        )
        .because("Every shard would put all of the rows into its own part of the table.")
    }

    /// DDL that changes where the rows of a table are looked for.
    pub(crate) fn reshapes(table: &str) -> Self {
        Self::unsupported(
            format!("the change of {table} would leave its rows where they are not looked for"),
            "Create a new table, and copy the rows into it.",
        )
        .because("By the rules of the configuration the table would be of another kind, or have another shard key.")
    }

    /// A write whose rows are on several shards.
    pub(super) fn several_shards(what: &str, why: &str) -> Self {
        Self::unsupported(
            format!("{what} over several shards is not supported"),
            "Add a condition of the form shard_key = value to the WHERE clause, or run the statement once for each key.",
        )
        .because(why.to_owned())
    }

    /// A query that calls a function which may write.
    pub(super) fn volatile(function: &str) -> Self {
        Self::unsupported(
            "a VOLATILE function over several shards is not supported",
            "Declare the function STABLE or IMMUTABLE if it writes nothing, name it in [[functions]] with key_argument if it works \
             on one key, or add a condition of the form shard_key = value.",
        )
        .because(format!("{function} may write: it is VOLATILE, which is the default, or declared with a key_argument."))
    }

    /// A read whose answer is more than the shards' answers one after the other.
    pub(super) fn needs_merge(why: &str) -> Self {
        Self::unsupported(
            format!("this query over several shards is not supported: {why}"),
            "Add a condition of the form shard_key = value to the WHERE clause; the answers of shards are only concatenated.",
        )
    }

    /// Tables of one statement whose rows are on different shards.
    pub(super) fn not_joined_on_key(why: Option<&str>) -> Self {
        let refusal = Self::unsupported(
            COMBINES,
            "Join the tables on their shard keys, or give each of them a condition shard_key = value of one and the same key.",
        );
        match why {
            Some(why) => refusal.because(why.to_owned()),
            None => refusal,
        }
    }

    /// Sharded and unsharded tables in one statement, and the rows are not on the home shard.
    pub(super) fn needs_home(what: &str, home: &str) -> Self {
        Self::unsupported(
            format!("{USES_TOGETHER}{what}"),
            "Make the unsharded table a reference table, or split the statement in two.",
        )
        .because(format!(
            "Unsharded tables are on shard \"{home}\" only, and the rows of the key are elsewhere."
        ))
    }

    /// A statement that writes sharded and reference tables at once.
    pub(super) fn writes_reference() -> Self {
        Self::unsupported(
            "one statement cannot write a reference table and use sharded tables",
            "Write the reference table in a statement of its own, in the same transaction.",
        )
    }

    /// UPDATE of the shard key.
    pub(super) fn updates_key() -> Self {
        Self::unsupported(
            "the shard key of a row cannot be updated",
            "Delete the row and insert it with its new key, in one transaction.",
        )
        .because("The row would have to move to another shard.")
    }

    /// INSERT … SELECT whose rows may belong elsewhere.
    pub(super) fn insert_select() -> Self {
        Self::unsupported(
            "INSERT ... SELECT into a sharded table is supported only where every row stays on the shard it is read from",
            "Name the columns of the target (INSERT INTO t (a, b) SELECT ...), or select the shard key of the source table, \
             unchanged, into that of the target, or use VALUES or COPY.",
        )
    }

    /// A key in VALUES that cannot be known.
    pub(super) fn insert_key(row: usize, why: &str) -> Self {
        Self::unsupported(
            format!("{KEY_OF_ROW}{} of the INSERT cannot be determined", row + 1),
            "Give the shard key as a literal or a parameter of the key column's type.",
        )
        .because(why.to_owned())
    }

    /// Whether it is one of [`Self::insert_key`].
    pub(crate) fn is_of_insert_key(&self) -> bool {
        self.message.starts_with(KEY_OF_ROW)
    }

    /// Whether it is one of [`Self::not_joined_on_key`] or [`Self::needs_home`].
    pub(crate) fn is_of_other_tables(&self) -> bool {
        self.message == COMBINES || self.message.starts_with(USES_TOGETHER)
    }

    /// NULL as a new row's key.
    pub(super) fn null_key(table: &str) -> Self {
        Self::new(
            "23502",
            format!(
                "null value in the shard key column of relation \"{table}\" violates not-null constraint"
            ),
        )
    }

    /// INSERT, UPDATE or DELETE in WITH that cannot be run one after the other.
    pub(crate) fn parts_of_with(why: &str) -> Self {
        Self::unsupported(
            "a query that writes over several shards is not supported",
            "Send its parts as statements of their own, in one transaction.",
        )
        .because(why.to_owned())
    }

    /// MERGE whose source cannot be read first.
    pub(crate) fn merge(why: &str) -> Self {
        Self::unsupported(
            "MERGE over several shards is not supported",
            "Write it as an UPDATE and an INSERT ... ON CONFLICT, or run it once for each key.",
        )
        .because(format!("Its source is read first, and {why}."))
    }

    /// More rows of other shards than a limit allows; `cure`: what else than raising it.
    pub(crate) fn too_many_bytes(limit: usize, name: &str, cure: &str) -> Self {
        Self {
            sqlstate: "53400",
            message: format!("the statement needs more than {limit} bytes of rows of other shards"),
            detail: Some(format!("The limit is {name}.")),
            hint: Some(format!("{cure}, or raise {name}.")),
        }
    }

    /// Something evaluated on each shard that must be the same on all.
    pub(super) fn unrepeatable(what: &str, why: &str) -> Self {
        Self::unsupported(
            format!("{what} would be evaluated separately on each shard"),
            "Compute the value in the application and pass it as a parameter.",
        )
        .because(why.to_owned())
    }

    /// Several writing shards, but two-phase commit is off.
    pub fn two_phase_off(what: &str) -> Self {
        Self::unsupported(
            format!(
                "{what} writes to several shards, which needs two-phase commit (routing.two_phase is off)"
            ),
            "Set two_phase = true in [routing] and RELOAD, with max_prepared_transactions > 0 on every node; \
             or write to one shard in a transaction.",
        )
    }

    /// An encoding in which bytes of other characters look like quotes and backslashes.
    pub(super) fn encoding() -> Self {
        Self::unsupported(
            "statements on sharded tables are not supported in this client_encoding",
            "Use client_encoding UTF8.",
        )
        .because(
            "In SJIS, BIG5, GBK, GB18030, UHC and JOHAB a byte of a character may be a backslash or a quote.",
        )
    }

    /// A hint and the statement speak of different shards.
    pub(super) fn hint_disagrees(hint: &str, why: &str) -> Self {
        Self::unsupported(
            format!("the routing hint names shard \"{hint}\", where the statement does not belong"),
            "Correct or remove the hint (SET gavel.key, SET gavel.shard, or the comment /* gavel: ... */).",
        )
        .because(why.to_owned())
    }

    /// A word of a hint that is none.
    pub(crate) fn unknown_hint(word: &str) -> Self {
        let message = format!("routing hint: \"{word}\" is not one");
        Self::bad_hint(message, "Hints are key=VALUE and shard=NAME.")
    }

    /// A hint that names nothing.
    pub(crate) fn bad_hint(message: String, hint: &str) -> Self {
        Self { sqlstate: "22023", message, detail: None, hint: Some(hint.to_owned()) }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

impl std::error::Error for Refusal {}

/// Without what stands between the first quotation mark and the last: a value may have some in it.
fn masked(text: &str) -> Cow<'_, str> {
    match (text.find('"'), text.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            let (before, after) = (text.get(..first), text.get(last + 1..));
            Cow::Owned(format!("{}?{}", before.unwrap_or_default(), after.unwrap_or_default()))
        }
        _ => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use router_config::key::KeyType;

    use super::Refusal;
    use crate::route::convert::complaint;

    #[test]
    fn no_complaint_about_a_value_shows_it_in_a_log() {
        const SECRET: &str = "se\"cr\"et 4711";
        let types = [
            KeyType::Int2,
            KeyType::Int8,
            KeyType::Uuid,
            KeyType::Numeric,
            KeyType::Date,
            KeyType::Timestamptz,
        ];
        let far = ["99999999999999999999999999", "2024-02-31", "2024-02-31 25:00:00+00"];
        let mut seen = 0;
        for key_type in types {
            for value in [SECRET].iter().chain(&far) {
                let Err(error) = key_type.parse_text(value) else { continue };
                let Some(refusal) = complaint(key_type, &error) else { continue };
                assert!(refusal.message.contains(value), "{refusal}");
                assert_eq!(refusal.logged(true).0, refusal.message);
                let (logged, _) = refusal.logged(false);
                assert!(!logged.contains(value) && logged.contains('?'), "{logged}");
                seen += 1;
            }
        }
        assert!(seen >= types.len(), "each type complains of something");
    }

    #[test]
    fn names_are_shown_in_a_log() {
        let refusal = Refusal::null_key("bids");
        assert_eq!(refusal.logged(false).0, refusal.message);
        let refusal = Refusal::unknown_hint("hidden").because("It is \"hidden\".");
        assert_eq!(refusal.logged(false).0, "routing hint: ? is not one");
        assert_eq!(refusal.logged(false).1.as_deref(), Some("It is ?."));
    }
}
