//! The first packet of a connection: length and code, and for a login the parameters.
//!
//! Source: PostgreSQL documentation, "Message Formats" (StartupMessage, SSLRequest, GSSENCRequest, CancelRequest) and
//! `ProcessStartupPacket`, `pg_split_opts`, `process_postgres_switches` of PostgreSQL's source. Pure: bytes in, values
//! out. Invariant: no input panics, and how the bytes were cut into reads does not matter.

use bytes::{BufMut, Bytes, BytesMut};

use super::sqlstate;

/// `MAX_STARTUP_PACKET_LENGTH`: a longer first packet is refused (`08P01`).
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// `NAMEDATALEN` less its terminator: longer names of users and databases are cut.
const NAME_BYTES_MAX: usize = 63;
/// A cancel key's secret is at most this long (protocol 3.2).
pub const CANCEL_SECRET_BYTES_MAX: usize = 256;

const CODE_CANCEL: u32 = 80_877_102;
/// Gavel's own: a cancel request that a proxy passes on to another, which does not pass it on to its peers.
const CODE_PEER_CANCEL: u32 = 80_884_352;
const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;

/// The versions of the protocol that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// 3.0: cancel secrets of four bytes.
    V3_0,
    /// 3.2: cancel secrets of up to 256 bytes.
    V3_2,
}

impl Protocol {
    /// As in a startup packet.
    pub fn code(self) -> u32 {
        match self {
            Self::V3_0 => 3 << 16,
            Self::V3_2 => (3 << 16) | 2,
        }
    }
}

/// What identifies a session to a CancelRequest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process id, as in BackendKeyData.
    pub process_id: i32,
    /// Secret, 4 to 256 bytes.
    pub secret: Bytes,
}

/// A first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// SSLRequest.
    Ssl,
    /// GSSENCRequest.
    Gss,
    /// CancelRequest.
    Cancel(CancelKey),
    /// CancelRequest that another proxy passes on.
    PeerCancel(CancelKey),
    /// StartupMessage.
    Startup(Startup),
}

/// A StartupMessage of protocol 3, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The version to speak.
    pub protocol: Protocol,
    /// Whether the application has to be told (NegotiateProtocolVersion): it asked for a newer version.
    pub newer_asked: bool,
    /// `_pq_.*` parameters, none of which is known.
    pub unsupported: Vec<String>,
    /// Role.
    pub user: String,
    /// Database; the user's name by default.
    pub database: String,
    /// Settings in the order in which they apply: those of `options`, then the others. The later wins.
    pub parameters: Vec<(String, String)>,
}

/// Who a connection says it is; empty where it has not said it yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Role.
    pub user: String,
    /// Database; the user's name by default.
    pub database: String,
}

impl Claim {
    /// Names are cut as `ProcessStartupPacket` does it: quietly.
    fn of(pairs: &[(&str, &str)]) -> Self {
        let last = |wanted: &str| {
            let (_, text) = pairs.iter().rfind(|(name, _)| *name == wanted)?;
            let cut = (0..=NAME_BYTES_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
            Some(text[..cut.unwrap_or(0)].to_owned()).filter(|text| !text.is_empty())
        };
        let user = last("user").unwrap_or_default();
        Self { database: last("database").unwrap_or_else(|| user.clone()), user }
    }
}

/// Why a first packet is refused; becomes a FATAL error. Its text here is that for logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.logged.unwrap_or(&self.message))]
pub struct StartupError {
    /// SQLSTATE.
    pub sqlstate: &'static str,
    /// Text for the application.
    pub message: String,
    /// Cure.
    pub hint: Option<&'static str>,
    /// What logs say instead of a text that repeats what cannot be read of the options.
    pub logged: Option<&'static str>,
    /// Whose packet it is, where that could be read.
    pub claim: Claim,
}

impl StartupError {
    /// Without a hint.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), hint: None, logged: None, claim: Claim::default() }
    }

    fn violation(message: impl Into<String>) -> Self {
        Self::new(sqlstate::PROTOCOL_VIOLATION, message)
    }
}

