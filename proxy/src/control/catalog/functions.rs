//! Whether a user's function may reach tables: its body is scanned for names of relations and of functions that may.
//!
//! `Touches::No` is claimed only for bodies that name no relation at all, or reference tables alone without being
//! volatile; for dynamic SQL and foreign languages the answer is `Unknown`. `[[functions]]` of the configuration
//! overrides.

use std::collections::{HashMap, HashSet};

use router_config::topology::FunctionRule;

use super::scan::{Token, tokens};
use crate::sql::schema::{Function, Touches};

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

/// Extensions whose C functions are known to run no SQL.
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

/// Names that bodies are scanned for.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    /// Reference tables and views over such.
    pub(crate) reference: HashSet<String>,
    /// All other user relations.
    pub(crate) other: HashSet<String>,
}

/// Built-in functions, by name, and the user's.
pub(crate) fn functions(
    built_in: HashMap<String, Function>,
    overloads: &[Overload],
    relations: &Relations,
    rules: &[FunctionRule],
) -> HashMap<String, Function> {
    let mut all = built_in;
    for name in BUILT_IN_THAT_REACH {
        if let Some(function) = all.get_mut(name) {
            function.touches_sharded = Touches::Unknown;
            function.built_in = false;
        }
    }
    let reaching = reaching(overloads, relations);
    for overload in overloads {
        let touches = if reaching.contains(overload.name.as_str()) { Touches::Unknown } else { Touches::No };
        let entry = all.entry(overload.name.clone()).or_insert(Function {
            volatile: false,
            built_in: false,
            aggregate: false,
            set_returning: false,
            touches_sharded: Touches::No,
            key_argument: None,
        });
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
            function.touches_sharded =
                if rule.key_argument.is_some() { Touches::Unknown } else { Touches::No };
        }
    }
    all
}

/// Names of the user's functions that may reach tables, directly or through each other.
fn reaching<'a>(overloads: &'a [Overload], relations: &Relations) -> HashSet<&'a str> {
    let names: HashSet<&str> = overloads.iter().map(|overload| overload.name.as_str()).collect();
    let mut reaching: HashSet<&str> = HashSet::new();
    let mut calls: Vec<(&str, HashSet<String>)> = Vec::new();
    for overload in overloads {
        let mut words = HashSet::new();
        let opaque = collect(&overload.body, 0, &mut words);
        let foreign = match overload.language.as_str() {
            "sql" => false,
            "plpgsql" => opaque,
            "internal" => words.iter().any(|word| BUILT_IN_THAT_REACH.contains(&word.as_str())),
            "c" => {
                let harmless =
                    overload.extension.as_deref().is_some_and(|name| HARMLESS_EXTENSIONS.contains(&name));
                !(harmless || overload.immutable)
            }
            _ => true,
        };
        let scanned = matches!(overload.language.as_str(), "sql" | "plpgsql");
        let names_table = scanned
            && words.iter().any(|word| {
                relations.other.contains(word) || (overload.volatile && relations.reference.contains(word))
            });
        let runs_sql = scanned && words.iter().any(|word| BUILT_IN_THAT_REACH.contains(&word.as_str()));
        if foreign || names_table || runs_sql {
            reaching.insert(&overload.name);
        }
        if scanned {
            words.retain(|word| names.contains(word.as_str()));
            calls.push((&overload.name, words));
        }
    }
    loop {
        let before = reaching.len();
        for (name, called) in &calls {
            if called.iter().any(|callee| reaching.contains(callee.as_str())) {
                reaching.insert(name);
            }
        }
        if reaching.len() == before {
            return reaching;
        }
    }
}

/// Collects every name in `body`, strings included; true when it runs SQL that it computes.
fn collect(body: &str, depth: usize, words: &mut HashSet<String>) -> bool {
    let mut opaque = false;
    for token in tokens(body) {
        match token {
            Token::Word(word) => {
                opaque |= depth == 0 && word == "execute";
                words.insert(word);
            }
            Token::Quoted(name) => {
                words.insert(name);
            }
            Token::Text(text) => {
                words.insert(text.clone());
                if depth < 3 {
                    collect(&text, depth + 1, words);
                } else {
                    opaque = true;
                }
            }
            Token::Sign(_) => {}
        }
    }
    opaque
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
            other: HashSet::from([String::from("bids"), String::from("Odd Name")]),
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
            stable,
        ];
        let reaching = reaching(&overloads, &relations);
        let mut names: Vec<&str> = reaching.into_iter().collect();
        names.sort_unstable();
        assert_eq!(names, ["direct", "dynamic", "in_text", "python", "quoted", "through", "writes_users"]);
    }
}
