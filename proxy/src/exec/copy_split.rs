//! COPY … FROM STDIN over several shards: split by key as it streams, or sent to all, inside one transaction.
//!
//! The application is read only as fast as the slowest shard takes its part. A row that any shard rejects loads nothing anywhere.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use router_config::topology::ShardId;

use super::ask::{Ask, Form};
use super::copy_in;
use crate::backend::conn::{Conn, ConnError, Events};
use crate::backend::owed::{Owed, Show};
use crate::frontend::failure::Failure;
use crate::frontend::io::{ClientError, ClientIo, StepError};
use crate::frontend::session::{Held, Session};
use crate::frontend::watch::Why;
use crate::route::copy::{CopyError, CopySplitter};
use crate::route::plan::Target;
use crate::sql::facts::Command;
use crate::wire::backend::{self, tag as backend_tag};
use crate::wire::error::{self, Report};
use crate::wire::frame::{self, HEADER};
use crate::wire::frontend::tag;
use crate::wire::reply;

/// Bytes of the application's data that are read at a time.
const FILL_BYTES: usize = 64 << 10;

/// What becomes of the application's data.
enum Way {
    Split(Box<CopySplitter>),
    /// Every shard is given all of it, once it has been looked at.
    All(Option<Box<CopySplitter>>),
}

/// How the data ended.
enum End {
    Done,
    Failed,
    /// A shard reported an error: the rest of the data is ignored, as PostgreSQL does.
    Stopped,
}

impl Session {
    /// Runs a COPY FROM STDIN that concerns every shard.
    pub async fn spread_copy(&mut self, ask: Ask) -> Result<(), Failure> {
        let Command::CopyIn(shape) = &ask.facts.command else {
            return Err(Failure::unsupported("this COPY over several shards", "Copy one table FROM STDIN."));
        };
        self.may_prepare()?;
        let topology = self.worker.shared.topology.load_full();
        let table = ask.facts.tables.first().map_or("", String::as_str);
        let mut way = match ask.plan.target {
            Target::CopySplit => {
                let splitter = CopySplitter::new(shape, table, self.text_rules(), topology.clone())?;
                Way::Split(Box::new(splitter.with_key_column(&self.key_column(table))))
            }
            _ => {
                let watch = CopySplitter::watch(shape, table, self.text_rules(), topology.clone())?;
                Way::All(watch.map(Box::new))
            }
        };
        let why = Why::of(&ask.plan);
        self.open_implicit();
        // Each row is somebody's own, or all shards say the same.
        let others = if matches!(way, Way::Split(_)) { Show::NOTICES } else { Show::NOTHING };
        // No shard is told of the COPY before all of them are there and may have a part in it.
        let order = self.acquire_all((0..topology.shards.len() as u16).map(ShardId), false).await?;
        for at in &order {
            self.note_shard(why, *at);
            self.writes(*at)?;
        }
        for (turn, at) in order.iter().enumerate() {
            let held = &mut self.held[*at];
            held.unnamed = None;
            // Errors are told when it is known which line comes first.
            let show = if turn == 0 { Show::DESCRIPTION.and(Show::NOTICES) } else { others };
            reply::query(&mut held.lease.write, &ask.text);
            held.lease.owe(Owed::Query(show));
        }
        self.expect(&ask.facts, &ask.text, None);
        self.draws_on_several();
        let (began, ran) = self.run_copy(&order, &mut way).await;
        if began && matches!(ask.form, Form::Execute { .. }) {
            self.pipeline.copied = self.pipeline.sync_ahead;
        }
        let outcome = match ran {
            Ok(outcome) => outcome,
            Err(Broken::Shard(_, StepError::Client(error))) => return Err(Failure::Client(error)),
            Err(Broken::Shard(turn, error)) => return Err(self.break_off(&order, turn, error)),
            Err(Broken::Data(error, outcome)) => {
                // PostgreSQL would have stopped at the first line that is wrong, whoever finds it.
                let frames = told(&outcome, &way);
                let first =
                    frames.into_iter().filter(|(line, _)| *line < error.line).min_by_key(|(line, _)| *line);
                return Err(first.map_or_else(|| of_data(&error), |(_, frame)| Failure::Server(frame)));
            }
        };
        self.conclude_copy(&outcome, &way)
    }

