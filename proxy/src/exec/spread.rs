//! One statement on several shards, or with a text of the proxy's own.
//!
//! Every share is sent at once; answers are taken in the order of the shares, so that the application reads one answer. A share whose
//! turn has not come is read ahead up to a bound and then made to wait. The first error is the one reported. Rows of different columns
//! are never one answer.

use std::sync::Arc;

use bytes::Bytes;
use router_config::topology::ShardId;

use super::ask::{Ask, Form, Share};
use super::bind::{self, Rebound};
use super::merge::{Merge, order_rows, sum_tags};
use crate::backend::conn::{Conn, Events};
use crate::backend::copy_trim::CopyTrim;
use crate::backend::owed::{Owed, Show};
use crate::backend::shape::Agreed;
use crate::frontend::failure::Failure;
use crate::frontend::names::Prepared;
use crate::frontend::session::Session;
use crate::frontend::transaction::Block;
use crate::frontend::watch::Why;
use crate::route::plan::{Plan, Target};
use crate::sql::facts::{Access, Command};
use crate::wire::backend::tag;
use crate::wire::{frontend, reply};

impl Session {
    /// Executes a statement on the shards of its plan; the answer, without ReadyForQuery, goes to the application.
    pub async fn spread(&mut self, ask: Ask) -> Result<(), Failure> {
        match &ask.facts.command {
            Command::Fetch(_) => return self.fetch(ask).await,
            Command::CloseCursor(Some(name)) if self.close_kept(&ask, name) => return Ok(()),
            _ => {}
        }
        match &ask.plan.target {
            Target::EachAlone => self.each_alone(ask).await,
            Target::CopySplit | Target::CopyEverywhere => self.spread_copy(ask).await,
            Target::Combine(combine) => {
                let combine = combine.clone();
                Box::pin(self.combine(ask, &combine)).await
            }
            Target::InsertRows(rows) => {
                let rows = rows.clone();
                Box::pin(self.insert_rows(ask, &rows)).await
            }
            Target::Move(moves) => {
                let moves = moves.clone();
                Box::pin(self.move_rows(ask, &moves)).await
            }
            Target::Broadcast(broadcast) => {
                let broadcast = broadcast.clone();
                Box::pin(self.broadcast(ask, &broadcast)).await
            }
            Target::MergeRows(merge) => {
                let merge = merge.clone();
                Box::pin(self.merge_rows(ask, &merge)).await
            }
            Target::WithWrites(with) => {
                let with = with.clone();
                Box::pin(self.with_writes(ask, &with)).await
            }
            Target::Explain(at, analyze) => {
                let how = (*at, *analyze);
                Box::pin(self.explain_several(ask, how)).await
            }
            Target::Limited(limited) => {
                let limited = limited.clone();
                Box::pin(self.limited(ask, &limited)).await
            }
            Target::Fill(fill) => {
                let fill = fill.clone();
                Box::pin(self.fill(ask, &fill)).await
            }
            Target::One(_) | Target::Any | Target::Nowhere(_) | Target::Draw(_) => {
                Box::pin(self.run_shares(ask)).await
            }
            Target::Concat(_)
            | Target::Gather(..)
            | Target::Each(_)
            | Target::Everywhere
            | Target::EverywhereAs(_)
            | Target::Split(_) => {
                let can_be_taken_back = self.can_be_taken_back();
                let done = Box::pin(self.run_shares(ask)).await;
                self.note_in_the_way(can_be_taken_back, done.as_ref().err());
                done
            }
        }
    }

