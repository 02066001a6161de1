//! The SQL inside of a PL/pgSQL body: its statements and expressions, each as a statement that can be analysed.
//!
//! Columns of NEW and OLD become parameters: `$1` the shard key, `$2` any other. Other variables stay as they are written,
//! as names that mean no column. What is not understood is kept as [`Body::opaque`]: the caller assumes the worst of it.
//! Source: PostgreSQL 15, `src/pl/plpgsql/src/pl_gram.y`.

use crate::sql::tokens::Tokens;

/// What a body does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    /// Statements, and expressions as SELECT.
    pub(crate) sql: Vec<String>,
    /// Parts that were not understood.
    pub(crate) opaque: Vec<String>,
    /// Variables that are given a value, each as the parts of its name.
    pub(crate) assigned: Vec<Vec<String>>,
    /// Expressions of RETURN, token by token, words in lower case.
    pub(crate) returned: Vec<Vec<String>>,
    /// It runs SQL that it computes, or gives NEW or OLD another name.
    pub(crate) dynamic: bool,
}

/// The row that a trigger is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) columns: &'a [&'a str],
    pub(crate) key: Option<&'a str>,
}

/// Begin a statement that PostgreSQL's own parser reads.
const STATEMENTS: [&str; 8] = ["select", "with", "insert", "update", "delete", "merge", "values", "table"];

/// Reads a body.
pub(crate) fn read(text: &str, row: Row<'_>) -> Body {
    let tokens = Tokens::new(text.as_bytes(), true);
    let mut reader = Reader { t: &tokens, row, body: Body::default() };
    let words = ["execute", "alias", "variable_conflict"];
    reader.body.dynamic = (0..tokens.len()).any(|at| tokens.is_any(at, &words));
    for (from, to, declares) in pieces(&tokens) {
        if declares {
            reader.declaration(from, to);
        } else {
            reader.statement(from, to);
        }
    }
    reader.body
}

/// The body cut where its statements and conditions end; the flag tells declarations.
fn pieces(t: &Tokens<'_>) -> Vec<(usize, usize, bool)> {
    let mut found = Vec::new();
    let (mut from, mut cases, mut declares) = (0, 0_usize, false);
    for at in 0..t.len() {
        let expression = at > from;
        let cut = if expression && t.is(at, "case") && !t.is(at - 1, "end") {
            cases += 1;
            false
        } else if cases > 0 && t.is(at, "end") {
            cases -= 1;
            false
        } else {
            let word = t.is_any(at, &["begin", "declare", "loop"]) || (at == from && t.is(at, "exception"));
            t.is_mark(at, ";") || word || (cases == 0 && t.is_any(at, &["then", "else"]))
        };
        if cut {
            if expression {
                found.push((from, at, declares));
            }
            from = at + 1;
            cases = 0;
            declares = (declares || t.is(at, "declare")) && !t.is(at, "begin");
        }
    }
    if from < t.len() {
        found.push((from, t.len(), declares));
    }
    found
}

struct Reader<'a> {
    t: &'a Tokens<'a>,
    row: Row<'a>,
    body: Body,
}

