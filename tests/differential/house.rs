//! The auction house of the comparison: tables of each kind, with keys of each type, and the same rows on both sides.

use tests::random::Random;

/// Types of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ty {
    Int2,
    Int4,
    Int8,
    Numeric,
    Float,
    Text,
    /// Text under a language's collation.
    Title,
    Char,
    Bool,
    Date,
    Stamp,
    Uuid,
    /// The enum type `condition`, whose order is not that of its words.
    Condition,
    /// An array of texts.
    Tags,
    /// An array of the enum type.
    Conditions,
    Json,
    Bytes,
    Span,
    /// citext: words that are equal whatever their case; each is stored in one.
    Folded,
    /// A domain over numeric.
    Fee,
}

/// Words that collations put in other orders.
const WORDS: &[&str] = &[
    "alpha",
    "Beta",
    "beta",
    "gamma",
    "Ängström",
    "zeta",
    "a b",
    "a-b",
    "AB",
    "éclair",
    "10",
    "9",
    "100%",
    "O'Brien",
    "",
    "back\\slash",
];

const JSON: &[&str] = &[r#"{"a": 1}"#, r#"{"b": [1, 2]}"#, "[]", "\"text\"", "12", "null", r#"{"a": null}"#];

impl Ty {
    /// Its name in SQL.
    pub(crate) const fn sql(self) -> &'static str {
        match self {
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Numeric => "numeric",
            Self::Float => "double precision",
            Self::Text | Self::Title => "text",
            Self::Char => "char(4)",
            Self::Bool => "boolean",
            Self::Date => "date",
            Self::Stamp => "timestamptz",
            Self::Uuid => "uuid",
            Self::Condition => "condition",
            Self::Tags => "text[]",
            Self::Conditions => "condition[]",
            Self::Json => "jsonb",
            Self::Bytes => "bytea",
            Self::Span => "interval",
            Self::Folded => "citext",
            Self::Fee => "fees",
        }
    }

    /// Whether its literals need no quotes.
    pub(crate) const fn is_number(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8 | Self::Numeric)
    }

    /// A value that is a key, in a spelling that is no other's.
    fn key(self, random: &mut Random) -> String {
        match self {
            Self::Numeric => random.between(0, 60).to_string(),
            _ => self.value(random),
        }
    }

    /// A value in text format, one of few.
    pub(crate) fn value(self, random: &mut Random) -> String {
        match self {
            Self::Int2 => random.between(-3, 12).to_string(),
            Self::Int4 => random.between(0, 9).to_string(),
            Self::Int8 => random.between(1, 40).to_string(),
            Self::Numeric => {
                let scale = random.pick(&["", ".0", ".5", ".50", ".25", ".125"]);
                format!("{}{scale}", random.between(0, 60))
            }
            Self::Float => format!("{}", random.between(-20, 80) as f64 / 4.0),
            Self::Text | Self::Title => (random.pick(WORDS)).to_owned(),
            Self::Char => random.pick(&["a", "ab", "AB", "abcd", "z"]).to_owned(),
            Self::Bool => random.pick(&["t", "f"]).to_owned(),
            Self::Date => format!("2024-0{}-{:02}", random.between(1, 3), random.between(1, 28)),
            Self::Stamp => {
                let (day, hour) = (random.between(1, 28), random.between(0, 23));
                format!("2024-02-{day:02} {hour:02}:{:02}:00+00", random.between(0, 3) * 15)
            }
            Self::Uuid => format!("00000000-0000-4000-8000-0000000000{:02x}", random.below(30)),
            Self::Condition => random.pick(&["new", "used", "broken", "art"]).to_owned(),
            Self::Tags => {
                random.pick(&["{}", "{a,b}", "{\"a b\",NULL}", "{B,\"\"}", "{{1,2},{3,4}}"]).to_owned()
            }
            Self::Conditions => random.pick(&["{new,used}", "{}", "{art}", "{used,NULL}"]).to_owned(),
            Self::Json => random.pick(JSON).to_owned(),
            Self::Bytes => random.pick(&["\\x", "\\x00ff", "\\x0a09", "\\x5c27"]).to_owned(),
            Self::Span => format!("{} mons {:02}:00:00", random.between(2, 9), random.between(0, 23)),
            Self::Folded => random.pick(&["alpha", "BETA", "Gamma", "delta", "a b", "Zeta"]).to_owned(),
            Self::Fee => random.pick(&["0.10", "1.25", "99.00", "100.50"]).to_owned(),
        }
    }
}

/// Where the rows of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sharded,
    Reference,
    Unsharded,
    /// Of rows of a sharded table.
    View,
}

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) columns: &'static [(&'static str, Ty)],
    /// How many of the columns, from the first on, are the primary key. The first is the shard key.
    pub(crate) key: usize,
    pub(crate) rows: usize,
}

impl Table {
    /// Type of the first column.
    pub(crate) const fn key_type(&self) -> Ty {
        self.columns[0].1
    }

