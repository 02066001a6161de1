//! From a text to a command of the console. Pure.
//!
//! Besides its own commands the console answers what drivers, poolers and psql send by themselves: pings, transaction
//! control, settings of the session, queries of the catalog (empty, but for the names that complete SHOW).

use super::topic::Topic;
use crate::sql::lexer::{Kind, Lexer, Token};
use crate::wire::backend::Status;

/// What the console is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// SHOW topic
    Show(Topic),
    /// SHOW HELP topic
    Columns(Topic),
    /// SHOW of a setting that drivers ask for: name, value.
    Setting(&'static str, &'static str),
    /// New requests outside of transactions wait.
    Pause,
    /// They go on.
    Resume,
    /// The configuration is read again.
    Reload,
    /// The process ends once running transactions have.
    Drain,
    /// Tab completion of SHOW: names that begin so.
    Names {
        /// In lower case.
        prefix: String,
    },
    /// A query of the catalog: no rows.
    NoRows,
    /// A query of one value: its column and the value.
    Value {
        /// Name of the column.
        column: String,
        /// The value.
        value: Value,
    },
    /// Accepted, without effect but for the transaction status.
    Accepted {
        /// Tag of the completion.
        tag: &'static str,
        /// Transaction status afterwards, if it changes.
        status: Option<Status>,
    },
    /// No statement at all.
    Empty,
}

/// The value of a query of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// This one.
    Text(String),
    /// Version of the proxy.
    Version,
    /// Database of the session.
    Database,
    /// Role of the session.
    User,
}

/// What the console does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the admin console does not know \"{0}\"")]
pub(super) struct Unknown(String);

/// Characters of an unknown command that are repeated in the error.
const ECHO_CHARS: usize = 60;

/// Settings that drivers ask for with SHOW.
const SETTINGS: [(&str, &str); 10] = [
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("search_path", "\"$user\", public"),
    ("server_version", SERVER_VERSION),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// What the console says that it is, to drivers that choose their behaviour by it.
pub(super) const SERVER_VERSION: &str = "15.0";

/// Reads one statement.
pub(super) fn parse(text: &str) -> Result<Command, Unknown> {
    let words = words(text);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let unknown = || Unknown(text.trim().chars().take(ECHO_CHARS).collect());
    Ok(match words.as_slice() {
        [] => Command::Empty,
        ["show"] | ["help"] => Command::Show(Topic::Help),
        ["show", "help", name] => Command::Columns(Topic::named(name).ok_or_else(unknown)?),
        ["show", "transaction", "isolation", "level"] => {
            Command::Setting("transaction_isolation", "read committed")
        }
        ["show", "time", "zone"] => Command::Setting("timezone", "UTC"),
        ["show", name] => match Topic::named(name) {
            Some(topic) => Command::Show(topic),
            None => setting(name).ok_or_else(unknown)?,
        },
        ["pause"] => Command::Pause,
        ["resume"] => Command::Resume,
        ["reload"] => Command::Reload,
        ["drain"] => Command::Drain,
        ["select" | "with" | "values" | "table", ..] => query(text, &words).ok_or_else(unknown)?,
        [first, ..] => accepted(first).ok_or_else(unknown)?,
    })
}

/// Words in lower case (quoted ones as they are, without quotes), other tokens as they are; comments and the final
/// semicolon left out.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Lexer::new(text.as_bytes(), true)
        .map(|Token { kind, start, end }| {
            let word = text.get(start..end).unwrap_or_default();
            match kind {
                Kind::Word => word.to_lowercase(),
                Kind::Quoted => word.trim_matches('"').to_owned(),
                _ => word.to_owned(),
            }
        })
        .collect();
    while words.last().is_some_and(|last| last == ";") {
        words.pop();
    }
    words
}

fn setting(name: &str) -> Option<Command> {
    let (name, value) = SETTINGS.iter().find(|(known, _)| *known == name)?;
    Some(Command::Setting(name, value))
}

/// What needs no answer but that it was heard.
fn accepted(first: &str) -> Option<Command> {
    let (tag, status) = match first {
        "begin" => ("BEGIN", Some(Status::InTransaction)),
        "start" => ("START TRANSACTION", Some(Status::InTransaction)),
        "commit" | "end" => ("COMMIT", Some(Status::Idle)),
        "rollback" | "abort" => ("ROLLBACK", Some(Status::Idle)),
        "set" => ("SET", None),
        "reset" => ("RESET", None),
        "discard" => ("DISCARD ALL", None),
        "deallocate" => ("DEALLOCATE", None),
        "close" => ("CLOSE CURSOR", None),
        "unlisten" => ("UNLISTEN", None),
        _ => return None,
    };
    Some(Command::Accepted { tag, status })
}

