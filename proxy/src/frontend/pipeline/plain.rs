//! The short way of a pipeline that is one plain statement: `[Parse] Bind [Describe] Execute Sync`, one shard, a conn at hand that
//! has the statement; and of BEGIN, and of the end of a transaction on one shard.
//!
//! The frames are read where they stand and passed on from there. Invariant, as in [`crate::frontend::plain`]: what is not certain to
//! end like that takes the long way ([`super`]), and up to there nothing has been sent, shown or counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use router_config::settings::DatabaseKind;
use router_config::topology::ShardId;

use crate::backend::owed::{Owed, Show};
use crate::frontend::control::{SYNC_SHOWN, is_control};
use crate::frontend::names::{Place, Portal, Prepared};
use crate::frontend::plain::Way;
use crate::frontend::session::Session;
use crate::frontend::watch::Why;
use crate::metrics::Cache;
use crate::route::plan::Target;
use crate::sql::cache::Statement;
use crate::sql::facts::Facts;
use crate::wire::backend::tag as backend_tag;
use crate::wire::frame::{self, HEADER};
use crate::wire::frontend::{Bind, Parse, tag};
use crate::wire::reply;

/// Execute of the unnamed portal without a row limit, and Sync.
const EXECUTE_SYNC: &[u8] = b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
/// Describe of the unnamed portal, in front of [`EXECUTE_SYNC`].
const DESCRIBE: &[u8] = b"D\0\0\0\x06P\0";
/// How what a Bind says behind its names begins where it has no parameters.
const NO_PARAMETERS: &[u8] = b"\0\0\0\0";

/// The frames of such a pipeline; statement and portal of the Parse and the portal of the Bind have no name.
struct Plain<'a> {
    parse: Option<Parse<'a>>,
    bind: Bind<'a>,
    describes: bool,
    /// What follows the Bind.
    tail: &'a [u8],
}

impl<'a> Plain<'a> {
    /// `None`: the frames are others, or malformed.
    fn read(frames: &'a [u8]) -> Option<Self> {
        let (parse, rest) = match frames.first()? {
            &tag::PARSE => {
                let (body, rest) = cut(frames)?;
                (Some(Parse::read(body).ok()?), rest)
            }
            _ => (None, frames),
        };
        if *rest.first()? != tag::BIND {
            return None;
        }
        let (body, tail) = cut(rest)?;
        let bind = Bind::read(body).ok()?;
        let named = parse.is_some_and(|parse| !parse.name.is_empty() || !bind.statement.is_empty());
        let executes = tail.strip_prefix(DESCRIBE).unwrap_or(tail);
        let plain = !named && bind.portal.is_empty() && executes == EXECUTE_SYNC;
        plain.then_some(Self { parse, bind, describes: executes.len() < tail.len(), tail })
    }
}

/// The body of the first frame, and what follows it.
fn cut(frames: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = frame::header(frames, usize::MAX).ok()??;
    Some((frames.get(HEADER..header.len)?, frames.get(header.len..)?))
}

impl Session {
    /// Queues the `len` bytes of frames at the front of what has been read on the conn of their shard. `None`: they take the long way.
    pub(in crate::frontend) fn send_plain_batch(&mut self, len: usize) -> Option<Way> {
        if !self.may_be_plain() || !self.pipeline.is_new() {
            return None;
        }
        // Taken out for so long, so that the frames can be read while the session changes.
        let read = std::mem::take(&mut self.io.read);
        let sent = read.get(..len).and_then(Plain::read).and_then(|plain| self.place_plain_batch(&plain));
        self.io.read = read;
        sent
    }

    fn place_plain_batch(&mut self, plain: &Plain<'_>) -> Option<Way> {
        let prepared = self.plain_statement(plain)?;
        let [statement] = prepared.analysed.statements() else { return None };
        if !statement.plain {
            return self.place_end_or_begin_batch(plain, &prepared, &statement.facts);
        }
        let types_known = prepared.shared.asked.get().is_some() || !self.is_placed();
        if !types_known || self.check_literals(&prepared).is_err() || !self.hides_nothing(&statement.facts) {
            return None;
        }
        Self::check_count(plain.bind.statement, &prepared, plain.bind.rest).ok()?;
        let plan = self.plan_bind(&prepared, plain.bind.rest, None).ok()?;
        let spread = self.spread;
        let shard = match plan.target {
            Target::One(shard) | Target::Nowhere(shard) => shard,
            Target::Any => self.any_shard_for(plain.bind.rest),
            _ => return None,
        };
        if shard != ShardId(0) && !self.has_no_containers(&prepared, plain.bind.rest) {
            self.spread = spread;
            return None;
        }
        let before = self.touched(shard);
        let Some(at) = self.acquire_at_hand(shard, plan.replica) else {
            // Whoever comes next shall not skip the shard whose turn it is.
            self.spread = spread;
            return Some(Way::Wants(shard, plan.replica));
        };
        // An answer to Parse must not come before the server has read it.
        if !self.held[at].lease.prepared.touch(prepared.shared.id) {
            self.spread = spread;
            return None;
        }
        self.start_plain(at, before, &statement.facts)?;
        let why = Why::of(&plan);
        self.note(why, &prepared.shared.text);
        self.note_shard(why, at);
        self.worker.shared.metrics.cache(Cache::Statements, true);
        self.answer_parse(plain, &prepared);
        let conn = &mut *self.held[at].lease;
        reply::bind(&mut conn.write, b"", &prepared.shared.name, plain.bind.rest);
        conn.write.extend_from_slice(plain.tail);
        conn.owe(Owed::Bind(Show::ALL));
        if plain.describes {
            conn.owe(Owed::Describe(Show::ALL));
        }
        conn.owe(Owed::Execute(Show::ALL));
        conn.owe(Owed::Sync(SYNC_SHOWN));
        prepared.told.set();
        self.name_plain(plain, &prepared, Place::Shard(shard));
        Some(Way::Sent(at))
    }

