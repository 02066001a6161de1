//! Which triggers, rules, keys and expressions are trusted, as tables of cases.

use std::sync::Arc;

use router_config::key::KeyType;

use super::*;
use crate::sql::schema::{Column, Function, Reach, RelationKind, Stored};

const AUCTIONS: u32 = 1;
const BIDS: u32 = 2;
const USERS: u32 = 3;
const NOTES: u32 = 4;
const BIDS_PART: u32 = 5;

fn relation(oid: u32, name: &str, placement: Placement, columns: &[&str]) -> Arc<Relation> {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        type_name: "bigint".to_owned(),
        type_oid: 20,
        not_null: false,
        default: None,
        identity_always: false,
        declared: String::new(),
        generated: false,
        stored: Stored::default(),
    };
    Arc::new(Relation {
        schema: "public".to_owned(),
        name: name.to_owned(),
        oid,
        kind: RelationKind::Table,
        columns: columns.iter().map(column).collect(),
        placement,
        definition: None,
    })
}

fn schema() -> Schema {
    let sharded = |key_column| Placement::Sharded { key_column, key_type: KeyType::Int8 };
    let mut schema = Schema { default_search_path: vec!["public".to_owned()], ..Schema::default() };
    for relation in [
        relation(AUCTIONS, "auctions", sharded(0), &["auction_id", "title", "top"]),
        relation(BIDS, "bids", sharded(1), &["id", "auction_id", "amount"]),
        relation(BIDS_PART, "bids_part", sharded(1), &["id", "auction_id", "amount"]),
        relation(USERS, "users", Placement::Reference, &["user_id", "name"]),
        relation(NOTES, "notes", Placement::Unsharded, &["id", "text"]),
    ] {
        schema.relations.insert(("public".to_owned(), relation.name.clone()), relation);
    }
    let built_in = Function {
        volatile: false,
        built_in: true,
        aggregate: false,
        set_returning: false,
        touches_sharded: Touches::No,
        key_argument: None,
        reach: Reach::default(),
    };
    for (name, function) in [
        ("now", built_in),
        ("lower", built_in),
        ("max", Function { aggregate: true, ..built_in }),
        ("random", Function { volatile: true, ..built_in }),
        ("pg_notify", Function { volatile: true, ..built_in }),
        ("nextval", Function { volatile: true, ..built_in }),
        ("harmless", Function { built_in: false, volatile: true, ..built_in }),
        (
            "reaches",
            Function { built_in: false, volatile: true, touches_sharded: Touches::Unknown, ..built_in },
        ),
    ] {
        schema.functions.insert(name.to_owned(), function);
    }
    schema
}

const BEFORE_INSERT: i32 = 1 | 2 | 4;
const AFTER_INSERT: i32 = 1 | 4;

fn trigger(relation: u32, bits: i32, body: &str) -> Trigger {
    Trigger {
        relation,
        name: "t".to_owned(),
        function: "f".to_owned(),
        bits,
        language: "plpgsql".to_owned(),
        body: body.to_owned(),
        definition: "CREATE TRIGGER t EXECUTE FUNCTION public.f()".to_owned(),
        search_path: None,
    }
}

fn found(set_off: &SetOff, relation: u32, deed: Deed) -> Option<String> {
    judge(&schema(), set_off).hazards.get(&relation).and_then(|hazards| hazards.of(deed)).map(str::to_owned)
}

/// What is wrong with a trigger of this body.
fn judged(relation: u32, bits: i32, body: &str) -> Option<String> {
    let set_off = SetOff { triggers: vec![trigger(relation, bits, body)], ..SetOff::default() };
    found(&set_off, relation, Deed::Insert)
}

#[test]
fn triggers_that_stay_with_the_row_are_trusted() {
    for body in [
        "BEGIN RETURN NEW; END",
        "BEGIN NEW.amount := NEW.amount * 2; RETURN NEW; END",
        "BEGIN IF NEW.amount < 0 THEN RAISE EXCEPTION 'bids of auctions %', NEW.auction_id; END IF; RETURN NEW; END",
        "BEGIN UPDATE auctions SET top = NEW.amount WHERE auction_id = NEW.auction_id AND top < NEW.amount; RETURN NULL; END",
        "DECLARE m int; BEGIN SELECT max(amount) INTO m FROM bids WHERE auction_id = NEW.auction_id; RETURN NEW; END",
        "BEGIN INSERT INTO auctions (auction_id, title) VALUES (NEW.auction_id, 'x') ON CONFLICT DO NOTHING; RETURN NEW; END",
        "BEGIN INSERT INTO bids_part VALUES (NEW.*); RETURN NEW; END",
        "BEGIN INSERT INTO bids_part SELECT NEW.*; RETURN NEW; END",
        "BEGIN IF TG_OP = 'DELETE' THEN DELETE FROM bids_part WHERE bids_part.auction_id = OLD.auction_id; END IF; \
         RETURN COALESCE(NEW, OLD); END",
        "BEGIN PERFORM 1 FROM users WHERE user_id = NEW.id; RETURN NEW; END",
        "BEGIN PERFORM pg_notify('bids', NEW.id::text); NOTIFY x; RETURN NEW; END",
        "BEGIN NEW.amount := harmless(NEW.amount); RETURN NEW; END",
        "BEGIN RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END",
    ] {
        assert_eq!(judged(BIDS, BEFORE_INSERT, body), None, "{body}");
    }
}

