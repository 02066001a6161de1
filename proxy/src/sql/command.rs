//! Recognises the commands of a session by their tokens, without the parser.
//!
//! Invariant: a command is recognised only if the whole statement has its form; anything else of that beginning is
//! [`Head::Opaque`], which goes to the home shard as it is and gets PostgreSQL's own error.

use super::facts::{Command, Isolation};
use super::lexer::Kind;
use super::normalise::Literal;
use super::tokens::Tokens;

/// What the first words of a statement say.
#[derive(Debug)]
pub(super) enum Head {
    /// Nothing but comments.
    Empty,
    /// A command complete in itself.
    Session(Command),
    /// SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES, TABLE, WITH: the parser's.
    Dml,
    /// EXPLAIN; the statement starts at token `inner`.
    Explain { gavel: bool, analyze: bool, inner: usize },
    /// PREPARE name AS statement.
    Prepare { name: String, inner: usize },
    /// DECLARE CURSOR.
    Declare { name: String, hold: bool, inner: usize },
    /// COPY.
    Copy,
    /// LOCK TABLE.
    Lock,
    /// CALL.
    Call,
    /// DO.
    Do,
    /// CREATE, ALTER, DROP, GRANT, …
    Ddl,
    /// SET CONSTRAINTS: about every shard of the transaction.
    Constraints,
    /// Not looked into.
    Opaque,
}

/// Names the statement by its first words.
pub(super) fn recognise(t: &Tokens<'_>) -> Head {
    let Some(first) = (0..t.len()).find(|&at| !t.is_mark(at, "(")) else { return Head::Empty };
    if first > 0 {
        return Head::Dml;
    }
    match t.keyword(0).as_str() {
        "select" | "insert" | "update" | "delete" | "merge" | "values" | "table" | "with" => Head::Dml,
        "explain" => explain(t),
        "declare" => declare(t),
        "copy" => Head::Copy,
        "lock" => Head::Lock,
        "call" => Head::Call,
        "do" => Head::Do,
        "prepare" => prepare(t),
        "set" => set(t),
        "create" | "alter" | "drop" | "grant" | "revoke" | "comment" | "truncate" | "reindex" | "vacuum"
        | "analyze" | "analyse" | "cluster" | "refresh" | "security" | "import" | "reassign" => Head::Ddl,
        word => session(t, word).map_or(Head::Opaque, Head::Session),
    }
}

/// Commands of a few words.
fn session(t: &Tokens<'_>, word: &str) -> Option<Command> {
    let name = |at: usize| t.name(at).map(|n| n.into_owned());
    let only = |at: usize| (t.len() == at + 1).then(|| name(at)).flatten();
    match word {
        "begin" => begin(t, skip_work(t, 1)),
        "start" if t.is(1, "transaction") => begin(t, 2),
        "commit" | "end" => commit(t),
        "rollback" | "abort" => rollback(t, word),
        "savepoint" => Some(Command::Savepoint(only(1)?)),
        "release" => Some(Command::Release(only(1 + usize::from(t.is(1, "savepoint") && t.len() > 2))?)),
        "reset" => reset(t),
        "show" => show(t),
        "discard" => discard(t),
        "deallocate" => {
            let at = 1 + usize::from(t.is(1, "prepare") && t.len() > 2);
            let all = t.is(at, "all");
            let name = only(at)?;
            Some(Command::Deallocate((!all).then_some(name)))
        }
        "execute" => Some(Command::Execute(name(1)?)),
        "fetch" | "move" => Some(Command::Fetch(name(t.len().checked_sub(1).filter(|&at| at > 0)?)?)),
        "close" => {
            let all = t.is(1, "all");
            let name = only(1)?;
            Some(Command::CloseCursor((!all).then_some(name)))
        }
        "listen" => Some(Command::Listen(only(1)?)),
        "unlisten" if t.is_mark(1, "*") && t.len() == 2 => Some(Command::Unlisten(None)),
        "unlisten" => Some(Command::Unlisten(Some(only(1)?))),
        "notify" => Some(Command::Notify(name(1)?)),
        _ => None,
    }
}

