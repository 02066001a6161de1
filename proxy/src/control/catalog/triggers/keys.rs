//! What foreign keys set off, and children that are no partitions.
//!
//! ON UPDATE acts only when the columns that are referenced get other values: what would not be right there bars statements that
//! assign those columns, and no others.

use super::{Chain, ForeignKey, Judge, SetOff};
use crate::sql::schema::{Deed, Placement, Relation};

/// `confupdtype`, `confdeltype`
const CASCADE: &str = "c";
const SETS: [&str; 2] = ["n", "d"];

impl Judge<'_> {
    /// Rows of a child have columns that the parent does not have: they do not move as rows of the parent.
    pub(super) fn child(&mut self, (parent, child): (u32, u32)) {
        let Some(child) = self.by_oid.get(&child) else { return };
        let why = format!("{} inherits from it, and its rows may have other columns", child.full_name());
        self.found.stuck.insert(parent, why);
    }

    pub(super) fn foreign_key(&mut self, key: &ForeignKey) {
        let Some(&child) = self.by_oid.get(&key.child) else { return };
        let child_key = child.key().and_then(|(at, _)| child.columns.get(at));
        let named = || format!("the foreign key {} of {}", key.name, child.full_name());
        self.found.stuck.entry(key.parent).or_insert_with(|| format!("{} references it", named()));
        let sharded = self.by_oid.get(&key.parent).is_some_and(|parent| parent.key_type().is_some());
        if sharded {
            self.found
                .stuck
                .entry(key.child)
                .or_insert_with(|| format!("{} binds it to another row", named()));
        }
        let of_key = |own: &String| child_key.is_some_and(|column| column.name == *own);
        for (action, deed) in key.actions.iter().zip([Deed::Update, Deed::Delete]) {
            let (sets, cascades) = (SETS.contains(&action.as_str()), action == CASCADE);
            if !sets && !cascades {
                continue;
            }
            let brings = if sets { Deed::Update } else { deed };
            let why = format!("{} would change the shard key there", named());
            if let Some([_, referenced]) = key.columns.iter().find(|[own, _]| of_key(own)) {
                match deed {
                    Deed::Update if cascades => self.bar_column(key.parent, referenced, &why),
                    Deed::Update => self.bar_columns(key, &why),
                    _ if sets => self.add(key.parent, deed, &why),
                    _ => false,
                };
            }
            if let Some(what) = self.varying(key, child).filter(|_| action == "d") {
                let why = format!("{} would set {what}, another value on each shard", named());
                if deed == Deed::Update {
                    self.bar_columns(key, &why)
                } else {
                    self.add(key.parent, deed, &why)
                };
            }
            let by_columns = deed == Deed::Update;
            self.chains.push(Chain { from: (key.parent, deed), to: (key.child, brings), by_columns });
        }
    }

    /// A default of the key's columns that is another value on each shard that has the same row.
    fn varying(&self, key: &ForeignKey, child: &Relation) -> Option<String> {
        let reference = child.placement == Placement::Reference;
        let own =
            |column: &&crate::sql::schema::Column| key.columns.iter().any(|[own, _]| *own == column.name);
        let columns = child.columns.iter().filter(|_| reference).filter(own);
        columns.filter_map(|column| column.default.as_deref()).find_map(|default| self.unrepeatable(default))
    }

    fn bar_column(&mut self, table: u32, column: &str, why: &str) -> bool {
        let place = (table, column.to_owned());
        let new = !self.found.column_hazards.contains_key(&place);
        self.found.column_hazards.entry(place).or_insert_with(|| why.to_owned());
        new
    }

    /// All columns that the key references.
    fn bar_columns(&mut self, key: &ForeignKey, why: &str) -> bool {
        key.columns.iter().fold(false, |new, [_, column]| self.bar_column(key.parent, column, why) || new)
    }

    /// What assigning columns of one relation sets off in others; whether more was found.
    pub(super) fn follow_columns(&mut self, set_off: &SetOff) -> bool {
        let mut changed = false;
        for key in &set_off.foreign_keys {
            changed |= self.through(key);
        }
        for &(whole, part) in &set_off.parts {
            let barred = self.barred_columns(part);
            let is_view = self.by_oid.get(&whole).is_some_and(|whole| whole.definition.is_some());
            for (column, why) in &barred {
                changed |= if is_view {
                    self.add(whole, Deed::Update, why)
                } else {
                    self.bar_column(whole, column, why)
                };
            }
        }
        for at in 0..self.chains.len() {
            let Chain { from, to, by_columns } = self.chains[at];
            let same = from.1 == to.1 && set_off.parts.contains(&(from.0, to.0));
            if by_columns || same || to.1 != Deed::Update || is_key(set_off, from, to.0) {
                continue;
            }
            if let Some((_, why)) = self.barred_columns(to.0).first() {
                changed |= self.add(from.0, from.1, why);
            }
        }
        changed
    }

    fn barred_columns(&self, table: u32) -> Vec<(String, String)> {
        let own = self.found.column_hazards.iter().filter(|((of, _), _)| *of == table);
        own.map(|((_, column), why)| (column.clone(), why.clone())).collect()
    }

    /// What the actions of a key set off in its child.
    fn through(&mut self, key: &ForeignKey) -> bool {
        let [on_update, on_delete] = &key.actions;
        let (cascades, sets) = (on_update == CASCADE, SETS.contains(&on_update.as_str()));
        let mut changed = false;
        let whole = self.found.hazards.get(&key.child).and_then(|hazards| hazards.of(Deed::Update));
        if let Some(why) = whole.map(str::to_owned).filter(|_| cascades || sets) {
            changed |= self.bar_columns(key, &why);
        }
        for (column, why) in self.barred_columns(key.child) {
            let Some([_, referenced]) = key.columns.iter().find(|[own, _]| *own == column) else { continue };
            changed |= cascades && self.bar_column(key.parent, referenced, &why);
            changed |= sets && self.bar_columns(key, &why);
            changed |= SETS.contains(&on_delete.as_str()) && self.add(key.parent, Deed::Delete, &why);
        }
        changed
    }
}

/// Whether it is ON DELETE of a key that acts there.
fn is_key(set_off: &SetOff, (parent, deed): (u32, Deed), child: u32) -> bool {
    deed == Deed::Delete && set_off.foreign_keys.iter().any(|key| key.parent == parent && key.child == child)
}