    /// Names of the primary key.
    pub(crate) fn key_names(&self) -> impl Iterator<Item = &'static str> {
        self.columns[..self.key].iter().map(|(name, _)| *name)
    }
}

const LOT: [(&str, Ty); 3] = [("n", Ty::Int4), ("label", Ty::Text), ("owner", Ty::Int8)];

const fn lot(key: Ty) -> [(&'static str, Ty); 4] {
    [("auction_id", key), LOT[0], LOT[1], LOT[2]]
}

const LOT_UUID: [(&str, Ty); 4] = lot(Ty::Uuid);
const LOT_TEXT: [(&str, Ty); 4] = lot(Ty::Text);
const LOT_DATE: [(&str, Ty); 4] = lot(Ty::Date);
const LOT_STAMP: [(&str, Ty); 4] = lot(Ty::Stamp);
const LOT_NUMERIC: [(&str, Ty); 4] = lot(Ty::Numeric);
const LOT_INT4: [(&str, Ty); 4] = lot(Ty::Int4);
const LOT_INT2: [(&str, Ty); 4] = lot(Ty::Int2);

const fn sharded(
    name: &'static str,
    columns: &'static [(&'static str, Ty)],
    key: usize,
    rows: usize,
) -> Table {
    Table { name, kind: Kind::Sharded, columns, key, rows }
}

/// All tables; those of the key type bigint first.
pub(crate) const TABLES: &[Table] = &[
    sharded(
        "auctions",
        &[
            ("auction_id", Ty::Int8),
            ("seller_id", Ty::Int8),
            ("category_id", Ty::Int4),
            ("title", Ty::Title),
            ("price", Ty::Numeric),
            ("condition", Ty::Condition),
            ("ends", Ty::Stamp),
            ("active", Ty::Bool),
            ("weight", Ty::Float),
            ("code", Ty::Char),
            ("note", Ty::Text),
        ],
        1,
        34,
    ),
    sharded(
        "bids",
        &[
            ("auction_id", Ty::Int8),
            ("id", Ty::Int8),
            ("bidder_id", Ty::Int8),
            ("amount", Ty::Numeric),
            ("placed", Ty::Stamp),
            ("step", Ty::Int2),
            ("comment", Ty::Text),
        ],
        2,
        220,
    ),
    sharded("watches", &[("auction_id", Ty::Int8), ("user_id", Ty::Int8), ("since", Ty::Date)], 2, 90),
    sharded(
        "pictures",
        &[("auction_id", Ty::Int8), ("n", Ty::Int4), ("raw", Ty::Bytes), ("caption", Ty::Folded)],
        2,
        40,
    ),
    sharded(
        "sales",
        &[("auction_id", Ty::Int8), ("day", Ty::Date), ("amount", Ty::Numeric), ("fee", Ty::Fee)],
        2,
        60,
    ),
    sharded(
        "things",
        &[
            ("auction_id", Ty::Int8),
            ("n", Ty::Int4),
            ("tags", Ty::Tags),
            ("states", Ty::Conditions),
            ("extra", Ty::Json),
            ("raw", Ty::Bytes),
            ("span", Ty::Span),
            ("word", Ty::Folded),
        ],
        2,
        50,
    ),
    Table {
        name: "open_auctions",
        kind: Kind::View,
        columns: &[
            ("auction_id", Ty::Int8),
            ("title", Ty::Title),
            ("price", Ty::Numeric),
            ("category_id", Ty::Int4),
        ],
        key: 1,
        rows: 0,
    },
    Table {
        name: "users",
        kind: Kind::Reference,
        columns: &[
            ("id", Ty::Int8),
            ("name", Ty::Text),
            ("rating", Ty::Numeric),
            ("joined", Ty::Date),
            ("referrer", Ty::Int8),
        ],
        key: 1,
        rows: 30,
    },
    Table {
        name: "categories",
        kind: Kind::Reference,
        columns: &[("id", Ty::Int4), ("name", Ty::Text), ("parent", Ty::Int4)],
        key: 1,
        rows: 8,
    },
    Table {
        name: "remarks",
        kind: Kind::Unsharded,
        columns: &[("id", Ty::Int4), ("about", Ty::Int8), ("body", Ty::Text), ("day", Ty::Date)],
        key: 1,
        rows: 8,
    },
    sharded("lots_uuid", &LOT_UUID, 1, 20),
    sharded("lots_text", &LOT_TEXT, 1, 10),
    sharded("lots_date", &LOT_DATE, 1, 20),
    sharded("lots_stamp", &LOT_STAMP, 1, 20),
    sharded("lots_numeric", &LOT_NUMERIC, 1, 20),
    sharded("lots_int4", &LOT_INT4, 1, 9),
    sharded("lots_int2", &LOT_INT2, 1, 12),
];

/// A table by its name.
pub(crate) fn table(name: &str) -> &'static Table {
    TABLES.iter().find(|table| table.name == name).unwrap_or_else(|| panic!("no table {name}"))
}

