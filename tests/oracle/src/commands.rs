//! Statements other than SELECT, INSERT, UPDATE, DELETE and MERGE: what kind they are.

use proxy::sql::facts::{Command, DdlKind, Isolation};
use proxy::sql::schema::Relation;
use serde_json::Value;

use crate::judge::Case;
use crate::tree::{self, field, flag, is, list, node, number, text};

/// Forms of the grammar that the tree has as function calls.
pub const GRAMMAR: [&str; 13] = [
    "current_schema",
    "xmlagg",
    "json_object",
    "json_array",
    "normalize",
    "substring",
    "substr",
    "ceil",
    "floor",
    "position",
    "overlay",
    "unnest",
    "current_schemas",
];

/// Written by the grammar into the tree, not by who wrote the statement.
pub const NO_CALLS: [&str; 2] = ["like_escape", "similar_to_escape"];

/// SELECT, INSERT, UPDATE, DELETE or MERGE.
pub fn is_dml(tree: &Value) -> bool {
    let tags = ["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"];
    node(tree).is_some_and(|(tag, _)| tags.contains(&tag))
}

/// A copy in order.
pub fn sorted(list: &[i64]) -> Vec<i64> {
    let mut copy = list.to_vec();
    copy.sort_unstable();
    copy
}

/// The relation that an INSERT writes.
pub fn target(case: &Case<'_>, insert: &Value) -> Option<std::sync::Arc<Relation>> {
    let (schema, name) = crate::tree::range_var(field(insert, "relation"))?;
    case.schema.lookup(&case.schema.default_search_path, schema.as_deref(), &name)
}

/// Statements that name tables without reading or writing their rows, so that the home shard may have them alone.
pub fn harmless_at_home(tree: &Value) -> bool {
    let Some((tag, body)) = node(tree) else { return true };
    match tag {
        // Of the session's own connection.
        "CreateStmt" | "ViewStmt" | "CreateTableAsStmt" => false,
        "CreateSubscriptionStmt" | "CreateForeignServerStmt" => true,
        "DropStmt" => list(body, "objects").is_empty(),
        _ => false,
    }
}

/// The command is the one that the tree has.
pub fn check(case: &Case<'_>, tag: &str, body: &Value, wrong: &mut Vec<String>) {
    let command = &case.facts.command;
    let right = match tag {
        "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => true,
        "TransactionStmt" => transaction(command, body),
        "VariableSetStmt" => variable(command, body),
        "VariableShowStmt" => {
            matches!(command, Command::Show(name) if *name == text(body, "name").to_lowercase())
        }
        "ExplainStmt" => matches!(command, Command::Explain | Command::ExplainGavel(_)),
        "PrepareStmt" => matches!(command, Command::Prepare(name) if name == text(body, "name")),
        "ExecuteStmt" => matches!(command, Command::Execute(name) if name == text(body, "name")),
        "DeallocateStmt" => {
            let all = flag(body, "isall") || text(body, "name").is_empty();
            matches!(command, Command::Deallocate(None) if all)
                || matches!(command, Command::Deallocate(Some(name)) if name == text(body, "name"))
        }
        "DeclareCursorStmt" => {
            let hold = number(body, "options") & 0x20 != 0;
            matches!(command, Command::Declare { name, hold: ours }
                if name == text(body, "portalname") && *ours == hold)
        }
        "FetchStmt" => matches!(command, Command::Fetch(name) if name == text(body, "portalname")),
        "ClosePortalStmt" => match command {
            Command::CloseCursor(name) => name.as_deref().unwrap_or("") == text(body, "portalname"),
            _ => false,
        },
        "ListenStmt" => matches!(command, Command::Listen(name) if name == text(body, "conditionname")),
        "UnlistenStmt" => match command {
            Command::Unlisten(name) => name.as_deref().unwrap_or("") == text(body, "conditionname"),
            _ => false,
        },
        "NotifyStmt" => matches!(command, Command::Notify(name) if name == text(body, "conditionname")),
        "LockStmt" => matches!(command, Command::Lock),
        "CallStmt" => matches!(command, Command::Call),
        "DoStmt" => match command {
            Command::Ddl(DdlKind::Transactional) => only_defines(case.sql),
            command => matches!(command, Command::Call),
        },
        "DiscardStmt" => matches!(command, Command::Discard(_)),
        "CopyStmt" => copy(command, body),
        "ConstraintsSetStmt" | "LoadStmt" | "CheckPointStmt" => matches!(command, Command::Other),
        _ => ddl(command, tag, body),
    };
    if !right {
        wrong.push(format!("command {command:?} for {tag} {}", short(body)));
    }
}

/// Every statement of a DO block is of the kind that [`ddl`] judges: it may run on all shards.
fn only_defines(sql: &str) -> bool {
    let Ok(block) = pg_query::parse_plpgsql(sql) else { return false };
    let statements = tree::all(&block, "PLpgSQL_stmt_execsql");
    let defines = |statement: &&Value| {
        let query = text(field(field(statement, "sqlstmt"), "PLpgSQL_expr"), "query");
        tree::parse(query).is_some_and(|tree| {
            node(&tree).is_some_and(|(tag, _)| {
                ["Create", "Alter", "Drop", "Grant", "Comment", "View", "Rename", "Define"]
                    .iter()
                    .any(|kind| tag.starts_with(kind))
            })
        })
    };
    !statements.is_empty()
        && statements.iter().all(defines)
        && tree::all(&block, "PLpgSQL_stmt_dynexecute").is_empty()
        && tree::all(&block, "PLpgSQL_stmt_perform").is_empty()
}

fn short(body: &Value) -> String {
    body.to_string().chars().take(300).collect()
}

