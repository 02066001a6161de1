//! Whether a user's function may reach tables: its body is scanned for names of relations and of functions that may.
//!
//! `Touches::No` is claimed only for bodies that name no relation but unsharded ones, or reference tables without being
//! volatile; for dynamic SQL and foreign languages the answer is `Unknown`. `[[functions]]` of the configuration
//! overrides, but for unsharded tables that a body names: those are on the home shard whatever is declared.

use std::collections::{HashMap, HashSet};

use router_config::topology::FunctionRule;

use super::printed::{Depends, Printed, print};
use crate::sql::clocks::CLOCKS;
use crate::sql::concealed::Concealed;
use crate::sql::defining::defines;
use crate::sql::leavings;
use crate::sql::schema::{Function, Reach, Touches};
use crate::sql::stored::{Token, tokens};
use crate::sql::times::{WORDS, names_the_time};

/// Built-in functions that run SQL handed to them or read any table by name.
const BUILT_IN_THAT_REACH: [&str; 19] = [
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "ts_stat",
    "ts_rewrite",
    "currtid2",
    "pg_get_publication_tables",
    "pg_import_system_collations",
];

/// Extensions whose functions are known to read no tables of the user's.
const HARMLESS_EXTENSIONS: [&str; 18] = [
    "citext",
    "pgcrypto",
    "uuid-ossp",
    "hstore",
    "ltree",
    "pg_trgm",
    "unaccent",
    "fuzzystrmatch",
    "intarray",
    "cube",
    "earthdistance",
    "btree_gin",
    "btree_gist",
    "isn",
    "seg",
    "bloom",
    "vector",
    "pg_stat_statements",
];

/// PostgreSQL's own functions.
pub(super) const BUILT_IN: &str = "SELECT proname::text, pg_catalog.bool_or(provolatile = 'v'), \
     pg_catalog.bool_or(prokind IN ('a', 'w')), pg_catalog.bool_or(proretset) FROM pg_catalog.pg_proc \
     WHERE pronamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND oid < 16384 \
     GROUP BY 1";

/// The body of an aggregate are the names of its functions; that of others goes with the defaults of the arguments. One that was
/// read when the function was made is printed, without what stands in front of it.
const FUNCTIONS: &str = "SELECT p.proname::text, p.provolatile = 'v', p.provolatile = 'i', p.prokind IN ('a', 'w'), \
     p.proretset, l.lanname::text, \
     CASE WHEN p.prokind = 'a' THEN (SELECT pg_catalog.concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggcombinefn, \
            a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn) \
            FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid) \
          ELSE p.prosrc || coalesce(' ' || pg_catalog.pg_get_expr(p.proargdefaults, 0), '') END, e.extname::text, \
     CASE WHEN p.prokind <> 'a' AND l.lanname = 'sql' AND p.prosrc = '' THEN {body} END \
     FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid \
          AND d.deptype = 'e' \
     LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid WHERE p.oid >= 16384";

/// The column of the answers that has a printed body.
pub(super) const PRINTED_BODY: usize = 8;

/// The user's functions, with the bodies that are not `printed` yet.
pub(super) fn question(printed: &Printed) -> String {
    let body = "pg_catalog.regexp_replace(pg_catalog.pg_get_functiondef(p.oid), '^.*?\\n(BEGIN ATOMIC|RETURN )', '') \
                || coalesce(' ' || pg_catalog.pg_get_expr(p.proargdefaults, 0), '')";
    printed.ask(&FUNCTIONS.replace("{body}", &print(body, ("pg_proc", "p", ""), Depends::Whole)))
}

/// One overload of a function, as the catalog has it.
#[derive(Debug, Clone)]
pub(crate) struct Overload {
    pub(crate) name: String,
    pub(crate) volatile: bool,
    pub(crate) immutable: bool,
    pub(crate) aggregate: bool,
    pub(crate) set_returning: bool,
    pub(crate) language: String,
    pub(crate) body: String,
    pub(crate) extension: Option<String>,
}

