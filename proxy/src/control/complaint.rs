//! What goes wrong again and again is told at once when it begins or changes, then every ten seconds: an outage of an hour does
//! not hide everything else in the log.

use std::fmt::Display;

use tokio::time::{Duration, Instant};

/// Between two lines that say the same.
const SAME_GAP: Duration = Duration::from_secs(10);
/// Between two lines at all: reasons may alternate.
const GAP: Duration = Duration::from_secs(1);

/// What was told last of one thing that can go wrong, and when.
#[derive(Debug, Default)]
pub(super) struct Complaint(Option<(String, Instant)>);

impl Complaint {
    /// The error of another try, if it is to be told now.
    pub(super) fn of<T, E: Display>(&mut self, tried: Result<T, E>) -> Option<E> {
        match tried {
            Ok(_) => {
                self.over();
                None
            }
            Err(error) => self.due(&error.to_string()).then_some(error),
        }
    }

    /// Whether to tell this reason now.
    pub(super) fn due(&mut self, reason: &str) -> bool {
        self.due_at(Instant::now(), reason)
    }

    fn due_at(&mut self, now: Instant, reason: &str) -> bool {
        let due = self.0.as_ref().is_none_or(|(told, at)| {
            let gap = if told == reason { SAME_GAP } else { GAP };
            now.duration_since(*at) >= gap
        });
        if due {
            self.0 = Some((reason.to_owned(), now));
        }
        due
    }

    /// It works. Whether anything was told before.
    pub(super) fn over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_at_once_and_then_every_ten_seconds() {
        let (mut complaint, began) = (Complaint::default(), Instant::now());
        let at = |tenths: u64| began + Duration::from_millis(100 * tenths);
        let told: Vec<u64> = (0..350).filter(|tenths| complaint.due_at(at(*tenths), "down")).collect();
        assert_eq!(told, [0, 100, 200, 300]);
        assert!(complaint.due_at(at(350), "refused"), "another reason is told at once");
        assert!(!complaint.due_at(at(355), "down"), "but not ten times a second where they alternate");
        assert!(complaint.over() && !complaint.over());
        assert!(complaint.due_at(at(356), "down"), "it is new");
    }
}
