//! UPDATE of the shard key: the rows get their new key where they are, then they are taken to its shard, in the same transaction.

use router_config::topology::ShardId;

use super::ask::Ask;
use crate::frontend::failure::Failure;
use crate::frontend::session::Session;
use crate::route::plan::{Move, Plan, Target};
use crate::sql::insert_rows::literal;
use crate::wire::sqlstate;

impl Session {
    /// Runs the statement, then moves its rows.
    pub(super) async fn move_rows(&mut self, ask: Ask, moves: &Move) -> Result<(), Failure> {
        self.check_exact_texts()?;
        self.may_prepare()?;
        self.open_implicit();
        let target = match moves.from.as_slice() {
            [only] => Target::One(*only),
            _ => Target::Each(moves.from.clone()),
        };
        let plan = Plan { target, ..ask.plan };
        Box::pin(self.spread(Ask { plan, ..ask })).await?;
        if self.events.error.is_some() {
            return Ok(());
        }
        let moved = self.take_over(moves).await;
        if moved.is_err() {
            // What was said to have succeeded has not.
            self.io.out.truncate(self.tag_at);
        }
        moved
    }

    /// Takes the rows from where they do not belong to where they do.
    async fn take_over(&mut self, moves: &Move) -> Result<(), Failure> {
        let elsewhere: Vec<ShardId> = moves.from.iter().copied().filter(|shard| *shard != moves.to).collect();
        let mut taken = Vec::new();
        for shard in elsewhere {
            let at = self.acquire(shard, false).await?;
            let rows = self.ask_rows(at, &moves.take).await?;
            let Some(row) = rows.first().filter(|row| row.text(0) != "0") else { continue };
            self.writes(at)?;
            taken.push((row.text(0).to_owned(), row.text(1).to_owned()));
        }
        if taken.is_empty() {
            return Ok(());
        }
        let at = self.acquire(moves.to, false).await?;
        self.writes(at)?;
        for (count, rows) in taken {
            let (head, tail) = &moves.put;
            let sql = format!("{head}{}{tail}", literal(&rows));
            let put = self.ask_rows(at, &sql).await?;
            if put.first().is_none_or(|row| row.text(0) != count) {
                let message = "not all of the rows that were to move have arrived";
                return Err(Failure::error(sqlstate::INTERNAL_ERROR, message));
            }
        }
        Ok(())
    }
}
