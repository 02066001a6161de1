//! What the tests of this folder share.

use std::sync::{Arc, OnceLock};

use router_config::key::KeyType;
use router_config::topology::{NodeAddress, Shard, Topology};

use super::plan::SessionView;
use crate::sql::Context;
use crate::sql::cache::{Analysed, Cache};
use crate::sql::facts::{Access, Command, Effects, Facts, KeyTerm, Pin, Scope, Sharded, ValueRef};
use crate::sql::gather_shape::Comparable;
use crate::sql::schema::{
    Column, Function, Placement, Reach, Relation, RelationKind, Schema, Stored, Touches,
};

/// A cluster of `n` shards, `shard-1` the home shard. Made once: proposing a slot map takes a while.
pub(super) fn topology(n: usize) -> Arc<Topology> {
    static MADE: [OnceLock<Arc<Topology>>; 8] = [const { OnceLock::new() }; 8];
    MADE[n].get_or_init(|| Arc::new(new_topology(n))).clone()
}

fn new_topology(n: usize) -> Topology {
    let shard = |n: usize| Shard {
        name: format!("shard-{n}"),
        primary: NodeAddress { host: "127.0.0.1".to_owned(), port: 5432 },
        replicas: Vec::new(),
        weight: 1.0,
    };
    Topology::new((1..=n).map(shard).collect())
}

/// A text with its literals, whatever its facts are.
pub(super) fn analysed(text: &str) -> Analysed {
    analysed_with(text, &Schema::default())
}

pub(super) fn analysed_with(text: &str, schema: &Schema) -> Analysed {
    cached(&[text], schema, &|cache, text, ctx| cache.extended(text, ctx))
}

/// The last of these texts of the simple protocol, all of them in one cache.
pub(super) fn analysed_after(texts: &[&str], schema: &Schema) -> Analysed {
    cached(texts, schema, &|cache, text, ctx| cache.simple(text, ctx))
}

