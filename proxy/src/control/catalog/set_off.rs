//! Reads what the use of a relation sets off: triggers, rules, foreign keys, policies, checks.

use std::collections::{HashMap, HashSet};

use futures_util::future::try_join_all;
use router_config::topology::Topology;
use tokio_postgres::Transaction;

use super::concealed::CONCEALED;
use super::constraints::{self, UNIQUES};
use super::load::split_search_path;
use super::place::Draft;
use super::printed::{Depends, Printed, print};
use super::rows::{TextRow, ask};
use super::triggers::{Expression, ForeignKey, Rule, Run, SetOff, Trigger};
use crate::sql::concealed::Concealed;
use crate::sql::constraints::Unheld;
use crate::sql::schema::{Deed, Function, Placement, Schema, Touches};

const TRIGGERS: &str = "SELECT t.tgrelid, t.tgname::text, p.proname::text, t.tgtype::int4, l.lanname::text, p.prosrc, \
     {definition}, (SELECT pg_catalog.substr(c, 13) FROM unnest(p.proconfig) c \
      WHERE c LIKE 'search\\_path=%' LIMIT 1) \
     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
     JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.oid";

const RULES: &str = "SELECT ev_class, rulename::text, ev_type::text, {definition} \
     FROM pg_catalog.pg_rewrite r WHERE ev_type <> '1' AND ev_enabled <> 'D' AND ev_class >= 16384 ORDER BY oid";

const FOREIGN_KEYS: &str = "SELECT c.conname::text, c.conrelid, c.confrelid, c.confupdtype::text, c.confdeltype::text, \
     pg_catalog.array_to_json(ARRAY(SELECT ARRAY[a.attname::text, b.attname::text] \
       FROM unnest(c.conkey, c.confkey) p (child, parent) \
       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = p.child \
       JOIN pg_catalog.pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = p.parent)), c.oid \
     FROM pg_catalog.pg_constraint c WHERE c.contype = 'f' ORDER BY c.oid";

/// Policies and checks; the last column is empty for a policy's condition, `c` for its WITH CHECK and for checks.
const EXPRESSIONS: &str = "SELECT p.polrelid, 'the policy ' || p.polname, e.text, e.kind \
     FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class r ON r.oid = p.polrelid AND r.relrowsecurity, \
     LATERAL (VALUES ({using}, ''), ({with check}, 'c')) e (text, kind) WHERE e.text IS NOT NULL \
     UNION ALL SELECT conrelid, 'the check ' || conname, {check}, 'c' \
     FROM pg_catalog.pg_constraint c WHERE contype = 'c' AND conrelid >= 16384";

/// Functions of the user's that run when a relation is used (0: when something of another kind is), and whether they run when
/// it is read.
const RUNS: &str = "WITH d AS (SELECT classid, objid, refobjid AS function FROM pg_catalog.pg_depend \
       WHERE refclassid = 'pg_catalog.pg_proc'::regclass AND refobjid >= 16384) \
     SELECT x.relation, x.reads, f.proname::text FROM ( \
       SELECT r.ev_class AS relation, true AS reads, function FROM d \
         JOIN pg_catalog.pg_rewrite r ON classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = objid \
       UNION SELECT p.polrelid, true, function FROM d \
         JOIN pg_catalog.pg_policy p ON classid = 'pg_catalog.pg_policy'::regclass AND p.oid = objid \
       UNION SELECT a.adrelid, false, function FROM d \
         JOIN pg_catalog.pg_attrdef a ON classid = 'pg_catalog.pg_attrdef'::regclass AND a.oid = objid \
       UNION SELECT c.conrelid, c.conrelid = 0, function FROM d \
         JOIN pg_catalog.pg_constraint c ON classid = 'pg_catalog.pg_constraint'::regclass AND c.oid = objid \
       UNION SELECT t.tgrelid, false, t.tgfoid FROM pg_catalog.pg_trigger t \
         WHERE NOT t.tgisinternal AND t.tgfoid >= 16384 \
       UNION SELECT i.indrelid, false, function FROM d \
         JOIN pg_catalog.pg_index i ON classid = 'pg_catalog.pg_class'::regclass AND i.indexrelid = objid \
       UNION SELECT 0, true, function FROM d \
         WHERE classid IN ('pg_catalog.pg_operator'::regclass, 'pg_catalog.pg_cast'::regclass, \
           'pg_catalog.pg_type'::regclass, 'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_amproc'::regclass, \
           'pg_catalog.pg_opclass'::regclass)) x \
     JOIN pg_catalog.pg_proc f ON f.oid = x.function";

