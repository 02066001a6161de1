//! The two sides of the comparison, each with a few sessions, and the verdict on a case.

use tests::answer::Answer;
use tests::refusals::Listed;
use tests::wire::Login;

use crate::case::{Case, Step};
use crate::house::{Kind, TABLES};
use crate::judge::Side;

/// What came of a case.
pub(crate) enum Verdict {
    Same { failed: bool },
    Refused(String),
    Wrong(String),
}

/// The sessions of the proxy and those of PostgreSQL.
pub(crate) struct Sides<'a> {
    /// By number; each is two, ours and theirs.
    sessions: Vec<[Side; 2]>,
    logins: [Login; 2],
    listed: Listed,
    /// Rows are on several shards.
    several: bool,
    /// What the shards are at, for an answer that does not come.
    activity: Box<dyn Fn() -> String + 'a>,
}

impl<'a> Sides<'a> {
    pub(crate) fn new(logins: [Login; 2], several: bool, activity: impl Fn() -> String + 'a) -> Self {
        let activity = Box::new(activity);
        Self { sessions: Vec::new(), logins, listed: Listed::read(), several, activity }
    }

    fn session(&mut self, number: usize) -> &mut [Side; 2] {
        while self.sessions.len() <= number {
            self.sessions.push([Side::login(&self.logins[0]), Side::login(&self.logins[1])]);
        }
        &mut self.sessions[number]
    }

    /// Runs a statement that succeeds on both sides.
    pub(crate) fn set_up(&mut self, sql: &str) {
        for side in self.session(0) {
            let answer = side.run(&Step::simple(sql)).expect("an answer");
            assert!(!answer.failed(), "{sql}: {}", answer.shown());
        }
    }

    /// Logs in anew: types that have been made since are known.
    pub(crate) fn anew(&mut self) {
        self.sessions.clear();
    }

    /// Runs a case; all sessions are as new afterwards.
    pub(crate) fn judge(&mut self, case: &Case) -> Verdict {
        let mut verdict = Verdict::Same { failed: false };
        for (at, step) in case.steps.iter().enumerate() {
            match self.step(step) {
                Verdict::Same { failed: now } => {
                    if let Verdict::Same { failed } = &mut verdict {
                        *failed |= now;
                    }
                }
                Verdict::Refused(reason) => {
                    verdict = Verdict::Refused(reason);
                    break;
                }
                Verdict::Wrong(how) => {
                    let before: Vec<_> = case.steps[..at].iter().map(shown).collect();
                    verdict = Verdict::Wrong(format!("{}\n  {how}", before.join("\n  ")));
                    break;
                }
            }
        }
        // A connection that is gone or stuck is the verdict already.
        if matches!(&verdict, Verdict::Wrong(_)) {
            self.anew();
        }
        self.sessions.iter_mut().flatten().for_each(Side::end);
        verdict
    }

    fn step(&mut self, step: &Step) -> Verdict {
        let ours = match self.session(step.session)[0].run(step) {
            Ok(answer) => answer,
            Err(error) => {
                let activity = (self.activity)();
                return Verdict::Wrong(format!("{}\n    ours: {error}\n{activity}", shown(step)));
            }
        };
        let refusal = ours.refusal();
        if let Some(reason) = refusal.and_then(|reason| self.listed.pattern(reason)) {
            return Verdict::Refused(reason.to_owned());
        }
        // PostgreSQL has words for what it does not support, too.
        let theirs = self.session(step.session)[1].run(step).expect("PostgreSQL answers");
        let another_row = self.several && step.inserts() && ours.of_another_row(&theirs);
        if another_row || ours.same(&theirs, step.order, step.picks()) {
            return Verdict::Same { failed: ours.failed() };
        }
        let unlisted =
            if refusal.is_some() { " (docs/sql-support.md does not list this refusal)" } else { "" };
        Verdict::Wrong(format!(
            "{}\n    ours{unlisted}: {}\n    theirs: {}",
            shown(step),
            ours.shown(),
            theirs.shown()
        ))
    }

    /// Whether all tables are the same on both sides; else which is not.
    pub(crate) fn differing_table(&mut self) -> Option<String> {
        let [ours, theirs] = self.session(0);
        TABLES.iter().filter(|table| table.kind != Kind::View).find_map(|table| {
            let step = Step::simple(format!("copy {} to stdout", table.name));
            let answers: [Answer; 2] =
                [&mut *ours, &mut *theirs].map(|side| side.run(&step).expect("a copy"));
            let same = answers[0].same(&answers[1], step.order, false);
            (!same).then(|| {
                format!("{}\n ours {}\n theirs {}", table.name, answers[0].shown(), answers[1].shown())
            })
        })
    }
}

fn shown(step: &Step) -> String {
    let data = String::from_utf8_lossy(&step.data);
    let Step { session, sql, params, form, order, page, more, .. } = step;
    let params = if params.is_empty() { String::new() } else { format!(" {params:?}") };
    let page = if *page == 0 { String::new() } else { format!(" {page} rows at a time") };
    let more: String = more.iter().map(|step| format!("; {}", shown(step))).collect();
    format!("[{session}] {sql}{params} {form:?} {order:?}{page} {data}{more}")
}
