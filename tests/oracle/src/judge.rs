//! Holds the proxy's facts of a statement against the truth. Each complaint is a defect of the proxy or of this program.

use proxy::sql::facts::{Access, Command, Facts, Modify, Pin, Scope, Sharded, ValueRef};
use proxy::sql::gather_shape::GatherShape;
use proxy::sql::normalise::{Literal, normalise};
use proxy::sql::schema::Placement;
use serde_json::Value;

use crate::catalog::{AGGREGATES, Functions, Round};
use crate::commands;
use crate::tree::{field, is, list, node, number, text};
use crate::truth::{Const, Demand, Reader, Truth, Where};

/// Outcome for one statement in one round.
#[derive(Debug)]
pub enum Verdict {
    /// The facts are those of PostgreSQL's tree.
    Agree,
    /// The proxy does not read it, or says that it does not know where it belongs.
    Refused,
    /// Each reason.
    Wrong(Vec<String>),
}

/// One statement under judgement.
pub struct Case<'c> {
    pub schema: &'c proxy::sql::schema::Schema,
    pub sql: &'c str,
    pub tree: &'c Value,
    pub facts: &'c Facts,
    pub round: &'c Round,
}

/// Judges one statement.
pub fn judge(case: &Case<'_>, mut reader: Reader<'_>) -> Verdict {
    let Some((tag, body)) = node(case.tree) else { return Verdict::Refused };
    if matches!(case.facts.scope, Scope::Unknown { .. }) {
        return Verdict::Refused;
    }
    let unreadable = matches!(case.facts.command, Command::Unreadable { .. });
    let mut wrong = Vec::new();
    reader.any(case.tree);
    let constants = |v: &Value| reader.constant(v);
    let mut shapes = Vec::new();
    if tag == "InsertStmt" {
        rows(case, body, &constants, &mut shapes);
    }
    let truth = &reader.truth;
    placement(case, truth, &mut wrong);
    if unreadable {
        return if wrong.is_empty() { Verdict::Refused } else { Verdict::Wrong(wrong) };
    }
    wrong.extend(shapes);
    commands::check(case, tag, body, &mut wrong);
    // PostgreSQL's grammar has INTO in subqueries, its analysis has not.
    let nested = crate::tree::all(case.tree, "into_clause").len();
    if nested > usize::from(!field(body, "into_clause").is_null()) {
        return Verdict::Refused;
    }
    if ["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"].contains(&tag) {
        let into = !field(body, "into_clause").is_null();
        statement(case, tag, body, truth, &mut wrong);
        names(case, truth, &mut wrong);
        if let (Scope::Sharded(sharded), false) = (&case.facts.scope, into) {
            keys(case, sharded, (tag, truth), &mut wrong);
            gathered(sharded, tag, body, truth, &mut wrong);
        }
    }
    if wrong.is_empty() { Verdict::Agree } else { Verdict::Wrong(wrong) }
}

/// A statement that mentions a sharded table never goes to one shard for another reason.
fn placement(case: &Case<'_>, truth: &Truth, wrong: &mut Vec<String>) {
    let sharded = truth.mentions.iter().find(|m| m.sharded());
    let scope = &case.facts.scope;
    if let Some(mention) = sharded
        && matches!(scope, Scope::Home | Scope::Nothing | Scope::Reference | Scope::ReferenceWrite)
        && !commands::harmless_at_home(case.tree)
    {
        wrong.push(format!("it names the sharded table {} and its scope is {scope:?}", mention.name));
    }
    let written = |p: &Placement| truth.mentions.iter().find(|m| m.written && m.placed(p));
    if let Some(reference) = written(&Placement::Reference) {
        let right = match scope {
            Scope::Sharded(s) => s.writes_reference,
            Scope::ReferenceWrite | Scope::Everywhere => true,
            _ => false,
        };
        if !right {
            wrong.push(format!("it writes the reference table {}: {scope:?}", reference.name));
        }
    }
    let home = truth
        .mentions
        .iter()
        .find(|m| m.relation.is_none() || m.placed(&Placement::Unsharded) || m.placed(&Placement::Catalog));
    if let Some(home) = home {
        let right = match scope {
            Scope::Sharded(s) => s.needs_home.is_some(),
            Scope::Home | Scope::Everywhere => true,
            _ => false,
        };
        if !right {
            wrong.push(format!("it uses {} of the home shard: {scope:?}", home.name));
        }
    }
}

