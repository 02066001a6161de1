//! An auction schema and a printer of facts.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use router_config::key::KeyType;

use crate::route::testing::context;
use crate::sql::extract::{Context, analyse};
use crate::sql::facts::{Access, Command, Facts, KeyTerm, Pin, Scope, Sharded, ValueRef};
use crate::sql::gather_shape::{Comparable, FoldShape, GatherShape, KeySource, SortKey};
use crate::sql::schema::{
    Column, Function, Placement, Reach, Relation, RelationKind, Schema, Stored, Touches,
};

fn column(name: &str, type_name: &str, default: Option<&str>) -> Column {
    Column {
        name: name.into(),
        type_name: type_name.into(),
        type_oid: 20,
        not_null: default.is_some(),
        default: default.map(Into::into),
        identity_always: false,
        declared: String::new(),
        generated: false,
        stored: Stored {
            times: crate::sql::times::is_time(type_name),
            order: Comparable::of_name(type_name),
            ..Stored::default()
        },
    }
}

fn relation(schema: &mut Schema, (space, name): (&str, &str), placement: Placement, columns: Vec<Column>) {
    let oid = 16_000 + schema.relations.len() as u32;
    let relation = Relation {
        schema: space.into(),
        name: name.into(),
        oid,
        kind: RelationKind::Table,
        columns,
        placement,
        definition: None,
    };
    schema.relations.insert((space.into(), name.into()), Arc::new(relation));
}

fn sharded(key_column: usize, key_type: KeyType) -> Placement {
    Placement::Sharded { key_column, key_type }
}

fn tables(schema: &mut Schema) {
    let id = |seq: &str| Some(format!("nextval('{seq}'::regclass)"));
    let auctions = vec![
        column("auction_id", "bigint", id("auctions_auction_id_seq").as_deref()),
        column("title", "text", None),
        column("seller", "bigint", None),
        column("created", "timestamp with time zone", Some("now()")),
    ];
    relation(schema, ("public", "auctions"), sharded(0, KeyType::Int8), auctions);
    let bids = vec![
        column("id", "bigint", id("bids_id_seq").as_deref()),
        column("auction_id", "bigint", None),
        column("user_id", "bigint", None),
        column("amount", "numeric", None),
        column("tags", "text[]", None),
    ];
    relation(schema, ("public", "bids"), sharded(1, KeyType::Int8), bids);
    let mut lots = vec![column("lot", "bigint", id("lots_lot_seq").as_deref()), column("note", "text", None)];
    lots[0].identity_always = true;
    relation(schema, ("public", "lots"), sharded(0, KeyType::Int8), lots);
    let users = vec![
        column("user_id", "bigint", id("users_user_id_seq").as_deref()),
        column("name", "text", None),
        column("token", "uuid", Some("gen_random_uuid()")),
    ];
    relation(schema, ("public", "users"), Placement::Reference, users);
    relation(
        schema,
        ("public", "categories"),
        Placement::Reference,
        vec![column("cat", "integer", None), column("name", "text", None)],
    );
    relation(
        schema,
        ("public", "stats"),
        Placement::Unsharded,
        vec![column("auction_id", "bigint", None), column("n", "bigint", None)],
    );
    relation(
        schema,
        ("pg_catalog", "pg_class"),
        Placement::Catalog,
        vec![column("relname", "name", None), column("oid", "oid", None)],
    );
    let view = Placement::View { key_column: Some(0), key_type: KeyType::Int8 };
    relation(
        schema,
        ("public", "open_auctions"),
        view,
        vec![column("auction_id", "bigint", None), column("title", "text", None)],
    );
    let totals = Placement::View { key_column: None, key_type: KeyType::Int8 };
    relation(
        schema,
        ("public", "totals"),
        totals,
        vec![column("auction_id", "bigint", None), column("n", "bigint", None)],
    );
    relation(schema, ("audit", "bids"), Placement::Unsharded, vec![column("auction_id", "bigint", None)]);
}