    fn place_end_or_begin_batch(
        &mut self,
        plain: &Plain<'_>,
        prepared: &Arc<Prepared>,
        facts: &Arc<Facts>,
    ) -> Option<Way> {
        let ends = self.ends_alone(facts);
        if !plain.bind.rest.starts_with(NO_PARAMETERS) || !(ends || self.may_open_block(facts)) {
            return None;
        }
        let text = String::from_utf8_lossy(&prepared.shared.text);
        self.begin_plain();
        self.answer_parse(plain, prepared);
        reply::bare(&mut self.io.out, backend_tag::BIND_COMPLETE);
        if plain.describes {
            reply::bare(&mut self.io.out, backend_tag::NO_DATA);
        }
        prepared.told.set();
        let way = if ends {
            let mut frame = BytesMut::new();
            reply::query(&mut frame, &prepared.shared.text);
            self.send_end(facts, text.trim(), &frame);
            Way::Sent(0)
        } else {
            self.open_block(facts, text.trim());
            Way::Answered
        };
        self.name_plain(plain, prepared, Place::Control { bind: Bytes::copy_from_slice(plain.bind.rest) });
        Some(way)
    }

    fn answer_parse(&mut self, plain: &Plain<'_>, prepared: &Prepared) {
        if plain.parse.is_some() {
            prepared.shared.parses.fetch_add(1, Ordering::Relaxed);
            reply::bare(&mut self.io.out, backend_tag::PARSE_COMPLETE);
        }
    }

    /// The statement that is bound; `None`: there is none, or it has to be read again.
    fn plain_statement(&mut self, plain: &Plain<'_>) -> Option<Arc<Prepared>> {
        let reading = self.reading();
        let known = self.names.statements.get(plain.bind.statement);
        let Some(parse) = &plain.parse else {
            return known.filter(|known| known.reading == reading).cloned();
        };
        let sharded = matches!(self.who.kind, DatabaseKind::Sharded);
        let same = known.filter(|known| {
            let shared = &known.shared;
            let text = shared.text == parse.text && shared.types == parse.types;
            let text = text && !shared.stale.load(Ordering::Relaxed);
            sharded && text && known.reading == reading && Arc::ptr_eq(&known.gucs, self.gucs_in_force())
        });
        if let Some(same) = same {
            return Some(Arc::clone(same));
        }
        self.check_statement_limit().ok()?;
        // What nobody has parsed is on no conn.
        let shared = self.worker.shared.registry.find(self.parse_context(), parse.text, parse.types)?;
        let analysed = self.analyse_extended(parse.text);
        let short = |only: &Statement| only.plain || is_control(&only.facts.command);
        if !matches!(analysed.statements(), [only] if short(only)) {
            return None;
        }
        Some(self.make_prepared(parse, shared, analysed))
    }

    /// What the session calls the statement and its portal from here on.
    fn name_plain(&mut self, plain: &Plain<'_>, statement: &Arc<Prepared>, place: Place) {
        let names = &mut self.names;
        if plain.parse.is_some() {
            match names.statements.get_mut(&b""[..]) {
                Some(known) => known.clone_from(statement),
                None => _ = names.statements.insert(Bytes::new(), Arc::clone(statement)),
            }
        }
        // Outside of a block the portal ends with the Sync.
        if self.block.is_some() {
            // On a conn, PostgreSQL itself knows.
            let ran = matches!(place, Place::Control { .. });
            let portal = Portal { ran, ..Portal::new(Arc::clone(statement), place) };
            names.portals.insert(Bytes::new(), portal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Plain;

    const PARSE: &[u8] = b"P\0\0\0\x10\0select 1\0\0\0";
    const BIND: &[u8] = b"B\0\0\0\x0c\0\0\0\0\0\0\0\0";
    const END: &[u8] = b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";

    #[test]
    fn one_unnamed_portal_that_is_run_to_its_end_is_plain() {
        let described: &[u8] = b"D\0\0\0\x06P\0";
        let read = |frames: &[&[u8]]| Plain::read(&frames.concat()).map(|p| (p.parse.is_some(), p.describes));
        assert_eq!(read(&[PARSE, BIND, described, END]), Some((true, true)));
        assert_eq!(read(&[PARSE, BIND, END]), Some((true, false)));
        assert_eq!(read(&[BIND, END]), Some((false, false)));
        assert_eq!(read(&[b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0", END]), Some((false, false)));
    }

    #[test]
    fn anything_else_is_not() {
        let not = |frames: &[&[u8]]| assert!(Plain::read(&frames.concat()).is_none(), "{frames:?}");
        let sync: &[u8] = b"S\0\0\0\x04";
        not(&[]);
        not(&[sync]);
        not(&[PARSE, sync]);
        not(&[BIND, sync]);
        not(&[BIND, END, END]);
        not(&[PARSE, PARSE, BIND, END]);
        // Named: the statement, the portal, what is bound is not what was parsed.
        not(&[b"P\0\0\0\x11s\0select 1\0\0\0", b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0", END]);
        not(&[b"B\0\0\0\x0dp\0\0\0\0\0\0\0\0", END]);
        not(&[PARSE, b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0", END]);
        // A row limit; Describe of the statement; a Flush in between; a body that does not add up.
        not(&[BIND, b"E\0\0\0\x09\0\0\0\0\x01", sync]);
        not(&[BIND, b"D\0\0\0\x06S\0", END]);
        not(&[BIND, b"H\0\0\0\x04", END]);
        not(&[b"B\0\0\0\x0b\0\0\0\0\0\0\0", END]);
    }
}
