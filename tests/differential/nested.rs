//! Queries of several levels: windows, set operations, subqueries, common table expressions.

use tests::random::Random;

use crate::case::{Case, Class, Order, Step};
use crate::expr::{Column, Writer};
use crate::house::{Ty, table};
use crate::select::{Source, joined, of_auctions, readable};

/// Window functions, UNION, INTERSECT, EXCEPT.
pub(crate) fn windows_and_sets(random: &mut Random) -> Case {
    let mut writer = Writer::new(random);
    let (sql, order) = if writer.random.chance(50) { window(&mut writer) } else { set(&mut writer) };
    Case::one(Class::WindowsAndSets, Step::written(sql, writer, order))
}

fn window(writer: &mut Writer<'_>) -> (String, Order) {
    let source = Source::new(readable(writer.random), "t");
    let scope = source.columns();
    let (from, key) = (source.sql(), source.key());
    let column = writer.random.pick(&scope).sql();
    let partition = match writer.random.below(3) {
        0 => String::new(),
        1 => format!("partition by {} ", scope[0].sql()),
        _ => format!("partition by {} ", writer.random.pick(&scope).sql()),
    };
    let over = format!("({partition}order by {column}{}, {key})", writer.direction());
    let function = match writer.random.below(9) {
        0 => "row_number()".to_owned(),
        1 => "rank()".to_owned(),
        2 => "count(*)".to_owned(),
        3 => format!("lag({column})"),
        4 => format!("lead({column}, 2)"),
        5 => format!("first_value({column})"),
        6 => "ntile(3)".to_owned(),
        7 => "dense_rank()".to_owned(),
        _ => match scope.iter().find(|column| column.ty == Ty::Numeric) {
            Some(number) => format!("sum({})", number.sql()),
            None => "percent_rank()".to_owned(),
        },
    };
    let filter = if writer.random.chance(40) {
        format!(" where {}", writer.condition(&scope, 1))
    } else {
        String::new()
    };
    match writer.random.below(3) {
        0 => (format!("select {key}, {function} over {over} from {from}{filter}"), Order::Any),
        1 => (
            format!(
                "select {key}, {function} over w as it from {from}{filter} window w as {over} order by it, {key}"
            ),
            Order::Total,
        ),
        _ => {
            let inner = format!("select {key}, row_number() over {over} as place from {from}{filter}");
            (
                format!("select * from ({inner}) ranked where place <= {}", 1 + writer.random.below(3)),
                Order::Any,
            )
        }
    }
}

/// Columns of each kind that may stand in one place of a set operation.
fn branch(writer: &mut Writer<'_>, ty: Ty) -> String {
    let source = Source::new(
        match ty {
            Ty::Numeric => table(writer.random.pick(&["auctions", "bids", "users"])),
            Ty::Date => table(writer.random.pick(&["watches", "users", "remarks", "lots_date"])),
            _ => table(writer.random.pick(&["auctions", "bids", "watches", "users", "lots_uuid"])),
        },
        "t",
    );
    let scope = source.columns();
    let fits: Vec<_> = scope.iter().filter(|column| column.ty == ty).collect();
    let item = writer.random.pick(&fits).sql();
    let filter = if writer.random.chance(60) {
        format!(" where {}", writer.condition(&scope, 1))
    } else {
        String::new()
    };
    format!("select {item} as it from {}{filter}", source.sql())
}

fn set(writer: &mut Writer<'_>) -> (String, Order) {
    let ty = writer.random.pick(&[Ty::Int8, Ty::Int8, Ty::Numeric, Ty::Date]);
    let operator =
        writer.random.pick(&["union", "union all", "intersect", "except", "intersect all", "except all"]);
    let mut sql = format!("{} {operator} {}", branch(writer, ty), branch(writer, ty));
    if writer.random.chance(25) {
        sql = format!("({sql}) union all {}", branch(writer, ty));
    }
    match writer.random.below(3) {
        0 => (format!("{sql} order by it{}", writer.direction()), Order::Total),
        1 => (format!("{sql} order by it limit {}", writer.random.below(20)), Order::Total),
        _ => (sql, Order::Any),
    }
}

