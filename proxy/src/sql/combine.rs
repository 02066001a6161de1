//! What has to be gathered for a query that PostgreSQL computes over the rows of several shards, and the query's text there.
//!
//! On the combining connection each gathered relation is a temporary table of the same name, with the columns that the query
//! may need. Temporary tables hide others of their name, so a name without a schema needs no change; `schema.name` becomes
//! `pg_temp.name`. Views that no shard can answer alone are made anew, over the temporary tables.
//!
//! Invariant: what is not certain to mean the same there is an error, which says why.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::extract::{Analysis, Context, analysis};
use super::facts::{Access, Command, Facts, Pin, PinCause, Scope};
use super::lexer::Kind;
use super::parse::is_keyword;
use super::schema::{Placement, Relation, RelationKind};
use super::sources::{Filter, Mention, Sources};
use super::spelling::quote_ident;
use super::tokens::Tokens;

/// Views inside of views.
const MAX_NESTED_VIEWS: usize = 32;

/// A query as it runs on the combining connection.
#[derive(Debug, Clone)]
pub struct CombineShape {
    /// Its text.
    pub text: String,
    /// What it reads there instead of the tables themselves.
    pub tables: Vec<NeededTable>,
    /// `CREATE TEMPORARY VIEW` of each view that is computed there, in an order in which they can be made.
    pub views: Vec<String>,
    /// It groups: columns that depend on a primary key must be known to do so.
    pub groups: bool,
}

/// A relation whose rows are gathered.
#[derive(Debug, Clone)]
pub struct NeededTable {
    /// Which.
    pub relation: Arc<Relation>,
    /// Indices of the columns that the query may need, ascending; at least one.
    pub columns: Vec<usize>,
    /// Where it is named: only rows that matter for one of these are needed.
    pub mentions: Vec<NeededRows>,
}

/// Which rows one mention needs.
#[derive(Debug, Clone)]
pub struct NeededRows {
    /// Those that fulfil all of these.
    pub filters: Vec<Filter>,
    /// And whose key is allowed by each of these.
    pub pins: Vec<Pin>,
}

/// What to gather for the query `text`. `everything`: also what the home shard has alone, since the session's transaction may
/// have changed it. The error says what stands in the way.
pub fn shape(text: &str, ctx: &Context<'_>, everything: bool) -> Result<CombineShape, String> {
    let Analysis { facts, sources, .. } = analysis(text.as_bytes(), ctx);
    fit(&facts, &sources)?;
    if ctx.search_path.iter().any(|schema| schema == "pg_temp") {
        return Err("search_path names pg_temp".to_owned());
    }
    let mut shaping = Shaping {
        ctx,
        everything,
        tables: Vec::new(),
        views: Vec::new(),
        seen: HashSet::new(),
        groups: false,
    };
    let text = shaping.query(text, &sources, (0, ctx.standard_conforming_strings))?;
    shaping.check_names(&sources.mentions)?;
    shaping.check_types(&text, ctx.standard_conforming_strings)?;
    let Shaping { tables, views, groups, .. } = shaping;
    Ok(CombineShape { text, tables, views, groups })
}

/// Whether what the statement does can be done elsewhere than where the session is.
fn fit(facts: &Facts, sources: &Sources) -> Result<(), String> {
    let reads = matches!(facts.command, Command::Query | Command::CopyOut(_) | Command::Declare { .. });
    let effects = &facts.effects;
    // A cursor WITH HOLD binds the session to where it is.
    let pins = effects.pins.filter(|cause| *cause != PinCause::HoldCursor);
    let state = effects.currval || effects.sequence || effects.strided || effects.home_sequence;
    match &facts.scope {
        _ if !reads || facts.access == Access::Write => Err("it is no plain query".to_owned()),
        _ if facts.barred.is_some() => Err(facts.barred.clone().unwrap_or_default()),
        Scope::Sharded(_) => Ok(()),
        Scope::Unknown { .. } if sources.mixed_keys => Ok(()),
        Scope::Unknown { why } => Err(why.clone()),
        _ => Err("it reads no sharded table".to_owned()),
    }?;
    let why = match () {
        () if sources.locks => "it locks rows",
        () if facts.unknown_name => "it names a relation that is not known",
        () if pins.is_some() || effects.spoils => "it leaves something on its connection",
        () if effects.advisory_lock || effects.notifies || effects.listening_channels => {
            "it locks or notifies"
        }
        () if state => "it draws from a sequence, or asks for what was drawn",
        () if effects.node_dependent => "it calls a function that answers for its connection or its node",
        () => return Ok(()),
    };
    Err(why.to_owned())
}

struct Shaping<'c> {
    ctx: &'c Context<'c>,
    everything: bool,
    tables: Vec<NeededTable>,
    views: Vec<String>,
    /// OIDs of the views that are made.
    seen: HashSet<u32>,
    groups: bool,
}