/// The catalog of these tests.
pub(super) fn schema() -> Schema {
    let mut schema = Schema {
        default_search_path: vec!["public".into()],
        utf8: true,
        functions: HashMap::new(),
        ..Schema::default()
    };
    tables(&mut schema);
    let built_in = Function {
        volatile: false,
        built_in: true,
        aggregate: false,
        set_returning: false,
        touches_sharded: Touches::No,
        reach: Reach::default(),
        key_argument: None,
    };
    for name in [
        "lower",
        "abs",
        "length",
        "now",
        "unnest",
        "generate_series",
        "date_trunc",
        "concat",
        "pg_total_relation_size",
        "row_number",
        "rank",
        "jsonb_build_object",
        "upper",
        "round",
        "to_char",
        "substring",
        "txid_current",
    ] {
        schema.functions.insert(name.into(), built_in);
    }
    for name in ["count", "sum", "max", "min", "avg", "array_agg", "string_agg"] {
        schema.functions.insert(name.into(), Function { aggregate: true, ..built_in });
    }
    for name in ["row_number", "rank"] {
        schema.functions.insert(name.into(), Function { aggregate: true, ..built_in });
    }
    for name in [
        "random",
        "gen_random_uuid",
        "nextval",
        "setval",
        "currval",
        "lastval",
        "clock_timestamp",
        "pg_advisory_lock",
        "pg_advisory_xact_lock",
        "pg_advisory_unlock",
        "pg_notify",
        "set_config",
        "query_to_xml",
    ] {
        schema.functions.insert(name.into(), Function { volatile: true, ..built_in });
    }
    let user = Function { built_in: false, ..built_in };
    schema.functions.insert("slugify".into(), user);
    schema.functions.insert(
        "place_bid".into(),
        Function { volatile: true, key_argument: Some(1), touches_sharded: Touches::Unknown, ..user },
    );
    schema
        .functions
        .insert("close_all".into(), Function { volatile: true, touches_sharded: Touches::Unknown, ..user });
    schema
}

/// Facts in that catalog.
pub(super) fn facts(sql: &str) -> Facts {
    facts_with(sql, false)
}

pub(super) fn facts_with(sql: &str, temp_tables: bool) -> Facts {
    let mut schema = schema();
    if sql.contains("docs") {
        let docs = vec![column("doc", "text", None), column("body", "text", None)];
        relation(&mut schema, ("public", "docs"), sharded(0, KeyType::Text), docs);
    }
    let search_path = vec!["public".to_string()];
    let ctx = Context { temp_tables, ..context(&schema, &search_path) };
    analyse(sql, &ctx)
}

fn term(term: &KeyTerm) -> String {
    let value = match &term.value {
        ValueRef::Param(n) => format!("${n}"),
        ValueRef::Literal(n) => format!("#{n}"),
        ValueRef::Null => "NULL".into(),
        ValueRef::Default => "DEFAULT".into(),
        ValueRef::Computed => "computed".into(),
    };
    let cast = term.cast.as_ref().map(|c| format!("::{c}")).unwrap_or_default();
    format!("{}{value}{cast}", if term.negated { "-" } else { "" })
}

fn pin(pin: &Pin) -> String {
    match pin {
        Pin::Any => "any".into(),
        Pin::Keys(terms) => terms.iter().map(term).collect::<Vec<_>>().join(","),
        Pin::Array(array) => format!("array {}", term(array)),
        Pin::Never => "never".into(),
        Pin::Insert => "rows".into(),
    }
}