#[test]
fn triggers_that_change_the_key_or_reach_other_rows_are_not() {
    for (body, expected) in [
        ("BEGIN NEW.auction_id := NEW.auction_id + 1; RETURN NEW; END", "may change the shard key"),
        ("BEGIN NEW := OLD; RETURN NEW; END", "may change the shard key"),
        ("BEGIN SELECT * INTO NEW FROM users; RETURN NEW; END", "may change the shard key"),
        ("DECLARE r bids; BEGIN r := NEW; r.auction_id := 1; RETURN r; END", "may return a row"),
        ("BEGIN RETURN (1, 2, 3)::bids; END", "may return a row"),
        ("BEGIN RETURN jsonb_populate_record(NEW, '{}'); END", "may return a row"),
        ("BEGIN EXECUTE 'x'; RETURN NEW; END", "computes"),
        ("BEGIN INSERT INTO notes VALUES (NEW.id, TG_OP); RETURN NEW; END", "home shard only"),
        ("BEGIN UPDATE users SET name = 'x'; RETURN NEW; END", "reference table"),
        ("BEGIN UPDATE auctions SET top = 1; RETURN NEW; END", "another shard key"),
        ("BEGIN UPDATE auctions SET top = 1 WHERE auction_id = NEW.id; RETURN NEW; END", "another shard key"),
        ("BEGIN INSERT INTO auctions VALUES (NEW.id, 'x', 1); RETURN NEW; END", "another shard key"),
        ("BEGIN PERFORM reaches(1); RETURN NEW; END", "reaches"),
        ("BEGIN NEW.id := nextval('s'); RETURN NEW; END", "home shard only"),
        ("BEGIN INSERT INTO unheard_of VALUES (1); RETURN NEW; END", "unheard_of"),
        ("BEGIN TRUNCATE notes; RETURN NEW; END", "not looked into"),
        ("BEGIN FOR i IN 1..(SELECT count(*) FROM notes) LOOP NULL; END LOOP; RETURN NEW; END", "notes"),
    ] {
        let why = judged(BIDS, BEFORE_INSERT, body).unwrap_or_else(|| panic!("trusted: {body}"));
        assert!(
            why.contains(expected) && why.contains("the trigger t of public.bids calls f()"),
            "{body}: {why}"
        );
    }
    let python = Trigger { language: "plpython3u".to_owned(), ..trigger(BIDS, AFTER_INSERT, "pass") };
    let mut set_off = SetOff { triggers: vec![python], ..SetOff::default() };
    assert!(found(&set_off, BIDS, Deed::Insert).is_some_and(|why| why.contains("plpython3u")));
    assert_eq!(found(&set_off, BIDS, Deed::Update), None, "an INSERT trigger");
    set_off.trusted.insert("f".to_owned());
    assert_eq!(found(&set_off, BIDS, Deed::Insert), None, "the configuration vouches for it");
}

#[test]
fn on_other_tables_a_trigger_keeps_to_the_home_shard_or_does_the_same_everywhere() {
    for (relation, body, trusted) in [
        (NOTES, "BEGIN INSERT INTO notes VALUES (1, now()); RETURN NEW; END", true),
        (NOTES, "BEGIN NEW.id := nextval('s'); RETURN NEW; END", true),
        (NOTES, "BEGIN INSERT INTO bids VALUES (1, 2, 3); RETURN NEW; END", false),
        (NOTES, "BEGIN PERFORM 1 FROM auctions; RETURN NEW; END", false),
        (NOTES, "BEGIN UPDATE users SET name = 'x'; RETURN NEW; END", false),
        (USERS, "BEGIN NEW.name := lower(NEW.name); RETURN NEW; END", true),
        (USERS, "BEGIN UPDATE users SET name = 'x' WHERE user_id = NEW.user_id + 1; RETURN NEW; END", true),
        (USERS, "BEGIN NEW.name := now(); RETURN NEW; END", false),
        (USERS, "BEGIN NEW.name := random(); RETURN NEW; END", false),
        (USERS, "BEGIN INSERT INTO notes VALUES (1, 'x'); RETURN NEW; END", false),
        (USERS, "BEGIN PERFORM 1 FROM notes; RETURN NEW; END", false),
    ] {
        assert_eq!(judged(relation, BEFORE_INSERT, body).is_none(), trusted, "{relation} {body}");
    }
}