impl Shaping<'_> {
    /// Notes what a query reads, the statement's own or a view's; its text for the combining connection. `how`: views around it, and
    /// `standard_conforming_strings`.
    fn query(&mut self, text: &str, sources: &Sources, how: (usize, bool)) -> Result<String, String> {
        let (depth, conforming) = how;
        if self.everything && sources.functions_read {
            return Err("it calls a function that reads tables, inside of a transaction".to_owned());
        }
        if sources.functions_shadowed {
            return Err("it calls a function that names tables whose rows are gathered".to_owned());
        }
        let tokens = Tokens::new(text.as_bytes(), conforming);
        check_words(&tokens, &sources.mentions, None)?;
        let needs = Needs::of(&tokens, &sources.mentions);
        self.groups |= needs.words.contains("group");
        let mut elsewhere: Vec<(&str, &str)> = Vec::new();
        for mention in &sources.mentions {
            let relation = &mention.relation;
            if depth > 0 && self.ctx.schema.row_security.contains(&relation.oid) {
                let name = relation.full_name();
                return Err(format!(
                    "{name} has row security, which asks for the rights of the view's owner"
                ));
            }
            match self.gathering(relation)? {
                Gathering::InPlace => continue,
                Gathering::Rows => self.need(mention, &needs, depth),
                Gathering::View(definition) => self.view(relation, &definition, depth)?,
            }
            elsewhere.push((&relation.schema, &relation.name));
        }
        renamed(&tokens, text, &elsewhere)
    }

    fn gathering(&self, relation: &Relation) -> Result<Gathering, String> {
        match (&relation.placement, &relation.definition) {
            _ if relation.is_temporary() => Ok(Gathering::Rows),
            (Placement::Sharded { .. } | Placement::View { key_column: Some(_), .. }, _) => {
                Ok(Gathering::Rows)
            }
            (Placement::View { key_column: None, .. }, Some(definition))
                if relation.kind == RelationKind::View =>
            {
                Ok(Gathering::View(Arc::clone(definition)))
            }
            (Placement::View { key_column: None, .. }, _) => {
                Err(format!("{} has other rows on each shard", relation.full_name()))
            }
            (Placement::Reference | Placement::Unsharded, _) if self.everything => Ok(Gathering::Rows),
            (Placement::Reference | Placement::Unsharded, _) => Ok(Gathering::InPlace),
            (Placement::Catalog, _) => {
                let name = relation.full_name();
                Err(format!("{name} would show the tables in which rows are gathered"))
            }
        }
    }

    fn need(&mut self, mention: &Mention, needs: &Needs, depth: usize) {
        let columns = needs.columns(mention);
        // Values in a view's text are not among those of the statement.
        let pins = if depth == 0 { mention.pins.clone() } else { Vec::new() };
        let rows = NeededRows { filters: mention.filters.clone(), pins };
        match self.tables.iter_mut().find(|known| known.relation.oid == mention.relation.oid) {
            Some(known) => {
                let all: BTreeSet<usize> = known.columns.iter().copied().chain(columns).collect();
                known.columns = all.into_iter().collect();
                known.mentions.push(rows);
            }
            None => self.tables.push(NeededTable {
                relation: Arc::clone(&mention.relation),
                columns: columns.into_iter().collect(),
                mentions: vec![rows],
            }),
        }
    }

    fn view(&mut self, view: &Relation, definition: &str, depth: usize) -> Result<(), String> {
        if depth >= MAX_NESTED_VIEWS {
            return Err(format!("more than {MAX_NESTED_VIEWS} views inside one another"));
        }
        if !self.seen.insert(view.oid) {
            return Ok(());
        }
        let definition = definition.trim_end().trim_end_matches(';');
        let ctx =
            Context { search_path: &[], temp_tables: false, standard_conforming_strings: true, ..*self.ctx };
        let Analysis { facts, sources, .. } = analysis(definition.as_bytes(), &ctx);
        let within = |why: String| format!("view {}: {why}", view.full_name());
        fit(&facts, &sources).map_err(within)?;
        let text = self.query(definition, &sources, (depth + 1, true)).map_err(within)?;
        let columns: Vec<String> = view.columns.iter().map(|column| quote_ident(&column.name)).collect();
        let (name, columns) = (quote_ident(&view.name), columns.join(", "));
        self.views.push(format!("CREATE TEMPORARY VIEW {name} ({columns}) AS {text}"));
        Ok(())
    }

    /// A temporary table hides every other relation of its name that goes without a schema.
    fn check_names(&self, mentions: &[Mention]) -> Result<(), String> {
        let mut names: HashSet<&str> = HashSet::new();
        for NeededTable { relation, .. } in &self.tables {
            if !names.insert(&relation.name) {
                return Err(format!("it reads two tables of the name {}", relation.name));
            }
        }
        let is_made = |relation: &Relation| self.seen.contains(&relation.oid);
        let gathered =
            |relation: &Relation| self.tables.iter().any(|known| known.relation.oid == relation.oid);
        for relation in mentions.iter().map(|mention| &mention.relation).filter(|r| is_made(r)) {
            if names.contains(relation.name.as_str()) {
                return Err(format!("it reads two relations of the name {}", relation.name));
            }
        }
        let hidden = |mention: &&Mention| {
            let relation = &mention.relation;
            !mention.qualified
                && !gathered(relation)
                && !is_made(relation)
                && names.contains(relation.name.as_str())
        };
        match mentions.iter().find(hidden) {
            Some(mention) => Err(format!("it reads two relations of the name {}", mention.relation.name)),
            None => Ok(()),
        }
    }
}

