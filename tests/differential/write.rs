//! INSERT, UPDATE, DELETE.

use tests::random::Random;

use crate::case::{Case, Class, Order, Step};
use crate::expr::Writer;
use crate::house::{Kind, TABLES, Table, Ty, table};
use crate::select::{Source, of_auctions, sharded};

/// A write, alone or in a transaction that looks at what it did.
pub(crate) fn write(random: &mut Random) -> Case {
    let mut writer = Writer::new(random);
    let (sql, touched) = match writer.random.below(10) {
        0..3 => insert(&mut writer),
        3 => insert_select(&mut writer),
        4..7 => update(&mut writer),
        7 | 8 => delete(&mut writer),
        _ => reference(&mut writer),
    };
    let key: Vec<_> = touched.key_names().collect();
    let look = format!("select * from {} order by {}", touched.name, key.join(", "));
    let alone = writer.random.chance(20);
    let keep = writer.random.chance(30);
    let step = Step::written(sql, writer, Order::Any);
    let steps = if alone {
        vec![step, Step::ordered(look)]
    } else {
        let end = if keep { "commit" } else { "rollback" };
        vec![Step::simple("begin"), step, Step::ordered(look), Step::simple(end)]
    };
    Case { class: Class::Writes, steps }
}

fn row(writer: &mut Writer<'_>, table: &Table, columns: &[(&'static str, Ty)]) -> String {
    let values: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(n, (_, ty))| match n {
            _ if n >= table.key && writer.random.chance(15) => "null".to_owned(),
            _ if n >= table.key && writer.random.chance(10) => "default".to_owned(),
            _ => writer.operand(*ty),
        })
        .collect();
    format!("({})", values.join(", "))
}

fn returning(writer: &mut Writer<'_>, table: &Table) -> String {
    match writer.random.below(3) {
        0 => " returning *".to_owned(),
        1 => format!(" returning {}", writer.random.pick(table.columns).0),
        _ => String::new(),
    }
}

fn insert(writer: &mut Writer<'_>) -> (String, &'static Table) {
    let table = sharded(writer.random);
    let count = 1 + writer.random.below(5);
    let last = if writer.random.chance(30) { table.key.max(2) } else { table.columns.len() };
    let columns = &table.columns[..last];
    let rows: Vec<_> = (0..count).map(|_| row(writer, table, columns)).collect();
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let list = if last == table.columns.len() && writer.random.chance(50) {
        String::new()
    } else {
        format!(" ({})", names.join(", "))
    };
    let key: Vec<_> = table.key_names().collect();
    let conflict = match writer.random.below(4) {
        0 => " on conflict do nothing".to_owned(),
        1 if columns.len() > table.key && count == 1 => {
            let (name, _) = columns[table.key];
            format!(" on conflict ({}) do update set {name} = excluded.{name}", key.join(", "))
        }
        _ => String::new(),
    };
    let returning = returning(writer, table);
    (format!("insert into {}{list} values {}{conflict}{returning}", table.name, rows.join(", ")), table)
}

fn insert_select(writer: &mut Writer<'_>) -> (String, &'static Table) {
    let (sql, into) = match writer.random.below(5) {
        0 => (
            "insert into watches select auction_id, bidder_id, date '2024-01-01' from bids where bidder_id is not null",
            "watches",
        ),
        1 => (
            "insert into watches select auction_id, seller_id, current_date - current_date + date '2024-02-01' from auctions where seller_id is not null",
            "watches",
        ),
        2 => ("insert into watches select id, id, joined from users", "watches"),
        3 => {
            ("insert into lots_text select 'k' || auction_id, 1, code, seller_id from auctions", "lots_text")
        }
        _ => (
            "insert into lots_int4 (auction_id, n) select g + 20, g from generate_series(1, 9) g",
            "lots_int4",
        ),
    };
    (format!("{sql} on conflict do nothing"), table(into))
}

