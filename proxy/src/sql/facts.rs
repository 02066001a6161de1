//! What one SQL statement says, independent of the values of its parameters and literals.
//!
//! Offsets are bytes into the text *as analysed*. A text of the simple protocol shares its facts with all texts that differ in
//! literals alone; [`ValueRef::Literal`] counts literals in order of appearance, and `normalise` translates offsets.

use router_config::key::KeyType;
use smallvec::SmallVec;

use super::copy_shape::CopyShape;
use super::gather_shape::GatherShape;

/// Facts of one statement.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What kind of statement it is, with what the session must know of it.
    pub command: Command,
    /// Where the rows live that it reads or writes.
    pub scope: Scope,
    /// Whether a replica may run it.
    pub access: Access,
    /// What it leaves behind on the connection or needs of it.
    pub effects: Effects,
    /// Relations named, for messages and logs: `schema.name` or the name as written when unknown. Bounded to 16.
    pub tables: Vec<String>,
    /// Whether it returns rows (SELECT, RETURNING, SHOW, EXPLAIN, …).
    pub returns_rows: bool,
    /// Evaluated per statement and different on each run: now(), random(), nextval(), a volatile default of a
    /// reference table: must not run separately on several shards. Names the culprit.
    pub unrepeatable: Option<String>,
    /// Why it cannot run on a cluster of several shards wherever it goes: no hint places it.
    pub barred: Option<String>,
    /// It names a relation that the catalog does not know.
    pub unknown_name: bool,
    /// It writes rows of several shards and dates or times: a text among its values may stand for the time (`'now'`).
    pub times: bool,
    /// It writes, and has what each shard may read by its own clock, whatever its literals are: a computed text that becomes a date or
    /// time, a function of the user's that is not IMMUTABLE. Names the culprit.
    pub by_clock: Option<String>,
    /// Tables that DDL makes and fills, or gives other names or columns.
    pub reshaped: Vec<Reshaped>,
    /// Rows of a reference table that leave columns to defaults which are not the same on each run.
    pub defaults: Option<Box<DefaultsShape>>,
}

impl Facts {
    /// Why the statement binds the session to its conn, if it does. An UPDATE of pg_settings is a SET that the proxy cannot follow.
    pub fn pin(&self) -> Option<PinCause> {
        self.effects.pins.or_else(|| {
            let sets = matches!(self.command, Command::Modify(_))
                && self.tables.iter().any(|table| table.ends_with("pg_settings"));
            sets.then_some(PinCause::Config)
        })
    }

    /// Whether it reads or writes rows and does nothing else that the session must know of.
    pub fn is_plain(&self) -> bool {
        let Effects { changes_catalog, currval, notifies, listening_channels, spoils, .. } = self.effects;
        matches!(self.command, Command::Query | Command::Modify(_))
            && self.pin().is_none()
            && !self.unknown_name
            && !(changes_catalog || currval || notifies || listening_channels || spoils)
    }
}

/// A table as it will be.
#[derive(Debug, Clone)]
pub struct Reshaped {
    /// As it is; `None`: it is made, and filled.
    pub relation: Option<std::sync::Arc<crate::sql::schema::Relation>>,
    /// Namespace.
    pub schema: String,
    /// Name as stored.
    pub name: String,
    /// Columns; of a table that is made all that it may have.
    pub columns: Vec<String>,
}

/// `INSERT … VALUES` into a reference table: defaults that have to be drawn, so that every shard gets the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultsShape {
    /// Default expression and type name of each such column.
    pub columns: Vec<(String, String)>,
    /// Rows of VALUES.
    pub rows: usize,
    /// What is put into the text, in order.
    pub edits: Vec<Edit>,
}

/// A change of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Bytes that are replaced; may be empty.
    pub at: std::ops::Range<usize>,
    /// Put in their place.
    pub text: String,
    /// Put behind that: the drawn value of a row (0-based) and one of the shape's columns.
    pub value: Option<(usize, usize)>,
}