type Analyse<'f> = &'f dyn Fn(&Cache, &str, &Context<'_>) -> Analysed;

fn cached(texts: &[&str], schema: &Schema, analyse: Analyse<'_>) -> Analysed {
    let cache = Cache::new(16);
    let search_path = ["public".to_owned()];
    let ctx = Context {
        schema,
        search_path: &search_path,
        temp_tables: false,
        standard_conforming_strings: true,
        statement_parse_bytes: 1 << 20,
        id: cache.context_id(1, &search_path, false, true),
    };
    texts.iter().map(|text| analyse(&cache, text, &ctx)).last().expect("at least one text")
}

/// The body of a Bind after its names: each value with its format.
pub(super) fn bind(values: &[(i16, Option<&[u8]>)]) -> Vec<u8> {
    let count = u16::try_from(values.len()).expect("few parameters").to_be_bytes();
    let mut body = count.to_vec();
    values.iter().for_each(|(format, _)| body.extend(format.to_be_bytes()));
    body.extend(count);
    for (_, value) in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(i32::try_from(bytes.len()).expect("short").to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    body.extend([0, 0]);
    body
}

pub(super) fn term(value: ValueRef) -> KeyTerm {
    KeyTerm { value, negated: false, cast: None }
}

pub(super) fn facts(command: Command, scope: Scope) -> Facts {
    let access = match &command {
        Command::Query | Command::Explain => Access::Read,
        _ => Access::Write,
    };
    let (effects, tables) = (Effects::default(), vec!["public.bids".to_owned()]);
    Facts {
        command,
        scope,
        access,
        effects,
        tables,
        returns_rows: false,
        unrepeatable: None,
        barred: None,
        unknown_name: false,
        times: false,
        by_clock: None,
        reshaped: Vec::new(),
        defaults: None,
    }
}

pub(super) fn groups(groups: Vec<Pin>) -> Sharded {
    Sharded {
        key_type: KeyType::Int8,
        modifier: None,
        rejects_null: false,
        groups,
        no_concat: None,
        fires: None,
        moves: None,
        gather: None,
        select: None,
        needs_home: None,
        writes_reference: false,
        updates_key: false,
        insert: None,
        colocated_insert_select: false,
    }
}

pub(super) fn sharded(sharded: Sharded) -> Scope {
    Scope::Sharded(Box::new(sharded))
}

pub(super) fn session() -> SessionView<'static> {
    SessionView { two_phase: true, reads_replica: true, ..SessionView::default() }
}

/// What facts depend on, with this catalog: names of `public`, strings as by default.
pub(crate) fn context<'a>(schema: &'a Schema, search_path: &'a [String]) -> Context<'a> {
    Context {
        schema,
        search_path,
        temp_tables: false,
        standard_conforming_strings: true,
        statement_parse_bytes: 1 << 20,
        id: 0,
    }
}

/// An auction house: `auctions` and `bids` sharded by `auction_id`, `users` reference, `settings`
/// unsharded; `place_bid` placed by its first argument.
pub(crate) fn schema() -> Schema {
    let sharded = |key_column, key_type| Placement::Sharded { key_column, key_type };
    let serial = Some("nextval('auctions_auction_id_seq'::regclass)");
    let tables = [
        relation(
            "auctions",
            sharded(0, KeyType::Int8),
            &[
                ("auction_id", "bigint", serial),
                ("title", "text", None),
                ("ends_at", "timestamp with time zone", None),
            ],
        ),
        relation(
            "bids",
            sharded(1, KeyType::Int8),
            &[
                ("id", "bigint", Some("nextval('bids_id_seq'::regclass)")),
                ("auction_id", "bigint", None),
                ("user_id", "bigint", None),
                ("amount", "numeric", None),
            ],
        ),
        relation("users", Placement::Reference, &[("user_id", "bigint", None), ("name", "text", None)]),
        relation("settings", Placement::Unsharded, &[("name", "text", None), ("value", "text", None)]),
    ];
    let mut schema = Schema { default_search_path: vec!["public".to_owned()], ..Schema::default() };
    for table in tables {
        schema.relations.insert((table.schema.clone(), table.name.clone()), Arc::new(table));
    }
    let plain = Function {
        volatile: false,
        built_in: true,
        aggregate: false,
        set_returning: false,
        touches_sharded: Touches::No,
        reach: Reach::default(),
        key_argument: None,
    };
    for (name, function) in [
        ("count", Function { aggregate: true, ..plain }),
        ("max", Function { aggregate: true, ..plain }),
        ("lower", plain),
        ("now", plain),
        ("random", Function { volatile: true, ..plain }),
        ("nextval", Function { volatile: true, ..plain }),
        ("pg_advisory_xact_lock", Function { volatile: true, ..plain }),
        (
            "place_bid",
            Function {
                volatile: true,
                built_in: false,
                touches_sharded: Touches::Unknown,
                key_argument: Some(1),
                ..plain
            },
        ),
    ] {
        schema.functions.insert(name.to_owned(), function);
    }
    schema
}

fn relation(name: &str, placement: Placement, columns: &[(&str, &str, Option<&str>)]) -> Relation {
    let column = |(name, type_name, default): &(&str, &str, Option<&str>)| Column {
        name: (*name).to_owned(),
        type_name: (*type_name).to_owned(),
        type_oid: 20,
        not_null: false,
        default: default.map(str::to_owned),
        identity_always: false,
        declared: String::new(),
        generated: false,
        stored: Stored {
            times: crate::sql::times::is_time(type_name),
            order: Comparable::of_name(type_name),
            ..Stored::default()
        },
    };
    Relation {
        schema: "public".to_owned(),
        name: name.to_owned(),
        oid: 16_384 + name.bytes().map(u32::from).sum::<u32>(),
        kind: RelationKind::Table,
        columns: columns.iter().map(column).collect(),
        placement,
        definition: None,
    }
}