fn sharded_line(out: &mut String, s: &Sharded, sql: &str) {
    let groups: Vec<String> = s.groups.iter().map(pin).collect();
    let _ = write!(out, "[{}]", groups.join(" | "));
    if let Some(why) = &s.no_concat {
        let _ = write!(out, " !{why}");
    }
    if let Some(shape) = &s.gather {
        gather_shape(out, shape, sql);
    }
    if let Some(why) = &s.needs_home {
        let _ = write!(out, " home:{why}");
    }
    for (flag, name) in [
        (s.writes_reference, "writes-reference"),
        (s.updates_key, "updates-key"),
        (s.colocated_insert_select, "colocated"),
    ] {
        if flag {
            let _ = write!(out, " {name}");
        }
    }
    let Some(insert) = &s.insert else { return };
    for row in &insert.rows {
        let draw = &row.draw_at;
        let _ = write!(out, " {}={}@{:?}", &sql[row.span.clone()], term(&row.key), &sql[draw.clone()]);
    }
    let _ = write!(out, " outside{:?}", insert.outside_params);
    if let Some(draw) = &insert.draw {
        let _ = write!(out, " draw({})", draw.type_name);
        if let Some((at, text)) = &draw.column_at {
            let _ = write!(out, " list:{}«{}»", &sql[..*at], text);
        }
        if let Some(at) = draw.overriding_at {
            let _ = write!(out, " overriding:{}«»", &sql[..at]);
        }
    }
}

fn gather_shape(out: &mut String, shape: &GatherShape, sql: &str) {
    for SortKey { order, output, source } in &shape.keys {
        let arrow = if order.descending { '↓' } else { '↑' };
        let nulls = if order.nulls_first { "nulls first" } else { "nulls last" };
        let source = match source {
            KeySource::Text(at) => &sql[at.clone()],
            KeySource::Sql(text) => text,
            KeySource::OutputOnly => "-",
        };
        let _ = write!(out, " by {output:?} «{source}» {:?} {arrow} {nulls}", order.kind);
    }
    for fold in &shape.folds {
        let _ = match fold {
            FoldShape::First(key) => write!(out, " first {:?} {:?}", key.order.kind, key.order.descending),
            other => write!(out, " {other:?}"),
        };
    }
    let _ = write!(out, " list:«{}»", &sql[shape.list_end.saturating_sub(8)..shape.list_end]);
    for (name, bound) in [("limit", &shape.limit), ("offset", &shape.offset)] {
        if let Some(bound) = bound {
            let value = bound.term.as_ref().map_or("1".to_string(), term);
            let _ = write!(out, " {name} {value}@«{}»", &sql[bound.at.clone()]);
        }
    }
}

/// One line for a statement.
pub(super) fn line(sql: &str, facts: &Facts) -> String {
    let mut out = String::new();
    match &facts.command {
        Command::Query => {}
        Command::Modify(kind) => {
            let _ = write!(out, "{kind:?} ");
        }
        other => {
            let _ = write!(out, "{other:?} ");
        }
    }
    match &facts.scope {
        Scope::Sharded(s) => sharded_line(&mut out, s, sql),
        other => {
            let _ = write!(out, "{other:?}");
        }
    }
    match &facts.access {
        Access::Read => {}
        other => {
            let _ = write!(out, " {other:?}");
        }
    }
    if let Some(name) = &facts.unrepeatable {
        let _ = write!(out, " unrepeatable:{name}");
    }
    if let Some(cause) = &facts.effects.pins {
        let _ = write!(out, " pins:{cause:?}");
    }
    for (flag, name) in [
        (facts.effects.advisory_lock, "advisory"),
        (facts.effects.currval, "currval"),
        (facts.effects.sequence, "sequence"),
        (facts.effects.node_dependent, "node"),
        (facts.effects.changes_catalog, "catalog"),
    ] {
        if flag {
            let _ = write!(out, " {name}");
        }
    }
    out
}

/// Statements with their facts, one block each.
pub(super) fn check(statements: &[&str], expected: &expect_test::Expect) {
    let mut out = String::new();
    for sql in statements {
        let _ = writeln!(out, "{sql}\n    {}", line(sql, &facts(sql)));
    }
    expected.assert_eq(&out);
}
