//! Terms and the keys that they stand for.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::route::testing::{analysed, bind, term};
use crate::route::values::{BindParams, TextRules};

/// What the first literal of `sql` is as a key: `negated` and `cast` as the facts would have them.
fn literal(key_type: KeyType, sql: &str, usage: Usage) -> String {
    let text = format!("select {sql}");
    let analysed = analysed(&text);
    let values = Values::of_text(text.as_bytes(), &analysed, 0);
    let cast = sql.split_once("::").map(|(_, cast)| cast.to_owned());
    let term = KeyTerm { negated: sql.starts_with('-'), cast, ..term(ValueRef::Literal(0)) };
    show(key_of(&term, key_type, &values, usage))
}

fn show(outcome: Result<KeyOutcome, Refusal>) -> String {
    match outcome {
        Ok(KeyOutcome::Key(key)) => format!("key {key}"),
        Ok(KeyOutcome::NoRow) => "no row".to_owned(),
        Ok(KeyOutcome::Null) => "null".to_owned(),
        Ok(KeyOutcome::Unknown(_)) => "unknown".to_owned(),
        Err(refusal) => refusal.to_string(),
    }
}

fn check(key_type: KeyType, literals: &[&str], expected: &Expect) {
    let line = |sql: &&str| format!("{sql} → {}\n", literal(key_type, sql, Usage::Compare));
    expected.assert_eq(&literals.iter().map(line).collect::<String>());
}

