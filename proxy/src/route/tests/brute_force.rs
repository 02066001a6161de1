//! Plans against brute force: over random rows, a query run on the shards of its plan, each with its own rows alone, has the rows
//! that it has over all of them.

use proptest::prelude::*;
use router_config::key::KeyValue;
use router_config::topology::{ShardId, Topology};

use crate::route::combine::Combine;
use crate::route::plan;
use crate::route::plan::{ShardSet, Target};
use crate::route::testing::{analysed_with, bind, context, schema, session, topology};
use crate::route::values::{BindParams, Values};
use crate::sql::combine;

const SHARDS: usize = 4;

/// A row of `auctions`, or of `bids`: its key, and another value.
type Row = (i64, Option<i64>);

/// What a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// `a.auction_id`
    AuctionKey,
    /// `length(a.title)`: no key, and a column of the other table has its values.
    AuctionLength,
    /// `b.auction_id`
    BidKey,
    /// `b.user_id`
    BidUser,
}

impl Column {
    const ALL: [Self; 4] = [Self::AuctionKey, Self::AuctionLength, Self::BidKey, Self::BidUser];

    fn sql(self) -> &'static str {
        match self {
            Self::AuctionKey => "a.auction_id",
            Self::AuctionLength => "a.length",
            Self::BidKey => "b.auction_id",
            Self::BidUser => "b.user_id",
        }
    }

    /// Its value, of an auction and a bid; `None` in place of a row is the row of NULLs of an outer join.
    fn of(self, auction: Option<&Row>, bid: Option<&Row>) -> Option<i64> {
        match self {
            Self::AuctionKey => auction.map(|row| row.0),
            Self::AuctionLength => auction.and_then(|row| row.1),
            Self::BidKey => bid.map(|row| row.0),
            Self::BidUser => bid.and_then(|row| row.1),
        }
    }

    fn is_auctions(self) -> bool {
        matches!(self, Self::AuctionKey | Self::AuctionLength)
    }
}

/// A value in one of its spellings.
#[derive(Debug, Clone, Copy)]
struct Value {
    value: Option<i64>,
    spelling: u8,
}