/// What kind of statement it is and what it does.
fn statement(case: &Case<'_>, tag: &str, body: &Value, truth: &Truth, wrong: &mut Vec<String>) {
    let facts = case.facts;
    let writes = truth.mentions.iter().any(|m| m.written);
    let into = !field(body, "into_clause").is_null();
    let command = match (&facts.command, tag) {
        (Command::Ddl(_), "SelectStmt") => into,
        (Command::Query, "SelectStmt") => !writes && !into,
        (Command::Modify(Modify::Other), "SelectStmt") => writes,
        (Command::Modify(Modify::Insert), "InsertStmt")
        | (Command::Modify(Modify::Update), "UpdateStmt")
        | (Command::Modify(Modify::Delete), "DeleteStmt")
        | (Command::Modify(Modify::Merge), "MergeStmt") => true,
        _ => false,
    };
    if !command {
        wrong.push(format!("command {:?} for {tag}", facts.command));
    }
    if writes && facts.access != Access::Write {
        wrong.push(format!("it writes and its access is {:?}", facts.access));
    }
    if truth.locks && facts.access == Access::Read {
        wrong.push("it locks rows and its access is Read".to_string());
    }
    let rows = match tag {
        "SelectStmt" => !into,
        _ => !field(body, "returning_clause").is_null(),
    };
    if rows != facts.returns_rows {
        wrong.push(format!("returns_rows is {}", facts.returns_rows));
    }
    if truth.current_of && matches!(facts.scope, Scope::Sharded(_)) && tag != "SelectStmt" {
        wrong.push("WHERE CURRENT OF on a sharded table".to_string());
    }
    functions(case, truth, wrong);
}

fn functions(case: &Case<'_>, truth: &Truth, wrong: &mut Vec<String>) {
    const CLOCKS: [&str; 5] =
        ["now", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "timeofday"];
    const HARMLESS: [&str; 7] = [
        "random",
        "gen_random_uuid",
        "clock_timestamp",
        "pg_sleep",
        "gen_salt",
        "uuid_generate_v1",
        "uuid_generate_v4",
    ];
    let facts = case.facts;
    for name in truth.functions.iter().filter(|f| !AGGREGATES.contains(&f.as_str())) {
        let known_by_name = CLOCKS.contains(&name.as_str()) || commands::GRAMMAR.contains(&name.as_str());
        if commands::NO_CALLS.contains(&name.as_str()) {
            continue;
        }
        let volatile = matches!(case.round.functions, Functions::Volatile | Functions::Users);
        if case.round.functions == Functions::Unknown && !known_by_name {
            wrong.push(format!("function {name} is not known, and the statement is not refused"));
        }
        if volatile && facts.unrepeatable.is_none() {
            wrong.push(format!("volatile function {name} is not seen"));
        }
        let harmless = HARMLESS.contains(&name.as_str()) && case.round.functions == Functions::Volatile;
        if volatile && !harmless && facts.access == Access::Read {
            wrong.push(format!("volatile function {name}, and a replica may answer"));
        }
        if case.round.functions == Functions::Users && facts.access != Access::Write {
            wrong.push(format!(
                "volatile function {name} of the user's, and the access is {:?}",
                facts.access
            ));
        }
        let lower = name.to_lowercase();
        let locks = lower.starts_with("pg_advisory") || lower.starts_with("pg_try_advisory");
        let effects = facts.effects;
        if (locks && !effects.advisory_lock)
            || (["nextval", "setval"].contains(&&*lower) && !effects.sequence)
            || (["currval", "lastval"].contains(&&*lower) && !effects.currval)
        {
            wrong.push(format!("the effect of {name} is not seen: {effects:?}"));
        }
    }
}

