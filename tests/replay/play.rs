//! Plays a transcript against a server and keeps every message that comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use tests::script::{Step, Transcript};
use tests::wire::{Frame, Login, PATIENCE, Wire};
use tests::wire_message as message;

/// What one session received in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The session.
    pub(crate) session: char,
    /// Its messages; of a session's first step, those of the login too.
    pub(crate) frames: Vec<Frame>,
    /// How the step ended, if not as the script says: a time-out, the end of the connection.
    pub(crate) end: Option<String>,
}

/// Plays `transcript` against `server`.
pub(crate) fn play(transcript: &Transcript, server: &Login) -> Vec<Heard> {
    let mut login = server.clone();
    login.parameters.extend(transcript.startup.iter().cloned());
    let mut player = Player { login, sessions: BTreeMap::new(), closed: BTreeSet::new(), heard: Vec::new() };
    for step in &transcript.steps {
        if let Err(error) = player.step(step) {
            player.heard.push(heard(step.session, error.to_string()));
            return player.heard;
        }
    }
    player.goodbye();
    player.heard
}

struct Player {
    login: Login,
    sessions: BTreeMap<char, Wire>,
    /// Sessions that the server has ended.
    closed: BTreeSet<char>,
    heard: Vec<Heard>,
}

impl Player {
    fn step(&mut self, step: &Step) -> io::Result<()> {
        if !self.sessions.contains_key(&step.session) {
            self.open(step.session)?;
        }
        if let Some(key) = step.cancel.and_then(|name| self.sessions.get(&name)).and_then(Wire::key) {
            let mut canceller = Wire::connect(self.login.address)?;
            canceller.send(&message::cancel(key.0, &key.1))?;
            _ = canceller.closed_within(PATIENCE);
        }
        let wire = self.sessions.get_mut(&step.session).ok_or(io::ErrorKind::NotConnected)?;
        wire.send(&step.bytes)?;
        let mut heard = Heard { session: step.session, frames: Vec::new(), end: None };
        let mut ready = 0;
        while !step.wait.is_over(ready, heard.frames.last()) {
            match wire.frame(PATIENCE) {
                Ok(Some(frame)) => {
                    ready += usize::from(frame.tag == b'Z');
                    heard.frames.push(frame);
                }
                Ok(None) => {
                    heard.end = Some("the server closed the connection".into());
                    break;
                }
                Err(error) => {
                    self.heard.push(heard);
                    return Err(error);
                }
            }
        }
        // Whether a write to a connection that the server has closed fails is a matter of time: it gets no goodbye.
        if heard.end.is_some() {
            self.closed.insert(step.session);
        }
        self.heard.push(heard);
        Ok(())
    }

    fn open(&mut self, name: char) -> io::Result<()> {
        let wire = Wire::knock(&self.login)?;
        self.heard.push(Heard { session: name, frames: wire.greeting.clone(), end: None });
        self.sessions.insert(name, wire);
        Ok(())
    }

    /// Whatever else was sent counts too.
    fn goodbye(&mut self) {
        for (name, wire) in &mut self.sessions {
            if self.closed.contains(name) || wire.send(&message::terminate()).is_err() {
                continue;
            }
            let mut rest = heard(*name, "goodbye".into());
            while let Ok(Some(frame)) = wire.frame(Duration::from_secs(5)) {
                rest.frames.push(frame);
            }
            self.heard.push(rest);
        }
    }
}

fn heard(session: char, end: String) -> Heard {
    Heard { session, frames: Vec::new(), end: Some(end) }
}