/// Subqueries wherever they may stand, WITH, views.
pub(crate) fn subquery(random: &mut Random) -> Case {
    let mut writer = Writer::new(random);
    let outer = Source::new(of_auctions(writer.random), "o");
    let inner = Source::new(of_auctions(writer.random), "i");
    let scope = outer.columns();
    let within = inner.columns();
    let items = writer.items(&scope, 3).join(", ");
    let filter = writer.condition(&within, 1);
    let link = link(&mut writer, &outer, &inner);
    let (out, inn) = (outer.sql(), inner.sql());
    let not = if writer.random.chance(30) { "not " } else { "" };
    let sql = match writer.random.below(14) {
        0 => format!("select {items} from {out} where {not}exists (select 1 from {inn} where {link} and {filter})"),
        1 => format!("select {items} from {out} where o.auction_id {not}in (select i.auction_id from {inn} where {filter})"),
        2 => format!("select {items}, (select count(*) from {inn} where {link}) from {out}"),
        3 => format!("select {items} from {out} where o.auction_id = (select max(i.auction_id) from {inn} where {filter})"),
        4 => format!("select s.auction_id, s.n from (select i.auction_id, count(*) as n from {inn} where {filter} group by i.auction_id) s where s.n > 1"),
        5 => format!("select count(*), max(n) from (select count(*) as n from {inn} where {filter} group by i.auction_id) s"),
        6 => format!("with w as (select * from {inn} where {filter}) select {items} from {out} join w on w.auction_id = o.auction_id"),
        7 => format!("with w as materialized (select i.auction_id, count(*) as n from {inn} group by 1) select sum(n), count(*) from w"),
        8 => format!("select {items}, l.n from {out} left join lateral (select count(*) as n from {inn} where {link} and {filter}) l on true"),
        9 => format!("select {items} from {out} where o.auction_id > any (select i.auction_id from {inn} where {filter})"),
        10 => "with recursive up as (select id, parent, name from categories where id = 1 union select c.id, c.parent, c.name \
               from categories c join up on c.parent = up.id) \
               select up.id, count(a.auction_id) from up left join auctions a on a.category_id = up.id group by up.id".to_owned(),
        11 => format!("select v.* from open_auctions v where {}", writer.key(&Column { alias: "v".into(), name: "auction_id", ty: Ty::Int8 })),
        12 => {
            let view = writer.random.pick(&["open_auctions v", "leaders v", "house v", "open_auctions v join leaders l using (auction_id)"]);
            format!("select * from {view}")
        }
        _ => {
            let (from, _) = joined(&mut writer);
            format!("select count(*) from (select 1 from {from}) s")
        }
    };
    // What was written and is not in the text would be a parameter without a type.
    let unused = (1..=writer.params.len()).any(|n| !mentions(&sql, n));
    if unused {
        return subquery(random);
    }
    Case::one(Class::Subqueries, Step::written(sql, writer, Order::Any))
}

/// How the row inside hangs on the row outside.
fn link(writer: &mut Writer<'_>, outer: &Source, inner: &Source) -> String {
    if writer.random.chance(65) {
        return "i.auction_id = o.auction_id".to_owned();
    }
    let of = |source: &Source| -> Vec<Column> {
        source.columns().into_iter().filter(|column| column.ty == Ty::Int8).collect()
    };
    format!("{} = {}", writer.random.pick(&of(inner)).sql(), writer.random.pick(&of(outer)).sql())
}

fn mentions(sql: &str, param: usize) -> bool {
    let text = format!("${param}");
    sql.match_indices(&text).any(|(at, _)| !sql[at + text.len()..].starts_with(|c: char| c.is_ascii_digit()))
}
