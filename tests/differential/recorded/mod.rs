//! What applications really send: recordings of Django, SQLAlchemy, Hibernate, Rails and node, made by `tests/drivers/record/run` and
//! played, message by message, to plain PostgreSQL and to the proxy. Auctions are sharded by their id, what belongs to an
//! auction by `auction_id`, categories are a reference table, accounts are unsharded, or sharded by their own id.
//!
//! `GAVEL_RECORDING` chooses the recordings whose names contain it.

mod compare;
mod drawn;
mod numbers;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use tests::cluster::{Cluster, login_of};
use tests::script::{self, Step, Transcript};
use tests::wire::{Frame, Login, PATIENCE, Wire};
use tests::wire_print;

use compare::Answers;
use drawn::Drawn;

/// Rules of all recordings, whatever their words for a table are; `auction_id` is a rule of the demo's.
const RULES: &str = r#"
[[tables]]
pattern = "*_auction"
kind = "sharded"
key = "id"

[[tables]]
pattern = "*_auctions"
kind = "sharded"
key = "id"

[[tables]]
pattern = "*_categor*"
kind = "reference"
"#;

/// Accounts by their own id.
const ACCOUNTS_SHARDED: &str = r#"
[[tables]]
pattern = "*_account"
kind = "sharded"
key = "id"

[[tables]]
pattern = "*_accounts"
kind = "sharded"
key = "id"
"#;

/// Recordings whose accounts may be sharded: nothing but the id is unique.
const OF_SHARDED_ACCOUNTS: [&str; 2] = ["sqlalchemy", "hibernate"];

/// Differences of a recording after which there is no use in going on.
const ENOUGH: usize = 12;

struct Recording {
    name: String,
    sections: Vec<Transcript>,
    /// The names of objects whose OIDs are in the recording, by these, as `class` or `type` and a name.
    oids: HashMap<u64, (String, String)>,
}

fn recordings() -> Vec<Recording> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("differential/recorded");
    let files = std::fs::read_dir(folder).expect("the recordings are part of the repository");
    let mut files: Vec<_> = files.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let wanted = std::env::var("GAVEL_RECORDING").unwrap_or_default();
    let mut found = Vec::new();
    for file in files {
        let name = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        if !name.contains(&wanted) {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("readable");
        let oids = text.lines().filter_map(|line| {
            let mut words = line.strip_prefix("# oid ")?.splitn(3, ' ');
            Some((words.next()?.parse().ok()?, (words.next()?.to_owned(), words.next()?.to_owned())))
        });
        let (oids, sections) =
            (oids.collect(), script::read(&name, &text).unwrap_or_else(|error| panic!("{error}")));
        found.push(Recording { name, sections, oids });
    }
    found
}

/// One session of both sides, ours first, and what it has prepared.
struct Pair {
    wires: [Wire; 2],
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
}

/// What came of a recording.
#[derive(Default)]
struct Outcome {
    /// Statements that were executed, and those that the proxy has answered as PostgreSQL.
    statements: usize,
    same: usize,
    refused: Vec<String>,
    wrong: Vec<String>,
}

/// A recording that is played.
struct Player<'a> {
    recording: &'a Recording,
    logins: [Login; 2],
    sessions: HashMap<char, Pair>,
    drawn: Drawn,
    /// OIDs of each side by those that were recorded.
    oids: [HashMap<u64, u64>; 2],
    /// Tables that were there before.
    others: Vec<String>,
    outcome: Outcome,
}

impl<'a> Player<'a> {
    fn new(recording: &'a Recording, logins: &[Login; 2]) -> Self {
        let mut logins = logins.clone();
        for login in &mut logins {
            login.parameters.extend(recording.sections.iter().flat_map(|section| section.startup.clone()));
        }
        let others = tables(&mut Wire::login(&logins[1]).expect("login"));
        Self {
            recording,
            logins,
            sessions: HashMap::new(),
            drawn: Drawn::default(),
            oids: Default::default(),
            others,
            outcome: Outcome::default(),
        }
    }

    fn play(mut self) -> Outcome {
        for section in &self.recording.sections {
            for (number, step) in section.steps.iter().enumerate() {
                let name = format!("{}, batch {}", section.name, number + 1);
                match self.step(step) {
                    Ok(None) => {}
                    Ok(Some(refusal)) => {
                        self.outcome.refused.push(format!("{name}: {refusal}"));
                        self.sessions.clear();
                        break;
                    }
                    Err(how) => self.outcome.wrong.push(format!("{name}\n{how}")),
                }
                if self.outcome.wrong.len() >= ENOUGH {
                    return self.outcome;
                }
            }
        }
        if let Err(how) = self.compare_tables() {
            self.outcome.wrong.push(format!("{}, at the end\n{how}", self.recording.name));
        }
        self.outcome
    }

    /// Sends a batch to both sides. `Some`: why the proxy refuses it.
    fn step(&mut self, step: &Step) -> Result<Option<String>, String> {
        let asked = self.pair(step.session).asked(&step.bytes);
        let bytes = self.messages(step)?;
        let pair = self.pair(step.session);
        let [ours, theirs] = pair.ask(&bytes, step).map_err(|error| format!("    {asked:?}: {error}"))?;
        self.outcome.statements += asked.len();
        let refusal = |frames: &[Frame]| {
            let error =
                frames.iter().find(|frame| wire_print::sqlstate(frame).as_deref() == Some("0A000"))?;
            Some(wire_print::print(error)).filter(|_| error.tag == b'E')
        };
        if let Some(refusal) = refusal(&ours).filter(|_| refusal(&theirs).is_none()) {
            return Ok(Some(format!("{asked:?}: {refusal}")));
        }
        let answers = Answers { asked: &asked, theirs: &theirs, ours: &ours };
        answers.compare(&mut self.drawn).map_err(|how| format!("    {}\n{how}", asked.join("\n    ")))?;
        self.outcome.same += asked.len();
        Ok(None)
    }

