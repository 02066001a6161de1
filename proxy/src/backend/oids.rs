//! OIDs of one shard in the terms of the home shard.
//!
//! Types and tables of the user's have an OID of their own on each shard; applications are told the home shard's. Invariant:
//! where nothing differs a conn has no [`ShardOids`], and no description is looked at.
//! Source: PostgreSQL documentation, "Message Formats": RowDescription, ParameterDescription, Parse.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::{BufMut, Bytes, BytesMut};

use crate::sql::schema::FIRST_USER_OID;

/// What a type is told to be that the home shard does not have: text in its text format.
const UNKNOWN: u32 = 705;
/// `record` and `record[]`: their values in binary name the types of their columns.
const RECORDS: [u32; 2] = [2249, 2287];

/// One shard's OIDs now; empty where they are those of the home shard. Shared by the catalog, which replaces it, and by conns.
pub type OidCell = Arc<ArcSwapOption<ShardOids>>;

/// Translation between one shard and the home shard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ShardOids {
    /// The shard's types could not be read: nothing can be translated yet.
    pub unread: bool,
    /// Types: the shard's to the home shard's, where they differ; 0 where the home shard has none.
    pub types_to_home: HashMap<u32, u32>,
    /// The other way round; 0 where the shard has none.
    pub types_from_home: HashMap<u32, u32>,
    /// Tables, as `types_to_home`.
    pub tables_to_home: HashMap<u32, u32>,
    /// The shard's types whose values in binary have OIDs in them that differ.
    pub containers: HashSet<u32>,
}

/// What cannot be said in the home shard's terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OidError {
    /// The shard has no such type.
    #[error("type with OID {0} does not exist on this shard")]
    NoType(u32),
    /// See [`ShardOids::containers`].
    #[error("rows in binary format have arrays or records of types whose OIDs differ between the shards")]
    Container,
    /// See [`ShardOids::unread`].
    #[error("the types of this shard are not known to the proxy yet")]
    Unread,
    /// A frame that is not as the protocol has it.
    #[error("a description is cut short")]
    Truncated,
}

impl ShardOids {
    /// Whether there is nothing to translate.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn type_to_home(&self, oid: u32) -> Result<u32, OidError> {
        if self.unread && oid >= FIRST_USER_OID {
            return Err(OidError::Unread);
        }
        Ok(match self.types_to_home.get(&oid) {
            None => oid,
            Some(0) => UNKNOWN,
            Some(&home) => home,
        })
    }

    /// Puts the home shard's OIDs into the body of a RowDescription.
    pub fn row_description(&self, body: &mut [u8]) -> Result<(), OidError> {
        let count = u16_at(body, 0).ok_or(OidError::Truncated)?;
        let mut at = 2;
        for _ in 0..count {
            let name = body.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0));
            at += name.ok_or(OidError::Truncated)? + 1;
            let table = u32_at(body, at).ok_or(OidError::Truncated)?;
            let own = u32_at(body, at + 6).ok_or(OidError::Truncated)?;
            let binary = u16_at(body, at + 16).ok_or(OidError::Truncated)? == 1;
            if binary && (self.containers.contains(&own) || RECORDS.contains(&own)) {
                return Err(OidError::Container);
            }
            let table = self.tables_to_home.get(&table).copied().unwrap_or(table);
            put_u32(body, at, table);
            put_u32(body, at + 6, self.type_to_home(own)?);
            at += 18;
        }
        Ok(())
    }

    /// Puts the home shard's OIDs into the body of a ParameterDescription.
    pub fn parameter_description(&self, body: &mut [u8]) -> Result<(), OidError> {
        let count = u16_at(body, 0).ok_or(OidError::Truncated)?;
        for n in 0..usize::from(count) {
            let at = 2 + 4 * n;
            let own = u32_at(body, at).ok_or(OidError::Truncated)?;
            put_u32(body, at, self.type_to_home(own)?);
        }
        Ok(())
    }

    /// Parameter types of a Parse (big-endian OIDs), as the shard has them.
    pub fn parse_types(&self, types: &Bytes) -> Result<Bytes, OidError> {
        let oids = || types.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        if oids().all(|oid| oid < FIRST_USER_OID) {
            return Ok(types.clone());
        }
        if self.unread {
            return Err(OidError::Unread);
        }
        let mut there = BytesMut::with_capacity(types.len());
        for oid in oids() {
            match self.types_from_home.get(&oid) {
                Some(0) => return Err(OidError::NoType(oid)),
                Some(&own) => there.put_u32(own),
                None => there.put_u32(oid),
            }
        }
        Ok(there.freeze())
    }
}