impl Overload {
    /// Its body is text that can be read here: of an aggregate, the names of its functions.
    fn is_scanned(&self) -> bool {
        (self.aggregate || matches!(self.language.as_str(), "sql" | "plpgsql")) && !self.is_harmless()
    }

    /// It comes with an extension that reads no tables of the user's.
    fn is_harmless(&self) -> bool {
        self.extension.as_deref().is_some_and(|name| HARMLESS_EXTENSIONS.contains(&name))
    }
}

/// Names that bodies are scanned for.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    /// Reference tables.
    pub(crate) reference: HashSet<String>,
    /// Sharded tables, and what may read such.
    pub(crate) sharded: HashSet<String>,
    /// Unsharded relations, and what may read such.
    pub(crate) home: HashSet<String>,
}

/// Built-in functions, by name, and the user's.
pub(crate) fn functions(
    built_in: HashMap<String, Function>,
    overloads: &[Overload],
    relations: &Relations,
    (rules, concealed): (&[FunctionRule], &Concealed),
) -> HashMap<String, Function> {
    let mut all = built_in;
    for name in BUILT_IN_THAT_REACH {
        if let Some(function) = all.get_mut(name) {
            function.touches_sharded = Touches::Unknown;
            function.built_in = false;
        }
    }
    let varying: HashSet<String> = varying(&all);
    let reaching = reaching(overloads, relations, &varying, concealed);
    for overload in overloads {
        let reach = reaching.get(overload.name.as_str()).copied().unwrap_or_default();
        let unknown = reach.opaque || reach.sharded || reach.reference || reach.defines;
        let touches = if unknown { Touches::Unknown } else { Touches::No };
        let entry = all.entry(overload.name.clone()).or_insert(Function {
            volatile: false,
            built_in: false,
            aggregate: false,
            set_returning: false,
            touches_sharded: Touches::No,
            reach,
            key_argument: None,
        });
        entry.reach = reach;
        entry.volatile |= overload.volatile;
        entry.built_in = false;
        entry.aggregate |= overload.aggregate;
        entry.set_returning |= overload.set_returning;
        if touches == Touches::Unknown {
            entry.touches_sharded = touches;
        }
    }
    for rule in rules {
        if let Some(function) = all.get_mut(&rule.name) {
            function.key_argument = rule.key_argument;
            let Reach { home, varies, reads, reads_sharded, defines, .. } = function.reach;
            // What a body says of itself is not for the configuration to deny.
            let readable = |overload: &Overload| overload.name == rule.name && overload.is_scanned();
            let leaves = function.reach.leaves && overloads.iter().any(readable);
            function.reach =
                Reach { home, varies, leaves, reads, reads_sharded, defines, ..Reach::default() };
            function.touches_sharded =
                if rule.key_argument.is_some() { Touches::Unknown } else { Touches::No };
        }
    }
    all
}

/// Built-in functions whose result differs from run to run.
fn varying(built_in: &HashMap<String, Function>) -> HashSet<String> {
    let volatile = built_in.iter().filter(|(_, known)| known.volatile && !known.aggregate);
    let clocks = CLOCKS.iter().chain(&WORDS).map(|word| (*word).to_owned());
    volatile.map(|(name, _)| name.clone()).chain(clocks).collect()
}

/// A clock, or a text that stands for the time.
fn names_clock(word: &str) -> bool {
    CLOCKS.contains(&word) || names_the_time(word)
}