    /// Name of the key column of a table, `schema.name`.
    fn key_column(&self, table: &str) -> String {
        let schema = self.schema();
        let name = table.split_once('.').map(|(schema, name)| (schema.to_owned(), name.to_owned()));
        let relation = name.and_then(|name| schema.relations.get(&name).cloned());
        let column =
            relation.and_then(|relation| Some(relation.columns.get(relation.key()?.0)?.name.clone()));
        column.unwrap_or_else(|| "shard key".to_owned())
    }

    /// A shard was lost. Those that could not be made to leave the COPY are given up: nothing else can be said to them.
    fn break_off(&mut self, order: &[usize], turn: usize, error: StepError) -> Failure {
        let shards: Vec<ShardId> = order.iter().map(|at| self.held[*at].shard).collect();
        let failure = self.lose(order[turn], error);
        let in_copy = |held: &Held| shards.contains(&held.shard) && !held.lease.is_quiet();
        while let Some(at) = self.held.iter().position(in_copy) {
            self.lose(at, StepError::Backend(ConnError::Overdue));
        }
        failure
    }

    /// Whether the application was asked for its data, and what came of it.
    async fn run_copy(&mut self, order: &[usize], way: &mut Way) -> (bool, Result<Vec<Events>, Broken>) {
        let mut conns: Vec<Option<&mut Conn>> = Vec::new();
        conns.resize_with(order.len(), || None);
        for (at, held) in self.held.iter_mut().enumerate() {
            if let Some(turn) = order.iter().position(|wanted| *wanted == at) {
                conns[turn] = Some(&mut held.lease);
            }
        }
        let mut events = Vec::new();
        events.resize_with(order.len(), || self.events.beside());
        let high = self.worker.shared.settings.load().limits.copy_buffer_bytes;
        let conns = conns.into_iter().flatten().collect();
        let mut copy = Copy { conns, events, io: &mut self.io, high, began: false, lost: None };
        let ran = copy.run(way).await;
        if let Err(Broken::Shard(turn, StepError::Backend(_))) = &ran {
            // Those that do not leave it are given up.
            let _ = copy.leave(*turn).await;
        }
        let ran = match ran {
            Ok(()) => Ok(copy.events),
            Err(Broken::Data(error, _)) => Err(Broken::Data(error, copy.events)),
            Err(broken) => Err(broken),
        };
        (copy.began, ran)
    }

    fn conclude_copy(&mut self, outcome: &[Events], way: &Way) -> Result<(), Failure> {
        if let Some((_, frame)) = told(outcome, way).into_iter().min_by_key(|(line, _)| *line) {
            self.io.out.extend_from_slice(&frame);
            self.events.error.get_or_insert(frame);
            return Ok(());
        }
        let counts = outcome.iter().filter_map(|events| {
            std::str::from_utf8(events.last_tag.as_deref()?).ok()?.rsplit(' ').next()?.parse::<u64>().ok()
        });
        let rows: u64 = if matches!(way, Way::All(_)) { counts.take(1).sum() } else { counts.sum() };
        self.complete(&format!("COPY {rows}"));
        Ok(())
    }
}

/// What broke off a COPY.
enum Broken {
    Shard(usize, StepError),
    /// The data, and what the shards had said until then.
    Data(Box<CopyError>, Vec<Events>),
}

fn of_data(error: &CopyError) -> Failure {
    let report = Report::error(error.sqlstate, &error.message);
    Failure::Server(report.hint(error.hint.as_deref()).context(error.context.as_str()).to_frame())
}

/// What shards have to say against the data, with the numbers of the application's lines, and that line.
fn told(outcome: &[Events], way: &Way) -> Vec<(u64, Bytes)> {
    let frames = outcome.iter().enumerate().filter_map(|(turn, events)| {
        let frame = events.error.as_ref()?;
        let shard = ShardId(u16::try_from(turn).ok()?);
        let frame = match way {
            Way::Split(splitter) => {
                error::with_context(frame, |context| splitter.rewrite_context(shard, context))
            }
            Way::All(_) => frame.clone(),
        };
        let context = backend::error_field(frame.get(HEADER..)?, b'W');
        let line = context.and_then(|context| line_of(std::str::from_utf8(context).ok()?));
        Some((line.unwrap_or(u64::MAX), frame))
    });
    frames.collect()
}

/// The number in `COPY bids, line 5, column …`.
fn line_of(context: &str) -> Option<u64> {
    let rest = context.split_once(", line ")?.1;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

/// A COPY under way.
struct Copy<'a> {
    conns: Vec<&'a mut Conn>,
    events: Vec<Events>,
    io: &'a mut ClientIo,
    /// Bytes that wait for one shard before the application is made to wait.
    high: usize,
    /// The application has been asked for its data.
    began: bool,
    /// The shard that was lost: nothing more is expected of it.
    lost: Option<usize>,
}

