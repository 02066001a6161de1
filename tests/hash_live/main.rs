//! Holds the reading and hashing of shard keys against a live PostgreSQL: wherever the proxy claims to know a key, the
//! server must agree. A difference here is a row on the wrong shard.

mod server;
mod spellings;

use router_config::hash;
use router_config::key::{KeyError, KeyType, KeyValue};
use server::{Server, quoted};
use spellings::Spellings;

/// Random values per type.
const VALUES: usize = 10_000;

/// As SQL names the type so that no modifier is implied.
fn sql_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Bpchar => "bpchar",
        other => other.type_name(),
    }
}

/// A server that can tell what it makes of a text: `hash of an array of it|its spelling`, or `E` and the SQLSTATE.
fn oracle() -> Server {
    let server = Server::start();
    server.query(
        "SET TimeZone = 'UTC'; SET DateStyle = 'ISO';
         CREATE FUNCTION read(type text, input text) RETURNS text LANGUAGE plpgsql AS $$
         DECLARE answer text;
         BEGIN
             EXECUTE format('SELECT hash_array_extended(ARRAY[v], 0)::text || ''|'' || v::text FROM (SELECT %L::%s AS v) x',
                            input, type) INTO answer;
             RETURN answer;
         EXCEPTION WHEN OTHERS THEN RETURN 'E' || SQLSTATE;
         END $$;
         CREATE FUNCTION run(command text) RETURNS text LANGUAGE plpgsql AS $$
         DECLARE answer text;
         BEGIN
             EXECUTE command INTO answer;
             RETURN answer;
         EXCEPTION WHEN OTHERS THEN RETURN 'E' || SQLSTATE;
         END $$;",
    );
    server
}

/// The hash of an array of one element starts from 1, times 31, plus the element's.
fn element_hash(array_hash: &str) -> u64 {
    array_hash.parse::<i64>().expect("a hash is a number").wrapping_sub(31) as u64
}

/// Asserts that the server agrees with what we make of a text.
fn assert_agrees(key_type: KeyType, text: &str, ours: &Result<KeyValue, KeyError>, theirs: &str) {
    let context = format!("{key_type} {text:?}: we say {ours:?}, PostgreSQL {theirs}");
    match (ours, theirs.strip_prefix('E')) {
        (Err(KeyError::Ambiguous { .. }), _) => {}
        (Err(error), Some(sqlstate)) => assert_eq!(error.sqlstate(), Some(sqlstate), "{context}"),
        (Ok(value), None) => {
            let (array_hash, spelling) = theirs.split_once('|').expect("the oracle answers with both");
            assert_eq!(value.hash(), element_hash(array_hash), "{context}");
            let read_back = key_type.parse_text(spelling);
            assert!(matches!(&read_back, Ok(back) if back == value), "{context}");
        }
        _ => panic!("{context}"),
    }
}

#[test]
fn ten_thousand_values_of_each_type_hash_alike() {
    let server = oracle();
    let mut random = Spellings::new();
    for key_type in KeyType::ALL {
        let texts: Vec<String> = (0..VALUES).map(|_| random.spelling(key_type)).collect();
        let answers = server.map(|text| format!("read('{}', {text})", sql_name(key_type)), &texts);
        for (text, theirs) in texts.iter().zip(&answers) {
            let ours = key_type.parse_text(text);
            // Bounds of timestamps with an offset may fall outside of the years that are read.
            let known = ours.is_ok() || matches!(key_type, KeyType::Timestamptz);
            assert!(known, "{key_type} {text:?} is valid, but {ours:?}");
            assert_agrees(key_type, text, &ours, theirs);
        }
    }
}

#[test]
fn damaged_spellings_are_read_alike_or_not_at_all() {
    let server = oracle();
    let mut random = Spellings::new();
    for key_type in KeyType::ALL {
        let texts: Vec<String> = (0..VALUES).map(|_| random.mutated(key_type)).collect();
        let answers = server.map(|text| format!("read('{}', {text})", sql_name(key_type)), &texts);
        for (text, theirs) in texts.iter().zip(&answers) {
            assert_agrees(key_type, text, &key_type.parse_text(text), theirs);
        }
    }
}