    /// Sends each shard its share, and makes one answer of theirs.
    async fn run_shares(&mut self, ask: Ask) -> Result<(), Failure> {
        let (mut shares, mut merge) = self.shares(&ask)?;
        let _locking = self.note_locking(&ask);
        self.read_clocks(&ask.facts, &mut shares).await?;
        let writes = ask.facts.access != Access::Read;
        ask.check_row_limit(shares.len())?;
        if writes && shares.len() > 1 {
            self.may_prepare()?;
            self.open_implicit();
        }
        let order = self.conns_of(&shares, ask.plan.replica && !writes).await?;
        let fresh: Vec<usize> = order.iter().copied().filter(|at| !self.held[*at].wrote).collect();
        for (turn, at) in order.iter().copied().enumerate() {
            self.note_shard(Why::of(&ask.plan), at);
            // The value that lastval or currval stands for is in the text by now: nothing is drawn.
            let draws = ask.facts.effects.sequence || !ask.facts.effects.currval;
            if writes && draws {
                self.writes(at)?;
            }
            let last = turn + 1 == shares.len();
            let asks_lsn = self.held[at].asks_lsn.is_some();
            let conn = &mut self.held[at].lease;
            conn.capture = asks_lsn || matches!(merge, Merge::Ordered);
            conn.copy_trim = match &ask.facts.command {
                Command::CopyOut(shape) => CopyTrim::of(shape, turn == 0, last),
                _ => None,
            };
        }
        if writes && order.len() > 1 {
            self.draws_on_several();
        }
        self.expect(&ask.facts, &ask.text, None);
        let mut outcome = self.read_whole(&ask, &shares, order[0]).await?;
        let compared = shares.len() > 1 && merge.takes_all();
        self.events.agreed = compared.then(Agreed::default);
        for turns in self.rounds(&ask, merge, shares.len()) {
            if outcome
                .iter()
                .any(|events: &Events| events.error.is_some() || events.changed || events.differs)
            {
                break;
            }
            for turn in turns.clone() {
                let show = show_of(&ask, merge, (turn, shares.len()));
                self.queue_share(order[turn], &shares[turn], &ask.form, show)?;
                self.held[order[turn]].lease.rewritten = self.rewritten(&ask, &shares[turn]);
            }
            outcome.append(&mut self.drive_shares(&ask, &mut merge, &order[turns]).await?);
        }
        self.leave_out(&order[outcome.len().min(order.len())..]);
        self.spare(&ask, &order, &fresh, &outcome);
        self.check_rows(&outcome, writes)?;
        let merge = if self.fills_on_each(&ask.facts) { Merge::Sum } else { merge };
        self.conclude(outcome, &shares, merge)?;
        self.note_cursor(&ask);
        if order.len() > 1 {
            self.judge_ddl(&ask.facts, &ask.text).await?;
        }
        Ok(())
    }

    /// The conns that the shares go to.
    async fn conns_of(&mut self, shares: &[Share], replica: bool) -> Result<Vec<usize>, Failure> {
        match shares {
            [only] => Ok(vec![self.acquire(only.shard, replica).await?]),
            _ => Box::pin(self.acquire_all(shares.iter().map(|share| share.shard), replica)).await,
        }
    }

    /// Conns whose turn has not come.
    fn leave_out(&mut self, rest: &[usize]) {
        for at in rest {
            let conn = &mut self.held[*at].lease;
            (conn.capture, conn.copy_trim) = (false, None);
        }
        self.events.agreed = None;
    }

    /// Opens a block around a statement that writes to several shards, unless one is open.
    pub fn open_implicit(&mut self) {
        if self.block.is_none() {
            let mut block = Block::new("BEGIN", false, Arc::clone(&self.gucs));
            block.implicit = true;
            self.block = Some(Box::new(block));
        }
    }

