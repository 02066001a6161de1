//! Several sessions at once: their statements are interleaved in one order that both sides keep.
//!
//! A statement that has to wait for another session's lock waits in vain, on both sides: sessions have a `lock_timeout`.

use tests::random::Random;

use crate::case::Step;
use crate::select::point;
use crate::session::{inner, query};
use crate::write::write;

/// Sessions of a case.
const SESSIONS: usize = 3;

/// Statements of two or three sessions, in the order in which they are sent.
pub(crate) fn sessions(random: &mut Random) -> Vec<Step> {
    let mut scripts: Vec<Vec<Step>> = (0..2 + random.below(SESSIONS - 1)).map(|_| script(random)).collect();
    let mut steps = Vec::new();
    while !scripts.iter().all(Vec::is_empty) {
        let session = random.below(scripts.len());
        if !scripts[session].is_empty() {
            steps.push(Step { session, ..scripts[session].remove(0) });
        }
    }
    steps
}

/// What one session does: a transaction, or statements of their own.
fn script(random: &mut Random) -> Vec<Step> {
    let begin = random.pick(&[
        None,
        Some("begin"),
        Some("begin"),
        Some("begin isolation level repeatable read"),
        Some("begin isolation level repeatable read read only"),
    ]);
    let mut steps: Vec<_> = begin.map(Step::simple).into_iter().collect();
    for _ in 0..2 + random.below(3) {
        let case = match random.below(5) {
            0 | 1 => write(random),
            2 => query(random),
            _ => point(random),
        };
        steps.extend(inner(case));
        if begin.is_some() && random.chance(15) {
            steps.push(Step::simple("savepoint s"));
        }
    }
    if begin.is_some() {
        steps.push(Step::simple(random.pick(&["commit", "rollback"])));
    }
    steps
}
