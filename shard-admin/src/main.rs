//! `shard-admin`: the DBA's tool. This file parses the command line, sets up logs and turns errors into messages.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shard_admin::{demo, transactions};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  shard-admin demo                                   four shards with replicas; Ctrl-C ends it
  shard-admin demo --exec 'psql -c \"\\d\"'             run one command against a demo
  shard-admin demo --json --no-load > demo.json &    addresses for a program
  shard-admin transactions list --config gavel.toml  what is prepared, and who is to finish it

Exit status:
  0    done; for a demo without --exec also after Ctrl-C
  1    an error, told on standard error
  2    a mistake on the command line
  3    transactions: something is left to recover, or a shard could not be asked
  demo --exec: the status of the command; 128 + n if signal n ended it or us

Logs go to standard error; RUST_LOG=debug shows more.";

const DEMO_EXAMPLES: &str = "\
Examples:
  shard-admin demo --shards 2 --replicas 0           smaller and quicker
  shard-admin demo --exec 'pgbench -i && pgbench -c 8 -T 10' --no-data
  shard-admin demo --exec psql                       a shell of your own, everything gone afterwards
  shard-admin demo --config-extra my.toml            e.g. [pool] size = 50, or rules for your tables
  shard-admin demo --data-dir ./house                the servers' files stay after the end";

/// Runs and looks after a Gavel cluster: PostgreSQL shards behind one address
#[derive(Debug, Parser)]
#[command(name = "shard-admin", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster on this machine: PostgreSQL shards with replicas, the proxy, an auction house, bids
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(demo::Options),
    /// Prepared transactions over several shards: what is there, and recovery
    #[command(subcommand)]
    Transactions(transactions::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,shard_admin=info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match run(arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // If standard error is closed there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "shard-admin: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.command {
        Command::Demo(options) => Ok(runtime.block_on(demo::run(options))?),
        Command::Transactions(command) => runtime.block_on(transactions::run(command)),
    }
}