    fn shares(&self, ask: &Ask) -> Result<(Vec<Share>, Merge), Failure> {
        let same = |shard| Share::new(shard, ask.text.clone());
        Ok(match &ask.plan.target {
            Target::Gather(shards, gather) => {
                let declares = matches!(ask.facts.command, Command::Declare { .. });
                let merge = if declares { Merge::First } else { Merge::Gathered(0) };
                (shards.iter().map(|shard| Share::merged(same(*shard), gather)).collect(), merge)
            }
            Target::Concat(shards) | Target::Each(shards) => {
                (shards.iter().map(|shard| same(*shard)).collect(), Merge::Concat)
            }
            Target::Everywhere => {
                let count = self.worker.shared.topology.load().shards.len() as u16;
                let sealed =
                    super::password::sealed(&ask.text, self.text_rules().standard_strings, rand::random());
                let text = sealed.map_or_else(|| ask.text.clone(), Bytes::from);
                let share = |n| Share { text: text.clone(), ..same(ShardId(n)) };
                ((0..count).map(share).collect(), Merge::First)
            }
            Target::EverywhereAs(text) => {
                let count = self.worker.shared.topology.load().shards.len() as u16;
                let text = Bytes::copy_from_slice(text.as_bytes());
                let share = |n| Share { text: text.clone(), ..same(ShardId(n)) };
                ((0..count).map(share).collect(), Merge::First)
            }
            Target::Split(parts) => {
                let shares = parts.iter().map(|part| Share {
                    shard: part.shard,
                    text: Bytes::copy_from_slice(part.text.as_bytes()),
                    params: Some(part.params.clone()),
                    rows: part.rows.clone(),
                    origins: part.origins.clone(),
                    hidden: 0,
                });
                let merge =
                    if ask.facts.returns_rows && parts.len() > 1 { Merge::Ordered } else { Merge::Concat };
                (shares.collect(), merge)
            }
            Target::One(shard) | Target::Nowhere(shard) => (vec![same(*shard)], Merge::Concat),
            Target::Any => (vec![same(ShardId(0))], Merge::Concat),
            Target::EachAlone
            | Target::Draw(_)
            | Target::CopySplit
            | Target::CopyEverywhere
            | Target::Combine(_)
            | Target::Explain(..)
            | Target::Fill(_)
            | Target::Limited(_)
            | Target::InsertRows(_)
            | Target::Move(_)
            | Target::WithWrites(_)
            | Target::MergeRows(_)
            | Target::Broadcast(_) => {
                return Err(Failure::unsupported(
                    "this statement in this place",
                    "Send it as a statement of its own.",
                ));
            }
        })
    }

    /// Queues a share's frames on its conn. The share whose description is shown stands for all in what is not rows.
    pub(super) fn queue_share(
        &mut self,
        at: usize,
        share: &Share,
        form: &Form,
        show: Show,
    ) -> Result<(), Failure> {
        let first = show.has(Show::DESCRIPTION);
        let held = &mut self.held[at];
        held.unnamed = None;
        let conn = &mut *held.lease;
        match form {
            Form::Query => {
                reply::query(&mut conn.write, &share.text);
                conn.owe(Owed::Query(show));
            }
            Form::Execute { statement, bind, describe, max_rows } => {
                let bound = rebound(statement, bind, share.params.as_deref())?;
                let types = conn.own_types(&bound.types)?;
                reply::parse(&mut conn.write, b"", &share.text, &types);
                conn.owe(Owed::Parse { show: errors_of(first), statement: None });
                let whole = share.params.is_none() && share.text == statement.shared.text;
                queue_shape(conn, statement, whole, share.hidden);
                let (_, rest) = super::gather::with_hidden(&bound.rest, share.hidden);
                reply::bind(&mut conn.write, b"", b"", &rest);
                conn.owe(Owed::Bind(errors_of(first)));
                let wanted = *describe && first;
                let command = statement.facts().map(|facts| &facts.command);
                let has_rows = statement.has_rows() || matches!(command, Some(Command::Fetch(_)));
                if wanted || (show.has(Show::COMPARED) && has_rows && !statement.must_stay()) {
                    reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, b"");
                    conn.owe(Owed::Describe(if wanted { show } else { show.without(Show::DESCRIPTION) }));
                }
                reply::execute(&mut conn.write, b"", *max_rows);
                let described_by_execute = matches!(command, Some(Command::CopyOut(_)));
                let show = if described_by_execute { show } else { show.without(Show::COMPARED) };
                conn.owe(Owed::Execute(show));
                conn.sync(Show::NOTHING);
            }
        }
        Ok(())
    }

    /// The one answer out of the shares' answers: errors, rows in order, the tag.
    pub(super) fn conclude(
        &mut self,
        outcome: Vec<Events>,
        shares: &[Share],
        merge: Merge,
    ) -> Result<(), Failure> {
        let mut outcome = outcome;
        for (turn, events) in outcome.iter_mut().enumerate() {
            self.events.parameters.append(&mut events.parameters);
            if let Some(frame) = events.error.take() {
                // The answer to the Sync that ends a share is not shown.
                let late = events.at_end;
                // The first share's error has been shown by its conn, unless rows were merged.
                let shown = turn == 0 && !late && !matches!(merge, Merge::Gathered(_));
                if !shown && self.events.error.is_none() {
                    if let Some(tag) = events.last_tag.take().filter(|_| late) {
                        self.complete(&String::from_utf8_lossy(&tag));
                    }
                    self.io.out.extend_from_slice(&frame);
                }
                self.events.error.get_or_insert(frame);
            }
        }
        if self.events.error.is_some() {
            return Ok(());
        }
        if merge == Merge::Ordered {
            order_rows(&outcome, shares, &mut self.io.out);
        }
        let tags: Vec<&[u8]> = outcome.iter().filter_map(|events| events.last_tag.as_deref()).collect();
        let tag = match merge {
            Merge::First => tags.first().map(|tag| String::from_utf8_lossy(tag).into_owned()),
            Merge::Concat | Merge::Ordered | Merge::Sum => sum_tags(&tags),
            Merge::Gathered(rows) => Some(format!("SELECT {rows}")),
        };
        match tag {
            Some(tag) => self.complete(&tag),
            None => self.complete(""),
        }
        Ok(())
    }

    /// The tag of a statement over several shards. It is taken back if the transaction around it cannot be committed.
    pub fn complete(&mut self, tag: &str) {
        self.tag_at = self.io.out.len();
        if tag.is_empty() {
            reply::bare(&mut self.io.out, tag::EMPTY_QUERY);
        } else {
            reply::command_complete(&mut self.io.out, tag);
        }
        self.events.completed += 1;
    }
}

