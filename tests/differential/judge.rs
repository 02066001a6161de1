//! One side of the comparison: a session, and what it answers to a statement.

use tests::answer::{Answer, Types, types_of};
use tests::wire::{Login, PATIENCE, Wire};
use tests::wire_message as message;

use crate::case::Step;
use crate::expr::Form;

/// What sessions begin with: whoever waits for a lock waits in vain, since statements are sent one after the other.
const BEGINNING: &str = "set lock_timeout = '250ms'";

/// One session of one side.
#[derive(Debug)]
pub(crate) struct Side {
    wire: Wire,
    /// Names of the types of this side's own, by OID.
    types: Types,
}

impl Side {
    pub(crate) fn login(login: &Login) -> Self {
        let mut wire = Wire::login(login).expect("login");
        let types = types_of(&mut wire);
        wire.rows(BEGINNING).expect("a setting");
        Self { types, wire }
    }

    /// Ends the transaction, if there is one, and what outlives transactions.
    pub(crate) fn end(&mut self) {
        // Outside of a transaction the first is a warning.
        for sql in ["rollback", "discard all", BEGINNING] {
            let answer = self.run(&Step::simple(sql)).expect("an answer");
            assert!(!answer.failed(), "{sql}: {}", answer.shown());
        }
    }

    /// Runs a statement; `Err`: the connection is gone or stuck.
    pub(crate) fn run(&mut self, step: &Step) -> std::io::Result<Answer> {
        let bytes = match step.form {
            Form::Simple => message::query(&step.sql),
            Form::Extended { .. } => {
                let parts = std::iter::once(step).chain(&step.more).flat_map(extended);
                parts.chain(message::sync()).collect()
            }
        };
        self.wire.send(&bytes)?;
        let mut answer = Answer::default();
        while answer.status == 0 {
            let frame = self.wire.frame(PATIENCE)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            if frame.tag == b'G' {
                self.wire.send(&[message::copy_data(&step.data), message::copy_done()].concat())?;
            }
            answer.read(&frame, &self.types);
        }
        Ok(answer)
    }
}

/// The messages of one statement.
fn extended(step: &Step) -> Vec<u8> {
    let binary = i16::from(step.form == Form::Extended { binary: true });
    let executes = if step.page == 0 { 1 } else { 3 };
    let mut bytes = [
        message::parse("", &step.sql, &[]),
        message::bind("", "", &step.params, &[binary]),
        message::describe(b'P', ""),
    ]
    .concat();
    for _ in 0..executes {
        bytes.extend(message::execute("", step.page));
    }
    bytes
}
