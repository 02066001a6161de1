//! `shard-admin transactions`: prepared transactions of the cluster, and recovery of those that no proxy finishes any more.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use comfy_table::Table;
use proxy::control::Outcome;
use proxy::control::recovery::{Listing, Prepared, Recovery, State};
use serde_json::{Value, json};

/// Exit status when something is left to recover.
const LEFT: u8 = 3;

/// What to do with prepared transactions.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the prepared transactions of the cluster's proxies, with their owners and decisions
    List(Where),
    /// Finish what no proxy finishes: commit what has been decided, roll back what has not
    Recover(RecoverOptions),
}

/// Which cluster, and how it is told.
#[derive(Debug, Args)]
pub struct Where {
    /// The proxies' configuration file
    #[arg(long, value_name = "FILE", env = "GAVEL_CONFIG")]
    config: PathBuf,
    /// JSON for programs
    #[arg(long)]
    json: bool,
}

/// Options of `recover`.
#[derive(Debug, Args)]
pub struct RecoverOptions {
    #[command(flatten)]
    place: Where,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// What was done about an orphan.
struct Done<'a> {
    prepared: &'a Prepared,
    outcome: Outcome,
    finished: usize,
}

impl Done<'_> {
    fn is_left(&self) -> bool {
        self.finished < self.prepared.parts.len()
    }
}

/// Runs it. The exit status: 0 if nothing is left to recover, 3 if something is.
///
/// # Errors
/// When the configuration, the first shard or the control store cannot be read.
pub async fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::List(place) => list(&place).await,
        Command::Recover(options) => recover(&options).await,
    }
}

async fn open(place: &Where) -> anyhow::Result<Recovery> {
    let loaded = proxy::cli::config::load(&place.config).map_err(|report| anyhow::anyhow!(report.text))?;
    let tls = loaded.files.connect.tls_config();
    Recovery::open(&loaded.config.settings, &loaded.config.topology, tls)
        .await
        .context("no cluster to look at")
}

async fn list(place: &Where) -> anyhow::Result<u8> {
    let listing = open(place).await?.list().await?;
    if place.json {
        print(&json!({
            "transactions": listing.transactions.iter().map(shown).collect::<Vec<_>>(),
            "unreachable": listing.unreachable,
        }))?;
    } else {
        print(&table(&listing.transactions))?;
        complain(&listing)?;
    }
    let ownerless = listing.transactions.iter().any(|prepared| prepared.state != State::InProgress);
    Ok(status(ownerless, &listing))
}

async fn recover(options: &RecoverOptions) -> anyhow::Result<u8> {
    let recovery = open(&options.place).await?;
    let listing = recovery.list().await?;
    let orphans = listing.transactions.iter().filter(|prepared| prepared.state == State::Orphaned);
    let mut all = Vec::new();
    for prepared in orphans {
        let (outcome, finished) = if options.dry_run {
            (prepared.decision.unwrap_or(Outcome::Aborted), 0)
        } else {
            recovery.recover(prepared).await?
        };
        all.push(Done { prepared, outcome, finished });
    }
    if options.place.json {
        print(&json!({
            "dry_run": options.dry_run,
            "recovered": all.iter().map(told).collect::<Vec<_>>(),
            "recent": recent(&listing.transactions),
            "unreachable": listing.unreachable,
        }))?;
    } else {
        print(&lines(&all, &listing.transactions, options.dry_run))?;
        complain(&listing)?;
    }
    Ok(status(all.iter().any(Done::is_left) || recent(&listing.transactions) > 0, &listing))
}

/// How many are of a proxy that may be gone, too lately to be touched.
fn recent(listed: &[Prepared]) -> usize {
    listed.iter().filter(|prepared| prepared.state == State::Recent).count()
}

fn status(left: bool, listing: &Listing) -> u8 {
    if left || !listing.unreachable.is_empty() { LEFT } else { 0 }
}

fn shown(prepared: &Prepared) -> Value {
    let parts: Vec<_> = prepared
        .parts
        .iter()
        .map(|part| {
            json!({
                "shard": part.shard,
                "database": part.database,
                "role": part.role,
                "age_seconds": part.age.as_secs_f64(),
            })
        })
        .collect();
    json!({
        "gid": prepared.gid,
        "owner": prepared.owner,
        "state": state(prepared.state),
        "decision": decision(prepared.decision),
        "parts": parts,
    })
}

fn told(done: &Done<'_>) -> Value {
    json!({
        "gid": done.prepared.gid,
        "outcome": outcome(done.outcome),
        "parts": done.prepared.parts.len(),
        "finished": done.finished,
    })
}

fn table(transactions: &[Prepared]) -> String {
    if transactions.is_empty() {
        return "no prepared transactions".to_owned();
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["GID", "STATE", "DECISION", "PREPARED ON", "AGE"]);
    for prepared in transactions {
        let parts: Vec<_> = prepared
            .parts
            .iter()
            .map(|part| format!("{} ({} as {})", part.shard, part.database, part.role))
            .collect();
        let age = prepared.parts.iter().map(|part| part.age).max().unwrap_or(Duration::ZERO);
        table.add_row([
            prepared.gid.clone(),
            state(prepared.state).to_owned(),
            decision(prepared.decision).to_owned(),
            parts.join(", "),
            format!("{} s", age.as_secs()),
        ]);
    }
    table.to_string()
}

fn lines(all: &[Done<'_>], listed: &[Prepared], dry_run: bool) -> String {
    if all.is_empty() {
        return match recent(listed) {
            0 => "nothing to recover".to_owned(),
            recent => format!(
                "nothing to recover yet: {recent} prepared too lately to tell whether their proxy is gone; run it again in some \
                 seconds"
            ),
        };
    }
    let line = |done: &Done<'_>| {
        let (gid, parts) = (&done.prepared.gid, done.prepared.parts.len());
        let shards = if parts == 1 { "shard" } else { "shards" };
        match (dry_run, done.is_left()) {
            (true, _) => format!("{gid}: would be {} on {parts} {shards}", outcome(done.outcome)),
            (false, false) => format!("{gid}: {} on {parts} {shards}", outcome(done.outcome)),
            (false, true) => {
                format!(
                    "{gid}: {} on {} of {parts} {shards}, not on the others",
                    outcome(done.outcome),
                    done.finished
                )
            }
        }
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

const fn state(state: State) -> &'static str {
    match state {
        State::InProgress => "in progress",
        State::Recent => "recent",
        State::Orphaned => "orphaned",
    }
}

const fn decision(decision: Option<Outcome>) -> &'static str {
    match decision {
        Some(Outcome::Committed) => "commit",
        Some(Outcome::Aborted) => "roll back",
        Some(Outcome::Unknown) | None => "none",
    }
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "rolled back",
        Outcome::Unknown => "left alone",
    }
}

fn print(what: &impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{what}")
}

fn complain(listing: &Listing) -> std::io::Result<()> {
    listing.unreachable.iter().try_for_each(|why| writeln!(std::io::stderr(), "not asked: {why}"))
}
