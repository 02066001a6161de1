//! How many cases of each class were answered, and the least that must be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::case::Class;

/// How many cases of a class went which way.
#[derive(Debug, Default, Clone)]
struct Tally {
    same: usize,
    /// Of these: both sides said the same error.
    failed: usize,
    refused: usize,
    wrong: usize,
}

/// What came of many cases.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    tallies: BTreeMap<Class, Tally>,
    refusals: BTreeMap<(Class, String), usize>,
    statements: usize,
    /// What was wrong, for people.
    pub(crate) wrong: Vec<String>,
}

impl Rates {
    /// A case whose answers are the same; `failed`: errors.
    pub(crate) fn same(&mut self, class: Class, failed: bool) {
        let tally = self.tallies.entry(class).or_default();
        tally.same += 1;
        tally.failed += usize::from(failed);
    }

    pub(crate) fn refused(&mut self, class: Class, reason: String) {
        self.tallies.entry(class).or_default().refused += 1;
        *self.refusals.entry((class, reason)).or_default() += 1;
    }

    pub(crate) fn wrong(&mut self, class: Class, how: String) {
        self.tallies.entry(class).or_default().wrong += 1;
        self.wrong.push(how);
    }

    /// So many statements have been run.
    pub(crate) const fn ran(&mut self, statements: usize) {
        self.statements += statements;
    }

    /// Together with those of another run.
    pub(crate) fn add(&mut self, other: Self) {
        for (class, tally) in other.tallies {
            let sum = self.tallies.entry(class).or_default();
            sum.same += tally.same;
            sum.failed += tally.failed;
            sum.refused += tally.refused;
            sum.wrong += tally.wrong;
        }
        for (reason, count) in other.refusals {
            *self.refusals.entry(reason).or_default() += count;
        }
        self.statements += other.statements;
        self.wrong.extend(other.wrong);
    }

    /// How many of 100 cases of a class were answered.
    fn rate(tally: &Tally) -> f64 {
        100.0 * tally.same as f64 / (tally.same + tally.refused + tally.wrong) as f64
    }

    /// Classes with a lower rate than they must have.
    pub(crate) fn below(&self, floors: &[(Class, f64)]) -> Vec<String> {
        let low = floors.iter().filter_map(|(class, floor)| {
            let rate = self.tallies.get(class).map_or(0.0, Self::rate);
            (rate < *floor).then(|| format!("{class:?}: {rate:.1} % answered, {floor} % before"))
        });
        low.collect()
    }

    /// For people.
    pub(crate) fn table(&self, of: &str) -> String {
        let mut text = format!(
            "{of}: {} statements\n{:<16}{:>8}{:>9}{:>9}{:>7}{:>9}\n",
            self.statements, "class", "same", "(errors)", "refused", "wrong", "rate"
        );
        for (class, tally) in &self.tallies {
            let _ = writeln!(
                text,
                "{:<16}{:>8}{:>9}{:>9}{:>7}{:>8.1}%",
                format!("{class:?}"),
                tally.same,
                tally.failed,
                tally.refused,
                tally.wrong,
                Self::rate(tally)
            );
        }
        for ((class, reason), count) in &self.refusals {
            let _ = writeln!(text, "  {count:>5} {class:?}: {reason}");
        }
        text
    }
}