/// The kind of statement. What is not the session's business is [`Command::Query`], [`Command::Modify`] or
/// [`Command::Ddl`].
#[derive(Debug, Clone)]
pub enum Command {
    /// Empty text or only comments.
    Empty,
    /// SELECT, VALUES, TABLE, WITH … SELECT.
    Query,
    /// INSERT, UPDATE, DELETE, MERGE, and SELECT with a writing CTE.
    Modify(Modify),
    /// EXPLAIN of a statement (the scope is that of the statement; ANALYZE executes it).
    Explain,
    /// `EXPLAIN (GAVEL) statement`: the plan is printed, nothing runs. The inner facts are boxed.
    ExplainGavel(Box<Facts>),
    /// BEGIN / START TRANSACTION.
    Begin {
        /// READ ONLY was asked for.
        read_only: bool,
        /// The isolation level named, if any.
        isolation: Option<Isolation>,
    },
    /// COMMIT / END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK / ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT name.
    Savepoint(String),
    /// ROLLBACK TO name.
    RollbackTo(String),
    /// RELEASE name.
    Release(String),
    /// SET TRANSACTION … / SET SESSION CHARACTERISTICS …
    SetTransaction {
        /// `Some(true)` for READ ONLY, `Some(false)` for READ WRITE.
        read_only: Option<bool>,
        /// The isolation level named, if any.
        isolation: Option<Isolation>,
        /// SESSION CHARACTERISTICS: for the transactions to come.
        session: bool,
    },
    /// SET name = value: a setting of the server.
    Set {
        /// LOCAL.
        local: bool,
        /// Lower-case name; `role` and `session_authorization` and `timezone` for their special syntaxes.
        name: String,
        /// The value as written, to be replayed after `SET name TO`; `None` for DEFAULT.
        value: Option<String>,
    },
    /// `SET gavel.key = '42'`, `SET gavel.shard = '2'`: a routing hint kept by the proxy. `None` clears it.
    SetHint {
        /// LOCAL.
        local: bool,
        /// `key` or `shard`.
        name: String,
        /// The value without quotes.
        value: Option<String>,
    },
    /// RESET name; `None` for ALL.
    Reset(Option<String>),
    /// SHOW name (`all` for ALL). `gavel.*` names are the proxy's own.
    Show(String),
    /// DISCARD ALL / PLANS / SEQUENCES / TEMP, lower case.
    Discard(String),
    /// PREPARE name AS …: pins the session.
    Prepare(String),
    /// EXECUTE name: goes where PREPARE went.
    Execute(String),
    /// DEALLOCATE name; `None` for ALL.
    Deallocate(Option<String>),
    /// DECLARE name CURSOR …
    Declare {
        /// Name.
        name: String,
        /// WITH HOLD.
        hold: bool,
    },
    /// FETCH or MOVE from a cursor.
    Fetch(String),
    /// CLOSE cursor; `None` for ALL.
    CloseCursor(Option<String>),
    /// LISTEN channel.
    Listen(String),
    /// UNLISTEN channel; `None` for `*`.
    Unlisten(Option<String>),
    /// NOTIFY.
    Notify(String),
    /// COPY table FROM STDIN; see [`CopyShape`].
    CopyIn(CopyShape),
    /// COPY table or query TO STDOUT.
    CopyOut(CopyShape),
    /// LOCK TABLE.
    Lock,
    /// CREATE, ALTER, DROP, GRANT, COMMENT, TRUNCATE, REINDEX, …
    Ddl(DdlKind),
    /// PREPARE TRANSACTION / COMMIT PREPARED / ROLLBACK PREPARED of the application's own.
    TwoPhase,
    /// CALL or DO.
    Call,
    /// Anything else the proxy does not look into (CHECKPOINT, LOAD, …): home shard, primary.
    Other,
    /// The parser could not read it, or it is on the list of misreadings. Scope says where it may go.
    Unreadable {
        /// The parser's complaint.
        complaint: String,
    },
}

/// What a writing statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modify {
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// MERGE.
    Merge,
    /// A SELECT whose CTE writes, SELECT INTO, or CREATE TABLE AS is DDL instead.
    Other,
}

/// How DDL travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DdlKind {
    /// Inside one transaction over all shards.
    Transactional,
    /// Cannot run in a transaction block (CREATE INDEX CONCURRENTLY, VACUUM, …): shard by shard.
    NonTransactional,
    /// About temporary objects only: stays on the session's pinned connection.
    Temporary,
    /// Concerns the home shard alone.
    Home,
}

/// Isolation level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED (and READ UNCOMMITTED).
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}

/// Whether a replica may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Reads only: a replica will do.
    Read,
    /// Reads, but only the primary answers it rightly; says why (`FOR UPDATE`, `volatile function nextval`, …).
    ReadPrimary(String),
    /// Writes.
    Write,
}

