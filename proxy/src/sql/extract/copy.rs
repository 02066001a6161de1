//! COPY: options in both syntaxes, the place of the key among the columns, COPY of queries.

use super::{Analysis, Context, analyse_tokens, base};
use crate::sql::copy_shape::{CopyFormat, CopyShape};
use crate::sql::facts::{Access, Command, Facts, Pin, PinCause, Scope, Sharded};
use crate::sql::lexer::Kind;
use crate::sql::normalise::Literal;
use crate::sql::parse::named;
use crate::sql::schema::{Deed, Placement, Relation};
use crate::sql::sources::Sources;
use crate::sql::tokens::Tokens;
use std::sync::Arc;

/// The statement's parts before its options.
struct Head {
    relation: Option<Arc<Relation>>,
    name: String,
    columns: Option<Vec<String>>,
    inbound: bool,
    options: usize,
}

/// Facts of a COPY.
pub(super) fn copy(t: &Tokens<'_>, ctx: &Context<'_>, depth: usize) -> Analysis {
    let read = if t.is_mark(1, "(") {
        query(t, ctx, depth)
    } else {
        table(t, ctx).map(|facts| (facts, Sources::default()))
    };
    let unread = |complaint| (super::opaque(t, ctx, &format!("COPY: {complaint}")), Sources::default());
    let (facts, sources) = read.unwrap_or_else(unread);
    Analysis { sources, ..Analysis::own(facts) }
}

/// `COPY (query) TO …`.
fn query(t: &Tokens<'_>, ctx: &Context<'_>, depth: usize) -> Result<(Facts, Sources), String> {
    let close = t.closing(1).ok_or("unbalanced parentheses")?;
    if !t.is(close + 1, "to") {
        return Err("TO is missing".to_string());
    }
    let inner = t.part(2, close);
    let Analysis { mut facts, sources, .. } = analyse_tokens(&inner, ctx, depth + 1);
    if !t.is(close + 2, "stdout") {
        return Ok((server_side(facts), sources));
    }
    let mut shape = CopyShape::plain();
    options(t, ctx, close + 3, &mut shape)?;
    if let Scope::Sharded(sharded) = &mut facts.scope
        && let Some(shape) = sharded.gather.take()
    {
        sharded.no_concat.get_or_insert(shape.what().to_string());
    }
    facts.command = Command::CopyOut(shape);
    facts.returns_rows = false;
    Ok((facts, sources))
}

/// COPY from or to a file or program: the home shard's own affair, and not for sharded tables.
fn server_side(mut facts: Facts) -> Facts {
    facts.access = Access::Write;
    facts.command = Command::Other;
    facts.scope = match facts.scope {
        Scope::Home | Scope::Nothing | Scope::Reference => Scope::Home,
        _ => Scope::Unknown { why: "COPY from or to a file of the server".to_string() },
    };
    facts
}

