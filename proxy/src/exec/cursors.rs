//! Rows of several shards, so many at a time: portals with a row limit, and cursors of DECLARE. One shard after the other is read,
//! and no more of it than was asked for: nothing is held here.
//!
//! Invariant: a portal or cursor stands in one shard; those before it are exhausted, those after it untouched.

use std::sync::Arc;

use bytes::Bytes;
use router_config::topology::ShardId;

use super::ask::{Ask, Form, Share};
use super::merged_walk::{Strands, undescribed};
use super::spread::queue_shape;
use super::walk::Walk;
use crate::backend::owed::{Owed, Show};
use crate::backend::shape::Agreed;
use crate::frontend::failure::Failure;
use crate::frontend::names::{Cursor, Place, Portal, Prepared};
use crate::frontend::session::Session;
use crate::gather::row;
use crate::route::plan::Target;
use crate::sql::facts::{Command, Facts};
use crate::sql::fetch::{self, Fetch};
use crate::sql::spelling::quote_ident;
use crate::wire::backend::tag as backend_tag;
use crate::wire::frame::HEADER;
use crate::wire::{frontend, reply};

impl Session {
    /// Executes the portal `name` over several shards, `max_rows` at most (0: the rest).
    pub async fn walk_portal(
        &mut self,
        name: &Bytes,
        (max_rows, describe): (i32, bool),
    ) -> Result<(), Failure> {
        let Some(portal) = self.names.portals.get(name).cloned() else { return Ok(()) };
        let Place::Walk { mut walk, id, bind } = portal.place else { return Ok(()) };
        let Some(facts) = portal.statement.facts().cloned() else { return Ok(()) };
        // The portals of the shards live as long as a block.
        self.open_implicit();
        self.expect(&facts, &portal.statement.shared.text, None);
        let limit = u64::try_from(max_rows).ok().filter(|rows| *rows > 0);
        let mut part =
            Part { statement: &portal.statement, bind: &bind, id, wanted: None, describe, moves: false };
        let Some(total) = self.walk_on(&mut walk, &mut part, limit).await? else { return Ok(()) };
        let suspended = limit.is_some_and(|limit| total >= limit);
        if part.describe {
            self.describe_walk(&portal.statement, &bind, &walk).await?;
        }
        let place = Place::Walk { walk, id, bind };
        self.names.portals.insert(name.clone(), Portal { place, ..portal });
        if suspended {
            reply::bare(&mut self.io.out, backend_tag::PORTAL_SUSPENDED);
            self.events.completed += 1;
        } else {
            self.complete(&format!("SELECT {total}"));
        }
        Ok(())
    }

    /// Reads on, so many rows at most; how many there were. `None` after an error, which has been shown.
    async fn walk_on(
        &mut self,
        walk: &mut Walk,
        part: &mut Part<'_>,
        limit: Option<u64>,
    ) -> Result<Option<u64>, Failure> {
        if let Some(strands) = walk.strands.clone() {
            return Box::pin(self.merge_portal_on((walk, &strands), part, limit)).await;
        }
        let mut total = 0;
        if !walk.bound {
            // What is begun can be ended.
            let rest = walk.shards.iter().copied().skip(walk.at);
            self.await_nodes(rest, false, &mut None).await?;
        }
        while !(walk.is_over() || limit.is_some_and(|limit| total >= limit)) {
            part.wanted = walk.ask(limit.map(|limit| limit - total));
            let Some(rows) = self.walk_one(walk, part).await? else { return Ok(None) };
            part.describe = false;
            walk.bound = true;
            let (rows, more) = match (rows, part.wanted) {
                (Read::Suspended, Some(wanted)) => (wanted, true),
                (Read::Suspended, None) => (0, false),
                (Read::Exhausted(rows), _) => (rows, false),
            };
            total += rows;
            walk.took(rows);
            if !more {
                walk.next_shard();
            }
        }
        Ok(Some(total))
    }

