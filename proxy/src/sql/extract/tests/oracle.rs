//! What a comparison with PostgreSQL's own parser found (`make oracle`), and its siblings.

use super::support::{facts, facts_with};
use crate::route::testing::context;
use crate::sql::facts::{Access, Scope};

fn unknown(sql: &str) -> bool {
    matches!(facts(sql).scope, Scope::Unknown { .. })
}

#[test]
fn a_temporary_object_over_a_sharded_table_is_refused() {
    for sql in [
        "CREATE TEMP VIEW v AS SELECT * FROM bids",
        "CREATE OR REPLACE TEMPORARY VIEW v AS SELECT * FROM users JOIN bids USING (user_id)",
        "CREATE VIEW pg_temp.v AS SELECT * FROM open_auctions",
        "CREATE TEMP TABLE mine () INHERITS (bids)",
        "CREATE TEMP TABLE part PARTITION OF bids FOR VALUES IN (1)",
        "CREATE TEMP TABLE mine (LIKE auctions) INHERITS (bids)",
        "CREATE TEMP TABLE mine AS SELECT * FROM bids",
    ] {
        assert!(unknown(sql), "{sql}");
    }
    for sql in [
        "CREATE TEMP VIEW v AS SELECT * FROM users JOIN stats ON n = user_id",
        "CREATE TEMP TABLE mine (LIKE bids INCLUDING ALL)",
        "CREATE TEMP TABLE mine (like public.bids)",
        "CREATE TEMP TABLE mine (id bigint)",
    ] {
        assert!(matches!(facts(sql).scope, Scope::Home), "{sql}");
    }
}

#[test]
fn a_select_returns_rows_though_a_with_query_of_it_writes() {
    for sql in [
        "WITH w AS (DELETE FROM bids WHERE auction_id = 5 RETURNING *) SELECT * FROM w",
        "WITH w AS (UPDATE users SET name = 'x') VALUES (1)",
        "WITH w AS (INSERT INTO stats VALUES (1, 2)) SELECT 1 UNION SELECT 2",
        "(WITH w AS (DELETE FROM stats RETURNING n) TABLE w)",
    ] {
        assert!(facts(sql).returns_rows, "{sql}");
    }
    for sql in [
        "WITH w AS (SELECT 1) DELETE FROM stats",
        "WITH w AS (DELETE FROM stats RETURNING n) INSERT INTO stats SELECT n, n FROM w",
    ] {
        assert!(!facts(sql).returns_rows, "{sql}");
    }
}

#[test]
fn with_queries_that_refer_forward_are_refused() {
    assert!(unknown(
        "WITH RECURSIVE x AS (SELECT * FROM bids), bids AS (SELECT * FROM auctions) SELECT * FROM x"
    ));
    assert!(unknown(
        "WITH RECURSIVE x AS (SELECT 1 FROM users, bids), bids AS (SELECT * FROM auctions) SELECT 1"
    ));
    // A column of a later query's name, and without RECURSIVE the table.
    assert!(!unknown("WITH RECURSIVE x AS (SELECT n FROM stats), n AS (SELECT * FROM x) SELECT * FROM n"));
    assert!(!unknown("WITH x AS (SELECT * FROM bids), bids AS (SELECT 1) SELECT * FROM x"));
}

#[test]
fn long_names_are_cut_as_postgresql_cuts_them() {
    let mut schema = super::support::schema();
    let bids = schema.relations[&("public".to_string(), "bids".to_string())].clone();
    let ascii = "b".repeat(63);
    let accented = format!("{}\u{e9}", "b".repeat(61));
    for name in [&ascii, &accented] {
        let relation = crate::sql::schema::Relation { name: name.clone(), ..(*bids).clone() };
        schema.relations.insert(("public".into(), name.clone()), relation.into());
    }
    let path = ["public".to_string()];
    let ctx = context(&schema, &path);
    // The second é does not fit whole: it is left out whole.
    let longer = [format!("{ascii}xyz"), format!("{}BBB", "B".repeat(63)), format!("{accented}\u{e9}tc")];
    for name in longer {
        for sql in [
            format!("SELECT * FROM {name} WHERE auction_id = 5"),
            format!("SELECT 1 FROM (SELECT * FROM public.{name}) x"),
            format!("UPDATE {name} SET amount = 1"),
            format!("DO $$ BEGIN DELETE FROM {name}; END $$"),
            format!("COPY {name} FROM STDIN"),
        ] {
            let scope = crate::sql::analyse(&sql, &ctx).scope;
            assert!(matches!(scope, Scope::Sharded(_) | Scope::Unknown { .. }), "{sql}: {scope:?}");
        }
    }
    let sql = format!("SELECT * FROM \"{ascii}more\" WHERE auction_id = 5");
    assert!(matches!(crate::sql::analyse(sql, &ctx).scope, Scope::Sharded(_)));
}

#[test]
fn functions_with_a_form_of_their_own_are_functions() {
    use crate::sql::schema::{Function, Reach, Touches};
    let mut schema = super::support::schema();
    let users = Function {
        volatile: true,
        built_in: false,
        aggregate: false,
        set_returning: false,
        touches_sharded: Touches::Unknown,
        key_argument: None,
        reach: Reach::default(),
    };
    let names = ["substring", "substr", "ceil", "floor", "unnest"];
    for name in names {
        schema.functions.insert(name.into(), users);
    }
    let path = ["public".to_string()];
    let ctx = context(&schema, &path);
    for sql in [
        "SELECT substring('a', 1)",
        "SELECT substring('a' FROM 1 FOR 2)",
        "SELECT substr('a', 1)",
        "SELECT ceil(1.5)",
        "SELECT floor(1.5)",
        "SELECT * FROM unnest('{1}'::int[])",
    ] {
        let facts = crate::sql::analyse(sql, &ctx);
        assert!(matches!(facts.scope, Scope::Unknown { .. }), "{sql}: {:?}", facts.scope);
        assert_eq!(facts.access, Access::Write, "{sql}");
    }
    assert!(matches!(facts_with("SELECT substring('a', 1)", false).scope, Scope::Nothing));
}

#[test]
fn every_clock_in_a_default_is_one() {
    let schema = super::support::schema();
    let path = ["public".to_string()];
    let ctx = context(&schema, &path);
    for clock in crate::sql::clocks::CLOCKS {
        let default = format!("({clock} + 1)").to_uppercase();
        let found = super::super::utility::unrepeatable_name(&ctx, default.as_bytes());
        assert_eq!(found.as_deref(), Some(clock));
    }
}
