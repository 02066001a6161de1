//! Streams of rows, one of each shard, into one: in order, from OFFSET to LIMIT.
//!
//! Invariants: a row is passed on when no other stream can have one that comes before it; each stream is seen to be in order; of
//! a stream that is ahead no more is kept than `AHEAD_BYTES` and one row.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::fold::Folder;
use super::key::{Unreadable, encode};
use super::row;
use crate::route::plan::{Gather, GatherKey, KeyColumn};
use crate::wire::backend::tag;
use crate::wire::frame::{self, HEADER};

/// Bytes of one stream that are read before they are needed.
const AHEAD_BYTES: usize = 256 << 10;

/// Why streams cannot be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A value of a key is none of its type.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A row has not the columns that it must have.
    #[error("a shard gave a row of other columns than was asked for")]
    Columns,
    /// A sum is too great for its type.
    #[error("bigint out of range")]
    Overflow,
    /// A stream is not in order.
    #[error("a shard gave its rows in another order than was asked for")]
    Order,
}

/// How far the merge has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more than was asked for in the output.
    Full,
    /// It needs more of some stream.
    Starved,
    /// As many rows were passed on as may be before there is a pause.
    Paused,
    /// Nothing comes any more.
    Over,
}

/// The frames of one shard.
#[derive(Debug, Default)]
struct Stream {
    /// Frames, as they have come.
    ahead: BytesMut,
    /// Bytes at their front that have been dealt with.
    done: usize,
    /// Its frames may be looked at.
    open: bool,
    /// Nothing more is coming.
    ended: bool,
    /// The row that is next.
    head: Option<Head>,
    /// Key of that row; without one, of the row before.
    key: Key,
    /// Its key is not that of a row.
    fresh: bool,
}

/// A sort key, and its beginning as a number: that decides nearly always, without a look at the rest. In this order of fields.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    start: u128,
    code: Vec<u8>,
}

impl Key {
    /// Of the code that has been written.
    fn note_start(&mut self) {
        self.start = match self.code.first_chunk() {
            Some(start) => u128::from_be_bytes(*start),
            None => {
                let mut start = [0; 16];
                start[..self.code.len()].copy_from_slice(&self.code);
                u128::from_be_bytes(start)
            }
        };
    }
}

/// A whole row at the front of a stream.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// Bytes of its frame.
    len: usize,
    /// Columns that are the application's.
    columns: u16,
    /// Where these end.
    end: usize,
}

/// Merges streams.
#[derive(Debug)]
pub struct Merger {
    gather: Arc<Gather>,
    formats: Vec<i16>,
    streams: Vec<Stream>,
    /// Streams with a head, the first row last.
    order: Vec<usize>,
    /// Streams that have none and have not ended.
    waiting: Vec<usize>,
    /// The description of the rows has been passed on.
    described: bool,
    skip: u64,
    left: Option<u64>,
    rows: u64,
    /// Rows that may have been passed on before there is a pause.
    pause: Option<u64>,
    /// What the rows become, if that is one row.
    folder: Option<Folder>,
    over: bool,
    /// For the next key.
    scratch: Key,
    /// Where the values of a row begin, and end unless they are NULL.
    spans: Vec<(usize, Option<usize>)>,
    /// Columns of a row that have to be found.
    needed: usize,
}

impl Merger {
    /// Of so many streams. `formats` are those of the results, as Bind has them.
    pub fn new(gather: Arc<Gather>, formats: Vec<i16>, streams: usize) -> Self {
        let stream = || Stream { fresh: true, ..Stream::default() };
        let (skip, left) = (gather.offset, gather.limit);
        let folder = (!gather.folds.is_empty()).then(|| Folder::new(&gather.folds));
        let column = |key: &GatherKey| match key.column {
            KeyColumn::Output(index) => index + 1,
            KeyColumn::Hidden(_) => usize::MAX,
        };
        let hidden = if gather.hidden > 0 { usize::MAX } else { 0 };
        let needed = gather.keys.iter().map(column).max().unwrap_or(0).max(hidden);
        Self {
            folder,
            gather,
            formats,
            streams: std::iter::repeat_with(stream).take(streams).collect(),
            order: Vec::with_capacity(streams),
            waiting: (0..streams).collect(),
            described: false,
            skip,
            left,
            rows: 0,
            pause: None,
            over: false,
            scratch: Key::default(),
            spans: Vec::new(),
            needed,
        }
    }

