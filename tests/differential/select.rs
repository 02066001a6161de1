//! Queries: lookups, joins, aggregates, order.

use tests::random::Random;

use crate::case::{Case, Class, Order, Step};
use crate::expr::{Column, Writer, columns};
use crate::house::{Kind, TABLES, Table, Ty, table};

/// A table in FROM.
pub(crate) struct Source {
    pub(crate) table: &'static Table,
    pub(crate) alias: String,
}

impl Source {
    pub(crate) fn new(table: &'static Table, alias: &str) -> Self {
        Self { table, alias: alias.to_owned() }
    }

    pub(crate) fn sql(&self) -> String {
        format!("{} {}", self.table.name, self.alias)
    }

    pub(crate) fn columns(&self) -> Vec<Column> {
        columns(self.table, &self.alias)
    }

    /// The primary key, for ORDER BY.
    pub(crate) fn key(&self) -> String {
        self.table.key_names().map(|name| format!("{}.{name}", self.alias)).collect::<Vec<_>>().join(", ")
    }
}

/// One of the sharded tables; those of the auction house more often than those of other key types.
pub(crate) fn sharded(random: &mut Random) -> &'static Table {
    if random.chance(70) {
        return table(random.pick(&["auctions", "bids", "watches"]));
    }
    let all: Vec<_> = TABLES.iter().filter(|table| table.kind == Kind::Sharded).collect();
    random.pick(&all)
}

/// As [`sharded`], or a view of one.
pub(crate) fn readable(random: &mut Random) -> &'static Table {
    if random.chance(10) { table("open_auctions") } else { sharded(random) }
}

/// One of the tables with a bigint key of auctions.
pub(crate) fn of_auctions(random: &mut Random) -> &'static Table {
    table(random.pick(&["auctions", "bids", "watches"]))
}

/// `select … from one table where key …`.
pub(crate) fn point(random: &mut Random) -> Case {
    let mut writer = Writer::new(random);
    let source = Source::new(readable(writer.random), "t");
    let scope = source.columns();
    let mut filter = writer.key(&scope[0]);
    if writer.random.chance(40) {
        filter = format!("{filter} and {}", writer.condition(&scope, 1));
    }
    let mut from = source.sql();
    if source.table.name == "auctions" && writer.random.chance(30) {
        from.push_str(" left join categories c on c.id = t.category_id");
    }
    let items = if writer.random.chance(20) { "*".to_owned() } else { writer.items(&scope, 4).join(", ") };
    let (tail, order) = match writer.random.below(4) {
        0 => (format!(" order by {}", source.key()), Order::Total),
        1 => (format!(" order by {} limit {}", source.key(), writer.random.below(6)), Order::Total),
        _ => (String::new(), Order::Any),
    };
    let sql = format!("select {items} from {from} where {filter}{tail}");
    Case::one(Class::Points, Step::written(sql, writer, order))
}

/// Pairs of columns that mean the same.
const LINKS: &[(&str, &str, &str, &str)] = &[
    ("auctions", "auction_id", "bids", "auction_id"),
    ("auctions", "auction_id", "watches", "auction_id"),
    ("bids", "auction_id", "watches", "auction_id"),
    ("bids", "auction_id", "bids", "auction_id"),
    ("auctions", "seller_id", "users", "id"),
    ("bids", "bidder_id", "users", "id"),
    ("watches", "user_id", "users", "id"),
    ("auctions", "category_id", "categories", "id"),
    ("bids", "bidder_id", "watches", "user_id"),
    ("auctions", "seller_id", "bids", "bidder_id"),
    ("auctions", "auction_id", "remarks", "about"),
    ("lots_uuid", "owner", "users", "id"),
    ("lots_text", "owner", "auctions", "auction_id"),
    ("lots_date", "auction_id", "watches", "since"),
    ("lots_int4", "auction_id", "categories", "id"),
    ("lots_int4", "auction_id", "auctions", "category_id"),
];

