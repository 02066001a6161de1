//! Tests of keys. What they say of PostgreSQL is held against a live server by the test `hash_live`.

use proptest::prelude::*;

use super::*;

const INT8: KeyType = KeyType::Int8;

/// The value's spelling, or a word for the error.
fn shown(result: Result<KeyValue, KeyError>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(KeyError::Invalid { .. }) => "invalid".to_owned(),
        Err(KeyError::OutOfRange { .. }) => "range".to_owned(),
        Err(KeyError::NoSuchTime { .. }) => "no such time".to_owned(),
        Err(KeyError::Malformed { .. }) => "malformed".to_owned(),
        Err(KeyError::NoRow { .. }) => "no row".to_owned(),
        Err(KeyError::Ambiguous { .. }) => "ambiguous".to_owned(),
    }
}

fn table(key_type: KeyType, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(shown(key_type.parse_text(text)), *expected, "{key_type} {text:?}");
    }
}

#[test]
fn integers() {
    table(
        INT8,
        &[
            ("7", "7"),
            (" \t\n\u{b}\u{c}\r-007 ", "-7"),
            ("+9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "range"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("-9223372036854775809", "range"),
            ("99999999999999999999x", "range"),
            ("9223372036854775808x", "invalid"),
            ("7x", "invalid"),
            ("7.0", "invalid"),
            ("", "invalid"),
            ("-", "invalid"),
            ("- 7", "invalid"),
            ("+-7", "invalid"),
            ("\u{a0}7", "invalid"),
            ("٧", "invalid"),
            ("0x10", "ambiguous"),
            ("1_000", "ambiguous"),
        ],
    );
    table(
        KeyType::Int4,
        &[("2147483647", "2147483647"), ("2147483648", "range"), ("-2147483648", "-2147483648")],
    );
    table(
        KeyType::Int2,
        &[("32767", "32767"), ("-32769", "range"), ("32768", "range"), ("-32768", "-32768")],
    );
}

#[test]
fn uuids() {
    let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    table(
        KeyType::Uuid,
        &[
            (canonical, canonical),
            ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", canonical),
            ("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", canonical),
            ("a0eebc999c0b4ef8bb6d6bb9bd380a11", canonical),
            ("a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", canonical),
            ("{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}", canonical),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-", "invalid"),
            ("a0-eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "invalid"),
            ("a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11", "invalid"),
            (" a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "invalid"),
            ("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "invalid"),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "invalid"),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g", "invalid"),
            ("", "invalid"),
        ],
    );
}

#[test]
fn numerics() {
    table(
        KeyType::Numeric,
        &[
            ("7", "7"),
            ("007.500", "7.5"),
            (" -0.00 ", "0"),
            (".5", "0.5"),
            ("5.", "5"),
            ("+1e3", "1000"),
            ("1.5E-3", "0.0015"),
            ("-12.34e1", "-123.4"),
            ("1e+2", "100"),
            ("0e5000", "0"),
            ("nan", "NaN"),
            ("inf", "Infinity"),
            ("-INFINITY", "-Infinity"),
            ("+inf", "Infinity"),
            ("+nan", "invalid"),
            (".", "invalid"),
            ("", "invalid"),
            ("1e", "invalid"),
            ("1.2.3", "invalid"),
            ("1e2.5", "invalid"),
            ("--1", "invalid"),
            ("1 2", "invalid"),
            ("1e 2", "ambiguous"),
            ("1e999999", "ambiguous"),
            ("0x1F", "ambiguous"),
            ("1_0", "ambiguous"),
        ],
    );
}

#[test]
fn texts() {
    table(KeyType::Text, &[("a ", "a "), ("", ""), ("é", "é")]);
    table(KeyType::Bpchar, &[("a  ", "a"), (" a", " a"), ("   ", ""), ("a\t", "a\t")]);
}

#[test]
fn dates() {
    table(
        KeyType::Date,
        &[
            ("2000-01-01", "2000-01-01"),
            (" 2024-02-29 ", "2024-02-29"),
            ("2023-02-29", "no such time"),
            ("2023-13-01", "no such time"),
            ("2023-00-10", "no such time"),
            ("0001-01-01", "0001-01-01"),
            ("9999-12-31", "9999-12-31"),
            ("Infinity", "infinity"),
            ("-infinity", "-infinity"),
            ("1/2/2003", "ambiguous"),
            ("03-01-02", "ambiguous"),
            ("20000101", "ambiguous"),
            ("2000-1-1", "ambiguous"),
            ("now", "ambiguous"),
            ("0000-01-01", "ambiguous"),
            ("2000-01-01 BC", "ambiguous"),
            ("", "ambiguous"),
        ],
    );
    assert_eq!(KeyType::Date.parse_text("2000-01-01"), Ok(KeyValue::Date(0)));
    assert_eq!(KeyType::Date.parse_text("1999-12-31"), Ok(KeyValue::Date(-1)));
}

#[test]
fn timestamps() {
    table(
        KeyType::Timestamptz,
        &[
            ("2000-01-01 00:00:00+00", "2000-01-01 00:00:00+00"),
            ("2000-01-01T01:00:00.5Z", "2000-01-01 01:00:00.5+00"),
            ("2024-02-29 23:59:59.999999+05:30", "2024-02-29 18:29:59.999999+00"),
            ("2000-01-01 00:00-0130", "2000-01-01 01:30:00+00"),
            ("2000-01-01 00:00:00+01:02:03", "1999-12-31 22:57:57+00"),
            ("infinity", "infinity"),
            ("2000-02-30 00:00:00Z", "no such time"),
            ("2000-01-01 00:00:00", "ambiguous"),
            ("2000-01-01", "ambiguous"),
            ("2000-01-01 24:00:00Z", "ambiguous"),
            ("2000-01-01 00:00:60Z", "ambiguous"),
            ("2000-01-01 00:00:00.1234567Z", "ambiguous"),
            ("2000-01-01 00:00:00 Europe/Berlin", "ambiguous"),
            ("2000-01-01 00:00:00+16", "ambiguous"),
            ("2000-01-01 00Z", "ambiguous"),
            ("2000-01-01 00:00:00+é", "ambiguous"),
        ],
    );
}

#[test]
fn names_of_types() {
    for (name, expected) in [
        ("bigint", Some(KeyType::Int8)),
        ("INT8", Some(KeyType::Int8)),
        ("pg_catalog.int4", Some(KeyType::Int4)),
        ("int", Some(KeyType::Int4)),
        ("smallserial", Some(KeyType::Int2)),
        ("character  varying(20)", Some(KeyType::Text)),
        ("varchar", Some(KeyType::Text)),
        ("char(3)", Some(KeyType::Bpchar)),
        ("\"char\"", None),
        ("numeric(10, 2)", Some(KeyType::Numeric)),
        ("timestamp(3) with time zone", Some(KeyType::Timestamptz)),
        ("timestamp with time zone", Some(KeyType::Timestamptz)),
        ("timestamp", None),
        ("timestamp without time zone", None),
        ("float8", None),
        ("citext", None),
        ("int8[]", None),
        ("", None),
    ] {
        assert_eq!(KeyType::from_type_name(name), expected, "{name}");
    }
    for key_type in KeyType::ALL {
        assert_eq!(KeyType::from_type_name(key_type.type_name()), Some(key_type));
    }
}

#[test]
fn binary_parameters() {
    let int = |text: &str| text.to_owned();
    let seven_five: &[u8] = &[0, 2, 0, 0, 0, 0, 0, 1, 0, 7, 0x13, 0x88];
    let seven: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 1, 0, 7];
    let hidden: &[u8] = &[0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0x13, 0x88];
    let nan: &[u8] = &[0, 0, 0, 0, 0xc0, 0, 0, 0];
    for (key_type, oid, bytes, expected) in [
        (INT8, 0, &[0, 7][..], int("7")),
        (INT8, 23, &[0xff, 0xff, 0xff, 0xff], int("-1")),
        (INT8, 20, &[0, 0, 0, 0, 0, 0, 0, 9], int("9")),
        (INT8, 0, &[0, 0, 7], int("malformed")),
        (KeyType::Int2, 23, &[0, 1, 0, 0], int("no row")),
        (KeyType::Int2, 0, &[0, 1, 0, 0], int("no row")),
        (INT8, 1700, seven, int("7")),
        (INT8, 1700, seven_five, int("no row")),
        (INT8, 1700, hidden, int("7")),
        (INT8, 1700, nan, int("no row")),
        (INT8, 701, &[0; 8], int("ambiguous")),
        (INT8, 25, b"7", int("ambiguous")),
        (KeyType::Numeric, 0, seven_five, int("7.5")),
        (KeyType::Numeric, 23, &[0, 0, 0, 7], int("7")),
        (KeyType::Numeric, 0, &[0, 1, 0, 0, 0, 0, 0, 0], int("malformed")),
        (KeyType::Text, 1043, "é ".as_bytes(), int("é ")),
        (KeyType::Text, 25, &[0xff], int("ambiguous")),
        (KeyType::Text, 1042, b"a", int("ambiguous")),
        (KeyType::Bpchar, 25, b"a", int("a")),
        (KeyType::Bpchar, 25, b"a ", int("ambiguous")),
        (KeyType::Bpchar, 1042, b"a ", int("a")),
        (KeyType::Uuid, 2950, &[1; 16], int("01010101-0101-0101-0101-010101010101")),
        (KeyType::Uuid, 2950, &[1; 15], int("malformed")),
        (KeyType::Date, 1082, &[0, 0, 0, 1], int("2000-01-02")),
        (KeyType::Date, 1184, &[0; 8], int("ambiguous")),
        (KeyType::Timestamptz, 0, &[0, 0, 0, 0, 0, 0x0f, 0x42, 0x40], int("2000-01-01 00:00:01+00")),
    ] {
        assert_eq!(shown(key_type.parse_binary(oid, bytes)), expected, "{key_type} {oid} {bytes:?}");
    }
}

#[test]
fn texts_of_declared_types() {
    for (key_type, oid, text, expected) in [
        (INT8, 0, "7", "7"),
        (INT8, 1700, "7.0", "7"),
        (INT8, 1700, "7.5", "no row"),
        (KeyType::Int2, 20, "70000", "no row"),
        (KeyType::Numeric, 21, "007", "7"),
        (INT8, 25, "7", "ambiguous"),
        (INT8, 701, "7", "ambiguous"),
    ] {
        assert_eq!(shown(key_type.parse_text_as(oid, text)), expected, "{key_type} {oid} {text}");
    }
}

#[test]
fn literals() {
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    for (key_type, text, cast, expected) in [
        (INT8, "007", None, "7"),
        (INT8, "7.0", None, "7"),
        (INT8, "7.5", None, "no row"),
        (INT8, "7e2", None, "700"),
        (INT8, "99999999999999999999", None, "no row"),
        (KeyType::Int2, "70000", None, "no row"),
        (INT8, "x", None, "invalid"),
        (INT8, "7", Some("smallint"), "7"),
        (INT8, "70000", Some("smallint"), "range"),
        (INT8, "7.0", Some("numeric"), "7"),
        (INT8, "7.5", Some("numeric"), "no row"),
        (INT8, "7.5", Some("numeric(10,0)"), "ambiguous"),
        (INT8, "7.5", Some("int"), "ambiguous"),
        (INT8, "7.0", Some("int"), "7"),
        (INT8, "7", Some("float8"), "ambiguous"),
        (INT8, "7", Some("text"), "ambiguous"),
        (KeyType::Int2, "70000", Some("int4"), "no row"),
        (KeyType::Numeric, "7", Some("int8"), "7"),
        (KeyType::Uuid, uuid, Some("uuid"), uuid),
        (KeyType::Uuid, uuid, Some("text"), "ambiguous"),
        (KeyType::Text, "abc", Some("varchar(3)"), "abc"),
        (KeyType::Text, "abcd", Some("varchar(3)"), "ambiguous"),
        (KeyType::Text, "abc", Some("bpchar"), "ambiguous"),
        (KeyType::Text, "007", None, "007"),
        (KeyType::Bpchar, "ab", Some("char"), "ambiguous"),
        (KeyType::Bpchar, "a ", Some("bpchar"), "a"),
        (KeyType::Bpchar, "a", Some("text"), "a"),
        (KeyType::Bpchar, "a ", Some("text"), "ambiguous"),
        (KeyType::Date, "2000-01-01", Some("date"), "2000-01-01"),
        (KeyType::Date, "2000-01-01 00:00Z", Some("timestamptz"), "ambiguous"),
        (KeyType::Timestamptz, "2000-01-01 00:00Z", Some("timestamptz(0)"), "ambiguous"),
    ] {
        assert_eq!(shown(key_type.coerce_literal(text, cast)), expected, "{key_type} {text} {cast:?}");
    }
}

#[test]
fn numbers_as_texts_lose_their_spelling() {
    for (key_type, text, cast, expected) in [
        (KeyType::Text, "7", None, "7"),
        (KeyType::Text, "-7", None, "-7"),
        (KeyType::Text, "007", None, "ambiguous"),
        (KeyType::Text, "7.0", Some("text"), "ambiguous"),
        (KeyType::Text, "7", Some("varchar"), "7"),
        (KeyType::Uuid, "7", None, "ambiguous"),
        (KeyType::Date, "7", None, "ambiguous"),
        (INT8, "7.0", None, "7"),
        (KeyType::Numeric, "007.50", None, "7.5"),
    ] {
        assert_eq!(shown(key_type.coerce_number(text, cast)), expected, "{key_type} {text} {cast:?}");
    }
}

#[test]
fn which_types_can_be_co_located() {
    assert!(KeyType::Int2.hashes_like(INT8));
    assert!(!KeyType::Numeric.hashes_like(INT8));
    assert!(!KeyType::Text.hashes_like(KeyType::Bpchar));
    // numeric(10, 2) and numeric(20, 0) round fractions only, which are not stored as they are.
    assert!(!KeyType::Numeric.modifier_rounds((10 << 16 | 2) + 4));
    assert!(!KeyType::Numeric.modifier_rounds((20 << 16) + 4));
    assert!(KeyType::Numeric.modifier_rounds((3 << 16 | (-2 & 0x7ff)) + 4));
    for (key_type, text, kept) in [
        (KeyType::Text, "a b", true),
        (KeyType::Text, "a ", false),
        (KeyType::Bpchar, "a ", true),
        (KeyType::Numeric, "7.0", true),
        (KeyType::Numeric, "7.5", false),
        (KeyType::Int8, "7", true),
    ] {
        assert_eq!(
            key_type.parse_text(text).expect("a value").stored_as_it_is(),
            kept,
            "{key_type} {text:?}"
        );
    }
    for (key_type, text, modifier, kept) in [
        (KeyType::Text, "a ", -1, true),
        (KeyType::Text, "a ", 6, true),
        (KeyType::Text, "a ", 5, false),
        (KeyType::Text, "ab", 5, true),
        (KeyType::Text, "é ", 6, true),
        (KeyType::Numeric, "7.5", -1, true),
        (KeyType::Numeric, "7.25", (12 << 16) + 2 + 4, true),
        (KeyType::Numeric, "7.255", (12 << 16) + 2 + 4, false),
        (KeyType::Numeric, "7.5", (12 << 16) + 4, false),
        (KeyType::Numeric, "7", (12 << 16) + 4, true),
        (KeyType::Int8, "7", -1, true),
    ] {
        let value = key_type.parse_text(text).expect("a value");
        assert_eq!(value.is_stored_by(Some(modifier)), kept, "{key_type} {text:?} {modifier}");
    }
    assert!(!KeyType::Numeric.modifier_rounds(-1));
}

proptest! {
    #[test]
    fn integers_read_back(number in any::<i64>(), zeros in 0_usize..5) {
        let text = format!(" {}{}{} ", if number < 0 { "-" } else { "+" }, "0".repeat(zeros), number.unsigned_abs());
        prop_assert_eq!(INT8.parse_text(&text), Ok(KeyValue::Int(number)));
        prop_assert_eq!(INT8.parse_text(&number.to_string()), INT8.parse_binary(20, &number.to_be_bytes()));
        prop_assert_eq!(KeyType::Numeric.parse_text(&text), KeyType::Numeric.parse_binary(20, &number.to_be_bytes()));
    }

    #[test]
    fn uuids_read_back(bytes in any::<[u8; 16]>(), upper in any::<bool>()) {
        let text = KeyValue::Uuid(bytes).to_string();
        let text = if upper { text.to_uppercase() } else { text };
        prop_assert_eq!(KeyType::Uuid.parse_text(&text), Ok(KeyValue::Uuid(bytes)));
    }

    #[test]
    fn numerics_have_one_spelling(mantissa in "[0-9]{1,12}", point in 0_usize..12, shift in -20_i32..20) {
        // The same number by moving the point and by the exponent.
        let point = point.min(mantissa.len());
        let plain = format!("{}.{}e{shift}", &mantissa[..point], &mantissa[point..]);
        let shifted = format!("{mantissa}e{}", shift - (mantissa.len() - point) as i32);
        let value = KeyType::Numeric.parse_text(&plain).expect("it is a number");
        prop_assert_eq!(&KeyType::Numeric.parse_text(&shifted), &Ok(value.clone()));
        prop_assert_eq!(KeyType::Numeric.parse_text(&value.to_string()), Ok(value));
    }

    #[test]
    fn dates_read_back(days in -730_119_i32..2_921_939) {
        prop_assert_eq!(KeyType::Date.parse_text(&KeyValue::Date(days).to_string()), Ok(KeyValue::Date(days)));
    }

    #[test]
    fn timestamps_read_back(micros in -63_082_281_600_000_000_i64..252_455_616_000_000_000) {
        let text = KeyValue::Timestamptz(micros).to_string();
        prop_assert_eq!(KeyType::Timestamptz.parse_text(&text), Ok(KeyValue::Timestamptz(micros)));
    }

    #[test]
    fn nothing_panics(text in any::<String>(), bytes in any::<Vec<u8>>(), oid in prop::sample::select(vec![0_u32, 20, 25, 1082, 1184, 1700, 2950])) {
        for key_type in KeyType::ALL {
            let _ = key_type.parse_text(&text);
            let _ = key_type.parse_binary(oid, &bytes);
            let _ = key_type.coerce_literal(&text, Some(&text));
            let _ = key_type.coerce_number(&text, None);
        }
    }
}
