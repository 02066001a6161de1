//! What PostgreSQL's own tree says of a statement: tables, functions, and what its conditions demand of keys.
//!
//! Derived without a look at how the proxy does it. Where the two may differ lawfully, this side errs on the side of the
//! proxy: it ties together and pins more than the proxy may, never less.

use std::collections::BTreeSet;

use proxy::sql::schema::{Placement, Relation, Schema};
use serde_json::Value;

use crate::tree::{field, flag, is, list, node, number, range_var, strings, text};

mod conditions;
mod writers;

use conditions::plain;

/// A constant or parameter in a condition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Const {
    /// `Param` number, byte of the literal, or NULL.
    pub value: Where,
    /// Its value is negative.
    pub negative: bool,
    /// There is a cast around it.
    pub cast: bool,
}

/// Where a constant is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    Param(i64),
    Literal(usize),
    Null,
}

/// What a condition may say of a mention's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// It is one of these.
    Keys(Vec<Const>),
    /// It is a member of this array.
    Array(Const),
}

/// One mention of a relation.
#[derive(Debug)]
pub struct Mention {
    /// As the catalog has it, or as written.
    pub name: String,
    pub relation: Option<std::sync::Arc<Relation>>,
    /// It is the target of a statement.
    pub written: bool,
    parent: usize,
}

/// What is known of a whole statement.
#[derive(Debug, Default)]
pub struct Truth {
    pub mentions: Vec<Mention>,
    /// What conjuncts demand, by mention.
    pub demands: Vec<(usize, Demand)>,
    /// Functions called by name.
    pub functions: BTreeSet<String>,
    /// FOR UPDATE and its kin.
    pub locks: bool,
    /// WITH occurs.
    pub with: bool,
    /// Names of WITH queries, and whether one of the WITHs is RECURSIVE.
    pub named: Vec<String>,
    pub recursive: bool,
    /// WHERE CURRENT OF.
    pub current_of: bool,
    /// The key of the target is assigned another value, for certain.
    pub new_key: bool,
}

type Keys = BTreeSet<usize>;
type Columns = Option<Vec<(String, Keys)>>;

/// An item of FROM.
#[derive(Debug, Clone)]
struct Source {
    alias: String,
    columns: Columns,
    mentions: Vec<usize>,
}

type Level = Vec<Source>;

#[derive(Debug, Clone)]
struct Named {
    name: String,
    columns: Columns,
    mentions: Vec<usize>,
}

/// Reads statements of one kind of tree.
pub struct Reader<'c> {
    schema: &'c Schema,
    sql: &'c str,
    levels: Vec<Level>,
    named: Vec<Named>,
    pub truth: Truth,
}

impl<'c> Reader<'c> {
    pub fn new(schema: &'c Schema, sql: &'c str) -> Self {
        Self { schema, sql, levels: Vec::new(), named: Vec::new(), truth: Truth::default() }
    }

    fn lookup(&self, schema: Option<&str>, name: &str) -> Option<std::sync::Arc<Relation>> {
        self.schema.lookup(&self.schema.default_search_path, schema, name)
    }

    fn mention(&mut self, range: &Value, written: bool) -> Option<usize> {
        let (schema, name) = range_var(range)?;
        let relation = self.lookup(schema.as_deref(), &name);
        let written_name = schema.map_or(name.clone(), |s| format!("{s}.{name}"));
        let name = relation.as_ref().map_or(written_name, |r| r.full_name());
        let parent = self.truth.mentions.len();
        self.truth.mentions.push(Mention { name, relation, written, parent });
        Some(parent)
    }

    fn source(&self, mention: usize, range: &Value) -> Source {
        let relation = &self.truth.mentions[mention].relation;
        let key = relation.as_ref().and_then(|r| r.key()).map(|(index, _)| index);
        let columns = relation.as_ref().map(|r| {
            let keys = |i: usize| if Some(i) == key { Keys::from([mention]) } else { Keys::new() };
            r.columns.iter().enumerate().map(|(i, c)| (c.name.clone(), keys(i))).collect()
        });
        let alias = field(range, "alias");
        let columns = renamed(columns, alias);
        let name = text(alias, "aliasname");
        let alias = if name.is_empty() { text(range, "relname") } else { name };
        Source { alias: alias.to_string(), columns, mentions: vec![mention] }
    }

