//! COPY … FROM STDIN over several shards: split by key as it streams, or sent to all, inside one transaction.
//!
//! The application is read only as fast as the slowest shard takes its part. A row that any shard rejects loads nothing anywhere.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{BufMut, BytesMut};
use router_config::topology::ShardId;

use super::copy_in;
use super::spread::{Ask, Form};
use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::frontend::failure::Failure;
use crate::frontend::io::{ClientError, ClientIo, StepError};
use crate::frontend::session::Session;
use crate::frontend::watch::Why;
use crate::route::copy::{CopyError, CopySplitter};
use crate::route::plan::Target;
use crate::route::refusal::Refusal;
use crate::sql::facts::Command;
use crate::wire::backend::tag as backend_tag;
use crate::wire::frame::HEADER;
use crate::wire::frontend::tag;
use crate::wire::reply;

/// What becomes of the application's data.
enum Way {
    Split(Box<CopySplitter>),
    All,
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
        let way = match ask.plan.target {
            Target::CopySplit => {
                let table = ask.facts.tables.first().map_or("", String::as_str);
                let splitter = CopySplitter::new(shape, table, self.text_rules(), topology.clone())?;
                Way::Split(Box::new(splitter))
            }
            _ => Way::All,
        };
        let why = Why::of(&ask.plan);
        self.open_implicit();
        let mut order = Vec::new();
        for shard in 0..topology.shards.len() as u16 {
            let at = self.acquire(ShardId(shard), false).await?;
            self.note_shard(why, at);
            self.writes(at)?;
            let held = &mut self.held[at];
            held.unnamed = None;
            let show = if shard == 0 { Show::DESCRIPTION.and(Show::ERRORS) } else { Show::NOTHING };
            reply::query(&mut held.lease.write, &ask.text);
            held.lease.owe(Owed::Query(show));
            order.push(at);
        }
        self.expect(&ask.facts, &ask.text);
        let everywhere = matches!(way, Way::All);
        let ran = self.run_copy(&order, way).await;
        if matches!(ask.form, Form::Execute { .. }) {
            self.pipeline.copied = self.pipeline.sync_ahead;
        }
        let outcome = match ran {
            Ok(outcome) => outcome,
            Err(Broken::Shard(_, StepError::Client(error))) => return Err(Failure::Client(error)),
            Err(Broken::Shard(turn, error)) => return Err(self.lose(order[turn], error, false)),
            Err(Broken::Data(error)) => return Err(of_data(error)),
        };
        self.conclude_copy(outcome, everywhere)
    }

    async fn run_copy(&mut self, order: &[usize], way: Way) -> Result<Vec<Events>, Broken> {
        let mut conns: Vec<Option<&mut Conn>> = Vec::new();
        conns.resize_with(order.len(), || None);
        for (at, held) in self.held.iter_mut().enumerate() {
            if let Some(turn) = order.iter().position(|wanted| *wanted == at) {
                conns[turn] = Some(&mut held.lease);
            }
        }
        let mut events = Vec::new();
        events.resize_with(order.len(), Events::default);
        let high = self.worker.shared.settings.load().limits.copy_buffer_bytes;
        let mut copy = Copy { conns: conns.into_iter().flatten().collect(), events, io: &mut self.io, high };
        copy.run(way).await?;
        Ok(copy.events)
    }

    fn conclude_copy(&mut self, outcome: Vec<Events>, everywhere: bool) -> Result<(), Failure> {
        let mut outcome = outcome;
        for (turn, events) in outcome.iter_mut().enumerate() {
            if let Some(frame) = events.error.take() {
                if turn > 0 && self.events.error.is_none() {
                    self.io.out.extend_from_slice(&frame);
                }
                self.events.error.get_or_insert(frame);
            }
        }
        if self.events.error.is_some() {
            return Ok(());
        }
        let counts = outcome.iter().filter_map(|events| {
            std::str::from_utf8(events.last_tag.as_deref()?).ok()?.rsplit(' ').next()?.parse::<u64>().ok()
        });
        let rows: u64 = if everywhere { counts.take(1).sum() } else { counts.sum() };
        self.complete(&format!("COPY {rows}"));
        Ok(())
    }
}

/// What broke off a COPY.
enum Broken {
    Shard(usize, StepError),
    Data(CopyError),
}

