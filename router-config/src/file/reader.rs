//! Typed access to a TOML table that notes every mistake instead of stopping at the first.
//!
//! Each getter of [`Section`] names a key, which makes it a known one; [`Section::finish`] then reports the others.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::{self, Whose};
use super::mistake::{Lines, Mistake};
use super::value;
use crate::topology::NodeAddress;

/// A value with its place in the text.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What a setting needs from outside of the file.
#[derive(Clone, Copy)]
pub(super) struct Outside<'r> {
    /// Environment variables.
    pub(super) env: &'r dyn Fn(&str) -> Option<String>,
    /// Files that settings name.
    pub(super) read: &'r dyn Fn(&Path) -> std::io::Result<String>,
}

/// The lines of the text, its surroundings, and the mistakes found so far.
pub(super) struct Reader<'r> {
    lines: &'r Lines<'r>,
    directory: PathBuf,
    outside: Outside<'r>,
    broken: bool,
    mistakes: RefCell<Vec<Mistake>>,
}

impl<'r> Reader<'r> {
    /// `broken`: TOML's own errors were found, so that what seems to be missing may merely have been unreadable.
    pub(super) fn new(lines: &'r Lines<'r>, path: &Path, outside: Outside<'r>, broken: bool) -> Self {
        let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Self { lines, directory, outside, broken, mistakes: RefCell::default() }
    }

    /// Notes a mistake.
    pub(super) fn mistake(
        &self,
        span: &Range<usize>,
        key: &str,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        let (line, column) = self.lines.position(span.start);
        let (message, cure) = (message.into(), cure.into());
        self.mistakes.borrow_mut().push(Mistake { line, column, key: key.to_owned(), message, cure });
    }

    /// Notes that something is not there.
    pub(super) fn missing(
        &self,
        span: &Range<usize>,
        key: &str,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        if !self.broken {
            self.mistake(span, key, message, cure);
        }
    }

    /// All mistakes.
    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }
}

/// A TOML table: one section, or one entry of an array of them.
pub(super) struct Section<'s, 'i> {
    pub(super) reader: &'s Reader<'s>,
    name: String,
    table: Option<&'s DeTable<'i>>,
    span: Range<usize>,
    known: Vec<&'static str>,
}

impl<'s, 'i> Section<'s, 'i> {
    /// The whole file.
    pub(super) fn root(reader: &'s Reader<'s>, table: &'s DeTable<'i>) -> Self {
        Self { reader, name: String::new(), table: Some(table), span: 0..0, known: Vec::new() }
    }

