//! INSERT, UPDATE, DELETE and MERGE.

use serde_json::Value;

use super::{Columns, Const, Demand, Level, Reader, Source, Where};
use crate::tree::{field, is, list, text};

impl Reader<'_> {
    /// INSERT, UPDATE, DELETE, MERGE; what RETURNING gives.
    pub(super) fn writer(&mut self, tag: &str, statement: &Value) -> (Columns, Vec<usize>) {
        let names = self.named.len();
        self.with(field(statement, "with_clause"));
        self.levels.push(Level::new());
        let range = field(statement, "relation");
        let target = self.mention(range, true);
        if tag == "InsertStmt" {
            // The source sees nothing of the target.
            self.any(field(statement, "select_stmt"));
        }
        if let Some(target) = target {
            let source = self.source(target, range);
            self.push(source);
        }
        for clause in ["from_clause", "using_clause"] {
            list(statement, clause).iter().for_each(|item| self.from(item));
        }
        if !field(statement, "source_relation").is_null() {
            self.from(field(statement, "source_relation"));
        }
        self.condition(field(statement, "where_clause"), None);
        self.condition(field(statement, "join_condition"), None);
        if tag == "UpdateStmt"
            && let Some(target) = target
        {
            self.assigned(list(statement, "target_list"), target);
        }
        self.any(field(statement, "target_list"));
        self.any(field(statement, "merge_when_clauses"));
        if !field(statement, "on_conflict_clause").is_null() {
            let excluded = self.levels.last().and_then(|l| l.first()).cloned();
            let excluded = excluded.map(|s| Source { alias: "excluded".into(), ..s });
            self.levels.push(excluded.into_iter().collect());
            let conflict = field(statement, "on_conflict_clause");
            ["target_list", "where_clause"].iter().for_each(|c| self.any(field(conflict, c)));
            self.levels.pop();
        }
        let returning = field(statement, "returning_clause");
        let columns = match returning {
            Value::Null => None,
            clause => self.targets(list(clause, "exprs")),
        };
        let level = self.levels.pop().unwrap_or_default();
        self.named.truncate(names);
        (columns, level.into_iter().flat_map(|s| s.mentions).collect())
    }

    /// SET of the key to something that is neither itself nor a plain value.
    fn assigned(&mut self, targets: &[Value], target: usize) {
        let relation = self.truth.mentions[target].relation.clone();
        let Some(relation) = relation else { return };
        let Some((index, _)) = relation.key() else { return };
        let key = &relation.columns[index].name;
        for assigned in targets.iter().filter_map(|t| is(t, "ResTarget")) {
            if text(assigned, "name") != key {
                continue;
            }
            let value = field(assigned, "val");
            let known = match self.constant(value) {
                Some(value) => self.truth.demands.iter().any(|(m, d)| {
                    *m == target
                        && matches!(d, Demand::Keys(keys) if keys.len() == 1 && self.same(&keys[0], &value))
                }),
                None => self.keys_of(value).contains(&target),
            };
            self.truth.new_key |= !known;
        }
    }

    /// Two constants that are spelled the same.
    fn same(&self, a: &Const, b: &Const) -> bool {
        let word = |at: usize| {
            let rest = &self.sql[at..];
            rest.find(|c: char| c.is_whitespace() || ",;)".contains(c)).map_or(rest, |end| &rest[..end])
        };
        match (&a.value, &b.value) {
            (Where::Literal(x), Where::Literal(y)) => word(*x) == word(*y) && a.negative == b.negative,
            (x, y) => x == y,
        }
    }
}