const EVENT_TRIGGERS: &str = "SELECT e.evtname::text, p.proname::text FROM pg_catalog.pg_event_trigger e \
     JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid WHERE e.evtenabled <> 'D' ORDER BY e.oid";

/// How many [`questions`] there are.
pub(crate) const QUESTIONS: usize = 8;

/// What is asked, in the order of the answers; without the texts that are `printed`.
pub(super) fn questions(printed: &Printed) -> [String; QUESTIONS] {
    let trigger = print("pg_catalog.pg_get_triggerdef(t.oid)", ("pg_trigger", "t", ""), Depends::Used);
    let rule = print("pg_catalog.pg_get_ruledef(r.oid)", ("pg_rewrite", "r", ""), Depends::Whole);
    let [using, with_check] = policy("p");
    let check =
        print("pg_catalog.pg_get_expr(c.conbin, c.conrelid)", ("pg_constraint", "c", ""), Depends::Used);
    let expressions = EXPRESSIONS.replace("{using}", &using).replace("{with check}", &with_check);
    [
        printed.ask(&TRIGGERS.replace("{definition}", &trigger)),
        printed.ask(&RULES.replace("{definition}", &rule)),
        FOREIGN_KEYS.to_owned(),
        printed.ask(&expressions.replace("{check}", &check)),
        RUNS.to_owned(),
        CONCEALED.to_owned(),
        UNIQUES.to_owned(),
        EVENT_TRIGGERS.to_owned(),
    ]
}

/// The conditions of a policy, for [`Printed`]: USING, WITH CHECK.
pub(super) fn policy(row: &str) -> [String; 2] {
    ["polqual", "polwithcheck"].map(|part| {
        let text = format!("pg_catalog.pg_get_expr({row}.{part}, {row}.polrelid)");
        print(&text, ("pg_policy", row, part), Depends::Whole)
    })
}

/// What the server answers to [`questions`].
#[derive(Debug, Default)]
pub(crate) struct Answers(pub(crate) [Vec<TextRow>; QUESTIONS]);

impl Answers {
    /// Asks, the questions pipelined.
    pub(super) async fn ask(tx: &Transaction<'_>, printed: &Printed) -> Result<Self, tokio_postgres::Error> {
        let questions = questions(printed);
        let answers = try_join_all(questions.iter().map(|question| ask(tx, question))).await?;
        let mut answers = answers.into_iter();
        Ok(Self(std::array::from_fn(|_| answers.next().unwrap_or_default())))
    }

    /// Puts the printed texts in, of which `before` are known.
    pub(super) fn put_in(&mut self, before: &Printed, now: &mut Printed) {
        let [triggers, rules, _, expressions, ..] = &mut self.0;
        for (rows, column) in [(triggers, 6), (rules, 3), (expressions, 2)] {
            before.put_in(rows, column, now);
        }
    }

    /// Makes sense of it all. `functions` are those of the schema.
    pub(crate) fn read(
        &self,
        drafts: &[Draft],
        functions: &HashMap<String, Function>,
        topology: &Topology,
    ) -> SetOff {
        let [triggers, rules, keys, expressions, runs, ..] = &self.0;
        let mut set_off = SetOff {
            triggers: triggers.iter().map(trigger).collect(),
            rules: rules.iter().map(rule).collect(),
            foreign_keys: keys.iter().map(foreign_key).collect(),
            expressions: expressions.iter().map(expression).collect(),
            parts: Vec::new(),
            children: Vec::new(),
            runs: runs.iter().map(run).collect(),
            trusted: topology.functions.iter().map(|rule| rule.name.clone()).collect::<HashSet<_>>(),
        };
        for draft in drafts.iter().filter(|draft| !draft.system) {
            let own = draft.relation.oid;
            let bases = draft.view.iter().flat_map(|(_, bases)| bases);
            set_off.parts.extend(draft.parents.iter().map(|&parent| (parent, own)));
            let inherits = draft.parents.iter().filter(|_| !draft.partition);
            set_off.children.extend(inherits.map(|&parent| (parent, own)));
            set_off.parts.extend(bases.map(|&base| (own, base)));
            set_off.expressions.extend(defaults(draft, functions));
        }
        set_off
    }