/// The same relations on both sides.
fn names(case: &Case<'_>, truth: &Truth, wrong: &mut Vec<String>) {
    let seen = &case.facts.tables;
    if seen.len() < 16 {
        for mention in truth.mentions.iter().filter(|m| !seen.contains(&m.name)) {
            let into = is(case.tree, "SelectStmt").map(|s| field(field(s, "into_clause"), "rel"));
            if into.is_none_or(|rel| text(rel, "relname") != mention.name.rsplit('.').next().unwrap_or("")) {
                wrong.push(format!("{} is not among the tables {seen:?}", mention.name));
            }
        }
    }
    for name in seen.iter().filter(|n| !n.ends_with("()")) {
        // PostgreSQL refuses a writing WITH query that refers to itself.
        let own = truth.recursive && truth.named.iter().any(|n| name.ends_with(&format!(".{n}")));
        if !own && !truth.mentions.iter().any(|m| m.name == *name) {
            wrong.push(format!("{name} is no table of the statement"));
        }
    }
}

/// Pins are those that conditions give.
fn keys(case: &Case<'_>, sharded: &Sharded, (tag, truth): (&str, &Truth), wrong: &mut Vec<String>) {
    let insert = !crate::tree::all(case.tree, "InsertStmt").is_empty();
    for pin in &sharded.groups {
        let justified = match pin {
            Pin::Any => true,
            Pin::Insert => insert || truth.with,
            Pin::Never => {
                let null =
                    |d: &Demand| matches!(d, Demand::Keys(k) if k.iter().all(|c| c.value == Where::Null));
                insert || truth.demands.iter().any(|(_, d)| null(d))
            }
            Pin::Keys(terms) => {
                let found: Option<Vec<Const>> = terms.iter().map(|t| constant(case, t)).collect();
                let Some(mut found) = found else {
                    wrong.push(format!("a key that is no literal: {pin:?}"));
                    continue;
                };
                found.sort();
                let same = |d: &Demand| match d {
                    Demand::Keys(keys) => {
                        let mut keys: Vec<_> =
                            keys.iter().filter(|k| k.value != Where::Null).cloned().collect();
                        keys.sort();
                        keys == found
                    }
                    Demand::Array(_) => false,
                };
                insert || truth.demands.iter().any(|(_, d)| same(d))
            }
            Pin::Array(term) => {
                let found = constant(case, term);
                let same = |d: &Demand| matches!(d, Demand::Array(c) if Some(c) == found.as_ref());
                truth.demands.iter().any(|(_, d)| same(d))
            }
        };
        if !justified {
            wrong.push(format!("nothing demands {pin:?}; demands: {:?}", truth.demands));
        }
    }
    let mut components: Vec<usize> = (0..truth.mentions.len())
        .filter(|&m| truth.mentions[m].sharded())
        .map(|m| truth.component(m))
        .collect();
    components.sort_unstable();
    components.dedup();
    // What INSERT … SELECT and MERGE tie together goes by other rules.
    if insert || tag == "MergeStmt" || truth.with {
        return;
    }
    if sharded.groups.len() < components.len() {
        wrong.push(format!("{} groups for {} components", sharded.groups.len(), components.len()));
    }
    let demanded = |c: usize| truth.demands.iter().any(|(m, _)| truth.component(*m) == c);
    let open = components.iter().filter(|c| !demanded(**c)).count();
    let any = sharded.groups.iter().filter(|p| matches!(p, Pin::Any)).count();
    if any < open {
        wrong.push(format!("{open} components without a demand, {any} groups without a pin"));
    }
    if truth.new_key && !sharded.updates_key {
        wrong.push("the key is assigned, and updates_key is false".to_string());
    }
}