/// What the application is shown of a share's answer.
fn show_of(ask: &Ask, merge: Merge, (turn, shares): (usize, usize)) -> Show {
    let mut show = merge.show(turn == 0);
    if turn + 1 == shares {
        show = show.and(Show::COPY_DONE);
    }
    if shares > 1 && merge.takes_all() {
        show = show.and(Show::COMPARED);
    }
    // What the rows of each shard give rise to.
    if matches!(ask.plan.target, Target::Each(_) | Target::Split(_)) {
        show = show.and(Show::NOTICES);
    }
    show
}

/// Behind a Parse: whether the statement's rows are still what the application was told. `whole`: it is parsed as the application
/// has written it; one that lives on is then known from here on.
/// Its last columns are not the application's.
pub(super) fn queue_shape(conn: &mut Conn, statement: &Prepared, whole: bool, hidden: u16) {
    let must_stay = statement.must_stay();
    let first = whole && statement.named && statement.shared.origin.get().is_none();
    if must_stay || first {
        reply::named(&mut conn.write, frontend::tag::DESCRIBE, false, b"");
        let by = first.then_some(std::ptr::from_ref(statement).addr());
        conn.owe(Owed::Shape { of: Arc::clone(&statement.shared), by, hidden });
    }
}

fn errors_of(first: bool) -> Show {
    if first { Show::ERRORS } else { Show::NOTHING }
}

fn rebound(statement: &Prepared, bind: &Bytes, params: Option<&[u16]>) -> Result<Rebound, Failure> {
    match params {
        None => Ok(Rebound { rest: bind.clone(), types: statement.type_bytes() }),
        Some(chosen) => bind::choose(bind, &statement.type_bytes(), chosen).ok_or_else(|| {
            Failure::error("08P01", "bind message supplies fewer parameters than the statement uses")
        }),
    }
}

/// Text and Bind of the first share of a plan, for its description.
pub fn first_share(plan: &Plan, statement: &Prepared, bind: &Bytes) -> (ShardId, String, Rebound) {
    let own = |shard| (shard, String::from_utf8_lossy(&statement.shared.text).into_owned(), None);
    let (shard, text, params) = match &plan.target {
        Target::Split(parts) => match parts.first() {
            Some(part) => (part.shard, part.text.clone(), Some(part.params.as_slice())),
            None => own(ShardId(0)),
        },
        Target::EverywhereAs(text) => (ShardId(0), text.clone(), None),
        Target::Move(moves) => own(moves.from.first().copied().unwrap_or(ShardId(0))),
        Target::Concat(shards) | Target::Gather(shards, _) | Target::Each(shards) => {
            own(shards.first().copied().unwrap_or(ShardId(0)))
        }
        Target::One(shard) | Target::Nowhere(shard) => own(*shard),
        Target::Limited(limited) => own(limited.shards.first().copied().unwrap_or(ShardId(0))),
        _ => own(ShardId(0)),
    };
    let bound = rebound(statement, bind, params)
        .unwrap_or_else(|_| Rebound { rest: bind.clone(), types: statement.type_bytes() });
    (shard, text, bound)
}