/// What the user's functions reach, directly or through each other, by name.
fn reaching<'a>(
    overloads: &'a [Overload],
    relations: &Relations,
    varying: &HashSet<String>,
    concealed: &'a Concealed,
) -> HashMap<&'a str, Reach> {
    let mut reaching: HashMap<&str, Reach> = HashMap::new();
    let mut calls: Vec<(&str, HashSet<String>)> = Vec::new();
    // What an IMMUTABLE function calls is the user's promise.
    let mut unpromised: HashSet<&str> = HashSet::new();
    for overload in overloads {
        let mut body = Body::default();
        let computed = body.collect(&overload.body, 0);
        let Body { mut words, tables } = body;
        let runs_sql = words.iter().any(|word| BUILT_IN_THAT_REACH.contains(&word.as_str()));
        let scanned = overload.is_scanned();
        let extension = overload.is_harmless();
        let opaque = match overload.language.as_str() {
            _ if extension => false,
            "sql" => computed || runs_sql,
            "plpgsql" => computed || runs_sql,
            "internal" => runs_sql,
            "c" => !overload.immutable,
            _ => true,
        };
        let names = |set: &HashSet<String>| scanned && words.iter().any(|word| set.contains(word));
        let reads = |set: &HashSet<String>| scanned && tables.iter().any(|word| set.contains(word));
        let (sharded, reference, home) =
            (reads(&relations.sharded), reads(&relations.reference), reads(&relations.home));
        let own = Reach {
            opaque,
            sharded,
            reference: overload.volatile && reference,
            home,
            reads: sharded || reference || home,
            reads_sharded: sharded,
            varies: names(varying),
            stable: !overload.immutable && !overload.volatile && !extension,
            clock: scanned && !overload.immutable && words.iter().any(|word| names_clock(word)),
            leaves: if scanned { leavings::leaves(&overload.body) } else { opaque },
            defines: scanned && defines(&overload.body, overload.language == "sql"),
        };
        let entry = reaching.entry(&overload.name).or_default();
        *entry = both(*entry, own);
        if scanned {
            words.extend(concealed.met_in_stored(&overload.body).into_iter().map(str::to_owned));
            calls.push((&overload.name, words));
        }
        if !overload.immutable {
            unpromised.insert(&overload.name);
        }
    }
    let own: HashSet<&str> = reaching.keys().copied().collect();
    for (_, words) in &mut calls {
        words.retain(|word| own.contains(word.as_str()));
    }
    loop {
        let mut changed = false;
        for (name, called) in &calls {
            let before = reaching.get(name).copied().unwrap_or_default();
            let after = called
                .iter()
                .filter_map(|callee| reaching.get(callee.as_str()))
                .fold(before, |a, b| both(a, *b));
            let clock = after.clock && unpromised.contains(name);
            let after = Reach { stable: before.stable, clock, ..after };
            if after != before {
                changed = true;
                reaching.insert(name, after);
            }
        }
        if !changed {
            return reaching;
        }
    }
}

fn both(a: Reach, b: Reach) -> Reach {
    Reach {
        opaque: a.opaque || b.opaque,
        sharded: a.sharded || b.sharded,
        reference: a.reference || b.reference,
        home: a.home || b.home,
        varies: a.varies || b.varies,
        stable: a.stable || b.stable,
        clock: a.clock || b.clock,
        leaves: a.leaves || b.leaves,
        reads: a.reads || b.reads,
        reads_sharded: a.reads_sharded || b.reads_sharded,
        defines: a.defines || b.defines,
    }
}

/// Words behind which no table is named: it is a column, an alias, or an expression.
const BEFORE_NO_TABLE: [&str; 18] = [
    "select",
    "return",
    "returning",
    "where",
    "and",
    "or",
    "not",
    "when",
    "then",
    "else",
    "case",
    "by",
    "as",
    "having",
    "limit",
    "offset",
    "set",
    "distinct",
];

/// The names in the body of a function.
#[derive(Default)]
struct Body {
    /// All of them, strings included.
    words: HashSet<String>,
    /// Those that may be of tables, by where they stand.
    tables: HashSet<String>,
}

