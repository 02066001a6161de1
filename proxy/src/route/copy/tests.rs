//! Splitting: by construction (rows are encoded, and where each belongs is known) and against itself under any chunking.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use router_config::key::KeyValue;

use super::*;
use crate::route::testing::topology;

fn shape(format: CopyFormat) -> CopyShape {
    let csv = format == CopyFormat::Csv;
    CopyShape {
        format,
        delimiter: if csv { b',' } else { b'\t' },
        null: if csv { String::new() } else { "\\N".to_owned() },
        quote: b'"',
        escape: b'"',
        header: false,
        key_field: Some(1),
        key_type: Some(KeyType::Int8),
        key_modifier: None,
        columns: 3,
        force_null_key: false,
        encoding: None,
        times: Vec::new(),
    }
}

type Outcome = (Vec<Vec<u8>>, Result<(), CopyError>);

/// What each of four shards is given when the data comes in these pieces.
fn run(shape: &CopyShape, pieces: &[&[u8]]) -> Outcome {
    let topology = topology(4);
    let mut shards = vec![Vec::new(); 4];
    let mut sink = |shard: ShardId, bytes: &[u8]| shards[usize::from(shard.0)].extend_from_slice(bytes);
    let splitter = CopySplitter::new(shape, "public.bids", TextRules::default(), topology);
    let mut splitter = splitter.expect("can be split").with_key_column("auction_id");
    let pushed = pieces.iter().try_for_each(|piece| splitter.push(piece, &mut sink));
    let result = pushed.and_then(|()| splitter.finish(&mut sink));
    (shards, result)
}

/// Cuts at these places (taken modulo the length).
fn cut<'d>(data: &'d [u8], cuts: &[usize]) -> Vec<&'d [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (data.len() + 1)).chain([0, data.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

fn owner(key: &KeyValue) -> usize {
    usize::from(topology(4).owner(key).0)
}

fn error(shape: &CopyShape, data: &str, expected: &Expect) {
    let error = run(shape, &[data.as_bytes()]).1.expect_err("must be refused");
    let hint = error.hint.map_or(String::new(), |hint| format!("\nHINT: {hint}"));
    expected.assert_eq(&format!("{} {}\nCONTEXT: {}{hint}", error.sqlstate, error.message, error.context));
}

