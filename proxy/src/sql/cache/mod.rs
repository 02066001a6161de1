//! Facts of texts, remembered.
//!
//! The simple protocol's texts share an entry when they differ in literals alone (unless a literal's value decided
//! something); the extended protocol's texts are keyed as they are. Invariants: a hit has compared the text and not just
//! its hash; an entry is seen only by sessions whose catalog generation, search path, temporary tables and
//! `standard_conforming_strings` are those it was made for; entries and bytes are bounded, the least used go first.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache as QuickCache;
use quick_cache::{Equivalent, Weighter};

use super::combine::{self, CombineShape};
use super::extract::{Analysis, Context, analysis};
use super::facts::{DdlKind, Facts, PinCause};
use super::last_value::sequence_read;
use super::normalise::{HintSpans, Hints, Literal, Literals, Normalised, normalise, normalise_into, split};

/// Facts of a whole text.
#[derive(Debug)]
pub struct Script {
    /// The statements in order. A text without a statement has one, [`super::facts::Command::Empty`].
    pub statements: Vec<Statement>,
    /// Literals of the text that was analysed.
    literals: Literals,
    /// Hint comments of the text that was analysed: literals before it, start, end.
    hint_spans: HintSpans,
    hints: Hints,
}

/// One statement of a [`Script`].
#[derive(Debug, Clone)]
pub struct Statement {
    /// Bytes of the text that was analysed; see [`Analysed::range`] for those of the text at hand.
    pub range: Range<usize>,
    /// Offsets in it count from the start of `range`, literals from `literal_base`.
    pub facts: Arc<Facts>,
    /// Number of literals of the text before this statement.
    pub literal_base: usize,
    /// See [`Facts::is_plain`].
    pub plain: bool,
}

/// A text with its facts: what the cache answers. Translates offsets of the analysed text into this one.
#[derive(Debug, Clone)]
pub struct Analysed {
    /// Shared by all texts that differ in literals alone.
    pub script: Arc<Script>,
    /// This text's literals and hints, when they are not the script's own.
    own: Option<Own>,
}

#[derive(Debug, Clone)]
struct Own {
    literals: Literals,
    hint_spans: HintSpans,
    hints: Hints,
}

impl Analysed {
    /// Statements with their facts.
    pub fn statements(&self) -> &[Statement] {
        &self.script.statements
    }

    /// Whether there are no two statements besides empty ones: PostgreSQL runs what is alone outside of any transaction block.
    pub fn is_single(&self) -> bool {
        let empty = |statement: &&Statement| matches!(statement.facts.command, super::facts::Command::Empty);
        self.statements().iter().filter(|statement| !empty(statement)).count() < 2
    }

    /// All literals of this text, in order.
    pub fn literals(&self) -> &[Literal] {
        self.own.as_ref().map_or(&self.script.literals, |own| &own.literals)
    }

    /// Routing hints in comments of this text.
    pub fn hints(&self) -> &Hints {
        self.own.as_ref().map_or(&self.script.hints, |own| &own.hints)
    }

    /// Literal `n` of statement `index` ([`super::facts::ValueRef::Literal`]).
    pub fn literal(&self, index: usize, n: u32) -> Option<&Literal> {
        let base = self.script.statements.get(index)?.literal_base;
        self.literals().get(base + usize::try_from(n).ok()?)
    }

    /// Where statement `index` stands in this text.
    pub fn range(&self, index: usize) -> Range<usize> {
        let Some(statement) = self.script.statements.get(index) else { return 0..0 };
        self.translate(statement.range.start)..self.translate(statement.range.end)
    }

    /// An offset of the facts of statement `index` as an offset into this text.
    pub fn offset(&self, index: usize, offset: usize) -> usize {
        let base = self.script.statements.get(index).map_or(0, |s| s.range.start);
        self.translate(base + offset)
    }