fn transaction(command: &Command, body: &Value) -> bool {
    let name = text(body, "savepoint_name");
    let chained = flag(body, "chain");
    match (number(body, "kind"), command) {
        (1 | 2, Command::Begin { read_only, isolation }) => {
            let options = modes(list(body, "options"));
            *read_only == (options.0 == Some(true)) && *isolation == options.1
        }
        (3, Command::Commit { chain }) | (4, Command::Rollback { chain }) => *chain == chained,
        (5, Command::Savepoint(ours)) | (6, Command::Release(ours)) | (7, Command::RollbackTo(ours)) => {
            ours == name
        }
        (8..=10, Command::TwoPhase) => true,
        _ => false,
    }
}

/// READ ONLY and the isolation level among transaction modes; the last of each counts.
fn modes(options: &[Value]) -> (Option<bool>, Option<Isolation>) {
    let (mut read_only, mut isolation) = (None, None);
    for option in options.iter().filter_map(|o| is(o, "DefElem")) {
        let value = is(field(option, "arg"), "AConst").map(|c| field(c, "val"));
        let Some(value) = value else { continue };
        match text(option, "defname") {
            "transaction_read_only" => {
                read_only = Some(value.get("Ival").is_some_and(|i| number(i, "ival") == 1));
            }
            "transaction_isolation" => {
                isolation = match value.get("Sval").map(|s| text(s, "sval")) {
                    Some("serializable") => Some(Isolation::Serializable),
                    Some("repeatable read") => Some(Isolation::RepeatableRead),
                    _ => Some(Isolation::ReadCommitted),
                };
            }
            _ => {}
        }
    }
    (read_only, isolation)
}

fn variable(command: &Command, body: &Value) -> bool {
    let name = text(body, "name").to_lowercase();
    let is_local = flag(body, "is_local");
    match (number(body, "kind"), command) {
        (4, Command::SetTransaction { read_only, isolation, session }) => {
            let modes = modes(list(body, "args"));
            *read_only == modes.0 && *isolation == modes.1 && *session == (name == "session characteristics")
        }
        // SET TRANSACTION SNAPSHOT.
        (4, Command::Other) => name == "transaction snapshot",
        (1, Command::Set { local, name: ours, value }) => {
            *local == is_local && *ours == name && value.is_some()
        }
        // SET TIME ZONE LOCAL and DEFAULT.
        (2, Command::Set { local, name: ours, value }) => {
            *local == is_local && *ours == name && value.is_none()
        }
        (1 | 2 | 5, Command::SetHint { .. }) => name.starts_with("gavel."),
        (3, Command::Set { .. } | Command::Other) => true,
        (5, Command::Reset(Some(ours))) => *ours == name,
        (6, Command::Reset(None)) => true,
        _ => false,
    }
}

fn copy(command: &Command, body: &Value) -> bool {
    let streams = text(body, "filename").is_empty() && !flag(body, "is_program");
    let inbound = flag(body, "is_from");
    let shape = match command {
        Command::CopyIn(shape) if streams && inbound => shape,
        Command::CopyOut(shape) if streams && !inbound => shape,
        Command::Other => return !streams,
        _ => return false,
    };
    let mut format = "text".to_string();
    let (mut delimiter, mut null, mut quote, mut escape, mut header) = (None, None, None, None, false);
    for option in list(body, "options").iter().filter_map(|o| is(o, "DefElem")) {
        let arg = field(option, "arg");
        let string = node(arg).map(|(_, v)| text(v, "sval").to_string()).filter(|s| !s.is_empty());
        let string = string.or_else(|| is(arg, "String").map(|_| String::new()));
        match text(option, "defname") {
            "format" => format = string.unwrap_or_default().to_lowercase(),
            "delimiter" => delimiter = string,
            "null" => null = string,
            "quote" => quote = string,
            "escape" => escape = string,
            "header" => {
                let off = matches!(string.as_deref(), Some("off" | "false" | "0"))
                    || is(arg, "Boolean").is_some_and(|b| !flag(b, "boolval"))
                    || is(arg, "Integer").is_some_and(|i| number(i, "ival") == 0);
                header = !off;
            }
            _ => {}
        }
    }
    let csv = format == "csv";
    let one = |given: Option<String>, default: u8| given.map_or(default, |g| g.bytes().next().unwrap_or(0));
    let quote = one(quote, b'"');
    format!("{:?}", shape.format).to_lowercase() == format
        && shape.delimiter == one(delimiter, if csv { b',' } else { b'\t' })
        && shape.null == null.unwrap_or_else(|| if csv { String::new() } else { "\\N".into() })
        && shape.quote == quote
        && shape.escape == one(escape, quote)
        && shape.header == header
}

/// The rest is DDL in the widest sense, and some of it temporary or not for a transaction.
fn ddl(command: &Command, tag: &str, body: &Value) -> bool {
    let Command::Ddl(kind) = command else { return false };
    let relation = match tag {
        "CreateStmt" | "CreateSeqStmt" => {
            let sequence = field(body, "sequence");
            if sequence.is_null() { field(body, "relation") } else { sequence }
        }
        "ViewStmt" => field(body, "view"),
        "CreateTableAsStmt" => field(field(body, "into"), "rel"),
        _ => &Value::Null,
    };
    let temporary = text(relation, "relpersistence") == "t" || text(relation, "schemaname") == "pg_temp";
    if temporary != (*kind == DdlKind::Temporary) && !relation.is_null() {
        return false;
    }
    let concurrent = match tag {
        "IndexStmt" | "DropStmt" => flag(body, "concurrent"),
        "VacuumStmt" => flag(body, "is_vacuumcmd"),
        _ => false,
    };
    !concurrent || *kind == DdlKind::NonTransactional
}
