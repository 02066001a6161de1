//! What sessions do besides: transactions, cursors, prepared statements, pipelines, texts of several statements.

use tests::random::Random;

use crate::case::{Case, Class, Order, Step};
use crate::expr::Form;
use crate::nested::subquery;
use crate::select::{grouped, join, of_auctions, point, sorted};
use crate::together::sessions;
use crate::write::write;

/// The statements of another case that are not transaction control.
pub(crate) fn inner(case: Case) -> Vec<Step> {
    let control = |step: &Step| ["begin", "commit", "rollback"].contains(&step.sql.as_str());
    case.steps.into_iter().filter(|step| !control(step)).collect()
}

/// Several statements that belong together.
pub(crate) fn transaction(random: &mut Random) -> Case {
    let steps = match random.below(14) {
        0 | 1 => cursor(random),
        2 => held(random),
        3 => prepared(random),
        4 => snapshot(random),
        5 => failing(random),
        6 => pipeline(random),
        7 => pages(random),
        8 => text(random),
        9..12 => sessions(random),
        _ => savepoints(random),
    };
    Case { class: Class::Transactions, steps }
}

fn snapshot(random: &mut Random) -> Vec<Step> {
    let level = random.pick(&[
        "read committed",
        "read committed read only",
        "repeatable read",
        "repeatable read read only",
        "repeatable read read write",
        "serializable read only",
    ]);
    let mut steps = vec![Step::simple(format!("begin isolation level {level}"))];
    for _ in 0..3 {
        steps.extend(inner(query(random)));
    }
    steps.push(Step::simple("commit"));
    steps
}

/// What stands behind the error is skipped.
fn failing(random: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::simple("begin")];
    steps.extend(inner(write(random)));
    if random.chance(40) {
        steps.push(Step::simple("savepoint one"));
    }
    steps.push(Step::simple("select 1 / (select count(*) - count(*) from users)"));
    steps.extend(inner(point(random)));
    steps.push(Step::simple("rollback to one"));
    steps.extend(inner(query(random)));
    steps.push(Step::simple(random.pick(&["commit", "rollback"])));
    steps
}

fn savepoints(random: &mut Random) -> Vec<Step> {
    let isolation = random.pick(&["begin", "start transaction", "begin isolation level repeatable read"]);
    let mut steps = vec![Step::simple(isolation)];
    steps.extend(inner(write(random)));
    steps.push(Step::simple("savepoint one"));
    steps.extend(inner(if random.chance(50) { write(random) } else { query(random) }));
    if random.chance(30) {
        steps.push(Step::simple("savepoint two"));
        steps.extend(inner(write(random)));
        steps.push(Step::simple(random.pick(&["rollback to two", "release two", "rollback to one"])));
    }
    if random.chance(60) {
        steps.push(Step::simple(random.pick(&["rollback to one", "release one"])));
    }
    steps.extend(inner(query(random)));
    let end = random.pick(&["commit", "rollback", "rollback", "commit and chain"]);
    steps.push(Step::simple(end));
    steps
}

/// Statements that are sent without a Sync between them; some in a transaction of their own.
fn pipeline(random: &mut Random) -> Vec<Step> {
    let of = |random: &mut Random| {
        let case = if random.chance(40) { write(random) } else { query(random) };
        let steps = inner(case).into_iter().take(1);
        steps.map(|step| match step.form {
            Form::Simple => Step { form: Form::Extended { binary: false }, ..step },
            Form::Extended { .. } => step,
        })
    };
    let mut parts: Vec<_> = (0..2 + random.below(3)).flat_map(|_| of(random)).collect();
    // What rows there are in all is compared, in any order.
    let order = if parts.iter().any(|part| part.order == Order::Count) { Order::Count } else { Order::Any };
    let first = parts.remove(0);
    vec![Step::simple("begin"), Step { more: parts, order, ..first }, Step::simple("rollback")]
}

/// The rows of a query so many at a time.
fn pages(random: &mut Random) -> Vec<Step> {
    let page = 1 + random.below(12) as i32;
    let paged = inner(query(random)).into_iter().map(|step| {
        let order = if step.order == Order::Total { Order::Total } else { Order::Count };
        let form = if step.form == Form::Simple { Form::Extended { binary: false } } else { step.form };
        Step { page, order, form, ..step }
    });
    let mut steps: Vec<_> = paged.collect();
    if random.chance(50) {
        steps.insert(0, Step::simple("begin"));
        steps.push(Step::simple("commit"));
    }
    steps
}

