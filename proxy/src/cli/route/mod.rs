//! `gavel route --config FILE "<sql>"`: where a statement would go, without any server.
//!
//! Without a catalog the configuration's rules are all that is known: a table named by a rule has that rule's key; every
//! table of the statement has the column of a `column` rule if the statement names that column. The output says so.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use router_config::file::{Config, Mistake};
use router_config::key::KeyType;
use router_config::settings::Reads;
use router_config::topology::{TableKind, TableMatch, Topology};

use crate::route::explain::{Explanation, explain};
use crate::route::plan::SessionView;
use crate::route::values::{BindError, BindParams, Values};
use crate::sql::Context;
use crate::sql::cache::{Analysed, Cache};
use crate::sql::lexer::param_numbers;
use crate::sql::normalise::identifiers;
use crate::sql::schema::{
    Column, Function, Placement, Reach, Relation, RelationKind, Schema, Stored, Touches,
};
use crate::text_file;

const CAVEAT: &str = "Planned without a catalog: columns, types and functions are taken from the configuration's rules; \
                      key types default to bigint, a missing column list is taken to start with the key, and a table has the \
                      column of a rule if the statement names that column or --tables the table. The slot map is the one that is proposed for a \
                      new cluster: that of a running one was stored at its first start, and EXPLAIN (GAVEL) there tells by it.";

/// Built-in functions that count as volatile here.
const VOLATILE: [&str; 10] = [
    "nextval",
    "setval",
    "random",
    "gen_random_uuid",
    "clock_timestamp",
    "pg_advisory_lock",
    "pg_advisory_xact_lock",
    "set_config",
    "pg_sleep",
    "pg_notify",
];

/// Built-in aggregates and window functions that are told apart from other functions here.
const AGGREGATES: [&str; 20] = [
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "array_agg",
    "string_agg",
    "bool_and",
    "bool_or",
    "every",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "stddev",
    "variance",
    "row_number",
    "rank",
    "lag",
    "lead",
];

/// Arguments of `gavel route`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 if all statements can be placed, 1 if one is refused, 2 if the question cannot be \
                        answered: the configuration or the command line is wrong, or the parameters do not fit."
)]
pub struct RouteArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "GAVEL_CONFIG", value_parser = super::config::name_or_nothing())]
    pub config: PathBuf,
    /// Statement, or several with semicolons between them
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// Tables that have the column of a `column` rule although the statement does not name it
    #[arg(long, value_name = "TABLE", value_delimiter = ',')]
    pub tables: Vec<String>,
    /// Value of the next parameter ($1, $2, …), as text
    #[arg(long = "param", value_name = "VALUE")]
    pub params: Vec<String>,
    /// One JSON object for each statement
    #[arg(long)]
    pub json: bool,
}

/// Why nothing was planned.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No configuration file is named.
    #[error("--config FILE is missing; `gavel config --example` prints one")]
    NoFile,
    /// The configuration file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The configuration is wrong.
    #[error("{path}: {}", .mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config {
        /// The file.
        path: String,
        /// All its mistakes.
        mistakes: Vec<Mistake>,
    },
    /// A parameter of the statement has no value.
    #[error(
        "parameter ${used} of the statement has no value: {given} given; add --param VALUE for each, in order"
    )]
    NoValue {
        /// The highest number in the text.
        used: u16,
        /// Values on the command line.
        given: usize,
    },
    /// A value that no parameter takes.
    #[error("the statement has no parameter{}, values given: {given}; leave out the others", above(*used))]
    Surplus {
        /// The highest number in the text; 0: none.
        used: u16,
        /// Values on the command line.
        given: usize,
    },
    /// The parameters do not fit into one message.
    #[error("parameters: {0}")]
    Params(#[from] BindError),
    /// The output cannot be written.
    #[error("cannot write the plan: {0}")]
    Write(#[from] std::io::Error),
}

fn above(used: u16) -> String {
    if used == 0 { "s".to_owned() } else { format!(" above ${used}") }
}

/// Prints the plan of each statement; answers whether all of them can be placed.
pub fn run(args: &RouteArgs, out: &mut dyn Write) -> Result<bool, RouteError> {
    if args.config.as_os_str().is_empty() {
        return Err(RouteError::NoFile);
    }
    let text = text_file::read(&args.config)
        .map_err(|source| RouteError::Read { path: args.config.clone(), source })?;
    let config = router_config::file::load(&text, &args.config, &super::config::env, &text_file::read)
        .map_err(|mistakes| RouteError::Config { path: args.config.display().to_string(), mistakes })?;
    let explanations = explain_all(args, &config)?;
    if args.json {
        for explanation in &explanations {
            serde_json::to_writer(&mut *out, explanation).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
    } else {
        for explanation in &explanations {
            for line in explanation.lines() {
                writeln!(out, "{line}")?;
            }
            writeln!(out)?;
        }
        writeln!(out, "{CAVEAT}")?;
    }
    Ok(explanations.iter().all(|explanation| explanation.sqlstate.is_none()))
}

fn explain_all(args: &RouteArgs, config: &Config) -> Result<Vec<Explanation>, RouteError> {
    let schema = schema_of(&config.topology, args);
    let search_path = ["public".to_owned()];
    let cache = Cache::new(1);
    let ctx = Context {
        schema: &schema,
        search_path: &search_path,
        temp_tables: false,
        standard_conforming_strings: true,
        statement_parse_bytes: config.settings.limits.statement_parse_bytes,
        id: cache.context_id(0, &search_path, false, true),
    };
    let analysed = cache.extended(&args.sql, &ctx);
    let (used, given) = (param_numbers(args.sql.as_bytes()).max().unwrap_or(0), args.params.len());
    if usize::from(used) > given {
        return Err(RouteError::NoValue { used, given });
    }
    if usize::from(used) < given {
        return Err(RouteError::Surplus { used, given });
    }
    let body = bind_body(&args.params);
    let params = BindParams::parse(&body, &[])?;
    let explain_one = |index: usize| {
        let mut values = Values::of_text(args.sql.as_bytes(), &analysed, index);
        if !args.params.is_empty() {
            values = values.with_params(&params);
        }
        let statement = analysed.statements().get(index)?;
        let session = session(config, &analysed, &args.sql);
        Some(explain(&config.topology, &statement.facts, &values, &session, true))
    };
    Ok((0..analysed.statements().len()).filter_map(explain_one).collect())
}

/// A session outside of a transaction, with the hints of the text.
fn session<'a>(config: &Config, analysed: &Analysed, text: &'a str) -> SessionView<'a> {
    let hints = analysed.hints();
    SessionView {
        hint_key: hints.key.clone().and_then(|range| text.get(range)),
        hint_shard: hints.shard.clone().and_then(|range| text.get(range)),
        two_phase: config.settings.routing.two_phase,
        reads_replica: config.settings.routing.reads == Reads::Replica,
        ..SessionView::default()
    }
}

