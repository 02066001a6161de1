//! The catalog as routing needs it: relations with their columns and placement, functions with their volatility.
//!
//! Read from the home shard by `control::catalog`, immutable once built, replaced as a whole (a new
//! [`Schema::generation`]) when DDL passes through, on RELOAD and when a shard reports a changed result type.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use router_config::key::KeyType;

use super::concealed::Concealed;
use super::gather_shape::Comparable;

/// OIDs from here on are those of what users have made, and differ by shard.
pub const FIRST_USER_OID: u32 = 16_384;

/// The schema by which a session names its temporary tables.
pub const TEMPORARY: &str = "pg_temp";

/// One database's relations and functions at a generation.
#[derive(Debug, Default, Clone)]
pub struct Schema {
    /// Grows with each reload; part of the identity of cached facts.
    pub generation: u64,
    /// `(schema, name)` to the relation, both as stored in the catalog (folded, unquoted).
    pub relations: HashMap<(String, String), Arc<Relation>>,
    /// Function name (unqualified, as stored) to what is known of all its overloads together.
    pub functions: HashMap<String, Function>,
    /// Type name to OID for user-defined types of the home shard.
    pub types: HashMap<String, u32>,
    /// By OID: what using a relation sets off that cannot be trusted.
    pub hazards: HashMap<u32, Hazards>,
    /// By OID and column: what assigning it sets off that cannot be trusted.
    pub column_hazards: HashMap<(u32, String), String>,
    /// What is done to which relation (by OID) runs a function that may leave something on its conn.
    pub leavings: HashSet<(u32, Deed)>,
    /// What is done to which relation (by OID) fires triggers of the user's.
    pub fires: HashMap<(u32, Deed), Fires>,
    /// By OID: why a row of a sharded table cannot move to another shard.
    pub stuck: HashMap<u32, String>,
    /// An operator, a cast, a type or an aggregate runs such a function: any statement may.
    pub leaves_unseen: bool,
    /// What runs functions that may read tables without naming them.
    pub concealed: Concealed,
    /// Relations with row security, by OID.
    pub row_security: HashSet<u32>,
    /// By OID: why a relation that a rule calls sharded cannot be.
    pub refused: HashMap<u32, String>,
    /// An event trigger that is not right on every shard: any DDL may fire it.
    pub event_trigger: Option<String>,
    /// A sequence of sharded tables' columns that begins again at its end; looked for in a transaction's own view alone.
    pub cycling: Option<String>,
    /// Constraints that hold on one shard only.
    pub unheld: Vec<super::constraints::Unheld>,
    /// `search_path` that a session without a setting of its own has; `$user` stands for the session's role.
    pub default_search_path: Vec<String>,
    /// The database is encoded in UTF8.
    pub utf8: bool,
    /// ALTER ROLE … SET, with or without IN DATABASE: role (empty: all of them) and setting to the value as stored.
    pub role_settings: HashMap<(String, String), String>,
}

impl Schema {
    /// What ALTER ROLE … SET gives a session of this role.
    pub fn role_setting(&self, role: &str, name: &str) -> Option<&str> {
        if self.role_settings.is_empty() {
            return None;
        }
        let of = |role: &str| self.role_settings.get(&(role.to_owned(), name.to_owned()));
        of(role).or_else(|| of("")).map(String::as_str)
    }
}

/// A table, view, sequence or the like.
#[derive(Debug, Clone)]
pub struct Relation {
    /// Namespace.
    pub schema: String,
    /// Name as stored.
    pub name: String,
    /// OID on the home shard.
    pub oid: u32,
    /// What it is.
    pub kind: RelationKind,
    /// Columns in attribute order, dropped ones left out.
    pub columns: Vec<Column>,
    /// Where its rows live.
    pub placement: Placement,
    /// The query of a view as PostgreSQL prints it, all names with their schemas.
    pub definition: Option<Arc<str>>,
}