    /// Any statement or expression.
    pub fn any(&mut self, v: &Value) {
        match v {
            Value::Object(map) => {
                if let Some((tag, body)) = node(v) {
                    return self.tagged(tag, body);
                }
                if map.contains_key("relname") {
                    self.mention(v, false);
                }
                map.values().for_each(|child| self.any(child));
            }
            Value::Array(items) => items.iter().for_each(|child| self.any(child)),
            _ => {}
        }
    }

    fn tagged(&mut self, tag: &str, body: &Value) {
        match tag {
            "SelectStmt" => {
                self.query(body);
            }
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => {
                self.writer(tag, body);
            }
            "FuncCall" => {
                let names = strings(list(body, "funcname"));
                // Forms of the grammar come as calls of pg_catalog's.
                if number(body, "funcformat") == 1 || names.len() == 1 {
                    self.truth.functions.extend(names.last().cloned());
                }
                self.children(body);
            }
            // Index expressions: nothing is computed for the statement.
            "InferClause" => {}
            // `(a, b) = (SELECT …)` has the query once for each column.
            "MultiAssignRef" if number(body, "colno") > 1 => {}
            "CurrentOfExpr" => self.truth.current_of = true,
            _ => self.children(body),
        }
    }

    fn children(&mut self, body: &Value) {
        match body {
            Value::Object(map) => {
                if map.contains_key("relname") {
                    self.mention(body, false);
                }
                map.values().for_each(|child| self.any(child));
            }
            other => self.any(other),
        }
    }

    /// A query; its columns and the mentions that its rows come from.
    fn query(&mut self, select: &Value) -> (Columns, Vec<usize>) {
        let names = self.named.len();
        self.with(field(select, "with_clause"));
        self.truth.locks |= !list(select, "locking_clause").is_empty();
        let out = if number(select, "op") > 1 {
            let (_, mut left) = self.query(field(select, "larg"));
            let (_, right) = self.query(field(select, "rarg"));
            left.extend(right);
            self.levels.push(Level::new());
            self.tail(select);
            self.levels.pop();
            (None, left)
        } else {
            self.select(select)
        };
        self.named.truncate(names);
        out
    }

    fn tail(&mut self, select: &Value) {
        for clause in ["sort_clause", "limit_offset", "limit_count", "locking_clause"] {
            if clause != "locking_clause" {
                self.any(field(select, clause));
            }
        }
    }

    fn with(&mut self, with: &Value) {
        if with.is_null() {
            return;
        }
        self.truth.with = true;
        let recursive = flag(with, "recursive");
        self.truth.recursive |= recursive;
        let ctes: Vec<&Value> = list(with, "ctes").iter().filter_map(|c| is(c, "CommonTableExpr")).collect();
        self.truth.named.extend(ctes.iter().map(|c| text(c, "ctename").to_string()));
        let start = self.named.len();
        if recursive {
            for cte in &ctes {
                let name = text(cte, "ctename").to_string();
                self.named.push(Named { name, columns: None, mentions: Vec::new() });
            }
        }
        for (index, cte) in ctes.iter().enumerate() {
            let Some((tag, body)) = node(field(cte, "ctequery")) else { continue };
            let (columns, mentions) = match tag {
                "SelectStmt" => self.query(body),
                _ => self.writer(tag, body),
            };
            let names = strings(list(cte, "aliascolnames"));
            let columns = columns.map(|mut columns| {
                for (column, name) in columns.iter_mut().zip(names) {
                    column.0 = name;
                }
                columns
            });
            let name = text(cte, "ctename").to_string();
            let named = Named { name, columns, mentions };
            if recursive {
                self.named[start + index] = named;
            } else {
                self.named.push(named);
            }
        }
    }