fn table(t: &Tokens<'_>, ctx: &Context<'_>) -> Result<Facts, String> {
    let head = head(t, ctx)?;
    let mut shape = CopyShape::plain();
    shape.columns =
        head.columns.as_ref().map(Vec::len).or(head.relation.as_ref().map(|r| copied(r).len())).unwrap_or(0);
    let mut scope = Scope::Home;
    match head.relation.as_ref().map(|r| (r, &r.placement)) {
        None if head.inbound && !ctx.temp_tables => {
            scope =
                Scope::Unknown { why: format!("relation {} is not known (yet) and is written", head.name) };
        }
        None | Some((_, Placement::Unsharded | Placement::Catalog)) => {}
        Some((_, Placement::Reference)) => {
            scope = if head.inbound { Scope::ReferenceWrite } else { Scope::Reference };
        }
        Some((relation, Placement::Sharded { key_column, key_type })) => {
            let key = &relation.columns[*key_column].name;
            shape.key_type = Some(*key_type);
            shape.key_modifier = Some(relation.columns[*key_column].stored.modifier);
            shape.key_field = match &head.columns {
                Some(columns) => columns.iter().position(|c| c == key),
                None => copied(relation).iter().position(|c| c == key),
            };
            let pin = if head.inbound { Pin::Insert } else { Pin::Any };
            let fires = if head.inbound { ctx.schema.fires(relation, Deed::Insert) } else { None };
            scope = Scope::Sharded(Box::new(Sharded { fires, ..sharded(*key_type, pin) }));
        }
        // PostgreSQL says that there is nothing to copy from.
        Some((_, Placement::View { .. })) if !head.inbound => {}
        Some((relation, Placement::View { .. })) if !ctx.schema.refused.contains_key(&relation.oid) => {
            return Err(format!("{} is a view", head.name));
        }
        Some((_, Placement::View { .. })) => {}
    }
    let target = head.options;
    let streams = t.is_any(target, if head.inbound { &["stdin", "stdout"] } else { &["stdout", "stdin"] });
    let mut facts = base(Command::Other, scope);
    facts.tables = vec![head.relation.as_ref().map_or(head.name.clone(), |r| r.full_name())];
    facts.unknown_name = head.relation.is_none();
    if let Some(relation) = &head.relation {
        let deed = if head.inbound { Deed::Insert } else { Deed::Read };
        let why = ctx.schema.refused.get(&relation.oid).map(String::as_str);
        let why = why.or(ctx.schema.hazard(relation, deed));
        facts.barred = why.map(|why| super::barred(relation, ctx.schema, why));
        facts.effects.pins = ctx.schema.leaves(relation, deed).then_some(PinCause::Settings);
    }
    if !streams {
        return Ok(server_side(facts));
    }
    shape.force_null_key =
        options(t, ctx, target + 1, &mut shape)?.iter().any(|named| match &head.relation {
            Some(relation) => {
                relation.key().is_some_and(|(i, _)| named == "*" || relation.columns[i].name == *named)
            }
            None => false,
        });
    if let Some(relation) = head.relation.as_ref().filter(|_| head.inbound) {
        facts.unrepeatable = left_to_defaults(ctx, relation, head.columns.as_deref());
        shape.times = times(relation, head.columns.as_deref(), shape.format);
    }
    facts.access = if head.inbound { Access::Write } else { Access::Read };
    facts.command = if head.inbound { Command::CopyIn(shape) } else { Command::CopyOut(shape) };
    Ok(facts)
}

/// A column of a reference table that is left to a default which differs from run to run.
fn left_to_defaults(ctx: &Context<'_>, relation: &Relation, listed: Option<&[String]>) -> Option<String> {
    let listed = listed.filter(|_| relation.placement == Placement::Reference)?;
    let omitted = relation.columns.iter().filter(|column| !listed.contains(&column.name));
    let varies = |default: &String| super::utility::varying_default(ctx, default).is_some();
    let found = omitted.into_iter().find(|column| column.default.as_ref().is_some_and(varies))?;
    Some(format!("the default of {}.{}", relation.full_name(), found.name))
}

/// Positions of the columns whose texts may be read by the clock: where several shards would read it, each its own.
fn times(relation: &Relation, listed: Option<&[String]>, format: CopyFormat) -> Vec<usize> {
    let several = matches!(relation.placement, Placement::Reference | Placement::Sharded { .. });
    if !several || format == CopyFormat::Binary {
        return Vec::new();
    }
    let listed = listed.map(|names| names.iter().map(String::as_str).collect());
    let columns = listed.unwrap_or_else(|| copied(relation)).into_iter().enumerate();
    let may_be = |name: &str| relation.columns.iter().any(|c| c.name == name && c.stored.times);
    columns.filter(|(_, name)| may_be(name)).map(|(n, _)| n).collect()
}

/// Columns that COPY without a list copies: all but generated ones.
fn copied(relation: &Relation) -> Vec<&str> {
    relation.columns.iter().filter(|c| !c.generated).map(|c| c.name.as_str()).collect()
}

