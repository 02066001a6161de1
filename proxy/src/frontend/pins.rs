//! What binds a session to conns: state that other conns do not have.
//!
//! Invariant: each shard named here has a conn that the session holds, also between transactions; several may be held.

use router_config::topology::ShardId;
use smallvec::SmallVec;

use super::names::Names;
use crate::sql::facts::PinCause;

/// Why a session keeps conns, and on which shards; at most one entry of each kind for each shard. Most sessions have none, and are small.
#[derive(Debug, Default)]
pub struct Pins(Option<Box<Several>>);

type Several = SmallVec<[(PinCause, ShardId); 4]>;

impl Pins {
    /// Nothing is bound.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// Whether the session keeps its conn to this shard.
    pub fn holds(&self, on: ShardId) -> bool {
        self.all().iter().any(|(_, shard)| *shard == on)
    }

    /// The session is bound to this shard's conn from here on, along with what it is bound to already.
    pub fn add(&mut self, cause: PinCause, shard: ShardId) {
        if !self.all().contains(&(cause, shard)) {
            self.0.get_or_insert_default().push((cause, shard));
        }
    }

    /// The conn to this shard is lost, and what was there; whether there were temporary objects.
    pub fn lose(&mut self, on: ShardId) -> bool {
        let temporary = self.all().contains(&(PinCause::Temporary, on));
        self.retain(|_, shard| shard != on);
        temporary
    }

    /// A cursor WITH HOLD binds only where there still is one.
    pub fn keep_cursors(&mut self, names: &Names) {
        self.retain(|cause, shard| cause != PinCause::HoldCursor || names.holds_cursor(shard));
    }

    /// The session is free.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// The shard whose conn has settings that no other can be told of.
    pub fn settings(&self) -> Option<ShardId> {
        self.of(|cause| matches!(cause, PinCause::Config | PinCause::Settings))
    }

    /// Where a statement goes that any conn could run: one of the conns that are held, if one is.
    pub fn any(&self) -> Option<ShardId> {
        let lasting = || self.of(|cause| cause != PinCause::HoldCursor);
        self.settings().or_else(lasting).or_else(|| self.of(|_| true))
    }

    /// Where names are that only a server knows: those of PREPARE in SQL before all others.
    pub fn names(&self) -> Option<ShardId> {
        self.of(|cause| cause == PinCause::SqlPrepare).or_else(|| self.any())
    }

    fn all(&self) -> &[(PinCause, ShardId)] {
        self.0.as_ref().map_or(&[], |pins| pins.as_slice())
    }

    fn retain(&mut self, stays: impl Fn(PinCause, ShardId) -> bool) {
        if let Some(pins) = &mut self.0 {
            pins.retain(|(cause, shard)| stays(*cause, *shard));
        }
    }

    fn of(&self, fits: impl Fn(PinCause) -> bool) -> Option<ShardId> {
        self.all().iter().find(|(cause, _)| fits(*cause)).map(|(_, shard)| *shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pin_does_not_take_the_place_of_another() {
        let mut pins = Pins::default();
        pins.add(PinCause::HoldCursor, ShardId(3));
        assert_eq!((pins.any(), pins.names()), (Some(ShardId(3)), Some(ShardId(3))));
        pins.add(PinCause::SqlPrepare, ShardId(1));
        pins.add(PinCause::Temporary, ShardId(0));
        pins.add(PinCause::Temporary, ShardId(0));
        assert!([0, 1, 3].into_iter().all(|shard| pins.holds(ShardId(shard))));
        assert_eq!((pins.any(), pins.settings()), (Some(ShardId(1)), None));
        pins.add(PinCause::Settings, ShardId(2));
        assert_eq!((pins.any(), pins.names()), (Some(ShardId(2)), Some(ShardId(1))));
        assert!(!pins.lose(ShardId(2)));
        assert!(pins.lose(ShardId(0)));
        assert!(!pins.holds(ShardId(0)) && pins.holds(ShardId(3)));
    }
}
