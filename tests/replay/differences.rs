//! The written list of intended differences, and what it does to a reply before it is compared.
//!
//! A line of the list is `modes rule [argument] : reason`; modes are `any` or some of `session,transaction,shards`.
//! * `ignore-body K`: the contents of messages of this type are not compared; that they come, and where, is.
//! * `ignore-sender`: the process id in NotificationResponse is not compared.
//! * `number-oids`: object ids from 16384 on are replaced by the order in which they first occur.
//! * `own-error 26000`: errors of this SQLSTATE may be the proxy's own; those name no source file, line and routine.
//! * `mask file/name what`: in this transcript, of errors only severity, SQLSTATE and message are compared.
//! * `differs file/name`: this transcript must differ: the list is kept honest by failing when it does not.
//! * `fault file/name`: this transcript may differ, but should not: it waits for a correction.
//! * `skip file/name`: this transcript is not played in this mode.

use std::collections::HashMap;

use tests::wire::Frame;
use tests::wire_print;

use crate::play::Heard;

/// Fields of an error that say where in the server's source it arose.
const SOURCE: &[u8] = b"FLR";

/// The lines of the list that count in one mode.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    ignored: Vec<u8>,
    ignore_sender: bool,
    number_oids: bool,
    own_errors: Vec<String>,
    masked: Vec<String>,
    differing: Vec<String>,
    faults: Vec<String>,
    skipped: Vec<String>,
}

impl Differences {
    /// Reads the list for `mode`.
    ///
    /// # Errors
    /// The first line that is not of the language.
    pub(crate) fn read(text: &str, mode: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let (rule, reason) = line.split_once(" : ").ok_or(format!("no reason: {line}"))?;
            if reason.trim().is_empty() {
                return Err(format!("no reason: {line}"));
            }
            let (modes, rule) = rule.trim().split_once(' ').ok_or(format!("no rule: {line}"))?;
            if modes != "any" && !modes.split(',').any(|other| other == mode) {
                continue;
            }
            let (rule, argument) = rule.trim().split_once(' ').unwrap_or((rule.trim(), ""));
            match rule {
                "ignore-body" => list.ignored.extend(argument.bytes()),
                "ignore-sender" => list.ignore_sender = true,
                "number-oids" => list.number_oids = true,
                "own-error" => list.own_errors.push(argument.trim().into()),
                "mask" => list.masked.push(argument.trim().into()),
                "differs" => list.differing.push(argument.trim().into()),
                "fault" => list.faults.push(argument.trim().into()),
                "skip" => list.skipped.push(argument.trim().into()),
                other => return Err(format!("unknown rule {other}")),
            }
        }
        Ok(list)
    }

    /// True for a transcript that is not to be played; `topic/*` covers a whole file.
    pub(crate) fn skips(&self, name: &str) -> bool {
        listed(&self.skipped, name)
    }

    /// True for a transcript that differs by a known fault.
    pub(crate) fn is_fault(&self, name: &str) -> bool {
        listed(&self.faults, name)
    }

    /// True for a transcript that must differ.
    pub(crate) fn must_differ(&self, name: &str) -> bool {
        listed(&self.differing, name)
    }

    /// Names in the list that are no transcript's.
    pub(crate) fn unknown<'a>(&'a self, names: &[String]) -> Vec<&'a str> {
        let all = self.masked.iter().chain(&self.differing).chain(&self.faults).chain(&self.skipped);
        all.filter(|entry| !names.iter().any(|name| covers(entry, name))).map(String::as_str).collect()
    }

    /// The reply of transcript `name` as lines to compare.
    pub(crate) fn normalise(&self, name: &str, reply: &[Heard]) -> Vec<Line> {
        let mut oids = HashMap::new();
        let mut lines = Vec::new();
        for heard in reply {
            for frame in &heard.frames {
                let frame = self.frame(frame, listed(&self.masked, name), &mut oids);
                lines.push(Line { session: heard.session, text: wire_print::print(&frame), frame });
            }
            if let Some(end) = &heard.end {
                let frame = Frame { tag: 0, body: end.clone().into_bytes() };
                lines.push(Line { session: heard.session, text: format!("({end})"), frame });
            }
        }
        lines
    }

    /// True when the messages are the same, or differ only as an error of the proxy's own may.
    pub(crate) fn same(&self, expected: &Frame, actual: &Frame) -> bool {
        let sourceless = || {
            let fields = wire_print::error_fields(&actual.body);
            let own = fields.iter().any(|(code, text)| *code == b'C' && self.own_errors.contains(text));
            own && fields.iter().all(|(code, _)| !SOURCE.contains(code))
        };
        if expected == actual || expected.tag != b'E' || actual.tag != b'E' || !sourceless() {
            return expected == actual;
        }
        let mut fields = wire_print::error_fields(&expected.body);
        fields.retain(|(code, _)| !SOURCE.contains(code));
        fields == wire_print::error_fields(&actual.body)
    }

    fn frame(&self, frame: &Frame, masked: bool, oids: &mut HashMap<u32, u32>) -> Frame {
        let mut frame = frame.clone();
        if self.ignored.contains(&frame.tag) {
            frame.body.clear();
        }
        if self.ignore_sender && frame.tag == b'A' {
            frame.body.drain(..4.min(frame.body.len()));
        }
        if masked && matches!(frame.tag, b'E' | b'N') {
            let fields = wire_print::error_fields(&frame.body).into_iter();
            let kept = fields.filter(|(code, _)| b"SVCM".contains(code));
            frame.body = kept.flat_map(|(code, text)| [&[code], text.as_bytes(), &[0]].concat()).collect();
        }
        if self.number_oids {
            number_oids(&mut frame, oids);
        }
        frame
    }
}

/// A message, ready to be compared.
#[derive(Debug)]
pub(crate) struct Line {
    /// Whose.
    pub(crate) session: char,
    /// For people.
    pub(crate) text: String,
    /// What is compared.
    pub(crate) frame: Frame,
}

fn listed(list: &[String], name: &str) -> bool {
    list.iter().any(|entry| covers(entry, name))
}

fn covers(entry: &str, name: &str) -> bool {
    entry == name || entry.strip_suffix('*').is_some_and(|topic| name.starts_with(topic))
}

/// Replaces the ids of user objects in RowDescription and ParameterDescription.
fn number_oids(frame: &mut Frame, oids: &mut HashMap<u32, u32>) {
    const FIRST_USER_OID: u32 = 16_384;
    let mut places = Vec::new();
    if frame.tag == b't' {
        places.extend((2..frame.body.len()).step_by(4));
    }
    if frame.tag == b'T' {
        let mut at = 2;
        while let Some(name) = frame.body[at..].iter().position(|byte| *byte == 0) {
            places.extend([at + name + 1, at + name + 7]);
            at += name + 19;
            if at >= frame.body.len() {
                break;
            }
        }
    }
    for place in places {
        let Some(bytes) = frame.body.get_mut(place..place + 4) else { continue };
        let oid = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if oid >= FIRST_USER_OID {
            let next = 1_000_000 + u32::try_from(oids.len()).unwrap_or(0);
            bytes.copy_from_slice(&oids.entry(oid).or_insert(next).to_be_bytes());
        }
    }
}
