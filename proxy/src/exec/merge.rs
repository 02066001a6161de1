//! How the answers of several shards become one: rows in order, tags with the counts of all.

use bytes::{Bytes, BytesMut};

use super::ask::Share;
use crate::backend::conn::Events;
use crate::backend::owed::Show;
use crate::wire::backend::tag;
use crate::wire::reply;

/// How the answers become one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Merge {
    /// Rows one after the other, tags added up.
    Concat,
    /// As `Concat`, but rows in the order of the application's VALUES.
    Ordered,
    /// Rows merged as the plan says: so many of them.
    Gathered(u64),
    /// The first share's answer stands for all.
    First,
    /// As `First`, but the tags are added up.
    Sum,
}

impl Merge {
    /// What is shown of a share's answer.
    pub(super) fn show(self, first: bool) -> Show {
        let rows = match self {
            Self::Concat | Self::Gathered(_) => Show::ROWS,
            Self::Ordered => Show::NOTHING,
            Self::First | Self::Sum if first => Show::ROWS,
            Self::First | Self::Sum => Show::NOTHING,
        };
        if first { rows.and(Show::DESCRIPTION).and(Show::ERRORS) } else { rows }
    }

    /// Whether the rows of all shares are the application's.
    pub(super) fn takes_all(self) -> bool {
        match self {
            Self::Concat | Self::Ordered | Self::Gathered(_) => true,
            Self::First | Self::Sum => false,
        }
    }
}

/// Captured rows in the order of the application's VALUES; one share after the other where the numbers do not match (ON CONFLICT).
pub(super) fn order_rows(outcome: &[Events], shares: &[Share], out: &mut BytesMut) {
    let complete = outcome.iter().zip(shares).all(|(events, share)| events.rows.len() == share.rows.len());
    let mut rows: Vec<(u32, &Bytes)> = Vec::new();
    for (events, share) in outcome.iter().zip(shares) {
        for (n, row) in events.rows.iter().enumerate() {
            let position = if complete { share.rows[n] } else { rows.len() as u32 };
            rows.push((position, row));
        }
    }
    rows.sort_by_key(|(position, _)| *position);
    for (_, row) in rows {
        reply::frame(out, tag::DATA_ROW, |b| b.extend_from_slice(row));
    }
}

/// `INSERT 0 2` and `INSERT 0 3` make `INSERT 0 5`; tags without a count stay as they are.
pub(super) fn sum_tags(tags: &[&[u8]]) -> Option<String> {
    let first = std::str::from_utf8(tags.first()?).ok()?;
    let Some((words, _)) = first.rsplit_once(' ').filter(|(_, n)| n.parse::<u64>().is_ok()) else {
        return Some(first.to_owned());
    };
    let count = |tag: &&[u8]| std::str::from_utf8(tag).ok()?.rsplit(' ').next()?.parse::<u64>().ok();
    let sum: u64 = tags.iter().filter_map(count).sum();
    Some(format!("{words} {sum}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_with_counts_are_added_up() {
        assert_eq!(sum_tags(&[b"INSERT 0 2", b"INSERT 0 3"]).as_deref(), Some("INSERT 0 5"));
        assert_eq!(sum_tags(&[b"SELECT 0", b"SELECT 7"]).as_deref(), Some("SELECT 7"));
        assert_eq!(sum_tags(&[b"CREATE TABLE", b"CREATE TABLE"]).as_deref(), Some("CREATE TABLE"));
        assert_eq!(sum_tags(&[]), None);
    }
}
