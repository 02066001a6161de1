//! What a request is counted as, and the log of slow ones.
//!
//! Planning notes each statement with its shards; when the last byte of the answer has been written, the time since the
//! request was read is observed for each of them. The statements of one pipeline share its time evenly, so that sums and
//! counts are right. Nothing is looked up by name and nothing is allocated on the way of an ordinary statement.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use router_config::topology::{ShardId, Slot};
use smallvec::SmallVec;
use tokio::time::{Duration, Instant};

use super::failure::Failure;
use super::session::{Session, shard_name};
use crate::metrics::{PlanKind, RefusalClass, ServedBy};
use crate::route::plan::{Plan, Reason};
use crate::sql::normalise::normalise;
use crate::wire::sqlstate;

/// Characters of a slow statement that are logged.
const TEXT_CHARS: usize = 1000;
/// Between two refusals that are logged.
const SPARSE_GAP: Duration = Duration::from_millis(100);
/// Statements of one pipeline that are observed; the others are left out of the histograms.
const NOTES_MAX: usize = 1024;

/// A statement's part on one shard.
#[derive(Debug, Clone, Copy)]
struct Note {
    shard: ShardId,
    role: ServedBy,
    plan: PlanKind,
}

/// Why a plan was what it was, as far as the log tells.
#[derive(Debug, Clone, Copy)]
pub struct Why {
    plan: PlanKind,
    reason: &'static str,
    slot: Option<Slot>,
}

impl Why {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Self {
        let kind = match (&plan.reason, &plan.target) {
            (Reason::PassThrough, _) => PlanKind::PassThrough,
            (_, target) => PlanKind::from(target),
        };
        let slot = match &plan.reason {
            Reason::Key { slot, .. } => Some(*slot),
            _ => None,
        };
        Self { plan: kind, reason: plan.reason.label(), slot }
    }

    /// Of a text of several statements that one shard was sent whole.
    pub fn whole_text() -> Self {
        Self { plan: PlanKind::One, reason: "several_statements", slot: None }
    }
}

/// What is known of the request under way.
#[derive(Debug, Default)]
pub struct Watch {
    began: Option<Instant>,
    statements: u32,
    notes: SmallVec<[Note; 2]>,
    /// The first statement; without its text where that still stands in the read buffer.
    first: Option<(Option<Bytes>, Why)>,
}

impl Watch {
    /// A request has been read.
    pub fn begin(&mut self) -> Instant {
        let now = Instant::now();
        self.began = Some(now);
        self.statements = 0;
        self.notes.clear();
        self.first = None;
        now
    }

    /// The text of the first statement, which does not stand in the read buffer any more.
    pub fn keep_text(&mut self, text: Bytes) {
        if let Some((noted, _)) = &mut self.first {
            *noted = Some(text);
        }
    }

    /// When the request under way was read.
    pub fn now(&self) -> Instant {
        self.began.unwrap_or_else(Instant::now)
    }
}

impl Session {
    /// A statement of the request with this plan goes out.
    pub fn note(&mut self, why: Why, text: &Bytes) {
        self.note_in_place(why);
        if self.watch.first.as_ref().is_some_and(|(noted, _)| noted.is_none()) {
            self.watch.keep_text(text.clone());
        }
    }

    /// As [`Self::note`], of a statement that stands in the read buffer until the answer has been written.
    pub(super) fn note_in_place(&mut self, why: Why) {
        self.watch.statements += 1;
        if let Some(slot) = why.slot {
            self.worker.shared.metrics.slot(slot);
        }
        if self.watch.first.is_none() {
            self.watch.first = Some((None, why));
        }
    }

    /// The statement noted last runs on this shard.
    pub fn note_shard(&mut self, why: Why, at: usize) {
        let held = &self.held[at];
        let role = if held.replica { ServedBy::Replica } else { ServedBy::Primary };
        if self.watch.notes.len() < NOTES_MAX {
            self.watch.notes.push(Note { shard: held.shard, role, plan: why.plan });
        }
    }

