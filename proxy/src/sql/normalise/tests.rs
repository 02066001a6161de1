//! The scanner against hand-made cases and arbitrary bytes.

use super::*;
use proptest::prelude::*;

fn key(sql: &str) -> String {
    let normalised = normalise(sql.as_bytes(), true);
    String::from_utf8_lossy(&normalised.key)
        .replace('\u{1}', "<n>")
        .replace('\u{2}', "<s>")
        .replace('\u{3}', "<b>")
        .replace('\u{4}', "<h>")
}

fn values(sql: &str) -> Vec<Option<String>> {
    let normalised = normalise(sql.as_bytes(), true);
    normalised.literals.iter().map(|l| l.value(sql.as_bytes(), true).map(Cow::into_owned)).collect()
}

#[test]
fn literals_become_markers() {
    assert_eq!(key("select * from t where a = 42 and b='x''y'"), "select * from t where a = <n> and b=<s>");
    assert_eq!(
        key("select E'a\\'b', $$x'y$$, $t$ $$ $t$, U&'\\0061', B'01', x'ff', n'q'"),
        "select <s>, <s>, <s>, <s>, <b>, <b>, <s>"
    );
    assert_eq!(
        key("select 1.5e-3, .5, 0x1F, 1_000, 5., $1, a1, \"4\""),
        "select <n>, <n>, <n>, <n>, <n>, $1, a1, \"4\""
    );
    assert_eq!(
        key("select -- 'x' 5\n 6 /* 7 /* 8 */ ' */ , 9"),
        "select -- 'x' 5\n <n> /* 7 /* 8 */ ' */ , <n>"
    );
    assert_eq!(key("select 1 /* gavel: key=42 */ from t"), "select <n> <h> from t");
    assert_eq!(key("select a$1, $a$5$a$, $1"), "select a$1, <s>, $1");
    assert_eq!(key("select 'a\\' , 'b'"), "select <s> , <s>");
}

#[test]
fn backslashes_count_without_conforming_strings() {
    let sql = b"select 'a\\', 'b'";
    assert_eq!(normalise(sql, false).literals.len(), 1);
    assert_eq!(normalise(sql, true).literals.len(), 2);
}

#[test]
fn values_are_decoded() {
    assert_eq!(
        values(
            "select 'it''s', E'a\\n\\'b''', $$q$$, $t$a$$b$t$, 42, E'\\x41', U&'ab', U&'\\0061', X'1f', N'n'"
        ),
        vec![
            Some("it's".into()),
            Some("a\n'b'".into()),
            Some("q".into()),
            Some("a$$b".into()),
            Some("42".into()),
            None,
            Some("ab".into()),
            None,
            None,
            Some("n".into()),
        ]
    );
}

#[test]
fn hints_are_read() {
    let hint = |sql: &str| {
        let hints = normalise(sql.as_bytes(), true).hints;
        let text = |r: Option<std::ops::Range<usize>>| r.map(|r| sql[r].to_string());
        (text(hints.key), text(hints.shard))
    };
    assert_eq!(hint("/* gavel: key=42 */ select 1"), (Some("42".into()), None));
    assert_eq!(hint("select 1 /*gavel: shard='2', key='x' */"), (Some("x".into()), Some("2".into())));
    assert_eq!(hint("select '/* gavel: key=42 */'"), (None, None));
    assert_eq!(hint("/* gavel: */ /* gavel */ select"), (None, None));
    let unknown = |sql: &str| normalise(sql.as_bytes(), true).hints.unknown.map(|r| sql[r].to_string());
    assert_eq!(unknown("/* gavel: shrad=shard-2 */ select 1").as_deref(), Some("shrad=shard-2"));
    assert_eq!(unknown("/* gavel: shard=1, key= */ select 1").as_deref(), Some("key="));
    assert_eq!(unknown("/* gavel: shard=1, key=2 */ select 1"), None);
}

#[test]
fn texts_are_split() {
    let parts = |sql: &'static str| -> Vec<&str> {
        split(sql.as_bytes(), true).into_iter().map(|r| &sql[r]).collect()
    };
    assert_eq!(parts("select 1; select ';' ;; select $$;$$;"), ["select 1", "select ';'", "select $$;$$"]);
    assert_eq!(parts(" -- nothing\n"), Vec::<&str>::new());
    assert_eq!(parts("create rule r as on insert to t do (select 1; select 2); select 3").len(), 2);
    let atomic = "create function f() returns int begin atomic select 1; select case when true then 1 end; end; select 2";
    assert_eq!(parts(atomic).len(), 2);
    assert_eq!(parts("begin; select 1; end"), ["begin", "select 1", "end"]);
    assert_eq!(parts("create table begin_atomic (a int); begin").len(), 2);
}