impl Shaping<'_> {
    /// A temporary table hides the type of its name as well.
    fn check_types(&self, text: &str, conforming: bool) -> Result<(), String> {
        let relations = self.tables.iter().map(|table| &table.relation);
        let names: HashSet<&str> = relations.map(|relation| relation.name.as_str()).collect();
        let hides = |name: &str| Err(format!("its tables hide the type {name}"));
        let columns = self
            .tables
            .iter()
            .flat_map(|table| table.columns.iter().filter_map(|at| table.relation.columns.get(*at)));
        for column in columns {
            let declared = Tokens::new(column.declared.as_bytes(), true);
            if let Some(name) = declared.name(0).filter(|name| names.contains(&**name)) {
                return hides(&name);
            }
        }
        let views = self.views.iter().map(|view| (view.as_str(), true));
        for (text, conforming) in views.chain([(text, conforming)]) {
            let tokens = Tokens::new(text.as_bytes(), conforming);
            if let Some(name) = (0..tokens.len()).find_map(|at| type_named(&tokens, at, &names)) {
                return hides(&name);
            }
        }
        Ok(())
    }
}

/// One of these names where it may be that of a type. Errs on the side of types.
fn type_named(tokens: &Tokens<'_>, at: usize, names: &HashSet<&str>) -> Option<String> {
    let name = tokens.name(at).filter(|name| names.contains(&**name))?;
    let next = tokens.kind(at + 1);
    let literal = next.is_some_and(|kind| kind.is_literal() && kind != Kind::Number);
    let before = at.checked_sub(1)?;
    let cast = tokens.is_mark(before, "::") || (tokens.is(before, "as") && in_cast(tokens, before));
    // `(column type, …)`; an alias may repeat the name of its table.
    let defined = tokens.name(before).is_some_and(|column| !names.contains(&*column))
        && !(tokens.kind(before) == Some(Kind::Word) && is_keyword(&tokens.keyword(before)));
    (literal || cast || defined).then(|| name.into_owned())
}

/// Whether the innermost parenthesis around a token is that of `CAST(`.
fn in_cast(tokens: &Tokens<'_>, at: usize) -> bool {
    let mut depth = 0_usize;
    for open in (1..at).rev() {
        if tokens.is_mark(open, ")") {
            depth += 1;
        } else if tokens.is_mark(open, "(") {
            if depth == 0 {
                return tokens.is_any(open - 1, &["cast", "xmlserialize"]);
            }
            depth -= 1;
        }
    }
    false
}

enum Gathering {
    InPlace,
    Rows,
    View(Arc<str>),
}

/// Words that mean something else where a table is a temporary one. `only`: an ONLY that stands in front of another.
pub(super) fn check_words(
    tokens: &Tokens<'_>,
    mentions: &[Mention],
    only: Option<usize>,
) -> Result<(), String> {
    const SYSTEM: [&str; 6] = ["tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"];
    const BY_NAME: [&str; 14] = [
        "regclass",
        "to_regclass",
        "pg_relation_size",
        "pg_table_size",
        "pg_indexes_size",
        "pg_total_relation_size",
        "pg_relation_filepath",
        "pg_relation_filenode",
        "pg_get_serial_sequence",
        "pg_sequence_last_value",
        "has_table_privilege",
        "has_column_privilege",
        "has_any_column_privilege",
        "row_security_active",
    ];
    let column = |name: &str| {
        mentions.iter().any(|mention| mention.relation.columns.iter().any(|column| column.name == name))
    };
    for at in 0..tokens.len() {
        let Some(name) = tokens.name(at) else { continue };
        let name = name.as_ref();
        if SYSTEM.contains(&name) && !column(name) {
            return Err(format!("it reads the system column {name}"));
        }
        if BY_NAME.contains(&name) && !column(name) {
            return Err(format!("{name} names a table by its place"));
        }
        // FETCH FIRST 3 ROWS ONLY, READ ONLY
        let rows = at > 0 && tokens.is_any(at - 1, &["row", "rows", "read"]);
        if name == "only" && !rows && Some(at) != only && tokens.kind(at) == Some(Kind::Word) {
            return Err("ONLY".to_owned());
        }
        if name == "repeatable" && tokens.is_mark(at + 1, "(") {
            return Err("TABLESAMPLE ... REPEATABLE".to_owned());
        }
    }
    Ok(())
}

