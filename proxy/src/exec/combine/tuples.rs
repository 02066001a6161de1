//! From the DataRow of a shard to what stands in a CopyData of the combining conn: rows that come together go in one frame.
//!
//! The body of a DataRow with results in binary format is, byte for byte, a tuple of COPY in binary format. A record in binary
//! format is the same with the OID of its type in front of each field.
//! Source: PostgreSQL 15 documentation, "Message Formats" and "COPY, Binary Format"; `src/backend/utils/adt/rowtypes.c`, `record_send`.

use bytes::{BufMut, BytesMut};

use crate::wire::frame;
use crate::wire::frontend::tag::COPY_DATA;
use crate::wire::reply;

/// In front of the tuples of COPY in binary format: signature, flags, length of an extension.
const BINARY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Behind them.
const BINARY_TRAILER: &[u8; 2] = b"\xff\xff";

/// What comes before the first row.
pub(super) fn begin(binary: bool, out: &mut BytesMut) {
    if binary {
        reply::frame(out, COPY_DATA, |b| b.extend_from_slice(BINARY_HEADER));
    }
}

/// What comes behind the last one.
pub(super) fn end(binary: bool, out: &mut BytesMut) {
    if binary {
        reply::frame(out, COPY_DATA, |b| b.extend_from_slice(BINARY_TRAILER));
    }
}

/// The number of the table in front of a record.
pub(super) fn number(body: &[u8]) -> Option<usize> {
    let mut body = body;
    if frame::i16(&mut body)? != 2 || frame::i32(&mut body)? != 2 {
        return None;
    }
    usize::try_from(frame::i16(&mut body)?).ok()
}

/// A row of a query for one table. `None`: it is malformed.
pub(super) fn row(body: &[u8], binary: bool, out: &mut BytesMut) -> Option<()> {
    if binary {
        out.extend_from_slice(body);
        return Some(());
    }
    let mut fields = body;
    let count = frame::i16(&mut fields)?;
    line(count.into(), &mut fields, 0, out)
}

/// A row of a query for several tables.
pub(super) fn record(body: &[u8], binary: bool, out: &mut BytesMut) -> Option<()> {
    const NUMBER_BYTES: usize = 2 + 4 + 2;
    let mut body = body.get(NUMBER_BYTES..)?;
    frame::i32(&mut body)?;
    let count = frame::i32(&mut body)?;
    if !binary {
        return line(count, &mut body, 4, out);
    }
    out.put_i16(count as i16);
    for _ in 0..count {
        body = body.get(4..)?;
        let field = body.get(..4 + usize::try_from(frame::i32(&mut &*body)?).unwrap_or(0))?;
        out.put_slice(field);
        body = &body[field.len()..];
    }
    Some(())
}

/// Fields as a line of COPY in text format; `skip`: bytes in front of each length.
fn line(count: i32, fields: &mut &[u8], skip: usize, out: &mut BytesMut) -> Option<()> {
    for n in 0..count {
        if n > 0 {
            out.put_u8(b'\t');
        }
        text_field(fields, skip, out)?;
    }
    out.put_u8(b'\n');
    Some(())
}

fn text_field(fields: &mut &[u8], skip: usize, out: &mut BytesMut) -> Option<()> {
    *fields = fields.get(skip..)?;
    let Ok(length) = usize::try_from(frame::i32(fields)?) else {
        out.put_slice(b"\\N");
        return Some(());
    };
    let value = fields.get(..length)?;
    *fields = &fields[length..];
    escape(value, out);
    Some(())
}

/// A value as a field of COPY in text format.
pub(in crate::exec) fn escape(value: &[u8], out: &mut BytesMut) {
    for &byte in value {
        match byte {
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            other => out.put_u8(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(make: impl FnOnce(&mut BytesMut) -> Option<()>) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        make(&mut out)?;
        Some(out.to_vec())
    }

    #[test]
    fn rows_become_tuples_and_lines() {
        let body = b"\0\x02\0\0\0\x03a\tb\xff\xff\xff\xff";
        assert_eq!(made(|out| row(body, true, out)).as_deref(), Some(&body[..]));
        assert_eq!(made(|out| row(body, false, out)).as_deref(), Some(&b"a\\tb\t\\N\n"[..]));
        assert_eq!(made(|out| row(b"\0\x01\0\0\0\x09ab", false, out)), None);
    }

    #[test]
    fn records_lose_their_types() {
        let mut body = b"\0\x02\0\0\0\x02\0\x07".to_vec();
        let record_body = b"\0\0\0\x02\0\0\0\x19\0\0\0\x01x\0\0\0\x17\xff\xff\xff\xff";
        body.extend((record_body.len() as u32).to_be_bytes());
        body.extend(record_body);
        assert_eq!(number(&body), Some(7));
        let tuple = made(|out| record(&body, true, out));
        assert_eq!(tuple.as_deref(), Some(&b"\0\x02\0\0\0\x01x\xff\xff\xff\xff"[..]));
        assert_eq!(made(|out| record(&body, false, out)).as_deref(), Some(&b"x\t\\N\n"[..]));
        assert_eq!(number(b"\0\x01\0\0\0\x02\0\x07"), None);
        assert_eq!(made(|out| record(&body[..body.len() - 5], true, out)), None);
    }
}
