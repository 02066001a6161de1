//! The planner as a whole, over facts made by hand.

mod brute_force;
mod gather;
mod statements;
mod writes;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use router_config::key::KeyValue;
use router_config::topology::ShardId;

use super::explain::{of_plan, of_refusal};
use super::plan;
use super::plan::{SessionView, Target};
use super::testing::{analysed, bind, facts, groups, session, sharded, term, topology};
use super::values::{BindParams, Values};
use crate::sql::facts::{Command, DdlKind, Facts, Modify, Pin, Scope, Sharded, ValueRef};

/// A pin to literals of the text, by their positions.
fn keys(literals: &[u32]) -> Pin {
    Pin::Keys(literals.iter().map(|&n| term(ValueRef::Literal(n))).collect())
}

/// Literals 1, 2 and 3 are keys of three different shards; 1 and 4 of the same.
const TEXT: &str = "select 1, 2, 3, 4, 'x', 7.5";

fn show(facts: &Facts, session: &SessionView<'_>) -> String {
    let analysed = analysed(TEXT);
    let values = Values::of_text(TEXT.as_bytes(), &analysed, 0);
    let topology = topology(4);
    let explanation = match plan(&topology, facts, &values, session) {
        Ok(plan) => of_plan(&topology, &plan, true),
        Err(refusal) => of_refusal(&refusal),
    };
    let (role, shards) = (explanation.role.unwrap_or("-"), explanation.shards.join(" "));
    let sqlstate = explanation.sqlstate.unwrap_or_default();
    format!("{} [{shards}] {role}: {} {sqlstate}", explanation.plan, explanation.reason).trim_end().to_owned()
}

