//! Expressions: finds the subqueries, functions and windows in them. A form that is not known here makes the whole
//! statement unreadable, so that nothing can hide in it.

use super::groups::NodeId;
use super::reader::{Read, Reader};
use super::scope::fold;
use crate::sql::parse::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, Ident, NamedWindowDefinition, NamedWindowExpr, OrderByExpr, Subscript,
    WindowFrameBound, WindowSpec, WindowType,
};

impl<'q> Reader<'_, 'q> {
    pub(super) fn exprs(&mut self, list: &'q [Expr]) -> Read<()> {
        list.iter().try_for_each(|e| self.expr(e))
    }

    fn opt(&mut self, e: Option<&'q Expr>) -> Read<()> {
        e.map_or(Ok(()), |e| self.expr(e))
    }

    fn pair(&mut self, a: &'q Expr, b: &'q Expr) -> Read<()> {
        self.expr(a)?;
        self.expr(b)
    }

    /// Reads an expression for what is inside of it.
    pub(super) fn expr(&mut self, e: &'q Expr) -> Read<()> {
        match e {
            Expr::Identifier(name) => {
                self.system_column(name);
                Ok(())
            }
            Expr::CompoundIdentifier(names) => {
                names.last().into_iter().for_each(|name| self.system_column(name));
                Ok(())
            }
            Expr::Value(_) | Expr::TypedString(_) | Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {
                self.typed(e);
                Ok(())
            }
            Expr::BinaryOp { left, right, .. } => self.pair(left, right),
            Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => self.pair(left, right),
            Expr::UnaryOp { expr, .. } | Expr::Nested(expr) | Expr::Collate { expr, .. } => self.expr(expr),
            Expr::Cast { expr, .. } => {
                self.typed(e);
                self.expr(expr)
            }
            Expr::IsFalse(e)
            | Expr::IsNotFalse(e)
            | Expr::IsTrue(e)
            | Expr::IsNotTrue(e)
            | Expr::IsNull(e)
            | Expr::IsNotNull(e)
            | Expr::IsUnknown(e)
            | Expr::IsNotUnknown(e) => self.expr(e),
            Expr::IsDistinctFrom(a, b) | Expr::IsNotDistinctFrom(a, b) => self.pair(a, b),
            Expr::IsJson { expr, .. } | Expr::IsNormalized { expr, .. } => self.expr(expr),
            Expr::InList { expr, list, .. } => {
                self.expr(expr)?;
                self.exprs(list)
            }
            Expr::InSubquery { expr, subquery, .. } => {
                self.expr(expr)?;
                self.expression_subquery(subquery).map(|_| ())
            }
            Expr::Exists { subquery, .. } | Expr::Subquery(subquery) => {
                self.expression_subquery(subquery).map(|_| ())
            }
            Expr::Between { expr, low, high, .. } => {
                self.expr(expr)?;
                self.pair(low, high)
            }
            Expr::Like { expr, pattern, escape_char, .. }
            | Expr::ILike { expr, pattern, escape_char, .. }
            | Expr::SimilarTo { expr, pattern, escape_char, .. } => {
                self.pair(expr, pattern)?;
                self.opt(escape_char.as_deref())
            }
            Expr::Function(function) => self.function(function),
            Expr::Case { operand, conditions, else_result, .. } => {
                self.opt(operand.as_deref())?;
                conditions.iter().try_for_each(|when| self.pair(&when.condition, &when.result))?;
                self.opt(else_result.as_deref())
            }
            Expr::Tuple(list) => self.exprs(list),
            Expr::Array(array) => self.exprs(&array.elem),
            other => self.rare(other),
        }
    }

    fn rare(&mut self, e: &'q Expr) -> Read<()> {
        match e {
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.expr(root)?;
                access_chain.iter().try_for_each(|access| self.access(access))
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                self.seen.times = true;
                self.pair(timestamp, time_zone)
            }
            Expr::Extract { expr, .. } => {
                self.seen.times = true;
                self.expr(expr)
            }
            Expr::Ceil { expr, .. } => {
                self.form("ceil");
                self.expr(expr)
            }
            Expr::Floor { expr, .. } => {
                self.form("floor");
                self.expr(expr)
            }
            Expr::Interval(interval) => self.expr(&interval.value),
            Expr::Position { expr, r#in } => self.pair(expr, r#in),
            Expr::Substring { expr, substring_from, substring_for, shorthand, .. } => {
                self.form(if *shorthand { "substr" } else { "substring" });
                self.expr(expr)?;
                self.opt(substring_from.as_deref())?;
                self.opt(substring_for.as_deref())
            }
            Expr::Trim { trim_what, expr, trim_characters, .. } => {
                self.expr(expr)?;
                self.opt(trim_what.as_deref())?;
                trim_characters.iter().try_for_each(|list| self.exprs(list))
            }
            Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                self.pair(expr, overlay_what)?;
                self.expr(overlay_from)?;
                self.opt(overlay_for.as_deref())
            }
            Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => {
                sets.iter().try_for_each(|set| self.exprs(set))
            }
            Expr::Named { expr, .. } => self.expr(expr),
            _ => Err("an expression that is not known".to_string()),
        }
    }

    fn access(&mut self, access: &'q AccessExpr) -> Read<()> {
        match access {
            AccessExpr::Dot(e) => match e {
                Expr::Identifier(_) | Expr::Wildcard(_) => Ok(()),
                other => self.expr(other),
            },
            AccessExpr::Subscript(Subscript::Index { index }) => self.expr(index),
            AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                self.opt(lower_bound.as_ref())?;
                self.opt(upper_bound.as_ref())?;
                self.opt(stride.as_ref())
            }
        }
    }

    /// `ddl.sgml`, System Columns
    fn system_column(&mut self, name: &Ident) {
        const SYSTEM: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
        let name = fold(name);
        if SYSTEM.contains(&name.as_str()) {
            self.seen.of_shard.get_or_insert(name);
        }
    }

    /// `'name'::regclass` and the like name relations by value.
    fn typed(&mut self, e: &'q Expr) {
        let (data_type, inner) = match e {
            Expr::Cast { data_type, expr, .. } => (data_type, &**expr),
            Expr::TypedString(typed) => (&typed.data_type, e),
            _ => return,
        };
        let name = data_type.to_string().to_lowercase();
        self.cast_reads(&name, inner);
        if name.starts_with("reg") || name.starts_with("pg_catalog.reg") {
            self.seen.by_value = true;
            self.seen.home_alone.get_or_insert_with(|| format!("a name of type {name}"));
        }
    }

    pub(super) fn argument(&mut self, arg: &'q FunctionArg) -> Read<()> {
        match argument_value(arg) {
            Some(e) => self.expr(e),
            None => match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard | FunctionArgExpr::QualifiedWildcard(_)) => {
                    Ok(())
                }
                _ => Err("a function argument of an unknown form".to_string()),
            },
        }
    }

    fn function(&mut self, f: &'q Function) -> Read<()> {
        if f.uses_odbc_syntax || !matches!(f.parameters, FunctionArguments::None) {
            return Err("a function call of an unknown form".to_string());
        }
        let args = match &f.args {
            FunctionArguments::None => &[][..],
            FunctionArguments::Subquery(query) => {
                self.expression_subquery(query)?;
                &[]
            }
            FunctionArguments::List(list) => {
                self.clauses(list)?;
                list.args.iter().try_for_each(|arg| self.argument(arg))?;
                &list.args[..]
            }
        };
        self.order(&f.within_group)?;
        self.opt(f.filter.as_deref())?;
        match &f.over {
            Some(window) => self.window(window)?,
            None => self.aggregate_call(f, args)?,
        }
        self.call(&f.name, args)?;
        Ok(())
    }

    /// An aggregate belongs to this level, unless all its columns come from outside.
    fn aggregate_call(&mut self, f: &'q Function, args: &'q [FunctionArg]) -> Read<()> {
        let Some(name) = self.aggregate_name(&f.name) else { return Ok(()) };
        if args.iter().filter_map(argument_value).any(|e| self.is_outer_column(e)) {
            self.groups.always("an aggregate over columns of an outer query");
        }
        self.level().aggregate.get_or_insert(name);
        Ok(())
    }

    fn clauses(&mut self, list: &'q FunctionArgumentList) -> Read<()> {
        for clause in &list.clauses {
            match clause {
                FunctionArgumentClause::OrderBy(items) => self.order(items)?,
                FunctionArgumentClause::IgnoreOrRespectNulls(_)
                | FunctionArgumentClause::JsonNullClause(_)
                | FunctionArgumentClause::JsonReturningClause(_) => {}
                _ => return Err("a function call of an unknown form".to_string()),
            }
        }
        Ok(())
    }

    fn order(&mut self, items: &'q [OrderByExpr]) -> Read<()> {
        items.iter().try_for_each(|item| self.expr(&item.expr))
    }

    pub(super) fn window(&mut self, window: &'q WindowType) -> Read<()> {
        match window {
            WindowType::WindowSpec(spec) => {
                let key = self.window_spec(spec)?;
                self.note_window(key);
                Ok(())
            }
            // The named one was counted where it is defined.
            WindowType::NamedWindow(_) => Ok(()),
        }
    }

    pub(super) fn named_window(&mut self, window: &'q NamedWindowDefinition) -> Read<()> {
        if let NamedWindowExpr::WindowSpec(spec) = &window.1 {
            let key = self.window_spec(spec)?;
            self.note_window(key);
        }
        Ok(())
    }

    fn note_window(&mut self, key: Option<NodeId>) {
        let level = self.level();
        level.window = match level.window {
            None => Some(key),
            Some(Some(old)) => Some(key.map(|_| old)),
            Some(None) => Some(None),
        };
    }

    /// The key node that the window is partitioned by.
    fn window_spec(&mut self, spec: &'q WindowSpec) -> Read<Option<NodeId>> {
        self.exprs(&spec.partition_by)?;
        self.order(&spec.order_by)?;
        if let Some(frame) = &spec.window_frame {
            for bound in [Some(&frame.start_bound), frame.end_bound.as_ref()].into_iter().flatten() {
                if let WindowFrameBound::Preceding(Some(e)) | WindowFrameBound::Following(Some(e)) = bound {
                    self.expr(e)?;
                }
            }
        }
        Ok(spec.partition_by.iter().find_map(|e| self.own_key(e)))
    }
}

/// The expression that an argument passes.
pub(super) fn argument_value(arg: &FunctionArg) -> Option<&Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(e), .. }
        | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(e), .. } => Some(e),
        _ => None,
    }
}