/// The body of a Bind message, after its names, with these parameters in text format.
fn bind_body(params: &[String]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend_from_slice(&u16::try_from(params.len()).unwrap_or(u16::MAX).to_be_bytes());
    for param in params {
        body.extend_from_slice(&i32::try_from(param.len()).unwrap_or(i32::MAX).to_be_bytes());
        body.extend_from_slice(param.as_bytes());
    }
    body
}

/// A catalog made up from the rules and the names in the statement.
fn schema_of(topology: &Topology, args: &RouteArgs) -> Schema {
    let mut names = BTreeSet::new();
    identifiers(args.sql.as_bytes(), true, false, &mut |name| {
        names.insert(name.to_owned());
    });
    let mut schema = Schema { default_search_path: vec!["public".to_owned()], ..Schema::default() };
    for name in names.iter().chain(&args.tables) {
        let has_column = |column: &str| names.contains(column) || args.tables.contains(name);
        for namespace in schemas_of(topology, &names) {
            let kind = topology.table_kind(namespace, name, &has_column);
            let relation = relation(namespace, name, &kind, &names);
            schema.relations.insert((namespace.to_owned(), name.clone()), Arc::new(relation));
        }
    }
    // Functions are placed by a key of the type that sharded tables have, named in the statement or not.
    for (n, rule) in topology.tables.iter().enumerate() {
        if matches!(rule.kind, TableKind::Sharded { .. }) {
            let relation = relation("", "", &rule.kind, &BTreeSet::new());
            schema.relations.insert((String::new(), n.to_string()), Arc::new(relation));
        }
    }
    for name in &names {
        let rule = topology.function(name);
        let function = Function {
            volatile: VOLATILE.contains(&name.as_str()) || rule.is_some(),
            built_in: rule.is_none(),
            aggregate: AGGREGATES.contains(&name.as_str()),
            set_returning: matches!(name.as_str(), "generate_series" | "unnest"),
            touches_sharded: if rule.is_some_and(|rule| rule.key_argument.is_some()) {
                Touches::Unknown
            } else {
                Touches::No
            },
            reach: Reach::default(),
            key_argument: rule.and_then(|rule| rule.key_argument),
        };
        schema.functions.insert(name.clone(), function);
    }
    schema
}

/// `public`, and the schemas that the rules and the statement name.
fn schemas_of<'a>(topology: &'a Topology, names: &BTreeSet<String>) -> BTreeSet<&'a str> {
    let named = topology.tables.iter().filter_map(|rule| match &rule.matches {
        TableMatch::Name(name) | TableMatch::Pattern(name) => name.split_once('.').map(|(schema, _)| schema),
        TableMatch::HasColumn(_) => None,
    });
    named.filter(|schema| names.contains(*schema)).chain(["public"]).collect()
}

fn relation(schema: &str, name: &str, kind: &TableKind, names: &BTreeSet<String>) -> Relation {
    let key = match kind {
        TableKind::Sharded { key, key_type } => Some((key.as_str(), key_type.unwrap_or(KeyType::Int8))),
        TableKind::Reference | TableKind::Unsharded => None,
    };
    let column = |name: &str, type_name: &str| Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        type_oid: 0,
        not_null: false,
        default: None,
        identity_always: false,
        declared: String::new(),
        generated: false,
        stored: Stored::default(),
    };
    let mut columns: Vec<Column> =
        key.iter().map(|(name, key_type)| column(name, key_type.type_name())).collect();
    let others = names.iter().filter(|other| key.is_none_or(|(key, _)| key != other.as_str()));
    columns.extend(others.map(|name| column(name, "text")));
    let placement = match (kind, key) {
        (TableKind::Sharded { .. }, Some((_, key_type))) => Placement::Sharded { key_column: 0, key_type },
        (TableKind::Reference, _) => Placement::Reference,
        (TableKind::Sharded { .. } | TableKind::Unsharded, _) => Placement::Unsharded,
    };
    Relation {
        schema: schema.to_owned(),
        name: name.to_owned(),
        oid: 0,
        kind: RelationKind::Table,
        columns,
        placement,
        definition: None,
    }
}

#[cfg(test)]
mod tests;