/// Which columns a text may need, told by its words: errs on the side of more.
struct Needs {
    words: HashSet<String>,
    /// `*` of everything, NATURAL, TABLE.
    all: bool,
    /// Aliases whose columns are all needed.
    whole: HashSet<String>,
}

impl Needs {
    fn of(tokens: &Tokens<'_>, mentions: &[Mention]) -> Self {
        let mut needs = Self { words: HashSet::new(), all: false, whole: HashSet::new() };
        let mut bare: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
        for at in 0..tokens.len() {
            if let Some(name) = tokens.name(at) {
                needs.all |= tokens.is_any(at, &["natural", "table"]);
                let name = name.into_owned();
                if !tokens.is_mark(at + 1, ".") {
                    *bare.entry(name.clone()).or_default() += 1;
                } else if at + 2 < tokens.len() {
                    needs.after_dot(tokens, at, &name, mentions);
                }
                needs.words.insert(name);
            } else if tokens.is_mark(at, "*") && is_star(tokens, at) {
                needs.all |= at == 0 || !tokens.is_mark(at - 1, ".");
            }
        }
        // An alias that occurs where it is given and once more without a column stands for its whole rows.
        for mention in mentions {
            let mut given: Vec<usize> = mentions
                .iter()
                .filter(|other| other.alias == mention.alias)
                .map(|other| other.at.start)
                .collect();
            given.sort_unstable();
            given.dedup();
            if bare.get(&mention.alias).is_some_and(|times| *times > given.len()) || mention.renamed {
                needs.whole.insert(mention.alias.clone());
            }
        }
        needs
    }

    /// `alias.something`: all columns, if it is a star or no column.
    fn after_dot(&mut self, tokens: &Tokens<'_>, at: usize, alias: &str, mentions: &[Mention]) {
        let mut of_alias = mentions.iter().filter(|mention| mention.alias == alias).peekable();
        if of_alias.peek().is_none() {
            return;
        }
        let known = tokens.name(at + 2).is_some_and(|name| {
            of_alias.all(|mention| mention.relation.columns.iter().any(|column| column.name == *name))
        });
        if !known {
            self.whole.insert(alias.to_owned());
        }
    }

    fn columns(&self, mention: &Mention) -> BTreeSet<usize> {
        let relation = &mention.relation;
        let whole = self.all || self.whole.contains(&mention.alias);
        let columns = relation.columns.iter().enumerate();
        let mut needed: BTreeSet<usize> = columns
            .filter(|(_, column)| whole || self.words.contains(&column.name))
            .map(|(at, _)| at)
            .collect();
        if needed.is_empty() {
            needed.insert(relation.key().map_or(0, |(at, _)| at));
        }
        needed
    }
}

/// Whether a `*` stands for columns, not for a product. Errs on the side of columns.
fn is_star(tokens: &Tokens<'_>, at: usize) -> bool {
    let before = at.checked_sub(1);
    let opens = before.is_some_and(|at| tokens.is_mark(at, "("));
    if opens && tokens.is_mark(at + 1, ")") {
        return false;
    }
    let begins = before.is_none_or(|at| {
        tokens.is_mark(at, ",")
            || tokens.is_mark(at, ".")
            || tokens.is_any(at, &["select", "distinct", "all"])
    });
    begins || at + 1 >= tokens.len() || tokens.is_mark(at + 1, ",") || tokens.is(at + 1, "from")
}

/// The text with `pg_temp` in place of the schemas of these relations.
fn renamed(tokens: &Tokens<'_>, text: &str, relations: &[(&str, &str)]) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for at in 0..tokens.len() {
        let (Some(schema), Some(name)) = (tokens.name(at), tokens.name(at + 2)) else { continue };
        let named = relations.iter().any(|(s, n)| *s == schema && *n == name);
        if !named || !tokens.is_mark(at + 1, ".") || tokens.is_mark(at + 3, "(") {
            continue;
        }
        if at > 0 && tokens.is_mark(at - 1, ".") {
            return Err(format!("a name of three parts, {schema}.{name} among them"));
        }
        let token = tokens.list[at];
        out.push_str(text.get(copied..token.start).unwrap_or_default());
        out.push_str("pg_temp");
        copied = token.end;
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Ok(out)
}