/// Tables joined one to the other: the text of FROM, and the tables.
pub(crate) fn joined(writer: &mut Writer<'_>) -> (String, Vec<Source>) {
    let (left, on_left, right, on_right) = writer.random.pick(LINKS);
    let mut sources = vec![Source::new(table(left), "a"), Source::new(table(right), "b")];
    let kind = writer.random.pick(&["join", "join", "left join", "right join", "full join"]);
    let on = format!("a.{on_left} = b.{on_right}");
    let mut from = match writer.random.below(8) {
        0 if on_left == on_right => {
            format!("{} {kind} {} using ({on_left})", sources[0].sql(), sources[1].sql())
        }
        1 if kind == "join" => {
            let of = sources[1].sql();
            return (
                format!("{} cross join lateral (select * from {of} where {on}) b", sources[0].sql()),
                sources,
            );
        }
        2 if kind != "full join" => {
            let scope: Vec<_> = sources.iter().flat_map(Source::columns).collect();
            let more = writer.condition(&scope, 0);
            format!("{} {kind} {} on {on} and {more}", sources[0].sql(), sources[1].sql())
        }
        _ => format!("{} {kind} {} on {on}", sources[0].sql(), sources[1].sql()),
    };
    if writer.random.chance(25) {
        let third: Vec<_> = LINKS.iter().filter(|link| link.0 == left).collect();
        let (_, on_first, name, on_third) = writer.random.pick(&third);
        let source = Source::new(table(name), "c");
        let kind = writer.random.pick(&["join", "left join"]);
        from = format!("{from} {kind} {} on a.{on_first} = c.{on_third}", source.sql());
        sources.push(source);
    }
    (from, sources)
}

/// Joins of every kind.
pub(crate) fn join(random: &mut Random) -> Case {
    let mut writer = Writer::new(random);
    let (from, sources) = joined(&mut writer);
    let scope: Vec<_> = sources.iter().flat_map(Source::columns).collect();
    let items = writer.items(&scope, 4).join(", ");
    let mut filter = match writer.random.below(3) {
        0 => format!(" where {}", writer.condition(&scope, 1)),
        1 => format!(" where {}", writer.key(&scope[0])),
        _ => String::new(),
    };
    let mut order = Order::Any;
    if writer.random.chance(25) {
        let keys: Vec<_> = sources.iter().map(Source::key).collect();
        filter = format!("{filter} order by {} limit {}", keys.join(", "), 1 + writer.random.below(30));
        order = Order::Total;
    }
    Case::one(Class::Joins, Step::written(format!("select {items} from {from}{filter}"), writer, order))
}

/// An aggregate that has one right answer.
fn aggregate(writer: &mut Writer<'_>, scope: &[Column], key: &str) -> String {
    let named = |writer: &mut Writer<'_>, types: &[Ty]| {
        let fits: Vec<_> = scope.iter().filter(|column| types.contains(&column.ty)).collect();
        (!fits.is_empty()).then(|| writer.random.pick(&fits).sql())
    };
    let numbers = [Ty::Int2, Ty::Int4, Ty::Int8, Ty::Numeric];
    let any = writer.random.pick(scope);
    let plain = any.sql();
    let filter = if writer.random.chance(15) {
        format!(" filter (where {})", writer.condition(scope, 0))
    } else {
        String::new()
    };
    let number = named(writer, &numbers).unwrap_or_else(|| "1".to_owned());
    let text = match writer.random.below(13) {
        0 | 1 => "count(*)".to_owned(),
        2 => format!("count({plain})"),
        3 => format!("count(distinct {plain})"),
        4 | 5 => format!("sum({number})"),
        6 => format!("avg({number})"),
        7 if !matches!(any.ty, Ty::Bool | Ty::Uuid) => format!("min({plain})"),
        8 if !matches!(any.ty, Ty::Bool | Ty::Uuid) => format!("max({plain})"),
        9 => format!("sum(distinct {number})"),
        10 => format!("string_agg({plain}::text, ',' order by {key})"),
        11 => format!("array_agg({plain} order by {key})"),
        12 => format!("stddev({number})"),
        _ => match named(writer, &[Ty::Bool]) {
            Some(column) => format!("bool_or({column})"),
            None => "count(*)".to_owned(),
        },
    };
    format!("{text}{filter}")
}