fn of_data(error: CopyError) -> Failure {
    Refusal {
        sqlstate: error.sqlstate,
        message: error.message,
        detail: Some(error.context),
        hint: error.hint,
    }
    .into()
}

/// A COPY under way.
struct Copy<'a> {
    conns: Vec<&'a mut Conn>,
    events: Vec<Events>,
    io: &'a mut ClientIo,
    /// Bytes that wait for one shard before the application is made to wait.
    high: usize,
}

impl Copy<'_> {
    async fn run(&mut self, way: Way) -> Result<(), Broken> {
        let mut way = way;
        self.settle(|conn, events| conn.is_quiet() || events.copy_in).await?;
        if self.events.iter().all(|events| events.error.is_none()) {
            self.io.flush().await.map_err(|error| Broken::Shard(0, error.into()))?;
            match self.feed(&mut way).await {
                Ok(End::Done) => self.end_all(|out| reply::bare(out, tag::COPY_DONE)),
                Ok(End::Failed | End::Stopped) => {}
                Err(broken) => {
                    // Every shard must leave the COPY before the transaction can be rolled back.
                    self.abandon("the proxy stopped the COPY").await?;
                    return Err(broken);
                }
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

    /// Makes every shard leave the COPY. What they say to that is not the application's: it is told the cause.
    async fn abandon(&mut self, reason: &str) -> Result<(), Broken> {
        let caused: Vec<bool> = self.events.iter().map(|events| events.error.is_some()).collect();
        let told = self.io.out.len();
        self.end_all(|out| {
            reply::frame(out, tag::COPY_FAIL, |b| {
                b.put_slice(reason.as_bytes());
                b.put_u8(0);
            });
        });
        self.settle(|conn, _| conn.is_quiet()).await?;
        if !caused.first().is_some_and(|caused| *caused) {
            self.io.out.truncate(told);
        }
        for (events, caused) in self.events.iter_mut().zip(caused) {
            events.error.take_if(|_| !caused);
        }
        Ok(())
    }

    /// Runs the conns until `enough` holds for each.
    async fn settle(&mut self, enough: impl Fn(&Conn, &Events) -> bool) -> Result<(), Broken> {
        poll_fn(|cx| {
            loop {
                let (mut progress, mut done) = (false, true);
                for (turn, conn) in self.conns.iter_mut().enumerate() {
                    let events = &mut self.events[turn];
                    if enough(conn, events) {
                        continue;
                    }
                    done = false;
                    match conn.poll_step(cx, &mut self.io.out, events) {
                        Poll::Ready(Ok(())) => progress = true,
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Err(Broken::Shard(turn, StepError::Backend(error))));
                        }
                        Poll::Pending => {}
                    }
                }
                if done {
                    return Poll::Ready(Ok(()));
                }
                if !progress {
                    return Poll::Pending;
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
            let header = self.io.header(0).map_err(|error| client(error.into()))?;
            let Some(header) = header.filter(|header| self.io.read.len() >= header.len) else {
                self.kick()?;
                self.io.fill(64 << 10).await.map_err(client)?;
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

    /// Sends what can be sent without waiting, and notices errors.
    fn kick(&mut self) -> Result<(), Broken> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for (turn, conn) in self.conns.iter_mut().enumerate() {
            if let Poll::Ready(Err(error)) = conn.poll_step(&mut cx, &mut self.io.out, &mut self.events[turn])
            {
                return Err(Broken::Shard(turn, StepError::Backend(error)));
            }
        }
        Ok(())
    }

    fn data(&mut self, way: &mut Way, chunk: &[u8]) -> Result<(), Broken> {
        match way {
            Way::All => {
                for conn in &mut self.conns {
                    put_data(&mut conn.write, chunk);
                }
                Ok(())
            }
            Way::Split(splitter) => {
                let mut frames = Frames::new(&mut self.conns);
                let pushed = splitter.push(chunk, &mut |shard, piece| frames.put(shard, piece));
                frames.close();
                pushed.map_err(Broken::Data)
            }
        }
    }

    fn finish(&mut self, way: &mut Way) -> Result<(), Broken> {
        let Way::Split(splitter) = way else { return Ok(()) };
        let mut frames = Frames::new(&mut self.conns);
        let finished = splitter.finish(&mut |shard, piece| frames.put(shard, piece));
        frames.close();
        finished.map_err(Broken::Data)
    }
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
                let len = (conn.write.len() - start - 1) as i32;
                conn.write[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
            }
        }
    }
}