    /// MOVE of a portal of the protocol over several shards: it is read on, and its rows are not shown.
    async fn move_portal(&mut self, ask: &Ask, name: &Bytes, limit: Option<u64>) -> Result<(), Failure> {
        let Some(portal) = self.names.portals.get(name).cloned() else { return Ok(()) };
        self.expect(&ask.facts, &ask.text, None);
        let (mut walk, id, bind) = match portal.place {
            Place::Walk { walk, id, bind } => (walk, id, bind),
            // It was read to its end.
            _ if portal.ran => {
                self.complete("MOVE 0");
                return Ok(());
            }
            Place::Spread { plan, bind } => {
                let facts = portal.statement.facts();
                let walks = facts.is_some_and(|facts| self.walks(facts, &plan, &portal.statement));
                let walk = Walk::of(&plan).filter(|_| walks).ok_or_else(goes_forward)?;
                self.names.walks += 1;
                (walk, self.names.walks, bind)
            }
            Place::Shard(_) | Place::Control { .. } | Place::Combined { .. } => return Err(goes_forward()),
        };
        let statement = &portal.statement;
        let mut part = Part { statement, bind: &bind, id, wanted: None, describe: false, moves: true };
        let Some(total) = self.walk_on(&mut walk, &mut part, limit).await? else { return Ok(()) };
        let place = Place::Walk { walk, id, bind };
        self.names.portals.insert(name.clone(), Portal { place, ..portal });
        self.complete(&format!("MOVE {total}"));
        Ok(())
    }