#[test]
fn dates_and_times_that_are_read_depend_on_no_setting() {
    let server = oracle();
    let mut random = Spellings::new();
    for key_type in [KeyType::Date, KeyType::Timestamptz] {
        let texts: Vec<String> = (0..1_000).map(|_| random.spelling(key_type)).collect();
        for style in ["ISO, DMY", "SQL, MDY", "Postgres, YMD", "German, DMY"] {
            server.query(&format!("SET DateStyle = '{style}'; SET TimeZone = 'Asia/Kolkata'"));
            let answers = server.map(|text| format!("read('{}', {text})", sql_name(key_type)), &texts);
            for (text, theirs) in texts.iter().zip(&answers) {
                let Ok(value) = key_type.parse_text(text) else { continue };
                let (array_hash, _) = theirs.split_once('|').expect("it is valid");
                assert_eq!(value.hash(), element_hash(array_hash), "{key_type} {text:?} under {style}");
            }
        }
    }
}

/// The functions that write a type in binary format, with its object identifier.
const SENDERS: [(KeyType, &str, u32); 9] = [
    (KeyType::Int2, "int2send", 21),
    (KeyType::Int4, "int4send", 23),
    (KeyType::Int8, "int8send", 20),
    (KeyType::Text, "textsend", 25),
    (KeyType::Bpchar, "bpcharsend", 1042),
    (KeyType::Uuid, "uuid_send", 2950),
    (KeyType::Numeric, "numeric_send", 1700),
    (KeyType::Date, "date_send", 1082),
    (KeyType::Timestamptz, "timestamptz_send", 1184),
];

#[test]
fn binary_and_sql_agree_with_text() {
    let server = oracle();
    let mut random = Spellings::new();
    for (key_type, send, oid) in SENDERS {
        let texts: Vec<String> = (0..1_000).map(|_| random.spelling(key_type)).collect();
        let typed = |text: &str| format!("{text}::{}", sql_name(key_type));
        let sent = server.map(|text| format!("encode({send}({}), 'hex')", typed(text)), &texts);
        let slots = server.map(|text| key_type.slot_sql(&typed(text)), &texts);
        let hashes = server.map(|text| key_type.hash_sql(&typed(text)), &texts);
        for (at, text) in texts.iter().enumerate() {
            let Ok(value) = key_type.parse_text(text) else { continue };
            let bytes = unhex(&sent[at]);
            assert_eq!(
                key_type.parse_binary(oid, &bytes),
                Ok(value.clone()),
                "{key_type} {text:?} {}",
                sent[at]
            );
            assert_eq!(key_type.parse_binary(0, &bytes), Ok(value.clone()), "{key_type} {text:?}");
            assert_eq!(value.slot().0.to_string(), slots[at], "{key_type} {text:?}");
            assert_eq!((value.hash() as i64).to_string(), hashes[at], "{key_type} {text:?}");
            assert_eq!(hash::slot(value.hash()), value.slot());
        }
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("the server encodes");
    (0..hex.len()).step_by(2).map(pair).collect()
}

/// Numbers, as SQL spells them without quotes.
const NUMBERS: [&str; 18] = [
    "7",
    "007",
    "7.0",
    "7.5",
    "7e0",
    "70e-1",
    ".5",
    "5.",
    "0",
    "-7",
    "-7.0",
    "70000",
    "3000000000",
    "99999999999999999999",
    "32767",
    "32768",
    "1e3",
    "7.50",
];

/// Contents of quoted literals.
const TEXTS: [&str; 26] = [
    "7",
    " 7 ",
    "007",
    "7.0",
    "7.5",
    "70000",
    "x",
    "",
    "abc",
    "abc ",
    "abc  ",
    "ab",
    "NaN",
    "Infinity",
    "0.5",
    "1e3",
    "3000000000",
    "99999999999999999999",
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
    "2024-02-29",
    "2024-02-30",
    "2024-02-29 12:00:00+02",
    "2024-02-29T10:00:00Z",
    "infinity",
    "-7",
];

/// Explicit casts, as a statement may spell them.
const CASTS: [&str; 25] = [
    "int2",
    "smallint",
    "int",
    "integer",
    "bigint",
    "int8",
    "numeric",
    "decimal",
    "numeric(10,1)",
    "text",
    "varchar",
    "varchar(2)",
    "varchar(20)",
    "char",
    "char(5)",
    "bpchar",
    "uuid",
    "date",
    "timestamptz",
    "timestamp with time zone",
    "timestamp",
    "float8",
    "real",
    "name",
    "timestamptz(0)",
];

/// Keys that the table of each type has.
fn stored_keys(key_type: KeyType) -> Vec<&'static str> {
    match key_type {
        KeyType::Int2 => vec!["7", "8", "-7", "0", "5", "32767", "700", "1000", "1"],
        KeyType::Int4 => vec!["7", "8", "-7", "0", "5", "70000", "32767", "32768", "1000", "1"],
        KeyType::Int8 => vec!["7", "8", "-7", "0", "5", "70000", "32768", "3000000000", "1000", "1"],
        KeyType::Numeric => vec![
            "7",
            "7.5",
            "8",
            "-7",
            "0.5",
            "5",
            "0",
            "3000000000",
            "99999999999999999999",
            "NaN",
            "Infinity",
            "1000",
        ],
        KeyType::Text => {
            vec!["7", "7.0", "007", "abc", "abc ", "abc  ", "ab", "", "a", "x", "7.5", "1000", "1e3", " 7 "]
        }
        KeyType::Bpchar => vec!["7", "7.0", "007", "abc", "ab", "", "a", "x", "7.5", "1000", "1e3", " 7"],
        KeyType::Uuid => vec!["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"],
        KeyType::Date => vec!["2024-02-29", "2024-03-01", "infinity"],
        KeyType::Timestamptz => vec!["2024-02-29 10:00:00Z", "2024-02-29 00:00:00Z", "infinity"],
    }
}