    /// Rows passed on.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// So many rows more are passed on before there is a pause; `None`: all.
    pub fn pause_after(&mut self, rows: Option<u64>) {
        self.pause = rows.map(|rows| self.rows.saturating_add(rows));
    }

    /// Whether nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Streams of which more is needed.
    pub fn waiting(&self) -> &[usize] {
        &self.waiting
    }

    /// Formats of the results.
    pub fn formats(&self) -> &[i16] {
        &self.formats
    }

    /// Where frames of a stream are put.
    pub fn ahead(&mut self, at: usize) -> &mut BytesMut {
        let stream = &mut self.streams[at];
        let done = if self.over { stream.ahead.len() } else { stream.done };
        stream.ahead.advance(done);
        stream.done = 0;
        &mut stream.ahead
    }

    /// Whether a stream should be read on. What is not needed any more is read to be dropped.
    pub fn wants(&self, at: usize) -> bool {
        let stream = &self.streams[at];
        let room = stream.ahead.len() - stream.done < AHEAD_BYTES || (stream.open && stream.head.is_none());
        !stream.ended && (self.over || room)
    }

    /// The frames of a stream may be looked at from now on.
    pub fn open(&mut self, at: usize) {
        self.streams[at].open = true;
    }

    /// Nothing more comes of a stream.
    pub fn end(&mut self, at: usize) {
        self.streams[at].ended = true;
    }

    /// Nothing more is passed on, but for the description of the rows, if it has come.
    pub fn stop(&mut self, out: &mut BytesMut) {
        if !self.described && self.streams.first().is_some_and(|first| first.head.is_none()) {
            // What is wrong with a row is not of interest any more.
            let _ = self.load(0, out);
        }
        self.over = true;
    }

    /// Passes on what can be, until there are `high` bytes.
    pub fn step(&mut self, out: &mut BytesMut, high: usize) -> Result<Step, Broken> {
        loop {
            if self.over {
                return Ok(Step::Over);
            }
            self.load_waiting(out)?;
            self.described |= !self.waiting.contains(&0);
            let ready = if self.gather.keys.is_empty() {
                self.described && (self.waiting.is_empty() || !self.order.is_empty())
            } else {
                self.waiting.is_empty()
            };
            if !(ready || (self.described && self.left == Some(0))) {
                return Ok(Step::Starved);
            }
            if self.left == Some(0) || self.order.is_empty() {
                self.over = true;
                if let Some(folder) = self.folder.take() {
                    folder.put(out, &self.formats);
                    self.rows += 1;
                }
                continue;
            }
            if self.pause == Some(self.rows) {
                return Ok(Step::Paused);
            }
            self.pass_on(out)?;
            if out.len() >= high {
                return Ok(Step::Full);
            }
        }
    }

    /// The first of all rows.
    fn pass_on(&mut self, out: &mut BytesMut) -> Result<(), Broken> {
        let Some(at) = self.order.pop() else { return Ok(()) };
        let stream = &mut self.streams[at];
        let Some(head) = stream.head.take() else { return Ok(()) };
        let row = &stream.ahead[stream.done..];
        if let Some(folder) = &mut self.folder {
            folder.add(&self.gather.folds, &row[HEADER..head.len], &self.formats)?;
        } else if self.skip > 0 {
            self.skip -= 1;
        } else {
            match self.gather.hidden {
                0 => out.extend_from_slice(&row[..head.len]),
                _ => row::put(out, head.columns, &row[HEADER + 2..head.end]),
            }
            self.rows += 1;
            self.left = self.left.map(|left| left - 1);
        }
        stream.done += head.len;
        self.waiting.push(at);
        Ok(())
    }