    fn select(&mut self, select: &Value) -> (Columns, Vec<usize>) {
        self.levels.push(Level::new());
        for item in list(select, "from_clause") {
            self.from(item);
        }
        self.condition(field(select, "where_clause"), None);
        let clauses = ["distinct_clause", "group_clause", "having_clause", "window_clause", "values_lists"];
        clauses.iter().for_each(|c| self.any(field(select, c)));
        let columns = self.targets(list(select, "target_list"));
        self.tail(select);
        self.any(field(select, "into_clause"));
        let level = self.levels.pop().unwrap_or_default();
        let mentions = level.into_iter().flat_map(|s| s.mentions).collect();
        let values = !list(select, "values_lists").is_empty();
        (columns.filter(|_| !values), mentions)
    }

    /// Output columns of a select list or RETURNING.
    fn targets(&mut self, targets: &[Value]) -> Columns {
        let mut columns = Some(Vec::new());
        for target in targets.iter().filter_map(|t| is(t, "ResTarget")) {
            let value = field(target, "val");
            self.any(value);
            let Some(reference) = is(value, "ColumnRef") else {
                let column = (text(target, "name").to_string(), Keys::new());
                columns.iter_mut().for_each(|c| c.push(column.clone()));
                continue;
            };
            let fields = list(reference, "fields");
            let star = fields.last().is_some_and(|f| is(f, "AStar").is_some());
            let names = strings(fields);
            let more = if star {
                self.star(names.last().map(String::as_str))
            } else {
                let name = text(target, "name");
                let name =
                    if name.is_empty() { names.last().cloned().unwrap_or_default() } else { name.into() };
                Some(vec![(name, self.resolve(&names))])
            };
            columns = columns.zip(more).map(|(mut all, more)| {
                all.extend(more);
                all
            });
        }
        columns
    }

    fn star(&self, alias: Option<&str>) -> Columns {
        let level = self.levels.last()?;
        let mut out = Vec::new();
        for source in level.iter().filter(|s| alias.is_none_or(|a| s.alias == a)) {
            out.extend(source.columns.clone()?);
        }
        Some(out)
    }

    /// Mentions whose key a column may be.
    fn resolve(&self, names: &[String]) -> Keys {
        let (alias, column) = match names {
            [column] => (None, column),
            [.., alias, column] => (Some(alias), column),
            [] => return Keys::new(),
        };
        for level in self.levels.iter().rev() {
            let mut found = None;
            for source in level.iter().filter(|s| alias.is_none_or(|a| s.alias == *a)) {
                for (_, keys) in source.columns.iter().flatten().filter(|(name, _)| name == column) {
                    found.get_or_insert_with(Keys::new).extend(keys);
                }
                if alias.is_some() {
                    found.get_or_insert_with(Keys::new);
                }
            }
            if let Some(keys) = found {
                return keys;
            }
        }
        Keys::new()
    }

    fn keys_of(&self, v: &Value) -> Keys {
        match node(plain(v)) {
            Some(("ColumnRef", body)) => self.resolve(&strings(list(body, "fields"))),
            _ => Keys::new(),
        }
    }

    fn push(&mut self, source: Source) {
        match self.levels.last_mut() {
            Some(level) => level.push(source),
            None => self.levels.push(vec![source]),
        }
    }

    fn from(&mut self, item: &Value) {
        let Some((tag, body)) = node(item) else { return };
        match tag {
            "RangeVar" => self.range(body),
            "RangeSubselect" => {
                let hidden = (!flag(body, "lateral")).then(|| self.levels.pop()).flatten();
                let (columns, mentions) = match is(field(body, "subquery"), "SelectStmt") {
                    Some(select) => self.query(select),
                    None => (None, Vec::new()),
                };
                self.levels.extend(hidden);
                let alias = field(body, "alias");
                let columns = renamed(columns, alias);
                self.push(Source { alias: text(alias, "aliasname").to_string(), columns, mentions });
            }
            "JoinExpr" => self.join(body),
            "RangeTableSample" => {
                self.from(field(body, "relation"));
                self.any(field(body, "args"));
            }
            _ => {
                self.children(body);
                let alias = text(field(body, "alias"), "aliasname").to_string();
                self.push(Source { alias, columns: None, mentions: Vec::new() });
            }
        }
    }

