//! Which line of the application's data a shard's line was, so that errors name the line that the application sent.

use std::collections::VecDeque;

/// Lines remembered for each shard. A shard reports an error long before it has been sent so many more; older lines
/// keep the shard's own number in its messages.
const LINES_MAX: usize = 1 << 20;

/// The lines that one shard was given.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// Lines forgotten.
    forgotten: u64,
    /// Numbers of the application's lines, in the shard's order.
    lines: VecDeque<u32>,
}

impl Origins {
    /// The shard is given these lines of the application's.
    pub(super) fn push(&mut self, lines: std::ops::RangeInclusive<u64>) {
        for line in lines {
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
                self.forgotten += 1;
            }
            self.lines.push_back(u32::try_from(line).unwrap_or(u32::MAX));
        }
    }

    /// The application's number of the shard's line (both 1-based), if it is still known.
    pub(super) fn find(&self, line: u64) -> Option<u64> {
        let index = line.checked_sub(self.forgotten + 1)?;
        let found = *self.lines.get(usize::try_from(index).ok()?)?;
        (found != u32::MAX).then_some(found.into())
    }
}

/// `COPY bids, line 5, column …` with the line's number as `find` has it.
pub(super) fn rewrite(context: &str, find: impl Fn(u64) -> Option<u64>) -> Option<String> {
    const BEFORE: &str = ", line ";
    let copy = if context.starts_with("COPY ") { 0 } else { context.find("\nCOPY ")? };
    let start = copy + context.get(copy..)?.find(BEFORE)? + BEFORE.len();
    let rest = context.get(start..)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let line = find(rest.get(..digits)?.parse().ok()?)?;
    Some(format!("{}{line}{}", context.get(..start)?, rest.get(digits..)?))
}
