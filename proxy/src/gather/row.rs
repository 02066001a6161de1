//! Rows and their descriptions on the wire: their columns, and the same without the last ones.

use bytes::{BufMut, BytesMut};

use crate::wire::backend::tag;
use crate::wire::frame::{self, HEADER};
use crate::wire::reply;

/// The values of a DataRow's body in order, `None` for NULL. It ends early where the body does.
pub fn values(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = body;
    let count = frame::i16(&mut rest).unwrap_or(0) as u16;
    (0..count).map_while(move |_| value(&mut rest))
}

/// Reads a value off the front.
pub fn value<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let Ok(length) = usize::try_from(frame::i32(rest)?) else { return Some(None) };
    let (value, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(Some(value))
}

/// A column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// OID of its type.
    pub type_oid: u32,
    /// Modifier of its type; -1: none.
    pub modifier: i32,
}

/// The columns of a RowDescription's body in order. They end early where the body does.
pub fn columns(body: &[u8]) -> impl Iterator<Item = Column<'_>> {
    let mut rest = body;
    let count = frame::i16(&mut rest).unwrap_or(0) as u16;
    (0..count).map_while(move |_| {
        let name = frame::cstr(&mut rest)?;
        let (mut fixed, behind) = rest.split_at_checked(18)?;
        rest = behind;
        let (_table, _number) = (frame::i32(&mut fixed)?, frame::i16(&mut fixed)?);
        let type_oid = frame::i32(&mut fixed)? as u32;
        let (_length, modifier) = (frame::i16(&mut fixed)?, frame::i32(&mut fixed)?);
        Some(Column { name, type_oid, modifier })
    })
}

/// Appends a DataRow of `count` columns, whose values are `values` as they stand in a body.
pub fn put(out: &mut BytesMut, count: u16, values: &[u8]) {
    out.reserve(HEADER + 2 + values.len());
    out.put_u8(tag::DATA_ROW);
    out.put_u32((values.len() + 6) as u32);
    out.put_u16(count);
    out.put_slice(values);
}

/// The body of a RowDescription without its last columns. `None` where it has not as many, or is cut short.
pub fn description_without(body: &[u8], last: u16) -> Option<&[u8]> {
    let mut rest = body;
    let count = frame::i16(&mut rest)? as u16;
    for _ in 0..count.checked_sub(last)? {
        frame::cstr(&mut rest)?;
        rest = rest.get(18..)?;
    }
    body.get(2..body.len() - rest.len())
}

/// Appends a RowDescription without its last columns.
pub fn put_description(out: &mut BytesMut, body: &[u8], last: u16) -> Option<()> {
    let columns = description_without(body, last)?;
    let count = frame::i16(&mut &body[..])? as u16 - last;
    reply::frame(out, tag::ROW_DESCRIPTION, |b| {
        b.put_u16(count);
        b.put_slice(columns);
    });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_columns_are_left_out() {
        let mut body = vec![0, 2];
        for name in [&b"id\0"[..], b"hidden\0"] {
            body.extend_from_slice(name);
            body.extend_from_slice(&[7; 18]);
        }
        let columns = description_without(&body, 1).expect("well formed");
        assert_eq!(columns, [&b"id\0"[..], &[7; 18]].concat());
        let mut out = BytesMut::new();
        put_description(&mut out, &body, 1).expect("well formed");
        assert_eq!(&out[..], [&b"T\0\0\0\x1b\0\x01"[..], columns].concat());
        assert_eq!(description_without(&body, 3), None);
        assert_eq!(description_without(&body[..20], 0), None);
    }

    #[test]
    fn values_end_where_the_body_does() {
        let body = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(values(body).collect::<Vec<_>>(), [Some(&b"a"[..]), None, Some(&b""[..])]);
        assert_eq!(values(&body[..8]).count(), 1);
        let mut out = BytesMut::new();
        put(&mut out, 1, &body[2..7]);
        assert_eq!(&out[..], b"D\0\0\0\x0b\0\x01\0\0\0\x01a");
    }
}