impl Body {
    /// Collects the names in `body`; true when it runs SQL that it computes, or has names that cannot be read.
    fn collect(&mut self, body: &str, depth: usize) -> bool {
        let mut opaque = false;
        let all = tokens(body);
        for (at, token) in all.iter().enumerate() {
            match token {
                Token::Word(word) => {
                    opaque |= depth == 0 && word == "execute";
                    // U&"…" and U&'…'
                    let escaped = word == "u" && all.get(at + 1).is_some_and(|token| token.sign('&'));
                    opaque |= escaped && matches!(all.get(at + 2), Some(Token::Quoted(_) | Token::Text(_)));
                    self.name(&all, at, word);
                }
                Token::Quoted(name) => self.name(&all, at, name),
                Token::Text(text) => {
                    self.words.insert(text.clone());
                    self.tables.insert(text.clone());
                    opaque |= depth == 3 || self.collect(text, depth + 1);
                }
                Token::Sign(_) => {}
            }
        }
        opaque
    }

    fn name(&mut self, all: &[Token], at: usize, name: &str) {
        let before = at.checked_sub(1).and_then(|before| all.get(before));
        let expression = before.is_some_and(|before| match before {
            Token::Sign(sign) => "+-*/<>=|%^&:".contains(*sign),
            other => BEFORE_NO_TABLE.iter().any(|word| other.is(word)),
        });
        // `alias.column`: what the alias stands for is named elsewhere.
        let qualifies = all.get(at + 1).is_some_and(|token| token.sign('.'));
        if !(expression || qualifies) {
            self.tables.insert(name.to_owned());
        }
        self.words.insert(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overload(name: &str, language: &str, body: &str) -> Overload {
        Overload {
            name: name.to_owned(),
            volatile: true,
            immutable: false,
            aggregate: false,
            set_returning: false,
            language: language.to_owned(),
            body: body.to_owned(),
            extension: None,
        }
    }

    #[test]
    fn only_bodies_that_name_no_table_are_harmless() {
        let relations = Relations {
            reference: HashSet::from([String::from("users")]),
            sharded: HashSet::from([String::from("bids"), String::from("Odd Name")]),
            home: HashSet::from([String::from("settings")]),
        };
        let stable = Overload { volatile: false, ..overload("name_of", "sql", "select name from users") };
        let overloads = [
            overload("plus", "sql", "select $1 + 1 -- bids"),
            overload("twice", "plpgsql", "begin return plus(plus($1)); end"),
            overload("direct", "sql", "select count(*) from BIDS"),
            overload("quoted", "sql", "select count(*) from \"Odd Name\""),
            overload("in_text", "plpgsql", "begin perform nextval('bids'); end"),
            overload("through", "sql", "select direct()"),
            overload("dynamic", "plpgsql", "begin execute 'select ' || $1; end"),
            overload("python", "plpython3u", "return 1"),
            overload("writes_users", "sql", "update users set name = ''"),
            overload("configured", "plpgsql", "begin return (select value from settings); end"),
            overload("tenant", "plpgsql", "begin perform set_config('a.b', $1, false); end"),
            overload("through_tenant", "sql", "select tenant('x')"),
            overload("stamped", "plpgsql", "begin new.at := now(); return new; end"),
            stable,
        ];
        let concealed = Concealed::default();
        let reaching = reaching(&overloads, &relations, &HashSet::from([String::from("now")]), &concealed);
        let with = |which: fn(&Reach) -> bool| {
            let mut names: Vec<&str> =
                reaching.iter().filter(|(_, reach)| which(reach)).map(|(name, _)| *name).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(with(|reach| reach.opaque), ["dynamic", "python"]);
        assert_eq!(with(|reach| reach.sharded), ["direct", "in_text", "quoted", "through"]);
        assert_eq!(with(|reach| reach.reference), ["writes_users"]);
        assert_eq!(with(|reach| reach.home), ["configured"]);
        assert_eq!(with(|reach| reach.varies), ["stamped"]);
        assert_eq!(with(|reach| reach.leaves), ["python", "tenant", "through_tenant"]);
    }
}
