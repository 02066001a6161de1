//! The temporary tables of one session, as its conn has them.

use std::collections::HashMap;

use super::load::{COLUMNS, RELATIONS, drafts, of_oids};
use super::rows::TextRow;
use crate::sql::schema::{FIRST_USER_OID, Relation, RelationKind, TEMPORARY};

/// What to ask on a session's conn for its temporary tables, for [`tables`].
pub(super) fn questions() -> [String; 2] {
    [RELATIONS, COLUMNS].map(|sql| {
        let of_session =
            sql.replace("n.nspname !~ '^pg_(toast|temp_)'", "n.oid = pg_catalog.pg_my_temp_schema()");
        of_oids(&of_session, FIRST_USER_OID)
    })
}

/// A session's temporary tables out of the answers to [`questions`]. What their rows are made of is not looked into.
pub(super) fn tables(relations: &[TextRow], columns: &[TextRow], utf8: bool) -> Vec<Relation> {
    let drafts = drafts(relations, columns, &HashMap::new(), utf8);
    let tables = drafts.into_iter().map(|draft| draft.relation);
    let tables = tables.filter(|relation| relation.kind != RelationKind::Sequence);
    let known = |relation| Relation {
        schema: TEMPORARY.to_owned(),
        kind: RelationKind::Table,
        definition: None,
        ..relation
    };
    tables.map(known).collect()
}
