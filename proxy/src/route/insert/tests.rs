//! INSERTs whose rows and keys are known: what is split and drawn must add up.

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::route::testing::{analysed, bind, facts, groups, session, sharded, topology};
use crate::route::values::{BindParams, Values};
use crate::route::{plan, plan_drawn};
use crate::sql::facts::{DrawShape, Facts, InsertRow, KeyTerm, Pin, Scope};

/// How a row gives its key.
#[derive(Debug, Clone)]
enum Given {
    Literal(i64),
    Text(i64),
    Param(i64, bool),
    Default,
}

/// An INSERT with its facts, parameters and the keys that will be drawn.
struct Insert {
    text: String,
    facts: Facts,
    bind: Vec<u8>,
    drawn: Vec<String>,
    keys: Vec<i64>,
}

/// `listed`: the key column is in the column list.
fn insert(rows: &[Given], listed: bool) -> Insert {
    let mut text = format!("insert into bids (note{}", if listed { ", auction_id" } else { "" });
    let column_at = text.len();
    text.push_str(") values ");
    let start = text.len();
    let (mut shapes, mut params, mut drawn, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut literals = 0;
    for (n, given) in rows.iter().enumerate() {
        if n > 0 {
            text.push_str(",\n  ");
        }
        let row_start = text.len();
        params.push((0, format!("note {n}").into_bytes()));
        let mut used = vec![u16::try_from(params.len()).expect("few")];
        text.push_str(&format!("(${} || 'it''s $1 /*' ", params.len()));
        literals += 1;
        let separator = if listed { ", " } else { "" };
        text.push_str(separator);
        let key_start = text.len();
        let value = match given {
            Given::Literal(key) => {
                text.push_str(&key.to_string());
                literals += 1;
                ValueRef::Literal(literals - 1)
            }
            Given::Text(key) => {
                text.push_str(&format!("'{key}'"));
                literals += 1;
                ValueRef::Literal(literals - 1)
            }
            Given::Param(key, binary) => {
                let value = if *binary { key.to_be_bytes().to_vec() } else { key.to_string().into_bytes() };
                params.push((i16::from(*binary), value));
                let number = u16::try_from(params.len()).expect("few");
                text.push_str(&format!("${number}"));
                used.push(number);
                ValueRef::Param(number)
            }
            Given::Default if listed => {
                text.push_str("DEFAULT");
                ValueRef::Default
            }
            Given::Default => ValueRef::Default,
        };
        // A minus is not part of the literal.
        let negated = matches!(given, Given::Literal(key) if *key < 0);
        let draw_at = key_start..text.len();
        text.push(')');
        let key = match given {
            Given::Literal(key) | Given::Text(key) | Given::Param(key, _) => *key,
            Given::Default => {
                drawn.push((1000 + n).to_string());
                i64::try_from(1000 + n).expect("few")
            }
        };
        keys.push(key);
        shapes.push(InsertRow {
            span: row_start..text.len(),
            key: KeyTerm { value, negated, cast: None },
            params: used.into(),
            draw_at,
        });
    }
    let values = start..text.len();
    params.push((0, b"tail".to_vec()));
    let outside = u16::try_from(params.len()).expect("few");
    text.push_str(&format!(" on conflict do nothing returning ${outside}, auction_id -- $1"));
    let shape = InsertShape {
        rows: shapes,
        values,
        outside_params: [outside].into_iter().collect(),
        draw: Some(DrawShape {
            default: "nextval('s'::regclass)".to_owned(),
            type_name: "bigint".to_owned(),
            column_at: (!listed).then(|| (column_at, ", \"auction_id\"".to_owned())),
            overriding_at: None,
        }),
    };
    let mut scope = groups(vec![Pin::Insert]);
    scope.insert = Some(shape);
    let borrowed: Vec<_> = params.iter().map(|(format, value)| (*format, Some(value.as_slice()))).collect();
    let facts = facts(Command::Modify(Modify::Insert), sharded(scope));
    Insert { text, facts, bind: bind(&borrowed), drawn, keys }
}

/// Plans it, drawing if asked to.
fn planned(insert: &Insert) -> Target {
    let analysed = analysed(&insert.text);
    let params = BindParams::parse(&insert.bind, &[]).expect("well formed");
    let values = Values::of_text(insert.text.as_bytes(), &analysed, 0).with_params(&params);
    let first = plan(&topology(4), &insert.facts, &values, &session()).expect("can be placed").target;
    assert_eq!(
        Ok(&first),
        plan(&topology(4), &insert.facts, &values, &session()).map(|plan| plan.target).as_ref()
    );
    match first {
        Target::Draw(draw) => {
            assert_eq!(draw.rows, insert.drawn.len());
            plan_drawn(&topology(4), &insert.facts, &values, &session(), &insert.drawn)
                .expect("can be placed")
                .target
        }
        target => target,
    }
}

#[test]
fn an_insert_is_split_at_its_rows() {
    let rows = [Given::Param(1, true), Given::Default, Given::Literal(2), Given::Text(1)];
    let Target::Split(parts) = planned(&insert(&rows, true)) else { panic!("not split") };
    let show = |part: &Part| format!("{:?} {:?} {:?}\n{}\n", part.shard, part.params, part.rows, part.text);
    expect![[r#"
        ShardId(1) [3, 4, 6] [1, 2]
        insert into bids (note, auction_id) values ($1 || 'it''s $1 /*' , '1001'::bigint), ($2 || 'it''s $1 /*' , 2) on conflict do nothing returning $3, auction_id
        ShardId(3) [1, 2, 5, 6] [0, 3]
        insert into bids (note, auction_id) values ($1 || 'it''s $1 /*' , $2), ($3 || 'it''s $1 /*' , '1') on conflict do nothing returning $4, auction_id
    "#]].assert_eq(&parts.iter().map(show).collect::<String>());
    let Target::Split(parts) = planned(&insert(&[Given::Default], false)) else { panic!("not split") };
    expect![[r#"
        ShardId(0) [1, 2] [0]
        insert into bids (note, "auction_id") values ($1 || 'it''s $1 /*' , '1000'::bigint) on conflict do nothing returning $2, auction_id
    "#]].assert_eq(&parts.iter().map(show).collect::<String>());
}

#[test]
fn a_draw_may_be_passed_as_parameters() {
    let insert = insert(&[Given::Default, Given::Default], false);
    let analysed = analysed(&insert.text);
    let values = Values::of_text(insert.text.as_bytes(), &analysed, 0);
    let Scope::Sharded(scope) = &insert.facts.scope else { panic!("sharded") };
    let shape = scope.insert.as_ref().expect("an INSERT");
    let rewrite = draw_rewrite(&values, shape, 3).expect("keys are left to their default");
    expect![[r#"
        insert into bids (note, "auction_id") values ($1 || 'it''s $1 /*' , $4::bigint),
          ($2 || 'it''s $1 /*' , $5::bigint) on conflict do nothing returning $3, auction_id
        [ExtraParam { number: 4, row: 0 }, ExtraParam { number: 5, row: 1 }]
    "#]]
    .assert_eq(&format!("{}\n{:?}\n", rewrite.text, rewrite.extra_params));
    assert_eq!(draw_rewrite(&values, shape, u16::MAX), None);
}

fn given() -> impl Strategy<Value = Given> {
    prop_oneof![
        (0..i64::MAX).prop_map(Given::Literal),
        any::<i64>().prop_map(Given::Text),
        (any::<i64>(), any::<bool>()).prop_map(|(key, binary)| Given::Param(key, binary)),
        Just(Given::Default),
    ]
}

proptest! {
    #[test]
    fn every_row_reaches_the_owner_of_its_key(rows in proptest::collection::vec(given(), 1..12)) {
        let insert = insert(&rows, true);
        let owner = |row: usize| topology(4).owner(&KeyValue::Int(insert.keys[row]));
        match planned(&insert) {
            Target::One(shard) => prop_assert!((0..rows.len()).all(|row| owner(row) == shard)),
            Target::Split(parts) => {
                let mut seen = vec![0; rows.len()];
                for part in &parts {
                    for &row in &part.rows {
                        let row = usize::try_from(row).expect("an index");
                        seen[row] += 1;
                        prop_assert_eq!(owner(row), part.shard);
                    }
                    prop_assert_eq!(part.text.matches("|| 'it''s $1 /*'").count(), part.rows.len());
                    // Every parameter of the text is mapped, and only those.
                    for number in 1..=part.params.len() {
                        let mapped = format!("${number}");
                        prop_assert!(part.text.contains(&mapped));
                    }
                    let unmapped = format!("${} ", part.params.len() + 1);
                    prop_assert!(!part.text.contains(&unmapped));
                }
                prop_assert!(seen.iter().all(|&times| times == 1));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
