//! What a server makes of a statement when it parses it: the types of its parameters, and its columns.
//!
//! PostgreSQL keeps both for as long as the statement lives, whatever DDL does meanwhile. A proxy parses a statement again on each
//! conn that has to run it. Invariant: a statement that an application was told about has the parameters that it was told of
//! wherever it is parsed again, and its rows reach the application only where they are those that it was told of.
//! Source: PostgreSQL documentation, "Message Formats"; `RevalidateCachedQuery` (`src/backend/utils/cache/plancache.c`).

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;

/// What the rows of one answer that several shards give are: as the first of them to answer has described them.
pub type Agreed = Arc<OnceLock<Shape>>;

/// Types of parameters and columns, in the home shard's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// OIDs of the types of the parameters.
    pub params: Box<[u32]>,
    /// OIDs of the types of the columns; none where it returns no rows.
    pub columns: Box<[u32]>,
    /// Stands for names, types and type modifiers of the columns.
    rows: u64,
}

impl Shape {
    /// Of the bodies of a ParameterDescription and of a RowDescription (`None`: NoData). `None` where they are cut short.
    pub fn of(parameters: &[u8], rows: Option<&[u8]>) -> Option<Self> {
        Self::of_first(parameters, rows, 0)
    }

    /// As [`Self::of`], but for so many columns at the end.
    pub fn of_first(parameters: &[u8], rows: Option<&[u8]>, hidden: u16) -> Option<Self> {
        let (count, oids) = parameters.split_at_checked(2)?;
        let count = usize::from(u16::from_be_bytes(count.try_into().ok()?));
        let params = (0..count).map(|n| u32_at(oids, 4 * n)).collect::<Option<_>>()?;
        let Some(rows) = rows else { return Some(Self { params, columns: Box::default(), rows: 0 }) };
        let mut hasher = std::hash::BuildHasher::build_hasher(&FixedState::default());
        let (count, mut rest) = rows.split_at_checked(2)?;
        let mut columns = Vec::new();
        for _ in 0..u16::from_be_bytes(count.try_into().ok()?).checked_sub(hidden)? {
            let end = rest.iter().position(|&byte| byte == 0)?;
            let (name, fixed) = (&rest[..end], rest.get(end + 1..end + 19)?);
            let (own, modifier) = (u32_at(fixed, 6)?, u32_at(fixed, 12)?);
            (name, own, modifier).hash(&mut hasher);
            columns.push(own);
            rest = &rest[end + 19..];
        }
        // Rows without columns are not the same as no rows.
        Some(Self { params, columns: columns.into(), rows: hasher.finish() | 1 })
    }

    /// Of the body of a CopyOutResponse, which tells how many columns there are.
    pub fn of_copy(body: &[u8]) -> Option<Self> {
        let count = u16::from_be_bytes(body.get(1..3)?.try_into().ok()?);
        Some(Self { params: Box::default(), columns: vec![0; usize::from(count)].into(), rows: 1 })
    }

    /// Whether rows of the one are rows of the other.
    pub fn same_rows(&self, other: &Self) -> bool {
        self.rows == other.rows && self.columns == other.columns
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RowDescription body: (name, table, type, modifier).
    fn rows(columns: &[(&str, u32, u32, i32)]) -> Vec<u8> {
        let mut body = (columns.len() as u16).to_be_bytes().to_vec();
        for &(name, table, own, modifier) in columns {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(&table.to_be_bytes());
            body.extend_from_slice(&[0, 1]);
            body.extend_from_slice(&own.to_be_bytes());
            body.extend_from_slice(&[0, 8]);
            body.extend_from_slice(&modifier.to_be_bytes());
            body.extend_from_slice(&[0, 0]);
        }
        body
    }

    fn shape(columns: &[(&str, u32, u32, i32)]) -> Shape {
        Shape::of(&[0, 0], Some(&rows(columns))).expect("well formed")
    }

    #[test]
    fn rows_are_the_same_by_names_types_and_modifiers() {
        let one = shape(&[("id", 7, 20, -1), ("n", 7, 1043, 14)]);
        assert_eq!(*one.columns, [20, 1043]);
        assert!(one.same_rows(&shape(&[("id", 8, 20, -1), ("n", 0, 1043, 14)])), "of another table");
        for other in [
            shape(&[("id", 7, 20, -1), ("n", 7, 1043, 24)]),
            shape(&[("id", 7, 20, -1), ("m", 7, 1043, 14)]),
            shape(&[("id", 7, 701, -1), ("n", 7, 1043, 14)]),
            shape(&[("id", 7, 20, -1)]),
            shape(&[]),
        ] {
            assert!(!one.same_rows(&other), "{other:?}");
        }
        let none = Shape::of(&[0, 0], None).expect("well formed");
        assert!(!shape(&[]).same_rows(&none));
    }

    #[test]
    fn parameters_are_read_and_what_is_cut_short_is_nothing() {
        let parameters = [&[0, 2][..], &20_u32.to_be_bytes(), &701_u32.to_be_bytes()].concat();
        let shape = Shape::of(&parameters, None).expect("well formed");
        assert_eq!((&*shape.params, shape.columns.len()), (&[20, 701][..], 0));
        let body = rows(&[("id", 7, 20, -1)]);
        for end in 0..parameters.len() {
            assert_eq!(Shape::of(&parameters[..end], None), None, "{end}");
        }
        for end in 0..body.len() {
            assert_eq!(Shape::of(&parameters, Some(&body[..end])), None, "{end}");
        }
    }
}
