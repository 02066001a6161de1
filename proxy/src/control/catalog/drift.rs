//! Drift: what is not the same on every shard though it should be.
//!
//! A sharded or reference table, or a view over such, whose definition differs somewhere is refused: a statement on it would
//! not mean the same everywhere. Tables of the home shard alone are nobody else's business. Versions are told, not refused.

use std::collections::BTreeMap;

use super::place::Problem;
use super::shard::ShardCatalog;
use crate::sql::schema::Placement;

/// Whether a table's definition must be the same on all shards.
pub(crate) fn concerns_all(placement: &Placement) -> bool {
    match placement {
        Placement::Sharded { .. } | Placement::Reference | Placement::View { .. } => true,
        Placement::Unsharded | Placement::Catalog => false,
    }
}

/// What differs between the first shard and others of the given names.
pub(crate) struct Drift<'a> {
    home: &'a ShardCatalog,
    others: Vec<(&'a str, &'a ShardCatalog)>,
}

impl<'a> Drift<'a> {
    /// Compares with the first; shards that could not be read are left out.
    pub(crate) fn new(shards: &'a [(String, Option<ShardCatalog>)]) -> Option<Self> {
        let ((_, home), others) = shards.split_first()?;
        let others = others.iter().filter_map(|(name, shard)| Some((name.as_str(), shard.as_ref()?)));
        Some(Self { home: home.as_ref()?, others: others.collect() })
    }

    /// Whether tables differ that did not when the shards were as `before`.
    pub(crate) fn is_new(&self, before: &[(String, Option<ShardCatalog>)]) -> bool {
        let differing = |drift: &Drift<'_>| -> Vec<(String, String)> {
            let tables = drift.home.tables.keys();
            tables.filter(|(schema, name)| drift.table(schema, name).is_some()).cloned().collect()
        };
        let old = Drift::new(before).map(|drift| differing(&drift)).unwrap_or_default();
        differing(self).iter().any(|table| !old.contains(table))
    }

    /// Why a table cannot be used, if it differs.
    pub(crate) fn table(&self, schema: &str, name: &str) -> Option<String> {
        const CURE: &str = "make the definitions equal (DDL sent to the proxy reaches all shards; the missing part can be \
                            run on the shard itself), then RELOAD";
        let key = (schema.to_owned(), name.to_owned());
        let here = self.home.tables.get(&key)?;
        self.others.iter().find_map(|(shard, there)| {
            if there.server.encoding != self.home.server.encoding {
                return Some(format!(
                    "the encoding of the database is {} here and {} on shard {shard}: create the database with one and the \
                     same encoding on all shards",
                    self.home.server.encoding, there.server.encoding
                ));
            }
            let Some(lines) = there.tables.get(&key) else {
                return Some(format!("it does not exist on shard {shard}: {CURE}"));
            };
            let difference = first_difference(here, lines)?;
            Some(format!("its definition differs on shard {shard}: {difference}; {CURE}"))
        })
    }

    /// Names of functions that are not the same everywhere, each with a reason.
    pub(crate) fn functions(&self) -> BTreeMap<&'a str, String> {
        let mut differing = BTreeMap::new();
        for (signature, here) in &self.home.functions {
            for (shard, there) in &self.others {
                let what = match there.functions.get(signature) {
                    None => "does not exist",
                    Some(there) if there != here => "is another one",
                    Some(_) => continue,
                };
                let reason = format!("function {signature} {what} on shard {shard}");
                differing.entry(here.name.as_str()).or_insert(reason);
            }
        }
        differing
    }

    /// What is worth telling, though nothing is refused for it.
    pub(crate) fn warnings(&self) -> Vec<Problem> {
        let mut told = Vec::new();
        for (shard, there) in &self.others {
            let (a, b) = (&self.home.server, &there.server);
            let mut compare = |what: &str, here: &str, there: &str| {
                if here != there {
                    told.push(Problem::warning(
                        what,
                        format!("{here} on the home shard, {there} on shard {shard}"),
                    ));
                }
            };
            compare("encoding", &a.encoding, &b.encoding);
            compare("lc_collate", &a.collation, &b.collation);
            compare("lc_ctype", &a.character_type, &b.character_type);
            compare("server version", &a.major_version, &b.major_version);
            let names = self.home.versions.keys().chain(there.versions.keys());
            let mut names: Vec<&String> = names.collect();
            names.sort_unstable();
            names.dedup();
            let version = |shard: &ShardCatalog, name| shard.versions.get(name).cloned();
            for name in names {
                let missing = || "missing".to_owned();
                let here = version(self.home, name).unwrap_or_else(missing);
                compare(name, &here, &version(there, name).unwrap_or_else(missing));
            }
        }
        told.extend(self.functions().into_iter().map(|(name, reason)| {
            Problem::warning(name, format!("{reason}: it is not called in statements that may run there"))
        }));
        told
    }
}

/// The first line that one has and the other has not.
fn first_difference(here: &[String], there: &[String]) -> Option<String> {
    let differs = here.iter().zip(there).find(|(here, there)| here != there);
    let longer = || {
        let common = here.len().min(there.len());
        let extra = here.get(common).map(|line| (line, "there"));
        extra.or_else(|| there.get(common).map(|line| (line, "on the home shard")))
    };
    match differs {
        Some((here, there)) => Some(format!("\"{}\" here, \"{}\" there", short(here), short(there))),
        None => longer().map(|(line, place)| format!("\"{}\" is missing {place}", short(line))),
    }
}

fn short(line: &str) -> String {
    const CHARS: usize = 120;
    if line.chars().count() <= CHARS {
        line.to_owned()
    } else {
        line.chars().take(CHARS).chain("…".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let lines = |list: &[&str]| list.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let base = lines(&["column a integer", "column b text"]);
        assert_eq!(first_difference(&base, &base), None);
        let other = lines(&["column a bigint", "column b text"]);
        let said = first_difference(&base, &other).expect("differs");
        assert_eq!(said, "\"column a integer\" here, \"column a bigint\" there");
        let said = first_difference(&base, &base[..1]).expect("differs");
        assert_eq!(said, "\"column b text\" is missing there");
        let said = first_difference(&base[..1], &base).expect("differs");
        assert_eq!(said, "\"column b text\" is missing on the home shard");
    }
}
