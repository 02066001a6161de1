//! Tests of the topology.

use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn shard(name: &str, port: u16) -> Shard {
    let primary = NodeAddress { host: "127.0.0.1".to_owned(), port };
    Shard { name: name.to_owned(), primary, replicas: Vec::new(), weight: 1.0 }
}

fn cluster(count: u16) -> Topology {
    Topology::new((1..=count).map(|n| shard(&format!("shard-{n}"), 5400 + n)).collect())
}

fn int(number: i64) -> KeyValue {
    KeyValue::Int(number)
}

#[test]
fn overrides_win_over_ranges_and_ranges_over_the_slot_map() {
    let mut topology = cluster(4);
    let by_slot = topology.owner(&int(42));
    assert_eq!(by_slot, topology.owner_of_slot(topology.slot_of(&int(42))));
    let other = |n: u16| ShardId((by_slot.0 + n) % 4);
    let range = |from: i64, to: i64, shard| KeyRange { from: Some(int(from)), to: Some(int(to)), shard };
    topology.range_overrides = vec![range(0, 42, Some(other(1))), range(42, 100, Some(other(2)))];
    assert_eq!(topology.owner(&int(41)), other(1));
    assert_eq!(topology.owner(&int(42)), other(2));
    topology.key_overrides.insert(int(42), other(3));
    assert_eq!(topology.owner(&int(42)), other(3));
    topology.range_overrides = vec![range(0, 100, None)];
    topology.key_overrides.clear();
    assert_eq!(topology.owner(&int(42)), by_slot);
    assert_eq!(
        topology.owner(&KeyValue::Text("42".into())),
        topology.owner_of_slot(KeyValue::Text("42".into()).slot())
    );
}

#[test]
fn ranges_overlap_as_half_open_intervals() {
    let range =
        |from: Option<i64>, to: Option<i64>| KeyRange { from: from.map(int), to: to.map(int), shard: None };
    for (a, b, expected) in [
        (range(Some(0), Some(10)), range(Some(10), None), false),
        (range(Some(0), Some(11)), range(Some(10), None), true),
        (range(None, Some(10)), range(Some(10), None), false),
        (range(None, Some(10)), range(None, Some(5)), true),
        (range(Some(3), None), range(Some(100), None), true),
    ] {
        assert_eq!(a.overlaps(&b), expected, "{a:?} {b:?}");
        assert_eq!(b.overlaps(&a), expected, "{b:?} {a:?}");
    }
}

#[test]
fn the_first_rule_that_matches_gives_a_table_its_kind() {
    let mut topology = cluster(1);
    let key = |key: &str| TableKind::Sharded { key: key.to_owned(), key_type: None };
    topology.tables = vec![
        TableRule { matches: TableMatch::Name("users".into()), kind: TableKind::Reference },
        TableRule { matches: TableMatch::HasColumn("auction_id".into()), kind: key("auction_id") },
        TableRule { matches: TableMatch::Pattern("*".into()), kind: TableKind::Unsharded },
    ];
    let has = |column: &str| column == "auction_id";
    assert_eq!(topology.table_kind("public", "users", &has), TableKind::Reference);
    assert_eq!(topology.table_kind("public", "bids", &has), key("auction_id"));
    assert_eq!(topology.table_kind("public", "bids", &|_| false), TableKind::Unsharded);
    for schema in RESERVED_SCHEMAS {
        assert_eq!(topology.table_kind(schema, "users", &has), TableKind::Unsharded, "{schema}");
    }
}

