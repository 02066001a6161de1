//! Writes that need rows of other shards than those that they write: the rows are read first, in the same transaction, and put into
//! the statement, which then is one that each shard can run by itself.
//!
//! The statement as the application has written it is read by a shard before anything is run: what is wrong with it is told in
//! PostgreSQL's words.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use router_config::topology::ShardId;

use super::ask::{Ask, Form, Share};
use super::bind;
use crate::control::TextRow;
use crate::frontend::failure::Failure;
use crate::frontend::names::Prepared;
use crate::frontend::read_first::ColumnOf;
use crate::frontend::session::Session;
use crate::route::plan::{Plan, Target};
use crate::route::refusal::Refusal;
use crate::sql::broadcast::Broadcast;
use crate::sql::facts::{Facts, Isolation};
use crate::sql::insert_rows::InsertRows;
use crate::wire::backend::tag;
use crate::wire::frame::{self, HEADER};
use crate::wire::sqlstate;

/// What stands for a statement of the application's: its plan, its text, how it is sent.
pub(super) struct Stand {
    pub(super) plan: Plan,
    pub(super) facts: Arc<Facts>,
    pub(super) form: Form,
}

impl Stand {
    /// Where it goes.
    pub(super) fn target(&self) -> &Target {
        &self.plan.target
    }

    /// The statement of this text, to be run.
    pub(super) fn ask(self, text: Bytes) -> Ask {
        Ask { plan: self.plan, facts: self.facts, text, form: self.form }
    }
}

impl Session {
    /// INSERT … SELECT whose rows belong elsewhere than where they are read.
    pub(super) async fn insert_rows(&mut self, ask: Ask, rows: &InsertRows) -> Result<(), Failure> {
        self.open_to_read();
        let Some(types) = self.begin_in_steps(&ask).await? else { return Ok(()) };
        let width = match rows.width() {
            Some(width) => width,
            None => self.columns_of(&ask, (&rows.source(), &types)).await?,
        };
        let query = Bytes::from(rows.query(width));
        let stand = self.stand_in(&ask, (&query, &types), false).await?;
        let Some(read) = self.capture(&stand, query).await? else { return Ok(()) };
        self.open_implicit();
        let values: Vec<_> = read.into_iter().map(TextRow::into_values).collect();
        if values.is_empty() {
            let text = Bytes::from(rows.insert_nothing(width));
            let form = self.form_of(&ask, (&text, &[]), true);
            let plan = Plan { target: Target::One(ShardId(0)), ..ask.plan };
            return Box::pin(self.spread(Ask { plan, facts: ask.facts, text, form })).await;
        }
        let text = Bytes::from(rows.insert(&values));
        self.check_length(&text)?;
        let stand = self.stand_in(&ask, (&text, &[]), true).await?;
        Box::pin(self.spread(stand.ask(text))).await?;
        if ask.facts.effects.sequence {
            self.draws_on_several();
        }
        Ok(())
    }

    /// UPDATE, DELETE or MERGE that reads tables whose rows are elsewhere.
    pub(super) async fn broadcast(&mut self, ask: Ask, broadcast: &Broadcast) -> Result<(), Failure> {
        self.open_to_read();
        let Some(types) = self.begin_in_steps(&ask).await? else { return Ok(()) };
        // Where it goes does not depend on the rows.
        let empty = Bytes::from(broadcast.with(&vec!["{}".to_owned(); broadcast.tables.len()]));
        let Stand { plan, facts, .. } = self.stand_in(&ask, (&empty, &types), true).await?;
        let rows = self.read_tables(broadcast).await?;
        self.open_implicit();
        let text = Bytes::from(broadcast.with(&rows));
        let form = self.form_of(&ask, (&text, &types), true);
        Box::pin(self.spread(Ask { plan, facts, text, form })).await
    }

    /// Begins a statement that is run in several steps: the types of its parameters. `None`: it is wrong, and the application has been
    /// told.
    pub(super) async fn begin_in_steps(&mut self, ask: &Ask) -> Result<Option<Vec<u8>>, Failure> {
        self.check_exact_texts()?;
        let types = self.types_of(ask).await?;
        Ok(self.is_sound(ask).await?.then_some(types))
    }

    /// Opens a block around what is read and then written, unless one is open. What has read a temporary table cannot be prepared: such
    /// rows, which nobody else writes, are read in front of it.
    fn open_to_read(&mut self) {
        if self.isolation() != Isolation::ReadCommitted || self.temporary.schema().is_none() {
            self.open_implicit();
        }
    }