    fn range(&mut self, range: &Value) {
        let Some((schema, name)) = range_var(range) else { return };
        let named = self.named.iter().rev().find(|n| schema.is_none() && n.name == name).cloned();
        let Some(named) = named else {
            if let Some(mention) = self.mention(range, false) {
                let source = self.source(mention, range);
                self.push(source);
            }
            return;
        };
        let alias = field(range, "alias");
        let columns = renamed(named.columns, alias);
        let shown = text(alias, "aliasname");
        let alias = if shown.is_empty() { name } else { shown.to_string() };
        self.push(Source { alias, columns, mentions: named.mentions });
    }

    fn join(&mut self, join: &Value) {
        let start = self.levels.last().map_or(0, Vec::len);
        self.from(field(join, "larg"));
        let middle = self.levels.last().map_or(0, Vec::len);
        self.from(field(join, "rarg"));
        let level = self.levels.last().cloned().unwrap_or_default();
        let of = |part: &[Source]| part.iter().flat_map(|s| s.mentions.clone()).collect::<Keys>();
        let (left, right) = (of(&level[start..middle]), of(&level[middle..]));
        let allowed = match number(join, "jointype") {
            2 => Some(right),
            3 => Some(Keys::new()),
            4 => Some(left),
            _ => None,
        };
        self.condition(field(join, "quals"), allowed.as_ref());
        let using = strings(list(join, "using_clause"));
        let natural = flag(join, "is_natural");
        let named = |part: &[Source]| -> Vec<(String, Keys)> {
            part.iter().flat_map(|s| s.columns.clone().unwrap_or_default()).collect()
        };
        for (name, keys) in named(&level[start..middle]) {
            for (other, more) in named(&level[middle..]) {
                if name == other && (natural || using.contains(&name)) {
                    self.unite(&keys, &more);
                }
            }
        }
        let alias = field(join, "alias");
        if !alias.is_null() {
            let inside = &level[start..];
            let columns = inside.iter().map(|s| s.columns.clone()).collect::<Option<Vec<_>>>();
            // What USING and NATURAL merge comes first, once: rather nothing than a wrong order.
            let simple = using.is_empty() && !natural;
            let columns = renamed(columns.map(|c| c.concat()).filter(|_| simple), alias);
            let mentions = inside.iter().flat_map(|s| s.mentions.clone()).collect();
            if let Some(level) = self.levels.last_mut() {
                level.truncate(start);
            }
            self.push(Source { alias: text(alias, "aliasname").to_string(), columns, mentions });
        }
    }

    fn unite(&mut self, a: &Keys, b: &Keys) {
        for (&a, &b) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
            let (a, b) = (self.component(a), self.component(b));
            self.truth.mentions[a.max(b)].parent = a.min(b);
        }
    }

    fn component(&self, mention: usize) -> usize {
        self.truth.component(mention)
    }
}

impl Truth {
    /// The first mention that this one's key is tied to.
    pub fn component(&self, mut mention: usize) -> usize {
        while self.mentions[mention].parent != mention {
            mention = self.mentions[mention].parent;
        }
        mention
    }
}

impl Mention {
    /// It is a sharded table.
    pub fn sharded(&self) -> bool {
        self.relation.as_ref().is_some_and(|r| r.key_type().is_some())
    }

    /// It is known and placed so.
    pub fn placed(&self, placement: &Placement) -> bool {
        self.relation.as_ref().is_some_and(|r| r.placement == *placement)
    }
}

fn renamed(columns: Columns, alias: &Value) -> Columns {
    let names = strings(list(alias, "colnames"));
    columns.map(|mut columns| {
        for (column, name) in columns.iter_mut().zip(names) {
            column.0 = name;
        }
        columns
    })
}