#[test]
fn integer_keys() {
    check(
        KeyType::Int8,
        &[
            "7",
            "007",
            "'007'",
            "' 7 '",
            "7::smallint",
            "7.0::numeric",
            "7.0",
            "7.5",
            "1e3",
            "-7",
            "-7.0",
            "'-7'",
            "E'7'",
            "$$7$$",
            "$x$7$x$",
            "U&'7'",
            "N'7'",
            "7.5::int",
            "70000::int2",
            "'7'::text",
            "7::float8",
            "7::numeric(4,1)",
            "'7.5'",
            "'abc'",
            "''",
            "9223372036854775807",
            "9223372036854775808",
            "'9223372036854775808'",
            "7.0::int8",
            "E'\\x37'",
        ],
        &expect![[r#"
            7 → key 7
            007 → key 7
            '007' → key 7
            ' 7 ' → key 7
            7::smallint → key 7
            7.0::numeric → key 7
            7.0 → key 7
            7.5 → no row
            1e3 → key 1000
            -7 → key -7
            -7.0 → key -7
            '-7' → key -7
            E'7' → key 7
            $$7$$ → key 7
            $x$7$x$ → key 7
            U&'7' → key 7
            N'7' → unknown
            7.5::int → unknown
            70000::int2 → unknown
            '7'::text → unknown
            7::float8 → unknown
            7::numeric(4,1) → unknown
            '7.5' → invalid input syntax for type bigint: "7.5" (22P02)
            'abc' → invalid input syntax for type bigint: "abc" (22P02)
            '' → invalid input syntax for type bigint: "" (22P02)
            9223372036854775807 → key 9223372036854775807
            9223372036854775808 → no row
            '9223372036854775808' → value "9223372036854775808" is out of range for type bigint (22003)
            7.0::int8 → key 7
            E'\x37' → unknown
        "#]],
    );
}

#[test]
fn text_keys() {
    check(
        KeyType::Text,
        &[
            "'a''b'",
            "E'a\\'b\\n'",
            "'a\\b'",
            "'a '",
            "7",
            "7::text",
            "07::text",
            "'a'::varchar",
            "'a'::varchar(3)",
            "'a'::char(3)",
        ],
        &expect![[r#"
            'a''b' → key a'b
            E'a\'b\n' → key a'b

            'a\b' → key a\b
            'a ' → key a 
            7 → unknown
            7::text → key 7
            07::text → key 7
            'a'::varchar → key a
            'a'::varchar(3) → unknown
            'a'::char(3) → unknown
        "#]],
    );
    check(
        KeyType::Bpchar,
        &["'a  '", "'a'::text", "'a '::text"],
        &expect![[r#"
            'a  ' → key a
            'a'::text → key a
            'a '::text → unknown
        "#]],
    );
}

#[test]
fn keys_of_other_types() {
    check(
        KeyType::Uuid,
        &[
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
            "'{a0eebc999c0b4ef8bb6d6bb9bd380a11}'::uuid",
            "'a0ee'",
            "7",
        ],
        &expect![[r#"
            'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11' → key a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
            '{a0eebc999c0b4ef8bb6d6bb9bd380a11}'::uuid → key a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
            'a0ee' → invalid input syntax for type uuid: "a0ee" (22P02)
            7 → unknown
        "#]],
    );
    check(
        KeyType::Numeric,
        &["7", "7.50", "'7.5'", "-0", "7::int8", "7.50::int8"],
        &expect![[r#"
            7 → key 7
            7.50 → key 7.5
            '7.5' → key 7.5
            -0 → key 0
            7::int8 → key 7
            7.50::int8 → unknown
        "#]],
    );
    check(
        KeyType::Date,
        &["'2024-02-29'", "'2024-02-30'", "'01/02/2024'", "'now'", "'2024-01-01'::timestamptz", "'x'"],
        &expect![[r#"
            '2024-02-29' → key 2024-02-29
            '2024-02-30' → date/time field value out of range: "2024-02-30" (22008)
            '01/02/2024' → unknown
            'now' → unknown
            '2024-01-01'::timestamptz → unknown
            'x' → unknown
        "#]],
    );
}

#[test]
fn an_assignment_that_rounds_is_unknown() {
    assert_eq!(literal(KeyType::Int8, "7.5", Usage::Assign(None)), "unknown");
    assert_eq!(literal(KeyType::Int8, "7.0", Usage::Assign(None)), "key 7");
    assert_eq!(literal(KeyType::Int8, "9223372036854775808", Usage::Assign(None)), "unknown");
}

/// What parameter 1 of a statement is.
/// What a list of literals is as keys.
fn list(key_type: KeyType, sql: &str) -> String {
    let text = format!("select {sql}");
    let analysed = analysed(&text);
    let values = Values::of_text(text.as_bytes(), &analysed, 0);
    let count = u32::try_from(analysed.literals().len()).expect("few");
    let terms = (0..count).map(|n| term(ValueRef::Literal(n))).collect();
    match found(&Pin::Keys(terms), key_type, &values) {
        Ok(Found::Keys { keys, .. }) => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Ok(Found::Any(_)) => "any".to_owned(),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn a_list_is_read_as_the_type_that_its_values_have_in_common() {
    assert_eq!(list(KeyType::Int2, "'99999', 43"), "43");
    assert_eq!(list(KeyType::Int4, "'42.0', 43.5"), "42");
    assert_eq!(list(KeyType::Int4, "'99999999999', 43"), "43");
    assert_eq!(list(KeyType::Int8, "'x', 43"), "43");
    assert_eq!(list(KeyType::Uuid, "'x', 'y'"), "any");
    assert!(list(KeyType::Int2, "'99999'").contains("22003"), "one value is of the column's type");
}

fn param(key_type: KeyType, oid: u32, cast: Option<&str>, value: (i16, Option<&[u8]>)) -> String {
    let analysed = analysed("select $1");
    let body = bind(&[value]);
    let types = [oid];
    let params = BindParams::parse(&body, &types).expect("well formed");
    let values = Values::of_text(b"select $1", &analysed, 0).with_params(&params);
    let term = KeyTerm { cast: cast.map(str::to_owned), ..term(ValueRef::Param(1)) };
    show(key_of(&term, key_type, &values, Usage::Compare))
}

#[test]
fn parameters() {
    let text = |key_type, oid, value: &str| param(key_type, oid, None, (0, Some(value.as_bytes())));
    assert_eq!(text(KeyType::Int8, 0, "42"), "key 42");
    assert_eq!(text(KeyType::Int8, 705, " 42"), "key 42");
    assert_eq!(text(KeyType::Int8, 23, "42"), "key 42");
    assert_eq!(text(KeyType::Int8, 21, "70000"), "value \"70000\" is out of range for type smallint (22003)");
    assert_eq!(text(KeyType::Int8, 1700, "42.0"), "key 42");
    assert_eq!(text(KeyType::Int8, 1700, "42.5"), "no row");
    assert_eq!(text(KeyType::Int8, 25, "42"), "unknown");
    assert_eq!(text(KeyType::Int8, 701, "42"), "unknown");
    assert_eq!(text(KeyType::Text, 1043, "a "), "key a ");
    assert_eq!(param(KeyType::Int8, 25, Some("bigint"), (0, Some(b"42"))), "unknown");
    assert_eq!(param(KeyType::Int8, 0, Some("int8"), (0, Some(b"42"))), "key 42");
    assert_eq!(param(KeyType::Int8, 1700, Some("int8"), (0, Some(b"42.5"))), "unknown");
    assert_eq!(param(KeyType::Int8, 1700, Some("int8"), (0, Some(b"42.0"))), "key 42");
    assert_eq!(param(KeyType::Int8, 0, None, (0, None)), "null");
    assert_eq!(
        param(KeyType::Int8, 0, None, (1, Some(b"\0\0\x2a"))),
        "incorrect binary data format for type bigint (22P03)"
    );
    assert_eq!(param(KeyType::Text, 25, None, (1, Some(b"\xff"))), "unknown");
}

#[test]
fn only_ascii_is_a_key_under_other_encodings() {
    let text = "select 'ä', 'a'";
    let analysed = analysed(text);
    let mut values = Values::of_text(text.as_bytes(), &analysed, 0);
    values.rules = TextRules::new("LATIN1", true);
    let of = |n| show(key_of(&term(ValueRef::Literal(n)), KeyType::Text, &values, Usage::Compare));
    assert_eq!((of(0), of(1)), ("unknown".to_owned(), "key a".to_owned()));
    assert!(!TextRules::new("Shift_JIS_2004", true).ascii_safe);
    assert!(TextRules::new("utf-8", true).utf8);
}

fn array(key_type: KeyType, value: (i16, &[u8])) -> String {
    let analysed = analysed("select $1");
    let body = bind(&[(value.0, Some(value.1))]);
    let params = BindParams::parse(&body, &[]).expect("well formed");
    let values = Values::of_text(b"select $1", &analysed, 0).with_params(&params);
    match found(&Pin::Array(term(ValueRef::Param(1))), key_type, &values) {
        Ok(Found::Keys { keys, .. }) => keys.iter().map(|key| format!("<{key}>")).collect(),
        Ok(Found::Any(_)) => "any".to_owned(),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn arrays_in_text_format() {
    let int = |text: &str| array(KeyType::Int8, (0, text.as_bytes()));
    assert_eq!(int("{}"), "");
    assert_eq!(int(" { 1 , 2,NULL,\"3\" } "), "<1><2><3>");
    assert_eq!(int("{1,}"), "malformed array literal: \"{1,}\" (22P02)");
    assert_eq!(int("1,2"), "malformed array literal: \"1,2\" (22P02)");
    assert_eq!(int("{{1},{2}}"), "any");
    assert_eq!(int("[0:1]={1,2}"), "any");
    assert_eq!(int("{x}"), "invalid input syntax for type bigint: \"x\" (22P02)");
    let text = |text: &str| array(KeyType::Text, (0, text.as_bytes()));
    assert_eq!(text(r#"{a b , "c,\"d\\" ,"null",Null,"" }"#), "<a b><c,\"d\\><null><>");
    assert_eq!(text(r#"{"a"b}"#), "malformed array literal: \"{\"a\"b}\" (22P02)");
    assert_eq!(text(r#"{"a}"#), "malformed array literal: \"{\"a}\" (22P02)");
}

/// `array_send` of a one-dimensional int8[].
fn binary_array(items: &[Option<i64>]) -> Vec<u8> {
    let mut out = Vec::new();
    let count = i32::try_from(items.len()).expect("few");
    for word in [1, 1, 20, count, 1] {
        out.extend(i32::to_be_bytes(word));
    }
    for item in items {
        match item {
            None => out.extend((-1_i32).to_be_bytes()),
            Some(item) => {
                out.extend(8_i32.to_be_bytes());
                out.extend(item.to_be_bytes());
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn text_and_binary_agree(value in any::<i64>()) {
        let binary = param(KeyType::Int8, 20, None, (1, Some(&value.to_be_bytes())));
        prop_assert_eq!(param(KeyType::Int8, 20, None, (0, Some(value.to_string().as_bytes()))), binary.clone());
        prop_assert_eq!(literal(KeyType::Int8, &value.to_string(), Usage::Compare), binary);
    }

    #[test]
    fn text_literals_are_read_back(value in "[^\\x00]{0,12}") {
        let quoted = format!("'{}'", value.replace('\'', "''"));
        let text = format!("select {quoted}");
        let analysed = analysed(&text);
        let values = Values::of_text(text.as_bytes(), &analysed, 0);
        let outcome = key_of(&term(ValueRef::Literal(0)), KeyType::Text, &values, Usage::Compare);
        prop_assert_eq!(outcome, Ok(KeyOutcome::Key(KeyValue::Text(value))));
    }

    #[test]
    fn text_and_binary_arrays_agree(items in proptest::collection::vec(proptest::option::of(any::<i64>()), 1..9)) {
        let text = items.iter().map(|item| item.map_or("NULL".to_owned(), |item| item.to_string()));
        let text = format!("{{{}}}", text.collect::<Vec<_>>().join(","));
        let expected = items.iter().flatten().map(|item| format!("<{item}>")).collect::<String>();
        prop_assert_eq!(&array(KeyType::Int8, (0, text.as_bytes())), &expected);
        prop_assert_eq!(&array(KeyType::Int8, (1, &binary_array(&items))), &expected);
    }

    #[test]
    fn no_array_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "[{},\"\\\\ 1a\\[]{0,20}") {
        array(KeyType::Int8, (1, &bytes));
        array(KeyType::Text, (0, text.as_bytes()));
        let mut headed = binary_array(&[]);
        headed.extend(bytes);
        array(KeyType::Int8, (1, &headed));
    }
}