/// `pg_class.relkind`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// Ordinary or partitioned table.
    Table,
    /// View.
    View,
    /// Materialized view.
    MaterializedView,
    /// Sequence.
    Sequence,
    /// Foreign table.
    Foreign,
}

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    /// Name as stored.
    pub name: String,
    /// `format_type()` spelling without modifier, e.g. `bigint`, `character varying`.
    pub type_name: String,
    /// As a definition of the column writes its type, with modifier, collation and schemas.
    pub declared: String,
    /// Type OID on the home shard.
    pub type_oid: u32,
    /// Whether NULL is rejected.
    pub not_null: bool,
    /// Default expression as SQL (`pg_get_expr`); for identity columns `nextval('seq'::regclass)`.
    pub default: Option<String>,
    /// `GENERATED ALWAYS AS IDENTITY`: a given value needs OVERRIDING SYSTEM VALUE.
    pub identity_always: bool,
    /// `GENERATED ALWAYS AS (expr) STORED`.
    pub generated: bool,
    /// What its values are, below all domains.
    pub stored: Stored,
}

impl Column {
    /// Whether rows that leave it out draw a value from a sequence.
    pub fn draws(&self) -> bool {
        self.default.as_deref().is_some_and(|default| default.starts_with("nextval("))
    }
}

/// How a column's values are stored and read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// `pg_attribute.attnum`, which no other column of the table ever has.
    pub number: i16,
    /// Modifier of the type (`atttypmod`), of a domain that of the type below; -1: none.
    pub modifier: i32,
    /// A text may be read by the clock (`'now'`): a date, a time, or something made of such.
    pub times: bool,
    /// It belongs to the primary key.
    pub identifies: bool,
    /// Its type, below all domains, where the proxy knows how its values are ordered.
    pub order: Option<Comparable>,
}

/// Where the rows of a relation live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// By slot of the key column.
    Sharded {
        /// Index into [`Relation::columns`].
        key_column: usize,
        /// Type that decides the hash.
        key_type: KeyType,
    },
    /// The same rows on every shard.
    Reference,
    /// On the home shard alone.
    Unsharded,
    /// `pg_catalog` and `information_schema`: read on the home shard.
    Catalog,
    /// A view over sharded relations only, whose key column is the given output column, straight from the tables
    /// (no aggregate, DISTINCT, LIMIT, window or set operation); or, with no key, one that cannot be pushed down.
    View {
        /// Output column that carries the key, if rows of one key come from that key's rows alone.
        key_column: Option<usize>,
        /// Type of the key.
        key_type: KeyType,
    },
}

/// What is known of a function name (all overloads together: the least favourable counts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// `provolatile = 'v'` for some overload.
    pub volatile: bool,
    /// Built in (`pg_catalog`): cannot touch user tables.
    pub built_in: bool,
    /// An aggregate or window function.
    pub aggregate: bool,
    /// Returns a set.
    pub set_returning: bool,
    /// A user function whose body was scanned and names no sharded table (or is declared so).
    pub touches_sharded: Touches,
    /// What its body names.
    pub reach: Reach,
    /// 1-based argument that carries the shard key, if declared in `[[functions]]`.
    pub key_argument: Option<u16>,
}

/// What the body of a function may reach, all overloads and what they call together. Nothing for built-in ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// What it does cannot be told.
    pub opaque: bool,
    /// It names sharded tables.
    pub sharded: bool,
    /// It names reference tables, and may write.
    pub reference: bool,
    /// It names unsharded tables.
    pub home: bool,
    /// It reads the clock, draws from a sequence or the like: its result is another one on each run.
    pub varies: bool,
    /// It is STABLE, not IMMUTABLE: texts may become dates in it.
    pub stable: bool,
    /// It is not IMMUTABLE and names the time.
    pub clock: bool,
    /// It may leave something on the conn that outlives the transaction: a setting, a temporary table, a lock.
    pub leaves: bool,
    /// Its body names tables, of whatever kind, and whatever the configuration says of it.
    pub reads: bool,
    /// As `reads`, of sharded tables.
    pub reads_sharded: bool,
    /// It runs DDL for permanent objects.
    pub defines: bool,
}