    /// Place of the section's header, for mistakes about the section as a whole.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Full name of a key of this section.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The place of a key's value, or else of the section.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.table.and_then(|table| table.get(key)).map_or_else(|| self.span(), Spanned::span)
    }

    /// Whether the file says anything for this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Notes a mistake about a key.
    pub(super) fn mistake(&self, key: &str, message: impl Into<String>, cure: impl Into<String>) {
        self.reader.mistake(&self.span_of(key), &self.path_of(key), message, cure);
    }

    /// Notes that a key is needed and not there.
    pub(super) fn missing(&self, key: &str, cure: impl Into<String>) {
        self.reader.missing(&self.span, &self.path_of(key), "is missing", cure);
    }

    /// The value of a key, which thereby is a known one.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'s Value<'i>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.and_then(|table| table.get(key))
    }

    fn wrong_type(&self, key: &str, found: &Value<'_>, wanted: &str, cure: impl Into<String>) {
        let message = format!("must be {wanted}, not {}", with_article(found.get_ref().type_str()));
        self.mistake(key, message, cure);
    }

    /// A sub-table.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'s, 'i> {
        let name = self.path_of(key);
        let mut section =
            Section { reader: self.reader, name, table: None, span: self.span(), known: Vec::new() };
        if let Some(found) = self.value(key) {
            section.span = found.span();
            match found.get_ref().as_table() {
                Some(table) => section.table = Some(table),
                None => {
                    self.wrong_type(key, found, "a section", format!("write [{key}] on a line of its own"))
                }
            }
        }
        section
    }

    /// The entries of an array of tables.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'s, 'i>> {
        let cure = || format!("write [[{key}]] on a line of its own before each entry");
        let Some(found) = self.value(key) else { return Vec::new() };
        let Some(entries) = found.get_ref().as_array() else {
            self.wrong_type(key, found, "a list of sections", cure());
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let name = format!("{key}[{}]", index + 1);
            match entry.get_ref().as_table() {
                Some(table) => {
                    let known = Vec::new();
                    sections.push(Section {
                        reader: self.reader,
                        name,
                        table: Some(table),
                        span: entry.span(),
                        known,
                    });
                }
                None => self.reader.mistake(&entry.span(), &name, "must be a section", cure()),
            }
        }
        sections
    }

    /// A text.
    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        let found = self.value(key)?;
        match found.get_ref().as_str() {
            // No name, password or statement of PostgreSQL has one: it would be cut there.
            Some(text) if text.contains('\0') => {
                self.mistake(key, "contains a NUL character", "remove it");
                None
            }
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong_type(key, found, "a text", "put it in double quotes");
                None
            }
        }
    }

    /// A text that may not be empty.
    pub(super) fn name(&mut self, key: &'static str) -> Option<String> {
        let text = self.string(key)?;
        if text.is_empty() {
            self.mistake(key, "is empty", "give it a name, or leave the line out");
            return None;
        }
        Some(text)
    }

    /// A filter of log lines.
    pub(super) fn log_filter(&mut self, key: &'static str) -> Option<String> {
        let text = self.name(key)?;
        let Err(part) = value::log_filter(&text) else { return Some(text) };
        let cure = match closest(part, &value::LOG_LEVELS) {
            Some(level) => format!("did you mean \"{level}\"? {}", value::LOG_FILTER_CURE),
            None => value::LOG_FILTER_CURE.to_owned(),
        };
        self.mistake(key, format!("\"{part}\" is not a level"), cure);
        None
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, target: &mut bool) {
        let Some(found) = self.value(key) else { return };
        match found.get_ref().as_bool() {
            Some(flag) => *target = flag,
            None => self.wrong_type(key, found, "true or false", "write true or false, without quotes"),
        }
    }

    /// A whole number within a range.
    pub(super) fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let found = self.value(key)?;
        let cure = format!("write a number from {} to {}", range.start(), range.end());
        if !found.get_ref().is_integer() {
            self.wrong_type(key, found, "a whole number", cure);
            return None;
        }
        let number = integer(found.get_ref()).and_then(|number| u64::try_from(number).ok());
        if !number.is_some_and(|number| range.contains(&number)) {
            self.mistake(key, format!("{} is out of range", shown(found.get_ref())), cure);
            return None;
        }
        number
    }

    /// A count of things.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        target: &mut usize,
        range: std::ops::RangeInclusive<u64>,
    ) {
        if let Some(number) = self.number(key, range).and_then(|number| usize::try_from(number).ok()) {
            *target = number;
        }
    }

    /// A length of time.
    pub(super) fn duration(&mut self, key: &'static str, target: &mut Duration) {
        let Some(found) = self.value(key) else { return };
        let parsed = match found.get_ref() {
            DeValue::String(text) => value::duration(text),
            DeValue::Integer(_) => integer(found.get_ref())
                .and_then(|millis| u64::try_from(millis).ok())
                .and_then(value::duration_from_millis),
            _ => return self.wrong_type(key, found, "a duration", value::DURATION_CURE),
        };
        match parsed {
            Some(duration) => *target = duration,
            None => self.mistake(
                key,
                format!("{} is not a duration", shown(found.get_ref())),
                value::DURATION_CURE,
            ),
        }
    }

    /// A number of bytes within a range.
    pub(super) fn bytes(
        &mut self,
        key: &'static str,
        target: &mut usize,
        range: std::ops::RangeInclusive<u64>,
    ) {
        let Some(found) = self.value(key) else { return };
        let parsed = match found.get_ref() {
            DeValue::String(text) => value::size(text),
            DeValue::Integer(_) => integer(found.get_ref()).and_then(|bytes| u64::try_from(bytes).ok()),
            _ => return self.wrong_type(key, found, "a size", value::SIZE_CURE),
        };
        match parsed {
            None => self.mistake(key, format!("{} is not a size", shown(found.get_ref())), value::SIZE_CURE),
            Some(bytes) if !range.contains(&bytes) => {
                let cure = format!("write a size from {} to {} bytes", range.start(), range.end());
                self.mistake(key, format!("{bytes} bytes are out of range"), cure);
            }
            Some(bytes) => *target = usize::try_from(bytes).unwrap_or(usize::MAX),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let word = self.string(key)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == word) {
            return Some(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let cure = match closest(&word, &names) {
            Some(name) => format!("did you mean \"{name}\"? It can be {}", listed(&names)),
            None => format!("write {}", listed(&names)),
        };
        self.mistake(key, format!("\"{word}\" is not one of its values"), cure);
        None
    }

    /// A list of texts.
    pub(super) fn strings(&mut self, key: &'static str) -> Option<Vec<(String, Range<usize>)>> {
        let found = self.value(key)?;
        let Some(entries) = found.get_ref().as_array() else {
            self.wrong_type(key, found, "a list of texts", "write it like [\"one\", \"two\"]");
            return None;
        };
        let mut texts = Vec::new();
        for entry in entries {
            match entry.get_ref().as_str() {
                Some(text) if text.contains('\0') => {
                    let key = self.path_of(key);
                    self.reader.mistake(&entry.span(), &key, "contains a NUL character", "remove it");
                }
                Some(text) => texts.push((text.to_owned(), entry.span())),
                None => {
                    let message = format!("holds {}", with_article(entry.get_ref().type_str()));
                    self.reader.mistake(
                        &entry.span(),
                        &self.path_of(key),
                        message,
                        "put each entry in double quotes",
                    );
                }
            }
        }
        Some(texts)
    }

    /// `host:port`.
    pub(super) fn address(&mut self, key: &'static str, whose: Whose) -> Option<NodeAddress> {
        let text = self.string(key)?;
        self.address_in(key, whose, (&text, &self.span_of(key)))
    }

    /// `host:port`, found at a place of its own.
    pub(super) fn address_in(
        &self,
        key: &str,
        whose: Whose,
        (text, span): (&str, &Range<usize>),
    ) -> Option<NodeAddress> {
        if let Some(fault) = address::fault(text, whose) {
            self.reader.mistake(span, &self.path_of(key), fault, whose.cure());
            return None;
        }
        text.parse().ok()
    }

    /// A file that can be read; a relative name is relative to the configuration file.
    pub(super) fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = self.reader.directory.join(self.name(key)?);
        match (self.reader.outside.read)(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.mistake(key, message, "name a file that the proxy's user may read");
                None
            }
        }
    }

    /// A secret: written out, in a file (its first line), or in an environment variable.
    pub(super) fn secret(&mut self, [plain, file, env]: [&'static str; 3]) -> Option<String> {
        let given: Vec<&str> = [plain, file, env].into_iter().filter(|key| self.has(key)).collect();
        if let [_, second, ..] = given[..] {
            self.mistake(second, format!("is given besides {}", self.path_of(given[0])), "keep one of them");
        }
        let written = self.string(plain);
        let from_file = self.secret_file(file);
        let from_env = self.name(env).and_then(|variable| {
            let value = (self.reader.outside.env)(&variable);
            if value.is_none() {
                self.mistake(
                    env,
                    format!("the environment has no {variable}"),
                    "set it before the proxy starts",
                );
            }
            value
        });
        written.or(from_file).or(from_env)
    }

    fn secret_file(&mut self, key: &'static str) -> Option<String> {
        let path = self.file(key)?;
        let text = (self.reader.outside.read)(&path).ok()?;
        let secret = text.lines().next().unwrap_or_default().to_owned();
        if secret.is_empty() {
            self.mistake(
                key,
                format!("the first line of {} is empty", path.display()),
                "put the secret on it",
            );
            return None;
        }
        Some(secret)
    }

    /// Reports keys that no getter has asked for, and returns those that one has.
    pub(super) fn finish(self) -> Vec<&'static str> {
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let word: &str = key.get_ref();
            if self.known.contains(&word) {
                continue;
            }
            let cure = match closest(word, &self.known) {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            self.reader.mistake(&key.span(), &self.path_of(word), "is not a setting", cure);
        }
        self.known
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The candidate that a mistyped word most resembles; one that begins with it comes first, then one that contains it.
pub(super) fn closest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let score = |candidate: &str| {
        let contained = word.len() > 2 && candidate.contains(word);
        let begins = if candidate.starts_with(word) { 1.0 } else { 0.99 };
        if contained { begins } else { strsim::jaro_winkler(word, candidate) }
    };
    let scored = candidates.iter().map(|candidate| (score(candidate), *candidate));
    scored
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `"a", "b" or "c"`.
pub(super) fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {noun}")
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        other => other.type_str().to_owned(),
    }
}
