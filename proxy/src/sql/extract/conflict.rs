//! ON CONFLICT: the row that is in the way may be on another shard than the new one.

use super::reader::Reader;
use super::scope::fold;
use super::write::Target;
use crate::sql::constraints::{Rule, Unheld};
use crate::sql::parse::ast::{ConflictTarget, ObjectNamePart, OnConflict};

impl Reader<'_, '_> {
    /// Bars ON CONFLICT by a constraint that holds on one shard only, unless the columns generate what it compares.
    /// `left_out`: whether no row gives a value for a column.
    pub(super) fn conflict_elsewhere(
        &mut self,
        conflict: &OnConflict,
        target: &Target,
        left_out: &dyn Fn(&str) -> bool,
    ) {
        let Some(relation) = target.relation.as_ref().filter(|_| target.node.is_some()) else { return };
        let named = match self.quirks.arbiters.as_slice() {
            [columns] => Some(columns),
            _ => None,
        };
        let meant = |unheld: &&Unheld| match (&unheld.rule, named, &conflict.conflict_target) {
            (Rule::ForeignKey { .. }, ..) => false,
            (Rule::Unique { columns, .. }, Some(named), _) => {
                named.iter().all(|name| columns.contains(name)) && columns.iter().all(|c| named.contains(c))
            }
            (Rule::Unique { .. }, None, Some(ConflictTarget::OnConstraint(name))) => {
                let last = name.0.last().and_then(ObjectNamePart::as_ident);
                last.is_none_or(|last| fold(last) == unheld.name)
            }
            (Rule::Unique { .. }, None, _) => true,
        };
        let collides = |unheld: &&Unheld| match &unheld.rule {
            Rule::Unique { generated, .. } => !generated.iter().any(|column| left_out(column)),
            Rule::ForeignKey { .. } => false,
        };
        let own = self.ctx.schema.unheld.iter().filter(|unheld| unheld.relation == relation.oid);
        if let Some(unheld) = own.filter(meant).find(collides) {
            let why =
                format!("the row that ON CONFLICT is about may be on another shard: {}", unheld.problem());
            self.seen.barred.get_or_insert(why);
        }
    }
}