    /// The rows of whole tables, each as the text of an array.
    async fn read_tables(&mut self, broadcast: &Broadcast) -> Result<Vec<String>, Failure> {
        let limit = self.worker.shared.settings.load().limits.combine_max_bytes;
        let count = self.worker.shared.topology.load().shards.len() as u16;
        let order = self.acquire_all((0..count).map(ShardId), false).await?;
        let (mut arrays, mut left) = (Vec::with_capacity(broadcast.tables.len()), limit);
        for table in &broadcast.tables {
            let from = if table.sharded { order.as_slice() } else { order.get(..1).unwrap_or_default() };
            let mut array = String::from("{");
            for at in from {
                let rows = self.ask_rows(*at, &table.query(left)).await?;
                let Some(row) = rows.first().filter(|row| row.text(1) != "0") else { continue };
                let text = row.optional(0).filter(|text| text.len() <= left);
                let Some(text) = text else { return Err(too_much(limit, "limits.combine_max_bytes")) };
                left -= text.len();
                let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
                if array.len() > 1 {
                    array.push(',');
                }
                array.push_str(inner.unwrap_or_default());
            }
            array.push('}');
            arrays.push(array);
        }
        Ok(arrays)
    }

    /// Whether a shard finds nothing wrong with the statement; otherwise the application has been told.
    pub(super) async fn is_sound(&mut self, ask: &Ask) -> Result<bool, Failure> {
        let at = self.acquire(ShardId(0), false).await?;
        let other = Share::new(ShardId(0), Bytes::new());
        for mut events in self.read_whole(ask, &[other], at).await? {
            if let Some(frame) = events.error.take() {
                self.events.error.get_or_insert(frame);
            }
        }
        Ok(self.events.error.is_none())
    }

    /// Types of the statement's parameters, as a server infers them.
    pub(super) async fn types_of(&mut self, ask: &Ask) -> Result<Vec<u8>, Failure> {
        match &ask.form {
            Form::Query => Ok(Vec::new()),
            Form::Execute { bind, .. } if bind::count(bind) == Some(0) => Ok(Vec::new()),
            Form::Execute { statement, .. } => {
                let statement = Arc::clone(statement);
                let shape = self.shape_of(&statement).await?;
                Ok(shape.params.iter().flat_map(|oid| oid.to_be_bytes()).collect())
            }
        }
    }

    /// Refuses a text that the proxy would not read.
    pub(super) fn check_length(&self, text: &[u8]) -> Result<(), Failure> {
        let limit = self.worker.shared.settings.load().limits.statement_parse_bytes;
        if text.len() > limit { Err(too_much(limit, "limits.statement_parse_bytes")) } else { Ok(()) }
    }

    /// Names and types of the columns that a statement returns, on the home shard.
    pub(super) async fn named_columns_of(
        &mut self,
        ask: &Ask,
        (text, types): (&[u8], &[u8]),
    ) -> Result<Vec<(String, String)>, Failure> {
        let statement = self.alone(original(&ask.form), text, types);
        let columns = self.description_of(&statement).await?;
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let list = |of: &dyn Fn(&ColumnOf) -> String| columns.iter().map(of).collect::<Vec<_>>().join(",");
        let sql = format!(
            "SELECT pg_catalog.format_type(t, m) FROM ROWS FROM (pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]), \
             pg_catalog.unnest('{{{}}}'::pg_catalog.int4[])) AS c (t, m)",
            list(&|column| column.type_oid.to_string()),
            list(&|column| column.modifier.to_string()),
        );
        let at = self.acquire(ShardId(0), false).await?;
        let rows = self.ask_rows(at, &sql).await?;
        Ok(columns
            .into_iter()
            .zip(&rows)
            .map(|(column, row)| (column.name, row.text(0).to_owned()))
            .collect())
    }

    /// How many columns a query has.
    async fn columns_of(&mut self, ask: &Ask, (text, types): (&str, &[u8])) -> Result<usize, Failure> {
        let statement = self.alone(original(&ask.form), text.as_bytes(), types);
        Ok(self.shape_of(&statement).await?.columns.len())
    }

    /// Plans a text in place of the statement's. `answers`: what it returns is the application's answer.
    pub(super) async fn stand_in(
        &mut self,
        ask: &Ask,
        (text, types): (&Bytes, &[u8]),
        answers: bool,
    ) -> Result<Stand, Failure> {
        let form = self.form_of(ask, (text, types), answers);
        let (plan, facts) = match &form {
            Form::Query => {
                let analysed = self.analyse_simple(text);
                let facts = analysed.statements().first().map(|statement| Arc::clone(&statement.facts));
                let facts = facts.ok_or_else(unread)?;
                let plan = match self.plan_simple(text, &analysed, 0)? {
                    Plan { target: Target::Draw(draw), .. } => {
                        let drawn = self.draw(&draw, None).await?;
                        self.plan_drawn(text, &analysed, 0, &drawn)?
                    }
                    plan => plan,
                };
                (plan, facts)
            }
            Form::Execute { statement, bind, .. } => {
                let facts = statement.facts().cloned().ok_or_else(unread)?;
                let plan = match self.plan_bind(statement, bind, None)? {
                    Plan { target: Target::Draw(draw), .. } => {
                        let drawn = self.draw(&draw, Some((statement, bind))).await?;
                        self.plan_bind(statement, bind, Some(&drawn))?
                    }
                    plan => plan,
                };
                (plan, facts)
            }
        };
        if answers && std::mem::discriminant(&plan.target) == std::mem::discriminant(&ask.plan.target) {
            // It has been read already, and is no clearer.
            return Err(Failure::unsupported(
                "where the rows of this statement belong cannot be determined",
                "Give the shard key as a literal or a parameter of the key column's type.",
            ));
        }
        Ok(Stand { plan, facts, form })
    }

