//! The consistent-hash ring. It proposes slot maps; the stored slot map is the truth.
//!
//! Every shard has 1,024 points per weight 1.0 on a circle of 2^64 positions; a slot lies at its share of the circle
//! and prefers the shard of the next point. No shard takes more slots than its share, rounded: a slot whose preferred
//! shard is full goes on to the next point. When a map exists already, only the slots that must move do: as many as the
//! shards above their share have too many, those first whose preferred shard is one that lacks slots.
//!
//! Points and slots are placed by [`position`] and [`slot_position`] alone, which golden tests pin: a proposal is the same
//! on every machine and in every release.

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;

use crate::hash;
use crate::topology::{SLOTS, Shard, ShardId, Slot};

/// Points on the ring of a shard of weight 1.0.
pub const POINTS: f64 = 1024.0;

/// Position of a shard's n-th point: PostgreSQL's hash of the shard's name, seeded with n + 1.
#[must_use]
pub fn position(name: &str, n: u32) -> u64 {
    hash::bytes(name.as_bytes(), u64::from(n) + 1)
}

/// Position of a slot: slots divide the circle evenly.
#[must_use]
pub fn slot_position(slot: Slot) -> u64 {
    u64::from(slot.0) * (u64::MAX / u64::from(SLOTS) + 1)
}

/// Passes positions through: what is written *is* the position.
#[derive(Clone, Copy, Default)]
struct Positions;

impl BuildHasher for Positions {
    type Hasher = Position;

    fn build_hasher(&self) -> Position {
        Position(0)
    }
}

struct Position(u64);

impl Hasher for Position {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Nothing on the ring hashes anything but one u64; folding keeps the function total.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, position: u64) {
        self.0 = position;
    }
}

/// One point of a shard.
#[derive(Clone, Copy)]
struct Point {
    position: u64,
    shard: ShardId,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.position);
    }
}

struct Ring(HashRing<Point, Positions>);

impl Ring {
    fn new(shards: &[(&str, f64)]) -> Self {
        let mut points: Vec<Point> = Vec::new();
        for (index, (name, weight)) in shards.iter().enumerate() {
            let count = if *weight > 0.0 { (POINTS * weight).round().max(1.0) as u32 } else { 0 };
            let shard = shard_id(index);
            points.extend((0..count).map(|n| Point { position: position(name, n), shard }));
        }
        // Equal positions would tie by order of insertion, which depends on nothing but the order of shards.
        let mut ring = HashRing::with_hasher(Positions);
        ring.batch_add(points);
        Self(ring)
    }

    /// The first shard from the slot's position on that `wants` it.
    fn next(&self, slot: Slot, wants: impl Fn(ShardId) -> bool) -> Option<ShardId> {
        let mut position = slot_position(slot);
        for _ in 0..=self.0.len() {
            let point = self.0.get(&position)?;
            if wants(point.shard) {
                return Some(point.shard);
            }
            position = point.position.wrapping_add(1);
        }
        None
    }
}

/// Names and weights as [`propose`] wants them.
#[must_use]
pub fn weights(shards: &[Shard]) -> Vec<(&str, f64)> {
    shards.iter().map(|shard| (shard.name.as_str(), shard.weight)).collect()
}

/// Proposes a slot map. Shards of weight 0 are to be drained. With `previous`, whose ids mean the same shards (new ones
/// are appended), the fewest possible slots move. Balance is within one slot of each shard's share by weight.
/// No shard, or none with a weight: every slot on the first.
#[must_use]
pub fn propose(shards: &[(&str, f64)], previous: Option<&[ShardId]>) -> Vec<ShardId> {
    let previous = previous.filter(|map| map.len() == usize::from(SLOTS));
    let mut owned = vec![0_usize; shards.len()];
    let mut map: Vec<Option<ShardId>> = vec![None; usize::from(SLOTS)];
    for (slot, shard) in previous.into_iter().flatten().enumerate() {
        if let Some(count) = owned.get_mut(usize::from(shard.0)) {
            *count += 1;
            map[slot] = Some(*shard);
        }
    }
    let share = shares(shards, &owned);
    let ring = Ring::new(shards);
    // First the slots that the ring itself would give to a shard that lacks some, then whatever is still too many.
    for only_preferred in [true, false] {
        for slot in Slot::all() {
            let at = usize::from(slot.0);
            if map[at].is_some_and(|shard| owned[index(shard)] <= share[index(shard)]) {
                continue;
            }
            let lacks = |shard: ShardId| owned[index(shard)] < share[index(shard)];
            let taker = if only_preferred {
                ring.next(slot, |_| true).filter(|s| lacks(*s))
            } else {
                ring.next(slot, lacks)
            };
            if let Some(taker) = taker {
                if let Some(giver) = map[at] {
                    owned[index(giver)] -= 1;
                }
                owned[index(taker)] += 1;
                map[at] = Some(taker);
            }
        }
    }
    map.into_iter().map(|shard| shard.unwrap_or(ShardId(0))).collect()
}

/// How many slots each shard should have: its share by weight, rounded down or up so that the sum is right. Up for
/// those that already have more (a slot that need not move), then by the larger remainder, then in order.
fn shares(shards: &[(&str, f64)], owned: &[usize]) -> Vec<usize> {
    let total: f64 = shards.iter().map(|(_, weight)| weight.max(0.0)).sum();
    if total <= 0.0 {
        return vec![0; shards.len()];
    }
    let exact: Vec<f64> =
        shards.iter().map(|(_, weight)| f64::from(SLOTS) * weight.max(0.0) / total).collect();
    let mut share: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut order: Vec<usize> = (0..shards.len()).filter(|i| exact[*i].fract() > 0.0).collect();
    order.sort_by(|a, b| {
        let has_more = |i: &usize| owned[*i] > share[*i];
        let remainder = |i: &usize| exact[*i].fract();
        has_more(b).cmp(&has_more(a)).then(remainder(b).total_cmp(&remainder(a))).then(a.cmp(b))
    });
    let missing = usize::from(SLOTS).saturating_sub(share.iter().sum());
    for i in order.into_iter().take(missing) {
        share[i] += 1;
    }
    share
}

fn index(shard: ShardId) -> usize {
    usize::from(shard.0)
}

fn shard_id(index: usize) -> ShardId {
    ShardId(u16::try_from(index).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests;