fn sharded(key_type: router_config::key::KeyType, pin: Pin) -> Sharded {
    Sharded {
        key_type,
        modifier: None,
        rejects_null: false,
        groups: vec![pin],
        no_concat: None,
        fires: None,
        moves: None,
        gather: None,
        select: None,
        needs_home: None,
        writes_reference: false,
        updates_key: false,
        insert: None,
        colocated_insert_select: false,
    }
}

/// `COPY [BINARY] name [(columns)] FROM | TO`.
fn head(t: &Tokens<'_>, ctx: &Context<'_>) -> Result<Head, String> {
    let at = 1 + usize::from(t.is(1, "binary") && !t.is_mark(2, "(") && !t.is_any(2, &["from", "to"]));
    if at == 2 {
        return Err("COPY BINARY".to_string());
    }
    let (schema, name, mut next) = t.qualified(at).ok_or("a table's name is missing")?;
    let mut columns = None;
    if t.is_mark(next, "(") {
        let close = t.closing(next).ok_or("unbalanced parentheses")?;
        let names: Vec<String> =
            (next + 1..close).filter_map(|i| t.name(i)).map(|n| n.into_owned()).collect();
        if names.len() * 2 != close - next {
            return Err("a column list of an unknown form".to_string());
        }
        columns = Some(names);
        next = close + 1;
    }
    let inbound = t.is(next, "from");
    if !inbound && !t.is(next, "to") {
        return Err("FROM or TO is missing".to_string());
    }
    let relation = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name);
    Ok(Head { relation, name, columns, inbound, options: next + 1 })
}

impl CopyShape {
    /// The defaults of text format.
    fn plain() -> Self {
        Self {
            format: CopyFormat::Text,
            delimiter: b'\t',
            null: "\\N".to_string(),
            quote: b'"',
            escape: b'"',
            header: false,
            key_field: None,
            key_type: None,
            key_modifier: None,
            columns: 0,
            force_null_key: false,
            encoding: None,
            times: Vec::new(),
        }
    }
}

/// What options said before defaults are filled in.
#[derive(Default)]
struct Said {
    delimiter: Option<u8>,
    null: Option<String>,
    quote: Option<u8>,
    escape: Option<u8>,
    forced: Vec<String>,
}

/// Reads options of either syntax; returns the columns that FORCE_NULL or FORCE_NOT_NULL names.
fn options(
    t: &Tokens<'_>,
    ctx: &Context<'_>,
    mut at: usize,
    shape: &mut CopyShape,
) -> Result<Vec<String>, String> {
    let mut said = Said::default();
    at += usize::from(t.is(at, "with"));
    if t.is_mark(at, "(") {
        let close = t.closing(at).ok_or("unbalanced parentheses")?;
        let mut from = at + 1;
        while from < close {
            let mut to = from;
            while to < close && !t.is_mark(to, ",") {
                to = if t.is_mark(to, "(") {
                    t.closing(to).ok_or("unbalanced parentheses")? + 1
                } else {
                    to + 1
                };
            }
            modern(t, ctx, (from, to), shape, &mut said)?;
            from = to + 1;
        }
        at = close + 1;
    } else {
        at = old(t, ctx, at, shape, &mut said)?;
    }
    // WHERE filters the rows on the shard that they go to.
    if at < t.len() && !t.is(at, "where") {
        return Err(format!("unexpected {}", named(&t.source(at, at))));
    }
    if shape.format == CopyFormat::Csv {
        shape.delimiter = b',';
        shape.null = String::new();
    }
    shape.delimiter = said.delimiter.unwrap_or(shape.delimiter);
    shape.null = said.null.unwrap_or_else(|| shape.null.clone());
    shape.quote = said.quote.unwrap_or(shape.quote);
    shape.escape = said.escape.unwrap_or(shape.quote);
    Ok(said.forced)
}