/// Pings and queries of the catalog.
fn query(text: &str, words: &[&str]) -> Option<Command> {
    if words.contains(&"pg_settings") {
        return Some(Command::Names { prefix: last_literal(text).unwrap_or_default() });
    }
    let plain: Vec<&str> =
        words.iter().copied().filter(|word| !matches!(*word, "pg_catalog" | ".")).collect();
    let one = |column: &str, value| Some(Command::Value { column: column.to_owned(), value });
    match plain.as_slice() {
        ["select", "version", "(", ")"] => return one("version", Value::Version),
        ["select", "current_database", "(", ")"] => return one("current_database", Value::Database),
        ["select", "current_schema", "(", ")"] => {
            return one("current_schema", Value::Text("public".to_owned()));
        }
        ["select", "pg_is_in_recovery", "(", ")"] => {
            return one("pg_is_in_recovery", Value::Text("f".to_owned()));
        }
        ["select", name @ ("current_user" | "session_user" | "user")] => return one(name, Value::User),
        ["select", value] => return literal(value).and_then(|value| one("?column?", value)),
        ["select", value, "as", column] | ["select", value, column] if literal(value).is_some() => {
            return literal(value).and_then(|value| one(column, value));
        }
        _ => {}
    }
    let catalog = |word: &&str| word.starts_with("pg_") || **word == *"information_schema";
    words.iter().any(catalog).then_some(Command::NoRows)
}

/// A number or a plain string.
fn literal(word: &str) -> Option<Value> {
    let string = word.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let number = || word.starts_with(|c: char| c.is_ascii_digit()).then_some(word);
    string.or_else(number).map(|text| Value::Text(text.replace("''", "'")))
}

/// What psql has of the name so far: the last string of its query, without the `%` of LIKE and its escapes.
fn last_literal(text: &str) -> Option<String> {
    let strings =
        Lexer::new(text.as_bytes(), true).filter(|t| matches!(t.kind, Kind::String | Kind::Escaped));
    let last = strings.last()?;
    let string = text.get(last.start..last.end)?;
    let inner = string.trim_start_matches(['E', 'e']).trim_matches('\'').trim_end_matches('%');
    Some(inner.replace('\\', "").to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_however_they_are_written() {
        let value = |column: &str, value| Command::Value { column: column.to_owned(), value };
        let text = |text: &str| Value::Text(text.to_owned());
        let cases = [
            ("", Command::Empty),
            (" ; ", Command::Empty),
            ("-- nothing", Command::Empty),
            ("show pools", Command::Show(Topic::Pools)),
            ("SHOW /* all of */ Pools ;;", Command::Show(Topic::Pools)),
            ("SHOW \"pools\"", Command::Show(Topic::Pools)),
            ("help", Command::Show(Topic::Help)),
            ("SHOW", Command::Show(Topic::Help)),
            ("show help servers", Command::Columns(Topic::Servers)),
            ("SHOW TRANSACTION ISOLATION LEVEL", Command::Setting("transaction_isolation", "read committed")),
            ("show server_version", Command::Setting("server_version", SERVER_VERSION)),
            ("pause", Command::Pause),
            ("RESUME;", Command::Resume),
            ("Reload", Command::Reload),
            ("DRAIN", Command::Drain),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", accepted("begin").expect("known")),
            ("rollback", accepted("abort").expect("known")),
            ("SET application_name = 'x'", accepted("set").expect("known")),
            ("select 1", value("?column?", text("1"))),
            ("SELECT 'it''s' AS \"Said\"", value("Said", text("it's"))),
            ("select version()", value("version", Value::Version)),
            ("select pg_catalog.version()", value("version", Value::Version)),
            ("SELECT current_database();", value("current_database", Value::Database)),
            ("select current_user", value("current_user", Value::User)),
            ("SELECT pg_catalog.pg_is_in_recovery()", value("pg_is_in_recovery", text("f"))),
            ("SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', '')", Command::NoRows),
            ("SELECT pg_advisory_unlock_all()", Command::NoRows),
            ("SELECT * FROM information_schema.tables", Command::NoRows),
        ];
        for (sql, expected) in cases {
            assert_eq!(parse(sql), Ok(expected), "{sql}");
        }
    }

    #[test]
    fn completion_of_show_is_recognised_in_the_words_of_any_psql() {
        let names = |prefix: &str| Ok(Command::Names { prefix: prefix.to_owned() });
        let old = "SELECT name FROM (SELECT pg_catalog.lower(name) AS name FROM pg_catalog.pg_settings \
                   UNION ALL SELECT 'session authorization' UNION ALL SELECT 'all') ss \
                   WHERE substring(name,1,2)='po' LIMIT 1000";
        assert_eq!(parse(old), names("po"));
        let new = "SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings \
                   WHERE pg_catalog.lower(name) LIKE pg_catalog.lower('PO%')";
        assert_eq!(parse(new), names("po"));
        assert_eq!(parse("SELECT name FROM pg_settings WHERE name LIKE E'cli\\\\_%'"), names("cli_"));
    }

    #[test]
    fn what_is_unknown_is_named() {
        for sql in
            ["show nothing", "show help nothing", "select a from b", "drop table bids", "pause now please"]
        {
            let error = parse(sql).expect_err(sql);
            assert!(error.to_string().contains(sql), "{error}");
        }
        assert!(parse(&"x".repeat(10_000)).expect_err("unknown").to_string().len() < 200);
    }
}
