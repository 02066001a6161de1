//! Statements shared over sessions: parsed by the server once per conn, whoever uses them.
//!
//! Identity is the text, the parameter types and everything that Parse reads of its surroundings
//! (database, role, search_path and the parse-relevant settings, summed up by the caller as `context`); texts are compared, not
//! just their hashes. A statement seen for the first time stays unnamed on the server; from the second time on it has a
//! name there and is planned once.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use foldhash::fast::FixedState;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use super::shape::Shape;

/// A statement that any session with the same context may use on any conn.
#[derive(Debug)]
pub struct SharedStatement {
    /// Unique in this process; the server knows it as `gavel_<id>`.
    pub id: u64,
    /// What Parse read of its surroundings.
    pub context: u64,
    /// Its name on every conn.
    pub name: Box<[u8]>,
    /// SQL as the application wrote it.
    pub text: Bytes,
    /// Parameter type OIDs of Parse, big-endian.
    pub types: Bytes,
    /// Times that a Parse named it.
    pub parses: AtomicU32,
    /// A server has accepted it in this context.
    pub accepted: AtomicBool,
    /// Types of all its parameters, asked of a server where Parse leaves some open and it matters; `None` where it does not.
    pub asked: OnceLock<Option<Box<[u32]>>>,
    /// What the server that first parsed it made of it.
    pub origin: OnceLock<Shape>,
    /// It is not what it was: only who has it already goes on with it.
    pub stale: AtomicBool,
}

impl PartialEq for SharedStatement {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for SharedStatement {}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    context: u64,
    text: Bytes,
    types: Bytes,
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Look { context: self.context, text: &self.text, types: &self.types }.hash(state);
    }
}

/// The borrowed form of an identity, for look-ups that allocate nothing.
#[derive(Hash)]
struct Look<'a> {
    context: u64,
    text: &'a [u8],
    types: &'a [u8],
}