#[test]
fn errors_are_worded_like_postgresql() {
    let text = shape(CopyFormat::Text);
    error(
        &text,
        "a\t1\tx\nb\t\\N\ty\n",
        &expect![[r#"
        23502 null value in column "auction_id" of relation "bids" violates not-null constraint
        CONTEXT: COPY bids, line 2: "b	\N	y""#]],
    );
    error(
        &text,
        "a\t1x\tx\n",
        &expect![[r#"
        22P02 invalid input syntax for type bigint: "1x"
        CONTEXT: COPY bids, line 1, column auction_id: "1x""#]],
    );
    error(
        &text,
        "a\t1\tx\r\nb\t2\ty\n",
        &expect![[r#"
        22P04 literal newline found in data
        CONTEXT: COPY bids, line 2
        HINT: Use "\n" to represent newline."#]],
    );
    error(
        &text,
        "a\n",
        &expect![[r#"
        22P04 missing data for column "auction_id"
        CONTEXT: COPY bids, line 1: "a""#]],
    );
    error(
        &text,
        "a\t1\t\\.\n",
        &expect![[r#"
        22P04 end-of-copy marker corrupt
        CONTEXT: COPY bids, line 1"#]],
    );
}

#[test]
fn csv_errors_are_worded_like_postgresql() {
    let csv = shape(CopyFormat::Csv);
    error(
        &csv,
        "\"a\nb\nc\",1,\nx,,\n",
        &expect![[r#"
        23502 null value in column "auction_id" of relation "bids" violates not-null constraint
        CONTEXT: COPY bids, line 2: "x,,""#]],
    );
    error(
        &csv,
        "x,1,2\n\"a\nb\nc\",1,\nx,,\n",
        &expect![[r#"
        23502 null value in column "auction_id" of relation "bids" violates not-null constraint
        CONTEXT: COPY bids, line 5: "x,,""#]],
    );
    error(
        &csv,
        "x,99999999999999999999,\n",
        &expect![[r#"
        22003 value "99999999999999999999" is out of range for type bigint
        CONTEXT: COPY bids, line 1, column auction_id: "99999999999999999999""#]],
    );
    error(
        &csv,
        "x,\"\",\n",
        &expect![[r#"
        22P02 invalid input syntax for type bigint: ""
        CONTEXT: COPY bids, line 1, column auction_id: """#]],
    );
    error(
        &csv,
        "x,\"1,\n",
        &expect![[r#"
        22P04 unterminated CSV quoted field
        CONTEXT: COPY bids, line 1"#]],
    );
    error(
        &shape(CopyFormat::Binary),
        "x",
        &expect![[r#"
        22P04 COPY file signature not recognized
        CONTEXT: COPY bids, line 0"#]],
    );
}

#[test]
fn what_cannot_be_split_is_refused() {
    let refused = |change: &dyn Fn(&mut CopyShape)| {
        let mut shape = shape(CopyFormat::Text);
        change(&mut shape);
        CopySplitter::new(&shape, "t", TextRules::default(), topology(2)).expect_err("refused").sqlstate
    };
    assert_eq!(refused(&|shape| shape.key_field = None), "0A000");
    assert_eq!(refused(&|shape| shape.force_null_key = true), "0A000");
    assert_eq!(refused(&|shape| shape.encoding = Some("SJIS".to_owned())), "0A000");
}

#[test]
fn nothing_after_the_end_marker_counts() {
    for eol in ["\n", "\r\n", "\r"] {
        for format in [CopyFormat::Text, CopyFormat::Csv] {
            let delimiter = if format == CopyFormat::Text { "\t" } else { "," };
            let row = format!("a{delimiter}1{delimiter}b{eol}");
            let data = format!("{row}\\.{eol}rubbish");
            let (shards, result) = run(&shape(format), &[data.as_bytes()]);
            assert_eq!((shards.concat(), result), (row.into_bytes(), Ok(())));
        }
    }
}

#[test]
fn lines_of_shards_are_lines_of_the_application() {
    let mut shape = shape(CopyFormat::Csv);
    shape.header = true;
    let data = "note,auction_id,x\na,1,\nb,2,\nc,1,\nd,1,\n";
    let splitter = CopySplitter::new(&shape, "bids", TextRules::default(), topology(4));
    let mut splitter = splitter.expect("can be split");
    splitter.push(data.as_bytes(), &mut |_, _| {}).expect("well formed");
    let shard = topology(4).owner(&KeyValue::Int(1));
    let rewritten = |context: &str| splitter.rewrite_context(shard, context);
    assert_eq!(rewritten("COPY bids, line 1").as_deref(), Some("COPY bids, line 1"));
    assert_eq!(
        rewritten("COPY bids, line 2, column x: \"\"").as_deref(),
        Some("COPY bids, line 2, column x: \"\"")
    );
    assert_eq!(
        rewritten("SQL function\nCOPY bids, line 3").as_deref(),
        Some("SQL function\nCOPY bids, line 4")
    );
    assert_eq!(rewritten("COPY bids, line 4: \"d,1,\"").as_deref(), Some("COPY bids, line 5: \"d,1,\""));
    assert_eq!(rewritten("COPY bids, line 5"), None);
    assert_eq!(rewritten("PL/pgSQL function f(), line 3"), None);
}

/// A row: text, key, text.
#[derive(Debug, Clone)]
struct Row {
    before: String,
    key: i64,
    after: Option<String>,
    /// Quote although nothing needs it; spell the key in another way.
    odd: bool,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let field = "[a\"\\\\,\t\n\r.N' é]{0,6}";
    let row = (field, any::<i64>(), proptest::option::of(field), any::<bool>());
    let row = row.prop_map(|(before, key, after, odd)| Row { before, key, after, odd });
    proptest::collection::vec(row, 0..12)
}

fn text_row(row: &Row, eol: &str) -> Vec<u8> {
    let escape = |field: &str| {
        let mut out = String::new();
        for c in field.chars() {
            match c {
                '\t' if row.odd => out.push_str("\\t"),
                '\n' if row.odd => out.push_str("\\n"),
                '\\' | '\t' | '\n' | '\r' => out.extend(['\\', c]),
                c => out.push(c),
            }
        }
        out
    };
    let key = if row.odd { format!("\\x20{}", row.key) } else { row.key.to_string() };
    let after = row.after.as_deref().map_or("\\N".to_owned(), escape);
    format!("{}\t{key}\t{after}{eol}", escape(&row.before)).into_bytes()
}

fn csv_row(row: &Row, (quote, escape): (char, char), eol: &str) -> Vec<u8> {
    let field = |field: &str, force: bool| {
        let special = |c| matches!(c, ',' | '\n' | '\r' | '\\' | '.') || c == quote || c == escape;
        if !force && !field.is_empty() && !field.contains(special) {
            return field.to_owned();
        }
        let mut out = String::from(quote);
        for c in field.chars() {
            if c == quote || c == escape {
                out.push(escape);
            }
            out.push(c);
        }
        out.push(quote);
        out
    };
    let key = field(&row.key.to_string(), row.odd);
    let after = row.after.as_deref().map_or(String::new(), |after| field(after, row.odd));
    format!("{},{key},{after}{eol}", field(&row.before, row.odd)).into_bytes()
}

fn binary_row(row: &Row) -> Vec<u8> {
    let mut out = 3_i16.to_be_bytes().to_vec();
    let key = row.key.to_be_bytes();
    for field in [Some(row.before.as_bytes()), Some(&key[..]), row.after.as_deref().map(str::as_bytes)] {
        match field {
            None => out.extend((-1_i32).to_be_bytes()),
            Some(field) => {
                out.extend(i32::try_from(field.len()).expect("short").to_be_bytes());
                out.extend_from_slice(field);
            }
        }
    }
    out
}

/// The whole data, and what each shard must be given of it.
fn expected(rows: &[(i64, Vec<u8>)], header: &[u8], trailer: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut data = header.to_vec();
    let mut shards = vec![header.to_vec(); 4];
    for (key, bytes) in rows {
        data.extend_from_slice(bytes);
        shards[owner(&KeyValue::Int(*key))].extend_from_slice(bytes);
    }
    data.extend_from_slice(trailer);
    shards.iter_mut().for_each(|shard| shard.extend_from_slice(trailer));
    (data, shards)
}

proptest! {
    #[test]
    fn lines_reach_their_shards(
        rows in rows(),
        style in (0..3_usize, any::<bool>(), any::<bool>(), any::<bool>()),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let (eol, csv, header, other_escape) = style;
        let eol = ["\n", "\r\n", "\r"][eol];
        let quotes = if other_escape { ('\'', '\\') } else { ('"', '"') };
        let mut shape = shape(if csv { CopyFormat::Csv } else { CopyFormat::Text });
        (shape.header, shape.quote, shape.escape) = (header, quotes.0 as u8, quotes.1 as u8);
        let encode = |row: &Row| if csv { csv_row(row, quotes, eol) } else { text_row(row, eol) };
        let rows: Vec<_> = rows.iter().map(|row| (row.key, encode(row))).collect();
        let head = format!("x,\tauction_id,\ty{eol}");
        let (mut data, mut shards) = expected(&rows, if header { head.as_bytes() } else { b"" }, b"");
        // The last line may lack its end.
        if let Some((key, _)) = rows.last() && rows.len() % 2 == 0 {
            data.truncate(data.len() - eol.len());
            let shard = &mut shards[owner(&KeyValue::Int(*key))];
            shard.truncate(shard.len() - eol.len());
        }
        let (found, result) = run(&shape, &cut(&data, &cuts));
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(found, shards);
    }

    #[test]
    fn tuples_reach_their_shards(
        rows in rows(),
        trailed in any::<bool>(),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let rows: Vec<_> = rows.iter().map(|row| (row.key, binary_row(row))).collect();
        let trailer: &[u8] = if trailed { b"\xff\xff" } else { b"" };
        let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03abc";
        let (data, shards) = expected(&rows, header, trailer);
        let (found, result) = run(&shape(CopyFormat::Binary), &cut(&data, &cuts));
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(found, shards);
    }

    #[test]
    fn chunks_make_no_difference(
        data in "[12,\t\n\r\\\\.\"N]{0,40}",
        format in 0..2_usize,
        header in any::<bool>(),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut shape = shape([CopyFormat::Text, CopyFormat::Csv][format]);
        (shape.header, shape.key_field, shape.columns) = (header, Some(0), 1);
        let whole = run(&shape, &[data.as_bytes()]);
        prop_assert_eq!(run(&shape, &cut(data.as_bytes(), &cuts)), whole);
    }

    #[test]
    fn binary_chunks_make_no_difference(
        data in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0), Just(0xff), Just(1), any::<u8>()], 0..60),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut shape = shape(CopyFormat::Binary);
        (shape.key_field, shape.columns, shape.key_type) = (Some(0), 1, Some(KeyType::Int2));
        let data = [b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01".as_slice(), &data].concat();
        let whole = run(&shape, &[&data]);
        prop_assert_eq!(run(&shape, &cut(&data, &cuts)), whole);
    }

    #[test]
    fn text_keys_are_unescaped(key in "[a\\\\\t\n\"é,N]{1,6}") {
        let mut shape = shape(CopyFormat::Text);
        (shape.key_type, shape.key_field, shape.columns) = (Some(KeyType::Text), Some(0), 1);
        let escaped: String = key.chars().flat_map(|c| match c {
            '\\' | '\t' | '\n' => vec!['\\', c],
            c => vec![c],
        }).collect();
        // A lone escaped N is not NULL's spelling only because the letter itself is never escaped here.
        let data = format!("{escaped}\n");
        let (shards, result) = run(&shape, &[data.as_bytes()]);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(&shards[owner(&KeyValue::Text(key))], &data.into_bytes());
    }
}