/// One text of several statements: one transaction, up to the first error.
fn text(random: &mut Random) -> Vec<Step> {
    let mut texts = Vec::new();
    while texts.len() < 3 {
        let case = if random.chance(50) { write(random) } else { query(random) };
        let steps = inner(case).into_iter().take(1);
        let plain = steps.filter(|step| step.form == Form::Simple && step.order != Order::Count);
        texts.extend(plain.map(|step| step.sql));
    }
    if random.chance(20) {
        texts.insert(1, "select 1 / (select count(*) - count(*) from users)".to_owned());
    }
    vec![Step::simple("begin"), Step::simple(texts.join("; ")), Step::simple("rollback")]
}

/// A query of any class.
pub(crate) fn query(random: &mut Random) -> Case {
    match random.below(5) {
        0 => point(random),
        1 => join(random),
        2 => grouped(random),
        3 => sorted(random),
        _ => subquery(random),
    }
}

/// A query with a total order, and one with none.
fn cursor_query(random: &mut Random) -> (String, Order) {
    let table = of_auctions(random);
    let key: Vec<_> = table.key_names().collect();
    match random.below(5) {
        0 => (
            "select a.auction_id, b.id, a.title from auctions a join bids b using (auction_id) order by b.amount, 1, 2"
                .to_owned(),
            Order::Total,
        ),
        1 => (format!("select count(*), max(auction_id) from {} group by auction_id order by 2", table.name), Order::Total),
        2 => (format!("select * from {} where auction_id in (3, 4, 5, 6)", table.name), Order::Count),
        3 => (format!("select * from {} where auction_id = {}", table.name, random.between(1, 40)), Order::Count),
        _ => (format!("select * from {} order by {}", table.name, key.join(", ")), Order::Total),
    }
}

fn cursor(random: &mut Random) -> Vec<Step> {
    let (query, order) = cursor_query(random);
    let scroll = random.pick(&["", "", "", "scroll ", "no scroll "]);
    let mut steps =
        vec![Step::simple("begin"), Step::simple(format!("declare c {scroll}cursor for {query}"))];
    for _ in 0..3 {
        let fetch = match random.below(8) {
            0 => "fetch c".to_owned(),
            1 => "fetch all from c".to_owned(),
            2 => format!("move forward {} in c", random.below(5)),
            3 if scroll == "scroll " => format!("fetch backward {} from c", random.below(5)),
            4 if scroll == "scroll " => format!("fetch absolute {} from c", random.between(-3, 9)),
            _ => format!("fetch {} from c", 1 + random.below(19)),
        };
        // Which rows come is known when all of them do.
        steps.push(Step { order, ..Step::simple(fetch) });
    }
    steps.push(Step::simple("close c"));
    steps.push(Step::simple("commit"));
    steps
}

/// A cursor that outlives its transaction.
fn held(random: &mut Random) -> Vec<Step> {
    let (query, order) = cursor_query(random);
    let fetch = |count: usize| Step { order, ..Step::simple(format!("fetch {count} from h")) };
    vec![
        Step::simple("begin"),
        Step::simple(format!("declare h cursor with hold for {query}")),
        fetch(random.below(4)),
        Step::simple("commit"),
        // To fetch none is to fetch the last one again: whether that can be done depends on the plan.
        fetch(1 + random.below(8)),
        Step::simple("close h"),
    ]
}

fn prepared(random: &mut Random) -> Vec<Step> {
    let table = of_auctions(random);
    let text = random.pick(&[
        "select * from TABLE where auction_id = $1",
        "select * from TABLE where auction_id in ($1, $1 + 1)",
        "select count(*) from TABLE where auction_id < $1",
        "update TABLE set auction_id = auction_id where auction_id = $1 returning auction_id",
        "delete from TABLE where auction_id = $1",
    ]);
    let text = text.replace("TABLE", table.name);
    let mut steps = vec![Step::simple("begin"), Step::simple(format!("prepare p (bigint) as {text}"))];
    for _ in 0..3 {
        steps.push(Step::simple(format!("execute p ({})", random.between(1, 40))));
    }
    steps.push(Step::simple("deallocate p"));
    steps.push(Step::simple("rollback"));
    steps
}