/// A column's definition. Numbers have two places, so that equal ones are spelled alike: keys excepted, of which there is one
/// of each.
fn column(table: &Table, at: usize) -> String {
    let (name, ty) = table.columns[at];
    match ty {
        Ty::Title => format!("{name} text collate \"en-x-icu\""),
        Ty::Numeric if at > 0 => format!("{name} numeric(12,2)"),
        ty => format!("{name} {}", ty.sql()),
    }
}

fn create(table: &Table) -> String {
    let columns: Vec<_> = (0..table.columns.len()).map(|at| column(table, at)).collect();
    let key: Vec<_> = table.key_names().collect();
    let more = match table.name {
        "pictures" => {
            ", foreign key (auction_id) references auctions on delete cascade, unique (auction_id, caption, raw)"
        }
        "things" => ", twice int generated always as (n * 2) stored",
        _ => "",
    };
    let tail = if table.name == "sales" { " partition by range (day)" } else { "" };
    format!(
        "create table {} ({}, primary key ({}){more}){tail}",
        table.name,
        columns.join(", "),
        key.join(", ")
    )
}

/// Statements that make the schema, in order.
pub(crate) fn schema() -> Vec<String> {
    const TYPES: [&str; 3] = [
        "create extension citext",
        "create type condition as enum ('new', 'used', 'broken', 'art')",
        "create domain fees as numeric(6,2) check (value >= 0)",
    ];
    const REST: [&str; 12] = [
        "create table sales_1 partition of sales for values from ('2024-01-01') to ('2024-02-01')",
        "create table sales_2 partition of sales for values from ('2024-02-01') to ('2024-03-01')",
        "create table sales_rest partition of sales default",
        "create table offers (auction_id bigserial primary key, title text not null, token uuid default gen_random_uuid(), \
         made timestamptz default now())",
        "create index on bids (amount)",
        "create view open_auctions as select auction_id, title, price, category_id from auctions where active",
        "create view leaders as select auction_id, count(*) as bids, max(amount) as best from bids group by auction_id",
        "create view house as select c.name, count(a.auction_id) as auctions from categories c \
         left join auctions a on a.category_id = c.id group by c.name",
        "create function fee(numeric) returns numeric language sql immutable as 'select round($1 * 0.05, 2)'",
        "create function bids_of(bigint) returns bigint language sql stable as \
         'select count(*) from bids where auction_id = $1'",
        "create function remark() returns trigger language plpgsql as \
         $$ begin new.comment := coalesce(new.comment, 'none'); return new; end $$",
        "create function raise_price() returns trigger language plpgsql as \
         $$ begin update auctions set price = new.amount where auction_id = new.auction_id and price < new.amount; \
         return null; end $$",
    ];
    const TRIGGERS: [&str; 2] = [
        "create trigger remark before insert on bids for each row execute function remark()",
        "create trigger raise_price after insert or update of amount on bids for each row execute function raise_price()",
    ];
    let mut all: Vec<_> = TYPES.map(str::to_owned).into();
    all.extend(TABLES.iter().filter(|table| table.kind != Kind::View).map(create));
    all.extend(REST.iter().chain(&TRIGGERS).map(|sql| (*sql).to_owned()));
    all
}

/// What is declared of the functions.
pub(crate) const FUNCTIONS: &str = "[[functions]]\nname = \"bids_of\"\nkey_argument = 1\n";

/// `INSERT`s of all rows, and the constraints that they need not meet.
pub(crate) fn rows(random: &mut Random) -> Vec<String> {
    let mut auctions = Vec::new();
    let mut all = Vec::new();
    for table in TABLES.iter().filter(|table| table.kind != Kind::View) {
        all.push(insert(table, random, &mut auctions));
    }
    all.push("alter table bids add constraint steps check (step <> 5) not valid".to_owned());
    all
}

/// `auctions` are the keys of the table of that name, which comes first.
fn insert(table: &Table, random: &mut Random, auctions: &mut Vec<String>) -> String {
    let mut keys = std::collections::BTreeSet::new();
    let mut rows = Vec::new();
    while rows.len() < table.rows {
        let mut key: Vec<_> = table.columns[..table.key].iter().map(|(_, ty)| ty.key(random)).collect();
        if table.name == "pictures" {
            key[0] = random.pick(auctions);
        }
        if !keys.insert(key.clone()) {
            continue;
        }
        let others = table.columns[table.key..]
            .iter()
            .map(|(_, ty)| if random.chance(12) { "null".to_owned() } else { quoted(&ty.value(random)) });
        let others: Vec<_> = others.collect();
        let values: Vec<_> = key.iter().map(|value| quoted(value)).chain(others).collect();
        rows.push(format!("({})", values.join(", ")));
        if table.name == "auctions" {
            auctions.extend(key);
        }
    }
    let ignored = if table.name == "pictures" { " on conflict do nothing" } else { "" };
    format!("insert into {} values {}{ignored}", table.name, rows.join(", "))
}

/// A literal.
pub(crate) fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
