//! EXPLAIN: of the proxy's own plan, and of what several shards run.

use bytes::BytesMut;

use super::combining::unsupported;
use super::session::Session;
use crate::route::explain;
use crate::route::plan::{Plan, Reason, SessionView, Target};
use crate::route::refusal::Refusal;
use crate::route::values::Values;
use crate::sql::command;
use crate::sql::facts::Command;
use crate::wire::reply;

impl Session {
    /// The answer to EXPLAIN (GAVEL), with its description or without.
    pub fn explanation(&self, plan: &Result<Plan, Refusal>, describe: bool) -> BytesMut {
        let topology = self.worker.shared.topology.load();
        let lines = match plan {
            Ok(plan) => explain::of_plan(&topology, plan, true),
            Err(refusal) => explain::of_refusal(refusal),
        }
        .lines();
        let mut frame = BytesMut::new();
        if describe {
            reply::text_row_description(&mut frame, &["QUERY PLAN"]);
        }
        for line in &lines {
            reply::text_row(&mut frame, std::iter::once(Some(line.as_str())));
        }
        reply::command_complete(&mut frame, "EXPLAIN");
        frame
    }

    /// A plan for what is done in several steps, or the refusal as it was.
    pub(super) fn plan_in_steps(
        &self,
        refusal: Refusal,
        values: &Values<'_>,
        view: &SessionView<'_>,
    ) -> Result<Plan, Refusal> {
        self.plan_read_first(refusal, values, view)
            .or_else(|refusal| self.plan_filling(refusal, values, view))
            .or_else(|refusal| self.plan_explained(refusal, values, view))
    }

    /// A plan for EXPLAIN of what one shard does not answer alone, or the refusal as it was.
    fn plan_explained(
        &self,
        refusal: Refusal,
        values: &Values<'_>,
        view: &SessionView<'_>,
    ) -> Result<Plan, Refusal> {
        let Some((facts, text)) = unsupported(&refusal, values, view) else { return Err(refusal) };
        if !matches!(facts.command, Command::Explain) || facts.barred.is_some() {
            return Err(refusal);
        }
        let found = command::explained(text, values.rules.standard_strings);
        let (at, analyze) = found.ok_or(refusal)?;
        Ok(Plan { target: Target::Explain(at, analyze), replica: false, reason: Reason::NoKey })
    }
}