/// Takes the first packet off `buffer`; `None`: more bytes are needed.
pub fn take_first_packet(buffer: &mut BytesMut) -> Result<Option<FirstPacket>, StartupError> {
    let Some(length) = buffer.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize) else {
        return Ok(None);
    };
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(StartupError::violation("invalid length of startup packet"));
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let packet = buffer.split_to(length).freeze();
    let code = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    let body = packet.slice(8..);
    match code {
        CODE_SSL | CODE_GSS if !body.is_empty() => {
            Err(StartupError::violation("invalid length of startup packet"))
        }
        CODE_SSL => Ok(Some(FirstPacket::Ssl)),
        CODE_GSS => Ok(Some(FirstPacket::Gss)),
        CODE_CANCEL => cancel_key(&body).map(|key| Some(FirstPacket::Cancel(key))),
        CODE_PEER_CANCEL => cancel_key(&body).map(|key| Some(FirstPacket::PeerCancel(key))),
        _ => startup(code, &body).map(|startup| Some(FirstPacket::Startup(startup))),
    }
}

fn cancel_key(body: &Bytes) -> Result<CancelKey, StartupError> {
    match body.first_chunk::<4>() {
        Some(process_id) if (8..=4 + CANCEL_SECRET_BYTES_MAX).contains(&body.len()) => {
            Ok(CancelKey { process_id: i32::from_be_bytes(*process_id), secret: body.slice(4..) })
        }
        _ => Err(StartupError::violation("invalid length of cancel request")),
    }
}

fn startup(code: u32, body: &[u8]) -> Result<Startup, StartupError> {
    let (major, minor) = (code >> 16, code & 0xffff);
    if major != 3 {
        let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
        return Err(StartupError::new(sqlstate::FEATURE_NOT_SUPPORTED, message));
    }
    // 3.1 was never given a meaning; it is spoken as 3.0.
    let protocol = if minor >= 2 { Protocol::V3_2 } else { Protocol::V3_0 };
    let pairs = name_values(body)?;
    let claim = Claim::of(&pairs);
    let asked = asked(&pairs);
    let (unsupported, parameters) = asked.map_err(|error| StartupError { claim: claim.clone(), ..error })?;
    if claim.user.is_empty() {
        let message = "no PostgreSQL user name specified in startup packet";
        return Err(StartupError { claim, ..StartupError::new(sqlstate::INVALID_AUTHORIZATION, message) });
    }
    let Claim { user, database } = claim;
    Ok(Startup { protocol, newer_asked: minor > 2, unsupported, user, database, parameters })
}

/// What else is asked for: `_pq_.*` parameters that are not known, and settings, those of `options` first.
type Asked = (Vec<String>, Vec<(String, String)>);

fn asked(pairs: &[(&str, &str)]) -> Result<Asked, StartupError> {
    let (mut unsupported, mut options, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
    for &(name, value) in pairs {
        match name {
            "user" | "database" => {}
            "options" => options = parse_options(value)?,
            "replication" => refuse_replication(value)?,
            _ if name.starts_with("_pq_.") => unsupported.push(name.to_owned()),
            _ => parameters.push((name.to_owned(), value.to_owned())),
        }
    }
    options.append(&mut parameters);
    Ok((unsupported, options))
}

fn name_values(mut body: &[u8]) -> Result<Vec<(&str, &str)>, StartupError> {
    let layout =
        || StartupError::violation("invalid startup packet layout: expected terminator as last byte");
    let mut pairs = Vec::new();
    loop {
        let name = take_text(&mut body)?.ok_or_else(layout)?;
        if name.is_empty() {
            return if body.is_empty() { Ok(pairs) } else { Err(layout()) };
        }
        pairs.push((name, take_text(&mut body)?.ok_or_else(layout)?));
    }
}

/// Takes a NUL-terminated text; `None`: no terminator.
fn take_text<'a>(body: &mut &'a [u8]) -> Result<Option<&'a str>, StartupError> {
    let Some(end) = body.iter().position(|&byte| byte == 0) else {
        return Ok(None);
    };
    let (text, rest) = (&body[..end], &body[end + 1..]);
    *body = rest;
    match std::str::from_utf8(text) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(StartupError::new(
            sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
            "invalid byte sequence for encoding \"UTF8\" in startup packet",
        )),
    }
}

/// Anything but a spelling of "false" asks for the replication protocol, which a pooler cannot share.
fn refuse_replication(value: &str) -> Result<(), StartupError> {
    const OFF: [&str; 6] = ["false", "off", "no", "0", "f", "n"];
    if OFF.iter().any(|off| value.eq_ignore_ascii_case(off)) {
        return Ok(());
    }
    let message = "replication connections are not supported";
    let hint = Some("Connect to the node itself for replication.");
    Err(StartupError { hint, ..StartupError::new(sqlstate::FEATURE_NOT_SUPPORTED, message) })
}

