//! Frames that the proxy makes itself: replies to applications and requests to PostgreSQL.
//!
//! Each function appends one whole frame to a buffer.

use bytes::{BufMut, Bytes, BytesMut};

use super::backend::{Status, tag as backend};
use super::frontend::tag as frontend;

/// Appends a frame whose body is written by `body`.
pub fn frame(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u8(tag);
    out.put_i32(0);
    body(out);
    super::frame::set_length(out, start);
}

fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// ReadyForQuery.
pub fn ready(out: &mut BytesMut, status: Status) {
    frame(out, backend::READY, |b| b.put_u8(status.byte()));
}

/// CommandComplete with this tag.
pub fn command_complete(out: &mut BytesMut, command: &str) {
    frame(out, backend::COMMAND_COMPLETE, |b| put_cstr(b, command.as_bytes()));
}

/// A frame without a body: ParseComplete, BindComplete, CloseComplete, NoData, EmptyQueryResponse, Sync, Flush, ….
pub fn bare(out: &mut BytesMut, tag: u8) {
    frame(out, tag, |_| {});
}

/// As `bare`, by itself.
pub fn bare_frame(tag: u8) -> Bytes {
    match tag {
        backend::PARSE_COMPLETE => Bytes::from_static(b"1\0\0\0\x04"),
        backend::BIND_COMPLETE => Bytes::from_static(b"2\0\0\0\x04"),
        backend::CLOSE_COMPLETE => Bytes::from_static(b"3\0\0\0\x04"),
        _ => {
            let mut frame = BytesMut::with_capacity(5);
            bare(&mut frame, tag);
            frame.freeze()
        }
    }
}

/// ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    frame(out, backend::PARAMETER_STATUS, |b| {
        put_cstr(b, name.as_bytes());
        put_cstr(b, value.as_bytes());
    });
}

/// BackendKeyData.
pub fn backend_key(out: &mut BytesMut, process: i32, secret: &[u8]) {
    frame(out, backend::BACKEND_KEY, |b| {
        b.put_i32(process);
        b.put_slice(secret);
    });
}

/// RowDescription of text columns.
pub fn text_row_description(out: &mut BytesMut, columns: &[&str]) {
    const TEXT: i32 = 25;
    frame(out, backend::ROW_DESCRIPTION, |b| {
        b.put_i16(columns.len() as i16);
        for name in columns {
            put_cstr(b, name.as_bytes());
            b.put_i32(0);
            b.put_i16(0);
            b.put_i32(TEXT);
            b.put_i16(-1);
            b.put_i32(-1);
            b.put_i16(0);
        }
    });
}

/// DataRow of text values; `None` is NULL.
pub fn text_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a str>>) {
    frame(out, backend::DATA_ROW, |b| {
        b.put_i16(values.len() as i16);
        for value in values {
            match value {
                Some(text) => {
                    b.put_i32(text.len() as i32);
                    b.put_slice(text.as_bytes());
                }
                None => b.put_i32(-1),
            }
        }
    });
}

/// NotificationResponse.
pub fn notification(out: &mut BytesMut, process: i32, channel: &str, payload: &str) {
    frame(out, backend::NOTIFICATION, |b| {
        b.put_i32(process);
        put_cstr(b, channel.as_bytes());
        put_cstr(b, payload.as_bytes());
    });
}

/// Query.
pub fn query(out: &mut BytesMut, text: &[u8]) {
    frame(out, frontend::QUERY, |b| put_cstr(b, text));
}

/// Parse; `types` are big-endian OIDs.
pub fn parse(out: &mut BytesMut, name: &[u8], text: &[u8], types: &[u8]) {
    frame(out, frontend::PARSE, |b| {
        put_cstr(b, name);
        put_cstr(b, text);
        b.put_u16((types.len() / 4) as u16);
        b.put_slice(types);
    });
}

/// Bind with the parts after the names taken over as they are.
pub fn bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: &[u8]) {
    frame(out, frontend::BIND, |b| {
        put_cstr(b, portal);
        put_cstr(b, statement);
        b.put_slice(rest);
    });
}

/// Describe or Close of a portal or statement.
pub fn named(out: &mut BytesMut, tag: u8, portal: bool, name: &[u8]) {
    frame(out, tag, |b| {
        b.put_u8(if portal { b'P' } else { b'S' });
        put_cstr(b, name);
    });
}

/// Execute.
pub fn execute(out: &mut BytesMut, portal: &[u8], max_rows: i32) {
    frame(out, frontend::EXECUTE, |b| {
        put_cstr(b, portal);
        b.put_i32(max_rows);
    });
}
