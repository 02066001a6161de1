//! What a server draws by itself: keys from sequences, OIDs, the time. PostgreSQL and the proxy draw different ones, and the
//! application sends them again.
//!
//! Keys are told from other numbers by their size: a recorded application begins each sequence at a multiple of [`RANGE`], and has no
//! other numbers as great. Which key of the shards stands for which of PostgreSQL is learnt where both are said in one place of
//! equal answers, and is one to one: a key that stands for two is an error.

use std::collections::HashMap;
use std::time::SystemTime;

use super::numbers;

/// Between the beginnings of two sequences.
const RANGE: u64 = 10_000_000;
/// Behind the last of them; in binary format no greater number is taken for text.
const END: u64 = 0x2000_0000;
/// From here on OIDs are of objects that a user has made.
const FIRST_OID: u64 = 16_384;
/// How far from now a time may be that was read from a clock just now, in seconds.
const NOW: u64 = 3600;
/// From 1970 to PostgreSQL's epoch, in seconds.
const EPOCH: u64 = 946_684_800;

/// Whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Ours,
    Theirs,
}

/// The keys that are known.
#[derive(Debug, Default)]
pub(crate) struct Drawn {
    to_ours: HashMap<u64, u64>,
    to_theirs: HashMap<u64, u64>,
}

const fn is_key(number: u64) -> bool {
    number > RANGE && number < END && !number.is_multiple_of(RANGE)
}

impl Drawn {
    /// The key to send to the proxy for a recorded one, which PostgreSQL draws again. One that nobody has drawn is the
    /// application's own, and itself.
    ///
    /// # Errors
    /// When the shards have drawn that number for something else.
    pub(crate) fn sent(&mut self, number: u64) -> Result<Option<u64>, String> {
        if !is_key(number) {
            return Ok(None);
        }
        if !self.to_ours.contains_key(&number) {
            self.learn(number, number)?;
        }
        Ok(self.to_ours.get(&number).copied())
    }

    /// From now on `ours` stands for `theirs`.
    ///
    /// # Errors
    /// When one of them stands for another already.
    pub(crate) fn learn(&mut self, theirs: u64, ours: u64) -> Result<(), String> {
        let (before, after) =
            (*self.to_ours.entry(theirs).or_insert(ours), *self.to_theirs.entry(ours).or_insert(theirs));
        if (before, after) == (ours, theirs) {
            return Ok(());
        }
        Err(format!(
            "the shards drew {ours} for {theirs}, but {before} stands for {theirs}, and {ours} for {after}"
        ))
    }

    /// The value as PostgreSQL would say it. A key that is not known is said by its sequence alone.
    pub(crate) fn plain(&self, whose: Whose, value: &[u8]) -> Vec<u8> {
        if is_now(value) {
            return b"(now)".to_vec();
        }
        let mut key = |number: u64| {
            let known = match whose {
                Whose::Ours => self.to_theirs.get(&number).copied(),
                Whose::Theirs => self.to_ours.contains_key(&number).then_some(number),
            };
            is_key(number)
                .then(|| known.map_or_else(|| format!("(new {})", number / RANGE), |known| known.to_string()))
        };
        match numbers::of_binary(value).filter(|number| is_key(*number)).and_then(&mut key) {
            Some(key) => format!("(binary {key})").into_bytes(),
            None => numbers::replaced(value, &mut key),
        }
    }

    /// The keys in a value that are not known, in order.
    pub(crate) fn unknown(&self, whose: Whose, value: &[u8]) -> Vec<u64> {
        let mut found = Vec::new();
        let known = match whose {
            Whose::Ours => &self.to_theirs,
            Whose::Theirs => &self.to_ours,
        };
        let mut look = |number| {
            if is_key(number) && !known.contains_key(&number) {
                found.push(number);
            }
            None
        };
        if let Some(number) = numbers::of_binary(value).filter(|number| is_key(*number)) {
            look(number);
        } else {
            numbers::replaced(value, &mut look);
        }
        found
    }
}

/// OIDs of the user's objects are said to be such, and nothing else.
pub(crate) fn without_oids(value: &[u8]) -> Vec<u8> {
    let mut oid = |number| (number >= FIRST_OID).then(|| "(oid)".to_owned());
    match numbers::of_binary(value).filter(|_| !value.iter().all(u8::is_ascii_digit)).and_then(&mut oid) {
        Some(oid) => oid.into_bytes(),
        None => numbers::replaced(value, &mut oid),
    }
}

/// Whether it is a point in time that a clock has said while the test ran, in either format.
fn is_now(value: &[u8]) -> bool {
    let seconds = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
    let said = match numbers::of_binary(value) {
        Some(micros) => Some(micros / 1_000_000 + EPOCH),
        None => seconds_of(value),
    };
    said.is_some_and(|said| said.abs_diff(seconds) < NOW)
}

/// Seconds since 1970 of a text that begins as `2031-03-01 12:00:00` does and is no longer than a time is.
fn seconds_of(text: &[u8]) -> Option<u64> {
    const LONGEST: usize = 35;
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() >= 19 && text.len() <= LONGEST)?;
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    // Days of the Gregorian calendar, in years that begin with March.
    let (year, month) =
        if month < 3 { (year.checked_sub(1)?, month + 9) } else { (year, month.checked_sub(3)?) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some((days.checked_sub(719_469)? * 24 + hour) * 3600 + minute * 60 + second)
}

#[test]
fn a_time_is_read() {
    assert_eq!(seconds_of(b"1970-01-01 00:00:00+00"), Some(0));
    assert_eq!(seconds_of(b"2000-01-01 00:00:01.5"), Some(EPOCH + 1));
    assert_eq!(seconds_of(b"2024-02-29T12:00:00Z"), Some(1_709_208_000));
    assert_eq!(seconds_of(b"a note on time, longer"), None);
}

#[test]
fn a_key_stands_for_one_other() {
    let mut drawn = Drawn::default();
    drawn.learn(10_000_001, 10_001_024).expect("the first");
    drawn.learn(10_000_001, 10_001_024).expect("the same");
    drawn.learn(10_000_002, 10_001_024).expect_err("it stands for another");
    assert_eq!(drawn.sent(10_000_001), Ok(Some(10_001_024)));
    assert_eq!(drawn.sent(12), Ok(None));
    drawn
        .sent(10_001_024)
        .expect_err("a number that nobody has drawn, and that the shards have drawn for another");
    assert_eq!(drawn.plain(Whose::Ours, b"{10001024,7,20000005}"), b"{10000001,7,(new 2)}");
    assert_eq!(drawn.unknown(Whose::Ours, b"{10001024,7,20000005}"), [20_000_005]);
}