/// What a statement leaves on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// State that cannot be replayed elsewhere (temporary table, session advisory lock, WITH HOLD cursor,
    /// LISTEN, SQL PREPARE, set_config with computed arguments): the session is pinned from here on.
    pub pins: Option<PinCause>,
    /// Functions that leave something may run: no other session may have the connection.
    pub spoils: bool,
    /// Takes an advisory lock, session or transaction: always on the home shard.
    pub advisory_lock: bool,
    /// Calls currval/lastval: must run on the connection that drew the value.
    pub currval: bool,
    /// The sequence named in a call is that of a sharded table, which each shard draws from on its own.
    pub strided: bool,
    /// The sequence named in a call lives on the home shard.
    pub home_sequence: bool,
    /// Calls nextval/setval explicitly on the named or unknown sequence.
    pub sequence: bool,
    /// Changes the catalog.
    pub changes_catalog: bool,
    /// Calls pg_notify: any shard will do, best one that the transaction writes to.
    pub notifies: bool,
    /// Calls pg_listening_channels: the session's, not the connection's.
    pub listening_channels: bool,
    /// `txid_current`, `pg_export_snapshot`, `inet_server_addr`, …: depends on the node.
    pub node_dependent: bool,
}

/// Why a session is bound to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinCause {
    /// A temporary object exists.
    Temporary,
    /// LISTEN is active, in a database that is not routed.
    Listen,
    /// A WITH HOLD cursor exists.
    HoldCursor,
    /// A session-level advisory lock is held.
    AdvisoryLock,
    /// PREPARE in SQL.
    SqlPrepare,
    /// Settings may have been changed by means the proxy cannot follow (DO, functions).
    Settings,
    /// Settings were changed by set_config or an UPDATE of pg_settings. Followed where the arguments are plain; otherwise no other
    /// shard has them.
    Config,
    /// LOAD and the like.
    Library,
}

/// Where the rows of a statement live.
#[derive(Debug, Clone)]
pub enum Scope {
    /// No relation at all: any shard will do.
    Nothing,
    /// Reads reference tables only: any shard will do.
    Reference,
    /// Unsharded tables or the catalog (besides reference tables): the home shard.
    Home,
    /// Writes reference tables (and reads nothing but reference tables): everywhere, atomically.
    ReferenceWrite,
    /// At least one sharded table.
    Sharded(Box<Sharded>),
    /// Every shard whatever the tables are: DDL, roles, VACUUM.
    Everywhere,
    /// Not known, and a sharded table may be concerned: refused unless a hint places it or there is one shard.
    Unknown {
        /// Why nothing is known.
        why: String,
    },
}

/// A statement on sharded tables.
#[derive(Debug, Clone)]
pub struct Sharded {
    /// Key type of all the sharded tables of the statement (tables of different key types: `Scope::Unknown`).
    pub key_type: KeyType,
    /// Modifier of the key column's type (`atttypmod`) in the table that is written, where that is known.
    pub modifier: Option<i32>,
    /// The table that is written lets no NULL into its key, and no trigger of the user's could put a value there.
    pub rejects_null: bool,
    /// One entry for each group of sharded tables that are equi-joined on their keys. All must meet on one shard.
    pub groups: Vec<Pin>,
    /// `None`: the answers of the shards, one after the other, are the answer, whatever shards are asked. Otherwise why
    /// not (`aggregate count`, `join not on the key`, …).
    pub no_concat: Option<String>,
    /// What of a query must be done once for all shards: its order, LIMIT and OFFSET. Otherwise their answers are an answer.
    pub gather: Option<Box<GatherShape>>,
    /// Also touches unsharded tables or the catalog: right on the home shard only.
    pub needs_home: Option<String>,
    /// Also writes a reference table: refused.
    pub writes_reference: bool,
    /// UPDATE assigns the shard key (other than to itself).
    pub updates_key: bool,
    /// How its rows move, where that is all; else why not.
    pub moves: Option<Result<Box<MoveShape>, String>>,
    /// Triggers of the user's that it fires.
    pub fires: Option<super::schema::Fires>,
    /// INSERT … VALUES, to be split or to draw its key.
    pub insert: Option<InsertShape>,
    /// INSERT … SELECT that reads no table.
    pub select: Option<SelectShape>,
    /// INSERT … SELECT whose rows provably stay on the shard they are read from.
    pub colocated_insert_select: bool,
}