impl Value {
    /// As SQL; a parameter is added to the others.
    fn sql(self, params: &mut Vec<Option<String>>) -> String {
        let Some(value) = self.value else { return "null".to_owned() };
        match self.spelling {
            0 => value.to_string(),
            1 => format!("'{value}'"),
            2 => format!("' {value} '::bigint"),
            3 => format!("{value}.0"),
            4 => format!("'{value}'::smallint"),
            5 => format!("({value}.00)::numeric"),
            6 => format!("cast('{value}' as int)"),
            _ => {
                params.push(Some(value.to_string()));
                format!("${}::bigint", params.len())
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Condition {
    /// Column and value, `=` or `<>`, the column on the right or on the left.
    Equal(Column, Value, bool, bool),
    In(Column, Vec<Value>, bool),
    /// `= ANY` of an array: a literal, a constructor or a parameter.
    Any(Column, Vec<Option<i64>>, u8),
    /// Column plus a number equals a number.
    Plus(Column, i64, i64),
    /// No integer is equal to it.
    Half(Column, i64),
    /// A comparison of two columns.
    Columns(Column, Column),
    Between(Column, i64, i64),
    IsNull(Column),
    Constant(Option<bool>),
    Not(Box<Self>),
    IsTrue(Box<Self>),
    Case(Box<Self>, Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

impl Condition {
    fn sql(&self, params: &mut Vec<Option<String>>) -> String {
        match self {
            Self::Equal(column, value, equal, flipped) => {
                let (column, value) = (column.sql(), value.sql(params));
                let operator = if *equal { "=" } else { "<>" };
                if *flipped {
                    format!("{value} {operator} {column}")
                } else {
                    format!("{column} {operator} {value}")
                }
            }
            Self::In(column, values, not) => {
                let values: Vec<_> = values.iter().map(|value| value.sql(params)).collect();
                format!("{} {}in ({})", column.sql(), if *not { "not " } else { "" }, values.join(", "))
            }
            Self::Any(column, values, form) => {
                let items: Vec<_> =
                    values.iter().map(|v| v.map_or("null".to_owned(), |v| v.to_string())).collect();
                let items = items.join(",");
                let array = match form {
                    0 => format!("'{{{items}}}'"),
                    1 => format!("array[{items}]::bigint[]"),
                    _ => {
                        params.push(Some(format!("{{{items}}}")));
                        format!("${}::bigint[]", params.len())
                    }
                };
                format!("{} = any ({array})", column.sql())
            }
            Self::Plus(column, add, sum) => format!("{} + {add} = {sum}", column.sql()),
            Self::Half(column, value) => format!("{} = {value}.5", column.sql()),
            Self::Columns(one, other) => format!("{} = {}", one.sql(), other.sql()),
            Self::Between(column, low, high) => format!("{} between {low} and {high}", column.sql()),
            Self::IsNull(column) => format!("{} is null", column.sql()),
            Self::Constant(value) => value.map_or("null::bool".to_owned(), |value| value.to_string()),
            Self::Not(inner) => format!("not ({})", inner.sql(params)),
            Self::IsTrue(inner) => format!("({}) is true", inner.sql(params)),
            Self::Case(when, then) => format!("case when {} then {} end", when.sql(params), then.sql(params)),
            Self::And(one, other) => format!("({} and {})", one.sql(params), other.sql(params)),
            Self::Or(one, other) => format!("({} or {})", one.sql(params), other.sql(params)),
        }
    }

    /// As PostgreSQL computes it; `None` is NULL.
    fn holds(&self, auction: Option<&Row>, bid: Option<&Row>) -> Option<bool> {
        let of = |column: &Column| column.of(auction, bid);
        let equals = |column: &Column, value: Option<i64>| Some(of(column)? == value?);
        let one_of = |column: &Column, values: &mut dyn Iterator<Item = Option<i64>>| {
            values.map(|value| equals(column, value)).reduce(or).unwrap_or(Some(false))
        };
        match self {
            Self::Equal(column, value, equal, _) => Some(equals(column, value.value)? == *equal),
            Self::In(column, values, not) => {
                Some(one_of(column, &mut values.iter().map(|v| v.value))? != *not)
            }
            Self::Any(column, values, _) => one_of(column, &mut values.iter().copied()),
            Self::Plus(column, add, sum) => Some(of(column)? + add == *sum),
            Self::Half(column, _) => of(column).map(|_| false),
            Self::Columns(one, other) => equals(one, of(other)),
            Self::Between(column, low, high) => Some((*low..=*high).contains(&of(column)?)),
            Self::IsNull(column) => Some(of(column).is_none()),
            Self::Constant(value) => *value,
            Self::Not(inner) => inner.holds(auction, bid).map(|holds| !holds),
            Self::IsTrue(inner) => Some(inner.holds(auction, bid) == Some(true)),
            Self::Case(when, then) => {
                if when.holds(auction, bid) == Some(true) {
                    then.holds(auction, bid)
                } else {
                    None
                }
            }
            Self::And(one, other) => {
                let not = |holds: Option<bool>| holds.map(|holds| !holds);
                not(or(not(one.holds(auction, bid)), not(other.holds(auction, bid))))
            }
            Self::Or(one, other) => or(one.holds(auction, bid), other.holds(auction, bid)),
        }
    }
}

fn or(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        (None, _) | (_, None) => None,
    }
}

/// A statement with up to two conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Auctions,
    Inner,
    Comma,
    Left,
    Exists,
    NotExists,
    Update,
    Delete,
    DeleteUsing,
}

impl Shape {
    const ALL: [Self; 9] = [
        Self::Auctions,
        Self::Inner,
        Self::Comma,
        Self::Left,
        Self::Exists,
        Self::NotExists,
        Self::Update,
        Self::Delete,
        Self::DeleteUsing,
    ];

    fn sql(self, on: &Condition, filter: &Condition, params: &mut Vec<Option<String>>) -> String {
        let (on, filter) = (on.sql(params), filter.sql(params));
        match self {
            Self::Auctions => format!("select * from auctions a where {filter}"),
            Self::Inner => format!("select a.*, b.* from auctions a join bids b on {on} where {filter}"),
            Self::Comma => format!("select a.*, b.* from auctions a, bids b where {on} and ({filter})"),
            Self::Left => format!("select a.*, b.* from auctions a left join bids b on {on} where {filter}"),
            Self::Exists => {
                format!("select * from auctions a where exists (select from bids b where {on}) and {filter}")
            }
            Self::NotExists => {
                format!(
                    "select * from auctions a where not exists (select from bids b where {on}) and {filter}"
                )
            }
            Self::Update => format!("update auctions a set title = 'new' where {filter}"),
            Self::Delete => {
                format!("delete from auctions a where exists (select from bids b where {on}) and {filter}")
            }
            Self::DeleteUsing => format!("delete from auctions a using bids b where {on} and ({filter})"),
        }
    }

    /// Whether the second condition may look at bids.
    fn filters_bids(self) -> bool {
        matches!(self, Self::Inner | Self::Comma | Self::Left | Self::DeleteUsing)
    }

    fn writes(self) -> bool {
        matches!(self, Self::Update | Self::Delete | Self::DeleteUsing)
    }

    /// The rows that are answered or written, in order.
    fn rows(
        self,
        auctions: &[Row],
        bids: &[Row],
        on: &Condition,
        filter: &Condition,
    ) -> Vec<(Row, Option<Row>)> {
        let joined = |auction: &Row, bid: &&Row| on.holds(Some(auction), Some(*bid)) == Some(true);
        let mut rows = Vec::new();
        for auction in auctions {
            let partners: Vec<&Row> = bids.iter().filter(|bid| joined(auction, bid)).collect();
            let kept = |bid: Option<&Row>| filter.holds(Some(auction), bid) == Some(true);
            match self {
                Self::Auctions | Self::Update => rows.extend(kept(None).then_some((*auction, None))),
                Self::Inner | Self::Comma => {
                    rows.extend(
                        partners.into_iter().filter(|bid| kept(Some(bid))).map(|bid| (*auction, Some(*bid))),
                    );
                }
                Self::Left if partners.is_empty() => rows.extend(kept(None).then_some((*auction, None))),
                Self::Left => {
                    rows.extend(
                        partners.into_iter().filter(|bid| kept(Some(bid))).map(|bid| (*auction, Some(*bid))),
                    );
                }
                Self::Exists | Self::Delete => {
                    rows.extend((!partners.is_empty() && kept(None)).then_some((*auction, None)));
                }
                Self::NotExists => {
                    rows.extend((partners.is_empty() && kept(None)).then_some((*auction, None)))
                }
                Self::DeleteUsing => {
                    let any = partners.into_iter().any(|bid| kept(Some(bid)));
                    rows.extend(any.then_some((*auction, None)));
                }
            }
        }
        rows.sort_unstable();
        rows
    }
}

/// The plan's target, where it has none what is gathered for it; `None`: it is refused.
fn target(topology: &Topology, sql: &str, params: &[Option<String>]) -> Option<Target> {
    let mut schema = schema();
    let auctions = ("public".to_owned(), "auctions".to_owned());
    let mut relation = schema.relations.get(&auctions).expect("a table").as_ref().clone();
    let mut length = relation.columns[0].clone();
    "length".clone_into(&mut length.name);
    length.default = None;
    relation.columns.push(length);
    // Tables are told apart by it.
    relation.oid += 1;
    schema.relations.insert(auctions, relation.into());
    let analysed = analysed_with(sql, &schema);
    let body: Vec<_> = params.iter().map(|param| (0, param.as_ref().map(String::as_bytes))).collect();
    let body = bind(&body);
    let bound = BindParams::parse(&body, &[]).expect("well formed");
    let values = Values::of_text(sql.as_bytes(), &analysed, 0).with_params(&bound);
    let planned = plan(topology, &analysed.statements()[0].facts, &values, &session());
    planned.map(|plan| plan.target).ok().or_else(|| {
        let search_path = ["public".to_owned()];
        let shape = combine::shape(sql, &context(&schema, &search_path), false).ok()?;
        Some(Target::Combine(Box::new(Combine::of(&shape, topology, &values).ok()?)))
    })
}

fn owned(topology: &Topology, rows: &[Row], shards: &[ShardId]) -> Vec<Row> {
    rows.iter().filter(|row| shards.contains(&topology.owner(&KeyValue::Int(row.0)))).copied().collect()
}

fn value() -> impl Strategy<Value = Value> {
    (proptest::option::weighted(0.95, -2..12_i64), 0..9_u8)
        .prop_map(|(value, spelling)| Value { value, spelling })
}

/// A key as a rule.
fn column() -> impl Strategy<Value = Column> {
    let keys = proptest::sample::select(&[Column::AuctionKey, Column::AuctionKey, Column::BidKey][..]);
    prop_oneof![keys, proptest::sample::select(&Column::ALL[..])]
}

fn condition(column: BoxedStrategy<Column>) -> impl Strategy<Value = Condition> + Clone {
    let leaf = prop_oneof![
        6 => (column.clone(), value(), proptest::bool::weighted(0.85), any::<bool>())
            .prop_map(|(column, value, equal, flipped)| Condition::Equal(column, value, equal, flipped)),
        3 => (column.clone(), proptest::collection::vec(value(), 1..4), proptest::bool::weighted(0.2))
            .prop_map(|(column, values, not)| Condition::In(column, values, not)),
        2 => (column.clone(), proptest::collection::vec(proptest::option::weighted(0.9, -2..12_i64), 0..4), 0..3_u8)
            .prop_map(|(column, values, form)| Condition::Any(column, values, form)),
        1 => (column.clone(), -3..4_i64, 0..12_i64).prop_map(|(column, add, sum)| Condition::Plus(column, add, sum)),
        1 => (column.clone(), 0..9_i64).prop_map(|(column, value)| Condition::Half(column, value)),
        5 => (column.clone(), column.clone()).prop_map(|(one, other)| Condition::Columns(one, other)),
        1 => (column.clone(), 0..5_i64, 3..12_i64).prop_map(|(column, low, high)| Condition::Between(column, low, high)),
        1 => column.prop_map(Condition::IsNull),
        1 => proptest::option::of(any::<bool>()).prop_map(Condition::Constant),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let two = (inner.clone(), inner.clone()).prop_map(|(one, other)| (Box::new(one), Box::new(other)));
        let one = inner.prop_map(Box::new);
        prop_oneof![
            6 => two.clone().prop_map(|(one, other)| Condition::And(one, other)),
            3 => two.clone().prop_map(|(one, other)| Condition::Or(one, other)),
            1 => two.prop_map(|(one, other)| Condition::Case(one, other)),
            1 => one.clone().prop_map(Condition::Not),
            1 => one.prop_map(Condition::IsTrue),
        ]
    })
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    proptest::collection::vec((-2..12_i64, proptest::option::weighted(0.85, -2..12_i64)), 0..25)
}

/// Conditions of the columns that a shape has.
fn statement() -> impl Strategy<Value = (Shape, Condition, Condition)> {
    let of_auctions = || column().prop_filter("of auctions", |column| column.is_auctions()).boxed();
    let key = Condition::Columns(Column::AuctionKey, Column::BidKey);
    let on = prop_oneof![
        Just(key.clone()),
        condition(column().boxed())
            .prop_map(move |more| Condition::And(Box::new(key.clone()), Box::new(more))),
        condition(column().boxed()),
    ];
    proptest::sample::select(&Shape::ALL[..]).prop_flat_map(move |shape| {
        let columns = if shape.filters_bids() { column().boxed() } else { of_auctions() };
        (Just(shape), on.clone(), condition(columns))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_shards_of_a_plan_have_the_rows(
        (shape, on, filter) in statement(),
        auctions in rows(),
        bids in rows(),
    ) {
        let topology = topology(SHARDS);
        let mut params = Vec::new();
        let sql = shape.sql(&on, &filter, &mut params);
        let all = shape.rows(&auctions, &bids, &on, &filter);
        let Some(target) = target(&topology, &sql, &params) else {
            // What is written may not be what each shard can do by itself.
            prop_assert!(shape.writes(), "refused: {}", sql);
            return Ok(());
        };
        let each_alone = |shards: &ShardSet| {
            let mut rows: Vec<_> = shards.iter().flat_map(|shard| {
                let [auctions, bids] = [&auctions, &bids].map(|rows| owned(&topology, rows, &[*shard]));
                shape.rows(&auctions, &bids, &on, &filter)
            }).collect();
            rows.sort_unstable();
            rows
        };
        match target {
            Target::One(shard) => prop_assert_eq!(each_alone(&ShardSet::from_slice(&[shard])), all, "{}", sql),
            Target::Concat(shards) | Target::Gather(shards, _) | Target::Each(shards) => {
                prop_assert_eq!(each_alone(&shards), all, "{} on {:?}", sql, shards);
            }
            Target::Nowhere(_) => prop_assert_eq!(all, [], "{}", sql),
            Target::Combine(combine) => {
                let delivered = |name: &str, rows: &[Row]| {
                    let table = combine.tables.iter().find(|table| table.name == name);
                    table.map_or(Vec::new(), |table| owned(&topology, rows, &table.shards))
                };
                let [auctions, bids] = [delivered("auctions", &auctions), delivered("bids", &bids)];
                prop_assert_eq!(shape.rows(&auctions, &bids, &on, &filter), all, "{} of {:?}", sql, combine.tables);
            }
            // All of what is read is sent to every shard that writes.
            Target::Broadcast(_) => {}
            other => prop_assert!(false, "{} is not planned like this: {:?}", sql, other),
        }
    }

    #[test]
    fn the_shards_of_keys_are_their_owners(values in proptest::collection::vec(value(), 1..6), form in 0..3_u8) {
        let topology = topology(SHARDS);
        let mut params = Vec::new();
        let keys: Vec<i64> = values.iter().filter_map(|value| value.value).collect();
        let condition = match form {
            0 => Condition::In(Column::AuctionKey, values, false),
            1 => Condition::Any(Column::AuctionKey, values.iter().map(|value| value.value).collect(), 0),
            _ => Condition::Any(Column::AuctionKey, values.iter().map(|value| value.value).collect(), 2),
        };
        let sql = format!("select * from auctions a where {}", condition.sql(&mut params));
        let mut owners: Vec<_> = keys.iter().map(|key| topology.owner(&KeyValue::Int(*key))).collect();
        owners.sort_unstable();
        owners.dedup();
        match target(&topology, &sql, &params).expect("a plan") {
            Target::One(shard) => prop_assert_eq!(vec![shard], owners, "{}", sql),
            Target::Concat(shards) => prop_assert_eq!(shards.to_vec(), owners, "{}", sql),
            Target::Nowhere(_) => prop_assert_eq!(owners, [], "{}", sql),
            other => prop_assert!(false, "{}: {:?}", sql, other),
        }
    }
}
