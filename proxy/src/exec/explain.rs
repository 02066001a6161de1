//! EXPLAIN of what several shards run: the proxy's plan, then what each shard makes of its part; with ANALYZE each shard runs its part,
//! once.

use bytes::{Bytes, BytesMut};
use router_config::topology::ShardId;

use super::ask::{Ask, Form};
use super::combine::gather_text;
use super::read_first::Stand;
use crate::frontend::failure::Failure;
use crate::frontend::session::Session;
use crate::route::explain;
use crate::route::plan::{Plan, Reason, Target};
use crate::sql::facts::Access;
use crate::sql::normalise::identifiers;
use crate::wire::reply;

impl Session {
    /// The statement that is explained begins at the byte `at`.
    pub(super) async fn explain_several(
        &mut self,
        ask: Ask,
        (at, analyze): (usize, bool),
    ) -> Result<(), Failure> {
        let (head, inner) = (ask.text.slice(..at), ask.text.slice(at..));
        self.check_format(&head)?;
        let types = self.types_of(&ask).await?;
        let stand = self.stand_in(&ask, (&inner, &types), false).await?;
        let topology = self.worker.shared.topology.load_full();
        let mut lines: Vec<String> = vec!["Gavel".to_owned()];
        lines.extend(
            explain::of_plan(&topology, &stand.plan, true).lines().iter().map(|line| format!("  {line}")),
        );
        let writes = stand.facts.access == Access::Write;
        let parts = self.parts(&stand, &inner);
        if analyze {
            self.check_analyzed(&stand, &parts, writes)?;
        }
        if writes && analyze {
            self.may_prepare()?;
            self.open_implicit();
        }
        self.expect(&ask.facts, &ask.text, None);
        for (shard, text, params) in parts {
            lines.push(format!("Shard {}", self.shard_name(shard)));
            let text = Bytes::from([&head[..], text.as_bytes()].concat());
            let form = self.part_form(&ask, (&text, &types), params.as_deref());
            let plan = Plan { target: Target::One(shard), replica: false, reason: Reason::NoKey };
            let stand = Stand { plan, facts: std::sync::Arc::clone(&ask.facts), form };
            let Some(rows) = self.capture(&stand, text).await? else { return Ok(()) };
            lines.extend(rows.iter().map(|row| format!("  {}", row.text(0))));
        }
        self.show_lines(&ask.form, &lines);
        Ok(())
    }

    /// Formats that are not lines are refused.
    fn check_format(&self, head: &[u8]) -> Result<(), Failure> {
        let mut other = false;
        identifiers(head, self.text_rules().standard_strings, false, &mut |name| {
            other |= matches!(name, "json" | "xml" | "yaml");
        });
        if !other {
            return Ok(());
        }
        Err(Failure::unsupported(
            "EXPLAIN over several shards in this format is not supported",
            "Use FORMAT TEXT, or ask one shard: /* gavel: shard=1 */ EXPLAIN ...",
        ))
    }

    fn check_analyzed(
        &self,
        stand: &Stand,
        parts: &[(ShardId, String, Option<Vec<u16>>)],
        writes: bool,
    ) -> Result<(), Failure> {
        let clock = writes && stand.facts.unrepeatable.is_some();
        if !parts.is_empty() && !clock {
            return Ok(());
        }
        Err(Failure::unsupported(
            "EXPLAIN ANALYZE of this statement over several shards is not supported",
            "EXPLAIN without ANALYZE shows how it is planned.",
        ))
    }

    /// What each shard runs, where that is known before it is run: its text, and the parameters that it uses.
    fn parts(&self, stand: &Stand, text: &Bytes) -> Vec<(ShardId, String, Option<Vec<u16>>)> {
        let own = String::from_utf8_lossy(text).into_owned();
        match &stand.plan.target {
            Target::One(shard) | Target::Nowhere(shard) => vec![(*shard, own, None)],
            Target::Any => vec![(ShardId(0), own, None)],
            Target::Concat(shards) | Target::Each(shards) => {
                shards.iter().map(|shard| (*shard, own.clone(), None)).collect()
            }
            Target::Gather(shards, gather) => {
                let text = gather.text.as_ref().map_or(own, |(text, _)| text.clone());
                shards.iter().map(|shard| (*shard, text.clone(), None)).collect()
            }
            Target::Split(parts) => {
                let part = |part: &crate::route::plan::Part| {
                    (part.shard, part.text.clone(), Some(part.params.clone()))
                };
                parts.iter().map(part).collect()
            }
            Target::Combine(combine) => {
                let shards = combine.shards();
                shards.iter().map(|shard| gather_text(combine, *shard)).collect()
            }
            Target::Everywhere
            | Target::EverywhereAs(_)
            | Target::EachAlone
            | Target::InsertRows(_)
            | Target::WithWrites(_)
            | Target::MergeRows(_)
            | Target::Move(_)
            | Target::Broadcast(_)
            | Target::Fill(_)
            | Target::Limited(_)
            | Target::Explain(..)
            | Target::Draw(_)
            | Target::CopySplit
            | Target::CopyEverywhere => Vec::new(),
        }
    }

    /// How a part is sent: with the parameters that it uses.
    fn part_form(&mut self, ask: &Ask, (text, types): (&Bytes, &[u8]), params: Option<&[u16]>) -> Form {
        let (bind, types) = match (&ask.form, params) {
            (Form::Execute { bind, .. }, Some(params)) => match super::bind::choose(bind, types, params) {
                Some(rebound) => (rebound.rest, rebound.types),
                None => return self.form_of(ask, (text, types), false),
            },
            (Form::Execute { .. } | Form::Query, _) => return self.form_of(ask, (text, types), false),
        };
        let form = self.form_of(ask, (text, &types), false);
        match form {
            Form::Query => Form::Query,
            Form::Execute { statement, describe, max_rows, .. } => {
                let bind = super::bind::with_text_results(&bind);
                Form::Execute { statement, bind, describe, max_rows }
            }
        }
    }

    fn show_lines(&mut self, form: &Form, lines: &[String]) {
        let mut frames = BytesMut::new();
        if matches!(form, Form::Query | Form::Execute { describe: true, .. }) {
            reply::text_row_description(&mut frames, &["QUERY PLAN"]);
        }
        for line in lines {
            reply::text_row(&mut frames, std::iter::once(Some(line.as_str())));
        }
        self.io.out.extend_from_slice(&frames);
        self.complete("EXPLAIN");
    }
}