    /// How a text in place of the statement's is sent: with its parameters, as far as there are any.
    pub(super) fn form_of(&mut self, ask: &Ask, (text, types): (&Bytes, &[u8]), answers: bool) -> Form {
        let Form::Execute { statement, bind, describe, max_rows } = &ask.form else { return Form::Query };
        let (describe, max_rows) = (*describe && answers, if answers { *max_rows } else { 0 });
        let bind = match (answers, types.is_empty()) {
            (false, _) => bind::with_text_results(bind),
            (true, false) => bind.clone(),
            (true, true) => bind::without_parameters(bind),
        };
        let statement = Arc::new(self.alone(Some(statement), text, types));
        Form::Execute { statement, bind, describe, max_rows }
    }

    /// Runs a query of the proxy's own by its plan; its rows. `None`: it has failed, and the application has been told.
    pub(super) async fn capture(
        &mut self,
        stand: &Stand,
        text: Bytes,
    ) -> Result<Option<Vec<TextRow>>, Failure> {
        let limit = self.worker.shared.settings.load().limits.combine_max_bytes;
        let start = self.io.out.len();
        let form = match &stand.form {
            Form::Query => Form::Query,
            Form::Execute { statement, bind, .. } => {
                let (statement, bind) = (Arc::clone(statement), bind.clone());
                Form::Execute { statement, bind, describe: false, max_rows: 0 }
            }
        };
        self.io.keep_back(Some(start + limit));
        let ask = Ask { plan: stand.plan.clone(), facts: Arc::clone(&stand.facts), text, form };
        let ran = Box::pin(self.spread(ask)).await;
        let whole = self.io.keep_back(None);
        self.tag_at = usize::MAX;
        if !whole {
            self.io.out.truncate(start);
            return ran.and(Err(too_much(limit, "limits.combine_max_bytes")));
        }
        let rows = self.take_rows(start)?;
        ran?;
        Ok(self.events.error.is_none().then_some(rows))
    }

    /// Takes rows, their description and their tag out of what is to be written; what else there is stays.
    fn take_rows(&mut self, start: usize) -> Result<Vec<TextRow>, Failure> {
        let mut rows = Vec::new();
        self.sift(start, |tag, body| {
            if tag == tag::DATA_ROW {
                rows.push(TextRow::of_data_row(body));
            }
            matches!(tag, tag::DATA_ROW | tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE | tag::EMPTY_QUERY)
        });
        let unread = || {
            let message = "a row that the proxy reads is not UTF-8";
            Failure::error(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, message)
        };
        rows.into_iter().map(|row| row.ok_or_else(unread)).collect()
    }

    /// Takes out of what is to be written, from a byte on, the messages that `takes` (their tag and body) says.
    pub(super) fn sift(&mut self, start: usize, mut takes: impl FnMut(u8, &[u8]) -> bool) {
        let mut said = self.io.out.split_off(start);
        while let Ok(Some(header)) = frame::header(&said, usize::MAX) {
            let frame = said.split_to(header.len.min(said.len()));
            if !takes(header.tag, frame.get(HEADER..).unwrap_or_default()) {
                self.io.out.extend_from_slice(&frame);
            }
        }
        self.io.out.extend_from_slice(said.chunk());
    }

    /// Values travel as texts: settings under which a text is not exactly the value are not served.
    pub(super) fn check_exact_texts(&self) -> Result<(), Failure> {
        let reported = |name: &str| {
            let known = self.reported.iter().find(|(known, _)| known == name);
            known.map_or_else(String::new, |(_, value)| value.to_ascii_lowercase())
        };
        let digits = self.gucs_in_force().get("extra_float_digits").map(|value| value.trim_matches('\''));
        let exact =
            !["sql", "postgres", "german"].iter().any(|style| reported("DateStyle").starts_with(style))
                && reported("IntervalStyle") != "sql_standard"
                && !self.reads_null_as_text()
                && digits.is_none_or(|digits| digits.trim().parse::<i32>().is_ok_and(|digits| digits > 0));
        if exact {
            return Ok(());
        }
        Err(Failure::unsupported(
            "this statement needs rows of several shards, which are not exact under these settings",
            "Set DateStyle to ISO, IntervalStyle to postgres, extra_float_digits to 1, and array_nulls to on.",
        ))
    }
}

fn original(form: &Form) -> Option<&Prepared> {
    match form {
        Form::Query => None,
        Form::Execute { statement, .. } => Some(statement),
    }
}

fn unread() -> Failure {
    Failure::error(sqlstate::INTERNAL_ERROR, "a statement of the proxy's own cannot be read")
}

fn too_much(limit: usize, name: &str) -> Failure {
    Refusal::too_many_bytes(limit, name, "Write fewer rows at a time").into()
}