impl Equivalent<Identity> for Look<'_> {
    fn equivalent(&self, key: &Identity) -> bool {
        self.context == key.context && self.text == key.text && self.types == key.types
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Identity, Arc<SharedStatement>> for ByBytes {
    fn weight(&self, key: &Identity, _: &Arc<SharedStatement>) -> u64 {
        key.text.len() as u64 + 256
    }
}

/// All shared statements of the process, bounded by bytes; what falls out is parsed again under a new name.
pub struct Registry {
    cache: Cache<Identity, Arc<SharedStatement>, ByBytes, FixedState>,
    next: AtomicU64,
}

impl Registry {
    /// A registry of up to `bytes` of SQL text.
    pub fn new(bytes: u64) -> Self {
        let cache = Cache::with(
            (bytes / 512) as usize,
            bytes,
            ByBytes,
            FixedState::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        Self { cache, next: AtomicU64::new(1) }
    }

    /// The statement of this identity, made if it is new; counts one Parse.
    pub fn intern(&self, context: u64, text: &[u8], types: &[u8]) -> Arc<SharedStatement> {
        if let Some(found) = self.find(context, text, types) {
            found.parses.fetch_add(1, Ordering::Relaxed);
            return found;
        }
        let statement = self.alone(context, text, types);
        let identity = Identity { context, text: statement.text.clone(), types: statement.types.clone() };
        self.cache.insert(identity, Arc::clone(&statement));
        statement
    }

    /// A statement that no other session will share.
    pub fn alone(&self, context: u64, text: &[u8], types: &[u8]) -> Arc<SharedStatement> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(SharedStatement {
            id,
            context,
            name: format!("gavel_{id}").into_bytes().into_boxed_slice(),
            text: Bytes::copy_from_slice(text),
            types: Bytes::copy_from_slice(types),
            parses: AtomicU32::new(1),
            accepted: AtomicBool::new(false),
            asked: OnceLock::new(),
            origin: OnceLock::new(),
            stale: AtomicBool::new(false),
        })
    }

    /// The statement of this identity, if there is one.
    pub fn find(&self, context: u64, text: &[u8], types: &[u8]) -> Option<Arc<SharedStatement>> {
        let found = self.cache.get(&Look { context, text, types });
        found.filter(|found| !found.stale.load(Ordering::Relaxed))
    }

    /// Statements known.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, for the console.
    pub fn all(&self) -> Vec<Arc<SharedStatement>> {
        self.cache.iter().map(|(_, statement)| statement).collect()
    }
}

/// Which shared statements one conn has prepared: least recently used go first.
#[derive(Debug, Default)]
pub struct OnConn {
    used: HashMap<u64, u64, FixedState>,
    tick: u64,
    retired: Vec<u64>,
}

impl OnConn {
    /// Whether the conn has it; marks it used.
    pub fn touch(&mut self, id: u64) -> bool {
        self.tick += 1;
        match self.used.get_mut(&id) {
            Some(last) => {
                *last = self.tick;
                true
            }
            None => false,
        }
    }

    /// Notes that a Parse of it is on the way. Returns one that must be closed to stay within `limit`.
    pub fn add(&mut self, id: u64, limit: usize) -> Option<u64> {
        let mut evicted = None;
        if self.used.len() >= limit.max(1) {
            evicted = self.used.iter().min_by_key(|(_, last)| **last).map(|(id, _)| *id);
            if let Some(old) = evicted {
                self.used.remove(&old);
            }
        }
        self.tick += 1;
        self.used.insert(id, self.tick);
        evicted
    }

    /// The Parse failed or was skipped.
    pub fn forget(&mut self, id: u64) {
        self.used.remove(&id);
    }

    /// What the conn has under this name is another statement by now: it is not used again.
    pub fn retire(&mut self, id: u64) {
        if self.used.remove(&id).is_some() {
            self.retired.push(id);
        }
    }

    /// Names that must be closed before the next Parse.
    pub fn retired(&mut self) -> std::vec::Drain<'_, u64> {
        self.retired.drain(..)
    }

    /// DEALLOCATE ALL or DISCARD ALL ran on the conn.
    pub fn clear(&mut self) {
        self.used.clear();
        self.retired.clear();
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_text_types_and_context() {
        let registry = Registry::new(1 << 20);
        assert!(registry.find(1, b"select $1", &[0, 0, 0, 23]).is_none() && registry.is_empty());
        let a = registry.intern(1, b"select $1", &[0, 0, 0, 23]);
        assert_eq!(a.id, registry.intern(1, b"select $1", &[0, 0, 0, 23]).id);
        assert_ne!(a.id, registry.intern(2, b"select $1", &[0, 0, 0, 23]).id);
        assert_ne!(a.id, registry.intern(1, b"select $1", &[0, 0, 0, 20]).id);
        assert_ne!(a.id, registry.intern(1, b"select $2", &[0, 0, 0, 23]).id);
        // To look for it is no Parse.
        assert_eq!(registry.find(1, b"select $1", &[0, 0, 0, 23]).map(|found| found.id), Some(a.id));
        assert_eq!(a.parses.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_stale_statement_is_another_one_for_who_parses_it_next() {
        let registry = Registry::new(1 << 20);
        let old = registry.intern(1, b"select n from t", &[]);
        old.stale.store(true, Ordering::Relaxed);
        let new = registry.intern(1, b"select n from t", &[]);
        assert_ne!((old.id, &old.name), (new.id, &new.name));
        assert_eq!(new.id, registry.intern(1, b"select n from t", &[]).id);
    }

    #[test]
    fn what_is_retired_is_closed_once() {
        let mut conn = OnConn::default();
        conn.add(1, 2);
        conn.retire(1);
        conn.retire(1);
        assert!(!conn.touch(1));
        assert_eq!(conn.retired().collect::<Vec<_>>(), [1]);
        assert_eq!(conn.retired().count(), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut conn = OnConn::default();
        assert_eq!(conn.add(1, 2), None);
        assert_eq!(conn.add(2, 2), None);
        assert!(conn.touch(1));
        assert_eq!(conn.add(3, 2), Some(2));
        assert!(!conn.touch(2));
        assert!(conn.touch(1));
    }
}
