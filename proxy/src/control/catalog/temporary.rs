//! The temporary tables of one session, as its conn has them.

use std::collections::HashMap;

use super::load::drafts;
pub(super) use super::questions::temporary as questions;
use super::rows::TextRow;
use crate::sql::schema::{Relation, RelationKind, TEMPORARY};

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
