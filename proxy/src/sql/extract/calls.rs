//! Function calls: what they read, write, lock and depend on.
//!
//! Volatility comes from the catalog; a function that the catalog does not know may do anything.

use super::condition::keys;
use super::expr::argument_value;
use super::groups::{NodeId, Via};
use super::reader::{Read, Reader};
use super::scope::{Meaning, fold};
use crate::sql::clocks::is_clock;
use crate::sql::facts::{Pin, PinCause};
use crate::sql::parse::ast::{Expr, FunctionArg, FunctionArguments, ObjectName};
use crate::sql::schema::{Function, Touches};
use crate::sql::stored::{Token, tokens};
use crate::sql::tokens::Tokens;
use router_config::key::KeyType;

/// Forms of the grammar that look like calls and are no functions of the catalog.
const GRAMMAR: [&str; 33] = [
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "grouping",
    "row",
    "array",
    "current_user",
    "session_user",
    "user",
    "current_role",
    "current_catalog",
    "current_schema",
    "system_user",
    "xmlelement",
    "xmlforest",
    "xmlconcat",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "json_object",
    "json_array",
    "json_value",
    "json_query",
    "json_exists",
    "json_scalar",
    "json_serialize",
    "json_arrayagg",
    "json_objectagg",
    "merge_action",
    "normalize",
    "xmlagg",
];

/// Differ from statement to statement as clocks do, but cannot be replaced by a time that was read once.
const RUNNING: [&str; 3] = ["clock_timestamp", "timeofday", "age"];

fn tells_time(name: &str) -> bool {
    is_clock(name) || RUNNING.contains(&name)
}

/// Volatile by name, but a replica may run them and each row may have its own value.
const HARMLESS: [&str; 14] = [
    "random",
    "random_normal",
    "gen_random_uuid",
    "uuid_generate_v4",
    "uuid_generate_v1",
    "uuidv4",
    "uuidv7",
    "clock_timestamp",
    "timeofday",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "gen_random_bytes",
    "gen_salt",
];

/// Answer for the node that they run on.
const NODE: [&str; 22] = [
    "inet_server_addr",
    "inet_server_port",
    "pg_backend_pid",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_current_snapshot",
    "pg_current_wal_lsn",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_flush_lsn",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_is_in_recovery",
    "pg_export_snapshot",
    "pg_postmaster_start_time",
    "pg_conf_load_time",
    "pg_database_size",
    "pg_tablespace_size",
    "pg_blocking_pids",
];

/// The first function of an expression, as PostgreSQL prints it, that answers for the node or for a setting of the server's.
pub(super) fn node_call(text: &str) -> Option<String> {
    let tokens = tokens(text);
    let called = |at: usize| {
        let name = tokens[at].name()?;
        let setting = || match tokens.get(at + 2) {
            Some(Token::Text(setting)) => of_session(&setting.to_lowercase()),
            _ => false,
        };
        let node = NODE.contains(&name) || (name == "current_setting" && !setting());
        (node && tokens.get(at + 1).is_some_and(|next| next.sign('('))).then(|| name.to_owned())
    };
    (0..tokens.len()).find_map(called)
}

/// Whether a standby has another value of this setting than the primary.
pub(super) fn of_node(setting: &str) -> bool {
    matches!(setting, "in_hot_standby" | "transaction_read_only")
}

/// Whether a setting is that of the session, the same on every shard.
fn of_session(setting: &str) -> bool {
    const OF_SESSION: [&str; 9] = [
        "application_name",
        "client_encoding",
        "datestyle",
        "intervalstyle",
        "role",
        "search_path",
        "server_encoding",
        "server_version_num",
        "timezone",
    ];
    setting.contains('.') || OF_SESSION.contains(&setting)
}

/// Take the name of a relation as a value.
const BY_NAME: [&str; 12] = [
    "nextval",
    "setval",
    "currval",
    "pg_get_serial_sequence",
    "pg_relation_size",
    "pg_table_size",
    "pg_indexes_size",
    "pg_total_relation_size",
    "to_regclass",
    "pg_relation_filepath",
    "pg_sequence_last_value",
    "pg_relation_filenode",
];