impl Copy<'_> {
    async fn run(&mut self, way: &mut Way) -> Result<(), Broken> {
        let told = self.io.out.len();
        let ready = self.settle(|conn, events| conn.is_quiet() || events.copy_in).await;
        self.began = ready.is_ok() && self.events.iter().all(|events| events.error.is_none());
        if !self.began {
            // The application is not asked for data that nobody takes.
            self.io.out.truncate(told);
        }
        ready?;
        if self.began {
            self.io.flush().await.map_err(|error| Broken::Shard(0, error.into()))?;
            match self.feed(way).await {
                Ok(End::Done) => self.end_all(|out| reply::bare(out, tag::COPY_DONE)),
                Ok(End::Failed | End::Stopped) => {}
                Err(broken @ Broken::Data(..)) => {
                    // Every shard must leave the COPY before the transaction can be rolled back.
                    self.abandon("the proxy stopped the COPY").await?;
                    return Err(broken);
                }
                Err(broken @ Broken::Shard(..)) => return Err(broken),
            }
        }
        // A shard that failed has left the COPY; the others must too.
        if self.events.iter().any(|events| events.error.is_some()) {
            self.abandon("another shard rejected the data").await?;
        }
        self.settle(|conn, _| conn.is_quiet()).await
    }

    fn end_all(&mut self, frame: impl Fn(&mut BytesMut)) {
        for (conn, events) in self.conns.iter_mut().zip(&mut self.events) {
            if std::mem::take(&mut events.copy_in) && events.error.is_none() {
                frame(&mut conn.write);
            }
        }
    }

    /// One shard is lost: the others leave the COPY. Where that fails they are not quiet.
    async fn leave(&mut self, lost: usize) -> Result<(), Broken> {
        self.lost = Some(lost);
        self.settle(|conn, events| conn.is_quiet() || events.copy_in).await?;
        self.end_all(|out| copy_fail(out, "another shard was lost"));
        self.settle(|conn, _| conn.is_quiet()).await
    }

    /// Makes every shard leave the COPY. What they say to that is not the application's: it is told the cause, which may be
    /// a line that a shard was still to read.
    async fn abandon(&mut self, reason: &str) -> Result<(), Broken> {
        self.end_all(|out| copy_fail(out, reason));
        self.settle(|conn, _| conn.is_quiet()).await?;
        for events in &mut self.events {
            events.error.take_if(|frame| {
                let message = backend::error_field(frame.get(HEADER..).unwrap_or_default(), b'M');
                message.is_some_and(|message| message.ends_with(reason.as_bytes()))
            });
        }
        Ok(())
    }

    /// Runs the conns until `enough` holds for each.
    async fn settle(&mut self, enough: impl Fn(&Conn, &Events) -> bool) -> Result<(), Broken> {
        poll_fn(|cx| {
            loop {
                let (mut progress, mut awaited) = (false, None);
                for (turn, conn) in self.conns.iter_mut().enumerate() {
                    let events = &mut self.events[turn];
                    if self.lost == Some(turn) || enough(conn, events) {
                        continue;
                    }
                    awaited.get_or_insert(turn);
                    match conn.poll_step(cx, &mut self.io.out, events) {
                        Poll::Ready(Ok(())) => progress = true,
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Err(Broken::Shard(turn, StepError::Backend(error))));
                        }
                        Poll::Pending => {}
                    }
                }
                let Some(turn) = awaited else { return Poll::Ready(Ok(())) };
                if !progress {
                    return self.io.poll_hangup(cx).map_err(|error| Broken::Shard(turn, error));
                }
            }
        })
        .await
    }

    /// Takes the application's data until it ends.
    async fn feed(&mut self, way: &mut Way) -> Result<End, Broken> {
        self.conns.iter_mut().for_each(|conn| conn.be_patient());
        let client = |error: ClientError| Broken::Shard(0, StepError::Client(error));
        loop {
            if self.events.iter().any(|events| events.error.is_some()) {
                return Ok(End::Stopped);
            }
            if self.conns.iter().any(|conn| conn.write.len() >= self.high) {
                self.settle(|conn, events| conn.write.is_empty() || events.error.is_some()).await?;
                continue;
            }
            let Some(header) = self.io.whole_copy_frame().map_err(|error| client(error.into()))? else {
                self.more().await?;
                continue;
            };
            let frame = self.io.read.split_to(header.len);
            match header.tag {
                tag::COPY_DATA => self.data(way, &frame[HEADER..])?,
                tag::COPY_DONE => {
                    self.finish(way)?;
                    return Ok(End::Done);
                }
                tag::SYNC | tag::FLUSH => {}
                tag::COPY_FAIL => {
                    for (conn, events) in self.conns.iter_mut().zip(&mut self.events) {
                        events.copy_in = false;
                        conn.write.extend_from_slice(&frame);
                    }
                    return Ok(End::Failed);
                }
                tag => return Err(client(copy_in::out_of_place(tag, &mut self.io.out))),
            }
        }
    }

    /// Waits for more of the application's data, and sends meanwhile what there is; or until a shard reports an error.
    async fn more(&mut self) -> Result<(), Broken> {
        let Self { conns, events, io, .. } = self;
        let visible = Arc::clone(&io.visible);
        let mut said = BytesMut::new();
        let waited = {
            let mut filled = pin!(io.fill(FILL_BYTES));
            poll_fn(|cx| {
                for (turn, conn) in conns.iter_mut().enumerate() {
                    while let Poll::Ready(stepped) = conn.poll_step(cx, &mut said, &mut events[turn]) {
                        if let Err(error) = stepped {
                            return Poll::Ready(Err(Broken::Shard(turn, StepError::Backend(error))));
                        }
                        if events[turn].error.is_some() {
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
                if visible.poll_given_up(cx) {
                    return Poll::Ready(Err(Broken::Shard(0, StepError::Backend(ConnError::Overdue))));
                }
                filled.as_mut().poll(cx).map_err(|error| Broken::Shard(0, StepError::Client(error)))
            })
            .await
        };
        self.io.out.extend_from_slice(&said);
        waited
    }

    fn data(&mut self, way: &mut Way, chunk: &[u8]) -> Result<(), Broken> {
        match way {
            Way::All(watch) => {
                let watched = watch.as_mut().map_or(Ok(()), |watch| watch.push(chunk, &mut |_, _| {}));
                watched.map_err(broken_by)?;
                for conn in &mut self.conns {
                    put_data(&mut conn.write, chunk);
                }
                Ok(())
            }
            Way::Split(splitter) => {
                let mut frames = Frames::new(&mut self.conns);
                let pushed = splitter.push(chunk, &mut |shard, piece| frames.put(shard, piece));
                frames.close();
                pushed.map_err(broken_by)
            }
        }
    }

    fn finish(&mut self, way: &mut Way) -> Result<(), Broken> {
        let splitter = match way {
            Way::Split(splitter) => splitter,
            Way::All(watch) => {
                let watched = watch.as_mut().map_or(Ok(()), |watch| watch.finish(&mut |_, _| {}));
                return watched.map_err(broken_by);
            }
        };
        let mut frames = Frames::new(&mut self.conns);
        let finished = splitter.finish(&mut |shard, piece| frames.put(shard, piece));
        frames.close();
        finished.map_err(broken_by)
    }
}

fn broken_by(error: CopyError) -> Broken {
    Broken::Data(Box::new(error), Vec::new())
}

fn copy_fail(out: &mut BytesMut, reason: &str) {
    reply::frame(out, tag::COPY_FAIL, |b| {
        b.put_slice(reason.as_bytes());
        b.put_u8(0);
    });
}

fn put_data(out: &mut BytesMut, chunk: &[u8]) {
    reply::frame(out, backend_tag::COPY_DATA, |b| b.put_slice(chunk));
}

/// One CopyData frame per shard, filled piece by piece.
struct Frames<'c, 'a> {
    conns: &'c mut [&'a mut Conn],
    starts: Vec<Option<usize>>,
}

impl<'c, 'a> Frames<'c, 'a> {
    fn new(conns: &'c mut [&'a mut Conn]) -> Self {
        let starts = vec![None; conns.len()];
        Self { conns, starts }
    }

    fn put(&mut self, shard: ShardId, piece: &[u8]) {
        let turn = usize::from(shard.0);
        let out = &mut self.conns[turn].write;
        if self.starts[turn].is_none() {
            self.starts[turn] = Some(out.len());
            out.put_u8(backend_tag::COPY_DATA);
            out.put_i32(0);
        }
        out.put_slice(piece);
    }

    fn close(self) {
        for (conn, start) in self.conns.iter_mut().zip(self.starts) {
            if let Some(start) = start {
                frame::set_length(&mut conn.write, start);
            }
        }
    }
}
