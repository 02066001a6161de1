//! A load that goes on over errors: rows by simple and extended protocol, transactions, COPY, slow reads; and one
//! whose clients vanish in the middle of all these.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tests::wire::{Frame, Login, Wire};
use tests::wire_message::{self as message, Value};

/// Pseudo-random numbers of a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Rows whose commit was acknowledged: key and number.
type Acknowledged = Vec<(u64, u64)>;

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Acknowledged>>,
}

impl Load {
    /// Clients that behave.
    pub(crate) fn start(login: &Login, clients: u64, seed: u64) -> Self {
        Self::spawn(login, clients, move |login, client, stop| {
            Client { login, name: client, random: Random::new(seed + client), number: 0, done: Vec::new() }
                .run(stop)
        })
    }

    /// Clients that leave in the middle of whatever they do.
    pub(crate) fn start_vanishing(login: &Login, clients: u64, seed: u64) -> Self {
        Self::spawn(login, clients, move |login, client, stop| {
            let mut random = Random::new(seed + client);
            while !stop.load(Ordering::Relaxed) {
                _ = vanish(&login, &mut random);
            }
            Vec::new()
        })
    }

    fn spawn(
        login: &Login,
        clients: u64,
        run: impl Fn(Login, u64, &AtomicBool) -> Acknowledged + Send + Clone + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |client| {
            let (login, stop, run) = (login.clone(), Arc::clone(&stop), run.clone());
            thread::spawn(move || run(login, client, &stop))
        };
        Self { threads: (1..=clients).map(start).collect(), stop }
    }

    /// Ends the load and tells which rows must be there.
    pub(crate) fn stop(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Acknowledged>| thread.join().expect("a client does not panic");
        self.threads.into_iter().flat_map(join).collect()
    }
}

struct Client {
    login: Login,
    name: u64,
    random: Random,
    number: u64,
    done: Acknowledged,
}

impl Client {
    fn run(mut self, stop: &AtomicBool) -> Acknowledged {
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut wire) = Wire::login(&self.login) else { continue };
            while !stop.load(Ordering::Relaxed) && self.act(&mut wire).is_ok() {}
        }
        self.done
    }

    /// One piece of work; an error ends the session.
    fn act(&mut self, wire: &mut Wire) -> io::Result<()> {
        self.number += 1;
        let (auction, number) = (self.name * 1000 + self.random.below(50), self.number);
        let kind = self.random.below(5);
        let acknowledged = match kind {
            0 => tag(&wire.query(&insert(auction, number))?)?,
            1 => {
                wire.rows("begin")?;
                wire.rows(&insert(auction, number))?;
                tag(&wire.query("commit")?)?
            }
            2 => tag(&extended(wire, auction, number)?)?,
            3 => copy(wire, auction, number)?,
            _ => {
                let sql = format!("select note, pg_sleep(0.02) from chaos where auction_id = {auction}");
                wire.rows(&sql)?;
                return Ok(());
            }
        };
        let expected = ["INSERT 0 1", "COMMIT", "INSERT 0 1", "COPY 1"][kind as usize];
        if acknowledged == expected {
            self.done.push((auction, number));
        }
        Ok(())
    }
}

fn insert(auction: u64, number: u64) -> String {
    format!("insert into chaos values ({auction}, {number}, 'acknowledged')")
}

fn extended(wire: &mut Wire, auction: u64, number: u64) -> io::Result<Vec<Frame>> {
    let values = [auction.to_string(), number.to_string()].map(|value| Value::Text(value.into_bytes()));
    let messages = [
        message::parse("", "insert into chaos values ($1, $2, 'acknowledged')", &[]),
        message::bind("", "", &values, &[]),
        message::execute("", 0),
        message::sync(),
    ];
    wire.send(&messages.concat())?;
    wire.read_until_ready(1)
}

fn copy(wire: &mut Wire, auction: u64, number: u64) -> io::Result<String> {
    wire.send(&message::query("copy chaos from stdin"))?;
    let line = format!("{auction}\t{number}\tacknowledged\n");
    wire.send(&[message::copy_data(line.as_bytes()), message::copy_done()].concat())?;
    tag(&wire.read_until_ready(1)?)
}

/// The last command tag of a reply, empty after an error; a reply without its end is an error of the connection.
fn tag(frames: &[Frame]) -> io::Result<String> {
    if frames.last().is_none_or(|frame| frame.tag != b'Z') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let tags = frames.iter().rev().find(|frame| frame.tag == b'C');
    let text = tags.map(|frame| String::from_utf8_lossy(&frame.body).trim_end_matches('\0').to_owned());
    Ok(text.unwrap_or_default())
}

/// Logs in, begins something, and is gone.
fn vanish(login: &Login, random: &mut Random) -> io::Result<()> {
    let mut wire = Wire::login(login)?;
    let auction = 900_000 + random.below(1000);
    match random.below(7) {
        0 => wire.send(&message::query("select pg_sleep(0.3)"))?,
        1 => {
            wire.rows("begin")?;
            wire.query(&insert(auction, random.below(1_000_000)))?;
        }
        2 => {
            wire.send(&message::query("copy chaos from stdin"))?;
            wire.send(&message::copy_data(format!("{auction}\t").as_bytes()))?;
        }
        3 => wire.send(&message::query("select repeat('x', 100000) from generate_series(1, 1000)"))?,
        4 => wire.send(&message::parse("s", "select 1", &[]))?,
        5 => {
            wire.rows("begin")?;
            wire.send(&message::query("select pg_sleep(0.3)"))?;
        }
        _ => wire.send(&message::query("select 1")[..5])?,
    }
    Ok(())
}
