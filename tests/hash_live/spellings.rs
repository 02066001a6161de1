//! Random values and spellings of each key type, from a seed.

use router_config::key::{KeyType, KeyValue};
use tests::random::Random;

/// A source of them.
pub(crate) struct Spellings(Random);

impl Spellings {
    /// From `SEED` if it is set, else from the clock; printed, so that a failure can be replayed.
    #[allow(clippy::print_stdout, reason = "a failing test shows its seed")]
    pub(crate) fn new() -> Self {
        let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970");
            now.subsec_nanos().into()
        });
        println!("SEED={seed}");
        Self(Random::new(seed))
    }

    fn digits(&mut self, most: usize) -> String {
        let count = self.0.below(most + 1);
        (0..count).map(|_| self.0.pick(&['0', '0', '0', '1', '4', '5', '9'])).collect()
    }

    /// An integer of a random width.
    fn integer(&mut self, bits: u32) -> i64 {
        let width = 1 + self.0.below(bits as usize) as u32;
        (self.0.bits() as i64) >> (64 - width)
    }

    /// A spelling of a valid value.
    pub(crate) fn spelling(&mut self, key_type: KeyType) -> String {
        match key_type {
            KeyType::Int2 => self.spelled_integer(16),
            KeyType::Int4 => self.spelled_integer(32),
            KeyType::Int8 => self.spelled_integer(64),
            KeyType::Text | KeyType::Bpchar => {
                let count = self.0.below(40);
                (0..count)
                    .map(|_| self.0.pick(&['a', 'B', '7', ' ', '\'', '\\', 'é', '漢', '😀', '\t', '\n']))
                    .collect()
            }
            KeyType::Uuid => self.spelled_uuid(),
            KeyType::Numeric => self.spelled_numeric(),
            KeyType::Date => {
                let days = self.0.below(3_652_059) as i32 - 730_119;
                KeyValue::Date(days).to_string()
            }
            KeyType::Timestamptz => self.spelled_timestamp(),
        }
    }

    fn spelled_integer(&mut self, bits: u32) -> String {
        let number = self.integer(bits);
        let sign = if number < 0 { "-" } else { self.0.pick(&["", "", "+"]) };
        let zeros = "0".repeat(self.0.below(3));
        let (before, after) = (self.0.pick(&["", "", " ", "\t\n"]), self.0.pick(&["", "", "  ", "\r"]));
        format!("{before}{sign}{zeros}{}{after}", number.unsigned_abs())
    }

    fn spelled_uuid(&mut self) -> String {
        let (high, low) = (self.0.bits(), self.0.bits());
        let hex = format!("{high:016x}{low:016x}");
        let mut text = String::new();
        for (at, digit) in hex.chars().enumerate() {
            if at > 0 && at % 4 == 0 && self.0.below(2) == 0 {
                text.push('-');
            }
            text.push(if self.0.below(2) == 0 { digit.to_ascii_uppercase() } else { digit });
        }
        if self.0.below(4) == 0 { format!("{{{text}}}") } else { text }
    }

    fn spelled_numeric(&mut self) -> String {
        if self.0.below(50) == 0 {
            return (self.0.pick(&["NaN", "inf", "-Infinity", "nan ", " +INF"])).to_owned();
        }
        let (whole, fraction) = (self.digits(20), self.digits(20));
        let whole = if whole.is_empty() && fraction.is_empty() { "0".to_owned() } else { whole };
        let point = if fraction.is_empty() { self.0.pick(&["", "."]) } else { "." };
        let exponent = match self.0.below(3) {
            0 => format!("{}{}", self.0.pick(&["e", "E", "e+", "e-"]), self.0.below(60)),
            _ => String::new(),
        };
        format!("{}{whole}{point}{fraction}{exponent}", self.0.pick(&["", "-", "+", " "]))
    }

    fn spelled_timestamp(&mut self) -> String {
        let span = 3_652_059_u64 * 86_400_000_000;
        let micros = (self.0.bits() % span) as i64 - 730_118 * 86_400_000_000;
        let micros = if self.0.below(3) == 0 { micros } else { micros - micros.rem_euclid(1_000_000) };
        let utc = KeyValue::Timestamptz(micros).to_string();
        let local = utc.trim_end_matches("+00");
        let (hour, minute) = (self.0.below(16), self.0.below(60));
        let zone = match self.0.below(5) {
            0 => "Z".to_owned(),
            1 => format!("+{hour:02}"),
            2 => format!("-{hour:02}:{minute:02}"),
            3 => format!("+{hour:02}{minute:02}"),
            _ => format!("-{hour:02}:{minute:02}:{:02}", self.0.below(60)),
        };
        format!("{}{zone}", if self.0.below(2) == 0 { local.replace(' ', "T") } else { local.to_owned() })
    }

    /// A spelling after a few random edits.
    pub(crate) fn mutated(&mut self, key_type: KeyType) -> String {
        const ALPHABET: [char; 32] = [
            ' ', '\t', '\n', '+', '-', '.', 'e', 'E', '_', 'x', 'X', '0', '1', '9', '5', '{', '}', ':', 'T',
            'Z', 'n', 'a', 'i', 'f', 'b', 'c', 'é', '\u{a0}', '\u{b}', 'B', 'C', '/',
        ];
        let mut chars: Vec<char> = self.spelling(key_type).chars().collect();
        for _ in 0..self.0.below(4) {
            let at = self.0.below(chars.len() + 1);
            match self.0.below(4) {
                0 if at < chars.len() => {
                    chars.remove(at);
                }
                1 if at < chars.len() => chars[at] = self.0.pick(&ALPHABET),
                2 if at < chars.len() => chars.insert(at, chars[at]),
                _ => chars.insert(at, self.0.pick(&ALPHABET)),
            }
        }
        chars.into_iter().collect()
    }
}
