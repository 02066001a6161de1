//! Constraints that one PostgreSQL would hold over all rows, and that shards, each for itself, cannot.

use super::schema::{Placement, Relation};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unheld {
    /// OID of its table on the home shard.
    pub relation: u32,
    /// `schema.name` of its table.
    pub table: String,
    /// Name of the constraint or index.
    pub name: String,
    /// OID of the constraint or index on the home shard.
    pub oid: u32,
    /// What it would hold.
    pub rule: Rule,
}

/// What a constraint would hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// UNIQUE, PRIMARY KEY or EXCLUDE of a sharded table without its key.
    Unique {
        /// Plain columns.
        columns: Vec<String>,
        /// Those whose values collide nowhere as long as the columns themselves generate them.
        generated: Vec<String>,
    },
    /// A foreign key between rows that may be on different shards.
    ForeignKey {
        /// Why they may be.
        why: String,
    },
}

impl Unheld {
    /// What UNIQUE over these plain columns cannot hold, if anything.
    pub fn unique(relation: &Relation, (name, oid): (&str, u32), columns: Vec<String>) -> Option<Self> {
        let Placement::Sharded { key_column, .. } = relation.placement else { return None };
        if columns.contains(&relation.columns.get(key_column)?.name) {
            return None;
        }
        let generated = relation.columns.iter().filter(|column| columns.contains(&column.name));
        let generated = generated.filter(|column| column.default.as_deref().is_some_and(generates));
        let generated = generated.map(|column| column.name.clone()).collect();
        Some(Self::of(relation, (name, oid), Rule::Unique { columns, generated }))
    }

    /// A constraint of this table.
    pub fn of(relation: &Relation, (name, oid): (&str, u32), rule: Rule) -> Self {
        Self { relation: relation.oid, table: relation.full_name(), name: name.to_owned(), oid, rule }
    }

    /// Whether `other` is the same constraint, altered perhaps.
    pub fn is(&self, other: &Self) -> bool {
        let alike = std::mem::discriminant(&self.rule) == std::mem::discriminant(&other.rule)
            && self.is_generated() == other.is_generated();
        let named = self.name == other.name && self.table == other.table;
        alike && (named || self.oid == other.oid)
    }

    /// Whether only values that the application itself gives can break it.
    pub fn is_generated(&self) -> bool {
        matches!(&self.rule, Rule::Unique { generated, .. } if !generated.is_empty())
    }

    /// Whether it is one of uniqueness.
    pub fn is_unique(&self) -> bool {
        matches!(self.rule, Rule::Unique { .. })
    }

    /// What is wrong, as a sentence.
    pub fn problem(&self) -> String {
        let Self { name, table, .. } = self;
        match &self.rule {
            Rule::Unique { columns, .. } if columns.is_empty() => format!(
                "the unique index \"{name}\" on {table} of an expression does not contain the shard key: it holds on each shard alone"
            ),
            Rule::Unique { columns, .. } => format!(
                "the unique constraint \"{name}\" on {table} ({}) does not contain the shard key: it holds on each shard alone",
                columns.join(", ")
            ),
            Rule::ForeignKey { why } => {
                format!("the foreign key \"{name}\" on {table} cannot hold: {why}")
            }
        }
    }

    /// The cure.
    pub fn cure(&self) -> &'static str {
        match &self.rule {
            Rule::Unique { generated, .. } if generated.is_empty() => {
                "Add the shard key to its columns, or let the column generate its values (identity, serial, gen_random_uuid()); \
                 routing.unique_without_key = \"per_shard\" accepts it as it is."
            }
            Rule::Unique { .. } => {
                "Add the shard key to its columns; routing.unique_without_key = \"generated\" accepts it as it is."
            }
            Rule::ForeignKey { .. } => {
                "Foreign keys hold between sharded tables whose shard keys reference each other, and to reference tables: \
                 add the shard key to its columns, make the referenced table a reference table, or leave it out."
            }
        }
    }
}

/// A default whose values collide on no shard with those of others: sequences have a stride, and random UUIDs are random.
pub fn generates(default: &str) -> bool {
    let text = default.trim();
    let drawn = text
        .strip_prefix("pg_catalog.")
        .unwrap_or(text)
        .strip_prefix("nextval(")
        .and_then(|rest| rest.strip_suffix(')'))
        .is_some_and(|sequence| {
            let name = sequence.strip_suffix("::regclass").unwrap_or(sequence);
            name.len() > 2 && name.starts_with('\'') && name.ends_with('\'')
        });
    let call = text.strip_suffix("()").map(|name| name.rsplit('.').next().unwrap_or(name));
    let random =
        ["gen_random_uuid", "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "uuidv4", "uuidv7"];
    drawn || call.is_some_and(|name| random.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::generates;

    #[test]
    fn generated_values_are_told_from_others() {
        for default in [
            "nextval('bids_id_seq'::regclass)",
            "nextval('public.\"Odd'' name\"'::regclass)",
            "gen_random_uuid()",
            "public.uuid_generate_v4()",
        ] {
            assert!(generates(default), "{default}");
        }
        for default in
            ["(nextval('s'::regclass) % 10)", "nextval('s'::regclass) + 1", "now()", "0", "f('x'::regclass)"]
        {
            assert!(!generates(default), "{default}");
        }
    }
}