/// A term of the proxy's as a constant of the truth.
fn constant(case: &Case<'_>, term: &proxy::sql::facts::KeyTerm) -> Option<Const> {
    let value = match term.value {
        ValueRef::Param(n) => Where::Param(i64::from(n)),
        ValueRef::Literal(n) => {
            let literals = normalise(case.sql.as_bytes(), true).literals;
            let Literal { start, .. } = *literals.get(n as usize)?;
            Where::Literal(start)
        }
        ValueRef::Null => Where::Null,
        ValueRef::Default | ValueRef::Computed => return None,
    };
    Some(Const { value, negative: term.negated, cast: term.cast.is_some() })
}

/// Clauses that make the shards' answers, one after the other, not the answer.
fn gathered(sharded: &Sharded, tag: &str, body: &Value, truth: &Truth, wrong: &mut Vec<String>) {
    if tag != "SelectStmt" || sharded.no_concat.is_some() {
        return;
    }
    let set = number(body, "op") > 1;
    let limit = [field(body, "limit_count"), field(body, "limit_offset")];
    let is_null = |v: &Value| is(v, "AConst").is_some_and(|c| crate::tree::flag(c, "isnull"));
    let merges =
        |what: &dyn Fn(&GatherShape) -> bool| sharded.gather.as_ref().is_some_and(|shape| what(shape));
    let cut = merges(&|shape| shape.limit.is_some() || shape.offset.is_some());
    let limited = limit.iter().any(|v| !v.is_null() && !is_null(v)) && !cut;
    let ordered = !list(body, "sort_clause").is_empty() && !merges(&|shape| !shape.keys.is_empty());
    let grouped = !list(body, "group_clause").is_empty();
    let distinct = !list(body, "distinct_clause").is_empty();
    let targets = field(body, "target_list");
    let aggregate = !grouped && !merges(&|shape| !shape.folds.is_empty()) && {
        let called = |v: &&Value| {
            let name = crate::tree::strings(list(v, "funcname")).pop().unwrap_or_default();
            AGGREGATES.contains(&name.as_str()) && field(v, "over").is_null()
        };
        outside_subqueries(targets).into_iter().any(|v| called(&v))
    };
    let from_sharded = truth.mentions.iter().any(|m| m.sharded());
    for (there, what) in [
        (set, "a set operation"),
        (limited, "LIMIT"),
        (ordered, "ORDER BY"),
        (aggregate, "an aggregate"),
        ((grouped || distinct) && !keyed(body, truth), "GROUP BY or DISTINCT without a key"),
    ] {
        if there && from_sharded {
            wrong.push(format!("{what}, and the answers of shards are concatenated"));
        }
    }
}

/// A key column's name occurs in GROUP BY or the select list; or something that may be one.
fn keyed(body: &Value, truth: &Truth) -> bool {
    let names: Vec<String> = truth
        .mentions
        .iter()
        .filter_map(|m| m.relation.as_ref())
        .filter_map(|r| r.key().map(|(index, _)| r.columns[index].name.clone()))
        .collect();
    let clauses = [field(body, "group_clause"), field(body, "target_list"), field(body, "distinct_clause")];
    clauses.iter().flat_map(|c| crate::tree::all(c, "ColumnRef")).any(|c| {
        let fields = list(c, "fields");
        fields.iter().any(|f| is(f, "AStar").is_some())
            || crate::tree::strings(fields).iter().any(|f| names.contains(f))
            // Renamed by a derived table.
            || !crate::tree::all(field(body, "from_clause"), "RangeSubselect").is_empty()
            || !crate::tree::all(field(body, "from_clause"), "Alias").is_empty()
            || truth.with
    })
}

fn outside_subqueries(v: &Value) -> Vec<&Value> {
    let mut out = Vec::new();
    match v {
        Value::Object(map) => {
            if map.contains_key("SubLink") {
                return out;
            }
            out.extend(map.get("FuncCall"));
            out.extend(map.values().flat_map(outside_subqueries));
        }
        Value::Array(items) => out.extend(items.iter().flat_map(outside_subqueries)),
        _ => {}
    }
    out
}