    /// An offset of the analysed text, not inside of a literal, as an offset into this text.
    fn translate(&self, offset: usize) -> usize {
        let Some(own) = &self.own else { return offset };
        let before = self.script.literals.partition_point(|l| l.end <= offset);
        let (mut theirs, mut ours) = match before.checked_sub(1) {
            Some(last) => (self.script.literals[last].end, own.literals[last].end),
            None => (0, 0),
        };
        for (their, our) in self.script.hint_spans.iter().zip(&own.hint_spans) {
            if their.2 <= offset && their.2 > theirs {
                (theirs, ours) = (their.2, our.2);
            }
        }
        offset - theirs + ours
    }
}

/// Key of an entry: owned in the cache, borrowed at look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    context: u32,
    exact: bool,
    text: Box<[u8]>,
}

#[derive(Debug, Clone, Copy)]
struct KeyRef<'a> {
    context: u32,
    exact: bool,
    text: &'a [u8],
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef { context: self.context, exact: self.exact, text: &self.text }.hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.context) << 1 | u64::from(self.exact));
        state.write(self.text);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.context == key.context && self.exact == key.exact && *self.text == *key.text
    }
}

/// What is kept under a key.
#[derive(Debug, Clone)]
enum Entry {
    Script(Arc<Script>),
    /// Literal values decide: look under the exact text.
    Exact,
}

#[derive(Debug, Clone)]
struct Weigh {
    least: u64,
}

impl Weighter<Key, Entry> for Weigh {
    fn weight(&self, key: &Key, entry: &Entry) -> u64 {
        let facts = match entry {
            Entry::Script(script) => script.statements.iter().map(statement_bytes).sum(),
            Entry::Exact => 0,
        };
        self.least.max((key.text.len() + facts + 256) as u64)
    }
}

/// A rough count of what a statement's facts hold.
fn statement_bytes(statement: &Statement) -> usize {
    let rows = match &statement.facts.scope {
        super::facts::Scope::Sharded(sharded) => sharded.insert.as_ref().map_or(0, |i| i.rows.len()),
        _ => 0,
    };
    size_of::<Statement>() + size_of::<Facts>() + 512 + rows * 160
}

/// Bytes of cached text and facts per entry that the settings allow for.
const BYTES_PER_ENTRY: u64 = 16 * 1024;

/// Queries of which it is remembered what has to be gathered, at most; of longer ones than that it is not.
const COMBINED_MAX: usize = 1_000;
const COMBINED_TEXT_MAX_BYTES: usize = 16 * 1024;

/// Search paths and catalog generations remembered at once; when more are seen, the table starts over.
const CONTEXTS: usize = 4096;

type Identity = (u64, Vec<String>, bool, bool);

/// The cache, one per process and database.
#[derive(Debug)]
pub struct Cache {
    entries: QuickCache<Key, Entry, Weigh, foldhash::fast::RandomState>,
    /// By the text of one statement.
    combined: QuickCache<Key, Arc<CombineShape>>,
    contexts: Mutex<(HashMap<Identity, u32>, u32)>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// At most `limit` entries (settings: `limits.facts`), and together at most 16 KiB times that.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(16);
        let capacity = limit as u64 * BYTES_PER_ENTRY;
        let weigh = Weigh { least: BYTES_PER_ENTRY };
        let entries = QuickCache::with(
            limit,
            capacity,
            weigh,
            foldhash::fast::RandomState::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        let combined = QuickCache::new(limit.min(COMBINED_MAX));
        Self { entries, combined, contexts: Mutex::new((HashMap::new(), 0)), hits, misses }
    }