/// The settings in the `options` parameter: `-c name=value`, `-cname=value`, `--name=value`, `-e`, `-S kilobytes`;
/// words are divided by white space, a backslash takes the next character literally.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut settings = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            settings.push(assignment(long, "--")?);
        } else if let Some(rest) = word.strip_prefix("-c") {
            let given = if rest.is_empty() { words.next().unwrap_or_default() } else { rest.to_owned() };
            settings.push(assignment(&given, "-c ")?);
        } else if word == "-e" {
            settings.push(("datestyle".to_owned(), "euro".to_owned()));
        } else if let Some(rest) = word.strip_prefix("-S") {
            let given = if rest.is_empty() { words.next().unwrap_or_default() } else { rest.to_owned() };
            settings.push(("work_mem".to_owned(), given));
        } else {
            let message = format!("invalid command-line argument for server process: {word}");
            let hint = Some("Only \"-c name=value\" and \"--name=value\" are understood here.");
            let logged = Some("the startup packet has an option that is none of -c, --, -e and -S");
            return Err(StartupError { hint, logged, ..StartupError::new(sqlstate::SYNTAX_ERROR, message) });
        }
    }
    Ok(settings)
}

fn assignment(text: &str, switch: &str) -> Result<(String, String), StartupError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.replace('-', "_"), value.to_owned())),
        _ => {
            let logged = Some("the startup packet has an option -c or -- without name=value");
            let message = format!("{switch}{text} requires a value");
            Err(StartupError { logged, ..StartupError::new(sqlstate::SYNTAX_ERROR, message) })
        }
    }
}

fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = options.chars();
    while let Some(letter) = letters.next() {
        // isspace() of the C locale.
        if matches!(letter, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c') {
            words.extend(word.take());
        } else if letter == '\\' {
            word.get_or_insert_default().extend(letters.next());
        } else {
            word.get_or_insert_default().push(letter);
        }
    }
    words.extend(word);
    words
}

/// Appends a NegotiateProtocolVersion: the version that is spoken, and the `_pq_.*` parameters that are not known.
pub fn write_negotiation(startup: &Startup, out: &mut BytesMut) {
    if !startup.newer_asked && startup.unsupported.is_empty() {
        return;
    }
    let names: usize = startup.unsupported.iter().map(|name| name.len() + 1).sum();
    out.put_u8(b'v');
    // Bounded by STARTUP_BYTES_MAX, from which the names came.
    out.put_u32((4 + 4 + 4 + names) as u32);
    out.put_u32(startup.protocol.code());
    out.put_u32(startup.unsupported.len() as u32);
    for name in &startup.unsupported {
        out.put_slice(name.as_bytes());
        out.put_u8(0);
    }
}

/// Appends a StartupMessage of protocol 3.0 (towards a node). Texts with NUL bytes are cut there.
pub fn write_startup<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut BytesMut) {
    let start = out.len();
    out.put_u32(0);
    out.put_u32(Protocol::V3_0.code());
    for text in parameters.into_iter().flat_map(|(name, value)| [name, value]) {
        out.put_slice(text.split('\0').next().unwrap_or_default().as_bytes());
        out.put_u8(0);
    }
    out.put_u8(0);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// An SSLRequest.
pub fn ssl_request() -> [u8; 8] {
    let mut packet = [0, 0, 0, 8, 0, 0, 0, 0];
    packet[4..].copy_from_slice(&CODE_SSL.to_be_bytes());
    packet
}

/// Appends a CancelRequest.
pub fn write_cancel(key: &CancelKey, out: &mut BytesMut) {
    put_cancel(CODE_CANCEL, key, out);
}

/// Appends a CancelRequest for another proxy.
pub fn write_peer_cancel(key: &CancelKey, out: &mut BytesMut) {
    put_cancel(CODE_PEER_CANCEL, key, out);
}

fn put_cancel(code: u32, key: &CancelKey, out: &mut BytesMut) {
    out.put_u32(u32::try_from(12 + key.secret.len()).unwrap_or(u32::MAX));
    out.put_u32(code);
    out.put_i32(key.process_id);
    out.put_slice(&key.secret);
}

#[cfg(test)]
mod tests;
