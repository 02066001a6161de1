//! Tests of the ring.

use proptest::prelude::*;

use super::*;

fn counts(map: &[ShardId], shards: usize) -> Vec<usize> {
    let mut counts = vec![0; shards];
    for shard in map {
        counts[index(*shard)] += 1;
    }
    counts
}

fn named(weights: &[f64]) -> Vec<(String, f64)> {
    weights.iter().enumerate().map(|(n, weight)| (format!("shard-{}", n + 1), *weight)).collect()
}

fn run(shards: &[(String, f64)], previous: Option<&[ShardId]>) -> Vec<ShardId> {
    let shards: Vec<(&str, f64)> = shards.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    propose(&shards, previous)
}

fn moved(a: &[ShardId], b: &[ShardId]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

/// Slots within one of the share by weight.
fn assert_balanced(map: &[ShardId], weights: &[f64]) {
    let total: f64 = weights.iter().sum();
    for (shard, count) in counts(map, weights.len()).into_iter().enumerate() {
        let share = f64::from(SLOTS) * weights[shard] / total;
        assert!((count as f64 - share).abs() < 1.0, "shard {shard} has {count} slots, its share is {share}");
    }
}

/// `SELECT hashtextextended('shard-1', 1)`, …, as unsigned numbers.
#[test]
fn positions_never_change() {
    assert_eq!(position("shard-1", 0), 11_687_477_988_726_233_299);
    assert_eq!(position("shard-1", 1), 16_066_271_693_036_480_145);
    assert_eq!(position("shard-2", 1023), 5_912_297_144_731_148_737);
    assert_eq!(slot_position(Slot(0)), 0);
    assert_eq!(slot_position(Slot(1)), 1 << 50);
    assert_eq!(slot_position(Slot(16_383)), 16_383 << 50);
}

#[test]
fn a_proposal_never_changes() {
    let map = run(&named(&[1.0, 1.0, 2.0]), None);
    let bytes: Vec<u8> = map.iter().flat_map(|shard| shard.0.to_le_bytes()).collect();
    assert_eq!(hash::bytes(&bytes, 0), 6_845_718_460_722_125_095);
    assert_eq!(counts(&map, 3), [4096, 4096, 8192]);
}

#[test]
fn the_ring_decides_for_most_slots() {
    // Were it not so, bounding would have replaced the ring: a new shard would take slots by order, not by place.
    let shards = named(&[1.0; 4]);
    let shards: Vec<(&str, f64)> = shards.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    let ring = Ring::new(&shards);
    let map = propose(&shards, None);
    let preferred =
        Slot::all().filter(|slot| ring.next(*slot, |_| true) == map.get(usize::from(slot.0)).copied());
    assert!(preferred.count() > usize::from(SLOTS) * 95 / 100);
}

#[test]
fn one_more_shard_takes_its_share_and_nothing_else_moves() {
    let mut map = run(&named(&[1.0]), None);
    for count in (2_usize..=12).chain([13, 14, 15, 16, 17]) {
        let weights = vec![1.0; count];
        let next = run(&named(&weights), Some(&map));
        assert_balanced(&next, &weights);
        let new = counts(&next, count)[count - 1];
        assert_eq!(moved(&map, &next), new, "{count} shards");
        assert!(new <= usize::from(SLOTS) / count + 1);
        map = next;
    }
}

#[test]
fn draining_moves_the_slots_of_the_drained_shard_alone() {
    for count in [2_usize, 3, 5, 17, 64] {
        let map = run(&named(&vec![1.0; count]), None);
        for drained in [0, count / 2, count - 1] {
            let mut weights = vec![1.0; count];
            weights[drained] = 0.0;
            let next = run(&named(&weights), Some(&map));
            assert_balanced(&next, &weights);
            assert_eq!(moved(&map, &next), counts(&map, count)[drained]);
        }
    }
}

#[test]
fn degenerate_clusters_have_a_map_too() {
    let home = vec![ShardId(0); usize::from(SLOTS)];
    assert_eq!(propose(&[], None), home);
    assert_eq!(run(&named(&[0.0, 0.0]), None), home);
    assert_eq!(run(&named(&[5.0]), None), home);
    // A map of another length, or with unknown shards, is no previous map.
    assert_eq!(run(&named(&[1.0]), Some(&[ShardId(3)])), home);
    assert_eq!(run(&named(&[1.0]), Some(&vec![ShardId(3); usize::from(SLOTS)])), home);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_change_of_weights_moves_the_fewest_slots(
        before in proptest::collection::vec(1_u32..50, 1..12),
        after in proptest::collection::vec(0_u32..50, 1..4),
    ) {
        let before: Vec<f64> = before.iter().map(|weight| f64::from(*weight) / 10.0).collect();
        let map = run(&named(&before), None);
        assert_balanced(&map, &before);
        // The first shards get other weights.
        let mut weights = before.clone();
        for (weight, new) in weights.iter_mut().zip(&after) {
            *weight = f64::from(*new) / 10.0;
        }
        prop_assume!(weights.iter().sum::<f64>() > 0.0);
        let next = run(&named(&weights), Some(&map));
        assert_balanced(&next, &weights);
        prop_assert_eq!(run(&named(&weights), Some(&map)), next.clone());
        prop_assert_eq!(moved(&next, &run(&named(&weights), Some(&next))), 0);
        // Every shard only gives or only takes.
        let (old, new) = (counts(&map, weights.len()), counts(&next, weights.len()));
        let gain: usize = old.iter().zip(&new).map(|(old, new)| new.saturating_sub(*old)).sum();
        prop_assert_eq!(moved(&map, &next), gain);
    }
}
