//! COPY TO STDOUT over several shards is one stream: one header, one trailer.
//!
//! PostgreSQL sends a header line and each row as a CopyData frame of its own; the header of the binary format travels in front
//! of the first row, its trailer is a frame of its own (`src/backend/commands/copyto.c`).

use crate::sql::copy_shape::{CopyFormat, CopyShape};

/// Signature, flags and length of the (empty) extension.
const BINARY_HEADER_BYTES: usize = 19;
/// The field count that ends the binary format.
const BINARY_TRAILER: [u8; 2] = [0xff, 0xff];

/// What is taken out of one shard's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyTrim {
    binary: bool,
    /// The header is still to come and is not wanted.
    header: bool,
    /// The header of the binary format is still to come, wanted or not.
    fresh: bool,
    trailer: bool,
}

impl CopyTrim {
    /// What to take out of the stream of a share; `None` where nothing is.
    pub fn of(shape: &CopyShape, first: bool, last: bool) -> Option<Self> {
        let binary = shape.format == CopyFormat::Binary;
        let trim = Self {
            binary,
            header: !first && (binary || shape.header),
            fresh: binary,
            trailer: binary && !last,
        };
        (trim.header || trim.trailer).then_some(trim)
    }

    /// What is left of the body of the next CopyData frame; nothing is left of an empty one.
    pub fn keep<'a>(&mut self, body: &'a [u8]) -> &'a [u8] {
        let drop_header = std::mem::take(&mut self.header);
        if !self.binary {
            return if drop_header { &[] } else { body };
        }
        let head = if std::mem::take(&mut self.fresh) { BINARY_HEADER_BYTES.min(body.len()) } else { 0 };
        let from = if drop_header { head } else { 0 };
        let ends = body[head..] == BINARY_TRAILER;
        let to = if ends && self.trailer { head } else { body.len() };
        &body[from..to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

    fn shape(format: CopyFormat, header: bool) -> CopyShape {
        CopyShape {
            format,
            delimiter: b',',
            null: String::new(),
            quote: b'"',
            escape: b'"',
            header,
            key_field: None,
            key_type: None,
            key_modifier: None,
            columns: 1,
            force_null_key: false,
            encoding: None,
            times: Vec::new(),
        }
    }

    fn merged(shape: &CopyShape, streams: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let mut all = Vec::new();
        for (turn, frames) in streams.iter().enumerate() {
            let mut trim = CopyTrim::of(shape, turn == 0, turn + 1 == streams.len());
            for frame in frames {
                all.extend_from_slice(trim.as_mut().map_or(&frame[..], |trim| trim.keep(frame)));
            }
        }
        all
    }

    #[test]
    fn one_header_line_is_left() {
        let stream = |rows: &[&str]| rows.iter().map(|row| row.as_bytes().to_vec()).collect::<Vec<_>>();
        let streams = [stream(&["id\n", "1\n"]), stream(&["id\n"]), stream(&["id\n", "2\n", "3\n"])];
        assert_eq!(merged(&shape(CopyFormat::Csv, true), &streams), b"id\n1\n2\n3\n");
        assert_eq!(CopyTrim::of(&shape(CopyFormat::Csv, false), false, false), None);
    }

    #[test]
    fn one_binary_header_and_trailer_are_left() {
        let row = [0, 1, 0, 0, 0, 1, b'x'];
        let first = [HEADER, &row[..]].concat();
        let empty = [HEADER, &BINARY_TRAILER[..]].concat();
        let full = vec![first, row.to_vec(), BINARY_TRAILER.to_vec()];
        let shape = shape(CopyFormat::Binary, false);
        let wanted = [HEADER, &row[..], &row[..], &row[..], &row[..], &BINARY_TRAILER[..]].concat();
        assert_eq!(merged(&shape, &[vec![empty.clone()], full.clone(), full.clone()]), wanted);
        assert_eq!(merged(&shape, &[full.clone(), full, vec![empty]]), wanted);
    }
}