/// Makes a table with the stored keys; `varchar` is a key column of the same key type as text.
fn make_table(server: &Server, table: &str, column: &str, keys: &[&str]) {
    let rows: Vec<String> = keys.iter().map(|key| format!("({})", quoted(key))).collect();
    server
        .query(&format!("CREATE TABLE {table} (k {column}); INSERT INTO {table} VALUES {}", rows.join(",")));
}

/// Asserts that a literal finds just the rows of the key that we take it for, and is stored as that key.
fn assert_literal(
    server: &Server,
    table: &str,
    key_type: KeyType,
    literal: &str,
    ours: &Result<KeyValue, KeyError>,
) {
    let select = format!("SELECT array_to_json(array_agg(k::text)) FROM {table} WHERE k = {literal}");
    let found = server.query(&format!("SELECT run({})", quoted(&select))).concat();
    let insert = format!("INSERT INTO {table}_new VALUES ({literal}) RETURNING k::text");
    let stored = server.query(&format!("SELECT coalesce(run({}), 'E')", quoted(&insert))).concat();
    let context = format!("{table} {literal}: we say {ours:?}, PostgreSQL finds {found}, stores {stored:?}");
    match ours {
        Err(KeyError::Ambiguous { .. }) => {}
        Err(KeyError::NoRow { .. }) => assert!(found == "NULL" || found.starts_with('E'), "{context}"),
        Err(_) => assert!(found.starts_with('E') && stored.starts_with('E'), "{context}"),
        Ok(value) => {
            if !found.starts_with('E') {
                let rows: Vec<String> = serde_json::from_str(&found.replace("NULL", "[]")).expect("JSON");
                for row in &rows {
                    assert_eq!(key_type.parse_text(row).as_ref(), Ok(value), "{context}");
                }
                let kept =
                    stored_keys(key_type).iter().any(|key| key_type.parse_text(key).as_ref() == Ok(value));
                assert_eq!(!rows.is_empty(), kept, "{context}");
            }
            if !stored.starts_with('E') {
                assert_eq!(key_type.parse_text(&stored).as_ref(), Ok(value), "{context}");
            }
        }
    }
}

#[test]
fn literals_find_the_rows_of_their_key() {
    let server = oracle();
    let mut pinned = 0;
    let columns = KeyType::ALL
        .map(|key_type| (key_type, sql_name(key_type)))
        .into_iter()
        .chain([(KeyType::Text, "varchar"), (KeyType::Bpchar, "char(40)")]);
    for (number, (key_type, column)) in columns.enumerate() {
        let table = format!("keys_{number}");
        make_table(&server, &table, column, &stored_keys(key_type));
        server.query(&format!("CREATE TABLE {table}_new (k {column})"));
        let casts = || std::iter::once(None).chain(CASTS.into_iter().map(Some));
        for cast in casts() {
            let suffix = cast.map(|cast| format!("::{cast}")).unwrap_or_default();
            for text in NUMBERS {
                let ours = key_type.coerce_number(text, cast);
                pinned += usize::from(ours.is_ok());
                assert_literal(&server, &table, key_type, &format!("({text}){suffix}"), &ours);
            }
            for text in TEXTS {
                let ours = key_type.coerce_literal(text, cast);
                pinned += usize::from(ours.is_ok());
                assert_literal(&server, &table, key_type, &format!("{}{suffix}", quoted(text)), &ours);
            }
        }
    }
    assert!(pinned > 500, "{pinned} literals were pinned: the test has lost its grip");
}