#[test]
fn a_stored_map_survives_another_order_of_shards() {
    let topology = cluster(3);
    let text = StoredMap::of(&topology).to_string();
    let stored: StoredMap = text.parse().expect("it was written by us");
    assert_eq!(stored, StoredMap::of(&topology));
    let mut turned = topology.clone();
    turned.shards.rotate_left(1);
    turned.shards.push(shard("shard-4", 5404));
    let turned = turned.with_stored(&stored).expect("all shards are configured");
    for slot in Slot::all() {
        let name = |t: &Topology| t.shard(t.owner_of_slot(slot)).map(|s| s.name.clone());
        assert_eq!(name(&topology), name(&turned));
    }
    assert!(turned.check().is_empty());
    let gone = cluster(2).with_stored(&stored).map(|_| ());
    expect![[r#"Err(UnknownShard { name: "shard-3", slots: 5461 })"#]].assert_eq(&format!("{gone:?}"));
}

#[test]
fn a_stored_map_is_one_text_for_serde() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Row {
        map: StoredMap,
    }
    let map = StoredMap::of(&cluster(2));
    let written = toml::to_string(&Row { map: map.clone() }).expect("it is a text");
    assert!(written.starts_with("map = \"gavel-slots/1 epoch=1 shards=shard-1,shard-2 slots="));
    assert!(written.len() < 32_768, "{} bytes", written.len());
    let read: Row = toml::from_str(&written).expect("it was written by us");
    assert_eq!(read.map, map);
    assert!(toml::from_str::<Row>("map = 'gavel-slots/1'").is_err());
}

#[test]
fn a_damaged_stored_map_is_refused() {
    let head = "gavel-slots/1 epoch=1 shards=a,b slots=";
    assert!(format!("{head}0*16384").parse::<StoredMap>().is_ok());
    for bad in [
        String::new(),
        "gavel-slots/2 epoch=1 shards=a slots=0*16384".to_owned(),
        "gavel-slots/1 epoch=x shards=a slots=0*16384".to_owned(),
        format!("{head}0*16383"),
        format!("{head}0*16385"),
        format!("{head}0*16384,1"),
        format!("{head}2*16384"),
        format!("{head}0*,1"),
        format!("{head}0*99999999"),
        head.to_owned(),
    ] {
        assert!(bad.parse::<StoredMap>().is_err(), "{bad}");
    }
}

#[test]
fn a_diff_names_what_changed() {
    let old = cluster(2);
    assert!(Diff::between(&old, &old).is_empty());
    let mut new = cluster(3);
    new.slot_map = ring::propose(&ring::weights(&new.shards), Some(&old.slot_map));
    new.shards[0].weight = 2.0;
    new.key_overrides.insert(int(1), ShardId(0));
    expect![[r#"
        added: shard-3
        changed: shard-1
        2730 of 16384 slots move from shard-1 to shard-3
        2731 of 16384 slots move from shard-2 to shard-3
        overrides change
    "#]]
    .assert_eq(&Diff::between(&old, &new).to_string());
}

#[test]
fn the_checker_sees_what_is_wrong() {
    assert!(cluster(4).check().is_empty());
    let mut topology = cluster(2);
    topology.shards[1] = topology.shards[0].clone();
    topology.shards[1].weight = f64::NAN;
    topology.slot_map[7] = ShardId(9);
    topology.slot_map.pop();
    topology.key_overrides.insert(int(1), ShardId(7));
    let flaws: Vec<String> = topology.check().iter().map(ToString::to_string).collect();
    expect![[r#"
        shards[2].name: "shard-1" is taken; rename it
        shards[2].weight: NaN is no weight; write 1.0
        shards[2]: 127.0.0.1:5401 is named twice; name each node once
        slot_map: has 16383 slots instead of 16384; store a whole slot map
        slot_map: slot 7 belongs to a shard that does not exist; give it to a configured shard
        overrides: one names a shard that does not exist; name a configured shard"#]]
    .assert_eq(&flaws.join("\n"));
    assert!(!Topology::new(Vec::new()).check().is_empty());
}

#[test]
fn addresses_read_back_as_written() {
    for text in ["127.0.0.1:5432", "[::1]:5432", "db.example.com:1", "/run/postgresql:5432"] {
        assert_eq!(text.parse::<NodeAddress>().map(|node| node.to_string()).as_deref(), Ok(text));
    }
    assert!("nowhere".parse::<NodeAddress>().is_err());
    assert!(":5432".parse::<NodeAddress>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn stored_maps_read_back(owners in proptest::collection::vec(0_u16..5, usize::from(SLOTS)), epoch in any::<u64>()) {
        let names = (0..5).map(|n| format!("s{n}")).collect();
        let stored = StoredMap { epoch, names, owners };
        prop_assert_eq!(stored.to_string().parse::<StoredMap>(), Ok(stored));
    }
}
