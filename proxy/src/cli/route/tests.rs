//! `gavel route` over a small configuration.

use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::*;

const CONFIG: &str = r#"
[listen]
address = "127.0.0.1:6432"
[[databases]]
name = "*"
kind = "sharded"
[[shards]]
name = "a"
primary = "127.0.0.1:5433"
[[shards]]
name = "b"
primary = "127.0.0.1:5434"
[[tables]]
name = "users"
kind = "reference"
[[tables]]
column = "auction_id"
kind = "sharded"
[[functions]]
name = "place_bid"
key_argument = 1
"#;

fn check(sql: &str, change: &dyn Fn(&mut RouteArgs), expected: &Expect) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut args = args(&directory, sql);
    change(&mut args);
    let mut out = Vec::new();
    let placed = run(&args, &mut out).expect("a plan");
    let out = String::from_utf8(out).expect("UTF-8").replace(CAVEAT, "(caveat)");
    expected.assert_eq(&format!("{out}all placed: {placed}\n"));
}

#[test]
fn statements_are_planned_by_the_rules() {
    let same = |_: &mut RouteArgs| {};
    check(
        "select * from bids where auction_id = 42; update bids set x = 1",
        &same,
        &expect![[r#"
            Plan: one shard
            Shards: a
            Role: replica
            Reason: one key, in slot 16072
            Key: 42
            Slot: 16072

            Plan: several shards, in one transaction
            Shards: a, b
            Role: primary
            Reason: no condition on the shard key
            Merge: answers one after the other, counts added up

            (caveat)
            all placed: true
        "#]],
    );
    check(
        "select place_bid(42, 1); select * from users; select * from other",
        &same,
        &expect![[r#"
            Plan: one shard
            Shards: a
            Role: primary
            Reason: declared key argument of the function

            Plan: any shard
            Shards: a, b
            Role: replica
            Reason: reference tables only

            Plan: one shard
            Shards: a
            Role: replica
            Reason: unsharded table, catalog or state of the home shard

            (caveat)
            all placed: true
        "#]],
    );
}

#[test]
fn parameters_tables_and_hints_are_taken() {
    check(
        "insert into bids (auction_id, x) values (1, 2), (2, 3), ($1, 4)",
        &|args| args.params = vec!["7".into()],
        &expect![[r#"
            Plan: one shard
            Shards: a
            Role: primary
            Reason: 3 rows of VALUES

            (caveat)
            all placed: true
        "#]],
    );
    check(
        "select x from bids",
        &|args| args.tables = vec!["bids".into()],
        &expect![[r#"
        Plan: several shards
        Shards: a, b
        Role: replica
        Reason: no condition on the shard key
        Merge: answers one after the other

        (caveat)
        all placed: true
    "#]],
    );
    check(
        "/* gavel: shard=b */ selekt x",
        &|args| args.json = true,
        &expect![[r#"
            {"plan":"one shard","shards":["b"],"role":"primary","reason":"routing hint","detail":"The text was not parsed: it begins like no statement that the proxy looks into.","hint":"It is passed on as it is: the server says what is wrong with it, if anything is."}
            all placed: true
        "#]],
    );
}

/// Arguments for `sql` and a file of this text.
fn args(directory: &tempfile::TempDir, sql: &str) -> RouteArgs {
    let config = directory.path().join("gavel.toml");
    std::fs::write(&config, CONFIG).expect("a file");
    RouteArgs { config, sql: sql.to_owned(), tables: Vec::new(), params: Vec::new(), json: false }
}

#[test]
fn a_parameter_without_a_value_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let args = args(&directory, "select * from bids where auction_id = $1");
    let error = run(&args, &mut Vec::new()).expect_err("no value");
    assert_eq!(
        error.to_string(),
        "parameter $1 of the statement has no value: 0 given; add --param VALUE for each, in order"
    );
}

#[test]
fn a_value_without_a_parameter_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let args = |sql: &str| RouteArgs { params: vec!["1".into(), "2".into()], ..args(&directory, sql) };
    let error = run(&args("select * from bids where auction_id = $1"), &mut Vec::new()).expect_err("surplus");
    assert_eq!(
        error.to_string(),
        "the statement has no parameter above $1, values given: 2; leave out the others"
    );
    let error = run(&args("select 1"), &mut Vec::new()).expect_err("no parameters");
    assert!(error.to_string().starts_with("the statement has no parameters, values given: 2"), "{error}");
}

#[test]
fn an_empty_name_of_a_file_is_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let args = RouteArgs { config: PathBuf::new(), ..args(&directory, "select 1") };
    let error = run(&args, &mut Vec::new()).expect_err("no file");
    assert!(error.to_string().starts_with("--config FILE is missing"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let args = RouteArgs { config: PathBuf::from("/nowhere/gavel.toml"), ..args(&directory, "") };
    let error = run(&args, &mut Vec::new()).expect_err("no such file");
    assert!(error.to_string().starts_with("cannot read /nowhere/gavel.toml"));
}

#[test]
fn a_text_that_cannot_be_parsed_is_said_to_be_one() {
    check(
        "selec",
        &|_: &mut RouteArgs| {},
        &expect![[r#"
            Plan: one shard
            Shards: a
            Role: primary
            Reason: unsharded table, catalog or state of the home shard
            Detail: The text was not parsed: it begins like no statement that the proxy looks into.
            Hint: It is passed on as it is: the server says what is wrong with it, if anything is.

            (caveat)
            all placed: true
        "#]],
    );
}
