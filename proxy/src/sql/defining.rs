//! DDL inside of functions and anonymous blocks: what makes or changes permanent objects has to run on every shard, what writes rows
//! must not.
//!
//! Judged by the words at which statements begin. It is used only to *exclude*.

use super::schema::Schema;
use super::stored::{Token, tokens};

/// Begin a statement that changes the catalog.
const DDL: [&str; 9] =
    ["create", "alter", "drop", "grant", "revoke", "comment", "reassign", "security", "import"];

/// Name commands that write rows, or tell of them.
const WRITES: [&str; 6] = ["insert", "update", "delete", "merge", "copy", "notify"];

/// In front of one of [`WRITES`] that is part of a definition: of a foreign key, a trigger, a policy, a rule, a privilege.
const OF_DEFINITIONS: [&str; 11] =
    ["on", "or", "before", "after", "of", "for", "grant", "revoke", "also", "instead", "do"];

/// In front of the name of a function that is not called there.
const NAMED: [&str; 5] = ["function", "procedure", "routine", "exists", "aggregate"];

/// Whether a function's body runs DDL for permanent objects. `sql`: it is one in SQL, where SELECT … INTO makes a table.
pub(crate) fn defines(body: &str, sql: bool) -> bool {
    let inner = tokens(body);
    let before = |at: usize| at.checked_sub(1).map(|at| &inner[at]);
    let into =
        |at: usize| inner[at].is("into") && before(at).is_none_or(|t| !t.is("insert") && !t.is("merge"));
    in_body(&inner) || (sql && (0..inner.len()).any(into) && !temporary(&inner))
}

/// What an anonymous block does besides its DDL that each shard would do again.
pub(crate) fn block_writes(text: &str, schema: &Schema) -> Option<String> {
    bodies(&tokens(text)).find_map(|body| {
        let tokens = tokens(body);
        (0..tokens.len()).find_map(|at| writes_at(&tokens, at, schema))
    })
}

fn bodies(tokens: &[Token]) -> impl Iterator<Item = &str> {
    tokens.iter().filter_map(|token| match token {
        Token::Text(body) => Some(body.as_str()),
        Token::Word(_) | Token::Quoted(_) | Token::Sign(_) => None,
    })
}

fn temporary(tokens: &[Token]) -> bool {
    tokens.iter().any(|token| ["temp", "temporary", "pg_temp"].iter().any(|word| token.is(word)))
}

fn starts(tokens: &[Token], at: usize) -> bool {
    let opens = |token: &Token| ["begin", "then", "else", "loop"].iter().any(|word| token.is(word));
    at.checked_sub(1).is_none_or(|before| tokens[before].sign(';') || opens(&tokens[before]))
}

fn in_body(tokens: &[Token]) -> bool {
    let statement = |at: usize| {
        let end = (at..tokens.len()).find(|&end| tokens[end].sign(';')).unwrap_or(tokens.len());
        &tokens[at..end]
    };
    let any = temporary(tokens);
    (0..tokens.len()).filter(|&at| starts(tokens, at)).any(|at| {
        let assigned = [':', '=', '.', '['];
        let variable = tokens.get(at + 1).is_none_or(|next| assigned.iter().any(|sign| next.sign(*sign)));
        let ddl = DDL.iter().any(|word| tokens[at].is(word)) && !variable;
        // What is dropped or altered may be what the body itself has made.
        ddl && if tokens[at].is("create") { !temporary(statement(at)) } else { !any }
    })
}

fn writes_at(tokens: &[Token], at: usize, schema: &Schema) -> Option<String> {
    let before = at.checked_sub(1).map(|at| &tokens[at]);
    let follows = |words: &[&str]| before.is_some_and(|token| words.iter().any(|word| token.is(word)));
    if let Some(word) = WRITES.iter().find(|word| tokens[at].is(word)) {
        let defines = follows(&OF_DEFINITIONS) || before.is_some_and(|token| token.sign(','));
        return (!defines).then(|| word.to_uppercase());
    }
    if fills(tokens, at) {
        return Some("CREATE TABLE AS".to_owned());
    }
    let called = tokens.get(at + 1).is_some_and(|next| next.sign('(')) && !follows(&NAMED);
    let name = tokens[at].name().filter(|_| called)?;
    let writes = name == "pg_notify"
        || schema.function(name).is_some_and(|function| !function.built_in && function.volatile);
    writes.then(|| format!("{name}()"))
}

/// `CREATE TABLE … AS query`, or a materialized view: at its AS.
fn fills(tokens: &[Token], at: usize) -> bool {
    let query = |token: Option<&Token>| {
        token.is_some_and(|token| {
            ["select", "with", "values", "table", "execute"].iter().any(|word| token.is(word))
        })
    };
    let next = tokens.get(at + 1);
    let opens = next.is_some_and(|token| token.sign('(')) && query(tokens.get(at + 2));
    if !tokens[at].is("as") || !(opens || query(next)) {
        return false;
    }
    let Some(start) = (0..at).rev().find(|&at| starts(tokens, at)) else { return false };
    let made = |token: &Token| token.is("table") || token.is("materialized");
    tokens[start].is("create") && tokens[start..at].iter().any(made)
}

#[cfg(test)]
mod tests {
    use super::{block_writes, defines};
    use crate::sql::schema::Schema;

    #[test]
    fn ddl_for_permanent_objects_is_seen() {
        for body in [
            "begin create table t (a int); end",
            "begin if x then create unlogged table t (a int); end if; end",
            "begin loop alter table t add b int; end loop; end",
            "begin drop table t; create index on t (a); end",
            "begin grant select on t to r; end",
            "begin create temp table a (b int); create table c (d int); end",
        ] {
            assert!(defines(body, false), "{body}");
        }
        for body in [
            "begin create temp table t (a int); drop table t; end",
            "begin create table pg_temp.t (a int); end",
            "begin comment := 'create table'; drop = 1; raise notice 'create table x'; end",
            "begin insert into t values (1); update t set created = now(); end",
        ] {
            assert!(!defines(body, false), "{body}");
        }
        assert!(defines("create table t (a int)", true));
        assert!(defines("select * into t from x", true));
        assert!(!defines("insert into t select 1", true));
        assert!(!defines("begin select a into b from x; end", false));
    }

    #[test]
    fn writes_beside_ddl_are_told_from_words_of_definitions() {
        let schema = Schema::default();
        for (body, what) in [
            ("create table t (a int); insert into t values (1)", "INSERT"),
            ("with q as (delete from t returning *) select 1", "DELETE"),
            ("for r in update t set a = 1 returning a loop end loop", "UPDATE"),
            ("create table t as select 1", "CREATE TABLE AS"),
            ("create table t as (select 1)", "CREATE TABLE AS"),
            ("perform pg_notify('a', 'b')", "pg_notify()"),
        ] {
            let found = block_writes(&format!("DO $$ begin {body}; end $$"), &schema);
            assert_eq!(found.as_deref(), Some(what), "{body}");
        }
        for body in [
            "create table t (a int references b on delete cascade on update cascade)",
            "create trigger a before insert or update or delete on t for each row execute function f()",
            "create policy p on t for update using (true)",
            "grant select, insert, update on t to r",
            "create view v as select 1",
            "create table t (a int, b int generated always as (a + 1) stored)",
            "create function f() returns void language sql as 'insert into t values (1)'",
        ] {
            let found = block_writes(&format!("DO $$ begin {body}; end $$"), &schema);
            assert_eq!(found, None, "{body}");
        }
    }
}