/// Types of the columns of a RowDescription frame.
pub fn column_types(frame: &[u8]) -> Option<Vec<u32>> {
    let body = frame.get(5..)?;
    let mut at = 2;
    let mut types = Vec::new();
    for _ in 0..u16_at(body, 0)? {
        at += body.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        types.push(u32_at(body, at + 6)?);
        at += 18;
    }
    Some(types)
}

/// Whether a type's binary form may name types, whatever they are: a record of unknown columns.
pub fn is_record(oid: u32) -> bool {
    RECORDS.contains(&oid)
}

fn u16_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?))
}

fn put_u32(body: &mut [u8], at: usize, value: u32) {
    body[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oids() -> ShardOids {
        ShardOids {
            unread: false,
            types_to_home: HashMap::from([(30_000, 20_000), (30_001, 20_001), (30_009, 0)]),
            types_from_home: HashMap::from([(20_000, 30_000), (20_001, 30_001), (20_009, 0)]),
            tables_to_home: HashMap::from([(40_000, 25_000)]),
            containers: HashSet::from([30_001]),
        }
    }

    /// RowDescription body: (name, table, type, format).
    fn rows(columns: &[(&str, u32, u32, u16)]) -> Vec<u8> {
        let mut body = BytesMut::new();
        body.put_u16(columns.len() as u16);
        for &(name, table, own, format) in columns {
            body.put_slice(name.as_bytes());
            body.put_u8(0);
            body.put_u32(table);
            body.put_u16(1);
            body.put_u32(own);
            body.put_u16(4);
            body.put_u32(u32::MAX);
            body.put_u16(format);
        }
        body.to_vec()
    }

    #[test]
    fn descriptions_are_in_the_home_shards_terms() {
        let mut body =
            rows(&[("a", 40_000, 30_000, 1), ("", 0, 23, 1), ("c", 7, 30_001, 0), ("d", 0, 30_009, 0)]);
        oids().row_description(&mut body).expect("well formed");
        let expected =
            rows(&[("a", 25_000, 20_000, 1), ("", 0, 23, 1), ("c", 7, 20_001, 0), ("d", 0, 705, 0)]);
        assert_eq!(body, expected);
        let frame = [b"T\0\0\0\0".as_slice(), &body].concat();
        assert_eq!(column_types(&frame), Some(vec![20_000, 23, 20_001, 705]));
        let mut parameters = [&[0, 2][..], &30_000_u32.to_be_bytes(), &23_u32.to_be_bytes()].concat();
        oids().parameter_description(&mut parameters).expect("well formed");
        assert_eq!(parameters, [&[0, 2][..], &20_000_u32.to_be_bytes(), &23_u32.to_be_bytes()].concat());
        for end in 0..body.len() {
            assert_eq!(oids().row_description(&mut body[..end].to_vec()), Err(OidError::Truncated), "{end}");
        }
    }

    #[test]
    fn containers_in_binary_and_what_is_not_known_are_errors() {
        let described = |own, format| oids().row_description(&mut rows(&[("a", 0, own, format)]));
        assert_eq!(described(30_001, 1), Err(OidError::Container));
        assert_eq!(described(2249, 1), Err(OidError::Container));
        assert_eq!((described(30_001, 0), described(1007, 1)), (Ok(()), Ok(())));
        let unread = ShardOids { unread: true, ..ShardOids::default() };
        assert!(!unread.is_empty() && ShardOids::default().is_empty());
        assert_eq!(unread.row_description(&mut rows(&[("a", 0, 30_000, 0)])), Err(OidError::Unread));
        assert_eq!(unread.row_description(&mut rows(&[("a", 0, 25, 0)])), Ok(()));
        let types =
            |list: &[u32]| Bytes::from(list.iter().flat_map(|oid| oid.to_be_bytes()).collect::<Vec<_>>());
        assert_eq!(oids().parse_types(&types(&[0, 20_000, 25])), Ok(types(&[0, 30_000, 25])));
        assert_eq!(oids().parse_types(&types(&[20_009])), Err(OidError::NoType(20_009)));
        assert_eq!(unread.parse_types(&types(&[20_000])), Err(OidError::Unread));
    }
}
