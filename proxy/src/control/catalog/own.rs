//! The catalog as an open transaction has changed it: seen by that transaction alone, read over its own conn.

use std::sync::Arc;

use router_config::topology::Topology;

use super::rows::TextRow;
use super::{DatabaseCatalog, load, shard, temporary};
use crate::backend::oids::ShardOids;
use crate::control::oids::{ShardObjects, TypeShape, translation};
use crate::control::sequences;
use crate::sql::schema::Schema;

/// For each shard the SQL that gives new sequences their stride.
pub type Alignment = Vec<String>;

/// What an open transaction sees.
#[derive(Debug)]
pub struct OwnCatalog {
    /// Relations, functions, types.
    pub schema: Arc<Schema>,
    /// To be run in the transaction, on each shard, before anything is drawn from sequences that it has made; empty when it
    /// has made none that need it.
    pub alignment: Alignment,
}

impl OwnCatalog {
    /// Comes first. What the transaction's settings are, they are again after [`OwnCatalog::CLOSE`].
    pub const OPEN: &'static str =
        "SAVEPOINT gavel_catalog; SET LOCAL statement_timeout TO 0; SET LOCAL search_path TO ''";

    /// Comes last.
    pub const CLOSE: &'static str = "ROLLBACK TO SAVEPOINT gavel_catalog; RELEASE SAVEPOINT gavel_catalog";

    /// What to ask on the home shard, each as a Query of its own.
    pub fn questions(committed: &DatabaseCatalog) -> Vec<String> {
        let mut questions = load::of_transaction_questions(&committed.printed);
        questions.push(sequences::USED.to_owned());
        questions
    }

    /// What to ask on each shard for the OIDs of its types and tables.
    pub fn objects_question() -> String {
        format!(
            "SELECT name, oid, pg_catalog.array_to_string(names, ' '), pg_catalog.array_to_string(holds, ' ') \
             FROM ({}) types (name, oid, names, holds) UNION ALL \
             SELECT n.nspname || '.' || c.relname, c.oid, NULL, NULL \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp_)'",
            shard::TYPES
        )
    }

    /// The OIDs of a shard in terms of the home shard's, out of the answers of both to [`OwnCatalog::objects_question`].
    pub fn oids(home: &[TextRow], there: &[TextRow]) -> ShardOids {
        translation(&objects(home), &objects(there))
    }

    /// The names of the session's temporary relations.
    pub const TEMPORARY_NAMES: &str = "SELECT relname FROM pg_catalog.pg_class \
         WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind IN ('r', 'v', 'p', 'S')";

    /// What to ask on the home shard for the session's temporary tables, each as a Query of its own.
    pub fn temporary_questions() -> [String; 2] {
        temporary::questions()
    }

    /// Out of the answers. `committed` is the catalog without the transaction's changes, that was asked with.
    pub(crate) fn of_answers(
        answers: Vec<Vec<TextRow>>,
        topology: &Topology,
        generation: u64,
        committed: &DatabaseCatalog,
    ) -> Option<Self> {
        let mut answers = answers;
        let used = answers.pop()?;
        let loaded = load::of_transaction(answers, topology, generation, committed)?;
        let committed = &*committed.schema;
        let oid =
            |schema: &Schema, name: &(String, String)| schema.relations.get(name).map(|known| known.oid);
        let is_new = |schema: &str, name: &str| {
            let name = (schema.to_owned(), name.to_owned());
            oid(&loaded.schema, &name) != oid(committed, &name)
        };
        let used = sequences::collect(&used);
        let is_added = |table: &(String, String), column: &str| {
            let there =
                committed.relations.get(table).filter(|known| oid(&loaded.schema, table) == Some(known.oid));
            there.is_some_and(|known| known.columns.iter().all(|known| known.name != *column))
        };
        let alignment = sequences::align_new(&loaded.schema, &used, topology.shards.len(), is_new, is_added);
        let cycling = sequences::cycling(&loaded.schema, &used);
        Some(Self { schema: Arc::new(Schema { cycling, ..loaded.schema }), alignment })
    }
}

fn objects(rows: &[TextRow]) -> ShardObjects {
    let mut objects = ShardObjects::default();
    for row in rows {
        let oid = row.text(1).parse().unwrap_or_default();
        let all =
            |n: usize| row.text(n).split_ascii_whitespace().filter_map(|oid| oid.parse().ok()).collect();
        if row.values().nth(2).flatten().is_some() {
            objects.types.insert(row.owned(0), TypeShape { oid, names: all(2), holds: all(3) });
        } else {
            objects.tables.insert(row.owned(0), oid);
        }
    }
    objects
}