/// `name [value]`, tokens `from..to`.
fn modern(
    t: &Tokens<'_>,
    ctx: &Context<'_>,
    (from, to): (usize, usize),
    shape: &mut CopyShape,
    said: &mut Said,
) -> Result<(), String> {
    let off = t.is_any(from + 1, &["false", "off"]) || t.raw(from + 1) == b"0";
    let value = || text(t, ctx, from + 1);
    match t.keyword(from).as_str() {
        "format" => {
            let name = t.name(from + 1).map(|n| n.into_owned()).or_else(value).unwrap_or_default();
            shape.format = format(&name)?;
        }
        "delimiter" => said.delimiter = Some(byte(value())?),
        "null" => said.null = Some(value().ok_or("NULL without a string")?),
        "quote" => said.quote = Some(byte(value())?),
        "escape" => said.escape = Some(byte(value())?),
        "header" => shape.header = !off,
        "encoding" => shape.encoding = value(),
        "force_not_null" | "force_null" => forced(t, from + 1, to, said),
        "freeze" | "force_quote" | "on_error" | "log_verbosity" | "reject_limit" | "oids" => {}
        "default" => return Err("the option DEFAULT".to_string()),
        other => return Err(format!("option {other}")),
    }
    Ok(())
}

/// `BINARY DELIMITER [AS] ',' NULL [AS] '' CSV HEADER QUOTE … ESCAPE … FORCE NOT NULL …`; returns the index after.
fn old(
    t: &Tokens<'_>,
    ctx: &Context<'_>,
    mut at: usize,
    shape: &mut CopyShape,
    said: &mut Said,
) -> Result<usize, String> {
    while at < t.len() {
        let value = at + 1 + usize::from(t.is(at + 1, "as"));
        at = match t.keyword(at).as_str() {
            "binary" => {
                shape.format = CopyFormat::Binary;
                at + 1
            }
            "csv" => {
                shape.format = CopyFormat::Csv;
                at + 1
            }
            "header" => {
                shape.header = true;
                at + 1
            }
            "freeze" => at + 1,
            "delimiter" | "delimiters" => {
                said.delimiter = Some(byte(text(t, ctx, value))?);
                value + 1
            }
            "using" if t.is(at + 1, "delimiters") => at + 1,
            "null" => {
                said.null = Some(text(t, ctx, value).ok_or("NULL without a string")?);
                value + 1
            }
            "quote" => {
                said.quote = Some(byte(text(t, ctx, value))?);
                value + 1
            }
            "escape" => {
                said.escape = Some(byte(text(t, ctx, value))?);
                value + 1
            }
            "encoding" => {
                shape.encoding = text(t, ctx, at + 1);
                at + 2
            }
            "force" => {
                let start = at + if t.is(at + 1, "not") { 3 } else { 2 };
                let mut end = start + 1;
                while t.is_mark(end, ",") {
                    end += 2;
                }
                if !t.is(at + 1, "quote") {
                    forced(t, start, end, said);
                }
                end
            }
            _ => return Ok(at),
        };
    }
    Ok(at)
}

fn forced(t: &Tokens<'_>, from: usize, to: usize, said: &mut Said) {
    for at in from..to {
        if let Some(name) = t.name(at) {
            said.forced.push(name.into_owned());
        } else if t.is_mark(at, "*") {
            said.forced.push("*".to_string());
        }
    }
}

fn format(name: &str) -> Result<CopyFormat, String> {
    match name.to_ascii_lowercase().as_str() {
        "text" => Ok(CopyFormat::Text),
        "csv" => Ok(CopyFormat::Csv),
        "binary" => Ok(CopyFormat::Binary),
        other => Err(format!("format {other}")),
    }
}

/// The string at this token.
fn text(t: &Tokens<'_>, ctx: &Context<'_>, at: usize) -> Option<String> {
    let token = t.list.get(at)?;
    if !matches!(token.kind, Kind::String | Kind::Escaped | Kind::Unicode | Kind::Dollar) {
        return None;
    }
    let literal = Literal { kind: token.kind, start: token.start, end: token.end };
    literal.value(t.text, ctx.standard_conforming_strings).map(|v| v.into_owned())
}

fn byte(value: Option<String>) -> Result<u8, String> {
    match value.as_deref().map(str::as_bytes) {
        Some([single]) => Ok(*single),
        _ => Err("a delimiter, quote or escape that is not one byte".to_string()),
    }
}