/// What an UPDATE may assign: `column = expression`.
fn assignments(writer: &mut Writer<'_>, source: &Source) -> String {
    let scope = source.columns();
    let free: Vec<_> = scope[source.table.key..].iter().collect();
    if free.is_empty() || writer.random.chance(4) {
        return format!("auction_id = {}", writer.operand(scope[0].ty));
    }
    let column = writer.random.pick(&free).clone();
    let value = match column.ty {
        Ty::Int8 | Ty::Numeric | Ty::Text | Ty::Bool | Ty::Date | Ty::Stamp => {
            writer.expression(column.ty, &scope, 2)
        }
        ty => writer.operand(ty),
    };
    format!("{} = {value}", column.name)
}

fn update(writer: &mut Writer<'_>) -> (String, &'static Table) {
    let source = Source::new(sharded(writer.random), "t");
    let scope = source.columns();
    let set = assignments(writer, &source);
    let returning =
        if writer.random.chance(40) { format!(" returning {}", source.key()) } else { String::new() };
    let of = source.sql();
    let auctions = source.table.key_type() == Ty::Int8;
    let sql = match writer.random.below(8) {
        0..3 => format!("update {of} set {set} where {}{returning}", writer.key(&scope[0])),
        3 | 4 => format!("update {of} set {set} where {}{returning}", writer.condition(&scope, 1)),
        5 if auctions => {
            let from = of_auctions(writer.random).name;
            format!(
                "update {of} set {set} where exists (select 1 from {from} f where f.auction_id = t.auction_id and f.auction_id > 20){returning}"
            )
        }
        6 if auctions && source.table.name != "bids" => {
            format!(
                "update {of} set {set} from (select auction_id, max(amount) as best from bids group by 1) f where f.auction_id = t.auction_id{returning}"
            )
        }
        7 if auctions => {
            format!(
                "update {of} set {set} where t.auction_id in (select u.id from users u where u.id < 10){returning}"
            )
        }
        _ => format!("update {of} set {set}{returning}"),
    };
    (sql, source.table)
}

fn delete(writer: &mut Writer<'_>) -> (String, &'static Table) {
    let source = Source::new(sharded(writer.random), "t");
    let scope = source.columns();
    let of = source.sql();
    let returning = if writer.random.chance(40) { " returning *" } else { "" };
    let auctions = source.table.key_type() == Ty::Int8;
    let sql = match writer.random.below(6) {
        0 | 1 => format!("delete from {of} where {}{returning}", writer.key(&scope[0])),
        2 | 3 => format!("delete from {of} where {}{returning}", writer.condition(&scope, 1)),
        4 if auctions => format!(
            "delete from {of} using users u where u.id = t.auction_id and u.rating > 10 returning t.auction_id"
        ),
        5 if auctions => {
            format!("delete from {of} where t.auction_id not in (select auction_id from bids){returning}")
        }
        _ => format!("delete from {of}{returning}"),
    };
    (sql, source.table)
}

/// Writes of reference and unsharded tables.
fn reference(writer: &mut Writer<'_>) -> (String, &'static Table) {
    let others: Vec<_> = TABLES.iter().filter(|table| table.kind != Kind::Sharded).collect();
    let table: &'static Table = writer.random.pick(&others);
    let source = Source::new(table, "t");
    let scope = source.columns();
    let sql = match writer.random.below(4) {
        0 => {
            let row = row(writer, table, table.columns);
            format!(
                "insert into {} values {row} on conflict do nothing{}",
                table.name,
                returning(writer, table)
            )
        }
        1 => format!("delete from {} where {}", source.sql(), writer.condition(&scope, 1)),
        _ => {
            let column =
                scope[table.key..].iter().find(|column| column.ty == Ty::Text).unwrap_or(&scope[1]).clone();
            let value = writer.expression(column.ty, &scope, 1);
            let condition = writer.condition(&scope, 1);
            format!("update {} set {} = {value} where {condition}", source.sql(), column.name)
        }
    };
    (sql, table)
}
