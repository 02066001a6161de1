//! Clauses of a SELECT that make one row of many: GROUP BY, aggregates, windows, DISTINCT. Each shard's part is right by
//! itself only where the shard key is among what they group by.

use super::condition::unnest;
use super::groups::NodeId;
use super::reader::{Read, Reader};
use super::scope::Column;
use crate::sql::parse::ast::{Distinct, Expr, GroupByExpr, Select, SelectFlavor, SelectItem, Value};

impl<'q> Reader<'_, 'q> {
    /// GROUP BY: `None` without one; else the key node among its expressions, if there is one.
    pub(super) fn grouping(&mut self, select: &'q Select) -> Read<Option<Grouping>> {
        let GroupByExpr::Expressions(items, modifiers) = &select.group_by else {
            return Err("GROUP BY ALL".to_string());
        };
        if !modifiers.is_empty() {
            return Err("GROUP BY … WITH".to_string());
        }
        if items.is_empty() {
            return Ok(None);
        }
        let mut grouping = Grouping { key: None, sets: false };
        for item in items {
            self.expr(item)?;
            grouping.sets |= matches!(item, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_));
            let meant = self.ordinal(item, select).unwrap_or(item);
            grouping.key = grouping.key.or(self.own_key(meant));
        }
        Ok(Some(grouping))
    }

    /// `GROUP BY 1`: the item of the select list.
    fn ordinal(&mut self, item: &Expr, select: &'q Select) -> Option<&'q Expr> {
        let Expr::Value(value) = unnest(item) else { return None };
        let Value::Number(digits, _) = &value.value else { return None };
        self.seen.by_value = true;
        let index = digits.parse::<usize>().ok()?.checked_sub(1)?;
        let before = select.projection.get(..=index)?;
        match before.last()? {
            _ if before
                .iter()
                .any(|i| !matches!(i, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })) =>
            {
                None
            }
            SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => Some(e),
            _ => None,
        }
    }

    /// Obstacles of GROUP BY and aggregates; tells whether a condition on a key column may be moved below them.
    pub(super) fn aggregation(&mut self, select: &Select, grouping: Option<Grouping>) -> bool {
        let aggregate = self.level().aggregate.clone();
        match grouping {
            Some(Grouping { sets: true, .. }) => {
                self.level_obstacle("GROUPING SETS", None);
                false
            }
            Some(Grouping { key: Some(key), .. }) => {
                self.level_obstacle("GROUP BY a key that may be NULL", Some(key));
                true
            }
            Some(Grouping { key: None, .. }) => {
                self.level_obstacle("GROUP BY without the shard key", None);
                true
            }
            None if aggregate.is_some() || select.having.is_some() => {
                let name = aggregate.map_or("HAVING".to_string(), |name| format!("aggregate {name}"));
                self.level_obstacle(name, None);
                false
            }
            None => true,
        }
    }

    pub(super) fn windows(&mut self) -> bool {
        match self.level().window {
            None => true,
            Some(key) => {
                self.level_obstacle("a window not partitioned by the shard key", key);
                key.is_some()
            }
        }
    }

    pub(super) fn distinct(&mut self, select: &'q Select, columns: Option<&[Column]>) -> Read<bool> {
        match &select.distinct {
            None | Some(Distinct::All) => Ok(true),
            Some(Distinct::Distinct) => {
                let key = columns.and_then(|columns| columns.iter().find_map(|c| c.key));
                self.level_obstacle("DISTINCT without the shard key", key);
                Ok(true)
            }
            Some(Distinct::On(items)) => {
                let mut key = None;
                for item in items {
                    self.expr(item)?;
                    let meant = self.ordinal(item, select).unwrap_or(item);
                    key = key.or(self.own_key(meant));
                }
                self.level_obstacle("DISTINCT ON without the shard key", key);
                Ok(key.is_some())
            }
        }
    }
}

/// What GROUP BY groups by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grouping {
    key: Option<NodeId>,
    sets: bool,
}

/// Clauses of other databases that the parser would accept.
pub(super) fn foreign_clauses(select: &Select) -> Read<()> {
    let foreign = select.top.is_some()
        || select.into.is_some()
        || select.exclude.is_some()
        || select.select_modifiers.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.qualify.is_some()
        || select.value_table_mode.is_some()
        || !matches!(select.flavor, SelectFlavor::Standard);
    if foreign { Err("a clause that PostgreSQL does not have".to_string()) } else { Ok(()) }
}
