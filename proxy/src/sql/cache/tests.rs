//! Sharing, translation of offsets, identity.

use super::*;
use crate::sql::facts::{Command, Pin, Scope, ValueRef};
use crate::sql::schema::{Column, Placement, Relation, RelationKind, Schema, Stored};
use router_config::key::KeyType;

fn schema() -> Schema {
    let column = |name: &str| Column {
        name: name.into(),
        type_name: "bigint".into(),
        type_oid: 20,
        not_null: false,
        default: None,
        identity_always: false,
        declared: String::new(),
        generated: false,
        stored: Stored::default(),
    };
    let bids = Relation {
        schema: "public".into(),
        name: "bids".into(),
        oid: 1,
        kind: RelationKind::Table,
        columns: vec![column("auction_id"), column("amount")],
        placement: Placement::Sharded { key_column: 0, key_type: KeyType::Int8 },
        definition: None,
    };
    let mut schema = Schema::default();
    schema.relations.insert(("public".into(), "bids".into()), Arc::new(bids));
    schema
}

fn with_context<T>(run: impl FnOnce(&Cache, &Context<'_>) -> T) -> T {
    let schema = schema();
    let cache = Cache::new(100);
    let search_path = vec!["public".to_string()];
    let id = cache.context_id(0, &search_path, false, true);
    let ctx = Context {
        schema: &schema,
        search_path: &search_path,
        temp_tables: false,
        standard_conforming_strings: true,
        statement_parse_bytes: 1 << 20,
        id,
    };
    run(&cache, &ctx)
}

fn key_text(analysed: &Analysed, index: usize, sql: &str) -> String {
    let Scope::Sharded(sharded) = &analysed.statements()[index].facts.scope else { return "none".into() };
    let Some(Pin::Keys(terms)) = sharded.groups.first() else { return "no pin".into() };
    let ValueRef::Literal(n) = terms[0].value else { return "no literal".into() };
    let literal = analysed.literal(index, n).expect("the literal exists");
    literal.value(sql.as_bytes(), true).expect("it has a value").into_owned()
}

#[test]
fn texts_that_differ_in_literals_share() {
    with_context(|cache, ctx| {
        let first = "SELECT 'a' FROM bids WHERE auction_id = 42";
        let second = "SELECT 'longer' FROM bids WHERE auction_id = 4";
        let a = cache.simple(first, ctx);
        let b = cache.simple(second, ctx);
        assert!(Arc::ptr_eq(&a.script, &b.script));
        assert_eq!((key_text(&a, 0, first), key_text(&b, 0, second)), ("42".into(), "4".into()));
        assert_eq!(cache.hits_and_misses(), (1, 1));
        assert_eq!(cache.len(), 1);
    });
}

#[test]
fn offsets_follow_the_text_at_hand() {
    with_context(|cache, ctx| {
        let first = "SELECT 1; INSERT INTO bids VALUES (1, 'x'), (2, 'y') RETURNING 'z'";
        let second = "SELECT 12345; INSERT INTO bids VALUES (10, 'xxx'), (2000, '') RETURNING 'q'";
        cache.simple(first, ctx);
        let b = cache.simple(second, ctx);
        assert_eq!(&second[b.range(1)], "INSERT INTO bids VALUES (10, 'xxx'), (2000, '') RETURNING 'q'");
        let Scope::Sharded(sharded) = &b.statements()[1].facts.scope else { panic!("not sharded") };
        let insert = sharded.insert.as_ref().expect("rows");
        let span = |r: &Range<usize>| &second[b.offset(1, r.start)..b.offset(1, r.end)];
        assert_eq!(span(&insert.rows[0].span), "(10, 'xxx')");
        assert_eq!(span(&insert.rows[1].span), "(2000, '')");
        assert_eq!(span(&insert.values), "(10, 'xxx'), (2000, '')");
        let ValueRef::Literal(n) = insert.rows[1].key.value else { panic!("no literal") };
        assert_eq!(b.literal(1, n).and_then(|l| l.value(second.as_bytes(), true)).as_deref(), Some("2000"));
    });
}

#[test]
fn hints_belong_to_the_text() {
    with_context(|cache, ctx| {
        let first = "/* gavel: key=1 */ SELECT * FROM bids WHERE amount = 5";
        let second = "/* gavel: key=1234 */ SELECT * FROM bids WHERE amount = 50";
        let a = cache.simple(first, ctx);
        let b = cache.simple(second, ctx);
        assert!(Arc::ptr_eq(&a.script, &b.script));
        assert_eq!(&second[b.hints().key.clone().expect("a hint")], "1234");
        assert_eq!(&second[b.range(0)], "SELECT * FROM bids WHERE amount = 50");
    });
}

#[test]
fn values_that_decide_are_not_shared() {
    with_context(|cache, ctx| {
        let one = cache.simple("SET x = 1", ctx);
        let two = cache.simple("SET x = 2", ctx);
        let value = |a: &Analysed| match &a.statements()[0].facts.command {
            Command::Set { value, .. } => value.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((value(&one), value(&two)), (Some("1".into()), Some("2".into())));
        let group = |sql: &str| match &cache.simple(sql, ctx).statements()[0].facts.scope {
            Scope::Sharded(s) => s.no_concat.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(group("SELECT auction_id, amount FROM bids GROUP BY 1, amount"), None);
        assert!(group("SELECT auction_id, amount FROM bids GROUP BY 2, amount").is_some());
    });
}

#[test]
fn identity_includes_the_context() {
    let cache = Cache::new(100);
    let path = vec!["public".to_string()];
    let id = cache.context_id(1, &path, false, true);
    assert_eq!(id, cache.context_id(1, &path, false, true));
    for other in [
        cache.context_id(2, &path, false, true),
        cache.context_id(1, &[], false, true),
        cache.context_id(1, &path, true, true),
        cache.context_id(1, &path, false, false),
    ] {
        assert_ne!(id, other);
    }
}

#[test]
fn entries_are_bounded() {
    with_context(|cache, ctx| {
        for i in 0..5000 {
            cache.extended(format!("SELECT {i} FROM bids"), ctx);
        }
        assert!(cache.len() <= 100, "{}", cache.len());
    });
}

#[test]
fn temporary_tables_of_the_same_text_are_seen() {
    with_context(|cache, ctx| {
        let script = cache.simple("CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1)", ctx);
        assert!(matches!(script.statements()[1].facts.scope, Scope::Home));
        let script = cache.simple("INSERT INTO t VALUES (1)", ctx);
        assert!(matches!(script.statements()[0].facts.scope, Scope::Unknown { .. }));
    });
}