    fn load_waiting(&mut self, out: &mut BytesMut) -> Result<(), Broken> {
        let mut n = 0;
        while let Some(&at) = self.waiting.get(n) {
            if self.load(at, out)? {
                self.waiting.remove(n);
            } else {
                n += 1;
            }
        }
        Ok(())
    }

    /// Takes frames off a stream up to its next row; whether there is one, or nothing comes any more.
    fn load(&mut self, at: usize, out: &mut BytesMut) -> Result<bool, Broken> {
        loop {
            let stream = &mut self.streams[at];
            if !stream.open {
                return Ok(false);
            }
            let rest = &stream.ahead[stream.done..];
            let header = frame::header(rest, usize::MAX).map_err(|_| Broken::Columns)?;
            let Some(header) = header.filter(|header| rest.len() >= header.len) else {
                return Ok(stream.ended);
            };
            match header.tag {
                tag::DATA_ROW => {
                    self.take_head(at, header.len)?;
                    return Ok(true);
                }
                tag::ROW_DESCRIPTION if self.gather.hidden > 0 => {
                    let body = &rest[HEADER..header.len];
                    row::put_description(out, body, self.gather.hidden).ok_or(Broken::Columns)?;
                }
                // It is told by whoever stops the merge.
                tag::ERROR => {}
                _ => out.extend_from_slice(&rest[..header.len]),
            }
            self.streams[at].done += header.len;
        }
    }

    /// Reads the row at the front of a stream, and puts the stream in its place.
    fn take_head(&mut self, at: usize, len: usize) -> Result<(), Broken> {
        let stream = &mut self.streams[at];
        let frame = &stream.ahead[stream.done..stream.done + len];
        let head = if self.gather.keys.is_empty() {
            Head { len, columns: 0, end: len }
        } else {
            let head = spans(&mut self.spans, frame, (self.gather.hidden, self.needed))?;
            self.scratch.code.clear();
            for key in &self.gather.keys {
                let index = match key.column {
                    KeyColumn::Output(index) => index,
                    KeyColumn::Hidden(index) => usize::from(head.columns) + index,
                };
                let (start, end) = *self.spans.get(index).ok_or(Broken::Columns)?;
                let value = end.and_then(|end| frame.get(start..end));
                encode(&mut self.scratch.code, key.order, value, binary(&self.formats, index))?;
            }
            self.scratch.note_start();
            if !stream.fresh && self.scratch < stream.key {
                return Err(Broken::Order);
            }
            std::mem::swap(&mut self.scratch, &mut stream.key);
            head
        };
        stream.fresh = false;
        stream.head = Some(head);
        let key = &self.streams[at].key;
        // One stream after another from the last place on: rows of a stream often follow each other.
        let before = |&other: &usize| self.streams[other].key > *key;
        let place = self.order.iter().rposition(before).map_or(0, |last| last + 1);
        self.order.insert(place, at);
        Ok(())
    }
}

/// Where the first values of a row are, as many as are needed, and which of them are the application's: without `hidden` ones, all.
fn spans(
    spans: &mut Vec<(usize, Option<usize>)>,
    frame: &[u8],
    (hidden, needed): (u16, usize),
) -> Result<Head, Broken> {
    let mut rest = frame.get(HEADER..).ok_or(Broken::Columns)?;
    let count = frame::i16(&mut rest).ok_or(Broken::Columns)? as u16;
    let columns = count.checked_sub(hidden).ok_or(Broken::Columns)?;
    spans.clear();
    let mut end = HEADER + 2;
    for column in (0..count).take(needed) {
        let start = frame.len() - rest.len() + 4;
        let value = row::value(&mut rest).ok_or(Broken::Columns)?;
        spans.push((start, value.map(|value| start + value.len())));
        if column < columns {
            end = frame.len() - rest.len();
        }
    }
    Ok(Head { len: frame.len(), columns, end })
}

/// Whether a column of the result comes in binary format.
pub fn binary(formats: &[i16], column: usize) -> bool {
    let format = match formats {
        [] => 0,
        [all] => *all,
        each => each.get(column).copied().unwrap_or(0),
    };
    format == 1
}

#[cfg(test)]
mod tests;
