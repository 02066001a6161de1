//! A raw client of protocol 3 over TCP: what goes over the wire, byte by byte.
//!
//! It blocks, with a deadline on every wait, and knows nothing of what it is talking to, so the same client
//! speaks to PostgreSQL and to the proxy. Replies are kept as frames: nothing is dropped, reordered or decoded.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use crate::wire_message as message;

/// How long a reply may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type byte.
    pub tag: u8,
    /// Everything after the length.
    pub body: Vec<u8>,
}

/// Whom to log in as, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// `host:port`.
    pub address: SocketAddr,
    /// Role.
    pub user: String,
    /// Its password, where one is asked for.
    pub password: String,
    /// Database.
    pub database: String,
    /// Further startup parameters.
    pub parameters: Vec<(String, String)>,
}

impl Login {
    /// The user `postgres` without a password.
    ///
    /// # Errors
    /// When the address does not resolve.
    pub fn new(address: impl ToSocketAddrs, database: &str) -> io::Result<Self> {
        let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            address,
            user: "postgres".into(),
            password: String::new(),
            database: database.into(),
            parameters: Vec::new(),
        })
    }

    /// The same with a further startup parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// The StartupMessage.
    #[must_use]
    pub fn startup(&self) -> Vec<u8> {
        let mut parameters = vec![("user", self.user.as_str()), ("database", self.database.as_str())];
        parameters.extend(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        message::startup(message::PROTOCOL_3_0, &parameters)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    chunk: usize,
    /// What the server said between the login's success and the first ReadyForQuery, that one included.
    pub greeting: Vec<Frame>,
}

impl Wire {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::new(), chunk: usize::MAX, greeting: Vec::new() })
    }

    /// Connects, logs in (trust, password, md5 or SCRAM-SHA-256) and waits until the server is ready.
    ///
    /// # Errors
    /// When the server refuses: its ErrorResponse is the message.
    pub fn login(login: &Login) -> io::Result<Self> {
        let wire = Self::knock(login)?;
        match wire.greeting.last() {
            Some(frame) if frame.tag == b'Z' => Ok(wire),
            _ => Err(refused(&wire.greeting)),
        }
    }

    /// Like [`Self::login`], but a refusal is a greeting too.
    ///
    /// # Errors
    /// When the connection is gone or stuck.
    pub fn knock(login: &Login) -> io::Result<Self> {
        let mut wire = Self::connect(login.address)?;
        wire.greet(login)?;
        Ok(wire)
    }

    /// The login, on a connection that has said nothing yet; what comes of it is in [`Self::greeting`].
    ///
    /// # Errors
    /// When the connection is gone or stuck.
    pub fn greet(&mut self, login: &Login) -> io::Result<()> {
        self.send(&login.startup())?;
        if let Some(refusal) = self.authenticate(login)? {
            self.greeting.push(refusal);
        }
        let rest = self.read_until_ready(1)?;
        self.greeting.extend(rest);
        Ok(())
    }

    /// From now on each write to the socket has at most that many bytes.
    pub fn trickle(&mut self, chunk: usize) {
        self.chunk = chunk.max(1);
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone or stuck.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(self.chunk).try_for_each(|chunk| self.stream.write_all(chunk))
    }

    /// The next message; `None` when the server has closed the connection.
    ///
    /// # Errors
    /// `TimedOut` when nothing complete came within `patience`.
    pub fn frame(&mut self, patience: Duration) -> io::Result<Option<Frame>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(frame) = self.take_frame() {
                return Ok(Some(frame));
            }
            if self.receive(deadline)? == 0 {
                return Ok(None);
            }
        }
    }

    /// One byte that is not part of a message: the answer to SSLRequest. `None` at the end.
    ///
    /// # Errors
    /// `TimedOut` when nothing came within `patience`.
    pub fn byte(&mut self, patience: Duration) -> io::Result<Option<u8>> {
        if self.received.is_empty() && self.receive(Instant::now() + patience)? == 0 {
            return Ok(None);
        }
        Ok(Some(self.received.remove(0)))
    }

    /// Messages up to and including the `count`-th ReadyForQuery, or up to the end of the connection.
    ///
    /// # Errors
    /// When they do not come in time.
    pub fn read_until_ready(&mut self, count: usize) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut ready = 0;
        while ready < count {
            let Some(frame) = self.frame(PATIENCE)? else { break };
            ready += usize::from(frame.tag == b'Z');
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Sends a Query and returns the whole reply.
    ///
    /// # Errors
    /// When the connection is gone or stuck; an ErrorResponse is a reply.
    pub fn query(&mut self, sql: &str) -> io::Result<Vec<Frame>> {
        self.send(&message::query(sql))?;
        self.read_until_ready(1)
    }

    /// Sends a Query and returns the text of its rows.
    ///
    /// # Errors
    /// Also for an ErrorResponse.
    pub fn rows(&mut self, sql: &str) -> io::Result<Vec<Vec<Option<String>>>> {
        let frames = self.query(sql)?;
        if frames.iter().any(|frame| frame.tag == b'E') || frames.last().is_none_or(|last| last.tag != b'Z') {
            return Err(refused(&frames));
        }
        Ok(frames.iter().filter(|frame| frame.tag == b'D').map(|frame| row(&frame.body)).collect())
    }

    /// Process id and secret of BackendKeyData.
    #[must_use]
    pub fn key(&self) -> Option<(u32, Vec<u8>)> {
        let frame = self.greeting.iter().find(|frame| frame.tag == b'K')?;
        let (process, secret) = frame.body.split_first_chunk::<4>()?;
        Some((u32::from_be_bytes(*process), secret.to_vec()))
    }

    /// True when the server has closed the connection (or reset it) within `patience`; replies are dropped.
    #[must_use]
    pub fn closed_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            self.received.clear();
            match self.receive(deadline) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), io::ErrorKind::TimedOut),
            }
        }
    }

    /// The login's questions and answers; returns what came instead of the next question.
    fn authenticate(&mut self, login: &Login) -> io::Result<Option<Frame>> {
        let mut scram: Option<ScramSha256> = None;
        loop {
            let frame = self.frame(PATIENCE)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if frame.tag == b'v' {
                continue;
            }
            let Some((kind, rest)) = frame.body.split_first_chunk::<4>().filter(|_| frame.tag == b'R') else {
                return Ok(Some(frame));
            };
            match u32::from_be_bytes(*kind) {
                0 => return Ok(None),
                3 => self.send(&message::password(&login.password))?,
                5 => {
                    let salt = rest.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
                    let hash = md5_hash(login.user.as_bytes(), login.password.as_bytes(), salt);
                    self.send(&message::password(&hash))?;
                }
                10 => {
                    let machine = ScramSha256::new(login.password.as_bytes(), ChannelBinding::unsupported());
                    self.send(&message::sasl_initial(SCRAM_SHA_256, machine.message()))?;
                    scram = Some(machine);
                }
                11 => {
                    let machine = scram.as_mut().ok_or(io::ErrorKind::InvalidData)?;
                    machine.update(rest)?;
                    self.send(&message::frame(b'p', machine.message()))?;
                }
                12 => scram.as_mut().ok_or(io::ErrorKind::InvalidData)?.finish(rest)?,
                other => return Err(io::Error::other(format!("authentication request {other}"))),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (header, _) = self.received.split_first_chunk::<5>()?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if self.received.len() < length + 1 {
            return None;
        }
        let tag = header[0];
        let body = self.received[5..=length].to_vec();
        self.received.drain(..=length);
        Some(Frame { tag, body })
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(n) => {
                self.received.extend_from_slice(&chunk[..n]);
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            // A signal came in between: a child process has ended, for example.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.receive(deadline),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// The values of a DataRow, text.
fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            values.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at(length.min(after.len()));
        values.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    values
}

fn refused(frames: &[Frame]) -> io::Error {
    io::Error::other(frames.iter().map(crate::wire_print::print).collect::<Vec<_>>().join("; "))
}
