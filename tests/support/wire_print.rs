//! Backend messages as text: one line each, every field in it, the same text for the same bytes.

use std::fmt::Write;

use crate::wire::Frame;

/// One line for one message.
#[must_use]
pub fn print(frame: &Frame) -> String {
    let body = &frame.body;
    match frame.tag {
        b'R' => format!("Authentication {}", numbers(body)),
        b'K' => format!("BackendKeyData {}", bytes(body)),
        b'S' => format!("ParameterStatus {}", strings(body)),
        b'Z' => format!("ReadyForQuery {}", bytes(body)),
        b'T' => format!("RowDescription {}", columns(body)),
        b't' => format!("ParameterDescription {}", numbers(body.get(2..).unwrap_or_default())),
        b'D' => format!("DataRow {}", values(body)),
        b'C' => format!("CommandComplete {}", strings(body)),
        b'E' => format!("ErrorResponse {}", fields(body)),
        b'N' => format!("NoticeResponse {}", fields(body)),
        b'A' => format!("NotificationResponse {}", bytes(body)),
        b'G' => format!("CopyInResponse {}", bytes(body)),
        b'H' => format!("CopyOutResponse {}", bytes(body)),
        b'W' => format!("CopyBothResponse {}", bytes(body)),
        b'd' => format!("CopyData {}", bytes(body)),
        b'V' => format!("FunctionCallResponse {}", bytes(body)),
        b'v' => format!("NegotiateProtocolVersion {}", bytes(body)),
        b'1' => named("ParseComplete", body),
        b'2' => named("BindComplete", body),
        b'3' => named("CloseComplete", body),
        b'n' => named("NoData", body),
        b's' => named("PortalSuspended", body),
        b'I' => named("EmptyQueryResponse", body),
        b'c' => named("CopyDone", body),
        other => format!("Unknown({}) {}", bytes(&[other]), bytes(body)),
    }
}

/// The fields of an ErrorResponse or NoticeResponse: code and text.
#[must_use]
pub fn error_fields(body: &[u8]) -> Vec<(u8, String)> {
    body.split(|byte| *byte == 0)
        .filter_map(|field| field.split_first())
        .map(|(code, text)| (*code, String::from_utf8_lossy(text).into_owned()))
        .collect()
}

/// The SQLSTATE of an ErrorResponse or NoticeResponse.
#[must_use]
pub fn sqlstate(frame: &Frame) -> Option<String> {
    let fields = error_fields(&frame.body);
    fields.into_iter().find(|(code, _)| *code == b'C').map(|(_, text)| text)
}

/// Printable ASCII and UTF-8 as they are, the rest as `\x..`; long runs are shortened with their length.
#[must_use]
pub fn bytes(data: &[u8]) -> String {
    const SHOWN: usize = 200;
    let mut out = String::new();
    for chunk in data[..data.len().min(SHOWN)].utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\0'..='\x1f' | '\x7f' => _ = write!(out, "\\x{:02x}", character as u32),
                '\\' => out.push_str("\\\\"),
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            _ = write!(out, "\\x{byte:02x}");
        }
    }
    if data.len() > SHOWN {
        _ = write!(out, "… ({} bytes)", data.len());
    }
    out
}

fn named(name: &str, body: &[u8]) -> String {
    if body.is_empty() { name.into() } else { format!("{name} {}", bytes(body)) }
}

fn strings(body: &[u8]) -> String {
    let body = body.strip_suffix(&[0]).unwrap_or(body);
    body.split(|byte| *byte == 0).map(bytes).collect::<Vec<_>>().join(" = ")
}

fn numbers(body: &[u8]) -> String {
    let (words, rest) = body.as_chunks::<4>();
    let words = words.iter().map(|word| u32::from_be_bytes(*word).to_string()).collect::<Vec<_>>();
    format!("[{}]{}", words.join(" "), bytes(rest))
}

fn fields(body: &[u8]) -> String {
    let fields = error_fields(body).into_iter();
    fields.map(|(code, text)| format!("{}={text:?}", code as char)).collect::<Vec<_>>().join(" ")
}

fn columns(body: &[u8]) -> String {
    let mut out = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, after) = rest.split_at(end);
        let Some((data, after)) = after[1..].split_first_chunk::<18>() else { break };
        let [t0, t1, t2, t3, a0, a1, y0, y1, y2, y3, l0, l1, m0, m1, m2, m3, f0, f1] = *data;
        out.push(format!(
            "{}(table {} column {} type {} length {} modifier {} format {})",
            bytes(name),
            u32::from_be_bytes([t0, t1, t2, t3]),
            i16::from_be_bytes([a0, a1]),
            u32::from_be_bytes([y0, y1, y2, y3]),
            i16::from_be_bytes([l0, l1]),
            i32::from_be_bytes([m0, m1, m2, m3]),
            i16::from_be_bytes([f0, f1]),
        ));
        rest = after;
    }
    out.join(", ")
}

fn values(body: &[u8]) -> String {
    let mut out = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        rest = match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                out.push("NULL".into());
                after
            }
            Ok(length) => {
                let (value, after) = after.split_at(length.min(after.len()));
                out.push(format!("'{}'", bytes(value)));
                after
            }
        };
    }
    out.join(", ")
}
