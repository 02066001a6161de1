//! What functions leave on the connection that they ran on: settings, temporary tables, session-level locks and the like.
//!
//! A conn is shared by sessions, one transaction each. What cannot be seen in a statement's own words is looked for in
//! the bodies of the functions that it calls; the session that called one keeps its conn from then on. Judged by words: what
//! ends with the transaction (SET LOCAL, ON COMMIT DROP, transaction-level locks) is fine, anything doubtful is not.

use super::schema::Schema;
use super::stored::{Token, tokens};

/// Begin a statement after which the session is another one.
const STATEMENTS: [&str; 6] = ["reset", "listen", "unlisten", "load", "prepare", "discard"];

/// Functions that change the session.
const CALLS: [&str; 12] = [
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_shared",
    "pg_advisory_unlock_all",
    "dblink_connect",
    "dblink_connect_u",
    "dblink_disconnect",
    "set_limit",
    "setseed",
];

/// How deep strings within strings are looked into.
const DEPTH: usize = 3;

/// Whether a body, in SQL or PL/pgSQL, may leave something.
pub(crate) fn leaves(body: &str) -> bool {
    in_text(body, 0)
}

/// Whether an anonymous block may, by its own words or by a function that it names.
pub(super) fn block_leaves(text: &str, schema: &Schema) -> bool {
    let names =
        |body: &str| tokens(body).iter().filter_map(Token::name).any(|name| schema.function_leaves(name));
    let bodies = tokens(text).into_iter().filter_map(|token| match token {
        Token::Text(body) => Some(body),
        _ => None,
    });
    bodies.into_iter().any(|body| leaves(&body) || names(&body))
}

fn in_text(text: &str, depth: usize) -> bool {
    let tokens = tokens(text);
    (0..tokens.len()).any(|at| match &tokens[at] {
        Token::Word(word) => word_leaves(&tokens, at, word),
        Token::Text(inner) if depth < DEPTH => in_text(inner, depth + 1),
        Token::Text(_) => true,
        Token::Quoted(_) | Token::Sign(_) => false,
    })
}

fn word_leaves(tokens: &[Token], at: usize, word: &str) -> bool {
    let before = at.checked_sub(1).and_then(|at| tokens.get(at));
    let follows = |words: &[&str]| before.is_some_and(|token| words.iter().any(|word| token.is(word)));
    let next_is = |words: &[&str]| tokens.get(at + 1).is_some_and(|t| words.iter().any(|word| t.is(word)));
    let starts = before.is_none_or(|token| token.sign(';')) || follows(&["begin", "then", "else", "loop"]);
    match word {
        "set" => starts && !next_is(&["local", "transaction", "constraints"]),
        "set_config" => !is_local_call(&tokens[at..]),
        "temp" | "temporary" => {
            follows(&["create", "local", "global", "replace", "into"]) && !dropped_on_commit(&tokens[at..])
        }
        "pg_temp" => follows(&["table", "view", "sequence", "into", "exists"]),
        "hold" => follows(&["with"]),
        "pg_settings" => tokens[at.saturating_sub(4)..at].iter().any(|token| token.is("update")),
        "execute" => computes_all(&tokens[at + 1..]),
        _ => CALLS.contains(&word) || (starts && STATEMENTS.contains(&word)),
    }
}

/// `set_config(…, true)`: gone with the transaction.
fn is_local_call(call: &[Token]) -> bool {
    let mut depth = 0_usize;
    for (at, token) in call.iter().enumerate() {
        if token.sign('(') {
            depth += 1;
        } else if token.sign(')') {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return call[at - 1].is("true") && at >= 2 && call[at - 2].sign(',');
            }
        }
    }
    false
}

/// `CREATE TEMP TABLE … ON COMMIT DROP`
fn dropped_on_commit(tokens: &[Token]) -> bool {
    let statement: Vec<&Token> = tokens.iter().take_while(|token| !token.sign(';')).collect();
    statement.windows(3).any(|w| w[0].is("on") && w[1].is("commit") && w[2].is("drop"))
}

/// EXECUTE of a text of which no piece is written there: it can be anything.
fn computes_all(rest: &[Token]) -> bool {
    let ends =
        |token: &&Token| token.sign(';') || ["into", "using", "loop"].iter().any(|word| token.is(word));
    let trigger = rest.first().is_some_and(|token| token.is("function") || token.is("procedure"));
    !trigger && !rest.iter().take_while(|token| !ends(token)).any(|token| matches!(token, Token::Text(_)))
}

#[cfg(test)]
mod tests {
    use super::leaves;

    #[test]
    fn what_outlives_the_transaction_is_seen() {
        for body in [
            "begin perform set_config('app.tenant', x, false); end",
            "begin perform set_config('app.tenant', x, local); end",
            "select set_config('a.b', $1, 'f')",
            "begin set work_mem = '1MB'; end",
            "begin if x then set role to other; end if; end",
            "begin reset all; end",
            "begin create temp table t (a int); end",
            "select 1; create local temporary view v as select 1",
            "begin select 1 into temp t; end",
            "begin create table pg_temp.t (a int); end",
            "begin perform pg_advisory_lock(1); end",
            "begin execute 'set role ' || quote_ident(x); end",
            "begin execute 'select 1; set a.b = 1'; end",
            "begin execute statement; end",
            "begin execute format(template, x) using y; end",
            "begin listen news; end",
            "begin execute 'declare c cursor with hold for select 1'; end",
            "begin update pg_catalog.pg_settings set setting = 1; end",
        ] {
            assert!(leaves(body), "{body}");
        }
    }

    #[test]
    fn what_ends_with_the_transaction_is_fine() {
        for body in [
            "update t set a = 1",
            "begin update t set set_at = now() where temp = 1; return new; end",
            "begin set local work_mem = '1MB'; set transaction read only; set constraints all deferred; end",
            "begin perform set_config('app.tenant', x, true); end",
            "begin create temp table t (a int) on commit drop; end",
            "begin perform pg_advisory_xact_lock(1); end",
            "begin execute 'select ' || quote_ident(x) into y; end",
            "begin execute format('select %I from t', x) using 1; end",
            "begin -- set role other\n return 1; end",
            "begin return query select hold, pg_temp from reset; end",
        ] {
            assert!(!leaves(body), "{body}");
        }
    }
}