/// Whether a function reaches sharded tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touches {
    /// Provably not.
    No,
    /// It does, or it may.
    Unknown,
}

/// What is done to a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    /// Rows are read.
    Read,
    /// INSERT, COPY FROM.
    Insert,
    /// UPDATE, also by ON CONFLICT and MERGE.
    Update,
    /// DELETE, also by MERGE.
    Delete,
    /// TRUNCATE.
    Truncate,
}

/// How often a trigger fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fires {
    /// For each row.
    Row,
    /// Once for each statement, also when it touches no row.
    Statement,
}

/// Why a deed cannot be done to a relation: something that it sets off (a trigger, a rule, a cascade, a policy) would not be
/// right on the shard where it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hazards([Option<String>; 5]);

impl Deed {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Insert, Self::Update, Self::Delete, Self::Truncate];
}

impl Hazards {
    /// Why not, if so.
    pub fn of(&self, deed: Deed) -> Option<&str> {
        self.0[deed as usize].as_deref()
    }

    /// Adds a reason; the first one stays. Whether it is new.
    pub fn add(&mut self, deed: Deed, why: &str) -> bool {
        let slot = &mut self.0[deed as usize];
        let new = slot.is_none();
        slot.get_or_insert_with(|| why.to_owned());
        new
    }
}

impl Schema {
    /// The relation that [`Relation::full_name`] names.
    pub fn by_full_name(&self, full_name: &str) -> Option<&Arc<Relation>> {
        // A dot may be part of either name.
        full_name.match_indices('.').find_map(|(dot, _)| {
            self.relations.get(&(full_name[..dot].to_owned(), full_name[dot + 1..].to_owned()))
        })
    }

    /// Whether the sequence of this name is the default of a sharded table's column: each shard draws from its own.
    pub fn draws_on_each_shard(&self, sequence: &str) -> bool {
        let ends = [format!("'{sequence}'::"), format!(".{sequence}'::"), format!("\"{sequence}\"'::")];
        let drawn = |column: &Column| {
            let default = column.default.as_ref().filter(|_| column.draws());
            default.is_some_and(|default| ends.iter().any(|end| default.contains(end)))
        };
        let sharded = self.relations.values().filter(|relation| relation.key_type().is_some());
        sharded.flat_map(|relation| &relation.columns).any(drawn)
    }

    /// Whether there is such a sequence.
    pub fn has_sequences_on_each_shard(&self) -> bool {
        let sharded = self.relations.values().filter(|relation| relation.key_type().is_some());
        sharded.flat_map(|relation| &relation.columns).any(Column::draws)
    }

    /// Whether a function of this name may leave something on the conn.
    pub fn function_leaves(&self, name: &str) -> bool {
        self.functions.get(name).is_some_and(|function| function.reach.leaves)
    }

    /// Whether this may leave something on the conn.
    pub fn leaves(&self, relation: &Relation, deed: Deed) -> bool {
        self.leaves_unseen || self.leavings.contains(&(relation.oid, deed))
    }

    /// Which triggers this fires, if any.
    pub fn fires(&self, relation: &Relation, deed: Deed) -> Option<Fires> {
        self.fires.get(&(relation.oid, deed)).copied()
    }

    /// Why this cannot be done to the relation, if so.
    pub fn hazard(&self, relation: &Relation, deed: Deed) -> Option<&str> {
        self.hazards.get(&relation.oid)?.of(deed)
    }

    /// The relation that a name means: with a schema that one, else the first found in `pg_catalog` and then along the
    /// search path (a `pg_catalog` named in the path keeps its place, as in PostgreSQL).
    pub fn lookup(&self, search_path: &[String], schema: Option<&str>, name: &str) -> Option<Arc<Relation>> {
        let find = |schema: &str| self.relations.get(&(schema.to_string(), name.to_string())).cloned();
        if let Some(schema) = schema {
            return find(schema);
        }
        let implicit = |name: &str| !search_path.iter().any(|s| s == name);
        let first = [TEMPORARY, "pg_catalog"].into_iter().filter(|name| implicit(name)).find_map(find);
        first.or_else(|| search_path.iter().find_map(|schema| find(schema)))
    }