impl Reader<'_> {
    fn declaration(&mut self, from: usize, to: usize) {
        let t = self.t;
        let starts = ["for", "is", "default"];
        let cursor = (from..to).any(|at| t.is(at, "cursor"));
        let value = (from..to).find(|&at| {
            if cursor { t.is_any(at, &starts[..2]) } else { t.is(at, "default") || assigns(t, at) }
        });
        match value {
            Some(at) if cursor => self.query(at + 1, to),
            Some(at) => self.expression(at + 1, to),
            None => {}
        }
    }

    fn statement(&mut self, mut from: usize, to: usize) {
        let t = self.t;
        if t.is_mark(from, "<<") && t.is_mark(from + 2, ">>") {
            from += 3;
        }
        if from >= to {
            return;
        }
        match t.keyword(from).as_str() {
            "if" | "elsif" | "elseif" | "while" | "assert" | "when" | "perform" => {
                self.expression(from + 1, to);
            }
            "call" => {
                // An argument may be an output.
                let names = (from..to).filter_map(|at| path(t, at)).map(|(name, _)| name);
                self.body.assigned.extend(names);
                self.expression(from + 1, to);
            }
            "case" => {
                let mut start = from + 1;
                for at in from + 1..to {
                    if t.is(at, "when") {
                        self.expression(start, at);
                        start = at + 1;
                    }
                }
                self.expression(start, to);
            }
            "return" => self.returns(from + 1, to),
            "for" | "foreach" => self.iterates(from + 1, to),
            "exit" | "continue" => {
                if let Some(when) = (from..to).find(|&at| t.is(at, "when")) {
                    self.expression(when + 1, to);
                }
            }
            "open" => match (from..to).find(|&at| t.is(at, "for")) {
                Some(at) => self.query(at + 1, to),
                None => self.opaque(from, to),
            },
            "fetch" | "move" => drop(self.without_into(from, to)),
            "get" => {
                let targets =
                    (from + 1..to).filter(|&at| !t.is_mark(at - 1, ".")).filter_map(|at| path(t, at));
                let assigned = targets.filter(|(_, next)| assigns(t, *next)).map(|(name, _)| name);
                self.body.assigned.extend(assigned);
                self.opaque(from, to);
            }
            "raise" => self.opaque(from, to),
            "null" | "end" | "close" => {}
            word if STATEMENTS.contains(&word) || t.is_mark(from, "(") => self.query(from, to),
            _ => match path(t, from) {
                Some((name, next)) if assigns(t, next) => {
                    self.body.assigned.push(name);
                    self.expression(next + 1, to);
                }
                _ => self.query(from, to),
            },
        }
    }

    fn returns(&mut self, from: usize, to: usize) {
        let t = self.t;
        match t.keyword(from).as_str() {
            "query" => self.query(from + 1, to),
            "next" => self.expression(from + 1, to),
            _ => {
                let word = |at: usize| String::from_utf8_lossy(t.raw(at)).to_lowercase();
                self.body.returned.push((from..to).map(word).collect());
                self.expression(from, to);
            }
        }
    }

    /// `FOR target IN query`, `FOREACH target IN ARRAY expression`, `FOR i IN 1..3`
    fn iterates(&mut self, from: usize, to: usize) {
        let t = self.t;
        let Some(at) = (from..to).find(|&at| t.is(at, "in")) else { return self.opaque(from, to) };
        let mut target = from;
        while let Some((name, next)) = path(t, target).filter(|_| target < at) {
            self.body.assigned.push(name);
            target = next + 1;
        }
        if t.is(at + 1, "array") {
            self.expression(at + 2, to);
        } else if t.is_any(at + 1, &STATEMENTS) || t.is_mark(at + 1, "(") {
            self.query(at + 1, to);
        } else {
            self.opaque(at + 1, to);
        }
    }

    fn opaque(&mut self, from: usize, to: usize) {
        let text = self.text((from..to).collect());
        self.body.opaque.push(text);
    }

    fn expression(&mut self, from: usize, to: usize) {
        if from < to {
            let text = self.text((from..to).collect());
            self.body.sql.push(format!("SELECT {text}"));
        }
    }

    fn query(&mut self, from: usize, to: usize) {
        if from < to {
            let kept = self.without_into(from, to);
            let text = self.text(kept);
            self.body.sql.push(text);
        }
    }

    /// The tokens without `INTO [STRICT] target, …`, which is noted.
    fn without_into(&mut self, from: usize, to: usize) -> Vec<usize> {
        let t = self.t;
        let mut kept = Vec::new();
        let mut at = from;
        while at < to {
            if !t.is(at, "into") || (at > from && t.is_any(at - 1, &["insert", "merge"])) {
                kept.push(at);
                at += 1;
                continue;
            }
            at += 1 + usize::from(t.is(at + 1, "strict"));
            while let Some((name, next)) = path(t, at).filter(|(_, next)| *next <= to) {
                self.body.assigned.push(name);
                at = next;
                if !t.is_mark(at, ",") {
                    break;
                }
                at += 1;
            }
        }
        kept
    }

    /// Source of these tokens, with the columns of the row as parameters.
    fn text(&self, tokens: Vec<usize>) -> String {
        let t = self.t;
        let mut out = String::new();
        let mut skip_to = 0;
        for at in tokens {
            if at < skip_to {
                continue;
            }
            out.push(' ');
            let of_row = t.is_any(at, &["new", "old"]) && t.is_mark(at + 1, ".");
            let column = t.name(at + 2).filter(|_| of_row);
            let parameter = |name: &str| if self.row.key == Some(name) { "$1" } else { "$2" };
            if let Some(column) = column {
                out.push_str(parameter(&column));
                skip_to = at + 3;
            } else if of_row && t.is_mark(at + 2, "*") {
                let all: Vec<&str> = self.row.columns.iter().map(|name| parameter(name)).collect();
                out.push_str(&all.join(", "));
                skip_to = at + 3;
            } else {
                out.push_str(&String::from_utf8_lossy(t.raw(at)));
            }
        }
        out.trim_start().to_owned()
    }
}

