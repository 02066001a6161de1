//! A frame of the server's against what is owed: whether it fits, what it settles, whether the application sees it.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{Conn, ConnError, Events, set_parameter, unexpected};
use crate::backend::events::Reshaped;
use crate::backend::oids::OidError;
use crate::backend::owed::{Owed, Show};
use crate::backend::shape::Shape;
use crate::wire::backend::{self, Status, tag};
use crate::wire::error;
use crate::wire::frame::HEADER;
use crate::wire::reply;

impl Conn {
    /// A DataRow or CopyData: shown or not?
    pub(super) fn row(
        &self,
        tag: u8,
        at: std::ops::Range<usize>,
        events: &mut Events,
    ) -> Result<bool, ConnError> {
        match self.owed.front() {
            Some(Owed::Execute(show) | Owed::Query(show)) => {
                let shown = show.has(Show::ROWS);
                if !shown && self.captures() {
                    events.rows.push(Bytes::copy_from_slice(&self.read[at.start + HEADER..at.end]));
                }
                Ok(shown)
            }
            _ => Err(unexpected(tag)),
        }
    }

    /// Passes on what is left of a CopyData frame.
    pub(super) fn trim(&mut self, at: std::ops::Range<usize>, out: &mut BytesMut) {
        let Some(trim) = &mut self.copy_trim else { return };
        let left = trim.keep(&self.read[at.start + HEADER..at.end]);
        if !left.is_empty() {
            reply::frame(out, tag::COPY_DATA, |b| b.extend_from_slice(left));
        }
    }

    /// Any other frame, whole: moves the queue, says whether it is shown.
    pub(super) fn reply(
        &mut self,
        tag: u8,
        at: std::ops::Range<usize>,
        events: &mut Events,
    ) -> Result<bool, ConnError> {
        match tag {
            tag::NOTICE | tag::NOTIFICATION | tag::PARAMETER_STATUS | tag::ERROR => {
                self.unasked(tag, at, events)
            }
            tag::READY => self.ready(at),
            _ => self.answer(tag, at, events),
        }
    }

    /// Frames that may come at any time.
    fn unasked(
        &mut self,
        tag: u8,
        at: std::ops::Range<usize>,
        events: &mut Events,
    ) -> Result<bool, ConnError> {
        // Notifications are the application's whatever the proxy is doing on the conn.
        let part = if tag == tag::NOTICE { Show::NOTICES } else { Show::ERRORS };
        let shown = tag == tag::NOTIFICATION || self.owed.front().is_none_or(|owed| owed.show().has(part));
        let body = &self.read[at.start + HEADER..at.end];
        match tag {
            tag::PARAMETER_STATUS => {
                if let Some((name, value)) = backend::parameter_status(body) {
                    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                    let (name, value) = (text(name), text(value));
                    set_parameter(&mut self.parameters, &name, &value);
                    events.parameters.push((name, value));
                }
                return Ok(false);
            }
            tag::ERROR => {
                let frame = Bytes::copy_from_slice(&self.read[at]);
                let severity = backend::error_field(&frame[HEADER..], b'V');
                if matches!(severity, Some(b"FATAL" | b"PANIC")) {
                    return Err(ConnError::Fatal(frame));
                }
                events.at_end |= events.error.is_none() && matches!(self.owed.front(), Some(Owed::Sync(_)));
                self.skip_to_ready();
                let rewritten = self.rewritten.as_ref();
                let placed = rewritten.map(|rewritten| error::placed(&frame, |at| rewritten.place(at)));
                let edited = events.edited(placed.as_ref().unwrap_or(&frame)).or(placed);
                if events.error.is_none() {
                    events.error = Some(edited.clone().unwrap_or(frame));
                }
                if let Some(edited) = edited.filter(|_| shown) {
                    self.owed.push_front(Owed::Local(edited));
                    return Ok(false);
                }
            }
            _ => {}
        }
        Ok(shown)
    }