/// Run SQL that is handed to them, or read whole tables by name.
const EXECUTE: [&str; 16] = [
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
    "dblink",
    "dblink_exec",
    "crosstab",
];

/// Why a search_path that no SET tells of is refused.
const SETS_PATH: &str = "this set_config() may change search_path and cannot be followed: call it alone with plain values, or use SET";

impl<'q> Reader<'_, 'q> {
    /// Name of the function if it is an aggregate (or a window function, which cannot stand without OVER).
    pub(super) fn aggregate_name(&self, name: &ObjectName) -> Option<String> {
        const KNOWN: [&str; 9] = [
            "count",
            "sum",
            "avg",
            "min",
            "max",
            "array_agg",
            "string_agg",
            "json_arrayagg",
            "json_objectagg",
        ];
        let name = last(name)?;
        let aggregate = match self.ctx.schema.function(&name) {
            Some(function) => function.aggregate,
            None => KNOWN.contains(&name.as_str()),
        };
        aggregate.then_some(name)
    }

    /// A function as an item of FROM; its node if it is placed by an argument.
    pub(super) fn function_in_from(
        &mut self,
        name: &ObjectName,
        args: &'q [FunctionArg],
    ) -> Read<Vec<NodeId>> {
        Ok(self.call(name, args)?.into_iter().collect())
    }

    /// Notes what a call does. Its arguments have been read already.
    pub(super) fn call(&mut self, name: &ObjectName, args: &'q [FunctionArg]) -> Read<Option<NodeId>> {
        let name = last(name).ok_or("a function of an unknown form")?;
        self.call_reads(&name, args);
        if tells_time(&name) && (name != "age" || args.len() == 1) {
            self.unrepeatable(&name);
        }
        if NODE.contains(&name.as_str()) {
            self.seen.effects.node_dependent = true;
            self.seen.home_alone.get_or_insert_with(|| format!("{name}()"));
            self.seen.primary.get_or_insert_with(|| format!("{name}() answers for the node"));
        }
        if name == "pg_export_snapshot" {
            let why = "pg_export_snapshot() is one shard's snapshot: other sessions cannot be given it; run pg_dump without -j";
            self.seen.barred.get_or_insert_with(|| why.to_owned());
        }
        if name == "current_setting" {
            let setting = args.first().and_then(argument_value).and_then(|value| self.text_value(value));
            let setting = setting.map(|setting| setting.to_lowercase());
            if !setting.as_deref().is_some_and(of_session) {
                self.seen
                    .of_shard
                    .get_or_insert_with(|| "current_setting() of a setting of the server".to_string());
            }
            if setting.as_deref().is_some_and(of_node) {
                self.seen.primary.get_or_insert_with(|| "a setting that a standby has otherwise".to_string());
            }
        }
        if EXECUTE.contains(&name.as_str()) {
            self.unknown(format!("{name}() runs a query that is handed to it as a value"));
        }
        // Before the name is looked up: where the catalog is not read, in databases that pass through, all names are unknown.
        self.sequences_and_locks(&name, args);
        let Some(function) = self.ctx.schema.function(&name).copied() else {
            if !tells_time(&name) && !GRAMMAR.contains(&name.as_str()) {
                self.unknown(unknown_function(&name));
            }
            return Ok(None);
        };
        self.defines(&name, function);
        if let Some(position) = function.key_argument {
            return self.keyed_call(&name, args, position).map(Some);
        }
        self.form(&name);
        Ok(None)
    }

    /// A function that the grammar has a form of its own for; one of that name may be the user's.
    pub(super) fn form(&mut self, name: &str) {
        let Some(function) = self.ctx.schema.function(name).copied() else { return };
        if !function.built_in && function.touches_sharded == Touches::Unknown {
            self.unknown(unknown_function(name));
        }
        if function.reach.home {
            self.seen.home.get_or_insert_with(|| format!("{name}(), which names unsharded tables"));
        }
        if !function.built_in && function.volatile {
            self.seen.user_function.get_or_insert_with(|| name.to_string());
        }
        if !function.built_in && (function.reach.stable || function.reach.clock) {
            self.seen
                .not_immutable
                .get_or_insert_with(|| format!("{name}(), which is not declared IMMUTABLE,"));
        }
        let reach = function.reach;
        self.read.functions_read |= reach.opaque || reach.reads || reach.reads_sharded;
        self.read.functions_shadowed |= reach.reads_sharded;
        if function.reach.leaves {
            self.leaves(|| format!("function {name}"));
        }
        self.volatility(name, function);
    }

    /// What it makes or changes would be made or changed on one shard alone.
    fn defines(&mut self, name: &str, function: Function) {
        if function.reach.defines {
            self.seen.barred.get_or_insert_with(|| runs_ddl(name));
        }
    }

    fn volatility(&mut self, name: &str, function: Function) {
        if !function.volatile || function.aggregate {
            return;
        }
        self.unrepeatable(name);
        if self.in_from || self.level().nodes.is_empty() {
            self.seen.once.get_or_insert_with(|| format!("{name}(), which is evaluated once for all rows"));
        }
        if !HARMLESS.contains(&name) {
            self.seen.primary.get_or_insert_with(|| format!("volatile function {name}"));
            self.groups.always(format!("volatile function {name}"));
        }
    }

    pub(super) fn unrepeatable(&mut self, name: &str) {
        self.unrepeatable_because(format!("{name}()"));
    }

    pub(super) fn unrepeatable_because(&mut self, what: String) {
        // The time can be put in place of a clock: anything else is the greater hindrance.
        let found = &mut self.seen.unrepeatable;
        if found.as_deref().is_none_or(|known| is_clock(known) && !is_clock(&what)) {
            *found = Some(what);
        }
    }

    fn sequences_and_locks(&mut self, name: &str, args: &'q [FunctionArg]) {
        if BY_NAME.contains(&name) {
            self.seen.by_value = true;
            let draws = matches!(name, "nextval" | "currval" | "setval");
            let strided = draws && self.sequence_of_sharded(name, args);
            self.seen.sets_sequences |= strided && name == "setval";
            // Sequences of sharded tables are right on every shard, and have one name; others are on the home shard alone.
            let named = name == "pg_get_serial_sequence" && self.serial_of_sharded(args) == Some(true);
            let slot = if strided || named { &mut self.seen.home_alone } else { &mut self.seen.home };
            slot.get_or_insert_with(|| format!("{name}()"));
            self.seen.effects.strided |= strided;
            self.seen.effects.home_sequence |= name == "currval" && !strided;
        }
        let effects = &mut self.seen.effects;
        match name {
            "nextval" | "setval" => effects.sequence = true,
            "currval" | "lastval" => effects.currval = true,
            "pg_notify" => effects.notifies = true,
            "pg_listening_channels" => effects.listening_channels = true,
            "set_config" => {
                self.seen.by_value = true;
                let text = |n: usize| args.get(n).and_then(argument_value).and_then(|e| self.text_value(e));
                let (setting, value) = (text(0), text(1));
                let path = setting.as_deref().is_none_or(|name| name.eq_ignore_ascii_case("search_path"));
                if path && value.as_deref() != Some("") {
                    self.seen.barred.get_or_insert_with(|| SETS_PATH.to_string());
                }
                // Even a LOCAL one must reach each shard that the transaction will use: only a pinned session can tell.
                self.seen.effects.pins = Some(PinCause::Config);
                self.seen.home_alone.get_or_insert_with(|| "set_config()".to_string());
            }
            // Of objects whose numbers are the home shard's.
            _ if name.starts_with("pg_get_")
                || name.ends_with("obj_description")
                || name == "format_type" =>
            {
                self.seen.home_alone.get_or_insert_with(|| format!("{name}()"));
            }
            _ if name.starts_with("pg_advisory") || name.starts_with("pg_try_advisory") => {
                effects.advisory_lock = true;
                if !name.contains("xact") && !name.contains("unlock") {
                    effects.pins = Some(PinCause::AdvisoryLock);
                }
                self.seen.home.get_or_insert_with(|| format!("{name}()"));
                self.seen.primary.get_or_insert_with(|| format!("advisory lock {name}"));
            }
            _ => {}
        }
    }

    /// Whether the sequence named by the first argument is the default of a sharded table's column: such sequences
    /// give different values on each shard.
    fn sequence_of_sharded(&mut self, name: &str, args: &[FunctionArg]) -> bool {
        let sequence = args.first().and_then(argument_value);
        if let Some(name) = sequence.and_then(|e| self.text_value(e)) {
            let name = name.rsplit('.').next().unwrap_or_default().trim_matches('"').to_string();
            return self.ctx.schema.draws_on_each_shard(&name);
        }
        if let Some(column) = sequence.and_then(|e| self.serial_column(e)) {
            return column;
        }
        if name == "setval" && self.ctx.schema.has_sequences_on_each_shard() {
            self.unknown("setval() of a sequence whose name is no literal".to_string());
        }
        false
    }

    /// Of a call of `pg_get_serial_sequence`: whether it names a column of a sharded table.
    fn serial_column(&self, e: &Expr) -> Option<bool> {
        match e {
            Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => self.serial_column(inner),
            Expr::Function(call) if last(&call.name)? == "pg_get_serial_sequence" => match &call.args {
                FunctionArguments::List(list) => self.serial_of_sharded(&list.args),
                FunctionArguments::None | FunctionArguments::Subquery(_) => None,
            },
            _ => None,
        }
    }

    /// Whether these are the names of a sharded table and of a column that draws from a sequence.
    fn serial_of_sharded(&self, args: &[FunctionArg]) -> Option<bool> {
        let text = |n: usize| args.get(n).and_then(argument_value).and_then(|e| self.text_value(e));
        let (table, column) = (text(0)?, text(1)?);
        let words = Tokens::new(table.as_bytes(), true);
        let (schema, table) = match (words.name(0), words.name(2)) {
            (Some(schema), Some(table)) if words.len() == 3 && words.is_mark(1, ".") => (Some(schema), table),
            (Some(table), _) if words.len() == 1 => (None, table),
            _ => return None,
        };
        let relation = self.ctx.schema.lookup(self.ctx.search_path, schema.as_deref(), &table)?;
        let column = relation.columns.iter().find(|found| found.name == column)?;
        Some(relation.key_type().is_some() && column.draws())
    }

    /// A function that is declared to stay with the rows of one key.
    fn keyed_call(&mut self, name: &str, args: &'q [FunctionArg], position: u16) -> Read<NodeId> {
        let key_type = self.ctx.schema.only_key_type().unwrap_or_else(|| {
            self.unknown(format!(
                "function {name} is placed by a key, but the sharded tables have keys of several types"
            ));
            KeyType::Int8
        });
        self.note_table(format!("{name}()"));
        let node = self.groups.add(format!("{name}()"), key_type);
        self.level().sub_nodes.push(node);
        let index = usize::from(position).saturating_sub(1);
        let named = args.iter().any(|a| !matches!(a, FunctionArg::Unnamed(_)));
        match args.get(index).filter(|_| !named).and_then(argument_value) {
            Some(e) => match (self.meaning(e), self.term(e)) {
                (Some(Meaning::Key { node: outer, .. }), _) if self.same_type(node, outer) => {
                    self.groups.attach(node, outer, Via::Correlation);
                }
                (_, Some(term)) => self.groups.pin(node, keys(vec![term])),
                _ => self.groups.pin(node, Pin::Any),
            },
            None => self.groups.pin(node, Pin::Any),
        }
        self.groups.always(format!("function {name}, which is placed by its key argument"));
        // It may write.
        self.seen.user_function.get_or_insert_with(|| name.to_string());
        self.unrepeatable(name);
        Ok(node)
    }
}

/// Why a function that runs DDL is not called.
pub(super) fn runs_ddl(name: &str) -> String {
    format!(
        "{name}() runs DDL, which would be done on one shard alone: send the DDL as statements of their own, or in a DO block"
    )
}

fn unknown_function(name: &str) -> String {
    format!(
        "function {name} may reach sharded tables: declare it in [[functions]], with key_argument if it works on one key"
    )
}

/// The function's unqualified name as stored.
fn last(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|part| part.as_ident()).map(fold)
}