fn skip_work(t: &Tokens<'_>, at: usize) -> usize {
    at + usize::from(t.is_any(at, &["work", "transaction"]))
}

/// `(read_only, isolation)` of transaction modes up to the end of the statement.
fn modes(t: &Tokens<'_>, mut at: usize) -> Option<(Option<bool>, Option<Isolation>)> {
    let (mut read_only, mut isolation) = (None, None);
    while at < t.len() {
        let words = (t.keyword(at), t.keyword(at + 1), t.keyword(at + 2), t.keyword(at + 3));
        let words = (words.0.as_str(), words.1.as_str(), words.2.as_str(), words.3.as_str());
        at += match words {
            ("read", "only", ..) => {
                read_only = Some(true);
                2
            }
            ("read", "write", ..) => {
                read_only = Some(false);
                2
            }
            ("isolation", "level", "serializable", _) => {
                isolation = Some(Isolation::Serializable);
                3
            }
            ("isolation", "level", "repeatable", "read") => {
                isolation = Some(Isolation::RepeatableRead);
                4
            }
            ("isolation", "level", "read", "committed" | "uncommitted") => {
                isolation = Some(Isolation::ReadCommitted);
                4
            }
            ("not", "deferrable", ..) => 2,
            ("deferrable", ..) => 1,
            _ => return None,
        };
        if t.is_mark(at, ",") && at + 1 < t.len() {
            at += 1;
        }
    }
    Some((read_only, isolation))
}

fn begin(t: &Tokens<'_>, at: usize) -> Option<Command> {
    let (read_only, isolation) = modes(t, at)?;
    Some(Command::Begin { read_only: read_only == Some(true), isolation })
}

/// AND CHAIN / AND NO CHAIN / nothing, to the end.
fn chain(t: &Tokens<'_>, at: usize) -> Option<bool> {
    match (t.keyword(at).as_str(), t.keyword(at + 1).as_str(), t.keyword(at + 2).as_str(), t.len() - at) {
        (_, _, _, 0) => Some(false),
        ("and", "chain", _, 2) => Some(true),
        ("and", "no", "chain", 3) => Some(false),
        _ => None,
    }
}

fn commit(t: &Tokens<'_>) -> Option<Command> {
    if t.is(1, "prepared") {
        return Some(Command::TwoPhase);
    }
    Some(Command::Commit { chain: chain(t, skip_work(t, 1))? })
}

fn rollback(t: &Tokens<'_>, word: &str) -> Option<Command> {
    if t.is(1, "prepared") {
        return Some(Command::TwoPhase);
    }
    let at = skip_work(t, 1);
    if word == "rollback" && t.is(at, "to") {
        let at = at + 1 + usize::from(t.is(at + 1, "savepoint") && t.len() > at + 2);
        let name = (t.len() == at + 1).then(|| t.name(at)).flatten()?;
        return Some(Command::RollbackTo(name.into_owned()));
    }
    Some(Command::Rollback { chain: chain(t, at)? })
}

/// The name of a setting at `at` in RESET and SHOW, special spellings included.
fn setting(t: &Tokens<'_>, at: usize) -> Option<String> {
    let words = [t.keyword(at), t.keyword(at + 1), t.keyword(at + 2)];
    let rest = t.len().checked_sub(at)?;
    match (words[0].as_str(), words[1].as_str(), words[2].as_str(), rest) {
        ("time", "zone", _, 2) => return Some("timezone".into()),
        ("session", "authorization", _, 2) => return Some("session_authorization".into()),
        ("transaction", "isolation", "level", 3) => return Some("transaction_isolation".into()),
        _ => {}
    }
    let (name, next) = dotted(t, at)?;
    (next == t.len()).then_some(name)
}

