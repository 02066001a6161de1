//! What SHOW shows: topics and the meaning of their columns. The console itself (`SHOW HELP POOLS`) and the documentation
//! read them from here.

use self::Topic::{
    Clients, Config, Epoch, Help, Pools, Problems, Servers, Shards, Slots, Statements, Stats, Tables, Version,
};

/// A column and what it means.
pub type Column = (&'static str, &'static str);

/// What SHOW shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// The commands.
    Help,
    /// Sessions.
    Clients,
    /// Nodes.
    Servers,
    /// Pools.
    Pools,
    /// Counters.
    Stats,
    /// Shards.
    Shards,
    /// Slot map.
    Slots,
    /// Tables and where their rows are.
    Tables,
    /// What is refused or differs between the shards.
    Problems,
    /// Shared prepared statements.
    Statements,
    /// Settings.
    Config,
    /// Version.
    Version,
    /// Epoch of the topology.
    Epoch,
}

impl Topic {
    /// All of them, in the order of SHOW HELP.
    pub const ALL: [Self; 13] = [
        Help, Clients, Servers, Pools, Stats, Shards, Slots, Tables, Problems, Statements, Config, Version,
        Epoch,
    ];

    /// The word after SHOW.
    pub fn name(self) -> &'static str {
        match self {
            Help => "help",
            Clients => "clients",
            Servers => "servers",
            Pools => "pools",
            Stats => "stats",
            Shards => "shards",
            Slots => "slots",
            Tables => "tables",
            Problems => "problems",
            Statements => "statements",
            Config => "config",
            Version => "version",
            Epoch => "epoch",
        }
    }

    /// The topic of this name, in lower case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }

    /// What it shows, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Help => "the commands; SHOW HELP POOLS: what the columns of SHOW POOLS mean",
            Clients => "sessions of applications, and of the console",
            Servers => "nodes as the health checks last saw them",
            Pools => "backend connections by user, database and node, over all session threads",
            Stats => "counters since the start: those of /metrics without the zeros",
            Shards => "shards with their primary, replicas and share of the slots",
            Slots => "ranges of slots and their owners",
            Tables => "tables and views of the sharded databases: where their rows are",
            Problems => {
                "tables that are refused and why; what differs between the shards; rules that match no table"
            }
            Statements => "prepared statements shared over sessions, the most used first",
            Config => "settings in use; secrets are masked",
            Version => "version of the proxy",
            Epoch => "epoch of the topology in use",
        }
    }

    /// Columns with their meaning.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Help => &[("command", "What to send."), ("about", "What it does or shows.")],
            Clients => &CLIENTS,
            Servers => &SERVERS,
            Pools => &POOLS,
            Stats => &[
                ("name", "Name of the metric; of a histogram its count and its mean in milliseconds."),
                ("labels", "Its labels."),
                ("value", "Its value."),
            ],
            Shards => &SHARDS,
            Slots => &[
                ("shard", "Owner."),
                ("first", "First slot of the range."),
                ("last", "Last slot of the range."),
                ("slots", "How many."),
            ],
            Tables => &TABLES,
            Problems => &[
                ("database", "Database on the nodes; * for a rule of the configuration."),
                ("about", "Table, function, property or rule."),
                ("refused", "statements, writes, or nothing."),
                ("problem", "What is wrong and what to do."),
            ],
            Statements => &[
                ("statement", "Name on the backend connections."),
                ("parses", "Parse messages that meant it."),
                ("sql", "Its text, literals masked unless log.literals is on."),
            ],
            Config => &[
                ("name", "Section and key of the configuration file."),
                ("value", "Value in use."),
                ("default", "Value if the file does not say."),
            ],
            Version => &[("version", "Version of the proxy.")],
            Epoch => &[
                ("epoch", "Version of the topology; grows with every change."),
                ("shards", "Shards in it."),
                ("slots", "Slots in it; fixed for the life of a cluster."),
                ("key_overrides", "Keys pinned to a shard."),
                ("range_overrides", "Ranges of keys pinned to a shard or to the ring."),
                ("placement", "Fingerprint of all that places rows: equal in all proxies of a cluster."),
            ],
        }
    }
}

const CLIENTS: [Column; 8] = [
    ("pid", "Process id of the session's cancel key."),
    ("user", "Role."),
    ("database", "Database as the application names it."),
    ("address", "Where the application connects from."),
    (
        "state",
        "idle, active (a request runs), waiting (for a conn, a primary, RESUME) or in_transaction (idle in one).",
    ),
    ("requests", "Requests worked off."),
    ("connected_s", "Seconds since the login."),
    ("backends", "Backend connections that work for it: node and process id there."),
];

const SERVERS: [Column; 10] = [
    ("shard", "Shard; empty for the target of a passed-through database."),
    ("node", "Where it listens."),
    (
        "role",
        "primary, replica, stale (claims to be a primary, is not written to) or unknown (not asked yet).",
    ),
    ("up", "Whether it answers checks."),
    ("timeline", "Timeline of its WAL."),
    ("lsn", "Replayed (replica) or written (primary) up to here."),
    ("lag_bytes", "WAL that it has yet to replay."),
    ("lag_ms", "For how long it has been behind its primary."),
    ("in_flight", "Statements and transactions that run on it through this proxy."),
    ("failure", "Why it is down or not used."),
];

const POOLS: [Column; 9] = [
    ("user", "Role that logs in at the node."),
    ("database", "Database on the node."),
    ("shard", "Shard of the node."),
    ("node", "Where it listens."),
    ("role", "Role of the node."),
    ("active", "Connections lent to sessions."),
    ("idle", "Connections open and unused."),
    ("waiting", "Requests that wait for a connection."),
    ("size", "Most connections that it may have."),
];

const SHARDS: [Column; 8] = [
    ("shard", "Name."),
    ("primary", "Node that takes the writes; empty while there is none or it is in doubt."),
    ("replicas", "Nodes that follow it and answer checks."),
    ("nodes", "Nodes configured."),
    ("weight", "Weight in the ring."),
    ("slots", "Slots that it owns."),
    ("share", "The same in percent of all slots."),
    ("note", "home: unsharded tables are here. Or why there is no primary."),
];

const TABLES: [Column; 7] = [
    ("database", "Database on the nodes."),
    ("schema", "Schema."),
    ("table", "Table or view."),
    ("kind", "sharded, reference, unsharded, or view (over sharded tables)."),
    ("key", "Column that carries the shard key."),
    ("type", "Type of the shard key."),
    ("problem", "Why statements on it are refused."),
];