    /// Reads on in one shard; `None` after an error, which has been shown.
    async fn walk_one(&mut self, walk: &Walk, part: &Part<'_>) -> Result<Option<Read>, Failure> {
        let at = self.acquire(walk.shards[walk.at], false).await?;
        let held = &mut self.held[at];
        held.unnamed = None;
        let conn = &mut *held.lease;
        let name = format!("gavel_portal_{}", part.id);
        if !walk.bound {
            let types = part.statement.type_bytes();
            let types = conn.own_types(&types)?;
            reply::parse(&mut conn.write, b"", &part.statement.shared.text, &types);
            conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
            queue_shape(conn, part.statement, true, 0);
            reply::bind(&mut conn.write, name.as_bytes(), b"", part.bind);
            conn.owe(Owed::Bind(Show::ERRORS));
        }
        if part.describe || !(walk.bound || part.statement.must_stay()) {
            reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, name.as_bytes());
            let show = Show::ERRORS.and(Show::COMPARED);
            conn.owe(Owed::Describe(if part.describe { show.and(Show::DESCRIPTION) } else { show }));
        }
        let wanted = part.wanted.and_then(|rows| i32::try_from(rows).ok()).unwrap_or(0);
        reply::execute(&mut conn.write, name.as_bytes(), wanted);
        let show = if part.moves { Show::ERRORS } else { Show::ERRORS.and(Show::ROWS) };
        conn.owe(Owed::Execute(show));
        conn.sync(Show::NOTHING);
        self.read_part(at, &walk.agreed).await?;
        if self.events.error.is_some() {
            return Ok(None);
        }
        Ok(Some(self.events.last_tag.take().map_or(Read::Suspended, |tag| Read::Exhausted(count_of(&tag)))))
    }

    /// Runs what is queued; rows that are not those of the shards before it are hidden.
    async fn read_part(&mut self, at: usize, agreed: &Agreed) -> Result<(), Failure> {
        self.events.last_tag = None;
        self.events.agreed = Some(Agreed::clone(agreed));
        self.run_to_end(at).await?;
        self.events.agreed = None;
        if std::mem::take(&mut self.events.differs) {
            return Err(Failure::differing_rows());
        }
        if std::mem::take(&mut self.events.changed) {
            return Err(Failure::changed_plan());
        }
        Ok(())
    }

    /// A description that was asked for and that no shard has given, for no row was read.
    pub async fn describe_walk(
        &mut self,
        statement: &Prepared,
        bind: &Bytes,
        walk: &Walk,
    ) -> Result<(), Failure> {
        self.describe_bound(walk.shards[0], statement, bind).await
    }

    /// The description of a portal, by a shard that need not know the portal.
    pub async fn describe_bound(
        &mut self,
        shard: ShardId,
        statement: &Prepared,
        bind: &Bytes,
    ) -> Result<(), Failure> {
        let at = self.acquire(shard, false).await?;
        let held = &mut self.held[at];
        held.unnamed = None;
        let conn = &mut *held.lease;
        let types = statement.type_bytes();
        let types = conn.own_types(&types)?;
        reply::parse(&mut conn.write, b"", &statement.shared.text, &types);
        conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
        reply::bind(&mut conn.write, b"", b"", bind);
        conn.owe(Owed::Bind(Show::ERRORS));
        reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, b"");
        conn.owe(Owed::Describe(Show::ERRORS.and(Show::DESCRIPTION)));
        conn.sync(Show::NOTHING);
        self.run_to_end(at).await
    }

    /// The description of a cursor's rows, by the first of its shards.
    pub(crate) async fn describe_several(&mut self, name: &[u8], walk: &Walk) -> Result<(), Failure> {
        let at = self.acquire(walk.shards[0], false).await?;
        let conn = &mut *self.held[at].lease;
        reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, name);
        conn.owe(Owed::Describe(Show::ERRORS));
        conn.sync(Show::NOTHING);
        self.run_to_end(at).await?;
        let hidden = walk.strands.as_ref().map_or(0, Strands::hidden);
        let Some(frame) = self.events.descriptions.pop() else { return Ok(()) };
        row::put_description(&mut self.io.out, &frame[HEADER..], hidden).ok_or_else(undescribed)
    }

    /// DECLARE has run on several shards, or CLOSE.
    pub(super) fn note_cursor(&mut self, ask: &Ask) {
        if self.events.error.is_some() {
            return;
        }
        match &ask.facts.command {
            Command::Declare { name, .. } => {
                if let Some(walk) = Walk::of(&ask.plan) {
                    self.note_declared(name, Cursor::Several(walk));
                }
            }
            Command::CloseCursor(name) => self.close_cursors(name.as_deref()),
            _ => {}
        }
    }

    /// The shards of a portal of the protocol that FETCH or MOVE names: it is a cursor, too.
    fn portal_plan(&self, name: &str) -> Option<Target> {
        match &self.names.portals.get(name.as_bytes())?.place {
            Place::Shard(shard) => Some(Target::One(*shard)),
            Place::Walk { walk, .. } => Some(walk.target()),
            Place::Spread { plan, .. } => Walk::of(plan).map(|walk| walk.target()),
            Place::Control { .. } | Place::Combined { .. } => None,
        }
    }

    /// The shards that a command about cursors concerns, if that is several.
    pub fn cursor_plan(&self, facts: &Facts) -> Option<Target> {
        match &facts.command {
            Command::Fetch(name) if !self.names.cursors.contains_key(name) => self.portal_plan(name),
            Command::Fetch(name) | Command::CloseCursor(Some(name)) => match self.names.cursors.get(name)? {
                Cursor::Several(walk) => Some(walk.target()),
                // Its conn is none of a shard's.
                Cursor::Combined { .. } => Some(Target::Concat(std::iter::once(ShardId(0)).collect())),
                Cursor::One { .. } => None,
            },
            Command::CloseCursor(None) if !self.names.cursors.is_empty() => {
                // Functions may have opened some on other shards of the transaction.
                let mut all = self.enlisted_shards();
                for cursor in self.names.cursors.values() {
                    match cursor {
                        Cursor::One { shard, .. } => all.push(*shard),
                        Cursor::Several(walk) => all.extend(&walk.shards),
                        Cursor::Combined { .. } => all.push(ShardId(0)),
                    }
                }
                all.sort_unstable();
                all.dedup();
                Some(Target::Concat(all.into_iter().collect()))
            }
            _ => None,
        }
    }

    /// FETCH or MOVE.
    pub(super) async fn fetch(&mut self, ask: Ask) -> Result<(), Failure> {
        let Command::Fetch(name) = &ask.facts.command else { return Ok(()) };
        let read = fetch::read(&ask.text, self.text_rules().standard_strings);
        if !fetch::moves(&ask.text, self.text_rules().standard_strings) {
            // As many rows as the text says are fetched at once.
            let rows = read.and_then(|read| read.count.rows()).unwrap_or(u64::MAX);
            ask.check_row_limit_below(rows)?;
        }
        if self.fetch_kept(&ask, name).await? {
            return Ok(());
        }
        let walk = match self.names.cursors.get(name) {
            Some(Cursor::Several(walk)) => Some(walk.clone()),
            Some(Cursor::One { .. } | Cursor::Combined { .. }) | None => None,
        };
        let Some(read) = read else { return Err(goes_forward()) };
        let limit = read.count.rows();
        let Some(mut walk) = walk else {
            let (true, Form::Query) = (read.moves && limit != Some(0), &ask.form) else {
                return Err(goes_forward());
            };
            return self.move_portal(&ask, &Bytes::copy_from_slice(name.as_bytes()), limit).await;
        };
        self.expect(&ask.facts, &ask.text, None);
        let total = if limit == Some(0) {
            self.ask_whether_on_row(&ask, name, &walk).await?
        } else {
            let total = match walk.strands.clone() {
                Some(strands) => {
                    let fetched = (name.as_str(), &ask, read.moves);
                    Box::pin(self.merge_cursor_on((&walk, &strands), fetched, limit)).await?
                }
                None => self.fetch_in_turn(&ask, (name, read), &mut walk).await?,
            };
            walk.on_row = total.is_some() && total == limit;
            total
        };
        let Some(total) = total else { return Ok(()) };
        self.names.cursors.insert(name.clone(), Cursor::Several(walk));
        self.complete(&format!("{} {total}", read.verb()));
        Ok(())
    }

    /// MOVE by no row, which says whether the cursor is on one. `None` after an error, which has been shown.
    async fn ask_whether_on_row(
        &mut self,
        ask: &Ask,
        name: &str,
        walk: &Walk,
    ) -> Result<Option<u64>, Failure> {
        // The shard knows whether there is such a cursor.
        let text = Bytes::from(format!("MOVE FORWARD 0 FROM {}", quote_ident(name)));
        let share = Share::new(walk.shards[0], text);
        let asked = self.fetch_one((&share, &walk.agreed), &ask.form, true).await?;
        Ok(asked.map(|_| u64::from(walk.on_row)))
    }

    /// Rows of one shard after the other, and how many. `None` after an error, which has been shown.
    async fn fetch_in_turn(
        &mut self,
        ask: &Ask,
        (name, read): (&str, Fetch),
        walk: &mut Walk,
    ) -> Result<Option<u64>, Failure> {
        let limit = read.count.rows();
        let (mut total, mut first) = (0, true);
        // At the end a shard is asked all the same: for the description, and for a cursor that is gone.
        while first || !(walk.is_over() || limit.is_some_and(|limit| total >= limit)) {
            let over = walk.is_over();
            let shard = walk.shards[walk.at.min(walk.shards.len() - 1)];
            if over && walk.left == Some(0) {
                let at = self.acquire(shard, false).await?;
                self.ask(at, &format!("MOVE FORWARD ALL FROM {}", quote_ident(name))).await?;
            }
            let wanted = if over { Some(1) } else { walk.ask(limit.map(|limit| limit - total)) };
            let count = wanted.map_or_else(|| "ALL".to_owned(), |rows| rows.to_string());
            let text = format!("{} FORWARD {count} FROM {}", read.verb(), quote_ident(name));
            let share = Share::new(shard, Bytes::from(text));
            let Some(rows) = self.fetch_one((&share, &walk.agreed), &ask.form, first).await? else {
                return Ok(None);
            };
            first = false;
            if over {
                break;
            }
            total += rows;
            walk.took(rows);
            if wanted.is_none_or(|wanted| rows < wanted) {
                walk.next_shard();
            }
        }
        Ok(Some(total))
    }

    async fn fetch_one(
        &mut self,
        (share, agreed): (&Share, &Agreed),
        form: &Form,
        first: bool,
    ) -> Result<Option<u64>, Failure> {
        let at = self.acquire(share.shard, false).await?;
        let show = Show::ROWS.and(Show::ERRORS).and(Show::COMPARED);
        let show = if first { show.and(Show::DESCRIPTION) } else { show };
        let Form::Execute { statement, bind, describe, .. } = form else {
            self.queue_share(at, share, &Form::Query, show)?;
            return self.fetched(at, agreed).await;
        };
        // A portal's own limit does not count: the text says how many.
        let form = Form::Execute {
            statement: Arc::clone(statement),
            bind: bind.clone(),
            describe: *describe && first,
            max_rows: 0,
        };
        self.queue_share(at, share, &form, show)?;
        self.fetched(at, agreed).await
    }

    async fn fetched(&mut self, at: usize, agreed: &Agreed) -> Result<Option<u64>, Failure> {
        self.read_part(at, agreed).await?;
        if self.events.error.is_some() {
            return Ok(None);
        }
        Ok(Some(self.events.last_tag.take().map_or(0, |tag| count_of(&tag))))
    }
}

/// What one Execute is about.
pub(super) struct Part<'a> {
    pub(super) statement: &'a Prepared,
    pub(super) bind: &'a Bytes,
    pub(super) id: u64,
    wanted: Option<u64>,
    pub(super) describe: bool,
    /// The rows are passed over.
    pub(super) moves: bool,
}

fn goes_forward() -> Failure {
    Failure::unsupported(
        "a cursor over several shards goes forward only",
        "Use FETCH FORWARD, NEXT or ALL (of a portal: MOVE, as a simple query), or name the shard key in the query.",
    )
}

/// How an Execute ended.
enum Read {
    /// There may be more.
    Suspended,
    /// So many rows, and no more.
    Exhausted(u64),
}

/// `SELECT 7`
pub(super) fn count_of(tag: &[u8]) -> u64 {
    std::str::from_utf8(tag).ok().and_then(|tag| tag.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}