    /// The last byte of the answer has been written.
    pub fn observe(&mut self) {
        let shared = &self.worker.shared;
        self.worker.pools.frontend.add(std::mem::take(&mut self.io.moved));
        let Some(began) = self.watch.began.take() else { return };
        let took = began.elapsed();
        let each = took / self.watch.statements.max(1);
        for note in &self.watch.notes {
            shared.metrics.statement(note.shard, note.role, (note.plan, each));
        }
        let limit = shared.settings.load().log.slow_statement;
        if took >= limit && !limit.is_zero() {
            self.log_slow(took);
        }
        self.watch.first = None;
    }

    fn log_slow(&self, took: Duration) {
        let Some((text, why)) = &self.watch.first else { return };
        let text = text.as_deref().unwrap_or_else(|| self.io.current_text());
        let shared = &self.worker.shared;
        let topology = shared.topology.load();
        let mut shards: Vec<String> =
            self.watch.notes.iter().map(|note| shard_name(&topology, note.shard)).collect();
        shards.sort();
        shards.dedup();
        let sql: String =
            redacted(text, shared.settings.load().log.literals).chars().take(TEXT_CHARS).collect();
        tracing::warn!(
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            user = %self.who.user,
            database = %self.who.database,
            plan = why.plan.label(),
            reason = why.reason,
            slot = why.slot.map(|slot| slot.0),
            shards = shards.join(","),
            statements = self.watch.statements,
            sql = sql.trim(),
            "slow statement"
        );
    }

    /// Counts an error that the application is told of.
    pub fn count_failure(&self, failure: &Failure) {
        let metrics = &self.worker.shared.metrics;
        metrics.error(&failure.sqlstate());
        if let Failure::Refused(refusal) = failure {
            metrics.refused(RefusalClass::of(refusal.sqlstate));
            let Some(unsaid) = self.worker.shared.refusals.due() else { return };
            let (message, detail) = refusal.logged(self.worker.shared.settings.load().log.literals);
            let (user, database, detail) = (&self.who.user, &self.who.database, detail.as_deref());
            tracing::info!(user, database, sqlstate = refusal.sqlstate, detail, unsaid, "refused: {message}");
        }
    }

    /// Counts the error that a shard has reported in this request, if there is one.
    pub fn count_shard_error(&mut self) {
        self.note_given_up();
        if let Some(code) = self.events.sqlstate() {
            self.worker.shared.metrics.error(&String::from_utf8_lossy(code));
            if code == sqlstate::FEATURE_NOT_SUPPORTED.as_bytes()
                && self.events.is_of(b"RevalidateCachedQuery")
            {
                // DDL that did not pass here: a statement that others have prepared is not what it was.
                self.worker.shared.unrouted_ddl.fetch_add(1, Ordering::Relaxed);
                self.outdate_statements();
            }
        }
    }
}

/// Lets a few log lines a second pass, and counts the others.
#[derive(Debug, Default)]
pub struct Sparse {
    next: Mutex<Option<Instant>>,
    unsaid: AtomicU64,
}

impl Sparse {
    /// Whether a line may be written now: then the number of those that were not since the last one.
    pub fn due(&self) -> Option<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if next.is_some_and(|next| now < next) {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *next = Some(now + SPARSE_GAP);
        Some(self.unsaid.swap(0, Ordering::Relaxed))
    }
}

/// A statement's text for logs and the console: literals as `?`, unless they may be shown.
pub fn redacted(text: &[u8], literals: bool) -> String {
    if literals {
        return String::from_utf8_lossy(text).into_owned();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    for literal in &normalise(text, true).literals {
        out.extend_from_slice(&text[copied..literal.start]);
        out.push(b'?');
        copied = literal.end;
    }
    out.extend_from_slice(&text[copied..]);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn literals_are_masked_unless_they_may_be_shown() {
        let sql = b"select $1, 'secret', 42, E'a\\'b' from t where x = $tag$hidden$tag$ -- end";
        assert_eq!(redacted(sql, false), "select $1, ?, ?, ? from t where x = ? -- end");
        assert_eq!(redacted(sql, true).as_bytes(), sql);
    }
}