    /// The number that stands for what facts depend on besides the text. A session asks once and again when one
    /// of these changes, and puts the answer into [`Context::id`].
    pub fn context_id(
        &self,
        generation: u64,
        search_path: &[String],
        temp_tables: bool,
        standard_conforming_strings: bool,
    ) -> u32 {
        let identity = (generation, search_path.to_vec(), temp_tables, standard_conforming_strings);
        let mut guard = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, last) = &mut *guard;
        if let Some(id) = known.get(&identity) {
            return *id;
        }
        if known.len() >= CONTEXTS {
            known.clear();
        }
        *last = last.wrapping_add(1);
        known.insert(identity, *last);
        *last
    }

    /// Entries at present.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Look-ups answered from the cache and those that had to analyse, since the start.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Facts of a text of the simple protocol.
    pub fn simple(&self, text: impl AsRef<[u8]>, ctx: &Context<'_>) -> Analysed {
        let text = text.as_ref();
        let mut normalised = Normalised::default();
        normalise_into(text, ctx.standard_conforming_strings, &mut normalised);
        let shared = KeyRef { context: ctx.id, exact: false, text: &normalised.key };
        match self.entries.get(&shared) {
            Some(Entry::Script(script)) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return own(script, normalised);
            }
            Some(Entry::Exact) => return self.extended(text, ctx),
            None => {}
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let (script, shareable) = build(text, &normalised, ctx);
        let script = Arc::new(script);
        let key = |exact: bool, text: &[u8]| Key { context: ctx.id, exact, text: text.into() };
        if shareable {
            self.entries.insert(key(false, &normalised.key), Entry::Script(script.clone()));
        } else {
            self.entries.insert(key(false, &normalised.key), Entry::Exact);
            self.entries.insert(key(true, text), Entry::Script(script.clone()));
        }
        Analysed { script, own: None }
    }

    /// Facts of a text of the extended protocol.
    pub fn extended(&self, text: impl AsRef<[u8]>, ctx: &Context<'_>) -> Analysed {
        let text = text.as_ref();
        let exact = KeyRef { context: ctx.id, exact: true, text };
        if let Some(Entry::Script(script)) = self.entries.get(&exact) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Analysed { script, own: None };
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let normalised = normalise(text, ctx.standard_conforming_strings);
        let script = Arc::new(build(text, &normalised, ctx).0);
        let key = Key { context: ctx.id, exact: true, text: text.into() };
        self.entries.insert(key, Entry::Script(script.clone()));
        Analysed { script, own: None }
    }

    /// See [`combine::shape`].
    pub fn combined(
        &self,
        text: &str,
        ctx: &Context<'_>,
        everything: bool,
    ) -> Result<Arc<CombineShape>, String> {
        let known = KeyRef { context: ctx.id, exact: everything, text: text.as_bytes() };
        if let Some(shape) = self.combined.get(&known) {
            return Ok(shape);
        }
        let shape = Arc::new(combine::shape(text, ctx, everything)?);
        if text.len() <= COMBINED_TEXT_MAX_BYTES {
            let key = Key { context: ctx.id, exact: everything, text: text.as_bytes().into() };
            self.combined.insert(key, Arc::clone(&shape));
        }
        Ok(shape)
    }
}

fn own(script: Arc<Script>, normalised: Normalised) -> Analysed {
    let Normalised { literals, hint_spans, hints, .. } = normalised;
    let own = if literals.is_empty() && hint_spans.is_empty() {
        None
    } else {
        Some(Own { literals, hint_spans, hints })
    };
    Analysed { script, own }
}

/// Analyses each statement of `text`; says also whether texts that differ in literals may share the result.
fn build(text: &[u8], normalised: &Normalised, ctx: &Context<'_>) -> (Script, bool) {
    let mut ranges = split(text, ctx.standard_conforming_strings);
    if ranges.is_empty() {
        ranges.push(0..0);
    }
    let mut statements = Vec::with_capacity(ranges.len());
    let mut shareable = true;
    let mut temp_tables = ctx.temp_tables;
    for range in ranges {
        let ctx = Context { temp_tables, ..*ctx };
        let Analysis { facts, by_value, .. } = analysis(&text[range.clone()], &ctx);
        shareable &= !by_value;
        // Later statements of the text see the temporary tables that this one makes.
        temp_tables |= facts.effects.pins == Some(PinCause::Temporary)
            || matches!(facts.command, super::facts::Command::Ddl(DdlKind::Temporary));
        let literal_base = normalised.literals.partition_point(|l| l.start < range.start);
        let conforming = ctx.standard_conforming_strings;
        let plain = facts.is_plain() && sequence_read(&text[range.clone()], conforming).is_none();
        statements.push(Statement { range, facts: Arc::new(facts), literal_base, plain });
    }
    let script = Script {
        statements,
        literals: normalised.literals.clone(),
        hint_spans: normalised.hint_spans.clone(),
        hints: normalised.hints.clone(),
    };
    (script, shareable)
}

#[cfg(test)]
mod tests;
