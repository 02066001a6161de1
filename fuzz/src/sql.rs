//! SQL: tokens, literals, splitting, facts, plans.

use std::sync::{Arc, OnceLock};

use proxy::route::plan as route_plan;
use proxy::route::plan::{Plan, SessionView};

use proxy::route::values::Values;
use proxy::sql::cache::{Analysed, Cache};
use proxy::sql::facts::Scope;
use proxy::sql::lexer::{Kind, Lexer, Token};
use proxy::sql::normalise::{identifiers, normalise, split};
use proxy::sql::schema::{Column, Function, Placement, Reach, Relation, RelationKind, Schema, Stored, Touches};
use proxy::sql::{Context, sql_prepare};
use router_config::key::KeyType;

/// Any text of the simple protocol.
pub(crate) fn sql(data: &[u8]) {
    for conforming in [true, false] {
        tokens(data, conforming);
        statements(data, conforming);
    }
    let _ = sql_prepare::prepare(data, true);
    let _ = sql_prepare::arguments(data, true, &[20, 1700]);
    shared(data);
}

fn tokens(text: &[u8], conforming: bool) {
    let all: Vec<Token> = Lexer::new(text, conforming).collect();
    for pair in all.windows(2) {
        assert!(pair[0].start < pair[0].end && pair[0].end <= pair[1].start);
    }
    assert!(all.last().is_none_or(|t| t.end <= text.len()));
    // The fast path over literals finds those of the full scan.
    let normalised = normalise(text, conforming);
    let found: Vec<_> = normalised.literals.iter().map(|l| (l.start, l.end)).collect();
    let literals: Vec<_> = all.iter().filter(|t| t.kind.is_literal()).map(|t| (t.start, t.end)).collect();
    let open = all.iter().any(|t| t.kind == Kind::Unterminated);
    assert!(found == literals || open, "{found:?} {literals:?}");
    for literal in &normalised.literals {
        let _ = literal.value(text, conforming);
    }
    identifiers(text, conforming, true, &mut |_| ());
}

fn statements(text: &[u8], conforming: bool) {
    let ranges = split(text, conforming);
    for pair in ranges.windows(2) {
        assert!(pair[0].end <= pair[1].start);
    }
    for range in &ranges {
        assert!(range.start < range.end && range.end <= text.len());
        // A statement taken out of its text is one statement still.
        let again = split(&text[range.clone()], conforming);
        assert_eq!(again.as_slice(), std::slice::from_ref(&(0..range.len())));
    }
}

/// Texts that differ in literals alone share facts: the plan by the shared facts is the plan by the text's own.
fn shared(text: &[u8]) {
    if text.len() > 2000 {
        return;
    }
    let schema = schema();
    let path = ["public".to_owned()];
    let cache = Cache::new(16);
    let context = Context {
        schema: &schema,
        search_path: &path,
        temp_tables: false,
        standard_conforming_strings: true,
        statement_parse_bytes: 64 << 10,
        id: 1,
    };
    let first = cache.simple(text, &context);
    check_offsets(text, &first);
    for (number, string) in [("7", "'x'"), ("1234567", "$q$42$q$")] {
        let other = respelled(text, number, string);
        let by_cache = cache.simple(&other, &context);
        let own = Cache::new(16).extended(&other, &context);
        assert_eq!(by_cache.statements().len(), own.statements().len());
        for index in 0..own.statements().len() {
            assert_eq!(by_cache.range(index), own.range(index));
            let (shared, alone) = (plan(&other, &by_cache, index), plan(&other, &own, index));
            assert_eq!(format!("{shared:?}"), format!("{alone:?}"), "{}", String::from_utf8_lossy(&other));
        }
    }
}

fn plan(text: &[u8], analysed: &Analysed, index: usize) -> Result<Plan, String> {
    let view = SessionView { two_phase: true, reads_replica: true, ..SessionView::default() };
    let values = Values::of_text(text, analysed, index);
    let facts = &analysed.statements()[index].facts;
    route_plan(&super::topology(), facts, &values, &view).map_err(|refusal| refusal.message)
}