    /// After an error the server skips to Sync (or ends the Query): so do the debts.
    fn skip_to_ready(&mut self) {
        while let Some(front) = self.owed.front() {
            if front.ends_ready() {
                break;
            }
            if let Some(Owed::Parse { statement: Some(id), .. }) = self.owed.pop_front() {
                self.prepared.forget(id);
            }
        }
    }

    /// ReadyForQuery.
    fn ready(&mut self, at: std::ops::Range<usize>) -> Result<bool, ConnError> {
        let status = Status::read(&self.read[at.start + HEADER..at.end]);
        match (self.owed.front(), status) {
            (Some(owed), Some(status)) if owed.ends_ready() => {
                let shown = owed.show().has(Show::READY);
                self.status = status;
                if status == Status::Idle {
                    self.own_oids = None;
                }
                self.owed.pop_front();
                Ok(shown)
            }
            _ => Err(unexpected(tag::READY)),
        }
    }

    /// Puts the home shard's OIDs into a description, where they are others.
    fn translate(&mut self, tag: u8, at: std::ops::Range<usize>) -> Result<(), OidError> {
        let known = self.oids.as_ref().map(|cell| cell.load());
        let known = known.as_deref().and_then(|known| known.as_deref());
        let Some(oids) = self.own_oids.as_deref().or(known) else { return Ok(()) };
        let body = &mut self.read[at.start + HEADER..at.end];
        if tag == tag::ROW_DESCRIPTION {
            oids.row_description(body)
        } else {
            oids.parameter_description(body)
        }
    }

    /// Whether the OIDs of its shard could not be read so far.
    pub fn oids_unread(&self) -> bool {
        self.oids.as_ref().is_some_and(|cell| cell.load().as_ref().is_some_and(|oids| oids.unread))
    }