/// Rows of VALUES: their places, keys and parameters.
fn rows(
    case: &Case<'_>,
    insert: &Value,
    constants: &dyn Fn(&Value) -> Option<Const>,
    wrong: &mut Vec<String>,
) {
    let Scope::Sharded(sharded) = &case.facts.scope else { return };
    let Some(shape) = &sharded.insert else { return };
    let source = is(field(insert, "select_stmt"), "SelectStmt");
    if let (None, [row]) = (source, shape.rows.as_slice()) {
        // DEFAULT VALUES is the row.
        let words: Vec<_> = case.sql.get(row.span.clone()).unwrap_or("").split_whitespace().collect();
        let drawn = matches!(row.key.value, ValueRef::Default | ValueRef::Null);
        if !drawn || !words.first().is_some_and(|word| word.eq_ignore_ascii_case("default")) {
            wrong.push(format!("DEFAULT VALUES read as {row:?}"));
        }
        return;
    }
    let values = source.map_or(&[][..], |s| list(s, "values_lists"));
    if values.len() != shape.rows.len() {
        wrong.push(format!("{} rows for {}", shape.rows.len(), values.len()));
        return;
    }
    let mut inside = Vec::new();
    for (row, value) in shape.rows.iter().zip(values) {
        let items = is(value, "List").map_or(&[][..], |l| list(l, "items"));
        let source = case.sql.get(row.span.clone()).unwrap_or("");
        if !(source.starts_with('(') && source.ends_with(')')) {
            wrong.push(format!("a row that is none: {source}"));
        }
        let params: Vec<i64> =
            crate::tree::all(value, "ParamRef").iter().map(|p| number(p, "number")).collect();
        let ours: Vec<i64> = row.params.iter().map(|p| i64::from(*p)).collect();
        if crate::commands::sorted(&params) != crate::commands::sorted(&ours) {
            wrong.push(format!("parameters {ours:?} of a row that has {params:?}"));
        }
        inside.extend(params);
        if matches!(row.key.value, ValueRef::Param(_) | ValueRef::Literal(_)) {
            let ours = constant(case, &row.key);
            if !items.iter().any(|item| constants(item).is_some() && constants(item) == ours) {
                wrong.push(format!("a key that the row has not: {:?}", row.key));
            }
        }
    }
    key_positions(case, insert, values, (shape, constants), wrong);
}

/// The key is the value at the key column's place.
fn key_positions(
    case: &Case<'_>,
    insert: &Value,
    values: &[Value],
    (shape, constants): (&proxy::sql::facts::InsertShape, &dyn Fn(&Value) -> Option<Const>),
    wrong: &mut Vec<String>,
) {
    let Some(relation) = crate::commands::target(case, insert) else { return };
    let Some((index, _)) = relation.key() else { return };
    let columns: Vec<&str> =
        list(insert, "cols").iter().filter_map(|c| is(c, "ResTarget")).map(|c| text(c, "name")).collect();
    let position = match columns.as_slice() {
        [] => Some(index),
        named => named.iter().position(|c| *c == relation.columns[index].name),
    };
    for (row, value) in shape.rows.iter().zip(values) {
        let item = is(value, "List").and_then(|l| list(l, "items").get(position?));
        let expected = item.and_then(constants);
        let given = !matches!(row.key.value, ValueRef::Default | ValueRef::Computed);
        let ours = constant(case, &row.key);
        let default = item.is_none_or(|i| is(i, "SetToDefault").is_some());
        let right = match (&expected, given) {
            (Some(_), true) => ours == expected,
            (Some(_), false) => false,
            (None, true) => default && row.key.value == ValueRef::Null,
            (None, false) => default || row.key.value == ValueRef::Computed,
        };
        if !right {
            wrong.push(format!("the key of a row is {:?}, not {expected:?}", row.key));
        }
    }
}