fn check(cases: &[(&str, Facts)], session: &SessionView<'_>, expected: &Expect) {
    let lines = cases.iter().map(|(name, facts)| format!("{name} → {}\n", show(facts, session)));
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn reads_by_their_keys() {
    let query = |pins: Vec<Pin>| facts(Command::Query, sharded(groups(pins)));
    let with = |pins: Vec<Pin>, change: &dyn Fn(&mut Sharded)| {
        let mut shape = groups(pins);
        change(&mut shape);
        facts(Command::Query, sharded(shape))
    };
    let ordered = |shape: &mut Sharded| shape.no_concat = Some("ORDER BY".to_owned());
    let home = |shape: &mut Sharded| shape.needs_home = Some("the unsharded table t".to_owned());
    check(
        &[
            ("one key", query(vec![keys(&[0])])),
            ("the same key twice", query(vec![keys(&[0, 0])])),
            ("three keys", query(vec![keys(&[0, 1, 2])])),
            ("no row", query(vec![keys(&[5])])),
            ("never", query(vec![Pin::Never])),
            ("no condition", query(vec![Pin::Any])),
            ("not an integer", query(vec![keys(&[4])])),
            ("one key, ordered", with(vec![keys(&[0])], &ordered)),
            ("no condition, ordered", with(vec![Pin::Any], &ordered)),
            ("two groups, one key", query(vec![keys(&[0]), keys(&[0])])),
            ("two groups, two keys", query(vec![keys(&[0]), keys(&[1])])),
            ("two groups, one never", query(vec![keys(&[0]), Pin::Never])),
            ("two groups, one free", query(vec![keys(&[0]), Pin::Any])),
            ("needs home, no condition", with(vec![Pin::Any], &home)),
            ("needs home, never", with(vec![Pin::Never], &home)),
            ("no group", query(vec![])),
        ],
        &session(),
        &expect![[r#"
            one key → one shard [shard-4] replica: one key, in slot 5958
            the same key twice → one shard [shard-4] replica: one key, in slot 5958
            three keys → several shards [shard-1 shard-2 shard-4] replica: 3 keys
            no row → no shard holds a matching row [shard-1] replica: no row can match
            never → no shard holds a matching row [shard-1] replica: no row can match
            no condition → several shards [shard-1 shard-2 shard-3 shard-4] replica: no condition on the shard key
            not an integer → refused [] -: invalid input syntax for type bigint: "x" 22P02
            one key, ordered → one shard [shard-4] replica: one key, in slot 5958
            no condition, ordered → refused [] -: this query over several shards is not supported: ORDER BY 0A000
            two groups, one key → one shard [shard-4] replica: one key, in slot 5958
            two groups, two keys → refused [] -: the statement combines sharded tables whose rows may be on different shards 0A000
            two groups, one never → one shard [shard-4] replica: one key, in slot 5958
            two groups, one free → refused [] -: the statement combines sharded tables whose rows may be on different shards 0A000
            needs home, no condition → refused [] -: the statement uses sharded tables together with the unsharded table t 0A000
            needs home, never → no shard holds a matching row [shard-1] replica: no row can match
            no group → several shards [shard-1 shard-2 shard-3 shard-4] replica: no condition on the shard key
        "#]],
    );
}

#[test]
fn everything_goes_to_the_only_shard() {
    let unreadable =
        facts(Command::Unreadable { complaint: "?".to_owned() }, Scope::Unknown { why: "?".to_owned() });
    let analysed = analysed(TEXT);
    let values = Values::of_text(TEXT.as_bytes(), &analysed, 0);
    for facts in [unreadable, facts(Command::Modify(Modify::Update), sharded(groups(vec![Pin::Any])))] {
        let plan = plan(&topology(1), &facts, &values, &SessionView::default()).expect("one shard");
        assert_eq!(plan.target, Target::One(ShardId(0)));
    }
}

#[test]
fn writes_and_commands() {
    let any = || sharded(groups(vec![Pin::Any]));
    let one = || sharded(groups(vec![keys(&[0])]));
    let unknown = || Scope::Unknown { why: "function f may reach sharded tables".to_owned() };
    let change = |change: &dyn Fn(&mut Sharded)| {
        let mut shape = groups(vec![keys(&[0])]);
        change(&mut shape);
        sharded(shape)
    };
    let update = Command::Modify(Modify::Update);
    check(
        &[
            ("update by key", facts(update.clone(), one())),
            ("update of all", facts(update.clone(), any())),
            ("delete of all", facts(Command::Modify(Modify::Delete), any())),
            ("merge", facts(Command::Modify(Modify::Merge), any())),
            ("update of the key", facts(update.clone(), change(&|shape| shape.updates_key = true))),
            (
                "writes a reference table",
                facts(update.clone(), change(&|shape| shape.writes_reference = true)),
            ),
            ("insert select", facts(Command::Modify(Modify::Insert), one())),
            (
                "insert select, co-located",
                facts(Command::Modify(Modify::Insert), change(&|shape| shape.colocated_insert_select = true)),
            ),
            ("reference table", facts(update.clone(), Scope::ReferenceWrite)),
            ("reference read", facts(Command::Query, Scope::Reference)),
            ("no table", facts(Command::Query, Scope::Nothing)),
            ("home", facts(update, Scope::Home)),
            ("ddl", facts(Command::Ddl(DdlKind::Transactional), Scope::Everywhere)),
            ("ddl with rows", facts(Command::Ddl(DdlKind::Transactional), any())),
            ("vacuum", facts(Command::Ddl(DdlKind::NonTransactional), Scope::Everywhere)),
            ("explain by key", facts(Command::Explain, one())),
            ("explain of all", facts(Command::Explain, any())),
            ("call by key", facts(Command::Call, one())),
            ("call", facts(Command::Call, unknown())),
            ("unreadable", facts(Command::Unreadable { complaint: "Expected: )".to_owned() }, unknown())),
            ("two-phase", facts(Command::TwoPhase, Scope::Home)),
            ("lock", facts(Command::Lock, any())),
            ("declare over all", facts(Command::Declare { name: "c".to_owned(), hold: false }, any())),
        ],
        &session(),
        &expect![[r#"
            update by key → one shard [shard-4] primary: one key, in slot 5958
            update of all → several shards, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: no condition on the shard key
            delete of all → several shards, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: no condition on the shard key
            merge → several shards, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: no condition on the shard key
            update of the key → refused [] -: the shard key of a row cannot be updated 0A000
            writes a reference table → refused [] -: one statement cannot write a reference table and use sharded tables 0A000
            insert select → one shard [shard-4] primary: one key, in slot 5958
            insert select, co-located → one shard [shard-4] primary: one key, in slot 5958
            reference table → every shard, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: reference tables only
            reference read → any shard [shard-1 shard-2 shard-3 shard-4] replica: reference tables only
            no table → any shard [shard-1 shard-2 shard-3 shard-4] replica: no table
            home → one shard [shard-1] primary: unsharded table, catalog or state of the home shard
            ddl → every shard, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: DDL
            ddl with rows → refused [] -: this DDL cannot be run on every shard alike 0A000
            vacuum → every shard, one by one, outside of a transaction [shard-1 shard-2 shard-3 shard-4] primary: DDL
            explain by key → one shard [shard-4] replica: one key, in slot 5958
            explain of all → refused [] -: EXPLAIN over several shards is not supported 0A000
            call by key → one shard [shard-4] primary: declared key argument of the function
            call → refused [] -: the statement cannot be placed on a shard 0A000
            unreadable → refused [] -: the statement cannot be placed on a shard 0A000
            two-phase → refused [] -: prepared transactions of the application's own are not supported on a cluster of several shards 0A000
            lock → one shard [shard-1] primary: no condition on the shard key
            declare over all → refused [] -: the statement over several shards is not supported 0A000
        "#]],
    );
}

#[test]
fn sessions_matter() {
    let query = facts(Command::Query, sharded(groups(vec![keys(&[0])])));
    let in_transaction = SessionView { in_transaction: true, ..session() };
    assert!(show(&query, &session()).contains("replica"));
    assert!(show(&query, &in_transaction).contains("primary"));
    assert!(show(&query, &SessionView { read_only: true, ..in_transaction }).contains("replica"));
    assert!(show(&query, &SessionView { reads_replica: false, ..session() }).contains("primary"));
    let off = SessionView { two_phase: false, ..session() };
    let cases = [
        (
            "reference table, two-phase off",
            facts(Command::Modify(Modify::Update), Scope::ReferenceWrite),
            off,
        ),
        ("lock in a transaction", facts(Command::Lock, sharded(groups(vec![Pin::Any]))), in_transaction),
        (
            "vacuum in a transaction",
            facts(Command::Ddl(DdlKind::NonTransactional), Scope::Everywhere),
            in_transaction,
        ),
    ];
    let lines = cases.map(|(name, facts, session)| format!("{name} → {}\n", show(&facts, &session)));
    expect![[r#"
        reference table, two-phase off → refused [] -: the statement writes to several shards, which needs two-phase commit (routing.two_phase is off) 0A000
        lock in a transaction → every shard, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: no condition on the shard key
        vacuum in a transaction → refused [] -: this statement cannot run inside a transaction block 25001
    "#]].assert_eq(&lines.concat());
}

#[test]
fn hints_place_or_agree() {
    let hinted = |hint_key, hint_shard| SessionView { hint_key, hint_shard, ..session() };
    let scopes: [(&str, Facts); 7] = [
        ("unknown", facts(Command::Call, Scope::Unknown { why: "?".to_owned() })),
        ("no key", facts(Command::Modify(Modify::Update), sharded(groups(vec![Pin::Any])))),
        ("key 1", facts(Command::Query, sharded(groups(vec![keys(&[0])])))),
        ("keys 1 and free", facts(Command::Query, sharded(groups(vec![keys(&[0]), Pin::Any])))),
        ("home read", facts(Command::Query, Scope::Home)),
        ("home write", facts(Command::Modify(Modify::Update), Scope::Home)),
        ("reference write", facts(Command::Modify(Modify::Update), Scope::ReferenceWrite)),
    ];
    let mut out = String::new();
    for (name, session) in [
        ("key=1", hinted(Some("1"), None)),
        ("key=2", hinted(Some("2"), None)),
        ("shard=2", hinted(None, Some("2"))),
        ("shard=shard-9", hinted(None, Some("shard-9"))),
        ("key=x", hinted(Some("x"), None)),
    ] {
        for (case, facts) in &scopes {
            out.push_str(&format!("{name}, {case} → {}\n", show(facts, &session)));
        }
    }
    expect![[r#"
        key=1, unknown → one shard [shard-4] primary: routing hint
        key=1, no key → one shard [shard-4] primary: routing hint
        key=1, key 1 → one shard [shard-4] replica: one key, in slot 5958
        key=1, keys 1 and free → one shard [shard-4] replica: routing hint
        key=1, home read → one shard [shard-1] replica: unsharded table, catalog or state of the home shard
        key=1, home write → one shard [shard-1] primary: unsharded table, catalog or state of the home shard
        key=1, reference write → every shard, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: reference tables only
        key=2, unknown → one shard [shard-2] primary: routing hint
        key=2, no key → one shard [shard-2] primary: routing hint
        key=2, key 1 → refused [] -: the routing hint names shard "shard-2", where the statement does not belong 0A000
        key=2, keys 1 and free → refused [] -: the routing hint names shard "shard-2", where the statement does not belong 0A000
        key=2, home read → one shard [shard-1] replica: unsharded table, catalog or state of the home shard
        key=2, home write → one shard [shard-1] primary: unsharded table, catalog or state of the home shard
        key=2, reference write → every shard, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: reference tables only
        shard=2, unknown → one shard [shard-2] primary: routing hint
        shard=2, no key → one shard [shard-2] primary: routing hint
        shard=2, key 1 → refused [] -: the routing hint names shard "shard-2", where the statement does not belong 0A000
        shard=2, keys 1 and free → refused [] -: the routing hint names shard "shard-2", where the statement does not belong 0A000
        shard=2, home read → refused [] -: the routing hint names shard "shard-2", where the statement does not belong 0A000
        shard=2, home write → refused [] -: the routing hint names shard "shard-2", where the statement does not belong 0A000
        shard=2, reference write → refused [] -: the routing hint names shard "shard-2", where the statement does not belong 0A000
        shard=shard-9, unknown → refused [] -: routing hint: there is no shard "shard-9" 22023
        shard=shard-9, no key → refused [] -: routing hint: there is no shard "shard-9" 22023
        shard=shard-9, key 1 → refused [] -: routing hint: there is no shard "shard-9" 22023
        shard=shard-9, keys 1 and free → refused [] -: routing hint: there is no shard "shard-9" 22023
        shard=shard-9, home read → refused [] -: routing hint: there is no shard "shard-9" 22023
        shard=shard-9, home write → refused [] -: routing hint: there is no shard "shard-9" 22023
        shard=shard-9, reference write → refused [] -: routing hint: there is no shard "shard-9" 22023
        key=x, unknown → one shard [shard-3] primary: routing hint
        key=x, no key → refused [] -: invalid input syntax for type bigint: "x" 22P02
        key=x, key 1 → refused [] -: invalid input syntax for type bigint: "x" 22P02
        key=x, keys 1 and free → refused [] -: invalid input syntax for type bigint: "x" 22P02
        key=x, home read → one shard [shard-1] replica: unsharded table, catalog or state of the home shard
        key=x, home write → one shard [shard-1] primary: unsharded table, catalog or state of the home shard
        key=x, reference write → every shard, in one transaction [shard-1 shard-2 shard-3 shard-4] primary: reference tables only
    "#]].assert_eq(&out);
}

proptest! {
    #[test]
    fn reads_ask_the_owners_of_their_keys(wanted in proptest::collection::vec(any::<i64>(), 0..9)) {
        let array = format!("{{{}}}", wanted.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
        let body = bind(&[(0, Some(array.as_bytes()))]);
        let params = BindParams::parse(&body, &[]).expect("well formed");
        let analysed = analysed("select $1");
        let values = Values::of_text(b"select $1", &analysed, 0).with_params(&params);
        let facts = facts(Command::Query, sharded(groups(vec![Pin::Array(term(ValueRef::Param(1)))])));
        let target = plan(&topology(4), &facts, &values, &session()).expect("can be placed").target;
        let mut owners: Vec<_> = wanted.iter().map(|&key| topology(4).owner(&KeyValue::Int(key))).collect();
        owners.sort_unstable();
        owners.dedup();
        let expected = match owners.as_slice() {
            [] => Target::Nowhere(ShardId(0)),
            [one] => Target::One(*one),
            several => Target::Concat(several.iter().copied().collect()),
        };
        prop_assert_eq!(target, expected);
    }

    #[test]
    fn no_bind_makes_the_planner_panic(body in proptest::collection::vec(any::<u8>(), 0..60), oid in 0..30_u32) {
        let types = [oid];
        let Ok(params) = BindParams::parse(&body, &types) else { return Ok(()) };
        let analysed = analysed("select $1");
        let values = Values::of_text(b"select $1", &analysed, 0).with_params(&params);
        for pin in [Pin::Array(term(ValueRef::Param(1))), Pin::Keys([term(ValueRef::Param(1))].into_iter().collect())] {
            let facts = facts(Command::Query, sharded(groups(vec![pin])));
            let outcome = plan(&topology(4), &facts, &values, &session());
            prop_assert_eq!(outcome, plan(&topology(4), &facts, &values, &session()));
        }
    }
}