/// UPDATE that gives all its rows one new key.
#[derive(Debug, Clone, PartialEq)]
pub struct MoveShape {
    /// The new key.
    pub key: KeyTerm,
    /// The table as SQL, schema included.
    pub table: String,
    /// The key column as SQL, and its type.
    pub column: (String, String),
    /// Columns that are stored as they are given, as SQL.
    pub columns: Vec<String>,
}

/// What the statement demands of the key of one group of tables.
#[derive(Debug, Clone, PartialEq)]
pub enum Pin {
    /// Nothing: rows of any key.
    Any,
    /// The key equals one of these (`=`, `IN`, OR of equalities): one entry is the common case.
    Keys(SmallVec<[KeyTerm; 1]>),
    /// The key is a member of an array value (`= ANY($1)`).
    Array(KeyTerm),
    /// No row can match (`= NULL`).
    Never,
    /// INSERT … VALUES: the rows say it.
    Insert,
}

/// A value that stands for a key in the text.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyTerm {
    /// Where the value is.
    pub value: ValueRef,
    /// Minus signs before a numeric literal, folded.
    pub negated: bool,
    /// The innermost explicit cast, lower case, as written (`int8`, `bigint`, `uuid`, …). The planner pins only when the value
    /// survives it unchanged.
    pub cast: Option<String>,
}

/// Where a value is found.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueRef {
    /// `$n`, 1-based.
    Param(u16),
    /// The n-th literal of the text (0-based, as `normalise` counts), number or string.
    Literal(u32),
    /// The keyword NULL.
    Null,
    /// DEFAULT in VALUES, or the key column is not in the column list.
    Default,
    /// Something that is computed: cannot be known before execution.
    Computed,
}

/// `INSERT … VALUES (…), (…)` on a sharded table.
#[derive(Debug, Clone)]
pub struct InsertShape {
    /// Rows in order.
    pub rows: Vec<InsertRow>,
    /// Byte offset just before the first row's opening parenthesis, and just past the last row's closing one:
    /// `text[..start] + rows + text[end..]` is the statement.
    pub values: std::ops::Range<usize>,
    /// Parameters used outside of the rows (ON CONFLICT, RETURNING, CTE), 1-based.
    pub outside_params: SmallVec<[u16; 4]>,
    /// How to add a key that the statement leaves to its default.
    pub draw: Option<DrawShape>,
}

/// `INSERT INTO t (columns) SELECT …` without tables, functions of the user's or anything that differs from run to run.
#[derive(Debug, Clone)]
pub struct SelectShape {
    /// Bytes of the query.
    pub source: std::ops::Range<usize>,
    /// Columns listed.
    pub columns: usize,
    /// Where the key is.
    pub key: SelectKey,
    /// Columns that are literals without a type, with the bytes of these: what type they get depends on the place.
    pub literals: Vec<(usize, std::ops::Range<usize>)>,
    /// The query or what follows it has parameters.
    pub has_params: bool,
}

/// Where the key of the rows of a query is.
#[derive(Debug, Clone)]
pub enum SelectKey {
    /// Position among the columns.
    Column(usize),
    /// It is left to its default.
    Default(DrawShape),
}

/// One row of VALUES.
#[derive(Debug, Clone)]
pub struct InsertRow {
    /// Bytes of the row, both parentheses included.
    pub span: std::ops::Range<usize>,
    /// Its key.
    pub key: KeyTerm,
    /// Parameters used in it, 1-based, in order of appearance.
    pub params: SmallVec<[u16; 8]>,
    /// When the key is `DEFAULT` in the row: the bytes of that word. When the column is not listed: the empty range just
    /// before the closing parenthesis.
    pub draw_at: std::ops::Range<usize>,
}

/// How a key drawn beforehand gets into the statement.
#[derive(Debug, Clone)]
pub struct DrawShape {
    /// Default expression of the key column, from the catalog.
    pub default: String,
    /// The key column's type name, for a cast.
    pub type_name: String,
    /// The column is not in the column list: insert `, "name"` at this offset (just before the list's closing
    /// parenthesis), or a whole ` ("a", "b")` list when the statement has none.
    pub column_at: Option<(usize, String)>,
    /// Insert ` OVERRIDING SYSTEM VALUE` at this offset (GENERATED ALWAYS).
    pub overriding_at: Option<usize>,
}