/// `name` or `prefix.name`, lower case.
fn dotted(t: &Tokens<'_>, at: usize) -> Option<(String, usize)> {
    let mut name = t.name(at)?.to_lowercase();
    let mut next = at + 1;
    while t.is_mark(next, ".") {
        name = format!("{name}.{}", t.name(next + 1)?.to_lowercase());
        next += 2;
    }
    Some((name, next))
}

fn reset(t: &Tokens<'_>) -> Option<Command> {
    let name = setting(t, 1)?;
    if let Some(hint) = name.strip_prefix("gavel.") {
        return Some(Command::SetHint { local: false, name: hint.into(), value: None });
    }
    Some(Command::Reset((name != "all").then_some(name)))
}

fn show(t: &Tokens<'_>) -> Option<Command> {
    Some(Command::Show(setting(t, 1)?))
}

fn discard(t: &Tokens<'_>) -> Option<Command> {
    let what = match (t.keyword(1).as_str(), t.len()) {
        ("temporary", 2) => "temp".to_string(),
        (word @ ("all" | "plans" | "sequences" | "temp"), 2) => word.to_string(),
        _ => return None,
    };
    Some(Command::Discard(what))
}

fn set(t: &Tokens<'_>) -> Head {
    let local = t.is(1, "local");
    let scoped = local || (t.is(1, "session") && !t.is_any(2, &["characteristics", "authorization"]));
    let at = 1 + usize::from(scoped && !t.is_mark(2, "=") && !t.is(2, "to"));
    if t.is(at, "constraints") {
        return Head::Constraints;
    }
    set_transaction(t, at)
        .or_else(|| set_special(t, at, local))
        .or_else(|| set_plain(t, at, local))
        .map_or(Head::Opaque, Head::Session)
}

fn set_transaction(t: &Tokens<'_>, at: usize) -> Option<Command> {
    let session = t.is(at, "session") && t.is(at + 1, "characteristics");
    let start = if session { at + 4 } else { at + 1 };
    if session && !(t.is(at + 2, "as") && t.is(at + 3, "transaction")) {
        return None;
    }
    if !session && !t.is(at, "transaction") {
        return None;
    }
    let (read_only, isolation) = modes(t, start).filter(|_| start < t.len())?;
    Some(Command::SetTransaction { read_only, isolation, session })
}

/// SET forms without `=` or TO.
fn set_special(t: &Tokens<'_>, at: usize, local: bool) -> Option<Command> {
    let (name, from) = match (t.keyword(at).as_str(), t.keyword(at + 1).as_str()) {
        ("session", "authorization") => ("session_authorization", at + 2),
        ("time", "zone") => ("timezone", at + 2),
        ("xml", "option") => ("xmloption", at + 2),
        ("role", word) if word != "to" && !t.is_mark(at + 1, "=") => ("role", at + 1),
        ("names", word) if word != "to" && !t.is_mark(at + 1, "=") => ("client_encoding", at + 1),
        ("schema", word) if word != "to" && !t.is_mark(at + 1, "=") => ("search_path", at + 1),
        _ => return None,
    };
    let reset = t.is(from, "default") || (name == "timezone" && t.is(from, "local"));
    if from >= t.len() && name != "client_encoding" {
        return None;
    }
    let value = (!reset && from < t.len()).then(|| match name {
        "search_path" => schemas(t, from),
        _ => t.source(from, t.len() - 1),
    });
    Some(Command::Set { local, name: name.into(), value })
}

fn set_plain(t: &Tokens<'_>, at: usize, local: bool) -> Option<Command> {
    let (name, next) = dotted(t, at)?;
    if !(t.is(next, "to") || t.is_mark(next, "=")) || next + 1 >= t.len() {
        return None;
    }
    let default = t.is(next + 1, "default") && t.len() == next + 2;
    let value = (!default).then(|| match name.as_str() {
        "search_path" => schemas(t, next + 1),
        _ => t.source(next + 1, t.len() - 1),
    });
    if let Some(hint) = name.strip_prefix("gavel.") {
        let plain = value.map(|v| v.trim_matches('\'').to_string()).filter(|v| !v.is_empty());
        return Some(Command::SetHint { local, name: hint.into(), value: plain });
    }
    Some(Command::Set { local, name, value })
}

