//! Texts that share a key of the cache must be the same statement but for their literals.
//!
//! Each statement is written anew in several ways (other values, other spellings of strings, comments, white space). Where
//! the proxy gives two texts the same key, PostgreSQL's fingerprint of both must be the same, and the n-th literal of one
//! must be the n-th constant of the other.

use proxy::sql::lexer::Kind;
use proxy::sql::normalise::{Literal, normalise};

/// Number of spellings checked, and what is wrong.
pub fn check(statement: &str) -> (usize, Vec<String>) {
    // Other statements are never shared: their literals say what they do.
    let tree = crate::tree::parse(statement).filter(crate::commands::is_dml);
    // The length in `varchar(3)` and `current_time(0)` is a literal to the cache; no key is taken from such a cast.
    let lengths = |tree: &serde_json::Value| {
        crate::tree::all(tree, "SqlvalueFunction").iter().any(|f| crate::tree::number(f, "typmod") >= 0)
            || crate::tree::all(tree, "type_name").iter().any(|t| !crate::tree::list(t, "typmods").is_empty())
    };
    let shared = tree.is_some_and(|tree| !lengths(&tree));
    let Some(truth) = fingerprint(statement).filter(|_| shared) else { return (0, Vec::new()) };
    let base = normalise(statement.as_bytes(), true);
    let mut faults = Vec::new();
    let mut checked = 0;
    let tokens = constants(statement);
    let ours: Vec<(usize, usize)> = base.literals.iter().map(|l| (l.start, l.end)).collect();
    if let Some(tokens) = tokens
        && tokens != ours
    {
        faults.push(format!("PostgreSQL's literals are at {tokens:?}, ours at {ours:?}"));
    }
    for seed in 0..6 {
        let other = respell(statement, &base.literals, seed);
        checked += 1;
        let again = normalise(other.as_bytes(), true);
        if again.key != base.key {
            faults.push(format!("another key for {other}"));
            continue;
        }
        if again.literals.len() != base.literals.len() {
            faults.push(format!("{} literals in {other}", again.literals.len()));
        }
        // Some literals are part of the grammar (a sign, an interval's fields): then it is no SQL.
        if let Some(print) = fingerprint(&other)
            && print != truth
        {
            faults.push(format!("another statement with the same key: {other}"));
        }
    }
    (checked, faults)
}

fn fingerprint(sql: &str) -> Option<String> {
    pg_query::fingerprint(sql, 0, 0).ok().map(|f| f.hex)
}

/// Places of the constants by PostgreSQL's scanner; `None` where it joins what we keep apart.
fn constants(sql: &str) -> Option<Vec<(usize, usize)>> {
    use pg_query::protobuf::Token;
    let scanned = pg_query::scan(sql).ok()?;
    let literal = |token: i32| {
        [Token::Sconst, Token::Usconst, Token::Bconst, Token::Xconst, Token::Iconst, Token::Fconst]
            .iter()
            .any(|t| *t as i32 == token)
    };
    let list: Vec<(usize, usize)> = scanned
        .tokens
        .iter()
        .filter(|t| literal(t.token))
        .filter_map(|t| Some((usize::try_from(t.start).ok()?, usize::try_from(t.end).ok()?)))
        .collect();
    // `'a'` newline `'b'` is one literal there and two here.
    let continued = |(start, end): &(usize, usize)| {
        let text = sql.get(*start..*end).unwrap_or("");
        text.contains('\'') && normalise(text.as_bytes(), true).literals.len() != 1
    };
    (!list.iter().any(continued)).then_some(list)
}

/// The statement with other literals of the same kinds.
fn respell(sql: &str, literals: &[Literal], seed: usize) -> String {
    let mut out = String::new();
    let mut copied = 0;
    for (index, literal) in literals.iter().enumerate() {
        out.push_str(&sql[copied..literal.start]);
        let old = &sql[literal.start..literal.end];
        out.push_str(&another(literal.kind, old, seed.wrapping_mul(31).wrapping_add(index)));
        copied = literal.end;
    }
    out.push_str(&sql[copied..]);
    out
}

fn another(kind: Kind, old: &str, seed: usize) -> String {
    const NUMBERS: [&str; 8] = ["7", "0", "123456789012", "1.5", ".5", "1e10", "3.", "2147483648"];
    const BODIES: [&str; 8] = [
        "",
        "it''s",
        "-- no comment",
        "/* nor this",
        "$$",
        "\"; drop table x; --",
        "gavel: key=1",
        "\u{e9}\u{4e2d}",
    ];
    let body = BODIES[seed % BODIES.len()];
    match kind {
        Kind::Number => NUMBERS[seed % NUMBERS.len()].to_string(),
        Kind::String | Kind::Dollar | Kind::Escaped => match seed % 4 {
            0 => format!("'{body}'"),
            1 => format!("e'{body}\\'\\\\'"),
            2 => format!("$q${body}'$q$"),
            _ => format!("'{body}'"),
        },
        _ => old.to_string(),
    }
}