    /// Names of all schemas, each once.
    pub fn schemas(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.relations.keys().map(|(schema, _)| schema.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What is known of a function, by its unqualified name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    /// A materialized view that is new since `before` and that no statement can read.
    pub fn unreadable(&self, before: &Self) -> Option<&Arc<Relation>> {
        let known = |oid: u32| before.relations.values().any(|relation| relation.oid == oid);
        self.relations.values().find(|relation| {
            relation.kind == RelationKind::MaterializedView
                && matches!(relation.placement, Placement::View { key_column: None, .. })
                && !known(relation.oid)
        })
    }

    /// A table of `before` whose rows would not be looked for any more where they are.
    pub fn reshaped(&self, before: &Self) -> Option<Arc<Relation>> {
        let is_table = |relation: &&Arc<Relation>| {
            matches!(relation.kind, RelationKind::Table | RelationKind::Foreign)
                && relation.placement != Placement::Catalog
        };
        let old: HashMap<u32, &Arc<Relation>> =
            before.relations.values().filter(is_table).map(|relation| (relation.oid, relation)).collect();
        let now = self.relations.values().filter(is_table);
        let moved = now.filter_map(|now| old.get(&now.oid).filter(|old| !now.is_placed_as(old)));
        moved.min_by_key(|old| old.oid).map(|old| Arc::clone(old))
    }

    /// The one key type of all sharded tables, if there is one.
    pub fn only_key_type(&self) -> Option<KeyType> {
        let mut found = None;
        for relation in self.relations.values() {
            let Some(key_type) = relation.key_type() else { continue };
            if found.is_some_and(|f| f != key_type) {
                return None;
            }
            found = Some(key_type);
        }
        found
    }
}

impl Relation {
    /// Whether it is a temporary table of the session's.
    pub fn is_temporary(&self) -> bool {
        self.schema == TEMPORARY
    }

    /// Position and type of the key column, for sharded tables and views that carry the key.
    pub fn key(&self) -> Option<(usize, KeyType)> {
        match self.placement {
            Placement::Sharded { key_column, key_type } => Some((key_column, key_type)),
            Placement::View { key_column: Some(key_column), key_type } => Some((key_column, key_type)),
            Placement::View { key_column: None, .. }
            | Placement::Reference
            | Placement::Unsharded
            | Placement::Catalog => None,
        }
    }

    /// Whether rows that were stored when the table was `before` are where they are looked for now: with equal keys of an equal
    /// hash, if it is sharded.
    fn is_placed_as(&self, before: &Self) -> bool {
        let key = |relation: &Self, at: usize| relation.columns.get(at).map(|column| column.stored);
        match (&before.placement, &self.placement) {
            (
                Placement::Sharded { key_column: old, key_type: old_type },
                Placement::Sharded { key_column: new, key_type: new_type },
            ) => {
                let (Some(old), Some(new)) = (key(before, *old), key(self, *new)) else { return false };
                let cut = new.modifier != -1 && new.modifier != old.modifier;
                old.number == new.number && old_type.family() == new_type.family() && !cut
            }
            (Placement::Reference, Placement::Reference)
            // Refused before or afterwards: nothing is looked for in it.
            | (Placement::Unsharded, Placement::Unsharded | Placement::View { .. })
            | (Placement::View { .. } | Placement::Catalog, _) => true,
            (Placement::Sharded { .. } | Placement::Reference | Placement::Unsharded, _) => false,
        }
    }

    /// Type of the key that its rows are placed by, if they are.
    pub fn key_type(&self) -> Option<KeyType> {
        match self.placement {
            Placement::Sharded { key_type, .. } | Placement::View { key_type, .. } => Some(key_type),
            Placement::Reference | Placement::Unsharded | Placement::Catalog => None,
        }
    }

    /// `schema.name`, for messages.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}