#[test]
fn what_is_set_off_sets_off_more() {
    let bad = "BEGIN INSERT INTO notes VALUES (1, 'x'); RETURN NULL; END";
    let deleted = trigger(BIDS_PART, 1 | 8, bad);
    let cascade = ForeignKey {
        oid: 1,
        name: "k".to_owned(),
        child: BIDS,
        parent: AUCTIONS,
        actions: ["a".to_owned(), "c".to_owned()],
        columns: vec![["auction_id", "auction_id"].map(str::to_owned)],
    };
    let set_off = SetOff {
        triggers: vec![deleted],
        foreign_keys: vec![cascade],
        parts: vec![(BIDS, BIDS_PART)],
        ..SetOff::default()
    };
    assert!(found(&set_off, AUCTIONS, Deed::Delete).is_some(), "its bids' part has the trigger");
    assert_eq!(found(&set_off, AUCTIONS, Deed::Update), None);
    let from = trigger(
        AUCTIONS,
        AFTER_INSERT,
        "BEGIN INSERT INTO bids_part VALUES (1, NEW.auction_id, 2); RETURN NULL; END",
    );
    let set_off = SetOff { triggers: vec![trigger(BIDS_PART, AFTER_INSERT, bad), from], ..SetOff::default() };
    assert!(found(&set_off, AUCTIONS, Deed::Insert).is_some(), "a trigger that fires another");
}

#[test]
fn foreign_keys_do_not_change_shard_keys() {
    for (action, columns, deed, trusted) in [
        // It bars what assigns the column, not every UPDATE.
        (["c", "a"], "auction_id", Deed::Update, true),
        (["a", "n"], "auction_id", Deed::Delete, false),
        (["a", "d"], "auction_id", Deed::Delete, false),
        (["a", "c"], "auction_id", Deed::Delete, true),
        (["c", "n"], "amount", Deed::Delete, true),
    ] {
        let key = ForeignKey {
            oid: 1,
            name: "k".to_owned(),
            child: BIDS,
            parent: USERS,
            actions: action.map(str::to_owned),
            columns: vec![[columns, "auction_id"].map(str::to_owned)],
        };
        let set_off = SetOff { foreign_keys: vec![key], ..SetOff::default() };
        assert_eq!(found(&set_off, USERS, deed).is_none(), trusted, "{action:?} {columns}");
        let column = (USERS, "auction_id".to_owned());
        let barred = judge(&schema(), &set_off).column_hazards.contains_key(&column);
        assert_eq!(barred, action[0] == "c" && columns == "auction_id", "{action:?} {columns}");
    }
}

#[test]
fn rules_and_policies() {
    let rule = |relation, definition: &str| SetOff {
        rules: vec![Rule {
            relation,
            name: "r".to_owned(),
            event: "3".to_owned(),
            definition: definition.to_owned(),
        }],
        ..SetOff::default()
    };
    let log = "CREATE RULE r AS ON INSERT TO notes DO INSERT INTO notes VALUES (1)";
    assert_eq!(found(&rule(NOTES, log), NOTES, Deed::Insert), None);
    assert!(found(&rule(NOTES, "… DO INSERT INTO bids VALUES (1)"), NOTES, Deed::Insert).is_some());
    assert!(found(&rule(BIDS, "… DO INSERT INTO notes VALUES (1)"), BIDS, Deed::Insert).is_some());
    for (relation, text, trusted) in [
        (BIDS, "(amount > 3)", true),
        (BIDS, "(EXISTS ( SELECT 1 FROM public.users WHERE (users.user_id = bids.id)))", true),
        (BIDS, "(EXISTS ( SELECT 1 FROM public.notes WHERE (notes.id = bids.id)))", false),
        (BIDS, "public.reaches(id)", false),
        (NOTES, "(EXISTS ( SELECT 1 FROM public.notes n WHERE (n.id = notes.id)))", true),
        (NOTES, "(EXISTS ( SELECT 1 FROM public.bids WHERE (bids.id = notes.id)))", false),
        (USERS, "(EXISTS ( SELECT 1 FROM public.notes WHERE (notes.id = users.user_id)))", false),
    ] {
        let expression = Expression {
            relation,
            what: "the policy p".to_owned(),
            text: text.to_owned(),
            deeds: Deed::ALL.to_vec(),
        };
        let set_off = SetOff { expressions: vec![expression], ..SetOff::default() };
        assert_eq!(found(&set_off, relation, Deed::Read).is_none(), trusted, "{text}");
    }
}
