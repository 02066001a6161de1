//! Clause by clause beside PostgreSQL: tables of statements, each of which must be answered as one server with all the rows answers
//! it. A refusal is a difference like any other.

use std::fmt::Write as _;

use tests::answer::{Answer, Order, Types, types_of};
use tests::wire::{PATIENCE, Wire};
use tests::wire_message as message;

use crate::beside::Beside;

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Simple,
    /// Parse to Sync, results in this format.
    Extended(i16),
}

const WAYS: [Way; 3] = [Way::Simple, Way::Extended(0), Way::Extended(1)];

/// A cluster of three shards beside PostgreSQL, and what they have not said alike.
pub(crate) struct Clauses {
    pub(crate) both: Beside,
    types: [Types; 2],
    wrong: String,
}

impl Clauses {
    /// Both have run these statements, and of each of these sharded tables every shard has rows.
    pub(crate) async fn start(set_up: &[&str], spread: &[&str]) -> Self {
        Self::of(Beside::start(set_up).await, spread).await
    }

    /// These two; likewise.
    pub(crate) async fn of(mut both: Beside, spread: &[&str]) -> Self {
        for table in spread {
            let counts =
                both.cluster.on_each_primary(&format!("select count(*) from {table}")).await.concat();
            assert!(!counts.contains(&"0".to_owned()), "{table}: {counts:?}");
        }
        let types = both.sides().map(types_of);
        Self { both, types, wrong: String::new() }
    }

    /// Queries, in both protocols and formats: none may fail.
    pub(crate) fn answered(&mut self, statements: &[&str]) {
        for sql in statements {
            for way in WAYS {
                let theirs = self.compare(sql, way, b"");
                assert!(!theirs.failed(), "{sql}: {}", theirs.shown());
            }
        }
    }

    /// Statements that PostgreSQL rejects, with its SQLSTATE.
    pub(crate) fn rejected(&mut self, statements: &[&str]) {
        for sql in statements {
            for way in [Way::Simple, Way::Extended(1)] {
                let theirs = self.compare(sql, way, b"");
                assert!(theirs.failed(), "{sql}: {}", theirs.shown());
            }
        }
    }

    /// Requests one after the other, of one session; then what these tables have. The session is a new one afterwards.
    pub(crate) fn told(&mut self, session: &[&str], tables: &[&str]) {
        for sql in session {
            self.compare(sql, Way::Simple, b"");
        }
        self.compare("rollback", Way::Simple, b"");
        self.look(session.first().copied().unwrap_or_default(), tables);
        self.both.anew();
    }

    /// Writes that must succeed: each in transactions that are rolled back, and by itself, where it stays. What these tables then have
    /// is compared too.
    pub(crate) fn written(&mut self, statements: &[&str], tables: &[&str]) {
        for sql in statements {
            for way in [Way::Extended(0), Way::Extended(1)] {
                self.compare("begin", Way::Simple, b"");
                let theirs = self.compare(sql, way, b"");
                assert!(!theirs.failed(), "{sql}: {}", theirs.shown());
                self.look(sql, tables);
                self.compare("rollback", Way::Simple, b"");
            }
            self.compare(sql, Way::Simple, b"");
            self.look(sql, tables);
        }
    }

    /// COPY FROM STDIN with these data; then what these tables have.
    pub(crate) fn copied(&mut self, sql: &str, data: &[u8], tables: &[&str]) -> Answer {
        let theirs = self.compare(sql, Way::Simple, data);
        self.look(sql, tables);
        theirs
    }

    /// Both have these rows in these tables.
    pub(crate) fn look(&mut self, after: &str, tables: &[&str]) {
        for table in tables {
            let before = self.wrong.len();
            self.compare(&format!("select * from {table}"), Way::Simple, b"");
            if self.wrong.len() > before {
                let _ = writeln!(self.wrong, "  after {after}");
            }
        }
    }

    /// All was said alike.
    pub(crate) fn end(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong);
    }

    /// What PostgreSQL says; what differs is kept for [`Self::end`].
    fn compare(&mut self, sql: &str, way: Way, data: &[u8]) -> Answer {
        let bytes = match way {
            Way::Simple => message::query(sql),
            Way::Extended(format) => [
                message::parse("", sql, &[]),
                message::bind("", "", &[], &[format]),
                message::describe(b'P', ""),
                message::execute("", 0),
                message::sync(),
            ]
            .concat(),
        };
        let Self { both, types, wrong } = self;
        let mut types = types.iter();
        let [ours, theirs] = both.sides().map(|side| {
            answer(side, &bytes, data, types.next().expect("one for each side"))
                .unwrap_or_else(|error| panic!("{sql}: {error}"))
        });
        let picks = ["distinct", "union", "intersect", "except", "group by"].iter().any(|w| sql.contains(w));
        if !ours.same(&theirs, order(sql), picks) {
            let _ =
                writeln!(wrong, "{sql} ({way:?})\n    ours {}\n    theirs {}", ours.shown(), theirs.shown());
        }
        theirs
    }
}

/// What a side says to these bytes.
fn answer(side: &mut Wire, bytes: &[u8], data: &[u8], types: &Types) -> std::io::Result<Answer> {
    side.send(bytes)?;
    let mut answer = Answer::default();
    while answer.status == 0 {
        let frame = side.frame(PATIENCE)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        if frame.tag == b'G' {
            side.send(&[message::copy_data(data), message::copy_done()].concat())?;
        }
        answer.read(&frame, types);
    }
    Ok(answer)
}

/// What of its answers must be equal, by the clauses of the statement's own level: with ORDER BY its tables name an order that is total.
fn order(sql: &str) -> Order {
    let mut depth = 0;
    let mut own = String::new();
    for letter in sql.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            letter if depth == 0 => own.push(letter),
            _ => {}
        }
    }
    if own.contains("order by") || own.starts_with("copy") && sql.contains("order by") {
        Order::Total
    } else if [" limit ", " offset ", "fetch "].iter().any(|clause| own.contains(clause)) {
        Order::Count
    } else {
        Order::Any
    }
}