/// Aggregates, with groups and without.
pub(crate) fn grouped(random: &mut Random) -> Case {
    let mut writer = Writer::new(random);
    let (from, sources) = if writer.random.chance(30) {
        joined(&mut writer)
    } else {
        let source = Source::new(sharded(writer.random), "a");
        (source.sql(), vec![source])
    };
    let scope: Vec<_> = sources.iter().flat_map(Source::columns).collect();
    let key = sources.iter().map(Source::key).collect::<Vec<_>>().join(", ");
    let groups = match writer.random.below(4) {
        0 => Vec::new(),
        1 => vec![writer.random.pick(&scope).sql(), writer.random.pick(&scope).sql()],
        2 => vec![writer.expression(Ty::Text, &scope, 1)],
        _ => vec![writer.random.pick(&scope).sql()],
    };
    // A parameter in GROUP BY is not that of the select list.
    let groups: Vec<_> = groups.into_iter().filter(|group| !group.contains('$')).collect();
    let mut items = groups.clone();
    for _ in 0..=writer.random.below(3) {
        let item = aggregate(&mut writer, &scope, &key);
        items.push(if writer.random.chance(15) { format!("coalesce(({item})::text, 'none')") } else { item });
    }
    let mut sql = format!("select {} from {from}", items.join(", "));
    if writer.random.chance(50) {
        sql = format!("{sql} where {}", writer.condition(&scope, 1));
    }
    let mut order = Order::Any;
    if !groups.is_empty() {
        let by = groups.join(", ");
        sql = match writer.random.below(12) {
            0 => format!("{sql} group by rollup ({by})"),
            1 => format!("{sql} group by cube ({by})"),
            _ => format!("{sql} group by {by}"),
        };
        if writer.random.chance(25) {
            sql = format!("{sql} having count(*) >= {}", writer.random.below(4));
        }
        if !sql.contains("rollup") && !sql.contains("cube") && writer.random.chance(40) {
            sql = format!("{sql} order by {by} limit {}", 1 + writer.random.below(20));
            order = Order::Total;
        }
    }
    Case::one(Class::Aggregates, Step::written(sql, writer, order))
}

/// ORDER BY, LIMIT, DISTINCT.
pub(crate) fn sorted(random: &mut Random) -> Case {
    let mut writer = Writer::new(random);
    let source = Source::new(readable(writer.random), "t");
    let scope = source.columns();
    let filter = if writer.random.chance(50) {
        format!(" where {}", writer.condition(&scope, 1))
    } else {
        String::new()
    };
    let first = writer.random.pick(&scope).sql();
    let direction = writer.direction();
    let items = writer.items(&scope, 3).join(", ");
    let limit = match writer.random.below(4) {
        0 => String::new(),
        1 => format!(" limit {} offset {}", writer.random.below(20), writer.random.below(10)),
        2 => format!(" fetch first {} rows only", 1 + writer.random.below(20)),
        _ => format!(" limit {}", writer.random.below(20)),
    };
    let from = source.sql();
    let key = source.key();
    let (sql, order) = match writer.random.below(9) {
        0 => (format!("select distinct {items} from {from}{filter}"), Order::Any),
        1 => (
            format!("select distinct {first} from {from}{filter} order by 1{direction}{limit}"),
            Order::Total,
        ),
        2 => {
            let by = format!("{first}{direction}, {key}");
            (
                format!(
                    "select distinct on ({first}) {first}, {items} from {from}{filter} order by {by}{limit}"
                ),
                Order::Total,
            )
        }
        3 => (format!("select {items} from {from}{filter} limit {}", writer.random.below(30)), Order::Count),
        4 => {
            let ty = writer.random.pick(&[Ty::Int8, Ty::Numeric, Ty::Text, Ty::Date]);
            let by = writer.expression(ty, &scope, 2);
            (
                format!("select {items} from {from}{filter} order by {by}{direction}, {key}{limit}"),
                Order::Total,
            )
        }
        5 => (
            format!("select {first} as it, {key} from {from}{filter} order by it{direction}, {key}{limit}"),
            Order::Total,
        ),
        6 => (
            format!("select {first}, {key} from {from}{filter} order by 1{direction}, {key}{limit}"),
            Order::Total,
        ),
        _ => (
            format!("select {items} from {from}{filter} order by {first}{direction}, {key}{limit}"),
            Order::Total,
        ),
    };
    Case::one(Class::Ordering, Step::written(sql, writer, order))
}
