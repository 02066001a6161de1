//! Conditions: what their conjuncts demand of keys, and which keys they make equal.

use serde_json::Value;

use super::{Const, Demand, Keys, Reader, Where};
use crate::tree::{field, flag, is, list, node, number, strings, text};

impl Reader<'_> {
    /// A condition whose conjuncts hold; of an outer join only for the mentions `allowed`.
    pub(super) fn condition(&mut self, v: &Value, allowed: Option<&Keys>) {
        let Some((tag, body)) = node(plain(v)) else { return };
        if tag == "BoolExpr" && number(body, "boolop") == 1 {
            list(body, "args").iter().for_each(|arg| self.condition(arg, allowed));
            return;
        }
        for (mention, demand) in self.demands(v) {
            if allowed.is_none_or(|a| a.contains(&mention)) {
                self.truth.demands.push((mention, demand));
            }
        }
        if tag == "AExpr" && number(body, "kind") == 1 && operator(body) == "=" {
            self.equal(field(body, "lexpr"), field(body, "rexpr"));
        }
        if tag == "SubLink"
            && number(body, "sub_link_type") == 3
            && strings(list(body, "oper_name")).is_empty()
        {
            let outer: Vec<Keys> = match is(field(body, "testexpr"), "RowExpr") {
                Some(row) => list(row, "args").iter().map(|a| self.keys_of(a)).collect(),
                None => vec![self.keys_of(field(body, "testexpr"))],
            };
            self.any(field(body, "testexpr"));
            if let Some(select) = is(field(body, "subselect"), "SelectStmt") {
                let (columns, _) = self.query(select);
                for (outer, (_, inner)) in outer.iter().zip(columns.unwrap_or_default()) {
                    self.unite(outer, &inner);
                }
            }
            return;
        }
        self.any(v);
    }

    fn equal(&mut self, left: &Value, right: &Value) {
        if let (Some(l), Some(r)) = (is(left, "RowExpr"), is(right, "RowExpr")) {
            for (l, r) in list(l, "args").iter().zip(list(r, "args")) {
                self.equal(l, r);
            }
            return;
        }
        let (l, r) = (self.keys_of(left), self.keys_of(right));
        self.unite(&l, &r);
    }

    /// All demands on keys that may be read from a condition which holds.
    fn demands(&self, v: &Value) -> Vec<(usize, Demand)> {
        match node(v) {
            Some(("BoolExpr", body)) if number(body, "boolop") == 1 => {
                list(body, "args").iter().flat_map(|arg| self.demands(arg)).collect()
            }
            Some(("BoolExpr", body)) if number(body, "boolop") == 2 => {
                let mut arms = list(body, "args").iter().map(|arg| self.demands(arg));
                let first = arms.next().unwrap_or_default();
                arms.fold(first, |all, arm| {
                    let mut out = Vec::new();
                    for (mention, demand) in &all {
                        for (other, more) in arm.iter().filter(|(other, _)| other == mention) {
                            if let (Demand::Keys(a), Demand::Keys(b)) = (demand, more)
                                && out.len() < 64
                            {
                                out.push((*other, Demand::Keys([a.clone(), b.clone()].concat())));
                            }
                        }
                    }
                    out
                })
            }
            Some(("AExpr", body)) => self.comparison(body),
            _ => Vec::new(),
        }
    }

    fn comparison(&self, e: &Value) -> Vec<(usize, Demand)> {
        let (left, right) = (field(e, "lexpr"), field(e, "rexpr"));
        if operator(e) != "=" {
            return Vec::new();
        }
        match number(e, "kind") {
            1 => match (is(left, "RowExpr"), is(right, "RowExpr")) {
                (Some(l), Some(r)) => {
                    let pairs = list(l, "args").iter().zip(list(r, "args"));
                    pairs.flat_map(|(l, r)| self.pair(l, r)).collect()
                }
                _ => self.pair(left, right),
            },
            2 => {
                let array = is(right, "AArrayExpr").and_then(|a| {
                    list(a, "elements").iter().map(|e| self.constant(e)).collect::<Option<Vec<_>>>()
                });
                let demand = array.map(Demand::Keys).or_else(|| self.constant(right).map(Demand::Array));
                let keys = self.keys_of(left);
                demand.into_iter().flat_map(|d| keys.iter().map(move |k| (*k, d.clone()))).collect()
            }
            7 => {
                let items = is(right, "List").map_or(&[][..], |l| list(l, "items"));
                let columns: Vec<&Value> = match is(left, "RowExpr") {
                    Some(row) => list(row, "args").iter().collect(),
                    None => vec![left],
                };
                let mut out = Vec::new();
                for (position, column) in columns.iter().enumerate() {
                    let member = |item: &Value| match is(item, "RowExpr") {
                        Some(row) => list(row, "args").get(position).and_then(|v| self.constant(v)),
                        None => self.constant(item),
                    };
                    let Some(all) = items.iter().map(member).collect::<Option<Vec<_>>>() else { continue };
                    out.extend(self.keys_of(column).into_iter().map(|k| (k, Demand::Keys(all.clone()))));
                }
                out
            }
            _ => Vec::new(),
        }
    }

    fn pair(&self, left: &Value, right: &Value) -> Vec<(usize, Demand)> {
        let mut out = Vec::new();
        for (column, value) in [(left, right), (right, left)] {
            if let Some(value) = self.constant(value) {
                let demand = Demand::Keys(vec![value]);
                out.extend(self.keys_of(column).into_iter().map(|k| (k, demand.clone())));
            }
        }
        out
    }

    /// A literal or parameter with at most one cast.
    pub fn constant(&self, v: &Value) -> Option<Const> {
        let (tag, body) = node(plain(v))?;
        match tag {
            "ParamRef" => {
                let value = Where::Param(number(body, "number"));
                Some(Const { value, negative: false, cast: false })
            }
            "AConst" if flag(body, "isnull") => {
                Some(Const { value: Where::Null, negative: false, cast: false })
            }
            "AConst" => {
                let val = field(body, "val");
                let integer = val.get("Ival").map(|i| number(i, "ival") < 0);
                let float = val.get("Fval").map(|f| text(f, "fval").starts_with('-'));
                let string = val.get("Sval").map(|_| false);
                let negative = integer.or(float).or(string)?;
                let at = usize::try_from(number(body, "location")).unwrap_or(0);
                Some(Const { value: Where::Literal(self.literal(at)), negative, cast: false })
            }
            "TypeCast" => {
                let inner = self.constant(field(body, "arg"))?;
                (!inner.cast).then_some(Const { cast: true, ..inner })
            }
            "AExpr" if ["+", "-"].contains(&operator(body).as_str()) && field(body, "lexpr").is_null() => {
                let inner = self.constant(field(body, "rexpr"))?;
                let negative = inner.negative != (operator(body) == "-");
                Some(Const { negative, ..inner })
            }
            _ => None,
        }
    }

    /// PostgreSQL's place of a negative number is that of its sign.
    fn literal(&self, at: usize) -> usize {
        let rest = &self.sql.as_bytes()[at.min(self.sql.len())..];
        let sign = |b: &u8| matches!(b, b'-' | b'+' | b' ' | b'(' | b'\n' | b'\t');
        at + rest.iter().take_while(|b| sign(b)).count()
    }
}

/// Without COLLATE: keys of text have one collation, others have none.
pub(super) fn plain(v: &Value) -> &Value {
    match is(v, "CollateClause") {
        Some(clause) => plain(field(clause, "arg")),
        None => v,
    }
}

fn operator(e: &Value) -> String {
    strings(list(e, "name")).pop().unwrap_or_default()
}