    fn pair(&mut self, name: char) -> &mut Pair {
        let logins = &self.logins;
        self.sessions.entry(name).or_insert_with(|| Pair {
            wires: [0, 1].map(|side| Wire::login(&logins[side]).expect("login")),
            statements: HashMap::new(),
            portals: HashMap::new(),
        })
    }

    /// The messages of the batch for each side, with its own keys and OIDs.
    fn messages(&mut self, step: &Step) -> Result<[Vec<u8>; 2], String> {
        let mut wanted = Vec::new();
        numbers::in_messages(&step.bytes, &mut |number| {
            wanted.extend(self.recording.oids.get_key_value(&number));
            None
        });
        for (number, (kind, name)) in wanted {
            for side in 0..2 {
                if !self.oids[side].contains_key(number) {
                    let sql = format!("select '{}'::reg{kind}::oid", name.replace('\'', "''"));
                    let rows = self.pair(step.session).wires[side]
                        .rows(&sql)
                        .map_err(|error| format!("{sql}: {error}"))?;
                    let oid = rows[0][0].as_ref().and_then(|oid| oid.parse().ok()).ok_or("an OID")?;
                    self.oids[side].insert(*number, oid);
                }
            }
        }
        let theirs = numbers::in_messages(&step.bytes, &mut |number| self.oids[1].get(&number).copied());
        let mut unknown = Ok(());
        let ours = numbers::in_messages(&step.bytes, &mut |number| {
            let key = self.drawn.sent(number).unwrap_or_else(|error| {
                unknown = Err(error);
                None
            });
            key.or_else(|| self.oids[0].get(&number).copied())
        });
        unknown.map(|()| [ours, theirs])
    }

    /// In the end the tables that it has made are the same.
    fn compare_tables(&mut self) -> Result<(), String> {
        let mut pair = [0, 1].map(|side| Wire::login(&self.logins[side]).expect("login"));
        for table in tables(&mut pair[1]).into_iter().filter(|table| !self.others.contains(table)) {
            let sql = format!("table {table}");
            let [ours, theirs] = [0, 1].map(|side| pair[side].query(&sql).expect("an answer"));
            let answers = Answers { asked: std::slice::from_ref(&sql), theirs: &theirs, ours: &ours };
            answers.compare(&mut self.drawn).map_err(|how| format!("    {sql}\n{how}"))?;
        }
        Ok(())
    }
}

impl Pair {
    /// The texts of the statements that a batch executes.
    fn asked(&mut self, bytes: &[u8]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut asked = Vec::new();
        for (tag, body) in numbers::messages(bytes) {
            let (first, rest) =
                if matches!(tag, b'Q' | b'P' | b'B' | b'E') { numbers::string(body) } else { continue };
            match tag {
                b'Q' => asked.push(text(first)),
                b'P' => _ = self.statements.insert(text(first), text(numbers::string(rest).0)),
                b'B' => {
                    let statement = self.statements.get(&text(numbers::string(rest).0));
                    self.portals.insert(text(first), statement.cloned().unwrap_or_default());
                }
                _ => asked.push(self.portals.get(&text(first)).cloned().unwrap_or_default()),
            }
        }
        asked
    }

    /// Sends each side its messages, and takes the answers.
    fn ask(&mut self, bytes: &[Vec<u8>; 2], step: &Step) -> io::Result<[Vec<Frame>; 2]> {
        for (wire, bytes) in self.wires.iter_mut().zip(bytes) {
            wire.send(bytes)?;
        }
        let mut answers = [Vec::new(), Vec::new()];
        for (wire, frames) in self.wires.iter_mut().zip(&mut answers) {
            let mut ready = 0;
            while !step.wait.is_over(ready, frames.last()) {
                let frame = wire.frame(PATIENCE)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                ready += usize::from(frame.tag == b'Z');
                frames.push(frame);
            }
        }
        Ok(answers)
    }
}

/// The tables of the application, quoted.
fn tables(wire: &mut Wire) -> Vec<String> {
    let sql = "select oid::regclass from pg_class where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace order by 1";
    wire.rows(sql)
        .expect("the catalog")
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .collect()
}

#[allow(clippy::print_stdout, reason = "the share of answered statements is what one runs it for")]
async fn check(shards: usize, rules: &str, of: impl Fn(&str) -> bool) {
    let rules = format!("{rules}{RULES}");
    let (cluster, oracle) =
        tokio::join!(Cluster::builder().shards(shards).config_extra(&rules).start(), Cluster::oracle());
    let logins = [cluster.login(), login_of(&oracle)];
    let mut failures = String::new();
    for recording in recordings().iter().filter(|recording| of(&recording.name)) {
        let outcome = tokio::task::block_in_place(|| Player::new(recording, &logins).play());
        let Outcome { statements, same, refused, wrong } = &outcome;
        println!(
            "{:<16}{shards} shards: {same} of {statements} statements answered alike, {} refused, {} different",
            recording.name,
            refused.len(),
            wrong.len()
        );
        for how in refused.iter().map(|how| format!("refused: {how}")).chain(wrong.clone()) {
            _ = write!(failures, "\n{how}\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_on_one_shard() {
    check(1, "", |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_on_two_shards() {
    check(2, "", |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_on_four_shards() {
    check(4, "", |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_with_sharded_accounts() {
    check(3, ACCOUNTS_SHARDED, |name| OF_SHARDED_ACCOUNTS.contains(&name)).await;
}