    /// Parameter types of a Parse for this conn, given those that the application named.
    pub fn own_types<'t>(&self, types: &'t Bytes) -> Result<Cow<'t, Bytes>, OidError> {
        if let Some(oids) = &self.own_oids {
            return oids.parse_types(types).map(Cow::Owned);
        }
        match self.oids.as_ref().and_then(|cell| cell.load_full()) {
            None => Ok(Cow::Borrowed(types)),
            Some(oids) => oids.parse_types(types).map(Cow::Owned),
        }
    }

    /// The frames that answer the entry at the head.
    fn answer(
        &mut self,
        tag: u8,
        at: std::ops::Range<usize>,
        events: &mut Events,
    ) -> Result<bool, ConnError> {
        if matches!(tag, tag::ROW_DESCRIPTION | tag::PARAMETER_DESCRIPTION) {
            self.translate(tag, at.clone())?;
        }
        if matches!(tag, tag::ROW_DESCRIPTION | tag::COPY_OUT) {
            self.compare(tag, at.clone(), events)?;
        }
        let Some(head) = self.owed.front() else { return Err(unexpected(tag)) };
        if let Owed::Shape { .. } = head {
            return self.shape(tag, at, events).map(|()| false);
        }
        let show = head.show();
        let (part, done) = match (tag, head) {
            (tag::PARSE_COMPLETE, Owed::Parse { .. }) => {
                events.parsed += u32::from(show.has(Show::COMPLETE));
                (Show::COMPLETE, true)
            }
            (tag::BIND_COMPLETE, Owed::Bind(_)) | (tag::CLOSE_COMPLETE, Owed::Close(_)) => {
                (Show::COMPLETE, true)
            }
            (tag::ROW_DESCRIPTION | tag::NO_DATA, Owed::Describe(_)) => (Show::DESCRIPTION, true),
            (tag::PARAMETER_DESCRIPTION, Owed::Describe(_)) | (tag::ROW_DESCRIPTION, Owed::Query(_)) => {
                (Show::DESCRIPTION, false)
            }
            (
                tag::COMMAND_COMPLETE | tag::EMPTY_QUERY | tag::PORTAL_SUSPENDED,
                Owed::Execute(_) | Owed::Query(_),
            ) => {
                let body = &self.read[at.start + HEADER..at.end];
                events.note_completion(tag, body, show);
                (Show::COMPLETE, matches!(head, Owed::Execute(_)))
            }
            (tag::COPY_IN, Owed::Execute(_) | Owed::Query(_)) => {
                events.copy_in = true;
                (Show::DESCRIPTION, false)
            }
            (tag::COPY_OUT, Owed::Execute(_) | Owed::Query(_)) => (Show::DESCRIPTION, false),
            (tag::COPY_DONE, Owed::Execute(_) | Owed::Query(_)) => (Show::COPY_DONE, false),
            (tag::FUNCTION_RESULT, Owed::Function) => (Show::ROWS, false),
            _ => return Err(unexpected(tag)),
        };
        let shown = show.has(part);
        if !shown && part == Show::DESCRIPTION {
            events.descriptions.push(Bytes::copy_from_slice(&self.read[at]));
        }
        if done {
            self.owed.pop_front();
        }
        Ok(shown)
    }

    /// What the server makes of a shared statement, against what another one has made of it before.
    fn shape(&mut self, tag: u8, at: std::ops::Range<usize>, events: &mut Events) -> Result<(), ConnError> {
        let body = &self.read[at.start + HEADER..at.end];
        let rows = match tag {
            tag::PARAMETER_DESCRIPTION => {
                self.parameters_told = Bytes::copy_from_slice(body);
                return Ok(());
            }
            tag::ROW_DESCRIPTION => Some(body),
            tag::NO_DATA => None,
            _ => return Err(unexpected(tag)),
        };
        let hidden = match self.owed.front() {
            Some(Owed::Shape { hidden, .. }) => *hidden,
            _ => 0,
        };
        let shape = Shape::of_first(&self.parameters_told, rows, hidden).ok_or(OidError::Truncated)?;
        self.parameters_told = Bytes::new();
        let Some(Owed::Shape { of, by, .. }) = self.owed.pop_front() else { return Err(unexpected(tag)) };
        let origin = of.origin.get_or_init(|| shape.clone());
        match by {
            Some(by) if *origin != shape => events.reshaped.push(Reshaped { old: of, shape, by }),
            None if !origin.same_rows(&shape) => {
                events.changed = true;
                self.hide_to_ready();
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// A description of rows, against that of the other shards' parts of the answer. Rows that differ are not shown.
    fn compare(&mut self, tag: u8, at: std::ops::Range<usize>, events: &mut Events) -> Result<(), ConnError> {
        let Some(agreed) = &events.agreed else { return Ok(()) };
        if !self.owed.front().is_some_and(|owed| owed.show().has(Show::COMPARED)) {
            return Ok(());
        }
        let body = &self.read[at.start + HEADER..at.end];
        let shape = if tag == tag::COPY_OUT { Shape::of_copy(body) } else { Shape::of(&[0, 0], Some(body)) };
        let shape = shape.ok_or(OidError::Truncated)?;
        if !agreed.get_or_init(|| shape.clone()).same_rows(&shape) {
            events.differs = true;
            if let Some(Owed::Query(show)) = self.owed.front_mut() {
                *show = Show::NOTHING;
            }
            self.hide_to_ready();
        }
        Ok(())
    }

    /// Nothing of what is owed up to ReadyForQuery reaches the application.
    fn hide_to_ready(&mut self) {
        let ready = self.owed.iter().position(Owed::ends_ready).unwrap_or(self.owed.len());
        let rest = self.owed.split_off(ready);
        self.owed.retain(|owed| !matches!(owed, Owed::Local(_)));
        self.owed.iter_mut().for_each(|owed| owed.hide_but(Show::NOTHING));
        self.owed.extend(rest);
    }
}