/// Rows of an INSERT lie in the text, in order, between parentheses.
fn check_offsets(text: &[u8], analysed: &Analysed) {
    for statement in analysed.statements() {
        let Scope::Sharded(sharded) = &statement.facts.scope else { continue };
        let Some(shape) = &sharded.insert else { continue };
        let source = &text[statement.range.clone()];
        let mut at = shape.values.start;
        for row in &shape.rows {
            assert!(row.span.start >= at && row.span.end <= shape.values.end);
            assert_eq!((source[row.span.start], source[row.span.end - 1]), (b'(', b')'));
            assert!(row.draw_at.start >= row.span.start && row.draw_at.end <= row.span.end);
            at = row.span.end;
        }
    }
}

/// The text with other literals of the same kinds.
fn respelled(text: &[u8], number: &str, string: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut copied = 0;
    let normalised = normalise(text, true);
    for literal in &normalised.literals {
        out.extend_from_slice(&text[copied..literal.start]);
        let new = match literal.kind {
            Kind::Number => number.as_bytes(),
            Kind::Bits => &text[literal.start..literal.end],
            _ => string.as_bytes(),
        };
        // Words that touch would become one.
        let joins = |b: Option<&u8>| {
            b.is_some_and(|b| b.is_ascii_alphanumeric() || b"_$.'\x80".contains(b) || *b >= 0x80)
        };
        let touches = joins(out.last()) || joins(text.get(literal.end));
        out.extend_from_slice(if touches { &text[literal.start..literal.end] } else { new });
        copied = literal.end;
    }
    out.extend_from_slice(&text[copied..]);
    out
}

/// An auction house.
fn schema() -> Arc<Schema> {
    static MADE: OnceLock<Arc<Schema>> = OnceLock::new();
    MADE.get_or_init(|| Arc::new(new_schema())).clone()
}

fn new_schema() -> Schema {
    let sharded = |key_column| Placement::Sharded { key_column, key_type: KeyType::Int8 };
    let serial = Some("nextval('bids_id_seq'::regclass)");
    let tables = [
        ("auctions", sharded(0), vec![("auction_id", "bigint", serial), ("title", "text", None)]),
        (
            "bids",
            sharded(1),
            vec![("id", "bigint", serial), ("auction_id", "bigint", None), ("amount", "numeric", None)],
        ),
        ("users", Placement::Reference, vec![("user_id", "bigint", None), ("name", "text", None)]),
        ("settings", Placement::Unsharded, vec![("id", "integer", None), ("value", "text", None)]),
    ];
    let mut schema = Schema { default_search_path: vec!["public".into()], ..Schema::default() };
    for (oid, (name, placement, columns)) in (1..).zip(tables) {
        let columns = columns.into_iter().map(|(name, type_name, default)| Column {
            name: name.into(),
            type_name: type_name.into(),
            type_oid: 20,
            not_null: true,
            default: default.map(Into::into),
            identity_always: false,
            declared: String::new(),
            generated: false,
            stored: Stored::default(),
        });
        let relation = Relation {
            schema: "public".into(),
            name: name.into(),
            oid,
            kind: RelationKind::Table,
            columns: columns.collect(),
            placement,
 definition: None,
        };
        schema.relations.insert(("public".into(), name.into()), Arc::new(relation));
    }
    for (name, volatile, aggregate) in [
        ("count", false, true),
        ("max", false, true),
        ("lower", false, false),
        ("random", true, false),
        ("nextval", true, false),
    ] {
        let function = Function {
            volatile,
            built_in: true,
            aggregate,
            set_returning: false,
            touches_sharded: Touches::No,
            reach: Reach::default(),
            key_argument: None,
        };
        schema.functions.insert(name.into(), function);
    }
    schema
}