    /// What runs functions that may read tables without naming them. `before`: as far as it is known.
    pub(crate) fn concealed(&self, functions: &HashMap<String, Function>, before: &Concealed) -> Concealed {
        let [.., concealed, _, _] = &self.0;
        super::concealed::concealed(concealed, functions, before)
    }

    /// The first event trigger whose function may use tables: of each DDL it would run on every shard.
    pub(crate) fn event_trigger(&self, functions: &HashMap<String, Function>) -> Option<String> {
        let [.., triggers] = &self.0;
        triggers.iter().find_map(|row| {
            let (name, function) = (row.text(0), row.text(1));
            let known = functions.get(function);
            let trusted = known.is_some_and(|known| {
                let reach = known.reach;
                !(reach.opaque || reach.sharded || reach.reference || reach.home || reach.defines)
            });
            (!trusted).then(|| {
                format!(
                    "the event trigger {name} calls {function}(), which may use tables: it would on every shard, of each DDL"
                )
            })
        })
    }

    /// Constraints that cannot hold.
    pub(crate) fn unheld(&self, schema: &Schema, set_off: &SetOff) -> Vec<Unheld> {
        let [.., uniques, _] = &self.0;
        constraints::unheld(schema, uniques, &set_off.foreign_keys)
    }
}

/// Defaults of a sharded table's columns that call a function which may reach tables. That of the key is drawn on the home
/// shard.
fn defaults(draft: &Draft, functions: &HashMap<String, Function>) -> Vec<Expression> {
    let Placement::Sharded { key_column, .. } = draft.relation.placement else { return Vec::new() };
    let columns = draft.relation.columns.iter().enumerate().filter(|(at, _)| *at != key_column);
    let of_column = |(_, column): (usize, &crate::sql::schema::Column)| {
        let text = column.default.clone()?;
        let reaches = crate::sql::stored::tokens(&text)
            .iter()
            .filter_map(crate::sql::stored::Token::name)
            .any(|name| {
                functions
                    .get(name)
                    .is_some_and(|known| !known.built_in && known.touches_sharded == Touches::Unknown)
            });
        let what = format!("the default of the column {}", column.name);
        let deeds = vec![Deed::Insert, Deed::Update];
        reaches.then_some(Expression { relation: draft.relation.oid, what, text, deeds })
    };
    columns.filter_map(of_column).collect()
}

fn trigger(row: &TextRow) -> Trigger {
    Trigger {
        relation: row.number(0),
        name: row.owned(1),
        function: row.owned(2),
        bits: row.number(3),
        language: row.owned(4),
        body: row.owned(5),
        definition: row.owned(6),
        search_path: row.optional(7).map(|setting| split_search_path(&setting)),
    }
}

fn rule(row: &TextRow) -> Rule {
    Rule { relation: row.number(0), name: row.owned(1), event: row.owned(2), definition: row.owned(3) }
}

fn foreign_key(row: &TextRow) -> ForeignKey {
    ForeignKey {
        name: row.owned(0),
        child: row.number(1),
        parent: row.number(2),
        actions: [row.owned(3), row.owned(4)],
        columns: serde_json::from_str(row.text(5)).unwrap_or_default(),
        oid: row.number(6),
    }
}

fn run(row: &TextRow) -> Run {
    Run { relation: row.number(0), reads: row.flag(1), function: row.owned(2) }
}

fn expression(row: &TextRow) -> Expression {
    let deeds = if row.text(3) == "c" { vec![Deed::Insert, Deed::Update] } else { Deed::ALL.to_vec() };
    Expression { relation: row.number(0), what: row.owned(1), text: row.owned(2), deeds }
}