fn assigns(t: &Tokens<'_>, at: usize) -> bool {
    t.is_mark(at, ":=") || t.is_mark(at, "=")
}

/// `name.name[…]`, and the index after it.
fn path(t: &Tokens<'_>, at: usize) -> Option<(Vec<String>, usize)> {
    let mut parts = vec![t.name(at)?.into_owned()];
    let mut next = at + 1;
    while t.is_mark(next, ".") {
        parts.push(t.name(next + 1)?.into_owned());
        next += 2;
    }
    while t.is_mark(next, "[") {
        next = (next..t.len()).find(|&at| t.is_mark(at, "]"))? + 1;
    }
    Some((parts, next))
}

#[cfg(test)]
mod tests {
    use super::{Body, Row, read};

    fn body(text: &str) -> Body {
        read(text, Row { columns: &["id", "auction_id"], key: Some("auction_id") })
    }

    #[test]
    fn statements_and_expressions_are_found() {
        let found = body(
            "DECLARE n int := (SELECT count(*) FROM a); c CURSOR FOR SELECT 1 FROM b; r record; BEGIN \
             IF NEW.amount > 3 THEN UPDATE auctions SET x = CASE WHEN y THEN 1 ELSE 2 END WHERE auction_id = NEW.auction_id; \
             ELSE INSERT INTO log VALUES (NEW.*); END IF; \
             SELECT max(x), 2 INTO STRICT n, NEW.top FROM bids WHERE auction_id = OLD.auction_id; \
             FOR r IN SELECT * FROM bids LOOP PERFORM f(r.id); END LOOP; NEW.at := now(); \
             RETURN NEW; EXCEPTION WHEN others THEN RAISE NOTICE 'x %', NEW.id; RETURN NULL; END",
        );
        assert_eq!(
            found.sql,
            [
                "SELECT ( SELECT count ( * ) FROM a )",
                "SELECT 1 FROM b",
                "SELECT $2 > 3",
                "UPDATE auctions SET x = CASE WHEN y THEN 1 ELSE 2 END WHERE auction_id = $1",
                "INSERT INTO log VALUES ( $2, $1 )",
                "SELECT max ( x ) , 2 FROM bids WHERE auction_id = $1",
                "SELECT * FROM bids",
                "SELECT f ( r . id )",
                "SELECT now ( )",
                "SELECT NEW",
                "SELECT others",
                "SELECT NULL",
            ]
        );
        assert_eq!(found.assigned, [vec!["n"], vec!["new", "top"], vec!["r"], vec!["new", "at"]]);
        assert_eq!(found.opaque, ["RAISE NOTICE 'x %' , $2"]);
        assert_eq!(found.returned, [["new"], ["null"]]);
        assert!(!found.dynamic);
    }

    #[test]
    fn every_way_to_change_the_row_is_an_assignment() {
        for text in [
            "BEGIN NEW.auction_id := 1; END",
            "BEGIN NEW.auction_id = 1; END",
            "BEGIN new.\"auction_id\" := 1; END",
            "BEGIN IF true THEN NEW.auction_id := 1; END IF; END",
            "BEGIN SELECT 1 INTO NEW.auction_id; END",
            "BEGIN SELECT a, 1 INTO x, NEW.auction_id FROM t; END",
            "BEGIN INSERT INTO t VALUES (1) RETURNING id INTO NEW.auction_id; END",
            "BEGIN FOR NEW.auction_id IN 1..3 LOOP NULL; END LOOP; END",
            "BEGIN FETCH c INTO NEW.auction_id; END",
            "BEGIN GET DIAGNOSTICS NEW.auction_id = ROW_COUNT; END",
            "BEGIN CALL p(1, NEW.auction_id); END",
            "BEGIN CASE x WHEN 1 THEN NEW.auction_id := 2; END CASE; END",
            "<<a>> BEGIN <<b>> NEW.auction_id := 2; END",
        ] {
            let name = vec!["new".to_owned(), "auction_id".to_owned()];
            assert!(body(text).assigned.contains(&name), "{text}: {:?}", body(text));
        }
        for text in [
            "BEGIN NEW := OLD; END",
            "BEGIN SELECT * INTO NEW FROM t; END",
            "BEGIN FOR new IN SELECT 1 LOOP END LOOP; END",
        ] {
            assert!(body(text).assigned.contains(&vec!["new".to_owned()]), "{text}");
        }
        assert!(body("DECLARE n ALIAS FOR NEW; BEGIN n.auction_id := 1; END").dynamic);
        assert!(body("BEGIN EXECUTE 'select 1'; END").dynamic);
    }
}
