//! Frontend messages of protocol 3 as bytes, built field by field.
//!
//! Nothing here checks that a message makes sense: the tests also send those that do not.
//! Source: PostgreSQL documentation, "Message Formats".

/// Protocol 3.0.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// Code of an SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// Code of a GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// Code of a CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;

/// A value of a parameter in Bind or FunctionCall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// In text format.
    Text(Vec<u8>),
    /// In binary format.
    Binary(Vec<u8>),
}

impl Value {
    fn format(&self) -> i16 {
        match self {
            Value::Null | Value::Text(_) => 0,
            Value::Binary(_) => 1,
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Null => None,
            Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
        }
    }
}

/// A tagged message around `body`.
#[must_use]
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&length(body.len()));
    out.extend_from_slice(body);
    out
}

/// A tagged message that says it is `length` bytes long (the length field included), whatever `body` is.
#[must_use]
pub fn lying_frame(tag: u8, length: i32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// An untagged message of the first packet: StartupMessage, SSLRequest, CancelRequest, …
#[must_use]
pub fn first_packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = length(body.len() + 4).to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// StartupMessage.
#[must_use]
pub fn startup(code: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in parameters {
        text(&mut body, name);
        text(&mut body, value);
    }
    body.push(0);
    first_packet(code, &body)
}

/// CancelRequest.
#[must_use]
pub fn cancel(process: u32, secret: &[u8]) -> Vec<u8> {
    let mut body = process.to_be_bytes().to_vec();
    body.extend_from_slice(secret);
    first_packet(CANCEL_REQUEST, &body)
}

/// Query.
#[must_use]
pub fn query(sql: &str) -> Vec<u8> {
    strings(b'Q', &[sql.as_bytes()])
}

/// Parse.
#[must_use]
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, name);
    text(&mut body, sql);
    body.extend_from_slice(&count(types.len()));
    for oid in types {
        body.extend_from_slice(&oid.to_be_bytes());
    }
    frame(b'P', &body)
}

/// Bind with one format code per parameter; `results` are the format codes of the result columns.
#[must_use]
pub fn bind(portal: &str, statement: &str, values: &[Value], results: &[i16]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, portal);
    text(&mut body, statement);
    put_values(&mut body, values);
    body.extend_from_slice(&count(results.len()));
    for format in results {
        body.extend_from_slice(&format.to_be_bytes());
    }
    frame(b'B', &body)
}

/// Describe; `kind` is `S` or `P`.
#[must_use]
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    kind_and_name(b'D', kind, name)
}

/// Close; `kind` is `S` or `P`.
#[must_use]
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    kind_and_name(b'C', kind, name)
}

/// Execute; 0 rows: no limit.
#[must_use]
pub fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, portal);
    body.extend_from_slice(&max_rows.to_be_bytes());
    frame(b'E', &body)
}

/// Parse, Bind and Execute of the unnamed statement, without parameters.
#[must_use]
pub fn step(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[], &[]), execute("", 0)].concat()
}

/// Sync.
#[must_use]
pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

/// Flush.
#[must_use]
pub fn flush() -> Vec<u8> {
    frame(b'H', b"")
}

/// Terminate.
#[must_use]
pub fn terminate() -> Vec<u8> {
    frame(b'X', b"")
}

/// CopyData.
#[must_use]
pub fn copy_data(bytes: &[u8]) -> Vec<u8> {
    frame(b'd', bytes)
}

/// CopyDone.
#[must_use]
pub fn copy_done() -> Vec<u8> {
    frame(b'c', b"")
}

/// CopyFail.
#[must_use]
pub fn copy_fail(reason: &str) -> Vec<u8> {
    strings(b'f', &[reason.as_bytes()])
}

/// PasswordMessage.
#[must_use]
pub fn password(password: &str) -> Vec<u8> {
    strings(b'p', &[password.as_bytes()])
}

/// SASLInitialResponse.
#[must_use]
pub fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, mechanism);
    body.extend_from_slice(&length(data.len().wrapping_sub(4)));
    body.extend_from_slice(data);
    frame(b'p', &body)
}

/// FunctionCall, `result` being the format code of the result.
#[must_use]
pub fn function_call(oid: u32, arguments: &[Value], result: i16) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    put_values(&mut body, arguments);
    body.extend_from_slice(&result.to_be_bytes());
    frame(b'F', &body)
}

/// A tagged message of zero-terminated strings.
#[must_use]
pub fn strings(tag: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for field in fields {
        body.extend_from_slice(field);
        body.push(0);
    }
    frame(tag, &body)
}

fn kind_and_name(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    text(&mut body, name);
    frame(tag, &body)
}

fn put_values(body: &mut Vec<u8>, values: &[Value]) {
    body.extend_from_slice(&count(values.len()));
    for value in values {
        body.extend_from_slice(&value.format().to_be_bytes());
    }
    body.extend_from_slice(&count(values.len()));
    for value in values {
        match value.bytes() {
            None => body.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(bytes) => {
                body.extend_from_slice(&length(bytes.len().wrapping_sub(4)));
                body.extend_from_slice(bytes);
            }
        }
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// A length field that counts itself; a test never builds a message of more than 4 GiB.
fn length(body: usize) -> [u8; 4] {
    u32::try_from(body.wrapping_add(4)).expect("messages of tests are small").to_be_bytes()
}

/// A count of parameters: unsigned on the wire, so that 65,535 fit.
fn count(n: usize) -> [u8; 2] {
    u16::try_from(n).expect("at most 65,535 parameters").to_be_bytes()
}