/// The value of `search_path` with strings of all spellings as plain ones, which the planner reads.
fn schemas(t: &Tokens<'_>, from: usize) -> String {
    let spelled = |at: usize| {
        let token = t.list[at];
        let special = matches!(token.kind, Kind::Escaped | Kind::Unicode | Kind::Dollar);
        let literal = Literal { kind: token.kind, start: token.start, end: token.end };
        let content = literal.value(t.text, true).filter(|content| special && !content.contains('\\'));
        content.map_or_else(|| t.source(at, at), |content| format!("'{}'", content.replace('\'', "''")))
    };
    let odd =
        (from..t.len()).any(|at| matches!(t.kind(at), Some(Kind::Escaped | Kind::Unicode | Kind::Dollar)));
    if odd { (from..t.len()).map(spelled).collect() } else { t.source(from, t.len() - 1) }
}

fn explain(t: &Tokens<'_>) -> Head {
    if t.is_mark(1, "(") {
        let Some(close) = t.closing(1) else { return Head::Opaque };
        let (mut gavel, mut analyze) = (false, false);
        for at in 2..close {
            let starts = at == 2 || t.is_mark(at - 1, ",");
            let off = t.is_any(at + 1, &["off", "false"])
                || t.raw(at + 1) == b"0"
                || matches!(t.raw(at + 1).to_ascii_lowercase().as_slice(), b"'off'" | b"'false'");
            gavel |= starts && t.is(at, "gavel") && !off;
            analyze |= starts && t.is_any(at, &["analyze", "analyse"]) && !off;
        }
        // `EXPLAIN (SELECT 1)` is a statement in parentheses, not a list of options.
        if t.is_any(2, &["select", "with", "values", "table"]) || t.is_mark(2, "(") {
            return Head::Explain { gavel: false, analyze: false, inner: 1 };
        }
        return Head::Explain { gavel, analyze, inner: close + 1 };
    }
    let mut inner = 1;
    let analyze = t.is_any(inner, &["analyze", "analyse"]);
    inner += usize::from(analyze);
    inner += usize::from(t.is(inner, "verbose"));
    Head::Explain { gavel: false, analyze, inner }
}

/// Where the statement begins that an EXPLAIN is of, and whether it is run.
pub(crate) fn explained(text: &str, standard_strings: bool) -> Option<(usize, bool)> {
    let t = Tokens::new(text.as_bytes(), standard_strings);
    match recognise(&t) {
        Head::Explain { gavel: false, analyze, inner } => Some((t.list.get(inner)?.start, analyze)),
        _ => None,
    }
}

fn prepare(t: &Tokens<'_>) -> Head {
    if t.is(1, "transaction") && t.len() == 3 {
        return Head::Session(Command::TwoPhase);
    }
    let Some(name) = t.name(1) else { return Head::Opaque };
    let mut at = 2;
    if t.is_mark(at, "(") {
        let Some(close) = t.closing(at) else { return Head::Opaque };
        at = close + 1;
    }
    if !t.is(at, "as") {
        return Head::Opaque;
    }
    Head::Prepare { name: name.into_owned(), inner: at + 1 }
}

fn declare(t: &Tokens<'_>) -> Head {
    let Some(name) = t.name(1) else { return Head::Opaque };
    let mut at = 2;
    while t.is_any(at, &["binary", "insensitive", "asensitive", "scroll", "no"]) {
        at += 1;
    }
    if !t.is(at, "cursor") {
        return Head::Opaque;
    }
    at += 1;
    let hold = t.is(at, "with") && t.is(at + 1, "hold");
    if hold || (t.is(at, "without") && t.is(at + 1, "hold")) {
        at += 2;
    }
    if !t.is(at, "for") {
        return Head::Opaque;
    }
    Head::Declare { name: name.into_owned(), hold, inner: at + 1 }
}