#[test]
fn names_are_found_in_bodies() {
    let mut names = Vec::new();
    identifiers(b"do $x$ update Bids set a = 'select \"Q\"' $x$ -- no", true, true, &mut |n| {
        names.push(n.to_string())
    });
    assert_eq!(names, ["do", "update", "bids", "set", "a", "select", "Q"]);
    names.clear();
    identifiers(b"select 'bids' from U&\"b\\0069ds\"", true, false, &mut |n| names.push(n.to_string()));
    assert_eq!(names, ["select", "from", "bids"]);
}

fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "select", " ", "\n", ",", "(", ")", "a", "\"b\"", "$1", "+", "--c\n", "/* d */", "=", "::", ".x",
        ";", "||", "e", "u&",
    ])
}

proptest! {
    /// Any bytes: tokens are ordered, disjoint and inside of the text; nothing panics.
    #[test]
    fn any_bytes_are_scanned(text in prop::collection::vec(any::<u8>(), 0..200), conforming: bool) {
        let mut last = 0;
        for token in Lexer::new(&text, conforming) {
            prop_assert!(token.start >= last && token.end > token.start && token.end <= text.len());
            last = token.end;
        }
        let normalised = normalise(&text, conforming);
        for literal in &normalised.literals {
            let _ = literal.value(&text, conforming);
        }
        split(&text, conforming);
        identifiers(&text, conforming, true, &mut |_| {});
    }

    /// As above with the characters that matter.
    #[test]
    fn any_quotes_are_scanned(text in "[eEuUbBxXnN&$'\"\\\\/*\\-;a1 .()gavel:key=]{0,60}", conforming: bool) {
        let bytes = text.as_bytes();
        let normalised = normalise(bytes, conforming);
        for literal in &normalised.literals {
            let _ = literal.value(bytes, conforming);
        }
        identifiers(bytes, conforming, true, &mut |_| {});
        let total: usize = split(bytes, conforming).iter().map(|r| r.len()).sum();
        prop_assert!(total <= bytes.len());
    }

    /// The fast way finds the literals that the tokens are.
    #[test]
    fn both_ways_agree(text in "[eEuUbBxXnN&$'\"\\\\/*\\-;a1 .()+\n]{0,60}", conforming: bool) {
        let bytes = text.as_bytes();
        let slow: Vec<Token> = Lexer::new(bytes, conforming).filter(|t| t.kind.is_literal()).collect();
        let fast = normalise(bytes, conforming).literals;
        let fast: Vec<Token> = fast.iter().map(|l| Token { kind: l.kind, start: l.start, end: l.end }).collect();
        prop_assert_eq!(slow, fast);
    }

    /// Texts that differ in literals have the same key, and the literals stand where they were put.
    #[test]
    fn literals_do_not_show(
        parts in prop::collection::vec((fragment(), 0..1000u32, "[a-z'\\\\$]{0,6}"), 1..12),
    ) {
        let build = |one: bool| {
            let mut sql = String::new();
            let mut spans = Vec::new();
            for (text, number, string) in &parts {
                sql.push_str(text);
                sql.push(' ');
                let start = sql.len();
                if number % 2 == 0 {
                    sql.push_str(&if one { number.to_string() } else { "7".to_string() });
                } else {
                    let body = if one { string.replace('\'', "''") } else { String::new() };
                    sql.push_str(&format!("'{body}'"));
                }
                spans.push((start, sql.len()));
                sql.push(' ');
            }
            (sql, spans)
        };
        let ((a, a_spans), (b, b_spans)) = (build(true), build(false));
        let (na, nb) = (normalise(a.as_bytes(), true), normalise(b.as_bytes(), true));
        prop_assert_eq!(&na.key[..], &nb.key[..]);
        let spans = |n: &Normalised| n.literals.iter().map(|l| (l.start, l.end)).collect::<Vec<_>>();
        prop_assert_eq!(spans(&na), a_spans);
        prop_assert_eq!(spans(&nb), b_spans);
    }
}
